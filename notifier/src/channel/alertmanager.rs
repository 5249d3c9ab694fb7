//! Prometheus Alertmanager: API v2, to every instance.
//!
//! Alertmanager forgets an alert that is not repeated, so all firing alerts, and those that ended
//! lately, are sent again and again ([`Receiver::render_batch`]). An alert is identified by its
//! labels, which therefore are the same at each opening and closing; texts are annotations.

use std::{collections::BTreeMap, time::Duration};

use picket_proto::{ValidationError, http_options::SecretRef, validation::sanitize_text};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    pagerduty::{alert_key, is_end},
    receiver::{HttpRequest, Keys, Receiver, Unsendable},
    settings::{check_secret, check_text, field, join_url, parse_url},
};
use crate::{
    attempt::{Attempt, AttemptOutcome},
    message::{Message, Purpose},
    text::{Layout, Plain, title_line},
};

/// Time until a firing alert ends by itself. It is sent again every minute.
const EXPIRY: Duration = Duration::from_secs(300);
const MAX_INSTANCES: usize = 8;
const MAX_LABELS: usize = 20;
const MAX_LABEL_BYTES: usize = 500;
const MAX_DESCRIPTION_BYTES: usize = 4_000;
/// Alerts of one request; a batch of more is several requests.
const MAX_ALERTS: usize = 500;
/// Labels that alerts have of themselves.
const OWN_LABELS: [&str; 6] = ["alertname", "installation", "kind", "severity", "site", "url"];

/// Settings of a cluster of Alertmanager.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AlertmanagerSettings {
    /// All instances of the cluster.
    urls: Vec<String>,
    /// User of Basic authentication.
    user: Option<String>,
    /// Password of the user.
    password: Option<SecretRef>,
    /// Bearer token.
    token: Option<SecretRef>,
    /// Further labels of each alert.
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

impl AlertmanagerSettings {
    fn render_alert(&self, message: &Message) -> Value {
        let name = message.event.as_ref().map_or("notification", |event| event.name.as_str());
        // `incident.opened` and `incident.closed` are one kind.
        let kind = name.split('.').next().unwrap_or(name);
        let item = message.items.first();
        let site = item.map_or("picket", |item| item.name.as_str());
        let key = alert_key(message);
        let installation = key.rsplit_once('/').map_or("", |(installation, _)| installation);
        let label = |text: &str| json!(sanitize_text(text, MAX_LABEL_BYTES));
        let mut labels: Map<String, Value> =
            self.labels.iter().map(|(name, value)| (name.clone(), label(value))).collect();
        labels.insert("alertname".to_owned(), json!("Picket"));
        labels.insert("kind".to_owned(), label(kind));
        labels.insert("site".to_owned(), label(site));
        labels.insert("installation".to_owned(), label(installation.trim_start_matches("picket/")));
        labels.insert("severity".to_owned(), json!(if kind == "incident" { "critical" } else { "warning" }));
        if let Some(url) = item.and_then(|item| item.url.as_deref()) {
            labels.insert("url".to_owned(), label(url));
        }
        // An empty label is none.
        labels.retain(|_, value| value != "");
        let ends_at = match is_end(message) || message.purpose == Purpose::Test {
            true => item.and_then(|item| item.closed_at).unwrap_or(message.composed_at),
            false => message.composed_at.saturating_add(EXPIRY),
        };
        let mut alert = json!({
            "labels": labels,
            "annotations": {
                "summary": title_line(message),
                "description": Layout::new(message, &Plain).fit_body(MAX_DESCRIPTION_BYTES, str::len),
            },
            "startsAt": item.map_or(message.composed_at, |item| item.opened_at),
            "endsAt": ends_at,
        });
        if let Some(link) = &message.link {
            alert["generatorURL"] = json!(link);
        }
        alert
    }

    fn render_requests(&self, alerts: &[Value], keys: &Keys<'_>) -> Result<Vec<HttpRequest>, Unsendable> {
        let mut requests = Vec::new();
        for base in &self.urls {
            let url = join_url(base, &["api", "v2", "alerts"])?;
            for part in alerts.chunks(MAX_ALERTS) {
                let request = HttpRequest::post_json(url.clone(), &json!(part));
                requests.push(match (&self.token, &self.user, &self.password) {
                    (Some(token), _, _) => request.with_authorization("Bearer", &keys.value(token, &url)?)?,
                    (None, Some(user), Some(password)) => {
                        request.with_login(user, &keys.value(password, &url)?)?
                    }
                    _ => request,
                });
            }
        }
        Ok(requests)
    }
}

impl Receiver for AlertmanagerSettings {
    fn check(&self) -> Result<(), ValidationError> {
        if !(1..=MAX_INSTANCES).contains(&self.urls.len()) {
            let count = format_args!("{} of them", self.urls.len());
            return Err(ValidationError::new(field("urls"), count, format!("1 to {MAX_INSTANCES}")));
        }
        self.urls.iter().try_for_each(|url| parse_url("urls", url).map(drop))?;
        match (&self.token, &self.user, &self.password) {
            (None, None, None) => {}
            (Some(token), None, None) => check_secret("token", token)?,
            (None, Some(user), Some(password)) => {
                check_text("user", user)?;
                check_secret("password", password)?;
            }
            _ => {
                let allowed = "a token, or user and password, or neither";
                return Err(ValidationError::new(field("token"), "", allowed));
            }
        }
        check_labels(&self.labels)
    }

    fn render(&self, message: &Message, keys: &Keys<'_>) -> Result<Vec<HttpRequest>, Unsendable> {
        self.render_requests(&[self.render_alert(message)], keys)
    }

    fn render_batch(&self, messages: &[Message], keys: &Keys<'_>) -> Result<Vec<HttpRequest>, Unsendable> {
        let alerts: Vec<Value> = messages.iter().map(|message| self.render_alert(message)).collect();
        self.render_requests(&alerts, keys)
    }

    fn sends_all(&self) -> bool {
        true
    }

    /// An instance that is away gets the alert with the next batch, so one that has it is enough.
    fn combine(&self, attempts: Vec<Attempt>) -> Option<Attempt> {
        let count = attempts.len();
        let delivered = attempts.iter().filter(|attempt| attempt.is_delivered()).count();
        let failed = attempts.iter().find(|attempt| !attempt.is_delivered()).cloned();
        match failed {
            Some(failed) if delivered > 0 => {
                let text = format!("{delivered} of {count} requests accepted; {}", failed.message);
                Some(Attempt::new(AttemptOutcome::Delivered { receiver_ref: None }, failed.status, &text))
            }
            Some(failed) => Some(failed),
            None => attempts.into_iter().next(),
        }
    }
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), ValidationError> {
    if labels.len() > MAX_LABELS {
        let count = format_args!("{} of them", labels.len());
        return Err(ValidationError::new(field("labels"), count, format!("at most {MAX_LABELS}")));
    }
    for (name, value) in labels {
        let is_name = name.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name || OWN_LABELS.contains(&name.as_str()) || name.len() > MAX_LABEL_BYTES {
            let allowed = format!("letters, digits and '_', none of {}", OWN_LABELS.join(", "));
            return Err(ValidationError::new(field("labels"), name, allowed));
        }
        check_text(&format!("labels.{name}"), value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use picket_proto::ChannelKind;

    use super::*;
    use crate::{
        channel::tests::{Rendered, hostile_messages, long_messages, render_all},
        samples,
    };

    fn settings() -> Value {
        json!({ "urls": ["https://am-1.example.com", "https://am-2.example.com/am/"], "labels": { "team": "ops" } })
    }

    #[test]
    fn every_instance_gets_the_alert_and_its_labels_are_the_same_at_its_end() {
        let opened = render_all(ChannelKind::Alertmanager, &settings(), &samples::down());
        let closed = render_all(ChannelKind::Alertmanager, &settings(), &samples::up());

        let urls: Vec<_> = opened.iter().map(|request| request.url.as_str()).collect();
        assert_eq!(
            urls,
            ["https://am-1.example.com/api/v2/alerts", "https://am-2.example.com/am/api/v2/alerts"]
        );
        let (opened, closed) = (opened[0].json(), closed[1].json());
        assert_eq!(opened[0]["labels"], closed[0]["labels"]);
        assert_eq!(opened[0]["labels"]["team"], "ops");
        assert_eq!(opened[0]["endsAt"], "2026-11-20T12:07:08.000000Z", "five minutes after its composition");
        assert_eq!(closed[0]["endsAt"], "2026-11-20T12:13:07.000000Z", "the end of the incident");
    }

    #[test]
    fn labels_of_hostile_names_are_visible_text_of_bounded_length() {
        for message in hostile_messages().into_iter().chain(long_messages()) {
            let alert = Rendered::of(ChannelKind::Alertmanager, &settings(), &message).json()[0].clone();
            for (name, value) in alert["labels"].as_object().unwrap() {
                let value = value.as_str().unwrap();
                assert!((1..=MAX_LABEL_BYTES).contains(&value.len()), "{name}");
                assert_eq!(value, sanitize_text(value, MAX_LABEL_BYTES), "{name}");
            }
        }
    }

    #[test]
    fn an_instance_that_accepts_is_enough_and_the_failed_instance_is_named() {
        let receiver = crate::channel::tests::parse(ChannelKind::Alertmanager, &settings())
            .unwrap()
            .http()
            .receiver
            .clone();
        let ok = || Attempt::new(AttemptOutcome::Delivered { receiver_ref: None }, Some(200), "200: no text");
        let retry = AttemptOutcome::retry(None, false);
        let away = || Attempt::new(retry.clone(), None, "connection refused");

        let mixed = receiver.combine(vec![away(), ok()]).unwrap();
        assert!(
            mixed.is_delivered() && mixed.message.contains("1 of 2") && mixed.message.contains("refused")
        );
        assert_eq!(receiver.combine(vec![away(), away()]).unwrap().outcome, retry);
        assert!(receiver.combine(vec![ok(), ok()]).unwrap().is_delivered());
    }
}
