//! Composes the message of a decision from what is true now.

mod csv;
#[cfg(test)]
mod tests;
mod title;

use std::collections::HashMap;

use picket_proto::{Audience, Cause, InstallationId, Timestamp};
use picket_store::lanes::{FiringEvent, LaneNotice, OutageDetails};
use serde_json::{Value, json};
use uuid::Uuid;

use self::{
    csv::write_csv,
    title::{build_title, count_items},
};
use crate::{
    decide::{PlannedItem, PlannedMessage, payload_text},
    message::{Counts, Item, Message, ProgramEvent, Purpose, Severity, Verdict},
    text::describe_item,
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
    /// Events in full by transition, of which the notices that are shown may have a part only.
    pub(crate) events: &'a HashMap<i64, Value>,
    /// First message about the same subject, and what the receiver gave for it.
    pub(crate) thread: Option<(Uuid, Option<Value>)>,
    /// True if the end of an earlier attempt is unknown.
    pub(crate) is_repeat: bool,
    /// What an earlier attempt left.
    pub(crate) receiver_ref: Option<Value>,
}

/// The notices whose events the message will show.
pub(crate) fn list_shown_notices<'a>(outgoing: &PlannedMessage<'a>) -> Vec<&'a LaneNotice> {
    order_told(outgoing).into_iter().take(SHOWN_ITEMS).map(|told| told.notice).collect()
}

/// The incident that the line of a notice will show.
pub(crate) fn shown_incident(notice: &LaneNotice) -> Option<i64> {
    EventView::of_notice(notice).incident_id
}

/// Composes the message.
pub(crate) fn compose(outgoing: &PlannedMessage<'_>, context: &Context<'_>) -> Message {
    let told = order_told(outgoing);
    let describe = |told: &&PlannedItem<'_>| {
        let mut event = EventView::of_notice(told.notice);
        // Of a site that has become steady the last change is shown, whose event is there in full.
        if told.notice.last_change.is_none() {
            event.payload = context.events.get(&told.notice.transition_id).unwrap_or(event.payload);
        }
        let details = event.incident_id.and_then(|id| context.details.get(&id));
        let mut item = build_item(&event, told.verdict, details, context.public_url.as_deref(), context.now);
        // The end is told by the notice of the beginning.
        if told.verdict == Verdict::WasDown
            && item.closed_at.is_none()
            && let Some(ended) = told.notice.other_recorded_at.map(Timestamp::from)
        {
            item.closed_at = Some(ended);
            item.duration = ended.saturating_duration_since(item.opened_at);
        }
        Item { note: told.note.clone(), headline: told.headline.clone(), lasting: told.lasting, ..item }
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
        let own = Self {
            event: &notice.event,
            subject: &notice.subject,
            is_end: notice.is_end,
            incident_id: notice.incident_id,
            site_id: notice.site_id,
            payload: &notice.payload,
            recorded_at: notice.recorded_at.into(),
        };
        // A site that has become steady is told as it is, and not as it was when it began to flap.
        match notice.last_change.as_ref().map(|payload| &payload.0) {
            Some(payload) => Self {
                is_end: !notice.is_site_down,
                incident_id: payload_number(payload, "incident_id").or(notice.incident_id),
                payload,
                recorded_at: notice.site_changed_at.unwrap_or(notice.recorded_at).into(),
                ..own
            },
            None => own,
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
                None if event.event.starts_with("ledger.") => "checks".to_owned(),
                None => event.subject.to_owned(),
            }
        }),
        url: text("url"),
        tags: payload_list(payload, "tags"),
        incident_id: event.incident_id,
        cause: cause_code.map(describe_cause).or_else(|| text("kind").map(|kind| kind.replace('_', " "))),
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
        note: None,
        headline: None,
        lasting: None,
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

/// A message about an event as it was recorded, to repeat it to a program that forgets: with the same
/// labels as the message that told of it.
pub(crate) fn compose_repetition(
    event: &FiringEvent,
    installation: InstallationId,
    public_url: Option<&str>,
    now: Timestamp,
) -> Message {
    let verdict = Verdict::of_event(&event.event, &event.payload);
    let item = build_item(&EventView::of_firing(event), verdict, None, public_url, now);
    let title = describe_item(&item);
    let event = ProgramEvent {
        name: event.event.clone(),
        at: event.recorded_at.into(),
        dedup_key: format!("{installation}/{}", event.subject),
        is_end: event.is_end,
        data: event.payload.0.clone(),
    };
    Message {
        link: item.link.clone(),
        items: vec![item],
        event: Some(event),
        ..Message::new(Uuid::now_v7(), Purpose::Alert, verdict.severity(), title, now)
    }
}

/// The message with which a person tries a channel out.
pub(crate) fn compose_test(id: Uuid, channel: &str, audience: Audience, now: Timestamp) -> Message {
    let title = format!("TEST of channel {channel}: nothing is wrong");
    let event = (audience == Audience::Programs).then(|| ProgramEvent {
        name: "channel.test".to_owned(),
        at: now,
        dedup_key: format!("test/channel.{channel}.test.{id}"),
        is_end: false,
        data: json!({"v": 1, "id": id, "event": "channel.test", "channel": channel, "at": now}),
    });
    let note = Some("somebody tries this channel out".to_owned());
    Message {
        items: vec![Item { note, ..Item::new(Verdict::Test, channel.to_owned(), now) }],
        event,
        ..Message::new(id, Purpose::Test, Severity::Info, title, now)
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
