//! The prober against real servers: websites good and bad, and NATS.

#![expect(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

mod addresses;
mod bus;
mod canaries;
mod fuzz;
mod http;
mod jobs;
mod overload;
mod phases;
mod politeness;
mod requests;
mod server;
mod tls;
