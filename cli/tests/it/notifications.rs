//! `picket channel`, `route`, `silence`, `incident`, `notification` and `ledger --notifications`.

use std::{
    fs,
    process::{Command, Stdio},
};

use serde_json::Value;
use sqlx::PgPool;

use crate::{Picket, picket_command};

impl Picket {
    /// Output of a run with exit code 1.
    #[track_caller]
    fn run_negative(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn run_json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run_ok(&[arguments, &["--output", "json"]].concat())).unwrap()
    }

    async fn pool(&self) -> PgPool {
        PgPool::connect(&self.database_url).await.unwrap()
    }

    fn add_ops(&self) {
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
async fn a_route_has_a_name_by_default_and_its_test_shows_the_channels_of_each_site() {
    let picket = Picket::new().await;
    picket.run_ok(&["site", "add", "https://shop.example/", "--tag", "shop"]);
    picket.run_ok(&["site", "add", "https://blog.example/"]);
    picket.add_ops();
    picket.run_ok(&["channel", "add", "phone", "--kind", "webhook", "--url", "https://phone.example.com/"]);

    let added = picket.run_ok(&[
        "route",
        "add",
        "--tag",
        "shop",
        "--channel",
        "ops",
        "--escalate",
        "15m=phone",
        "--remind",
        "never",
        "--active",
        "mon-fri 08:00-18:00",
        "--time-zone",
        "Europe/Berlin",
        "--wait",
        "30s",
    ]);
    assert!(added.contains("added route shop-to-ops: incident of tag shop to ops"), "{added}");
    assert!(added.contains("incidents of 1 of 2 sites reach NOBODY"), "{added}");
    let table = picket.run_ok(&["route", "list"]);
    assert!(
        table.contains(
            "wait 30s; remind never; escalate 15m=phone; active mon-fri 08:00-18:00; Europe/Berlin"
        ),
        "{table}"
    );
    let tested = picket.run_json(&["route", "test"]);
    assert_eq!(
        (&tested[0]["channels"][0], &tested[0]["escalation_channels"][0]),
        (&"ops".into(), &"phone".into())
    );
    assert_eq!(tested[1]["channels"], Value::Array(Vec::new()));
    let unreached = picket.run_ok(&["route", "test", "--unreached"]);
    assert!(unreached.contains("blog.example") && !unreached.contains("shop.example"), "{unreached}");
    let one = picket.run_ok(&["route", "test", "https://shop.example/"]);
    assert!(one.contains("shop-to-ops") && !one.contains("reach"), "{one}");

    picket.run_ok(&["route", "add", "--fallback", "--channel", "ops"]);
    assert!(picket.run_ok(&["route", "test"]).contains("incidents of all 2 sites reach a channel"));
    for (arguments, part) in [
        (
            &["--channel", "none"][..],
            "channels: 'none' is not allowed; allowed: the name of a channel: ops, phone",
        ),
        (&["--channel", "ops", "--site", "https://none.example/"], "sites: 'https://none.example/'"),
        (&["--channel", "ops", "--region", "us"], "the name of a region: eu"),
        (&["--channel", "ops", "--name", "shop-to-ops"], "no other route has"),
        (&["--channel", "ops", "--escalate", "phone"], "15m=phone"),
    ] {
        let refusal = picket.run_rejected(&[&["route", "add"], arguments].concat());
        assert!(refusal.contains(part), "{refusal}");
    }
    assert!(picket.run_rejected(&["route", "remove", "none"]).contains("shop-to-ops, fallback-to-ops"));
}

#[tokio::test]
async fn channels_and_routes_of_a_file_are_planned_applied_exported_and_pruned() {
    let picket = Picket::new().await;
    let file = "\
sites:
  - {url: 'https://shop.example/', tags: [shop]}
  - url: https://blog.example/
channels:
  ops: {kind: slack, url: {secret: slack-ops}}
routes:
  - {tags: [shop], channels: [ops]}
";
    fs::write(picket.dir().join("sites.yaml"), file).unwrap();

    let dry = picket.run_ok(&["apply", "--dry-run"]);
    for line in [
        "+ channel ops\nchannels: 1 added, 0 changed, 0 removed, 0 unchanged\n",
        "+ route shop-to-ops\nroutes: 1 added, 0 changed, 0 removed, 0 unchanged\n",
        "incidents of 1 of 2 sites reach NOBODY",
        "nothing was changed (--dry-run)\n",
    ] {
        assert!(dry.contains(line), "{dry}");
    }
    assert!(picket.run_ok(&["channel", "list"]).contains("no channels yet"));
    picket.run_ok(&["apply"]);
    let exported = picket.run_ok(&["export"]);
    let again = picket.apply_yaml(&exported, &["--prune"]);
    let again = String::from_utf8(again.stdout).unwrap();
    assert!(again.contains("routes: 0 added, 0 changed, 0 removed, 1 unchanged"), "{again}{exported}");

    // A file without a key leaves what it is about alone, even with --prune.
    let sites = picket.apply_yaml("sites:\n  - url: https://blog.example/\n", &["--prune"]);
    assert!(String::from_utf8(sites.stdout).unwrap().contains("- https://shop.example/"));
    assert!(picket.run_ok(&["route", "list"]).contains("shop-to-ops"));
    let changed = "channels:\n  ops: {kind: slack, url: {secret: slack-new}, pace: 2s}\nroutes:\n  - {channels: [ops]}\n";
    let kept = String::from_utf8(picket.apply_yaml(changed, &[]).stdout).unwrap();
    assert!(kept.contains("    url: secret:slack-ops → secret:slack-new\n"), "{kept}");
    assert!(kept.contains("    pace: default → 2s\n") && !kept.contains("sites:"), "{kept}");
    assert!(kept.contains("not in the file and kept (--prune removes): route shop-to-ops\n"), "{kept}");
    let pruned = String::from_utf8(picket.apply_yaml(changed, &["--prune"]).stdout).unwrap();
    assert!(pruned.contains("- route shop-to-ops\n"), "{pruned}");
    assert!(picket.run_ok(&["site", "list"]).contains("blog.example"));

    let refused = picket.apply_yaml("routes:\n  - {channels: [none]}\n", &[]);
    assert_eq!(refused.status.code(), Some(2));
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.contains("channels: 'none'"), "{why}");
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
        status.contains("notifications: 1 channel; no notifier runs; 1 waiting, the oldest since"),
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
        listed.contains(id) && listed.contains("400 invalid_blocks") && listed.contains("DOWN shop"),
        "{listed}"
    );
    let shown = picket.run_ok(&["notification", "show", id]);
    assert!(shown.contains("invalid_blocks") && shown.contains("incident.opened"), "{shown}");
    let json = picket.run_json(&["notification", "show", id]);
    assert_eq!(
        (&json[0]["deliveries"][0]["outcome"], &json[0]["incident_ids"][0]),
        (&"refused".into(), &1.into())
    );

    assert!(picket.run_ok(&["notification", "retry", id]).contains("tried once more, now: 1"));
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
        ("retry", 503, 1, &["ops: not delivered in", "503 ok", "this test is not"]),
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
