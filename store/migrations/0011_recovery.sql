-- Recovery from a restore into another cluster and from a failover that lost the last commits, and
-- the age of the oldest snapshot.

-- Cluster and timeline. They differ after a restore into another cluster, after the promotion of a
-- replica and after a point-in-time recovery. The name of the WAL file contains the new timeline at
-- once; pg_control_checkpoint() only after the next checkpoint.
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

CREATE FUNCTION picket.server_run() RETURNS text
    LANGUAGE sql STABLE
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT picket.timeline() || '.' || picket.micros(pg_postmaster_start_time())
    $$;
COMMENT ON FUNCTION picket.server_run IS
    'Identifies one run of one server: differs after each restart, promotion and restore, each of which may have lost commits';

-- True if rows carry transaction numbers of another cluster: its identifier differs, or the numbers
-- lie in the future.
CREATE FUNCTION picket.is_adoption_due(current_cluster text) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$
        SELECT EXISTS (SELECT FROM picket.settings WHERE cluster <> current_cluster)
            OR EXISTS (SELECT FROM picket.schedules WHERE version >= pg_snapshot_xmax(pg_current_snapshot()))
            OR EXISTS (SELECT FROM picket.leases
                       WHERE pg_snapshot_xmax(accounted_snapshot) > pg_snapshot_xmax(pg_current_snapshot()))
    $$;
COMMENT ON FUNCTION picket.is_adoption_due IS
    'Whether rows carry transaction numbers of another cluster than this one';

-- Replaces transaction numbers of another cluster. Restored rows are visible to every snapshot, so
-- they get number 2, which is older than all. Returns whether there was anything to do.
CREATE FUNCTION picket.adopt_cluster() RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    frozen CONSTANT xid8 := '2';
    -- Messages and events from after the dump carry ids that the restored sequences would issue
    -- again.
    skipped_ids CONSTANT bigint := 1000;
    current_cluster text := picket.cluster();
BEGIN
    IF NOT picket.is_adoption_due(current_cluster) THEN
        RETURN false;
    END IF;
    -- A concurrent caller waits here, and then finds the work done.
    PERFORM FROM picket.settings FOR UPDATE;
    IF NOT picket.is_adoption_due(current_cluster) THEN
        RETURN false;
    END IF;
    LOCK TABLE picket.schedules IN SHARE ROW EXCLUSIVE MODE;
    -- Schedules that were belated when the dump was made stay belated: they get the number of this
    -- transaction, which is not visible in the new snapshot of their lease.
    UPDATE picket.schedules AS schedule
    SET (version, opened_by) = (
        SELECT number, number
        FROM (SELECT CASE WHEN pg_visible_in_snapshot(schedule.opened_by, lease.accounted_snapshot) IS NOT false
                     THEN frozen ELSE pg_current_xact_id() END AS number
              FROM picket.leases AS lease WHERE lease.shard = schedule.shard) AS numbered);
    UPDATE picket.leases SET accounted_snapshot = pg_current_snapshot() WHERE accounted_snapshot IS NOT NULL;
    PERFORM setval(pg_get_serial_sequence('picket.sites', 'id'),
                   nextval(pg_get_serial_sequence('picket.sites', 'id')) + skipped_ids);
    PERFORM setval(pg_get_serial_sequence('picket.incidents', 'incident_id'),
                   nextval(pg_get_serial_sequence('picket.incidents', 'incident_id')) + skipped_ids);
    UPDATE picket.settings SET cluster = current_cluster;
    PERFORM pg_notify('picket_sites', 'regions');
    RETURN true;
END $$;
COMMENT ON FUNCTION picket.adopt_cluster IS
    'Replaces transaction numbers of another cluster after a restore; returns whether there were any';

-- Age of the oldest snapshot. As long as one lives, no dead row of any table is removed, and
-- frequent updates become more expensive each time: the leases of 64 shards, renewed every 5 s,
-- touch 200 pages a renewal; after 1,000 renewals beside an open transaction 68,000, and after
-- 2,000 of them 116,000. Counts sessions, prepared transactions and replication slots. Slots, and
-- replicas with hot_standby_feedback, have an age in transactions only. Null if the owner of this
-- function may not see the sessions of others.
CREATE FUNCTION picket.oldest_snapshot(OUT seconds double precision, OUT transactions bigint)
    LANGUAGE sql STABLE
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
        WITH holders (since, xmin) AS (
            -- Snapshots of other databases do not hold up this one, except those of a replica.
            SELECT xact_start, backend_xmin FROM pg_stat_activity
            WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid()
              AND (datname = current_database() OR backend_type = 'walsender') AND backend_type <> 'autovacuum worker'
            UNION ALL
            SELECT prepared, transaction FROM pg_prepared_xacts WHERE database = current_database()
            UNION ALL
            SELECT NULL, xmin FROM pg_replication_slots
        )
        SELECT coalesce(extract(epoch FROM clock_timestamp() - min(since)), 0)::float8, coalesce(max(age(xmin)), 0)::bigint
        FROM holders
        HAVING pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')
    $$;
COMMENT ON FUNCTION picket.oldest_snapshot IS
    'Age of the oldest snapshot that holds up the removal of dead rows; null if the schema''s owner lacks pg_read_all_stats';

DO $$
BEGIN
    IF NOT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') THEN
        RAISE NOTICE 'the age of the oldest snapshot is not watched; a superuser can change that: GRANT pg_read_all_stats TO %',
            current_user;
    END IF;
END $$;
