-- A fleet for measurements of pages: {sites} sites in three regions, checked each minute. All of them have a summary; every
-- {sample}th also has rollups of 90 days and rows of six hours. One in 200 is down, one in 100 paused, one in 500 unknown.
INSERT INTO picket.regions (name) VALUES ('eu-west'), ('us-east'), ('ap-south') ON CONFLICT DO NOTHING;
INSERT INTO picket.sites (url, name, interval_seconds, tags, enabled)
SELECT 'https://' || (ARRAY['www', 'shop', 'api', 'blog', 'status'])[1 + n % 5] || '-' || md5(n::text)::varchar(8) || '.example/',
       CASE WHEN n % 3 > 0 THEN (ARRAY['Shop', 'Journal', 'Portal', 'Clinic'])[1 + n % 4] || ' ' || n END, 60,
       ARRAY['team-' || n % 100, 'customer-' || n % 1000] || CASE WHEN n % 10 = 0 THEN ARRAY['gold'] ELSE '{}' END,
       n % 100 <> 1
FROM generate_series(1, {sites}) AS n;
UPDATE picket.sites SET created_at = now() - interval '200 days';
UPDATE picket.schedules SET valid_from = now() - interval '91 days' WHERE valid_to IS NULL;
SELECT picket.ensure_partitions(3, 7);
SELECT picket.ensure_rollups(now() - back * interval '1 month') FROM generate_series(0, 3) AS back;

-- Progress first, which marks all sites; their statistics are written below.
UPDATE picket.rollup_state SET rolled_through = picket.hour_of(now()), days_through = picket.day_of(now());
DELETE FROM picket.site_summaries_dirty;
UPDATE picket.site_statistics SET
    (uptime_24h_pct, uptime_7d_pct, uptime_30d_pct, uptime_90d_pct, coverage_24h_pct, coverage_7d_pct, coverage_30d_pct,
     coverage_90d_pct, p50_us, p95_us, days) = (
        SELECT CASE WHEN chance % 3 = 0 THEN trunc(1e6 - chance % 90000) / 1e4 ELSE 100 END,
               CASE WHEN chance % 2 = 0 THEN trunc(1e6 - chance % 50000) / 1e4 ELSE 100 END,
               trunc(1e6 - chance % 20000) / 1e4, trunc(1e6 - chance % 10000) / 1e4,
               100, trunc(1e6 - chance % 7000) / 1e4, trunc(1e6 - chance % 3000) / 1e4, trunc(1e6 - chance % 2000) / 1e4,
               picket.bucket_us((40 + chance % 40)::smallint), picket.bucket_us((60 + chance % 50)::smallint),
               repeat('-', 165) || translate(repeat(substr(md5(site_id::text), 1, 20), 10), '0123456789abcdef', 'uuuuuuuuupuuumgd')
        FROM (SELECT picket.hash32('site ' || site_id) AS chance) AS drawn);
UPDATE picket.site_conditions SET state = 'up', state_since = now() - picket.hash32('since ' || site_id) % 8000000 * interval '1 second'
WHERE state = 'unknown' AND site_id % 500 <> 2;
INSERT INTO picket.incidents (site_id, opened_at, closed_at, first_failure_at, cause, message, regions)
SELECT id, now() - back * interval '9 days' - interval '50 minutes', now() - back * interval '9 days' - interval '20 minutes',
       now() - back * interval '9 days' - interval '51 minutes', 'timeout', 'no answer within 10 s', '{eu-west,us-east}'
FROM picket.sites CROSS JOIN generate_series(1, 3) AS back WHERE id % 20 = 7;
INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, cause, message, regions)
SELECT id, now() - interval '20 minutes', now() - interval '21 minutes', 'status', 'status 500', '{eu-west,us-east}'
FROM picket.sites WHERE id % 200 = 7 AND enabled;
INSERT INTO picket.warnings (site_id, opened_at, first_warned_at, kind, message, regions)
SELECT id, now() - interval '2 days', now() - interval '2 days', 'certificate', 'the certificate ends in 9 days', '{eu-west}'
-- As many in each database, since the page lists all that are open.
FROM picket.sites WHERE id % (SELECT CASE WHEN count(*) < 1000 THEN 300 ELSE count(*) / 100 END FROM picket.sites) = 8;

-- Rollups and rows of the sample.
INSERT INTO picket.rollups_hourly (site_id, hour, region_id, up, down, dns_us, connect_us, tls_us, first_byte_us, histogram, p50, p95, p99)
SELECT site_id, hour, region_id, 59 + (NOT bad)::integer, bad::integer, 60000, 500000, 600000, 900000,
       40 * low.unit + (19 + (NOT bad)::integer) * high.unit, low.bucket, high.bucket, high.bucket
FROM picket.schedules
CROSS JOIN generate_series(picket.start_of_day(picket.day_of(now()) - 90), picket.hour_of(now()) - interval '1 hour', interval '1 hour') AS hour
CROSS JOIN LATERAL (SELECT picket.hash32(site_id || ' ' || hour) AS chance) AS drawn
CROSS JOIN LATERAL (SELECT chance % 50 = 0 AS bad) AS judged
JOIN picket.histogram_units AS low ON low.bucket = 50 + chance % 8
JOIN picket.histogram_units AS high ON high.bucket = 70 + chance % 5
WHERE valid_to IS NULL AND site_id % {sample} = 7;
INSERT INTO picket.failures_hourly (hour, site_id, region_id, cause, checks)
SELECT hour, site_id, region_id, 'status', down FROM picket.rollups_hourly WHERE down > 0;
INSERT INTO picket.rollups_daily (site_id, day, region_id, up, down, missed, gap, up_in_maintenance, down_in_maintenance, histogram, p50, p95, p99)
SELECT summed.*, p[3], p[2], p[1]
FROM (
    SELECT site_id, picket.day_of(hour), region_id, sum(up) AS up, sum(down), 0, 0, 0, 0, sum(histogram) AS histogram
    FROM picket.rollups_hourly WHERE hour < picket.start_of_day(picket.day_of(now())) GROUP BY site_id, picket.day_of(hour), region_id
) AS summed
CROSS JOIN LATERAL picket.percentile_buckets(summed.histogram, summed.up, '{0.99,0.95,0.5}') AS p;
SELECT picket.rebuild_rollups_today();
INSERT INTO picket.check_results (
    scheduled_at, site_id, region_id, kind, outcome, cause, lateness_us, tls_expires_at, dns_us, connect_us, tls_us,
    first_byte_us, transfer_us, total_us, body_bytes, http_status, http_version, remote_addr, prober)
SELECT tick, site_id, region_id, 'scheduled', CASE WHEN bad THEN 'down' ELSE 'up' END::picket.outcome,
       CASE WHEN bad THEN 'status' END::picket.cause, 4000, now() + interval '60 days', 1200, 8100, 9500, 15200, 300,
       34000 + 100 * region_id, 1256, CASE WHEN bad THEN 500 ELSE 200 END, '2', '93.184.216.34:443', 'prober-' || region_id
FROM picket.schedules
CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, now(), now() - interval '6 hours', now()) AS tick
CROSS JOIN LATERAL (SELECT picket.hash32(tick::text || site_id) % 100 = 0 AS bad) AS judged
WHERE valid_to IS NULL AND site_id % {sample} = 7
ORDER BY tick
ON CONFLICT DO NOTHING;
INSERT INTO picket.certificates (site_id, region_id, expires_at, seen_at)
SELECT site_id, region_id, now() + interval '60 days', now() FROM picket.schedules WHERE valid_to IS NULL AND site_id % {sample} = 7;
VACUUM ANALYZE;
