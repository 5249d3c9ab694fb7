-- Views for people and programs that report. Their names and columns are a contract.

CREATE SCHEMA report;

CREATE VIEW picket.known_sites AS
    SELECT id, coalesce(name, url) AS site, url, tags FROM picket.sites
    UNION ALL
    SELECT id, coalesce(name, url), url, tags FROM picket.retired_sites;

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

COMMENT ON VIEW report.checks IS 'One row for each check: every tick of every schedule, and confirming checks';
COMMENT ON COLUMN report.checks.site_id IS 'The site''s number';
COMMENT ON COLUMN report.checks.site IS 'The site''s name, or its URL';
COMMENT ON COLUMN report.checks.url IS 'What is watched';
COMMENT ON COLUMN report.checks.region IS 'Where it was checked from';
COMMENT ON COLUMN report.checks.kind IS 'scheduled (a tick), or confirm (asked for when the site began to fail)';
COMMENT ON COLUMN report.checks.scheduled_at IS 'When it was due';
COMMENT ON COLUMN report.checks.started_at IS 'When it began; null if it never did';
COMMENT ON COLUMN report.checks.lateness_ms IS 'From scheduled_at to started_at';
COMMENT ON COLUMN report.checks.outcome IS 'up, down, or missed (trouble of ours, which says nothing of the site)';
COMMENT ON COLUMN report.checks.cause IS 'Why not up';
COMMENT ON COLUMN report.checks.message IS 'The cause in words';
COMMENT ON COLUMN report.checks.http_status IS 'Of the last answer';
COMMENT ON COLUMN report.checks.dns_ms IS 'Resolving the name; null for a literal address';
COMMENT ON COLUMN report.checks.connect_ms IS 'Connecting';
COMMENT ON COLUMN report.checks.tls_ms IS 'The TLS handshake; null for plain HTTP';
COMMENT ON COLUMN report.checks.first_byte_ms IS 'From the ready connection to the head of the answer';
COMMENT ON COLUMN report.checks.transfer_ms IS 'From the head of the answer to the end of its body';
COMMENT ON COLUMN report.checks.total_ms IS 'The whole check; with redirects phases are summed over the hops';
COMMENT ON COLUMN report.checks.body_bytes IS 'Bytes of the decoded body that were read';
COMMENT ON COLUMN report.checks.regex_matched IS 'Whether the regex matched; null without one';
COMMENT ON COLUMN report.checks.tls_expires_at IS 'When the certificate ends';
COMMENT ON COLUMN report.checks.remote_addr IS 'Address and port of the last connection';
COMMENT ON COLUMN report.checks.prober IS 'Who did it';

-- The newest result of each schedule in force. Its ticks are computed and looked up by the key, newest first,
-- rather than searched for; the last six are enough to say whether a region still reports.
CREATE VIEW picket.latest_results AS
SELECT
    schedule.site_id, schedule.region_id, latest.scheduled_at, latest.outcome, latest.cause, latest.message, latest.total_us
FROM picket.schedules AS schedule
LEFT JOIN LATERAL (
    SELECT result.scheduled_at, result.outcome, result.cause, result.message, result.total_us
    FROM generate_series(0, 5) AS age
    CROSS JOIN LATERAL (
        SELECT to_timestamp(0) + interval '1 millisecond' * (
            (floor((extract(epoch FROM now()) * 1000 - schedule.phase_ms) / schedule.interval_ms)::bigint - age)
            * schedule.interval_ms + schedule.phase_ms) AS at
    ) AS tick
    JOIN picket.check_results AS result
      ON result.scheduled_at = tick.at AND result.site_id = schedule.site_id
     AND result.region_id = schedule.region_id AND result.kind = 'scheduled'
    WHERE result.outcome <> 'missed'
    ORDER BY age
    LIMIT 1
) AS latest ON true
WHERE schedule.valid_to IS NULL;

-- How each site is. Simple as long as there are no incidents: the newest result of each region decides.
CREATE VIEW report.site_status AS
SELECT
    site.id AS site_id,
    coalesce(site.name, site.url) AS site,
    site.url,
    CASE
        WHEN NOT site.enabled THEN 'paused'
        WHEN regions.up + regions.down = 0 THEN 'unknown'
        WHEN regions.down >= coalesce(site.quorum, (regions.up + regions.down) / 2 + 1) THEN 'down'
        ELSE 'up'
    END AS status,
    NULL::timestamptz AS since,
    regions.last_check_at,
    regions.up AS regions_up,
    regions.down AS regions_down,
    regions.silent AS regions_silent,
    NULL::bigint AS incident_id
FROM picket.sites AS site
CROSS JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE latest.outcome = 'up') AS up,
        count(*) FILTER (WHERE latest.outcome = 'down') AS down,
        count(*) FILTER (WHERE latest.outcome IS NULL) AS silent,
        max(latest.scheduled_at) AS last_check_at
    FROM picket.latest_results AS latest
    WHERE latest.site_id = site.id
) AS regions;

COMMENT ON VIEW report.site_status IS 'One row for each site: how it is now';
COMMENT ON COLUMN report.site_status.site_id IS 'The site''s number';
COMMENT ON COLUMN report.site_status.site IS 'The site''s name, or its URL';
COMMENT ON COLUMN report.site_status.url IS 'What is watched';
COMMENT ON COLUMN report.site_status.status IS 'up, down (in a quorum of the regions that report), unknown (no region reports) or paused';
COMMENT ON COLUMN report.site_status.since IS 'Since when it is so; null where that is not known';
COMMENT ON COLUMN report.site_status.last_check_at IS 'When the newest check that counts was due; of the last six ticks of each region';
COMMENT ON COLUMN report.site_status.regions_up IS 'Regions whose newest result is up';
COMMENT ON COLUMN report.site_status.regions_down IS 'Regions whose newest result is down';
COMMENT ON COLUMN report.site_status.regions_silent IS 'Regions with no result but missed ones in their last six ticks';
COMMENT ON COLUMN report.site_status.incident_id IS 'The incident that is open; null for none';

DO $$
BEGIN
    CREATE ROLE picket_report NOLOGIN;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'role picket_report could not be made; a superuser can: CREATE ROLE picket_report NOLOGIN';
END $$;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'picket_report') THEN
        GRANT USAGE ON SCHEMA report TO picket_report;
        GRANT SELECT ON ALL TABLES IN SCHEMA report TO picket_report;
    END IF;
END $$;
