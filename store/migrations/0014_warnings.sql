-- Warnings of sites that are up: tables, events, evidence, report. Nothing that earlier files define
-- changes for processes of the release before, which neither read nor write any of this.

-- Times are due times of the deciding checks, as in picket.incidents.
CREATE TABLE picket.warnings (
    warning_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site_id bigint NOT NULL,
    -- Due time of the check that completed the quorum.
    opened_at timestamptz NOT NULL,
    -- Due time of the check that ended the warning; null while it is open.
    closed_at timestamptz,
    -- Due time of the first of the consecutive checks that warned about the same.
    first_warned_at timestamptz NOT NULL,
    -- End of the certificate or of the registration.
    expires_at timestamptz,
    -- The time when this row was written.
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind picket.warning NOT NULL,
    -- True if the warning closed because the site is no longer checked.
    unwatched boolean NOT NULL DEFAULT false,
    -- Serial number of the certificate.
    serial text,
    message text,
    -- Regions that warned when the warning opened.
    regions text[] NOT NULL,
    CHECK (closed_at >= opened_at)
);
-- At most one open warning of a kind a site, whichever process decides and however many do at once.
CREATE UNIQUE INDEX warnings_open ON picket.warnings (site_id, kind) WHERE closed_at IS NULL;
CREATE INDEX warnings_site ON picket.warnings (site_id, opened_at);
-- For pages of warnings: the newest ones, those that are open, and those that closed since a time.
CREATE INDEX warnings_opened_at ON picket.warnings (opened_at, warning_id);
CREATE INDEX warnings_open_newest ON picket.warnings (opened_at, warning_id) WHERE closed_at IS NULL;
CREATE INDEX warnings_closed_at ON picket.warnings (closed_at);

-- State of the warnings that are open or may open. Others have no row, so that a batch without
-- warnings finds nothing here. The row is also the lock under which a warning is decided. Apart from
-- picket.site_states, whose rows the sinks of the release before write and delete.
CREATE TABLE picket.warning_states (
    site_id bigint NOT NULL,
    kind picket.warning NOT NULL,
    state jsonb NOT NULL DEFAULT '{"regions": []}',
    PRIMARY KEY (site_id, kind)
) WITH (fillfactor = 50);

-- The sites with a state of an incident, and those with one of a warning: all of them if they are no
-- more than the given sites, else those among the given sites. So the cost follows the given sites and
-- not the table. A sink's statement is planned while both tables are nearly empty, then an outage fills
-- them and the plan stays; without sequential scans in these functions the plan is good for both.
-- Beside 100,000 states a batch of 500 rows took 98 ms with a scan of the table, and takes 4 ms so.
CREATE FUNCTION picket.failing_sites(site_ids bigint[]) RETURNS SETOF bigint
    LANGUAGE plpgsql STABLE ROWS 100
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    AS $$
DECLARE
    known bigint[] := ARRAY(SELECT state.site_id FROM picket.site_states AS state LIMIT cardinality(site_ids) + 1);
BEGIN
    IF cardinality(known) <= cardinality(site_ids) THEN
        RETURN QUERY SELECT unnest(known);
    ELSE
        RETURN QUERY SELECT state.site_id FROM picket.site_states AS state WHERE state.site_id = ANY (site_ids);
    END IF;
END $$;
COMMENT ON FUNCTION picket.failing_sites IS
    'Those of these sites that have a row in picket.site_states, and possibly further sites that have one';
CREATE FUNCTION picket.warned_sites(site_ids bigint[]) RETURNS SETOF bigint
    LANGUAGE plpgsql STABLE ROWS 100
    SET search_path = pg_catalog, pg_temp
    SET enable_seqscan = off
    AS $$
DECLARE
    known bigint[] := ARRAY(SELECT state.site_id FROM picket.warning_states AS state LIMIT cardinality(site_ids) + 1);
BEGIN
    IF cardinality(known) <= cardinality(site_ids) THEN
        RETURN QUERY SELECT unnest(known);
    ELSE
        RETURN QUERY SELECT state.site_id FROM picket.warning_states AS state WHERE state.site_id = ANY (site_ids);
    END IF;
END $$;
COMMENT ON FUNCTION picket.warned_sites IS
    'Those of these sites that have a row in picket.warning_states, and possibly further sites that have one';

-- Identifies a warning even when it is decided again, as picket.incident_key does an incident.
CREATE FUNCTION picket.warning_key(warning picket.warnings) RETURNS text
    LANGUAGE sql STABLE
    AS $$
        SELECT format('warning.%s.%s.%s%s', warning.site_id, warning.kind,
                      trunc(extract(epoch FROM warning.first_warned_at) * 1000),
                      CASE WHEN before.number > 0 THEN '-' || before.number + 1 END)
        FROM (SELECT count(*) AS number FROM picket.warnings AS earlier
              WHERE earlier.site_id = warning.site_id AND earlier.kind = warning.kind
                AND earlier.first_warned_at = warning.first_warned_at
                AND earlier.warning_id < warning.warning_id) AS before
    $$;
COMMENT ON FUNCTION picket.warning_key IS
    'Prefix of the ids of a warning''s events; the same when the warning was lost and is decided again';

CREATE FUNCTION picket.warnings_after() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    change text := CASE WHEN NEW.closed_at IS NULL THEN 'opened' ELSE 'closed' END;
    event_id text := picket.warning_key(NEW) || '.' || change;
BEGIN
    INSERT INTO picket.outbox (event_id, subject, payload)
    SELECT event_id, 'picket.event.warning.' || change, jsonb_build_object(
        'v', 1, 'id', event_id, 'event', 'warning.' || change, 'warning_id', NEW.warning_id, 'site_id', NEW.site_id,
        'site', site.site, 'url', site.url, 'tags', site.tags, 'kind', NEW.kind,
        'opened_at', picket.wire_time(NEW.opened_at), 'closed_at', picket.wire_time(NEW.closed_at),
        'first_warned_at', picket.wire_time(NEW.first_warned_at), 'message', NEW.message, 'serial', NEW.serial,
        'expires_at', picket.wire_time(NEW.expires_at), 'regions', NEW.regions,
        'in_maintenance', picket.in_maintenance(NEW.site_id, coalesce(NEW.closed_at, NEW.opened_at)),
        'unwatched', NEW.unwatched)
    FROM (SELECT) AS single_row LEFT JOIN picket.known_sites AS site ON site.id = NEW.site_id
    LIMIT 1;
    RETURN NULL;
END $$;
CREATE TRIGGER warnings_opened AFTER INSERT ON picket.warnings
    FOR EACH ROW WHEN (NEW.closed_at IS NULL) EXECUTE FUNCTION picket.warnings_after();
CREATE TRIGGER warnings_closed AFTER UPDATE ON picket.warnings
    FOR EACH ROW WHEN (OLD.closed_at IS NULL AND NEW.closed_at IS NOT NULL) EXECUTE FUNCTION picket.warnings_after();

-- Closes the warnings of sites without a schedule: of all such sites, or of these. As
-- picket.close_unwatched_incidents does for incidents, which the release before calls and which
-- therefore stays as it is.
CREATE FUNCTION picket.close_unwatched_warnings(site_ids bigint[] DEFAULT NULL) RETURNS void
    LANGUAGE sql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
        WITH unwatched AS (
            SELECT state.site_id, state.kind FROM picket.warning_states AS state
            WHERE (site_ids IS NULL OR state.site_id = ANY (site_ids))
              AND NOT EXISTS (SELECT FROM picket.schedules AS schedule
                              WHERE schedule.site_id = state.site_id AND schedule.valid_to IS NULL)
            -- In the same order as every transaction that locks many rows, which prevents
            -- deadlocks.
            ORDER BY state.site_id, state.kind FOR UPDATE OF state
        ),
        closed AS (
            UPDATE picket.warnings AS warning
            SET closed_at = greatest(warning.opened_at, clock_timestamp()), unwatched = true
            FROM unwatched
            WHERE warning.site_id = unwatched.site_id AND warning.kind = unwatched.kind AND warning.closed_at IS NULL
        )
        DELETE FROM picket.warning_states AS state USING unwatched
        WHERE state.site_id = unwatched.site_id AND state.kind = unwatched.kind
    $$;

-- Immediately when a site's schedules end: the names of these triggers sort after those of the
-- triggers that end the schedules.
CREATE FUNCTION picket.sites_warnings_ended() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF EXISTS (SELECT FROM picket.warning_states) THEN
        PERFORM picket.close_unwatched_warnings((SELECT array_agg(id) FROM old_rows));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER sites_watch_ended_warnings_by_update AFTER UPDATE ON picket.sites
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.sites_warnings_ended();
CREATE TRIGGER sites_watch_ended_warnings_by_delete AFTER DELETE ON picket.sites
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.sites_warnings_ended();

-- As picket.recent_results, for one kind of warning: only results that are up, which warned (downs)
-- or not (ups).
CREATE FUNCTION picket.recent_warnings(
    of_kind picket.warning, of_site bigint, of_region smallint, interval_ms integer, phase_ms integer,
    valid_from timestamptz, moments timestamptz[], present timestamptz) RETURNS picket.recent_result_times
    LANGUAGE sql STABLE
    AS $$
        SELECT array_agg(up.scheduled_at) FILTER (WHERE up.warns), array_agg(up.scheduled_at) FILTER (WHERE NOT up.warns)
        FROM (
            SELECT seen.at AS scheduled_at, of_kind = ANY (coalesce(kept.warnings, '{}')) AS warns
            FROM unnest((picket.recent_results(of_site, of_region, interval_ms, phase_ms, valid_from, moments, present)).ups)
                AS seen (at)
            CROSS JOIN LATERAL (
                SELECT result.warnings FROM picket.check_results AS result
                WHERE result.scheduled_at = seen.at AND result.site_id = of_site AND result.region_id = of_region
                  AND result.kind = 'scheduled'
                OFFSET 0
            ) AS kept
        ) AS up
    $$;
COMMENT ON FUNCTION picket.recent_warnings IS
    'Due times of the checks of a schedule that were up and warned, and that were up and did not, as picket.recent_results';

-- Numbers of warnings from after a dump are known outside, so that a restore into another cluster
-- skips them, as picket.adopt_cluster skips those of incidents: it sets this column.
CREATE FUNCTION picket.settings_cluster_adopted() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    skipped_ids CONSTANT bigint := 1000;
BEGIN
    PERFORM setval(pg_get_serial_sequence('picket.warnings', 'warning_id'),
                   nextval(pg_get_serial_sequence('picket.warnings', 'warning_id')) + skipped_ids);
    RETURN NULL;
END $$;
CREATE TRIGGER settings_cluster_adopted AFTER UPDATE OF cluster ON picket.settings
    FOR EACH ROW EXECUTE FUNCTION picket.settings_cluster_adopted();

CREATE VIEW report.warnings AS
SELECT
    warning.warning_id,
    warning.site_id,
    site.site,
    site.url,
    warning.kind,
    warning.opened_at,
    warning.closed_at,
    coalesce(warning.closed_at, greatest(now(), warning.opened_at)) - warning.opened_at AS duration,
    warning.first_warned_at,
    warning.message,
    warning.serial,
    warning.expires_at,
    CASE WHEN isfinite(warning.expires_at) THEN floor(extract(epoch FROM warning.expires_at - now()) / 86400)::integer END
        AS days_left,
    warning.regions,
    picket.in_maintenance(warning.site_id, warning.opened_at) AS in_maintenance
FROM picket.warnings AS warning
LEFT JOIN picket.known_sites AS site ON site.id = warning.site_id;
COMMENT ON VIEW report.warnings IS 'One row for each warning; a warning changes neither status nor uptime';
COMMENT ON COLUMN report.warnings.warning_id IS 'The warning''s number';
COMMENT ON COLUMN report.warnings.site_id IS 'The site''s number';
COMMENT ON COLUMN report.warnings.site IS 'The site''s name, or its URL';
COMMENT ON COLUMN report.warnings.url IS 'The URL that is checked';
COMMENT ON COLUMN report.warnings.kind IS
    'slow, certificate (it ends soon), domain (its registration ends soon) or loss (of packets)';
COMMENT ON COLUMN report.warnings.opened_at IS
    'Due time of the check with which a quorum of the reporting regions warned, several times in a row';
COMMENT ON COLUMN report.warnings.closed_at IS
    'Due time of the check that ended the warning; null while it is open';
COMMENT ON COLUMN report.warnings.duration IS 'From opened_at to closed_at, or to now';
COMMENT ON COLUMN report.warnings.first_warned_at IS 'Due time of the first check that warned about this';
COMMENT ON COLUMN report.warnings.message IS 'The warning in words';
COMMENT ON COLUMN report.warnings.serial IS 'Serial number of the certificate; null for other kinds';
COMMENT ON COLUMN report.warnings.expires_at IS
    'End of the certificate or of the registration; null for other kinds';
COMMENT ON COLUMN report.warnings.days_left IS 'Whole days until expires_at; negative after it';
COMMENT ON COLUMN report.warnings.regions IS 'The regions that warned when the warning opened';
COMMENT ON COLUMN report.warnings.in_maintenance IS
    'Whether the site was in a maintenance window when the warning opened';

-- The rights on the objects of this file, beyond the views of schema report.
CREATE FUNCTION picket.grant_warning_privileges() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'picket_coordinator') THEN
        GRANT EXECUTE ON FUNCTION picket.close_unwatched_warnings TO picket_coordinator;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'picket_sink') THEN
        GRANT SELECT, INSERT, UPDATE (closed_at) ON picket.warnings TO picket_sink;
        GRANT SELECT, INSERT, UPDATE, DELETE ON picket.warning_states TO picket_sink;
    END IF;
END $$;
COMMENT ON FUNCTION picket.grant_warning_privileges IS
    'The part of picket.grant_roles with the rights on warnings; call that function instead';
SELECT picket.grant_roles();
