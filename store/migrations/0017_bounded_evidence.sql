-- What a site's regions have said is looked up around the new results, and not over the whole span between them: a message
-- may claim two moments a month apart.

-- The real results of a schedule around each of these moments, and those of its newest ticks. Moments that are close share
-- a range, and of many ranges the newest eight are looked up: so the work goes with the number of results, and a site of
-- which the results of hours are stored at once is still judged as it would have been in time. What time it is says the caller,
-- since the database's clock may be behind that by which the checks were scheduled.
CREATE FUNCTION picket.seen_around(
    of_site bigint, of_region smallint, interval_ms integer, phase_ms integer, valid_from timestamptz,
    moments timestamptz[], present timestamptz) RETURNS picket.seen_times
    LANGUAGE sql STABLE
    AS $$
        WITH around AS (
            SELECT range FROM unnest((
                -- Before a result for what it follows, after it since what comes late may have been overtaken.
                SELECT range_agg(tstzrange(
                    moment - picket.reporting_window(interval_ms), least(moment + picket.reporting_window(interval_ms), present)))
                FROM unnest(moments) AS moment WHERE moment <= present
            )) AS range
            ORDER BY range DESC LIMIT 8
        )
        SELECT array_agg(result.scheduled_at) FILTER (WHERE result.outcome = 'down'),
               array_agg(result.scheduled_at) FILTER (WHERE result.outcome = 'up')
        FROM (
            SELECT picket.ticks(interval_ms, phase_ms, valid_from, 'infinity', lower(around.range), upper(around.range))
            FROM around
            UNION
            SELECT picket.ticks(interval_ms, phase_ms, valid_from, 'infinity',
                                present - 6 * interval_ms * interval '1 millisecond', present)
        ) AS tick (at)
        CROSS JOIN LATERAL (
            SELECT kept.scheduled_at, kept.outcome FROM picket.check_results AS kept
            WHERE kept.scheduled_at = tick.at AND kept.site_id = of_site AND kept.region_id = of_region
              AND kept.kind = 'scheduled' AND kept.outcome <> 'missed'
            OFFSET 0
        ) AS result
    $$;
COMMENT ON FUNCTION picket.seen_around IS
    'When the checks of a schedule were due that were up and down, around each of these moments and lately';
