//! Sender: delivers messages to channels.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::join_all;
use ipnet::IpNet;
use picket_runtime::{
    AddressPolicy, Secrets,
    name_lookup::{Lookup, system_lookup},
    tls_roots,
};
use tokio::time::Instant;

use crate::{
    attempt::{Attempt, AttemptOutcome},
    channel::{
        ChannelSettings, Destination, HttpDestination, HttpRequest, Keys, Unsendable, email::EmailSender,
        exec::ExecRunner,
    },
    message::Message,
    transport::{Transport, TransportFailure},
};

pub use crate::transport::SenderError;

/// Time that a service has for what it only announced, before its result is looked up.
const FOLLOW_UP_DELAY: Duration = Duration::from_secs(1);

/// Options of a sender.
#[derive(Clone)]
pub struct SenderOptions {
    /// Non-public networks that notifications may go to nevertheless.
    pub allowed_networks: Vec<IpNet>,
    /// PEM file of root certificates to trust in addition to the platform's.
    pub ca_file: Option<PathBuf>,
    /// True if channels may run programs on this machine.
    pub is_exec_allowed: bool,
    /// Function that resolves host names.
    pub lookup: Lookup,
}

impl Default for SenderOptions {
    fn default() -> Self {
        Self { allowed_networks: Vec::new(), ca_file: None, is_exec_allowed: false, lookup: system_lookup() }
    }
}

/// Sends messages to channels that speak HTTP.
pub struct Sender {
    transport: Transport,
    email: EmailSender,
    exec: ExecRunner,
    secrets: Secrets,
}

impl Sender {
    /// Creates a sender that uses `secrets`.
    ///
    /// # Errors
    /// If TLS cannot be set up, for example without root certificates.
    pub fn new(options: SenderOptions, secrets: Secrets) -> Result<Self, SenderError> {
        let roots = tls_roots::load_roots(options.ca_file.as_deref(), "PICKET_NOTIFY_CA_FILE")?;
        let policy = AddressPolicy::new(&options.allowed_networks);
        let email = EmailSender::new(secrets.clone(), policy.clone(), Arc::new(roots.clone()));
        let exec = ExecRunner { is_allowed: options.is_exec_allowed };
        Ok(Self { transport: Transport::new(policy, options.lookup, roots)?, email, exec, secrets })
    }

    /// Makes one attempt to deliver `message`. Ends within the timeout of the channel.
    pub async fn send(&self, channel: &ChannelSettings, message: &Message) -> Attempt {
        match &channel.destination {
            Destination::Http(http) => {
                let (message, note) = http.templates.apply(channel.kind(), message);
                let requests = http.receiver.render(&message, &Keys::new(&self.secrets));
                self.send_all(http, requests).await.with_note(note.as_deref())
            }
            Destination::Email(settings) => self.email.deliver(settings, message).await,
            Destination::Exec(settings) => self.exec.run(settings, message).await,
        }
    }

    /// Tells Alertmanager of all alerts that are firing or ended lately, one a message. `None` for a
    /// channel of another kind, which remembers what it was told.
    pub async fn send_batch(&self, channel: &ChannelSettings, messages: &[Message]) -> Option<Attempt> {
        let Destination::Http(http) = &channel.destination else { return None };
        Some(self.send_all(http, http.receiver.render_batch(messages, &Keys::new(&self.secrets))).await)
    }

    /// Tells a watchdog that the whole chain works, or of its failure. `None` if the channel has no
    /// place for that: its silence tells of failures.
    pub async fn ping(&self, channel: &ChannelSettings, failure: Option<&str>) -> Option<Attempt> {
        let Destination::Http(http) = &channel.destination else { return None };
        match http.receiver.render_ping(failure, &Keys::new(&self.secrets)) {
            Ok(None) => None,
            Ok(Some(ping)) => Some(self.send_all(http, Ok(vec![ping])).await),
            Err(why) => Some(why.into_attempt()),
        }
    }

    async fn send_all(
        &self,
        channel: &HttpDestination,
        requests: Result<Vec<HttpRequest>, Unsendable>,
    ) -> Attempt {
        let requests = match requests {
            Ok(requests) => requests,
            Err(why) => return why.into_attempt(),
        };
        let deadline = Instant::now() + channel.transport.timeout;
        let mut attempts = Vec::new();
        if channel.receiver.sends_all() {
            // A server that does not answer takes no time of the others.
            let sending = requests.into_iter().map(|request| self.send_request(channel, request, deadline));
            attempts = join_all(sending).await;
        } else {
            for request in requests {
                attempts.push(self.send_request(channel, request, deadline).await);
                if attempts.last().is_some_and(|attempt| !attempt.is_delivered()) {
                    break;
                }
            }
        }
        let nothing =
            || Attempt::new(AttemptOutcome::Delivered { receiver_ref: None }, None, "nothing to send");
        channel.receiver.combine(attempts).unwrap_or_else(nothing)
    }

    async fn send_request(
        &self,
        channel: &HttpDestination,
        request: HttpRequest,
        deadline: Instant,
    ) -> Attempt {
        let (receiver, transport) = (&channel.receiver, &channel.transport);
        let answer = match self.transport.exchange(request, transport, deadline).await {
            Ok(answer) => answer,
            Err(TransportFailure { message, is_channel_failing }) => {
                let outcome = AttemptOutcome::retry(None, is_channel_failing);
                return Attempt::new(outcome, None, &message);
            }
        };
        let attempt = receiver.read_answer(&answer);
        let Some(follow_up) = receiver.follow_up(&answer, &Keys::new(&self.secrets)) else { return attempt };
        tokio::time::sleep(FOLLOW_UP_DELAY).await;
        // The receiver has the message; without a second answer the first one holds.
        match self.transport.exchange(follow_up, transport, deadline).await {
            Ok(later) => receiver.read_follow_up(attempt, &later),
            Err(_) => attempt,
        }
    }
}

#[cfg(test)]
mod tests;
