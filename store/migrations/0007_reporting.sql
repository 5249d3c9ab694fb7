-- What outlives the rows: rollups by hour and day, with histograms that can be merged.

-- A histogram is one number. Bucket b counts the times from 128 µs * 2^(b/8) up to 128 µs * 2^((b+1)/8), in the decimal
-- digits 8b to 8b+7: up to 99,999,999 each. So merging is adding, and sum(numeric) does it, in C and in parallel; and a
-- row costs 4 bytes a bucket between its fastest and its slowest, since zeros at either end are not stored. A time is
-- taken for the geometric middle of its bucket: wrong by at most 2^(1/16) - 1 = 4.43 %.
-- 152 buckets reach to 67 s, beyond the longest timeout; what is faster than 128 µs counts as 134 µs.
CREATE TABLE picket.histogram_units (
    bucket smallint PRIMARY KEY CHECK (bucket BETWEEN 0 AND 151),
    unit numeric NOT NULL
);
INSERT INTO picket.histogram_units
SELECT bucket, ('1' || repeat('0', 8 * bucket))::numeric FROM generate_series(0, 151) AS bucket;
ANALYZE picket.histogram_units;

CREATE FUNCTION picket.bucket(total_us integer) RETURNS smallint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN least(151, greatest(0, floor(ln(greatest(total_us, 1)::float8) * 11.541560327111707)::integer - 56))::smallint;

-- The middle of a bucket, in milliseconds.
CREATE FUNCTION picket.bucket_ms(bucket smallint) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN round(power(2::float8, 7 + (bucket + 0.5::float8) / 8)) / 1000;

-- The buckets in which these fractions (descending) of `total` times lie, by nearest rank. Null where the histogram does not
-- hold as many: better none than a wrong one.
CREATE FUNCTION picket.percentile_buckets(histogram numeric, total bigint, fractions numeric[]) RETURNS smallint[]
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
DECLARE
    digits text := histogram::text;
    bucket integer := (length(digits) + 7) / 8;
    -- Of those buckets that were passed, from the slowest on.
    seen bigint := 0;
    found smallint[] := '{}';
    above bigint;
    fraction numeric;
BEGIN
    digits := lpad(digits, bucket * 8, '0');
    FOREACH fraction IN ARRAY fractions LOOP
        above := total - greatest(1, ceil(fraction * total)::bigint);
        WHILE seen <= above AND bucket > 0 LOOP
            seen := seen + substr(digits, length(digits) - bucket * 8 + 1, 8)::bigint;
            bucket := bucket - 1;
        END LOOP;
        IF seen <= above OR seen > total THEN
            RETURN NULL;
        END IF;
        found := found || bucket::smallint;
    END LOOP;
    RETURN found;
END $$;

-- Hours and days are those of UTC.
CREATE FUNCTION picket.hour_of(at timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN date_bin(interval '1 hour', at, timestamptz '2000-01-01 00:00:00+00');
CREATE FUNCTION picket.day_of(at timestamptz) RETURNS date
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (at AT TIME ZONE 'UTC')::date;
CREATE FUNCTION picket.start_of(day date) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN day::timestamp AT TIME ZONE 'UTC';
CREATE FUNCTION picket.month_of(day date) RETURNS date
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN date_trunc('month', day::timestamp)::date;

-- In per cent, cut off rather than rounded: 99.99999 is not 100.
CREATE FUNCTION picket.percent(part bigint, whole bigint) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN trunc(1e6::float8 * part / nullif(whole, 0)) / 1e4::float8;

-- A site's hour in one region. `gap` counts ticks without a row that lie in a recorded gap. Sums are over those that were up,
-- in microseconds. p50, p95 and p99 are buckets. Columns stand by their width.
CREATE TABLE picket.rollups_hourly (
    hour timestamptz NOT NULL,
    site_id bigint NOT NULL,
    dns_us real NOT NULL DEFAULT 0,
    connect_us real NOT NULL DEFAULT 0,
    tls_us real NOT NULL DEFAULT 0,
    first_byte_us real NOT NULL DEFAULT 0,
    region_id smallint NOT NULL,
    up smallint NOT NULL DEFAULT 0,
    down smallint NOT NULL DEFAULT 0,
    missed smallint NOT NULL DEFAULT 0,
    gap smallint NOT NULL DEFAULT 0,
    up_in_maintenance smallint NOT NULL DEFAULT 0,
    down_in_maintenance smallint NOT NULL DEFAULT 0,
    p50 smallint,
    p95 smallint,
    p99 smallint,
    histogram numeric,
    -- A site's questions read one stretch of this; the fleet's are about a time, for which the rows lie in order.
    PRIMARY KEY (site_id, hour, region_id)
) PARTITION BY RANGE (hour);
CREATE INDEX rollups_hourly_hour ON picket.rollups_hourly USING brin (hour) WITH (pages_per_range = 32);

-- Attached rather than made in place, as the days of results are.
CREATE FUNCTION picket.ensure_rollups(at timestamptz) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    month date := picket.month_of(picket.day_of(at));
    name text := 'rollups_hourly_' || to_char(month, 'YYYYMM');
BEGIN
    IF to_regclass('picket.' || name) IS NULL THEN
        EXECUTE format('CREATE TABLE picket.%I (LIKE picket.rollups_hourly INCLUDING ALL)', name);
        EXECUTE format('ALTER TABLE picket.rollups_hourly ATTACH PARTITION picket.%I FOR VALUES FROM (%L) TO (%L)',
            name, picket.start_of(month), picket.start_of((month + interval '1 month')::date));
    END IF;
END $$;

-- The same by day, from the hours.
CREATE TABLE picket.rollups_daily (
    site_id bigint NOT NULL,
    day date NOT NULL,
    up integer NOT NULL,
    down integer NOT NULL,
    missed integer NOT NULL,
    gap integer NOT NULL,
    up_in_maintenance integer NOT NULL,
    down_in_maintenance integer NOT NULL,
    region_id smallint NOT NULL,
    p50 smallint,
    p95 smallint,
    p99 smallint,
    histogram numeric,
    PRIMARY KEY (site_id, day, region_id)
);
CREATE INDEX rollups_daily_day ON picket.rollups_daily USING brin (day) WITH (pages_per_range = 32);
CREATE INDEX rollups_daily_month ON picket.rollups_daily USING brin (picket.month_of(day)) WITH (pages_per_range = 32);

-- What was not up, and why; most hours have none.
CREATE TABLE picket.failures_hourly (
    hour timestamptz NOT NULL,
    site_id bigint NOT NULL,
    cause picket.cause NOT NULL,
    checks integer NOT NULL,
    region_id smallint NOT NULL,
    PRIMARY KEY (hour, site_id, region_id, cause)
);

-- The last certificate that each region saw.
CREATE TABLE picket.certificates (
    site_id bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    region_id smallint NOT NULL,
    PRIMARY KEY (site_id, region_id)
) WITH (fillfactor = 70);

-- How far the rollups are: hours hold all before rolled_through, days are there up to and without days_through. What is
-- newer the views read from the rows.
CREATE TABLE picket.rollup_state (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    rolled_through timestamptz NOT NULL,
    days_through date NOT NULL
) WITH (fillfactor = 50);
INSERT INTO picket.rollup_state (rolled_through, days_through)
SELECT hour, picket.day_of(hour)
FROM picket.hour_of(coalesce((SELECT min(scheduled_at) FROM picket.check_results), now())) AS hour;

-- Hours whose rows have changed since; many marks for one are well, and nobody waits for another to write one.
CREATE TABLE picket.rollups_dirty (hour timestamptz NOT NULL, marked_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE picket.rollup_days_dirty (day date PRIMARY KEY);

-- A late result that takes the place of a missed row is an UPDATE, also within the sink's INSERT ... ON CONFLICT. Once a
-- statement, and without a table of what was inserted: a batch without late ones pays for one call.
CREATE FUNCTION picket.results_changed() RETURNS trigger
    LANGUAGE plpgsql
    -- Who writes results need not be able to write this.
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    INSERT INTO picket.rollups_dirty (hour)
    SELECT DISTINCT picket.hour_of(scheduled_at) FROM old_rows WHERE kind = 'scheduled';
    RETURN NULL;
END $$;
CREATE TRIGGER results_changed AFTER UPDATE ON picket.check_results
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.results_changed();

CREATE FUNCTION picket.maintenance_changed() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    starts timestamptz := least(OLD.window_from, NEW.window_from);
    ends timestamptz := greatest(OLD.window_to, NEW.window_to);
BEGIN
    INSERT INTO picket.rollups_dirty (hour)
    SELECT generate_series(picket.hour_of(greatest(starts, picket.kept_since())), least(ends, now()), interval '1 hour');
    RETURN NULL;
END $$;
CREATE TRIGGER maintenance_changed AFTER INSERT OR UPDATE OR DELETE ON picket.maintenance
    FOR EACH ROW EXECUTE FUNCTION picket.maintenance_changed();

CREATE VIEW picket.maintenance_spans AS
SELECT site_id, range_agg(tstzrange(window_from, window_to)) AS spans
FROM picket.maintenance_windows
GROUP BY site_id;

-- Rows as the rollups count them.
CREATE VIEW picket.done AS
SELECT
    result.site_id, result.region_id, result.scheduled_at, picket.hour_of(result.scheduled_at) AS hour, result.outcome,
    result.cause, result.dns_us, result.connect_us, result.tls_us, result.first_byte_us, result.tls_expires_at,
    histogram.unit, coalesce(planned.spans @> result.scheduled_at, false) AS in_maintenance
FROM picket.check_results AS result
LEFT JOIN picket.histogram_units AS histogram
  ON histogram.bucket = CASE WHEN result.outcome = 'up' THEN picket.bucket(result.total_us) END
LEFT JOIN picket.maintenance_spans AS planned ON planned.site_id = result.site_id
WHERE result.kind = 'scheduled';

-- Adds the rows of [since, until), which lies in one hour, to the rollups.
CREATE FUNCTION picket.add_to_rollups(since timestamptz, until timestamptz) RETURNS void
    LANGUAGE plpgsql
    -- What it costs depends on the span, and the planner knows least of the newest rows.
    SET plan_cache_mode = force_custom_plan
    SET work_mem = '64MB'
    AS $$
DECLARE
    complete boolean := until = picket.hour_of(since) + interval '1 hour';
BEGIN
    PERFORM picket.ensure_rollups(since);
    INSERT INTO picket.rollups_hourly AS kept (
        site_id, hour, region_id, up, down, missed, up_in_maintenance, down_in_maintenance,
        dns_us, connect_us, tls_us, first_byte_us, histogram)
    SELECT
        site_id, picket.hour_of(since), region_id,
        count(*) FILTER (WHERE outcome = 'up'),
        count(*) FILTER (WHERE outcome = 'down'),
        count(*) FILTER (WHERE outcome = 'missed'),
        count(*) FILTER (WHERE outcome = 'up' AND in_maintenance),
        count(*) FILTER (WHERE outcome = 'down' AND in_maintenance),
        coalesce(sum(dns_us) FILTER (WHERE outcome = 'up'), 0),
        coalesce(sum(connect_us) FILTER (WHERE outcome = 'up'), 0),
        coalesce(sum(tls_us) FILTER (WHERE outcome = 'up'), 0),
        coalesce(sum(first_byte_us) FILTER (WHERE outcome = 'up'), 0),
        sum(unit)
    FROM picket.done
    WHERE scheduled_at >= since AND scheduled_at < until
    GROUP BY site_id, region_id
    ON CONFLICT (site_id, hour, region_id) DO UPDATE SET
        up = kept.up + excluded.up, down = kept.down + excluded.down, missed = kept.missed + excluded.missed,
        up_in_maintenance = kept.up_in_maintenance + excluded.up_in_maintenance,
        down_in_maintenance = kept.down_in_maintenance + excluded.down_in_maintenance,
        dns_us = kept.dns_us + excluded.dns_us, connect_us = kept.connect_us + excluded.connect_us,
        tls_us = kept.tls_us + excluded.tls_us, first_byte_us = kept.first_byte_us + excluded.first_byte_us,
        histogram = coalesce(kept.histogram + excluded.histogram, kept.histogram, excluded.histogram),
        -- Those of an hour that is not complete nobody reads, and they are what is dearest here.
        (p99, p95, p50) = (
            SELECT p[1], p[2], p[3]
            FROM picket.percentile_buckets(
                coalesce(kept.histogram + excluded.histogram, kept.histogram, excluded.histogram),
                CASE WHEN complete THEN kept.up + excluded.up END, '{0.99,0.95,0.5}') AS p);
    IF complete THEN
        -- Those to which the last piece added nothing, or which it brought.
        UPDATE picket.rollups_hourly AS kept
        SET (p99, p95, p50) = (
            SELECT p[1], p[2], p[3] FROM picket.percentile_buckets(kept.histogram, kept.up, '{0.99,0.95,0.5}') AS p)
        WHERE hour = picket.hour_of(since) AND p50 IS NULL AND histogram IS NOT NULL;
    END IF;

    INSERT INTO picket.failures_hourly AS kept (hour, site_id, region_id, cause, checks)
    SELECT picket.hour_of(since), site_id, region_id, cause, count(*)
    FROM picket.check_results
    WHERE scheduled_at >= since AND scheduled_at < until AND kind = 'scheduled' AND outcome <> 'up' AND cause IS NOT NULL
    GROUP BY site_id, region_id, cause
    ON CONFLICT (hour, site_id, region_id, cause) DO UPDATE SET checks = kept.checks + excluded.checks;

    INSERT INTO picket.certificates AS kept (site_id, region_id, expires_at, seen_at)
    SELECT DISTINCT ON (site_id, region_id) site_id, region_id, tls_expires_at, scheduled_at
    FROM picket.check_results
    WHERE scheduled_at >= since AND scheduled_at < until AND tls_expires_at IS NOT NULL
    ORDER BY site_id, region_id, scheduled_at DESC
    ON CONFLICT (site_id, region_id) DO UPDATE SET expires_at = excluded.expires_at, seen_at = excluded.seen_at
    WHERE excluded.seen_at > kept.seen_at
      AND (excluded.expires_at <> kept.expires_at OR excluded.seen_at > kept.seen_at + interval '1 hour');

    -- Ticks without a row in a gap that is on record.
    IF EXISTS (SELECT FROM picket.gaps WHERE lasting AND gap_from < until AND gap_to >= since) THEN
        INSERT INTO picket.rollups_hourly AS kept (site_id, hour, region_id, gap)
        SELECT site_id, picket.hour_of(since), region_id, sum(ticks)
        FROM (
            SELECT schedule.site_id, schedule.region_id,
                   picket.tick_count(schedule.interval_ms, schedule.phase_ms, part.after, part.through)
                   - (SELECT count(*) FROM picket.check_results AS result
                      WHERE result.scheduled_at > part.after AND result.scheduled_at <= part.through
                        AND result.site_id = schedule.site_id AND result.region_id = schedule.region_id
                        AND result.kind = 'scheduled') AS ticks
            FROM picket.gaps AS gap
            JOIN picket.schedules AS schedule ON schedule.shard = gap.shard
            CROSS JOIN LATERAL (SELECT
                greatest(schedule.valid_from, gap.gap_from, since - interval '1 microsecond') AS after,
                least(schedule.valid_to, gap.gap_to, until - interval '1 microsecond') AS through) AS part
            WHERE gap.lasting AND gap.gap_from < until AND gap.gap_to >= since AND part.after < part.through
        ) AS counted
        WHERE ticks > 0
        GROUP BY site_id, region_id
        ON CONFLICT (site_id, hour, region_id) DO UPDATE SET gap = kept.gap + excluded.gap;
    END IF;
END $$;
