-- Who may do what: a role for each process and for who reads, each with the least that it needs. They own nothing and cannot
-- log in; whoever logs in is a member of one: CREATE ROLE sink_1 LOGIN PASSWORD '…' IN ROLE picket_sink.
-- What they may do is in one function, to be called again when a role was made later.

-- What follows from a change is done with the owner's rights, so that who may make the change need not be able to write
-- what follows from it by hand. Whatever runs so finds nothing by a search path that its caller has set.
ALTER FUNCTION picket.sites_before() SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION picket.sites_after() SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION picket.sites_watch_ended() SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION picket.regions_before_delete() SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION picket.regions_after() SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION picket.incidents_after() SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
ALTER FUNCTION picket.silent_regions_after() SECURITY DEFINER SET search_path = pg_catalog, pg_temp;

-- A view's functions run with the rights of who asks; this one tells who reads a site's status no more than that.
ALTER FUNCTION picket.in_maintenance(bigint, timestamptz) SECURITY DEFINER SET search_path = pg_catalog, pg_temp;

-- The coordinator's work that owns tables, or writes rows that are nobody's to write freely. It may have it done, and no more.
DO $$
DECLARE
    work regprocedure;
BEGIN
    FOREACH work IN ARRAY ARRAY[
        'picket.ensure_partitions(integer, integer)', 'picket.drop_results(integer)', 'picket.drop_rollups(integer)',
        'picket.prune(integer, integer, integer)', 'picket.roll_up(interval)', 'picket.mend_rollups(interval)',
        'picket.roll_up_day()', 'picket.recount_rollups(timestamptz)', 'picket.close_unwatched(bigint[])',
        'picket.close_ledger(text, smallint[], bigint[], interval, interval, timestamptz)'
    ]::regprocedure[] LOOP
        EXECUTE format('ALTER FUNCTION %s SECURITY DEFINER SET search_path = pg_catalog, pg_temp', work);
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', work);
    END LOOP;
END $$;

-- Gives each of the roles that are there what it needs, and takes from it what it has beyond that. For the owner of the
-- schema.
CREATE FUNCTION picket.grant_roles() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    role text;
BEGIN
    FOR role IN SELECT rolname FROM pg_roles
                WHERE rolname IN ('picket_coordinator', 'picket_sink', 'picket_api', 'picket_report') LOOP
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA picket, report FROM %I', role);
        EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA picket, report FROM %I', role);
        IF role = 'picket_report' THEN
            GRANT USAGE ON SCHEMA report TO picket_report;
        ELSE
            EXECUTE format('GRANT USAGE ON SCHEMA picket TO %I', role);
            -- Each process looks whether the schema is new enough for it.
            EXECUTE format('GRANT SELECT ON public._sqlx_migrations TO %I', role);
        END IF;

        CASE role
        WHEN 'picket_coordinator' THEN
            GRANT SELECT ON picket.settings, picket.regions, picket.sites, picket.retired_sites, picket.schedules
                TO picket_coordinator;
            GRANT UPDATE (problem) ON picket.sites TO picket_coordinator;
            GRANT SELECT, INSERT, UPDATE, DELETE ON picket.coordinators TO picket_coordinator;
            GRANT SELECT, UPDATE (holder, epoch, expires_at, scheduled_through) ON picket.leases TO picket_coordinator;
            GRANT SELECT, INSERT, UPDATE (gap_to) ON picket.gaps TO picket_coordinator;
            GRANT SELECT, INSERT, DELETE ON picket.silent_regions TO picket_coordinator;
            GRANT EXECUTE ON FUNCTION picket.ensure_partitions, picket.drop_results, picket.drop_rollups, picket.prune,
                picket.roll_up, picket.mend_rollups, picket.roll_up_day, picket.recount_rollups, picket.close_unwatched,
                picket.close_ledger TO picket_coordinator;
        WHEN 'picket_sink' THEN
            GRANT SELECT, INSERT, UPDATE ON picket.check_results TO picket_sink;
            GRANT SELECT, INSERT ON picket.adhoc_results TO picket_sink;
            GRANT INSERT ON picket.dead_letters TO picket_sink;
            GRANT SELECT, INSERT, UPDATE, DELETE ON picket.site_states TO picket_sink;
            GRANT SELECT, INSERT, UPDATE (closed_at) ON picket.incidents TO picket_sink;
            GRANT SELECT, DELETE ON picket.outbox TO picket_sink;
            GRANT SELECT ON picket.regions, picket.schedules, picket.maintenance TO picket_sink;
            -- Not what is sent to a site, among which may be secrets.
            GRANT SELECT (id, shard, tags, quorum, failures_to_open, successes_to_close) ON picket.sites TO picket_sink;
        WHEN 'picket_api' THEN
            GRANT USAGE ON SCHEMA report TO picket_api;
            GRANT SELECT ON ALL TABLES IN SCHEMA picket, report TO picket_api;
            GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA report TO picket_api;
            -- Of a site what a person decides; the rest is found out.
            GRANT DELETE,
                INSERT (url, name, interval_seconds, timeout_ms, method, headers, body, status, regex, not_regex, max_redirects,
                    ip_version, tls_verify, regions, enabled, quorum, failures_to_open, successes_to_close, tags),
                UPDATE (url, name, interval_seconds, timeout_ms, method, headers, body, status, regex, not_regex, max_redirects,
                    ip_version, tls_verify, regions, enabled, quorum, failures_to_open, successes_to_close, tags)
                ON picket.sites TO picket_api;
            GRANT INSERT (name), UPDATE (removed_at), DELETE ON picket.regions TO picket_api;
            GRANT DELETE, INSERT (site_id, tag, window_from, window_to), UPDATE (site_id, tag, window_from, window_to)
                ON picket.maintenance TO picket_api;
        WHEN 'picket_report' THEN
            GRANT SELECT ON ALL TABLES IN SCHEMA report TO picket_report;
            GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA report TO picket_report;
        END CASE;
    END LOOP;
END $$;
REVOKE EXECUTE ON FUNCTION picket.grant_roles FROM PUBLIC;
COMMENT ON FUNCTION picket.grant_roles IS
    'Gives picket_coordinator, picket_sink, picket_api and picket_report, as far as they are there, what each needs and no more';

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['picket_coordinator', 'picket_sink', 'picket_api'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN
                RAISE NOTICE 'role % could not be made; a superuser can: CREATE ROLE % NOLOGIN; then: SELECT picket.grant_roles()',
                    role, role;
        END;
    END LOOP;
END $$;
SELECT picket.grant_roles();
