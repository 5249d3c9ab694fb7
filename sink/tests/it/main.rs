//! The sink against a real nats-server and a real Postgres.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod faults;
mod flow;
mod fuzz;
mod replay;
mod stack;
mod tickets;
