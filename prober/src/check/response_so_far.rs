//! Observations of a check up to now.

use std::net::SocketAddr;

use reqwest::{Response, Version};

use super::{
    finding::Finding,
    timing::{Phase, PhaseRecorder},
};

/// Observations up to now; survives a check that is cancelled by its timeout.
#[derive(Default)]
pub(super) struct ResponseSoFar {
    pub(super) http_status: Option<u16>,
    pub(super) http_version: Option<&'static str>,
    pub(super) remote_addr: Option<SocketAddr>,
    pub(super) redirects: u8,
    /// Body bytes read before and after decoding.
    pub(super) raw_bytes: u64,
    pub(super) body_bytes: u64,
    /// Body length announced by the response, before decoding.
    pub(super) body_length: Option<u64>,
    pub(super) regex_matched: Option<bool>,
    /// True if the results of the single assertions are kept in `findings`.
    pub(super) is_explained: bool,
    pub(super) findings: Vec<Finding>,
}

impl ResponseSoFar {
    pub(super) fn record_response(&mut self, response: &Response) {
        self.http_status = Some(response.status().as_u16());
        self.http_version = match response.version() {
            Version::HTTP_10 => Some("1.0"),
            Version::HTTP_11 => Some("1.1"),
            Version::HTTP_2 => Some("2"),
            _ => None,
        };
        self.remote_addr = response.remote_addr();
        self.body_length = response.content_length();
    }

    /// Human-readable description of the current activity.
    pub(super) fn describe_activity(&self, marks: &PhaseRecorder) -> String {
        const SHOWN: usize = 4;
        let stage = marks.phase();
        match stage {
            Phase::Connect => {
                let mut places = marks.candidates();
                let others = places.len().saturating_sub(SHOWN);
                places.truncate(SHOWN);
                let mut places: Vec<String> = places.iter().map(ToString::to_string).collect();
                if others > 0 {
                    places.push(format!("{others} others"));
                }
                format!("{} to {}", stage.activity(), places.join(", "))
            }
            Phase::Transfer => match self.body_length {
                Some(length) => format!("{}: {} of {length} bytes came", stage.activity(), self.raw_bytes),
                None => format!("{}: {} bytes came", stage.activity(), self.raw_bytes),
            },
            stage => stage.activity().to_owned(),
        }
    }
}
