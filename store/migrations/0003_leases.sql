-- Leases of shards, and locks for work that one process does at a time.

-- A row for each running coordinator. The share of shards of each is computed from the number of
-- rows that are alive.
CREATE TABLE picket.coordinators (
    id text PRIMARY KEY,
    version text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now(),
    draining boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);

CREATE TABLE picket.leases (
    shard smallint PRIMARY KEY,
    -- Incremented by each acquisition; fences writes to the shard's rows.
    epoch bigint NOT NULL DEFAULT 0,
    holder text,
    -- Compared with this database's clock only.
    expires_at timestamptz NOT NULL DEFAULT '-infinity',
    -- Watermark: the stream of jobs has acknowledged all ticks up to here.
    scheduled_through timestamptz NOT NULL DEFAULT now(),
    -- Watermark: all ticks up to here have a row, or lie in a recorded gap.
    accounted_through timestamptz NOT NULL DEFAULT now(),
    -- The snapshot that the ledger saw when it was closed up to there.
    accounted_snapshot pg_snapshot,
    -- The lease time can change while leases are held. Whether a lease is abandoned depends on the
    -- time for which it was granted, and not on the time that is set now. A renewal that is delayed
    -- until its holder has renewed by a newer, longer time must not shorten the lease, so both carry
    -- the number of the change.
    lease_time interval,
    lease_time_version bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
COMMENT ON COLUMN picket.leases.lease_time IS
    'Lease time of the last renewal; null if the lease has never been acquired';
COMMENT ON COLUMN picket.leases.lease_time_version IS
    'settings.lease_time_version of that lease time; no older one renews the lease';
INSERT INTO picket.leases (shard) SELECT generate_series(0, shards - 1) FROM picket.settings;

-- Mutual exclusion between processes: one row for each kind of work. Any login can hold an advisory
-- lock, including one that may only read reports. Locking a row requires the right to update it,
-- which only the owner has.
CREATE TABLE picket.locks (
    name text PRIMARY KEY
);
COMMENT ON TABLE picket.locks IS
    'A row to lock for each kind of work that one process does at a time; its rows are never written';
INSERT INTO picket.locks VALUES ('outbox'), ('rollups'), ('ensure_partitions'), ('prune');

CREATE FUNCTION picket.try_lock(lock_name text) RETURNS boolean
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM FROM picket.locks WHERE name = lock_name FOR UPDATE SKIP LOCKED;
    IF FOUND THEN
        RETURN true;
    END IF;
    IF NOT EXISTS (SELECT FROM picket.locks WHERE name = lock_name) THEN
        RAISE EXCEPTION 'picket.locks has no row ''%''; its rows must not be deleted', lock_name;
    END IF;
    RETURN false;
END $$;
COMMENT ON FUNCTION picket.try_lock IS
    'Locks a row of picket.locks until the transaction ends; false if another transaction holds it';

CREATE FUNCTION picket.lock(lock_name text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM FROM picket.locks WHERE name = lock_name FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'picket.locks has no row ''%''; its rows must not be deleted', lock_name;
    END IF;
END $$;
COMMENT ON FUNCTION picket.lock IS
    'Locks a row of picket.locks until the transaction ends; waits for other transactions';

CREATE FUNCTION picket.try_lock_outbox() RETURNS boolean
    LANGUAGE sql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$ SELECT picket.try_lock('outbox') $$;
COMMENT ON FUNCTION picket.try_lock_outbox IS
    'Locks the outbox until the transaction ends; false if another sink holds it';

-- Serializes writers of rollups.
CREATE FUNCTION picket.try_lock_rollups() RETURNS boolean
    LANGUAGE sql VOLATILE
    AS $$ SELECT picket.try_lock('rollups') $$;
