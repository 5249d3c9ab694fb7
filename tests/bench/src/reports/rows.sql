-- One hour of rows, {back} hours ago, as the probers would have sent them.
INSERT INTO picket.check_results (
    scheduled_at, site_id, region_id, kind, outcome, cause, lateness_us, tls_expires_at, dns_us, connect_us, tls_us,
    first_byte_us, transfer_us, total_us, body_bytes, http_status, http_version, remote_addr, prober)
SELECT tick, site_id, region_id, 'scheduled', CASE WHEN bad THEN 'down' ELSE 'up' END::picket.outcome,
       CASE WHEN bad THEN 'status' END::picket.cause, 4000, now() + interval '60 days', 1200, 8100, 9500, 15200, 300,
       34000 + 100 * region_id, 1256, CASE WHEN bad THEN 500 ELSE 200 END, '2', '93.184.216.34:443', 'prober-' || region_id
FROM (
    SELECT tick, site_id, region_id, picket.micros(tick) / 60000000 % 100 = site_id % 100 AS bad
    FROM picket.schedules AS schedule
    CROSS JOIN picket.ticks(interval_ms, phase_ms, valid_from, now(), now() - interval '{back} hours',
                            now() - interval '{back} hours' + interval '1 hour') AS tick
) AS due
ORDER BY tick
ON CONFLICT DO NOTHING;
