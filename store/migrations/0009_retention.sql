-- What is thrown away when: a day of results at once, by dropping its partition; the rest in pieces.

-- Drops one day of results that ended more than `days` days ago and an hour (a sink that took a row in time shall find its
-- partition), and whose rows are in the rollups; returns it, or null if there is none. Fails soon if the table is busy:
-- whoever wants to write waits behind who waits for this lock.
CREATE FUNCTION picket.drop_results(days integer) RETURNS date
    LANGUAGE plpgsql AS $$
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
    THEN
        RETURN NULL;
    END IF;
    PERFORM set_config('lock_timeout', '300ms', true);
    EXECUTE format('DROP TABLE picket.%I', 'check_results_' || to_char(oldest, 'YYYYMMDD'));
    RETURN oldest;
END $$;

-- Drops one month of hourly rollups that ended more than `days` days ago; returns it, or null if there is none.
CREATE FUNCTION picket.drop_rollups(days integer) RETURNS date
    LANGUAGE plpgsql AS $$
DECLARE
    oldest date;
BEGIN
    IF NOT picket.rollups_are_ours() THEN
        RETURN NULL;
    END IF;
    SELECT min(to_date(right(partition.relname, 6), 'YYYYMM')) INTO oldest
    FROM pg_inherits JOIN pg_class AS partition ON partition.oid = inhrelid
    WHERE inhparent = 'picket.rollups_hourly'::regclass;
    IF oldest IS NULL OR oldest + interval '1 month' > (now() - days * interval '1 day') AT TIME ZONE 'UTC' THEN
        RETURN NULL;
    END IF;
    PERFORM set_config('lock_timeout', '300ms', true);
    EXECUTE format('DROP TABLE picket.%I', 'rollups_hourly_' || to_char(oldest, 'YYYYMM'));
    RETURN oldest;
END $$;

-- Deletes what has outlived its time and is no day's or month's partition, at most `piece` rows of each; returns how many
-- that were. What is kept as long as results: ad-hoc results, dead letters, gaps, schedules that have ended. As long as
-- rollups: days, failures, certificates nobody sees any more, sites that are gone.
CREATE FUNCTION picket.prune(days integer, rollup_days integer, piece integer) RETURNS bigint
    LANGUAGE plpgsql AS $$
DECLARE
    results_since timestamptz := least(now() - days * interval '1 day', picket.kept_since());
    rollups_since timestamptz := now() - greatest(days, rollup_days) * interval '1 day';
    rule record;
    number bigint;
    pruned bigint := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('picket.prune', 0)) THEN
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
        ('retired_sites', 'retired_at < $1', rollups_since)
    ) AS rules (relation, condition, since) LOOP
        EXECUTE format(
            'DELETE FROM picket.%1$I WHERE ctid = ANY (ARRAY(SELECT ctid FROM picket.%1$I WHERE %2$s LIMIT $2))',
            rule.relation, rule.condition) USING rule.since, piece;
        GET DIAGNOSTICS number = ROW_COUNT;
        pruned := pruned + number;
    END LOOP;
    RETURN pruned;
END $$;
