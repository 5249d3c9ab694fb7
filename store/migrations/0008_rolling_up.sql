-- How the rollups are kept true: a piece at a time, and again where rows have changed.

-- Those who write rollups take turns; who finds another at it does nothing.
CREATE FUNCTION picket.rollups_are_ours() RETURNS boolean
    LANGUAGE sql VOLATILE
    RETURN pg_try_advisory_xact_lock(hashtextextended('picket.rollups', 0));

-- Adds the next piece to the rollups, if the ledger of all of it is closed; returns up to where they are now, or null if
-- there was nothing to do. The rows and how far they are change together, so that each row is counted once. What nobody
-- closes for a day is added all the same: should its rows change, it is done anew.
CREATE FUNCTION picket.roll_up(piece interval) RETURNS timestamptz
    LANGUAGE plpgsql AS $$
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
    UPDATE picket.rollup_state SET rolled_through = until;
    RETURN until;
END $$;

-- Does one hour anew whose rows have changed; returns it, or null if there is none. Not at once, since changes come in
-- swarms, and not when its rows are gone.
CREATE FUNCTION picket.mend_rollups(settled interval DEFAULT '1 minute') RETURNS timestamptz
    LANGUAGE plpgsql AS $$
DECLARE
    marked timestamptz;
    through timestamptz;
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
    SELECT least(marked + interval '1 hour', rolled_through) INTO through FROM picket.rollup_state;
    IF marked >= through OR marked < picket.kept_since() THEN
        RETURN marked;
    END IF;
    DELETE FROM picket.rollups_hourly WHERE hour = marked;
    DELETE FROM picket.failures_hourly WHERE hour = marked;
    PERFORM picket.add_to_rollups(marked, through);
    INSERT INTO picket.rollup_days_dirty
    SELECT picket.day_of(marked) FROM picket.rollup_state WHERE picket.day_of(marked) < days_through
    ON CONFLICT DO NOTHING;
    RETURN marked;
END $$;

-- Sums up one day whose hours are all there, or one of whose hours was done anew; returns it, or null if there is none.
CREATE FUNCTION picket.roll_up_day() RETURNS date
    LANGUAGE plpgsql
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
    END IF;
    RETURN chosen;
END $$;

-- Counts the rows of one hour anew, from the index alone, and marks it if the rollups say something else: for rows that came
-- late without taking the place of another. Returns whether it did.
CREATE FUNCTION picket.recount_rollups(counted timestamptz) RETURNS boolean
    LANGUAGE plpgsql
    SET plan_cache_mode = force_custom_plan
    AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM picket.rollup_state WHERE counted + interval '1 hour' <= rolled_through)
       OR counted < picket.kept_since()
       OR (SELECT (count(*) FILTER (WHERE outcome = 'up'), count(*) FILTER (WHERE outcome = 'down'),
                   count(*) FILTER (WHERE outcome = 'missed'))
           FROM picket.check_results
           WHERE scheduled_at >= counted AND scheduled_at < counted + interval '1 hour' AND kind = 'scheduled')
          = (SELECT (coalesce(sum(up), 0), coalesce(sum(down), 0), coalesce(sum(missed), 0))
             FROM picket.rollups_hourly WHERE hour = counted)
    THEN
        RETURN false;
    END IF;
    INSERT INTO picket.rollups_dirty (hour, marked_at) VALUES (counted, '-infinity');
    RETURN true;
END $$;
