//! Numbers of JSON.

use std::{cmp::Ordering, fmt};

/// A number. Whole numbers of 64 bits are exact.
#[derive(Clone, Copy, Debug)]
pub enum JsonNumber {
    /// A whole number of at least 0.
    Unsigned(u64),
    /// A negative whole number.
    Signed(i64),
    /// Any other number.
    Float(f64),
}

impl JsonNumber {
    /// Parses a number as in JSON.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if let Ok(number) = text.parse() {
            return Some(Self::Unsigned(number));
        }
        match text.parse() {
            Ok(number) => Some(Self::Signed(number)),
            Err(_) => text.parse().ok().filter(|number: &f64| number.is_finite()).map(Self::Float),
        }
    }

    /// The number with the precision of a float.
    #[expect(clippy::cast_precision_loss, reason = "the loss is the meaning")]
    pub fn as_f64(self) -> f64 {
        match self {
            Self::Unsigned(number) => number as f64,
            Self::Signed(number) => number as f64,
            Self::Float(number) => number,
        }
    }

    /// The number as a whole number, if it is one of moderate size.
    #[expect(clippy::cast_possible_truncation, reason = "whole and far below the limit of the type")]
    fn as_integer(self) -> Option<i128> {
        /// Above this bound no whole number of 64 bits can be equal.
        const MAX_FLOAT: f64 = 1e20;
        match self {
            Self::Unsigned(number) => Some(number.into()),
            Self::Signed(number) => Some(number.into()),
            Self::Float(number) if number.fract() == 0.0 && number.abs() < MAX_FLOAT => Some(number as i128),
            Self::Float(_) => None,
        }
    }

    /// Order of two numbers; exact for whole numbers of 64 bits.
    pub fn compare(self, other: Self) -> Option<Ordering> {
        match (self.as_integer(), other.as_integer()) {
            (Some(left), Some(right)) => Some(left.cmp(&right)),
            _ => self.as_f64().partial_cmp(&other.as_f64()),
        }
    }
}

impl From<f64> for JsonNumber {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

impl fmt::Display for JsonNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(number) => number.fmt(f),
            Self::Signed(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
        }
    }
}
