//! Pushover: messages to a person or a group. One of emergency priority is repeated by Pushover
//! until a person acknowledges it, and its receipt is cancelled when the outage ends.

use picket_proto::{ValidationError, http_options::SecretRef};
use serde::Deserialize;
use serde_json::json;

use super::{
    pagerduty::is_end,
    receiver::{HttpRequest, Keys, Receiver, Unsendable},
    settings::{check_api_url, check_secret, check_text, field, join_url},
};
use crate::{
    answer::Answer,
    attempt::{Attempt, AttemptOutcome},
    message::{Message, Purpose, Severity},
    text::{Layout, Plain, cut_text, title_line},
};

const API_URL: &str = "https://api.pushover.net";
/// Characters of the fields of a message.
const MAX_MESSAGE_CHARS: usize = 1_024;
const MAX_TITLE_CHARS: usize = 250;
const MAX_URL_CHARS: usize = 512;
/// Seconds between the repetitions of an emergency, and until they end.
const REPEAT_SECONDS: u32 = 60;
const EXPIRE_SECONDS: u32 = 3_600;

/// Settings of a user or a group of Pushover.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PushoverSettings {
    /// Token of the application.
    token: SecretRef,
    /// Key of the user or the group.
    user: SecretRef,
    /// Priority of sites that are down, from -2 to 2; 2 is an emergency.
    #[serde(default = "default_priority")]
    priority: i8,
    /// Device that receives; all of the user without it.
    device: Option<String>,
    api_url: Option<String>,
}

fn default_priority() -> i8 {
    1
}

impl Receiver for PushoverSettings {
    fn check(&self) -> Result<(), ValidationError> {
        check_api_url(self.api_url.as_deref())?;
        check_secret("token", &self.token)?;
        check_secret("user", &self.user)?;
        self.device.as_deref().map_or(Ok(()), |device| check_text("device", device))?;
        match (-2..=2).contains(&self.priority) {
            true => Ok(()),
            false => Err(ValidationError::new(field("priority"), self.priority, "-2 to 2")),
        }
    }

    fn render(&self, message: &Message, keys: &Keys<'_>) -> Result<Vec<HttpRequest>, Unsendable> {
        let base = self.api_url.as_deref().unwrap_or(API_URL);
        let url = join_url(base, &["1", "messages.json"])?;
        let token = keys.value(&self.token, &url)?;
        let user = keys.value(&self.user, &url)?;
        let count = |text: &str| text.chars().count();
        let link = message.link.as_ref().filter(|link| count(link) <= MAX_URL_CHARS);
        let layout = Layout::new(message, &Plain);
        let layout = if link.is_some() { layout.without_link() } else { layout };
        let text = layout.fit_body(MAX_MESSAGE_CHARS, count);
        let priority = match (message.severity, message.purpose) {
            (_, Purpose::Test) => 0,
            (Severity::Critical, _) => self.priority,
            _ => self.priority.min(0),
        };
        let title = cut_text(&title_line(message), MAX_TITLE_CHARS, &count);
        let mut body = json!({
            "token": token.expose_text(),
            "user": user.expose_text(),
            // A message without a text is refused.
            "message": if text.is_empty() { &title } else { &text },
            "title": title,
            "priority": priority,
            "timestamp": message.composed_at.as_millis().div_euclid(1_000),
        });
        if priority == 2 {
            (body["retry"], body["expire"]) = (json!(REPEAT_SECONDS), json!(EXPIRE_SECONDS));
        }
        if let Some(device) = &self.device {
            body["device"] = json!(device);
        }
        if let Some(link) = link {
            (body["url"], body["url_title"]) = (json!(link), json!("Open in Picket"));
        }
        let receipt = message.thread_ref.as_ref().and_then(|thread| thread["receipt"].as_str());
        let mut requests = Vec::new();
        if let Some(receipt) = receipt.filter(|_| is_end(message)) {
            let url = join_url(base, &["1", "receipts", receipt, "cancel.json"])?;
            requests.push(HttpRequest::post_json(url, &json!({ "token": token.expose_text() })));
        }
        requests.push(HttpRequest::post_json(url, &body));
        Ok(requests)
    }

    fn read_answer(&self, answer: &Answer) -> Attempt {
        let said = answer.json();
        // The key and not the message is at fault, although the status is the same.
        let is_key_refused = ["token", "user"].iter().any(|name| said[name] == "invalid");
        match (answer.status, said.get("receipt")) {
            (200, Some(receipt)) => {
                let receiver_ref = Some(json!({ "receipt": receipt }));
                answer.end_with(AttemptOutcome::Delivered { receiver_ref })
            }
            (400, _) if is_key_refused => answer.retry_later(true),
            _ => answer.judge(),
        }
    }

    fn sends_all(&self) -> bool {
        true
    }

    /// The message counts; a receipt that cannot be cancelled has expired.
    fn combine(&self, mut attempts: Vec<Attempt>) -> Option<Attempt> {
        attempts.pop()
    }
}

#[cfg(test)]
mod tests {
    use picket_proto::ChannelKind;

    use super::*;
    use crate::{
        channel::tests::{Rendered, hostile_messages, long_messages, parse, render_all},
        samples,
    };

    fn settings(priority: i8) -> serde_json::Value {
        json!({ "token": { "secret": "token" }, "user": { "secret": "user" }, "priority": priority })
    }

    #[test]
    fn an_emergency_is_repeated_and_its_receipt_cancelled_at_its_end() {
        let opened = Rendered::of(ChannelKind::Pushover, &settings(2), &samples::down()).json();
        assert_eq!((&opened["priority"], &opened["retry"]), (&json!(2), &json!(REPEAT_SECONDS)));
        let receiver = parse(ChannelKind::Pushover, &settings(2)).unwrap().http().receiver.clone();
        let recorded =
            json!({"status": 1, "receipt": "rLqVuqTRh62UzxtmqiaLzQmVcPgiCy", "request": "5042853c"});
        let answered = receiver.read_answer(&Answer::of_json(200, &recorded)).outcome;
        let AttemptOutcome::Delivered { receiver_ref: Some(receiver_ref) } = answered else { panic!() };

        let mut closing = samples::up();
        closing.thread_ref = Some(receiver_ref);
        let closed = render_all(ChannelKind::Pushover, &settings(2), &closing);

        let cancelled = format!("{API_URL}/1/receipts/rLqVuqTRh62UzxtmqiaLzQmVcPgiCy/cancel.json");
        assert_eq!((closed.len(), closed[0].url.as_str()), (2, cancelled.as_str()));
        assert_eq!(closed[1].json()["priority"], 0);
    }

    #[test]
    fn a_key_that_is_refused_is_tried_again_and_the_channel_fails() {
        let receiver = parse(ChannelKind::Pushover, &settings(1)).unwrap().http().receiver.clone();
        let read = |body: serde_json::Value| receiver.read_answer(&Answer::of_json(400, &body)).outcome;

        let token = json!({"token": "invalid", "errors": ["application token is invalid"], "status": 0});
        assert_eq!(read(token), AttemptOutcome::retry(None, true));
        let user = json!({"user": "invalid", "errors": ["user identifier is not a valid user"], "status": 0});
        assert_eq!(read(user), AttemptOutcome::retry(None, true));
        let message =
            json!({"message": "cannot be blank", "errors": ["message cannot be blank"], "status": 0});
        assert_eq!(read(message), AttemptOutcome::Refused);
    }

    #[test]
    fn every_message_keeps_the_limits_and_a_test_is_no_emergency() {
        for message in hostile_messages().into_iter().chain(long_messages()) {
            let body = Rendered::of(ChannelKind::Pushover, &settings(1), &message).json();
            let length = |name: &str| body[name].as_str().unwrap().chars().count();
            assert!((1..=MAX_MESSAGE_CHARS).contains(&length("message")));
            assert!((1..=MAX_TITLE_CHARS).contains(&length("title")));
        }
        assert_eq!(Rendered::of(ChannelKind::Pushover, &settings(2), &samples::test()).json()["priority"], 0);
    }
}
