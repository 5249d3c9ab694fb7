//! Opsgenie and Jira Service Management: alerts with an alias of ours, so that a repeated one
//! changes nothing.
//!
//! The service answers 202 and works later; its result is looked up once.

use picket_proto::{ValidationError, http_options::SecretRef, validation::sanitize_text};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    pagerduty::{alert_key, is_end},
    receiver::{HttpRequest, Keys, Receiver, Unsendable},
    settings::{check_api_url, check_secret, check_text, field, join_url},
};
use crate::{
    answer::Answer,
    attempt::{Attempt, AttemptOutcome},
    message::{Message, Purpose, Severity},
    text::{Layout, Plain, cut_text, title_line},
};

const API_URL: &str = "https://api.opsgenie.com";
/// Characters of the fields of an alert.
const MAX_MESSAGE_CHARS: usize = 130;
const MAX_ALIAS_CHARS: usize = 512;
const MAX_DESCRIPTION_CHARS: usize = 15_000;
const MAX_TAG_CHARS: usize = 50;
const MAX_TAGS: usize = 20;

/// Settings of an integration of Opsgenie, or of Jira Service Management with
/// `https://api.atlassian.com/jsm/ops/integration` as `api_url`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OpsgenieSettings {
    /// Key of the API integration.
    api_key: SecretRef,
    /// Priority of sites that are down.
    #[serde(default)]
    priority: Priority,
    /// Further tags of each alert.
    #[serde(default)]
    tags: Vec<String>,
    api_url: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum Priority {
    #[default]
    P1,
    P2,
    P3,
    P4,
    P5,
}

impl OpsgenieSettings {
    fn base(&self) -> &str {
        self.api_url.as_deref().unwrap_or(API_URL)
    }

    fn render_creation(&self, message: &Message, alias: &str) -> Value {
        let count = |text: &str| text.chars().count();
        let item_tags = message.items.first().map(|item| item.tags.as_slice()).unwrap_or_default();
        let tags = self.tags.iter().chain(item_tags).take(MAX_TAGS);
        let priority = match message.severity {
            Severity::Critical => format!("{:?}", self.priority),
            Severity::Warning => "P3".to_owned(),
            Severity::Info | Severity::Resolved => "P5".to_owned(),
        };
        json!({
            "message": cut_text(&title_line(message), MAX_MESSAGE_CHARS, &count),
            "alias": alias,
            "description": Layout::new(message, &Plain).fit_body(MAX_DESCRIPTION_CHARS, count),
            "tags": tags.map(|tag| sanitize_text(tag, MAX_TAG_CHARS)).collect::<Vec<_>>(),
            "source": "Picket",
            "priority": priority,
        })
    }
}

impl Receiver for OpsgenieSettings {
    fn check(&self) -> Result<(), ValidationError> {
        check_api_url(self.api_url.as_deref())?;
        check_secret("api_key", &self.api_key)?;
        if self.tags.len() > MAX_TAGS {
            let count = format_args!("{} of them", self.tags.len());
            return Err(ValidationError::new(field("tags"), count, format!("at most {MAX_TAGS}")));
        }
        self.tags.iter().try_for_each(|tag| check_text("tags", tag))
    }

    fn render(&self, message: &Message, keys: &Keys<'_>) -> Result<Vec<HttpRequest>, Unsendable> {
        let alias = cut_text(&alert_key(message), MAX_ALIAS_CHARS, &|text: &str| text.chars().count());
        let create = || -> Result<HttpRequest, Unsendable> {
            let url = join_url(self.base(), &["v2", "alerts"])?;
            let key = keys.value(&self.api_key, &url)?;
            HttpRequest::post_json(url, &self.render_creation(message, &alias))
                .with_authorization("GenieKey", &key)
        };
        let change = |action: &str, note: String| -> Result<HttpRequest, Unsendable> {
            let mut url = join_url(self.base(), &["v2", "alerts", &alias, action])?;
            url.query_pairs_mut().append_pair("identifierType", "alias");
            let key = keys.value(&self.api_key, &url)?;
            HttpRequest::post_json(url, &json!({ "source": "Picket", "note": note }))
                .with_authorization("GenieKey", &key)
        };
        let close =
            || change("close", Layout::new(message, &Plain).fit_body(MAX_DESCRIPTION_CHARS, str::len));
        match message.purpose {
            Purpose::Acknowledgement => Ok(vec![change("acknowledge", "acknowledged in Picket".to_owned())?]),
            // A test leaves nothing open.
            Purpose::Test => Ok(vec![create()?, close()?]),
            _ if is_end(message) => Ok(vec![close()?]),
            _ => Ok(vec![create()?]),
        }
    }

    fn follow_up(&self, answer: &Answer, keys: &Keys<'_>) -> Option<HttpRequest> {
        let id = answer.json()["requestId"].as_str().filter(|_| answer.status == 202)?.to_owned();
        let url = join_url(self.base(), &["v2", "alerts", "requests", &id]).ok()?;
        let key = keys.value(&self.api_key, &url).ok()?;
        HttpRequest::new(Method::GET, url).with_authorization("GenieKey", &key).ok()
    }

    fn read_follow_up(&self, announced: Attempt, answer: &Answer) -> Attempt {
        let data = &answer.json()["data"];
        let status = data["status"].as_str().unwrap_or_default();
        match data["isSuccess"].as_bool() {
            // What was wanted is so: what is to be closed is not open, or somebody was quicker.
            Some(false) if status.contains("does not exist") || status.contains("already") => announced,
            Some(false) => answer.end_with(AttemptOutcome::Refused),
            // Done, or not looked at yet, or not to be looked up with this key.
            _ => announced,
        }
    }
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
        json!({ "api_key": { "secret": "token" } })
    }

    #[test]
    fn an_alert_is_acknowledged_and_closed_by_its_alias() {
        let opened = Rendered::of(ChannelKind::Opsgenie, &settings(), &samples::down());
        let closed = Rendered::of(ChannelKind::Opsgenie, &settings(), &samples::up());

        let acknowledged = Rendered::of(ChannelKind::Opsgenie, &settings(), &samples::acknowledgement());

        let alias = opened.json()["alias"].as_str().unwrap().replace('/', "%2F");
        let expected = format!("{API_URL}/v2/alerts/{alias}/acknowledge?identifierType=alias");
        assert_eq!(acknowledged.url, expected);
        assert_eq!(closed.url, format!("{API_URL}/v2/alerts/{alias}/close?identifierType=alias"));
        assert_eq!(opened.header("authorization"), "GenieKey token-value-0123456789");
        for message in hostile_messages().into_iter().chain(long_messages()) {
            let body = Rendered::of(ChannelKind::Opsgenie, &settings(), &message).json();
            assert!(body["message"].as_str().unwrap().chars().count() <= MAX_MESSAGE_CHARS);
            assert!(body["tags"].as_array().unwrap().len() <= MAX_TAGS);
        }
    }

    #[test]
    fn an_announced_alert_that_the_service_refuses_later_is_refused() {
        let receiver = parse(ChannelKind::Opsgenie, &settings()).unwrap().http().receiver.clone();
        let announced = || Attempt::new(AttemptOutcome::Delivered { receiver_ref: None }, Some(202), "202");
        let read = |data: Value| {
            receiver.read_follow_up(announced(), &Answer::of_json(200, &json!({ "data": data }))).outcome
        };

        let refused = json!({"isSuccess": false, "action": "Create", "status": "Alert creation is disabled"});
        assert_eq!(read(refused), AttemptOutcome::Refused);
        for fine in [
            json!({"isSuccess": true, "status": "Created alert"}),
            json!({"isSuccess": false, "action": "Close", "status": "Alert does not exist"}),
            json!(null),
        ] {
            assert_eq!(read(fine), announced().outcome);
        }
    }
}
