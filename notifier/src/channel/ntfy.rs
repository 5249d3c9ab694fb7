//! ntfy: JSON to the root of a server, since headers cannot have other than ASCII characters.

use picket_proto::{ValidationError, http_options::SecretRef};
use serde::Deserialize;
use serde_json::json;

use super::{
    receiver::{HttpRequest, Keys, Receiver, Unsendable},
    settings::{TextSetting, check_api_url, check_secret, check_text, field, join_url},
};
use crate::{
    message::{Message, Severity},
    text::{Layout, Plain, cut_text, title_line},
};

const API_URL: &str = "https://ntfy.sh";
/// Bytes of a message; a longer one becomes a file.
const MAX_MESSAGE_BYTES: usize = 4_096;
const MAX_TITLE_BYTES: usize = 250;

/// Settings of a topic of an ntfy server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NtfySettings {
    /// The topic; where anyone who knows it may read it, a secret.
    topic: TextSetting,
    /// Access token.
    token: Option<SecretRef>,
    /// User, in place of a token.
    user: Option<String>,
    /// Password of the user.
    password: Option<SecretRef>,
    api_url: Option<String>,
}

impl Receiver for NtfySettings {
    fn check(&self) -> Result<(), ValidationError> {
        check_api_url(self.api_url.as_deref())?;
        match &self.topic {
            TextSetting::Secret(secret) => check_secret("topic", secret)?,
            TextSetting::Plain(topic) => check_topic(topic)?,
        }
        match (&self.token, &self.user, &self.password) {
            (None, None, None) => Ok(()),
            (Some(token), None, None) => check_secret("token", token),
            (None, Some(user), Some(password)) => {
                check_text("user", user)?;
                check_secret("password", password)
            }
            _ => {
                let allowed = "a token, or user and password, or neither";
                Err(ValidationError::new(field("token"), "", allowed))
            }
        }
    }

    fn render(&self, message: &Message, keys: &Keys<'_>) -> Result<Vec<HttpRequest>, Unsendable> {
        let url = join_url(self.api_url.as_deref().unwrap_or(API_URL), &[])?;
        let (priority, tag) = match message.severity {
            Severity::Critical => (4, "red_circle"),
            Severity::Warning => (3, "warning"),
            Severity::Info => (2, "information_source"),
            Severity::Resolved => (3, "white_check_mark"),
        };
        let mut body = json!({
            "topic": keys.text(&self.topic, &url)?.expose_text(),
            "title": cut_text(&title_line(message), MAX_TITLE_BYTES, &str::len),
            "message": Layout::new(message, &Plain).without_link().fit_body(MAX_MESSAGE_BYTES, str::len),
            "priority": priority,
            "tags": [tag],
        });
        if let Some(link) = &message.link {
            body["click"] = json!(link);
            body["actions"] = json!([{ "action": "view", "label": "Open in Picket", "url": link }]);
        }
        let request = HttpRequest::post_json(url.clone(), &body);
        Ok(vec![match (&self.token, &self.user, &self.password) {
            (Some(token), _, _) => request.with_authorization("Bearer", &keys.value(token, &url)?)?,
            (None, Some(user), Some(password)) => request.with_login(user, &keys.value(password, &url)?)?,
            _ => request,
        }])
    }
}

fn check_topic(topic: &str) -> Result<(), ValidationError> {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    match (1..=64).contains(&topic.len()) && topic.bytes().all(is_letter) {
        true => Ok(()),
        false => Err(ValidationError::new(field("topic"), topic, "1 to 64 letters, digits, '-' and '_'")),
    }
}

#[cfg(test)]
mod tests {
    use picket_proto::ChannelKind;

    use super::*;
    use crate::channel::tests::{Rendered, hostile_messages, long_messages};

    #[test]
    fn every_message_keeps_the_limits() {
        for message in hostile_messages().into_iter().chain(long_messages()) {
            let body = Rendered::of(ChannelKind::Ntfy, &json!({ "topic": "ops" }), &message).json();
            let length = |name: &str| body[name].as_str().unwrap().len();
            assert!((1..=MAX_TITLE_BYTES).contains(&length("title")));
            assert!((1..=MAX_MESSAGE_BYTES).contains(&length("message")));
        }
    }

    #[test]
    fn a_token_a_login_and_a_secret_topic_are_sent_from_their_secrets() {
        let message = crate::samples::down();
        let token = json!({ "topic": { "secret": "topic" }, "token": { "secret": "token" } });
        let login = json!({ "topic": "ops", "user": "me", "password": { "secret": "token" } });

        let by_token = Rendered::of(ChannelKind::Ntfy, &token, &message);
        let by_login = Rendered::of(ChannelKind::Ntfy, &login, &message);

        assert_eq!(by_token.header("authorization"), "Bearer token-value-0123456789");
        assert_eq!(by_token.json()["topic"], "secret-topic-value");
        assert_eq!(by_login.header("authorization"), "Basic bWU6dG9rZW4tdmFsdWUtMDEyMzQ1Njc4OQ==");
    }
}
