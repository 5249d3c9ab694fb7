-- Options and assertions of a site, its type, and warnings and details of a result.

-- A value that is added cannot be used before the transaction ends. No statement of this file uses
-- one. Processes do so later: each of a build that knows the values requires this file.
ALTER TYPE picket.cause ADD VALUE 'unexpected_response' BEFORE 'expired';
ALTER TYPE picket.cause ADD VALUE 'header' BEFORE 'expired';
ALTER TYPE picket.cause ADD VALUE 'certificate' BEFORE 'expired';
ALTER TYPE picket.cause ADD VALUE 'slow' BEFORE 'expired';
ALTER TYPE picket.cause ADD VALUE 'overdue' BEFORE 'expired';
ALTER TYPE picket.cause ADD VALUE 'unsupported';
ALTER TYPE picket.cause ADD VALUE 'secret_unavailable';
ALTER TYPE picket.cause ADD VALUE 'source_unavailable';
ALTER TYPE picket.cause ADD VALUE 'other';

CREATE TYPE picket.warning AS ENUM ('slow', 'certificate', 'domain', 'loss');

-- Columns that may be null and have no default change no row. Sinks of the release before name the
-- columns that they write, and so leave these null.
ALTER TABLE picket.check_results
    ADD COLUMN warnings picket.warning[],
    ADD COLUMN details jsonb;
ALTER TABLE picket.adhoc_results
    ADD COLUMN warnings picket.warning[],
    ADD COLUMN details jsonb;
COMMENT ON COLUMN picket.check_results.warnings IS
    'Properties of an up result that need attention; null for none';
COMMENT ON COLUMN picket.check_results.details IS
    'Observations that depend on the type of check; null for plain HTTP';

ALTER TABLE picket.sites
    ADD COLUMN options jsonb NOT NULL DEFAULT '{}' CONSTRAINT options_are_an_object CHECK (jsonb_typeof(options) = 'object'),
    ADD COLUMN assertions jsonb NOT NULL DEFAULT '{}'
        CONSTRAINT assertions_are_an_object CHECK (jsonb_typeof(assertions) = 'object');
COMMENT ON COLUMN picket.sites.options IS 'How to ask, beyond the other columns; the schema is in proto/schema';
COMMENT ON COLUMN picket.sites.assertions IS 'What a good response is, beyond the other columns; the schema is in proto/schema';

-- A trigger writes the type. A generated column that is stored would rewrite the table, and one that
-- is not exists only from Postgres 18 on. The default is that of all sites with a valid URL so far,
-- so that no row changes now.
ALTER TABLE picket.sites ADD COLUMN type text NOT NULL DEFAULT 'http';
COMMENT ON COLUMN picket.sites.type IS
    'Type of check by the URL''s scheme: http for http and https, else the scheme; written by a trigger';

CREATE FUNCTION picket.site_type(url text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    -- Spaces are those that a URL parser skips. The comparison is the fast path of nearly all sites.
    RETURN CASE
        WHEN url IS NULL THEN NULL
        WHEN url ~ '^https?:' THEN 'http'
        ELSE (SELECT CASE WHEN scheme IN ('http', 'https') THEN 'http' ELSE coalesce(left(scheme, 32), 'unknown') END
              FROM lower(substring(url FROM '^[[:space:]]*([A-Za-z][A-Za-z0-9+.-]*):')) AS scheme)
    END;
COMMENT ON FUNCTION picket.site_type IS 'Type of check of a URL; unknown for a text without a scheme, null for null';

-- The error in options or assertions, as the words after "allowed:"; null for none. Their fields are
-- left to the coordinator's validation. Values that no reader can represent are refused.
CREATE FUNCTION picket.object_error(object jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    RETURN CASE
        WHEN object IS NULL OR object = '{}' THEN NULL
        -- The check without a conversion to text comes first. The limit for the message is 32768
        -- bytes, to which the database's text adds spaces.
        WHEN pg_column_size(object) > 262144 OR octet_length(object::text) > 65536 THEN 'at most 32768 bytes'
        WHEN jsonb_path_exists(object, 'strict $.**{33}') THEN 'at most 32 objects and lists within each other'
        WHEN jsonb_path_exists(object, 'strict $.** ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))')
            THEN 'numbers from -1e300 to 1e300'
    END;
COMMENT ON FUNCTION picket.object_error IS
    'The error in the options or assertions of a site, as the words after "allowed:"; null for none';

-- Also limits options and assertions, and clears marks and problems when they change.
CREATE OR REPLACE FUNCTION picket.sites_before() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    unknown text;
    violation text[];
    unmarked picket.sites;
BEGIN
    IF TG_OP = 'INSERT' OR (NEW.regex, NEW.not_regex, NEW.assertions) IS DISTINCT FROM (OLD.regex, OLD.not_regex, OLD.assertions) THEN
        NEW.patterns_validated := NULL;
    ELSIF NEW.patterns_validated IS DISTINCT FROM OLD.patterns_validated THEN
        unmarked := NEW;
        unmarked.patterns_validated := OLD.patterns_validated;
        -- Only the mark differs: version and updated_at stay, so that no coordinator reads the site
        -- again.
        IF unmarked *= OLD THEN
            RETURN NEW;
        END IF;
    END IF;
    -- In an INSERT every column of OLD is null.
    violation := CASE
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
        WHEN NEW.tags IS DISTINCT FROM OLD.tags AND picket.list_error(NEW.tags, 50, 64) IS NOT NULL
            THEN ARRAY['tags', left(NEW.tags::text, 200), picket.list_error(NEW.tags, 50, 64)]
        WHEN NEW.regions IS DISTINCT FROM OLD.regions AND picket.list_error(NEW.regions, 1000, 32) IS NOT NULL
            THEN ARRAY['regions', left(NEW.regions::text, 200), picket.list_error(NEW.regions, 1000, 32)]
        -- The values may be secrets.
        WHEN NEW.headers IS DISTINCT FROM OLD.headers AND picket.headers_error(NEW.headers) IS NOT NULL
            THEN ARRAY['headers', '(hidden)', picket.headers_error(NEW.headers)]
        WHEN NEW.options IS DISTINCT FROM OLD.options AND picket.object_error(NEW.options) IS NOT NULL
            THEN ARRAY['options', '(hidden)', picket.object_error(NEW.options)]
        WHEN NEW.assertions IS DISTINCT FROM OLD.assertions AND picket.object_error(NEW.assertions) IS NOT NULL
            THEN ARRAY['assertions', '(hidden)', picket.object_error(NEW.assertions)]
        WHEN TG_OP = 'UPDATE' AND NEW.id <> OLD.id
            THEN ARRAY['id', NEW.id::text, OLD.id || ', which its results carry']
    END;
    IF violation IS NOT NULL THEN
        RAISE EXCEPTION '%: ''%'' is not allowed; allowed: %', violation[1], violation[2], violation[3]
            USING ERRCODE = 'check_violation', CONSTRAINT = 'sites_limits', COLUMN = violation[1];
    END IF;
    IF TG_OP = 'INSERT' OR NEW.regions IS DISTINCT FROM OLD.regions THEN
        SELECT requested INTO unknown FROM unnest(NEW.regions) AS requested
        WHERE NOT EXISTS (SELECT FROM picket.regions WHERE name = requested AND removed_at IS NULL) LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'regions: ''%'' is not a region; there are: %', unknown,
                coalesce((SELECT string_agg(name, ', ' ORDER BY name) FROM picket.regions WHERE removed_at IS NULL), 'none')
                USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'sites_regions',
                      HINT = 'add it first: picket region add, or INSERT INTO picket.regions (name)';
        END IF;
    END IF;
    -- Overrides the statement: a shard that does not exist would never be scheduled.
    IF TG_OP = 'INSERT' OR NEW.shard IS DISTINCT FROM OLD.shard THEN
        NEW.shard := picket.shard_of(NEW.id);
    END IF;
    IF TG_OP = 'UPDATE' THEN
        NEW.updated_at := clock_timestamp();
        -- A change may have fixed the problem; the coordinator validates again.
        IF NEW.problem IS NOT DISTINCT FROM OLD.problem
           AND (NEW.url, NEW.interval_seconds, NEW.timeout_ms, NEW.method, NEW.headers, NEW.body, NEW.status, NEW.regex,
                NEW.not_regex, NEW.max_redirects, NEW.ip_version, NEW.regions, NEW.quorum, NEW.failures_to_open,
                NEW.successes_to_close, NEW.name, NEW.tags, NEW.enabled, NEW.options, NEW.assertions)
               IS DISTINCT FROM
               (OLD.url, OLD.interval_seconds, OLD.timeout_ms, OLD.method, OLD.headers, OLD.body, OLD.status, OLD.regex,
                OLD.not_regex, OLD.max_redirects, OLD.ip_version, OLD.regions, OLD.quorum, OLD.failures_to_open,
                OLD.successes_to_close, OLD.name, OLD.tags, OLD.enabled, OLD.options, OLD.assertions)
        THEN
            NEW.problem := NULL;
        END IF;
    END IF;
    IF TG_OP = 'INSERT' OR (NEW.url, NEW.type) IS DISTINCT FROM (OLD.url, OLD.type) THEN
        NEW.type := picket.site_type(NEW.url);
    END IF;
    NEW.version := pg_current_xact_id();
    RETURN NEW;
END $$;

-- With type, warnings and details as the last columns.
CREATE OR REPLACE VIEW report.checks AS
SELECT
    result.site_id,
    site.site,
    site.url,
    region.name AS region,
    result.kind,
    result.scheduled_at,
    result.scheduled_at + result.lateness_us * interval '1 microsecond' AS started_at,
    result.lateness_us / 1000.0 AS lateness_ms,
    result.outcome,
    result.cause,
    result.message,
    result.http_status,
    result.dns_us / 1000.0 AS dns_ms,
    result.connect_us / 1000.0 AS connect_ms,
    result.tls_us / 1000.0 AS tls_ms,
    result.first_byte_us / 1000.0 AS first_byte_ms,
    result.transfer_us / 1000.0 AS transfer_ms,
    result.total_us / 1000.0 AS total_ms,
    result.body_bytes,
    result.regex_matched,
    result.tls_expires_at,
    result.remote_addr,
    result.prober,
    picket.site_type(site.url) AS type,
    result.warnings,
    result.details
FROM picket.check_results AS result
JOIN picket.regions AS region ON region.id = result.region_id
LEFT JOIN picket.known_sites AS site ON site.id = result.site_id;
COMMENT ON COLUMN report.checks.type IS 'Type of check: http for http and https; phases mean different things by type';
COMMENT ON COLUMN report.checks.warnings IS 'Properties of an up result that need attention; null for none';
COMMENT ON COLUMN report.checks.details IS 'Observations that depend on the type of check; null for plain HTTP';

-- With type as the last column.
CREATE OR REPLACE VIEW report.sites AS
SELECT id AS site_id, coalesce(name, url) AS site, url, tags, regions, interval_seconds, enabled, problem, created_at, type
FROM picket.sites;
COMMENT ON COLUMN report.sites.type IS 'Type of check by the URL''s scheme; http for http and https';

-- With the rights on the new columns.
CREATE OR REPLACE FUNCTION picket.grant_role_privileges() RETURNS void
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
                    ip_version, tls_verify, regions, enabled, quorum, failures_to_open, successes_to_close, tags,
                    options, assertions),
                UPDATE (url, name, interval_seconds, timeout_ms, method, headers, body, status, regex, not_regex, max_redirects,
                    ip_version, tls_verify, regions, enabled, quorum, failures_to_open, successes_to_close, tags,
                    options, assertions)
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

-- Sites whose URL has another scheme: none of them is valid yet, so these are few.
UPDATE picket.sites SET type = picket.site_type(url) WHERE url !~ '^https?:' AND picket.site_type(url) <> 'http';

SELECT picket.grant_roles();
