-- Retention: a day of results and a month of rollups are removed by dropping a partition,
-- everything else by deleting rows in batches. A wrong clock must not delete anything.

CREATE TABLE picket.clock (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    read_at timestamptz NOT NULL,
    steady_since timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE picket.clock IS 'Earlier readings of this database''s clock, which reveal a jump; one row';
COMMENT ON COLUMN picket.clock.read_at IS 'Time of the last request for a deletion';
COMMENT ON COLUMN picket.clock.steady_since IS
    'Start of the series of requests without a jump of the clock in between';
INSERT INTO picket.clock (read_at, steady_since) VALUES (now(), '-infinity');

-- The reason why nothing may be deleted now; null if deletion is allowed. The clock must agree with
-- the scheduled times, with the newest rows, and with itself an hour ago. Callers also compare it
-- with clocks of their own.
CREATE FUNCTION picket.refuses_deletion() RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    moment timestamptz := now();
    scheduled timestamptz;
    steady timestamptz;
BEGIN
    -- A jump, or an hour without a call: only time distinguishes the two.
    UPDATE picket.clock
    SET steady_since = CASE WHEN moment BETWEEN read_at - interval '1 minute' AND read_at + interval '1 hour'
                            THEN steady_since ELSE moment END,
        read_at = moment
    RETURNING steady_since INTO steady;
    IF EXISTS (SELECT FROM picket.schedules WHERE valid_to IS NULL AND valid_from < moment - interval '1 day') THEN
        SELECT max(scheduled_through) INTO scheduled FROM picket.leases;
        IF scheduled NOT BETWEEN moment - interval '1 hour' AND moment + interval '1 hour' THEN
            RETURN format('the clock says %s, but what was scheduled last was due by %s', moment, scheduled);
        END IF;
        IF NOT EXISTS (SELECT FROM picket.check_results
                       WHERE scheduled_at > moment - interval '1 day' AND scheduled_at < moment + interval '1 hour') THEN
            RETURN format('the clock says %s, but there is no result of the day before', moment);
        END IF;
    END IF;
    IF steady > moment - interval '1 hour' THEN
        RETURN format('the clock has been steady since %s only, which is less than an hour', steady);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.refuses_deletion IS
    'The reason why nothing may be deleted for its age now, because clock, timestamps and results disagree; null if it may';

-- Drops one day of results that ended more than `days` days and an hour ago (a sink that received a
-- row in time must find its partition) and that is rolled up; returns it, or null if there is none.
-- Fails soon if the table is busy: writers queue behind whoever waits for this lock.
CREATE FUNCTION picket.drop_results(days integer) RETURNS date
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    oldest date;
BEGIN
    IF NOT picket.try_lock('ensure_partitions') THEN
        RETURN NULL;
    END IF;
    oldest := picket.day_of(picket.retained_since());
    IF oldest + 1 > (now() - interval '1 hour' - days * interval '1 day') AT TIME ZONE 'UTC'
       OR NOT EXISTS (SELECT FROM picket.rollup_state WHERE days_through > oldest)
       OR EXISTS (SELECT FROM picket.rollups_dirty WHERE hour >= picket.start_of_day(oldest) AND hour < picket.start_of_day(oldest + 1))
       OR picket.refuses_deletion() IS NOT NULL
    THEN
        RETURN NULL;
    END IF;
    PERFORM set_config('lock_timeout', '300ms', true);
    EXECUTE format('DROP TABLE picket.%I', 'check_results_' || to_char(oldest, 'YYYYMMDD'));
    RETURN oldest;
END $$;

-- Drops one month of hourly rollups that ended more than `days` days ago; returns it, or null if
-- there is none.
CREATE FUNCTION picket.drop_rollups(days integer) RETURNS date
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    oldest date;
BEGIN
    IF NOT picket.try_lock_rollups() THEN
        RETURN NULL;
    END IF;
    SELECT min(to_date(right(partition.relname, 6), 'YYYYMM')) INTO oldest
    FROM pg_inherits JOIN pg_class AS partition ON partition.oid = inhrelid
    WHERE inhparent = 'picket.rollups_hourly'::regclass;
    IF oldest IS NULL OR oldest + interval '1 month' > (now() - days * interval '1 day') AT TIME ZONE 'UTC'
       OR picket.refuses_deletion() IS NOT NULL THEN
        RETURN NULL;
    END IF;
    PERFORM set_config('lock_timeout', '300ms', true);
    EXECUTE format('DROP TABLE picket.%I', 'rollups_hourly_' || to_char(oldest, 'YYYYMM'));
    RETURN oldest;
END $$;

-- Deletes expired rows of the tables without partitions, at most `max_rows` of each; returns their
-- number. Retained as long as results: ad-hoc results, dead letters, gaps, ended schedules.
-- Retained as long as rollups: days, failures, certificates that are no longer received, removed
-- sites. Also coordinators that have not been seen for a day, or were seen in the future.
CREATE FUNCTION picket.prune(days integer, rollup_days integer, max_rows integer) RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    results_since timestamptz := least(now() - days * interval '1 day', picket.retained_since());
    rollups_since timestamptz := now() - greatest(days, rollup_days) * interval '1 day';
    rule record;
    deleted bigint;
    total bigint := 0;
BEGIN
    IF NOT picket.try_lock('prune') OR picket.refuses_deletion() IS NOT NULL THEN
        RETURN 0;
    END IF;
    FOR rule IN SELECT * FROM (VALUES
        ('adhoc_results', 'requested_at < $1', results_since),
        ('dead_letters', 'received_at < $1', results_since),
        ('gaps', 'gap_to < $1', results_since),
        ('schedules', 'valid_to < $1', results_since),
        ('failures_hourly', 'hour < $1', rollups_since),
        ('rollups_daily', 'day < picket.day_of($1)', rollups_since),
        ('certificates', 'seen_at < $1', rollups_since),
        ('retired_sites', 'retired_at < $1', rollups_since),
        ('coordinators', 'seen_at NOT BETWEEN $1 AND now() + interval ''1 hour''', now() - interval '1 day')
    ) AS rules (relation, condition, since) LOOP
        EXECUTE format(
            'DELETE FROM picket.%1$I WHERE ctid = ANY (ARRAY(SELECT ctid FROM picket.%1$I WHERE %2$s LIMIT $2))',
            rule.relation, rule.condition) USING rule.since, max_rows;
        GET DIAGNOSTICS deleted = ROW_COUNT;
        total := total + deleted;
    END LOOP;
    RETURN total;
END $$;

-- Moves timestamps that lie in the future back to now, and deletes what was recorded with them: the
-- clock was ahead once, and without this nothing would be scheduled, accounted for or rolled up
-- until that time. For callers that know that the clock is right now. Ticks to come with a `missed`
-- row keep it until their results replace it. `with_schedules` also reads all schedules. Returns
-- what was repaired, and how many of each.
CREATE FUNCTION picket.repair_marks(with_schedules boolean) RETURNS TABLE (mark text, repaired bigint)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    moment timestamptz := now();
    -- Tolerance: clocks are not more accurate, and no timestamp is read more exactly.
    latest timestamptz := now() + interval '1 minute';
    this_hour timestamptz := picket.hour_of(now());
    number bigint;
    shortened bigint;
BEGIN
    -- The ledger of the last hour is closed again: a clock that was ahead closed it too early, and
    -- a gap that is shortened here may now be one whose ticks get rows.
    IF EXISTS (SELECT FROM picket.leases WHERE greatest(scheduled_through, accounted_through) > latest)
       OR EXISTS (SELECT FROM picket.gaps WHERE gap_to > latest) THEN
        -- In the same order as every transaction that locks these rows, which prevents deadlocks.
        PERFORM FROM picket.leases ORDER BY shard FOR UPDATE;
        UPDATE picket.leases AS lease
        SET scheduled_through = least(scheduled_through, moment),
            accounted_through = least(accounted_through, moment - interval '1 hour')
        WHERE greatest(scheduled_through, accounted_through) > latest
           OR EXISTS (SELECT FROM picket.gaps AS gap WHERE gap.shard = lease.shard AND gap_to > latest);
        GET DIAGNOSTICS number = ROW_COUNT;
        RETURN QUERY SELECT 'leases', number;
        INSERT INTO picket.rollups_dirty (hour) VALUES (this_hour - interval '1 hour'), (this_hour);

        DELETE FROM picket.gaps WHERE gap_to > latest AND gap_from >= moment;
        GET DIAGNOSTICS number = ROW_COUNT;
        UPDATE picket.gaps SET gap_to = moment WHERE gap_to > latest;
        GET DIAGNOSTICS shortened = ROW_COUNT;
        IF number + shortened > 0 THEN
            RETURN QUERY SELECT 'gaps', number + shortened;
        END IF;
    END IF;

    IF EXISTS (SELECT FROM picket.rollup_state WHERE rolled_through > latest OR picket.start_of_day(days_through) > latest)
       AND picket.try_lock_rollups() THEN
        DELETE FROM picket.rollups_hourly WHERE hour >= this_hour;
        DELETE FROM picket.failures_hourly WHERE hour >= this_hour;
        DELETE FROM picket.rollups_daily WHERE day >= picket.day_of(moment);
        DELETE FROM picket.rollup_days_dirty WHERE day >= picket.day_of(moment);
        DELETE FROM picket.rollups_dirty WHERE hour >= this_hour;
        UPDATE picket.rollup_state SET rolled_through = this_hour, days_through = least(days_through, picket.day_of(moment));
        PERFORM picket.rebuild_rollups_today();
        -- Otherwise certificates received from now on would be older and change nothing.
        UPDATE picket.certificates SET seen_at = moment WHERE seen_at > latest;
        -- These hours may have been rolled up before they were over.
        INSERT INTO picket.rollups_dirty (hour)
        SELECT hour FROM generate_series(this_hour - interval '6 hours', this_hour - interval '1 hour', interval '1 hour') AS hour;
        RETURN QUERY SELECT 'rollups', 1::bigint;
    END IF;

    IF with_schedules THEN
        UPDATE picket.schedules
        SET valid_from = least(valid_from, moment), valid_to = least(valid_to, CASE WHEN valid_to IS NOT NULL THEN moment END),
            version = pg_current_xact_id()
        WHERE valid_from > latest OR valid_to > latest;
        GET DIAGNOSTICS number = ROW_COUNT;
        IF number > 0 THEN
            PERFORM pg_notify('picket_sites', '');
            RETURN QUERY SELECT 'schedules', number;
        END IF;
    END IF;
END $$;
COMMENT ON FUNCTION picket.repair_marks IS
    'Moves timestamps that lie in the future, because the clock was ahead once, back to now; only if the clock is known to be right';

-- Deletes results of ticks that are still to come, the soonest first: their checks were made ahead
-- of time, by a clock that was ahead. Their ticks' real results would otherwise be dropped as
-- duplicates. For callers that know, from other clocks as well, that the clock is right now. Only
-- where the ledger is not closed, so that it accounts for these ticks.
CREATE FUNCTION picket.delete_future_results(max_rows integer) RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    latest timestamptz := (SELECT greatest(now() + interval '1 minute', max(accounted_through)) FROM picket.leases);
    until timestamptz;
    number bigint;
BEGIN
    IF NOT picket.try_lock('prune') THEN
        RETURN 0;
    END IF;
    SELECT scheduled_at INTO until FROM picket.check_results
    WHERE scheduled_at > latest AND kind = 'scheduled' AND outcome <> 'missed'
    ORDER BY scheduled_at OFFSET max_rows - 1 LIMIT 1;
    DELETE FROM picket.check_results
    WHERE scheduled_at > latest AND scheduled_at <= coalesce(until, 'infinity') AND kind = 'scheduled' AND outcome <> 'missed';
    GET DIAGNOSTICS number = ROW_COUNT;
    RETURN number;
END $$;
COMMENT ON FUNCTION picket.delete_future_results IS
    'Deletes results of ticks still to come, whose checks were made by a clock that was ahead; only if the clock is known to be right';
