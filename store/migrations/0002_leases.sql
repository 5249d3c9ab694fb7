-- Who schedules which shard, until when.

-- Coordinators say that they are there; the number of those alive is what shares are counted from.
CREATE TABLE picket.coordinators (
    id text PRIMARY KEY,
    version text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now(),
    draining boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);

CREATE TABLE picket.leases (
    shard smallint PRIMARY KEY,
    -- One more each time that the shard is taken; writes to the shard's rows are fenced by it.
    epoch bigint NOT NULL DEFAULT 0,
    holder text,
    -- Judged by this database's clock alone.
    expires_at timestamptz NOT NULL DEFAULT '-infinity',
    -- All ticks up to here have been acknowledged by the stream of jobs.
    scheduled_through timestamptz NOT NULL DEFAULT now(),
    -- All ticks up to here have a row, or lie in a recorded gap.
    accounted_through timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
INSERT INTO picket.leases (shard) SELECT generate_series(0, shards - 1) FROM picket.settings;
