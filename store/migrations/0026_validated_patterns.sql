-- A site's regexes are compiled once for each version of the pattern rules, not each time a coordinator acquires the site's shard:
-- 400 regexes like \w{15} took 1.7 s at each take-over.

ALTER TABLE picket.sites ADD COLUMN patterns_validated smallint;
COMMENT ON COLUMN picket.sites.patterns_validated IS
    'Version of the pattern rules under which a coordinator accepted regex and not_regex; null if none has';

-- As in 0020, with the mark: a change of a regex clears it, and setting it is no change of the site.
CREATE OR REPLACE FUNCTION picket.sites_before() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    unknown text;
    refusal text[];
    unmarked picket.sites;
BEGIN
    IF TG_OP = 'INSERT' OR (NEW.regex, NEW.not_regex) IS DISTINCT FROM (OLD.regex, OLD.not_regex) THEN
        NEW.patterns_validated := NULL;
    ELSIF NEW.patterns_validated IS DISTINCT FROM OLD.patterns_validated THEN
        unmarked := NEW;
        unmarked.patterns_validated := OLD.patterns_validated;
        -- Only the mark differs: version and updated_at stay, so that no coordinator reads the site again.
        IF unmarked *= OLD THEN
            RETURN NEW;
        END IF;
    END IF;
    -- In an INSERT all of OLD is null.
    refusal := CASE
        WHEN octet_length(NEW.url) > 4096 AND NEW.url IS DISTINCT FROM OLD.url
            THEN ARRAY['url', octet_length(NEW.url) || ' bytes', 'at most 4096 bytes']
        WHEN octet_length(NEW.name) > 200 AND NEW.name IS DISTINCT FROM OLD.name
            THEN ARRAY['name', octet_length(NEW.name) || ' bytes', '1 to 200 bytes without control characters']
        WHEN octet_length(NEW.body) > 65536 AND NEW.body IS DISTINCT FROM OLD.body
            THEN ARRAY['body', octet_length(NEW.body) || ' bytes', 'at most 65536 bytes']
        WHEN octet_length(NEW.regex) > 4096 AND NEW.regex IS DISTINCT FROM OLD.regex
            THEN ARRAY['regex', octet_length(NEW.regex) || ' bytes', 'at most 4096 bytes']
        WHEN octet_length(NEW.not_regex) > 4096 AND NEW.not_regex IS DISTINCT FROM OLD.not_regex
            THEN ARRAY['not_regex', octet_length(NEW.not_regex) || ' bytes', 'at most 4096 bytes']
        WHEN octet_length(NEW.method) > 64 AND NEW.method IS DISTINCT FROM OLD.method
            THEN ARRAY['method', octet_length(NEW.method) || ' bytes', 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS']
        WHEN octet_length(NEW.status) > 1024 AND NEW.status IS DISTINCT FROM OLD.status
            THEN ARRAY['status', octet_length(NEW.status) || ' bytes', 'statuses and ranges from 100 to 599, such as 200-299,301']
        WHEN octet_length(NEW.ip_version) > 64 AND NEW.ip_version IS DISTINCT FROM OLD.ip_version
            THEN ARRAY['ip_version', octet_length(NEW.ip_version) || ' bytes', 'any, 4, 6']
        WHEN NEW.tags IS DISTINCT FROM OLD.tags AND picket.list_refusal(NEW.tags, 50, 64) IS NOT NULL
            THEN ARRAY['tags', left(NEW.tags::text, 200), picket.list_refusal(NEW.tags, 50, 64)]
        WHEN NEW.regions IS DISTINCT FROM OLD.regions AND picket.list_refusal(NEW.regions, 1000, 32) IS NOT NULL
            THEN ARRAY['regions', left(NEW.regions::text, 200), picket.list_refusal(NEW.regions, 1000, 32)]
        -- The values may be secrets.
        WHEN NEW.headers IS DISTINCT FROM OLD.headers AND picket.headers_refusal(NEW.headers) IS NOT NULL
            THEN ARRAY['headers', '(hidden)', picket.headers_refusal(NEW.headers)]
        WHEN TG_OP = 'UPDATE' AND NEW.id <> OLD.id
            THEN ARRAY['id', NEW.id::text, OLD.id || ', which its results carry']
    END;
    IF refusal IS NOT NULL THEN
        RAISE EXCEPTION '%: ''%'' is not allowed; allowed: %', refusal[1], refusal[2], refusal[3]
            USING ERRCODE = 'check_violation', CONSTRAINT = 'sites_limits', COLUMN = refusal[1];
    END IF;
    IF TG_OP = 'INSERT' OR NEW.regions IS DISTINCT FROM OLD.regions THEN
        SELECT wanted INTO unknown FROM unnest(NEW.regions) AS wanted
        WHERE NOT EXISTS (SELECT FROM picket.regions WHERE name = wanted AND removed_at IS NULL) LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'regions: ''%'' is not a region; there are: %', unknown,
                coalesce((SELECT string_agg(name, ', ' ORDER BY name) FROM picket.regions WHERE removed_at IS NULL), 'none')
                USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'sites_regions',
                      HINT = 'add it first: picket region add, or INSERT INTO picket.regions (name)';
        END IF;
    END IF;
    -- Whatever the statement says: a shard that does not exist would never be scheduled.
    IF TG_OP = 'INSERT' OR NEW.shard IS DISTINCT FROM OLD.shard THEN
        NEW.shard := picket.shard_of(NEW.id);
    END IF;
    IF TG_OP = 'UPDATE' THEN
        NEW.updated_at := clock_timestamp();
        -- A change may have mended it; the coordinator judges again.
        IF NEW.problem IS NOT DISTINCT FROM OLD.problem
           AND (NEW.url, NEW.interval_seconds, NEW.timeout_ms, NEW.method, NEW.headers, NEW.body, NEW.status, NEW.regex,
                NEW.not_regex, NEW.max_redirects, NEW.ip_version, NEW.regions, NEW.quorum, NEW.failures_to_open,
                NEW.successes_to_close, NEW.name, NEW.tags, NEW.enabled)
               IS DISTINCT FROM
               (OLD.url, OLD.interval_seconds, OLD.timeout_ms, OLD.method, OLD.headers, OLD.body, OLD.status, OLD.regex,
                OLD.not_regex, OLD.max_redirects, OLD.ip_version, OLD.regions, OLD.quorum, OLD.failures_to_open,
                OLD.successes_to_close, OLD.name, OLD.tags, OLD.enabled)
        THEN
            NEW.problem := NULL;
        END IF;
    END IF;
    NEW.version := pg_current_xact_id();
    RETURN NEW;
END $$;

-- As in 0020, for rows that changed.
CREATE OR REPLACE FUNCTION picket.sites_after() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    site_ids bigint[];
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO picket.retired_sites (id, url, name, tags, shard, version)
        SELECT id, url, name, tags, shard, pg_current_xact_id() FROM old_rows;
        SELECT array_agg(id) INTO site_ids FROM old_rows;
    ELSE
        -- A row that keeps its version had only its mark of validated patterns set, from which nothing follows.
        SELECT array_agg(id) INTO site_ids FROM new_rows WHERE version = pg_current_xact_id();
    END IF;
    IF site_ids IS NOT NULL THEN
        IF current_setting('picket.noting_regions', true) IS DISTINCT FROM 'on' THEN
            -- Against a region that is being added at the same time: one of the two waits and sees the other.
            LOCK TABLE picket.regions IN SHARE MODE;
            IF TG_OP <> 'DELETE' THEN
                PERFORM picket.note_regions(site_ids);
                -- This transaction does not see what was committed while it waited.
                IF current_setting('transaction_isolation') <> 'read committed' THEN
                    INSERT INTO picket.pending_reconciliation (site_id) SELECT unnest(site_ids);
                END IF;
            END IF;
        END IF;
        PERFORM picket.reconcile_schedules(site_ids);
        PERFORM pg_notify('picket_sites', '');
    END IF;
    RETURN NULL;
END $$;

-- As in 0025, with the mark for coordinators.
CREATE OR REPLACE FUNCTION picket.grant_work() RETURNS void
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
            GRANT UPDATE (problem, patterns_validated) ON picket.sites TO picket_coordinator;
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
SELECT picket.grant_roles();
