//! Functions with the owner's rights, the rights of PUBLIC, and their abuse by a member of a role.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Executor, PgConnection, PgPool};

use crate::new_database;

/// Every SECURITY DEFINER function, with the reason why it is one.
const WITH_OWNER_RIGHTS: &[(&str, &str)] = &[
    // Triggers: consequences of a change that its author may not write directly.
    ("picket.sites_before()", "reads regions for roles that may insert a site"),
    ("picket.sites_before_check_model()", "calls functions that roles which may insert a site need not have"),
    ("picket.sites_after()", "writes schedules and retired sites"),
    ("picket.sites_interval()", "reads settings for roles that may insert a site"),
    ("picket.settings_after()", "writes problems of sites"),
    ("picket.sites_watch_ended()", "closes incidents of unscheduled sites"),
    ("picket.regions_before()", "reads the numbers of all regions, removed ones too"),
    ("picket.regions_before_delete()", "marks the region as removed instead"),
    ("picket.regions_after()", "writes schedules"),
    ("picket.incidents_after()", "writes events to the outbox"),
    ("picket.sites_warnings_ended()", "closes warnings of unscheduled sites"),
    ("picket.warnings_after()", "writes events to the outbox"),
    ("picket.settings_cluster_adopted()", "skips numbers of warnings"),
    ("picket.silent_regions_after()", "writes events to the outbox"),
    ("picket.outbox_before()", "shortens an event that triggers of the owner write"),
    ("picket.outbox_after()", "writes transitions"),
    ("picket.channels_after()", "writes the state and the lanes of a channel"),
    ("picket.acknowledgements_after()", "writes notices of acknowledgements"),
    ("picket.silences_after()", "writes the times of waiting notices"),
    ("picket.gaps_changed()", "marks hours of the rollups as changed"),
    ("picket.results_changed()", "marks an hour of the rollups as changed"),
    ("picket.maintenance_changed()", "marks hours of the rollups as changed"),
    ("picket.count_site_states()", "counts the states that triggers of the owner write"),
    ("picket.incident_changed()", "writes the state of the incident's site"),
    ("picket.sites_summarized()", "writes the summary of the sites that changed"),
    ("picket.rollups_advanced()", "writes the statistics of all sites"),
    ("picket.regions_summarized()", "marks sites whose state may have changed"),
    ("picket.silence_summarized()", "marks sites whose state may have changed"),
    ("picket.count_schedules()", "counts the schedules that triggers of the owner write"),
    ("picket.channels_before_delete()", "a trigger: locks lanes, which only the owner may"),
    ("picket.acknowledgements_withdrawn()", "writes notices that go on"),
    ("picket.channels_removed()", "ends what waits for a channel"),
    ("picket.routes_removed()", "keeps what a removed route said of waiting notices"),
    // Work of coordinators on tables that they may not write.
    ("picket.ensure_partitions(integer,integer)", "creates partitions, which only the owner can"),
    ("picket.drop_results(integer)", "drops partitions, which only the owner can"),
    ("picket.drop_rollups(integer)", "drops partitions, which only the owner can"),
    ("picket.prune(integer,integer,integer)", "deletes expired rows"),
    ("picket.roll_up(interval)", "writes rollups"),
    ("picket.rebuild_rollups(interval)", "writes rollups"),
    ("picket.roll_up_day()", "writes rollups"),
    ("picket.refresh_site_summaries(integer)", "writes summaries of sites"),
    ("picket.rebuild_site_summary(bigint)", "writes summaries of sites"),
    ("picket.recount_rollups(timestamp with time zone)", "marks an hour of the rollups as changed"),
    ("picket.close_unwatched_incidents(bigint[])", "closes incidents of unscheduled sites"),
    ("picket.close_unwatched_warnings(bigint[])", "closes warnings of unscheduled sites"),
    (
        "picket.close_ledger(text,smallint[],bigint[],interval,interval,timestamp with time zone)",
        "writes missed rows and moves the ledger's mark, fenced by the lease",
    ),
    ("picket.reconcile_pending()", "writes schedules and problems of sites"),
    ("picket.refuses_deletion()", "remembers how the clock has run"),
    (
        "picket.repair_marks(boolean)",
        "moves marks that lie in the future, of tables that only the owner writes",
    ),
    (
        "picket.delete_future_results(integer)",
        "deletes results of ticks still to come, for which the ledger is not closed",
    ),
    ("picket.adopt_cluster()", "replaces transaction numbers of another cluster"),
    // Work of sinks.
    ("picket.ensure_partition(timestamp with time zone)", "creates a partition, which only the owner can"),
    ("picket.server_run()", "reads which server this is, which needs rights of the monitoring kind"),
    (
        "picket.doubt_failures(bigint[],smallint[],timestamp with time zone[],text[],timestamp with time zone[],\
         timestamp with time zone[],boolean[])",
        "reads the hosts of sites, whose URLs a sink may not read, and writes doubts, which it may not write otherwise",
    ),
    (
        "picket.end_doubts(bigint[],smallint[],timestamp with time zone[],text[])",
        "shortens doubts, which a sink may not write otherwise",
    ),
    // Work of notifiers, which may write no table of notifications otherwise, and what people ask of them.
    ("picket.plan_notices(integer)", "writes notices, by the routes"),
    (
        "picket.claim_lane(text,integer,integer,boolean)",
        "leases lanes by the owner's clock and increments the epoch",
    ),
    ("picket.release_lane(text,smallint,bigint)", "ends the lease of a lane, fenced by its epoch"),
    (
        "picket.write_lane_work(text,smallint,bigint,jsonb,integer)",
        "writes notices, notifications and attempts, fenced by the lane's epoch",
    ),
    ("picket.repeat_end(uuid)", "writes the notices of ends"),
    ("picket.end_attempt(uuid,jsonb)", "writes the end of an attempt that has none, without a fence"),
    ("picket.try_waiting(text)", "has what waits for a channel tried"),
    ("picket.mark_failing_channels(integer)", "writes events to the outbox"),
    ("picket.set_channel_failing(text,boolean,text)", "writes an event to the outbox"),
    ("picket.take_ping(text,integer)", "writes when a channel is requested next"),
    ("picket.chain_problem()", "reads leases, ledger and outbox, and returns a sentence"),
    ("picket.record_certificate_events()", "writes events to the outbox"),
    ("picket.record_ledger_event()", "writes an event to the outbox"),
    ("picket.mark_notifier(text,text)", "writes the spans in which no notifier ran"),
    ("picket.prune_notifications(integer,integer)", "deletes expired rows"),
    ("picket.catch_up(text,text)", "writes notices"),
    ("picket.retry_failed(uuid,text,timestamp with time zone)", "has failed notifications tried again"),
    ("picket.request_test(text,uuid)", "writes a notification and wakes a lane"),
    ("picket.cancel_test(uuid)", "ends a notification"),
    // Answers for readers that may not read the tables behind them.
    ("picket.cluster()", "reads the system identifier, which needs rights of the monitoring kind"),
    ("picket.timeline()", "reads the system identifier, which needs rights of the monitoring kind"),
    ("picket.in_maintenance(bigint,timestamp with time zone)", "called by report.site_status"),
    ("report.ledger(timestamp with time zone,timestamp with time zone)", "counts ticks and rows"),
    (
        "report.notification_ledger(timestamp with time zone,timestamp with time zone)",
        "counts transitions and notices",
    ),
    ("picket.oldest_snapshot()", "reads the sessions of others and returns only an age"),
    // Locks.
    ("picket.try_lock_outbox()", "locks a row that a sink may not lock itself"),
];

/// Every right of PUBLIC in this database and in the schemas that are ours, with the reason why it is one.
const RIGHTS_OF_PUBLIC: &[(&str, &str)] = &[
    ("database: CONNECT", "pg_hba.conf decides who connects"),
    ("schema public: USAGE", "PostgreSQL's default; each object in it has rights of its own"),
];

const ROLES: [&str; 5] =
    ["picket_coordinator", "picket_sink", "picket_notifier", "picket_api", "picket_report"];

async fn query_text_set(pool: &PgPool, sql: &str) -> BTreeSet<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(pool).await.unwrap().into_iter().collect()
}

fn collect_names(list: &[(&str, &str)]) -> BTreeSet<String> {
    list.iter().map(|(name, _)| (*name).to_owned()).collect()
}

#[tokio::test]
async fn every_function_with_the_owners_rights_is_on_the_list_with_its_reason() {
    let database = new_database().await;

    let found = query_text_set(
        &database.pool,
        "SELECT format('%s.%s(%s)', nspname, proname, (
                    SELECT string_agg(format_type(argument, NULL), ',' ORDER BY position)
                    FROM unnest(proargtypes::oid[]) WITH ORDINALITY AS argument (argument, position)))
         FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
         WHERE prosecdef AND nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'",
    )
    .await;
    // The type of such an argument is the caller's choice, and with it the operators and casts that run.
    let polymorphic = query_text_set(
        &database.pool,
        "SELECT oid::regprocedure::text FROM pg_proc
         WHERE prosecdef AND pronamespace IN ('picket'::regnamespace, 'report'::regnamespace)
           AND EXISTS (SELECT FROM pg_type WHERE pg_type.oid = ANY (proargtypes) AND typtype = 'p')",
    )
    .await;

    assert_eq!(found, collect_names(WITH_OWNER_RIGHTS));
    assert_eq!(polymorphic, BTreeSet::new());
}

#[tokio::test]
async fn every_function_with_the_owners_rights_pins_its_search_path_and_names_no_relation_without_schema() {
    let database = new_database().await;

    let open = query_text_set(
        &database.pool,
        "SELECT oid::regprocedure::text FROM pg_proc
         WHERE pronamespace IN ('picket'::regnamespace, 'report'::regnamespace) AND prosecdef
           AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (proconfig), false)",
    )
    .await;
    // A table or view of ours without its schema: the name could be that of a temporary table.
    let unqualified = query_text_set(
        &database.pool,
        r"SELECT pg_proc.oid::regprocedure || ': ' || relname
          FROM pg_proc
          JOIN pg_class ON relnamespace IN ('picket'::regnamespace, 'report'::regnamespace)
            AND relkind IN ('r', 'p', 'v')
            AND prosrc ~* ('\m(from|join|into|update|lock table)\s+' || relname || '\M(?!\.)')
          WHERE pronamespace IN ('picket'::regnamespace, 'report'::regnamespace) AND prolang <> 0
            -- Names of subqueries in the same statement.
            AND NOT prosrc ~* ('\m' || relname || '\s+AS\s+(NOT\s+)?(MATERIALIZED\s+)?\(')",
    )
    .await;

    assert_eq!((open, unqualified), (BTreeSet::new(), BTreeSet::new()));
}

#[tokio::test]
async fn every_right_of_public_is_on_the_list_with_its_reason() {
    let database = new_database().await;

    let found = query_text_set(
        &database.pool,
        "WITH rights (what, acl) AS (
             SELECT 'function ' || oid::regprocedure, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc
             WHERE pronamespace IN ('picket'::regnamespace, 'report'::regnamespace, 'public'::regnamespace)
             UNION ALL
             SELECT 'schema ' || nspname, coalesce(nspacl, acldefault('n', nspowner)) FROM pg_namespace
             WHERE nspname IN ('picket', 'report', 'public')
             UNION ALL
             SELECT 'database', coalesce(datacl, acldefault('d', datdba)) FROM pg_database
             WHERE datname = current_database()
             UNION ALL
             -- Arrays and the types of a table's rows have no rights of their own.
             SELECT 'type ' || pg_type.oid::regtype, coalesce(typacl, acldefault('T', typowner)) FROM pg_type
             LEFT JOIN pg_class ON pg_class.oid = typrelid
             WHERE typnamespace IN ('picket'::regnamespace, 'report'::regnamespace) AND typcategory <> 'A'
               AND coalesce(relkind = 'c', true)
             UNION ALL
             SELECT 'relation ' || oid::regclass,
                    coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\", relowner))
             FROM pg_class
             WHERE relnamespace IN ('picket'::regnamespace, 'report'::regnamespace, 'public'::regnamespace)
             UNION ALL
             SELECT 'column ' || attname || ' of ' || attrelid::regclass, attacl FROM pg_attribute
             WHERE attacl IS NOT NULL AND attrelid >= 16384
             UNION ALL
             SELECT 'future object ' || defaclobjtype::text, defaclacl FROM pg_default_acl
         )
         SELECT what || ': ' || privilege_type FROM rights, aclexplode(acl) WHERE grantee = 0",
    )
    .await;

    assert_eq!(found, collect_names(RIGHTS_OF_PUBLIC));
}

#[tokio::test]
async fn an_object_added_later_grants_nothing_to_public() {
    let database = new_database().await;
    let objects = "CREATE FUNCTION picket.later() RETURNS int LANGUAGE sql SECURITY DEFINER RETURN 1;
                   CREATE TYPE picket.later AS ENUM ('a');
                   CREATE TABLE picket.later_table (n int)";
    database.pool.execute(objects).await.unwrap();

    let (function, kind, table): (bool, bool, bool) = sqlx::query_as(
        "SELECT has_function_privilege('picket_report', 'picket.later()', 'EXECUTE'),
                has_type_privilege('picket_report', 'picket.later', 'USAGE'),
                has_table_privilege('picket_report', 'picket.later_table', 'SELECT, INSERT, UPDATE, DELETE')",
    )
    .fetch_one(&database.pool)
    .await
    .unwrap();

    assert_eq!((function, kind, table), (false, false, false));
}

/// Runs statements one by one as `role` until one is refused; returns it and the reason.
async fn first_refused(connection: &mut PgConnection, role: &str, statements: &[String]) -> Option<String> {
    connection.execute(AssertSqlSafe(format!("SET ROLE {role}"))).await.unwrap();
    let mut refusal = None;
    for statement in statements {
        if let Err(why) = connection.execute(AssertSqlSafe(statement.clone())).await {
            let code =
                why.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
            assert_eq!(code, "42501", "{role}: {statement}: {why}");
            refusal = Some(statement.clone());
            break;
        }
    }
    connection.execute("RESET ROLE").await.unwrap();
    refusal
}

#[tokio::test]
async fn a_member_of_a_role_cannot_remove_a_region_through_a_trigger_of_its_own_table() {
    let database = new_database().await;
    database.pool.execute("INSERT INTO picket.regions (name) VALUES ('eu')").await.unwrap();
    let bait = [
        "CREATE TEMPORARY TABLE bait (id) AS SELECT 1::smallint",
        "CREATE TRIGGER bait BEFORE DELETE ON bait FOR EACH ROW EXECUTE FUNCTION picket.regions_before_delete()",
        "DELETE FROM bait",
        "DROP TABLE bait",
    ]
    .map(str::to_owned);

    for role in ROLES {
        let mut connection = database.pool.acquire().await.unwrap();
        let stopped_at = first_refused(&mut connection, role, &bait).await;

        let removed: i64 =
            sqlx::query_scalar("SELECT count(*) FROM picket.regions WHERE removed_at IS NOT NULL")
                .fetch_one(&database.pool)
                .await
                .unwrap();
        assert_eq!((removed, stopped_at.as_deref()), (0, Some(bait[0].as_str())), "{role}");
    }
}

/// With a schema of its own, which is more than any role is given, a role can make types with casts and operators. None of
/// its code may run as the owner all the same.
#[tokio::test]
async fn a_role_with_its_own_schema_cannot_make_the_owner_run_its_code() {
    let database = new_database().await;
    let triggers = query_text_set(
        &database.pool,
        "SELECT 'picket.' || proname FROM pg_proc
         WHERE pronamespace = 'picket'::regnamespace AND prorettype = 'trigger'::regtype",
    )
    .await;
    assert!(triggers.len() >= 9, "{triggers:?}");

    for role in ROLES {
        let mut connection = database.pool.acquire().await.unwrap();
        let room = format!("CREATE SCHEMA own_{role} AUTHORIZATION {role}");
        connection.execute(AssertSqlSafe(room)).await.unwrap();
        let bait = [
            "CREATE TABLE ran (who text)".to_owned(),
            "GRANT INSERT ON ran TO PUBLIC".to_owned(),
            "CREATE TYPE number AS (n bigint)".to_owned(),
            format!(
                "CREATE FUNCTION taken(number) RETURNS bigint LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO own_{role}.ran VALUES (current_user); RETURN 1; END $$"
            ),
            "CREATE CAST (number AS bigint) WITH FUNCTION taken(number) AS IMPLICIT".to_owned(),
            "CREATE TABLE bait (id number)".to_owned(),
            "INSERT INTO bait VALUES (row(1))".to_owned(),
        ];
        connection.execute(AssertSqlSafe(format!("SET search_path = own_{role}, public"))).await.unwrap();
        assert_eq!(first_refused(&mut connection, role, &bait).await, None, "the bait is laid");

        for function in &triggers {
            let attempt = format!(
                "CREATE TRIGGER bait BEFORE DELETE ON bait FOR EACH ROW EXECUTE FUNCTION {function}()"
            );
            let stopped_at =
                first_refused(&mut connection, role, &[attempt.clone(), "DELETE FROM bait".to_owned()]).await;
            assert_eq!(stopped_at, Some(attempt), "{role}");
        }
        let ran: i64 =
            sqlx::query_scalar("SELECT count(*) FROM ran").fetch_one(&mut *connection).await.unwrap();
        assert_eq!(ran, 0, "{role}");
        connection.execute("RESET search_path").await.unwrap();
    }
}
