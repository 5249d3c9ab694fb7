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
    'Facts of the warnings, and observations that depend on the type of check; null for none';

ALTER TABLE picket.sites
    ADD COLUMN options jsonb NOT NULL DEFAULT '{}' CONSTRAINT options_are_an_object CHECK (jsonb_typeof(options) = 'object'),
    ADD COLUMN assertions jsonb NOT NULL DEFAULT '{}'
        CONSTRAINT assertions_are_an_object CHECK (jsonb_typeof(assertions) = 'object');
COMMENT ON COLUMN picket.sites.options IS 'How to ask, beyond the other columns; the schema is in proto/schema';
COMMENT ON COLUMN picket.sites.assertions IS 'What a good response is, beyond the other columns; the schema is in proto/schema';

CREATE FUNCTION picket.site_identity(
    url text, method text, regex text, not_regex text, options jsonb, assertions jsonb) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN md5(md5(url) || md5(method) || md5(coalesce(regex, '')) || md5(coalesce(not_regex, ''))
               || jsonb_hash_extended(options, 0)::text || ' ' || jsonb_hash_extended(assertions, 0)::text)::uuid;
COMMENT ON FUNCTION picket.site_identity IS 'Hash of what no two sites may have in common';

-- With options and assertions, in which sites may differ that are checked in two ways. One hash of
-- 16 bytes takes the place of four of 33 each: for a million sites the index takes 30 MB, not 209, and
-- is built in 2 s. Objects that are equal have the same jsonb_hash_extended, whatever the order of
-- their keys.
DROP INDEX picket.sites_identity;
CREATE UNIQUE INDEX sites_identity ON picket.sites
    (picket.site_identity(url, method, regex, not_regex, options, assertions));

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

-- Limits options and assertions, clears the mark and the problem when they change, and writes the
-- type. Fires after sites_before, by the order of names.
CREATE FUNCTION picket.sites_before_check_model() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    violation text[];
BEGIN
    -- In an INSERT every column of OLD is null. The values may be secrets.
    violation := CASE
        WHEN NEW.options IS DISTINCT FROM OLD.options AND picket.object_error(NEW.options) IS NOT NULL
            THEN ARRAY['options', picket.object_error(NEW.options)]
        WHEN NEW.assertions IS DISTINCT FROM OLD.assertions AND picket.object_error(NEW.assertions) IS NOT NULL
            THEN ARRAY['assertions', picket.object_error(NEW.assertions)]
    END;
    IF violation IS NOT NULL THEN
        RAISE EXCEPTION '%: ''(hidden)'' is not allowed; allowed: %', violation[1], violation[2]
            USING ERRCODE = 'check_violation', CONSTRAINT = 'sites_limits', COLUMN = violation[1];
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.assertions IS DISTINCT FROM OLD.assertions THEN
        NEW.patterns_validated := NULL;
    END IF;
    -- A change may have fixed the problem; the coordinator validates again.
    IF TG_OP = 'UPDATE' AND NEW.problem IS NOT DISTINCT FROM OLD.problem
       AND (NEW.options, NEW.assertions) IS DISTINCT FROM (OLD.options, OLD.assertions) THEN
        NEW.problem := NULL;
    END IF;
    IF TG_OP = 'INSERT' OR (NEW.url, NEW.type) IS DISTINCT FROM (OLD.url, OLD.type) THEN
        NEW.type := picket.site_type(NEW.url);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER sites_before_check_model BEFORE INSERT OR UPDATE ON picket.sites
    FOR EACH ROW EXECUTE FUNCTION picket.sites_before_check_model();

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
    round(result.lateness_us / 1000.0, 3) AS lateness_ms,
    result.outcome,
    result.cause,
    result.message,
    result.http_status,
    round(result.dns_us / 1000.0, 3) AS dns_ms,
    round(result.connect_us / 1000.0, 3) AS connect_ms,
    round(result.tls_us / 1000.0, 3) AS tls_ms,
    round(result.first_byte_us / 1000.0, 3) AS first_byte_ms,
    round(result.transfer_us / 1000.0, 3) AS transfer_ms,
    round(result.total_us / 1000.0, 3) AS total_ms,
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
COMMENT ON COLUMN report.checks.details IS 'Facts of the warnings, and observations that depend on the type of check; null for none';

-- With type as the last column.
CREATE OR REPLACE VIEW report.sites AS
SELECT id AS site_id, coalesce(name, url) AS site, url, tags, regions, interval_seconds, enabled, problem, created_at, type
FROM picket.sites;
COMMENT ON COLUMN report.sites.type IS 'Type of check by the URL''s scheme; http for http and https';

-- The rights on the objects of this file, beyond the views of schema report.
CREATE FUNCTION picket.grant_check_model_privileges() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'picket_api') THEN
        GRANT INSERT (options, assertions), UPDATE (options, assertions) ON picket.sites TO picket_api;
    END IF;
END $$;
COMMENT ON FUNCTION picket.grant_check_model_privileges IS
    'The part of picket.grant_roles with the rights on options and assertions; call that function instead';

-- From this file on each file has a function grant_TOPIC_privileges for the rights on its own
-- objects, and grant_roles calls all of them.
ALTER FUNCTION picket.grant_roles() RENAME TO grant_initial_roles;
COMMENT ON FUNCTION picket.grant_initial_roles IS
    'The part of picket.grant_roles that revokes the rights of PUBLIC and grants those on the first objects; call that function instead';
CREATE FUNCTION picket.grant_roles() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    part regprocedure;
BEGIN
    PERFORM picket.grant_initial_roles();
    FOR part IN SELECT oid FROM pg_proc
                WHERE pronamespace = 'picket'::regnamespace AND proname LIKE 'grant\_%\_privileges'
                  -- Called by grant_initial_roles.
                  AND proname <> 'grant_role_privileges'
                ORDER BY proname LOOP
        EXECUTE format('SELECT %s', part);
    END LOOP;
END $$;
COMMENT ON FUNCTION picket.grant_roles IS
    'Grants each of Picket''s roles that exists the rights that it needs, and PUBLIC none';

-- Sites whose URL has another scheme: none of them is valid yet, so these are few.
UPDATE picket.sites SET type = picket.site_type(url) WHERE url !~ '^https?:' AND picket.site_type(url) <> 'http';

SELECT picket.grant_roles();
