//! Live streams, ad-hoc checks and Prometheus, against real servers and a real prober.
#![expect(clippy::unwrap_used, reason = "a test fails without what it needs")]

mod checks;
mod faults;
mod first_checks;
mod prometheus;
mod stack;
mod streams;
