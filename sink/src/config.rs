//! Configuration of a sink.

use std::time::Duration;

use crate::options::Options;

/// Configuration of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Approximate maximum results per transaction.
    pub batch_size: u32,
    /// Maximum time that a result waits for a batch to fill.
    pub batch_age: Duration,
    /// Maximum time to write fetched results at shutdown.
    pub drain_timeout: Duration,
}

impl Config {
    /// Size of a plain result in a message of its own, with protocol overhead. Other results are
    /// larger.
    const RESULT_BYTES: usize = 672;
    /// Minimum bytes per pull request. A message larger than the limit would never be delivered.
    const MIN_PULL_BYTES: usize = 256 << 10;

    /// Maximum messages and bytes of a pull request. The byte limit matters because the number of
    /// results in a bundle is unknown before delivery.
    pub(crate) fn pull_limits(&self) -> (usize, usize) {
        let results = self.batch_size as usize;
        (results, (results * Self::RESULT_BYTES).max(Self::MIN_PULL_BYTES))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            batch_size: 8_000,
            batch_age: Duration::from_millis(250),
            drain_timeout: Duration::from_secs(15),
        }
    }
}

impl From<Options> for Config {
    fn from(options: Options) -> Self {
        Self {
            batch_size: options.batch_size,
            batch_age: options.batch_age.0,
            drain_timeout: options.drain_timeout.0,
        }
    }
}
