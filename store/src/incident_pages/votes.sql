-- The results of site $1 from $2 to $3, at most an hour, by region. Rows are found by the index on
-- quarters of an hour and sites; a search by time alone would read the results of all sites.
SELECT region.name AS region, region.name = ANY ($4) AS down, vote.failures, vote.confirmations, vote.checked_at,
       vote.outcome, vote.cause, vote.message
FROM (
    SELECT result.region_id,
           count(*) FILTER (WHERE result.outcome = 'down') AS failures,
           count(*) FILTER (WHERE result.kind = 'confirm') AS confirmations,
           max(result.scheduled_at) AS checked_at,
           (array_agg(result.outcome::text ORDER BY result.scheduled_at DESC, result.kind))[1] AS outcome,
           (array_agg(result.cause::text ORDER BY result.scheduled_at DESC, result.kind))[1] AS cause,
           (array_agg(result.message ORDER BY result.scheduled_at DESC, result.kind))[1] AS message
    FROM picket.check_results AS result
    WHERE date_bin('15 minutes', result.scheduled_at, timestamptz '2000-01-01 00:00Z') = ANY (ARRAY(
              SELECT generate_series(
                  date_bin('15 minutes', greatest($2, $3 - interval '1 hour'), timestamptz '2000-01-01 00:00Z'),
                  $3, interval '15 minutes')))
      AND result.site_id = $1
      AND result.scheduled_at BETWEEN greatest($2, $3 - interval '1 hour') AND $3
    GROUP BY result.region_id
) AS vote
JOIN picket.regions AS region ON region.id = vote.region_id
ORDER BY down DESC, region.name
