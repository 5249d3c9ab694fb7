//! What people and programs are told when nothing fails.

use std::time::Duration;

use picket_harness::{eventually, receiver::Answer, servers};
use serde_json::json;

use crate::drill::{Drill, WAIT_TIMEOUT};

#[tokio::test]
async fn an_incident_is_told_to_programs_as_two_events_in_order_and_to_people_as_down_and_up() {
    let drill = Drill::start(2).await;
    drill.add_sites(1).await;
    drill.add_webhook("hook").await;
    drill.add_ntfy("phone").await;
    drill.add_route("all", &["hook", "phone"], &[("wait_ms", "1000")]).await;

    drill.open_incidents(1, 1).await;
    drill.wait_requests(2).await;
    drill.close_incidents(1, 1).await;
    drill.wait_requests(4).await;
    drill.wait_settled().await;

    let requests = drill.receiver.requests();
    let events: Vec<String> = requests
        .iter()
        .filter(|request| request.path == "/hook")
        .map(|request| request.json()["type"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(events, ["incident.opened", "incident.closed"]);
    let texts: Vec<String> =
        requests.iter().filter(|request| request.path == "/").map(|request| request.text()).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(texts[0].contains("DOWN site-1") && texts[1].contains("UP site-1"), "{texts:?}");
    drill.assert_ledger_closed().await;
}

#[tokio::test]
async fn sites_that_fail_together_are_one_message_and_an_incident_within_the_wait_is_none() {
    let drill = Drill::start(1).await;
    drill.add_sites(5).await;
    drill.add_ntfy("phone").await;
    drill.add_route("all", &["phone"], &[("wait_ms", "3000")]).await;

    drill.open_incidents(1, 5).await;
    drill.close_incidents(5, 5).await;
    drill.wait_requests(1).await;
    drill.close_incidents(1, 4).await;
    drill.wait_requests(2).await;
    drill.wait_settled().await;

    let requests = drill.receiver.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests[0].text().contains("DOWN 4 sites"), "{}", requests[0].text());
    assert!(requests[1].text().contains("UP 4 sites"), "{}", requests[1].text());
    assert_eq!(drill.count_notices("suppressed", "brief").await, 2);
    drill.assert_ledger_closed().await;
}

#[tokio::test]
async fn n12_a_silence_holds_messages_back_and_what_is_down_at_its_end_is_told_once() {
    let drill = Drill::start(1).await;
    drill.add_sites(2).await;
    drill.add_ntfy("phone").await;
    drill.add_webhook("hook").await;
    drill.add_route("all", &["phone", "hook"], &[("wait_ms", "500")]).await;
    drill
        .stack
        .execute_sql("INSERT INTO picket.silences (tag, ends_at, reason) VALUES ('shop', now() + interval '1 day', 'works')")
        .await;

    drill.open_incidents(1, 2).await;
    drill.close_incidents(2, 2).await;
    eventually(WAIT_TIMEOUT, "four notices that were not told", async || {
        match drill.count_notices("suppressed", "silenced").await {
            4 => Ok(()),
            found => Err(found),
        }
    })
    .await;
    let held = "SELECT count(*) FROM picket.notices WHERE state = 'waiting' AND reason = 'silenced'";
    eventually(WAIT_TIMEOUT, "two notices that are held back", async || {
        match drill.stack.query_number(held).await {
            2 => Ok(()),
            found => Err(found),
        }
    })
    .await;
    assert_eq!(drill.receiver.count(), 0);

    drill.stack.execute_sql("DELETE FROM picket.silences").await;
    let requests = drill.wait_requests(2).await;
    assert!(requests.iter().any(|request| request.text().contains("silenced until now")), "{requests:?}");
    drill.wait_settled().await;
    assert_eq!(drill.receiver.count(), 2);
    drill.assert_ledger_closed().await;
}

#[tokio::test]
async fn n12_escalation_tells_another_channel_at_its_time_unless_the_incident_is_acknowledged() {
    let drill = Drill::start(1).await;
    drill.add_sites(2).await;
    drill.add_ntfy("ops").await;
    drill.add_ntfy("boss").await;
    let escalate = [("wait_ms", "0"), ("escalate", "'[{\"after_ms\": 2000, \"channels\": [\"boss\"]}]'")];
    drill.add_route("all", &["ops"], &escalate).await;

    drill.open_incidents(1, 2).await;
    drill.stack.execute_sql("INSERT INTO picket.acknowledgements (incident_id) SELECT incident_id FROM picket.incidents WHERE site_id = 2").await;
    let escalated = "SELECT count(*) FROM picket.notices WHERE step = 'escalation' AND state <> 'waiting'";
    eventually(WAIT_TIMEOUT, "both steps of escalation", async || {
        match drill.stack.query_number(escalated).await {
            2 => Ok(()),
            found => Err(found),
        }
    })
    .await;

    let told: Vec<String> = drill.receiver.requests().iter().map(|request| request.text()).collect();
    let boss: Vec<&String> = told.iter().filter(|text| text.contains("\"boss\"")).collect();
    assert!(boss.len() == 1 && boss[0].contains("site-1") && !boss[0].contains("site-2"), "{told:?}");
    let acknowledged =
        "SELECT count(*) FROM picket.notices WHERE step = 'escalation' AND reason = 'acknowledged'";
    assert_eq!(drill.stack.query_number(acknowledged).await, 1);

    // The end is told to both, also to the channel that heard of it by escalation only.
    drill.close_incidents(1, 1).await;
    drill.wait_settled().await;
    let ups = drill.receiver.requests().iter().filter(|request| request.text().contains("UP site-1")).count();
    assert_eq!(ups, 2);
    drill.assert_ledger_closed().await;
}

#[tokio::test]
async fn n11_a_site_that_flaps_is_told_as_such_once_and_programs_get_every_event() {
    let drill = Drill::start(1).await;
    drill.add_sites(1).await;
    drill.add_ntfy("phone").await;
    drill.add_webhook("hook").await;
    drill.add_route("all", &["phone", "hook"], &[("wait_ms", "0")]).await;

    for round in 0..20 {
        drill.open_incidents(1, 1).await;
        if round < 3 {
            drill.wait_settled().await;
        }
        drill.close_incidents(1, 1).await;
        if round < 2 {
            drill.wait_settled().await;
        }
    }
    drill.wait_settled().await;

    let requests = drill.receiver.requests();
    let events = requests.iter().filter(|request| request.path == "/hook").count();
    assert_eq!(events, 40);
    let texts: Vec<String> =
        requests.iter().filter(|request| request.path == "/").map(|request| request.text()).collect();
    assert_eq!(texts.len(), 5, "down, up, down, up, flapping: {texts:?}");
    assert!(texts[4].contains("FLAPPING site-1: 3 times in "), "{texts:?}");
    assert!(texts[4].contains("; down now") || texts[4].contains("; up now"), "{texts:?}");
    drill.assert_ledger_closed().await;

    // Half an hour later.
    drill
        .stack
        .execute_sql(
            "UPDATE picket.transitions SET recorded_at = recorded_at - interval '31 minutes';
             UPDATE picket.notices SET due_at = now() WHERE step = 'calm';
             UPDATE picket.channel_lanes SET due_at = now() WHERE channel = 'phone'",
        )
        .await;
    let requests = drill.wait_requests(46).await;
    let last = requests[45].text();
    assert!(
        last.contains("UP site-1: steady for ") && last.contains("after it flapped 20 times in "),
        "{last}"
    );
}

#[tokio::test]
async fn pagerduty_is_told_of_an_acknowledgement_and_of_no_opening_after_its_end() {
    let mut drill = Drill::start(0).await;
    let path = servers::scratch_dir("secrets").join("secrets.toml");
    let key = format!(
        "[secret.duty]\nvalue = \"0123456789abcdef0123456789abcdef\"\nhosts = [\"{}\"]\ninsecure = true\n",
        drill.receiver.address()
    );
    std::fs::write(&path, key).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let notifier = drill.spawn_notifier(&[("PICKET_SECRETS_FILE", path.to_str().unwrap())]).await;
    notifier.wait_ready().await;
    drill.notifiers.push(notifier);
    drill.add_sites(2).await;
    let settings = json!({"routing_key": {"secret": "duty"}, "api_url": drill.receiver.url("")});
    drill.add_channel("duty", "pagerduty", &settings).await;
    // Each event by itself, whatever the route says.
    drill.add_route("all", &["duty"], &[("group_by", "'route'")]).await;
    let acknowledge =
        "INSERT INTO picket.acknowledgements (incident_id) SELECT incident_id FROM picket.incidents";

    drill.open_incidents(1, 1).await;
    drill.wait_requests(1).await;
    drill.stack.execute_sql(acknowledge).await;
    drill.wait_requests(2).await;
    drill.close_incidents(1, 1).await;
    let requests = drill.wait_requests(3).await;
    let told: Vec<_> = requests.iter().map(|request| request.json()).collect();
    let actions: Vec<_> = told.iter().map(|event| event["event_action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["trigger", "acknowledge", "resolve"]);
    assert!(told.iter().all(|event| event["dedup_key"] == told[0]["dedup_key"]), "{told:?}");

    // The opening is refused, the end is delivered, and then somebody has what failed tried again.
    drill.receiver.answer(Answer::Status(400, String::new(), "no such service".to_owned()));
    drill.open_incidents(2, 2).await;
    drill.wait_settled().await;
    drill.receiver.answer(Answer::status(202));
    drill.close_incidents(2, 2).await;
    drill.wait_settled().await;
    drill.stack.execute_sql("SELECT picket.retry_failed(NULL, 'duty', NULL)").await;
    drill.wait_settled().await;
    let last = drill.receiver.requests().pop().unwrap().json();
    assert_eq!(last["event_action"], "resolve", "{last}");
    assert_eq!(drill.count_notices("suppressed", "closed").await, 1);
    let reminders = "SELECT count(*) FROM picket.notices WHERE step = 'reminder'";
    assert_eq!(drill.stack.query_number(reminders).await, 0);
    drill.assert_ledger_closed().await;
}

#[tokio::test]
async fn a_region_that_is_silent_is_told_to_the_routes_of_regions_only() {
    let drill = Drill::start(1).await;
    drill.add_ntfy("phone").await;
    drill.add_ntfy("other").await;
    drill.add_route("regions", &["phone"], &[("events", "'{region}'"), ("wait_ms", "0")]).await;
    drill.add_route("sites", &["other"], &[("wait_ms", "0")]).await;

    drill
        .stack
        .execute_sql(
            "INSERT INTO picket.silent_regions SELECT id, now() FROM picket.regions WHERE name = 'eu'",
        )
        .await;
    drill.wait_requests(1).await;
    drill.stack.execute_sql("DELETE FROM picket.silent_regions").await;
    let requests = drill.wait_requests(2).await;
    drill.wait_settled().await;

    assert!(requests[0].text().contains("REGION SILENT eu") && requests[1].text().contains("REGION BACK eu"));
    assert!(requests.iter().all(|request| request.text().contains("\"phone\"")));
    drill.assert_ledger_closed().await;
}

#[tokio::test]
async fn a_new_channel_is_told_of_what_opens_after_it_and_not_of_what_was_open() {
    let drill = Drill::start(1).await;
    drill.add_sites(2).await;
    drill.open_incidents(1, 1).await;
    drill.add_webhook("hook").await;
    drill.add_route("all", &["hook"], &[]).await;
    drill.open_incidents(2, 2).await;
    drill.wait_requests(1).await;
    drill.close_incidents(1, 2).await;
    drill.wait_settled().await;

    let sites: Vec<i64> = drill
        .receiver
        .requests()
        .iter()
        .map(|request| request.json()["data"]["site_id"].as_i64().unwrap())
        .collect();
    assert_eq!(sites, [2, 2]);
    drill.assert_ledger_closed().await;
    assert!(drill.receiver.requests().iter().all(|request| request.at.elapsed() < Duration::from_secs(60)));
}
