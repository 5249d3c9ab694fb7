-- Up checks by part of the span and region, from rows found by the index that begins with the
-- quarter of an hour. $1 is the site, $2 and $3 the span, $4 the region and $5 the width.
SELECT summed."from", summed.region, summed.checks, p[1] AS p50_us, p[2] AS p95_us, p[3] AS p99_us, summed.dns_us,
       summed.connect_us, summed.tls_us, summed.first_byte_us
FROM (
    SELECT date_bin($5::text::interval, result.scheduled_at, $2) AS "from", region.name AS region, count(*) AS checks,
           percentile_disc('{0.5,0.95,0.99}'::float8[]) WITHIN GROUP (ORDER BY result.total_us) AS p,
           avg(result.dns_us)::float8 AS dns_us, avg(result.connect_us)::float8 AS connect_us,
           avg(result.tls_us)::float8 AS tls_us, avg(result.first_byte_us)::float8 AS first_byte_us
    FROM generate_series(date_bin('15 minutes', $2, timestamptz '2000-01-01 00:00Z'),
                         $3 - interval '1 microsecond', interval '15 minutes') AS quarter
    CROSS JOIN LATERAL (
        SELECT * FROM picket.check_results AS kept
        WHERE date_bin('15 minutes', kept.scheduled_at, timestamptz '2000-01-01 00:00Z') = quarter
          AND kept.scheduled_at >= quarter AND kept.scheduled_at < quarter + interval '15 minutes'
          AND kept.site_id = $1 AND kept.scheduled_at >= $2 AND kept.scheduled_at < $3
          AND kept.kind = 'scheduled' AND kept.outcome = 'up'
        OFFSET 0
    ) AS result
    JOIN picket.regions AS region ON region.id = result.region_id
    WHERE $4::text IS NULL OR region.name = $4
    GROUP BY 1, region.name
) AS summed
ORDER BY summed."from", summed.region
