//! A system on this machine: coordinator, probers, sink and API in one process, with a local NATS and
//! Postgres. `picket up`, `picket down` and `picket demo` are this library's commands.
#![warn(missing_docs)]

mod banner;
mod config;
mod connection_files;
mod demo;
mod down;
mod env_file;
mod error;
mod log;
mod secrets_file;
mod servers;
mod service_file;
mod services;
mod system;

pub use self::{
    config::Config,
    demo::{DEMO_TAG, Demo, DemoSite, demo_sites},
    down::stop_system,
    error::Error,
    secrets_file::{OwnSecret, secrets_path, write_own_secret},
    system::{AppliedSites, run_system},
};
