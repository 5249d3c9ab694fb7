//! The prober against real servers: websites good and bad, and NATS.

#![expect(clippy::unwrap_used, reason = "a test fails without what it needs")]

mod addresses;
mod assertion_examples;
mod assertions;
mod bodies;
mod bus;
mod canaries;
mod confirmations;
mod connection_options;
mod floods;
mod fuzz;
mod hostile;
mod http;
mod http2;
mod jobs;
mod memory;
mod named_files;
mod network;
mod overload;
mod phases;
mod politeness;
mod proxies;
mod redirects;
mod requests;
mod secrets;
mod tls;
mod wanted_failures;
