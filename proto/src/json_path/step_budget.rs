//! The bound for the work of selections and searches.

use crate::{Pattern, pattern::SearchStatus};

/// Steps that are left for selections and searches. A step visits one value, and takes some
/// nanoseconds.
#[derive(Debug)]
pub struct StepBudget {
    left: u64,
    taken: u64,
}

/// The steps of a [`StepBudget`] are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the steps are used up")]
pub struct BudgetExhausted;

impl StepBudget {
    /// A budget of `steps` steps.
    pub fn new(steps: u64) -> Self {
        Self { left: steps, taken: 0 }
    }

    /// Takes `steps` steps.
    ///
    /// # Errors
    /// If fewer are left.
    pub fn take(&mut self, steps: u64) -> Result<(), BudgetExhausted> {
        self.taken = self.taken.saturating_add(steps);
        match self.left.checked_sub(steps) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(BudgetExhausted)
            }
        }
    }

    /// Steps taken so far.
    pub fn taken(&self) -> u64 {
        self.taken
    }
}

/// Returns true if `pattern` matches `text`.
///
/// # Errors
/// If the search takes more steps than are left.
pub fn search_text(pattern: &Pattern, text: &str, budget: &mut StepBudget) -> Result<bool, BudgetExhausted> {
    /// Maximum steps of a search that is not counted step by step.
    const MAX_UNCOUNTED_STEPS: u64 = 1 << 13;
    /// Cost of the beginning of a search, as measured: the memory of the state cache.
    const START_STEPS: u64 = 16;
    const COUNTED_START_STEPS: u64 = 1 << 10;
    let most = pattern.max_steps(text.len());
    if most <= MAX_UNCOUNTED_STEPS {
        budget.take(START_STEPS + most / 4)?;
        return Ok(pattern.regex().is_match(text.as_bytes()));
    }
    budget.take(COUNTED_START_STEPS)?;
    let mut search = pattern.start_search();
    let status = search.resume(text.as_bytes(), true, budget.left);
    budget.take(search.steps_taken())?;
    match status {
        SearchStatus::Matched => Ok(true),
        SearchStatus::NotMatched => Ok(false),
        SearchStatus::Interrupted => Err(BudgetExhausted),
    }
}
