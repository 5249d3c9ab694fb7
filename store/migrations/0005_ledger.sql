-- The ledger: that every tick ends as exactly one row, or lies in a gap that is on record.

-- Spans without a scheduler: nothing of a shard is known to have been published for the ticks in (gap_from, gap_to].
-- Ticks in a short one get their rows like any others, and then it is forgotten. After a longer one rows by the million
-- would help nobody: it stays, and those of its ticks that have no row are counted as `gap`.
CREATE TABLE picket.gaps (
    shard smallint NOT NULL,
    gap_from timestamptz NOT NULL,
    gap_to timestamptz NOT NULL,
    lasting boolean NOT NULL GENERATED ALWAYS AS (gap_to - gap_from > interval '5 minutes') STORED,
    PRIMARY KEY (shard, gap_from),
    CHECK (gap_to > gap_from)
);

-- Schedules that ended lately.
CREATE INDEX schedules_ended ON picket.schedules (valid_to) WHERE valid_to IS NOT NULL;

-- Whether a shard has had anything to schedule since then.
CREATE FUNCTION picket.had_schedules(of_shard smallint, since timestamptz) RETURNS boolean
    LANGUAGE sql STABLE
    RETURN EXISTS (SELECT FROM picket.schedules WHERE shard = of_shard AND valid_to IS NULL)
        OR EXISTS (SELECT FROM picket.schedules WHERE shard = of_shard AND valid_to > since);

-- A transaction may open a schedule and be committed long after: by then the ledger has passed ticks that it did not
-- know of. So it is written down which transaction opened a schedule, and what was visible when the ledger was closed.
ALTER TABLE picket.schedules ADD COLUMN opened_by xid8 NOT NULL DEFAULT pg_current_xact_id();
ALTER TABLE picket.leases ADD COLUMN accounted_snapshot pg_snapshot;

-- Microseconds since 1970, exactly: a double holds them to a quarter of one. (Declared as what date_part is, since
-- only then is it a part of the calling query and not a call.)
CREATE FUNCTION picket.micros(at timestamptz) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (date_part('epoch', at) * 1000000)::bigint;

-- How many ticks of a schedule lie in (after, through].
CREATE FUNCTION picket.tick_count(interval_ms integer, phase_ms integer, after timestamptz, through timestamptz)
    RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN greatest(0, (picket.micros(through) - phase_ms * 1000::bigint) / (interval_ms * 1000::bigint)
                       - (picket.micros(after) - phase_ms * 1000::bigint) / (interval_ms * 1000::bigint));

-- Whether a time is a tick of a schedule, as far as interval and phase say.
CREATE FUNCTION picket.is_tick(at timestamptz, interval_ms integer, phase_ms integer) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN picket.micros(at) % (interval_ms * 1000::bigint) = phase_ms * 1000::bigint;

-- The start of the oldest day whose results are kept.
CREATE FUNCTION picket.kept_since() RETURNS timestamptz
    LANGUAGE sql STABLE
    RETURN (SELECT min(to_date(right(partition.relname, 8), 'YYYYMMDD'))::timestamp AT TIME ZONE 'UTC'
            FROM pg_inherits JOIN pg_class AS partition ON partition.oid = inhrelid
            WHERE inhparent = 'picket.check_results'::regclass);

-- What of these shards' schedules the ledger has passed without knowing of them.
CREATE FUNCTION picket.belated_schedules(shards smallint[]) RETURNS TABLE (
    site_id bigint, region_id smallint, interval_ms integer, phase_ms integer, shard smallint,
    after timestamptz, through timestamptz)
    LANGUAGE sql STABLE
    AS $$
        SELECT schedule.site_id, schedule.region_id, schedule.interval_ms, schedule.phase_ms, schedule.shard,
               greatest(schedule.valid_from, picket.kept_since()),
               least(coalesce(schedule.valid_to, lease.accounted_through), lease.accounted_through)
        FROM picket.leases AS lease
        JOIN picket.schedules AS schedule ON schedule.shard = lease.shard
        WHERE lease.shard = ANY (shards) AND schedule.valid_from < lease.accounted_through
          AND schedule.version >= (SELECT min(pg_snapshot_xmin(accounted_snapshot)) FROM picket.leases
                                   WHERE leases.shard = ANY (shards))
          AND NOT pg_visible_in_snapshot(schedule.opened_by, lease.accounted_snapshot)
    $$;

-- Closes the ledger of shards, from where each stands: writes a `missed` row for each tick that has none, and moves
-- accounted_through, as far as `grace` ago, and by at most `piece` for those that are furthest behind. All in one
-- transaction, or nothing if `who` does not hold every one of the shards that it moves, under its epoch, at the end.
-- Results that are older than `late_since` have all been stored; without it all have.
-- Returns where the shard that could move and is furthest behind now stands, and what was written, by cause.
CREATE FUNCTION picket.close_ledger(
    who text, held_shards smallint[], held_epochs bigint[], grace interval, piece interval, late_since timestamptz,
    OUT accounted_through timestamptz, OUT causes text[], OUT ticks bigint[])
    LANGUAGE plpgsql
    -- What it costs depends on the span, and a plan for any span is a bad one for each.
    SET plan_cache_mode = force_custom_plan
    SET enable_sort = off
    SET work_mem = '64MB'
    AS $$
#variable_conflict use_column
DECLARE
    horizon timestamptz := clock_timestamp() - grace;
    moving smallint[];
    since timestamptz;
    until timestamptz;
    oldest timestamptz;
    seen pg_snapshot;
    moved bigint;
BEGIN
    -- Not past what is known to be published, or to lie in a gap.
    SELECT array_agg(lease.shard), min(lease.accounted_through), pg_current_snapshot() INTO moving, since, seen
    FROM picket.leases AS lease
    JOIN unnest(held_shards, held_epochs) AS held (shard, epoch) ON held.shard = lease.shard AND held.epoch = lease.epoch
    WHERE lease.holder = who AND lease.accounted_through < least(lease.scheduled_through, horizon);
    IF moving IS NULL THEN
        SELECT min(lease.accounted_through) INTO accounted_through
        FROM picket.leases AS lease WHERE lease.shard = ANY (held_shards) AND lease.holder = who;
        RETURN;
    END IF;
    until := least(since + piece, horizon);
    SELECT least(since, min(belated.after)) INTO oldest FROM picket.belated_schedules(moving) AS belated;

    WITH part AS MATERIALIZED (
        SELECT lease.shard, lower(stretch) AS after, upper(stretch) AS through
        FROM picket.leases AS lease
        CROSS JOIN unnest(
            tstzmultirange(tstzrange(
                lease.accounted_through,
                greatest(lease.accounted_through, least(lease.scheduled_through, until)), '(]'))
            - coalesce((SELECT range_agg(tstzrange(gap.gap_from, gap.gap_to, '(]')) FROM picket.gaps AS gap
                        WHERE gap.shard = lease.shard AND gap.lasting), '{}')) AS stretch
        WHERE lease.shard = ANY (moving)
    ),
    planned AS MATERIALIZED (
        SELECT schedule.site_id, schedule.region_id, schedule.interval_ms, schedule.phase_ms, part.shard,
               greatest(schedule.valid_from, part.after) AS after, part.through, false AS belated
        FROM part
        JOIN picket.schedules AS schedule ON schedule.shard = part.shard
        WHERE schedule.valid_to IS NULL AND schedule.valid_from < part.through
        UNION ALL
        SELECT schedule.site_id, schedule.region_id, schedule.interval_ms, schedule.phase_ms, part.shard,
               greatest(schedule.valid_from, part.after), least(schedule.valid_to, part.through), false
        FROM part
        JOIN picket.schedules AS schedule ON schedule.shard = part.shard
        WHERE schedule.valid_to > since AND schedule.valid_to > part.after AND schedule.valid_from < part.through
        UNION ALL
        SELECT site_id, region_id, interval_ms, phase_ms, shard, after, through, true
        FROM picket.belated_schedules(moving)
    ),
    found AS (
        SELECT planned.site_id, planned.region_id, planned.after, count(*) AS rows
        FROM picket.check_results AS result
        JOIN planned ON planned.site_id = result.site_id AND planned.region_id = result.region_id
        WHERE result.scheduled_at > oldest AND result.scheduled_at <= until AND result.kind = 'scheduled'
          AND result.scheduled_at > planned.after AND result.scheduled_at <= planned.through
          AND picket.is_tick(result.scheduled_at, planned.interval_ms, planned.phase_ms)
        GROUP BY planned.site_id, planned.region_id, planned.after
    ),
    -- Most have all their rows, and no tick of theirs has to be looked at.
    short AS (
        SELECT planned.*
        FROM planned
        LEFT JOIN found USING (site_id, region_id, after)
        WHERE picket.tick_count(interval_ms, phase_ms, after, through) > coalesce(found.rows, 0)
    ),
    lacking AS MATERIALIZED (
        SELECT short.shard, short.site_id, short.region_id, short.belated, tick, picket.micros(tick) / 1000000 AS second,
               tick + least(short.interval_ms, 60000) * interval '1 millisecond' AS expired_at
        FROM short
        CROSS JOIN LATERAL picket.ticks(short.interval_ms, short.phase_ms, short.after, short.through, short.after, short.through)
            AS tick
        WHERE NOT EXISTS (
            SELECT FROM picket.check_results AS result
            WHERE result.scheduled_at = tick AND result.site_id = short.site_id AND result.region_id = short.region_id
              AND result.kind = 'scheduled')
    ),
    -- The seconds in which something was due that somebody of the region did.
    heard AS MATERIALIZED (
        SELECT DISTINCT result.region_id, picket.micros(result.scheduled_at) / 1000000 AS second
        FROM picket.check_results AS result
        WHERE result.scheduled_at > oldest AND result.scheduled_at <= until + interval '1 minute'
          AND result.kind = 'scheduled' AND result.outcome <> 'missed'
          AND result.region_id IN (SELECT lacking.region_id FROM lacking)
    ),
    next_heard AS MATERIALIZED (
        SELECT asked.region_id, asked.second,
               (SELECT to_timestamp(min(heard.second)) FROM heard
                WHERE heard.region_id = asked.region_id AND heard.second > asked.second) AS at
        FROM (SELECT DISTINCT lacking.region_id, lacking.second FROM lacking) AS asked
    ),
    judged AS (
        SELECT lacking.tick, lacking.site_id, lacking.region_id,
               CASE
                   -- A tick that had not expired at the end of a gap was published then.
                   WHEN EXISTS (SELECT FROM picket.gaps AS gap
                                WHERE gap.shard = lacking.shard AND lacking.tick > gap.gap_from
                                  AND lacking.expired_at <= gap.gap_to)
                       THEN 'not_scheduled'
                   WHEN lacking.belated THEN 'not_scheduled'
                   WHEN lacking.expired_at >= late_since THEN 'result_late'
                   -- Somebody there did what was due a little later, while this was still waiting.
                   WHEN next_heard.at <= lacking.expired_at THEN 'expired'
                   ELSE 'no_prober'
               END::picket.cause AS cause
        FROM lacking
        JOIN next_heard ON next_heard.region_id = lacking.region_id AND next_heard.second = lacking.second
    ),
    written AS (
        INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, cause)
        SELECT tick, site_id, region_id, 'scheduled', 'missed', cause
        FROM judged
        -- In the order of everybody who writes many.
        ORDER BY tick, site_id, region_id
        ON CONFLICT DO NOTHING
        RETURNING cause
    )
    SELECT array_agg(cause::text), array_agg(number) INTO causes, ticks
    FROM (SELECT cause, count(*) AS number FROM written GROUP BY cause) AS counted;

    WITH mine AS (
        SELECT lease.shard FROM picket.leases AS lease
        JOIN unnest(held_shards, held_epochs) AS held (shard, epoch) ON held.shard = lease.shard AND held.epoch = lease.epoch
        WHERE lease.shard = ANY (moving) AND lease.holder = who AND lease.expires_at > clock_timestamp()
        ORDER BY lease.shard FOR UPDATE OF lease
    )
    UPDATE picket.leases AS lease
    SET accounted_through = greatest(lease.accounted_through, least(lease.scheduled_through, until)),
        accounted_snapshot = seen
    FROM mine WHERE lease.shard = mine.shard;
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved <> cardinality(moving) THEN
        RAISE EXCEPTION '% holds % of the % shards whose ledger it was closing', who, moved, cardinality(moving)
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;

    DELETE FROM picket.gaps AS gap USING picket.leases AS lease
    WHERE gap.shard = ANY (moving) AND lease.shard = gap.shard AND NOT gap.lasting AND gap.gap_to <= lease.accounted_through;

    SELECT min(lease.accounted_through) INTO accounted_through
    FROM picket.leases AS lease WHERE lease.shard = ANY (moving);
END $$;

-- What became of the ticks of a span: one row for each site and region that had any. A span is closed when every
-- shard's accounted_through has passed its end; of a closed span nothing is unaccounted for.
-- Ticks are counted from the history of schedules, and rows from the index alone; a row that is nobody's tick counts
-- for nothing.
CREATE FUNCTION report.ledger(span_from timestamptz, span_to timestamptz)
    RETURNS TABLE (
        site_id bigint, region text, expected bigint, up bigint, down bigint, missed bigint, gap bigint,
        unaccounted bigint)
    LANGUAGE plpgsql STABLE
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_custom_plan
    -- That most rows are ticks of theirs the planner cannot know, and it would sort for the few that it expects.
    SET enable_sort = off
    SET work_mem = '64MB'
    AS $$
#variable_conflict use_column
DECLARE
    since timestamptz := greatest(span_from, picket.kept_since());
    until timestamptz := least(span_to, now());
BEGIN
    RETURN QUERY
    WITH planned AS MATERIALIZED (
        SELECT schedule.site_id, schedule.region_id, schedule.shard, schedule.interval_ms, schedule.phase_ms,
               greatest(schedule.valid_from, since) AS after, least(coalesce(schedule.valid_to, until), until) AS through
        FROM picket.schedules AS schedule
        WHERE schedule.valid_from < until AND (schedule.valid_to IS NULL OR schedule.valid_to > since)
    ),
    expected AS (
        SELECT planned.site_id, planned.region_id,
               sum(picket.tick_count(planned.interval_ms, planned.phase_ms, planned.after, planned.through)) AS ticks
        FROM planned GROUP BY planned.site_id, planned.region_id
    ),
    found AS (
        SELECT planned.site_id, planned.region_id,
               count(*) FILTER (WHERE result.outcome = 'up') AS up,
               count(*) FILTER (WHERE result.outcome = 'down') AS down,
               count(*) FILTER (WHERE result.outcome = 'missed') AS missed
        FROM picket.check_results AS result
        JOIN planned ON planned.site_id = result.site_id AND planned.region_id = result.region_id
        WHERE result.scheduled_at > since AND result.scheduled_at <= until AND result.kind = 'scheduled'
          AND result.scheduled_at > planned.after AND result.scheduled_at <= planned.through
          AND picket.is_tick(result.scheduled_at, planned.interval_ms, planned.phase_ms)
        GROUP BY planned.site_id, planned.region_id
    ),
    in_gap AS MATERIALIZED (
        SELECT planned.site_id, planned.region_id, planned.interval_ms, planned.phase_ms,
               greatest(planned.after, gap.gap_from) AS after, least(planned.through, gap.gap_to) AS through
        FROM picket.gaps AS gap
        JOIN planned ON planned.shard = gap.shard AND planned.after < gap.gap_to AND planned.through > gap.gap_from
        WHERE gap.lasting
    ),
    -- The ticks in gaps, less the rows that are there all the same.
    gap AS (
        SELECT counted.site_id, counted.region_id, sum(counted.ticks) AS ticks
        FROM (
            SELECT in_gap.site_id, in_gap.region_id,
                   picket.tick_count(in_gap.interval_ms, in_gap.phase_ms, in_gap.after, in_gap.through) AS ticks
            FROM in_gap
            UNION ALL
            SELECT in_gap.site_id, in_gap.region_id, -1
            FROM picket.check_results AS result
            JOIN in_gap ON in_gap.site_id = result.site_id AND in_gap.region_id = result.region_id
            WHERE result.scheduled_at > since AND result.scheduled_at <= until AND result.kind = 'scheduled'
              AND result.scheduled_at > in_gap.after AND result.scheduled_at <= in_gap.through
              AND picket.is_tick(result.scheduled_at, in_gap.interval_ms, in_gap.phase_ms)
        ) AS counted
        GROUP BY counted.site_id, counted.region_id
    )
    SELECT expected.site_id, region.name, expected.ticks::bigint, coalesce(found.up, 0), coalesce(found.down, 0),
           coalesce(found.missed, 0), coalesce(gap.ticks, 0)::bigint,
           (expected.ticks - coalesce(found.up + found.down + found.missed, 0) - coalesce(gap.ticks, 0))::bigint
    FROM expected
    JOIN picket.regions AS region ON region.id = expected.region_id
    LEFT JOIN found ON found.site_id = expected.site_id AND found.region_id = expected.region_id
    LEFT JOIN gap ON gap.site_id = expected.site_id AND gap.region_id = expected.region_id
    WHERE expected.ticks > 0;
END $$;

COMMENT ON FUNCTION report.ledger IS
    'What became of the ticks of a span, by site and region; nothing is unaccounted for once the span is closed';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'picket_report') THEN
        GRANT EXECUTE ON FUNCTION report.ledger TO picket_report;
    END IF;
END $$;
REVOKE EXECUTE ON FUNCTION report.ledger FROM PUBLIC;
