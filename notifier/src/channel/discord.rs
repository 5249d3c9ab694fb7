//! Discord: webhooks with one embed.

use std::time::Duration;

use picket_proto::{Timestamp, ValidationError, http_options::SecretRef, nested_object::HIDDEN_VALUE};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    receiver::{HttpRequest, Keys, Receiver, Unsendable},
    settings::{check_secret, check_text, field},
};
use crate::{
    answer::{Answer, seconds_to_duration},
    attempt::{Attempt, AttemptOutcome},
    message::{Message, Severity},
    text::{Layout, Markup, count_utf16, cut_text, deserves_mention, title_line},
};

/// Length of the title and of the description of an embed.
const MAX_TITLE: usize = 256;
const MAX_DESCRIPTION: usize = 4_096;
/// A larger delay in an answer's body is one in milliseconds: some of Discord's answers have these
/// although seconds are documented (discord-api-docs 4722).
const MAX_DELAY_SECONDS: f64 = 600.0;

/// Settings of a channel in Discord.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiscordSettings {
    /// The webhook.
    url: SecretRef,
    /// Name of the sender in place of the webhook's.
    username: Option<String>,
    /// Mentioned if something is down: `everyone`, `here`, `role:ID` or `user:ID`.
    mention: Option<String>,
}

/// Content with a mention, and the mentions that have an effect.
fn format_mention(mention: &str) -> Option<(String, Value)> {
    let is_id = |id: &str| (1..=20).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_digit());
    match mention.split_once(':') {
        None if matches!(mention, "everyone" | "here") => {
            Some((format!("@{mention}"), json!({ "parse": ["everyone"] })))
        }
        Some(("role", id)) if is_id(id) => Some((format!("<@&{id}>"), json!({ "parse": [], "roles": [id] }))),
        Some(("user", id)) if is_id(id) => Some((format!("<@{id}>"), json!({ "parse": [], "users": [id] }))),
        _ => None,
    }
}

/// Markdown of Discord.
struct Markdown;

impl Markup for Markdown {
    fn escape(&self, text: &str) -> String {
        let mut escaped = String::with_capacity(text.len());
        for character in text.chars() {
            if matches!(
                character,
                '\\' | '*' | '_' | '~' | '`' | '|' | '<' | '>' | '#' | '[' | ']' | '(' | ')' | '@'
            ) {
                escaped.push('\\');
            }
            escaped.push(character);
        }
        escaped
    }

    fn bold(&self, marked: &str) -> String {
        format!("**{marked}**")
    }

    fn link(&self, label: &str, url: &str) -> String {
        let target = url.replace('(', "%28").replace(')', "%29");
        match label == url {
            true => format!("<{}>", url.replace('>', "%3E")),
            false => format!("[{}](<{}>)", self.escape(label), target.replace('>', "%3E")),
        }
    }

    fn time(&self, at: Timestamp) -> String {
        format!("<t:{}:f>", at.as_millis().div_euclid(1_000))
    }
}

impl Receiver for DiscordSettings {
    fn check(&self) -> Result<(), ValidationError> {
        check_secret("url", &self.url)?;
        if self.mention.as_deref().is_some_and(|mention| format_mention(mention).is_none()) {
            let allowed = "everyone, here, role:ID or user:ID";
            return Err(ValidationError::new(field("mention"), HIDDEN_VALUE, allowed));
        }
        self.username.as_deref().map_or(Ok(()), |name| check_text("username", name))
    }

    fn render(&self, message: &Message, keys: &Keys<'_>) -> Result<Vec<HttpRequest>, Unsendable> {
        let mut url = keys.secret_url(&self.url)?;
        // The answer then comes after the message was stored, and has its number.
        url.query_pairs_mut().append_pair("wait", "true");
        let title = cut_text(&title_line(message), MAX_TITLE, &|text| count_utf16(&Markdown.escape(text)));
        let mut embed = json!({
            "title": Markdown.escape(&title),
            "description": Layout::new(message, &Markdown).without_link().fit_body(MAX_DESCRIPTION, count_utf16),
            "color": match message.severity {
                Severity::Critical => 0x00d3_2f2f,
                Severity::Warning => 0x00f9_a825,
                Severity::Info => 0x0060_7d8b,
                Severity::Resolved => 0x002e_7d32,
            },
            "timestamp": message.composed_at,
        });
        if let Some(link) = &message.link {
            embed["url"] = json!(link);
        }
        let mut body = json!({ "embeds": [embed], "allowed_mentions": { "parse": [] } });
        // Texts of websites are in the embed, where a mention has no effect.
        let mention = self.mention.as_deref().filter(|_| deserves_mention(message));
        if let Some((content, allowed)) = mention.and_then(format_mention) {
            (body["content"], body["allowed_mentions"]) = (json!(content), allowed);
        }
        if let Some(username) = &self.username {
            body["username"] = json!(username);
        }
        Ok(vec![HttpRequest::post_json(url, &body)])
    }

    fn read_answer(&self, answer: &Answer) -> Attempt {
        let said = answer.json();
        if (200..300).contains(&answer.status) {
            let receiver_ref = said.get("id").map(|id| json!({ "message_id": id }));
            return answer.end_with(AttemptOutcome::Delivered { receiver_ref });
        }
        let in_body = said["retry_after"].as_f64().and_then(read_delay);
        answer.judge_with_delay(answer.retry_after().or(in_body))
    }
}

/// Delay of an answer's body, in seconds or in milliseconds.
fn read_delay(number: f64) -> Option<Duration> {
    seconds_to_duration(if number > MAX_DELAY_SECONDS { number / 1_000.0 } else { number })
}

#[cfg(test)]
mod tests {
    use picket_proto::ChannelKind;

    use super::*;
    use crate::{
        channel::tests::{Rendered, hostile_messages, long_messages, parse},
        samples,
    };

    fn settings() -> Value {
        json!({ "url": { "secret": "discord" } })
    }

    #[test]
    fn every_message_keeps_the_limits_of_an_embed_and_mentions_no_user() {
        for message in hostile_messages().into_iter().chain(long_messages()) {
            let body = Rendered::of(ChannelKind::Discord, &settings(), &message).json();
            let embed = &body["embeds"][0];
            let (title, description) =
                (embed["title"].as_str().unwrap(), embed["description"].as_str().unwrap());
            assert!(!title.is_empty() && count_utf16(title) <= MAX_TITLE, "{title}");
            assert!(count_utf16(description) <= MAX_DESCRIPTION, "{description}");
            assert_eq!(body["allowed_mentions"], json!({ "parse": [] }));
            assert!(!description.contains("<@&1>") || description.contains("\\<"), "{description}");
            assert!(!description.contains("**b**"), "{description}");
        }
    }

    #[test]
    fn people_are_mentioned_when_something_is_down_and_in_no_test() {
        for (mention, content, allowed) in [
            ("everyone", "@everyone", json!({ "parse": ["everyone"] })),
            ("role:42", "<@&42>", json!({ "parse": [], "roles": ["42"] })),
            ("user:42", "<@42>", json!({ "parse": [], "users": ["42"] })),
        ] {
            let settings = json!({ "url": { "secret": "discord" }, "mention": mention });
            let down = Rendered::of(ChannelKind::Discord, &settings, &samples::down()).json();
            assert_eq!((&down["content"], &down["allowed_mentions"]), (&json!(content), &allowed));
            for message in [samples::up(), samples::test()] {
                let other = Rendered::of(ChannelKind::Discord, &settings, &message).json();
                assert_eq!(
                    (&other["content"], &other["allowed_mentions"]),
                    (&Value::Null, &json!({ "parse": [] }))
                );
            }
        }
        for mention in ["all", "role:x", "role:", "user:<@1>"] {
            let settings = json!({ "url": { "secret": "discord" }, "mention": mention });
            assert_eq!(parse(ChannelKind::Discord, &settings).unwrap_err().field, "settings.mention");
        }
    }

    #[test]
    fn a_delay_is_read_from_the_header_first_and_then_in_seconds_or_milliseconds() {
        let settings = parse(ChannelKind::Discord, &settings()).unwrap();
        let delay = |answer: &Answer| match settings.http().receiver.read_answer(answer).outcome {
            AttemptOutcome::Retry { retry_after, is_channel_failing: false, .. } => retry_after,
            other => panic!("{other:?}"),
        };
        let limited = |number: f64| {
            Answer::of_json(429, &json!({"message": "You are being rate limited.", "retry_after": number}))
        };

        assert_eq!(delay(&limited(0.5)), Some(Duration::from_millis(500)));
        assert_eq!(delay(&limited(64.57)), Some(Duration::from_millis(64_570)));
        assert_eq!(delay(&limited(6_457.0)), Some(Duration::from_millis(6_457)));
        assert_eq!(delay(&limited(1e12)), Some(Duration::from_secs(3_600)));
        assert_eq!(delay(&limited(6_457.0).with_header("retry-after", "7")), Some(Duration::from_secs(7)));
        assert_eq!(delay(&limited(-1.0)), None);
        let gone = settings.http().receiver.read_answer(&Answer::of_json(404, &json!({"code": 10015})));
        assert_eq!(gone.outcome, AttemptOutcome::retry(None, true));
    }
}
