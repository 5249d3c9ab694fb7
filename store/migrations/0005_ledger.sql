-- The ledger: every tick ends as exactly one row, or lies in a recorded gap.

-- Spans of a shard without a scheduler: nothing is known to have been published for the ticks in
-- (gap_from, gap_to]. Ticks in a short gap get rows like all others, after which the gap is
-- deleted. For a long gap that would be rows by the million without use: the gap stays on record,
-- and its ticks without a row count as `gap`.
CREATE TABLE picket.gaps (
    shard smallint NOT NULL,
    gap_from timestamptz NOT NULL,
    gap_to timestamptz NOT NULL,
    lasting boolean NOT NULL GENERATED ALWAYS AS (gap_to - gap_from > interval '5 minutes') STORED,
    PRIMARY KEY (shard, gap_from),
    CHECK (gap_to > gap_from)
);

-- The recorded gaps of each shard within (span_from, span_to], merged: no two of them overlap.
CREATE FUNCTION picket.recorded_gaps(span_from timestamptz, span_to timestamptz)
    RETURNS TABLE (shard smallint, gap_from timestamptz, gap_to timestamptz)
    LANGUAGE sql STABLE
    ROWS 100
    AS $$
        SELECT merged.shard, lower(stretch), upper(stretch)
        FROM (
            SELECT gap.shard,
                   range_agg(tstzrange(greatest(gap.gap_from, span_from), least(gap.gap_to, span_to), '(]')) AS stretches
            FROM picket.gaps AS gap
            WHERE gap.lasting AND gap.gap_from < span_to AND gap.gap_to > span_from
            GROUP BY gap.shard
        ) AS merged
        CROSS JOIN unnest(merged.stretches) AS stretch
    $$;
COMMENT ON FUNCTION picket.recorded_gaps IS
    'The recorded gaps of each shard within a span, merged so that none overlaps another';

-- Spans of these shards' schedules that the ledger has passed without seeing the schedule: a
-- transaction may open a schedule and commit long after. Ticks in recorded gaps are left out,
-- because the gap accounts for them.
CREATE FUNCTION picket.belated_schedules(shards smallint[]) RETURNS TABLE (
    site_id bigint, region_id smallint, interval_ms integer, phase_ms integer, shard smallint,
    after timestamptz, through timestamptz)
    LANGUAGE sql STABLE
    AS $$
        SELECT belated.site_id, belated.region_id, belated.interval_ms, belated.phase_ms, belated.shard,
               lower(stretch), upper(stretch)
        FROM (
            SELECT schedule.site_id, schedule.region_id, schedule.interval_ms, schedule.phase_ms, schedule.shard,
                   greatest(schedule.valid_from, picket.retained_since()) AS after,
                   least(coalesce(schedule.valid_to, lease.accounted_through), lease.accounted_through) AS through
            FROM picket.leases AS lease
            JOIN picket.schedules AS schedule ON schedule.shard = lease.shard
            WHERE lease.shard = ANY (shards) AND schedule.valid_from < lease.accounted_through
              AND schedule.version >= (SELECT min(pg_snapshot_xmin(accounted_snapshot)) FROM picket.leases
                                       WHERE leases.shard = ANY (shards))
              AND NOT pg_visible_in_snapshot(schedule.opened_by, lease.accounted_snapshot)
        ) AS belated
        CROSS JOIN LATERAL unnest(
            tstzmultirange(tstzrange(belated.after, greatest(belated.after, belated.through), '(]'))
            - coalesce((SELECT range_agg(tstzrange(gap.gap_from, gap.gap_to, '(]')) FROM picket.gaps AS gap
                        WHERE gap.shard = belated.shard AND gap.lasting), '{}')) AS stretch
    $$;

-- Closes the ledger of shards, each from where it stands: writes a `missed` row for each tick
-- without a row, and advances accounted_through up to `grace` ago, by at most `max_span` for the
-- shards that are furthest behind. One transaction, which fails unless `coordinator_id` holds every
-- shard that is advanced, under its epoch, at the end. Results older than `late_since` have all
-- been stored; null means that all results have. Returns the new accounted_through of the shard
-- that is furthest behind among those that could advance, and the number of rows written by cause.
CREATE FUNCTION picket.close_ledger(
    coordinator_id text, held_shards smallint[], held_epochs bigint[], grace interval, max_span interval,
    late_since timestamptz,
    OUT accounted_through timestamptz, OUT causes text[], OUT ticks bigint[])
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    -- The cost depends on the span: a generic plan is bad for every span.
    SET plan_cache_mode = force_custom_plan
    SET enable_sort = off
    SET work_mem = '64MB'
    AS $$
#variable_conflict use_column
DECLARE
    horizon timestamptz := clock_timestamp() - grace;
    advancing smallint[];
    since timestamptz;
    until timestamptz;
    oldest timestamptz;
    snapshot pg_snapshot;
    advanced bigint;
BEGIN
    -- Not beyond scheduled_through: later ticks are neither known to be published nor in a gap.
    SELECT array_agg(lease.shard), min(lease.accounted_through), pg_current_snapshot() INTO advancing, since, snapshot
    FROM picket.leases AS lease
    JOIN unnest(held_shards, held_epochs) AS held (shard, epoch) ON held.shard = lease.shard AND held.epoch = lease.epoch
    WHERE lease.holder = coordinator_id AND lease.accounted_through < least(lease.scheduled_through, horizon);
    IF advancing IS NULL THEN
        SELECT min(lease.accounted_through) INTO accounted_through
        FROM picket.leases AS lease WHERE lease.shard = ANY (held_shards) AND lease.holder = coordinator_id;
        RETURN;
    END IF;
    until := least(since + max_span, horizon);
    SELECT least(since, min(belated.after)) INTO oldest FROM picket.belated_schedules(advancing) AS belated;

    WITH part AS MATERIALIZED (
        SELECT lease.shard, lower(stretch) AS after, upper(stretch) AS through
        FROM picket.leases AS lease
        CROSS JOIN unnest(
            tstzmultirange(tstzrange(
                lease.accounted_through,
                greatest(lease.accounted_through, least(lease.scheduled_through, until)), '(]'))
            - coalesce((SELECT range_agg(tstzrange(gap.gap_from, gap.gap_to, '(]')) FROM picket.gaps AS gap
                        WHERE gap.shard = lease.shard AND gap.lasting), '{}')) AS stretch
        WHERE lease.shard = ANY (advancing)
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
        FROM picket.belated_schedules(advancing)
    ),
    stored AS (
        SELECT planned.site_id, planned.region_id, planned.after, count(*) AS rows
        FROM picket.check_results AS result
        JOIN planned ON planned.site_id = result.site_id AND planned.region_id = result.region_id
        WHERE result.scheduled_at > oldest AND result.scheduled_at <= until AND result.kind = 'scheduled'
          AND result.scheduled_at > planned.after AND result.scheduled_at <= planned.through
          AND picket.is_tick(result.scheduled_at, planned.interval_ms, planned.phase_ms)
        GROUP BY planned.site_id, planned.region_id, planned.after
    ),
    -- Most schedules have all their rows, and need no lookup of ticks.
    incomplete AS (
        SELECT planned.*
        FROM planned
        LEFT JOIN stored USING (site_id, region_id, after)
        WHERE picket.tick_count(interval_ms, phase_ms, after, through) > coalesce(stored.rows, 0)
    ),
    missing AS MATERIALIZED (
        SELECT incomplete.shard, incomplete.site_id, incomplete.region_id, incomplete.belated, tick,
               picket.micros(tick) / 1000000 AS second,
               tick + least(incomplete.interval_ms, 60000) * interval '1 millisecond' AS expired_at
        FROM incomplete
        CROSS JOIN LATERAL picket.ticks(incomplete.interval_ms, incomplete.phase_ms, incomplete.after, incomplete.through,
                                        incomplete.after, incomplete.through) AS tick
        WHERE NOT EXISTS (
            SELECT FROM picket.check_results AS result
            WHERE result.scheduled_at = tick AND result.site_id = incomplete.site_id
              AND result.region_id = incomplete.region_id
              AND result.kind = 'scheduled')
    ),
    -- Seconds with a tick that a prober of the region checked.
    active AS MATERIALIZED (
        SELECT DISTINCT result.region_id, picket.micros(result.scheduled_at) / 1000000 AS second
        FROM picket.check_results AS result
        WHERE result.scheduled_at > oldest AND result.scheduled_at <= until + interval '1 minute'
          AND result.kind = 'scheduled' AND result.outcome <> 'missed'
          AND result.region_id IN (SELECT missing.region_id FROM missing)
    ),
    next_active AS MATERIALIZED (
        SELECT unanswered.region_id, unanswered.second,
               (SELECT to_timestamp(min(active.second)) FROM active
                WHERE active.region_id = unanswered.region_id AND active.second > unanswered.second) AS at
        FROM (SELECT DISTINCT missing.region_id, missing.second FROM missing) AS unanswered
    ),
    classified AS (
        SELECT missing.tick, missing.site_id, missing.region_id,
               CASE
                   -- A tick that had not expired at the end of a gap was published then.
                   WHEN EXISTS (SELECT FROM picket.gaps AS gap
                                WHERE gap.shard = missing.shard AND missing.tick > gap.gap_from
                                  AND missing.expired_at <= gap.gap_to)
                       THEN 'not_scheduled'
                   WHEN missing.belated THEN 'not_scheduled'
                   WHEN missing.expired_at >= late_since THEN 'result_late'
                   -- A prober of the region checked a later tick while this one had not expired.
                   WHEN next_active.at <= missing.expired_at THEN 'expired'
                   ELSE 'no_prober'
               END::picket.cause AS cause
        FROM missing
        JOIN next_active ON next_active.region_id = missing.region_id AND next_active.second = missing.second
    ),
    written AS (
        INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, cause)
        SELECT tick, site_id, region_id, 'scheduled', 'missed', cause
        FROM classified
        -- In the same order as every writer of many rows, which prevents deadlocks.
        ORDER BY tick, site_id, region_id
        ON CONFLICT DO NOTHING
        RETURNING cause
    )
    SELECT array_agg(cause::text), array_agg(number) INTO causes, ticks
    FROM (SELECT cause, count(*) AS number FROM written GROUP BY cause) AS counted;

    WITH held_leases AS (
        SELECT lease.shard FROM picket.leases AS lease
        JOIN unnest(held_shards, held_epochs) AS held (shard, epoch) ON held.shard = lease.shard AND held.epoch = lease.epoch
        WHERE lease.shard = ANY (advancing) AND lease.holder = coordinator_id AND lease.expires_at > clock_timestamp()
        ORDER BY lease.shard FOR UPDATE OF lease
    )
    UPDATE picket.leases AS lease
    SET accounted_through = greatest(lease.accounted_through, least(lease.scheduled_through, until)),
        accounted_snapshot = snapshot
    FROM held_leases WHERE lease.shard = held_leases.shard;
    GET DIAGNOSTICS advanced = ROW_COUNT;
    IF advanced <> cardinality(advancing) THEN
        RAISE EXCEPTION '% holds % of the % shards whose ledger it was closing',
            coordinator_id, advanced, cardinality(advancing)
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;

    DELETE FROM picket.gaps AS gap USING picket.leases AS lease
    WHERE gap.shard = ANY (advancing) AND lease.shard = gap.shard AND NOT gap.lasting AND gap.gap_to <= lease.accounted_through;

    SELECT min(lease.accounted_through) INTO accounted_through
    FROM picket.leases AS lease WHERE lease.shard = ANY (advancing);
END $$;

-- The account of all ticks of a span: one row for each site and region with any. A span is closed
-- when accounted_through of every shard has passed its end; in a closed span no tick is unaccounted
-- for. Ticks are counted from the history of schedules, and rows from the index alone. A row that
-- is no tick of a schedule is not counted.
CREATE FUNCTION report.ledger(span_from timestamptz, span_to timestamptz)
    RETURNS TABLE (
        site_id bigint, region text, expected bigint, up bigint, down bigint, missed bigint, gap bigint,
        unaccounted bigint)
    LANGUAGE plpgsql STABLE
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_custom_plan
    -- The planner expects few of the rows to be ticks, and would sort for these few.
    SET enable_sort = off
    SET work_mem = '64MB'
    AS $$
#variable_conflict use_column
DECLARE
    since timestamptz := greatest(span_from, picket.retained_since());
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
        FROM picket.recorded_gaps(since, until) AS gap
        JOIN planned ON planned.shard = gap.shard AND planned.after < gap.gap_to AND planned.through > gap.gap_from
    ),
    -- Ticks in gaps, minus those that have a row.
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
    'The account of all ticks of a span, by site and region; nothing is unaccounted for once the span is closed';
