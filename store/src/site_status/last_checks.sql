-- Computes the ticks of the schedules in force and looks them up by primary key, which begins with
-- the time.
SELECT result.scheduled_at, region.name, result.outcome::text, result.cause::text, result.message,
       result.http_status, result.total_us / 1000.0::float8
FROM picket.schedules AS schedule
JOIN picket.regions AS region ON region.id = schedule.region_id
-- Includes one tick more than displayed, because the newest tick may still be running.
CROSS JOIN generate_series(0, $2) AS age
JOIN picket.check_results AS result
  ON result.scheduled_at = to_timestamp(0) + interval '1 millisecond' * (
         (floor((extract(epoch FROM coalesce($3::timestamptz, now())) * 1000 - schedule.phase_ms) / schedule.interval_ms)::bigint - age)
         * schedule.interval_ms + schedule.phase_ms)
 AND result.site_id = schedule.site_id AND result.region_id = schedule.region_id AND result.kind = 'scheduled'
WHERE schedule.site_id = $1
  AND CASE WHEN $3::timestamptz IS NULL THEN schedule.valid_to IS NULL
           ELSE schedule.valid_from <= $3 AND (schedule.valid_to IS NULL OR schedule.valid_to > $3) END
ORDER BY result.scheduled_at DESC, region.name
LIMIT $2 * (SELECT count(*) FROM picket.schedules
            WHERE site_id = $1
              AND CASE WHEN $3::timestamptz IS NULL THEN valid_to IS NULL
                       ELSE valid_from <= $3 AND (valid_to IS NULL OR valid_to > $3) END)
