//! Sample messages: templates are checked with them.

use std::time::Duration;

use picket_proto::{Cause, ChannelKind, Timestamp};
use serde_json::json;
use uuid::Uuid;

use crate::{
    compose::compose_test,
    message::{Counts, Item, Message, ProgramEvent, Purpose, Severity, Verdict},
};

/// Number of each sample.
const SAMPLE_ID: Uuid = Uuid::from_u128(0x0193_4a5b_6c7d_7e8f_9a0b_1c2d_3e4f_5061);

/// Names that a receiver could obey.
#[cfg(test)]
pub(crate) const HOSTILE_NAMES: [&str; 9] = [
    "line\r\nBcc: all@example.com",
    "<!channel> <@U1> <https://evil.example|safe>",
    "@everyone @here <@&1> [a](https://evil.example) **b** `c`",
    "{{ 7*7 }} ${7*7} #{7*7}",
    "txt.\u{202e}gpj\u{2066}",
    "<script>alert(1)</script> & \"quoted\" 'single'",
    "*_~`[]()>#+-=|{}.!\\",
    "\u{1f600} \u{6771}\u{4eac} \u{0}\u{7}",
    "",
];

#[cfg(test)]
pub(crate) const ALL_VERDICTS: [Verdict; 13] = [
    Verdict::Down,
    Verdict::Flapping,
    Verdict::Warns,
    Verdict::Silent,
    Verdict::Failing,
    Verdict::Unaccounted,
    Verdict::Up,
    Verdict::WasDown,
    Verdict::Unwatched,
    Verdict::WarningOver,
    Verdict::Back,
    Verdict::Working,
    Verdict::Test,
];

/// A name of 10 KB whose characters need escapes.
#[cfg(test)]
pub(crate) fn long_name() -> String {
    "<&\"@*_".repeat(1_707)
}

/// A time, `seconds` after 2026-11-20 12:00:00 UTC.
fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis((1_795_176_000 + seconds) * 1_000)
}

fn item(verdict: Verdict, name: &str) -> Item {
    Item {
        verdict,
        name: name.to_owned(),
        url: Some("https://shop.example.com/".to_owned()),
        tags: vec!["shop".to_owned(), "eu".to_owned()],
        incident_id: Some(17),
        cause: Some("connection refused".to_owned()),
        cause_code: Some(Cause::Connect),
        explanation: Some("192.0.2.7:443: connection refused".to_owned()),
        regions: ["eu-west", "us-east", "asia"].map(str::to_owned).to_vec(),
        regions_reporting: Some(4),
        first_failure_at: Some(at(3)),
        opened_at: at(63),
        closed_at: None,
        duration: Duration::from_secs(65),
        failed_checks: Some(7),
        http_status: Some(503),
        phases: vec![("DNS", 1_200), ("connect", 30_000), ("TLS", 41_000)],
        link: Some("https://picket.example.com/incidents/17".to_owned()),
        note: None,
        headline: None,
        lasting: None,
    }
}

fn message(title: &str, purpose: Purpose, items: Vec<Item>) -> Message {
    Message {
        id: SAMPLE_ID,
        purpose,
        severity: items.iter().map(|item| item.verdict.severity()).max().unwrap_or(Severity::Info),
        title: title.to_owned(),
        notes: Vec::new(),
        items,
        hidden_items: 0,
        csv: None,
        counts: Counts::default(),
        composed_at: at(128),
        link: Some("https://picket.example.com/incidents/17".to_owned()),
        is_repeat: false,
        thread: None,
        thread_ref: None,
        receiver_ref: None,
        body: None,
        event: None,
    }
}

fn event(name: &str, is_end: bool) -> ProgramEvent {
    ProgramEvent {
        name: name.to_owned(),
        at: at(63),
        dedup_key: "picket/4cf8c6a8-3b0e-4d0a-9a3e-6a5d7f1f0001/17".to_owned(),
        is_end,
        data: json!({"v": 1, "incident_id": 17, "site": "shop.example.com", "site_id": 3,
            "url": "https://shop.example.com/", "regions": ["eu-west", "us-east", "asia"]}),
    }
}

/// A site went down.
pub(crate) fn down() -> Message {
    let items = vec![item(Verdict::Down, "shop.example.com")];
    let title = "DOWN shop.example.com: connection refused (3 of 4 regions)";
    Message { event: Some(event("incident.opened", false)), ..message(title, Purpose::Alert, items) }
}

/// A site with a given name went down.
#[cfg(test)]
pub(crate) fn named(name: &str) -> Message {
    let mut message = down();
    message.title = format!("DOWN {name}: connection refused");
    message.items[0].name = name.to_owned();
    message.items[0].cause = Some(format!("certificate of {name}"));
    message.items[0].explanation = Some(format!("issuer {name}"));
    message.items[0].tags = vec![name.to_owned()];
    message
}

/// A site is up again.
pub(crate) fn up() -> Message {
    let mut item = item(Verdict::Up, "shop.example.com");
    item.closed_at = Some(at(787));
    item.duration = Duration::from_secs(724);
    let title = "UP shop.example.com: was down 12 min 4 s";
    Message { event: Some(event("incident.closed", true)), ..message(title, Purpose::Alert, vec![item]) }
}

/// An acknowledgement.
#[cfg(test)]
pub(crate) fn acknowledgement() -> Message {
    Message { purpose: Purpose::Acknowledgement, title: "ACKNOWLEDGED shop.example.com".to_owned(), ..down() }
}

/// A certificate expires soon.
pub(crate) fn warning() -> Message {
    let mut item = item(Verdict::Warns, "shop.example.com");
    (item.cause, item.cause_code) = (Some("certificate expires in 7 days".to_owned()), None);
    (item.explanation, item.http_status, item.failed_checks) = (None, None, None);
    let title = "WARNING shop.example.com: certificate expires in 7 days";
    Message {
        event: Some(event("certificate.expiring", false)),
        ..message(title, Purpose::Alert, vec![item])
    }
}

/// A site is still down.
#[cfg(test)]
pub(crate) fn reminder() -> Message {
    let mut item = item(Verdict::Down, "shop.example.com");
    item.duration = Duration::from_secs(3_600);
    item.lasting = Some("");
    message(
        "STILL DOWN shop.example.com for 1 h: connection refused (3 of 4 regions)",
        Purpose::Reminder,
        vec![item],
    )
}

/// Many sites went down.
pub(crate) fn digest() -> Message {
    let items = (1..=20).map(|number| item(Verdict::Down, &format!("site-{number}.example.com"))).collect();
    let title = "DOWN 173 sites: connection refused (131), timeout (42)";
    let counts = |all: &[(&str, usize)]| all.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
    Message {
        hidden_items: 153,
        counts: Counts {
            causes: counts(&[("connection refused", 131), ("timeout", 42)]),
            regions: counts(&[("eu-west", 170), ("us-east", 3)]),
            tags: counts(&[("shop", 173)]),
        },
        csv: Some("name,cause\r\n".to_owned()),
        link: Some("https://picket.example.com/incidents".to_owned()),
        ..message(title, Purpose::Digest, items)
    }
}

/// A person tries the channel out.
pub(crate) fn test() -> Message {
    compose_test(SAMPLE_ID, "slack-ops", ChannelKind::Webhook.audience(), at(128))
}

/// The opening of an incident that a channel of people is to be told.
#[cfg(test)]
pub(crate) fn notice() -> picket_store::lanes::LaneNotice {
    use picket_store::{
        DbTimestamp,
        lanes::{LaneNotice, NoticeStep},
    };
    use sqlx::types::Json;

    let at = DbTimestamp(Timestamp::from_millis(1_764_244_800_000));
    LaneNotice {
        transition_id: 10,
        step: NoticeStep::Event,
        number: 0,
        route: Some("all".to_owned()),
        route_id: Some(1),
        group_key: Some("route all".to_owned()),
        due_at: at,
        reason: None,
        notification_id: None,
        first_attempt_at: None,
        event: "incident.opened".to_owned(),
        subject: "incident.1.1".to_owned(),
        is_end: false,
        incident_id: Some(1),
        site_id: Some(1),
        payload: Json(json!({"event": "incident.opened", "site": "site-1"})),
        recorded_at: at,
        other_recorded_at: None,
        begun_state: None,
        begun_reason: None,
        begun_notification: None,
        end_state: None,
        is_acknowledged: false,
        silenced_until: None,
        active_from: Some(at),
        wait_ms: None,
        delay_ms: 0,
        remind_ms: 3_600_000,
        storm_after: 20,
        recent_openings: 1,
        flap_since: Some(at),
        flap_down_ms: 0,
        last_change: None,
        is_flapping: false,
        site_changed_at: Some(at),
        is_site_down: true,
        blocked_until: None,
    }
}
