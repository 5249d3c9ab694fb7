//! The prober against real servers: websites good and bad, and NATS.

#![expect(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

mod bodies;
mod bus;
mod hostile;
mod http;
mod http2;
mod jobs;
mod memory;
mod network;
mod phases;
mod redirects;
mod requests;
mod tls;
