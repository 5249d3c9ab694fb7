//! Slack: incoming webhooks and `chat.postMessage`. Mattermost and Rocket.Chat have incoming
//! webhooks of nearly the same form.

use picket_proto::{Timestamp, ValidationError, http_options::SecretRef, nested_object::HIDDEN_VALUE};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    receiver::{HttpRequest, Keys, Receiver, Unsendable},
    settings::{check_api_url, check_secret, check_text, field, join_url},
};
use crate::{
    answer::Answer,
    attempt::{Attempt, AttemptOutcome},
    message::Message,
    text::{Layout, Markup, deserves_mention, format_time, split_lines},
};

const API_URL: &str = "https://slack.com/api";
/// Characters of a section's text.
const MAX_SECTION_CHARS: usize = 3_000;
/// Characters of a whole message: four sections of a readable length.
const MAX_BODY_CHARS: usize = 9_000;
/// Characters of a message to Mattermost (16,383) and Rocket.Chat (5,000 by default).
const MAX_TEXT_CHARS: usize = 4_000;

/// Settings of a channel in Slack, Mattermost or Rocket.Chat.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SlackSettings {
    /// Incoming webhook.
    url: Option<SecretRef>,
    /// Token of a bot, in place of a webhook.
    token: Option<SecretRef>,
    /// Conversation to post to with a token.
    channel: Option<String>,
    /// Product that receives the webhook.
    #[serde(default)]
    flavor: Flavor,
    /// Mentioned if something is down: `channel`, `here`, or in Slack the id of a user or a group.
    mention: Option<String>,
    api_url: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Flavor {
    #[default]
    Slack,
    Mattermost,
    Rocketchat,
}

/// Markup of Slack.
struct Mrkdwn;

impl Markup for Mrkdwn {
    fn escape(&self, text: &str) -> String {
        text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
    }

    fn bold(&self, marked: &str) -> String {
        format!("*{marked}*")
    }

    fn link(&self, label: &str, url: &str) -> String {
        let target = self.escape(url).replace('|', "%7C");
        match label == url {
            true => format!("<{target}>"),
            false => format!("<{target}|{}>", self.escape(label)),
        }
    }

    fn time(&self, at: Timestamp) -> String {
        let seconds = at.as_millis().div_euclid(1_000);
        format!("<!date^{seconds}^{{date_short_pretty}} {{time_secs}}|{}>", format_time(at))
    }
}

/// Markdown of Mattermost and Rocket.Chat.
struct ChatMarkdown;

impl Markup for ChatMarkdown {
    fn escape(&self, text: &str) -> String {
        let mut escaped = String::with_capacity(text.len());
        for character in text.chars() {
            if matches!(
                character,
                '\\' | '`' | '*' | '_' | '~' | '[' | ']' | '(' | ')' | '<' | '>' | '#' | '|' | '!'
            ) {
                escaped.push('\\');
            }
            escaped.push(character);
            // A word joiner: a name after the sign is no mention then.
            if character == '@' {
                escaped.push('\u{2060}');
            }
        }
        escaped
    }

    fn bold(&self, marked: &str) -> String {
        format!("**{marked}**")
    }

    fn link(&self, label: &str, url: &str) -> String {
        let target = url.replace('(', "%28").replace(')', "%29");
        format!("[{}]({target})", self.escape(label))
    }
}

impl SlackSettings {
    /// The mention, if it can be one.
    fn format_mention(&self, mention: &str) -> Option<String> {
        let is_id = || mention.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
        match (self.flavor, mention) {
            (Flavor::Slack, "channel" | "here") => Some(format!("<!{mention}>")),
            (Flavor::Slack, id) if id.starts_with(['U', 'W']) && is_id() => Some(format!("<@{id}>")),
            (Flavor::Slack, id) if id.starts_with('S') && is_id() => Some(format!("<!subteam^{id}>")),
            (Flavor::Rocketchat, "channel") => Some("@all".to_owned()),
            (Flavor::Mattermost | Flavor::Rocketchat, "channel" | "here") => Some(format!("@{mention}")),
            _ => None,
        }
    }

    fn render_body(&self, message: &Message) -> Value {
        let count = |text: &str| text.chars().count();
        let mention = self.mention.as_deref().filter(|_| deserves_mention(message));
        let mention = mention.and_then(|mention| self.format_mention(mention));
        let mention = mention.map(|mention| format!("{mention} ")).unwrap_or_default();
        if self.flavor != Flavor::Slack {
            let text = Layout::new(message, &ChatMarkdown).fit_text(MAX_TEXT_CHARS, count, &ChatMarkdown);
            return json!({ "text": format!("{mention}{text}") });
        }
        let layout = Layout::new(message, &Mrkdwn);
        let text = layout.fit_text(MAX_BODY_CHARS, count, &Mrkdwn);
        let mut parts = split_lines(&text, MAX_SECTION_CHARS - count(&mention), count);
        if let Some(first) = parts.first_mut() {
            first.insert_str(0, &mention);
        }
        let sections = parts
            .into_iter()
            .map(|part| json!({ "type": "section", "text": { "type": "mrkdwn", "text": part } }));
        // The text is shown in notifications, where blocks are not.
        json!({ "text": format!("{mention}{}", layout.title), "blocks": sections.collect::<Vec<_>>(), "unfurl_links": false })
    }
}

impl Receiver for SlackSettings {
    fn check(&self) -> Result<(), ValidationError> {
        check_api_url(self.api_url.as_deref())?;
        // Another text could be markup, or a credential in the wrong field.
        if let Some(mention) = &self.mention
            && (mention.len() > 32 || self.format_mention(mention).is_none())
        {
            let allowed = "channel, here, or in Slack the id of a user (U…) or a group (S…)";
            return Err(ValidationError::new(field("mention"), HIDDEN_VALUE, allowed));
        }
        match (&self.url, &self.token, &self.channel) {
            (Some(url), None, None) => check_secret("url", url),
            (None, Some(token), Some(channel)) if self.flavor == Flavor::Slack => {
                check_secret("token", token)?;
                check_text("channel", channel)
            }
            _ => {
                let allowed = "either url (an incoming webhook), or token and channel of Slack";
                Err(ValidationError::new(field("url"), "", allowed))
            }
        }
    }

    fn render(&self, message: &Message, keys: &Keys<'_>) -> Result<Vec<HttpRequest>, Unsendable> {
        let mut body = self.render_body(message);
        let (Some(token), Some(channel)) = (&self.token, &self.channel) else {
            let Some(secret) = &self.url else { return Err(Unsendable::Refused("no url".to_owned())) };
            return Ok(vec![HttpRequest::post_json(keys.secret_url(secret)?, &body)]);
        };
        body["channel"] = json!(channel);
        if let Some(thread) = message.thread_ref.as_ref().and_then(|thread| thread.get("ts")) {
            body["thread_ts"] = thread.clone();
            // The end of an outage belongs into the channel as well.
            body["reply_broadcast"] = json!(true);
        }
        let url = join_url(self.api_url.as_deref().unwrap_or(API_URL), &["chat.postMessage"])?;
        let token = keys.value(token, &url)?;
        Ok(vec![HttpRequest::post_json(url, &body).with_authorization("Bearer", &token)?])
    }

    fn read_answer(&self, answer: &Answer) -> Attempt {
        if self.token.is_none() || answer.status != 200 {
            return answer.judge();
        }
        // The API refuses with status 200.
        let said = answer.json();
        if said["ok"] == true {
            let receiver_ref = said.get("ts").map(|ts| json!({ "ts": ts }));
            return answer.end_with(AttemptOutcome::Delivered { receiver_ref });
        }
        match said["error"].as_str() {
            Some(
                "msg_too_long" | "no_text" | "invalid_blocks" | "msg_blocks_too_long" | "invalid_arguments",
            ) => answer.end_with(AttemptOutcome::Refused),
            Some(
                "ratelimited" | "rate_limited" | "internal_error" | "fatal_error" | "service_unavailable",
            ) => answer.retry_later(false),
            // Such as invalid_auth, not_in_channel, channel_not_found: people mend these.
            Some(_) => answer.retry_later(true),
            None => answer.retry_later(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use picket_proto::ChannelKind;

    use super::*;
    use crate::{
        channel::tests::{Rendered, parse},
        samples,
    };

    #[test]
    fn a_name_cannot_mention_anyone_or_forge_a_link() {
        for flavor in ["slack", "mattermost", "rocketchat"] {
            let settings = json!({ "url": { "secret": "slack" }, "flavor": flavor });
            for message in crate::channel::tests::hostile_messages() {
                let body = Rendered::of(ChannelKind::Slack, &settings, &message).json();
                let text = body.to_string();
                assert!(!text.contains("<!channel>") && !text.contains("<@U1>"), "{text}");
                if flavor != "slack" {
                    assert!(!text.contains("@everyone") && !text.contains("[a](https"), "{text}");
                }
            }
        }
    }

    #[test]
    fn people_are_mentioned_when_something_is_down_and_in_no_test() {
        let text = |flavor: &str, mention: &str, message: &Message| {
            let settings = json!({"url": {"secret": "slack"}, "flavor": flavor, "mention": mention});
            Rendered::of(ChannelKind::Slack, &settings, message).json()["text"].as_str().unwrap().to_owned()
        };
        for (flavor, mention, expected) in [
            ("slack", "channel", "<!channel> DOWN"),
            ("slack", "U0123ABCD", "<@U0123ABCD> DOWN"),
            ("slack", "S0123ABCD", "<!subteam^S0123ABCD> DOWN"),
            ("mattermost", "here", "@here **DOWN"),
            ("rocketchat", "channel", "@all **DOWN"),
        ] {
            let down = text(flavor, mention, &samples::down());
            assert!(down.starts_with(expected), "{down}");
            for message in [samples::up(), samples::test()] {
                let other = text(flavor, mention, &message);
                assert!(!other.contains(&expected[..4]), "{other}");
            }
        }
        for (flavor, mention) in [("slack", "everyone"), ("slack", "U1> <!here"), ("mattermost", "U0123ABCD")]
        {
            let settings = json!({"url": {"secret": "slack"}, "flavor": flavor, "mention": mention});
            assert_eq!(parse(ChannelKind::Slack, &settings).unwrap_err().field, "settings.mention");
        }
    }

    #[test]
    fn no_section_and_no_message_is_longer_than_allowed() {
        for message in crate::channel::tests::long_messages() {
            let body =
                Rendered::of(ChannelKind::Slack, &json!({"url": {"secret": "slack"}}), &message).json();
            let blocks = body["blocks"].as_array().unwrap();
            assert!((1..=50).contains(&blocks.len()), "{}", blocks.len());
            for block in blocks {
                let text = block["text"]["text"].as_str().unwrap();
                assert!((1..=MAX_SECTION_CHARS).contains(&text.chars().count()), "{text}");
            }
        }
    }

    #[test]
    fn a_refusal_with_status_200_is_no_delivery() {
        let bot = json!({"token": {"secret": "token"}, "channel": "C1"});
        let settings = parse(ChannelKind::Slack, &bot).unwrap();
        let read = |body: Value| settings.http().receiver.read_answer(&Answer::of_json(200, &body)).outcome;
        let retry = |is_channel_failing| AttemptOutcome::retry(None, is_channel_failing);

        let delivered = AttemptOutcome::Delivered { receiver_ref: Some(json!({"ts": "1503435956.000247"})) };
        assert_eq!(read(json!({"ok": true, "ts": "1503435956.000247"})), delivered);
        assert_eq!(read(json!({"ok": false, "error": "invalid_auth"})), retry(true));
        assert_eq!(read(json!({"ok": false, "error": "channel_not_found"})), retry(true));
        assert_eq!(read(json!({"ok": false, "error": "internal_error"})), retry(false));
        assert_eq!(read(json!({"ok": false, "error": "msg_too_long"})), AttemptOutcome::Refused);
        assert_eq!(read(json!("not JSON of Slack")), retry(false));
    }

    #[test]
    fn recorded_refusals_of_incoming_webhooks_have_their_consequence() {
        let settings = parse(ChannelKind::Slack, &json!({"url": {"secret": "slack"}})).unwrap();
        let read = |status, body: &str| {
            let mut answer = Answer::of_json(status, &json!(null));
            answer.body = body.as_bytes().to_vec();
            settings.http().receiver.read_answer(&answer)
        };

        assert!(read(200, "ok").is_delivered());
        assert_eq!(read(400, "invalid_payload").outcome, AttemptOutcome::Refused);
        assert_eq!(read(403, "action_prohibited").message, "403: action_prohibited");
        assert_eq!(read(410, "channel_is_archived").outcome, AttemptOutcome::Gone);
    }
}
