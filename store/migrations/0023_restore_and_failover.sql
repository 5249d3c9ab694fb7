-- Recovery from a restore into another cluster, and from a failover that lost the last commits.

-- Transaction numbers in rows (version, opened_by, accounted_snapshot) are valid in one cluster alone.
ALTER TABLE picket.settings ADD COLUMN cluster text;
COMMENT ON COLUMN picket.settings.cluster IS
    'The system identifier of the Postgres cluster whose transaction numbers the rows carry; null where it cannot be read';

CREATE FUNCTION picket.cluster() RETURNS text
    LANGUAGE plpgsql STABLE
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RETURN (SELECT system_identifier::text FROM pg_control_system());
EXCEPTION
    -- Some hosting providers revoke this function.
    WHEN insufficient_privilege THEN RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.cluster IS 'The system identifier of this Postgres cluster; null where it may not be read';
UPDATE picket.settings SET cluster = picket.cluster();

-- Cluster and timeline. They differ after a restore into another cluster, after the promotion of a replica and after a point-in-time
-- recovery. The name of the WAL file contains the new timeline at once; pg_control_checkpoint() only after the next checkpoint.
CREATE FUNCTION picket.timeline() RETURNS text
    LANGUAGE sql STABLE
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT coalesce(picket.cluster(), '') || '.'
               || CASE WHEN pg_is_in_recovery() THEN '' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END
    $$;
COMMENT ON FUNCTION picket.timeline IS
    'Cluster and timeline: differs after a restore into another cluster, a promotion and a point-in-time recovery';

-- Replaces transaction numbers of another cluster. Restored rows are visible to every snapshot, so they get number 2, which is older
-- than all. Returns whether there was anything to do.
CREATE FUNCTION picket.adopt_cluster() RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    frozen CONSTANT xid8 := '2';
    -- Messages and events from after the dump carry ids that the restored sequences would issue again.
    leap CONSTANT bigint := 1000;
    here text := picket.cluster();
BEGIN
    IF NOT picket.is_adoption_due(here) THEN
        RETURN false;
    END IF;
    -- A concurrent caller waits here, and then finds the work done.
    PERFORM FROM picket.settings FOR UPDATE;
    IF NOT picket.is_adoption_due(here) THEN
        RETURN false;
    END IF;
    LOCK TABLE picket.schedules IN SHARE ROW EXCLUSIVE MODE;
    -- Schedules that were belated when the dump was made stay belated: they get the number of this transaction, which is not visible
    -- in the new snapshot of their lease.
    UPDATE picket.schedules AS schedule
    SET (version, opened_by) = (
        SELECT number, number
        FROM (SELECT CASE WHEN pg_visible_in_snapshot(schedule.opened_by, lease.accounted_snapshot) IS NOT false
                     THEN frozen ELSE pg_current_xact_id() END AS number
              FROM picket.leases AS lease WHERE lease.shard = schedule.shard) AS numbered);
    UPDATE picket.leases SET accounted_snapshot = pg_current_snapshot() WHERE accounted_snapshot IS NOT NULL;
    PERFORM setval(pg_get_serial_sequence('picket.sites', 'id'),
                   nextval(pg_get_serial_sequence('picket.sites', 'id')) + leap);
    PERFORM setval(pg_get_serial_sequence('picket.incidents', 'incident_id'),
                   nextval(pg_get_serial_sequence('picket.incidents', 'incident_id')) + leap);
    UPDATE picket.settings SET cluster = here;
    PERFORM pg_notify('picket_sites', 'regions');
    RETURN true;
END $$;
COMMENT ON FUNCTION picket.adopt_cluster IS
    'Replaces transaction numbers of another cluster after a restore; returns whether there were any';

-- Whether rows carry transaction numbers of another cluster: its identifier differs, or the numbers lie in the future.
CREATE FUNCTION picket.is_adoption_due(here text) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$
        SELECT EXISTS (SELECT FROM picket.settings WHERE cluster <> here)
            OR EXISTS (SELECT FROM picket.schedules WHERE version >= pg_snapshot_xmax(pg_current_snapshot()))
            OR EXISTS (SELECT FROM picket.leases
                       WHERE pg_snapshot_xmax(accounted_snapshot) > pg_snapshot_xmax(pg_current_snapshot()))
    $$;
COMMENT ON FUNCTION picket.is_adoption_due IS 'Whether rows carry transaction numbers of another cluster than this one';
REVOKE EXECUTE ON FUNCTION picket.cluster, picket.timeline, picket.adopt_cluster, picket.is_adoption_due FROM PUBLIC;

-- The watermark of stored results. A sink advances it every five seconds to the acknowledgement floor of the stream. A result is
-- acknowledged after its commit, and a replica or a backup contains commits in order: a database that contains this row contains the
-- results of all messages up to it.
CREATE TABLE picket.results_stored (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    stream_created timestamptz NOT NULL,
    through bigint NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
COMMENT ON TABLE picket.results_stored IS
    'Watermark of the stream of results: after a failover or a restore, sinks replay the messages after it';
COMMENT ON COLUMN picket.results_stored.stream_created IS 'When the stream was created; sequences are valid in one stream alone';
COMMENT ON COLUMN picket.results_stored.through IS 'All messages up to this sequence are stored';
COMMENT ON COLUMN picket.results_stored.noted_at IS 'When this was written';

CREATE FUNCTION picket.server_run() RETURNS text
    LANGUAGE sql STABLE
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT picket.timeline() || '.' || picket.micros(pg_postmaster_start_time())
    $$;
COMMENT ON FUNCTION picket.server_run IS
    'One run of one server: differs after each restart, promotion and restore, each of which may have cost commits';
REVOKE EXECUTE ON FUNCTION picket.server_run FROM PUBLIC;

-- Identifies an incident even when it is decided again: site, first failure, and the number of the site's earlier incidents with the
-- same first failure (a region that keeps failing can be the first in two incidents). A database that lost its last commits decides
-- the incident again from the same results in another order, so incident_id and opened_at can differ.
CREATE FUNCTION picket.incident_key(incident picket.incidents) RETURNS text
    LANGUAGE sql STABLE
    AS $$
        SELECT format('incident.%s.%s%s', incident.site_id,
                      -- As a number without a bound: SQL can write infinity here, and years that are no bigint of microseconds.
                      trunc(extract(epoch FROM incident.first_failure_at) * 1000),
                      CASE WHEN before.number > 0 THEN '-' || before.number + 1 END)
        FROM (SELECT count(*) AS number FROM picket.incidents AS earlier
              WHERE earlier.site_id = incident.site_id AND earlier.first_failure_at = incident.first_failure_at
                AND earlier.incident_id < incident.incident_id) AS before
    $$;
COMMENT ON FUNCTION picket.incident_key IS
    'Prefix of the ids of an incident''s events; the same when the incident was lost and is decided again';
REVOKE EXECUTE ON FUNCTION picket.incident_key FROM PUBLIC;

-- As in 0006, with ids that are stable across a failover.
CREATE OR REPLACE FUNCTION picket.incidents_after() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    what text := CASE WHEN NEW.closed_at IS NULL THEN 'opened' ELSE 'closed' END;
    event_id text := picket.incident_key(NEW) || '.' || what;
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

-- As in 0006. A coordinator writes a lost row again with a time that differs by milliseconds, so the id rounds it down to 20 s. A
-- region becomes silent after 20 s, so two silences of one region never share an id.
CREATE OR REPLACE FUNCTION picket.silent_regions_after() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    silence picket.silent_regions := CASE WHEN TG_OP = 'INSERT' THEN NEW ELSE OLD END;
    what text := CASE WHEN TG_OP = 'INSERT' THEN 'silent' ELSE 'back' END;
    region text := (SELECT name FROM picket.regions WHERE id = silence.region_id);
    event_id text := format('region.%s.%s.%s', region,
        picket.micros(date_bin(interval '20 seconds', silence.since, timestamptz 'epoch')) / 1000, what);
BEGIN
    INSERT INTO picket.outbox (event_id, subject, payload) VALUES (
        event_id, 'picket.event.region.' || what, jsonb_build_object(
            'v', 1, 'id', event_id, 'event', 'region.' || what, 'region', region, 'since', picket.wire_time(silence.since),
            'at', picket.wire_time(clock_timestamp())));
    RETURN NULL;
END $$;
