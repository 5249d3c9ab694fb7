-- The installation, regions and sites.

CREATE SCHEMA picket;
-- Views and functions for people and programs that report. Their names and columns are a contract.
CREATE SCHEMA report;

-- System identifier of this cluster. Transaction numbers in rows (version, opened_by,
-- accounted_snapshot) are valid in one cluster only.
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
COMMENT ON FUNCTION picket.cluster IS
    'System identifier of this Postgres cluster; null without the right to read it';

-- Cluster settings: one row of values on which all processes must agree. Processes follow a change
-- within two seconds. The number of shards is fixed when the database is created:
-- `picket migrate --shards N` sets picket.shards for this file.
CREATE TABLE picket.settings (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    shards smallint NOT NULL CHECK (shards BETWEEN 1 AND 1024),
    installation_id uuid NOT NULL DEFAULT gen_random_uuid(),
    require_tickets boolean NOT NULL DEFAULT true,
    cluster text,
    retention_days integer NOT NULL DEFAULT 30
        CONSTRAINT retention_days_is_1_to_3650 CHECK (retention_days BETWEEN 1 AND 3650),
    rollup_hours_days integer NOT NULL DEFAULT 730
        CONSTRAINT rollup_hours_days_is_1_to_36500 CHECK (rollup_hours_days BETWEEN 1 AND 36500),
    rollup_days_days integer NOT NULL DEFAULT 730
        CONSTRAINT rollup_days_days_is_1_to_36500 CHECK (rollup_days_days BETWEEN 1 AND 36500),
    -- The column interval_seconds of a site counts whole seconds.
    min_interval interval NOT NULL DEFAULT '5 seconds'
        CONSTRAINT min_interval_is_1s_to_1d_in_whole_seconds CHECK (
            min_interval BETWEEN interval '1 second' AND interval '1 day'
            AND extract(epoch FROM min_interval) = trunc(extract(epoch FROM min_interval))),
    max_interval interval NOT NULL DEFAULT '1 day'
        CONSTRAINT max_interval_is_1s_to_1d_in_whole_seconds CHECK (
            max_interval BETWEEN interval '1 second' AND interval '1 day'
            AND extract(epoch FROM max_interval) = trunc(extract(epoch FROM max_interval))),
    lease_time interval NOT NULL DEFAULT '15 seconds'
        CONSTRAINT lease_time_is_3s_to_5m CHECK (lease_time BETWEEN interval '3 seconds' AND interval '5 minutes'),
    lease_time_version bigint NOT NULL DEFAULT 0,
    ledger_grace interval NOT NULL DEFAULT '150 seconds'
        CONSTRAINT ledger_grace_is_10s_to_1h CHECK (ledger_grace BETWEEN interval '10 seconds' AND interval '1 hour'),
    batch_delay interval NOT NULL DEFAULT '250 milliseconds'
        CONSTRAINT batch_delay_is_10ms_to_500ms CHECK (
            batch_delay BETWEEN interval '10 milliseconds' AND interval '500 milliseconds'),
    stream_replicas smallint NOT NULL DEFAULT 1
        CONSTRAINT stream_replicas_is_1_to_5 CHECK (stream_replicas BETWEEN 1 AND 5),
    results_max_bytes bigint NOT NULL DEFAULT 8589934592
        CONSTRAINT results_max_bytes_is_1mib_to_64tib CHECK (results_max_bytes BETWEEN 1048576 AND 70368744177664),
    public_url text
        CONSTRAINT public_url_is_http_or_https CHECK (
            public_url ~ '^https?://[^[:space:]/?#]+(/[^[:space:]?#]*)?$' AND octet_length(public_url) <= 2048),
    CONSTRAINT min_interval_is_at_most_max_interval CHECK (min_interval <= max_interval),
    CONSTRAINT rollup_hours_days_is_at_least_retention_days CHECK (rollup_hours_days >= retention_days),
    CONSTRAINT rollup_days_days_is_at_least_rollup_hours_days CHECK (rollup_days_days >= rollup_hours_days)
);
COMMENT ON COLUMN picket.settings.installation_id IS
    'Identity of this installation; in each job and result, and in the metadata of its streams';
COMMENT ON COLUMN picket.settings.require_tickets IS
    'Whether sinks refuse results of scheduled and confirmation checks without a ticket; see docs/how-to/upgrade.md';
COMMENT ON COLUMN picket.settings.cluster IS
    'System identifier of the Postgres cluster whose transaction numbers the rows carry; null if it cannot be read';
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
COMMENT ON COLUMN picket.settings.lease_time_version IS 'Number of changes of lease_time, counted by a trigger';
INSERT INTO picket.settings (shards, cluster)
VALUES (coalesce(nullif(current_setting('picket.shards', true), ''), '64')::smallint, picket.cluster());

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

-- A hash from 0 to 2^32 - 1. Based on md5, because Postgres's own hash functions may change between
-- versions.
CREATE FUNCTION picket.hash32(value text) RETURNS bigint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN ('x' || left(md5(value), 8))::bit(32)::bigint;

CREATE FUNCTION picket.shard_of(site_id bigint) RETURNS smallint
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN (picket.hash32('shard ' || site_id) % (SELECT shards FROM picket.settings))::smallint;

CREATE TABLE picket.regions (
    -- The lowest free number, given by a trigger. A sequence would use up a number in each attempt,
    -- and there are 32767.
    id smallint PRIMARY KEY,
    name text NOT NULL UNIQUE
        CONSTRAINT region_name CHECK (name ~ '^[a-z0-9-]{1,32}$' AND name NOT IN ('any', 'all', 'adhoc')),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- A removed region keeps its row, because old results reference it.
    removed_at timestamptz
);

CREATE TABLE picket.sites (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    url text NOT NULL,
    name text,
    interval_seconds integer NOT NULL DEFAULT 60,
    timeout_ms integer NOT NULL DEFAULT 10000,
    method text NOT NULL DEFAULT 'GET',
    headers jsonb NOT NULL DEFAULT '{}' CONSTRAINT headers_are_an_object CHECK (jsonb_typeof(headers) = 'object'),
    body text,
    status text NOT NULL DEFAULT '200-299',
    regex text,
    not_regex text,
    max_redirects integer NOT NULL DEFAULT 10,
    ip_version text NOT NULL DEFAULT 'any',
    tls_verify boolean NOT NULL DEFAULT true,
    regions text[] NOT NULL DEFAULT '{}',
    enabled boolean NOT NULL DEFAULT true,
    quorum integer,
    failures_to_open integer NOT NULL DEFAULT 2,
    successes_to_close integer NOT NULL DEFAULT 2,
    tags text[] NOT NULL DEFAULT '{}',
    -- The reason why the site cannot be checked. Written by the coordinator, cleared by the next
    -- change of the site.
    problem text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    shard smallint NOT NULL,
    -- The transaction of the last change. Unlike numbers of a sequence these can be polled without
    -- loss: every number below the oldest running transaction is visible.
    version xid8 NOT NULL,
    -- Regexes are compiled once for each version of the pattern rules, not each time that a
    -- coordinator acquires the shard: 400 regexes like \w{15} took 1.7 s at each takeover.
    patterns_validated smallint
);
COMMENT ON COLUMN picket.sites.patterns_validated IS
    'Version of the pattern rules under which a coordinator accepted regex and not_regex; null if none has';
-- A site's identity, by hashes: a URL of the allowed length does not fit into an index.
CREATE UNIQUE INDEX sites_identity ON picket.sites
    (md5(url), md5(method), md5(coalesce(regex, '')), md5(coalesce(not_regex, '')));
-- For lookups by URL. A hash index holds values of any length.
CREATE INDEX sites_url ON picket.sites USING hash (url);
CREATE INDEX sites_shard ON picket.sites (shard);
CREATE INDEX sites_version ON picket.sites (version);

-- Removed sites. Their results stay, and must stay readable.
CREATE TABLE picket.retired_sites (
    id bigint PRIMARY KEY,
    url text NOT NULL,
    name text,
    tags text[] NOT NULL,
    retired_at timestamptz NOT NULL DEFAULT now(),
    shard smallint NOT NULL,
    version xid8 NOT NULL
);
CREATE INDEX retired_sites_version ON picket.retired_sites (version);

CREATE VIEW picket.known_sites AS
    SELECT id, coalesce(name, url) AS site, url, tags FROM picket.sites
    UNION ALL
    SELECT id, coalesce(name, url), url, tags FROM picket.retired_sites;

-- Limits of the columns of picket.sites. They are in a trigger and not in CHECK constraints: a row
-- that was written past the trigger (a restore, a disabled trigger) keeps what it has, and its
-- other columns can still be changed (its problem recorded, its schedule paused). Each limit is
-- therefore checked only where its column changes. A coordinator records other errors as a problem.

-- The error in a list of texts, as the words after "allowed:"; null for none.
CREATE FUNCTION picket.list_error(list text[], max_items integer, max_bytes integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    RETURN CASE
        WHEN list IS NULL OR cardinality(list) = 0 THEN NULL
        WHEN array_ndims(list) <> 1 OR array_lower(list, 1) <> 1 THEN 'a list of one dimension that is counted from 1'
        WHEN array_position(list, NULL) IS NOT NULL THEN 'a list without NULL'
        WHEN cardinality(list) > max_items THEN 'at most ' || max_items || ' of them'
        WHEN EXISTS (SELECT FROM unnest(list) AS item WHERE octet_length(item) > max_bytes)
            THEN 'at most ' || max_bytes || ' bytes each'
    END;
COMMENT ON FUNCTION picket.list_error IS
    'The error in a list of texts, as the words after "allowed:"; null for none';

-- The error in headers, as the words after "allowed:"; null for none. Values that can be read and
-- make no sense (a number) are left to the coordinator's validation. Values that no reader can
-- represent are refused: nesting, and numbers beyond a double.
CREATE FUNCTION picket.headers_error(headers jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    RETURN CASE
        WHEN headers IS NULL OR headers = '{}' THEN NULL
        -- The check without a conversion to text comes first. The limit for the request is 16384
        -- bytes, which JSON may have to escape.
        WHEN pg_column_size(headers) > 131072 OR octet_length(headers::text) > 131072 THEN 'at most 16384 bytes together'
        WHEN jsonb_path_exists(headers, 'strict $.* ? (@.type() == "object" || @.type() == "array")')
            THEN 'an object of texts, such as {"Accept": "text/html"}'
        WHEN jsonb_path_exists(headers, 'strict $.* ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))')
            THEN 'an object of texts, such as {"Accept": "text/html"}'
    END;
COMMENT ON FUNCTION picket.headers_error IS
    'The error in the headers of a site, as the words after "allowed:"; null for none';

CREATE FUNCTION picket.sites_before() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    unknown text;
    violation text[];
    unmarked picket.sites;
BEGIN
    IF TG_OP = 'INSERT' OR (NEW.regex, NEW.not_regex) IS DISTINCT FROM (OLD.regex, OLD.not_regex) THEN
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
CREATE TRIGGER sites_before BEFORE INSERT OR UPDATE ON picket.sites
    FOR EACH ROW EXECUTE FUNCTION picket.sites_before();

-- The reason why a site with this interval cannot be checked, in the words of SiteSpec::validate;
-- null if it can.
CREATE FUNCTION picket.interval_problem(seconds integer, shortest interval, longest interval) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE WHEN seconds * interval '1 second' NOT BETWEEN shortest AND longest
        THEN format('interval_seconds: ''%s'' is not allowed; allowed: %s to %s (settings min_interval and max_interval)', seconds,
                    extract(epoch FROM shortest)::bigint, extract(epoch FROM longest)::bigint)
    END;
COMMENT ON FUNCTION picket.interval_problem IS 'The reason why a site with this interval cannot be checked; null if it can';

-- Brings the problems of these sites, or of all, in step with the range of intervals. The database
-- decides this and not each coordinator, so that no process with an outdated range can end a site's
-- schedules, and so that a site is scheduled again when the range widens.
CREATE FUNCTION picket.record_interval_problems(site_ids bigint[]) RETURNS void
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
COMMENT ON FUNCTION picket.record_interval_problems IS
    'Records as a problem that a site''s interval is outside of the settings, and clears it where it is inside again';

-- Runs after sites_before, which clears the problem of a site that was changed and gives it its version.
CREATE FUNCTION picket.sites_interval() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    -- A row that keeps its version had only patterns_validated set.
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
        -- Excludes a concurrent change of a site: one of the two transactions waits and sees the
        -- other's rows.
        LOCK TABLE picket.sites IN SHARE ROW EXCLUSIVE MODE;
        PERFORM picket.record_interval_problems(NULL);
    END IF;
    PERFORM pg_notify('picket_settings', '');
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.settings_after IS 'Judges the intervals of all sites again when their range changes, and notifies processes';
CREATE TRIGGER settings_after AFTER UPDATE ON picket.settings
    FOR EACH ROW EXECUTE FUNCTION picket.settings_after();

CREATE FUNCTION picket.refuse_truncate() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'TRUNCATE would lose the history of %; use DELETE', TG_TABLE_NAME;
END $$;
CREATE TRIGGER sites_truncate BEFORE TRUNCATE ON picket.sites EXECUTE FUNCTION picket.refuse_truncate();
CREATE TRIGGER regions_truncate BEFORE TRUNCATE ON picket.regions EXECUTE FUNCTION picket.refuse_truncate();

CREATE FUNCTION picket.regions_before() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    -- Serializes changes of regions: two added regions never get the same number, and the later of
    -- two removals sees that a site has lost both.
    PERFORM FROM picket.settings FOR UPDATE;
    IF TG_OP = 'UPDATE' THEN
        IF NEW.name <> OLD.name OR NEW.id <> OLD.id THEN
            RAISE EXCEPTION 'a region cannot be renamed or renumbered: sites, probers and results name it by ''%'' and %', OLD.name, OLD.id
                USING ERRCODE = 'check_violation', CONSTRAINT = 'regions_name',
                      HINT = 'add a region with the new name, let its probers and sites name it, then remove the old one';
        END IF;
    ELSIF NEW.id IS NULL THEN
        NEW.id := (
            SELECT min(free) FROM (
                SELECT 1 AS free WHERE NOT EXISTS (SELECT FROM picket.regions WHERE id = 1)
                UNION ALL
                SELECT taken.id + 1 FROM picket.regions AS taken
                WHERE taken.id BETWEEN 1 AND 32766
                  AND NOT EXISTS (SELECT FROM picket.regions AS next WHERE next.id = taken.id + 1)
            ) AS candidates);
        -- INSERT … ON CONFLICT of an existing region needs no number, and runs this trigger before
        -- it detects the conflict.
        IF NEW.id IS NULL THEN
            SELECT id INTO NEW.id FROM picket.regions WHERE name = NEW.name;
        END IF;
        IF NEW.id IS NULL THEN
            RAISE EXCEPTION 'name: ''%'' cannot be added: all 32767 numbers of regions are taken (regions that were removed keep theirs)', NEW.name
                USING ERRCODE = 'program_limit_exceeded', CONSTRAINT = 'regions_numbers';
        END IF;
    ELSIF NEW.id < 1 THEN
        RAISE EXCEPTION 'id: ''%'' is not allowed; allowed: 1 to 32767', NEW.id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'regions_number';
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION picket.regions_before IS 'Gives a region the lowest free number; refuses to rename one';
CREATE TRIGGER regions_before BEFORE INSERT OR UPDATE ON picket.regions
    FOR EACH ROW EXECUTE FUNCTION picket.regions_before();

-- A deleted region is marked as removed instead, because old results reference it.
CREATE FUNCTION picket.regions_before_delete() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    UPDATE picket.regions SET removed_at = now() WHERE id = OLD.id AND removed_at IS NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER regions_before_delete BEFORE DELETE ON picket.regions
    FOR EACH ROW EXECUTE FUNCTION picket.regions_before_delete();
