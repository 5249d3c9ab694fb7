-- A past for the sites of the screenshots, made of what their regions measure now: rollups of 40 days, in which each hour
-- differs a little, and the rows of the last hour before the sites were added. Drawn from hashes of site and hour.
SELECT picket.ensure_rollups(now() - back * interval '1 month') FROM generate_series(0, 2) AS back;
-- Without triggers, so that this is no edit of the sites.
SET LOCAL session_replication_role = replica;
UPDATE picket.sites SET created_at = now() - interval '40 days';
SET LOCAL session_replication_role = origin;

CREATE TEMPORARY TABLE measured AS
SELECT schedule.site_id, schedule.region_id, schedule.shard, schedule.phase_ms, schedule.interval_ms, schedule.valid_from,
       coalesce(own.dns_us, 400) AS dns_us, coalesce(own.connect_us, 150) AS connect_us, coalesce(own.tls_us, 0) AS tls_us,
       coalesce(own.first_byte_us, 2000) AS first_byte_us, coalesce(own.total_us, 4000) AS total_us
FROM picket.schedules AS schedule
LEFT JOIN (SELECT site_id, region_id, avg(dns_us) AS dns_us, avg(connect_us) AS connect_us, avg(tls_us) AS tls_us,
                  avg(first_byte_us) AS first_byte_us, avg(total_us) AS total_us
           FROM picket.check_results WHERE outcome = 'up' GROUP BY site_id, region_id) AS own USING (site_id, region_id)
WHERE schedule.valid_to IS NULL;

-- The interval was changed eleven hours ago. Written by an old transaction, so that no coordinator takes them for schedules
-- that its ledger has not seen, and records their ticks as missed.
INSERT INTO picket.schedules (site_id, region_id, shard, interval_ms, phase_ms, valid_from, valid_to, version, opened_by)
SELECT site_id, region_id, shard, 30000, phase_ms, now() - interval '40 days', now() - interval '11 hours', '3'::xid8, '3'::xid8 FROM measured
UNION ALL
SELECT site_id, region_id, shard, 20000, phase_ms, now() - interval '11 hours', valid_from, '3'::xid8, '3'::xid8 FROM measured;

INSERT INTO picket.rollups_hourly (site_id, hour, region_id, up, down, missed, dns_us, connect_us, tls_us, first_byte_us,
                                   histogram, p50, p95, p99)
SELECT site_id, hour, region_id, up, down, missed, dns_us * up * factor, connect_us * up * factor, tls_us * up * factor,
       first_byte_us * up * factor,
       CASE WHEN up > 0 THEN (SELECT sum(trunc(up * share) * unit) FROM (
           VALUES (bucket, 0.6), (bucket + 1, 0.2), (bucket - 1, 0.1), (bucket + 9, 0.08), (bucket + 14, 0.02)) AS part (of, share)
           JOIN picket.histogram_units AS units ON units.bucket = part.of) END,
       CASE WHEN up > 0 THEN bucket END, CASE WHEN up > 0 THEN bucket + 9 END, CASE WHEN up > 0 THEN bucket + 14 END
FROM measured
CROSS JOIN generate_series(picket.hour_of(now() - interval '40 days'),
                           (SELECT rolled_through FROM picket.rollup_state) - interval '1 hour', interval '1 hour') AS hour
CROSS JOIN LATERAL (
    SELECT 0.85 + 0.3 * (picket.hash32(site_id || ' ' || region_id || ' ' || hour) % 1000) / 1000
           + 0.2 * sin(extract(epoch FROM hour) / 13750) AS factor,
           picket.hash32(site_id || ' ' || hour) % 260 = 0 AS was_bad,
           -- Two hours in which nobody watched.
           hour BETWEEN now() - interval '9 hours' AND now() - interval '6 hours 30 minutes' AS was_missed
) AS drawn
CROSS JOIN LATERAL (
    SELECT CASE WHEN was_missed THEN 0 WHEN was_bad THEN 320 ELSE 360 END AS up,
           CASE WHEN was_bad AND NOT was_missed THEN 40 ELSE 0 END AS down, CASE WHEN was_missed THEN 360 ELSE 0 END AS missed,
           greatest(2, round((log(2, (total_us * factor)::numeric) - 7) * 8))::smallint AS bucket
) AS counted;
INSERT INTO picket.rollups_daily (site_id, day, region_id, up, down, missed, gap, up_in_maintenance, down_in_maintenance,
                                  histogram, p50, p95, p99)
SELECT summed.*, p[3], p[2], p[1]
FROM (
    SELECT site_id, picket.day_of(hour), region_id, sum(up) AS up, sum(down), sum(missed), 0, 0, 0, sum(histogram) AS histogram
    FROM picket.rollups_hourly WHERE hour < picket.start_of_day((SELECT days_through FROM picket.rollup_state))
    GROUP BY site_id, picket.day_of(hour), region_id
) AS summed
CROSS JOIN LATERAL picket.percentile_buckets(summed.histogram, summed.up, '{0.99,0.95,0.5}') AS p
ON CONFLICT DO NOTHING;

INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, lateness_us, dns_us, connect_us, tls_us,
                                  first_byte_us, transfer_us, total_us, http_status, http_version, prober)
SELECT tick, site_id, region_id, 'scheduled', 'up', 3000 + picket.hash32(tick::text) % 2000, dns_us, connect_us,
       nullif(tls_us::integer, 0), first_byte_us, 200, total_us, 200, '1.1', 'prober-' || region_id
FROM measured
CROSS JOIN picket.ticks(20000, phase_ms, now() - interval '75 minutes', valid_from, now() - interval '75 minutes', now()) AS tick
ON CONFLICT DO NOTHING;
SELECT picket.rebuild_rollups_today();
SELECT picket.rebuild_site_summary();
