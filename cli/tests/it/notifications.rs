//! `picket channel`, `route`, `silence`, `incident`, `notification` and `ledger --notifications`.

use std::process::{Command, Stdio};

use serde_json::Value;
use sqlx::PgPool;

use crate::{Picket, picket_command};

impl Picket {
    /// Output of a run with exit code 1.
    #[track_caller]
    pub(crate) fn run_negative(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn run_json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run_ok(&[arguments, &["--output", "json"]].concat())).unwrap()
    }

    pub(crate) async fn pool(&self) -> PgPool {
        PgPool::connect(&self.database_url).await.unwrap()
    }

    pub(crate) fn add_ops(&self) {
        self.run_ok(&["channel", "add", "ops", "--kind", "slack", "--url", "secret:slack-ops"]);
    }

    fn spawn(&self, arguments: &[&str]) -> std::process::Child {
        let mut command: Command = picket_command(self.dir());
        command.env("DATABASE_URL", &self.database_url).args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

async fn run_sql(pool: &PgPool, sql: &'static str) {
    sqlx::raw_sql(sql).execute(pool).await.unwrap();
}

const OPEN_INCIDENT: &str =
    "INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, cause, regions)
    SELECT id, now(), now(), 'timeout', '{eu}' FROM picket.sites WHERE id = 1;
    SELECT picket.plan_notices(100)";

#[tokio::test]
async fn a_channel_is_added_listed_changed_paused_and_removed() {
    let picket = Picket::new().await;

    let added = picket.run_ok(&["channel", "add", "ops", "--kind", "slack", "--url", "secret:slack-ops"]);
    assert!(
        added.contains("added channel ops (slack)") && added.contains("no route names it yet"),
        "{added}"
    );
    picket.run_ok(&[
        "channel",
        "add",
        "desk",
        "--kind",
        "email",
        "--to",
        "desk@example.com",
        "--set",
        "host=mail.example.com",
        "--set",
        "from=picket@example.com",
        "--pace",
        "5s",
        "--no-closed",
        "--paused",
    ]);
    let listed = picket.run_json(&["channel", "list"]);
    assert_eq!(listed[0]["settings"]["to"][0], "desk@example.com");
    assert_eq!((&listed[0]["enabled"], &listed[0]["pace_ms"]), (&false.into(), &5_000.into()));
    let table = picket.run_ok(&["channel", "list"]);
    assert!(table.contains("desk  email  paused") && table.contains("ops   slack  new"), "{table}");

    assert!(picket.run_ok(&["channel", "set", "desk", "--set", "port=465"]).contains("changed channel desk"));
    assert!(picket.run_ok(&["channel", "set", "desk", "--set", "port=465"]).contains("nothing was changed"));
    assert!(picket.run_ok(&["channel", "resume", "desk"]).contains("resumed channel desk"));
    assert!(picket.run_ok(&["channel", "pause", "ops"]).contains("paused channel ops"));
    assert!(picket.run_ok(&["channel", "pause", "ops"]).contains("already paused"));
    let shown = picket.run_ok(&["channel", "show", "ops"]);
    assert!(shown.contains("secret:slack-ops") && shown.contains("paused"), "{shown}");

    picket.run_ok(&["route", "add", "--channel", "ops"]);
    let refusal = picket.run_rejected(&["channel", "remove", "ops"]);
    assert!(refusal.contains("remove these routes first: all-to-ops"), "{refusal}");
    picket.run_ok(&["route", "remove", "all-to-ops"]);
    assert!(picket.run_ok(&["channel", "remove", "ops"]).contains("removed channel ops"));
    let refusal = picket.run_rejected(&["channel", "remove", "ops"]);
    assert!(refusal.contains("there is no channel 'ops'; there are: desk"), "{refusal}");
}

#[tokio::test]
async fn a_credential_in_place_of_the_name_of_a_secret_is_refused_without_being_repeated() {
    let picket = Picket::new().await;
    for arguments in [
        &["--kind", "telegram", "--set", "chat_id=7", "--set", "token=hunter2"][..],
        &["--kind", "telegram", "--set", "chat_id=7", "--set", "token=secret:Hunter2"],
        &[
            "--kind",
            "webhook",
            "--url",
            "https://hooks.example.com/",
            "--set",
            "headers.Authorization=hunter2",
        ],
    ] {
        let refusal = picket.run_rejected(&[&["channel", "add", "ops"], arguments].concat());
        assert!(!refusal.to_lowercase().contains("hunter2"), "{refusal}");
        assert!(refusal.contains("name of a secret"), "{refusal}");
    }
    assert!(picket.run_ok(&["channel", "list"]).contains("no channels yet"));
}

#[tokio::test]
async fn silences_of_sites_tags_and_all_are_added_listed_and_removed() {
    let picket = Picket::new().await;
    picket.run_ok(&["site", "add", "https://shop.example/"]);
    let end = ["--to", "+2h", "--reason", "move"];

    let told = picket.run_ok(&[&["silence", "add", "https://shop.example/"], &end[..]].concat());
    assert!(told.starts_with("silence 1: nobody is told of site 1 (https://shop.example/) from"), "{told}");
    picket.run_ok(&[&["silence", "add", "--tag", "shop"], &end[..]].concat());
    picket.run_ok(&[&["silence", "add", "--all", "--from", "+1h"], &end[..]].concat());

    let table = picket.run_ok(&["silence", "list"]);
    for part in ["planned", "tag shop", "all", "move"] {
        assert!(table.contains(part), "{table}");
    }
    assert!(picket.run_ok(&["silence", "remove", "2"]).contains("removed silence 2"));
    assert!(picket.run_rejected(&["silence", "remove", "2"]).contains("there is no silence 2"));
    let past = ["silence", "add", "--all", "--to", "2020-01-01T00:00:00Z", "--reason", "x"];
    assert!(picket.run_rejected(&past).contains("a time after"));
    assert_eq!(picket.run_json(&["silence", "list"]).as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_incident_is_listed_shown_with_its_notices_and_acknowledged() {
    let picket = Picket::new().await;
    let pool = picket.pool().await;
    picket.run_ok(&["site", "add", "https://shop.example/"]);
    picket.add_ops();
    picket.run_ok(&["route", "add", "--channel", "ops"]);
    assert!(picket.run_ok(&["incident", "list"]).contains("no incident is open"));
    run_sql(&pool, OPEN_INCIDENT).await;

    let listed = picket.run_ok(&["incident", "list"]);
    assert!(listed.contains("timeout") && listed.contains("https://shop.example/"), "{listed}");
    let acknowledged = picket.run_ok(&["incident", "ack", "1", "--note", "on it"]);
    assert!(acknowledged.contains("incident 1 is acknowledged by"), "{acknowledged}");
    assert!(picket.run_ok(&["incident", "ack", "1"]).contains("already; nothing was changed"));
    let shown = picket.run_ok(&["incident", "show", "1"]);
    for part in ["on it", "incident.opened", "ops", "waiting"] {
        assert!(shown.contains(part), "{shown}");
    }
    let json = picket.run_json(&["incident", "show", "1"]);
    assert_eq!(
        (&json[0]["notices"][0]["channel"], &json[0]["acknowledgement"]["note"]),
        (&"ops".into(), &"on it".into())
    );
    assert!(picket.run_ok(&["incident", "ack", "1", "--withdraw"]).contains("go on"));
    assert!(picket.run_rejected(&["incident", "ack", "1", "--withdraw"]).contains("not acknowledged"));

    run_sql(&pool, "UPDATE picket.incidents SET closed_at = now()").await;
    assert!(picket.run_rejected(&["incident", "ack", "1"]).contains("is closed"));
    assert!(picket.run_rejected(&["incident", "ack", "9"]).contains("there is no incident 9"));
    assert!(picket.run_rejected(&["incident", "show", "9"]).contains("there is no incident 9"));
    assert!(picket.run_ok(&["incident", "list"]).contains("no incident is open"));
    assert!(picket.run_ok(&["incident", "list", "--since", "1d"]).contains("closed"));
}

#[tokio::test]
async fn the_ledger_of_notifications_ends_with_code_1_if_a_notice_is_missing_and_the_status_says_so() {
    let picket = Picket::new().await;
    let pool = picket.pool().await;
    picket.run_ok(&["site", "add", "https://shop.example/"]);
    assert!(!picket.run_ok(&["status"]).contains("notifications:"));
    picket.add_ops();
    picket.run_ok(&["route", "add", "--channel", "ops"]);
    run_sql(&pool, OPEN_INCIDENT).await;

    let ledger = picket.run_ok(&["ledger", "--notifications", "--since", "24h"]);
    assert!(ledger.contains("is accounted for.") && ledger.contains("ops"), "{ledger}");
    let status = picket.run_negative(&["status"]);
    assert!(
        status.contains("notifications: 1 channel; 1 waiting, the oldest since")
            && status.contains("no notifier runs, so nobody is told of incidents"),
        "{status}"
    );

    run_sql(&pool, "DELETE FROM picket.notices").await;
    let ledger = picket.run_negative(&["ledger", "--notifications", "--since", "24h"]);
    assert!(ledger.contains("UNACCOUNTED FOR") && ledger.contains("incident.opened"), "{ledger}");
    let json = picket.run_negative(&["ledger", "--notifications", "--output", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["channels"][0]["unaccounted"], &json["unaccounted"][0]["incident_id"]),
        (&1.into(), &1.into())
    );
    assert!(picket.run_negative(&["status"]).contains("1 UNACCOUNTED FOR"));
}

#[tokio::test]
async fn a_failed_notification_is_listed_shown_and_tried_once_more() {
    let picket = Picket::new().await;
    let pool = picket.pool().await;
    picket.run_ok(&["site", "add", "https://shop.example/"]);
    picket.add_ops();
    picket.run_ok(&["route", "add", "--channel", "ops"]);
    run_sql(&pool, OPEN_INCIDENT).await;
    run_sql(
        &pool,
        "INSERT INTO picket.notifications (notification_id, channel, lane, purpose, title, state, reason, attempts, ended_at)
         VALUES ('0199a1b2-0c3d-7e4f-8a5b-6c7d8e9fa0b1', 'ops', 0, 'alert', 'DOWN shop', 'failed', 'refused', 1, now());
         INSERT INTO picket.delivery_attempts (notification_id, number, notifier, epoch, outcome, status, message, ended_at)
         SELECT notification_id, 1, 'n', 1, 'refused', 400, 'invalid_blocks', now() FROM picket.notifications;
         UPDATE picket.notices SET state = 'failed', reason = 'refused', ended_at = now(),
             notification_id = '0199a1b2-0c3d-7e4f-8a5b-6c7d8e9fa0b1'",
    )
    .await;
    let id = "0199a1b2-0c3d-7e4f-8a5b-6c7d8e9fa0b1";

    let listed = picket.run_ok(&["notification", "list", "--channel", "ops", "--state", "failed"]);
    assert!(
        listed.contains("6c7d8e9fa0b1  ")
            && listed.contains("failed, 1 attempt")
            && listed.contains("400 invalid_blocks"),
        "{listed}"
    );
    assert!(listed.contains("DOWN shop") && !listed.contains(id), "{listed}");
    let shown = picket.run_ok(&["notification", "show", "6c7d8e9fa0b1"]);
    assert!(shown.contains("invalid_blocks") && shown.contains("incident.opened"), "{shown}");
    let json = picket.run_json(&["notification", "show", id]);
    assert_eq!(
        (&json[0]["deliveries"][0]["outcome"], &json[0]["incident_ids"][0]),
        (&"refused".into(), &1.into())
    );

    assert!(
        picket
            .run_rejected(&["notification", "show", "6c7d8e9fa0b2"])
            .contains("there is no notification 6c7d")
    );
    assert!(picket.run_rejected(&["notification", "retry", "x"]).contains("last 12 digits"));
    assert!(picket.run_ok(&["notification", "retry", "9fa0b1"]).contains("tried once more, now: 1"));
    assert!(picket.run_rejected(&["notification", "retry", id]).contains("this one is waiting"));
    assert!(
        picket
            .run_ok(&["notification", "retry", "--channel", "ops", "--since", "3h"])
            .contains("nothing has failed")
    );
    let unknown = "0199a1b2-0c3d-7e4f-8a5b-6c7d8e9fa0b2";
    assert!(picket.run_rejected(&["notification", "retry", unknown]).contains("there is no notification"));
    assert!(picket.run_rejected(&["notification", "show", unknown]).contains("there is no notification"));
    assert!(
        picket
            .run_rejected(&["notification", "retry", "--channel", "none", "--since", "1h"])
            .contains("there are: ops")
    );
}

#[tokio::test]
async fn open_incidents_are_told_to_a_new_channel_or_route_on_demand() {
    let picket = Picket::new().await;
    let pool = picket.pool().await;
    picket.run_ok(&["site", "add", "https://shop.example/"]);
    let early = ["channel", "add", "ops", "--kind", "slack", "--url", "secret:slack-ops", "--catch-up"];
    let refused = picket.run_rejected(&early);
    assert!(refused.contains("picket route add --channel ops --catch-up"), "{refused}");
    picket.add_ops();
    run_sql(&pool, OPEN_INCIDENT).await;

    let quiet = picket.run_ok(&["route", "add", "--channel", "ops", "--name", "quiet"]);
    let loud = picket.run_ok(&["route", "add", "--channel", "ops", "--name", "loud", "--catch-up"]);

    assert!(!quiet.contains("open now"), "{quiet}");
    assert!(loud.contains("its channels are told of what is open now: 1"), "{loud}");
    assert_eq!(picket.run_json(&["channel", "show", "ops"])[0]["waiting"], 1);
}

#[tokio::test]
async fn a_test_says_that_no_notifier_runs_or_prints_what_the_receiver_answered() {
    let picket = Picket::new().await;
    let pool = picket.pool().await;
    picket.add_ops();
    assert!(picket.run_rejected(&["channel", "test", "none"]).contains("there are: ops"));
    let nobody = picket.run(&["channel", "test", "ops"]);
    assert_eq!(nobody.status.code(), Some(3));
    assert!(String::from_utf8(nobody.stderr).unwrap().contains("no notifier runs"));
    run_sql(&pool, "SELECT picket.mark_notifier('n', '1')").await;
    let hung = picket.run(&["channel", "test", "ops", "--timeout", "300ms"]);
    assert_eq!(hung.status.code(), Some(3));
    assert!(String::from_utf8(hung.stderr).unwrap().contains("no notifier has sent the test within 300ms"));

    for (outcome, status, code, parts) in [
        ("delivered", 200, 0, &["ops: delivered in", "200 ok"][..]),
        ("retry", 503, 1, &["ops: not delivered after", "503 ok", "this test is not"]),
    ] {
        let test = picket.spawn(&["channel", "test", "ops"]);
        // What a notifier writes.
        loop {
            let ended = sqlx::query(
                "WITH test AS (
                     UPDATE picket.notifications SET state = CASE $1 WHEN 'delivered' THEN 'delivered' ELSE 'failed' END::picket.notification_state,
                         reason = $1, ended_at = clock_timestamp()
                     WHERE purpose = 'test' AND state = 'waiting' RETURNING notification_id)
                 INSERT INTO picket.delivery_attempts (notification_id, number, notifier, epoch, outcome, status, message, ended_at)
                 SELECT notification_id, 1, 'n', 1, $1, $2, 'ok', clock_timestamp() FROM test",
            )
            .bind(outcome)
            .bind(status)
            .execute(&pool)
            .await
            .unwrap();
            if ended.rows_affected() > 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
        let output = test.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
}

#[tokio::test]
async fn commands_name_an_absent_notifier_and_events_without_a_decision() {
    let picket = Picket::new().await;
    let pool = picket.pool().await;
    picket.run_ok(&["site", "add", "https://shop.example/"]);
    let absence =
        "picket: no notifier runs, so nobody is told of incidents; start picket-notifier, or 'picket up'\n";
    let error_of = |arguments: &[&str]| String::from_utf8(picket.run(arguments).stderr).unwrap();

    for arguments in [
        &["channel", "add", "ops", "--kind", "slack", "--url", "secret:slack-ops"][..],
        &["channel", "list"],
        &["channel", "show", "ops"],
        &["route", "add", "--channel", "ops"],
        &["ledger", "--notifications"],
    ] {
        assert_eq!(error_of(arguments), absence, "{arguments:?}");
    }
    run_sql(
        &pool,
        "INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, cause, regions)
         SELECT id, now(), now(), 'timeout', '{eu}' FROM picket.sites",
    )
    .await;
    let shown = picket.run(&["incident", "show", "1"]);
    let (text, error) = (String::from_utf8(shown.stdout).unwrap(), String::from_utf8(shown.stderr).unwrap());
    assert!(text.contains("it is not decided yet who is told of this incident"), "{text}");
    assert!(error.contains("and 1 event waits for one; start picket-notifier"), "{error}");

    run_sql(&pool, "SELECT picket.mark_notifier('n', '1')").await;
    assert_eq!(error_of(&["channel", "list"]), "");
    assert!(picket.run_negative(&["status"]).contains("nothing waiting; 1 not yet decided who is told"));
    run_sql(&pool, "DELETE FROM picket.routes; SELECT picket.plan_notices(100)").await;
    let unrouted = picket.run_ok(&["incident", "show", "1"]);
    assert!(unrouted.contains("no route names a channel for this incident"), "{unrouted}");
}

#[tokio::test]
async fn the_rows_behind_a_number_of_the_ledger_are_listed_and_reminders_are_counted_apart() {
    let picket = Picket::new().await;
    let pool = picket.pool().await;
    picket.run_ok(&["site", "add", "https://shop.example/"]);
    picket.add_ops();
    picket.run_ok(&["route", "add", "--channel", "ops", "--escalate", "15m=ops"]);
    run_sql(&pool, OPEN_INCIDENT).await;
    run_sql(
        &pool,
        "UPDATE picket.notices SET state = 'suppressed', ended_at = now(),
             reason = CASE step WHEN 'event' THEN 'brief' ELSE 'acknowledged' END",
    )
    .await;

    let ledger = picket.run_ok(&["ledger", "--notifications", "--since", "24h"]);
    for part in [
        "ops: 1 suppressed, brief\n",
        "ops: 1 suppressed, acknowledged (escalation)\n",
        "ops      escalation          0           1       0        0",
        "each of them: picket notification notices --since 1day --channel NAME --state STATE",
    ] {
        assert!(ledger.contains(part), "{part}\n{ledger}");
    }
    let list = |more: &[&str]| picket.run_json(&[&["notification", "notices"], more].concat());
    let rows = list(&["--channel", "ops", "--reason", "brief"]);
    assert_eq!((rows.as_array().unwrap().len(), &rows[0]["step"]), (1, &"event".into()), "{rows}");
    assert_eq!(list(&["--step", "escalation"])[0]["reason"], "acknowledged");
    assert_eq!(list(&["--state", "delivered"]), Value::Array(Vec::new()));
    let table = picket.run_ok(&["notification", "notices", "--incident", "1"]);
    assert!(
        table.contains("escalation 1 of incident.opened") && table.contains("suppressed, brief"),
        "{table}"
    );
    for command in ["notices", "list"] {
        let refusal = picket.run_rejected(&["notification", command, "--channel", "opps"]);
        assert!(refusal.contains("there is no channel 'opps'; there are: ops"), "{refusal}");
    }
}
