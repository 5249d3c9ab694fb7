-- Rollups and reports count only rows that are ticks of a schedule, as the ledger does. A tick that lies in several recorded gaps
-- counts once.

-- Whether a schedule was in force at a time that is one of its ticks. A single CASE, for which the planner assumes a selectivity of
-- one half. For the comparisons by themselves it assumes 0.005, and plans nested loops and sorts for far too few rows.
CREATE FUNCTION picket.has_tick(schedule picket.schedules, at timestamptz) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE
        WHEN at > schedule.valid_from AND (schedule.valid_to IS NULL OR at <= schedule.valid_to)
             AND picket.is_tick(at, schedule.interval_ms, schedule.phase_ms)
        THEN true ELSE false
    END;
COMMENT ON FUNCTION picket.has_tick IS 'Whether a schedule was in force at a time that is one of its ticks';

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

-- Counts of rollups are smallint, nine times the 3,600 ticks that an hour can have. A larger count saturates instead of failing the
-- statement: one failed piece would stop rollups and retention for all sites.
CREATE FUNCTION picket.saturated(number bigint) RETURNS smallint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN least(number, 32767)::smallint;
COMMENT ON FUNCTION picket.saturated IS 'The number, or the largest smallint where it is larger';

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
COMMENT ON FUNCTION picket.recorded_gaps IS 'The recorded gaps of each shard within a span, merged so that none overlaps another';

-- As in 0005, without the ticks in recorded gaps: the gap accounts for them.
CREATE OR REPLACE FUNCTION picket.belated_schedules(shards smallint[]) RETURNS TABLE (
    site_id bigint, region_id smallint, interval_ms integer, phase_ms integer, shard smallint,
    after timestamptz, through timestamptz)
    LANGUAGE sql STABLE
    AS $$
        SELECT belated.site_id, belated.region_id, belated.interval_ms, belated.phase_ms, belated.shard,
               lower(stretch), upper(stretch)
        FROM (
            SELECT schedule.site_id, schedule.region_id, schedule.interval_ms, schedule.phase_ms, schedule.shard,
                   greatest(schedule.valid_from, picket.kept_since()) AS after,
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

-- As in 0005, and a tick that lies in more than one recorded gap counts once.
CREATE OR REPLACE FUNCTION report.ledger(span_from timestamptz, span_to timestamptz)
    RETURNS TABLE (
        site_id bigint, region text, expected bigint, up bigint, down bigint, missed bigint, gap bigint,
        unaccounted bigint)
    LANGUAGE plpgsql STABLE
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_custom_plan
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
        FROM picket.recorded_gaps(since, until) AS gap
        JOIN planned ON planned.shard = gap.shard AND planned.after < gap.gap_to AND planned.through > gap.gap_from
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

-- Rows as the rollups count them: as in 0007, ticks alone.
CREATE OR REPLACE VIEW picket.done AS
SELECT
    result.site_id, result.region_id, result.scheduled_at, picket.hour_of(result.scheduled_at) AS hour, result.outcome,
    result.cause, result.dns_us, result.connect_us, result.tls_us, result.first_byte_us, result.tls_expires_at,
    histogram.unit, coalesce(planned.spans @> result.scheduled_at, false) AS in_maintenance
FROM picket.tick_results AS result
LEFT JOIN picket.histogram_units AS histogram
  ON histogram.bucket = CASE WHEN result.outcome = 'up' THEN picket.bucket(result.total_us) END
LEFT JOIN picket.maintenance_spans AS planned ON planned.site_id = result.site_id;

-- Adds the rows of [since, until), which lies in one hour, to the rollups: as in 0007, ticks alone.
CREATE OR REPLACE FUNCTION picket.add_to_rollups(since timestamptz, until timestamptz) RETURNS void
    LANGUAGE plpgsql
    SET plan_cache_mode = force_custom_plan
    SET work_mem = '64MB'
    AS $$
DECLARE
    complete boolean := until = picket.hour_of(since) + interval '1 hour';
    -- The piece as the ticks after one time and up to another.
    piece_from timestamptz := since - interval '1 microsecond';
    piece_to timestamptz := until - interval '1 microsecond';
BEGIN
    PERFORM picket.ensure_rollups(since);
    INSERT INTO picket.rollups_hourly AS kept (
        site_id, hour, region_id, up, down, missed, up_in_maintenance, down_in_maintenance,
        dns_us, connect_us, tls_us, first_byte_us, histogram)
    SELECT
        site_id, picket.hour_of(since), region_id,
        picket.saturated(count(*) FILTER (WHERE outcome = 'up')),
        picket.saturated(count(*) FILTER (WHERE outcome = 'down')),
        picket.saturated(count(*) FILTER (WHERE outcome = 'missed')),
        picket.saturated(count(*) FILTER (WHERE outcome = 'up' AND in_maintenance)),
        picket.saturated(count(*) FILTER (WHERE outcome = 'down' AND in_maintenance)),
        coalesce(sum(dns_us) FILTER (WHERE outcome = 'up'), 0),
        coalesce(sum(connect_us) FILTER (WHERE outcome = 'up'), 0),
        coalesce(sum(tls_us) FILTER (WHERE outcome = 'up'), 0),
        coalesce(sum(first_byte_us) FILTER (WHERE outcome = 'up'), 0),
        sum(unit)
    FROM picket.done
    WHERE scheduled_at >= since AND scheduled_at < until
    GROUP BY site_id, region_id
    ON CONFLICT (site_id, hour, region_id) DO UPDATE SET
        up = picket.saturated(kept.up::bigint + excluded.up),
        down = picket.saturated(kept.down::bigint + excluded.down),
        missed = picket.saturated(kept.missed::bigint + excluded.missed),
        up_in_maintenance = picket.saturated(kept.up_in_maintenance::bigint + excluded.up_in_maintenance),
        down_in_maintenance = picket.saturated(kept.down_in_maintenance::bigint + excluded.down_in_maintenance),
        dns_us = kept.dns_us + excluded.dns_us, connect_us = kept.connect_us + excluded.connect_us,
        tls_us = kept.tls_us + excluded.tls_us, first_byte_us = kept.first_byte_us + excluded.first_byte_us,
        histogram = coalesce(kept.histogram + excluded.histogram, kept.histogram, excluded.histogram),
        -- Those of an hour that is not complete nobody reads, and they are what is dearest here.
        (p99, p95, p50) = (
            SELECT p[1], p[2], p[3]
            FROM picket.percentile_buckets(
                coalesce(kept.histogram + excluded.histogram, kept.histogram, excluded.histogram),
                CASE WHEN complete THEN kept.up::bigint + excluded.up END, '{0.99,0.95,0.5}') AS p);
    IF complete THEN
        -- Those to which the last piece added nothing, or which it brought.
        UPDATE picket.rollups_hourly AS kept
        SET (p99, p95, p50) = (
            SELECT p[1], p[2], p[3] FROM picket.percentile_buckets(kept.histogram, kept.up, '{0.99,0.95,0.5}') AS p)
        WHERE hour = picket.hour_of(since) AND p50 IS NULL AND histogram IS NOT NULL;
    END IF;

    INSERT INTO picket.failures_hourly AS kept (hour, site_id, region_id, cause, checks)
    SELECT picket.hour_of(since), site_id, region_id, cause, count(*)
    FROM picket.tick_results
    WHERE scheduled_at >= since AND scheduled_at < until AND outcome <> 'up' AND cause IS NOT NULL
    GROUP BY site_id, region_id, cause
    ON CONFLICT (hour, site_id, region_id, cause) DO UPDATE SET checks = kept.checks + excluded.checks;

    INSERT INTO picket.certificates AS kept (site_id, region_id, expires_at, seen_at)
    SELECT DISTINCT ON (site_id, region_id) site_id, region_id, tls_expires_at, scheduled_at
    FROM picket.tick_results
    WHERE scheduled_at >= since AND scheduled_at < until AND tls_expires_at IS NOT NULL
    ORDER BY site_id, region_id, scheduled_at DESC
    ON CONFLICT (site_id, region_id) DO UPDATE SET expires_at = excluded.expires_at, seen_at = excluded.seen_at
    WHERE excluded.seen_at > kept.seen_at
      AND (excluded.expires_at <> kept.expires_at OR excluded.seen_at > kept.seen_at + interval '1 hour');

    -- Ticks without a row in gaps that are on record.
    IF EXISTS (SELECT FROM picket.recorded_gaps(piece_from, piece_to)) THEN
        WITH in_gap AS MATERIALIZED (
            SELECT schedule.site_id, schedule.region_id, schedule.interval_ms, schedule.phase_ms,
                   greatest(schedule.valid_from, gap.gap_from) AS after, least(schedule.valid_to, gap.gap_to) AS through
            FROM picket.recorded_gaps(piece_from, piece_to) AS gap
            JOIN picket.schedules AS schedule ON schedule.shard = gap.shard
            WHERE schedule.valid_from < gap.gap_to AND (schedule.valid_to IS NULL OR schedule.valid_to > gap.gap_from)
        ),
        counted AS (
            SELECT in_gap.site_id, in_gap.region_id,
                   picket.tick_count(in_gap.interval_ms, in_gap.phase_ms, in_gap.after, in_gap.through) AS ticks
            FROM in_gap
            UNION ALL
            SELECT in_gap.site_id, in_gap.region_id, -1
            FROM picket.check_results AS result
            JOIN in_gap ON in_gap.site_id = result.site_id AND in_gap.region_id = result.region_id
            WHERE result.scheduled_at >= since AND result.scheduled_at < until AND result.kind = 'scheduled'
              AND CASE
                  WHEN result.scheduled_at > in_gap.after AND result.scheduled_at <= in_gap.through
                       AND picket.is_tick(result.scheduled_at, in_gap.interval_ms, in_gap.phase_ms)
                  THEN true ELSE false
              END
        )
        INSERT INTO picket.rollups_hourly AS kept (site_id, hour, region_id, gap)
        SELECT site_id, picket.hour_of(since), region_id, picket.saturated(sum(ticks)::bigint)
        FROM counted
        GROUP BY site_id, region_id
        HAVING sum(ticks) > 0
        ON CONFLICT (site_id, hour, region_id) DO UPDATE SET gap = picket.saturated(kept.gap::bigint + excluded.gap);
    END IF;
END $$;

-- Counts the ticks of one hour anew, from the indexes alone, and marks it if the rollups say something else: for rows that came
-- late without taking the place of another. Returns whether it did.
CREATE OR REPLACE FUNCTION picket.recount_rollups(counted timestamptz) RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_custom_plan
    SET work_mem = '64MB'
    AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM picket.rollup_state WHERE counted + interval '1 hour' <= rolled_through)
       OR counted < picket.kept_since()
       OR (SELECT (count(*) FILTER (WHERE outcome = 'up'), count(*) FILTER (WHERE outcome = 'down'),
                   count(*) FILTER (WHERE outcome = 'missed'))
           FROM picket.tick_results
           WHERE scheduled_at >= counted AND scheduled_at < counted + interval '1 hour')
          = (SELECT (coalesce(sum(up), 0), coalesce(sum(down), 0), coalesce(sum(missed), 0))
             FROM picket.rollups_hourly WHERE hour = counted)
    THEN
        RETURN false;
    END IF;
    INSERT INTO picket.rollups_dirty (hour, marked_at) VALUES (counted, '-infinity');
    RETURN true;
END $$;

-- A gap is recorded when its shard is acquired again, or when jobs were given up. Hours of it may have been rolled up before.
CREATE FUNCTION picket.gaps_changed() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    INSERT INTO picket.rollups_dirty (hour)
    SELECT DISTINCT hour
    FROM (SELECT min(gap_from) AS gap_from, max(gap_to) AS gap_to FROM new_rows WHERE lasting GROUP BY shard) AS gap
    CROSS JOIN picket.rollup_state AS state
    CROSS JOIN generate_series(picket.hour_of(greatest(gap.gap_from, picket.kept_since())),
                               least(gap.gap_to, state.rolled_through - interval '1 microsecond'), interval '1 hour') AS hour;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.gaps_changed IS 'Marks the hours of a gap that were rolled up before it was recorded';
REVOKE EXECUTE ON FUNCTION picket.gaps_changed FROM PUBLIC;
CREATE TRIGGER gaps_recorded AFTER INSERT ON picket.gaps
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.gaps_changed();
CREATE TRIGGER gaps_extended AFTER UPDATE ON picket.gaps
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.gaps_changed();

-- What was not up, by site and hour: as in 0010, ticks alone.
CREATE OR REPLACE VIEW picket.failed AS
SELECT hour, site_id, region_id, cause, checks FROM picket.failures_hourly
UNION ALL
SELECT picket.hour_of(scheduled_at), site_id, region_id, cause, 1 FROM picket.tick_results
WHERE scheduled_at >= (SELECT rolled_through FROM picket.rollup_state) AND scheduled_at <= now() + interval '1 hour'
  AND outcome <> 'up' AND cause IS NOT NULL;

-- As in 0010, ticks alone.
CREATE OR REPLACE VIEW report.certificates AS
SELECT
    site.id AS site_id, coalesce(site.name, site.url) AS site, site.url, seen.expires_at,
    floor(extract(epoch FROM seen.expires_at - now()) / 86400)::integer AS days_left
FROM (
    SELECT site_id, min(expires_at) AS expires_at
    FROM (
        SELECT DISTINCT ON (site_id, region_id) site_id, expires_at, seen_at
        FROM (
            SELECT site_id, region_id, expires_at, seen_at FROM picket.certificates
            UNION ALL
            SELECT site_id, region_id, tls_expires_at, scheduled_at FROM picket.tick_results
            WHERE scheduled_at >= (SELECT rolled_through FROM picket.rollup_state) AND scheduled_at <= now() + interval '1 hour'
              AND tls_expires_at IS NOT NULL
        ) AS seen
        ORDER BY site_id, region_id, seen_at DESC
    ) AS latest
    -- Regions that have not looked for two days say nothing of now.
    WHERE seen_at > now() - interval '2 days'
    GROUP BY site_id
) AS seen
JOIN picket.sites AS site ON site.id = seen.site_id;

-- The newest result of each schedule in force: as in 0012, without results from before the schedule was in force.
CREATE OR REPLACE VIEW picket.latest_results AS
SELECT
    schedule.site_id, schedule.region_id, latest.scheduled_at, latest.outcome, latest.cause, latest.message, latest.total_us
FROM picket.schedules AS schedule
CROSS JOIN LATERAL (
    SELECT step,
           -- Computed once a schedule, and not once for each of the six.
           date_bin(step, now(), timestamptz 'epoch' + schedule.phase_ms * interval '1 millisecond') AS tick
    FROM (SELECT schedule.interval_ms * interval '1 millisecond' AS step) AS width
    OFFSET 0
) AS newest
LEFT JOIN LATERAL (
    SELECT result.scheduled_at, result.outcome, result.cause, result.message, result.total_us
    FROM picket.check_results AS result
    WHERE result.scheduled_at = ANY (ARRAY[tick, tick - step, tick - 2 * step, tick - 3 * step, tick - 4 * step, tick - 5 * step])
      AND result.scheduled_at > schedule.valid_from
      AND result.site_id = schedule.site_id AND result.region_id = schedule.region_id AND result.kind = 'scheduled'
      AND result.outcome <> 'missed'
    ORDER BY result.scheduled_at DESC
    LIMIT 1
) AS latest ON true
WHERE schedule.valid_to IS NULL;
