//! Matrix: a message to a room. The number of the notification is the transaction, so that a
//! repeated attempt adds no second message.

use picket_proto::{ValidationError, http_options::SecretRef};
use reqwest::{
    Method,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    receiver::{HttpRequest, Keys, Receiver, Unsendable},
    settings::{check_secret, check_text, field, join_url, parse_url},
};
use crate::{
    answer::{Answer, seconds_to_duration},
    attempt::{Attempt, AttemptOutcome},
    message::Message,
    text::{Html, Layout, Plain},
};

/// Bytes of each of the two texts; an event has at most 64 KiB.
const MAX_TEXT_BYTES: usize = 16 << 10;

/// Settings of a room in Matrix.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MatrixSettings {
    /// The homeserver.
    api_url: String,
    /// Number of the room, such as `!abc:example.com`.
    room_id: String,
    /// Access token.
    token: SecretRef,
}

impl Receiver for MatrixSettings {
    fn check(&self) -> Result<(), ValidationError> {
        parse_url("api_url", &self.api_url)?;
        check_secret("token", &self.token)?;
        check_text("room_id", &self.room_id)?;
        match self.room_id.starts_with('!') {
            true => Ok(()),
            false => {
                let allowed = "the internal id of a room, such as !abc:example.com";
                Err(ValidationError::new(field("room_id"), &self.room_id, allowed))
            }
        }
    }

    fn render(&self, message: &Message, keys: &Keys<'_>) -> Result<Vec<HttpRequest>, Unsendable> {
        let transaction = message.id.to_string();
        let path =
            ["_matrix", "client", "v3", "rooms", &self.room_id, "send", "m.room.message", &transaction];
        let url = join_url(&self.api_url, &path)?;
        let token = keys.value(&self.token, &url)?;
        let html = Layout::new(message, &Html).fit_text(MAX_TEXT_BYTES, str::len, &Html);
        let body = json!({
            "msgtype": "m.text",
            "body": Layout::new(message, &Plain).fit_text(MAX_TEXT_BYTES, str::len, &Plain),
            "format": "org.matrix.custom.html",
            "formatted_body": html.replace('\n', "<br>"),
            // Nobody is mentioned, whatever a name contains.
            "m.mentions": {},
        });
        let mut request = HttpRequest::new(Method::PUT, url);
        request.body = body.to_string().into_bytes();
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(vec![request.with_authorization("Bearer", &token)?])
    }

    fn read_answer(&self, answer: &Answer) -> Attempt {
        let said = answer.json();
        if answer.status == 200 {
            let receiver_ref = said.get("event_id").map(|id| json!({ "event_id": id }));
            return answer.end_with(AttemptOutcome::Delivered { receiver_ref });
        }
        let in_body = said["retry_after_ms"].as_f64().and_then(|ms| seconds_to_duration(ms / 1_000.0));
        answer.judge_with_delay(answer.retry_after().or(in_body))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use picket_proto::ChannelKind;

    use super::*;
    use crate::channel::tests::{Rendered, hostile_messages, long_messages, parse};

    #[test]
    fn each_attempt_at_a_notification_is_the_same_transaction_of_the_room() {
        let settings = json!({"api_url": "https://matrix.example.com", "room_id": "!a/b:example.com", "token": {"secret": "token"}});
        let mut message = crate::samples::down();
        let first = Rendered::of(ChannelKind::Matrix, &settings, &message);
        message.is_repeat = true;
        let second = Rendered::of(ChannelKind::Matrix, &settings, &message);

        assert_eq!(first.url, second.url);
        assert!(
            first.url.contains("/rooms/!a%2Fb:example.com/send/m.room.message/01934a5b-"),
            "{}",
            first.url
        );
        for message in hostile_messages().into_iter().chain(long_messages()) {
            let rendered = Rendered::of(ChannelKind::Matrix, &settings, &message);
            assert!(rendered.body.len() < 60_000 && rendered.json()["m.mentions"] == json!({}));
        }
        let parsed = parse(ChannelKind::Matrix, &settings).unwrap();
        let limited =
            json!({"errcode": "M_LIMIT_EXCEEDED", "error": "Too Many Requests", "retry_after_ms": 1_500});
        let outcome = parsed.http().receiver.read_answer(&Answer::of_json(429, &limited)).outcome;
        let retry_after = Some(Duration::from_millis(1_500));
        assert_eq!(outcome, AttemptOutcome::retry(retry_after, false));
    }
}
