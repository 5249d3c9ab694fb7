-- What the checks said.

CREATE TYPE picket.outcome AS ENUM ('up', 'down', 'missed');
CREATE TYPE picket.kind AS ENUM ('scheduled', 'confirm');
CREATE TYPE picket.cause AS ENUM (
    'dns', 'connect', 'tls', 'timeout', 'http', 'redirect', 'status', 'body', 'body_too_large',
    'expired', 'blocked', 'overloaded', 'prober_offline', 'no_prober', 'not_scheduled', 'result_late', 'invalid'
);

-- One row for each tick, and one for each confirming check. The key begins with the time, so that inserts append:
-- a key that began with the site touched a random page a row. A site's rows are found all the same without
-- an index of their own, since its ticks can be computed and looked up one by one.
-- Columns stand by their width, widest first, so that none is padded. The outcome stands in the index too, so that
-- the ledger is counted from the index alone.
CREATE TABLE picket.check_results (
    scheduled_at timestamptz NOT NULL,
    site_id bigint NOT NULL,
    tls_expires_at timestamptz,
    kind picket.kind NOT NULL,
    outcome picket.outcome NOT NULL,
    cause picket.cause,
    -- From scheduled_at to the start of the check; null if it never began.
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

-- Makes the partitions of the UTC days from `behind` days ago to `ahead` days from now; returns how many were
-- missing. Attached rather than made in place: that needs no lock that would hold up the sink.
-- There is no default partition: one row in it would block its day's partition.
CREATE FUNCTION picket.ensure_partitions(behind integer DEFAULT 3, ahead integer DEFAULT 7) RETURNS integer
    LANGUAGE plpgsql AS $$
DECLARE
    day date;
    name text;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('picket.ensure_partitions', 0));
    FOR day IN SELECT (now() AT TIME ZONE 'UTC')::date + n FROM generate_series(-behind, ahead) AS n LOOP
        name := 'check_results_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass('picket.' || name) IS NOT NULL;
        EXECUTE format('CREATE TABLE picket.%I (LIKE picket.check_results INCLUDING ALL)', name);
        EXECUTE format('ALTER TABLE picket.check_results ATTACH PARTITION picket.%I FOR VALUES FROM (%L) TO (%L)',
            name, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;
SELECT picket.ensure_partitions();

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
    -- The id is the asker's own and may come again.
    PRIMARY KEY (requested_at, id, region, prober)
);
CREATE INDEX adhoc_results_id ON picket.adhoc_results (id);

-- What could not be stored, and why.
CREATE TABLE picket.dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT now(),
    subject text NOT NULL,
    reason text NOT NULL,
    payload text NOT NULL
);
CREATE INDEX dead_letters_received_at ON picket.dead_letters (received_at);
