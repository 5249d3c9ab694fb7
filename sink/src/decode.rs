//! Decodes the messages of the results stream, and verifies each result. A message that fails
//! becomes a dead letter.

use std::time::Duration;

use async_nats::{Message, Subject};
use bytes::Bytes;
use picket_proto::{
    CheckResult, InstallationId, Tickets, bundle,
    result_message::{self, ResultMessageError},
    subject::ResultSubject,
    validation::sanitize_text,
};
use picket_store::results::{self, IncomingResult};

use crate::database_clock::TimeBounds;

/// A result with its message's subject and its own payload, and the decoded content.
#[derive(Debug)]
pub(crate) struct DecodedResult {
    subject: Subject,
    payload: Bytes,
    pub(crate) content: DecodedContent,
}

/// The content of a result.
#[derive(Debug, PartialEq)]
pub(crate) enum DecodedContent {
    Check(Box<CheckResult>),
    Adhoc(Box<CheckResult>),
    /// The result of another installation's check, which is not stored.
    Foreign(InstallationId),
    Rejected(Rejection),
}

/// Reason why a result is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    /// Label of the metric.
    pub(crate) kind: &'static str,
    pub(crate) reason: String,
}

impl DecodedResult {
    /// The part of the result to store; `None` for a result of another installation.
    pub(crate) fn incoming_result(&self) -> Option<IncomingResult<'_>> {
        let content = match &self.content {
            DecodedContent::Check(result) => results::ResultContent::Check(result),
            DecodedContent::Adhoc(result) => results::ResultContent::Adhoc(result),
            DecodedContent::Rejected(rejection) => results::ResultContent::Rejected(&rejection.reason),
            DecodedContent::Foreign(_) => return None,
        };
        Some(IncomingResult { subject: &self.subject, payload: &self.payload, content })
    }
}

/// Decodes messages, and checks their times against the time of receipt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResultDecoder<'a> {
    pub(crate) retention: Duration,
    pub(crate) tickets: &'a Tickets,
}

impl ResultDecoder<'_> {
    /// Maximum lead of a coordinator's clock over the database clock.
    const MAX_CLOCK_AHEAD: Duration = Duration::from_secs(300);

    /// Decodes the results of a message: at least one, and one per line of a bundle.
    pub(crate) fn decode_message(
        self,
        message: &Message,
        now: TimeBounds,
    ) -> impl Iterator<Item = DecodedResult> {
        let Message { subject, payload, .. } = message;
        let source = result_message::parse_source(subject, payload).map_err(Rejection::from);
        let is_bundle = matches!(source, Ok(ResultSubject::Bundle(_)));
        bundle::split_results(payload, is_bundle).map(move |line| DecodedResult {
            subject: subject.clone(),
            payload: payload.slice_ref(line),
            content: self.decode_result(&source, line, now).unwrap_or_else(DecodedContent::Rejected),
        })
    }

    fn decode_result(
        self,
        source: &Result<ResultSubject, Rejection>,
        payload: &[u8],
        now: TimeBounds,
    ) -> Result<DecodedContent, Rejection> {
        let reject = |reason: String| Rejection { kind: "time", reason };
        let source = source.as_ref().map_err(Rejection::clone)?;
        let result = Box::new(result_message::decode_result(source, payload)?);
        let at = result.scheduled_at;
        // Both bounds are generous: a result is rejected for its time only if all clocks agree.
        if at > now.latest.saturating_add(Self::MAX_CLOCK_AHEAD) {
            let most = Self::MAX_CLOCK_AHEAD.as_secs();
            return Err(reject(format!("scheduled_at: {at} is more than {most} s in the future")));
        }
        if at < now.earliest.saturating_sub(self.retention) {
            let days = self.retention.as_secs() / 86_400;
            return Err(reject(format!("scheduled_at: {at} is more than {days} days ago")));
        }
        match source {
            ResultSubject::Site(..) | ResultSubject::Bundle(_) => self.check_ticket(result),
            // Without a ticket: no job led to the check, and its result opens no incident.
            ResultSubject::Adhoc(_) => Ok(DecodedContent::Adhoc(result)),
        }
    }
}

impl ResultDecoder<'_> {
    /// Verifies the ticket. A prober can write any claim but holds no key, so only the ticket
    /// proves that its region was given the check.
    fn check_ticket(self, result: Box<CheckResult>) -> Result<DecodedContent, Rejection> {
        // Before the ticket, which only the other installation has the key to verify.
        if let Some(other) = result.installation.filter(|id| *id != self.tickets.installation()) {
            return Ok(DecodedContent::Foreign(other));
        }
        match result.verify_ticket(self.tickets) {
            Ok(()) => Ok(DecodedContent::Check(result)),
            Err(why) => Err(Rejection { kind: "ticket", reason: why.to_string() }),
        }
    }
}

impl From<ResultMessageError> for Rejection {
    fn from(error: ResultMessageError) -> Self {
        /// Maximum bytes of untrusted text quoted in a reason.
        const MAX_QUOTED_BYTES: usize = 200;
        let reason = match &error {
            ResultMessageError::Result(why) => sanitize_text(&why.to_string(), MAX_QUOTED_BYTES),
            other => other.to_string(),
        };
        Self { kind: error.kind(), reason }
    }
}

#[cfg(test)]
mod tests {
    use picket_harness::with_ticket;
    use picket_proto::{Cause, CheckKind, Outcome, Shard, SiteId, ticket::TicketKey};

    use super::*;

    const OURS: &str = "6b0f4f6a-7e57-4c1e-9a52-0d6f4b1c2a33";
    const THEIRS: &str = "00000000-0000-4000-8000-000000000000";

    const CHECK: &str = r#"{"v":1,"id":"a","site_id":42,"kind":"scheduled","region":"eu","shard":7,"prober":"p",
        "url":"http://x/","scheduled_at":"2026-11-20T12:00:00.000000Z","outcome":"up"}"#;

    fn open(subject: &str, payload: &str) -> Vec<DecodedResult> {
        let message = Message {
            subject: subject.to_owned().into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        };
        let tickets = tickets(false);
        let judge = ResultDecoder { retention: Duration::from_secs(30 * 86_400), tickets: &tickets };
        let now = "2026-11-20T12:00:01Z".parse().unwrap();
        judge.decode_message(&message, TimeBounds { earliest: now, latest: now }).collect()
    }

    fn tickets(required: bool) -> Tickets {
        let key = TicketKey { id: 1, secret: vec![7; 32], retired_at: None, is_usable: true };
        Tickets::new(OURS.parse().unwrap(), required, &[key])
    }

    fn read(subject: &str, payload: &str) -> DecodedContent {
        let mut decoded = open(subject, payload);
        assert_eq!(decoded.len(), 1);
        decoded.remove(0).content
    }

    #[track_caller]
    fn assert_rejected(subject: &str, payload: &str, kind: &str, reason: &str) {
        match read(subject, payload) {
            DecodedContent::Rejected(unusable) => {
                assert_eq!(unusable.kind, kind, "{unusable:?}");
                assert!(unusable.reason.contains(reason), "{unusable:?}");
            }
            usable => panic!("{usable:?}"),
        }
    }

    #[test]
    fn a_result_on_its_own_subject_is_accepted() {
        let adhoc = CHECK.replace("scheduled\",", "adhoc\",").replace(r#""site_id":42,"#, "");

        assert!(matches!(read("picket.result.eu.7", CHECK), DecodedContent::Check(_)));
        assert!(matches!(read("picket.result.eu.adhoc", &adhoc), DecodedContent::Adhoc(_)));
    }

    #[test]
    fn a_result_with_a_wrong_or_missing_ticket_is_refused() {
        let tickets = tickets(true);
        let judge = ResultDecoder { retention: Duration::from_secs(86_400), tickets: &tickets };
        let good = with_ticket(serde_json::from_str(CHECK).unwrap(), &tickets);
        let judged = |result: &CheckResult| judge.check_ticket(Box::new(result.clone()));

        assert!(matches!(judged(&good), Ok(DecodedContent::Check(_))));
        let at = good.scheduled_at.saturating_add(Duration::from_secs(1));
        for (lie, reason) in [
            (CheckResult { site_id: Some(SiteId(43)), ..good.clone() }, "not made for"),
            (CheckResult { shard: Some(Shard(8)), ..good.clone() }, "not made for"),
            (CheckResult { shard: None, ..good.clone() }, "not made for"),
            (CheckResult { kind: CheckKind::Confirm, ..good.clone() }, "not made for"),
            (CheckResult { scheduled_at: at, ..good.clone() }, "not made for"),
            (CheckResult { expires_at: Some(at), ..good.clone() }, "not made for"),
            (CheckResult { expires_at: None, ..good.clone() }, "not made for"),
            (CheckResult { region: "us".parse().unwrap(), ..good.clone() }, "not made for"),
            (CheckResult { ticket: None, ..good.clone() }, "there is none"),
            (CheckResult { ticket: None, installation: None, ..good.clone() }, "there is none"),
            (CheckResult { ticket: Some("x".repeat(36)), ..good.clone() }, "36 hexadecimal digits"),
        ] {
            match judged(&lie) {
                Err(Rejection { kind: "ticket", reason: why }) => assert!(why.contains(reason), "{why}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_result_of_another_installation_is_not_for_storage() {
        let foreign = CHECK.replace(r#""v":1,"#, &format!(r#""v":1,"installation":"{THEIRS}","#));
        let decoded = open("picket.result.eu.7", &foreign);

        assert_eq!(decoded[0].content, DecodedContent::Foreign(THEIRS.parse().unwrap()));
        assert!(decoded[0].incoming_result().is_none());
    }

    #[test]
    fn a_result_that_contradicts_its_subject_is_refused() {
        let adhoc = CHECK.replace("scheduled\",", "adhoc\",");

        assert_rejected(
            "picket.result.us.7",
            CHECK,
            "contradiction",
            "region: 'eu', but the subject says 'us'",
        );
        assert_rejected("picket.result.eu.8", CHECK, "contradiction", "shard: 7, but the subject says 8");
        assert_rejected("picket.result.eu.adhoc", CHECK, "contradiction", "kind: 'scheduled'");
        assert_rejected("picket.result.eu.7", &adhoc, "contradiction", "kind: 'adhoc'");
        assert_rejected("picket.result.eu.x", CHECK, "subject", "picket.result.<region>.<shard>");
        let nobody = CHECK.replace(r#""site_id":42,"#, "");
        assert_rejected("picket.result.eu.7", &nobody, "contradiction", "site_id");
    }

    #[test]
    fn an_undecodable_or_contradictory_result_is_refused() {
        assert_rejected("picket.result.eu.7", "{", "json", "not a result: EOF");
        assert_rejected("picket.result.eu.7", "{}", "json", "missing field");
        let cause = CHECK.replace(r#""up""#, r#""up","cause":"dns""#);
        assert_rejected("picket.result.eu.7", &cause, "contradiction", "'dns' does not explain 'up'");
    }

    #[test]
    fn words_of_a_newer_version_are_kept_or_named() {
        let with = |fields: &str| CHECK.replace(r#""outcome":"up""#, fields);

        let cause = read("picket.result.eu.7", &with(r#""outcome":"down","cause":"future_cause""#));
        match cause {
            DecodedContent::Check(result) => {
                assert_eq!((result.outcome, result.cause), (Outcome::Down, Some(Cause::Other)));
                assert_eq!(result.message.as_deref(), Some("future_cause"));
            }
            other => panic!("{other:?}"),
        }
        let up = with(r#""outcome":"up","cause":"future_cause""#);
        assert_rejected("picket.result.eu.7", &up, "contradiction", "'other' does not explain 'up'");
        let required = with(r#""outcome":"up","requires":["result.future"]"#);
        assert_rejected("picket.result.eu.7", &required, "unsupported", "'result.future'");
        let details = with(&format!(r#""outcome":"up","details":{{"a":"{}"}}"#, "x".repeat(3_000)));
        assert_rejected("picket.result.eu.7", &details, "details", "at most 2048");
    }

    #[test]
    fn a_tick_in_the_future_or_before_the_oldest_row_is_refused() {
        let at = |time: &str| CHECK.replace("2026-11-20T12:00:00", time);

        assert_rejected("picket.result.eu.7", &at("2026-11-20T12:06:00"), "time", "300 s in the future");
        assert_rejected("picket.result.eu.7", &at("2026-10-20T12:00:00"), "time", "30 days ago");
        assert!(matches!(read("picket.result.eu.7", &at("2026-11-20T12:04:00")), DecodedContent::Check(_)));
        assert!(matches!(read("picket.result.eu.7", &at("2026-10-22T12:00:00")), DecodedContent::Check(_)));
    }

    #[test]
    fn each_line_of_a_bundle_is_decoded_and_refused_separately() {
        let check = CHECK.replace('\n', " ");
        let elsewhere = check.replace(r#""eu""#, r#""us""#);
        let adhoc = check.replace("scheduled\",", "adhoc\",");
        let lines = [check.as_str(), "{", &elsewhere, "", &adhoc, &check];

        let decoded = open("picket.result.eu.bundle", &lines.join("\n"));

        assert_eq!(decoded.len(), lines.len());
        for (result, line) in decoded.iter().zip(lines) {
            let entry = result.incoming_result().unwrap();
            assert_eq!((entry.subject, entry.payload), ("picket.result.eu.bundle", line.as_bytes()));
            assert_eq!(matches!(result.content, DecodedContent::Check(_)), line == check, "{result:?}");
        }
        assert_rejected("picket.result.eu.bundle", "", "json", "not a result: EOF");
    }

    #[test]
    fn an_oversized_bundle_is_one_dead_letter() {
        let lines = |number: usize| vec![""; number].join("\n");
        assert_eq!(
            open("picket.result.eu.bundle", &lines(bundle::MAX_ACCEPTED_RESULTS)).len(),
            bundle::MAX_ACCEPTED_RESULTS
        );
        let most = lines(bundle::MAX_ACCEPTED_RESULTS + 1);
        assert_rejected("picket.result.eu.bundle", &most, "bundle", "more than 512 results in one message");
    }
}
