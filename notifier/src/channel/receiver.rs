//! The contract of a receiver: requests from messages, and attempts from answers.

use std::fmt::Debug;

use picket_proto::{ValidationError, http_options::SecretRef};
use picket_runtime::{SecretUnavailable, SecretValue, Secrets};
use reqwest::{
    Method,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::Value;
use url::Url;

use super::settings::{TextSetting, UrlSetting};
use crate::{
    answer::Answer,
    attempt::{Attempt, AttemptOutcome},
    message::Message,
};

/// Settings of a kind: what becomes of a message, and what an answer means.
pub(crate) trait Receiver: Debug + Send + Sync {
    /// Refuses settings that cannot be used.
    fn check(&self) -> Result<(), ValidationError>;

    /// The requests of an attempt, in their order.
    fn render(&self, message: &Message, keys: &Keys<'_>) -> Result<Vec<HttpRequest>, Unsendable>;

    /// What an answer means. By default the status decides.
    fn read_answer(&self, answer: &Answer) -> Attempt {
        answer.judge()
    }

    /// A request for the end of what the answer only announced.
    fn follow_up(&self, _answer: &Answer, _keys: &Keys<'_>) -> Option<HttpRequest> {
        None
    }

    /// What the answer to the follow-up means.
    fn read_follow_up(&self, announced: Attempt, _answer: &Answer) -> Attempt {
        announced
    }

    /// True if all requests are sent, at the same time, whatever becomes of the others.
    fn sends_all(&self) -> bool {
        false
    }

    /// The end of an attempt with several requests. By default the first failure, or the last
    /// success.
    fn combine(&self, attempts: Vec<Attempt>) -> Option<Attempt> {
        let failed = attempts.iter().position(|attempt| !attempt.is_delivered());
        let index = failed.unwrap_or(attempts.len().saturating_sub(1));
        attempts.into_iter().nth(index)
    }

    /// One request for many alerts, where the protocol has it.
    fn render_batch(&self, _messages: &[Message], _keys: &Keys<'_>) -> Result<Vec<HttpRequest>, Unsendable> {
        Err(Unsendable::Refused("this kind of channel takes no batches".to_owned()))
    }

    /// The request that says whether the whole chain works; `None` if nothing is to be sent.
    fn render_ping(
        &self,
        _failure: Option<&str>,
        _keys: &Keys<'_>,
    ) -> Result<Option<HttpRequest>, Unsendable> {
        Ok(None)
    }
}

/// Reasons why a message cannot be made into a request.
#[derive(Debug)]
pub(crate) enum Unsendable {
    /// A secret is missing, or may not go there.
    Secret(SecretUnavailable),
    /// The message or the settings do not fit the protocol.
    Refused(String),
}

impl Unsendable {
    /// The end of the attempt. A missing secret may appear; meanwhile the channel is broken.
    pub(crate) fn into_attempt(self) -> Attempt {
        match self {
            Self::Secret(why) => {
                let outcome = AttemptOutcome::retry(None, true);
                Attempt::new(outcome, None, &why.to_string())
            }
            Self::Refused(why) => Attempt::new(AttemptOutcome::Refused, None, &why),
        }
    }
}

impl From<SecretUnavailable> for Unsendable {
    fn from(why: SecretUnavailable) -> Self {
        Self::Secret(why)
    }
}

impl From<ValidationError> for Unsendable {
    fn from(why: ValidationError) -> Self {
        Self::Refused(why.to_string())
    }
}

/// A request to a receiver. It contains secrets and is never printed.
pub(crate) struct HttpRequest {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl HttpRequest {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: Vec::new() }
    }

    pub(crate) fn post_json(url: Url, body: &Value) -> Self {
        let mut request = Self::new(Method::POST, url);
        request.body = body.to_string().into_bytes();
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request
    }

    /// Adds a header whose value may be a secret.
    pub(crate) fn with_header(mut self, name: HeaderName, value: &[u8]) -> Result<Self, Unsendable> {
        let mut value = HeaderValue::from_bytes(value).map_err(|_| {
            Unsendable::Refused(format!("the value of the header {name} cannot be sent in a header"))
        })?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(self)
    }

    /// Adds `Authorization` with a scheme and a value.
    pub(crate) fn with_authorization(self, scheme: &str, value: &SecretValue) -> Result<Self, Unsendable> {
        let text = [scheme.as_bytes(), b" ", value.expose_bytes()].concat();
        self.with_header(AUTHORIZATION, &text)
    }

    /// Adds `Authorization` with a user and a password (RFC 7617).
    pub(crate) fn with_login(self, user: &str, password: &SecretValue) -> Result<Self, Unsendable> {
        use base64::prelude::{BASE64_STANDARD, Engine as _};

        let login = BASE64_STANDARD.encode([user.as_bytes(), b":", password.expose_bytes()].concat());
        self.with_authorization("Basic", &SecretValue::new(login))
    }
}

/// The secrets that a rendering may use, each for its own hosts.
pub(crate) struct Keys<'a> {
    secrets: &'a Secrets,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(secrets: &'a Secrets) -> Self {
        Self { secrets }
    }

    /// Value of a secret that goes to `url`. Certificates are always verified.
    pub(crate) fn value(&self, secret: &SecretRef, url: &Url) -> Result<SecretValue, Unsendable> {
        Ok(self.secrets.value_for(&secret.secret, url, true)?)
    }

    /// The URL of a setting that is a credential.
    pub(crate) fn secret_url(&self, secret: &SecretRef) -> Result<Url, Unsendable> {
        Ok(self.secrets.url_for(&secret.secret)?)
    }

    /// The URL of a setting.
    pub(crate) fn url(&self, setting: &UrlSetting) -> Result<Url, Unsendable> {
        match setting {
            UrlSetting::Plain(text) => Ok(super::settings::parse_url("url", text)?),
            UrlSetting::Secret(secret) => self.secret_url(secret),
        }
    }

    /// The text of a setting that goes to `url`.
    pub(crate) fn text(&self, setting: &TextSetting, url: &Url) -> Result<SecretValue, Unsendable> {
        match setting {
            TextSetting::Plain(text) => Ok(SecretValue::new(text.clone())),
            TextSetting::Secret(secret) => self.value(secret, url),
        }
    }
}
