-- Failures that are probably a prober's own: every check of the prober fails in transport, and other
-- regions reach the same sites at the same time. Such failures stay `down` in the ledger, and open
-- no incident on their own while the doubt lasts.

-- The spans in which the failures of a prober are doubtful. A row is written with its longest end,
-- and the prober's first response brings the end forward.
CREATE TABLE picket.doubtful_windows (
    region_id smallint NOT NULL REFERENCES picket.regions,
    prober text NOT NULL,
    -- Due time of the first failure after the prober's last response.
    doubtful_from timestamptz NOT NULL,
    -- Arrival of the first response, or the end of the longest doubt.
    doubtful_to timestamptz NOT NULL,
    -- Hosts that failed here and that other regions reached, when the row was written.
    hosts integer NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (region_id, prober, doubtful_from),
    CHECK (doubtful_to >= doubtful_from)
);
CREATE INDEX doubtful_windows_to ON picket.doubtful_windows (doubtful_to);
COMMENT ON TABLE picket.doubtful_windows IS
    'Spans in which every check of a prober failed in transport while other regions reached the same sites; failures in them open no incident on their own';
COMMENT ON COLUMN picket.doubtful_windows.doubtful_from IS 'Due time of the first of these failures';
COMMENT ON COLUMN picket.doubtful_windows.doubtful_to IS
    'Arrival of the prober''s first response, ten minutes after doubtful_from at the latest';
COMMENT ON COLUMN picket.doubtful_windows.hosts IS
    'Hosts that failed here and that other regions reached, when the row was written';

-- Writers of these windows take turns: two sinks that find the same trouble write one window. Locked
-- after the states of sites, always.
INSERT INTO picket.locks VALUES ('doubts');

CREATE VIEW report.doubtful_windows AS
SELECT region.name AS region, doubt.prober, doubt.doubtful_from, doubt.doubtful_to, doubt.hosts, doubt.recorded_at
FROM picket.doubtful_windows AS doubt
JOIN picket.regions AS region ON region.id = doubt.region_id;
COMMENT ON VIEW report.doubtful_windows IS
    'Spans in which every check of a prober failed in transport while other regions reached the same sites; failures in them open no incident on their own';
COMMENT ON COLUMN report.doubtful_windows.region IS 'The prober''s region';
COMMENT ON COLUMN report.doubtful_windows.prober IS 'The prober''s name';
COMMENT ON COLUMN report.doubtful_windows.doubtful_from IS 'Due time of the first of these failures';
COMMENT ON COLUMN report.doubtful_windows.doubtful_to IS
    'Arrival of the prober''s first response, ten minutes after doubtful_from at the latest';
COMMENT ON COLUMN report.doubtful_windows.hosts IS
    'Hosts that failed here and that other regions reached, when the row was written';
COMMENT ON COLUMN report.doubtful_windows.recorded_at IS 'The time when the row was written';

-- True if a check got a response: it is up, or failed after a connection existed. A timeout that
-- waited for the first byte had a connection.
CREATE FUNCTION picket.is_response(outcome picket.outcome, cause picket.cause, first_byte_us integer) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN outcome = 'up' OR (outcome = 'down' AND (
        cause IS NULL OR cause NOT IN ('dns', 'connect', 'tls', 'timeout')
        OR (cause = 'timeout' AND first_byte_us IS NOT NULL)));
COMMENT ON FUNCTION picket.is_response IS 'Whether a check reached a server, so that its prober has a network';

-- Evidence about a prober at a time: its last response, and the failures since. Reads the newest
-- 20,000 rows of the last five minutes at most. A prober with a network has a response among the
-- first of them, and the rest is not read.
CREATE TYPE picket.prober_evidence AS (
    last_response timestamptz,
    -- Due time of the first failure since.
    failing_since timestamptz,
    -- Sites that fail here and of which other regions have a later result.
    compared_sites integer,
    -- Those of them that more of the other regions reach than do not.
    contradicted_sites integer,
    contradicted_hosts integer
);
CREATE FUNCTION picket.prober_last_response(of_region smallint, of_prober text, at timestamptz) RETURNS timestamptz
    LANGUAGE sql STABLE
    AS $$
        SELECT recent.scheduled_at
        FROM (SELECT result.scheduled_at, result.region_id, result.prober, result.outcome, result.cause, result.first_byte_us
              FROM picket.check_results AS result
              WHERE result.scheduled_at <= at AND result.scheduled_at > at - interval '5 minutes'
              ORDER BY result.scheduled_at DESC LIMIT 20000) AS recent
        WHERE recent.region_id = of_region AND recent.prober = of_prober
          AND picket.is_response(recent.outcome, recent.cause, recent.first_byte_us)
        LIMIT 1
    $$;
COMMENT ON FUNCTION picket.prober_last_response IS
    'Due time of the prober''s newest check that reached a server, as far as the newest rows show one';

CREATE FUNCTION picket.compare_prober(of_region smallint, of_prober text, last_response timestamptz, at timestamptz)
    RETURNS picket.prober_evidence
    LANGUAGE sql STABLE
    AS $$
        WITH recent AS MATERIALIZED (
            SELECT result.scheduled_at, result.site_id, result.region_id, result.kind, result.outcome, result.prober
            FROM picket.check_results AS result
            WHERE result.scheduled_at <= at
              AND result.scheduled_at > greatest(last_response, at - interval '5 minutes')
            ORDER BY result.scheduled_at DESC LIMIT 20000
        ),
        failing AS (
            SELECT site_id, min(scheduled_at) AS since FROM recent
            WHERE region_id = of_region AND prober = of_prober AND outcome = 'down' GROUP BY site_id
        ),
        -- Later results only: in an outage of the site the regions fail one after the other.
        newest AS (
            SELECT DISTINCT ON (recent.site_id, recent.region_id)
                recent.site_id, recent.region_id, recent.scheduled_at, recent.kind, recent.outcome
            FROM failing JOIN recent ON recent.site_id = failing.site_id
            WHERE recent.region_id <> of_region AND recent.outcome <> 'missed' AND recent.scheduled_at > failing.since
            ORDER BY recent.site_id, recent.region_id, recent.scheduled_at DESC
        ),
        -- Materialized, or the planner looks up the ticks of all sites before it takes the sample: in
        -- an outage of 5,000 sites 100 ms instead of 45.
        sample AS MATERIALIZED (
            SELECT * FROM newest
            WHERE site_id IN (SELECT site_id FROM newest GROUP BY site_id ORDER BY max(scheduled_at) DESC LIMIT 200)
        ),
        -- What is no tick is no evidence. Each lookup costs some ten microseconds.
        others AS (
            SELECT sample.site_id, sample.outcome FROM sample
            WHERE sample.kind = 'confirm' OR EXISTS (
                SELECT FROM picket.schedules AS schedule
                WHERE schedule.site_id = sample.site_id AND schedule.region_id = sample.region_id
                  AND picket.has_tick(schedule, sample.scheduled_at))
        ),
        compared AS (
            SELECT site_id, count(*) FILTER (WHERE outcome = 'up') > count(*) FILTER (WHERE outcome = 'down') AS contradicted
            FROM others GROUP BY site_id
        )
        SELECT last_response, (SELECT min(since) FROM failing), count(*)::integer,
               (count(*) FILTER (WHERE contradicted))::integer,
               (count(DISTINCT substring(lower(site.url) FROM '^[^:]*://(?:[^/?#@]*@)?([^/?#]*)')) FILTER (WHERE contradicted))::integer
        FROM compared JOIN picket.sites AS site ON site.id = compared.site_id
    $$;
COMMENT ON FUNCTION picket.compare_prober IS
    'Compares the failures of a prober since its last response with what other regions report of the same sites';

-- Decides which of these failures, by which incidents would open, are doubtful, and records a new
-- doubt. A failure is of a site ($1) in a region ($2), due at $3, of kind $4, the last of failures in
-- a row since $5; it would open an incident at $6; $7 is whether most other regions reach the site.
-- Returns the failures that may not count: those due in a doubtful window, and, without hosts, those
-- of which it is not decided yet.
--
-- A doubt needs three hosts, because one or two are as likely cut off by a fault between them and
-- this region; and the failures must be of most sites that can be compared. It lasts ten minutes at
-- most, and a region in which one ran that long has no new one for the next ten minutes. A region
-- that lies about others can therefore delay an incident, and not prevent it.
CREATE FUNCTION picket.doubt_failures(
    site_ids bigint[], region_ids smallint[], due_times timestamptz[], kinds text[], first_failures timestamptz[],
    decided_times timestamptz[], contradicted boolean[])
    RETURNS TABLE (doubtful_site bigint, doubtful_region smallint, since timestamptz, until timestamptz,
                   by_prober text, failing_hosts integer, is_new boolean)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    min_hosts CONSTANT integer := 3;
    max_doubt CONSTANT interval := '10 minutes';
    -- Long enough for other sites of a small installation to be checked.
    max_hold CONSTANT interval := '60 seconds';
    -- Checks start up to a batch window after they are due.
    spread CONSTANT interval := '500 milliseconds';
    max_groups CONSTANT integer := 64;
    -- A group costs up to 100 ms. The caller's batch has a deadline, and would fail again and again.
    -- What is not examined by then counts.
    max_work CONSTANT interval := '2 seconds';
    began CONSTANT timestamptz := clock_timestamp();
    suspect record;
    evidence picket.prober_evidence;
    doubt picket.doubtful_windows;
    last_response timestamptz;
    recorded boolean;
    is_spent boolean;
BEGIN
    FOR suspect IN
        SELECT vote.region_id, vote.prober, max(vote.decided_at) AS at, min(vote.first_failure) AS first_failure,
               array_agg(vote.site_id) AS sites, array_agg(vote.due_at) AS due, array_agg(vote.first_failure) AS firsts,
               array_agg(vote.decided_at) AS decided, array_agg(vote.is_contradicted) AS contradicted
        FROM (
            SELECT vote.*, kept.prober,
                   min(vote.decided_at) OVER (PARTITION BY vote.region_id, kept.prober) AS first_decided
            FROM unnest(site_ids, region_ids, due_times, kinds, first_failures, decided_times, contradicted)
                AS vote (site_id, region_id, due_at, kind, first_failure, decided_at, is_contradicted)
            JOIN picket.check_results AS kept
              ON kept.scheduled_at = vote.due_at AND kept.site_id = vote.site_id AND kept.region_id = vote.region_id
                 AND kept.kind = vote.kind::picket.kind
            WHERE kept.outcome = 'down' AND kept.prober IS NOT NULL
              AND NOT picket.is_response(kept.outcome, kept.cause, kept.first_byte_us)
        ) AS vote
        -- Results of hours that are stored at once are judged minute by minute.
        GROUP BY vote.region_id, vote.prober, date_bin('1 minute', vote.decided_at, vote.first_decided)
        ORDER BY at, vote.region_id, vote.prober
        LIMIT max_groups
    LOOP
        EXIT WHEN clock_timestamp() > began + max_work;
        recorded := false;
        is_spent := false;
        last_response := NULL;
        SELECT * INTO doubt FROM picket.doubtful_windows AS known
        WHERE known.region_id = suspect.region_id AND known.prober = suspect.prober
          AND known.doubtful_from <= suspect.at AND known.doubtful_to > suspect.first_failure
        ORDER BY known.doubtful_from DESC LIMIT 1;
        IF doubt.doubtful_to IS NULL OR doubt.doubtful_to <= suspect.at THEN
            last_response := picket.prober_last_response(suspect.region_id, suspect.prober, suspect.at);
            -- A prober that reached a server since each of these failures began has a network.
            CONTINUE WHEN doubt.doubtful_to IS NULL
                AND last_response > (SELECT max(first) FROM unnest(suspect.firsts) AS first) + spread;
            evidence := picket.compare_prober(suspect.region_id, suspect.prober, last_response, suspect.at);
            IF evidence.contradicted_hosts >= min_hosts AND 2 * evidence.contradicted_sites > evidence.compared_sites THEN
                PERFORM picket.lock('doubts');
                -- Another sink may have recorded it meanwhile.
                SELECT * INTO doubt FROM picket.doubtful_windows AS known
                WHERE known.region_id = suspect.region_id AND known.prober = suspect.prober
                  AND known.doubtful_from <= suspect.at AND known.doubtful_to > suspect.at
                ORDER BY known.doubtful_from DESC LIMIT 1;
                is_spent := EXISTS (
                    SELECT FROM picket.doubtful_windows AS spent
                    WHERE spent.region_id = suspect.region_id AND spent.doubtful_to - spent.doubtful_from >= max_doubt
                      AND spent.doubtful_to <= suspect.at AND spent.doubtful_to > suspect.at - max_doubt);
                IF doubt.doubtful_to IS NULL AND NOT is_spent THEN
                    INSERT INTO picket.doubtful_windows AS new (region_id, prober, doubtful_from, doubtful_to, hosts)
                    VALUES (suspect.region_id, suspect.prober, evidence.failing_since, evidence.failing_since + max_doubt,
                            evidence.contradicted_hosts)
                    ON CONFLICT DO NOTHING
                    RETURNING * INTO doubt;
                    recorded := FOUND;
                    -- Bounded by number and not by age, which would trust the clock.
                    DELETE FROM picket.doubtful_windows AS old
                    WHERE recorded AND old.recorded_at < (
                        SELECT newest.recorded_at FROM picket.doubtful_windows AS newest
                        ORDER BY newest.recorded_at DESC OFFSET 1000 LIMIT 1);
                END IF;
            END IF;
        END IF;

        RETURN QUERY
        SELECT vote.site_id, suspect.region_id, known.doubtful_from, known.doubtful_to, suspect.prober, known.hosts,
               recorded AND known.doubtful_from = doubt.doubtful_from
        FROM unnest(suspect.sites, suspect.due) AS vote (site_id, due_at)
        JOIN picket.doubtful_windows AS known
          ON known.region_id = suspect.region_id AND known.prober = suspect.prober
             AND known.doubtful_from <= vote.due_at AND known.doubtful_to > vote.due_at;
        -- Held until other sites of the prober have been checked, and no longer than that takes.
        RETURN QUERY
        SELECT vote.site_id, suspect.region_id, vote.first_failure, vote.first_failure + max_hold, suspect.prober,
               NULL::integer, false
        FROM unnest(suspect.sites, suspect.firsts, suspect.decided, suspect.contradicted)
            AS vote (site_id, first_failure, decided_at, is_contradicted)
        WHERE doubt.doubtful_to IS NULL AND NOT is_spent AND vote.is_contradicted
          AND vote.decided_at < vote.first_failure + max_hold
          AND (last_response IS NULL OR last_response <= vote.first_failure + spread);
    END LOOP;
END $$;
COMMENT ON FUNCTION picket.doubt_failures IS
    'Which failures, by which incidents would open, are probably those of their prober; records the doubtful windows';

-- Ends the doubts of probers that reached a server, as these new results show.
CREATE FUNCTION picket.end_doubts(site_ids bigint[], region_ids smallint[], due_times timestamptz[], kinds text[])
    RETURNS integer
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    ended integer;
BEGIN
    -- Nearly always.
    IF NOT EXISTS (SELECT FROM picket.doubtful_windows AS doubt
                   WHERE doubt.doubtful_to > (SELECT min(due_at) FROM unnest(due_times) AS due_at)) THEN
        RETURN 0;
    END IF;
    PERFORM picket.lock('doubts');
    WITH answered AS (
        -- The time at which the response arrived: checks that began before it may have lost their
        -- packets.
        SELECT doubt.region_id, doubt.prober, doubt.doubtful_from,
               min(kept.scheduled_at
                   + greatest(coalesce(kept.lateness_us, 0) + coalesce(kept.total_us, 0), 0) * interval '1 microsecond') AS at
        FROM unnest(site_ids, region_ids, due_times, kinds) AS new (site_id, region_id, due_at, kind)
        JOIN picket.doubtful_windows AS doubt
          ON doubt.region_id = new.region_id AND doubt.doubtful_from <= new.due_at AND doubt.doubtful_to > new.due_at
        JOIN picket.check_results AS kept
          ON kept.scheduled_at = new.due_at AND kept.site_id = new.site_id AND kept.region_id = new.region_id
             AND kept.kind = new.kind::picket.kind AND kept.prober = doubt.prober
        WHERE picket.is_response(kept.outcome, kept.cause, kept.first_byte_us)
        GROUP BY doubt.region_id, doubt.prober, doubt.doubtful_from
    )
    UPDATE picket.doubtful_windows AS doubt SET doubtful_to = least(doubt.doubtful_to, answered.at) FROM answered
    WHERE doubt.region_id = answered.region_id AND doubt.prober = answered.prober
      AND doubt.doubtful_from = answered.doubtful_from;
    GET DIAGNOSTICS ended = ROW_COUNT;
    RETURN ended;
END $$;
COMMENT ON FUNCTION picket.end_doubts IS 'Ends the doubtful windows of probers that reached a server, as these results show';

-- The rights on the objects of this file, beyond the views of schema report.
CREATE FUNCTION picket.grant_doubt_privileges() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'picket_sink') THEN
        GRANT EXECUTE ON FUNCTION picket.doubt_failures, picket.end_doubts TO picket_sink;
    END IF;
END $$;
COMMENT ON FUNCTION picket.grant_doubt_privileges IS
    'The part of picket.grant_roles with the rights on doubtful windows; call that function instead';

SELECT picket.grant_roles();
