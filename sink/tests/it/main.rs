//! The sink against a real nats-server and a real Postgres.
#![expect(clippy::unwrap_used, reason = "a test fails without what it needs")]

mod faults;
mod flow;
mod fuzz;
mod replay;
mod stack;
mod tickets;
