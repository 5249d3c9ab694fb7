-- Rows older than the limit on names may have longer ones; these are truncated.
SELECT
    status.site_id, left(status.site, 1000) AS site, left(status.url, 4096) AS url, status.status, status.since,
    status.last_check_at, status.regions_up, status.regions_down, status.regions_silent, status.incident_id,
    coalesce(warning.kinds, '{}') AS warnings,
    planned.site_id IS NOT NULL AS in_maintenance, nullif(planned.until, 'infinity') AS maintenance_until,
    left(site.problem, 2000) AS problem,
    CASE WHEN status.status = 'unknown' AND site.problem IS NULL THEN left(coalesce((
        SELECT string_agg(reason || ' in ' || names, '; ' ORDER BY reason)
        FROM (
            SELECT reason, string_agg(name, ', ' ORDER BY name) AS names
            FROM (
                SELECT region.name,
                       CASE WHEN silent.region_id IS NOT NULL THEN 'no active prober'
                            WHEN newest.cause IS NOT NULL THEN 'checks missed (' || newest.cause || ')'
                            ELSE 'no result yet' END AS reason
                FROM picket.schedules AS schedule
                JOIN picket.regions AS region ON region.id = schedule.region_id
                LEFT JOIN picket.silent_regions AS silent ON silent.region_id = region.id
                -- Of the ticks that decide whether a region reports, as in picket.latest_results.
                LEFT JOIN LATERAL (
                    SELECT result.cause
                    FROM generate_series(0, 5) AS age
                    JOIN picket.check_results AS result
                      ON result.scheduled_at = date_bin(schedule.interval_ms * interval '1 millisecond', now(),
                                                        timestamptz 'epoch' + schedule.phase_ms * interval '1 millisecond')
                                               - age * schedule.interval_ms * interval '1 millisecond'
                     AND result.site_id = schedule.site_id AND result.region_id = schedule.region_id
                     AND result.kind = 'scheduled'
                    ORDER BY result.scheduled_at DESC
                    LIMIT 1
                ) AS newest ON true
                WHERE schedule.site_id = status.site_id AND schedule.valid_to IS NULL
            ) AS by_region
            GROUP BY reason
        ) AS by_reason), 'no region checks it'), 2000)
    END AS unknown_reason
FROM report.site_status AS status
JOIN picket.sites AS site ON site.id = status.site_id
LEFT JOIN (SELECT site_id, array_agg(kind::text ORDER BY kind) AS kinds FROM picket.warnings
           WHERE closed_at IS NULL GROUP BY site_id) AS warning ON warning.site_id = status.site_id
LEFT JOIN (SELECT site_id, max(window_to) AS until FROM picket.maintenance_windows
           WHERE window_from <= now() AND window_to > now() GROUP BY site_id) AS planned ON planned.site_id = status.site_id
ORDER BY array_position('{down,unknown,paused,up}', status.status), status.site_id
