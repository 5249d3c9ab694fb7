-- One row a site, so that a list, its order and its bars cost one row a site whatever the span: the
-- present state, kept by transitions, and statistics, kept by the rollups.
--
-- Two tables, because the two writers must not wait for each other: a transition is written in the
-- transaction that decides it, and the rollups write the rows of all sites at once.

-- In the order of a list that shows first what needs attention.
CREATE TYPE picket.site_state AS ENUM ('down', 'unknown', 'problem', 'up', 'paused');

CREATE TABLE picket.site_conditions (
    site_id bigint PRIMARY KEY,
    state_since timestamptz NOT NULL,
    incident_id bigint,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    state picket.site_state NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX site_conditions_state ON picket.site_conditions (state, site_id);
CREATE INDEX site_conditions_state_since ON picket.site_conditions (state_since, site_id);

-- Number of sites in each state, as differences to add up: a row for each would be a lock that all
-- transitions share. A coordinator merges them.
CREATE TABLE picket.site_state_counts (state picket.site_state NOT NULL, sites bigint NOT NULL);

-- Windows are of whole days of UTC and the day in progress, and of 24 whole hours, as in the
-- reports. Sums are over all regions, and hold the hours before hours_through. Percentages, times
-- and days include the hour in progress where checks of it failed or were missed.
CREATE TABLE picket.site_statistics (
    site_id bigint PRIMARY KEY,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    uptime_24h_pct double precision,
    uptime_7d_pct double precision,
    uptime_30d_pct double precision,
    uptime_90d_pct double precision,
    coverage_24h_pct double precision,
    coverage_7d_pct double precision,
    coverage_30d_pct double precision,
    coverage_90d_pct double precision,
    up_24h bigint NOT NULL DEFAULT 0,
    up_7d bigint NOT NULL DEFAULT 0,
    up_30d bigint NOT NULL DEFAULT 0,
    up_90d bigint NOT NULL DEFAULT 0,
    down_24h bigint NOT NULL DEFAULT 0,
    down_7d bigint NOT NULL DEFAULT 0,
    down_30d bigint NOT NULL DEFAULT 0,
    down_90d bigint NOT NULL DEFAULT 0,
    checks_24h bigint NOT NULL DEFAULT 0,
    checks_7d bigint NOT NULL DEFAULT 0,
    checks_30d bigint NOT NULL DEFAULT 0,
    checks_90d bigint NOT NULL DEFAULT 0,
    p50_us integer,
    p95_us integer,
    histogram numeric,
    -- A letter a day, the last for the day of hours_through.
    days text NOT NULL DEFAULT repeat('-', 365)
) WITH (fillfactor = 60);
CREATE INDEX site_statistics_uptime_24h ON picket.site_statistics (uptime_24h_pct, site_id);
CREATE INDEX site_statistics_uptime_7d ON picket.site_statistics (uptime_7d_pct, site_id);
CREATE INDEX site_statistics_uptime_30d ON picket.site_statistics (uptime_30d_pct, site_id);
CREATE INDEX site_statistics_uptime_90d ON picket.site_statistics (uptime_90d_pct, site_id);
CREATE INDEX site_statistics_coverage_24h ON picket.site_statistics (coverage_24h_pct, site_id);
CREATE INDEX site_statistics_p50 ON picket.site_statistics (p50_us, site_id);
CREATE INDEX site_statistics_p95 ON picket.site_statistics (p95_us, site_id);

-- Progress of the statistics, and the lengths of their windows of days: shorter than 7, 30 and 90
-- where daily rollups are not kept for as long.
CREATE TABLE picket.site_summary_state (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    hours_through timestamptz NOT NULL,
    window_days integer[] NOT NULL
);

-- Sites whose condition must be read again, and of those with `statistics` also the statistics from
-- their rollups. Without a key: repeated marks do no harm, and no writer waits for another.
CREATE TABLE picket.site_summaries_dirty (site_id bigint NOT NULL, statistics boolean NOT NULL);

-- What a list sorts by and a search finds. All n-grams of two and three characters are in an index,
-- which needs no extension: pg_trgm is missing in some installations and would be part of each dump.
CREATE TABLE picket.site_texts (
    site_id bigint PRIMARY KEY,
    -- The beginning of the name, or of the URL: an index does not hold a URL of the allowed length.
    sort_name text COLLATE "C" NOT NULL,
    -- Name, URL and tags in lower case.
    searched text NOT NULL,
    ngrams text[] NOT NULL
);
CREATE INDEX site_texts_sort_name ON picket.site_texts (sort_name, site_id);
CREATE INDEX site_texts_ngrams ON picket.site_texts USING gin (ngrams);
CREATE INDEX sites_tags ON picket.sites USING gin (tags);

CREATE FUNCTION picket.ngrams(searched text) RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ARRAY(SELECT DISTINCT substr(searched, place, size)
                 FROM generate_series(2, 3) AS size CROSS JOIN generate_series(1, length(searched) - size + 1) AS place);
COMMENT ON FUNCTION picket.ngrams IS 'All parts of a text of two and three characters';

CREATE VIEW picket.site_summary AS
SELECT
    condition.site_id, condition.state, condition.state_since, condition.incident_id,
    ARRAY(SELECT warning.kind FROM picket.warnings AS warning
          WHERE warning.site_id = condition.site_id AND warning.closed_at IS NULL ORDER BY warning.kind) AS warnings,
    statistic.uptime_24h_pct, statistic.uptime_7d_pct, statistic.uptime_30d_pct, statistic.uptime_90d_pct,
    statistic.coverage_24h_pct, statistic.coverage_7d_pct, statistic.coverage_30d_pct, statistic.coverage_90d_pct,
    statistic.p50_us, statistic.p95_us, statistic.days,
    (SELECT picket.day_of(hours_through) FROM picket.site_summary_state) AS days_through,
    greatest(condition.updated_at, statistic.updated_at) AS updated_at
FROM picket.site_conditions AS condition
JOIN picket.site_statistics AS statistic ON statistic.site_id = condition.site_id;
COMMENT ON VIEW picket.site_summary IS 'One row for each site: its state, kept by transitions, and its statistics, kept by the rollups';
COMMENT ON COLUMN picket.site_summary.state IS
    'down (an incident is open, or the site fails in maintenance), unknown (no region reports), problem (it cannot be checked), up or paused';
COMMENT ON COLUMN picket.site_summary.state_since IS
    'down: opening of the incident; up: closing of the last one, or the first schedule; paused and problem: end of the last schedule; unknown: when it was noticed';
COMMENT ON COLUMN picket.site_summary.days IS
    'A letter a day for 365 days, the last for days_through: u up, p partly down, d down, m failed in maintenance only, g up with gaps, x missed, s suspended, - no data';

-- Conditions: the present state.

-- Adds the changes of this statement to the number of sites in each state.
CREATE FUNCTION picket.count_site_states() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO picket.site_state_counts SELECT state, count(*) FROM new_rows GROUP BY state;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO picket.site_state_counts SELECT state, -count(*) FROM old_rows GROUP BY state;
    ELSE
        INSERT INTO picket.site_state_counts
        SELECT state, sum(sites) FROM (
            SELECT state, count(*) AS sites FROM new_rows GROUP BY state
            UNION ALL
            SELECT state, -count(*) FROM old_rows GROUP BY state) AS changed
        GROUP BY state HAVING sum(sites) <> 0;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER site_conditions_inserted AFTER INSERT ON picket.site_conditions
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.count_site_states();
CREATE TRIGGER site_conditions_updated AFTER UPDATE ON picket.site_conditions
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.count_site_states();
CREATE TRIGGER site_conditions_deleted AFTER DELETE ON picket.site_conditions
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.count_site_states();

-- Writes the present state of these sites, as report.site_status has it, and adds missing rows. Rows
-- are locked before anything is read, so that a transition is either seen here or waits and is
-- written after this. A row that is locked is skipped and marked: nothing that holds such a row
-- waits for another one, which prevents deadlocks.
CREATE FUNCTION picket.refresh_site_conditions(site_ids bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    locked bigint[];
BEGIN
    INSERT INTO picket.site_conditions (site_id, state, state_since)
    SELECT added.id, 'unknown', added.created_at
    FROM (
        -- A site that is being deleted is gone once its lock is available.
        SELECT site.id, site.created_at FROM picket.sites AS site
        WHERE site.id = ANY (site_ids)
          AND NOT EXISTS (SELECT FROM picket.site_conditions AS condition WHERE condition.site_id = site.id)
        ORDER BY site.id FOR KEY SHARE OF site
    ) AS added
    ON CONFLICT DO NOTHING;
    locked := ARRAY(
        SELECT condition.site_id FROM picket.site_conditions AS condition
        WHERE condition.site_id = ANY (site_ids) FOR NO KEY UPDATE SKIP LOCKED);
    INSERT INTO picket.site_summaries_dirty
    SELECT condition.site_id, false FROM picket.site_conditions AS condition
    WHERE condition.site_id = ANY (site_ids) AND cardinality(locked) < cardinality(site_ids)
      AND condition.site_id <> ALL (locked);
    WITH found AS MATERIALIZED (
        SELECT status.site_id, status.incident_id, status.since,
               CASE WHEN status.status <> 'paused' AND site.problem IS NOT NULL THEN 'problem' ELSE status.status END
                   ::picket.site_state AS state,
               coalesce((SELECT max(schedule.valid_to) FROM picket.schedules AS schedule WHERE schedule.site_id = site.id),
                        site.created_at) AS unwatched_since
        FROM report.site_status AS status
        JOIN picket.sites AS site ON site.id = status.site_id
        WHERE status.site_id = ANY (locked)
    ),
    written AS (
        SELECT condition.site_id, found.state, found.incident_id,
               CASE WHEN found.state IN ('paused', 'problem') THEN found.unwatched_since
                    WHEN found.since IS NOT NULL THEN found.since
                    WHEN condition.state = found.state THEN condition.state_since
                    ELSE now() END AS state_since
        FROM found JOIN picket.site_conditions AS condition ON condition.site_id = found.site_id
    )
    UPDATE picket.site_conditions AS condition
    SET state = written.state, state_since = written.state_since, incident_id = written.incident_id,
        updated_at = clock_timestamp()
    FROM written
    WHERE condition.site_id = written.site_id
      AND (condition.state, condition.state_since, condition.incident_id)
          IS DISTINCT FROM (written.state, written.state_since, written.incident_id);
END $$;
COMMENT ON FUNCTION picket.refresh_site_conditions IS 'Writes the present state of these sites, as report.site_status has it';

-- An incident of a site opens or closes: its state changes in the same transaction.
CREATE FUNCTION picket.incident_changed() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    changed CONSTANT bigint := coalesce(NEW.site_id, OLD.site_id);
    opened picket.incidents;
    closed timestamptz;
BEGIN
    SELECT * INTO opened FROM picket.incidents AS incident WHERE incident.site_id = changed AND incident.closed_at IS NULL;
    IF opened.incident_id IS NULL THEN
        closed := (SELECT max(incident.closed_at) FROM picket.incidents AS incident WHERE incident.site_id = changed);
    END IF;
    UPDATE picket.site_conditions AS condition
    SET incident_id = opened.incident_id,
        state = CASE WHEN condition.state IN ('paused', 'problem') THEN condition.state
                     WHEN opened.incident_id IS NOT NULL THEN 'down'
                     WHEN condition.state = 'down' THEN 'up'
                     ELSE condition.state END,
        state_since = CASE WHEN condition.state IN ('paused', 'problem') THEN condition.state_since
                           WHEN opened.incident_id IS NOT NULL THEN opened.opened_at
                           WHEN condition.state = 'down' THEN coalesce(closed, condition.state_since)
                           ELSE condition.state_since END,
        updated_at = clock_timestamp()
    WHERE condition.site_id = changed;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.incident_changed IS 'Writes the state of a site whose incident opens or closes';
CREATE TRIGGER summary_incident_changed AFTER INSERT OR DELETE OR UPDATE OF closed_at ON picket.incidents
    FOR EACH ROW EXECUTE FUNCTION picket.incident_changed();

-- Writes what lists sort by and search for, of these sites.
CREATE FUNCTION picket.write_site_texts(site_ids bigint[]) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    AS $$
        INSERT INTO picket.site_texts AS kept (site_id, sort_name, searched, ngrams)
        SELECT site.id, left(coalesce(site.name, site.url), 200), text.searched, picket.ngrams(text.searched)
        FROM picket.sites AS site
        CROSS JOIN LATERAL (
            SELECT lower(left(concat_ws(' ', site.name, left(site.url, 500), array_to_string(site.tags, ' ')), 2000)) AS searched
            OFFSET 0
        ) AS text
        WHERE site.id = ANY (site_ids)
        ON CONFLICT (site_id) DO UPDATE
        SET sort_name = excluded.sort_name, searched = excluded.searched, ngrams = excluded.ngrams
    $$;

-- Writes that sites are paused, have a problem, or are so no longer; a site that is watched again is
-- unknown until its first result. Other consequences of a change of a schedule are left to the next
-- refresh. A row that is locked is skipped and marked, as in picket.refresh_site_conditions.
CREATE FUNCTION picket.write_watched_conditions(site_ids bigint[]) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    AS $$
        INSERT INTO picket.site_summaries_dirty SELECT site_id, false FROM unnest(site_ids) AS site_id;
        WITH locked AS MATERIALIZED (
            SELECT condition.site_id FROM picket.site_conditions AS condition
            WHERE condition.site_id = ANY (site_ids) FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE picket.site_conditions AS condition
        SET state = CASE WHEN NOT site.enabled THEN 'paused' WHEN site.problem IS NOT NULL THEN 'problem' ELSE 'unknown' END
                        ::picket.site_state,
            incident_id = NULL,
            state_since = CASE
                WHEN site.enabled AND site.problem IS NULL THEN now()
                ELSE coalesce((SELECT max(schedule.valid_to) FROM picket.schedules AS schedule WHERE schedule.site_id = site.id),
                              site.created_at)
            END,
            updated_at = clock_timestamp()
        FROM locked JOIN picket.sites AS site ON site.id = locked.site_id
        WHERE condition.site_id = site.id
          AND (NOT site.enabled OR site.problem IS NOT NULL OR condition.state IN ('paused', 'problem'))
    $$;
COMMENT ON FUNCTION picket.write_watched_conditions IS 'Writes that sites are paused, have a problem, or are watched again';

-- The names of the triggers sort after those of the triggers that reconcile schedules and close
-- incidents. A site that is new, or was paused, is unknown until its first result.
CREATE FUNCTION picket.sites_summarized() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    renamed bigint[];
    changed bigint[];
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- From the table, because a trigger may have given the site a problem.
        INSERT INTO picket.site_conditions (site_id, state, state_since)
        SELECT site.id, CASE WHEN NOT site.enabled THEN 'paused' WHEN site.problem IS NOT NULL THEN 'problem' ELSE 'unknown' END
                   ::picket.site_state, site.created_at
        FROM picket.sites AS site WHERE site.id IN (SELECT id FROM new_rows)
        ON CONFLICT DO NOTHING;
        INSERT INTO picket.site_statistics (site_id) SELECT id FROM new_rows ON CONFLICT DO NOTHING;
        SELECT array_agg(id) INTO renamed FROM new_rows;
    ELSIF TG_OP = 'DELETE' THEN
        DELETE FROM picket.site_conditions WHERE site_id IN (SELECT id FROM old_rows);
        DELETE FROM picket.site_statistics WHERE site_id IN (SELECT id FROM old_rows);
        DELETE FROM picket.site_texts WHERE site_id IN (SELECT id FROM old_rows);
    ELSE
        SELECT array_agg(site.id) FILTER (WHERE (site.name, site.url, site.tags) IS DISTINCT FROM (before.name, before.url, before.tags)),
               array_agg(site.id) FILTER (WHERE
                   (site.enabled, site.problem IS NULL, site.regions, site.interval_seconds, site.quorum)
                   IS DISTINCT FROM (before.enabled, before.problem IS NULL, before.regions, before.interval_seconds, before.quorum))
        INTO renamed, changed
        FROM new_rows AS site JOIN old_rows AS before ON before.id = site.id;
    END IF;
    IF renamed IS NOT NULL THEN
        PERFORM picket.write_site_texts(renamed);
    END IF;
    IF changed IS NOT NULL THEN
        PERFORM picket.write_watched_conditions(changed);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.sites_summarized IS 'Keeps a row of the summary for each site, its texts, and its state when it is paused, resumed or rescheduled';
CREATE TRIGGER summary_site_inserted AFTER INSERT ON picket.sites
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.sites_summarized();
CREATE TRIGGER summary_site_updated AFTER UPDATE ON picket.sites
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.sites_summarized();
CREATE TRIGGER summary_site_deleted AFTER DELETE ON picket.sites
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.sites_summarized();

-- Statistics: sums over windows, and what lists show of them.

-- The letter of a day, by the sums of a site over its regions. Less than 1 % without a result does
-- not make a gap: a restarted prober misses a check.
CREATE FUNCTION picket.day_letter(
    up bigint, down bigint, missed bigint, gap bigint, up_in_maintenance bigint, down_in_maintenance bigint) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE
        WHEN up + down + missed + gap = 0 THEN '-'
        WHEN up + down = 0 THEN 'x'
        WHEN down > down_in_maintenance THEN CASE WHEN up > up_in_maintenance THEN 'p' ELSE 'd' END
        WHEN down > 0 THEN 'm'
        WHEN 100 * (missed + gap) > up + down + missed + gap THEN 'g'
        ELSE 'u'
    END;
COMMENT ON FUNCTION picket.day_letter IS 'The letter of a day in picket.site_summary, by the sums of a site over its regions';

-- The middle of a bucket, in microseconds, as picket.bucket_ms.
CREATE FUNCTION picket.bucket_us(bucket smallint) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN round(power(2::float8, 7 + (bucket + 0.5::float8) / 8))::integer;

-- Days of sites and regions, without the hour in progress. A day of which an hour was rebuilt is
-- added up from its hours until its sum is.
CREATE VIEW picket.day_sums AS
SELECT site_id, region_id, day, up, down, missed, gap, up_in_maintenance, down_in_maintenance
FROM picket.rollups_daily
WHERE NOT EXISTS (SELECT FROM picket.rollup_days_dirty AS dirty WHERE dirty.day = rollups_daily.day)
UNION ALL
SELECT hourly.site_id, hourly.region_id, dirty.day, hourly.up, hourly.down, hourly.missed, hourly.gap,
       hourly.up_in_maintenance, hourly.down_in_maintenance
FROM picket.rollup_days_dirty AS dirty
JOIN picket.rollups_hourly AS hourly
  ON hourly.hour >= picket.start_of_day(dirty.day) AND hourly.hour < picket.start_of_day(dirty.day + 1)
UNION ALL
SELECT site_id, region_id, day, up, down, missed, gap, up_in_maintenance, down_in_maintenance
FROM picket.rollups_today;

-- Lengths of the windows of days, limited to the days that are kept.
CREATE FUNCTION picket.summary_window_days() RETURNS integer[]
    LANGUAGE sql STABLE
    RETURN (SELECT ARRAY[least(7, rollup_days_days - 1), least(30, rollup_days_days - 1), least(90, rollup_days_days - 1)]
            FROM picket.settings);

-- Adds rollups to the sums (or subtracts them): an hour by its windows, and days that leave theirs.
CREATE FUNCTION picket.add_hour_to_statistics(added timestamptz, times integer) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    SET work_mem = '64MB'
    AS $$
        WITH windows AS (
            SELECT added >= state.hours_through - interval '24 hours' AS in_24h,
                   picket.day_of(added) >= picket.day_of(state.hours_through) - state.window_days[1] AS in_7d,
                   picket.day_of(added) >= picket.day_of(state.hours_through) - state.window_days[2] AS in_30d,
                   picket.day_of(added) >= picket.day_of(state.hours_through) - state.window_days[3] AS in_90d
            FROM picket.site_summary_state AS state WHERE added < state.hours_through
        ),
        summed AS (
            SELECT site_id, times * sum(up)::bigint AS up, times * sum(down)::bigint AS down,
                   times * (sum(up) + sum(down) + sum(missed) + sum(gap))::bigint AS checks, times * sum(histogram) AS histogram
            FROM picket.rollups_hourly WHERE hour = added GROUP BY site_id
        )
        UPDATE picket.site_statistics AS kept SET
            up_24h = up_24h + CASE WHEN in_24h THEN up ELSE 0 END, up_7d = up_7d + CASE WHEN in_7d THEN up ELSE 0 END,
            up_30d = up_30d + CASE WHEN in_30d THEN up ELSE 0 END, up_90d = up_90d + CASE WHEN in_90d THEN up ELSE 0 END,
            down_24h = down_24h + CASE WHEN in_24h THEN down ELSE 0 END, down_7d = down_7d + CASE WHEN in_7d THEN down ELSE 0 END,
            down_30d = down_30d + CASE WHEN in_30d THEN down ELSE 0 END, down_90d = down_90d + CASE WHEN in_90d THEN down ELSE 0 END,
            checks_24h = checks_24h + CASE WHEN in_24h THEN checks ELSE 0 END,
            checks_7d = checks_7d + CASE WHEN in_7d THEN checks ELSE 0 END,
            checks_30d = checks_30d + CASE WHEN in_30d THEN checks ELSE 0 END,
            checks_90d = checks_90d + CASE WHEN in_90d THEN checks ELSE 0 END,
            histogram = CASE WHEN in_24h THEN coalesce(kept.histogram + summed.histogram, kept.histogram, summed.histogram)
                             ELSE kept.histogram END
        FROM summed, windows
        WHERE kept.site_id = summed.site_id AND (in_24h OR in_90d);
    $$;
COMMENT ON FUNCTION picket.add_hour_to_statistics IS 'Adds an hour of the rollups to the sums of the windows in which it lies, or subtracts it';

-- Moves the windows forward by one hour.
CREATE FUNCTION picket.advance_statistics() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET work_mem = '64MB'
    AS $$
DECLARE
    state picket.site_summary_state := (SELECT kept FROM picket.site_summary_state AS kept);
    today CONSTANT date := picket.day_of(state.hours_through);
    is_day_over CONSTANT boolean := picket.day_of(state.hours_through + interval '1 hour') > today;
BEGIN
    UPDATE picket.site_summary_state SET hours_through = state.hours_through + interval '1 hour';
    WITH part AS (
        SELECT site_id, up, down, up::bigint + down + missed + gap AS checks, histogram, 1 AS in_24h, 1 AS in_7d, 1 AS in_30d, 1 AS in_90d
        FROM picket.rollups_hourly WHERE hour = state.hours_through
        UNION ALL
        SELECT site_id, up, down, up::bigint + down + missed + gap, histogram, -1, 0, 0, 0
        FROM picket.rollups_hourly WHERE hour = state.hours_through - interval '24 hours'
        UNION ALL
        SELECT site_id, up, down, up::bigint + down + missed + gap, NULL, 0, -(day = today - state.window_days[1])::integer,
               -(day = today - state.window_days[2])::integer, -(day = today - state.window_days[3])::integer
        FROM picket.day_sums
        WHERE is_day_over AND day IN (today - state.window_days[1], today - state.window_days[2], today - state.window_days[3])
    ),
    summed AS (
        SELECT site_id, sum(in_24h * up) AS up_24h, sum(in_7d * up) AS up_7d, sum(in_30d * up) AS up_30d,
               sum(in_90d * up) AS up_90d, sum(in_24h * down) AS down_24h, sum(in_7d * down) AS down_7d,
               sum(in_30d * down) AS down_30d, sum(in_90d * down) AS down_90d, sum(in_24h * checks) AS checks_24h,
               sum(in_7d * checks) AS checks_7d, sum(in_30d * checks) AS checks_30d, sum(in_90d * checks) AS checks_90d,
               sum(in_24h * histogram) AS histogram
        FROM part GROUP BY site_id
    )
    UPDATE picket.site_statistics AS kept SET
        up_24h = kept.up_24h + summed.up_24h, up_7d = kept.up_7d + summed.up_7d, up_30d = kept.up_30d + summed.up_30d,
        up_90d = kept.up_90d + summed.up_90d, down_24h = kept.down_24h + summed.down_24h,
        down_7d = kept.down_7d + summed.down_7d, down_30d = kept.down_30d + summed.down_30d,
        down_90d = kept.down_90d + summed.down_90d, checks_24h = kept.checks_24h + summed.checks_24h,
        checks_7d = kept.checks_7d + summed.checks_7d, checks_30d = kept.checks_30d + summed.checks_30d,
        checks_90d = kept.checks_90d + summed.checks_90d,
        histogram = coalesce(kept.histogram + summed.histogram, kept.histogram, summed.histogram)
    FROM summed
    -- Sums that wait to be added up from the rollups are of other hours, or of none.
    WHERE kept.site_id = summed.site_id
      AND NOT EXISTS (SELECT FROM picket.site_summaries_dirty AS dirty WHERE dirty.site_id = kept.site_id AND dirty.statistics);
    IF is_day_over THEN
        UPDATE picket.site_statistics SET days = substr(days, 2) || '-';
    END IF;
END $$;
COMMENT ON FUNCTION picket.advance_statistics IS 'Moves the windows of the statistics forward by one hour';

-- Writes what lists show, from the sums, of these sites or of all.
CREATE FUNCTION picket.publish_statistics(site_ids bigint[] DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_custom_plan
    SET work_mem = '64MB'
    AS $$
BEGIN
    WITH state AS MATERIALIZED (
        SELECT kept.hours_through, picket.day_of(kept.hours_through) AS today FROM picket.site_summary_state AS kept
    ),
    in_progress AS MATERIALIZED (
        SELECT site_id, sum(up)::bigint AS up, sum(down)::bigint AS down, sum(missed)::bigint AS missed, sum(gap)::bigint AS gap,
               sum(up_in_maintenance)::bigint AS up_off, sum(down_in_maintenance)::bigint AS down_off, sum(histogram) AS histogram
        FROM picket.rollups_hourly
        WHERE hour = (SELECT hours_through FROM state) AND (site_ids IS NULL OR site_id = ANY (site_ids))
        GROUP BY site_id HAVING sum(down) + sum(missed) + sum(gap) > 0
    ),
    today AS MATERIALIZED (
        SELECT site_id, sum(up)::bigint AS up, sum(down)::bigint AS down, sum(missed)::bigint AS missed, sum(gap)::bigint AS gap,
               sum(up_in_maintenance)::bigint AS up_off, sum(down_in_maintenance)::bigint AS down_off
        FROM picket.rollups_today
        WHERE day = (SELECT today FROM state) AND (site_ids IS NULL OR site_id = ANY (site_ids))
        GROUP BY site_id
    ),
    added AS (
        SELECT kept.site_id, kept.up_24h + coalesce(now.up, 0) AS up_24h, kept.up_7d + coalesce(now.up, 0) AS up_7d,
               kept.up_30d + coalesce(now.up, 0) AS up_30d, kept.up_90d + coalesce(now.up, 0) AS up_90d,
               kept.down_24h + coalesce(now.down, 0) AS down_24h, kept.down_7d + coalesce(now.down, 0) AS down_7d,
               kept.down_30d + coalesce(now.down, 0) AS down_30d, kept.down_90d + coalesce(now.down, 0) AS down_90d,
               kept.checks_24h + coalesce(now.up + now.down + now.missed + now.gap, 0) AS checks_24h,
               kept.checks_7d + coalesce(now.up + now.down + now.missed + now.gap, 0) AS checks_7d,
               kept.checks_30d + coalesce(now.up + now.down + now.missed + now.gap, 0) AS checks_30d,
               kept.checks_90d + coalesce(now.up + now.down + now.missed + now.gap, 0) AS checks_90d,
               coalesce(kept.histogram + now.histogram, kept.histogram, now.histogram) AS histogram,
               left(kept.days, 364) || picket.day_letter(
                   coalesce(today.up, 0) + coalesce(now.up, 0), coalesce(today.down, 0) + coalesce(now.down, 0),
                   coalesce(today.missed, 0) + coalesce(now.missed, 0), coalesce(today.gap, 0) + coalesce(now.gap, 0),
                   coalesce(today.up_off, 0) + coalesce(now.up_off, 0),
                   coalesce(today.down_off, 0) + coalesce(now.down_off, 0)) AS days
        FROM picket.site_statistics AS kept
        LEFT JOIN in_progress AS now ON now.site_id = kept.site_id
        LEFT JOIN today ON today.site_id = kept.site_id
        WHERE site_ids IS NULL OR kept.site_id = ANY (site_ids)
    ),
    published AS (
        SELECT added.site_id, added.days,
               picket.percent(up_24h, up_24h + down_24h) AS uptime_24h, picket.percent(up_7d, up_7d + down_7d) AS uptime_7d,
               picket.percent(up_30d, up_30d + down_30d) AS uptime_30d, picket.percent(up_90d, up_90d + down_90d) AS uptime_90d,
               picket.percent(up_24h + down_24h, checks_24h) AS coverage_24h,
               picket.percent(up_7d + down_7d, checks_7d) AS coverage_7d,
               picket.percent(up_30d + down_30d, checks_30d) AS coverage_30d,
               picket.percent(up_90d + down_90d, checks_90d) AS coverage_90d,
               picket.bucket_us(p[2]) AS p50, picket.bucket_us(p[1]) AS p95
        FROM added
        CROSS JOIN LATERAL picket.percentile_buckets(nullif(greatest(added.histogram, 0), 0), nullif(greatest(added.up_24h, 0), 0), '{0.95,0.5}') AS p
    )
    UPDATE picket.site_statistics AS kept SET
        uptime_24h_pct = uptime_24h, uptime_7d_pct = uptime_7d, uptime_30d_pct = uptime_30d, uptime_90d_pct = uptime_90d,
        coverage_24h_pct = coverage_24h, coverage_7d_pct = coverage_7d, coverage_30d_pct = coverage_30d,
        coverage_90d_pct = coverage_90d, p50_us = p50, p95_us = p95, days = published.days, updated_at = clock_timestamp()
    FROM published
    WHERE kept.site_id = published.site_id
      AND (uptime_24h_pct, uptime_7d_pct, uptime_30d_pct, uptime_90d_pct, coverage_24h_pct, coverage_7d_pct, coverage_30d_pct,
           coverage_90d_pct, p50_us, p95_us, kept.days)
          IS DISTINCT FROM (uptime_24h, uptime_7d, uptime_30d, uptime_90d, coverage_24h, coverage_7d, coverage_30d,
           coverage_90d, p50, p95, published.days);
END $$;
COMMENT ON FUNCTION picket.publish_statistics IS 'Writes percentages, percentiles and the letter of today from the sums, of these sites or of all';

-- The letter of a past day without ticks: the site existed and was not checked, or there was no site.
CREATE FUNCTION picket.empty_day_letter(created_at timestamptz, of_day date) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE WHEN created_at < picket.start_of_day(of_day)
                     AND of_day >= picket.day_of(now()) - (SELECT rollup_days_days FROM picket.settings)
                THEN 's' ELSE '-' END;

-- Writes the letter of a day that is over.
CREATE FUNCTION picket.write_day_letters(of_day date) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    SET work_mem = '64MB'
    AS $$
        WITH placed AS (
            SELECT 365 - (picket.day_of(state.hours_through) - of_day) AS place FROM picket.site_summary_state AS state
        ),
        summed AS (
            SELECT site_id, picket.day_letter(sum(up)::bigint, sum(down)::bigint, sum(missed)::bigint, sum(gap)::bigint,
                                              sum(up_in_maintenance)::bigint, sum(down_in_maintenance)::bigint) AS letter
            FROM picket.day_sums WHERE day = of_day GROUP BY site_id
        ),
        lettered AS (
            SELECT site.id, coalesce(summed.letter, picket.empty_day_letter(site.created_at, of_day)) AS letter
            FROM picket.sites AS site LEFT JOIN summed ON summed.site_id = site.id
        )
        UPDATE picket.site_statistics AS kept
        SET days = overlay(kept.days PLACING lettered.letter FROM placed.place FOR 1), updated_at = clock_timestamp()
        FROM lettered, placed
        WHERE kept.site_id = lettered.id AND placed.place BETWEEN 1 AND 364
          AND substr(kept.days, placed.place, 1) <> lettered.letter
    $$;
COMMENT ON FUNCTION picket.write_day_letters IS 'Writes the letter of a day that is over';

-- Computes the statistics of these sites, or of all, from their rollups.
CREATE FUNCTION picket.rebuild_statistics(site_ids bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_custom_plan
    SET work_mem = '64MB'
    AS $$
DECLARE
    state picket.site_summary_state := (SELECT kept FROM picket.site_summary_state AS kept);
    today CONSTANT date := picket.day_of(state.hours_through);
    missing bigint[];
BEGIN
    missing := ARRAY(
        SELECT site.id FROM picket.sites AS site
        WHERE (site_ids IS NULL OR site.id = ANY (site_ids))
          AND NOT EXISTS (SELECT FROM picket.site_statistics AS kept WHERE kept.site_id = site.id)
        ORDER BY site.id FOR KEY SHARE OF site);
    INSERT INTO picket.site_statistics (site_id) SELECT unnest(missing) ON CONFLICT DO NOTHING;
    WITH in_24h AS (
        SELECT site_id, sum(up) AS up, sum(down) AS down, sum(up::bigint + down + missed + gap) AS checks, sum(histogram) AS histogram
        FROM picket.rollups_hourly
        WHERE hour >= state.hours_through - interval '24 hours' AND hour < state.hours_through
          AND (site_ids IS NULL OR site_id = ANY (site_ids))
        GROUP BY site_id
    ),
    by_day AS MATERIALIZED (
        SELECT site_id, day, sum(up) AS up, sum(down) AS down, sum(up::bigint + down + missed + gap) AS checks,
               picket.day_letter(sum(up)::bigint, sum(down)::bigint, sum(missed)::bigint, sum(gap)::bigint,
                                 sum(up_in_maintenance)::bigint, sum(down_in_maintenance)::bigint) AS letter
        FROM picket.day_sums
        WHERE day > today - 365 AND day <= today AND (site_ids IS NULL OR site_id = ANY (site_ids))
        GROUP BY site_id, day
    ),
    in_days AS (
        SELECT site_id,
               sum(up) FILTER (WHERE day >= today - state.window_days[1]) AS up_7d,
               sum(up) FILTER (WHERE day >= today - state.window_days[2]) AS up_30d,
               sum(up) FILTER (WHERE day >= today - state.window_days[3]) AS up_90d,
               sum(down) FILTER (WHERE day >= today - state.window_days[1]) AS down_7d,
               sum(down) FILTER (WHERE day >= today - state.window_days[2]) AS down_30d,
               sum(down) FILTER (WHERE day >= today - state.window_days[3]) AS down_90d,
               sum(checks) FILTER (WHERE day >= today - state.window_days[1]) AS checks_7d,
               sum(checks) FILTER (WHERE day >= today - state.window_days[2]) AS checks_30d,
               sum(checks) FILTER (WHERE day >= today - state.window_days[3]) AS checks_90d,
               array_agg(day) AS days, array_agg(letter) AS letters
        FROM by_day GROUP BY site_id
    )
    UPDATE picket.site_statistics AS kept SET
        up_24h = coalesce(in_24h.up, 0), up_7d = coalesce(in_days.up_7d, 0), up_30d = coalesce(in_days.up_30d, 0),
        up_90d = coalesce(in_days.up_90d, 0), down_24h = coalesce(in_24h.down, 0), down_7d = coalesce(in_days.down_7d, 0),
        down_30d = coalesce(in_days.down_30d, 0), down_90d = coalesce(in_days.down_90d, 0),
        checks_24h = coalesce(in_24h.checks, 0), checks_7d = coalesce(in_days.checks_7d, 0),
        checks_30d = coalesce(in_days.checks_30d, 0), checks_90d = coalesce(in_days.checks_90d, 0),
        histogram = in_24h.histogram,
        days = (SELECT string_agg(coalesce(lettered.letter, CASE WHEN day.day = today THEN '-'
                                                   ELSE picket.empty_day_letter(site.created_at, day.day) END), ''
                                  ORDER BY day.day)
                FROM (SELECT today - back AS day FROM generate_series(0, 364) AS back) AS day
                LEFT JOIN unnest(in_days.days, in_days.letters) AS lettered (day, letter) ON lettered.day = day.day)
    FROM picket.sites AS site
    LEFT JOIN in_24h ON in_24h.site_id = site.id
    LEFT JOIN in_days ON in_days.site_id = site.id
    WHERE kept.site_id = site.id AND (site_ids IS NULL OR site.id = ANY (site_ids));
    PERFORM picket.publish_statistics(site_ids);
END $$;
COMMENT ON FUNCTION picket.rebuild_statistics IS 'Computes the statistics of these sites, or of all, from their rollups';

-- Follows the rollups. A step of one hour is added to the sums; after anything else (the clock was
-- ahead and the rollups went back, or days are kept for a shorter or longer time) all sites are
-- computed again, some at a time.
CREATE FUNCTION picket.rollups_advanced() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    rolled_hour CONSTANT timestamptz := picket.hour_of(NEW.rolled_through);
    windows CONSTANT integer[] := picket.summary_window_days();
    state picket.site_summary_state := (SELECT kept FROM picket.site_summary_state AS kept);
    troubled bigint[];
BEGIN
    IF state.hours_through + interval '1 hour' = rolled_hour AND state.window_days = windows
       -- The oldest day of the longest window is not pruned yet.
       AND picket.day_of(state.hours_through) - windows[3] >= picket.day_of(now()) - (SELECT rollup_days_days FROM picket.settings)
    THEN
        PERFORM picket.advance_statistics();
        PERFORM picket.publish_statistics();
    ELSIF state.hours_through IS DISTINCT FROM rolled_hour OR state.window_days <> windows THEN
        INSERT INTO picket.site_summary_state (hours_through, window_days) VALUES (rolled_hour, windows)
        ON CONFLICT (singleton) DO UPDATE SET hours_through = excluded.hours_through, window_days = excluded.window_days;
        INSERT INTO picket.site_summaries_dirty SELECT id, true FROM picket.sites;
    END IF;
    -- A site whose ticks were missed may be unknown; a coordinator reads its state after this
    -- transaction, so that no transition waits for it.
    INSERT INTO picket.site_summaries_dirty
    SELECT DISTINCT hourly.site_id, false
    FROM picket.rollups_hourly AS hourly
    JOIN picket.site_conditions AS condition ON condition.site_id = hourly.site_id AND condition.state = 'up'
    WHERE hourly.hour = picket.hour_of(NEW.rolled_through - interval '1 microsecond') AND (hourly.missed > 0 OR hourly.gap > 0);
    IF rolled_hour < NEW.rolled_through THEN
        SELECT array_agg(DISTINCT site_id) INTO troubled
        FROM picket.rollups_hourly WHERE hour = rolled_hour AND (down > 0 OR missed > 0 OR gap > 0);
        IF troubled IS NOT NULL THEN
            PERFORM picket.publish_statistics(troubled);
        END IF;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.rollups_advanced IS 'Keeps the statistics of sites in step with the rollups';
CREATE TRIGGER rollups_advanced AFTER UPDATE OF rolled_through ON picket.rollup_state
    FOR EACH ROW WHEN (OLD.rolled_through <> NEW.rolled_through) EXECUTE FUNCTION picket.rollups_advanced();

-- With the changed hour in the statistics of sites.
CREATE OR REPLACE FUNCTION picket.rebuild_rollups(min_age interval DEFAULT '1 minute') RETURNS timestamptz
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    dirty_hour timestamptz;
    through timestamptz;
    today boolean;
BEGIN
    IF NOT picket.try_lock_rollups() THEN
        RETURN NULL;
    END IF;
    SELECT min(hour) INTO dirty_hour FROM picket.rollups_dirty WHERE marked_at <= now() - min_age;
    IF dirty_hour IS NULL THEN
        RETURN NULL;
    END IF;
    -- A later statement reads the rows, and so sees every change whose mark is deleted here.
    DELETE FROM picket.rollups_dirty WHERE hour = dirty_hour;
    SELECT least(dirty_hour + interval '1 hour', rolled_through),
           picket.day_of(dirty_hour) >= days_through AND dirty_hour + interval '1 hour' <= rolled_through
    INTO through, today FROM picket.rollup_state;
    IF dirty_hour >= through OR dirty_hour < picket.retained_since() THEN
        RETURN dirty_hour;
    END IF;
    IF today THEN
        PERFORM picket.add_to_rollups_today(dirty_hour, -1);
    END IF;
    PERFORM picket.add_hour_to_statistics(dirty_hour, -1);
    DELETE FROM picket.rollups_hourly WHERE hour = dirty_hour;
    DELETE FROM picket.failures_hourly WHERE hour = dirty_hour;
    PERFORM picket.add_to_rollups(dirty_hour, through);
    IF today THEN
        PERFORM picket.add_to_rollups_today(dirty_hour, 1);
    END IF;
    PERFORM picket.add_hour_to_statistics(dirty_hour, 1);
    PERFORM picket.publish_statistics();
    INSERT INTO picket.rollup_days_dirty
    SELECT picket.day_of(dirty_hour) FROM picket.rollup_state WHERE picket.day_of(dirty_hour) < days_through
    ON CONFLICT DO NOTHING;
    RETURN dirty_hour;
END $$;

-- With the day's letter in the statistics of sites.
CREATE OR REPLACE FUNCTION picket.roll_up_day() RETURNS date
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET work_mem = '64MB'
    AS $$
DECLARE
    next date;
    chosen date;
BEGIN
    IF NOT picket.try_lock_rollups() THEN
        RETURN NULL;
    END IF;
    SELECT days_through INTO next FROM picket.rollup_state WHERE picket.start_of_day(days_through + 1) <= rolled_through;
    SELECT coalesce(min(day), next) INTO chosen FROM picket.rollup_days_dirty;
    IF chosen IS NULL THEN
        RETURN NULL;
    END IF;
    DELETE FROM picket.rollup_days_dirty WHERE day = chosen;
    DELETE FROM picket.rollups_daily WHERE day = chosen;
    INSERT INTO picket.rollups_daily (
        site_id, day, region_id, up, down, missed, gap, up_in_maintenance, down_in_maintenance, histogram, p50, p95, p99)
    SELECT summed.*, p[3], p[2], p[1]
    FROM (
        SELECT site_id, chosen, region_id, sum(up) AS up, sum(down), sum(missed), sum(gap), sum(up_in_maintenance),
               sum(down_in_maintenance), sum(histogram) AS histogram
        FROM picket.rollups_hourly
        WHERE hour >= picket.start_of_day(chosen) AND hour < picket.start_of_day(chosen + 1)
        GROUP BY site_id, region_id
    ) AS summed
    CROSS JOIN LATERAL picket.percentile_buckets(summed.histogram, summed.up, '{0.99,0.95,0.5}') AS p;
    IF chosen = next THEN
        UPDATE picket.rollup_state SET days_through = next + 1;
        DELETE FROM picket.rollups_today WHERE day = next;
    END IF;
    PERFORM picket.write_day_letters(chosen);
    RETURN chosen;
END $$;

-- Computes the summary of one site, or of all, again.
CREATE FUNCTION picket.rebuild_site_summary(of_site bigint DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    site_ids CONSTANT bigint[] := (
        SELECT array_agg(id) FROM picket.sites WHERE of_site IS NULL OR id = of_site);
BEGIN
    PERFORM picket.lock('rollups');
    IF of_site IS NULL THEN
        DELETE FROM picket.site_conditions AS kept WHERE NOT EXISTS (SELECT FROM picket.sites WHERE id = kept.site_id);
        DELETE FROM picket.site_statistics AS kept WHERE NOT EXISTS (SELECT FROM picket.sites WHERE id = kept.site_id);
        DELETE FROM picket.site_texts AS kept WHERE NOT EXISTS (SELECT FROM picket.sites WHERE id = kept.site_id);
    END IF;
    IF site_ids IS NULL THEN
        RETURN;
    END IF;
    PERFORM picket.rebuild_statistics(site_ids);
    PERFORM picket.write_site_texts(site_ids);
    PERFORM picket.refresh_site_conditions(site_ids);
    IF of_site IS NULL THEN
        -- One statement, and so one snapshot: differences of transactions that are not visible stay.
        WITH counted AS (DELETE FROM picket.site_state_counts)
        INSERT INTO picket.site_state_counts SELECT state, count(*) FROM picket.site_conditions GROUP BY state;
    END IF;
END $$;
COMMENT ON FUNCTION picket.rebuild_site_summary IS 'Computes the summary of one site, or of all, from its rollups and its present state';

-- Follows states that change without a transition: a site gets its first result, has no result any
-- more, or fails in maintenance. Handles at most `max_sites` of each kind, chosen at random, so that
-- none waits for ever behind others. Returns whether more may be due at once.
CREATE FUNCTION picket.refresh_site_summaries(max_sites integer) RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    marked bigint[];
    outdated bigint[];
    unknown bigint[];
    number bigint;
BEGIN
    IF NOT picket.try_lock_rollups() THEN
        RETURN false;
    END IF;
    WITH taken AS (
        DELETE FROM picket.site_summaries_dirty
        WHERE ctid = ANY (ARRAY(SELECT ctid FROM picket.site_summaries_dirty LIMIT max_sites))
        RETURNING site_id, statistics
    )
    SELECT array_agg(DISTINCT site_id), array_agg(DISTINCT site_id) FILTER (WHERE statistics), count(*)
    INTO marked, outdated, number FROM taken;
    IF outdated IS NOT NULL THEN
        PERFORM picket.rebuild_statistics(outdated);
        PERFORM picket.write_site_texts(ARRAY(
            SELECT id FROM unnest(outdated) AS id
            WHERE NOT EXISTS (SELECT FROM picket.site_texts AS kept WHERE kept.site_id = id)));
    END IF;
    unknown := ARRAY(SELECT site_id FROM picket.site_conditions WHERE state = 'unknown' ORDER BY random() LIMIT max_sites);
    PERFORM picket.refresh_site_conditions(ARRAY(
        SELECT site_id FROM unnest(marked || unknown) AS site_id
        UNION
        -- In maintenance, and after it.
        (SELECT site_id FROM picket.site_conditions WHERE state = 'down' AND incident_id IS NULL ORDER BY random() LIMIT max_sites)
        UNION
        (SELECT failing.site_id FROM picket.site_states AS failing
         WHERE NOT EXISTS (SELECT FROM picket.incidents AS incident
                           WHERE incident.site_id = failing.site_id AND incident.closed_at IS NULL)
         ORDER BY random() LIMIT max_sites)));
    IF (SELECT count(*) FROM picket.site_state_counts) > 50 THEN
        WITH merged AS (DELETE FROM picket.site_state_counts RETURNING state, sites)
        INSERT INTO picket.site_state_counts SELECT state, sum(sites) FROM merged GROUP BY state;
    END IF;
    -- Sites that were added at once have their first results at about the same time.
    RETURN number >= max_sites OR max_sites <= 2 * (
        SELECT count(*) FROM picket.site_conditions WHERE site_id = ANY (unknown) AND state <> 'unknown');
END $$;
COMMENT ON FUNCTION picket.refresh_site_summaries IS
    'Follows states that change without a transition, and computes marked summaries again, at most so many of each kind';

-- The rights on the objects of this file.
CREATE FUNCTION picket.grant_site_summary_privileges() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'picket_coordinator') THEN
        GRANT EXECUTE ON FUNCTION picket.refresh_site_summaries, picket.rebuild_site_summary TO picket_coordinator;
    END IF;
END $$;
COMMENT ON FUNCTION picket.grant_site_summary_privileges IS
    'The part of picket.grant_roles with the rights on the summary of sites; call that function instead';

-- Rows without statistics, which coordinators compute some at a time.
INSERT INTO picket.site_summary_state (hours_through, window_days)
SELECT picket.hour_of(rolled_through), picket.summary_window_days() FROM picket.rollup_state;
INSERT INTO picket.site_statistics (site_id) SELECT id FROM picket.sites;
INSERT INTO picket.site_conditions (site_id, state, state_since, incident_id)
SELECT site.id,
       CASE WHEN NOT site.enabled THEN 'paused' WHEN site.problem IS NOT NULL THEN 'problem'
            WHEN incident.incident_id IS NOT NULL THEN 'down' ELSE 'unknown' END::picket.site_state,
       coalesce(incident.opened_at, site.created_at), incident.incident_id
FROM picket.sites AS site
LEFT JOIN picket.incidents AS incident ON incident.site_id = site.id AND incident.closed_at IS NULL;
SELECT picket.write_site_texts(array_agg(id)) FROM picket.sites HAVING count(*) > 0;
INSERT INTO picket.site_summaries_dirty SELECT id, true FROM picket.sites;
SELECT picket.grant_roles();
