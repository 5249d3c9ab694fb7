-- Roles: one for each process and one for readers of reports, each with the least rights that it
-- needs. They own nothing and cannot log in; logins are members of one: CREATE ROLE sink_1 LOGIN
-- PASSWORD '…' IN ROLE picket_sink. PUBLIC has no rights. Consequences of a change are written with
-- the owner's rights, so that a role that may make the change needs no right to write its
-- consequences.

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['picket_coordinator', 'picket_sink', 'picket_api', 'picket_report'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN NULL;
            WHEN insufficient_privilege THEN
                RAISE NOTICE 'role % could not be created; a superuser can: CREATE ROLE % NOLOGIN; then: SELECT picket.grant_roles()',
                    role, role;
        END;
    END LOOP;
END $$;

-- The rights of each role that exists; everything beyond them is revoked.
CREATE FUNCTION picket.grant_role_privileges() RETURNS void
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
            -- Each process checks the schema's version.
            EXECUTE format('GRANT SELECT ON public._sqlx_migrations TO %I', role);
        END IF;

        CASE role
        WHEN 'picket_coordinator' THEN
            GRANT SELECT ON picket.settings, picket.ticket_keys, picket.regions, picket.sites, picket.retired_sites,
                picket.schedules TO picket_coordinator;
            GRANT UPDATE (problem, patterns_validated) ON picket.sites TO picket_coordinator;
            GRANT SELECT, INSERT, UPDATE, DELETE ON picket.coordinators TO picket_coordinator;
            GRANT SELECT, UPDATE (holder, epoch, expires_at, lease_time, lease_time_version, scheduled_through) ON picket.leases TO picket_coordinator;
            GRANT SELECT, INSERT, UPDATE (gap_to) ON picket.gaps TO picket_coordinator;
            GRANT SELECT, INSERT, DELETE ON picket.silent_regions TO picket_coordinator;
            GRANT EXECUTE ON FUNCTION picket.ensure_partitions, picket.drop_results, picket.drop_rollups, picket.prune,
                picket.roll_up, picket.rebuild_rollups, picket.roll_up_day, picket.recount_rollups,
                picket.close_unwatched_incidents, picket.close_ledger, picket.refuses_deletion, picket.repair_marks, picket.delete_future_results,
                picket.reconcile_pending, picket.adopt_cluster, picket.timeline, picket.oldest_snapshot TO picket_coordinator;
        WHEN 'picket_sink' THEN
            GRANT SELECT, INSERT, UPDATE ON picket.check_results TO picket_sink;
            GRANT SELECT, INSERT ON picket.adhoc_results TO picket_sink;
            GRANT INSERT ON picket.dead_letters TO picket_sink;
            GRANT SELECT, INSERT, UPDATE, DELETE ON picket.site_states TO picket_sink;
            GRANT SELECT, INSERT, UPDATE (closed_at) ON picket.incidents TO picket_sink;
            GRANT SELECT, DELETE ON picket.outbox TO picket_sink;
            GRANT SELECT, INSERT, UPDATE ON picket.results_stored TO picket_sink;
            GRANT EXECUTE ON FUNCTION picket.server_run, picket.ensure_partition, picket.try_lock_outbox TO picket_sink;
            GRANT SELECT ON picket.settings, picket.ticket_keys, picket.regions, picket.schedules, picket.maintenance
                TO picket_sink;
            -- Without the columns that are sent to a site, which may contain secrets.
            GRANT SELECT (id, shard, tags, quorum, failures_to_open, successes_to_close) ON picket.sites TO picket_sink;
        WHEN 'picket_api' THEN
            GRANT USAGE ON SCHEMA report TO picket_api;
            GRANT SELECT ON ALL TABLES IN SCHEMA picket, report TO picket_api;
            REVOKE ALL ON picket.ticket_keys FROM picket_api;
            GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA report TO picket_api;
            -- The columns of a site that a person decides; Picket writes the others.
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
COMMENT ON FUNCTION picket.grant_role_privileges IS
    'The part of picket.grant_roles with the rights of each role; call that function instead';

-- Revokes every right of PUBLIC. A function that runs with its owner's rights must not become the
-- trigger of another owner's table, where its caller chooses the types and so the code that the
-- owner runs. A temporary table is such a table.
CREATE FUNCTION picket.revoke_public() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    target text;
BEGIN
    FOR target IN
        SELECT format('ALL FUNCTIONS IN SCHEMA %I', nspname) FROM pg_namespace WHERE nspname IN ('picket', 'report')
        UNION ALL
        SELECT format('ALL TABLES IN SCHEMA %I', nspname) FROM pg_namespace WHERE nspname IN ('picket', 'report')
        UNION ALL
        SELECT format('ALL SEQUENCES IN SCHEMA %I', nspname) FROM pg_namespace WHERE nspname IN ('picket', 'report')
        UNION ALL
        SELECT format('SCHEMA %I', nspname) FROM pg_namespace WHERE nspname IN ('picket', 'report')
        UNION ALL
        -- Arrays and row types of tables have no rights of their own.
        SELECT format('TYPE %s', pg_type.oid::regtype) FROM pg_type LEFT JOIN pg_class ON pg_class.oid = typrelid
        WHERE typnamespace IN ('picket'::regnamespace, 'report'::regnamespace) AND typcategory <> 'A'
          AND coalesce(relkind = 'c', true)
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM PUBLIC', target);
    END LOOP;

    -- Rights that only the database's owner can revoke, which may be another role than the schema's
    -- owner.
    BEGIN
        EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
        REVOKE CREATE ON SCHEMA public FROM PUBLIC;
    EXCEPTION WHEN insufficient_privilege THEN NULL;
    END;
    -- REVOKE without the right to revoke is not an error, so the result is checked.
    IF has_database_privilege('public', current_database(), 'TEMPORARY') OR has_schema_privilege('public', 'public', 'CREATE') THEN
        RAISE NOTICE 'PUBLIC may still create temporary tables in database % or tables in schema public; its owner can change that: '
            'REVOKE TEMPORARY ON DATABASE % FROM PUBLIC; REVOKE CREATE ON SCHEMA public FROM PUBLIC',
            current_database(), current_database();
    END IF;

    -- Objects that this role creates from now on.
    ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM PUBLIC;
    ALTER DEFAULT PRIVILEGES REVOKE ALL ON TYPES FROM PUBLIC;
END $$;
COMMENT ON FUNCTION picket.revoke_public IS
    'Revokes every right of PUBLIC in the schemas picket and report, also for later objects';

-- For the owner of the schema; may be called at any time, for example after a role was created
-- later.
CREATE FUNCTION picket.grant_roles() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    role text;
    callable regprocedure;
BEGIN
    PERFORM picket.revoke_public();
    PERFORM picket.grant_role_privileges();

    -- A caller's search path must not decide which objects a function with its owner's rights
    -- finds.
    FOR callable IN SELECT oid FROM pg_proc
                    WHERE pronamespace IN ('picket'::regnamespace, 'report'::regnamespace) AND prosecdef
                      AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false) LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, pg_temp', callable);
    END LOOP;

    FOR role IN SELECT rolname FROM pg_roles
                WHERE rolname IN ('picket_coordinator', 'picket_sink', 'picket_api', 'picket_report') LOOP
        -- Views, constraints and indexes call these functions with the rights of the reader or
        -- writer. They change nothing and run with their caller's rights, so the grant gives no
        -- access.
        FOR callable IN SELECT oid FROM pg_proc
                        WHERE pronamespace = 'picket'::regnamespace AND prokind = 'f' AND NOT prosecdef
                          AND provolatile IN ('i', 's') AND prorettype <> 'trigger'::regtype LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', callable, role);
        END LOOP;
        IF role IN ('picket_api', 'picket_report') THEN
            -- Called by report.site_status.
            EXECUTE format('GRANT EXECUTE ON FUNCTION picket.in_maintenance TO %I', role);
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION picket.grant_roles IS
    'Grants picket_coordinator, picket_sink, picket_api and picket_report, as far as they exist, the rights that each needs, and PUBLIC none';
SELECT picket.grant_roles();
