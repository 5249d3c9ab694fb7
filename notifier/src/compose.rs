//! Composes the message of a decision from what is true now.

use std::collections::{BTreeMap, HashMap};

use picket_proto::{Cause, InstallationId, Timestamp};
use picket_store::lanes::{FiringEvent, LaneNotice, OutageDetails};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    decide::{PlannedItem, PlannedMessage, payload_text},
    message::{Counts, Item, Message, ProgramEvent, Purpose, Severity, Verdict},
    text::{describe_count, describe_item},
};

/// Items that a message names; the rest is counted.
pub(crate) const SHOWN_ITEMS: usize = 20;

/// What composition needs besides the decision.
#[derive(Clone, Debug)]
pub(crate) struct Context<'a> {
    /// The database's clock.
    pub(crate) now: Timestamp,
    /// Distinguishes this installation in keys that receivers keep.
    pub(crate) installation: InstallationId,
    /// URL of the web UI without a slash at its end.
    pub(crate) public_url: Option<String>,
    /// Measurements by incident.
    pub(crate) details: &'a HashMap<i64, OutageDetails>,
    /// First message about the same subject, and what the receiver gave for it.
    pub(crate) thread: Option<(Uuid, Option<Value>)>,
    /// True if the end of an earlier attempt is unknown.
    pub(crate) is_repeat: bool,
    /// What an earlier attempt left.
    pub(crate) receiver_ref: Option<Value>,
}

/// The incidents that the message will show.
pub(crate) fn list_shown_incidents(outgoing: &PlannedMessage<'_>) -> Vec<i64> {
    order_told(outgoing).into_iter().take(SHOWN_ITEMS).filter_map(|told| told.notice.incident_id).collect()
}

/// Composes the message.
pub(crate) fn compose(outgoing: &PlannedMessage<'_>, context: &Context<'_>) -> Message {
    let told = order_told(outgoing);
    let describe = |told: &&PlannedItem<'_>| {
        let event = EventView::of_notice(told.notice);
        let details = event.incident_id.and_then(|id| context.details.get(&id));
        build_item(
            &event,
            told.verdict,
            told.note.clone(),
            details,
            context.public_url.as_deref(),
            context.now,
        )
    };
    let mut items: Vec<Item> = told.iter().map(describe).collect();
    let is_digest = items.len() > SHOWN_ITEMS || outgoing.purpose == Purpose::Digest;
    let title = build_title(outgoing.purpose, &items);
    let counts = if items.len() > 1 { count_items(&items) } else { Counts::default() };
    let csv = is_digest.then(|| write_csv(&items));
    let event = match (outgoing.is_single, told.first()) {
        (true, Some(told)) => Some(build_event(told, context)),
        _ => None,
    };
    let severity = items.iter().map(|item| item.verdict.severity()).max().unwrap_or(Severity::Info);
    let link = match items.as_slice() {
        [item] => item.link.clone(),
        _ => context.public_url.as_ref().map(|url| format!("{url}/incidents")),
    };
    let hidden_items = items.len().saturating_sub(SHOWN_ITEMS);
    items.truncate(SHOWN_ITEMS);
    let (thread, thread_ref) = context.thread.clone().unzip();
    Message {
        id: outgoing.id,
        purpose: outgoing.purpose,
        severity,
        title,
        notes: outgoing.notes.clone(),
        items,
        hidden_items,
        csv,
        counts,
        composed_at: context.now,
        link,
        is_repeat: context.is_repeat,
        thread,
        thread_ref: thread_ref.flatten(),
        receiver_ref: context.receiver_ref.clone(),
        body: None,
        event,
    }
}

/// What is worst comes first; of the same kind what was recorded first.
fn order_told<'a, 'b>(outgoing: &'b PlannedMessage<'a>) -> Vec<&'b PlannedItem<'a>> {
    let mut told: Vec<_> = outgoing.told.iter().collect();
    told.sort_by_key(|told| (told.verdict, told.notice.recorded_at, told.notice.transition_id));
    told
}

fn payload_time(payload: &Value, field: &str) -> Option<Timestamp> {
    payload_text(payload, field)?.parse().ok()
}

fn payload_list(payload: &Value, field: &str) -> Vec<String> {
    let list = payload.get(field).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn payload_number<T: TryFrom<i64>>(payload: &Value, field: &str) -> Option<T> {
    payload.get(field).and_then(Value::as_i64).and_then(|number| number.try_into().ok())
}

/// An event, whichever row of the database it is from.
struct EventView<'a> {
    event: &'a str,
    subject: &'a str,
    is_end: bool,
    incident_id: Option<i64>,
    site_id: Option<i64>,
    payload: &'a Value,
    recorded_at: Timestamp,
}

impl<'a> EventView<'a> {
    fn of_notice(notice: &'a LaneNotice) -> Self {
        Self {
            event: &notice.event,
            subject: &notice.subject,
            is_end: notice.is_end,
            incident_id: notice.incident_id,
            site_id: notice.site_id,
            payload: &notice.payload,
            recorded_at: notice.recorded_at.into(),
        }
    }

    fn of_firing(event: &'a FiringEvent) -> Self {
        Self {
            event: &event.event,
            subject: &event.subject,
            is_end: event.is_end,
            incident_id: event.incident_id,
            site_id: event.site_id,
            payload: &event.payload,
            recorded_at: event.recorded_at.into(),
        }
    }
}

fn build_item(
    event: &EventView<'_>,
    verdict: Verdict,
    note: Option<String>,
    details: Option<&OutageDetails>,
    public_url: Option<&str>,
    now: Timestamp,
) -> Item {
    let payload = event.payload;
    let text = |field| payload_text(payload, field).map(str::to_owned);
    let recorded = event.recorded_at;
    let opened_at =
        payload_time(payload, "opened_at").or_else(|| payload_time(payload, "since")).unwrap_or(recorded);
    let closed_at = payload_time(payload, "closed_at").or_else(|| event.is_end.then_some(recorded));
    let cause_code: Option<Cause> = payload_text(payload, "cause").and_then(|word| word.parse().ok());
    let explanation = text("message");
    let region = text("region");
    Item {
        verdict,
        name: text("site").or_else(|| text("region")).or_else(|| text("channel")).unwrap_or_else(|| {
            match event.site_id {
                Some(site) => format!("site {site}"),
                None => event.subject.to_owned(),
            }
        }),
        url: text("url"),
        tags: payload_list(payload, "tags"),
        incident_id: event.incident_id,
        cause: cause_code.map(describe_cause).or_else(|| text("kind")),
        cause_code,
        explanation,
        regions: match region {
            Some(_) => Vec::new(),
            None => payload_list(payload, "regions"),
        },
        regions_reporting: payload_number(payload, "regions_reporting"),
        first_failure_at: payload_time(payload, "first_failure_at")
            .or_else(|| payload_time(payload, "first_warned_at")),
        opened_at,
        closed_at,
        duration: closed_at.unwrap_or(now).saturating_duration_since(opened_at),
        failed_checks: details
            .and_then(|details| details.failed_checks)
            .and_then(|count| count.try_into().ok()),
        http_status: details
            .and_then(|details| details.http_status)
            .and_then(|status| status.try_into().ok())
            .or_else(|| payload_number(payload, "http_status")),
        phases: details.map(list_phases).unwrap_or_default(),
        link: build_link(event, public_url),
        note,
    }
}

fn build_link(event: &EventView<'_>, public_url: Option<&str>) -> Option<String> {
    let url = public_url?;
    Some(match (event.incident_id, event.site_id, event.event.split('.').next()) {
        (Some(incident), ..) => format!("{url}/incidents/{incident}"),
        (None, Some(site), _) => format!("{url}/sites/{site}"),
        (None, None, Some("channel")) => format!("{url}/channels"),
        _ => format!("{url}/regions"),
    })
}

fn list_phases(details: &OutageDetails) -> Vec<(&'static str, u64)> {
    let phases = [
        ("DNS", details.dns_us),
        ("connect", details.connect_us),
        ("TLS", details.tls_us),
        ("first byte", details.first_byte_us),
        ("transfer", details.transfer_us),
    ];
    let measured = |(name, micros): (&'static str, Option<i32>)| Some((name, u64::try_from(micros?).ok()?));
    phases.into_iter().filter_map(measured).filter(|(_, micros)| *micros > 0).collect()
}

/// A cause as people say it.
fn describe_cause(cause: Cause) -> String {
    match cause {
        Cause::Dns => "name not resolved".to_owned(),
        Cause::Connect => "no connection".to_owned(),
        Cause::Tls => "TLS failed".to_owned(),
        Cause::Status => "unexpected status".to_owned(),
        Cause::Body => "body not as expected".to_owned(),
        other => other.as_str().replace('_', " "),
    }
}

/// Frequencies over `items`, most frequent first, equal ones by name.
fn count_items(items: &[Item]) -> Counts {
    let count = |names: &mut dyn Iterator<Item = String>| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        names.for_each(|name| *counts.entry(name).or_default() += 1);
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
        counts
    };
    Counts {
        causes: count(
            &mut items.iter().filter(|item| item.closed_at.is_none()).filter_map(|item| item.cause.clone()),
        ),
        regions: count(&mut items.iter().flat_map(|item| item.regions.iter().cloned())),
        tags: count(&mut items.iter().flat_map(|item| item.tags.iter().cloned())),
    }
}

/// The verdict and the count: `DOWN 42 sites with tag shop: connection refused (31), timeout (11)`.
fn build_title(purpose: Purpose, items: &[Item]) -> String {
    let prefix = match purpose {
        Purpose::Test => "TEST ",
        Purpose::Reminder => "STILL ",
        _ => "",
    };
    if let [item] = items {
        return format!("{prefix}{}", describe_item(item));
    }
    let mut verdicts: BTreeMap<Verdict, Vec<&Item>> = BTreeMap::new();
    for item in items {
        verdicts.entry(item.verdict).or_default().push(item);
    }
    let parts: Vec<String> = verdicts
        .iter()
        .map(|(verdict, items)| match items.as_slice() {
            [item] => format!("{} {}", verdict.as_word(), item.name),
            items => format!("{} {}", verdict.as_word(), describe_count(items.len(), noun_of(*verdict))),
        })
        .collect();
    let mut title = format!("{prefix}{}", parts.join(", "));
    if let Some(tag) = find_common_tag(items) {
        title.push_str(&format!(" with tag {tag}"));
    }
    let causes: Vec<String> =
        count_items(items).causes.iter().take(3).map(|(cause, count)| format!("{cause} ({count})")).collect();
    if !causes.is_empty() {
        title.push_str(&format!(": {}", causes.join(", ")));
    }
    title
}

fn noun_of(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Silent | Verdict::Back => "region",
        Verdict::Failing | Verdict::Working => "channel",
        Verdict::Warns | Verdict::WarningOver => "warning",
        _ => "site",
    }
}

fn find_common_tag(items: &[Item]) -> Option<&String> {
    items.first()?.tags.iter().find(|tag| items.iter().all(|item| item.tags.contains(tag)))
}

/// All items as CSV (RFC 4180).
fn write_csv(items: &[Item]) -> String {
    let mut csv = "verdict,name,url,cause,explanation,regions,opened_at,closed_at,tags\r\n".to_owned();
    for item in items {
        let time = |at: Option<Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
        let fields = [
            item.verdict.as_word().to_owned(),
            item.name.clone(),
            item.url.clone().unwrap_or_default(),
            item.cause.clone().unwrap_or_default(),
            item.explanation.clone().unwrap_or_default(),
            item.regions.join(" "),
            time(Some(item.opened_at)),
            time(item.closed_at),
            item.tags.join(" "),
        ];
        csv.push_str(&fields.map(|field| quote_csv(&field)).join(","));
        csv.push_str("\r\n");
    }
    csv
}

/// A field of CSV. A spreadsheet takes a text that begins with one of these characters for a formula.
fn quote_csv(field: &str) -> String {
    let guard = if field.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    format!("\"{guard}{}\"", field.replace('"', "\"\""))
}

/// A message about an event as it was recorded, to repeat it to a program that forgets: with the same
/// labels as the message that told of it.
pub(crate) fn compose_repetition(
    event: &FiringEvent,
    installation: InstallationId,
    public_url: Option<&str>,
    now: Timestamp,
) -> Message {
    let verdict = Verdict::of_event(&event.event, &event.payload);
    let item = build_item(&EventView::of_firing(event), verdict, None, None, public_url, now);
    Message {
        id: Uuid::now_v7(),
        purpose: Purpose::Alert,
        severity: verdict.severity(),
        title: describe_item(&item),
        notes: Vec::new(),
        link: item.link.clone(),
        items: vec![item],
        hidden_items: 0,
        csv: None,
        counts: Counts::default(),
        composed_at: now,
        is_repeat: false,
        thread: None,
        thread_ref: None,
        receiver_ref: None,
        body: None,
        event: Some(ProgramEvent {
            name: event.event.clone(),
            at: event.recorded_at.into(),
            dedup_key: format!("{installation}/{}", event.subject),
            is_end: event.is_end,
            data: event.payload.0.clone(),
        }),
    }
}

/// The event for programs: its payload with what is known only now.
fn build_event(told: &PlannedItem<'_>, context: &Context<'_>) -> ProgramEvent {
    let notice = told.notice;
    let mut data = notice.payload.0.clone();
    let details = notice.incident_id.and_then(|id| context.details.get(&id));
    if let Some(fields) = data.as_object_mut() {
        if notice.incident_id.is_some() {
            fields
                .insert("failed_checks".to_owned(), json!(details.and_then(|details| details.failed_checks)));
        }
        if let Some(link) = build_link(&EventView::of_notice(notice), context.public_url.as_deref()) {
            fields.insert("link".to_owned(), json!(link));
        }
    }
    let installation = context.installation;
    ProgramEvent {
        name: notice.event.clone(),
        at: notice.recorded_at.into(),
        dedup_key: format!("{installation}/{}", notice.subject),
        is_end: notice.is_end,
        data,
    }
}

#[cfg(test)]
mod tests {
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
            attempted: None,
        };
        PlannedMessage {
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
        static DETAILS: std::sync::LazyLock<HashMap<i64, OutageDetails>> =
            std::sync::LazyLock::new(HashMap::new);
        Context {
            now: "2025-11-27T12:10:00Z".parse().unwrap(),
            public_url: Some("https://picket.example".to_owned()),
            installation: Uuid::nil().into(),
            details: &DETAILS,
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
}
