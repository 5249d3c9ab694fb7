-- Certificates of sites with one of the tags $1 (null: of all) and at most $2 days left, after the
-- position ($3, $4), at most $5. From the rollups, and not as report.certificates from all rows since:
-- those of one schedule are read only if its certificate is not in the rollups yet.
WITH chosen AS MATERIALIZED (
    SELECT site.id, site.name, site.url FROM picket.sites AS site WHERE $1::text[] IS NULL OR site.tags && $1
),
not_rolled_up AS MATERIALIZED (
    SELECT schedule.*
    FROM chosen
    JOIN picket.schedules AS schedule ON schedule.site_id = chosen.id AND schedule.valid_to IS NULL
    WHERE chosen.url ILIKE 'https:%'
      AND NOT EXISTS (SELECT FROM picket.certificates AS known
                      WHERE known.site_id = schedule.site_id AND known.region_id = schedule.region_id)
),
seen AS (
    SELECT chosen.id, known.expires_at
    FROM chosen
    JOIN picket.certificates AS known ON known.site_id = chosen.id
    -- Certificates that a region received more than two days ago are not current.
    WHERE known.seen_at > now() - interval '2 days'
    UNION ALL
    SELECT schedule.site_id, newest.tls_expires_at
    FROM not_rolled_up AS schedule
    CROSS JOIN LATERAL (
        SELECT result.tls_expires_at FROM picket.check_results AS result
        WHERE result.scheduled_at = ANY (ARRAY(
                  SELECT picket.ticks(schedule.interval_ms, schedule.phase_ms, schedule.valid_from, now(),
                                      now() - 6 * schedule.interval_ms * interval '1 millisecond', now())))
          AND result.site_id = schedule.site_id AND result.region_id = schedule.region_id AND result.kind = 'scheduled'
          AND result.tls_expires_at IS NOT NULL
        ORDER BY result.scheduled_at DESC LIMIT 1
    ) AS newest
)
SELECT chosen.id AS site_id, left(coalesce(chosen.name, chosen.url), 1000) AS site, left(chosen.url, 4096) AS url,
       first.expires_at, first.days_left
FROM (
    SELECT seen.id, min(seen.expires_at) AS expires_at,
           floor(extract(epoch FROM min(seen.expires_at) - now()) / 86400)::integer AS days_left
    FROM seen WHERE isfinite(seen.expires_at) GROUP BY seen.id
) AS first
JOIN chosen ON chosen.id = first.id
WHERE ($2::integer IS NULL OR first.days_left <= $2)
  AND ($3::timestamptz IS NULL OR (first.expires_at, first.id) > ($3, $4::bigint))
ORDER BY first.expires_at, first.id LIMIT $5
