-- Notifications: each transition and each channel that its routes named ends as exactly one notice
-- that was delivered, suppressed or failed, with the reason.

-- What happened, in the order in which it was recorded: a row for each event. Written in the
-- transaction that caused the event, and kept when the event has been published.
CREATE TABLE picket.transitions (
    transition_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id text NOT NULL UNIQUE,
    -- Such as incident.opened.
    event text NOT NULL,
    -- What the event is about: the same at its beginning and its end.
    subject text NOT NULL,
    is_end boolean NOT NULL,
    incident_id bigint,
    site_id bigint,
    tags text[] NOT NULL DEFAULT '{}',
    regions text[] NOT NULL DEFAULT '{}',
    payload jsonb NOT NULL,
    -- Delays count from here, and not from the times of checks, which may be stored late.
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Null until the notices are written.
    planned_at timestamptz,
    -- Number of channels that the routes named.
    channels smallint
);
CREATE INDEX transitions_unplanned ON picket.transitions (transition_id) WHERE planned_at IS NULL;
CREATE INDEX transitions_subject ON picket.transitions (subject);
CREATE INDEX transitions_incident ON picket.transitions (incident_id) WHERE incident_id IS NOT NULL;
CREATE INDEX transitions_site ON picket.transitions (site_id, recorded_at) WHERE site_id IS NOT NULL;
CREATE INDEX transitions_recorded_at ON picket.transitions (recorded_at);

CREATE FUNCTION picket.text_array(list jsonb) RETURNS text[]
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN jsonb_typeof(list) = 'array' THEN ARRAY(SELECT jsonb_array_elements_text(list)) ELSE '{}' END;

-- Every event passes through the outbox, whichever process causes it.
CREATE FUNCTION picket.outbox_after() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    INSERT INTO picket.transitions (event_id, event, subject, is_end, incident_id, site_id, tags, regions, payload)
    SELECT NEW.event_id, NEW.payload ->> 'event', regexp_replace(NEW.event_id, '\.[a-z]+$', ''),
           NEW.payload ->> 'event' IN ('incident.closed', 'warning.closed', 'region.back', 'channel.working'),
           (NEW.payload ->> 'incident_id')::bigint, (NEW.payload ->> 'site_id')::bigint,
           picket.text_array(NEW.payload -> 'tags'),
           CASE WHEN NEW.payload ? 'region' THEN ARRAY[NEW.payload ->> 'region'] ELSE picket.text_array(NEW.payload -> 'regions') END,
           NEW.payload
    ON CONFLICT (event_id) DO NOTHING;
    -- Events on the bus wake notifiers too, but pass through a sink before.
    PERFORM pg_notify('picket_notices', '');
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.outbox_after IS 'Records each event as a transition, of which people are told';
CREATE TRIGGER outbox_after AFTER INSERT ON picket.outbox
    FOR EACH ROW WHEN (NEW.payload ? 'event') EXECUTE FUNCTION picket.outbox_after();

CREATE TYPE picket.notice_state AS ENUM ('waiting', 'delivered', 'suppressed', 'failed');
CREATE TYPE picket.notice_step AS ENUM ('event', 'reminder', 'escalation', 'calm', 'acknowledgement');
COMMENT ON TYPE picket.notice_step IS
    'event: the transition itself; reminder and escalation while it lasts; calm: a site that was flapping has become steady; acknowledgement: somebody takes care of it';

-- What a channel is to be told, and what came of it.
CREATE TABLE picket.notices (
    transition_id bigint NOT NULL REFERENCES picket.transitions ON DELETE CASCADE,
    -- Of an end: the transition of its beginning, with which it is read and told.
    beginning_id bigint,
    channel text NOT NULL,
    step picket.notice_step NOT NULL DEFAULT 'event',
    number smallint NOT NULL DEFAULT 0,
    -- Name that the route had, and its id: a route that is renamed or removed changes nothing.
    route text,
    route_id bigint,
    -- Notices of a channel with the same key share a message; null: one message for each event.
    group_key text,
    lane smallint NOT NULL,
    -- Earliest time to look at it.
    due_at timestamptz NOT NULL,
    state picket.notice_state NOT NULL DEFAULT 'waiting',
    -- Of a waiting notice: what it waits for, if not for its time.
    reason text,
    notification_id uuid,
    -- Attempts end a day after the first.
    first_attempt_at timestamptz,
    ended_at timestamptz,
    PRIMARY KEY (transition_id, channel, step, number),
    CONSTRAINT ended_at_of_ended_notices CHECK ((state = 'waiting') = (ended_at IS NULL)),
    CONSTRAINT a_notice_not_delivered_has_a_reason CHECK (state NOT IN ('suppressed', 'failed') OR reason IS NOT NULL)
);
CREATE INDEX notices_waiting ON picket.notices (channel, lane, due_at) WHERE state = 'waiting';
CREATE INDEX notices_notification ON picket.notices (notification_id);

CREATE TYPE picket.notification_state AS ENUM ('waiting', 'delivered', 'failed', 'superseded');

-- A message to a channel. Its content is composed anew at each attempt.
CREATE TABLE picket.notifications (
    notification_id uuid PRIMARY KEY,
    channel text NOT NULL,
    lane smallint NOT NULL,
    group_key text,
    -- alert, reminder, escalation, digest, acknowledgement or test.
    purpose text NOT NULL,
    state picket.notification_state NOT NULL DEFAULT 'waiting',
    -- Why it failed or was superseded.
    reason text,
    -- Of the last attempt.
    title text,
    attempts integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    -- What the receiver gave, such as the number of the message there.
    receiver_ref jsonb,
    -- What the last attempt told, hashed. Other contents are another message: a receiver that has the
    -- first one would take the second for its copy.
    contents text,
    -- True if an earlier message with some of its contents may have arrived.
    may_have_arrived boolean NOT NULL DEFAULT false,
    CONSTRAINT ended_at_of_ended_notifications CHECK ((state = 'waiting') = (ended_at IS NULL))
);
CREATE INDEX notifications_waiting ON picket.notifications (channel, lane, next_attempt_at) WHERE state = 'waiting';
CREATE INDEX notifications_created_at ON picket.notifications (created_at);

-- Attempts. One without an end whose lane's lease is over ended in an unknown way: the receiver may
-- have the message.
CREATE TABLE picket.delivery_attempts (
    notification_id uuid NOT NULL REFERENCES picket.notifications ON DELETE CASCADE,
    number integer NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    notifier text NOT NULL,
    epoch bigint NOT NULL,
    -- delivered, retry, refused, gone or moved; null while it lasts, and if its end is unknown.
    outcome text,
    status integer,
    message text CONSTRAINT attempt_message_is_short CHECK (octet_length(message) <= 500),
    retry_after_ms bigint,
    PRIMARY KEY (notification_id, number)
);

INSERT INTO picket.locks VALUES ('notices');

-- Progress of the notifications: transitions recorded before started_at were told to nobody, or are
-- not kept any more.
CREATE TABLE picket.notification_progress (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    started_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO picket.notification_progress DEFAULT VALUES;

-- The routes that an event concerns. Those that are a fallback only if no other matches.
CREATE FUNCTION picket.matching_routes(
    of_event text, of_site bigint, of_tags text[], of_regions text[], at timestamptz DEFAULT 'infinity')
    RETURNS SETOF picket.routes
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
        WITH matching AS (
            SELECT * FROM picket.routes AS route
            WHERE route.enabled AND route.created_at <= at AND split_part(of_event, '.', 1) = ANY (route.events)
              AND (route.tags = '{}' OR route.tags && of_tags)
              AND route.all_tags <@ of_tags
              AND (route.site_ids = '{}' OR of_site = ANY (route.site_ids))
              AND (route.regions = '{}' OR route.regions && of_regions)
              AND (route.min_regions IS NULL OR cardinality(of_regions) >= route.min_regions)
        )
        SELECT * FROM matching
        WHERE NOT fallback OR NOT EXISTS (SELECT FROM matching AS other WHERE NOT other.fallback)
        ORDER BY fallback, position, route_id
    $$;
COMMENT ON FUNCTION picket.matching_routes IS 'The routes that an event concerns, in their order';

CREATE FUNCTION picket.lane_of(subject text) RETURNS smallint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN (picket.hash32('lane ' || subject) % 8)::smallint;

-- What shares a message by a route's group_by; null for one message for each event. Services that keep
-- alerts of their own are told of each event by itself, whatever group_by says: only so an end closes
-- the alert of its beginning. A webhook is told as people are if group_by asks for that.
CREATE FUNCTION picket.group_key_of(
        group_by text, of_route text, route_tags text[], kind text, of_site bigint, site_tags text[], subject text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN picket.is_for_programs(kind) AND (kind <> 'webhook' OR coalesce(group_by, 'site') = 'site') THEN NULL
                WHEN coalesce(group_by, 'route') = 'route' THEN 'route ' || of_route
                WHEN group_by = 'tag'
                THEN 'tag ' || coalesce((SELECT tag FROM unnest(site_tags) AS tag WHERE route_tags = '{}' OR tag = ANY (route_tags) LIMIT 1), '')
                ELSE 'site ' || coalesce(of_site::text, subject)
           END;

-- Writes the notices of up to `most` transitions, in the order in which these were recorded, and
-- returns the number of transitions. One caller at a time, because the end of an incident is told to
-- the channels of its beginning.
CREATE FUNCTION picket.plan_notices(most integer) RETURNS integer
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    planned bigint[];
BEGIN
    IF NOT EXISTS (SELECT FROM picket.transitions WHERE planned_at IS NULL) OR NOT picket.try_lock('notices') THEN
        RETURN 0;
    END IF;
    -- Before any notice, as notifiers do.
    PERFORM picket.lock_lanes();
    planned := ARRAY(SELECT transition_id FROM picket.transitions WHERE planned_at IS NULL ORDER BY transition_id LIMIT most);

    -- Beginnings, to the channels of the routes that are older than they.
    WITH begun AS MATERIALIZED (
        SELECT * FROM picket.transitions WHERE transition_id = ANY (planned) AND NOT is_end
    ),
    matched AS MATERIALIZED (
        SELECT begun.transition_id, begun.subject, begun.recorded_at, begun.tags AS site_tags, begun.site_id,
               begun.payload ->> 'channel' AS failing_channel, route.*,
               row_number() OVER (PARTITION BY begun.transition_id ORDER BY route.fallback, route.position, route.route_id) AS rank
        FROM begun
        CROSS JOIN LATERAL picket.matching_routes(begun.event, begun.site_id, begun.tags, begun.regions, begun.recorded_at) AS route
    ),
    told AS (
        SELECT DISTINCT ON (matched.transition_id, channel.name)
               matched.transition_id, channel.name AS channel, matched.name AS route, matched.route_id, matched.subject,
               picket.group_key_of(matched.group_by, matched.name, matched.tags, channel.kind, matched.site_id, matched.site_tags,
                                   matched.subject) AS group_key,
               matched.recorded_at + (matched.delay_ms + coalesce(matched.wait_ms,
                   CASE WHEN picket.is_for_programs(channel.kind) THEN 0 ELSE 10000 END)) * interval '1 millisecond' AS due_at
        FROM matched
        CROSS JOIN unnest(matched.channels) AS named
        JOIN picket.channels AS channel ON channel.name = named
        WHERE channel.created_at <= matched.recorded_at AND channel.kind <> 'watchdog'
          -- A channel that fails cannot tell that it does.
          AND matched.failing_channel IS DISTINCT FROM channel.name
        ORDER BY matched.transition_id, channel.name, matched.rank
    ),
    escalated AS (
        SELECT DISTINCT ON (matched.transition_id, channel.name, step.number)
               matched.transition_id, channel.name AS channel, matched.name AS route, matched.route_id, matched.subject, channel.kind,
               step.number,
               matched.recorded_at + (step.value ->> 'after_ms')::bigint * interval '1 millisecond' AS due_at
        FROM matched
        CROSS JOIN jsonb_array_elements(matched.escalate) WITH ORDINALITY AS step (value, number)
        CROSS JOIN jsonb_array_elements_text(step.value -> 'channels') AS named
        JOIN picket.channels AS channel ON channel.name = named
        WHERE channel.created_at <= matched.recorded_at AND channel.kind <> 'watchdog'
          -- A channel that fails cannot tell that it does.
          AND matched.failing_channel IS DISTINCT FROM channel.name
        ORDER BY matched.transition_id, channel.name, step.number, matched.rank
    )
    INSERT INTO picket.notices (transition_id, channel, step, number, route, route_id, group_key, lane, due_at)
    SELECT transition_id, channel, 'event'::picket.notice_step, 0::smallint, route, route_id, group_key,
           CASE WHEN group_key IS NULL THEN picket.lane_of(subject) ELSE 0 END, due_at
    FROM told
    UNION ALL
    SELECT transition_id, channel, 'escalation'::picket.notice_step, number::smallint, route, route_id,
           CASE WHEN NOT picket.is_for_programs(kind) THEN 'escalation ' || route END,
           CASE WHEN picket.is_for_programs(kind) THEN picket.lane_of(subject) ELSE 0 END, due_at
    FROM escalated
    ON CONFLICT DO NOTHING;

    -- Ends, to the channels that were to be told of the beginning.
    INSERT INTO picket.notices (transition_id, beginning_id, channel, route, route_id, group_key, lane, due_at, state, reason, ended_at)
    SELECT DISTINCT ON (ended.transition_id, notice.channel)
           ended.transition_id, begun.transition_id, notice.channel, notice.route, notice.route_id, notice.group_key, notice.lane, clock_timestamp(),
           CASE WHEN channel.send_closed THEN 'waiting' ELSE 'suppressed' END::picket.notice_state,
           CASE WHEN NOT channel.send_closed THEN 'closed_not_sent' END,
           CASE WHEN NOT channel.send_closed THEN clock_timestamp() END
    FROM picket.transitions AS ended
    JOIN picket.transitions AS begun ON begun.subject = ended.subject AND NOT begun.is_end
    JOIN picket.notices AS notice ON notice.transition_id = begun.transition_id
    JOIN picket.channels AS channel ON channel.name = notice.channel
    WHERE ended.transition_id = ANY (planned) AND ended.is_end
      AND (notice.step = 'event' OR notice.step = 'escalation' AND notice.state IN ('waiting', 'delivered'))
    ORDER BY ended.transition_id, notice.channel, notice.step
    ON CONFLICT DO NOTHING;

    -- What still waits of a beginning is looked at now, with its end: steps of escalation end untold, and
    -- what was held back or not due yet may have been brief. What was attempted keeps its time.
    UPDATE picket.notices AS step SET due_at = least(step.due_at, clock_timestamp())
    FROM picket.transitions AS ended
    JOIN picket.transitions AS begun ON begun.subject = ended.subject AND NOT begun.is_end
    WHERE ended.transition_id = ANY (planned) AND ended.is_end AND step.transition_id = begun.transition_id
      AND step.state = 'waiting'
      AND (step.step = 'escalation'
           OR step.step = 'event' AND step.notification_id IS NULL);
    UPDATE picket.transitions AS transition
    SET planned_at = clock_timestamp(),
        channels = (SELECT count(*) FROM picket.notices AS notice
                    WHERE notice.transition_id = transition.transition_id AND notice.step = 'event')
    WHERE transition.transition_id = ANY (planned);
    UPDATE picket.channel_lanes AS lane SET due_at = least(lane.due_at, added.due_at)
    FROM (SELECT channel, notices.lane, min(due_at) AS due_at FROM picket.notices
          WHERE transition_id = ANY (planned) AND state = 'waiting' GROUP BY channel, notices.lane) AS added
    WHERE lane.channel = added.channel AND lane.lane = added.lane AND lane.due_at > added.due_at;
    PERFORM pg_notify('picket_notices', '');
    RETURN cardinality(planned);
END $$;
COMMENT ON FUNCTION picket.plan_notices IS 'Writes the notices of the oldest transitions without, and returns the number of transitions';

-- Tells a channel, or the channels of a route, of what began before it was there and still lasts;
-- returns the number of notices. Nobody is told twice.
CREATE FUNCTION picket.catch_up(of_channel text, of_route text) RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    number bigint;
BEGIN
    PERFORM picket.lock('notices');
    PERFORM picket.lock_lanes();
    WITH lasting AS MATERIALIZED (
        SELECT * FROM picket.transitions AS begun
        WHERE begun.event IN ('incident.opened', 'warning.opened', 'region.silent', 'channel.failing')
          AND NOT EXISTS (SELECT FROM picket.transitions AS ended WHERE ended.subject = begun.subject AND ended.is_end)
    ),
    told AS (
        SELECT DISTINCT ON (lasting.transition_id, channel.name)
               lasting.transition_id, channel.name AS channel, route.name AS route, route.route_id, lasting.subject,
               picket.group_key_of(route.group_by, route.name, route.tags, channel.kind, lasting.site_id, lasting.tags, lasting.subject)
                   AS group_key,
               bool_or(route.name = of_route) OVER (PARTITION BY lasting.transition_id, channel.name) AS is_named
        FROM lasting
        CROSS JOIN LATERAL picket.matching_routes(lasting.event, lasting.site_id, lasting.tags, lasting.regions) AS route
        CROSS JOIN unnest(route.channels) AS named
        JOIN picket.channels AS channel ON channel.name = named AND channel.kind <> 'watchdog'
        WHERE of_channel IS NULL OR channel.name = of_channel
        ORDER BY lasting.transition_id, channel.name, route.fallback, route.position, route.route_id
    ),
    added AS (
        INSERT INTO picket.notices (transition_id, channel, route, route_id, group_key, lane, due_at)
        SELECT transition_id, channel, route, route_id, group_key, CASE WHEN group_key IS NULL THEN picket.lane_of(subject) ELSE 0 END,
               clock_timestamp()
        FROM told WHERE of_route IS NULL OR is_named
        ON CONFLICT DO NOTHING
        RETURNING transition_id, channel, lane
    ),
    counted AS (
        -- Planning counts those of a transition that is not planned yet.
        UPDATE picket.transitions AS transition SET channels = transition.channels + more.number
        FROM (SELECT transition_id, count(*)::smallint AS number FROM added GROUP BY transition_id) AS more
        WHERE transition.transition_id = more.transition_id AND transition.planned_at IS NOT NULL
    ),
    woken AS (
        UPDATE picket.channel_lanes AS kept SET due_at = least(kept.due_at, clock_timestamp())
        FROM (SELECT DISTINCT channel, lane FROM added) AS used
        WHERE kept.channel = used.channel AND kept.lane = used.lane
    )
    SELECT count(*) INTO number FROM added;
    PERFORM pg_notify('picket_notices', '');
    RETURN number;
END $$;
COMMENT ON FUNCTION picket.catch_up IS
    'Tells a new channel, or the channels of a new route, of what lasts; returns the number of notices';

-- Has what failed tried once more: one notification, or those of a channel that failed since a time.
-- Returns their number.
CREATE FUNCTION picket.retry_failed(of_notification uuid, of_channel text, since timestamptz) RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    messages bigint;
    unsent bigint;
BEGIN
    PERFORM picket.lock_lanes(of_channel);
    -- Under its old number, by which a receiver recognises a message that it has already.
    UPDATE picket.notifications AS message
    SET state = 'waiting', reason = NULL, ended_at = NULL, next_attempt_at = clock_timestamp()
    WHERE message.state = 'failed' AND message.purpose <> 'test'
      AND (of_notification IS NULL OR message.notification_id = of_notification)
      AND (of_channel IS NULL OR message.channel = of_channel) AND (since IS NULL OR message.ended_at >= since)
      AND EXISTS (SELECT FROM picket.channels AS channel WHERE channel.name = message.channel);
    GET DIAGNOSTICS messages = ROW_COUNT;
    SELECT count(*) INTO unsent FROM picket.notices AS notice
    WHERE notice.state = 'failed' AND of_notification IS NULL AND notice.channel = of_channel
      AND (since IS NULL OR notice.ended_at >= since)
      AND NOT EXISTS (SELECT FROM picket.notifications AS message
                      WHERE message.notification_id = notice.notification_id AND message.state = 'waiting');
    -- Also those that were given up by themselves, of a message that went on without them.
    UPDATE picket.notices AS notice
    SET state = 'waiting', reason = NULL, ended_at = NULL, first_attempt_at = NULL, due_at = clock_timestamp()
    WHERE notice.state = 'failed' AND (of_channel IS NULL OR notice.channel = of_channel)
      AND CASE WHEN of_notification IS NOT NULL THEN notice.notification_id = of_notification
               ELSE of_channel IS NOT NULL AND (since IS NULL OR notice.ended_at >= since) END
      AND EXISTS (SELECT FROM picket.channels AS channel WHERE channel.name = notice.channel);
    PERFORM picket.wake_lanes();
    RETURN messages + unsent;
END $$;
COMMENT ON FUNCTION picket.retry_failed IS 'Has failed notifications tried once more; returns their number';

-- Asks for a message marked as a test through a channel. Null if it is on its way; otherwise why not.
CREATE FUNCTION picket.request_test(of_channel text, of_id uuid) RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    -- The lane first, so that a notifier which releases it at this time sees the test.
    UPDATE picket.channel_lanes AS kept SET due_at = least(kept.due_at, clock_timestamp())
    WHERE kept.channel = of_channel AND kept.lane = 0;
    IF NOT FOUND THEN
        RETURN 'unknown';
    END IF;
    IF (SELECT count(*) FROM picket.notifications AS earlier
        WHERE earlier.channel = of_channel AND earlier.lane = 0 AND earlier.purpose = 'test' AND earlier.state = 'waiting') >= 5 THEN
        RETURN 'busy';
    END IF;
    INSERT INTO picket.notifications (notification_id, channel, lane, purpose) VALUES (of_id, of_channel, 0, 'test');
    PERFORM pg_notify('picket_notices', '');
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.request_test IS 'Asks for a test message through a channel; null, or unknown or busy if there will be none';

-- Gives a test up that nobody waits for any more, so that it is not sent later.
CREATE FUNCTION picket.cancel_test(of_id uuid) RETURNS void
    LANGUAGE sql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
        UPDATE picket.notifications SET state = 'superseded', reason = 'cancelled', ended_at = clock_timestamp()
        WHERE notification_id = of_id AND purpose = 'test' AND state = 'waiting'
    $$;
COMMENT ON FUNCTION picket.cancel_test IS 'Gives a test message up';

-- What waits for a channel ends with it: a later channel of the same name is another one.
CREATE FUNCTION picket.channels_removed() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    UPDATE picket.notices SET state = 'suppressed', reason = 'channel_removed', ended_at = clock_timestamp()
    WHERE channel = OLD.name AND state = 'waiting';
    UPDATE picket.notifications SET state = 'superseded', reason = 'channel_removed', ended_at = clock_timestamp()
    WHERE channel = OLD.name AND state = 'waiting';
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.channels_removed IS 'Ends what waits for a channel that is removed';
CREATE TRIGGER channels_removed AFTER DELETE ON picket.channels FOR EACH ROW EXECUTE FUNCTION picket.channels_removed();

-- Services that have acknowledgements of their own are told that somebody takes care of an incident, if
-- they are told of the incident.
CREATE FUNCTION picket.acknowledgements_after() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM picket.lock_lanes();
    INSERT INTO picket.notices (transition_id, channel, step, route, route_id, lane, due_at)
    SELECT DISTINCT ON (notice.transition_id, notice.channel)
           notice.transition_id, notice.channel, 'acknowledgement'::picket.notice_step, notice.route, notice.route_id, notice.lane,
           clock_timestamp()
    FROM picket.transitions AS opened
    JOIN picket.notices AS notice ON notice.transition_id = opened.transition_id AND notice.group_key IS NULL
    JOIN picket.channels AS channel ON channel.name = notice.channel AND channel.kind IN ('pagerduty', 'opsgenie')
    WHERE opened.incident_id = NEW.incident_id AND opened.event = 'incident.opened'
      AND (notice.step = 'event' AND notice.state IN ('waiting', 'delivered') OR notice.step = 'escalation' AND notice.state = 'delivered')
    ORDER BY notice.transition_id, notice.channel, notice.step
    -- Acknowledged before, and withdrawn: told once more.
    ON CONFLICT (transition_id, channel, step, number) DO UPDATE
    SET state = 'waiting', reason = NULL, ended_at = NULL, notification_id = NULL, due_at = clock_timestamp();
    PERFORM picket.wake_lanes();
    RETURN NULL;
END $$;
-- What was suppressed because somebody took care of the incident goes on when nobody does any more.
CREATE FUNCTION picket.acknowledgements_withdrawn() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM picket.lock_lanes();
    UPDATE picket.notices AS notice SET state = 'waiting', reason = NULL, ended_at = NULL, due_at = clock_timestamp()
    FROM picket.transitions AS opened
    WHERE opened.incident_id = OLD.incident_id AND notice.transition_id = opened.transition_id
      AND notice.state = 'suppressed' AND notice.reason = 'acknowledged' AND notice.step IN ('reminder', 'escalation')
      AND EXISTS (SELECT FROM picket.incidents AS incident WHERE incident.incident_id = OLD.incident_id AND incident.closed_at IS NULL);
    PERFORM picket.wake_lanes();
    RETURN NULL;
END $$;
COMMENT ON FUNCTION picket.acknowledgements_withdrawn IS 'Has reminders and escalations go on of an incident that nobody takes care of any more';
CREATE TRIGGER acknowledgements_withdrawn AFTER DELETE ON picket.acknowledgements
    FOR EACH ROW EXECUTE FUNCTION picket.acknowledgements_withdrawn();
COMMENT ON FUNCTION picket.acknowledgements_after IS 'Has services with acknowledgements told that somebody takes care of an incident';
CREATE TRIGGER acknowledgements_after AFTER INSERT ON picket.acknowledgements
    FOR EACH ROW EXECUTE FUNCTION picket.acknowledgements_after();

-- Leases a lane in which there is something to do; no row if there is none. A notifier works in at
-- most `most_lanes` lanes of a channel, so that one that hangs leaves room for the others. Channels
-- that deliver come first; of the others only if `with_failing`.
CREATE FUNCTION picket.claim_lane(of_notifier text, lease_ms integer, most_lanes integer, with_failing boolean)
    RETURNS TABLE (channel text, lane smallint, epoch bigint, is_failing boolean)
    LANGUAGE sql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
        UPDATE picket.channel_lanes AS held
        SET leased_by = of_notifier, leased_until = clock_timestamp() + lease_ms * interval '1 millisecond', epoch = held.epoch + 1
        FROM (
            SELECT due.channel, due.lane, state.failing_since IS NOT NULL AS is_failing FROM picket.channel_lanes AS due
            JOIN picket.channel_states AS state ON state.channel = due.channel
            WHERE due.due_at <= clock_timestamp() AND due.leased_until <= clock_timestamp()
              AND (state.next_send_at <= clock_timestamp() AND (with_failing OR state.failing_since IS NULL)
                   -- A person waits for a test, whatever the channel's state is.
                   OR due.lane = 0 AND EXISTS (SELECT FROM picket.notifications AS test
                                               WHERE test.channel = due.channel AND test.purpose = 'test' AND test.state = 'waiting'))
              AND (SELECT count(*) FROM picket.channel_lanes AS own
                   WHERE own.channel = due.channel AND own.leased_by = of_notifier AND own.leased_until > clock_timestamp()) < most_lanes
            ORDER BY state.failing_since IS NOT NULL, due.due_at LIMIT 1
            FOR NO KEY UPDATE OF due SKIP LOCKED
        ) AS chosen
        WHERE held.channel = chosen.channel AND held.lane = chosen.lane
        RETURNING held.channel, held.lane, held.epoch, chosen.is_failing
    $$;
COMMENT ON FUNCTION picket.claim_lane IS 'Leases a lane in which there is something to do to a notifier';

-- Start of the next active span at or after a time, by the hours of a week in a time zone. Days are
-- 1 (Monday) to 7; `to` may be 24:00, or before `from` for a span over midnight. Null hours: always.
CREATE FUNCTION picket.active_from(active jsonb, at timestamptz) RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE WHEN active IS NULL THEN at ELSE (
        SELECT min(greatest(at, span.starts)) FROM (
            -- The local wall clock decides, so that hours stay the same over a change of the clocks.
            SELECT (day + from_time) AT TIME ZONE zone AS starts,
                   (day + to_time + CASE WHEN to_time <= from_time THEN interval '1 day' ELSE interval '0' END) AT TIME ZONE zone AS ends
            FROM (SELECT active ->> 'time_zone' AS zone) AS zoned
            CROSS JOIN generate_series(-1, 8) AS ahead
            CROSS JOIN LATERAL (SELECT ((at AT TIME ZONE zone)::date + ahead)::timestamp AS day) AS days
            CROSS JOIN jsonb_array_elements(active -> 'hours') AS hours
            CROSS JOIN LATERAL (SELECT (hours ->> 'from')::interval AS from_time, (hours ->> 'to')::interval AS to_time) AS times
            WHERE hours -> 'days' @> to_jsonb(extract(isodow FROM day)::integer)
        ) AS span WHERE span.ends > at) END;
COMMENT ON FUNCTION picket.active_from IS 'The time, or the start of the next active span after it; null if there is none';

-- Writes what a notifier decided or learnt in a lane that it has leased, and extends or ends the
-- lease; false, and nothing is written, if another notifier has leased the lane since. One call is
-- one transaction, so that a notifier that is paused holds no lock.
--
-- work: {"notices": [{"transition_id", "step", "number", "state"?, "reason"?, "due_at"?, "notification_id"?}],
--        "added": [{"transition_id", "step", "number", "route", "route_id", "group_key", "due_at"}],
--        "notification": {"id", "purpose", "group_key", "title", "contents"?, "may_have_arrived", "state"?, "reason"?, "next_attempt_at"?, "receiver_ref"?},
--        "attempt": {"number", "notifier"} to begin one,
--        "attempt_end": {"number", "outcome", "status", "message", "retry_after_ms"},
--        "channel": {"next_send_at"?, "succeeded"?, "error"?, "is_failing"?, "problem"?, "is_gone"?, "overrides"?, "storm"?}}
CREATE FUNCTION picket.write_lane_work(of_channel text, of_lane smallint, of_epoch bigint, work jsonb, lease_ms integer)
    RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    message jsonb := work -> 'notification';
    change jsonb := work -> 'channel';
BEGIN
    PERFORM FROM picket.channel_lanes WHERE channel = of_channel AND lane = of_lane AND epoch = of_epoch FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE picket.channel_lanes SET leased_until = clock_timestamp() + lease_ms * interval '1 millisecond'
    WHERE channel = of_channel AND lane = of_lane;

    IF message IS NOT NULL THEN
        INSERT INTO picket.notifications AS kept (notification_id, channel, lane, group_key, purpose, title, contents, may_have_arrived)
        VALUES ((message ->> 'id')::uuid, of_channel, of_lane, message ->> 'group_key', message ->> 'purpose', left(message ->> 'title', 300),
                message ->> 'contents', coalesce((message ->> 'may_have_arrived')::boolean, false))
        ON CONFLICT (notification_id) DO UPDATE
        SET purpose = excluded.purpose, title = coalesce(excluded.title, kept.title),
            contents = coalesce(excluded.contents, kept.contents),
            may_have_arrived = kept.may_have_arrived OR excluded.may_have_arrived;
        UPDATE picket.notifications
        SET state = coalesce((message ->> 'state')::picket.notification_state, state),
            reason = coalesce(message ->> 'reason', reason),
            next_attempt_at = coalesce((message ->> 'next_attempt_at')::timestamptz, next_attempt_at),
            receiver_ref = coalesce(message -> 'receiver_ref', receiver_ref),
            ended_at = CASE WHEN coalesce(message ->> 'state', 'waiting') <> 'waiting' THEN clock_timestamp() ELSE ended_at END
        WHERE notification_id = (message ->> 'id')::uuid;
    END IF;
    IF work ? 'attempt' THEN
        INSERT INTO picket.delivery_attempts (notification_id, number, notifier, epoch)
        VALUES ((message ->> 'id')::uuid, (work -> 'attempt' ->> 'number')::integer, work -> 'attempt' ->> 'notifier', of_epoch);
        UPDATE picket.notifications SET attempts = (work -> 'attempt' ->> 'number')::integer
        WHERE notification_id = (message ->> 'id')::uuid;
    END IF;
    IF work ? 'attempt_end' THEN
        PERFORM picket.end_attempt((message ->> 'id')::uuid, work -> 'attempt_end');
    END IF;

    UPDATE picket.notices AS notice
    SET state = coalesce(new.state, notice.state), reason = CASE WHEN new.has_reason THEN new.reason ELSE notice.reason END,
        due_at = coalesce(new.due_at, notice.due_at), notification_id = coalesce(new.notification_id, notice.notification_id),
        first_attempt_at = coalesce(notice.first_attempt_at, CASE WHEN new.notification_id IS NOT NULL THEN clock_timestamp() END),
        ended_at = CASE WHEN new.state <> 'waiting' THEN clock_timestamp() END
    FROM (SELECT (item ->> 'transition_id')::bigint AS transition_id, (item ->> 'step')::picket.notice_step AS step,
                 (item ->> 'number')::smallint AS number, (item ->> 'state')::picket.notice_state AS state,
                 item ? 'reason' AS has_reason, item ->> 'reason' AS reason, (item ->> 'due_at')::timestamptz AS due_at,
                 (item ->> 'notification_id')::uuid AS notification_id
          FROM jsonb_array_elements(work -> 'notices') AS item) AS new
    WHERE notice.transition_id = new.transition_id AND notice.channel = of_channel AND notice.step = new.step
      AND notice.number = new.number AND notice.state = 'waiting';
    INSERT INTO picket.notices (transition_id, channel, step, number, route, route_id, group_key, lane, due_at)
    SELECT (item ->> 'transition_id')::bigint, of_channel, (item ->> 'step')::picket.notice_step, (item ->> 'number')::smallint,
           item ->> 'route', (item ->> 'route_id')::bigint, item ->> 'group_key', of_lane, (item ->> 'due_at')::timestamptz
    FROM jsonb_array_elements(work -> 'added') AS item
    ON CONFLICT DO NOTHING;

    -- Ends that waited for the next attempt at their beginning.
    UPDATE picket.notices AS following SET due_at = clock_timestamp()
    FROM jsonb_array_elements(work -> 'notices') AS item
    WHERE item ->> 'state' IN ('delivered', 'suppressed', 'failed')
      AND following.beginning_id = (item ->> 'transition_id')::bigint AND following.channel = of_channel
      AND following.state = 'waiting' AND following.reason IS NULL AND following.notification_id IS NULL
      AND following.due_at > clock_timestamp();

    IF change IS NOT NULL THEN
        -- Before the time of the first failure is forgotten.
        IF NOT (change ->> 'is_failing')::boolean THEN
            PERFORM picket.set_channel_failing(of_channel, false, change ->> 'error');
        END IF;
        UPDATE picket.channel_states AS state
        SET next_send_at = greatest((change ->> 'next_send_at')::timestamptz, state.next_send_at),
            consecutive_failures = CASE (change ->> 'succeeded')::boolean WHEN true THEN 0 WHEN false THEN state.consecutive_failures + 1
                                        ELSE state.consecutive_failures END,
            failing_since = CASE (change ->> 'succeeded')::boolean WHEN true THEN NULL
                                 WHEN false THEN coalesce(state.failing_since, clock_timestamp()) ELSE state.failing_since END,
            last_delivered_at = CASE WHEN (change ->> 'succeeded')::boolean THEN clock_timestamp() ELSE state.last_delivered_at END,
            last_error = coalesce(change ->> 'error', state.last_error),
            problem = CASE WHEN change ? 'problem' THEN change ->> 'problem' ELSE state.problem END,
            is_gone = coalesce((change ->> 'is_gone')::boolean, state.is_gone),
            overrides = state.overrides || coalesce(change -> 'overrides', '{}'),
            storm = CASE WHEN change ? 'storm' THEN nullif(change -> 'storm', 'null') ELSE state.storm END
        WHERE state.channel = of_channel;
        IF (change ->> 'is_failing')::boolean THEN
            PERFORM picket.set_channel_failing(of_channel, true, change ->> 'error');
        END IF;
    END IF;

    -- What other messages were to tell has been told or is suppressed.
    UPDATE picket.notifications AS left_over
    SET state = 'superseded', reason = 'nothing left to say', ended_at = clock_timestamp()
    WHERE left_over.channel = of_channel AND left_over.lane = of_lane AND left_over.state = 'waiting' AND left_over.purpose <> 'test'
      AND left_over.notification_id IS DISTINCT FROM (message ->> 'id')::uuid
      AND NOT EXISTS (SELECT FROM picket.notices AS notice
                      WHERE notice.notification_id = left_over.notification_id AND notice.state = 'waiting');
    RETURN true;
END $$;
COMMENT ON FUNCTION picket.write_lane_work IS
    'Writes what a notifier decided or learnt in its lane; false if another notifier has leased the lane since';

-- Records the end of an attempt; also one whose lane another notifier has leased since.
CREATE FUNCTION picket.end_attempt(of_notification uuid, attempt_end jsonb) RETURNS void
    LANGUAGE sql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
        UPDATE picket.delivery_attempts
        SET ended_at = clock_timestamp(), outcome = attempt_end ->> 'outcome', status = (attempt_end ->> 'status')::integer,
            message = attempt_end ->> 'message', retry_after_ms = (attempt_end ->> 'retry_after_ms')::bigint
        WHERE notification_id = of_notification AND number = (attempt_end ->> 'number')::integer AND ended_at IS NULL
    $$;
COMMENT ON FUNCTION picket.end_attempt IS 'Records the end of an attempt';

-- Tells a program once more of the end of what a late attempt may have begun again: its notifier had lost
-- the lane, and others told both meanwhile.
CREATE FUNCTION picket.repeat_end(of_notification uuid) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM picket.lock_lanes(message.channel) FROM picket.notifications AS message WHERE message.notification_id = of_notification;
    UPDATE picket.notices AS repeated SET state = 'waiting', reason = NULL, ended_at = NULL, due_at = clock_timestamp()
    FROM picket.notices AS begun
    JOIN picket.transitions AS beginning ON beginning.transition_id = begun.transition_id AND NOT beginning.is_end
    JOIN picket.transitions AS ended ON ended.subject = beginning.subject AND ended.is_end
    WHERE begun.notification_id = of_notification AND begun.group_key IS NULL
      AND repeated.transition_id = ended.transition_id AND repeated.channel = begun.channel AND repeated.step = 'event'
      AND repeated.state = 'delivered';
    IF FOUND THEN
        PERFORM picket.wake_lanes();
    END IF;
END $$;
COMMENT ON FUNCTION picket.repeat_end IS 'Tells a program once more of the end of what a late attempt may have begun again';

-- A channel begins or ceases to fail: an event, told to the other channels whose routes name it.
CREATE FUNCTION picket.set_channel_failing(of_channel text, failing boolean, error text) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    since timestamptz;
BEGIN
    UPDATE picket.channel_states AS state SET is_failing = failing
    FROM (SELECT before.failing_since FROM picket.channel_states AS before WHERE before.channel = of_channel) AS old
    WHERE state.channel = of_channel AND state.is_failing <> failing
    RETURNING coalesce(old.failing_since, clock_timestamp()) INTO since;
    IF FOUND THEN
        INSERT INTO picket.outbox (event_id, subject, payload)
        SELECT id, 'picket.event.channel.' || change, jsonb_build_object(
            'v', 1, 'id', id, 'event', 'channel.' || change, 'channel', of_channel, 'since', picket.wire_time(since),
            'at', picket.wire_time(clock_timestamp()),
            'message', error)
        FROM (SELECT CASE WHEN failing THEN 'failing' ELSE 'working' END AS change) AS word
        CROSS JOIN LATERAL (SELECT format('channel.%s.%s.%s', of_channel, (
            -- The end has the number of its beginning.
            SELECT count(*) + failing::integer FROM picket.transitions AS earlier
            WHERE earlier.event = 'channel.failing' AND earlier.payload ->> 'channel' = of_channel), change) AS id) AS identity;
    END IF;
END $$;
COMMENT ON FUNCTION picket.set_channel_failing IS 'Records that a channel fails or works again, with an event if that is new';

-- A channel that has not delivered for so long counts as failing, also between two attempts.
CREATE FUNCTION picket.mark_failing_channels(after_ms integer) RETURNS integer
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    late record;
    marked integer := 0;
BEGIN
    FOR late IN SELECT state.channel, state.last_error FROM picket.channel_states AS state
                JOIN picket.channels AS channel ON channel.name = state.channel
                WHERE NOT state.is_failing AND channel.enabled
                  AND state.failing_since <= clock_timestamp() - after_ms * interval '1 millisecond'
                ORDER BY state.channel LOOP
        PERFORM picket.lock_lanes(late.channel);
        PERFORM picket.set_channel_failing(late.channel, true, late.last_error);
        marked := marked + 1;
    END LOOP;
    RETURN marked;
END $$;
COMMENT ON FUNCTION picket.mark_failing_channels IS 'Records that channels fail which have not delivered for so many milliseconds';

-- Ends the lease of a lane, and computes when there is something to do next. False if another
-- notifier has leased it since.
CREATE FUNCTION picket.release_lane(of_channel text, of_lane smallint, of_epoch bigint) RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    -- The lock first and the notices in a statement of their own: a plan that commits meanwhile has
    -- either its notices seen here, or brings the time forward after this.
    PERFORM FROM picket.channel_lanes WHERE channel = of_channel AND lane = of_lane AND epoch = of_epoch FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE picket.channel_lanes AS kept
    SET leased_until = '-infinity', leased_by = NULL,
        due_at = least(
            (SELECT min(notice.due_at) FROM picket.notices AS notice
             WHERE notice.channel = of_channel AND notice.lane = of_lane AND notice.state = 'waiting'),
            (SELECT min(waiting.next_attempt_at) FROM picket.notifications AS waiting
             WHERE waiting.channel = of_channel AND waiting.lane = of_lane AND waiting.state = 'waiting' AND waiting.purpose = 'test'),
            CASE WHEN of_lane = 0 THEN (SELECT (state.storm ->> 'next_at')::timestamptz FROM picket.channel_states AS state
                                        WHERE state.channel = of_channel) END,
            'infinity')
    WHERE kept.channel = of_channel AND kept.lane = of_lane;
    RETURN true;
END $$;
COMMENT ON FUNCTION picket.release_lane IS 'Ends the lease of a lane and computes when there is something to do next';

-- Takes the turn to request a watchdog, or to repeat to an Alertmanager what is firing; false if another
-- notifier has taken it, or it is not due.
CREATE FUNCTION picket.take_ping(of_channel text, interval_ms integer) RETURNS boolean
    LANGUAGE sql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
        WITH taken AS (
            UPDATE picket.channel_states AS state
            SET next_ping_at = clock_timestamp() + interval_ms * interval '1 millisecond'
            WHERE state.channel = of_channel AND state.next_ping_at <= clock_timestamp()
            RETURNING 1
        )
        SELECT EXISTS (SELECT FROM taken)
    $$;
COMMENT ON FUNCTION picket.take_ping IS 'Takes the turn for a regular request of a channel';

-- Records events of certificates that end within 30, 14, 7, 3 and 1 days, each once; returns their
-- number. A certificate that was renewed has another end, and so events of its own.
CREATE FUNCTION picket.record_certificate_events() RETURNS integer
    LANGUAGE sql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
        WITH ending AS (
            SELECT certificate.site_id, min(certificate.expires_at) AS expires_at
            FROM picket.certificates AS certificate
            JOIN picket.sites AS site ON site.id = certificate.site_id AND site.enabled
            WHERE certificate.expires_at < now() + interval '30 days' AND certificate.expires_at > now() - interval '1 day'
              AND certificate.seen_at > now() - interval '2 days'
            GROUP BY certificate.site_id
        ),
        due AS (
            SELECT ending.*, (SELECT min(days) FROM unnest('{30,14,7,3,1}'::integer[]) AS days
                              WHERE ending.expires_at < now() + days * interval '1 day') AS days
            FROM ending
        ),
        identified AS (
            SELECT due.*, format('certificate.%s.%s.%s.expiring', site_id, picket.micros(expires_at) / 1000, days) AS id FROM due
        ),
        recorded AS (
            INSERT INTO picket.outbox (event_id, subject, payload)
            SELECT identified.id, 'picket.event.certificate.expiring', jsonb_build_object(
                'v', 1, 'id', identified.id, 'event', 'certificate.expiring', 'site_id', identified.site_id, 'site', known.site, 'url', known.url,
                'tags', known.tags, 'expires_at', picket.wire_time(expires_at), 'days', days,
                'at', picket.wire_time(clock_timestamp()),
                'message', format('the certificate ends within %s %s, on %s UTC', days, CASE days WHEN 1 THEN 'day' ELSE 'days' END,
                                  to_char(expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')))
            FROM identified JOIN picket.known_sites AS known ON known.id = identified.site_id
            WHERE NOT EXISTS (SELECT FROM picket.transitions AS earlier WHERE earlier.event_id = identified.id)
              -- Two notifiers at once: the row of the lock is held until the end of the transaction.
              AND picket.try_lock('notices')
            RETURNING 1
        )
        SELECT count(*)::integer FROM recorded
    $$;
COMMENT ON FUNCTION picket.record_certificate_events IS 'Records events of certificates that end soon, each once';

-- Whether the whole chain works, as words; null if it does. For watchdogs.
CREATE FUNCTION picket.chain_problem() RETURNS text
    LANGUAGE sql STABLE
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
        SELECT CASE
            WHEN (SELECT min(accounted_through) FROM picket.leases
                  WHERE EXISTS (SELECT FROM picket.schedules WHERE valid_to IS NULL)) < now() - interval '5 minutes' - (SELECT ledger_grace FROM picket.settings)
                THEN 'the ledger of checks has not been closed for more than 5 minutes'
            WHEN (SELECT min(created_at) FROM picket.outbox) < now() - interval '60 seconds'
                THEN 'events have waited for more than a minute to be published'
            WHEN EXISTS (SELECT FROM picket.transitions WHERE planned_at IS NULL AND recorded_at < now() - interval '60 seconds')
                THEN 'events have waited for more than a minute for notifications'
            WHEN EXISTS (SELECT FROM picket.channels AS channel JOIN picket.channel_states AS state ON state.channel = channel.name
                         WHERE channel.enabled AND channel.kind <> 'watchdog')
             AND NOT EXISTS (SELECT FROM picket.channels AS channel JOIN picket.channel_states AS state ON state.channel = channel.name
                             WHERE channel.enabled AND channel.kind <> 'watchdog' AND NOT state.is_failing)
                THEN 'no channel delivers'
        END
    $$;
COMMENT ON FUNCTION picket.chain_problem IS 'What keeps the whole chain from working; null if it works';

-- Records an event if checks of the last hour that is rolled up are unaccounted for, once an hour;
-- returns whether it did. The sums of rollups are compared first, which is cheap; only the ledger
-- itself decides.
CREATE FUNCTION picket.record_ledger_event() RETURNS boolean
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    upto CONSTANT timestamptz := (SELECT rolled_through FROM picket.rollup_state);
    since CONSTANT timestamptz := upto - interval '1 hour';
    new_id CONSTANT text := format('ledger.%s.unaccounted', picket.micros(since) / 1000);
    missing bigint;
    sites bigint;
BEGIN
    IF upto IS NULL OR NOT isfinite(upto) OR EXISTS (SELECT FROM picket.rollups_dirty WHERE hour = since)
       OR EXISTS (SELECT FROM picket.transitions AS earlier WHERE earlier.event_id = new_id) THEN
        RETURN false;
    END IF;
    SELECT coalesce(sum(picket.tick_count(interval_ms, phase_ms, greatest(valid_from, since - interval '1 microsecond'),
                                          least(valid_to, upto - interval '1 microsecond'))), 0)
           - (SELECT coalesce(sum(up + down + missed + gap), 0) FROM picket.rollups_hourly WHERE hour = since)
    INTO missing
    FROM picket.schedules WHERE valid_from < upto AND (valid_to IS NULL OR valid_to >= since);
    IF missing = 0 THEN
        RETURN false;
    END IF;
    SELECT sum(unaccounted), count(*) INTO missing, sites
    FROM report.ledger(since - interval '1 microsecond', upto - interval '1 microsecond') WHERE unaccounted <> 0;
    -- The lock only now: sums take long, and nothing is planned meanwhile.
    IF coalesce(missing, 0) = 0 OR NOT picket.try_lock('notices')
       OR EXISTS (SELECT FROM picket.transitions AS earlier WHERE earlier.event_id = new_id) THEN
        RETURN false;
    END IF;
    INSERT INTO picket.outbox (event_id, subject, payload) VALUES (
        new_id, 'picket.event.ledger.unaccounted', jsonb_build_object(
            'v', 1, 'id', new_id, 'event', 'ledger.unaccounted', 'from', picket.wire_time(since), 'to', picket.wire_time(upto),
            'at', picket.wire_time(clock_timestamp()), 'unaccounted', missing,
            'message', format('%s checks of %s sites and regions are unaccounted for in the hour from %s UTC', missing, sites,
                              to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'))));
    RETURN true;
END $$;
COMMENT ON FUNCTION picket.record_ledger_event IS 'Records an event if checks of the last hour are unaccounted for';
