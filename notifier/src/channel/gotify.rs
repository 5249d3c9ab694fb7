//! Gotify: a message to an application of a server of one's own.

use picket_proto::{ValidationError, http_options::SecretRef};
use reqwest::header::HeaderName;
use serde::Deserialize;
use serde_json::json;

use super::{
    receiver::{HttpRequest, Keys, Receiver, Unsendable},
    settings::{check_secret, join_url, parse_url},
};
use crate::{
    answer::Answer,
    attempt::{Attempt, AttemptOutcome},
    message::{Message, Severity},
    text::{Layout, Plain, title_line},
};

/// Bytes of a message, for readability: the server has no limit of its own.
const MAX_MESSAGE_BYTES: usize = 8_000;

/// Settings of an application of a Gotify server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GotifySettings {
    /// The server.
    api_url: String,
    /// Token of the application.
    token: SecretRef,
}

impl Receiver for GotifySettings {
    fn check(&self) -> Result<(), ValidationError> {
        parse_url("api_url", &self.api_url)?;
        check_secret("token", &self.token)
    }

    fn render(&self, message: &Message, keys: &Keys<'_>) -> Result<Vec<HttpRequest>, Unsendable> {
        let url = join_url(&self.api_url, &["message"])?;
        let token = keys.value(&self.token, &url)?;
        let mut body = json!({
            "title": title_line(message),
            "message": Layout::new(message, &Plain).without_link().fit_body(MAX_MESSAGE_BYTES, str::len),
            "priority": match message.severity {
                Severity::Critical => 8,
                Severity::Warning => 5,
                Severity::Info => 2,
                Severity::Resolved => 4,
            },
            "extras": { "client::display": { "contentType": "text/plain" } },
        });
        if let Some(link) = &message.link {
            body["extras"]["client::notification"] = json!({ "click": { "url": link } });
        }
        let request = HttpRequest::post_json(url, &body);
        Ok(vec![request.with_header(HeaderName::from_static("x-gotify-key"), token.expose_bytes())?])
    }

    fn read_answer(&self, answer: &Answer) -> Attempt {
        match (answer.status, answer.json().get("id")) {
            (200, Some(id)) => {
                answer.end_with(AttemptOutcome::Delivered { receiver_ref: Some(json!({ "id": id })) })
            }
            _ => answer.judge(),
        }
    }
}
