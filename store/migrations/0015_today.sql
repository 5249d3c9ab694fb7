-- The days that are not over, summed up as their hours end: a question about a day up to now need not add up its hours for
-- each site.

-- As rollups_daily, but for the percentiles, which nobody reads before the newest rows are added. It holds all hours before the
-- one that is being rolled up, of the days that rollups_daily does not hold yet.
CREATE TABLE picket.rollups_today (
    site_id bigint NOT NULL,
    day date NOT NULL,
    up integer NOT NULL,
    down integer NOT NULL,
    missed integer NOT NULL,
    gap integer NOT NULL,
    up_in_maintenance integer NOT NULL,
    down_in_maintenance integer NOT NULL,
    region_id smallint NOT NULL,
    histogram numeric,
    PRIMARY KEY (site_id, day, region_id)
) WITH (fillfactor = 50);

-- Adds an hour's rollups to its day, or takes them from it again where `times` is -1: the digits of a histogram are whole
-- numbers.
CREATE FUNCTION picket.add_to_today(added timestamptz, times integer) RETURNS void
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
CREATE FUNCTION picket.sum_up_today() RETURNS void
    LANGUAGE sql
    BEGIN ATOMIC
    DELETE FROM picket.rollups_today;
    INSERT INTO picket.rollups_today
    SELECT site_id, picket.day_of(hour), sum(up), sum(down), sum(missed), sum(gap), sum(up_in_maintenance),
           sum(down_in_maintenance), region_id, sum(histogram)
    FROM picket.rollups_hourly
    WHERE hour >= (SELECT picket.start_of(days_through) FROM picket.rollup_state)
      AND hour < (SELECT picket.hour_of(rolled_through) FROM picket.rollup_state)
    GROUP BY site_id, picket.day_of(hour), region_id;
    END;
-- Coordinators roll up meanwhile: what they add after this has read the hours would be in no sum.
SELECT pg_advisory_xact_lock(hashtextextended('picket.rollups', 0));
SELECT picket.sum_up_today();

-- As in 0008, and the end of an hour adds that to its day.
CREATE OR REPLACE FUNCTION picket.roll_up(piece interval) RETURNS timestamptz
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    since timestamptz;
    until timestamptz;
BEGIN
    IF NOT picket.rollups_are_ours() THEN
        RETURN NULL;
    END IF;
    SELECT rolled_through INTO since FROM picket.rollup_state;
    until := least(since + piece, picket.hour_of(since) + interval '1 hour');
    IF until > greatest(now() - interval '1 day', least(now() - interval '10 seconds', (
        SELECT min(lease.accounted_through) FROM picket.leases AS lease
        WHERE EXISTS (SELECT FROM picket.schedules AS schedule
                      WHERE schedule.shard = lease.shard AND schedule.valid_to IS NULL)))) THEN
        RETURN NULL;
    END IF;
    PERFORM picket.add_to_rollups(since, until);
    IF until = picket.hour_of(until) THEN
        PERFORM picket.add_to_today(picket.hour_of(since), 1);
    END IF;
    UPDATE picket.rollup_state SET rolled_through = until;
    RETURN until;
END $$;

-- As in 0008, and a day that is not over loses what the hour said and gains what it says now.
CREATE OR REPLACE FUNCTION picket.mend_rollups(settled interval DEFAULT '1 minute') RETURNS timestamptz
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    marked timestamptz;
    through timestamptz;
    today boolean;
BEGIN
    IF NOT picket.rollups_are_ours() THEN
        RETURN NULL;
    END IF;
    SELECT min(hour) INTO marked FROM picket.rollups_dirty WHERE marked_at <= now() - settled;
    IF marked IS NULL THEN
        RETURN NULL;
    END IF;
    -- The rows are read by a later statement, which sees all that was marked by those that are deleted here.
    DELETE FROM picket.rollups_dirty WHERE hour = marked;
    SELECT least(marked + interval '1 hour', rolled_through),
           picket.day_of(marked) >= days_through AND marked + interval '1 hour' <= rolled_through
    INTO through, today FROM picket.rollup_state;
    IF marked >= through OR marked < picket.kept_since() THEN
        RETURN marked;
    END IF;
    IF today THEN
        PERFORM picket.add_to_today(marked, -1);
    END IF;
    DELETE FROM picket.rollups_hourly WHERE hour = marked;
    DELETE FROM picket.failures_hourly WHERE hour = marked;
    PERFORM picket.add_to_rollups(marked, through);
    IF today THEN
        PERFORM picket.add_to_today(marked, 1);
    END IF;
    INSERT INTO picket.rollup_days_dirty
    SELECT picket.day_of(marked) FROM picket.rollup_state WHERE picket.day_of(marked) < days_through
    ON CONFLICT DO NOTHING;
    RETURN marked;
END $$;

-- As in 0008, and a day that is over is no longer one that is not.
CREATE OR REPLACE FUNCTION picket.roll_up_day() RETURNS date
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET work_mem = '64MB'
    AS $$
DECLARE
    next date;
    chosen date;
BEGIN
    IF NOT picket.rollups_are_ours() THEN
        RETURN NULL;
    END IF;
    SELECT days_through INTO next FROM picket.rollup_state WHERE picket.start_of(days_through + 1) <= rolled_through;
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
        WHERE hour >= picket.start_of(chosen) AND hour < picket.start_of(chosen + 1)
        GROUP BY site_id, region_id
    ) AS summed
    CROSS JOIN LATERAL picket.percentile_buckets(summed.histogram, summed.up, '{0.99,0.95,0.5}') AS p;
    IF chosen = next THEN
        UPDATE picket.rollup_state SET days_through = next + 1;
        DELETE FROM picket.rollups_today WHERE day = next;
    END IF;
    RETURN chosen;
END $$;

-- Sites' days; one that is not over is its sum so far and what came since.
CREATE OR REPLACE VIEW picket.daily AS
SELECT site_id, region_id, day, up::bigint, down::bigint, missed::bigint, gap::bigint, up_in_maintenance::bigint,
       down_in_maintenance::bigint, histogram, p50, p95, p99
FROM picket.rollups_daily
UNION ALL
SELECT site_id, region_id, day, up, down, missed, gap, up_in_maintenance, down_in_maintenance, histogram, p[3], p[2], p[1]
FROM (
    SELECT site_id, region_id, day, sum(up)::bigint AS up, sum(down)::bigint AS down, sum(missed)::bigint AS missed,
           sum(gap)::bigint AS gap, sum(up_in_maintenance)::bigint AS up_in_maintenance,
           sum(down_in_maintenance)::bigint AS down_in_maintenance, sum(histogram) AS histogram,
           picket.percentile_buckets(sum(histogram), sum(up)::bigint, '{0.99,0.95,0.5}') AS p
    FROM (
        SELECT site_id, region_id, day, up, down, missed, gap, up_in_maintenance, down_in_maintenance, histogram
        FROM picket.rollups_today
        UNION ALL
        SELECT site_id, region_id, picket.day_of(hour), up, down, missed, gap, up_in_maintenance, down_in_maintenance,
               histogram
        FROM picket.hourly
        WHERE hour >= (SELECT picket.hour_of(rolled_through) FROM picket.rollup_state) AND hour <= now() + interval '1 hour'
    ) AS part
    GROUP BY site_id, region_id, day
) AS merged;

SELECT picket.grant_roles();
