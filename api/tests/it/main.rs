//! The API against a real nats-server and a real Postgres, through real sockets.
#![expect(clippy::unwrap_used, reason = "a test fails without what it needs")]

mod access;
mod channels_and_routes;
mod client;
mod definition;
mod faults;
mod history;
mod notifications;
mod openapi;
mod operations;
mod page_forms;
mod page_scopes;
mod pages;
mod requests;
mod scopes;
mod sign_in;
mod sites;
mod support;
mod tag_limit;
