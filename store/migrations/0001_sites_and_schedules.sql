-- What is watched, from where, and the history of when it should have been checked.

CREATE SCHEMA picket;

-- Fixed when the database is made: `picket migrate --shards N` sets picket.shards for the first migration.
CREATE TABLE picket.settings (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    shards smallint NOT NULL CHECK (shards BETWEEN 1 AND 1024)
);
INSERT INTO picket.settings (shards)
VALUES (coalesce(nullif(current_setting('picket.shards', true), ''), '64')::smallint);

-- A number from 0 to 2^32 - 1. By md5, since Postgres's own hash functions may change between versions.
CREATE FUNCTION picket.hash32(value text) RETURNS bigint
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN ('x' || left(md5(value), 8))::bit(32)::bigint;

CREATE FUNCTION picket.shard_of(site_id bigint) RETURNS smallint
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN (picket.hash32('shard ' || site_id) % (SELECT shards FROM picket.settings))::smallint;

-- Where in its interval a schedule's ticks lie. Sites are spread by a hash; the regions of one site follow each
-- other by the golden ratio, whose multiples divide a circle evenly for any number of regions (Weyl, 1910), so
-- that they take turns and none has to move when another is added.
CREATE FUNCTION picket.phase_ms(site_id bigint, region_id integer, interval_ms integer) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN floor(
        ((picket.hash32('phase ' || site_id)::numeric / 4294967296 + region_id * 0.6180339887498949) % 1) * interval_ms
    )::integer;

CREATE TABLE picket.regions (
    id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
        CONSTRAINT region_name CHECK (name ~ '^[a-z0-9-]{1,32}$' AND name NOT IN ('any', 'all', 'adhoc')),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Kept when removed, since old rows name it.
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
    -- Why the site cannot be watched as it stands; written by the coordinator, cleared by the next change.
    problem text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    shard smallint NOT NULL,
    -- The transaction of the last change. Unlike a sequence's numbers these can be polled without loss: all
    -- below the oldest transaction still running are visible.
    version xid8 NOT NULL
);
CREATE UNIQUE INDEX sites_what ON picket.sites (url, method, coalesce(regex, ''), coalesce(not_regex, ''));
CREATE INDEX sites_shard ON picket.sites (shard);
CREATE INDEX sites_version ON picket.sites (version);

-- Sites that were removed: their rows live on and must stay readable.
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

-- Ticks are the times t with (t_ms - phase_ms) mod interval_ms = 0 and valid_from < t <= valid_to.
CREATE TABLE picket.schedules (
    site_id bigint NOT NULL,
    valid_from timestamptz NOT NULL,
    valid_to timestamptz,
    version xid8 NOT NULL DEFAULT pg_current_xact_id(),
    interval_ms integer NOT NULL CHECK (interval_ms BETWEEN 1000 AND 86400000),
    phase_ms integer NOT NULL,
    region_id smallint NOT NULL REFERENCES picket.regions,
    shard smallint NOT NULL,
    CHECK (phase_ms >= 0 AND phase_ms < interval_ms)
);
CREATE UNIQUE INDEX schedules_in_force ON picket.schedules (site_id, region_id) WHERE valid_to IS NULL;
CREATE INDEX schedules_shard ON picket.schedules (shard) WHERE valid_to IS NULL;
CREATE INDEX schedules_history ON picket.schedules (site_id, region_id, valid_from);
CREATE INDEX schedules_version ON picket.schedules (version);

-- The ticks of one schedule in (span_from, span_to].
CREATE FUNCTION picket.ticks(
    interval_ms integer, phase_ms integer, valid_from timestamptz, valid_to timestamptz,
    span_from timestamptz, span_to timestamptz
) RETURNS SETOF timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 60
    AS $$
        SELECT to_timestamp(0) + (tick * interval_ms + phase_ms) * interval '1 millisecond'
        FROM generate_series(
            floor((extract(epoch FROM greatest(valid_from, span_from)) * 1000 - phase_ms) / interval_ms)::bigint + 1,
            floor((extract(epoch FROM least(valid_to, span_to)) * 1000 - phase_ms) / interval_ms)::bigint
        ) AS tick
    $$;

-- The schedules that these sites should have in force.
CREATE FUNCTION picket.wanted_schedules(site_ids bigint[])
    RETURNS TABLE (site_id bigint, region_id smallint, interval_ms integer, phase_ms integer, shard smallint)
    LANGUAGE sql STABLE
    AS $$
        SELECT site.id, region.id, site.interval_seconds * 1000,
               picket.phase_ms(site.id, region.id, site.interval_seconds * 1000), site.shard
        FROM picket.sites AS site
        JOIN picket.regions AS region
          ON region.removed_at IS NULL AND (site.regions = '{}' OR region.name = ANY (site.regions))
        WHERE site.id = ANY (site_ids) AND site.enabled AND site.problem IS NULL
          -- Within what the schema allows at all; the coordinator's range is narrower, and it says so.
          AND site.interval_seconds BETWEEN 1 AND 86400
    $$;

-- Brings the schedules in force of these sites in step with sites and regions. What differs is closed and
-- opened anew at one moment, so that the table is a history.
CREATE FUNCTION picket.reconcile_schedules(site_ids bigint[]) RETURNS void
    LANGUAGE plpgsql
    -- With tables that have just been filled, of which the planner knows nothing, it would compare all with all.
    SET enable_nestloop = off
    AS $$
DECLARE
    moment timestamptz := clock_timestamp();
BEGIN
    UPDATE picket.schedules AS schedule
    SET valid_to = greatest(moment, schedule.valid_from), version = pg_current_xact_id()
    WHERE schedule.site_id = ANY (site_ids) AND schedule.valid_to IS NULL
      -- An anti-join, which stays linear; NOT IN would not.
      AND NOT EXISTS (
          SELECT FROM picket.wanted_schedules(site_ids) AS wanted
          WHERE wanted.site_id = schedule.site_id AND wanted.region_id = schedule.region_id
            AND wanted.interval_ms = schedule.interval_ms AND wanted.phase_ms = schedule.phase_ms);

    INSERT INTO picket.schedules (site_id, region_id, interval_ms, phase_ms, shard, valid_from)
    -- Never before the end of the row before it, even if this machine's clock was set back.
    SELECT wanted.site_id, wanted.region_id, wanted.interval_ms, wanted.phase_ms, wanted.shard,
           greatest(moment, (SELECT before.valid_to FROM picket.schedules AS before
                             WHERE before.site_id = wanted.site_id AND before.region_id = wanted.region_id
                             ORDER BY before.valid_from DESC LIMIT 1))
    FROM picket.wanted_schedules(site_ids) AS wanted
    ON CONFLICT (site_id, region_id) WHERE valid_to IS NULL DO NOTHING;
END $$;

-- Sites: what the row itself needs.
CREATE FUNCTION picket.sites_before() RETURNS trigger
    LANGUAGE plpgsql AS $$
DECLARE
    unknown text;
BEGIN
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
    IF TG_OP = 'INSERT' THEN
        NEW.shard := picket.shard_of(NEW.id);
    ELSE
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
CREATE TRIGGER sites_before BEFORE INSERT OR UPDATE ON picket.sites
    FOR EACH ROW EXECUTE FUNCTION picket.sites_before();

-- Sites: what follows from a change, once a statement, so that a million sites at once stay affordable.
CREATE FUNCTION picket.sites_after() RETURNS trigger
    LANGUAGE plpgsql AS $$
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
        -- Against a region that is being added at the same time: one of the two waits and sees the other.
        LOCK TABLE picket.regions IN SHARE MODE;
        PERFORM picket.reconcile_schedules(site_ids);
        PERFORM pg_notify('picket_sites', '');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER sites_inserted AFTER INSERT ON picket.sites
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.sites_after();
CREATE TRIGGER sites_updated AFTER UPDATE ON picket.sites
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.sites_after();
CREATE TRIGGER sites_deleted AFTER DELETE ON picket.sites
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.sites_after();

CREATE FUNCTION picket.refuse_truncate() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'TRUNCATE would lose the history of %; use DELETE', TG_TABLE_NAME;
END $$;
CREATE TRIGGER sites_truncate BEFORE TRUNCATE ON picket.sites EXECUTE FUNCTION picket.refuse_truncate();
CREATE TRIGGER regions_truncate BEFORE TRUNCATE ON picket.regions EXECUTE FUNCTION picket.refuse_truncate();

-- A region that is deleted is kept as removed: old rows name it.
CREATE FUNCTION picket.regions_before_delete() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    UPDATE picket.regions SET removed_at = now() WHERE id = OLD.id AND removed_at IS NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER regions_before_delete BEFORE DELETE ON picket.regions
    FOR EACH ROW EXECUTE FUNCTION picket.regions_before_delete();

CREATE FUNCTION picket.regions_after() RETURNS trigger
    LANGUAGE plpgsql AS $$
BEGIN
    PERFORM picket.reconcile_schedules((
        SELECT array_agg(DISTINCT site.id) FROM picket.sites AS site
        JOIN new_rows AS region ON site.regions = '{}' OR region.name = ANY (site.regions)));
    PERFORM pg_notify('picket_sites', 'regions');
    RETURN NULL;
END $$;
CREATE TRIGGER regions_inserted AFTER INSERT ON picket.regions
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.regions_after();
CREATE TRIGGER regions_updated AFTER UPDATE ON picket.regions
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.regions_after();
