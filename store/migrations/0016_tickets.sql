-- Tickets: a MAC in each job that its result must carry back, so that a region's prober can publish results of the checks
-- that it was given and of no others. The keys are for coordinators and sinks alone.

-- The identity of this installation, in each job and result and in the metadata of its streams.
ALTER TABLE picket.settings ADD COLUMN installation_id uuid NOT NULL DEFAULT gen_random_uuid();
COMMENT ON COLUMN picket.settings.installation_id IS
    'Identity of this installation, made once; in each job and result, and in the metadata of its streams';

-- Probers of the release before copy no tickets: where there may be some, tickets are not required yet.
ALTER TABLE picket.settings ADD COLUMN require_tickets boolean NOT NULL DEFAULT true;
COMMENT ON COLUMN picket.settings.require_tickets IS
    'Whether sinks refuse results of scheduled and confirming checks that carry no ticket; see docs/upgrade.md';
UPDATE picket.settings SET require_tickets = NOT EXISTS (SELECT FROM picket.sites);

CREATE TABLE picket.ticket_keys (
    key_id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- 32 bytes from three version 4 UUIDs, which hold 366 random bits.
    key bytea NOT NULL
        DEFAULT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
        CHECK (length(key) = 32),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- No ticket of the key is valid for a check that is due later.
    retired_at timestamptz
);
COMMENT ON TABLE picket.ticket_keys IS
    'Keys of the tickets in jobs, for coordinators and sinks; INSERT … DEFAULT VALUES adds one, used half a minute later';
COMMENT ON COLUMN picket.ticket_keys.key_id IS 'The key''s number, part of each ticket';
COMMENT ON COLUMN picket.ticket_keys.key IS 'The key of HMAC-SHA256: 32 random bytes';
COMMENT ON COLUMN picket.ticket_keys.created_at IS 'Coordinators make tickets with it from half a minute later on';
COMMENT ON COLUMN picket.ticket_keys.retired_at IS 'Checks that are due later have no valid ticket of it; null while it is in use';
INSERT INTO picket.ticket_keys DEFAULT VALUES;

-- As before, and the keys of tickets are readable by coordinators and sinks alone.
CREATE OR REPLACE FUNCTION picket.grant_roles() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    role text;
BEGIN
    FOR role IN SELECT rolname FROM pg_roles
                WHERE rolname IN ('picket_coordinator', 'picket_sink', 'picket_api', 'picket_report') LOOP
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA picket, report FROM %I', role);
        EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA picket, report FROM %I', role);
        IF role = 'picket_report' THEN
            GRANT USAGE ON SCHEMA report TO picket_report;
        ELSE
            EXECUTE format('GRANT USAGE ON SCHEMA picket TO %I', role);
            -- Each process looks whether the schema is new enough for it.
            EXECUTE format('GRANT SELECT ON public._sqlx_migrations TO %I', role);
        END IF;

        CASE role
        WHEN 'picket_coordinator' THEN
            GRANT SELECT ON picket.settings, picket.ticket_keys, picket.regions, picket.sites, picket.retired_sites,
                picket.schedules TO picket_coordinator;
            GRANT UPDATE (problem) ON picket.sites TO picket_coordinator;
            GRANT SELECT, INSERT, UPDATE, DELETE ON picket.coordinators TO picket_coordinator;
            GRANT SELECT, UPDATE (holder, epoch, expires_at, scheduled_through) ON picket.leases TO picket_coordinator;
            GRANT SELECT, INSERT, UPDATE (gap_to) ON picket.gaps TO picket_coordinator;
            GRANT SELECT, INSERT, DELETE ON picket.silent_regions TO picket_coordinator;
            GRANT EXECUTE ON FUNCTION picket.ensure_partitions, picket.drop_results, picket.drop_rollups, picket.prune,
                picket.roll_up, picket.mend_rollups, picket.roll_up_day, picket.recount_rollups, picket.close_unwatched,
                picket.close_ledger TO picket_coordinator;
        WHEN 'picket_sink' THEN
            GRANT SELECT, INSERT, UPDATE ON picket.check_results TO picket_sink;
            GRANT SELECT, INSERT ON picket.adhoc_results TO picket_sink;
            GRANT INSERT ON picket.dead_letters TO picket_sink;
            GRANT SELECT, INSERT, UPDATE, DELETE ON picket.site_states TO picket_sink;
            GRANT SELECT, INSERT, UPDATE (closed_at) ON picket.incidents TO picket_sink;
            GRANT SELECT, DELETE ON picket.outbox TO picket_sink;
            GRANT SELECT ON picket.settings, picket.ticket_keys, picket.regions, picket.schedules, picket.maintenance
                TO picket_sink;
            -- Not what is sent to a site, among which may be secrets.
            GRANT SELECT (id, shard, tags, quorum, failures_to_open, successes_to_close) ON picket.sites TO picket_sink;
        WHEN 'picket_api' THEN
            GRANT USAGE ON SCHEMA report TO picket_api;
            GRANT SELECT ON ALL TABLES IN SCHEMA picket, report TO picket_api;
            REVOKE ALL ON picket.ticket_keys FROM picket_api;
            GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA report TO picket_api;
            -- Of a site what a person decides; the rest is found out.
            GRANT DELETE,
                INSERT (url, name, interval_seconds, timeout_ms, method, headers, body, status, regex, not_regex, max_redirects,
                    ip_version, tls_verify, regions, enabled, quorum, failures_to_open, successes_to_close, tags),
                UPDATE (url, name, interval_seconds, timeout_ms, method, headers, body, status, regex, not_regex, max_redirects,
                    ip_version, tls_verify, regions, enabled, quorum, failures_to_open, successes_to_close, tags)
                ON picket.sites TO picket_api;
            GRANT INSERT (name), UPDATE (removed_at), DELETE ON picket.regions TO picket_api;
            GRANT DELETE, INSERT (site_id, tag, window_from, window_to), UPDATE (site_id, tag, window_from, window_to)
                ON picket.maintenance TO picket_api;
        WHEN 'picket_report' THEN
            GRANT SELECT ON ALL TABLES IN SCHEMA report TO picket_report;
            GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA report TO picket_report;
        END CASE;
    END LOOP;
END $$;
SELECT picket.grant_roles();
