-- Updates of rollups: a span at a time, and again where rows have changed.

CREATE VIEW picket.maintenance_spans AS
SELECT site_id, range_agg(tstzrange(window_from, window_to)) AS spans
FROM picket.maintenance_windows
GROUP BY site_id;

-- Rows as the rollups count them.
CREATE VIEW picket.rollup_source AS
SELECT
    result.site_id, result.region_id, result.scheduled_at, picket.hour_of(result.scheduled_at) AS hour, result.outcome,
    result.cause, result.dns_us, result.connect_us, result.tls_us, result.first_byte_us, result.tls_expires_at,
    histogram.unit, coalesce(planned.spans @> result.scheduled_at, false) AS in_maintenance
FROM picket.tick_results AS result
LEFT JOIN picket.histogram_units AS histogram
  ON histogram.bucket = CASE WHEN result.outcome = 'up' THEN picket.bucket(result.total_us) END
LEFT JOIN picket.maintenance_spans AS planned ON planned.site_id = result.site_id;

-- Adds the rows of [since, until), which lies in one hour, to the rollups.
CREATE FUNCTION picket.add_to_rollups(since timestamptz, until timestamptz) RETURNS void
    LANGUAGE plpgsql
    -- The cost depends on the span, and the planner knows least about the newest rows.
    SET plan_cache_mode = force_custom_plan
    SET work_mem = '64MB'
    AS $$
DECLARE
    complete boolean := until = picket.hour_of(since) + interval '1 hour';
    -- The span as an interval that is open at its start and closed at its end, as ticks are
    -- counted.
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
    FROM picket.rollup_source
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
        -- Percentiles of an incomplete hour are never read, and are the most expensive part of this
        -- statement.
        (p99, p95, p50) = (
            SELECT p[1], p[2], p[3]
            FROM picket.percentile_buckets(
                coalesce(kept.histogram + excluded.histogram, kept.histogram, excluded.histogram),
                CASE WHEN complete THEN kept.up::bigint + excluded.up END, '{0.99,0.95,0.5}') AS p);
    IF complete THEN
        -- Percentiles of the rows that the last span inserted or did not change.
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

    -- Ticks without a row in recorded gaps.
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

-- Adds an hour's rollups to its day, or subtracts them where `times` is -1: the digits of a
-- histogram are whole numbers.
CREATE FUNCTION picket.add_to_rollups_today(added timestamptz, times integer) RETURNS void
    LANGUAGE sql
    BEGIN ATOMIC
    INSERT INTO picket.rollups_today AS kept (
        site_id, day, region_id, up, down, missed, gap, up_in_maintenance, down_in_maintenance, histogram)
    SELECT site_id, picket.day_of(added), region_id, times * up, times * down, times * missed, times * gap,
           times * up_in_maintenance, times * down_in_maintenance, times * histogram
    FROM picket.rollups_hourly
    WHERE hour = added
    ON CONFLICT (site_id, day, region_id) DO UPDATE SET
        up = kept.up + excluded.up, down = kept.down + excluded.down, missed = kept.missed + excluded.missed,
        gap = kept.gap + excluded.gap, up_in_maintenance = kept.up_in_maintenance + excluded.up_in_maintenance,
        down_in_maintenance = kept.down_in_maintenance + excluded.down_in_maintenance,
        histogram = coalesce(kept.histogram + excluded.histogram, kept.histogram, excluded.histogram);
    END;

-- The sums of all days that are not over, from their hours.
CREATE FUNCTION picket.rebuild_rollups_today() RETURNS void
    LANGUAGE sql
    BEGIN ATOMIC
    DELETE FROM picket.rollups_today;
    INSERT INTO picket.rollups_today
    SELECT site_id, picket.day_of(hour), sum(up), sum(down), sum(missed), sum(gap), sum(up_in_maintenance),
           sum(down_in_maintenance), region_id, sum(histogram)
    FROM picket.rollups_hourly
    WHERE hour >= (SELECT picket.start_of_day(days_through) FROM picket.rollup_state)
      AND hour < (SELECT picket.hour_of(rolled_through) FROM picket.rollup_state)
    GROUP BY site_id, picket.day_of(hour), region_id;
    END;

-- Adds the next span of at most `max_span` to the rollups, if its ledger is closed; returns the new
-- rolled_through, or null if there was nothing to do. The rollups and their progress change
-- together, so that each row is counted once. A span whose ledger nobody closes for a day is added
-- all the same: if its rows change later, its hour is rebuilt.
CREATE FUNCTION picket.roll_up(max_span interval) RETURNS timestamptz
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    since timestamptz;
    until timestamptz;
BEGIN
    IF NOT picket.try_lock_rollups() THEN
        RETURN NULL;
    END IF;
    SELECT rolled_through INTO since FROM picket.rollup_state;
    until := least(since + max_span, picket.hour_of(since) + interval '1 hour');
    IF until > greatest(now() - interval '1 day', least(now() - interval '10 seconds', (
        SELECT min(lease.accounted_through) FROM picket.leases AS lease
        WHERE EXISTS (SELECT FROM picket.schedules AS schedule
                      WHERE schedule.shard = lease.shard AND schedule.valid_to IS NULL)))) THEN
        RETURN NULL;
    END IF;
    PERFORM picket.add_to_rollups(since, until);
    IF until = picket.hour_of(until) THEN
        PERFORM picket.add_to_rollups_today(picket.hour_of(since), 1);
    END IF;
    UPDATE picket.rollup_state SET rolled_through = until;
    RETURN until;
END $$;

-- Rebuilds one hour whose rows have changed; returns it, or null if there is none. After a delay of
-- `min_age`, because changes come in bursts, and not when the rows are gone. A day that is not over
-- loses the old sums of the hour and gains the new ones.
CREATE FUNCTION picket.rebuild_rollups(min_age interval DEFAULT '1 minute') RETURNS timestamptz
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    dirty_hour timestamptz;
    through timestamptz;
    today boolean;
BEGIN
    IF NOT picket.try_lock_rollups() THEN
        RETURN NULL;
    END IF;
    SELECT min(hour) INTO dirty_hour FROM picket.rollups_dirty WHERE marked_at <= now() - min_age;
    IF dirty_hour IS NULL THEN
        RETURN NULL;
    END IF;
    -- A later statement reads the rows, and so sees every change whose mark is deleted here.
    DELETE FROM picket.rollups_dirty WHERE hour = dirty_hour;
    SELECT least(dirty_hour + interval '1 hour', rolled_through),
           picket.day_of(dirty_hour) >= days_through AND dirty_hour + interval '1 hour' <= rolled_through
    INTO through, today FROM picket.rollup_state;
    IF dirty_hour >= through OR dirty_hour < picket.retained_since() THEN
        RETURN dirty_hour;
    END IF;
    IF today THEN
        PERFORM picket.add_to_rollups_today(dirty_hour, -1);
    END IF;
    DELETE FROM picket.rollups_hourly WHERE hour = dirty_hour;
    DELETE FROM picket.failures_hourly WHERE hour = dirty_hour;
    PERFORM picket.add_to_rollups(dirty_hour, through);
    IF today THEN
        PERFORM picket.add_to_rollups_today(dirty_hour, 1);
    END IF;
    INSERT INTO picket.rollup_days_dirty
    SELECT picket.day_of(dirty_hour) FROM picket.rollup_state WHERE picket.day_of(dirty_hour) < days_through
    ON CONFLICT DO NOTHING;
    RETURN dirty_hour;
END $$;

-- Sums up one day that is complete, or of which an hour was rebuilt; returns it, or null if there
-- is none.
CREATE FUNCTION picket.roll_up_day() RETURNS date
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET work_mem = '64MB'
    AS $$
DECLARE
    next date;
    chosen date;
BEGIN
    IF NOT picket.try_lock_rollups() THEN
        RETURN NULL;
    END IF;
    SELECT days_through INTO next FROM picket.rollup_state WHERE picket.start_of_day(days_through + 1) <= rolled_through;
    SELECT coalesce(min(day), next) INTO chosen FROM picket.rollup_days_dirty;
    IF chosen IS NULL THEN
        RETURN NULL;
    END IF;
    DELETE FROM picket.rollup_days_dirty WHERE day = chosen;
    DELETE FROM picket.rollups_daily WHERE day = chosen;
    INSERT INTO picket.rollups_daily (
        site_id, day, region_id, up, down, missed, gap, up_in_maintenance, down_in_maintenance, histogram, p50, p95, p99)
    SELECT summed.*, p[3], p[2], p[1]
    FROM (
        SELECT site_id, chosen, region_id, sum(up) AS up, sum(down), sum(missed), sum(gap), sum(up_in_maintenance),
               sum(down_in_maintenance), sum(histogram) AS histogram
        FROM picket.rollups_hourly
        WHERE hour >= picket.start_of_day(chosen) AND hour < picket.start_of_day(chosen + 1)
        GROUP BY site_id, region_id
    ) AS summed
    CROSS JOIN LATERAL picket.percentile_buckets(summed.histogram, summed.up, '{0.99,0.95,0.5}') AS p;
    IF chosen = next THEN
        UPDATE picket.rollup_state SET days_through = next + 1;
        DELETE FROM picket.rollups_today WHERE day = next;
    END IF;
    RETURN chosen;
END $$;

-- Counts the ticks of one hour again, from the indexes alone, and marks the hour if the rollups
-- differ: for late rows that replaced no other row. Returns whether it did.
CREATE FUNCTION picket.recount_rollups(counted_hour timestamptz) RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_custom_plan
    SET work_mem = '64MB'
    AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM picket.rollup_state WHERE counted_hour + interval '1 hour' <= rolled_through)
       OR counted_hour < picket.retained_since()
       OR (SELECT (count(*) FILTER (WHERE outcome = 'up'), count(*) FILTER (WHERE outcome = 'down'),
                   count(*) FILTER (WHERE outcome = 'missed'))
           FROM picket.tick_results
           WHERE scheduled_at >= counted_hour AND scheduled_at < counted_hour + interval '1 hour')
          = (SELECT (coalesce(sum(up), 0), coalesce(sum(down), 0), coalesce(sum(missed), 0))
             FROM picket.rollups_hourly WHERE hour = counted_hour)
    THEN
        RETURN false;
    END IF;
    INSERT INTO picket.rollups_dirty (hour, marked_at) VALUES (counted_hour, '-infinity');
    RETURN true;
END $$;
