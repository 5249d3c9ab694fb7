-- Certificates of sites with one of the tags $1 (null: of all) and at most $2 days left, after the
-- position ($3, $4), at most $5. From the rollups, and not as report.certificates from all rows since:
-- those of one schedule are read only if it is so new that its certificate is not in the rollups yet.
WITH not_rolled_up AS MATERIALIZED (
    SELECT schedule.*
    FROM picket.schedules AS schedule
    JOIN picket.sites AS site ON site.id = schedule.site_id
    WHERE schedule.valid_to IS NULL
      AND schedule.valid_from > (SELECT rolled_through FROM picket.rollup_state) - interval '1 hour'
      AND schedule.valid_from <= now()
      AND ($1::text[] IS NULL OR site.tags && $1) AND site.url ILIKE 'https:%'
      AND NOT EXISTS (SELECT FROM picket.certificates AS known
                      WHERE known.site_id = schedule.site_id AND known.region_id = schedule.region_id OFFSET 0)
),
newest AS MATERIALIZED (
    SELECT schedule.site_id, min(seen.tls_expires_at) AS expires_at
    FROM not_rolled_up AS schedule
    CROSS JOIN LATERAL (
        SELECT result.tls_expires_at FROM picket.check_results AS result
        WHERE result.scheduled_at = ANY (ARRAY(
                  SELECT picket.ticks(schedule.interval_ms, schedule.phase_ms, schedule.valid_from, now(),
                                      now() - 6 * schedule.interval_ms * interval '1 millisecond', now())))
          AND result.site_id = schedule.site_id AND result.region_id = schedule.region_id AND result.kind = 'scheduled'
          AND result.tls_expires_at IS NOT NULL
        ORDER BY result.scheduled_at DESC LIMIT 1
    ) AS seen
    WHERE isfinite(seen.tls_expires_at)
    GROUP BY schedule.site_id
),
-- In the order of an index, so that a page reads no more than its rows. Certificates that a region
-- received more than two days ago are not current.
rolled_up AS (
    SELECT known.site_id, known.expires_at
    FROM picket.certificates AS known
    JOIN picket.sites AS site ON site.id = known.site_id
    WHERE ($1::text[] IS NULL OR site.tags && $1)
      AND ($2::integer IS NULL OR known.expires_at < now() + (1 + greatest(least($2, 1000000), -700000)) * interval '24 hours')
      AND ($3::timestamptz IS NULL OR (known.expires_at, known.site_id) > ($3, $4::bigint))
      AND isfinite(known.expires_at) AND known.seen_at > now() - interval '2 days'
      AND NOT EXISTS (
          SELECT FROM picket.certificates AS earlier
          WHERE earlier.site_id = known.site_id AND isfinite(earlier.expires_at) AND earlier.seen_at > now() - interval '2 days'
            AND (earlier.expires_at, earlier.region_id) < (known.expires_at, known.region_id)
          OFFSET 0)
      AND NOT EXISTS (SELECT FROM newest WHERE newest.site_id = known.site_id AND newest.expires_at <= known.expires_at)
    ORDER BY known.expires_at, known.site_id LIMIT $5
),
seen AS (
    SELECT site_id, expires_at FROM rolled_up
    UNION ALL
    SELECT newest.site_id, newest.expires_at
    FROM newest
    WHERE ($2::integer IS NULL OR newest.expires_at < now() + (1 + greatest(least($2, 1000000), -700000)) * interval '24 hours')
      AND ($3::timestamptz IS NULL OR (newest.expires_at, newest.site_id) > ($3, $4::bigint))
      AND NOT EXISTS (
          SELECT FROM picket.certificates AS earlier
          WHERE earlier.site_id = newest.site_id AND isfinite(earlier.expires_at) AND earlier.seen_at > now() - interval '2 days'
            AND earlier.expires_at < newest.expires_at)
)
SELECT seen.site_id, left(coalesce(site.name, site.url), 1000) AS site, left(site.url, 4096) AS url, seen.expires_at,
       floor(extract(epoch FROM seen.expires_at - now()) / 86400)::integer AS days_left
FROM seen JOIN picket.sites AS site ON site.id = seen.site_id
ORDER BY seen.expires_at, seen.site_id LIMIT $5
