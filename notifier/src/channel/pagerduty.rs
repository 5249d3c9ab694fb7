//! PagerDuty: Events API v2. The key of an event is ours, so that a repeated one changes nothing.

use picket_proto::{ValidationError, http_options::SecretRef, validation::sanitize_text};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    receiver::{HttpRequest, Keys, Receiver, Unsendable},
    settings::{check_api_url, check_secret, join_url},
};
use crate::{
    message::{Message, Purpose, Severity},
    text::{Layout, Plain, cut_text, title_line},
};

const API_URL: &str = "https://events.pagerduty.com";
/// Characters of a summary, and of a key.
const MAX_SUMMARY_CHARS: usize = 1_024;
const MAX_KEY_CHARS: usize = 255;
/// Characters of the details; the limit of a whole event is 512 KB.
const MAX_DETAILS_CHARS: usize = 10_000;

/// Settings of a service in PagerDuty.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PagerdutySettings {
    /// Integration key of the service.
    routing_key: SecretRef,
    /// `https://events.eu.pagerduty.com` in Europe.
    api_url: Option<String>,
}

/// Key of what `message` is about; the same when it ends.
pub(super) fn alert_key(message: &Message) -> String {
    match &message.event {
        Some(event) => event.dedup_key.clone(),
        None => format!("picket/{}", message.thread.unwrap_or(message.id)),
    }
}

/// True if `message` ends what an earlier one began.
pub(super) fn is_end(message: &Message) -> bool {
    message.event.as_ref().map_or(message.severity == Severity::Resolved, |event| event.is_end)
}

impl PagerdutySettings {
    fn render_event(&self, message: &Message, routing_key: &str, is_end: bool) -> Value {
        let count = |text: &str| text.chars().count();
        let key = cut_text(&alert_key(message), MAX_KEY_CHARS, &count);
        if is_end {
            return json!({ "routing_key": routing_key, "event_action": "resolve", "dedup_key": key });
        }
        if message.purpose == Purpose::Acknowledgement {
            return json!({ "routing_key": routing_key, "event_action": "acknowledge", "dedup_key": key });
        }
        let item = message.items.first();
        let details = Layout::new(message, &Plain).fit_body(MAX_DETAILS_CHARS, count);
        let mut event = json!({
            "routing_key": routing_key,
            "event_action": "trigger",
            "dedup_key": key,
            "client": "Picket",
            "payload": {
                "summary": cut_text(&title_line(message), MAX_SUMMARY_CHARS, &count),
                "source": sanitize_text(item.map_or("picket", |item| &item.name), MAX_KEY_CHARS),
                "severity": match message.severity {
                    Severity::Critical => "critical",
                    Severity::Warning => "warning",
                    Severity::Info | Severity::Resolved => "info",
                },
                "timestamp": item.map_or(message.composed_at, |item| item.opened_at),
                "custom_details": { "text": details },
            },
        });
        if let Some(link) = &message.link {
            event["client_url"] = json!(link);
            event["links"] = json!([{ "href": link, "text": "Open in Picket" }]);
        }
        event
    }
}

impl Receiver for PagerdutySettings {
    fn check(&self) -> Result<(), ValidationError> {
        check_secret("routing_key", &self.routing_key)?;
        check_api_url(self.api_url.as_deref())
    }

    fn render(&self, message: &Message, keys: &Keys<'_>) -> Result<Vec<HttpRequest>, Unsendable> {
        let url = join_url(self.api_url.as_deref().unwrap_or(API_URL), &["v2", "enqueue"])?;
        let key = keys.value(&self.routing_key, &url)?;
        let request = |is_end| {
            HttpRequest::post_json(url.clone(), &self.render_event(message, key.expose_text(), is_end))
        };
        Ok(match message.purpose {
            // A test leaves nothing open.
            Purpose::Test => vec![request(false), request(true)],
            _ => vec![request(is_end(message))],
        })
    }
}

#[cfg(test)]
mod tests {
    use picket_proto::ChannelKind;

    use super::*;
    use crate::{
        answer::Answer,
        attempt::AttemptOutcome,
        channel::tests::{Rendered, hostile_messages, long_messages, parse},
        samples,
    };

    fn settings() -> Value {
        json!({ "routing_key": { "secret": "token" } })
    }

    #[test]
    fn an_opening_and_its_closing_have_one_key() {
        let opened = Rendered::of(ChannelKind::Pagerduty, &settings(), &samples::down()).json();
        let closed = Rendered::of(ChannelKind::Pagerduty, &settings(), &samples::up()).json();

        assert_eq!(
            (&opened["event_action"], &closed["event_action"]),
            (&json!("trigger"), &json!("resolve"))
        );
        assert_eq!(opened["dedup_key"], closed["dedup_key"]);
        assert!(opened["dedup_key"].as_str().unwrap().starts_with("picket/"));
    }

    #[test]
    fn an_acknowledgement_has_the_key_of_its_opening() {
        let opened = Rendered::of(ChannelKind::Pagerduty, &settings(), &samples::down()).json();
        let acknowledged =
            Rendered::of(ChannelKind::Pagerduty, &settings(), &samples::acknowledgement()).json();

        let expected = json!({
            "routing_key": opened["routing_key"], "event_action": "acknowledge", "dedup_key": opened["dedup_key"],
        });
        assert_eq!(acknowledged, expected);
    }

    #[test]
    fn every_event_keeps_the_limits() {
        for message in hostile_messages().into_iter().chain(long_messages()) {
            let event = Rendered::of(ChannelKind::Pagerduty, &settings(), &message).json();
            let length = |value: &Value| value.as_str().unwrap().chars().count();
            assert!((1..=MAX_SUMMARY_CHARS).contains(&length(&event["payload"]["summary"])));
            assert!(length(&event["dedup_key"]) <= MAX_KEY_CHARS);
            assert!(length(&event["payload"]["source"]) <= MAX_KEY_CHARS);
        }
    }

    #[test]
    fn recorded_answers_have_their_consequence() {
        let settings = parse(ChannelKind::Pagerduty, &settings()).unwrap();
        let read = |status, body: Value| {
            settings.http().receiver.read_answer(&Answer::of_json(status, &body)).outcome
        };

        let accepted = json!({"status": "success", "message": "Event processed", "dedup_key": "x"});
        assert_eq!(read(202, accepted), AttemptOutcome::Delivered { receiver_ref: None });
        let invalid = json!({"status": "invalid event", "message": "Event object is invalid",
            "errors": ["Length of 'routing_key' is incorrect (should be 32 characters)"]});
        assert_eq!(read(400, invalid), AttemptOutcome::Refused);
        let retry = AttemptOutcome::retry(None, false);
        assert_eq!(read(429, json!({"status": "throttle exceeded"})), retry);
    }
}
