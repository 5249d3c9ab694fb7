-- What is known of the sites $1, of which something is new from $2 to $3: their rules, their regions, and what these have
-- said lately. Of regions that are down already, or of which enough is kept (the pairs of $4 and $5), nothing is looked up.
SELECT
    site.id AS site_id,
    site.shard,
    site.quorum,
    site.failures_to_open,
    site.successes_to_close,
    EXISTS (SELECT FROM picket.incidents AS incident WHERE incident.site_id = site.id AND incident.closed_at IS NULL) AS open,
    maintenance.window_from,
    maintenance.window_to,
    schedule.region_id,
    region.name AS region,
    (extract(epoch FROM picket.reporting_window(schedule.interval_ms)) * 1000)::bigint AS window_ms,
    schedule.valid_from + schedule.interval_ms * interval '1 millisecond' + interval '30 seconds' AS joining_until,
    (seen.times).downs,
    (seen.times).ups
FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[]) AS asked (site_id, span_from, span_to)
JOIN picket.sites AS site ON site.id = asked.site_id
JOIN picket.schedules AS schedule ON schedule.site_id = site.id AND schedule.valid_to IS NULL
JOIN picket.regions AS region ON region.id = schedule.region_id
CROSS JOIN LATERAL (
    SELECT array_agg(maintenance.window_from) AS window_from, array_agg(maintenance.window_to) AS window_to
    FROM picket.maintenance AS maintenance
    WHERE (maintenance.site_id = site.id OR maintenance.tag = ANY (site.tags))
      AND maintenance.window_from <= now() AND maintenance.window_to > asked.span_from
) AS maintenance
CROSS JOIN LATERAL (
    SELECT CASE WHEN (site.id, schedule.region_id) NOT IN (SELECT * FROM unnest($4::bigint[], $5::smallint[])) THEN
        picket.seen(
            site.id, schedule.region_id, schedule.interval_ms, schedule.phase_ms, schedule.valid_from,
            asked.span_from - picket.reporting_window(schedule.interval_ms),
            -- What comes late may have been overtaken.
            least(asked.span_to + picket.reporting_window(schedule.interval_ms), now()))
    END AS times
    OFFSET 0
) AS seen
ORDER BY site.id, schedule.region_id
