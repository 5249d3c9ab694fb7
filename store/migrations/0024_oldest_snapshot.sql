-- How old the oldest snapshot is that somebody holds. As long as one lives no dead row of any table is removed, and what is updated
-- often gets dearer with each update: the leases of 64 shards, renewed every 5 s, touch 200 pages a renewal, after 1,000
-- renewals beside an open transaction 68,000, and after 2,000 of them 116,000.

-- Sessions, prepared transactions, and replication slots; the latter, and replicas with hot_standby_feedback, have an age in
-- transactions only. Null where the owner of this function may not see the sessions of others.
CREATE FUNCTION picket.oldest_snapshot(OUT seconds double precision, OUT transactions bigint)
    LANGUAGE sql STABLE
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
        WITH holders (since, xmin) AS (
            -- Of another database a snapshot holds up nothing here, but for a replica's.
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
    'Age of the oldest snapshot that holds up the removal of dead rows; null where the schema''s owner lacks pg_read_all_stats';

DO $$
BEGIN
    IF NOT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') THEN
        RAISE NOTICE 'the age of the oldest snapshot is not watched; a superuser can change that: GRANT pg_read_all_stats TO %',
            current_user;
    END IF;
END $$;
