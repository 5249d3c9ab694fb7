-- The same numbers as report.ledger, whose cost rises with all sites, for one of them. An index
-- finds the rows of a site by quarters of an hour.
WITH span AS (
    SELECT greatest($1::timestamptz, picket.retained_since()) AS since, least($2::timestamptz, now()) AS until
),
planned AS MATERIALIZED (
    SELECT schedule.region_id, schedule.shard, schedule.interval_ms, schedule.phase_ms,
           greatest(schedule.valid_from, span.since) AS after,
           least(coalesce(schedule.valid_to, span.until), span.until) AS through
    FROM span JOIN picket.schedules AS schedule
      ON schedule.valid_from < span.until AND (schedule.valid_to IS NULL OR schedule.valid_to > span.since)
    WHERE schedule.site_id = $3
),
result AS MATERIALIZED (
    SELECT kept.region_id, kept.scheduled_at, kept.outcome
    FROM span
    CROSS JOIN generate_series(date_bin('15 minutes', span.since, timestamptz '2000-01-01 00:00Z'), span.until,
                               interval '15 minutes') AS quarter
    CROSS JOIN LATERAL (
        SELECT stored.region_id, stored.scheduled_at, stored.outcome
        FROM picket.check_results AS stored
        WHERE date_bin('15 minutes', stored.scheduled_at, timestamptz '2000-01-01 00:00Z') = quarter
          AND stored.scheduled_at >= quarter AND stored.scheduled_at < quarter + interval '15 minutes'
          AND stored.site_id = $3 AND stored.scheduled_at > span.since AND stored.scheduled_at <= span.until
          AND stored.kind = 'scheduled'
        OFFSET 0
    ) AS kept
),
expected AS (
    SELECT region_id, sum(picket.tick_count(interval_ms, phase_ms, after, through)) AS ticks FROM planned GROUP BY region_id
),
found AS (
    SELECT planned.region_id,
           count(*) FILTER (WHERE result.outcome = 'up') AS up,
           count(*) FILTER (WHERE result.outcome = 'down') AS down,
           count(*) FILTER (WHERE result.outcome = 'missed') AS missed
    FROM result
    JOIN planned ON planned.region_id = result.region_id
     AND result.scheduled_at > planned.after AND result.scheduled_at <= planned.through
     AND picket.is_tick(result.scheduled_at, planned.interval_ms, planned.phase_ms)
    GROUP BY planned.region_id
),
in_gap AS MATERIALIZED (
    SELECT planned.region_id, planned.interval_ms, planned.phase_ms,
           greatest(planned.after, gap.gap_from) AS after, least(planned.through, gap.gap_to) AS through
    FROM span
    CROSS JOIN picket.recorded_gaps(span.since, span.until) AS gap
    JOIN planned ON planned.shard = gap.shard AND planned.after < gap.gap_to AND planned.through > gap.gap_from
),
-- Ticks in gaps, minus those that have a stored.
gap AS (
    SELECT counted.region_id, sum(counted.ticks) AS ticks
    FROM (
        SELECT region_id, picket.tick_count(interval_ms, phase_ms, after, through) AS ticks FROM in_gap
        UNION ALL
        SELECT in_gap.region_id, -1
        FROM result
        JOIN in_gap ON in_gap.region_id = result.region_id
         AND result.scheduled_at > in_gap.after AND result.scheduled_at <= in_gap.through
         AND picket.is_tick(result.scheduled_at, in_gap.interval_ms, in_gap.phase_ms)
    ) AS counted
    GROUP BY counted.region_id
)
SELECT NULL::bigint AS site_id, region.name AS region, expected.ticks::bigint AS expected,
       coalesce(found.up, 0) AS up, coalesce(found.down, 0) AS down, coalesce(found.missed, 0) AS missed,
       coalesce(gap.ticks, 0)::bigint AS gap,
       (expected.ticks - coalesce(found.up + found.down + found.missed, 0) - coalesce(gap.ticks, 0))::bigint AS unaccounted
FROM expected
JOIN picket.regions AS region ON region.id = expected.region_id
LEFT JOIN found ON found.region_id = expected.region_id
LEFT JOIN gap ON gap.region_id = expected.region_id
WHERE expected.ticks > 0
ORDER BY region.name
