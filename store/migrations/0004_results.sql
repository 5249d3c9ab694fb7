-- Results of checks, the keys that authenticate them, and messages that could not be stored.

CREATE TYPE picket.outcome AS ENUM ('up', 'down', 'missed');
CREATE TYPE picket.kind AS ENUM ('scheduled', 'confirm');
CREATE TYPE picket.cause AS ENUM (
    'dns', 'connect', 'tls', 'timeout', 'http', 'redirect', 'status', 'body', 'body_too_large',
    'expired', 'blocked', 'overloaded', 'prober_offline', 'no_prober', 'not_scheduled', 'result_late', 'invalid'
);

-- One row for each tick, and one for each confirmation check. The key begins with the time, so that
-- inserts append: a key that began with the site touched a random page for each row. Rows of one
-- site are found by computing its ticks and looking each up. Columns are ordered by width, widest
-- first, so that none is padded. The outcome is in the index too, so that the ledger can be counted
-- from the index alone.
CREATE TABLE picket.check_results (
    scheduled_at timestamptz NOT NULL,
    site_id bigint NOT NULL,
    tls_expires_at timestamptz,
    kind picket.kind NOT NULL,
    outcome picket.outcome NOT NULL,
    cause picket.cause,
    -- From scheduled_at to the start of the check; null if it never started.
    lateness_us integer,
    dns_us integer,
    connect_us integer,
    tls_us integer,
    first_byte_us integer,
    transfer_us integer,
    total_us integer,
    body_bytes integer,
    region_id smallint NOT NULL,
    http_status smallint,
    redirects smallint NOT NULL DEFAULT 0,
    regex_matched boolean,
    http_version text,
    remote_addr text,
    prober text,
    message text,
    PRIMARY KEY (scheduled_at, site_id, region_id, kind) INCLUDE (outcome)
) PARTITION BY RANGE (scheduled_at);
-- For report.checks of one site. An index that begins with the site would touch a page of its own
-- for each row, and each page is written to the WAL in full after each checkpoint. This index
-- begins with the quarter of an hour: inserts stay within a few hot pages, equal keys share an
-- entry (10 bytes a row), and because a day has only 96 quarters, Postgres 18 finds a site by
-- skipping from one quarter to the next. Older versions read the whole index.
CREATE INDEX check_results_site ON picket.check_results (date_bin('15 minutes', scheduled_at, timestamptz '2000-01-01 00:00Z'), site_id);

-- Rows of scheduled checks that are ticks of a schedule.
CREATE VIEW picket.tick_results AS
SELECT result.*
FROM picket.check_results AS result
WHERE result.kind = 'scheduled'
  AND EXISTS (
      SELECT FROM picket.schedules AS schedule
      WHERE schedule.site_id = result.site_id AND schedule.region_id = result.region_id
        AND picket.has_tick(schedule, result.scheduled_at));
COMMENT ON VIEW picket.tick_results IS
    'Rows of scheduled checks whose time is a tick of a schedule; rollups and reports count these alone';

-- Start of the oldest day of which results are retained.
CREATE FUNCTION picket.retained_since() RETURNS timestamptz
    LANGUAGE sql STABLE
    RETURN (SELECT min(to_date(right(partition.relname, 8), 'YYYYMMDD'))::timestamp AT TIME ZONE 'UTC'
            FROM pg_inherits JOIN pg_class AS partition ON partition.oid = inhrelid
            WHERE inhparent = 'picket.check_results'::regclass);

-- Creates the partitions of the UTC days from `behind` days ago to `ahead` days from now; returns
-- the number created. Attached instead of created in place, which needs no lock that would block
-- the sinks. There is no default partition: one row in it would block the partition of its day.
CREATE FUNCTION picket.ensure_partitions(behind integer DEFAULT 3, ahead integer DEFAULT 7) RETURNS integer
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    day date;
    name text;
    created integer := 0;
BEGIN
    PERFORM picket.lock('ensure_partitions');
    FOR day IN SELECT (now() AT TIME ZONE 'UTC')::date + n FROM generate_series(-behind, ahead) AS n LOOP
        name := 'check_results_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass('picket.' || name) IS NOT NULL;
        EXECUTE format('CREATE TABLE picket.%I (LIKE picket.check_results INCLUDING ALL)', name);
        EXECUTE format('ALTER TABLE picket.check_results ATTACH PARTITION picket.%I FOR VALUES FROM (%L) TO (%L)',
            name, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
        created := created + 1;
    END LOOP;
    RETURN created;
END $$;
SELECT picket.ensure_partitions();

-- Creates the partition of the day of `at`, and those of the days between it and today, if that day
-- may have results: a retained day, one of the last four (no stream keeps results longer), or
-- tomorrow. Returns whether there is a partition. A sink calls this for a result whose day has
-- none.
CREATE FUNCTION picket.ensure_partition(at timestamptz) RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    today date := picket.day_of(now());
    day date;
BEGIN
    IF NOT isfinite(at) THEN
        RETURN false;
    END IF;
    day := picket.day_of(at);
    IF day > today + 1 OR day < least(picket.day_of(picket.retained_since()), today - 4) THEN
        RETURN false;
    END IF;
    IF to_regclass('picket.check_results_' || to_char(day, 'YYYYMMDD')) IS NULL THEN
        PERFORM picket.ensure_partitions(greatest(today - day, 0), greatest(day - today, 0));
        RAISE LOG 'created the partition of % for a result', day;
    END IF;
    RETURN true;
END $$;
COMMENT ON FUNCTION picket.ensure_partition IS
    'Creates the partition of a day that may have results; returns whether there is one';

CREATE TABLE picket.adhoc_results (
    requested_at timestamptz NOT NULL,
    started_at timestamptz,
    id text NOT NULL,
    region text NOT NULL,
    prober text NOT NULL,
    url text NOT NULL,
    outcome picket.outcome NOT NULL,
    cause picket.cause,
    message text,
    http_status smallint,
    http_version text,
    remote_addr text,
    dns_us integer,
    connect_us integer,
    tls_us integer,
    first_byte_us integer,
    transfer_us integer,
    total_us integer,
    redirects smallint NOT NULL DEFAULT 0,
    body_bytes integer,
    regex_matched boolean,
    tls_expires_at timestamptz,
    -- The requester chooses the id and may repeat it.
    PRIMARY KEY (requested_at, id, region, prober)
);
CREATE INDEX adhoc_results_id ON picket.adhoc_results (id);

-- Messages that could not be stored, with the reason.
CREATE TABLE picket.dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT now(),
    subject text NOT NULL,
    reason text NOT NULL,
    payload text NOT NULL
);
CREATE INDEX dead_letters_received_at ON picket.dead_letters (received_at);

-- Keys of tickets. A ticket is a MAC in each job that its result must carry back, so that a
-- region's prober can publish results only of checks that it was given. Only coordinators and sinks
-- may read the keys.
CREATE TABLE picket.ticket_keys (
    key_id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- 32 bytes from three version 4 UUIDs, which contain 366 random bits.
    key bytea NOT NULL
        DEFAULT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
        CHECK (length(key) = 32),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Tickets of this key are invalid for checks that are due later.
    retired_at timestamptz
);
COMMENT ON TABLE picket.ticket_keys IS
    'Keys of the tickets in jobs, for coordinators and sinks; INSERT … DEFAULT VALUES adds one, used half a minute later';
COMMENT ON COLUMN picket.ticket_keys.key_id IS 'The key''s number, part of each ticket';
COMMENT ON COLUMN picket.ticket_keys.key IS 'The key of HMAC-SHA256: 32 random bytes';
COMMENT ON COLUMN picket.ticket_keys.created_at IS 'Coordinators use the key from half a minute later on';
COMMENT ON COLUMN picket.ticket_keys.retired_at IS
    'Checks that are due later have no valid ticket of this key; null while it is in use';
INSERT INTO picket.ticket_keys DEFAULT VALUES;

-- Watermark of stored results. A sink advances it every five seconds to the acknowledgement floor
-- of the stream. A result is acknowledged after its commit, and a replica or a backup contains
-- commits in order: a database that contains this row contains the results of all messages up to
-- it.
CREATE TABLE picket.results_stored (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    stream_created timestamptz NOT NULL,
    through bigint NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
COMMENT ON TABLE picket.results_stored IS
    'Watermark of the stream of results: after a failover or a restore, sinks replay the messages after it';
COMMENT ON COLUMN picket.results_stored.stream_created IS
    'Creation time of the stream; sequence numbers are valid in one stream only';
COMMENT ON COLUMN picket.results_stored.through IS 'All messages up to this sequence number are stored';
COMMENT ON COLUMN picket.results_stored.noted_at IS 'Time when this row was written';
