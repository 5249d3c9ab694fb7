-- Nothing is anybody's: PUBLIC loses every right in the schemas, and mutual exclusion uses locks that need a right.

-- Mutual exclusion between processes: a row for each kind of work that one process does at a time. An advisory lock can be
-- held by every login, also by one that may only read reports; a row can be locked only with a right to update it, which nobody
-- but the owner has.
CREATE TABLE picket.locks (
    name text PRIMARY KEY
);
COMMENT ON TABLE picket.locks IS 'A row to be locked for each kind of work that one process does at a time; nothing is written to it';
INSERT INTO picket.locks VALUES ('outbox'), ('rollups'), ('ensure_partitions'), ('prune');

CREATE FUNCTION picket.try_lock(what text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM FROM picket.locks WHERE name = what FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        RETURN true;
    END IF;
    IF NOT EXISTS (SELECT FROM picket.locks WHERE name = what) THEN
        RAISE EXCEPTION 'picket.locks has no row ''%''; its rows must not be deleted', what;
    END IF;
    RETURN false;
END $$;
COMMENT ON FUNCTION picket.try_lock IS 'Locks a row of picket.locks until the transaction ends; false if another transaction has it';

CREATE FUNCTION picket.lock(what text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM FROM picket.locks WHERE name = what FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'picket.locks has no row ''%''; its rows must not be deleted', what;
    END IF;
END $$;
COMMENT ON FUNCTION picket.lock IS 'As picket.try_lock, but waits for the other transaction';

CREATE FUNCTION picket.lock_outbox() RETURNS boolean
    LANGUAGE sql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$ SELECT picket.try_lock('outbox') $$;
COMMENT ON FUNCTION picket.lock_outbox IS 'Locks the outbox for one sink until the transaction ends; false if another has it';

CREATE OR REPLACE FUNCTION picket.rollups_are_ours() RETURNS boolean
    LANGUAGE sql VOLATILE
    AS $$ SELECT picket.try_lock('rollups') $$;

-- The other functions keep their bodies; only the call that locks changes.
DO $$
DECLARE
    taking regprocedure;
    call CONSTANT text := 'pg_(try_)?advisory_xact_lock\s*\(\s*hashtextextended\(\s*''picket\.(\w+)''\s*,\s*0\s*\)\s*\)';
    waited integer := 0;
    name text;
BEGIN
    -- Work that an earlier body began under an advisory lock ends first. Not for long, since anybody may hold such a lock.
    FOREACH name IN ARRAY ARRAY['rollups', 'ensure_partitions', 'prune'] LOOP
        WHILE NOT pg_try_advisory_xact_lock(hashtextextended('picket.' || name, 0)) AND waited < 50 LOOP
            PERFORM pg_sleep(0.1);
            waited := waited + 1;
        END LOOP;
    END LOOP;

    FOR taking IN SELECT oid FROM pg_proc
                  WHERE pronamespace IN ('picket'::regnamespace, 'report'::regnamespace) AND prosrc ~ call LOOP
        INSERT INTO picket.locks
        SELECT DISTINCT matched[2] FROM regexp_matches(pg_get_functiondef(taking), call, 'g') AS matched
        ON CONFLICT DO NOTHING;
        EXECUTE regexp_replace(pg_get_functiondef(taking), call, 'picket.\1lock(''\2'')', 'g');
    END LOOP;
END $$;

-- What each role may do: as in 0013, and what the files from 0016 on need.
DROP FUNCTION picket.grant_roles();
CREATE FUNCTION picket.grant_work() RETURNS void
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
            GRANT SELECT ON picket.settings, picket.ticket_keys, picket.regions, picket.sites, picket.retired_sites,
                picket.schedules TO picket_coordinator;
            GRANT UPDATE (problem) ON picket.sites TO picket_coordinator;
            GRANT SELECT, INSERT, UPDATE, DELETE ON picket.coordinators TO picket_coordinator;
            GRANT SELECT, UPDATE (holder, epoch, expires_at, scheduled_through) ON picket.leases TO picket_coordinator;
            GRANT SELECT, INSERT, UPDATE (gap_to) ON picket.gaps TO picket_coordinator;
            GRANT SELECT, INSERT, DELETE ON picket.silent_regions TO picket_coordinator;
            GRANT EXECUTE ON FUNCTION picket.ensure_partitions, picket.drop_results, picket.drop_rollups, picket.prune,
                picket.roll_up, picket.mend_rollups, picket.roll_up_day, picket.recount_rollups, picket.close_unwatched,
                picket.close_ledger, picket.refuses_deletion, picket.repair_marks, picket.delete_future_results,
                picket.reconcile_pending, picket.adopt_cluster, picket.timeline, picket.oldest_snapshot TO picket_coordinator;
        WHEN 'picket_sink' THEN
            GRANT SELECT, INSERT, UPDATE ON picket.check_results TO picket_sink;
            GRANT SELECT, INSERT ON picket.adhoc_results TO picket_sink;
            GRANT INSERT ON picket.dead_letters TO picket_sink;
            GRANT SELECT, INSERT, UPDATE, DELETE ON picket.site_states TO picket_sink;
            GRANT SELECT, INSERT, UPDATE (closed_at) ON picket.incidents TO picket_sink;
            GRANT SELECT, DELETE ON picket.outbox TO picket_sink;
            GRANT SELECT, INSERT, UPDATE ON picket.results_stored TO picket_sink;
            GRANT EXECUTE ON FUNCTION picket.server_run, picket.ensure_partition, picket.lock_outbox TO picket_sink;
            GRANT SELECT ON picket.settings, picket.ticket_keys, picket.regions, picket.schedules, picket.maintenance
                TO picket_sink;
            -- Not what is sent to a site, among which may be secrets.
            GRANT SELECT (id, shard, tags, quorum, failures_to_open, successes_to_close) ON picket.sites TO picket_sink;
        WHEN 'picket_api' THEN
            GRANT USAGE ON SCHEMA report TO picket_api;
            GRANT SELECT ON ALL TABLES IN SCHEMA picket, report TO picket_api;
            REVOKE ALL ON picket.ticket_keys FROM picket_api;
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
COMMENT ON FUNCTION picket.grant_work IS 'The part of picket.grant_roles that says what each role may do; call that one';

-- Takes every right from PUBLIC. A function that runs with its owner's rights must not be put into a trigger of a table of
-- somebody else's, where its caller chooses the types and so the code that the owner runs; a temporary table is such a table.
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
        -- Not arrays and the types of a table's rows, which have no rights of their own.
        SELECT format('TYPE %s', pg_type.oid::regtype) FROM pg_type LEFT JOIN pg_class ON pg_class.oid = typrelid
        WHERE typnamespace IN ('picket'::regnamespace, 'report'::regnamespace) AND typcategory <> 'A'
          AND coalesce(relkind = 'c', true)
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM PUBLIC', target);
    END LOOP;

    -- What belongs to the database's owner, who may be another than the schema's.
    BEGIN
        EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
        REVOKE CREATE ON SCHEMA public FROM PUBLIC;
    EXCEPTION WHEN insufficient_privilege THEN NULL;
    END;
    -- Where there is something to revoke and no right to do so, REVOKE is no error either.
    IF has_database_privilege('public', current_database(), 'TEMPORARY') OR has_schema_privilege('public', 'public', 'CREATE') THEN
        RAISE NOTICE 'PUBLIC may still create temporary tables in database % or tables in schema public; its owner can change that: '
            'REVOKE TEMPORARY ON DATABASE % FROM PUBLIC; REVOKE CREATE ON SCHEMA public FROM PUBLIC',
            current_database(), current_database();
    END IF;

    -- What this role creates from now on.
    ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM PUBLIC;
    ALTER DEFAULT PRIVILEGES REVOKE ALL ON TYPES FROM PUBLIC;
END $$;
COMMENT ON FUNCTION picket.revoke_public IS 'Takes every right in the schemas picket and report from PUBLIC, also for objects to come';

-- For the owner of the schema; may be called again at any time.
CREATE FUNCTION picket.grant_roles() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    role text;
    callable regprocedure;
BEGIN
    PERFORM picket.revoke_public();
    PERFORM picket.grant_work();

    -- A search path that the caller chooses must not decide what a function finds that runs with its owner's rights.
    FOR callable IN SELECT oid FROM pg_proc
                    WHERE pronamespace IN ('picket'::regnamespace, 'report'::regnamespace) AND prosecdef
                      AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false) LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, pg_temp', callable);
    END LOOP;

    FOR role IN SELECT rolname FROM pg_roles
                WHERE rolname IN ('picket_coordinator', 'picket_sink', 'picket_api', 'picket_report') LOOP
        -- Views, constraints and indexes call these with the rights of whoever reads or writes. They change nothing and
        -- run with their caller's rights, so nothing is given with them.
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
    'Gives picket_coordinator, picket_sink, picket_api and picket_report, as far as they are there, what each needs, and PUBLIC nothing';
SELECT picket.grant_roles();
