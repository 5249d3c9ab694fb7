-- Number of times from $2 to $3, at most an hour, at which confirmation checks of site $1 were due.
SELECT count(DISTINCT result.scheduled_at)
FROM picket.check_results AS result
WHERE date_bin('15 minutes', result.scheduled_at, timestamptz '2000-01-01 00:00Z') = ANY (ARRAY(
          SELECT generate_series(
              date_bin('15 minutes', greatest($2, $3 - interval '1 hour'), timestamptz '2000-01-01 00:00Z'),
              $3, interval '15 minutes')))
  AND result.site_id = $1 AND result.kind = 'confirm'
  AND result.scheduled_at BETWEEN greatest($2, $3 - interval '1 hour') AND $3
