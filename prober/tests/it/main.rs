//! The prober against real servers: websites good and bad, and NATS.

#![expect(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

mod bus;
mod http;
mod jobs;
mod phases;
mod requests;
mod tls;
