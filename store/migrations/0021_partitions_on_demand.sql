-- A result whose day has no partition is not refused for that: whoever stores it has the partition made.

-- Makes the partition of the day in which `at` lies, with those of the days between it and today, if it is one that may have
-- results: a day that is kept, one of the last four (no stream keeps results longer), or tomorrow. Says whether there is one.
CREATE FUNCTION picket.ensure_partition(at timestamptz) RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    today date := picket.day_of(now());
    day date;
BEGIN
    IF NOT isfinite(at) THEN
        RETURN false;
    END IF;
    day := picket.day_of(at);
    IF day > today + 1 OR day < least(picket.day_of(picket.kept_since()), today - 4) THEN
        RETURN false;
    END IF;
    IF to_regclass('picket.check_results_' || to_char(day, 'YYYYMMDD')) IS NULL THEN
        PERFORM picket.ensure_partitions(greatest(today - day, 0), greatest(day - today, 0));
        RAISE LOG 'made the partition of % for a result that came', day;
    END IF;
    RETURN true;
END $$;
REVOKE EXECUTE ON FUNCTION picket.ensure_partition FROM PUBLIC;
COMMENT ON FUNCTION picket.ensure_partition IS
    'Makes the partition of a day that may have results; says whether there is one';
