//! E-mail over SMTP: one message, one transaction for each recipient.
//!
//! A recipient that the server refuses does not stop the others, and another attempt goes only to
//! recipients that do not have the message yet.

mod compose;
mod connection;
mod failure;
mod progress;
mod session;
mod settings;

use std::{sync::Arc, time::Duration};

use picket_runtime::{address_policy::AddressPolicy, secrets::Secrets};
use rustls::RootCertStore;
use serde_json::Value;
use tokio::time::Instant;

pub use self::settings::{EmailSettings, Security};
use self::{
    compose::compose_mail,
    failure::Failure,
    progress::{Progress, RecipientEnd},
    session::Session,
    settings::Envelope,
};
use crate::{
    attempt::{Attempt, AttemptOutcome},
    message::Message,
};

/// Sends e-mail. Clones share the certificates.
#[derive(Clone)]
pub struct EmailSender {
    secrets: Secrets,
    addresses: AddressPolicy,
    roots: Arc<RootCertStore>,
}

impl EmailSender {
    /// Trusts the authorities in `roots`, if a channel names none. Connects to addresses that
    /// `addresses` allows.
    pub fn new(secrets: Secrets, addresses: AddressPolicy, roots: Arc<RootCertStore>) -> Self {
        Self { secrets, addresses, roots }
    }

    /// Sends `message` to each recipient that does not have it yet. Ends within the timeout of the
    /// settings, and reports what was reached until then.
    pub async fn deliver(&self, settings: &EmailSettings, message: &Message) -> Attempt {
        let envelope = match settings.parse_envelope() {
            Ok(envelope) => envelope,
            Err(refusal) => return Attempt::new(AttemptOutcome::Refused, None, &refusal.to_string()),
        };
        let mut delivery = Delivery {
            sender: self,
            settings,
            envelope: &envelope,
            deadline: Instant::now() + settings.timeout(),
            step_timeout: settings.timeout() / STEPS_PER_TIMEOUT,
            progress: Progress::read(message.receiver_ref.as_ref()),
            template_note: None,
            last_reply: None,
        };
        let failure = delivery.deliver_to_all(message).await.err();
        delivery.conclude(failure)
    }
}

/// Connections and transactions that fit into the timeout of an attempt: a server that stalls in one
/// does not hold up all recipients.
const STEPS_PER_TIMEOUT: u32 = 3;
/// Maximum time for a farewell, whose answer is of no consequence.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);

/// An attempt in progress.
struct Delivery<'a> {
    sender: &'a EmailSender,
    settings: &'a EmailSettings,
    envelope: &'a Envelope,
    deadline: Instant,
    step_timeout: Duration,
    progress: Progress,
    /// Reason why a template was not used.
    template_note: Option<String>,
    /// Code and text of the latest acceptance.
    last_reply: Option<(u16, String)>,
}

impl Delivery<'_> {
    /// # Errors
    /// If the failure concerns all recipients.
    async fn deliver_to_all(&mut self, message: &Message) -> Result<(), Failure> {
        let mut session = None;
        let mut mails = Mails::default();
        for recipient in self.progress.order_waiting(&self.envelope.recipients()) {
            if Instant::now() >= self.deadline {
                return Err(Failure::timeout("the time for this attempt is over; the rest follows"));
            }
            let is_repeat = message.is_repeat || self.progress.is_end_unknown(&recipient);
            let mail = mails.compose_once(self, message, is_repeat)?;
            let mut open = match session.take() {
                Some(open) => open,
                None => self.open_session().await?,
            };
            let step = self.step_deadline();
            let end = open.send_to(&self.envelope.from.email, &recipient, mail, step).await;
            if let RecipientEnd::Delivered { code, text } = &end {
                self.last_reply = Some((*code, text.clone()));
            }
            let concerns_all = end.concerns_all();
            self.progress.record(recipient.as_ref(), &end);
            if let Some(failure) = concerns_all {
                return Err(failure);
            }
            session = open.is_usable().then_some(open);
        }
        if let Some(open) = session {
            open.quit(QUIT_TIMEOUT).await;
        }
        Ok(())
    }

    async fn open_session(&self) -> Result<Session, Failure> {
        let step = self.step_deadline();
        let opened = tokio::time::timeout_at(step, Session::open(self.sender, self.settings)).await;
        opened.unwrap_or_else(|_| {
            Err(Failure::timeout(&format!("{} does not answer in time", self.settings.server_name())))
        })
    }

    fn step_deadline(&self) -> Instant {
        self.deadline.min(Instant::now() + self.step_timeout)
    }

    fn conclude(self, failure: Option<Failure>) -> Attempt {
        let recipients = self.envelope.recipients();
        let summary = self.progress.summarize(&recipients);
        let receiver_ref = self.progress.to_value();
        let mut parts = Vec::new();
        parts.extend(failure.as_ref().map(|failure| failure.text.clone()));
        parts.push(summary.text);
        if failure.is_none() {
            parts.extend(self.last_reply.as_ref().map(|(code, text)| format!("{code} {text}")));
        }
        let status = match &failure {
            Some(failure) => failure.code,
            None => summary.code.or(self.last_reply.map(|(code, _)| code)),
        };
        let outcome = match () {
            () if summary.waiting > 0 => AttemptOutcome::Retry {
                retry_after: None,
                is_channel_failing: failure.is_some_and(|failure| failure.is_channel_failing),
                receiver_ref: Some(receiver_ref),
            },
            () if summary.delivered > 0 => AttemptOutcome::Delivered { receiver_ref: Some(receiver_ref) },
            () => AttemptOutcome::Refused,
        };
        Attempt::new(outcome, status, &parts.join("; ")).with_note(self.template_note.as_deref())
    }
}

/// The message as it is sent, with and without the sentence that it may be a repetition.
#[derive(Default)]
struct Mails([Option<Vec<u8>>; 2]);

impl Mails {
    fn compose_once(
        &mut self,
        delivery: &mut Delivery<'_>,
        message: &Message,
        is_repeat: bool,
    ) -> Result<&[u8], Failure> {
        let place = &mut self.0[usize::from(is_repeat)];
        if place.is_none() {
            let marked = (is_repeat != message.is_repeat).then(|| Message { is_repeat, ..message.clone() });
            let mail = compose_mail(delivery.settings, delivery.envelope, marked.as_ref().unwrap_or(message))
                .map_err(|why| Failure::of_channel(&format!("the message cannot be composed: {why}")))?;
            delivery.template_note = mail.template_note;
            *place = Some(mail.bytes);
        }
        Ok(place.as_deref().unwrap_or_default())
    }
}

/// Recipients that have the message, by what an attempt left.
pub fn delivered_recipients(receiver_ref: Option<&Value>) -> Vec<String> {
    Progress::read(receiver_ref).delivered
}

#[cfg(test)]
mod tests;
