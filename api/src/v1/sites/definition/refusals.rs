//! Refused values of a definition.

use crate::problem::{Problem, ProblemKind};

/// Errors of single values, of which a response has a limited number.
#[derive(Default)]
pub(super) struct Refusals {
    errors: Vec<(String, String)>,
    count: usize,
}

impl Refusals {
    pub(super) const MAX_LISTED: usize = 100;

    /// Adds the refusal of the value at `pointer`.
    pub(super) fn add(&mut self, pointer: String, detail: impl ToString) {
        self.count += 1;
        if self.errors.len() < Self::MAX_LISTED {
            self.errors.push((pointer, detail.to_string()));
        }
    }

    /// # Errors
    /// The problem of all refused values, if there is one.
    pub(super) fn into_result(self) -> Result<(), Problem> {
        let detail = match (self.count, self.errors.first()) {
            (0, _) | (_, None) => return Ok(()),
            (1, Some((_, detail))) => detail.clone(),
            (count, Some((pointer, detail))) => {
                format!(
                    "{count} values are not allowed, and nothing was changed; the first is {pointer}: {detail}"
                )
            }
        };
        let problem = Problem::new(ProblemKind::Invalid, detail);
        Err(self
            .errors
            .into_iter()
            .fold(problem, |problem, (pointer, detail)| problem.with_field_error(pointer, detail)))
    }
}
