//! Result of a single assertion.

use picket_proto::Cause;

/// Name of the list of findings in the details of an explained result.
pub const EXPLANATION_KEY: &str = "assertions";

/// Result of one assertion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// Name of the assertion, such as `json[0]`.
    pub(super) name: String,
    pub(super) status: FindingStatus,
    /// Description of the response's part that the assertion is about.
    pub(super) found: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FindingStatus {
    Passed,
    /// The response is not as asserted.
    Failed(Cause),
    /// The body was cut, or the steps were used up, before the assertion was decided.
    Undecided(Cause),
}
