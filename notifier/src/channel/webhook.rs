//! Webhook: events for programs, signed as Standard Webhooks demands.
//!
//! The body is the same for a program at each attempt, except for what a digest composes anew; the
//! time and the signature are those of the attempt. The bytes signed are those sent.

mod signature;

use std::collections::BTreeMap;

use picket_proto::{ValidationError, http_options::SecretRef};
use reqwest::header::HeaderName;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    receiver::{HttpRequest, Keys, Receiver, Unsendable},
    settings::{TextSetting, UrlSetting, check_headers, check_secret, field},
};
use crate::message::{Message, Purpose};

const ID_HEADER: &str = "webhook-id";
const TIME_HEADER: &str = "webhook-timestamp";
const SIGNATURE_HEADER: &str = "webhook-signature";
/// Bytes of a body. Receivers refuse longer ones.
const MAX_BODY_BYTES: usize = 20_000;
/// Secrets that sign each event while one replaces another.
const MAX_SECRETS: usize = 4;

/// Settings of a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookSettings {
    /// Receiver.
    url: UrlSetting,
    /// Secrets that sign (`whsec_`), several while one replaces another.
    #[serde(default)]
    secrets: Vec<SecretRef>,
    /// Private key that signs (`whsk_`, Ed25519), for receivers that shall not be able to sign.
    signing_key: Option<SecretRef>,
    /// Further headers.
    #[serde(default)]
    headers: BTreeMap<String, TextSetting>,
}

impl Receiver for WebhookSettings {
    fn check(&self) -> Result<(), ValidationError> {
        self.url.check("url")?;
        if self.secrets.len() > MAX_SECRETS {
            let count = format_args!("{} of them", self.secrets.len());
            return Err(ValidationError::new(field("secrets"), count, format!("at most {MAX_SECRETS}")));
        }
        self.secrets.iter().try_for_each(|secret| check_secret("secrets", secret))?;
        self.signing_key.iter().try_for_each(|key| check_secret("signing_key", key))?;
        check_headers(&self.headers, &[ID_HEADER, TIME_HEADER, SIGNATURE_HEADER])
    }

    fn render(&self, message: &Message, keys: &Keys<'_>) -> Result<Vec<HttpRequest>, Unsendable> {
        let url = keys.url(&self.url)?;
        let mut request = HttpRequest::post_json(url.clone(), &render_body(message));
        if let Some(body) = &message.body {
            request.body = body.clone().into();
        }
        let seconds = picket_runtime::clock::wall_clock_now().as_millis().div_euclid(1_000);
        let (id, time) = (message.id.to_string(), seconds.to_string());
        let signed = [id.as_bytes(), b".", time.as_bytes(), b".", &request.body].concat();
        let mut signatures = Vec::new();
        for secret in &self.secrets {
            signatures.push(signature::sign_by_secret(&secret.secret, &keys.value(secret, &url)?, &signed)?);
        }
        if let Some(key) = &self.signing_key {
            signatures.push(signature::sign_by_key(&key.secret, &keys.value(key, &url)?, &signed)?);
        }
        request = request
            .with_header(HeaderName::from_static(ID_HEADER), id.as_bytes())?
            .with_header(HeaderName::from_static(TIME_HEADER), time.as_bytes())?;
        if !signatures.is_empty() {
            let name = HeaderName::from_static(SIGNATURE_HEADER);
            request = request.with_header(name, signatures.join(" ").as_bytes())?;
        }
        for (name, value) in &self.headers {
            let value = keys.text(value, &url)?;
            let name: HeaderName =
                name.parse().map_err(|_| Unsendable::Refused(format!("header '{name}' cannot be sent")))?;
            request = request.with_header(name, value.expose_bytes())?;
        }
        Ok(vec![request])
    }
}

/// The body: the event, or the message if it is about several.
fn render_body(message: &Message) -> Value {
    let (name, at, data) = match &message.event {
        Some(event) => (event.name.clone(), event.at, event.data.clone()),
        None => {
            let mut data = serde_json::to_value(message).unwrap_or_default();
            // The table would fill the body alone.
            data["csv"] = Value::Null;
            let word = match message.purpose {
                Purpose::Digest => "notification.digest",
                Purpose::Reminder => "notification.reminder",
                Purpose::Escalation => "notification.escalation",
                Purpose::Acknowledgement => "notification.acknowledgement",
                Purpose::Test => "notification.test",
                Purpose::Alert => "notification.alert",
            };
            (word.to_owned(), message.composed_at, data)
        }
    };
    let body = |data: Value| json!({ "type": name, "timestamp": at, "data": data });
    let whole = body(data.clone());
    if whole.to_string().len() <= MAX_BODY_BYTES {
        return whole;
    }
    // Halves texts and lists until the body fits; at the end only numbers and names are left.
    let sizes = std::iter::successors(Some(2_000_usize), |size| (*size > 0).then_some(size / 2));
    let shortened = sizes.map(|size| {
        let mut body = body(shorten_value(&data, size));
        body["truncated"] = json!(true);
        body
    });
    shortened
        .into_iter()
        .find(|body| body.to_string().len() <= MAX_BODY_BYTES)
        .unwrap_or_else(|| json!({ "type": name, "timestamp": at, "data": {}, "truncated": true }))
}

/// `value` with texts of at most `size` characters and lists of at most `size` / 10 entries.
fn shorten_value(value: &Value, size: usize) -> Value {
    match value {
        Value::String(text) => Value::String(text.chars().take(size).collect()),
        Value::Array(entries) => {
            Value::Array(entries.iter().take(size / 10).map(|entry| shorten_value(entry, size)).collect())
        }
        Value::Object(fields) => Value::Object(
            fields.iter().map(|(name, value)| (name.clone(), shorten_value(value, size))).collect(),
        ),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests;
