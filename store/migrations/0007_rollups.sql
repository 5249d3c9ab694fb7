-- Rollups by hour and day, which outlive the results, with histograms that can be merged.

-- A histogram is one number. Bucket b counts the times from 128 µs * 2^(b/8) up to 128 µs *
-- 2^((b+1)/8), in the decimal digits 8b to 8b+7: up to 99,999,999 each. Merging is addition, and
-- sum(numeric) does it, in C and in parallel. A row costs 4 bytes a bucket between its fastest and
-- its slowest, because zeros at either end are not stored. A time is taken as the geometric middle
-- of its bucket: the error is at most 2^(1/16) - 1 = 4.43 %. 152 buckets reach to 67 s, beyond the
-- longest timeout; times below 128 µs count as 134 µs.
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

-- The buckets that contain these fractions (descending) of `total` times, by nearest rank. Null if
-- the histogram holds fewer times than `total`: no percentile is better than a wrong one.
CREATE FUNCTION picket.percentile_buckets(histogram numeric, total bigint, fractions numeric[]) RETURNS smallint[]
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
    AS $$
DECLARE
    digits text := histogram::text;
    bucket integer := (length(digits) + 7) / 8;
    -- Number of times in the buckets passed so far, from the slowest on.
    passed bigint := 0;
    buckets smallint[] := '{}';
    above bigint;
    fraction numeric;
BEGIN
    digits := lpad(digits, bucket * 8, '0');
    FOREACH fraction IN ARRAY fractions LOOP
        above := total - greatest(1, ceil(fraction * total)::bigint);
        WHILE passed <= above AND bucket > 0 LOOP
            passed := passed + substr(digits, length(digits) - bucket * 8 + 1, 8)::bigint;
            bucket := bucket - 1;
        END LOOP;
        IF passed <= above OR passed > total THEN
            RETURN NULL;
        END IF;
        buckets := buckets || bucket::smallint;
    END LOOP;
    RETURN buckets;
END $$;

-- Hours and days are those of UTC.
CREATE FUNCTION picket.hour_of(at timestamptz) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN date_bin(interval '1 hour', at, timestamptz '2000-01-01 00:00:00+00');
CREATE FUNCTION picket.day_of(at timestamptz) RETURNS date
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (at AT TIME ZONE 'UTC')::date;
CREATE FUNCTION picket.start_of_day(day date) RETURNS timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN day::timestamp AT TIME ZONE 'UTC';
CREATE FUNCTION picket.month_of(day date) RETURNS date
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN date_trunc('month', day::timestamp)::date;

-- In per cent, truncated and not rounded: 99.99999 is not 100.
CREATE FUNCTION picket.percent(part bigint, whole bigint) RETURNS double precision
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN trunc(1e6::float8 * part / nullif(whole, 0)) / 1e4::float8;

-- Counts of rollups are smallint, nine times the 3,600 ticks that an hour can have. A larger count
-- saturates instead of failing the statement: one failed span would stop rollups and retention for
-- all sites.
CREATE FUNCTION picket.saturated(number bigint) RETURNS smallint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN least(number, 32767)::smallint;
COMMENT ON FUNCTION picket.saturated IS 'The number, limited to the largest smallint';

-- A site's hour in one region. `gap` counts ticks without a row in a recorded gap. Sums are over
-- checks that were up, in microseconds. p50, p95 and p99 are buckets. Columns are ordered by width.
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
    -- A query about one site reads one range of this index.
    PRIMARY KEY (site_id, hour, region_id)
) PARTITION BY RANGE (hour);
-- A b-tree, because BRIN told pages apart only until the first VACUUM: from then on new rows also
-- fill free space in old pages, and each range reached up to the newest hour. Equal keys share an
-- entry here, some 7 bytes a row, and new entries go to the end.
CREATE INDEX rollups_hourly_hour ON picket.rollups_hourly (hour);

-- Attached instead of created in place, as the partitions of results are.
CREATE FUNCTION picket.ensure_rollups(at timestamptz) RETURNS void
    LANGUAGE plpgsql AS $$
DECLARE
    month date := picket.month_of(picket.day_of(at));
    name text := 'rollups_hourly_' || to_char(month, 'YYYYMM');
BEGIN
    IF to_regclass('picket.' || name) IS NULL THEN
        EXECUTE format('CREATE TABLE picket.%I (LIKE picket.rollups_hourly INCLUDING ALL)', name);
        EXECUTE format('ALTER TABLE picket.rollups_hourly ATTACH PARTITION picket.%I FOR VALUES FROM (%L) TO (%L)',
            name, picket.start_of_day(month), picket.start_of_day((month + interval '1 month')::date));
    END IF;
END $$;

-- The same by day, summed from the hours.
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
CREATE INDEX rollups_daily_day ON picket.rollups_daily (day);
CREATE INDEX rollups_daily_month ON picket.rollups_daily (picket.month_of(day));

-- The sums of the days that are not over, extended at the end of each hour, so that a query about a
-- day up to now need not add up its hours for each site. No percentiles: they are computed after
-- the newest rows are added. Holds all hours before the one that is being rolled up, of the days
-- that are not in rollups_daily yet.
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

-- Checks that were not up, by cause. Most hours have none.
CREATE TABLE picket.failures_hourly (
    hour timestamptz NOT NULL,
    site_id bigint NOT NULL,
    cause picket.cause NOT NULL,
    checks integer NOT NULL,
    region_id smallint NOT NULL,
    PRIMARY KEY (hour, site_id, region_id, cause)
);

-- The newest certificate that each region received.
CREATE TABLE picket.certificates (
    site_id bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    region_id smallint NOT NULL,
    PRIMARY KEY (site_id, region_id)
) WITH (fillfactor = 70);

-- Progress of the rollups: rollups_hourly contains everything before rolled_through, rollups_daily
-- every day before days_through. Views read newer data from the rows.
CREATE TABLE picket.rollup_state (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    rolled_through timestamptz NOT NULL,
    days_through date NOT NULL
) WITH (fillfactor = 50);
INSERT INTO picket.rollup_state (rolled_through, days_through)
VALUES (picket.hour_of(now()), picket.day_of(now()));

-- Hours whose rows have changed since they were rolled up. Without a key: repeated marks do no
-- harm, and no writer waits for another.
CREATE TABLE picket.rollups_dirty (hour timestamptz NOT NULL, marked_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE picket.rollup_days_dirty (day date PRIMARY KEY);

-- A late result that replaces a missed row is an UPDATE, also within the sink's INSERT ... ON
-- CONFLICT. Once for each statement, and without a table of the inserted rows: a batch without late
-- results pays for one call. With the owner's rights, so that a writer of results needs no right to
-- write the marks.
CREATE FUNCTION picket.results_changed() RETURNS trigger
    LANGUAGE plpgsql
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
    SELECT generate_series(picket.hour_of(greatest(starts, picket.retained_since())), least(ends, now()), interval '1 hour');
    RETURN NULL;
END $$;
CREATE TRIGGER maintenance_changed AFTER INSERT OR UPDATE OR DELETE ON picket.maintenance
    FOR EACH ROW EXECUTE FUNCTION picket.maintenance_changed();

-- A gap is recorded when its shard is acquired again, or when jobs were given up. Some of its hours
-- may have been rolled up before.
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
    CROSS JOIN generate_series(picket.hour_of(greatest(gap.gap_from, picket.retained_since())),
                               least(gap.gap_to, state.rolled_through - interval '1 microsecond'), interval '1 hour') AS hour;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.gaps_changed IS
    'Marks the hours of a gap that were rolled up before it was recorded';
CREATE TRIGGER gaps_recorded AFTER INSERT ON picket.gaps
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.gaps_changed();
CREATE TRIGGER gaps_extended AFTER UPDATE ON picket.gaps
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.gaps_changed();
