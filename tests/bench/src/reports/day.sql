-- One day of UTC, {back} days ago: its hours, in the order in which they would have been written, and its failures.
SELECT picket.ensure_rollups(picket.start_of_day(picket.day_of(now()) - {back}));
INSERT INTO picket.rollups_hourly (
    site_id, hour, region_id, up, down, dns_us, connect_us, tls_us, first_byte_us, histogram, p50, p95, p99)
SELECT site_id, hour, region_id, up, down, total_us * 0.1, total_us * 0.2, total_us * 0.3, total_us * 0.4, histogram,
       p50, p95, p99
FROM generate_series(picket.start_of_day(picket.day_of(now()) - {back}),
                     least(picket.start_of_day(picket.day_of(now()) - {back} + 1), picket.hour_of(now())) - interval '1 hour',
                     interval '1 hour') AS hour
JOIN shapes ON shapes.variant = (shapes.site_id + extract(epoch FROM hour)::bigint / 3600) % 8;
INSERT INTO picket.failures_hourly (hour, site_id, region_id, cause, checks)
SELECT hour, site_id, region_id, 'status', down
FROM picket.rollups_hourly
WHERE hour >= picket.start_of_day(picket.day_of(now()) - {back}) AND hour < picket.start_of_day(picket.day_of(now()) - {back} + 1)
  AND down > 0;
UPDATE picket.rollup_state SET days_through = picket.day_of(now()) - {back},
    rolled_through = least(picket.start_of_day(picket.day_of(now()) - {back} + 1), picket.hour_of(now()));
SELECT picket.roll_up_day();
SELECT picket.rebuild_rollups_today();
