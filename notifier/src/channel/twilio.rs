//! Twilio: text messages of at most two segments.

use picket_proto::{ValidationError, http_options::SecretRef, validation::sanitize_text};
use reqwest::{
    Method,
    header::{CONTENT_TYPE, HeaderValue},
};
use serde::Deserialize;
use serde_json::json;
use url::form_urlencoded;

use super::{
    receiver::{HttpRequest, Keys, Receiver, Unsendable},
    settings::{check_api_url, check_secret, check_text, field, join_url},
};
use crate::{
    answer::Answer,
    attempt::{Attempt, AttemptOutcome},
    message::Message,
    text::{count_utf16, cut_text, describe_names, title_line},
};

const API_URL: &str = "https://api.twilio.com";
/// Septets of two joined segments in the GSM alphabet.
const MAX_GSM_SEPTETS: usize = 2 * 153;
/// Characters of two joined segments in UCS-2.
const MAX_UCS2_CHARS: usize = 2 * 67;

/// Settings of a telephone number that Twilio sends to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TwilioSettings {
    /// Number of the account.
    account_sid: String,
    /// Token of the account.
    auth_token: SecretRef,
    /// Number or name of the sender.
    from: Option<String>,
    /// Messaging service, in place of a sender.
    messaging_service_sid: Option<String>,
    /// Number of the recipient, as +4912345.
    to: String,
    api_url: Option<String>,
}

impl Receiver for TwilioSettings {
    fn check(&self) -> Result<(), ValidationError> {
        check_api_url(self.api_url.as_deref())?;
        check_secret("auth_token", &self.auth_token)?;
        check_sid("account_sid", &self.account_sid, "AC")?;
        let digits = self.to.strip_prefix('+').unwrap_or_default();
        if !(5..=15).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            let allowed = "a telephone number as +4912345";
            return Err(ValidationError::new(field("to"), &self.to, allowed));
        }
        match (&self.from, &self.messaging_service_sid) {
            (Some(from), None) => check_text("from", from),
            (None, Some(sid)) => check_sid("messaging_service_sid", sid, "MG"),
            _ => Err(ValidationError::new(field("from"), "", "either from or messaging_service_sid")),
        }
    }

    fn render(&self, message: &Message, keys: &Keys<'_>) -> Result<Vec<HttpRequest>, Unsendable> {
        let base = self.api_url.as_deref().unwrap_or(API_URL);
        let url = join_url(base, &["2010-04-01", "Accounts", &self.account_sid, "Messages.json"])?;
        let token = keys.value(&self.auth_token, &url)?;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("To", &self.to).append_pair("Body", &shorten_text(message));
        match (&self.from, &self.messaging_service_sid) {
            (Some(from), _) => form.append_pair("From", from),
            (None, Some(sid)) => form.append_pair("MessagingServiceSid", sid),
            (None, None) => &mut form,
        };
        let mut request = HttpRequest::new(Method::POST, url);
        request.body = form.finish().into_bytes();
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers.insert(CONTENT_TYPE, form_type);
        Ok(vec![request.with_login(&self.account_sid, &token)?])
    }

    fn read_answer(&self, answer: &Answer) -> Attempt {
        match answer.json().get("sid") {
            Some(sid) if answer.status == 201 => {
                answer.end_with(AttemptOutcome::Delivered { receiver_ref: Some(json!({ "sid": sid })) })
            }
            _ => answer.judge(),
        }
    }
}

/// The title with its count, then of several items the names that fit and the number of the others, and
/// the link if it fits.
fn shorten_text(message: &Message) -> String {
    let mut title = title_line(message);
    if message.is_repeat {
        title.push_str(" (sent again)");
    }
    let link = message.link.as_ref().map(|link| format!(" {link}"));
    let links = [link.unwrap_or_default(), String::new()];
    let named = links.iter().flat_map(|link| list_items(message).into_iter().map(move |names| (names, link)));
    let unnamed = links.iter().map(|link| (String::new(), link));
    let mut texts = named.chain(unnamed).map(|(names, link)| format!("{title}{names}{link}"));
    let fitting = texts.find(|text| is_short(text)).unwrap_or_else(|| title.clone());
    cut_text(&fitting, 1, &|text| if is_short(text) { 1 } else { 2 })
}

/// `; site-1, site-2 and 3 more`, with fewer names each time; nothing if the title names all.
fn list_items(message: &Message) -> Vec<String> {
    const MAX_NAMES: usize = 5;
    const MAX_NAME_BYTES: usize = 40;
    let count = message.items.len() + message.hidden_items;
    let names: Vec<String> =
        message.items.iter().take(MAX_NAMES).map(|item| sanitize_text(&item.name, MAX_NAME_BYTES)).collect();
    let most = if count > 1 { names.len() } else { 0 };
    (1..=most).rev().map(|shown| format!("; {}", describe_names(&names[..shown], count))).collect()
}

/// True if `text` takes at most two segments.
fn is_short(text: &str) -> bool {
    let septets: Option<usize> = text.chars().map(count_septets).sum();
    match septets {
        Some(septets) => septets <= MAX_GSM_SEPTETS,
        None => count_utf16(text) <= MAX_UCS2_CHARS,
    }
}

/// Septets of a character in the GSM alphabet (3GPP TS 23.038); `None` outside of it.
fn count_septets(character: char) -> Option<usize> {
    const BASIC: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZ\
        ÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà";
    const EXTENDED: &str = "^{}\\[~]|€";
    match character {
        _ if BASIC.contains(character) => Some(1),
        _ if EXTENDED.contains(character) => Some(2),
        _ => None,
    }
}

fn check_sid(name: &str, sid: &str, prefix: &str) -> Result<(), ValidationError> {
    let digits = sid.strip_prefix(prefix).unwrap_or_default();
    match digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(()),
        false => Err(ValidationError::new(field(name), sid, format!("{prefix} and 32 hexadecimal digits"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        channel::tests::{hostile_messages, long_messages},
        samples,
    };

    #[test]
    fn every_text_takes_at_most_two_segments_and_keeps_its_verdict() {
        for message in hostile_messages().into_iter().chain(long_messages()) {
            let text = shorten_text(&message);
            assert!(is_short(&text) && text.starts_with("DOWN"), "{text}");
        }
        assert!(shorten_text(&samples::down()).ends_with("https://picket.example.com/incidents/17"));
    }

    #[test]
    fn a_text_about_many_sites_has_their_count_then_names_and_the_number_of_the_others() {
        assert_eq!(
            shorten_text(&samples::digest()),
            "DOWN 173 sites: connection refused (131), timeout (42); site-1.example.com, site-2.example.com, \
             site-3.example.com, site-4.example.com, site-5.example.com and 168 more \
             https://picket.example.com/incidents"
        );
        let mut long = samples::digest();
        for item in &mut long.items {
            item.name = format!("{} {}", "東".repeat(10), item.name);
        }
        let text = shorten_text(&long);
        assert!(is_short(&text) && text.contains(" more"), "{text}");
    }

    #[test]
    fn a_segment_is_counted_by_its_alphabet() {
        assert!(is_short(&"a".repeat(306)) && !is_short(&"a".repeat(307)));
        assert!(is_short(&"€".repeat(153)) && !is_short(&"€".repeat(154)));
        assert!(is_short(&"東".repeat(134)) && !is_short(&"東".repeat(135)));
        assert!(is_short(&"\u{1f600}".repeat(67)) && !is_short(&"\u{1f600}".repeat(68)));
    }
}
