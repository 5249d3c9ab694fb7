//! Permissions of each role in the database, tested by attempts.

use sqlx::{AssertSqlSafe, Executor, PgPool};

use crate::new_database;

const COORDINATOR: &str = "picket_coordinator";
const SINK: &str = "picket_sink";
const NOTIFIER: &str = "picket_notifier";
const API: &str = "picket_api";
const REPORT: &str = "picket_report";

/// Each statement with its permitted roles; all others are refused. Effects are rolled back.
const ATTEMPTS: &[(&str, &[&str])] = &[
    // Sites and regions.
    ("SELECT id, shard, tags, quorum FROM picket.sites", &[COORDINATOR, SINK, API]),
    ("SELECT headers, body FROM picket.sites", &[COORDINATOR, API]),
    ("SELECT id, site, url, tags FROM picket.known_sites", &[API]),
    ("INSERT INTO picket.sites (url) VALUES ('http://b.example/')", &[API]),
    ("UPDATE picket.sites SET url = 'http://c.example/'", &[API]),
    ("SELECT options, assertions FROM picket.sites", &[COORDINATOR, API]),
    ("INSERT INTO picket.sites (url, options, assertions) VALUES ('http://b.example/', '{}', '{}')", &[API]),
    ("UPDATE picket.sites SET options = '{}', assertions = '{}'", &[API]),
    ("UPDATE picket.sites SET type = 'http'", &[]),
    ("UPDATE picket.sites SET enabled = false", &[API]),
    ("UPDATE picket.sites SET problem = 'no'", &[COORDINATOR]),
    ("UPDATE picket.sites SET patterns_validated = 1", &[COORDINATOR]),
    ("INSERT INTO picket.sites (url, patterns_validated) VALUES ('http://b.example/', 1)", &[]),
    ("UPDATE picket.sites SET shard = 0", &[]),
    ("DELETE FROM picket.sites", &[API]),
    ("SELECT * FROM picket.retired_sites", &[COORDINATOR, API]),
    ("INSERT INTO picket.regions (name) VALUES ('us')", &[API]),
    ("UPDATE picket.regions SET removed_at = now()", &[API]),
    ("DELETE FROM picket.regions", &[API]),
    ("UPDATE picket.regions SET name = 'elsewhere'", &[]),
    (
        "INSERT INTO picket.maintenance (tag, window_from, window_to) VALUES ('x', now(), now() + interval '1 h')",
        &[API],
    ),
    ("SELECT * FROM picket.maintenance", &[SINK, API]),
    // No role may write the history of schedules or switch triggers off.
    ("SELECT * FROM picket.schedules", &[COORDINATOR, SINK, NOTIFIER, API]),
    ("UPDATE picket.schedules SET valid_to = now()", &[]),
    ("SELECT picket.reconcile_schedules('{1}')", &[]),
    ("ALTER TABLE picket.sites DISABLE TRIGGER ALL", &[]),
    ("SET session_replication_role = replica", &[]),
    // The summary of sites, which triggers and coordinators write.
    ("SELECT * FROM picket.site_summary WHERE picket.ngrams('shop') <> '{}'", &[API]),
    ("UPDATE picket.site_conditions SET state = 'up'", &[]),
    ("UPDATE picket.site_statistics SET uptime_24h_pct = 100", &[]),
    ("SELECT picket.rebuild_site_summary()", &[COORDINATOR]),
    ("SELECT picket.refresh_site_summaries(10)", &[COORDINATOR]),
    ("SELECT count(*) FROM picket.site_summaries_dirty", &[COORDINATOR, API]),
    ("DELETE FROM picket.site_summaries_dirty", &[]),
    ("SELECT picket.rebuild_changed_hour(), picket.add_up_day()", &[]),
    // Leases and the ledger.
    ("UPDATE picket.leases SET holder = 'me', epoch = epoch + 1, expires_at = now()", &[COORDINATOR]),
    ("UPDATE picket.leases SET lease_time = '15 seconds'", &[COORDINATOR]),
    ("UPDATE picket.leases SET accounted_through = now()", &[]),
    ("INSERT INTO picket.coordinators (id, version) VALUES ('me', '1')", &[COORDINATOR]),
    ("INSERT INTO picket.gaps VALUES (0, now() - interval '1 h', now())", &[COORDINATOR]),
    ("DELETE FROM picket.gaps", &[]),
    ("SELECT picket.close_ledger('me', '{0}', '{1}', '1 min', '1 min', NULL)", &[COORDINATOR]),
    // Results.
    ("SELECT count(*) FROM picket.check_results", &[SINK, NOTIFIER, API]),
    (
        "INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome) VALUES (now(), 1, 1, 'scheduled', 'up')",
        &[SINK],
    ),
    (
        "INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, warnings, details)
         VALUES (now(), 1, 1, 'scheduled', 'up', '{slow}', '{}')",
        &[SINK],
    ),
    ("DELETE FROM picket.check_results", &[]),
    ("TRUNCATE picket.check_results", &[]),
    ("SELECT picket.ensure_partitions(30)", &[COORDINATOR]),
    ("SELECT picket.adopt_cluster()", &[COORDINATOR]),
    ("SELECT picket.timeline()", &[COORDINATOR]),
    ("SELECT picket.server_run()", &[SINK]),
    (
        "INSERT INTO picket.results_stored (stream_created, through) VALUES (now(), 1) ON CONFLICT (singleton) DO UPDATE SET through = 2",
        &[SINK],
    ),
    ("DELETE FROM picket.results_stored", &[]),
    ("UPDATE picket.settings SET cluster = ''", &[]),
    ("SELECT picket.drop_results(30)", &[COORDINATOR]),
    ("SELECT picket.refuses_deletion()", &[COORDINATOR]),
    ("SELECT * FROM picket.repair_marks(true)", &[COORDINATOR]),
    ("SELECT picket.delete_future_results(10)", &[COORDINATOR]),
    ("UPDATE picket.clock SET steady_since = now()", &[]),
    ("SELECT picket.prune(30, 730, 10)", &[COORDINATOR]),
    ("SELECT picket.roll_up('1 h')", &[COORDINATOR]),
    ("SELECT picket.rebuild_rollups()", &[COORDINATOR]),
    ("SELECT picket.roll_up_day()", &[COORDINATOR]),
    ("SELECT picket.recount_rollups(picket.hour_of(now()) - interval '1 h')", &[COORDINATOR]),
    ("DELETE FROM picket.rollups_hourly", &[]),
    ("INSERT INTO picket.dead_letters (subject, reason, payload) VALUES ('a', 'b', 'c')", &[SINK]),
    ("SELECT * FROM picket.dead_letters", &[API]),
    // Incidents and events.
    (
        "INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, regions) VALUES (1, now(), now(), '{eu}')",
        &[SINK],
    ),
    ("UPDATE picket.incidents SET closed_at = now()", &[SINK]),
    ("UPDATE picket.incidents SET message = 'never mind'", &[]),
    ("DELETE FROM picket.incidents", &[]),
    ("INSERT INTO picket.site_states (site_id) VALUES (1)", &[SINK]),
    ("SELECT picket.close_unwatched_incidents()", &[COORDINATOR]),
    // Warnings.
    (
        "INSERT INTO picket.warnings (site_id, kind, opened_at, first_warned_at, regions) VALUES (1, 'slow', now(), now(), '{eu}')",
        &[SINK],
    ),
    ("UPDATE picket.warnings SET closed_at = now()", &[SINK]),
    ("UPDATE picket.warnings SET message = 'never mind'", &[]),
    ("DELETE FROM picket.warnings", &[]),
    ("SELECT * FROM picket.warnings", &[SINK, API]),
    ("INSERT INTO picket.warning_states (site_id, kind) VALUES (1, 'slow')", &[SINK]),
    ("DELETE FROM picket.warning_states", &[SINK]),
    ("SELECT picket.close_unwatched_warnings()", &[COORDINATOR]),
    // Doubts are the database's to decide.
    ("SELECT * FROM picket.doubt_failures('{}', '{}', '{}', '{}', '{}', '{}', '{}')", &[SINK]),
    ("SELECT picket.end_doubts('{}', '{}', '{}', '{}')", &[SINK]),
    ("SELECT * FROM picket.doubtful_windows", &[API]),
    ("INSERT INTO picket.doubtful_windows SELECT id, 'p', now(), now(), 3 FROM picket.regions", &[]),
    ("UPDATE picket.doubtful_windows SET doubtful_to = 'infinity'", &[]),
    ("DELETE FROM picket.doubtful_windows", &[]),
    ("INSERT INTO picket.silent_regions SELECT id, now() FROM picket.regions", &[COORDINATOR]),
    ("INSERT INTO picket.outbox (event_id, subject, payload) VALUES ('a', 'picket.event.x', '{}')", &[]),
    ("SELECT installation_id, require_tickets FROM picket.settings", &[COORDINATOR, SINK, NOTIFIER, API]),
    ("SELECT lease_time, min_interval, public_url FROM picket.settings", &[COORDINATOR, SINK, NOTIFIER, API]),
    ("UPDATE picket.settings SET require_tickets = false", &[]),
    ("UPDATE picket.settings SET lease_time = '30 seconds'", &[API]),
    ("INSERT INTO picket.settings (shards) VALUES (1)", &[]),
    ("DELETE FROM picket.settings", &[]),
    ("SELECT picket.record_interval_problems(NULL)", &[]),
    ("SELECT key FROM picket.ticket_keys", &[COORDINATOR, SINK]),
    ("INSERT INTO picket.ticket_keys DEFAULT VALUES", &[]),
    ("UPDATE picket.ticket_keys SET retired_at = now()", &[]),
    ("SELECT * FROM picket.outbox", &[SINK, API]),
    ("DELETE FROM picket.outbox", &[SINK]),
    // Channels, routes, silences and acknowledgements: people write them, notifiers read them.
    ("SELECT * FROM picket.channels, picket.silences, picket.acknowledgements", &[NOTIFIER, API]),
    ("SELECT * FROM picket.routes", &[API]),
    ("SELECT * FROM picket.known_routes", &[NOTIFIER, API]),
    ("INSERT INTO picket.former_routes VALUES (1, 0, 0, 0, 1)", &[]),
    ("INSERT INTO picket.channels (name, kind) VALUES ('b', 'slack')", &[API]),
    ("UPDATE picket.channels SET settings = '{}', enabled = false", &[API]),
    ("UPDATE picket.channels SET version = 9", &[]),
    ("DELETE FROM picket.channels", &[API]),
    ("INSERT INTO picket.routes (name, channels) VALUES ('b', '{ops}')", &[API]),
    ("UPDATE picket.routes SET channels = '{other}', enabled = false", &[API]),
    ("UPDATE picket.routes SET created_at = '-infinity'", &[]),
    ("DELETE FROM picket.routes", &[API]),
    ("INSERT INTO picket.silences (tag, ends_at, reason) VALUES ('x', now() + interval '1 h', 'work')", &[API]),
    ("UPDATE picket.silences SET ends_at = now() + interval '2 h', reason = 'more work'", &[API]),
    ("DELETE FROM picket.silences", &[API]),
    (
        "INSERT INTO picket.acknowledgements (incident_id, note) SELECT incident_id, 'mine' FROM picket.incidents",
        &[API],
    ),
    ("DELETE FROM picket.acknowledgements", &[API]),
    ("SELECT * FROM picket.matching_routes('incident.opened', 1, '{}', '{}')", &[API]),
    ("SELECT picket.silenced_until(1, '{}', now())", &[NOTIFIER, API]),
    // Notifications: notifiers write them by functions that fence them.
    ("SELECT * FROM picket.transitions, picket.notices, picket.notifications, picket.delivery_attempts", &[NOTIFIER, API]),
    ("SELECT * FROM picket.channel_states, picket.channel_lanes, picket.notification_gaps", &[NOTIFIER, API]),
    ("SELECT * FROM picket.notifiers, picket.notification_progress", &[API]),
    (
        "INSERT INTO picket.notifications (notification_id, channel, lane, purpose) VALUES (gen_random_uuid(), 'ops', 0, 'test')",
        &[],
    ),
    ("SELECT picket.request_test('ops', gen_random_uuid()), picket.cancel_test(gen_random_uuid())", &[API]),
    ("SELECT picket.catch_up('ops', NULL), picket.retry_failed(NULL, 'ops', now())", &[API]),
    ("UPDATE picket.notifications SET state = 'delivered', ended_at = now()", &[]),
    ("INSERT INTO picket.transitions (event_id, event, subject, is_end, payload) VALUES ('a', 'b', 'a', false, '{}')", &[]),
    ("UPDATE picket.transitions SET planned_at = now()", &[]),
    ("UPDATE picket.notices SET state = 'suppressed', reason = 'mine', ended_at = now()", &[]),
    ("DELETE FROM picket.notices", &[]),
    ("DELETE FROM picket.delivery_attempts", &[]),
    ("UPDATE picket.channel_states SET problem = NULL", &[]),
    ("UPDATE picket.channel_states SET next_ping_at = now()", &[]),
    ("SELECT picket.take_ping('ops', 1000), picket.chain_problem()", &[NOTIFIER]),
    ("SELECT picket.record_certificate_events(), picket.record_ledger_event()", &[NOTIFIER]),
    ("UPDATE picket.channel_lanes SET epoch = 9", &[]),
    ("DELETE FROM picket.notification_gaps", &[]),
    ("SELECT picket.plan_notices(10)", &[NOTIFIER]),
    ("SELECT * FROM picket.claim_lane('me', 1000, 4, true)", &[NOTIFIER]),
    ("SELECT picket.write_lane_work('ops', 0::smallint, 0, '{}', 1000)", &[NOTIFIER]),
    ("SELECT picket.end_attempt(gen_random_uuid(), '{}')", &[NOTIFIER]),
    ("SELECT picket.release_lane('ops', 0::smallint, 0)", &[NOTIFIER]),
    ("SELECT picket.set_channel_failing('ops', true, 'refused')", &[]),
    ("SELECT picket.mark_notifier('me', '1')", &[NOTIFIER]),
    ("SELECT picket.prune_notifications(30, 10)", &[COORDINATOR]),
    // Tokens and sessions.
    ("SELECT * FROM picket.api_tokens", &[API]),
    (
        "INSERT INTO picket.api_tokens (name, secret_hash, scopes) VALUES ('a', decode(repeat('00', 32), 'hex'), '{read}')",
        &[API],
    ),
    ("UPDATE picket.api_tokens SET last_used_at = now(), revoked_at = now()", &[API]),
    ("UPDATE picket.api_tokens SET scopes = '{admin}'", &[]),
    ("UPDATE picket.api_tokens SET revoked_at = NULL, secret_hash = decode(repeat('00', 32), 'hex')", &[]),
    ("DELETE FROM picket.api_tokens", &[]),
    ("SELECT * FROM picket.sessions", &[API]),
    ("UPDATE picket.sessions SET scopes = '{admin}'", &[]),
    ("UPDATE picket.sessions SET expires_at = 'infinity'", &[]),
    ("DELETE FROM picket.sessions", &[API]),
    ("SELECT * FROM picket.sign_in_links", &[API]),
    ("UPDATE picket.sign_in_links SET expires_at = 'infinity'", &[]),
    ("DELETE FROM picket.sign_in_links", &[API]),
    // Reports.
    ("SELECT * FROM report.checks", &[API, REPORT]),
    ("SELECT * FROM report.site_status", &[API, REPORT]),
    ("SELECT * FROM report.sites", &[API, REPORT]),
    ("SELECT * FROM report.uptime_daily", &[API, REPORT]),
    ("SELECT * FROM report.uptime_monthly", &[API, REPORT]),
    ("SELECT * FROM report.latency_hourly", &[API, REPORT]),
    ("SELECT * FROM report.incidents", &[API, REPORT]),
    ("SELECT * FROM report.warnings", &[API, REPORT]),
    ("SELECT * FROM report.doubtful_windows", &[API, REPORT]),
    ("SELECT * FROM report.failures", &[API, REPORT]),
    ("SELECT * FROM report.certificates", &[API, REPORT]),
    ("SELECT * FROM report.notifications", &[API, REPORT]),
    ("SELECT * FROM report.channels", &[API, REPORT]),
    ("SELECT * FROM report.notification_ledger(now() - interval '1 h', now())", &[API, REPORT]),
    ("SELECT * FROM report.ledger(now() - interval '1 h', now())", &[API, REPORT]),
    // Locks, and rows held by others.
    ("SELECT picket.try_lock_outbox()", &[SINK]),
    ("SELECT FROM picket.locks FOR UPDATE", &[]),
    ("SELECT picket.try_lock('rollups')", &[]),
    ("LOCK TABLE public._sqlx_migrations IN SHARE UPDATE EXCLUSIVE MODE", &[]),
    ("SELECT * FROM picket.oldest_snapshot()", &[COORDINATOR]),
    // The schema itself.
    ("CREATE TEMPORARY TABLE bait ()", &[]),
    ("CREATE TABLE public.mine ()", &[]),
    ("SELECT max(version) FROM public._sqlx_migrations", &[COORDINATOR, SINK, NOTIFIER, API]),
    ("DELETE FROM public._sqlx_migrations", &[]),
    ("CREATE TABLE picket.mine ()", &[]),
    ("CREATE FUNCTION picket.mine() RETURNS int LANGUAGE sql RETURN 1", &[]),
    ("DROP TABLE picket.check_results", &[]),
    ("SELECT picket.grant_roles()", &[]),
    ("SELECT pg_read_file('/etc/passwd')", &[]),
    ("COPY picket.settings TO PROGRAM 'cat'", &[]),
    ("CREATE ROLE mine", &[]),
];

/// Outcome as `role`: `Ok`, or the error's code.
async fn execute_as_role(pool: &PgPool, role: &str, sql: &str) -> Result<(), String> {
    let mut transaction = pool.begin().await.unwrap();
    transaction.execute(AssertSqlSafe(format!("SET LOCAL ROLE {role}"))).await.unwrap();
    let done = transaction.execute(AssertSqlSafe(sql.to_owned())).await;
    transaction.rollback().await.unwrap();
    match done {
        Ok(_) => Ok(()),
        Err(sqlx::Error::Database(error)) => {
            Err(format!("{} {}", error.code().unwrap_or_default(), error.message()))
        }
        Err(error) => panic!("{role}: {sql}: {error}"),
    }
}

/// A site that is watched and down, in maintenance too, so that every branch of a view has something to read.
async fn insert_fixture(pool: &PgPool) {
    let rows = "
        INSERT INTO picket.regions (name) VALUES ('eu');
        INSERT INTO picket.sites (url, headers) VALUES ('http://a.example/', '{\"authorization\": \"secret\"}');
        INSERT INTO picket.channels (name, kind) VALUES ('ops', 'slack');
        INSERT INTO picket.routes (name, events, channels) VALUES ('all', '{incident,warning}', '{ops}');
        INSERT INTO picket.maintenance (site_id, window_from, window_to)
        SELECT id, now() - interval '1 h', now() + interval '1 h' FROM picket.sites;
        INSERT INTO picket.warnings (site_id, kind, opened_at, closed_at, first_warned_at, expires_at, regions)
        SELECT id, 'certificate', now() - interval '1 h', now(), now() - interval '1 h', now(), '{eu}' FROM picket.sites;
        INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, cause, tls_expires_at)
        SELECT tick, site_id, region_id, 'scheduled', 'down', 'tls', now() FROM picket.schedules
        CROSS JOIN picket.ticks(interval_ms, phase_ms, '-infinity', 'infinity', now() - interval '3 min', now()) AS tick;
        UPDATE picket.leases SET holder = 'me', epoch = 1, expires_at = now() + interval '1 h',
            scheduled_through = now(), accounted_through = now() - interval '10 min'";
    pool.execute(rows).await.unwrap();
}

#[tokio::test]
async fn each_role_has_its_permissions_and_the_server_refuses_all_others() {
    let database = new_database().await;
    insert_fixture(&database.pool).await;
    let mut wrong = Vec::new();

    for (sql, allowed) in ATTEMPTS {
        for role in [COORDINATOR, SINK, NOTIFIER, API, REPORT] {
            let came = execute_as_role(&database.pool, role, sql).await;
            let is_refusal = came.as_ref().is_err_and(|why| why.starts_with("42501"));
            let is_right = if allowed.contains(&role) { came.is_ok() } else { is_refusal };
            if !is_right {
                wrong.push(format!("{role}: {sql}: {came:?}"));
            }
        }
    }

    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), ATTEMPTS.len() * 5, wrong.join("\n"));
}

#[tokio::test]
async fn a_notifier_reads_the_tables_of_its_own_statements_and_no_other() {
    let database = new_database().await;
    let readable: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class
         WHERE relnamespace IN ('picket'::regnamespace, 'report'::regnamespace) AND relkind IN ('r', 'p', 'v', 'm')
           AND (has_table_privilege('picket_notifier', oid, 'SELECT') OR has_any_column_privilege('picket_notifier', oid, 'SELECT'))
         ORDER BY relname",
    )
    .fetch_all(&database.pool)
    .await
    .unwrap();
    let needed = [
        "acknowledgements",
        "channel_lanes",
        "channel_states",
        "channels",
        "check_results",
        "delivery_attempts",
        "incidents",
        "known_routes",
        "notices",
        "notification_gaps",
        "notifications",
        "schedules",
        "settings",
        "silences",
        "transitions",
    ];
    assert_eq!(readable, needed);
}

#[tokio::test]
async fn an_extra_grant_is_revoked_when_grants_are_applied_again() {
    let database = new_database().await;
    let sql = "DELETE FROM picket.check_results";
    database.pool.execute("GRANT DELETE ON picket.check_results TO picket_sink").await.unwrap();
    assert_eq!(execute_as_role(&database.pool, SINK, sql).await, Ok(()));

    database.pool.execute("SELECT picket.grant_roles()").await.unwrap();

    assert!(execute_as_role(&database.pool, SINK, sql).await.unwrap_err().starts_with("42501"));
    assert_eq!(
        execute_as_role(&database.pool, SINK, "SELECT count(*) FROM picket.check_results").await,
        Ok(())
    );
}
