-- Incidents, the events that report them, and the maintenance windows in which none opens.

-- Windows of planned work, of one site or of all sites with a tag. Checks continue and are stored,
-- incidents do not open.
CREATE TABLE picket.maintenance (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site_id bigint,
    tag text CONSTRAINT tag_is_short CHECK (octet_length(tag) <= 64),
    window_from timestamptz NOT NULL,
    window_to timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT a_site_or_a_tag CHECK (num_nonnulls(site_id, tag) = 1),
    CONSTRAINT window_to_is_after_window_from CHECK (window_to > window_from)
);
COMMENT ON COLUMN picket.maintenance.window_to IS
    'The first moment after the window; infinity: until further notice';

-- The windows of each site.
CREATE VIEW picket.maintenance_windows AS
    SELECT site_id, window_from, window_to FROM picket.maintenance WHERE site_id IS NOT NULL
    UNION ALL
    SELECT site.id, maintenance.window_from, maintenance.window_to
    FROM picket.maintenance AS maintenance
    JOIN picket.known_sites AS site ON maintenance.tag = ANY (site.tags)
    WHERE maintenance.tag IS NOT NULL;

-- True if a site is in a maintenance window at a time. Called by report.site_status with the
-- reader's rights, hence the owner's rights here; a caller learns no more from it than from that
-- view.
CREATE FUNCTION picket.in_maintenance(of_site bigint, at timestamptz) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    RETURN EXISTS (
        SELECT FROM picket.maintenance AS maintenance
        WHERE maintenance.window_from <= at AND at < maintenance.window_to
          AND (maintenance.site_id = of_site
               OR EXISTS (SELECT FROM picket.known_sites AS site
                          WHERE site.id = of_site AND maintenance.tag = ANY (site.tags))));

-- Outages of sites. Times are due times of the deciding checks, so that the same results yield the
-- same incidents however late they are stored.
CREATE TABLE picket.incidents (
    incident_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site_id bigint NOT NULL,
    -- Due time of the check that completed the quorum.
    opened_at timestamptz NOT NULL,
    -- Due time of the check that ended the outage; null while the incident is open.
    closed_at timestamptz,
    first_failure_at timestamptz NOT NULL,
    -- The time when this row was written.
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    cause picket.cause,
    message text,
    -- Regions that were down when the incident opened.
    regions text[] NOT NULL,
    -- True if the incident closed because the site is no longer checked.
    unwatched boolean NOT NULL DEFAULT false,
    CHECK (closed_at >= opened_at)
);
-- At most one open incident a site, whichever process decides and however many do at once.
CREATE UNIQUE INDEX incidents_open ON picket.incidents (site_id) WHERE closed_at IS NULL;
CREATE INDEX incidents_site ON picket.incidents (site_id, opened_at);
CREATE INDEX incidents_opened_at ON picket.incidents (opened_at);

-- State of the sites that are not plainly up. Other sites have no row, so that a batch without
-- failures finds nothing here. The row is also the lock under which a site's incidents are decided.
CREATE TABLE picket.site_states (
    site_id bigint PRIMARY KEY,
    -- For each region its newest result that counts, and the number of equal results in a row.
    regions jsonb NOT NULL DEFAULT '[]'
) WITH (fillfactor = 50);

-- Events to publish, written in the transaction that caused them. Deleted when the stream has
-- acknowledged the event.
CREATE TABLE picket.outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The same each time that the event is published; the `id` in the payload, and the Nats-Msg-Id.
    event_id text NOT NULL,
    subject text NOT NULL,
    payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

CREATE FUNCTION picket.outbox_before() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    NEW.payload := (
        SELECT jsonb_object_agg(key, CASE
            WHEN jsonb_typeof(value) = 'string' AND octet_length(value #>> '{}') > 4096 THEN to_jsonb(left(value #>> '{}', 1000) || '…')
            WHEN jsonb_typeof(value) IN ('array', 'object') AND octet_length(value::text) > 65536 THEN '[]'::jsonb
            ELSE value
        END)
        FROM jsonb_each(NEW.payload));
    RETURN NEW;
END $$;
COMMENT ON FUNCTION picket.outbox_before IS
    'Shortens the texts and drops the lists of an event that would not fit into a message';
CREATE TRIGGER outbox_before BEFORE INSERT ON picket.outbox
    FOR EACH ROW WHEN (pg_column_size(NEW.payload) > 65536) EXECUTE FUNCTION picket.outbox_before();

-- A time in the format of messages.
CREATE FUNCTION picket.wire_time(at timestamptz) RETURNS text
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');

-- Identifies an incident even when it is decided again: site, first failure, and the number of the
-- site's earlier incidents with the same first failure (a region that keeps failing can be the
-- first in two incidents). A database that lost its last commits decides the incident again from
-- the same results in another order, so incident_id and opened_at can differ.
CREATE FUNCTION picket.incident_key(incident picket.incidents) RETURNS text
    LANGUAGE sql STABLE
    AS $$
        SELECT format('incident.%s.%s%s', incident.site_id,
                      -- A numeric, because SQL can write infinity here, and years whose
                      -- microseconds exceed a bigint.
                      trunc(extract(epoch FROM incident.first_failure_at) * 1000),
                      CASE WHEN before.number > 0 THEN '-' || before.number + 1 END)
        FROM (SELECT count(*) AS number FROM picket.incidents AS earlier
              WHERE earlier.site_id = incident.site_id AND earlier.first_failure_at = incident.first_failure_at
                AND earlier.incident_id < incident.incident_id) AS before
    $$;
COMMENT ON FUNCTION picket.incident_key IS
    'Prefix of the ids of an incident''s events; the same when the incident was lost and is decided again';

-- Writes the event of an opening or closing incident in the same transaction, whichever process
-- decides.
CREATE FUNCTION picket.incidents_after() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    change text := CASE WHEN NEW.closed_at IS NULL THEN 'opened' ELSE 'closed' END;
    event_id text := picket.incident_key(NEW) || '.' || change;
BEGIN
    INSERT INTO picket.outbox (event_id, subject, payload)
    SELECT event_id, 'picket.event.incident.' || change, jsonb_build_object(
        'v', 1, 'id', event_id, 'event', 'incident.' || change, 'incident_id', NEW.incident_id, 'site_id', NEW.site_id,
        'site', site.site, 'url', site.url, 'tags', site.tags,
        'opened_at', picket.wire_time(NEW.opened_at), 'closed_at', picket.wire_time(NEW.closed_at),
        'first_failure_at', picket.wire_time(NEW.first_failure_at), 'cause', NEW.cause, 'message', NEW.message,
        'regions', NEW.regions, 'unwatched', NEW.unwatched)
    FROM (SELECT) AS single_row LEFT JOIN picket.known_sites AS site ON site.id = NEW.site_id
    LIMIT 1;
    RETURN NULL;
END $$;
CREATE TRIGGER incidents_opened AFTER INSERT ON picket.incidents
    FOR EACH ROW WHEN (NEW.closed_at IS NULL) EXECUTE FUNCTION picket.incidents_after();
CREATE TRIGGER incidents_closed AFTER UPDATE ON picket.incidents
    FOR EACH ROW WHEN (OLD.closed_at IS NULL AND NEW.closed_at IS NOT NULL) EXECUTE FUNCTION picket.incidents_after();

-- Closes the incidents of sites without a schedule, which can never come back up: of all such
-- sites, or of these.
CREATE FUNCTION picket.close_unwatched_incidents(site_ids bigint[] DEFAULT NULL) RETURNS void
    LANGUAGE sql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
        WITH unwatched AS (
            SELECT state.site_id FROM picket.site_states AS state
            WHERE (site_ids IS NULL OR state.site_id = ANY (site_ids))
              AND NOT EXISTS (SELECT FROM picket.schedules AS schedule
                              WHERE schedule.site_id = state.site_id AND schedule.valid_to IS NULL)
            -- In the same order as every transaction that locks many rows, which prevents
            -- deadlocks.
            ORDER BY state.site_id FOR UPDATE OF state
        ),
        closed AS (
            UPDATE picket.incidents AS incident
            SET closed_at = greatest(incident.opened_at, clock_timestamp()), unwatched = true
            FROM unwatched WHERE incident.site_id = unwatched.site_id AND incident.closed_at IS NULL
        )
        DELETE FROM picket.site_states AS state USING unwatched WHERE state.site_id = unwatched.site_id
    $$;

-- Immediately when a site's schedules end. The names of these triggers sort after those of the
-- triggers that end the schedules. A concurrent decision of a sink is not visible here; a
-- coordinator repeats the call.
CREATE FUNCTION picket.sites_watch_ended() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF EXISTS (SELECT FROM picket.site_states) THEN
        PERFORM picket.close_unwatched_incidents((SELECT array_agg(id) FROM old_rows));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER sites_watch_ended_by_update AFTER UPDATE ON picket.sites
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.sites_watch_ended();
CREATE TRIGGER sites_watch_ended_by_delete AFTER DELETE ON picket.sites
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.sites_watch_ended();

-- Time after its last result for which a region counts as reporting.
CREATE FUNCTION picket.reporting_window(interval_ms integer) RETURNS interval
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN greatest(3::bigint * interval_ms, 120000) * interval '1 millisecond';

CREATE TYPE picket.recent_result_times AS (downs timestamptz[], ups timestamptz[]);
-- The results of a schedule around each of these moments, and those of its newest ticks. Ticks are
-- computed and looked up by the key; the OFFSET keeps the planner from reading all rows of a day
-- instead. The lookup is around the moments and not over the span between them, because a message
-- may claim two moments a month apart. Close moments share a range, and of many ranges the newest
-- eight are looked up: the cost is proportional to the number of results, and a site of which hours
-- of results are stored at once is still judged as it would have been in time. The caller supplies
-- the current time, because the database's clock may be behind the clock by which the checks were
-- scheduled.
CREATE FUNCTION picket.recent_results(
    of_site bigint, of_region smallint, interval_ms integer, phase_ms integer, valid_from timestamptz,
    moments timestamptz[], present timestamptz) RETURNS picket.recent_result_times
    LANGUAGE sql STABLE
    AS $$
        WITH around AS (
            SELECT range FROM unnest((
                -- Before a result for the results that it follows; after it because a late result
                -- may have been overtaken.
                SELECT range_agg(tstzrange(
                    moment - picket.reporting_window(interval_ms), least(moment + picket.reporting_window(interval_ms), present)))
                FROM unnest(moments) AS moment WHERE moment <= present
            )) AS range
            ORDER BY range DESC LIMIT 8
        )
        SELECT array_agg(result.scheduled_at) FILTER (WHERE result.outcome = 'down'),
               array_agg(result.scheduled_at) FILTER (WHERE result.outcome = 'up')
        FROM (
            SELECT picket.ticks(interval_ms, phase_ms, valid_from, 'infinity', lower(around.range), upper(around.range))
            FROM around
            UNION
            SELECT picket.ticks(interval_ms, phase_ms, valid_from, 'infinity',
                                present - 6 * interval_ms * interval '1 millisecond', present)
        ) AS tick (at)
        CROSS JOIN LATERAL (
            SELECT kept.scheduled_at, kept.outcome FROM picket.check_results AS kept
            WHERE kept.scheduled_at = tick.at AND kept.site_id = of_site AND kept.region_id = of_region
              AND kept.kind = 'scheduled' AND kept.outcome <> 'missed'
            OFFSET 0
        ) AS result
    $$;
COMMENT ON FUNCTION picket.recent_results IS
    'Due times of the checks of a schedule that were up and down, around each of these moments and recently';

-- Regions without an active prober. The row exists as long as the silence, so that a restarted
-- coordinator reports nothing twice.
CREATE TABLE picket.silent_regions (
    region_id smallint PRIMARY KEY REFERENCES picket.regions,
    since timestamptz NOT NULL
);
-- A coordinator writes a lost row again with a time that differs by milliseconds, so the event's id
-- rounds it down to 20 s. A region becomes silent after 20 s, so two silences of one region never
-- share an id.
CREATE FUNCTION picket.silent_regions_after() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    silence picket.silent_regions := CASE WHEN TG_OP = 'INSERT' THEN NEW ELSE OLD END;
    change text := CASE WHEN TG_OP = 'INSERT' THEN 'silent' ELSE 'back' END;
    region text := (SELECT name FROM picket.regions WHERE id = silence.region_id);
    event_id text := format('region.%s.%s.%s', region,
        picket.micros(date_bin(interval '20 seconds', silence.since, timestamptz 'epoch')) / 1000, change);
BEGIN
    INSERT INTO picket.outbox (event_id, subject, payload) VALUES (
        event_id, 'picket.event.region.' || change, jsonb_build_object(
            'v', 1, 'id', event_id, 'event', 'region.' || change, 'region', region, 'since', picket.wire_time(silence.since),
            'at', picket.wire_time(clock_timestamp())));
    RETURN NULL;
END $$;
CREATE TRIGGER silent_regions_after AFTER INSERT OR DELETE ON picket.silent_regions
    FOR EACH ROW EXECUTE FUNCTION picket.silent_regions_after();
