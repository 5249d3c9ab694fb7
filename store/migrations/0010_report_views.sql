-- What people and programs read. Behind each view is the same rule: what is rolled up comes from the rollups, what is newer
-- from the rows, and a question about one site or one month reaches down to an index of each.

-- Sites' hours: rolled up, and the hour that is being rolled up together with the rows since.
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
        -- With an end, so that the planner takes it for the small part that it is.
        WHERE hour >= (SELECT picket.hour_of(rolled_through) FROM picket.rollup_state)
          AND hour <= (SELECT rolled_through FROM picket.rollup_state)
        UNION ALL
        SELECT site_id, region_id, hour,
               (outcome = 'up')::integer, (outcome = 'down')::integer, (outcome = 'missed')::integer, 0,
               (outcome = 'up' AND in_maintenance)::integer, (outcome = 'down' AND in_maintenance)::integer,
               CASE WHEN outcome = 'up' THEN dns_us END, CASE WHEN outcome = 'up' THEN connect_us END,
               CASE WHEN outcome = 'up' THEN tls_us END, CASE WHEN outcome = 'up' THEN first_byte_us END, unit
        FROM picket.done
        WHERE scheduled_at >= (SELECT rolled_through FROM picket.rollup_state) AND scheduled_at <= now() + interval '1 hour'
    ) AS part
    GROUP BY site_id, region_id, hour
) AS merged;

-- Sites' days.
CREATE VIEW picket.daily AS
SELECT site_id, region_id, day, up::bigint, down::bigint, missed::bigint, gap::bigint, up_in_maintenance::bigint,
       down_in_maintenance::bigint, histogram, p50, p95, p99
FROM picket.rollups_daily
UNION ALL
SELECT site_id, region_id, day, up, down, missed, gap, up_in_maintenance, down_in_maintenance, histogram, p[3], p[2], p[1]
FROM (
    SELECT site_id, region_id, picket.day_of(hour) AS day, sum(up)::bigint AS up, sum(down)::bigint AS down,
           sum(missed)::bigint AS missed, sum(gap)::bigint AS gap, sum(up_in_maintenance)::bigint AS up_in_maintenance,
           sum(down_in_maintenance)::bigint AS down_in_maintenance, sum(histogram) AS histogram,
           picket.percentile_buckets(sum(histogram), sum(up)::bigint, '{0.99,0.95,0.5}') AS p
    FROM picket.hourly
    WHERE hour >= (SELECT picket.start_of(days_through) FROM picket.rollup_state) AND hour <= now() + interval '1 hour'
    GROUP BY site_id, region_id, picket.day_of(hour)
) AS merged;

CREATE VIEW report.sites AS
SELECT id AS site_id, coalesce(name, url) AS site, url, tags, regions, interval_seconds, enabled, problem, created_at
FROM picket.sites;

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

-- Incidents by site and month that they reach into.
CREATE VIEW picket.monthly_downtime AS
SELECT
    incident.site_id, month.first AS month,
    count(*) FILTER (WHERE picket.month_of(picket.day_of(incident.opened_at)) = month.first) AS incidents,
    sum(least(coalesce(incident.closed_at, now()), picket.start_of((month.first + interval '1 month')::date))
        - greatest(incident.opened_at, picket.start_of(month.first))) AS downtime
FROM picket.incidents AS incident
CROSS JOIN LATERAL (
    SELECT at::date AS first
    FROM generate_series(picket.month_of(picket.day_of(incident.opened_at))::timestamp,
                         coalesce(incident.closed_at, now()) AT TIME ZONE 'UTC', interval '1 month') AS at
) AS month
GROUP BY incident.site_id, month.first;

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

-- What was not up, by site and hour.
CREATE VIEW picket.failed AS
SELECT hour, site_id, region_id, cause, checks FROM picket.failures_hourly
UNION ALL
SELECT picket.hour_of(scheduled_at), site_id, region_id, cause, 1 FROM picket.check_results
WHERE scheduled_at >= (SELECT rolled_through FROM picket.rollup_state) AND scheduled_at <= now() + interval '1 hour'
  AND kind = 'scheduled' AND outcome <> 'up' AND cause IS NOT NULL;

CREATE VIEW report.failures AS
SELECT failed.day, region.name AS region, failed.cause, failed.checks, failed.sites
FROM (
    SELECT picket.day_of(hour) AS day, region_id, cause, sum(checks)::bigint AS checks, count(DISTINCT site_id) AS sites
    FROM picket.failed
    GROUP BY picket.day_of(hour), region_id, cause
) AS failed
JOIN picket.regions AS region ON region.id = failed.region_id;

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
            SELECT site_id, region_id, tls_expires_at, scheduled_at FROM picket.check_results
            WHERE scheduled_at >= (SELECT rolled_through FROM picket.rollup_state) AND scheduled_at <= now() + interval '1 hour'
              AND tls_expires_at IS NOT NULL
        ) AS seen
        ORDER BY site_id, region_id, seen_at DESC
    ) AS latest
    -- Regions that have not looked for two days say nothing of now.
    WHERE seen_at > now() - interval '2 days'
    GROUP BY site_id
) AS seen
JOIN picket.sites AS site ON site.id = seen.site_id;

-- The scheduled checks of one site in (span_from, span_to]: its ticks are computed from the history and looked up by the key,
-- which begins with the time; a condition on report.checks reads all that was due then.
CREATE FUNCTION report.site_checks(site_id bigint, span_from timestamptz, span_to timestamptz DEFAULT now())
    RETURNS SETOF report.checks
    LANGUAGE plpgsql STABLE ROWS 1000
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_custom_plan
    AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT checks.*
    FROM (
        SELECT DISTINCT tick
        FROM picket.schedules AS schedule
        CROSS JOIN LATERAL picket.ticks(schedule.interval_ms, schedule.phase_ms, schedule.valid_from,
            coalesce(schedule.valid_to, now()), greatest(span_from, picket.kept_since()), least(span_to, now())) AS tick
        WHERE schedule.site_id = site_checks.site_id
    ) AS due
    JOIN report.checks AS checks ON checks.scheduled_at = due.tick AND checks.site_id = site_checks.site_id
    WHERE checks.kind = 'scheduled'
    ORDER BY checks.scheduled_at DESC, checks.region;
END $$;
COMMENT ON FUNCTION report.site_checks IS
    'The scheduled checks of one site in a span, newest first: as report.checks, without reading those of others';
REVOKE EXECUTE ON FUNCTION report.site_checks FROM PUBLIC;

COMMENT ON VIEW report.sites IS 'One row for each site that is watched or paused';
COMMENT ON COLUMN report.sites.site_id IS 'The site''s number';
COMMENT ON COLUMN report.sites.site IS 'The site''s name, or its URL';
COMMENT ON COLUMN report.sites.url IS 'What is watched';
COMMENT ON COLUMN report.sites.tags IS 'What it was tagged with';
COMMENT ON COLUMN report.sites.regions IS 'Where it is checked from; empty for everywhere';
COMMENT ON COLUMN report.sites.interval_seconds IS 'How often each region checks it';
COMMENT ON COLUMN report.sites.enabled IS 'False while it is paused';
COMMENT ON COLUMN report.sites.problem IS 'Why it cannot be watched as it stands';
COMMENT ON COLUMN report.sites.created_at IS 'Since when it is there';

COMMENT ON VIEW report.uptime_daily IS 'One row for each site, region and day of UTC; today is up to now';
COMMENT ON COLUMN report.uptime_daily.day IS 'The day, of UTC';
COMMENT ON COLUMN report.uptime_daily.site_id IS 'The site''s number';
COMMENT ON COLUMN report.uptime_daily.site IS 'The site''s name, or its URL';
COMMENT ON COLUMN report.uptime_daily.region IS 'Where it was checked from';
COMMENT ON COLUMN report.uptime_daily.checks IS 'Checks that were due: up, down and missed, and those in gaps on record';
COMMENT ON COLUMN report.uptime_daily.up IS 'Checks that said up';
COMMENT ON COLUMN report.uptime_daily.down IS 'Checks that said down';
COMMENT ON COLUMN report.uptime_daily.missed IS 'Checks that were missed by trouble of ours, which says nothing of the site';
COMMENT ON COLUMN report.uptime_daily.uptime_pct IS 'up of (up + down), cut off after four digits; null where nothing is known';
COMMENT ON COLUMN report.uptime_daily.coverage_pct IS '(up + down) of checks: how much of the time somebody looked';
COMMENT ON COLUMN report.uptime_daily.p50_ms IS 'Half of the checks that were up took less; true within 4.5 %';
COMMENT ON COLUMN report.uptime_daily.p95_ms IS '95 % of the checks that were up took less; true within 4.5 %';
COMMENT ON COLUMN report.uptime_daily.p99_ms IS '99 % of the checks that were up took less; true within 4.5 %';
COMMENT ON COLUMN report.uptime_daily.uptime_pct_excl_maintenance IS 'As uptime_pct, without checks in maintenance windows';

COMMENT ON VIEW report.uptime_monthly IS 'One row for each site and month of UTC, over all regions; this month is up to now';
COMMENT ON COLUMN report.uptime_monthly.month IS 'The first day of the month, of UTC';
COMMENT ON COLUMN report.uptime_monthly.site_id IS 'The site''s number';
COMMENT ON COLUMN report.uptime_monthly.site IS 'The site''s name, or its URL';
COMMENT ON COLUMN report.uptime_monthly.checks IS 'Checks that were due: up, down and missed, and those in gaps on record';
COMMENT ON COLUMN report.uptime_monthly.up IS 'Checks that said up';
COMMENT ON COLUMN report.uptime_monthly.down IS 'Checks that said down';
COMMENT ON COLUMN report.uptime_monthly.missed IS 'Checks that were missed by trouble of ours, which says nothing of the site';
COMMENT ON COLUMN report.uptime_monthly.uptime_pct IS 'up of (up + down), cut off after four digits; null where nothing is known';
COMMENT ON COLUMN report.uptime_monthly.coverage_pct IS '(up + down) of checks: how much of the time somebody looked';
COMMENT ON COLUMN report.uptime_monthly.p50_ms IS 'Half of the checks that were up took less; true within 4.5 %';
COMMENT ON COLUMN report.uptime_monthly.p95_ms IS '95 % of the checks that were up took less; true within 4.5 %';
COMMENT ON COLUMN report.uptime_monthly.p99_ms IS '99 % of the checks that were up took less; true within 4.5 %';
COMMENT ON COLUMN report.uptime_monthly.incidents IS 'Incidents that were opened in that month';
COMMENT ON COLUMN report.uptime_monthly.downtime IS 'How long incidents were open in that month';
COMMENT ON COLUMN report.uptime_monthly.uptime_pct_excl_maintenance IS 'As uptime_pct, without checks in maintenance windows';

COMMENT ON VIEW report.latency_hourly IS 'One row for each site, region and hour in which a check was up; this hour is up to now';
COMMENT ON COLUMN report.latency_hourly.hour IS 'When the hour began';
COMMENT ON COLUMN report.latency_hourly.site_id IS 'The site''s number';
COMMENT ON COLUMN report.latency_hourly.site IS 'The site''s name, or its URL';
COMMENT ON COLUMN report.latency_hourly.region IS 'Where it was checked from';
COMMENT ON COLUMN report.latency_hourly.checks IS 'Checks that were up, of which the rest is told';
COMMENT ON COLUMN report.latency_hourly.p50_ms IS 'Half of them took less; true within 4.5 %';
COMMENT ON COLUMN report.latency_hourly.p95_ms IS '95 % of them took less; true within 4.5 %';
COMMENT ON COLUMN report.latency_hourly.p99_ms IS '99 % of them took less; true within 4.5 %';
COMMENT ON COLUMN report.latency_hourly.dns_ms IS 'Mean time to resolve the name; null where there was none to resolve';
COMMENT ON COLUMN report.latency_hourly.connect_ms IS 'Mean time to connect';
COMMENT ON COLUMN report.latency_hourly.tls_ms IS 'Mean time of the TLS handshake; null for plain HTTP';
COMMENT ON COLUMN report.latency_hourly.first_byte_ms IS 'Mean time from the ready connection to the head of the answer';

COMMENT ON VIEW report.failures IS 'What was not up, by day of UTC, region and cause';
COMMENT ON COLUMN report.failures.day IS 'The day, of UTC';
COMMENT ON COLUMN report.failures.region IS 'Where it was checked from';
COMMENT ON COLUMN report.failures.cause IS 'Why not up: of a site''s (down) or of ours (missed)';
COMMENT ON COLUMN report.failures.checks IS 'How many checks';
COMMENT ON COLUMN report.failures.sites IS 'Of how many sites';

COMMENT ON VIEW report.certificates IS 'One row for each site that showed a certificate in the last two days';
COMMENT ON COLUMN report.certificates.site_id IS 'The site''s number';
COMMENT ON COLUMN report.certificates.site IS 'The site''s name, or its URL';
COMMENT ON COLUMN report.certificates.url IS 'What is watched';
COMMENT ON COLUMN report.certificates.expires_at IS 'When it ends; where regions see different ones, the first that does';
COMMENT ON COLUMN report.certificates.days_left IS 'Whole days until then; below zero once it has ended';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'picket_report') THEN
        GRANT USAGE ON SCHEMA report TO picket_report;
        GRANT SELECT ON ALL TABLES IN SCHEMA report TO picket_report;
        GRANT EXECUTE ON FUNCTION report.site_checks TO picket_report;
    END IF;
END $$;
