//! The bus as it is shipped, against a real nats-server.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod clock;
mod durability;
mod owners;
