//! Watchdog: a URL that is requested while the whole chain works. A heartbeat service alerts when
//! the requests end.

use picket_proto::{ValidationError, validation::sanitize_text};
use reqwest::Method;
use serde::Deserialize;

use super::{
    receiver::{HttpRequest, Keys, Receiver, Unsendable},
    settings::UrlSetting,
};
use crate::message::{Message, Purpose};

/// Bytes of the reason of a failure.
const MAX_REASON_BYTES: usize = 1_000;

/// Settings of a watchdog.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WatchdogSettings {
    /// Requested while all is well.
    url: UrlSetting,
    /// Requested with the reason while something is not.
    fail_url: Option<UrlSetting>,
    /// Method of the request; the reason of a failure is sent with POST.
    #[serde(default)]
    method: PingMethod,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum PingMethod {
    #[default]
    Get,
    Post,
}

impl Receiver for WatchdogSettings {
    fn check(&self) -> Result<(), ValidationError> {
        self.url.check("url")?;
        self.fail_url.as_ref().map_or(Ok(()), |url| url.check("fail_url"))
    }

    fn render(&self, message: &Message, keys: &Keys<'_>) -> Result<Vec<HttpRequest>, Unsendable> {
        match message.purpose {
            Purpose::Test => Ok(self.render_ping(None, keys)?.into_iter().collect()),
            _ => Err(Unsendable::Refused("a watchdog is told of no incidents".to_owned())),
        }
    }

    fn render_ping(&self, failure: Option<&str>, keys: &Keys<'_>) -> Result<Option<HttpRequest>, Unsendable> {
        let Some(reason) = failure else {
            let method = match self.method {
                PingMethod::Get => Method::GET,
                PingMethod::Post => Method::POST,
            };
            return Ok(Some(HttpRequest::new(method, keys.url(&self.url)?)));
        };
        let Some(url) = &self.fail_url else { return Ok(None) };
        let mut ping = HttpRequest::new(Method::POST, keys.url(url)?);
        ping.body = sanitize_text(reason, MAX_REASON_BYTES).into_bytes();
        Ok(Some(ping))
    }
}
