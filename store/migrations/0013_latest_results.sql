-- The newest result of each schedule in force, as before, in a quarter of the time: the six ticks are one search of the key, newest
-- first, which ends where a result is found.
CREATE OR REPLACE VIEW picket.latest_results AS
SELECT
    schedule.site_id, schedule.region_id, latest.scheduled_at, latest.outcome, latest.cause, latest.message, latest.total_us
FROM picket.schedules AS schedule
CROSS JOIN LATERAL (
    SELECT step,
           -- Computed once a schedule, and not once for each of the six.
           date_bin(step, now(), timestamptz 'epoch' + schedule.phase_ms * interval '1 millisecond') AS tick
    FROM (SELECT schedule.interval_ms * interval '1 millisecond' AS step) AS width
    OFFSET 0
) AS newest
LEFT JOIN LATERAL (
    SELECT result.scheduled_at, result.outcome, result.cause, result.message, result.total_us
    FROM picket.check_results AS result
    WHERE result.scheduled_at = ANY (ARRAY[tick, tick - step, tick - 2 * step, tick - 3 * step, tick - 4 * step, tick - 5 * step])
      AND result.site_id = schedule.site_id AND result.region_id = schedule.region_id AND result.kind = 'scheduled'
      AND result.outcome <> 'missed'
    ORDER BY result.scheduled_at DESC
    LIMIT 1
) AS latest ON true
WHERE schedule.valid_to IS NULL;
