//! Spans of time in queries.

use std::time::Duration;

use picket_proto::{Timestamp, ValidationError};
use picket_store::site_history::Span;

use crate::problem::Problem;

/// Longest span of a query.
pub(super) const MAX_SPAN: Duration = Duration::from_secs(Span::MAX_DAYS * 86_400);

/// # Errors
/// If the span ends before it begins, or is longer than [`MAX_SPAN`].
pub(super) fn check_span(from: Timestamp, to: Timestamp) -> Result<(), Problem> {
    let (name, value, allowed) = match () {
        () if to <= from => ("to", to, format!("a time after {from}")),
        () if to.saturating_duration_since(from) > MAX_SPAN => {
            ("from", from, format!("at most 400 days before {to}"))
        }
        () => return Ok(()),
    };
    Err(Problem::invalid_field(format!("?{name}"), &ValidationError::new(name, value, allowed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_at_most_400_days_long_and_ends_after_it_begins() {
        let to = Timestamp::from_millis(1_795_176_000_000);

        check_span(to.saturating_sub(MAX_SPAN), to).unwrap();
        for from in [to, to.saturating_sub(MAX_SPAN + Duration::from_secs(1))] {
            assert!(check_span(from, to).unwrap_err().detail().contains("allowed: a"));
        }
    }
}
