-- One row a site, so that a list, its order and its bars cost one row a site whatever the span: the
-- present state, kept by transitions, and statistics, kept by the rollups.
--
-- Two tables, because the two writers must not wait for each other: a transition is written in the
-- transaction that decides it, and the rollups write the rows of all sites at once.
--
-- Locks. A person's transaction may change any sites in any order and stay open, so no order of
-- locks could hold for all writers. Therefore no writer waits for a row of the summary:
-- * site_conditions: only rows that change are locked, in the order of sites, with SKIP LOCKED. The
--   site of a row that another transaction holds is marked: a coordinator reads its state later.
-- * site_statistics: the transaction that adds a site adds its row. From then on only the holder of
--   the rollups' lock writes the row, and removes it once the site is deleted.
-- * site_texts: written under the lock of the site's row, which coordinators take with SKIP LOCKED.

-- First: a rollup that waits for this transaction must not hold the lock for which this one waits.
SELECT picket.lock('rollups');

-- In the order of a list that shows first what needs attention.
CREATE TYPE picket.site_state AS ENUM ('down', 'unknown', 'problem', 'up', 'paused');

CREATE TABLE picket.site_conditions (
    site_id bigint PRIMARY KEY,
    state_since timestamptz NOT NULL,
    incident_id bigint,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    state picket.site_state NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX site_conditions_state ON picket.site_conditions (state, site_id);
CREATE INDEX site_conditions_state_since ON picket.site_conditions (state_since, site_id);

-- Number of sites in each state, as differences to add up: a row for each would be a lock that all
-- transitions share. A coordinator merges them.
CREATE TABLE picket.site_state_counts (state picket.site_state NOT NULL, sites bigint NOT NULL);

-- Windows are of whole days of UTC and the day in progress, and of 24 whole hours, as in the
-- reports. Sums are over all regions, and hold the hours before hours_through. Percentages, times
-- and days include the hour in progress where checks of it failed or were missed.
CREATE TABLE picket.site_statistics (
    site_id bigint PRIMARY KEY,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    uptime_24h_pct double precision,
    uptime_7d_pct double precision,
    uptime_30d_pct double precision,
    uptime_90d_pct double precision,
    coverage_24h_pct double precision,
    coverage_7d_pct double precision,
    coverage_30d_pct double precision,
    coverage_90d_pct double precision,
    up_24h bigint NOT NULL DEFAULT 0,
    up_7d bigint NOT NULL DEFAULT 0,
    up_30d bigint NOT NULL DEFAULT 0,
    up_90d bigint NOT NULL DEFAULT 0,
    down_24h bigint NOT NULL DEFAULT 0,
    down_7d bigint NOT NULL DEFAULT 0,
    down_30d bigint NOT NULL DEFAULT 0,
    down_90d bigint NOT NULL DEFAULT 0,
    checks_24h bigint NOT NULL DEFAULT 0,
    checks_7d bigint NOT NULL DEFAULT 0,
    checks_30d bigint NOT NULL DEFAULT 0,
    checks_90d bigint NOT NULL DEFAULT 0,
    p50_us integer,
    p95_us integer,
    histogram numeric,
    -- A letter a day, the last for the day of hours_through.
    days text NOT NULL DEFAULT repeat('-', 365)
) WITH (fillfactor = 60);
CREATE INDEX site_statistics_uptime_24h ON picket.site_statistics (uptime_24h_pct, site_id);
CREATE INDEX site_statistics_uptime_7d ON picket.site_statistics (uptime_7d_pct, site_id);
CREATE INDEX site_statistics_uptime_30d ON picket.site_statistics (uptime_30d_pct, site_id);
CREATE INDEX site_statistics_uptime_90d ON picket.site_statistics (uptime_90d_pct, site_id);
CREATE INDEX site_statistics_coverage_24h ON picket.site_statistics (coverage_24h_pct, site_id);
CREATE INDEX site_statistics_p50 ON picket.site_statistics (p50_us, site_id);
CREATE INDEX site_statistics_p95 ON picket.site_statistics (p95_us, site_id);

-- Number of schedules in force in each region, as differences like those.
CREATE TABLE picket.schedule_counts (region_id smallint NOT NULL, schedules bigint NOT NULL);

-- Progress of the statistics, and the lengths of their windows of days: shorter than 7, 30 and 90
-- where daily rollups are not kept for as long.
CREATE TABLE picket.site_summary_state (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    hours_through timestamptz NOT NULL,
    window_days integer[] NOT NULL,
    -- Sums over all rows of site_statistics, written by the holder of the rollups' lock as those are.
    up_24h bigint NOT NULL DEFAULT 0,
    down_24h bigint NOT NULL DEFAULT 0,
    checks_24h bigint NOT NULL DEFAULT 0
);

-- Sites whose condition must be read again at due_at, and of those with `statistics` also the
-- statistics from their rollups and the texts. Without a key: repeated marks do no harm, and no
-- writer waits for another.
CREATE TABLE picket.site_summaries_dirty (
    site_id bigint NOT NULL,
    statistics boolean NOT NULL,
    due_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX site_summaries_dirty_due_at ON picket.site_summaries_dirty (due_at);

-- Sites that a coordinator reads again and again, by the id of the last one of each kind: their
-- states change without a transition.
CREATE TABLE picket.site_summary_rounds (kind text PRIMARY KEY, last_site bigint NOT NULL DEFAULT 0);
INSERT INTO picket.site_summary_rounds (kind) VALUES ('unknown'), ('down'), ('failing');

-- What a list sorts by and a search finds. All n-grams of two and three characters are in an index,
-- which needs no extension: pg_trgm is missing in some installations and would be part of each dump.
CREATE TABLE picket.site_texts (
    site_id bigint PRIMARY KEY,
    -- The beginning of the name, or of the URL: an index does not hold a URL of the allowed length.
    sort_name text COLLATE "C" NOT NULL,
    -- Name, URL and tags in lower case.
    searched text NOT NULL
);
CREATE INDEX site_texts_sort_name ON picket.site_texts (sort_name, site_id);

-- The cost, of which the index has paid most, keeps the planner from computing n-grams row by row.
CREATE FUNCTION picket.ngrams(searched text) RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE COST 10000
    RETURN ARRAY(SELECT DISTINCT substr(searched, place, size)
                 FROM generate_series(2, 3) AS size CROSS JOIN generate_series(1, length(searched) - size + 1) AS place);
COMMENT ON FUNCTION picket.ngrams IS 'All parts of a text of two and three characters';
CREATE FUNCTION picket.word_ngrams(word text) RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ARRAY(SELECT DISTINCT substr(word, place, 3) FROM generate_series(1, greatest(length(word) - 2, 1)) AS place);
COMMENT ON FUNCTION picket.word_ngrams IS
    'The parts of a word by which a search finds it among picket.ngrams: of three characters, or its only two';
-- Computed from the text: a column would make the table eight times as large.
CREATE INDEX site_texts_ngrams ON picket.site_texts USING gin (picket.ngrams(searched));
-- With two tags a site this takes a second for a million sites, in which sites cannot be changed.
CREATE INDEX sites_tags ON picket.sites USING gin (tags);

-- For pages of incidents: the newest ones, those that are open, and those that closed since a time. The
-- first replaces an index of the time alone, which does not give the order of a page.
DROP INDEX picket.incidents_opened_at;
CREATE INDEX incidents_newest ON picket.incidents (opened_at, incident_id);
CREATE INDEX incidents_open_newest ON picket.incidents (opened_at, incident_id) WHERE closed_at IS NULL;
CREATE INDEX incidents_closed_at ON picket.incidents (closed_at);

-- The order of the list of certificates, and schedules whose certificates are not rolled up yet.
CREATE INDEX certificates_expires_at ON picket.certificates (expires_at, site_id);
CREATE INDEX schedules_begun ON picket.schedules (valid_from) WHERE valid_to IS NULL;

CREATE VIEW picket.site_summary AS
SELECT
    condition.site_id, condition.state, condition.state_since, condition.incident_id,
    ARRAY(SELECT warning.kind FROM picket.warnings AS warning
          WHERE warning.site_id = condition.site_id AND warning.closed_at IS NULL ORDER BY warning.kind) AS warnings,
    statistic.uptime_24h_pct, statistic.uptime_7d_pct, statistic.uptime_30d_pct, statistic.uptime_90d_pct,
    statistic.coverage_24h_pct, statistic.coverage_7d_pct, statistic.coverage_30d_pct, statistic.coverage_90d_pct,
    statistic.p50_us, statistic.p95_us, statistic.days,
    (SELECT picket.day_of(hours_through) FROM picket.site_summary_state) AS days_through,
    greatest(condition.updated_at, statistic.updated_at) AS updated_at
FROM picket.site_conditions AS condition
JOIN picket.site_statistics AS statistic ON statistic.site_id = condition.site_id;
COMMENT ON VIEW picket.site_summary IS 'One row for each site: its state, kept by transitions, and its statistics, kept by the rollups';
COMMENT ON COLUMN picket.site_summary.state IS
    'down (an incident is open, or the site fails in maintenance), unknown (no region reports), problem (it cannot be checked), up or paused';
COMMENT ON COLUMN picket.site_summary.state_since IS
    'down: opening of the incident, or the first failure in maintenance; up: closing of the last one, or the first schedule; paused and problem: end of the last schedule; unknown: when it was noticed';
COMMENT ON COLUMN picket.site_summary.days IS
    'A letter a day for 365 days, the last for days_through: u up, p partly down, d down, m failed in maintenance only, g up with gaps, x missed, s suspended, - no data';

-- Conditions: the present state.

-- A site that fails in maintenance is down since its first failure, and not since its last incident.
CREATE OR REPLACE VIEW report.site_status AS
SELECT
    site.id AS site_id,
    coalesce(site.name, site.url) AS site,
    site.url,
    CASE
        WHEN NOT site.enabled THEN 'paused'
        WHEN incident.incident_id IS NOT NULL THEN 'down'
        WHEN regions.up + regions.down = 0 THEN 'unknown'
        WHEN planned.is_down THEN 'down'
        ELSE 'up'
    END AS status,
    CASE
        WHEN NOT site.enabled THEN NULL
        WHEN incident.incident_id IS NOT NULL THEN incident.opened_at
        WHEN regions.up + regions.down = 0 THEN NULL
        ELSE coalesce(
            CASE WHEN planned.is_down THEN (
                SELECT timestamptz 'epoch' + min(region.failing_since_us) * interval '1 microsecond'
                FROM picket.site_states AS state
                CROSS JOIN jsonb_to_recordset(state.regions) AS region (consecutive_failures bigint, failing_since_us bigint)
                WHERE state.site_id = site.id AND region.consecutive_failures > 0 AND region.failing_since_us > 0)
            END,
            (SELECT max(before.closed_at) FROM picket.incidents AS before WHERE before.site_id = site.id),
            regions.watched_since)
    END AS since,
    regions.last_check_at,
    regions.up AS regions_up,
    regions.down AS regions_down,
    regions.silent AS regions_silent,
    incident.incident_id
FROM picket.sites AS site
LEFT JOIN picket.incidents AS incident ON incident.site_id = site.id AND incident.closed_at IS NULL
CROSS JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE latest.outcome = 'up') AS up,
        count(*) FILTER (WHERE latest.outcome = 'down') AS down,
        count(*) FILTER (WHERE latest.outcome IS NULL) AS silent,
        max(latest.scheduled_at) AS last_check_at,
        (SELECT min(schedule.valid_from) FROM picket.schedules AS schedule WHERE schedule.site_id = site.id) AS watched_since
    FROM picket.latest_results AS latest
    WHERE latest.site_id = site.id
) AS regions
-- In maintenance no incident opens, and a failing site is down all the same.
CROSS JOIN LATERAL (
    SELECT regions.down >= coalesce(site.quorum, (regions.up + regions.down) / 2 + 1)
           AND picket.in_maintenance(site.id, now()) AS is_down
) AS planned;
COMMENT ON COLUMN report.site_status.since IS
    'Start of the status: the incident''s opening, the first failure in maintenance, the last incident''s closing, or the first schedule; null if unknown';

-- Adds the changes of this statement to the number of sites in each state.
CREATE FUNCTION picket.count_site_states() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO picket.site_state_counts SELECT state, count(*) FROM new_rows GROUP BY state;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO picket.site_state_counts SELECT state, -count(*) FROM old_rows GROUP BY state;
    ELSE
        INSERT INTO picket.site_state_counts
        SELECT state, sum(sites) FROM (
            SELECT state, count(*) AS sites FROM new_rows GROUP BY state
            UNION ALL
            SELECT state, -count(*) FROM old_rows GROUP BY state) AS changed
        GROUP BY state HAVING sum(sites) <> 0;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER site_conditions_inserted AFTER INSERT ON picket.site_conditions
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.count_site_states();
CREATE TRIGGER site_conditions_updated AFTER UPDATE ON picket.site_conditions
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.count_site_states();
CREATE TRIGGER site_conditions_deleted AFTER DELETE ON picket.site_conditions
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.count_site_states();

-- Time since when a site without a schedule in force is not checked. Ended schedules are kept as long
-- as results; after that the row in site_conditions has kept the time.
CREATE FUNCTION picket.unwatched_since(
    of_site bigint, created_at timestamptz, kept_state picket.site_state, kept_since timestamptz) RETURNS timestamptz
    LANGUAGE sql STABLE
    RETURN coalesce((SELECT max(valid_to) FROM picket.schedules WHERE site_id = of_site),
                    CASE WHEN kept_state IN ('paused', 'problem') THEN kept_since END, created_at);
COMMENT ON FUNCTION picket.unwatched_since IS
    'End of a site''s last schedule, or the time kept since that one expired, or the creation of a site that never had one';

-- Rows of site_conditions, of these sites, that differ from report.site_status, as they should be.
CREATE FUNCTION picket.changed_conditions(site_ids bigint[])
    RETURNS TABLE (site_id bigint, state picket.site_state, state_since timestamptz, incident_id bigint)
    LANGUAGE sql STABLE
    AS $$
        SELECT present.site_id, present.state, present.since, present.incident_id
        FROM (
            SELECT found.site_id, found.state, found.incident_id, kept,
                   CASE WHEN found.state IN ('paused', 'problem')
                        THEN picket.unwatched_since(found.site_id, found.created_at, kept.state, kept.state_since)
                        WHEN found.since IS NOT NULL THEN found.since
                        WHEN kept.state = found.state THEN kept.state_since
                        ELSE now() END AS since
            FROM (
                SELECT status.site_id, status.incident_id, status.since, site.created_at,
                       CASE WHEN status.status <> 'paused' AND site.problem IS NOT NULL THEN 'problem' ELSE status.status END
                           ::picket.site_state AS state
                FROM report.site_status AS status
                JOIN picket.sites AS site ON site.id = status.site_id
                WHERE status.site_id = ANY (site_ids)
            ) AS found
            JOIN picket.site_conditions AS kept ON kept.site_id = found.site_id
            -- Computed once, and not for each comparison.
            OFFSET 0
        ) AS present
        WHERE ((kept).state, (kept).state_since, (kept).incident_id)
              IS DISTINCT FROM (present.state, present.since, present.incident_id)
    $$;
COMMENT ON FUNCTION picket.changed_conditions IS 'The present states of those of these sites whose row in site_conditions differs';

-- Writes the present state of these sites, and adds the missing rows of those with statistics, so that
-- a site has either all rows of the summary or none. Rows that differ are locked and read again, so
-- that a transition is either seen here or finds its row locked and marks the site.
CREATE FUNCTION picket.refresh_site_conditions(site_ids bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    changed bigint[];
    locked bigint[];
BEGIN
    INSERT INTO picket.site_conditions (site_id, state, state_since)
    SELECT added.id, 'unknown', added.created_at
    FROM (
        SELECT site.id, site.created_at FROM picket.sites AS site
        WHERE site.id = ANY (site_ids)
          AND EXISTS (SELECT FROM picket.site_statistics AS statistic WHERE statistic.site_id = site.id)
          AND NOT EXISTS (SELECT FROM picket.site_conditions AS condition WHERE condition.site_id = site.id)
        -- The lock keeps the site from being deleted meanwhile. One that is being deleted is skipped.
        ORDER BY site.id FOR KEY SHARE OF site SKIP LOCKED
    ) AS added
    ON CONFLICT DO NOTHING;
    changed := ARRAY(SELECT changed.site_id FROM picket.changed_conditions(site_ids) AS changed);
    IF changed = '{}' THEN
        RETURN;
    END IF;
    locked := ARRAY(
        SELECT condition.site_id FROM picket.site_conditions AS condition
        WHERE condition.site_id = ANY (changed) ORDER BY condition.site_id FOR NO KEY UPDATE SKIP LOCKED);
    -- Not at once: a person's transaction may stay open.
    INSERT INTO picket.site_summaries_dirty
    SELECT site_id, false, now() + interval '10 seconds' FROM unnest(changed) AS site_id WHERE site_id <> ALL (locked);
    UPDATE picket.site_conditions AS condition
    SET state = changed.state, state_since = changed.state_since, incident_id = changed.incident_id, updated_at = clock_timestamp()
    FROM picket.changed_conditions(locked) AS changed WHERE condition.site_id = changed.site_id;
END $$;
COMMENT ON FUNCTION picket.refresh_site_conditions IS 'Writes the present state of these sites, as report.site_status has it';

-- An incident of a site opens or closes: its state changes in the same transaction. A row that
-- another transaction holds is left to a coordinator, so that no sink waits for a person's
-- transaction.
CREATE FUNCTION picket.incident_changed() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    changed CONSTANT bigint := coalesce(NEW.site_id, OLD.site_id);
    opened picket.incidents;
    closed timestamptz;
BEGIN
    PERFORM FROM picket.site_conditions WHERE site_id = changed FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        INSERT INTO picket.site_summaries_dirty VALUES (changed, false);
        RETURN NULL;
    END IF;
    SELECT * INTO opened FROM picket.incidents AS incident WHERE incident.site_id = changed AND incident.closed_at IS NULL;
    IF opened.incident_id IS NULL THEN
        closed := (SELECT max(incident.closed_at) FROM picket.incidents AS incident WHERE incident.site_id = changed);
    END IF;
    UPDATE picket.site_conditions AS condition
    SET incident_id = opened.incident_id,
        state = CASE WHEN condition.state IN ('paused', 'problem') THEN condition.state
                     WHEN opened.incident_id IS NOT NULL THEN 'down'
                     WHEN condition.state = 'down' THEN 'up'
                     ELSE condition.state END,
        state_since = CASE WHEN condition.state IN ('paused', 'problem') THEN condition.state_since
                           WHEN opened.incident_id IS NOT NULL THEN opened.opened_at
                           WHEN condition.state = 'down' THEN coalesce(closed, condition.state_since)
                           ELSE condition.state_since END,
        updated_at = clock_timestamp()
    WHERE condition.site_id = changed;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.incident_changed IS 'Writes the state of a site whose incident opens or closes';
CREATE TRIGGER summary_incident_changed AFTER INSERT OR DELETE OR UPDATE OF closed_at ON picket.incidents
    FOR EACH ROW EXECUTE FUNCTION picket.incident_changed();

-- Writes what lists sort by and search for, of these sites. The caller has locked their rows.
CREATE FUNCTION picket.write_site_texts(site_ids bigint[]) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    AS $$
        INSERT INTO picket.site_texts AS kept (site_id, sort_name, searched)
        SELECT site.id, left(coalesce(site.name, site.url), 200),
               lower(left(concat_ws(' ', site.name, left(site.url, 500), array_to_string(site.tags, ' ')), 2000))
        FROM picket.sites AS site
        WHERE site.id = ANY (site_ids)
        ON CONFLICT (site_id) DO UPDATE SET sort_name = excluded.sort_name, searched = excluded.searched
        WHERE (kept.sort_name, kept.searched) IS DISTINCT FROM (excluded.sort_name, excluded.searched)
    $$;
COMMENT ON FUNCTION picket.write_site_texts IS 'Writes what lists sort by and search for, of these sites, whose rows the caller has locked';

-- Writes that sites are paused, have a problem, or are so no longer; a site that is watched again is
-- unknown until its first result. Other consequences of a change of a schedule are left to the next
-- refresh, as is a row that another transaction holds.
CREATE FUNCTION picket.write_watched_conditions(site_ids bigint[]) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    AS $$
        INSERT INTO picket.site_summaries_dirty SELECT site_id, false FROM unnest(site_ids) AS site_id;
        WITH present AS MATERIALIZED (
            SELECT site.id, site.created_at,
                   CASE WHEN NOT site.enabled THEN 'paused' WHEN site.problem IS NOT NULL THEN 'problem' ELSE 'unknown' END
                       ::picket.site_state AS state
            FROM picket.sites AS site WHERE site.id = ANY (site_ids)
        ),
        locked AS MATERIALIZED (
            SELECT condition.site_id FROM picket.site_conditions AS condition
            JOIN present ON present.id = condition.site_id
            WHERE condition.state <> present.state
              AND (present.state <> 'unknown' OR condition.state IN ('paused', 'problem'))
            ORDER BY condition.site_id FOR NO KEY UPDATE OF condition SKIP LOCKED
        )
        UPDATE picket.site_conditions AS condition
        SET state = present.state, incident_id = NULL, updated_at = clock_timestamp(),
            state_since = CASE present.state WHEN 'unknown' THEN now()
                                             ELSE picket.unwatched_since(present.id, present.created_at,
                                                                         condition.state, condition.state_since) END
        FROM locked JOIN present ON present.id = locked.site_id
        WHERE condition.site_id = present.id
    $$;
COMMENT ON FUNCTION picket.write_watched_conditions IS 'Writes that sites are paused, have a problem, or are watched again';

-- The names of the triggers sort after those of the triggers that reconcile schedules and close
-- incidents. A site that is new, or was paused, is unknown until its first result.
CREATE FUNCTION picket.sites_summarized() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    renamed bigint[];
    changed bigint[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- From the table, because a trigger may have given the site a problem.
        INSERT INTO picket.site_conditions (site_id, state, state_since)
        SELECT site.id, CASE WHEN NOT site.enabled THEN 'paused' WHEN site.problem IS NOT NULL THEN 'problem' ELSE 'unknown' END
                   ::picket.site_state, site.created_at
        FROM picket.sites AS site WHERE site.id IN (SELECT id FROM new_rows)
        ON CONFLICT DO NOTHING;
        INSERT INTO picket.site_statistics (site_id) SELECT id FROM new_rows ON CONFLICT DO NOTHING;
        SELECT array_agg(id) INTO renamed FROM new_rows;
    ELSIF TG_OP = 'DELETE' THEN
        DELETE FROM picket.site_conditions AS condition
        WHERE condition.site_id = ANY (ARRAY(
            SELECT kept.site_id FROM picket.site_conditions AS kept JOIN old_rows ON old_rows.id = kept.site_id
            ORDER BY kept.site_id FOR UPDATE OF kept SKIP LOCKED));
        DELETE FROM picket.site_texts WHERE site_id IN (SELECT id FROM old_rows);
        INSERT INTO picket.site_summaries_dirty SELECT id, true FROM old_rows;
    ELSE
        SELECT array_agg(site.id) FILTER (WHERE (site.name, site.url, site.tags) IS DISTINCT FROM (before.name, before.url, before.tags)),
               array_agg(site.id) FILTER (WHERE
                   (site.enabled, site.problem IS NULL, site.regions, site.interval_seconds, site.quorum)
                   IS DISTINCT FROM (before.enabled, before.problem IS NULL, before.regions, before.interval_seconds, before.quorum))
        INTO renamed, changed
        FROM new_rows AS site JOIN old_rows AS before ON before.id = site.id;
        -- A site that was added before there was a summary gets all its rows by its first refresh.
        WITH listed AS MATERIALIZED (
            SELECT id, EXISTS (SELECT FROM picket.site_conditions WHERE site_id = id) AS has_rows FROM unnest(renamed) AS id
        ),
        marked AS (INSERT INTO picket.site_summaries_dirty SELECT id, true FROM listed WHERE NOT has_rows)
        SELECT array_agg(id) INTO renamed FROM listed WHERE has_rows;
    END IF;
    IF renamed IS NOT NULL THEN
        PERFORM picket.write_site_texts(renamed);
    END IF;
    IF changed IS NOT NULL THEN
        PERFORM picket.write_watched_conditions(changed);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.sites_summarized IS 'Keeps a row of the summary for each site, its texts, and its state when it is paused, resumed or rescheduled';
CREATE TRIGGER summary_site_inserted AFTER INSERT ON picket.sites
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.sites_summarized();
CREATE TRIGGER summary_site_updated AFTER UPDATE ON picket.sites
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.sites_summarized();
CREATE TRIGGER summary_site_deleted AFTER DELETE ON picket.sites
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.sites_summarized();

-- A region is removed or in use again: the sites of which it changed a schedule, in its own
-- transaction. A site that is left with silent regions only is read again when their results are old.
CREATE FUNCTION picket.regions_summarized() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    INSERT INTO picket.site_summaries_dirty (site_id, statistics, due_at)
    SELECT DISTINCT schedule.site_id, false,
           now() + CASE WHEN after.is_silent THEN 6 * schedule.interval_ms * interval '1 millisecond' ELSE interval '0' END
    FROM new_rows AS region
    JOIN picket.schedules AS schedule ON schedule.region_id = region.id AND schedule.version = pg_current_xact_id()
    CROSS JOIN LATERAL (VALUES (false), (EXISTS (SELECT FROM picket.silent_regions))) AS after (is_silent);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.regions_summarized IS 'Marks the sites of which a region that is added or removed changed a schedule';
-- After the triggers that reconcile the schedules, by the order of names.
CREATE TRIGGER summary_region_inserted AFTER INSERT ON picket.regions
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.regions_summarized();
CREATE TRIGGER summary_region_updated AFTER UPDATE ON picket.regions
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.regions_summarized();

-- A region becomes silent: a site that only silent regions check is unknown once its last result is
-- not among the last six ticks of their schedules.
CREATE FUNCTION picket.silence_summarized() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    INSERT INTO picket.site_summaries_dirty (site_id, statistics, due_at)
    SELECT schedule.site_id, false, NEW.since + 6 * schedule.interval_ms * interval '1 millisecond'
    FROM picket.schedules AS schedule
    WHERE schedule.region_id = NEW.region_id AND schedule.valid_to IS NULL
      AND NOT EXISTS (
          SELECT FROM picket.schedules AS other
          WHERE other.site_id = schedule.site_id AND other.valid_to IS NULL
            AND NOT EXISTS (SELECT FROM picket.silent_regions AS silent WHERE silent.region_id = other.region_id));
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.silence_summarized IS 'Marks the sites that only silent regions check, to be read again when their last results are old';
CREATE TRIGGER summary_region_silent AFTER INSERT ON picket.silent_regions
    FOR EACH ROW EXECUTE FUNCTION picket.silence_summarized();

-- Adds the changes of this statement to the number of schedules in force in each region.
CREATE FUNCTION picket.count_schedules() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        INSERT INTO picket.schedule_counts
        SELECT region_id, -count(*) FROM old_rows WHERE valid_to IS NULL GROUP BY region_id;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO picket.schedule_counts
        SELECT region_id, count(*) FROM new_rows WHERE valid_to IS NULL GROUP BY region_id;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.count_schedules IS 'Counts the schedules in force that a statement adds and ends';
CREATE TRIGGER schedules_inserted AFTER INSERT ON picket.schedules
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.count_schedules();
CREATE TRIGGER schedules_updated AFTER UPDATE ON picket.schedules
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.count_schedules();
CREATE TRIGGER schedules_deleted AFTER DELETE ON picket.schedules
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.count_schedules();

-- Statistics: sums over windows, and what lists show of them.

-- The letter of a day, by the sums of a site over its regions. Less than 1 % without a result does
-- not make a gap: a restarted prober misses a check.
CREATE FUNCTION picket.day_letter(
    up bigint, down bigint, missed bigint, gap bigint, up_in_maintenance bigint, down_in_maintenance bigint) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN up + down + missed + gap = 0 THEN '-'
        WHEN up + down = 0 THEN 'x'
        WHEN down > down_in_maintenance THEN CASE WHEN up > up_in_maintenance THEN 'p' ELSE 'd' END
        WHEN down > 0 THEN 'm'
        WHEN 100 * (missed + gap) > up + down + missed + gap THEN 'g'
        ELSE 'u'
    END;
COMMENT ON FUNCTION picket.day_letter IS 'The letter of a day in picket.site_summary, by the sums of a site over its regions';

-- The middle of a bucket, in microseconds, as picket.bucket_ms.
CREATE FUNCTION picket.bucket_us(bucket smallint) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN round(power(2::float8, 7 + (bucket + 0.5::float8) / 8))::integer;

-- Days of sites and regions, without the hour in progress. A day of which an hour was rebuilt is
-- added up from its hours until its sum is.
CREATE VIEW picket.day_sums AS
SELECT site_id, region_id, day, up, down, missed, gap, up_in_maintenance, down_in_maintenance
FROM picket.rollups_daily
WHERE NOT EXISTS (SELECT FROM picket.rollup_days_dirty AS dirty WHERE dirty.day = rollups_daily.day)
UNION ALL
SELECT hourly.site_id, hourly.region_id, dirty.day, hourly.up, hourly.down, hourly.missed, hourly.gap,
       hourly.up_in_maintenance, hourly.down_in_maintenance
FROM picket.rollup_days_dirty AS dirty
JOIN picket.rollups_hourly AS hourly
  ON hourly.hour >= picket.start_of_day(dirty.day) AND hourly.hour < picket.start_of_day(dirty.day + 1)
UNION ALL
SELECT site_id, region_id, day, up, down, missed, gap, up_in_maintenance, down_in_maintenance
FROM picket.rollups_today;

-- Lengths of the windows of days, limited to the days that are kept.
CREATE FUNCTION picket.summary_window_days() RETURNS integer[]
    LANGUAGE sql STABLE
    RETURN (SELECT ARRAY[least(7, rollup_days_days - 1), least(30, rollup_days_days - 1), least(90, rollup_days_days - 1)]
            FROM picket.settings);

-- Adds rollups to the sums (or subtracts them): an hour by its windows, and days that leave theirs.
CREATE FUNCTION picket.add_hour_to_statistics(added timestamptz, times integer) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    SET work_mem = '64MB'
    AS $$
        WITH windows AS (
            SELECT added >= state.hours_through - interval '24 hours' AS in_24h,
                   picket.day_of(added) >= picket.day_of(state.hours_through) - state.window_days[1] AS in_7d,
                   picket.day_of(added) >= picket.day_of(state.hours_through) - state.window_days[2] AS in_30d,
                   picket.day_of(added) >= picket.day_of(state.hours_through) - state.window_days[3] AS in_90d
            FROM picket.site_summary_state AS state WHERE added < state.hours_through
        ),
        summed AS (
            SELECT site_id, times * sum(up)::bigint AS up, times * sum(down)::bigint AS down,
                   times * (sum(up) + sum(down) + sum(missed) + sum(gap))::bigint AS checks, times * sum(histogram) AS histogram
            FROM picket.rollups_hourly WHERE hour = added GROUP BY site_id
        )
        UPDATE picket.site_statistics AS kept SET
            up_24h = up_24h + CASE WHEN in_24h THEN up ELSE 0 END, up_7d = up_7d + CASE WHEN in_7d THEN up ELSE 0 END,
            up_30d = up_30d + CASE WHEN in_30d THEN up ELSE 0 END, up_90d = up_90d + CASE WHEN in_90d THEN up ELSE 0 END,
            down_24h = down_24h + CASE WHEN in_24h THEN down ELSE 0 END, down_7d = down_7d + CASE WHEN in_7d THEN down ELSE 0 END,
            down_30d = down_30d + CASE WHEN in_30d THEN down ELSE 0 END, down_90d = down_90d + CASE WHEN in_90d THEN down ELSE 0 END,
            checks_24h = checks_24h + CASE WHEN in_24h THEN checks ELSE 0 END,
            checks_7d = checks_7d + CASE WHEN in_7d THEN checks ELSE 0 END,
            checks_30d = checks_30d + CASE WHEN in_30d THEN checks ELSE 0 END,
            checks_90d = checks_90d + CASE WHEN in_90d THEN checks ELSE 0 END,
            histogram = CASE WHEN in_24h THEN coalesce(kept.histogram + summed.histogram, kept.histogram, summed.histogram)
                             ELSE kept.histogram END
        FROM summed, windows
        WHERE kept.site_id = summed.site_id AND (in_24h OR in_90d);
    $$;
COMMENT ON FUNCTION picket.add_hour_to_statistics IS 'Adds an hour of the rollups to the sums of the windows in which it lies, or subtracts it';

-- Sums up the last 24 hours of all sites, after they have changed for all.
CREATE FUNCTION picket.sum_up_statistics() RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    AS $$
        UPDATE picket.site_summary_state SET (up_24h, down_24h, checks_24h) = (
            SELECT coalesce(sum(up_24h), 0), coalesce(sum(down_24h), 0), coalesce(sum(checks_24h), 0) FROM picket.site_statistics)
    $$;
COMMENT ON FUNCTION picket.sum_up_statistics IS 'Sums up the last 24 hours of all sites';

-- Moves the windows forward by one hour.
CREATE FUNCTION picket.advance_statistics() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET work_mem = '64MB'
    AS $$
DECLARE
    state picket.site_summary_state := (SELECT kept FROM picket.site_summary_state AS kept);
    today CONSTANT date := picket.day_of(state.hours_through);
    is_day_over CONSTANT boolean := picket.day_of(state.hours_through + interval '1 hour') > today;
BEGIN
    UPDATE picket.site_summary_state SET hours_through = state.hours_through + interval '1 hour';
    WITH part AS (
        SELECT site_id, up, down, up::bigint + down + missed + gap AS checks, histogram, 1 AS in_24h, 1 AS in_7d, 1 AS in_30d, 1 AS in_90d
        FROM picket.rollups_hourly WHERE hour = state.hours_through
        UNION ALL
        SELECT site_id, up, down, up::bigint + down + missed + gap, histogram, -1, 0, 0, 0
        FROM picket.rollups_hourly WHERE hour = state.hours_through - interval '24 hours'
        UNION ALL
        SELECT site_id, up, down, up::bigint + down + missed + gap, NULL, 0, -(day = today - state.window_days[1])::integer,
               -(day = today - state.window_days[2])::integer, -(day = today - state.window_days[3])::integer
        FROM picket.day_sums
        WHERE is_day_over AND day IN (today - state.window_days[1], today - state.window_days[2], today - state.window_days[3])
    ),
    summed AS (
        SELECT site_id, sum(in_24h * up) AS up_24h, sum(in_7d * up) AS up_7d, sum(in_30d * up) AS up_30d,
               sum(in_90d * up) AS up_90d, sum(in_24h * down) AS down_24h, sum(in_7d * down) AS down_7d,
               sum(in_30d * down) AS down_30d, sum(in_90d * down) AS down_90d, sum(in_24h * checks) AS checks_24h,
               sum(in_7d * checks) AS checks_7d, sum(in_30d * checks) AS checks_30d, sum(in_90d * checks) AS checks_90d,
               sum(in_24h * histogram) AS histogram
        FROM part GROUP BY site_id
    )
    UPDATE picket.site_statistics AS kept SET
        up_24h = kept.up_24h + summed.up_24h, up_7d = kept.up_7d + summed.up_7d, up_30d = kept.up_30d + summed.up_30d,
        up_90d = kept.up_90d + summed.up_90d, down_24h = kept.down_24h + summed.down_24h,
        down_7d = kept.down_7d + summed.down_7d, down_30d = kept.down_30d + summed.down_30d,
        down_90d = kept.down_90d + summed.down_90d, checks_24h = kept.checks_24h + summed.checks_24h,
        checks_7d = kept.checks_7d + summed.checks_7d, checks_30d = kept.checks_30d + summed.checks_30d,
        checks_90d = kept.checks_90d + summed.checks_90d,
        histogram = coalesce(kept.histogram + summed.histogram, kept.histogram, summed.histogram)
    FROM summed
    -- Sums that wait to be added up from the rollups are of other hours, or of none.
    WHERE kept.site_id = summed.site_id
      AND NOT EXISTS (SELECT FROM picket.site_summaries_dirty AS dirty WHERE dirty.site_id = kept.site_id AND dirty.statistics);
    IF is_day_over THEN
        UPDATE picket.site_statistics SET days = substr(days, 2) || '-';
    END IF;
END $$;
COMMENT ON FUNCTION picket.advance_statistics IS 'Moves the windows of the statistics forward by one hour';

-- Writes what lists show, from the sums, of these sites or of all.
CREATE FUNCTION picket.publish_statistics(site_ids bigint[] DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_custom_plan
    SET work_mem = '64MB'
    AS $$
BEGIN
    WITH state AS MATERIALIZED (
        SELECT kept.hours_through, picket.day_of(kept.hours_through) AS today FROM picket.site_summary_state AS kept
    ),
    in_progress AS MATERIALIZED (
        SELECT site_id, sum(up)::bigint AS up, sum(down)::bigint AS down, sum(missed)::bigint AS missed, sum(gap)::bigint AS gap,
               sum(up_in_maintenance)::bigint AS up_off, sum(down_in_maintenance)::bigint AS down_off, sum(histogram) AS histogram
        FROM picket.rollups_hourly
        WHERE hour = (SELECT hours_through FROM state) AND (site_ids IS NULL OR site_id = ANY (site_ids))
        GROUP BY site_id HAVING sum(down) + sum(missed) + sum(gap) > 0
    ),
    today AS MATERIALIZED (
        SELECT site_id, sum(up)::bigint AS up, sum(down)::bigint AS down, sum(missed)::bigint AS missed, sum(gap)::bigint AS gap,
               sum(up_in_maintenance)::bigint AS up_off, sum(down_in_maintenance)::bigint AS down_off
        FROM picket.rollups_today
        WHERE day = (SELECT today FROM state) AND (site_ids IS NULL OR site_id = ANY (site_ids))
        GROUP BY site_id
    ),
    added AS (
        SELECT kept.site_id, kept.up_24h + coalesce(now.up, 0) AS up_24h, kept.up_7d + coalesce(now.up, 0) AS up_7d,
               kept.up_30d + coalesce(now.up, 0) AS up_30d, kept.up_90d + coalesce(now.up, 0) AS up_90d,
               kept.down_24h + coalesce(now.down, 0) AS down_24h, kept.down_7d + coalesce(now.down, 0) AS down_7d,
               kept.down_30d + coalesce(now.down, 0) AS down_30d, kept.down_90d + coalesce(now.down, 0) AS down_90d,
               kept.checks_24h + coalesce(now.up + now.down + now.missed + now.gap, 0) AS checks_24h,
               kept.checks_7d + coalesce(now.up + now.down + now.missed + now.gap, 0) AS checks_7d,
               kept.checks_30d + coalesce(now.up + now.down + now.missed + now.gap, 0) AS checks_30d,
               kept.checks_90d + coalesce(now.up + now.down + now.missed + now.gap, 0) AS checks_90d,
               coalesce(kept.histogram + now.histogram, kept.histogram, now.histogram) AS histogram,
               left(kept.days, 364) || picket.day_letter(
                   coalesce(today.up, 0) + coalesce(now.up, 0), coalesce(today.down, 0) + coalesce(now.down, 0),
                   coalesce(today.missed, 0) + coalesce(now.missed, 0), coalesce(today.gap, 0) + coalesce(now.gap, 0),
                   coalesce(today.up_off, 0) + coalesce(now.up_off, 0),
                   coalesce(today.down_off, 0) + coalesce(now.down_off, 0)) AS days
        FROM picket.site_statistics AS kept
        LEFT JOIN in_progress AS now ON now.site_id = kept.site_id
        LEFT JOIN today ON today.site_id = kept.site_id
        WHERE site_ids IS NULL OR kept.site_id = ANY (site_ids)
    ),
    published AS (
        SELECT added.site_id, added.days,
               picket.percent(up_24h, up_24h + down_24h) AS uptime_24h, picket.percent(up_7d, up_7d + down_7d) AS uptime_7d,
               picket.percent(up_30d, up_30d + down_30d) AS uptime_30d, picket.percent(up_90d, up_90d + down_90d) AS uptime_90d,
               picket.percent(up_24h + down_24h, checks_24h) AS coverage_24h,
               picket.percent(up_7d + down_7d, checks_7d) AS coverage_7d,
               picket.percent(up_30d + down_30d, checks_30d) AS coverage_30d,
               picket.percent(up_90d + down_90d, checks_90d) AS coverage_90d,
               picket.bucket_us(p[2]) AS p50, picket.bucket_us(p[1]) AS p95
        FROM added
        CROSS JOIN LATERAL picket.percentile_buckets(nullif(greatest(added.histogram, 0), 0), nullif(greatest(added.up_24h, 0), 0), '{0.95,0.5}') AS p
    )
    UPDATE picket.site_statistics AS kept SET
        uptime_24h_pct = uptime_24h, uptime_7d_pct = uptime_7d, uptime_30d_pct = uptime_30d, uptime_90d_pct = uptime_90d,
        coverage_24h_pct = coverage_24h, coverage_7d_pct = coverage_7d, coverage_30d_pct = coverage_30d,
        coverage_90d_pct = coverage_90d, p50_us = p50, p95_us = p95, days = published.days, updated_at = clock_timestamp()
    FROM published
    WHERE kept.site_id = published.site_id
      AND (uptime_24h_pct, uptime_7d_pct, uptime_30d_pct, uptime_90d_pct, coverage_24h_pct, coverage_7d_pct, coverage_30d_pct,
           coverage_90d_pct, p50_us, p95_us, kept.days)
          IS DISTINCT FROM (uptime_24h, uptime_7d, uptime_30d, uptime_90d, coverage_24h, coverage_7d, coverage_30d,
           coverage_90d, p50, p95, published.days);
END $$;
COMMENT ON FUNCTION picket.publish_statistics IS 'Writes percentages, percentiles and the letter of today from the sums, of these sites or of all';

-- The first day of which a site that has no ticks was suspended: it existed, and rollups of the day
-- would be kept.
CREATE FUNCTION picket.first_suspended_day(created_at timestamptz) RETURNS date
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN greatest(picket.day_of(created_at) + 1, picket.day_of(now()) - (SELECT rollup_days_days FROM picket.settings));

-- Writes the letter of a day that is over.
CREATE FUNCTION picket.write_day_letters(of_day date) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    SET work_mem = '64MB'
    AS $$
        WITH placed AS (
            SELECT 365 - (picket.day_of(state.hours_through) - of_day) AS place FROM picket.site_summary_state AS state
        ),
        summed AS (
            SELECT site_id, picket.day_letter(sum(up)::bigint, sum(down)::bigint, sum(missed)::bigint, sum(gap)::bigint,
                                              sum(up_in_maintenance)::bigint, sum(down_in_maintenance)::bigint) AS letter
            FROM picket.day_sums WHERE day = of_day GROUP BY site_id
        ),
        lettered AS (
            SELECT site.id, coalesce(summed.letter, CASE WHEN of_day >= picket.first_suspended_day(site.created_at) THEN 's' ELSE '-' END) AS letter
            FROM picket.sites AS site LEFT JOIN summed ON summed.site_id = site.id
        )
        UPDATE picket.site_statistics AS kept
        SET days = overlay(kept.days PLACING lettered.letter FROM placed.place FOR 1), updated_at = clock_timestamp()
        FROM lettered, placed
        WHERE kept.site_id = lettered.id AND placed.place BETWEEN 1 AND 364
          AND substr(kept.days, placed.place, 1) <> lettered.letter
    $$;
COMMENT ON FUNCTION picket.write_day_letters IS 'Writes the letter of a day that is over';

-- Computes the statistics of these sites, whose rows the caller has locked, from their rollups.
CREATE FUNCTION picket.rebuild_statistics(site_ids bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_custom_plan
    SET work_mem = '64MB'
    AS $$
DECLARE
    state picket.site_summary_state := (SELECT kept FROM picket.site_summary_state AS kept);
    today CONSTANT date := picket.day_of(state.hours_through);
BEGIN
    INSERT INTO picket.site_statistics (site_id) SELECT unnest(site_ids) ON CONFLICT DO NOTHING;
    WITH in_24h AS (
        SELECT site_id, sum(up) AS up, sum(down) AS down, sum(up::bigint + down + missed + gap) AS checks, sum(histogram) AS histogram
        FROM picket.rollups_hourly
        WHERE hour >= state.hours_through - interval '24 hours' AND hour < state.hours_through
          AND site_id = ANY (site_ids)
        GROUP BY site_id
    ),
    by_day AS MATERIALIZED (
        SELECT site_id, day, sum(up) AS up, sum(down) AS down, sum(up::bigint + down + missed + gap) AS checks,
               picket.day_letter(sum(up)::bigint, sum(down)::bigint, sum(missed)::bigint, sum(gap)::bigint,
                                 sum(up_in_maintenance)::bigint, sum(down_in_maintenance)::bigint) AS letter
        FROM picket.day_sums
        WHERE day > today - 365 AND day <= today AND site_id = ANY (site_ids)
        GROUP BY site_id, day
    ),
    in_days AS (
        SELECT site_id,
               sum(up) FILTER (WHERE day >= today - state.window_days[1]) AS up_7d,
               sum(up) FILTER (WHERE day >= today - state.window_days[2]) AS up_30d,
               sum(up) FILTER (WHERE day >= today - state.window_days[3]) AS up_90d,
               sum(down) FILTER (WHERE day >= today - state.window_days[1]) AS down_7d,
               sum(down) FILTER (WHERE day >= today - state.window_days[2]) AS down_30d,
               sum(down) FILTER (WHERE day >= today - state.window_days[3]) AS down_90d,
               sum(checks) FILTER (WHERE day >= today - state.window_days[1]) AS checks_7d,
               sum(checks) FILTER (WHERE day >= today - state.window_days[2]) AS checks_30d,
               sum(checks) FILTER (WHERE day >= today - state.window_days[3]) AS checks_90d,
               array_agg(day) AS days, array_agg(letter) AS letters
        FROM by_day GROUP BY site_id
    )
    UPDATE picket.site_statistics AS kept SET
        up_24h = coalesce(in_24h.up, 0), up_7d = coalesce(in_days.up_7d, 0), up_30d = coalesce(in_days.up_30d, 0),
        up_90d = coalesce(in_days.up_90d, 0), down_24h = coalesce(in_24h.down, 0), down_7d = coalesce(in_days.down_7d, 0),
        down_30d = coalesce(in_days.down_30d, 0), down_90d = coalesce(in_days.down_90d, 0),
        checks_24h = coalesce(in_24h.checks, 0), checks_7d = coalesce(in_days.checks_7d, 0),
        checks_30d = coalesce(in_days.checks_30d, 0), checks_90d = coalesce(in_days.checks_90d, 0),
        histogram = in_24h.histogram,
        days = (SELECT string_agg(coalesce(lettered.letter, CASE WHEN day.day >= site.suspended_from AND day.day < today
                                                            THEN 's' ELSE '-' END), ''
                                  ORDER BY day.day)
                FROM (SELECT today - back AS day FROM generate_series(0, 364) AS back) AS day
                LEFT JOIN unnest(in_days.days, in_days.letters) AS lettered (day, letter) ON lettered.day = day.day)
    FROM (
        -- The OFFSET computes this once a site, and not once a day.
        SELECT id, picket.first_suspended_day(created_at) AS suspended_from FROM picket.sites WHERE id = ANY (site_ids) OFFSET 0
    ) AS site
    LEFT JOIN in_24h ON in_24h.site_id = site.id
    LEFT JOIN in_days ON in_days.site_id = site.id
    WHERE kept.site_id = site.id;
    PERFORM picket.publish_statistics(site_ids);
END $$;
COMMENT ON FUNCTION picket.rebuild_statistics IS 'Computes the statistics of these sites from their rollups';

-- Marks all sites that are not marked yet, for the holder of the rollups' lock, which no refresh is
-- taking marks from.
CREATE FUNCTION picket.mark_site_summaries() RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    AS $$
        INSERT INTO picket.site_summaries_dirty
        SELECT site.id, true FROM picket.sites AS site
        WHERE NOT EXISTS (SELECT FROM picket.site_summaries_dirty AS dirty
                          WHERE dirty.site_id = site.id AND dirty.statistics AND dirty.due_at <= now())
    $$;
COMMENT ON FUNCTION picket.mark_site_summaries IS
    'Marks all sites whose summary is not marked yet; the caller holds the lock of the rollups';

-- Follows the rollups. A step of one hour is added to the sums; after anything else (the clock was
-- ahead and the rollups went back, or days are kept for a shorter or longer time) all sites are
-- computed again, some at a time.
CREATE FUNCTION picket.rollups_advanced() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    rolled_hour CONSTANT timestamptz := picket.hour_of(NEW.rolled_through);
    windows CONSTANT integer[] := picket.summary_window_days();
    state picket.site_summary_state := (SELECT kept FROM picket.site_summary_state AS kept);
    troubled bigint[];
BEGIN
    IF state.hours_through + interval '1 hour' = rolled_hour AND state.window_days = windows
       -- The oldest day of the longest window is not pruned yet.
       AND picket.day_of(state.hours_through) - windows[3] >= picket.day_of(now()) - (SELECT rollup_days_days FROM picket.settings)
    THEN
        PERFORM picket.advance_statistics();
        PERFORM picket.sum_up_statistics();
        PERFORM picket.publish_statistics();
    ELSIF state.hours_through IS DISTINCT FROM rolled_hour OR state.window_days <> windows THEN
        INSERT INTO picket.site_summary_state (hours_through, window_days) VALUES (rolled_hour, windows)
        ON CONFLICT (singleton) DO UPDATE SET hours_through = excluded.hours_through, window_days = excluded.window_days;
        PERFORM picket.mark_site_summaries();
    END IF;
    -- A site whose ticks were missed may be unknown, and one with results no longer; a coordinator
    -- reads their states after this transaction, so that no transition finds a row locked.
    INSERT INTO picket.site_summaries_dirty
    SELECT DISTINCT hourly.site_id, false
    FROM picket.rollups_hourly AS hourly
    JOIN picket.site_conditions AS condition ON condition.site_id = hourly.site_id
    WHERE hourly.hour = picket.hour_of(NEW.rolled_through - interval '1 microsecond')
      AND (condition.state = 'up' AND (hourly.missed > 0 OR hourly.gap > 0)
           OR condition.state = 'unknown' AND (hourly.up > 0 OR hourly.down > 0))
      -- The pieces of an hour concern the same sites.
      AND NOT EXISTS (SELECT FROM picket.site_summaries_dirty AS dirty
                      WHERE dirty.site_id = hourly.site_id AND dirty.due_at <= now());
    IF rolled_hour < NEW.rolled_through THEN
        SELECT array_agg(DISTINCT site_id) INTO troubled
        FROM picket.rollups_hourly WHERE hour = rolled_hour AND (down > 0 OR missed > 0 OR gap > 0);
        IF troubled IS NOT NULL THEN
            PERFORM picket.publish_statistics(troubled);
        END IF;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.rollups_advanced IS 'Keeps the statistics of sites in step with the rollups';
CREATE TRIGGER rollups_advanced AFTER UPDATE OF rolled_through ON picket.rollup_state
    FOR EACH ROW WHEN (OLD.rolled_through <> NEW.rolled_through) EXECUTE FUNCTION picket.rollups_advanced();

-- The functions that extend rollups stay as they are. Those of this name add what the summary needs.
ALTER FUNCTION picket.rebuild_rollups(interval) RENAME TO rebuild_changed_hour;
ALTER FUNCTION picket.rebuild_changed_hour(interval) SECURITY INVOKER;
COMMENT ON FUNCTION picket.rebuild_changed_hour IS 'The part of picket.rebuild_rollups without the statistics of sites; call that function instead';
CREATE FUNCTION picket.rebuild_rollups(min_age interval DEFAULT '1 minute') RETURNS timestamptz
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    expected timestamptz;
    rebuilt timestamptz;
BEGIN
    IF NOT picket.try_lock_rollups() THEN
        RETURN NULL;
    END IF;
    SELECT min(hour) INTO expected FROM picket.rollups_dirty WHERE marked_at <= now() - min_age;
    IF expected IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM picket.add_hour_to_statistics(expected, -1);
    rebuilt := picket.rebuild_changed_hour(min_age);
    PERFORM picket.add_hour_to_statistics(expected, 1);
    -- An earlier hour was marked in between, and its former sums are gone.
    IF rebuilt <> expected THEN
        PERFORM picket.mark_site_summaries();
    END IF;
    PERFORM picket.sum_up_statistics();
    PERFORM picket.publish_statistics();
    RETURN rebuilt;
END $$;
COMMENT ON FUNCTION picket.rebuild_rollups IS 'Rebuilds one hour whose rows have changed, with the statistics of sites; returns it, or null if there is none';

ALTER FUNCTION picket.roll_up_day() RENAME TO add_up_day;
ALTER FUNCTION picket.add_up_day() SECURITY INVOKER;
COMMENT ON FUNCTION picket.add_up_day IS 'The part of picket.roll_up_day without the letters of sites; call that function instead';
CREATE FUNCTION picket.roll_up_day() RETURNS date
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    day CONSTANT date := picket.add_up_day();
BEGIN
    IF day IS NOT NULL THEN
        PERFORM picket.write_day_letters(day);
    END IF;
    RETURN day;
END $$;
COMMENT ON FUNCTION picket.roll_up_day IS 'Sums up one day, with its letter of each site; returns it, or null if there is none';

-- The sums of the last 24 hours of these sites: up, down, checks.
CREATE FUNCTION picket.sums_of_sites(site_ids bigint[]) RETURNS bigint[]
    LANGUAGE sql STABLE
    RETURN (SELECT ARRAY[coalesce(sum(up_24h), 0), coalesce(sum(down_24h), 0), coalesce(sum(checks_24h), 0)]::bigint[]
            FROM picket.site_statistics WHERE site_id = ANY (site_ids));

-- Computes the statistics and the texts of these sites again, and removes the rows of deleted ones.
CREATE FUNCTION picket.recompute_site_summaries(site_ids bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    present bigint[];
    before bigint[];
    after bigint[];
BEGIN
    -- A change of a region skips the sites that are locked here, and so must either see none of these
    -- locks or be over. One that is in progress is not waited for.
    BEGIN
        LOCK TABLE picket.regions IN SHARE MODE NOWAIT;
    EXCEPTION WHEN lock_not_available THEN
        INSERT INTO picket.site_summaries_dirty
        SELECT site_id, true, now() + interval '10 seconds' FROM unnest(site_ids) AS site_id;
        RETURN;
    END;
    -- A site that another transaction changes, or deletes, is left for later.
    present := ARRAY(
        SELECT site.id FROM picket.sites AS site
        WHERE site.id = ANY (site_ids) ORDER BY site.id FOR NO KEY UPDATE OF site SKIP LOCKED);
    INSERT INTO picket.site_summaries_dirty
    SELECT site.id, true, now() + interval '10 seconds'
    FROM picket.sites AS site WHERE site.id = ANY (site_ids) AND site.id <> ALL (present);
    before := picket.sums_of_sites(site_ids);
    PERFORM picket.rebuild_statistics(present);
    PERFORM picket.write_site_texts(present);

    WITH deleted AS MATERIALIZED (
        SELECT site_id FROM unnest(site_ids) AS site_id WHERE NOT EXISTS (SELECT FROM picket.sites WHERE id = site_id)
    ),
    locked AS MATERIALIZED (
        SELECT condition.site_id FROM picket.site_conditions AS condition
        JOIN deleted ON deleted.site_id = condition.site_id
        ORDER BY condition.site_id FOR UPDATE OF condition SKIP LOCKED
    ),
    left_over AS (
        INSERT INTO picket.site_summaries_dirty
        SELECT deleted.site_id, true, now() + interval '10 seconds' FROM deleted
        JOIN picket.site_conditions AS condition ON condition.site_id = deleted.site_id
        WHERE deleted.site_id NOT IN (SELECT locked.site_id FROM locked)
    ),
    without_statistics AS (DELETE FROM picket.site_statistics WHERE site_id IN (SELECT deleted.site_id FROM deleted)),
    without_texts AS (DELETE FROM picket.site_texts WHERE site_id IN (SELECT deleted.site_id FROM deleted))
    DELETE FROM picket.site_conditions WHERE site_id IN (SELECT locked.site_id FROM locked);
    after := picket.sums_of_sites(site_ids);
    IF after <> before THEN
        UPDATE picket.site_summary_state
        SET up_24h = up_24h + after[1] - before[1], down_24h = down_24h + after[2] - before[2],
            checks_24h = checks_24h + after[3] - before[3];
    END IF;
END $$;
COMMENT ON FUNCTION picket.recompute_site_summaries IS
    'Computes the statistics and the texts of these sites again, and removes the rows of deleted ones';

-- Computes the summary of one site again, or marks all: coordinators compute them some at a time.
CREATE FUNCTION picket.rebuild_site_summary(of_site bigint DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM picket.lock('rollups');
    IF of_site IS NOT NULL THEN
        PERFORM picket.recompute_site_summaries(ARRAY[of_site]);
        PERFORM picket.refresh_site_conditions(ARRAY[of_site]);
        RETURN;
    END IF;
    PERFORM picket.mark_site_summaries();
    INSERT INTO picket.site_summaries_dirty
    SELECT kept.site_id, true
    FROM (SELECT site_id FROM picket.site_conditions
          UNION SELECT site_id FROM picket.site_statistics
          UNION SELECT site_id FROM picket.site_texts) AS kept
    WHERE NOT EXISTS (SELECT FROM picket.sites WHERE id = kept.site_id);
    -- One statement each, and so one snapshot: differences of transactions that are not visible stay.
    WITH counted AS (DELETE FROM picket.site_state_counts)
    INSERT INTO picket.site_state_counts SELECT state, count(*) FROM picket.site_conditions GROUP BY state;
    WITH counted AS (DELETE FROM picket.schedule_counts)
    INSERT INTO picket.schedule_counts SELECT region_id, count(*) FROM picket.schedules WHERE valid_to IS NULL GROUP BY region_id;
    PERFORM picket.sum_up_statistics();
END $$;
COMMENT ON FUNCTION picket.rebuild_site_summary IS
    'Computes the summary of one site again; without an argument, marks all sites, of which coordinators compute some at a time';

-- The next sites of a kind, by id; after the last one, the first again. So each is read in turn,
-- however many there are.
CREATE FUNCTION picket.next_sites(of_kind text, max_sites integer) RETURNS bigint[]
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    after CONSTANT bigint := (SELECT last_site FROM picket.site_summary_rounds WHERE kind = of_kind);
    found bigint[];
BEGIN
    found := CASE of_kind
        WHEN 'unknown' THEN ARRAY(
            SELECT site_id FROM picket.site_conditions
            WHERE state = 'unknown' AND site_id > after ORDER BY site_id LIMIT max_sites)
        -- In maintenance, and after it.
        WHEN 'down' THEN ARRAY(
            SELECT site_id FROM picket.site_conditions
            WHERE state = 'down' AND incident_id IS NULL AND site_id > after ORDER BY site_id LIMIT max_sites)
        WHEN 'failing' THEN ARRAY(
            SELECT failing.site_id FROM picket.site_states AS failing
            WHERE failing.site_id > after
              AND NOT EXISTS (SELECT FROM picket.incidents AS incident
                              WHERE incident.site_id = failing.site_id AND incident.closed_at IS NULL)
            ORDER BY failing.site_id LIMIT max_sites)
    END;
    UPDATE picket.site_summary_rounds AS round SET last_site = next.site_id
    FROM (SELECT CASE WHEN cardinality(found) < max_sites THEN 0 ELSE found[max_sites] END AS site_id) AS next
    WHERE round.kind = of_kind AND round.last_site <> next.site_id;
    RETURN found;
END $$;
COMMENT ON FUNCTION picket.next_sites IS 'The next sites of a kind whose states change without a transition, each in turn';

-- Follows states that change without a transition: a site gets its first result, has no result any
-- more, or fails in maintenance. Handles at most `max_sites` of each kind. Returns whether more may
-- be due at once.
CREATE FUNCTION picket.refresh_site_summaries(max_sites integer) RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    marked bigint[];
    outdated bigint[];
    unknown bigint[];
    number bigint;
BEGIN
    IF NOT picket.try_lock_rollups() THEN
        RETURN false;
    END IF;
    -- Written while the clock was ahead: silent regions mark sites for six intervals of at most a day.
    UPDATE picket.site_summaries_dirty SET due_at = now() WHERE due_at > now() + interval '7 days';
    WITH taken AS (
        DELETE FROM picket.site_summaries_dirty
        WHERE ctid = ANY (ARRAY(SELECT ctid FROM picket.site_summaries_dirty WHERE due_at <= now() ORDER BY due_at LIMIT max_sites))
        RETURNING site_id, statistics
    )
    SELECT array_agg(DISTINCT site_id), array_agg(DISTINCT site_id) FILTER (WHERE statistics), count(*)
    INTO marked, outdated, number FROM taken;
    IF outdated IS NOT NULL THEN
        PERFORM picket.recompute_site_summaries(outdated);
    END IF;
    unknown := picket.next_sites('unknown', max_sites);
    PERFORM picket.refresh_site_conditions(ARRAY(
        SELECT DISTINCT site_id
        FROM unnest(marked || unknown || picket.next_sites('down', max_sites) || picket.next_sites('failing', max_sites)) AS site_id));
    -- Differences that add up; each statement has one snapshot, and so none is lost.
    IF (SELECT count(*) FROM picket.site_state_counts) > 50 THEN
        WITH merged AS (DELETE FROM picket.site_state_counts RETURNING state, sites)
        INSERT INTO picket.site_state_counts SELECT state, sum(sites) FROM merged GROUP BY state;
    END IF;
    IF (SELECT count(*) FROM picket.schedule_counts) > 1000 THEN
        WITH merged AS (DELETE FROM picket.schedule_counts RETURNING region_id, schedules)
        INSERT INTO picket.schedule_counts SELECT region_id, sum(schedules) FROM merged GROUP BY region_id;
    END IF;
    -- Sites that were added at once have their first results at about the same time.
    RETURN number >= max_sites OR max_sites <= 2 * (
        SELECT count(*) FROM picket.site_conditions WHERE site_id = ANY (unknown) AND state <> 'unknown');
END $$;
COMMENT ON FUNCTION picket.refresh_site_summaries IS
    'Follows states that change without a transition, and computes marked summaries again, at most so many of each kind';

-- The rights on the objects of this file.
CREATE FUNCTION picket.grant_site_summary_privileges() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'picket_coordinator') THEN
        GRANT EXECUTE ON FUNCTION picket.refresh_site_summaries, picket.rebuild_site_summary TO picket_coordinator;
        GRANT SELECT ON picket.site_summaries_dirty TO picket_coordinator;
    END IF;
END $$;
COMMENT ON FUNCTION picket.grant_site_summary_privileges IS
    'The part of picket.grant_roles with the rights on the summary of sites; call that function instead';

-- Writers wait from the first trigger on, 2 s for a million sites, so most of the summary is left to
-- coordinators, which compute it some sites at a time, those with an incident first. The summary of
-- a small fleet is complete at once.
INSERT INTO picket.site_summary_state (hours_through, window_days)
SELECT picket.hour_of(rolled_through), picket.summary_window_days() FROM picket.rollup_state;
INSERT INTO picket.schedule_counts
SELECT region_id, count(*) FROM picket.schedules WHERE valid_to IS NULL GROUP BY region_id;
INSERT INTO picket.site_summaries_dirty (site_id, statistics, due_at)
SELECT site.id, true, CASE WHEN incident.incident_id IS NULL THEN now() ELSE '-infinity' END
FROM picket.sites AS site
LEFT JOIN picket.incidents AS incident ON incident.site_id = site.id AND incident.closed_at IS NULL;
SELECT picket.refresh_site_summaries(1000);
SELECT picket.grant_roles();
