-- From rows to answers: incidents, the events that tell of them, and the windows in which none opens.

-- Spans of planned work, of one site or of all that carry a tag: checks go on and are kept, incidents do not open.
CREATE TABLE picket.maintenance (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site_id bigint,
    tag text,
    window_from timestamptz NOT NULL,
    -- The first moment after it.
    window_to timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT a_site_or_a_tag CHECK (num_nonnulls(site_id, tag) = 1),
    CONSTRAINT window_to_is_after_window_from CHECK (window_to > window_from)
);

-- The windows of each site.
CREATE VIEW picket.maintenance_windows AS
    SELECT site_id, window_from, window_to FROM picket.maintenance WHERE site_id IS NOT NULL
    UNION ALL
    SELECT site.id, maintenance.window_from, maintenance.window_to
    FROM picket.maintenance AS maintenance
    JOIN picket.known_sites AS site ON maintenance.tag = ANY (site.tags)
    WHERE maintenance.tag IS NOT NULL;

-- Whether a site was, or is to be, in maintenance at a time.
CREATE FUNCTION picket.in_maintenance(of_site bigint, at timestamptz) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN EXISTS (
        SELECT FROM picket.maintenance AS maintenance
        WHERE maintenance.window_from <= at AND at < maintenance.window_to
          AND (maintenance.site_id = of_site
               OR EXISTS (SELECT FROM picket.known_sites AS site
                          WHERE site.id = of_site AND maintenance.tag = ANY (site.tags))));

-- From a site's going down to its coming back. Times are those of the checks that decided it, so that the same results
-- make the same incidents however late they are stored.
CREATE TABLE picket.incidents (
    incident_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site_id bigint NOT NULL,
    -- When the check was due that made the quorum.
    opened_at timestamptz NOT NULL,
    -- When the check was due that made it up again; null while it is down.
    closed_at timestamptz,
    first_failure_at timestamptz NOT NULL,
    -- When this row was written.
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    cause picket.cause,
    message text,
    -- Those that were down when it opened.
    regions text[] NOT NULL,
    -- Closed since nobody watches the site any more.
    unwatched boolean NOT NULL DEFAULT false,
    CHECK (closed_at >= opened_at)
);
-- Whoever decides, and however many at once: a site has one.
CREATE UNIQUE INDEX incidents_open ON picket.incidents (site_id) WHERE closed_at IS NULL;
CREATE INDEX incidents_site ON picket.incidents (site_id, opened_at);
CREATE INDEX incidents_opened_at ON picket.incidents (opened_at);

-- What is known of the sites that are not plainly up; the others have no row, so that a batch that is all up finds
-- nothing here. The row is also the lock under which a site's incidents are decided.
CREATE TABLE picket.site_states (
    site_id bigint PRIMARY KEY,
    -- Of each region its newest result that counts, and how many in a row said the same.
    regions jsonb NOT NULL DEFAULT '[]'
) WITH (fillfactor = 50);

-- What is to be published, written in the transaction that made it so. Deleted when the stream has acknowledged it.
CREATE TABLE picket.outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- The same however often it is published; the `id` in the payload, and its Nats-Msg-Id.
    event_id text NOT NULL,
    subject text NOT NULL,
    payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- A time as our messages have it.
CREATE FUNCTION picket.wire_time(at timestamptz) RETURNS text
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');

-- An incident that opens or closes, whoever does it, is told in the same transaction.
CREATE FUNCTION picket.incidents_after() RETURNS trigger
    LANGUAGE plpgsql AS $$
DECLARE
    what text := CASE WHEN NEW.closed_at IS NULL THEN 'opened' ELSE 'closed' END;
    -- With the time, so that the numbers of a database that was made anew are not taken for those of the last one.
    event_id text := format('incident.%s.%s.%s', NEW.incident_id, picket.micros(NEW.opened_at) / 1000, what);
BEGIN
    INSERT INTO picket.outbox (event_id, subject, payload)
    SELECT event_id, 'picket.event.incident.' || what, jsonb_build_object(
        'v', 1, 'id', event_id, 'event', 'incident.' || what, 'incident_id', NEW.incident_id, 'site_id', NEW.site_id,
        'site', site.site, 'url', site.url, 'tags', site.tags,
        'opened_at', picket.wire_time(NEW.opened_at), 'closed_at', picket.wire_time(NEW.closed_at),
        'first_failure_at', picket.wire_time(NEW.first_failure_at), 'cause', NEW.cause, 'message', NEW.message,
        'regions', NEW.regions, 'unwatched', NEW.unwatched)
    FROM (SELECT) AS one LEFT JOIN picket.known_sites AS site ON site.id = NEW.site_id
    LIMIT 1;
    RETURN NULL;
END $$;
CREATE TRIGGER incidents_opened AFTER INSERT ON picket.incidents
    FOR EACH ROW WHEN (NEW.closed_at IS NULL) EXECUTE FUNCTION picket.incidents_after();
CREATE TRIGGER incidents_closed AFTER UPDATE ON picket.incidents
    FOR EACH ROW WHEN (OLD.closed_at IS NULL AND NEW.closed_at IS NOT NULL) EXECUTE FUNCTION picket.incidents_after();

-- A site that nobody watches any more cannot come back: its incident ends. Of all such sites, or of these.
CREATE FUNCTION picket.close_unwatched(site_ids bigint[] DEFAULT NULL) RETURNS void
    LANGUAGE sql AS $$
        WITH unwatched AS (
            SELECT state.site_id FROM picket.site_states AS state
            WHERE (site_ids IS NULL OR state.site_id = ANY (site_ids))
              AND NOT EXISTS (SELECT FROM picket.schedules AS schedule
                              WHERE schedule.site_id = state.site_id AND schedule.valid_to IS NULL)
            -- In the order of everybody who locks many.
            ORDER BY state.site_id FOR UPDATE OF state
        ),
        closed AS (
            UPDATE picket.incidents AS incident
            SET closed_at = greatest(incident.opened_at, clock_timestamp()), unwatched = true
            FROM unwatched WHERE incident.site_id = unwatched.site_id AND incident.closed_at IS NULL
        )
        DELETE FROM picket.site_states AS state USING unwatched WHERE state.site_id = unwatched.site_id
    $$;

-- At once when a site's schedules end. (The triggers' names come after those of the ones that end the schedules.) What a sink
-- decides at the same moment this does not see; a coordinator looks again.
CREATE FUNCTION picket.sites_watch_ended() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM picket.site_states) THEN
        PERFORM picket.close_unwatched((SELECT array_agg(id) FROM old_rows));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER sites_watch_ended_by_update AFTER UPDATE ON picket.sites
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.sites_watch_ended();
CREATE TRIGGER sites_watch_ended_by_delete AFTER DELETE ON picket.sites
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.sites_watch_ended();

-- For how long after its last result a region counts as one that reports.
CREATE FUNCTION picket.reporting_window(interval_ms integer) RETURNS interval
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN greatest(3::bigint * interval_ms, 120000) * interval '1 millisecond';

-- The real results of a schedule in (span_from, span_to], and those of its newest ticks. Ticks are computed and looked up by
-- the key; the OFFSET keeps the planner from reading all rows of a day instead.
CREATE TYPE picket.seen_times AS (downs timestamptz[], ups timestamptz[]);
CREATE FUNCTION picket.seen(
    of_site bigint, of_region smallint, interval_ms integer, phase_ms integer, valid_from timestamptz,
    span_from timestamptz, span_to timestamptz) RETURNS picket.seen_times
    LANGUAGE sql STABLE
    AS $$
        SELECT array_agg(result.scheduled_at) FILTER (WHERE result.outcome = 'down'),
               array_agg(result.scheduled_at) FILTER (WHERE result.outcome = 'up')
        FROM (
            SELECT picket.ticks(interval_ms, phase_ms, valid_from, 'infinity', span_from, span_to)
            UNION
            SELECT picket.ticks(interval_ms, phase_ms, valid_from, 'infinity',
                                now() - 6 * interval_ms * interval '1 millisecond', now())
        ) AS tick (at)
        CROSS JOIN LATERAL (
            SELECT kept.scheduled_at, kept.outcome FROM picket.check_results AS kept
            WHERE kept.scheduled_at = tick.at AND kept.site_id = of_site AND kept.region_id = of_region
              AND kept.kind = 'scheduled' AND kept.outcome <> 'missed'
            OFFSET 0
        ) AS result
    $$;

-- Regions that nobody works in. A row as long as it is so: a coordinator that starts anew tells nothing twice.
CREATE TABLE picket.silent_regions (
    region_id smallint PRIMARY KEY REFERENCES picket.regions,
    since timestamptz NOT NULL
);
CREATE FUNCTION picket.silent_regions_after() RETURNS trigger
    LANGUAGE plpgsql AS $$
DECLARE
    silence picket.silent_regions := CASE WHEN TG_OP = 'INSERT' THEN NEW ELSE OLD END;
    what text := CASE WHEN TG_OP = 'INSERT' THEN 'silent' ELSE 'back' END;
    region text := (SELECT name FROM picket.regions WHERE id = silence.region_id);
    event_id text := format('region.%s.%s.%s', region, picket.micros(silence.since) / 1000, what);
BEGIN
    INSERT INTO picket.outbox (event_id, subject, payload) VALUES (
        event_id, 'picket.event.region.' || what, jsonb_build_object(
            'v', 1, 'id', event_id, 'event', 'region.' || what, 'region', region, 'since', picket.wire_time(silence.since),
            'at', picket.wire_time(clock_timestamp())));
    RETURN NULL;
END $$;
CREATE TRIGGER silent_regions_after AFTER INSERT OR DELETE ON picket.silent_regions
    FOR EACH ROW EXECUTE FUNCTION picket.silent_regions_after();

CREATE VIEW report.incidents AS
SELECT
    incident.incident_id,
    incident.site_id,
    site.site,
    site.url,
    incident.opened_at,
    incident.closed_at,
    coalesce(incident.closed_at, greatest(now(), incident.opened_at)) - incident.opened_at AS duration,
    incident.first_failure_at,
    incident.cause,
    incident.message,
    incident.regions
FROM picket.incidents AS incident
LEFT JOIN picket.known_sites AS site ON site.id = incident.site_id;

COMMENT ON VIEW report.incidents IS 'One row for each time that a site was down, from its going down to its coming back';
COMMENT ON COLUMN report.incidents.incident_id IS 'The incident''s number';
COMMENT ON COLUMN report.incidents.site_id IS 'The site''s number';
COMMENT ON COLUMN report.incidents.site IS 'The site''s name, or its URL';
COMMENT ON COLUMN report.incidents.url IS 'What is watched';
COMMENT ON COLUMN report.incidents.opened_at IS 'When the check was due that made the site down: failures in a row, in a quorum of the regions that report';
COMMENT ON COLUMN report.incidents.closed_at IS 'When the check was due that made it up again; null while it is down';
COMMENT ON COLUMN report.incidents.duration IS 'From opened_at to closed_at, or to now';
COMMENT ON COLUMN report.incidents.first_failure_at IS 'When the first of the failing checks was due';
COMMENT ON COLUMN report.incidents.cause IS 'Of the region that failed first';
COMMENT ON COLUMN report.incidents.message IS 'The cause in words';
COMMENT ON COLUMN report.incidents.regions IS 'The regions that were down when it opened';

-- As before, and down as long as an incident is open.
CREATE OR REPLACE VIEW report.site_status AS
SELECT
    site.id AS site_id,
    coalesce(site.name, site.url) AS site,
    site.url,
    CASE
        WHEN NOT site.enabled THEN 'paused'
        WHEN incident.incident_id IS NOT NULL THEN 'down'
        WHEN regions.up + regions.down = 0 THEN 'unknown'
        -- In maintenance no incident opens, and what is down is down all the same.
        WHEN regions.down >= coalesce(site.quorum, (regions.up + regions.down) / 2 + 1)
             AND picket.in_maintenance(site.id, now()) THEN 'down'
        ELSE 'up'
    END AS status,
    CASE
        WHEN NOT site.enabled THEN NULL
        WHEN incident.incident_id IS NOT NULL THEN incident.opened_at
        WHEN regions.up + regions.down = 0 THEN NULL
        ELSE coalesce(
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
) AS regions;
COMMENT ON COLUMN report.site_status.status IS
    'up, down (an incident is open, or it fails in maintenance), unknown (no region reports) or paused';
COMMENT ON COLUMN report.site_status.since IS
    'Since when it is so: since the incident opened, since the last one closed, or since it is watched; null where that is not known';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'picket_report') THEN
        GRANT SELECT ON ALL TABLES IN SCHEMA report TO picket_report;
    END IF;
END $$;
