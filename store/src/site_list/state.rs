//! States of sites.

use std::str::FromStr;

use picket_proto::ValidationError;
use serde::Serialize;

/// State of a site, in the order of a list that shows first what needs attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SiteState {
    /// An incident is open, or the site fails in maintenance.
    Down,
    /// No region has a recent result.
    Unknown,
    /// The site cannot be checked.
    Problem,
    /// The site is up.
    Up,
    /// The site is disabled.
    Paused,
}

impl SiteState {
    /// All states, in order.
    pub const ALL_STATES: [Self; 5] = [Self::Down, Self::Unknown, Self::Problem, Self::Up, Self::Paused];

    /// The word for the state.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Unknown => "unknown",
            Self::Problem => "problem",
            Self::Up => "up",
            Self::Paused => "paused",
        }
    }
}

impl FromStr for SiteState {
    type Err = ValidationError;

    fn from_str(word: &str) -> Result<Self, ValidationError> {
        let state = Self::ALL_STATES.into_iter().find(|state| state.as_str() == word);
        state.ok_or_else(|| {
            ValidationError::new("status", word, Self::ALL_STATES.map(Self::as_str).join(", "))
        })
    }
}

impl TryFrom<String> for SiteState {
    type Error = ValidationError;

    fn try_from(word: String) -> Result<Self, ValidationError> {
        word.parse()
    }
}
