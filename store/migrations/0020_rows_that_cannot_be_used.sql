-- Rows that nobody can use are refused where they are written, and regions neither run out of numbers nor leave sites behind
-- without a word. Rows that were there before stay as they are: a coordinator records what is wrong with them as a problem.

-- What is wrong with a list of texts, as the words after "allowed:"; null if nothing is.
CREATE FUNCTION picket.list_refusal(list text[], max_items integer, max_bytes integer) RETURNS text
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
REVOKE EXECUTE ON FUNCTION picket.list_refusal FROM PUBLIC;
COMMENT ON FUNCTION picket.list_refusal IS 'What is wrong with a list of texts, as the words after "allowed:"; null if nothing is';

-- The same of headers. What can be read and makes no sense (a number for a value) is left to the coordinator's judgement;
-- what no reader can hold is refused: nesting, and numbers beyond what a double holds.
CREATE FUNCTION picket.headers_refusal(headers jsonb) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    RETURN CASE
        WHEN headers IS NULL OR headers = '{}' THEN NULL
        -- First what needs no text to be made: the limit for what is sent is 16384 bytes, and JSON may have to escape it.
        WHEN pg_column_size(headers) > 131072 OR octet_length(headers::text) > 131072 THEN 'at most 16384 bytes together'
        WHEN jsonb_path_exists(headers, 'strict $.* ? (@.type() == "object" || @.type() == "array")')
            THEN 'an object of texts, such as {"Accept": "text/html"}'
        WHEN jsonb_path_exists(headers, 'strict $.* ? (@.type() == "number" && (@ > 1e300 || @ < -1e300))')
            THEN 'an object of texts, such as {"Accept": "text/html"}'
    END;
REVOKE EXECUTE ON FUNCTION picket.headers_refusal FROM PUBLIC;
COMMENT ON FUNCTION picket.headers_refusal IS 'What is wrong with the headers of a site, as the words after "allowed:"; null if nothing is';

-- As before, and refuses what no reader can hold. These limits are here and not in CHECK constraints: a row that was there
-- before keeps what it has, and its other columns can be changed (its problem recorded, its watch paused), which a
-- constraint would refuse even if it is NOT VALID. So each is checked only where its column changes.
CREATE OR REPLACE FUNCTION picket.sites_before() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    unknown text;
    refusal text[];
BEGIN
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
REVOKE EXECUTE ON FUNCTION picket.sites_before FROM PUBLIC;

-- What makes two sites the same, by hashes: a URL of the allowed length does not fit into an index itself. The name of the
-- index stays, since processes of the release before know a double by it.
CREATE UNIQUE INDEX sites_what_hashed ON picket.sites
    (md5(url), md5(method), md5(coalesce(regex, '')), md5(coalesce(not_regex, '')));
DROP INDEX picket.sites_what;
ALTER INDEX picket.sites_what_hashed RENAME TO sites_what;
-- People look sites up by URL; a hash index takes one of any length.
CREATE INDEX sites_url ON picket.sites USING hash (url);

-- Sites and regions that were written in a transaction that sees no commit but those before it (REPEATABLE READ,
-- SERIALIZABLE): what was committed beside it was missed, and is made good by a coordinator. Empty nearly always.
CREATE TABLE picket.pending_reconciliation (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site_id bigint,
    region_id smallint,
    CONSTRAINT a_site_or_a_region CHECK (num_nonnulls(site_id, region_id) = 1)
);
COMMENT ON TABLE picket.pending_reconciliation IS 'Sites and regions whose schedules are to be compared once more, by a coordinator';
COMMENT ON COLUMN picket.pending_reconciliation.id IS 'A number';
COMMENT ON COLUMN picket.pending_reconciliation.site_id IS 'The site that was written';
COMMENT ON COLUMN picket.pending_reconciliation.region_id IS 'The region that was written';

-- Of sites whose regions are all out of use: the problem; and its end where one is in use again. A site that another
-- transaction is changing is left to that one, which does the same after this one has ended.
CREATE FUNCTION picket.note_regions(site_ids bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    prefix constant text := 'regions: none of these is in use: ';
    changed bigint[];
BEGIN
    changed := ARRAY(
        SELECT site.id FROM picket.sites AS site
        WHERE site.id = ANY (site_ids) AND site.regions <> '{}'
          AND (site.problem IS NULL OR starts_with(site.problem, prefix))
          AND (site.problem IS NULL) = NOT EXISTS (
              SELECT FROM picket.regions AS region WHERE region.removed_at IS NULL AND region.name = ANY (site.regions))
        ORDER BY site.id FOR UPDATE OF site SKIP LOCKED);
    -- An UPDATE of no row would still run its triggers.
    IF cardinality(changed) > 0 THEN
        -- For sites_after: whoever calls this has locked the regions already, or is changing them. In the latter case a lock
        -- that two such transactions cannot have at once would be a deadlock.
        PERFORM set_config('picket.noting_regions', 'on', true);
        UPDATE picket.sites SET problem = CASE WHEN problem IS NULL
            THEN prefix || left(array_to_string(regions, ', '), 200) || '; allowed: at least one region that ''picket region list'' shows'
        END
        WHERE id = ANY (changed);
        PERFORM set_config('picket.noting_regions', 'off', true);
    END IF;
END $$;
REVOKE EXECUTE ON FUNCTION picket.note_regions FROM PUBLIC;
COMMENT ON FUNCTION picket.note_regions IS
    'Records as a problem that none of a site''s regions is in use, and clears it where one is again';

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
        SELECT array_agg(id) INTO site_ids FROM new_rows;
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
REVOKE EXECUTE ON FUNCTION picket.sites_after FROM PUBLIC;

CREATE OR REPLACE FUNCTION picket.regions_after() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    site_ids bigint[] := (
        SELECT array_agg(DISTINCT site.id) FROM picket.sites AS site
        JOIN new_rows AS region ON site.regions = '{}' OR region.name = ANY (site.regions));
BEGIN
    PERFORM picket.note_regions(site_ids);
    PERFORM picket.reconcile_schedules(site_ids);
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        INSERT INTO picket.pending_reconciliation (region_id) SELECT id FROM new_rows;
    END IF;
    PERFORM pg_notify('picket_sites', 'regions');
    RETURN NULL;
END $$;
REVOKE EXECUTE ON FUNCTION picket.regions_after FROM PUBLIC;

-- Compares the schedules of what is pending once more; returns how many sites that were. Called by a coordinator, in a
-- transaction of its own.
CREATE FUNCTION picket.reconcile_pending() RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    shard_count CONSTANT smallint := (SELECT shards FROM picket.settings);
    site_ids bigint[];
    lost bigint[];
BEGIN
    -- A row that was written past the triggers may name a shard that does not exist, which no coordinator holds.
    IF EXISTS (SELECT FROM picket.sites WHERE shard < 0) OR EXISTS (SELECT FROM picket.sites WHERE shard >= shard_count) THEN
        WITH moved AS (
            UPDATE picket.sites SET shard = picket.shard_of(id) WHERE shard < 0 OR shard >= shard_count RETURNING id
        )
        SELECT array_agg(id) INTO lost FROM moved;
        -- The ledger accounts for the ticks of their schedules from the beginning.
        UPDATE picket.schedules
        SET shard = picket.shard_of(site_id), opened_by = pg_current_xact_id(), version = pg_current_xact_id()
        WHERE site_id = ANY (lost) AND (shard < 0 OR shard >= shard_count);
    END IF;
    IF NOT EXISTS (SELECT FROM picket.pending_reconciliation) THEN
        RETURN coalesce(cardinality(lost), 0);
    END IF;
    LOCK TABLE picket.regions IN SHARE MODE;
    WITH pending AS (DELETE FROM picket.pending_reconciliation RETURNING site_id, region_id)
    SELECT array_agg(DISTINCT site.id) INTO site_ids
    FROM picket.sites AS site
    WHERE site.id IN (SELECT site_id FROM pending)
       OR EXISTS (SELECT FROM pending JOIN picket.regions AS region ON region.id = pending.region_id
                  WHERE site.regions = '{}' OR region.name = ANY (site.regions));
    PERFORM picket.note_regions(site_ids);
    PERFORM picket.reconcile_schedules(site_ids);
    RETURN coalesce(cardinality(site_ids), 0) + coalesce(cardinality(lost), 0);
END $$;
REVOKE EXECUTE ON FUNCTION picket.reconcile_pending FROM PUBLIC;
COMMENT ON FUNCTION picket.reconcile_pending IS
    'Compares the schedules of sites and regions once more that were written in a transaction that saw no other''s commit, and moves '
    'sites out of shards that do not exist';

-- The number of a region is the lowest that is free, and taken only when a region is really added: numbers of a sequence
-- are used up by each attempt, and there are 32767.
ALTER TABLE picket.regions ALTER COLUMN id DROP IDENTITY;
CREATE FUNCTION picket.regions_before() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    -- One after the other: two that are added do not get one number, and of two that are removed the later one sees that a
    -- site has lost both.
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
        -- INSERT … ON CONFLICT of a region that is there needs no number; it comes here before it finds that out.
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
REVOKE EXECUTE ON FUNCTION picket.regions_before FROM PUBLIC;
CREATE TRIGGER regions_before BEFORE INSERT OR UPDATE ON picket.regions
    FOR EACH ROW EXECUTE FUNCTION picket.regions_before();
COMMENT ON FUNCTION picket.regions_before IS 'Gives a region the lowest free number; refuses to rename one';

-- Of a schedule that begins at no moment no ticks can be computed, and what follows one that ends at none would begin there.
-- NOT VALID, since the table is long and only triggers write it.
ALTER TABLE picket.schedules ADD CONSTRAINT schedules_begin_and_end_at_moments
    CHECK (valid_from < '9999-01-01 00:00:00+00' AND (valid_to IS NULL OR valid_to < '9999-01-01 00:00:00+00')) NOT VALID;
ALTER TABLE picket.maintenance ADD CONSTRAINT tag_is_short CHECK (octet_length(tag) <= 64) NOT VALID;
COMMENT ON COLUMN picket.maintenance.window_to IS 'The first moment after it; infinity: until further notice';

-- An event fits into a message whatever the names are that it repeats. A site that was there before may have a name that is
-- longer than a message may be.
CREATE FUNCTION picket.outbox_before() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    NEW.payload := (
        SELECT jsonb_object_agg(key, CASE
            WHEN jsonb_typeof(value) = 'string' AND octet_length(value #>> '{}') > 4096 THEN to_jsonb(left(value #>> '{}', 1000) || '…')
            WHEN jsonb_typeof(value) IN ('array', 'object') AND octet_length(value::text) > 65536 THEN '[]'::jsonb
            ELSE value
        END)
        FROM jsonb_each(NEW.payload));
    RETURN NEW;
END $$;
REVOKE EXECUTE ON FUNCTION picket.outbox_before FROM PUBLIC;
CREATE TRIGGER outbox_before BEFORE INSERT ON picket.outbox
    FOR EACH ROW WHEN (pg_column_size(NEW.payload) > 65536) EXECUTE FUNCTION picket.outbox_before();
COMMENT ON FUNCTION picket.outbox_before IS 'Shortens the texts and drops the lists of an event that would not fit into a message';

-- Sites that lost their regions before this was looked at.
SELECT picket.note_regions(ARRAY(SELECT id FROM picket.sites WHERE regions <> '{}'));
