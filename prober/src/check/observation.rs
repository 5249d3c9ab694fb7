//! What a check observed.

use std::net::SocketAddr;

use picket_proto::{Cause, Outcome, Timestamp, Timing, Warning, result::Details};
use picket_runtime::{NetworkScope, clock};

use super::failure::Failure;

/// Observations of a check.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Start by the wall clock.
    pub started_at: Timestamp,
    /// Outcome of the check.
    pub outcome: Outcome,
    /// Cause if the outcome is not `up`.
    pub cause: Option<Cause>,
    /// Human-readable explanation of the cause.
    pub message: Option<String>,
    /// Status of the last response.
    pub http_status: Option<u16>,
    /// HTTP version of the last response: `1.0`, `1.1` or `2`.
    pub http_version: Option<&'static str>,
    /// Peer address of the last connection.
    pub remote_addr: Option<SocketAddr>,
    /// Duration of each phase; for a failed check up to the point of failure.
    pub timing: Timing,
    /// Redirects followed.
    pub redirects: u8,
    /// Decoded body bytes read: to the end of the body or to the limit.
    pub body_bytes: u64,
    /// Result of `regex`, if decided.
    pub regex_matched: Option<bool>,
    /// Earliest expiry of all certificates in the redirect chain.
    pub tls_expires_at: Option<Timestamp>,
    /// Properties of an `up` result that need attention.
    pub warnings: Vec<Warning>,
    /// Observations that depend on the type of check.
    pub details: Option<Details>,
    /// Part of the network that the last hop needed.
    pub(crate) network_scope: NetworkScope,
}

impl Observation {
    /// Observation of a check that could not begin.
    pub(super) fn of_missed(failure: Failure) -> Self {
        Self {
            started_at: clock::wall_clock_now(),
            outcome: failure.cause.outcome().unwrap_or(Outcome::Missed),
            cause: Some(failure.cause),
            message: Some(failure.message),
            http_status: None,
            http_version: None,
            remote_addr: None,
            timing: Timing::default(),
            redirects: 0,
            body_bytes: 0,
            regex_matched: None,
            tls_expires_at: None,
            warnings: Vec::new(),
            details: None,
            network_scope: NetworkScope::Internet,
        }
    }
}
