-- Sites in three regions, and for each a few shapes that an hour of its checks may have: 60 of them, lognormal about a
-- time of its own.
INSERT INTO picket.regions (name) VALUES ('eu-west'), ('us-east'), ('ap-south');
INSERT INTO picket.sites (url, name, interval_seconds, tags)
SELECT 'https://site-' || n || '.example/', 'site ' || n, 60, ARRAY['team-' || n % 20]
FROM generate_series(1, {sites}) AS n;
UPDATE picket.schedules SET valid_from = now() - interval '{days} days 1 hour';

CREATE TABLE shapes AS
SELECT shape.*, p[3] AS p50, p[2] AS p95, p[1] AS p99
FROM (
    SELECT site_id, region_id, variant, count(*) FILTER (WHERE NOT bad)::smallint AS up,
           count(*) FILTER (WHERE bad)::smallint AS down, sum(unit) FILTER (WHERE NOT bad) AS histogram,
           sum(total_us) FILTER (WHERE NOT bad) AS total_us
    FROM (
        SELECT schedule.site_id, schedule.region_id, variant, variant = 0 AND check_number <= 3 AND site_id % 10 = 0 AS bad,
               (exp(9 + (site_id * 7919 % 1000) / 400.0 + schedule.region_id * 0.3 + 0.3 * sqrt(-2 * ln(1 - random()))
                    * cos(2 * pi() * random())))::integer AS total_us
        FROM picket.schedules AS schedule
        CROSS JOIN generate_series(0, 7) AS variant
        CROSS JOIN generate_series(1, 60) AS check_number
    ) AS drawn
    JOIN picket.histogram_units AS histogram ON histogram.bucket = picket.bucket(total_us)
    GROUP BY site_id, region_id, variant
) AS shape
CROSS JOIN LATERAL picket.percentile_buckets(shape.histogram, shape.up, '{0.99,0.95,0.5}') AS p;
ANALYZE shapes;
