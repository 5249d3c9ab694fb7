//! Deadlines that all parts of the tests share.

use std::time::Duration;

/// Maximum time of a wait.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(90);
