-- Context of sites with new results at the given times (the pairs of $1 and $2): policy, regions,
-- and recent results of each region. Regions that are already down, or whose stored state suffices
-- (the pairs of $3 and $4), need no lookup of results. $5 is the current time. $6 is a kind of
-- warning: results that warned stand for failures then. Null for incidents.
SELECT
    site.id AS site_id,
    site.shard,
    site.quorum,
    site.failures_to_open,
    site.successes_to_close,
    CASE WHEN $6::text IS NULL THEN
        EXISTS (SELECT FROM picket.incidents AS incident WHERE incident.site_id = site.id AND incident.closed_at IS NULL)
    ELSE
        EXISTS (SELECT FROM picket.warnings AS warning
                WHERE warning.site_id = site.id AND warning.kind = $6::text::picket.warning AND warning.closed_at IS NULL)
    END AS open,
    maintenance.window_from,
    maintenance.window_to,
    schedule.region_id,
    region.name AS region,
    (extract(epoch FROM picket.reporting_window(schedule.interval_ms)) * 1000)::bigint AS window_ms,
    schedule.valid_from + schedule.interval_ms * interval '1 millisecond' + interval '30 seconds' AS joining_until,
    (seen.times).downs,
    (seen.times).ups
FROM (
    SELECT new.site_id, array_agg(new.at) AS moments, min(new.at) AS first
    FROM unnest($1::bigint[], $2::timestamptz[]) AS new (site_id, at) GROUP BY new.site_id
) AS asked
JOIN picket.sites AS site ON site.id = asked.site_id
JOIN picket.schedules AS schedule ON schedule.site_id = site.id AND schedule.valid_to IS NULL
JOIN picket.regions AS region ON region.id = schedule.region_id
CROSS JOIN LATERAL (
    SELECT array_agg(maintenance.window_from) AS window_from, array_agg(maintenance.window_to) AS window_to
    FROM picket.maintenance AS maintenance
    WHERE (maintenance.site_id = site.id OR maintenance.tag = ANY (site.tags))
      AND maintenance.window_from <= $5 AND maintenance.window_to > asked.first
) AS maintenance
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN (site.id, schedule.region_id) IN (SELECT * FROM unnest($3::bigint[], $4::smallint[])) THEN NULL
        WHEN $6::text IS NULL THEN picket.recent_results(
            site.id, schedule.region_id, schedule.interval_ms, schedule.phase_ms, schedule.valid_from, asked.moments, $5)
        ELSE picket.recent_warnings(
            $6::text::picket.warning, site.id, schedule.region_id, schedule.interval_ms, schedule.phase_ms,
            schedule.valid_from, asked.moments, $5)
    END AS times
    OFFSET 0
) AS seen
ORDER BY site.id, schedule.region_id
