-- What events say of incidents, reports about notifications, their retention, and the rights.

-- Of those that opened before this file and those of an older sink: null.
ALTER TABLE picket.incidents ADD COLUMN regions_reporting smallint;
COMMENT ON COLUMN picket.incidents.regions_reporting IS 'Number of regions that reported when the incident opened';

-- As in 0006_incidents.sql, with what people ask first: how long, how many regions, what status, where
-- to look. Fields are added, none is renamed.
CREATE OR REPLACE FUNCTION picket.incidents_after() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    change text := CASE WHEN NEW.closed_at IS NULL THEN 'opened' ELSE 'closed' END;
    event_id text := picket.incident_key(NEW) || '.' || change;
BEGIN
    INSERT INTO picket.outbox (event_id, subject, payload)
    SELECT event_id, 'picket.event.incident.' || change, jsonb_build_object(
        'v', 1, 'id', event_id, 'event', 'incident.' || change, 'incident_id', NEW.incident_id, 'site_id', NEW.site_id,
        'site', site.site, 'url', site.url, 'tags', site.tags,
        'opened_at', picket.wire_time(NEW.opened_at), 'closed_at', picket.wire_time(NEW.closed_at),
        'first_failure_at', picket.wire_time(NEW.first_failure_at), 'cause', NEW.cause, 'message', NEW.message,
        'regions', NEW.regions, 'unwatched', NEW.unwatched,
        'regions_reporting', NEW.regions_reporting,
        'duration_ms', trunc(extract(epoch FROM NEW.closed_at - NEW.opened_at) * 1000),
        'interval_seconds', (SELECT watched.interval_seconds FROM picket.sites AS watched WHERE watched.id = NEW.site_id),
        'http_status', (SELECT result.http_status FROM picket.check_results AS result
                        WHERE result.scheduled_at = NEW.opened_at AND result.site_id = NEW.site_id AND result.outcome = 'down'
                        ORDER BY result.region_id LIMIT 1),
        'link', (SELECT rtrim(settings.public_url, '/') || '/incidents/' || NEW.incident_id FROM picket.settings))
    FROM (SELECT) AS single_row LEFT JOIN picket.known_sites AS site ON site.id = NEW.site_id
    LIMIT 1;
    RETURN NULL;
END $$;

CREATE VIEW report.notifications AS
SELECT
    notification.notification_id, notification.channel, notification.purpose, notification.state, notification.reason,
    notification.title, notification.attempts, notification.created_at, notification.ended_at,
    CASE WHEN notification.state = 'waiting' THEN notification.next_attempt_at END AS next_attempt_at,
    last.outcome AS last_outcome, last.status AS last_status, last.message AS last_message, last.started_at AS last_attempt_at,
    (SELECT count(*) FROM picket.delivery_attempts AS attempt
     WHERE attempt.notification_id = notification.notification_id AND attempt.ended_at IS NULL
       AND NOT EXISTS (SELECT FROM picket.channel_lanes AS held
                       WHERE held.channel = notification.channel AND held.lane = notification.lane AND held.epoch = attempt.epoch
                         AND held.leased_until > clock_timestamp()))
        AS unknown_ends,
    (SELECT array_agg(DISTINCT transition.incident_id ORDER BY transition.incident_id) FROM picket.notices AS notice
     JOIN picket.transitions AS transition ON transition.transition_id = notice.transition_id
     WHERE notice.notification_id = notification.notification_id AND transition.incident_id IS NOT NULL) AS incident_ids
FROM picket.notifications AS notification
LEFT JOIN LATERAL (
    SELECT * FROM picket.delivery_attempts AS attempt
    WHERE attempt.notification_id = notification.notification_id ORDER BY attempt.number DESC LIMIT 1) AS last ON true;
COMMENT ON VIEW report.notifications IS 'One row for each message to a channel, with its last attempt';
COMMENT ON COLUMN report.notifications.notification_id IS 'The notification''s number; a receiver sees it as webhook-id or Message-ID';
COMMENT ON COLUMN report.notifications.channel IS 'Name of the channel';
COMMENT ON COLUMN report.notifications.purpose IS 'alert, reminder, escalation, digest or test';
COMMENT ON COLUMN report.notifications.state IS
    'waiting (for an attempt or its end), delivered, failed, or superseded (nothing was left to say)';
COMMENT ON COLUMN report.notifications.reason IS 'Why it failed or was superseded';
COMMENT ON COLUMN report.notifications.title IS 'First line of the last attempt';
COMMENT ON COLUMN report.notifications.attempts IS 'Number of attempts so far';
COMMENT ON COLUMN report.notifications.created_at IS 'Time of the first attempt';
COMMENT ON COLUMN report.notifications.ended_at IS 'Time when it was delivered or given up';
COMMENT ON COLUMN report.notifications.next_attempt_at IS 'Time of the next attempt; null if there is none';
COMMENT ON COLUMN report.notifications.last_outcome IS 'delivered, retry, refused, gone or moved; null while an attempt lasts, or if its end is unknown';
COMMENT ON COLUMN report.notifications.last_status IS 'HTTP status, SMTP reply code or exit code of the last attempt';
COMMENT ON COLUMN report.notifications.last_message IS 'The receiver''s answer or the failure in words';
COMMENT ON COLUMN report.notifications.last_attempt_at IS 'Start of the last attempt';
COMMENT ON COLUMN report.notifications.unknown_ends IS 'Attempts of which it is unknown whether the receiver has the message';
COMMENT ON COLUMN report.notifications.incident_ids IS 'The incidents of which it tells';

CREATE VIEW report.channels AS
SELECT
    channel.name AS channel, channel.kind, channel.enabled, state.problem, state.is_failing, state.failing_since,
    state.consecutive_failures, state.last_error, state.last_delivered_at,
    waiting.number AS waiting, waiting.oldest AS oldest_waiting_at
FROM picket.channels AS channel
JOIN picket.channel_states AS state ON state.channel = channel.name
LEFT JOIN LATERAL (
    SELECT count(*) AS number, min(transition.recorded_at) AS oldest FROM picket.notices AS notice
    JOIN picket.transitions AS transition ON transition.transition_id = notice.transition_id
    WHERE notice.channel = channel.name AND notice.state = 'waiting' AND notice.step = 'event') AS waiting ON true;
COMMENT ON VIEW report.channels IS 'One row for each channel, with what waits for it';
COMMENT ON COLUMN report.channels.channel IS 'Name of the channel';
COMMENT ON COLUMN report.channels.kind IS 'What the channel speaks, such as slack or email';
COMMENT ON COLUMN report.channels.enabled IS 'False while the channel is paused';
COMMENT ON COLUMN report.channels.problem IS
    'Why the channel cannot be used: notifiers cannot read its settings, or the receiver is gone; null if it can';
COMMENT ON COLUMN report.channels.is_failing IS 'Whether the channel counts as failing, and other channels are told';
COMMENT ON COLUMN report.channels.failing_since IS 'First failure since the last delivery; null if the last attempt succeeded';
COMMENT ON COLUMN report.channels.consecutive_failures IS 'Failed attempts since the last delivery';
COMMENT ON COLUMN report.channels.last_error IS 'The last failure in words';
COMMENT ON COLUMN report.channels.last_delivered_at IS 'Time of the last delivery';
COMMENT ON COLUMN report.channels.waiting IS 'Transitions that the channel is still to be told';
COMMENT ON COLUMN report.channels.oldest_waiting_at IS 'Time of the oldest of them';

-- The claim, as one query: every transition of an incident or a warning and every channel that its
-- routes named has exactly one notice, and that one ends.
CREATE FUNCTION report.notification_ledger(ledger_from timestamptz, ledger_to timestamptz)
    RETURNS TABLE (
        incident_id bigint, event text, channel text, recorded_at timestamptz, expected bigint, delivered bigint, suppressed bigint,
        failed bigint, waiting bigint, unaccounted bigint)
    LANGUAGE sql STABLE
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
        WITH due AS (
            SELECT transition_id, transition.incident_id, transition.event, transition.recorded_at, transition.planned_at,
                   coalesce(transition.channels, 0) AS channels
            FROM picket.transitions AS transition
            WHERE transition.recorded_at >= ledger_from AND transition.recorded_at < ledger_to
        ),
        counted AS (
            SELECT due.transition_id, notice.channel,
                   count(*) FILTER (WHERE notice.state = 'delivered') AS delivered,
                   count(*) FILTER (WHERE notice.state = 'suppressed') AS suppressed,
                   count(*) FILTER (WHERE notice.state = 'failed') AS failed,
                   count(*) FILTER (WHERE notice.state = 'waiting') AS waiting,
                   -- A notice that claims a delivery which no notification has.
                   count(*) FILTER (WHERE notice.state = 'delivered' AND message.state IS DISTINCT FROM 'delivered') AS unproved
            FROM due
            JOIN picket.notices AS notice ON notice.transition_id = due.transition_id AND notice.step = 'event'
            LEFT JOIN picket.notifications AS message ON message.notification_id = notice.notification_id
            GROUP BY due.transition_id, notice.channel
        )
        SELECT due.incident_id, due.event, counted.channel, due.recorded_at, 1::bigint, delivered, suppressed, failed, waiting, unproved
        FROM due JOIN counted ON counted.transition_id = due.transition_id
        UNION ALL
        -- Planned for more channels than there are notices.
        SELECT due.incident_id, due.event, NULL, due.recorded_at, due.channels, 0, 0, 0, 0,
               due.channels - (SELECT count(*) FROM counted WHERE counted.transition_id = due.transition_id)
        FROM due
        WHERE due.planned_at IS NOT NULL
          AND due.channels <> (SELECT count(*) FROM counted WHERE counted.transition_id = due.transition_id)
        UNION ALL
        -- Not planned in time.
        SELECT due.incident_id, due.event, NULL, due.recorded_at, 1, 0, 0, 0,
               (due.recorded_at > now() - interval '5 minutes')::integer, (due.recorded_at <= now() - interval '5 minutes')::integer
        FROM due WHERE due.planned_at IS NULL
        UNION ALL
        -- Without a transition at all. Only this compares with the incidents themselves.
        SELECT incident.incident_id, 'incident.' || side.change, NULL, side.at, 1, 0, 0, 0, 0, 1
        FROM picket.incidents AS incident
        CROSS JOIN LATERAL (VALUES ('opened', incident.recorded_at), ('closed', incident.closed_at)) AS side (change, at)
        WHERE incident.recorded_at >= greatest(ledger_from, (SELECT started_at FROM picket.notification_progress))
          AND incident.recorded_at < ledger_to
          AND (side.change = 'opened' OR incident.closed_at IS NOT NULL)
          AND NOT EXISTS (SELECT FROM picket.transitions AS transition
                          WHERE transition.incident_id = incident.incident_id AND transition.event = 'incident.' || side.change)
    $$;
COMMENT ON FUNCTION report.notification_ledger IS
    'Each transition and each channel that its routes named, and what came of it; unaccounted is 0 in every row';

-- Deletes notifications that ended long ago, at most this many transitions and messages; returns
-- their number.
CREATE FUNCTION picket.prune_notifications(days integer, max_rows integer) RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    since CONSTANT timestamptz := now() - days * interval '1 day';
    deleted bigint;
    total bigint;
BEGIN
    IF NOT picket.try_lock('notices') OR picket.refuses_deletion() IS NOT NULL THEN
        RETURN 0;
    END IF;
    -- Before the others, since its trigger locks the lanes; seldom, since it has all silenced notices read.
    IF EXISTS (SELECT FROM picket.silences WHERE ends_at < since) THEN
        PERFORM picket.lock_lanes();
        DELETE FROM picket.silences WHERE ends_at < since;
    END IF;
    DELETE FROM picket.transitions WHERE transition_id = ANY (ARRAY(
        SELECT transition_id FROM picket.transitions AS old
        WHERE old.recorded_at < since AND old.planned_at IS NOT NULL
          AND NOT EXISTS (SELECT FROM picket.notices AS notice WHERE notice.transition_id = old.transition_id AND notice.state = 'waiting')
          -- What has not ended is still to be told to the same channels at its end.
          AND NOT EXISTS (SELECT FROM picket.incidents AS incident WHERE incident.incident_id = old.incident_id AND incident.closed_at IS NULL)
        LIMIT max_rows));
    GET DIAGNOSTICS total = ROW_COUNT;
    DELETE FROM picket.notifications WHERE notification_id = ANY (ARRAY(
        SELECT notification_id FROM picket.notifications AS old
        WHERE old.created_at < since AND old.state <> 'waiting'
          AND NOT EXISTS (SELECT FROM picket.notices AS notice WHERE notice.notification_id = old.notification_id)
        LIMIT max_rows));
    GET DIAGNOSTICS deleted = ROW_COUNT;
    IF total > 0 THEN
        -- Incidents from before have no transitions any more, which the ledger must not miss.
        UPDATE picket.notification_progress SET started_at = greatest(started_at, since);
    END IF;
    DELETE FROM picket.former_routes AS former
    WHERE former.removed_at < since
      AND NOT EXISTS (SELECT FROM picket.notices AS notice WHERE notice.route_id = former.route_id AND notice.state = 'waiting');
    DELETE FROM picket.notification_gaps WHERE gap_to < since;
    RETURN total + deleted;
END $$;
COMMENT ON FUNCTION picket.prune_notifications IS 'Deletes notifications that ended more than so many days ago; returns the number of rows';

-- Marks a notifier alive. The first after a time without any records that time as a gap.
CREATE FUNCTION picket.mark_notifier(of_id text, of_version text) RETURNS void
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    last timestamptz;
    present CONSTANT timestamptz := clock_timestamp();
BEGIN
    IF picket.try_lock('notices') THEN
        SELECT max(seen_at) INTO last FROM picket.notifiers;
        -- The clock was ahead: nothing may wait for a time that it wrote.
        IF last > present + interval '1 minute' THEN
            PERFORM picket.lock_lanes();
            UPDATE picket.notifiers SET seen_at = present WHERE seen_at > present;
            UPDATE picket.transitions SET recorded_at = present WHERE recorded_at > present;
            UPDATE picket.channels SET created_at = present WHERE created_at > present;
            UPDATE picket.routes SET created_at = present WHERE created_at > present;
            UPDATE picket.notices SET due_at = least(due_at, present), first_attempt_at = least(first_attempt_at, present)
            WHERE state = 'waiting' AND (due_at > present OR first_attempt_at > present);
            UPDATE picket.notifications SET next_attempt_at = present WHERE state = 'waiting' AND next_attempt_at > present;
            UPDATE picket.channel_states SET next_send_at = least(next_send_at, present), next_ping_at = least(next_ping_at, present),
                storm = CASE WHEN storm IS NOT NULL
                             THEN storm || jsonb_build_object('started_at', picket.wire_time(present), 'next_at', picket.wire_time(present)) END;
            UPDATE picket.channel_lanes SET due_at = present, leased_until = '-infinity', epoch = epoch + 1;
            DELETE FROM picket.notification_gaps WHERE gap_to > present;
            last := present;
        END IF;
        IF last < clock_timestamp() - interval '2 minutes' THEN
            INSERT INTO picket.notification_gaps VALUES (last, clock_timestamp()) ON CONFLICT DO NOTHING;
        END IF;
        DELETE FROM picket.notifiers WHERE seen_at < clock_timestamp() - interval '1 day' AND seen_at < last;
    END IF;
    INSERT INTO picket.notifiers AS known (id, version) VALUES (of_id, of_version)
    ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp(), version = excluded.version;
END $$;
COMMENT ON FUNCTION picket.mark_notifier IS 'Marks a notifier alive, and records the time before it in which none was';

-- The rights on the objects of this file and of the two before it.
CREATE FUNCTION picket.grant_notification_privileges() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    callable regprocedure;
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'picket_notifier') THEN
        REVOKE ALL ON ALL TABLES IN SCHEMA picket, report FROM picket_notifier;
        REVOKE ALL ON ALL FUNCTIONS IN SCHEMA picket, report FROM picket_notifier;
        GRANT USAGE ON SCHEMA picket TO picket_notifier;
        GRANT SELECT ON public._sqlx_migrations TO picket_notifier;
        -- What its own statements read. Of sites it knows what their events say.
        GRANT SELECT ON picket.settings, picket.incidents, picket.acknowledgements, picket.check_results, picket.schedules,
            picket.channels, picket.channel_states, picket.channel_lanes, picket.known_routes, picket.silences,
            picket.notification_gaps, picket.transitions, picket.notices, picket.notifications, picket.delivery_attempts
            TO picket_notifier;
        GRANT EXECUTE ON FUNCTION picket.plan_notices, picket.claim_lane, picket.release_lane, picket.write_lane_work,
            picket.end_attempt, picket.repeat_end, picket.try_waiting, picket.mark_failing_channels, picket.mark_notifier, picket.take_ping, picket.record_certificate_events,
            picket.record_ledger_event, picket.chain_problem TO picket_notifier;
        FOR callable IN SELECT oid FROM pg_proc
                        WHERE pronamespace = 'picket'::regnamespace AND prokind = 'f' AND NOT prosecdef
                          AND provolatile IN ('i', 's') AND prorettype <> 'trigger'::regtype LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO picket_notifier', callable);
        END LOOP;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'picket_api') THEN
        GRANT DELETE, INSERT (name, kind, settings, enabled, send_closed, pace_ms),
            UPDATE (kind, settings, enabled, send_closed, pace_ms) ON picket.channels TO picket_api;
        GRANT DELETE, INSERT (name, position, tags, all_tags, site_ids, regions, min_regions, events, channels, wait_ms, delay_ms, group_by,
                remind_ms, storm_after, escalate, active, fallback, enabled),
            UPDATE (name, position, tags, all_tags, site_ids, regions, min_regions, events, channels, wait_ms, delay_ms, group_by,
                remind_ms, storm_after, escalate, active, fallback, enabled) ON picket.routes TO picket_api;
        GRANT DELETE, INSERT (site_id, tag, all_sites, starts_at, ends_at, reason, created_by), UPDATE (ends_at, reason)
            ON picket.silences TO picket_api;
        GRANT INSERT (incident_id, acknowledged_by, note), DELETE ON picket.acknowledgements TO picket_api;
        GRANT EXECUTE ON FUNCTION picket.catch_up, picket.retry_failed, picket.request_test, picket.cancel_test
            TO picket_api;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'picket_coordinator') THEN
        GRANT EXECUTE ON FUNCTION picket.prune_notifications TO picket_coordinator;
    END IF;
END $$;
COMMENT ON FUNCTION picket.grant_notification_privileges IS
    'The part of picket.grant_roles with the rights on notifications; call that function instead';

SELECT picket.grant_roles();
