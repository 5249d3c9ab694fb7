-- Channels, routes, silences and acknowledgements: who is told, by what, and who is not.

DO $$
BEGIN
    CREATE ROLE picket_notifier NOLOGIN;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'role picket_notifier could not be created; a superuser can: CREATE ROLE picket_notifier NOLOGIN; then: SELECT picket.grant_roles()';
END $$;

-- True if the channels of a kind are read by programs, which are told of each event once, in order.
-- People are told of the present state, many sites in one message. picket_proto::ChannelKind has the
-- same list; a test compares them.
CREATE FUNCTION picket.is_for_programs(kind text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN kind IN ('webhook', 'pagerduty', 'alertmanager', 'opsgenie');

-- A name of a channel or a route.
CREATE FUNCTION picket.is_notification_name(name text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN name ~ '^[a-z0-9][a-z0-9_.-]{0,63}$';

CREATE TABLE picket.channels (
    name text PRIMARY KEY CONSTRAINT channel_name CHECK (picket.is_notification_name(name)),
    kind text NOT NULL CONSTRAINT channel_kind_is_a_word CHECK (kind ~ '^[a-z]{1,32}$'),
    settings jsonb NOT NULL DEFAULT '{}' CONSTRAINT channel_settings_are_an_object CHECK (
        jsonb_typeof(settings) = 'object' AND octet_length(settings::text) <= 65536),
    enabled boolean NOT NULL DEFAULT true,
    -- False: the channel is not told of ends.
    send_closed boolean NOT NULL DEFAULT true,
    -- Least time between two messages; null for the kind's own.
    pace_ms integer CONSTRAINT channel_pace CHECK (pace_ms BETWEEN 0 AND 3600000),
    -- Changes with each change of the columns above.
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE picket.channels IS 'Destinations of notifications; picket channel manages them';
COMMENT ON COLUMN picket.channels.settings IS
    'Settings of the kind; secrets are names of entries of the notifiers'' secrets files, as {"secret": NAME}';

-- What notifiers know of a channel. They have no right to change its definition.
CREATE TABLE picket.channel_states (
    channel text PRIMARY KEY REFERENCES picket.channels ON DELETE CASCADE ON UPDATE CASCADE,
    -- Version of the definition for which overrides, problem and is_gone hold.
    version bigint NOT NULL DEFAULT 1,
    -- Settings that the receiver has changed, such as the new id of a chat.
    overrides jsonb NOT NULL DEFAULT '{}',
    -- Why the channel cannot be used: notifiers cannot read its settings, or the receiver is gone.
    problem text,
    -- True if the receiver wants no message again: nothing is attempted until the definition changes.
    is_gone boolean NOT NULL DEFAULT false,
    next_send_at timestamptz NOT NULL DEFAULT '-infinity',
    consecutive_failures integer NOT NULL DEFAULT 0,
    -- First failure since the last delivery; null if the last attempt succeeded.
    failing_since timestamptz,
    -- True once the channel counts as failing: other channels are told.
    is_failing boolean NOT NULL DEFAULT false,
    last_error text,
    last_delivered_at timestamptz,
    -- A storm in progress: many sites at once are told by digests.
    storm jsonb,
    -- Next request of a watchdog, or next repetition of what is firing for an Alertmanager.
    next_ping_at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);

-- A channel has eight lanes. One notifier at a time works in a lane, so that what is about the same
-- incident stays in order. People's channels use lane 0 only.
CREATE TABLE picket.channel_lanes (
    channel text NOT NULL REFERENCES picket.channels ON DELETE CASCADE ON UPDATE CASCADE,
    lane smallint NOT NULL,
    -- Earliest time at which there may be something to do; infinity for never.
    due_at timestamptz NOT NULL DEFAULT 'infinity',
    leased_by text,
    -- By this database's clock.
    leased_until timestamptz NOT NULL DEFAULT '-infinity',
    -- Incremented by each acquisition; fences writes to the lane's notifications.
    epoch bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (channel, lane)
) WITH (fillfactor = 50);
CREATE INDEX channel_lanes_due ON picket.channel_lanes (due_at) WHERE due_at < 'infinity';

-- Locks lanes, in their order. Whoever changes notices, messages or states of channels locks the lanes
-- before, as notifiers do, which prevents deadlocks.
CREATE FUNCTION picket.lock_lanes(of_channel text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM FROM picket.channel_lanes AS held WHERE of_channel IS NULL OR held.channel = of_channel
    ORDER BY held.channel, held.lane FOR NO KEY UPDATE;
END $$;
COMMENT ON FUNCTION picket.lock_lanes IS 'Locks the lanes of a channel, or of all, until the transaction ends';

-- Has lanes looked at in which a notice or a message is due.
CREATE FUNCTION picket.wake_lanes() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    UPDATE picket.channel_lanes AS lane SET due_at = least(lane.due_at, clock_timestamp())
    WHERE EXISTS (SELECT FROM picket.notices AS notice WHERE notice.channel = lane.channel AND notice.lane = lane.lane
                  AND notice.state = 'waiting' AND notice.due_at <= clock_timestamp())
       OR EXISTS (SELECT FROM picket.notifications AS message WHERE message.channel = lane.channel AND message.lane = lane.lane
                  AND message.state = 'waiting' AND message.next_attempt_at <= clock_timestamp());
    PERFORM pg_notify('picket_notices', '');
END $$;
COMMENT ON FUNCTION picket.wake_lanes IS 'Has lanes looked at in which a notice or a message is due';

CREATE FUNCTION picket.channels_before() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    NEW.version := OLD.version + 1;
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END $$;
COMMENT ON FUNCTION picket.channels_before IS 'Counts the changes of a channel''s definition';
CREATE TRIGGER channels_before BEFORE UPDATE ON picket.channels
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION picket.channels_before();

-- Has what a channel did not take tried again now: somebody has mended it.
CREATE FUNCTION picket.try_waiting(of_channel text) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM picket.lock_lanes(of_channel);
    UPDATE picket.notifications SET next_attempt_at = now()
    WHERE channel = of_channel AND state = 'waiting' AND next_attempt_at > now();
    UPDATE picket.notices SET due_at = now()
    WHERE channel = of_channel AND state = 'waiting' AND due_at > now()
      AND (notification_id IS NOT NULL OR beginning_id IS NOT NULL OR reason = 'channel_paused');
    PERFORM picket.wake_lanes();
END $$;
COMMENT ON FUNCTION picket.try_waiting IS 'Has what waits for a channel after a failure or a pause tried now';

-- A new channel has its state and its lanes. A changed definition is tried at once.
CREATE FUNCTION picket.channels_after() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO picket.channel_states (channel, version) VALUES (NEW.name, NEW.version);
        INSERT INTO picket.channel_lanes (channel, lane) SELECT NEW.name, generate_series(0, 7);
    ELSE
        PERFORM picket.lock_lanes(NEW.name);
        UPDATE picket.channel_states
        SET version = NEW.version, overrides = '{}', problem = NULL, is_gone = false, next_send_at = '-infinity'
        WHERE channel = NEW.name;
        PERFORM picket.try_waiting(NEW.name);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.channels_after IS 'Makes the state and the lanes of a new channel, and has a changed one tried at once';
CREATE TRIGGER channels_after AFTER INSERT OR UPDATE ON picket.channels
    FOR EACH ROW EXECUTE FUNCTION picket.channels_after();

-- The lanes of a channel that is removed are locked before its state, as by notifiers.
CREATE FUNCTION picket.channels_before_delete() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM picket.lock_lanes(OLD.name);
    RETURN OLD;
END $$;
COMMENT ON FUNCTION picket.channels_before_delete IS 'Locks the lanes of a channel before it is removed';
CREATE TRIGGER channels_before_delete BEFORE DELETE ON picket.channels
    FOR EACH ROW EXECUTE FUNCTION picket.channels_before_delete();

-- Whom an event concerns: all routes that match apply, and a channel is told once. For a channel in
-- several of them, the settings of the first hold.
CREATE TABLE picket.routes (
    route_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE CONSTRAINT route_name CHECK (picket.is_notification_name(name)),
    position integer NOT NULL DEFAULT 0,
    -- Any of these tags; empty for all sites.
    tags text[] NOT NULL DEFAULT '{}',
    -- All of these tags.
    all_tags text[] NOT NULL DEFAULT '{}',
    -- These sites; empty for all.
    site_ids bigint[] NOT NULL DEFAULT '{}',
    -- Any of these regions is down; empty for all.
    regions text[] NOT NULL DEFAULT '{}',
    min_regions smallint CONSTRAINT route_min_regions CHECK (min_regions BETWEEN 1 AND 100),
    events text[] NOT NULL DEFAULT '{incident}' CONSTRAINT route_events CHECK (
        cardinality(events) > 0 AND events <@ ARRAY['incident', 'warning', 'certificate', 'region', 'channel', 'ledger']),
    channels text[] NOT NULL CONSTRAINT route_channels CHECK (cardinality(channels) BETWEEN 1 AND 50),
    -- Time to collect further incidents before a message; null for 10 s for people, none for programs.
    wait_ms integer CONSTRAINT route_wait CHECK (wait_ms BETWEEN 0 AND 3600000),
    -- Time for which an incident must last to be told.
    delay_ms integer NOT NULL DEFAULT 0 CONSTRAINT route_delay CHECK (delay_ms BETWEEN 0 AND 86400000),
    -- What shares a message; null for the route for people, the site for programs.
    group_by text CONSTRAINT route_group_by CHECK (group_by IN ('route', 'tag', 'site')),
    -- Time to the first reminder, doubled for each further one up to a day; 0 for none.
    remind_ms integer NOT NULL DEFAULT 3600000 CONSTRAINT route_remind CHECK (remind_ms = 0 OR remind_ms BETWEEN 60000 AND 604800000),
    -- More incidents than this at once are told by digests.
    storm_after integer NOT NULL DEFAULT 20 CONSTRAINT route_storm_after CHECK (storm_after BETWEEN 1 AND 10000),
    -- Steps [{"after_ms": 900000, "channels": ["phone"]}] while nobody acknowledges.
    escalate jsonb NOT NULL DEFAULT '[]' CONSTRAINT route_escalate CHECK (jsonb_typeof(escalate) = 'array'),
    -- Hours of the week in which the route tells, as {"time_zone", "hours": [{"days", "from", "to"}]};
    -- null for always.
    active jsonb CONSTRAINT route_active CHECK (jsonb_typeof(active) = 'object'),
    -- Applies only where no other route does.
    fallback boolean NOT NULL DEFAULT false,
    enabled boolean NOT NULL DEFAULT true,
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE picket.routes IS 'Which events are told to which channels; picket route manages them';
CREATE TRIGGER routes_before BEFORE UPDATE ON picket.routes
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION picket.channels_before();

-- What a removed route said of the notices that still wait: they are told at the times that they had.
CREATE TABLE picket.former_routes (
    route_id bigint PRIMARY KEY,
    wait_ms integer,
    delay_ms integer NOT NULL,
    remind_ms integer NOT NULL,
    storm_after integer NOT NULL,
    active jsonb,
    removed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE FUNCTION picket.routes_removed() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    INSERT INTO picket.former_routes (route_id, wait_ms, delay_ms, remind_ms, storm_after, active)
    VALUES (OLD.route_id, OLD.wait_ms, OLD.delay_ms, OLD.remind_ms, OLD.storm_after, OLD.active)
    ON CONFLICT (route_id) DO NOTHING;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.routes_removed IS 'Keeps what a removed route said of the notices that still wait';
CREATE TRIGGER routes_removed AFTER DELETE ON picket.routes FOR EACH ROW EXECUTE FUNCTION picket.routes_removed();

-- What routes say of notices. Of a route that is changed the present values hold, of a removed one the
-- last.
CREATE VIEW picket.known_routes AS
SELECT route_id, wait_ms, delay_ms, remind_ms, storm_after, active FROM picket.routes
UNION ALL
SELECT route_id, wait_ms, delay_ms, remind_ms, storm_after, active FROM picket.former_routes;
COMMENT ON VIEW picket.known_routes IS 'What routes, also removed ones, say of the notices that wait';

-- Spans in which nobody is told. Incidents open and are recorded; what is still down at the end is
-- told then.
CREATE TABLE picket.silences (
    silence_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site_id bigint,
    tag text CONSTRAINT silence_tag_is_short CHECK (octet_length(tag) <= 64),
    all_sites boolean NOT NULL DEFAULT false,
    starts_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Needed, so that none is forgotten.
    ends_at timestamptz NOT NULL CONSTRAINT silence_ends CHECK (isfinite(ends_at)),
    reason text NOT NULL CONSTRAINT silence_reason CHECK (length(reason) BETWEEN 1 AND 500),
    created_by text NOT NULL DEFAULT session_user CONSTRAINT silence_created_by CHECK (length(created_by) <= 320),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT a_site_a_tag_or_all CHECK (num_nonnulls(site_id, tag, nullif(all_sites, false)) = 1),
    CONSTRAINT ends_at_is_after_starts_at CHECK (ends_at > starts_at)
);
CREATE INDEX silences_ends_at ON picket.silences (ends_at);
COMMENT ON TABLE picket.silences IS 'Spans in which incidents are recorded and nobody is told; picket silence manages them';

-- End of the silence of a site at a time; null if it is not silenced then.
CREATE FUNCTION picket.silenced_until(of_site bigint, of_tags text[], at timestamptz) RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN (SELECT max(silence.ends_at) FROM picket.silences AS silence
            WHERE silence.ends_at > at AND silence.starts_at <= at
              -- Troubles of Picket itself are of no site.
              AND (silence.all_sites AND of_site IS NOT NULL OR silence.site_id = of_site OR silence.tag = ANY (of_tags)));

-- A silence that ends early has what it held back looked at again.
CREATE FUNCTION picket.silences_after() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM picket.lock_lanes();
    UPDATE picket.notices SET due_at = now() WHERE state = 'waiting' AND reason = 'silenced';
    PERFORM picket.wake_lanes();
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.silences_after IS 'Has waiting notices looked at again when a silence is changed or removed';
CREATE TRIGGER silences_after AFTER UPDATE OR DELETE ON picket.silences
    FOR EACH STATEMENT EXECUTE FUNCTION picket.silences_after();

-- An incident that somebody takes care of: no reminder and no escalation; its end is told.
CREATE TABLE picket.acknowledgements (
    incident_id bigint PRIMARY KEY REFERENCES picket.incidents ON DELETE CASCADE,
    acknowledged_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    acknowledged_by text NOT NULL DEFAULT session_user CONSTRAINT acknowledged_by_is_short CHECK (length(acknowledged_by) <= 320),
    note text CONSTRAINT acknowledgement_note CHECK (length(note) BETWEEN 1 AND 2000)
);
COMMENT ON TABLE picket.acknowledgements IS 'Incidents that somebody takes care of; picket incident ack writes them';

-- Notifiers that run, and when one of them was last alive.
CREATE TABLE picket.notifiers (
    id text PRIMARY KEY,
    version text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
-- Spans in which no notifier ran.
CREATE TABLE picket.notification_gaps (
    gap_from timestamptz PRIMARY KEY,
    gap_to timestamptz NOT NULL
);
