//! Incoming results, and the summary of a stored batch.

use std::collections::HashMap;

use picket_proto::{Cause, CheckResult, Outcome, RegionName};

use crate::{incidents::IncidentOutcome, warnings::WarningOutcome};

/// A message received from the bus, and its decoded content.
#[derive(Clone, Copy, Debug)]
pub struct IncomingResult<'a> {
    /// Subject of the message.
    pub subject: &'a str,
    /// Payload of the message; stored if the content cannot be.
    pub payload: &'a [u8],
    /// Decoded content.
    pub content: ResultContent<'a>,
}

/// Decoded content of a message.
#[derive(Clone, Copy, Debug)]
pub enum ResultContent<'a> {
    /// The result of a scheduled check or a confirmation.
    Check(&'a CheckResult),
    /// The result of an ad-hoc check.
    Adhoc(&'a CheckResult),
    /// Reason why the message was rejected.
    Rejected(&'a str),
}

/// Summary of a stored batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InsertSummary {
    /// Number of new rows, by outcome and cause.
    pub new_rows: HashMap<(Outcome, Option<Cause>), u64>,
    /// Number of results stored before.
    pub duplicates: u64,
    /// Number of dead letters received as [`ResultContent::Rejected`].
    pub rejected: u64,
    /// Number of dead letters whose region does not exist.
    pub unknown_region: u64,
    /// Number of dead letters permanently rejected by the database.
    pub refused_by_database: u64,
    /// Reason of one of the dead letters.
    pub first_reason: Option<String>,
    /// Consequences for incidents.
    pub incidents: IncidentOutcome,
    /// Consequences for warnings.
    pub warnings: WarningOutcome,
}

impl InsertSummary {
    /// Total number of new rows.
    pub fn count_inserted(&self) -> u64 {
        self.new_rows.values().sum()
    }

    /// Total number of dead letters.
    pub fn count_dead_letters(&self) -> u64 {
        self.rejected + self.unknown_region + self.refused_by_database
    }
}

/// Ids of the regions by name.
pub(super) type RegionIds = HashMap<RegionName, i16>;

/// Number of rows by outcome and cause.
pub(super) type CountsByOutcome = HashMap<(Outcome, Option<Cause>), u64>;
