-- Computes the ticks of the schedules in force and looks them up by primary key, which begins with
-- the time.
SELECT schedule.site_id, recent.scheduled_at, region.name, recent.outcome::text, recent.cause::text, recent.message,
       recent.http_status, recent.total_us / 1000.0::float8
FROM picket.schedules AS schedule
JOIN picket.regions AS region ON region.id = schedule.region_id
CROSS JOIN LATERAL (
    SELECT result.scheduled_at, result.outcome, result.cause, result.message, result.http_status, result.total_us
    -- Includes one tick more than displayed, because the newest tick may still be running.
    FROM generate_series(0, $2) AS age
    JOIN picket.check_results AS result
      ON result.scheduled_at = to_timestamp(0) + interval '1 millisecond' * (
             (floor((extract(epoch FROM coalesce($3::timestamptz, now())) * 1000 - schedule.phase_ms) / schedule.interval_ms)::bigint - age)
             * schedule.interval_ms + schedule.phase_ms)
     AND result.site_id = schedule.site_id AND result.region_id = schedule.region_id AND result.kind = 'scheduled'
    ORDER BY result.scheduled_at DESC LIMIT $2
) AS recent
WHERE schedule.site_id = ANY ($1)
  AND CASE WHEN $3::timestamptz IS NULL THEN schedule.valid_to IS NULL
           ELSE schedule.valid_from <= $3 AND (schedule.valid_to IS NULL OR schedule.valid_to > $3) END
ORDER BY schedule.site_id, recent.scheduled_at DESC, region.name
