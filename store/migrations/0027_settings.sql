-- Cluster settings: values on which all processes must agree, in the one row of picket.settings. Processes follow a change
-- within two seconds.

ALTER TABLE picket.settings
    ADD COLUMN retention_days integer NOT NULL DEFAULT 30
        CONSTRAINT retention_days_is_1_to_3650 CHECK (retention_days BETWEEN 1 AND 3650),
    ADD COLUMN rollup_hours_days integer NOT NULL DEFAULT 730
        CONSTRAINT rollup_hours_days_is_1_to_36500 CHECK (rollup_hours_days BETWEEN 1 AND 36500),
    ADD COLUMN rollup_days_days integer NOT NULL DEFAULT 730
        CONSTRAINT rollup_days_days_is_1_to_36500 CHECK (rollup_days_days BETWEEN 1 AND 36500),
    -- The column interval_seconds of a site counts whole seconds.
    ADD COLUMN min_interval interval NOT NULL DEFAULT '5 seconds'
        CONSTRAINT min_interval_is_1s_to_1d_in_whole_seconds CHECK (
            min_interval BETWEEN interval '1 second' AND interval '1 day'
            AND extract(epoch FROM min_interval) = trunc(extract(epoch FROM min_interval))),
    ADD COLUMN max_interval interval NOT NULL DEFAULT '1 day'
        CONSTRAINT max_interval_is_1s_to_1d_in_whole_seconds CHECK (
            max_interval BETWEEN interval '1 second' AND interval '1 day'
            AND extract(epoch FROM max_interval) = trunc(extract(epoch FROM max_interval))),
    ADD COLUMN lease_time interval NOT NULL DEFAULT '15 seconds'
        CONSTRAINT lease_time_is_3s_to_5m CHECK (lease_time BETWEEN interval '3 seconds' AND interval '5 minutes'),
    ADD COLUMN ledger_grace interval NOT NULL DEFAULT '150 seconds'
        CONSTRAINT ledger_grace_is_10s_to_1h CHECK (ledger_grace BETWEEN interval '10 seconds' AND interval '1 hour'),
    ADD COLUMN batch_delay interval NOT NULL DEFAULT '250 milliseconds'
        CONSTRAINT batch_delay_is_10ms_to_500ms CHECK (
            batch_delay BETWEEN interval '10 milliseconds' AND interval '500 milliseconds'),
    ADD COLUMN stream_replicas smallint NOT NULL DEFAULT 1
        CONSTRAINT stream_replicas_is_1_to_5 CHECK (stream_replicas BETWEEN 1 AND 5),
    ADD COLUMN results_max_bytes bigint NOT NULL DEFAULT 8589934592
        CONSTRAINT results_max_bytes_is_1mib_to_64tib CHECK (results_max_bytes BETWEEN 1048576 AND 70368744177664),
    ADD COLUMN public_url text
        CONSTRAINT public_url_is_http_or_https CHECK (
            public_url ~ '^https?://[^[:space:]/?#]+(/[^[:space:]?#]*)?$' AND octet_length(public_url) <= 2048),
    ADD CONSTRAINT min_interval_is_at_most_max_interval CHECK (min_interval <= max_interval),
    ADD CONSTRAINT rollup_hours_days_is_at_least_retention_days CHECK (rollup_hours_days >= retention_days),
    ADD CONSTRAINT rollup_days_days_is_at_least_rollup_hours_days CHECK (rollup_days_days >= rollup_hours_days);

COMMENT ON COLUMN picket.settings.retention_days IS 'Days for which results are kept, and everything else that is not a report';
COMMENT ON COLUMN picket.settings.rollup_hours_days IS 'Days for which hourly rollups are kept; they are removed by the month';
COMMENT ON COLUMN picket.settings.rollup_days_days IS 'Days for which daily rollups are kept, with failures and certificates';
COMMENT ON COLUMN picket.settings.min_interval IS 'Shortest check interval that a site may have';
COMMENT ON COLUMN picket.settings.max_interval IS 'Longest check interval that a site may have';
COMMENT ON COLUMN picket.settings.lease_time IS 'Time after which a shard''s lease expires unless renewed';
COMMENT ON COLUMN picket.settings.ledger_grace IS
    'Time after a tick until its ledger is closed; a tick without a result is then recorded as missed';
COMMENT ON COLUMN picket.settings.batch_delay IS 'Maximum time for which a due job waits to be published together with others';
COMMENT ON COLUMN picket.settings.stream_replicas IS 'Copies of each stream: 1 on a single NATS server, 3 on a cluster';
COMMENT ON COLUMN picket.settings.results_max_bytes IS 'Maximum size of the results stream in bytes, on each server that keeps it';
COMMENT ON COLUMN picket.settings.public_url IS 'URL under which people reach this installation, for links; null if there is none';

-- Coordinators of the release before had a range of their own: sites that are scheduled stay inside of the range.
UPDATE picket.settings
SET min_interval = least(min_interval,
    (SELECT min(interval_ms) FROM picket.schedules WHERE valid_to IS NULL) * interval '1 millisecond');

-- The lease time can change while leases are held. Whether a lease is abandoned depends on the time for which it was granted,
-- and not on the time that is set now. A renewal that is delayed until its holder has renewed by a newer, longer time must not
-- shorten the lease, so both carry the number of the change.
ALTER TABLE picket.settings ADD COLUMN lease_time_version bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN picket.settings.lease_time_version IS 'Number of changes of lease_time, counted by a trigger';
ALTER TABLE picket.leases ADD COLUMN lease_time interval, ADD COLUMN lease_time_version bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN picket.leases.lease_time IS
    'Lease time of the last renewal; null if a release that did not record it granted the lease';
COMMENT ON COLUMN picket.leases.lease_time_version IS 'settings.lease_time_version of that lease time; no older one renews the lease';

CREATE FUNCTION picket.settings_before() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    NEW.lease_time_version := OLD.lease_time_version + (NEW.lease_time <> OLD.lease_time)::int;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION picket.settings_before IS 'Counts the changes of lease_time';
CREATE TRIGGER settings_before BEFORE UPDATE ON picket.settings
    FOR EACH ROW EXECUTE FUNCTION picket.settings_before();

-- Why a site with this interval cannot be checked, in the words of SiteSpec::validate; null if it can.
CREATE FUNCTION picket.interval_problem(seconds integer, shortest interval, longest interval) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE WHEN seconds * interval '1 second' NOT BETWEEN shortest AND longest
        THEN format('interval_seconds: ''%s'' is not allowed; allowed: %s to %s (settings min_interval and max_interval)', seconds,
                    extract(epoch FROM shortest)::bigint, extract(epoch FROM longest)::bigint)
    END;
COMMENT ON FUNCTION picket.interval_problem IS 'Why a site with this interval cannot be checked; null if it can';

-- Brings the problems of these sites, or of all, in step with the range of intervals. The database decides this and not each
-- coordinator, so that no process with an outdated range can end a site's schedules, and so that a site is scheduled again when
-- the range widens.
CREATE FUNCTION picket.note_intervals(site_ids bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    changed bigint[];
BEGIN
    changed := ARRAY(
        SELECT site.id FROM picket.sites AS site CROSS JOIN picket.settings AS setting
        WHERE (site_ids IS NULL OR site.id = ANY (site_ids))
          AND (site.problem IS NULL OR starts_with(site.problem, 'interval_seconds: '))
          AND site.problem IS DISTINCT FROM
              picket.interval_problem(site.interval_seconds, setting.min_interval, setting.max_interval));
    -- An UPDATE of no row would still run its triggers.
    IF cardinality(changed) > 0 THEN
        UPDATE picket.sites AS site
        SET problem = picket.interval_problem(site.interval_seconds, setting.min_interval, setting.max_interval)
        FROM picket.settings AS setting WHERE site.id = ANY (changed);
    END IF;
END $$;
COMMENT ON FUNCTION picket.note_intervals IS
    'Records as a problem that a site''s interval is outside of the settings, and clears it where it is inside again';

-- Runs after sites_before, which clears the problem of a site that was changed and gives it its version.
CREATE FUNCTION picket.sites_interval() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    -- A row that keeps its version is not changed: only its mark of validated patterns is set.
    IF NEW.problem IS NULL AND NEW.version = pg_current_xact_id() THEN
        NEW.problem := (
            SELECT picket.interval_problem(NEW.interval_seconds, min_interval, max_interval) FROM picket.settings);
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION picket.sites_interval IS 'Gives a site whose interval is outside of the settings a problem';
CREATE TRIGGER sites_interval BEFORE INSERT OR UPDATE ON picket.sites
    FOR EACH ROW EXECUTE FUNCTION picket.sites_interval();

CREATE FUNCTION picket.settings_after() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF (NEW.min_interval, NEW.max_interval) IS DISTINCT FROM (OLD.min_interval, OLD.max_interval) THEN
        -- Against a site that is being written at the same time: one of the two waits and sees the other.
        LOCK TABLE picket.sites IN SHARE ROW EXCLUSIVE MODE;
        PERFORM picket.note_intervals(NULL);
    END IF;
    PERFORM pg_notify('picket_settings', '');
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.settings_after IS 'Judges the intervals of all sites again when their range changes, and notifies processes';
CREATE TRIGGER settings_after AFTER UPDATE ON picket.settings
    FOR EACH ROW EXECUTE FUNCTION picket.settings_after();

-- Two functions keep their bodies but for one addition each.
DO $$
DECLARE
    change record;
    body text;
BEGIN
    FOR change IN SELECT * FROM (VALUES
        -- A site that was written in a transaction that saw no other's commit may have been judged by an earlier range.
        ('picket.reconcile_pending'::regproc, 'PERFORM picket.note_regions(site_ids);',
         'PERFORM picket.note_intervals(coalesce(site_ids, ''{}''));' || E'\n    PERFORM picket.note_regions(site_ids);'),
        ('picket.grant_work'::regproc, 'expires_at, scheduled_through) ON picket.leases',
         'expires_at, lease_time, lease_time_version, scheduled_through) ON picket.leases')
    ) AS changes (function, old, new) LOOP
        body := pg_get_functiondef(change.function);
        IF strpos(body, change.old) = 0 THEN
            RAISE EXCEPTION '% does not contain %', change.function, change.old;
        END IF;
        EXECUTE replace(body, change.old, change.new);
    END LOOP;
END $$;

SELECT picket.grant_roles();
