-- Views for people and programs that report. Each reads rolled-up data from the rollups and newer
-- data from the rows, and a condition on one site or one month reaches an index of each.

-- The newest result of each schedule in force. Its ticks are computed and not searched for; the
-- last six decide whether a region still reports. They are one search of the key, newest first,
-- which ends at the first result: a quarter of the time of six lookups.
CREATE VIEW picket.latest_results AS
SELECT
    schedule.site_id, schedule.region_id, latest.scheduled_at, latest.outcome, latest.cause, latest.message, latest.total_us
FROM picket.schedules AS schedule
CROSS JOIN LATERAL (
    SELECT step,
           -- The OFFSET computes this once a schedule, and not once for each of the six ticks.
           date_bin(step, now(), timestamptz 'epoch' + schedule.phase_ms * interval '1 millisecond') AS tick
    FROM (SELECT schedule.interval_ms * interval '1 millisecond' AS step) AS width
    OFFSET 0
) AS newest
LEFT JOIN LATERAL (
    SELECT result.scheduled_at, result.outcome, result.cause, result.message, result.total_us
    FROM picket.check_results AS result
    WHERE result.scheduled_at = ANY (ARRAY[tick, tick - step, tick - 2 * step, tick - 3 * step, tick - 4 * step, tick - 5 * step])
      AND result.scheduled_at > schedule.valid_from
      AND result.site_id = schedule.site_id AND result.region_id = schedule.region_id AND result.kind = 'scheduled'
      AND result.outcome <> 'missed'
    ORDER BY result.scheduled_at DESC
    LIMIT 1
) AS latest ON true
WHERE schedule.valid_to IS NULL;

-- Hours of sites: rolled-up hours, and the hour that is being rolled up merged with the rows since.
CREATE VIEW picket.hourly AS
SELECT site_id, region_id, hour, up::bigint, down::bigint, missed::bigint, gap::bigint, up_in_maintenance::bigint,
       down_in_maintenance::bigint, dns_us::float8, connect_us::float8, tls_us::float8, first_byte_us::float8, histogram,
       p50, p95, p99
FROM picket.rollups_hourly
WHERE hour < (SELECT picket.hour_of(rolled_through) FROM picket.rollup_state)
UNION ALL
SELECT site_id, region_id, hour, up, down, missed, gap, up_in_maintenance, down_in_maintenance, dns_us, connect_us, tls_us,
       first_byte_us, histogram, p[3], p[2], p[1]
FROM (
    SELECT site_id, region_id, hour, sum(up)::bigint AS up, sum(down)::bigint AS down, sum(missed)::bigint AS missed,
           sum(gap)::bigint AS gap, sum(up_in_maintenance)::bigint AS up_in_maintenance,
           sum(down_in_maintenance)::bigint AS down_in_maintenance, sum(dns_us) AS dns_us, sum(connect_us) AS connect_us,
           sum(tls_us) AS tls_us, sum(first_byte_us) AS first_byte_us, sum(histogram) AS histogram,
           picket.percentile_buckets(sum(histogram), sum(up)::bigint, '{0.99,0.95,0.5}') AS p
    FROM (
        SELECT site_id, region_id, hour, up, down, missed, gap, up_in_maintenance, down_in_maintenance, dns_us::float8,
               connect_us::float8, tls_us::float8, first_byte_us::float8, histogram
        FROM picket.rollups_hourly
        -- The upper bound lets the planner estimate that this part is small.
        WHERE hour >= (SELECT picket.hour_of(rolled_through) FROM picket.rollup_state)
          AND hour <= (SELECT rolled_through FROM picket.rollup_state)
        UNION ALL
        SELECT site_id, region_id, hour,
               (outcome = 'up')::integer, (outcome = 'down')::integer, (outcome = 'missed')::integer, 0,
               (outcome = 'up' AND in_maintenance)::integer, (outcome = 'down' AND in_maintenance)::integer,
               CASE WHEN outcome = 'up' THEN dns_us END, CASE WHEN outcome = 'up' THEN connect_us END,
               CASE WHEN outcome = 'up' THEN tls_us END, CASE WHEN outcome = 'up' THEN first_byte_us END, unit
        FROM picket.rollup_source
        WHERE scheduled_at >= (SELECT rolled_through FROM picket.rollup_state) AND scheduled_at <= now() + interval '1 hour'
    ) AS part
    GROUP BY site_id, region_id, hour
) AS merged;

-- Days of sites. A day that is not over is its sum so far merged with the rows since.
CREATE VIEW picket.daily AS
SELECT site_id, region_id, day, up::bigint, down::bigint, missed::bigint, gap::bigint, up_in_maintenance::bigint,
       down_in_maintenance::bigint, histogram, p50, p95, p99
FROM picket.rollups_daily
UNION ALL
SELECT site_id, region_id, day, up, down, missed, gap, up_in_maintenance, down_in_maintenance, histogram, p[3], p[2], p[1]
FROM (
    SELECT site_id, region_id, day, sum(up)::bigint AS up, sum(down)::bigint AS down, sum(missed)::bigint AS missed,
           sum(gap)::bigint AS gap, sum(up_in_maintenance)::bigint AS up_in_maintenance,
           sum(down_in_maintenance)::bigint AS down_in_maintenance, sum(histogram) AS histogram,
           picket.percentile_buckets(sum(histogram), sum(up)::bigint, '{0.99,0.95,0.5}') AS p
    FROM (
        SELECT site_id, region_id, day, up, down, missed, gap, up_in_maintenance, down_in_maintenance, histogram
        FROM picket.rollups_today
        UNION ALL
        SELECT site_id, region_id, picket.day_of(hour), up, down, missed, gap, up_in_maintenance, down_in_maintenance,
               histogram
        FROM picket.hourly
        WHERE hour >= (SELECT picket.hour_of(rolled_through) FROM picket.rollup_state) AND hour <= now() + interval '1 hour'
    ) AS part
    GROUP BY site_id, region_id, day
) AS merged;

-- Incidents by site, and by each month that they reach into.
CREATE VIEW picket.monthly_downtime AS
SELECT
    incident.site_id, month.first AS month,
    count(*) FILTER (WHERE picket.month_of(picket.day_of(incident.opened_at)) = month.first) AS incidents,
    sum(least(coalesce(incident.closed_at, now()), picket.start_of_day((month.first + interval '1 month')::date))
        - greatest(incident.opened_at, picket.start_of_day(month.first))) AS downtime
FROM picket.incidents AS incident
CROSS JOIN LATERAL (
    SELECT at::date AS first
    FROM generate_series(picket.month_of(picket.day_of(incident.opened_at))::timestamp,
                         coalesce(incident.closed_at, now()) AT TIME ZONE 'UTC', interval '1 month') AS at
) AS month
GROUP BY incident.site_id, month.first;

-- Checks that were not up, by site and hour.
CREATE VIEW picket.hourly_failures AS
SELECT hour, site_id, region_id, cause, checks FROM picket.failures_hourly
UNION ALL
SELECT picket.hour_of(scheduled_at), site_id, region_id, cause, 1 FROM picket.tick_results
WHERE scheduled_at >= (SELECT rolled_through FROM picket.rollup_state) AND scheduled_at <= now() + interval '1 hour'
  AND outcome <> 'up' AND cause IS NOT NULL;

CREATE VIEW report.checks AS
SELECT
    result.site_id,
    site.site,
    site.url,
    region.name AS region,
    result.kind,
    result.scheduled_at,
    result.scheduled_at + result.lateness_us * interval '1 microsecond' AS started_at,
    result.lateness_us / 1000.0 AS lateness_ms,
    result.outcome,
    result.cause,
    result.message,
    result.http_status,
    result.dns_us / 1000.0 AS dns_ms,
    result.connect_us / 1000.0 AS connect_ms,
    result.tls_us / 1000.0 AS tls_ms,
    result.first_byte_us / 1000.0 AS first_byte_ms,
    result.transfer_us / 1000.0 AS transfer_ms,
    result.total_us / 1000.0 AS total_ms,
    result.body_bytes,
    result.regex_matched,
    result.tls_expires_at,
    result.remote_addr,
    result.prober
FROM picket.check_results AS result
JOIN picket.regions AS region ON region.id = result.region_id
LEFT JOIN picket.known_sites AS site ON site.id = result.site_id;
COMMENT ON VIEW report.checks IS
    'One row for each check: every tick of every schedule, and confirmation checks';
COMMENT ON COLUMN report.checks.site_id IS 'The site''s number';
COMMENT ON COLUMN report.checks.site IS 'The site''s name, or its URL';
COMMENT ON COLUMN report.checks.url IS 'The URL that is checked';
COMMENT ON COLUMN report.checks.region IS 'Region of the prober';
COMMENT ON COLUMN report.checks.kind IS
    'scheduled (a tick), or confirm (requested when the site began to fail)';
COMMENT ON COLUMN report.checks.scheduled_at IS 'Due time of the check (the tick)';
COMMENT ON COLUMN report.checks.started_at IS 'Start of the check; null if it never started';
COMMENT ON COLUMN report.checks.lateness_ms IS 'From scheduled_at to started_at';
COMMENT ON COLUMN report.checks.outcome IS 'up, down, or missed (a failure of Picket, not of the site)';
COMMENT ON COLUMN report.checks.cause IS 'Reason of a check that was not up; one word of a fixed list';
COMMENT ON COLUMN report.checks.message IS 'The cause in words';
COMMENT ON COLUMN report.checks.http_status IS 'Status of the last response';
COMMENT ON COLUMN report.checks.dns_ms IS 'Time to resolve the name; null for a literal address';
COMMENT ON COLUMN report.checks.connect_ms IS 'Time to connect';
COMMENT ON COLUMN report.checks.tls_ms IS 'Time of the TLS handshake; null for plain HTTP';
COMMENT ON COLUMN report.checks.first_byte_ms IS
    'From the established connection to the head of the response';
COMMENT ON COLUMN report.checks.transfer_ms IS 'From the head of the response to the end of its body';
COMMENT ON COLUMN report.checks.total_ms IS 'Time of the whole check; phases are summed over redirects';
COMMENT ON COLUMN report.checks.body_bytes IS 'Bytes of the decoded body that were read';
COMMENT ON COLUMN report.checks.regex_matched IS 'Whether the regex matched; null without a regex';
COMMENT ON COLUMN report.checks.tls_expires_at IS 'Expiry of the certificate';
COMMENT ON COLUMN report.checks.remote_addr IS 'Address and port of the last connection';
COMMENT ON COLUMN report.checks.prober IS 'The prober that ran the check';

CREATE VIEW report.site_status AS
SELECT
    site.id AS site_id,
    coalesce(site.name, site.url) AS site,
    site.url,
    CASE
        WHEN NOT site.enabled THEN 'paused'
        WHEN incident.incident_id IS NOT NULL THEN 'down'
        WHEN regions.up + regions.down = 0 THEN 'unknown'
        -- In maintenance no incident opens, and a failing site is down all the same.
        WHEN regions.down >= coalesce(site.quorum, (regions.up + regions.down) / 2 + 1)
             AND picket.in_maintenance(site.id, now()) THEN 'down'
        ELSE 'up'
    END AS status,
    CASE
        WHEN NOT site.enabled THEN NULL
        WHEN incident.incident_id IS NOT NULL THEN incident.opened_at
        WHEN regions.up + regions.down = 0 THEN NULL
        ELSE coalesce(
            (SELECT max(before.closed_at) FROM picket.incidents AS before WHERE before.site_id = site.id),
            regions.watched_since)
    END AS since,
    regions.last_check_at,
    regions.up AS regions_up,
    regions.down AS regions_down,
    regions.silent AS regions_silent,
    incident.incident_id
FROM picket.sites AS site
LEFT JOIN picket.incidents AS incident ON incident.site_id = site.id AND incident.closed_at IS NULL
CROSS JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE latest.outcome = 'up') AS up,
        count(*) FILTER (WHERE latest.outcome = 'down') AS down,
        count(*) FILTER (WHERE latest.outcome IS NULL) AS silent,
        max(latest.scheduled_at) AS last_check_at,
        (SELECT min(schedule.valid_from) FROM picket.schedules AS schedule WHERE schedule.site_id = site.id) AS watched_since
    FROM picket.latest_results AS latest
    WHERE latest.site_id = site.id
) AS regions;
COMMENT ON VIEW report.site_status IS 'One row for each site: its present state';
COMMENT ON COLUMN report.site_status.site_id IS 'The site''s number';
COMMENT ON COLUMN report.site_status.site IS 'The site''s name, or its URL';
COMMENT ON COLUMN report.site_status.url IS 'The URL that is checked';
COMMENT ON COLUMN report.site_status.status IS
    'up, down (an incident is open, or the site fails in maintenance), unknown (no region reports) or paused';
COMMENT ON COLUMN report.site_status.since IS
    'Start of the status: the incident''s opening, the last incident''s closing, or the first schedule; null if unknown';
COMMENT ON COLUMN report.site_status.last_check_at IS
    'Due time of the newest check with a result, of the last six ticks of each region';
COMMENT ON COLUMN report.site_status.regions_up IS 'Regions whose newest result is up';
COMMENT ON COLUMN report.site_status.regions_down IS 'Regions whose newest result is down';
COMMENT ON COLUMN report.site_status.regions_silent IS
    'Regions with only missed results in their last six ticks';
COMMENT ON COLUMN report.site_status.incident_id IS 'The open incident; null for none';

CREATE VIEW report.incidents AS
SELECT
    incident.incident_id,
    incident.site_id,
    site.site,
    site.url,
    incident.opened_at,
    incident.closed_at,
    coalesce(incident.closed_at, greatest(now(), incident.opened_at)) - incident.opened_at AS duration,
    incident.first_failure_at,
    incident.cause,
    incident.message,
    incident.regions
FROM picket.incidents AS incident
LEFT JOIN picket.known_sites AS site ON site.id = incident.site_id;
COMMENT ON VIEW report.incidents IS 'One row for each incident';
COMMENT ON COLUMN report.incidents.incident_id IS 'The incident''s number';
COMMENT ON COLUMN report.incidents.site_id IS 'The site''s number';
COMMENT ON COLUMN report.incidents.site IS 'The site''s name, or its URL';
COMMENT ON COLUMN report.incidents.url IS 'The URL that is checked';
COMMENT ON COLUMN report.incidents.opened_at IS
    'Due time of the check that made the site down: failures in a row, in a quorum of the reporting regions';
COMMENT ON COLUMN report.incidents.closed_at IS
    'Due time of the check that made the site up again; null while it is down';
COMMENT ON COLUMN report.incidents.duration IS 'From opened_at to closed_at, or to now';
COMMENT ON COLUMN report.incidents.first_failure_at IS 'Due time of the first of the failing checks';
COMMENT ON COLUMN report.incidents.cause IS 'Cause in the region that failed first';
COMMENT ON COLUMN report.incidents.message IS 'The cause in words';
COMMENT ON COLUMN report.incidents.regions IS 'The regions that were down when the incident opened';

CREATE VIEW report.sites AS
SELECT id AS site_id, coalesce(name, url) AS site, url, tags, regions, interval_seconds, enabled, problem, created_at
FROM picket.sites;
COMMENT ON VIEW report.sites IS 'One row for each site, also if it is paused';
COMMENT ON COLUMN report.sites.site_id IS 'The site''s number';
COMMENT ON COLUMN report.sites.site IS 'The site''s name, or its URL';
COMMENT ON COLUMN report.sites.url IS 'The URL that is checked';
COMMENT ON COLUMN report.sites.tags IS 'Tags of the site';
COMMENT ON COLUMN report.sites.regions IS 'Regions that check the site; empty for all';
COMMENT ON COLUMN report.sites.interval_seconds IS 'Interval between the checks of each region';
COMMENT ON COLUMN report.sites.enabled IS 'False while the site is paused';
COMMENT ON COLUMN report.sites.problem IS 'The reason why the site cannot be checked; null for none';
COMMENT ON COLUMN report.sites.created_at IS 'Creation time of the site';

CREATE VIEW report.uptime_daily AS
SELECT
    daily.day, daily.site_id, site.site, region.name AS region,
    daily.up + daily.down + daily.missed + daily.gap AS checks, daily.up, daily.down, daily.missed,
    picket.percent(daily.up, daily.up + daily.down) AS uptime_pct,
    picket.percent(daily.up + daily.down, daily.up + daily.down + daily.missed + daily.gap) AS coverage_pct,
    picket.bucket_ms(daily.p50) AS p50_ms, picket.bucket_ms(daily.p95) AS p95_ms, picket.bucket_ms(daily.p99) AS p99_ms,
    picket.percent(daily.up - daily.up_in_maintenance,
        daily.up + daily.down - daily.up_in_maintenance - daily.down_in_maintenance) AS uptime_pct_excl_maintenance
FROM picket.daily
JOIN picket.regions AS region ON region.id = daily.region_id
LEFT JOIN picket.known_sites AS site ON site.id = daily.site_id;
COMMENT ON VIEW report.uptime_daily IS 'One row for each site, region and day of UTC; today is up to now';
COMMENT ON COLUMN report.uptime_daily.day IS 'The day, of UTC';
COMMENT ON COLUMN report.uptime_daily.site_id IS 'The site''s number';
COMMENT ON COLUMN report.uptime_daily.site IS 'The site''s name, or its URL';
COMMENT ON COLUMN report.uptime_daily.region IS 'Region of the prober';
COMMENT ON COLUMN report.uptime_daily.checks IS
    'Ticks that were due: up, down, missed, and those in recorded gaps';
COMMENT ON COLUMN report.uptime_daily.up IS 'Checks with the outcome up';
COMMENT ON COLUMN report.uptime_daily.down IS 'Checks with the outcome down';
COMMENT ON COLUMN report.uptime_daily.missed IS 'Ticks missed by a failure of Picket, not of the site';
COMMENT ON COLUMN report.uptime_daily.uptime_pct IS
    'up of (up + down), truncated after four digits; null without results';
COMMENT ON COLUMN report.uptime_daily.coverage_pct IS
    '(up + down) of checks: the share of ticks with a check';
COMMENT ON COLUMN report.uptime_daily.p50_ms IS
    'Half of the checks that were up took less; accurate to 4.43 %';
COMMENT ON COLUMN report.uptime_daily.p95_ms IS
    '95 % of the checks that were up took less; accurate to 4.43 %';
COMMENT ON COLUMN report.uptime_daily.p99_ms IS
    '99 % of the checks that were up took less; accurate to 4.43 %';
COMMENT ON COLUMN report.uptime_daily.uptime_pct_excl_maintenance IS
    'uptime_pct without checks in maintenance windows';

CREATE VIEW report.uptime_monthly AS
SELECT
    monthly.month, monthly.site_id, site.site, monthly.up + monthly.down + monthly.missed + monthly.gap AS checks,
    monthly.up, monthly.down, monthly.missed,
    picket.percent(monthly.up, monthly.up + monthly.down) AS uptime_pct,
    picket.percent(monthly.up + monthly.down, monthly.up + monthly.down + monthly.missed + monthly.gap) AS coverage_pct,
    picket.bucket_ms(monthly.p[3]) AS p50_ms, picket.bucket_ms(monthly.p[2]) AS p95_ms,
    picket.bucket_ms(monthly.p[1]) AS p99_ms,
    coalesce(outage.incidents, 0) AS incidents, coalesce(outage.downtime, interval '0') AS downtime,
    picket.percent(monthly.up - monthly.up_in_maintenance,
        monthly.up + monthly.down - monthly.up_in_maintenance - monthly.down_in_maintenance) AS uptime_pct_excl_maintenance
FROM (
    SELECT picket.month_of(day) AS month, site_id, sum(up)::bigint AS up, sum(down)::bigint AS down,
           sum(missed)::bigint AS missed, sum(gap)::bigint AS gap, sum(up_in_maintenance)::bigint AS up_in_maintenance,
           sum(down_in_maintenance)::bigint AS down_in_maintenance,
           picket.percentile_buckets(sum(histogram), sum(up)::bigint, '{0.99,0.95,0.5}') AS p
    FROM picket.daily
    GROUP BY picket.month_of(day), site_id
) AS monthly
LEFT JOIN picket.monthly_downtime AS outage ON outage.site_id = monthly.site_id AND outage.month = monthly.month
LEFT JOIN picket.known_sites AS site ON site.id = monthly.site_id;
COMMENT ON VIEW report.uptime_monthly IS
    'One row for each site and month of UTC, over all regions; this month is up to now';
COMMENT ON COLUMN report.uptime_monthly.month IS 'The first day of the month, of UTC';
COMMENT ON COLUMN report.uptime_monthly.site_id IS 'The site''s number';
COMMENT ON COLUMN report.uptime_monthly.site IS 'The site''s name, or its URL';
COMMENT ON COLUMN report.uptime_monthly.checks IS
    'Ticks that were due: up, down, missed, and those in recorded gaps';
COMMENT ON COLUMN report.uptime_monthly.up IS 'Checks with the outcome up';
COMMENT ON COLUMN report.uptime_monthly.down IS 'Checks with the outcome down';
COMMENT ON COLUMN report.uptime_monthly.missed IS 'Ticks missed by a failure of Picket, not of the site';
COMMENT ON COLUMN report.uptime_monthly.uptime_pct IS
    'up of (up + down), truncated after four digits; null without results';
COMMENT ON COLUMN report.uptime_monthly.coverage_pct IS
    '(up + down) of checks: the share of ticks with a check';
COMMENT ON COLUMN report.uptime_monthly.p50_ms IS
    'Half of the checks that were up took less; accurate to 4.43 %';
COMMENT ON COLUMN report.uptime_monthly.p95_ms IS
    '95 % of the checks that were up took less; accurate to 4.43 %';
COMMENT ON COLUMN report.uptime_monthly.p99_ms IS
    '99 % of the checks that were up took less; accurate to 4.43 %';
COMMENT ON COLUMN report.uptime_monthly.incidents IS 'Incidents opened in that month';
COMMENT ON COLUMN report.uptime_monthly.downtime IS 'Time for which incidents were open in that month';
COMMENT ON COLUMN report.uptime_monthly.uptime_pct_excl_maintenance IS
    'uptime_pct without checks in maintenance windows';

CREATE VIEW report.latency_hourly AS
SELECT
    hourly.hour, hourly.site_id, site.site, region.name AS region, hourly.up AS checks,
    picket.bucket_ms(hourly.p50) AS p50_ms, picket.bucket_ms(hourly.p95) AS p95_ms, picket.bucket_ms(hourly.p99) AS p99_ms,
    round(nullif(hourly.dns_us, 0) / hourly.up) / 1000 AS dns_ms,
    round(nullif(hourly.connect_us, 0) / hourly.up) / 1000 AS connect_ms,
    round(nullif(hourly.tls_us, 0) / hourly.up) / 1000 AS tls_ms,
    round(nullif(hourly.first_byte_us, 0) / hourly.up) / 1000 AS first_byte_ms
FROM picket.hourly
JOIN picket.regions AS region ON region.id = hourly.region_id
LEFT JOIN picket.known_sites AS site ON site.id = hourly.site_id
WHERE hourly.up > 0;
COMMENT ON VIEW report.latency_hourly IS
    'One row for each site, region and hour in which a check was up; this hour is up to now';
COMMENT ON COLUMN report.latency_hourly.hour IS 'Start of the hour';
COMMENT ON COLUMN report.latency_hourly.site_id IS 'The site''s number';
COMMENT ON COLUMN report.latency_hourly.site IS 'The site''s name, or its URL';
COMMENT ON COLUMN report.latency_hourly.region IS 'Region of the prober';
COMMENT ON COLUMN report.latency_hourly.checks IS 'Checks that were up; the other columns describe these';
COMMENT ON COLUMN report.latency_hourly.p50_ms IS 'Half of the checks took less; accurate to 4.43 %';
COMMENT ON COLUMN report.latency_hourly.p95_ms IS '95 % of the checks took less; accurate to 4.43 %';
COMMENT ON COLUMN report.latency_hourly.p99_ms IS '99 % of the checks took less; accurate to 4.43 %';
COMMENT ON COLUMN report.latency_hourly.dns_ms IS
    'Mean time to resolve the name; null without a name to resolve';
COMMENT ON COLUMN report.latency_hourly.connect_ms IS 'Mean time to connect';
COMMENT ON COLUMN report.latency_hourly.tls_ms IS 'Mean time of the TLS handshake; null for plain HTTP';
COMMENT ON COLUMN report.latency_hourly.first_byte_ms IS
    'Mean time from the established connection to the head of the response';

CREATE VIEW report.failures AS
SELECT failed.day, region.name AS region, failed.cause, failed.checks, failed.sites
FROM (
    SELECT picket.day_of(hour) AS day, region_id, cause, sum(checks)::bigint AS checks, count(DISTINCT site_id) AS sites
    FROM picket.hourly_failures
    GROUP BY picket.day_of(hour), region_id, cause
) AS failed
JOIN picket.regions AS region ON region.id = failed.region_id;
COMMENT ON VIEW report.failures IS 'Checks that were not up, by day of UTC, region and cause';
COMMENT ON COLUMN report.failures.day IS 'The day, of UTC';
COMMENT ON COLUMN report.failures.region IS 'Region of the prober';
COMMENT ON COLUMN report.failures.cause IS 'Cause of down (the site failed) or of missed (Picket failed)';
COMMENT ON COLUMN report.failures.checks IS 'Number of checks';
COMMENT ON COLUMN report.failures.sites IS 'Number of sites';

CREATE VIEW report.certificates AS
SELECT
    site.id AS site_id, coalesce(site.name, site.url) AS site, site.url, seen.expires_at,
    floor(extract(epoch FROM seen.expires_at - now()) / 86400)::integer AS days_left
FROM (
    SELECT site_id, min(expires_at) AS expires_at
    FROM (
        SELECT DISTINCT ON (site_id, region_id) site_id, expires_at, seen_at
        FROM (
            SELECT site_id, region_id, expires_at, seen_at FROM picket.certificates
            UNION ALL
            SELECT site_id, region_id, tls_expires_at, scheduled_at FROM picket.tick_results
            WHERE scheduled_at >= (SELECT rolled_through FROM picket.rollup_state) AND scheduled_at <= now() + interval '1 hour'
              AND tls_expires_at IS NOT NULL
        ) AS seen
        ORDER BY site_id, region_id, seen_at DESC
    ) AS latest
    -- Certificates that a region received more than two days ago are not current.
    WHERE seen_at > now() - interval '2 days'
    GROUP BY site_id
) AS seen
JOIN picket.sites AS site ON site.id = seen.site_id;
COMMENT ON VIEW report.certificates IS
    'One row for each site that presented a certificate in the last two days';
COMMENT ON COLUMN report.certificates.site_id IS 'The site''s number';
COMMENT ON COLUMN report.certificates.site IS 'The site''s name, or its URL';
COMMENT ON COLUMN report.certificates.url IS 'The URL that is checked';
COMMENT ON COLUMN report.certificates.expires_at IS
    'Expiry; the earliest if regions receive different certificates';
COMMENT ON COLUMN report.certificates.days_left IS 'Whole days until the expiry; negative after it';
