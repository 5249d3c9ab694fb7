use serde_json::json;
use sqlx::types::Json;

use super::*;
use crate::samples::notice;

fn site(number: i64, cause: &str, tags: &[&str]) -> LaneNotice {
    LaneNotice {
        transition_id: number,
        incident_id: Some(number),
        site_id: Some(number),
        payload: Json(json!({
            "event": "incident.opened", "site": format!("site-{number}.example"), "url": format!("https://site-{number}.example/"),
            "tags": tags, "cause": cause, "message": "=1+1, \"quoted\"", "regions": ["eu", "us"], "regions_reporting": 3,
            "opened_at": "2025-11-27T12:00:00.000000Z", "closed_at": null,
            "first_failure_at": "2025-11-27T11:59:00.000000Z"
        })),
        ..notice()
    }
}

fn outgoing(notices: &[LaneNotice], is_single: bool) -> PlannedMessage<'_> {
    let tell = |notice| PlannedItem {
        verdict: Verdict::Down,
        notice,
        keys: vec![notice.key()],
        note: None,
        headline: None,
        lasting: None,
        attempted: None,
    };
    PlannedMessage {
        contents: String::new(),
        attempts: 0,
        may_have_arrived: false,
        id: Uuid::nil(),
        purpose: Purpose::Alert,
        group_key: None,
        told: notices.iter().map(tell).collect(),
        notes: Vec::new(),
        is_single,
        storm: None,
    }
}

fn context() -> Context<'static> {
    static DETAILS: std::sync::LazyLock<HashMap<i64, OutageDetails>> = std::sync::LazyLock::new(HashMap::new);
    static EVENTS: std::sync::LazyLock<HashMap<i64, Value>> = std::sync::LazyLock::new(HashMap::new);
    Context {
        now: "2025-11-27T12:10:00Z".parse().unwrap(),
        public_url: Some("https://picket.example".to_owned()),
        installation: Uuid::nil().into(),
        details: &DETAILS,
        events: &EVENTS,
        thread: None,
        is_repeat: false,
        receiver_ref: None,
    }
}

#[test]
fn a_title_has_the_verdict_the_count_the_common_tag_and_the_causes() {
    let one = [site(1, "timeout", &["shop"])];
    let message = compose(&outgoing(&one, false), &context());
    assert_eq!(message.title, "DOWN site-1.example: timeout (2 of 3 regions)");
    assert_eq!(message.link.as_deref(), Some("https://picket.example/incidents/1"));
    assert_eq!(message.items[0].duration.as_secs(), 600);

    let many: Vec<_> = (1..=42)
        .map(|n| {
            site(
                n,
                if n <= 31 { "connect" } else { "timeout" },
                &["shop", if n % 2 == 0 { "even" } else { "odd" }],
            )
        })
        .collect();
    let message = compose(&outgoing(&many, false), &context());
    assert_eq!(message.title, "DOWN 42 sites with tag shop: no connection (31), timeout (11)");
    assert_eq!((message.items.len(), message.hidden_items), (20, 22));
    assert_eq!(message.counts.regions, [("eu".to_owned(), 42), ("us".to_owned(), 42)]);
    assert_eq!(message.csv.unwrap().lines().count(), 43, "all of them");
}

#[test]
fn a_field_that_a_spreadsheet_would_take_for_a_formula_is_text() {
    let many: Vec<_> = (1..=21).map(|n| site(n, "timeout", &[])).collect();
    let csv = compose(&outgoing(&many, false), &context()).csv.unwrap();
    assert!(csv.lines().nth(1).unwrap().contains("\"'=1+1, \"\"quoted\"\"\""), "{csv}");
}

#[test]
fn a_program_gets_the_event_as_recorded_with_a_key_of_this_installation() {
    let one = [site(1, "timeout", &["shop"])];
    let event = compose(&outgoing(&one, true), &context()).event.unwrap();
    assert_eq!(event.name, "incident.opened");
    assert_eq!(event.dedup_key, "00000000-0000-0000-0000-000000000000/incident.1.1");
    assert_eq!(event.data["site"], "site-1.example");
    assert_eq!(event.data["link"], "https://picket.example/incidents/1");
    assert!(!event.is_end);
}

#[test]
fn a_repetition_is_about_the_same_site_under_the_same_key_as_the_message() {
    let one = [site(1, "timeout", &["shop"])];
    let told = compose(&outgoing(&one, true), &context());
    let firing = FiringEvent {
        event: one[0].event.clone(),
        subject: one[0].subject.clone(),
        is_end: false,
        incident_id: one[0].incident_id,
        site_id: one[0].site_id,
        payload: one[0].payload.clone(),
        recorded_at: one[0].recorded_at,
    };
    let now = context().now;
    let again = compose_repetition(&firing, Uuid::nil().into(), Some("https://picket.example"), now);
    let label = |message: &Message| {
        let item = &message.items[0];
        (item.name.clone(), item.url.clone(), item.verdict, item.link.clone())
    };
    assert_eq!(label(&again), label(&told));
    assert_eq!(again.event.unwrap().dedup_key, told.event.unwrap().dedup_key);
}

#[test]
fn a_region_and_a_channel_have_their_names() {
    let of = |event: &str, payload: Value| LaneNotice {
        event: event.to_owned(),
        incident_id: None,
        site_id: None,
        payload: Json(payload),
        ..notice()
    };
    let notices = [
        of(
            "region.silent",
            json!({"event": "region.silent", "region": "eu", "since": "2025-11-27T12:00:00Z"}),
        ),
        of("channel.failing", json!({"event": "channel.failing", "channel": "ops", "message": "403"})),
    ];
    let message = compose(&outgoing(&notices, false), &context());
    let names: Vec<_> = message.items.iter().map(|item| item.name.as_str()).collect();
    assert_eq!(names, ["eu", "ops"]);
}

/// The title of a message about `notices`, each with `headline` and `lasting`.
fn title_of(
    purpose: Purpose,
    notices: &[LaneNotice],
    headline: Option<&str>,
    lasting: Option<&'static str>,
) -> String {
    let mut planned = PlannedMessage { purpose, ..outgoing(notices, false) };
    for told in &mut planned.told {
        (told.headline, told.lasting) = (headline.map(str::to_owned), lasting);
    }
    compose(&planned, &context()).title
}

#[test]
fn a_title_says_for_how_long_it_lasts_where_the_reader_cannot_know() {
    let one = [site(1, "timeout", &["shop"])];
    for (purpose, lasting, expected) in [
        (Purpose::Reminder, "", "STILL DOWN site-1.example for 10 min: timeout (2 of 3 regions)"),
        (
            Purpose::Escalation,
            "unacknowledged",
            "DOWN site-1.example for 10 min, unacknowledged: timeout (2 of 3 regions)",
        ),
        (
            Purpose::Alert,
            "silenced until now",
            "DOWN site-1.example for 10 min, silenced until now: timeout (2 of 3 regions)",
        ),
    ] {
        assert_eq!(title_of(purpose, &one, None, Some(lasting)), expected);
    }
    let two = [site(1, "timeout", &["shop"]), site(2, "timeout", &["shop"])];
    let together = title_of(Purpose::Escalation, &two, None, Some("unacknowledged"));
    assert_eq!(together, "DOWN 2 sites with tag shop, unacknowledged: timeout (2)");
    assert_eq!(
        title_of(Purpose::Reminder, &two, None, Some("")),
        "STILL DOWN 2 sites with tag shop: timeout (2)"
    );
    assert_eq!(title_of(Purpose::Acknowledgement, &one, None, None), "ACKNOWLEDGED site-1.example");
}

#[test]
fn a_site_that_flapped_is_told_with_its_last_outage_and_not_with_the_one_that_made_it_flapping() {
    let steady = LaneNotice {
        is_site_down: false,
        last_change: Some(Json(json!({
            "event": "incident.closed", "incident_id": 9, "site": "site-1.example", "cause": "dns", "regions": ["eu"],
            "opened_at": "2025-11-27T11:30:00.000000Z", "closed_at": "2025-11-27T11:35:00.000000Z"
        }))),
        ..site(1, "timeout", &[])
    };
    let notices = [steady];
    let message = compose(&outgoing(&notices, false), &context());
    let item = &message.items[0];
    assert_eq!(
        (item.incident_id, item.duration.as_secs(), item.cause.as_deref()),
        (Some(9), 300, Some("name not resolved"))
    );
    assert_eq!(item.closed_at, Some("2025-11-27T11:35:00Z".parse().unwrap()));
}

#[test]
fn an_outage_of_which_the_beginning_alone_is_told_ends_with_its_end_and_not_now() {
    let ended = "2025-11-27T12:10:00Z".parse::<Timestamp>().unwrap();
    let notices = [LaneNotice { other_recorded_at: Some(ended.into()), ..site(1, "timeout", &[]) }];
    let mut planned = outgoing(&notices, false);
    planned.told[0].verdict = Verdict::WasDown;

    let message = compose(&planned, &context());

    let item = &message.items[0];
    assert_eq!((item.closed_at, item.duration.as_secs()), (Some(ended), 600));
}
