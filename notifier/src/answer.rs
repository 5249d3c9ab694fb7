//! Answers of receivers, and what they mean unless a kind of channel knows better.

use std::time::Duration;

use picket_proto::Timestamp;
use reqwest::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use serde_json::Value;

use crate::attempt::{Attempt, AttemptOutcome};

/// Longest time that a receiver may demand before the next attempt.
pub(crate) const MAX_RETRY_AFTER: Duration = Duration::from_secs(3_600);

/// Answer of a receiver, with the start of its body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// Time of arrival by the wall clock.
    pub(crate) received_at: Timestamp,
}

impl Answer {
    /// The body as JSON; null if it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What the status means.
    pub(crate) fn judge(&self) -> Attempt {
        self.judge_with_delay(self.retry_after())
    }

    /// What the status means, with the delay that the kind's own answer demands.
    pub(crate) fn judge_with_delay(&self, retry_after: Option<Duration>) -> Attempt {
        let retry_after = retry_after.map(|delay| delay.min(MAX_RETRY_AFTER));
        let retry = |is_channel_failing| AttemptOutcome::retry(retry_after, is_channel_failing);
        let outcome = match self.status {
            200..=299 => AttemptOutcome::Delivered { receiver_ref: None },
            // The message itself is at fault, and will be at each attempt.
            400 | 413 | 422 => AttemptOutcome::Refused,
            410 => AttemptOutcome::Gone,
            408 | 425 | 429 | 500..=599 => retry(false),
            // The address, the key or the way of asking is wrong: keys rotate, endpoints are deployed.
            _ => retry(true),
        };
        self.end_with(outcome)
    }

    /// The end of an attempt with this answer as its message.
    pub(crate) fn end_with(&self, outcome: AttemptOutcome) -> Attempt {
        let text = self.text();
        let text = match (self.status, text.trim()) {
            (300..=399, _) => "redirects are not followed",
            (_, "") => "no text",
            (_, text) => text,
        };
        Attempt::new(outcome, Some(self.status), &format!("{}: {text}", self.status))
    }

    /// The end of an attempt that the answer refuses although its status does not say so.
    pub(crate) fn retry_later(&self, is_channel_failing: bool) -> Attempt {
        self.end_with(AttemptOutcome::retry(self.retry_after(), is_channel_failing))
    }

    /// Delay demanded by the header `Retry-After`: seconds, or an HTTP date.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let text = self.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok())?.trim();
        let delay = match text.parse::<f64>() {
            Ok(seconds) => seconds_to_duration(seconds)?,
            // By the receiver's own clock where it tells it: ours may differ.
            Err(_) => {
                let now = parse_http_date(self.headers.get(DATE)).unwrap_or(self.received_at);
                parse_http_date(self.headers.get(RETRY_AFTER))?.saturating_duration_since(now)
            }
        };
        Some(delay.min(MAX_RETRY_AFTER))
    }
}

/// A number of seconds from an answer, at most an hour; `None` if it is no such number.
pub(crate) fn seconds_to_duration(seconds: f64) -> Option<Duration> {
    let clamped = (!seconds.is_nan()).then(|| seconds.min(MAX_RETRY_AFTER.as_secs_f64()));
    Duration::try_from_secs_f64(clamped?).ok()
}

fn parse_http_date(value: Option<&HeaderValue>) -> Option<Timestamp> {
    let moment = httpdate::parse_http_date(value?.to_str().ok()?).ok()?;
    let since_epoch = moment.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).ok()?))
}

#[cfg(test)]
impl Answer {
    /// An answer with a JSON body.
    pub(crate) fn of_json(status: u16, body: &Value) -> Self {
        let received_at = "2026-11-20T12:00:00Z".parse().unwrap();
        Self { status, headers: HeaderMap::new(), body: body.to_string().into_bytes(), received_at }
    }

    /// The same answer with a header.
    pub(crate) fn with_header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().unwrap());
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn retry(seconds: Option<u64>, is_channel_failing: bool) -> AttemptOutcome {
        AttemptOutcome::retry(seconds.map(Duration::from_secs), is_channel_failing)
    }

    #[test]
    fn each_status_has_the_consequence_that_the_rules_give_it() {
        let outcome = |status| Answer::of_json(status, &json!("x")).judge().outcome;
        for status in [200, 201, 202, 204] {
            assert_eq!(outcome(status), AttemptOutcome::Delivered { receiver_ref: None }, "{status}");
        }
        for status in [400, 413, 422] {
            assert_eq!(outcome(status), AttemptOutcome::Refused, "{status}");
        }
        for status in [301, 302, 307, 308, 401, 403, 404, 405, 407] {
            assert_eq!(outcome(status), retry(None, true), "{status}");
        }
        for status in [408, 425, 429, 500, 502, 503, 504] {
            assert_eq!(outcome(status), retry(None, false), "{status}");
        }
        assert_eq!(outcome(410), AttemptOutcome::Gone);
    }

    #[test]
    fn a_demanded_delay_is_read_in_seconds_or_as_a_date_and_is_at_most_an_hour() {
        for (text, date, seconds) in [
            ("30", None, Some(30)),
            (" 1 ", None, Some(1)),
            ("0", None, Some(0)),
            ("86400", None, Some(3_600)),
            ("1e300", None, Some(3_600)),
            ("Fri, 20 Nov 2026 12:05:00 GMT", None, Some(300)),
            // The receiver's clock is ten minutes ahead.
            ("Fri, 20 Nov 2026 12:11:00 GMT", Some("Fri, 20 Nov 2026 12:10:00 GMT"), Some(60)),
            ("Fri, 20 Nov 2026 11:00:00 GMT", None, Some(0)),
            ("-5", None, None),
            ("NaN", None, None),
            ("soon", None, None),
            ("", None, None),
        ] {
            let mut answer = Answer::of_json(429, &json!({})).with_header("retry-after", text);
            if let Some(date) = date {
                answer = answer.with_header("date", date);
            }
            assert_eq!(answer.judge().outcome, retry(seconds, false), "{text}");
        }
    }

    #[test]
    fn the_answer_is_quoted_on_one_line_of_at_most_500_bytes() {
        let mut answer = Answer::of_json(500, &json!(null));
        answer.body = format!("<html>\r\n\u{202e}{}", "x".repeat(10_000)).into_bytes();
        let message = answer.judge().message;
        assert!(message.starts_with("500: <html>") && message.len() <= 500, "{message}");
        assert!(!message.contains(['\r', '\n', '\u{202e}']), "{message}");

        answer.body = vec![0xff, 0xfe, 0x00];
        assert!(answer.judge().message.starts_with("500: "));
        answer.body.clear();
        assert_eq!(answer.judge().message, "500: no text");
    }
}
