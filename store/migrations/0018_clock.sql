-- A wrong clock must heal: nothing is deleted before more than one witness says what time it is, and marks that lie in the
-- future, since the clock was ahead once, are repaired.

CREATE TABLE picket.clock (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    read_at timestamptz NOT NULL,
    steady_since timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE picket.clock IS 'What is remembered of this database''s clock; one row';
COMMENT ON COLUMN picket.clock.read_at IS 'The time when a deletion was considered last';
COMMENT ON COLUMN picket.clock.steady_since IS 'Since when it has been considered again and again without a jump of the clock';
INSERT INTO picket.clock (read_at, steady_since) VALUES (now(), '-infinity');

-- Why nothing may be deleted now; null if it may be. The clock alone is not believed: it must agree with what was scheduled,
-- with the newest rows, and with itself as it was an hour ago. A caller compares it with clocks of its own beside.
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
    -- A jump, or nobody has looked for an hour: only time tells them apart.
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
REVOKE EXECUTE ON FUNCTION picket.refuses_deletion FROM PUBLIC;
COMMENT ON FUNCTION picket.refuses_deletion IS
    'Why nothing may be deleted for its age now, since clock, marks and results disagree; null if it may be';

-- As in 0009, if clock, marks and results agree.
CREATE OR REPLACE FUNCTION picket.drop_results(days integer) RETURNS date
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    oldest date;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('picket.ensure_partitions', 0)) THEN
        RETURN NULL;
    END IF;
    oldest := picket.day_of(picket.kept_since());
    IF oldest + 1 > (now() - interval '1 hour' - days * interval '1 day') AT TIME ZONE 'UTC'
       OR NOT EXISTS (SELECT FROM picket.rollup_state WHERE days_through > oldest)
       OR EXISTS (SELECT FROM picket.rollups_dirty WHERE hour >= picket.start_of(oldest) AND hour < picket.start_of(oldest + 1))
       OR picket.refuses_deletion() IS NOT NULL
    THEN
        RETURN NULL;
    END IF;
    PERFORM set_config('lock_timeout', '300ms', true);
    EXECUTE format('DROP TABLE picket.%I', 'check_results_' || to_char(oldest, 'YYYYMMDD'));
    RETURN oldest;
END $$;

-- As in 0009, if clock, marks and results agree.
CREATE OR REPLACE FUNCTION picket.drop_rollups(days integer) RETURNS date
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    oldest date;
BEGIN
    IF NOT picket.rollups_are_ours() THEN
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

-- As in 0009, if clock, marks and results agree; and coordinators that have not been seen for a day, or were seen in the
-- future.
CREATE OR REPLACE FUNCTION picket.prune(days integer, rollup_days integer, piece integer) RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    results_since timestamptz := least(now() - days * interval '1 day', picket.kept_since());
    rollups_since timestamptz := now() - greatest(days, rollup_days) * interval '1 day';
    rule record;
    number bigint;
    pruned bigint := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('picket.prune', 0)) OR picket.refuses_deletion() IS NOT NULL THEN
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
            rule.relation, rule.condition) USING rule.since, piece;
        GET DIAGNOSTICS number = ROW_COUNT;
        pruned := pruned + number;
    END LOOP;
    RETURN pruned;
END $$;

-- Takes marks that lie in the future back to now, and what was written down with them: the clock was ahead once, and without
-- this nothing would be scheduled, accounted for or rolled up until it is there again. For who knows that the clock is right
-- now. Ticks to come that have a `missed` row keep it until their results take its place. `thoroughly` reads all schedules.
-- Returns what was repaired, and how many of each.
CREATE FUNCTION picket.repair_marks(thoroughly boolean) RETURNS TABLE (mark text, repaired bigint)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    moment timestamptz := now();
    -- No clock is that exact, and none of the marks is read that exactly.
    latest timestamptz := now() + interval '1 minute';
    this_hour timestamptz := picket.hour_of(now());
    number bigint;
    shortened bigint;
BEGIN
    -- The last hour is accounted for anew: what was closed by a clock that was ahead was closed too early, and a gap that ends
    -- sooner than was written down may be one whose ticks get rows.
    IF EXISTS (SELECT FROM picket.leases WHERE greatest(scheduled_through, accounted_through) > latest)
       OR EXISTS (SELECT FROM picket.gaps WHERE gap_to > latest) THEN
        -- In order, as everybody locks these rows.
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

    IF EXISTS (SELECT FROM picket.rollup_state WHERE rolled_through > latest OR picket.start_of(days_through) > latest)
       AND picket.rollups_are_ours() THEN
        DELETE FROM picket.rollups_hourly WHERE hour >= this_hour;
        DELETE FROM picket.failures_hourly WHERE hour >= this_hour;
        DELETE FROM picket.rollups_daily WHERE day >= picket.day_of(moment);
        DELETE FROM picket.rollup_days_dirty WHERE day >= picket.day_of(moment);
        DELETE FROM picket.rollups_dirty WHERE hour >= this_hour;
        UPDATE picket.rollup_state SET rolled_through = this_hour, days_through = least(days_through, picket.day_of(moment));
        PERFORM picket.sum_up_today();
        -- Otherwise what is seen from now on would be older and change nothing.
        UPDATE picket.certificates SET seen_at = moment WHERE seen_at > latest;
        -- They may have been rolled up before they were over.
        INSERT INTO picket.rollups_dirty (hour)
        SELECT hour FROM generate_series(this_hour - interval '6 hours', this_hour - interval '1 hour', interval '1 hour') AS hour;
        RETURN QUERY SELECT 'rollups', 1::bigint;
    END IF;

    IF thoroughly THEN
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
REVOKE EXECUTE ON FUNCTION picket.repair_marks FROM PUBLIC;
COMMENT ON FUNCTION picket.repair_marks IS
    'Takes marks that lie in the future, since the clock was ahead once, back to now; for who knows that the clock is right now';

-- Deletes results of ticks that are still to come, the soonest first: their checks were made ahead of time, by a clock that was
-- ahead. If they stayed, what the checks find when the ticks are due would be dropped as a duplicate. For who knows, from other
-- clocks as well, that the clock is right now. Only where the ledger is not closed, so that it accounts for these ticks.
CREATE FUNCTION picket.delete_future_results(piece integer) RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    latest timestamptz := (SELECT greatest(now() + interval '1 minute', max(accounted_through)) FROM picket.leases);
    until timestamptz;
    number bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('picket.prune', 0)) THEN
        RETURN 0;
    END IF;
    SELECT scheduled_at INTO until FROM picket.check_results
    WHERE scheduled_at > latest AND kind = 'scheduled' AND outcome <> 'missed'
    ORDER BY scheduled_at OFFSET piece - 1 LIMIT 1;
    DELETE FROM picket.check_results
    WHERE scheduled_at > latest AND scheduled_at <= coalesce(until, 'infinity') AND kind = 'scheduled' AND outcome <> 'missed';
    GET DIAGNOSTICS number = ROW_COUNT;
    RETURN number;
END $$;
REVOKE EXECUTE ON FUNCTION picket.delete_future_results FROM PUBLIC;
COMMENT ON FUNCTION picket.delete_future_results IS
    'Deletes results of ticks still to come, whose checks were made by a clock that was ahead; for who knows that the clock is right now';
