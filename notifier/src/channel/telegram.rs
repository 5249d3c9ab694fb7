//! Telegram: a bot that sends messages in HTML.

use picket_proto::{ValidationError, http_options::SecretRef};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    receiver::{HttpRequest, Keys, Receiver, Unsendable},
    settings::{check_api_url, check_secret, field, join_url},
};
use crate::{
    answer::{Answer, seconds_to_duration},
    attempt::{Attempt, AttemptOutcome},
    message::Message,
    text::{Html, Layout, count_utf16},
};

const API_URL: &str = "https://api.telegram.org";
/// Length of a message; markup counts here although it does not there.
const MAX_TEXT: usize = 4_096;

/// Parts of descriptions of refusals with status 400 for which the chat is at fault, which people mend.
const CHAT_FAULTS: [&str; 7] = [
    "chat not found",
    "thread not found",
    "TOPIC_CLOSED",
    "not enough rights",
    "have no rights",
    "CHAT_WRITE_FORBIDDEN",
    "PEER_ID_INVALID",
];

/// Settings of a chat in Telegram.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TelegramSettings {
    /// Token of the bot.
    token: SecretRef,
    /// Number of the chat, or `@name` of a public channel.
    chat_id: ChatId,
    /// Number of a topic in a group with topics.
    topic_id: Option<i64>,
    api_url: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "expected the number of a chat, or @name of a public channel")]
enum ChatId {
    Number(i64),
    Name(String),
}

impl ChatId {
    fn to_json(&self) -> Value {
        match self {
            Self::Number(number) => json!(number),
            Self::Name(name) => json!(name),
        }
    }
}

impl Receiver for TelegramSettings {
    fn check(&self) -> Result<(), ValidationError> {
        check_secret("token", &self.token)?;
        check_api_url(self.api_url.as_deref())?;
        let ChatId::Name(name) = &self.chat_id else { return Ok(()) };
        let is_word = |text: &str| {
            (1..=64).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        match name.parse::<i64>().is_ok() || name.strip_prefix('@').is_some_and(is_word) {
            true => Ok(()),
            false => {
                let allowed = "the number of a chat, such as -1001234567890, or @name of a public channel";
                Err(ValidationError::new(field("chat_id"), name, allowed))
            }
        }
    }

    fn render(&self, message: &Message, keys: &Keys<'_>) -> Result<Vec<HttpRequest>, Unsendable> {
        let base = self.api_url.as_deref().unwrap_or(API_URL);
        let token = keys.value(&self.token, &join_url(base, &[])?)?;
        let url = join_url(base, &[&format!("bot{}", token.expose_text()), "sendMessage"])?;
        let mut body = json!({
            "chat_id": self.chat_id.to_json(),
            "text": Layout::new(message, &Html).fit_text(MAX_TEXT, count_utf16, &Html),
            "parse_mode": "HTML",
            "link_preview_options": { "is_disabled": true },
        });
        if let Some(topic) = self.topic_id {
            body["message_thread_id"] = json!(topic);
        }
        if let Some(first) = message.thread_ref.as_ref().and_then(|thread| thread.get("message_id")) {
            body["reply_parameters"] = json!({ "message_id": first, "allow_sending_without_reply": true });
        }
        Ok(vec![HttpRequest::post_json(url, &body)])
    }

    fn read_answer(&self, answer: &Answer) -> Attempt {
        let said = answer.json();
        let parameters = &said["parameters"];
        if let Some(moved) = parameters["migrate_to_chat_id"].as_i64() {
            return answer.end_with(AttemptOutcome::Moved { settings: json!({ "chat_id": moved }) });
        }
        let description = said["description"].as_str().unwrap_or_default();
        match answer.status {
            200 if said["ok"] == true => {
                let number = said["result"].get("message_id");
                let receiver_ref = number.map(|number| json!({ "message_id": number }));
                answer.end_with(AttemptOutcome::Delivered { receiver_ref })
            }
            200 => answer.retry_later(false),
            // The channel and not the message is at fault.
            400 if CHAT_FAULTS.iter().any(|fault| description.contains(fault)) => answer.retry_later(true),
            _ => {
                let in_body = parameters["retry_after"].as_f64().and_then(seconds_to_duration);
                answer.judge_with_delay(answer.retry_after().or(in_body))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use picket_proto::ChannelKind;

    use super::*;
    use crate::channel::tests::{Rendered, hostile_messages, long_messages, parse};

    fn settings() -> Value {
        json!({ "token": { "secret": "token" }, "chat_id": -100_123 })
    }

    #[test]
    fn every_message_is_valid_html_of_at_most_4096_characters() {
        for message in hostile_messages().into_iter().chain(long_messages()) {
            let body = Rendered::of(ChannelKind::Telegram, &settings(), &message).json();
            let text = body["text"].as_str().unwrap();
            assert!((1..=MAX_TEXT).contains(&count_utf16(text)), "{}", text.len());
            let wrapped = format!("<p>{}</p>", text.replace('\n', " "));
            picket_harness::markup::parse_markup(&wrapped).unwrap();
        }
    }

    #[test]
    fn a_group_that_became_a_supergroup_gives_its_new_number() {
        let settings = parse(ChannelKind::Telegram, &settings()).unwrap();
        let recorded = json!({"ok": false, "error_code": 400, "parameters": {"migrate_to_chat_id": -1_001_234_567_890_i64},
            "description": "Bad Request: group chat was upgraded to a supergroup chat"});

        let attempt = settings.http().receiver.read_answer(&Answer::of_json(400, &recorded));

        let moved = json!({ "chat_id": -1_001_234_567_890_i64 });
        assert_eq!(attempt.outcome, AttemptOutcome::Moved { settings: moved.clone() });
        let mut changed = self::settings();
        changed["chat_id"] = moved["chat_id"].clone();
        parse(ChannelKind::Telegram, &changed).unwrap();
    }

    #[test]
    fn recorded_answers_have_their_consequence() {
        let settings = parse(ChannelKind::Telegram, &settings()).unwrap();
        let read = |status, body: Value| {
            settings.http().receiver.read_answer(&Answer::of_json(status, &body)).outcome
        };
        let retry = |seconds: Option<u64>, is_channel_failing| {
            AttemptOutcome::retry(seconds.map(Duration::from_secs), is_channel_failing)
        };

        let sent = json!({"ok": true, "result": {"message_id": 42}});
        assert_eq!(
            read(200, sent),
            AttemptOutcome::Delivered { receiver_ref: Some(json!({"message_id": 42})) }
        );
        let limited = json!({"ok": false, "error_code": 429, "description": "Too Many Requests: retry after 31",
            "parameters": {"retry_after": 31}});
        assert_eq!(read(429, limited), retry(Some(31), false));
        let unknown = json!({"ok": false, "error_code": 400, "description": "Bad Request: chat not found"});
        assert_eq!(read(400, unknown), retry(None, true));
        let closed = json!({"ok": false, "error_code": 400, "description": "Bad Request: TOPIC_CLOSED"});
        assert_eq!(read(400, closed), retry(None, true));
        let muted = json!({"ok": false, "error_code": 400,
            "description": "Bad Request: not enough rights to send text messages to the chat"});
        assert_eq!(read(400, muted), retry(None, true));
        let long = json!({"ok": false, "error_code": 400, "description": "Bad Request: message is too long"});
        assert_eq!(read(400, long), AttemptOutcome::Refused);
        let blocked =
            json!({"ok": false, "error_code": 403, "description": "Forbidden: bot was blocked by the user"});
        assert_eq!(read(403, blocked), retry(None, true));
    }
}
