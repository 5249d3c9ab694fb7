-- Schedules: the history, maintained by triggers, of which region checked which site when.

-- Offset of a schedule's ticks within its interval. A hash spreads the sites. The regions of one
-- site are offset by multiples of the golden ratio, which divide a circle evenly for any number of
-- regions (Weyl, 1910): the regions take turns, and adding one moves no other.
CREATE FUNCTION picket.phase_ms(site_id bigint, region_id integer, interval_ms integer) RETURNS integer
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN floor(
        ((picket.hash32('phase ' || site_id)::numeric / 4294967296 + region_id * 0.6180339887498949) % 1) * interval_ms
    )::integer;

-- Ticks are the times t with (t_ms - phase_ms) mod interval_ms = 0 and valid_from < t <= valid_to.
CREATE TABLE picket.schedules (
    site_id bigint NOT NULL,
    valid_from timestamptz NOT NULL,
    valid_to timestamptz,
    version xid8 NOT NULL DEFAULT pg_current_xact_id(),
    interval_ms integer NOT NULL CHECK (interval_ms BETWEEN 1000 AND 86400000),
    phase_ms integer NOT NULL,
    region_id smallint NOT NULL REFERENCES picket.regions,
    shard smallint NOT NULL,
    -- The transaction that created the row. It may commit long after the ledger has passed ticks of
    -- the schedule; see picket.belated_schedules.
    opened_by xid8 NOT NULL DEFAULT pg_current_xact_id(),
    CHECK (phase_ms >= 0 AND phase_ms < interval_ms),
    -- Ticks cannot be computed from infinity, and the next schedule would begin where this one
    -- ends.
    CONSTRAINT schedules_begin_and_end_at_moments
        CHECK (valid_from < '9999-01-01 00:00:00+00' AND (valid_to IS NULL OR valid_to < '9999-01-01 00:00:00+00'))
);
CREATE UNIQUE INDEX schedules_in_force ON picket.schedules (site_id, region_id) WHERE valid_to IS NULL;
CREATE INDEX schedules_shard ON picket.schedules (shard) WHERE valid_to IS NULL;
CREATE INDEX schedules_history ON picket.schedules (site_id, region_id, valid_from);
CREATE INDEX schedules_version ON picket.schedules (version);
-- Schedules that ended recently.
CREATE INDEX schedules_ended ON picket.schedules (valid_to) WHERE valid_to IS NOT NULL;

-- The ticks of one schedule in (span_from, span_to].
CREATE FUNCTION picket.ticks(
    interval_ms integer, phase_ms integer, valid_from timestamptz, valid_to timestamptz,
    span_from timestamptz, span_to timestamptz
) RETURNS SETOF timestamptz
    LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 60
    AS $$
        SELECT to_timestamp(0) + (tick * interval_ms + phase_ms) * interval '1 millisecond'
        FROM generate_series(
            floor((extract(epoch FROM greatest(valid_from, span_from)) * 1000 - phase_ms) / interval_ms)::bigint + 1,
            floor((extract(epoch FROM least(valid_to, span_to)) * 1000 - phase_ms) / interval_ms)::bigint
        ) AS tick
    $$;

-- Microseconds since 1970, exactly: a double represents them to a quarter of one. The function has
-- the volatility of date_part, because only then does the planner inline it.
CREATE FUNCTION picket.micros(at timestamptz) RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (date_part('epoch', at) * 1000000)::bigint;

-- Number of ticks of a schedule in (after, through].
CREATE FUNCTION picket.tick_count(interval_ms integer, phase_ms integer, after timestamptz, through timestamptz)
    RETURNS bigint
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN greatest(0, (picket.micros(through) - phase_ms * 1000::bigint) / (interval_ms * 1000::bigint)
                       - (picket.micros(after) - phase_ms * 1000::bigint) / (interval_ms * 1000::bigint));

-- True if a time is a tick by interval and phase alone.
CREATE FUNCTION picket.is_tick(at timestamptz, interval_ms integer, phase_ms integer) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN picket.micros(at) % (interval_ms * 1000::bigint) = phase_ms * 1000::bigint;

-- True if a schedule was in force at a time that is one of its ticks. A single CASE, for which the
-- planner assumes a selectivity of one half. For the separate comparisons it assumes 0.005, and
-- plans nested loops and sorts for far too few rows.
CREATE FUNCTION picket.has_tick(schedule picket.schedules, at timestamptz) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE
        WHEN at > schedule.valid_from AND (schedule.valid_to IS NULL OR at <= schedule.valid_to)
             AND picket.is_tick(at, schedule.interval_ms, schedule.phase_ms)
        THEN true ELSE false
    END;
COMMENT ON FUNCTION picket.has_tick IS 'Whether a schedule was in force at a time that is one of its ticks';

-- True if a shard has had any schedule since a time.
CREATE FUNCTION picket.had_schedules(of_shard smallint, since timestamptz) RETURNS boolean
    LANGUAGE sql STABLE
    RETURN EXISTS (SELECT FROM picket.schedules WHERE shard = of_shard AND valid_to IS NULL)
        OR EXISTS (SELECT FROM picket.schedules WHERE shard = of_shard AND valid_to > since);

-- The schedules that these sites should have in force.
CREATE FUNCTION picket.desired_schedules(site_ids bigint[])
    RETURNS TABLE (site_id bigint, region_id smallint, interval_ms integer, phase_ms integer, shard smallint)
    LANGUAGE sql STABLE
    AS $$
        SELECT site.id, region.id, site.interval_seconds * 1000,
               picket.phase_ms(site.id, region.id, site.interval_seconds * 1000), site.shard
        FROM picket.sites AS site
        JOIN picket.regions AS region
          ON region.removed_at IS NULL AND (site.regions = '{}' OR region.name = ANY (site.regions))
        WHERE site.id = ANY (site_ids) AND site.enabled AND site.problem IS NULL
          -- The range of the schema. A site outside of the settings' range, which is narrower, has
          -- a problem.
          AND site.interval_seconds BETWEEN 1 AND 86400
    $$;

-- Reconciles the schedules in force of these sites with sites and regions. A schedule that differs
-- is closed, and its successor opened at the same moment, so that the table is a history.
CREATE FUNCTION picket.reconcile_schedules(site_ids bigint[]) RETURNS void
    LANGUAGE plpgsql
    -- Without statistics of freshly filled tables the planner would choose a nested loop over all
    -- pairs.
    SET enable_nestloop = off
    AS $$
DECLARE
    moment timestamptz := clock_timestamp();
BEGIN
    UPDATE picket.schedules AS schedule
    SET valid_to = greatest(moment, schedule.valid_from), version = pg_current_xact_id()
    WHERE schedule.site_id = ANY (site_ids) AND schedule.valid_to IS NULL
      -- An anti-join, which is linear; NOT IN is quadratic.
      AND NOT EXISTS (
          SELECT FROM picket.desired_schedules(site_ids) AS desired
          WHERE desired.site_id = schedule.site_id AND desired.region_id = schedule.region_id
            AND desired.interval_ms = schedule.interval_ms AND desired.phase_ms = schedule.phase_ms);

    INSERT INTO picket.schedules (site_id, region_id, interval_ms, phase_ms, shard, valid_from)
    -- Never before the end of the previous row, even if this machine's clock was set back.
    SELECT desired.site_id, desired.region_id, desired.interval_ms, desired.phase_ms, desired.shard,
           greatest(moment, (SELECT before.valid_to FROM picket.schedules AS before
                             WHERE before.site_id = desired.site_id AND before.region_id = desired.region_id
                             ORDER BY before.valid_from DESC LIMIT 1))
    FROM picket.desired_schedules(site_ids) AS desired
    ON CONFLICT (site_id, region_id) WHERE valid_to IS NULL DO NOTHING;
END $$;

-- Sites and regions written in a transaction that sees no later commits (REPEATABLE READ,
-- SERIALIZABLE). Such a transaction misses concurrent commits; a coordinator reconciles the rows
-- again. Nearly always empty.
CREATE TABLE picket.pending_reconciliation (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site_id bigint,
    region_id smallint,
    CONSTRAINT a_site_or_a_region CHECK (num_nonnulls(site_id, region_id) = 1)
);
COMMENT ON TABLE picket.pending_reconciliation IS
    'Sites and regions whose schedules a coordinator must reconcile again';
COMMENT ON COLUMN picket.pending_reconciliation.id IS 'Order of insertion';
COMMENT ON COLUMN picket.pending_reconciliation.site_id IS 'The site that was written';
COMMENT ON COLUMN picket.pending_reconciliation.region_id IS 'The region that was written';

-- Records a problem for sites whose regions are all removed, and clears it when one is in use
-- again. A site that is locked by another transaction is skipped: that transaction does the same
-- after this one has ended.
CREATE FUNCTION picket.record_region_problems(site_ids bigint[]) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    prefix constant text := 'regions: none of these is in use: ';
    changed bigint[];
BEGIN
    changed := ARRAY(
        SELECT site.id FROM picket.sites AS site
        WHERE site.id = ANY (site_ids) AND site.regions <> '{}'
          AND (site.problem IS NULL OR starts_with(site.problem, prefix))
          AND (site.problem IS NULL) = NOT EXISTS (
              SELECT FROM picket.regions AS region WHERE region.removed_at IS NULL AND region.name = ANY (site.regions))
        ORDER BY site.id FOR UPDATE OF site SKIP LOCKED);
    -- An UPDATE without rows would still run its triggers.
    IF cardinality(changed) > 0 THEN
        -- Tells sites_after that the caller has locked the regions, or is changing them. In the
        -- latter case the lock of sites_after would be a deadlock with a second such transaction.
        PERFORM set_config('picket.recording_region_problems', 'on', true);
        UPDATE picket.sites SET problem = CASE WHEN problem IS NULL
            THEN prefix || left(array_to_string(regions, ', '), 200) || '; allowed: at least one region that ''picket region list'' shows'
        END
        WHERE id = ANY (changed);
        PERFORM set_config('picket.recording_region_problems', 'off', true);
    END IF;
END $$;
COMMENT ON FUNCTION picket.record_region_problems IS
    'Records a problem for sites whose regions are all removed, and clears it when one is in use again';

-- Consequences of a change, once for each statement, so that a change of a million sites stays
-- affordable.
CREATE FUNCTION picket.sites_after() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    site_ids bigint[];
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO picket.retired_sites (id, url, name, tags, shard, version)
        SELECT id, url, name, tags, shard, pg_current_xact_id() FROM old_rows;
        SELECT array_agg(id) INTO site_ids FROM old_rows;
    ELSE
        -- A row that keeps its version had only patterns_validated set, which has no consequences.
        SELECT array_agg(id) INTO site_ids FROM new_rows WHERE version = pg_current_xact_id();
    END IF;
    IF site_ids IS NOT NULL THEN
        IF current_setting('picket.recording_region_problems', true) IS DISTINCT FROM 'on' THEN
            -- Excludes a concurrent change of a region: one of the two transactions waits and sees
            -- the other's rows.
            LOCK TABLE picket.regions IN SHARE MODE;
            IF TG_OP <> 'DELETE' THEN
                PERFORM picket.record_region_problems(site_ids);
                -- This transaction does not see commits made while it waited.
                IF current_setting('transaction_isolation') <> 'read committed' THEN
                    INSERT INTO picket.pending_reconciliation (site_id) SELECT unnest(site_ids);
                END IF;
            END IF;
        END IF;
        PERFORM picket.reconcile_schedules(site_ids);
        PERFORM pg_notify('picket_sites', '');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER sites_inserted AFTER INSERT ON picket.sites
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.sites_after();
CREATE TRIGGER sites_updated AFTER UPDATE ON picket.sites
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.sites_after();
CREATE TRIGGER sites_deleted AFTER DELETE ON picket.sites
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.sites_after();

CREATE FUNCTION picket.regions_after() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    site_ids bigint[] := (
        SELECT array_agg(DISTINCT site.id) FROM picket.sites AS site
        JOIN new_rows AS region ON site.regions = '{}' OR region.name = ANY (site.regions));
BEGIN
    PERFORM picket.record_region_problems(site_ids);
    PERFORM picket.reconcile_schedules(site_ids);
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        INSERT INTO picket.pending_reconciliation (region_id) SELECT id FROM new_rows;
    END IF;
    PERFORM pg_notify('picket_sites', 'regions');
    RETURN NULL;
END $$;
CREATE TRIGGER regions_inserted AFTER INSERT ON picket.regions
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.regions_after();
CREATE TRIGGER regions_updated AFTER UPDATE ON picket.regions
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION picket.regions_after();

-- Called by a coordinator, in a transaction of its own. Returns the number of sites.
CREATE FUNCTION picket.reconcile_pending() RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    shard_count CONSTANT smallint := (SELECT shards FROM picket.settings);
    site_ids bigint[];
    lost bigint[];
BEGIN
    -- A row that was written past the triggers may have a shard that does not exist, which no
    -- coordinator holds.
    IF EXISTS (SELECT FROM picket.sites WHERE shard < 0) OR EXISTS (SELECT FROM picket.sites WHERE shard >= shard_count) THEN
        WITH moved AS (
            UPDATE picket.sites SET shard = picket.shard_of(id) WHERE shard < 0 OR shard >= shard_count RETURNING id
        )
        SELECT array_agg(id) INTO lost FROM moved;
        -- The ledger accounts for the ticks of their schedules from the beginning.
        UPDATE picket.schedules
        SET shard = picket.shard_of(site_id), opened_by = pg_current_xact_id(), version = pg_current_xact_id()
        WHERE site_id = ANY (lost) AND (shard < 0 OR shard >= shard_count);
    END IF;
    IF NOT EXISTS (SELECT FROM picket.pending_reconciliation) THEN
        RETURN coalesce(cardinality(lost), 0);
    END IF;
    LOCK TABLE picket.regions IN SHARE MODE;
    WITH pending AS (DELETE FROM picket.pending_reconciliation RETURNING site_id, region_id)
    SELECT array_agg(DISTINCT site.id) INTO site_ids
    FROM picket.sites AS site
    WHERE site.id IN (SELECT site_id FROM pending)
       OR EXISTS (SELECT FROM pending JOIN picket.regions AS region ON region.id = pending.region_id
                  WHERE site.regions = '{}' OR region.name = ANY (site.regions));
    -- A site that was written in a transaction that missed concurrent commits may have been judged
    -- by an earlier range of intervals.
    PERFORM picket.record_interval_problems(coalesce(site_ids, '{}'));
    PERFORM picket.record_region_problems(site_ids);
    PERFORM picket.reconcile_schedules(site_ids);
    RETURN coalesce(cardinality(site_ids), 0) + coalesce(cardinality(lost), 0);
END $$;
COMMENT ON FUNCTION picket.reconcile_pending IS
    'Reconciles the schedules of sites and regions that were written in a transaction that missed concurrent commits, and moves '
    'sites out of shards that do not exist';
