-- The ticks of the sites $3 in ($1, $2], each with its row, if there is one. Each row is looked up by
-- its tick, so that the cost depends on these sites alone. Counts the same as report.ledger.
span AS MATERIALIZED (
    -- Once, and not for each schedule.
    SELECT greatest($1::timestamptz, picket.retained_since()) AS since, least($2::timestamptz, now()) AS until
),
planned AS MATERIALIZED (
    SELECT schedule.site_id, schedule.region_id, schedule.shard, schedule.interval_ms, schedule.phase_ms,
           greatest(schedule.valid_from, span.since) AS after, least(coalesce(schedule.valid_to, span.until), span.until) AS through
    FROM picket.schedules AS schedule
    CROSS JOIN span
    WHERE schedule.site_id = ANY ($3::bigint[])
      AND schedule.valid_from < span.until AND (schedule.valid_to IS NULL OR schedule.valid_to > span.since)
),
gap AS MATERIALIZED (
    SELECT recorded.* FROM span CROSS JOIN picket.recorded_gaps(span.since, span.until) AS recorded
),
tick_rows AS (
    SELECT region.name AS region, result.outcome, result.cause,
           result.outcome IS NULL AND EXISTS (
               SELECT FROM gap WHERE gap.shard = planned.shard AND tick > gap.gap_from AND tick <= gap.gap_to) AS in_gap
    FROM planned
    JOIN picket.regions AS region ON region.id = planned.region_id
    CROSS JOIN LATERAL picket.ticks(planned.interval_ms, planned.phase_ms, planned.after, planned.through,
                                    planned.after, planned.through) AS tick
    LEFT JOIN LATERAL (
        SELECT kept.outcome, kept.cause FROM picket.check_results AS kept
        WHERE kept.scheduled_at = tick AND kept.site_id = planned.site_id AND kept.region_id = planned.region_id
          AND kept.kind = 'scheduled'
        OFFSET 0
    ) AS result ON true
)
