//! The schedule: sites of the held shards, and the jobs that are due.

mod batch_window;
pub mod catalog;
pub mod index;
pub(crate) mod listener;
pub mod scheduler;
mod state;
pub mod watermark;
pub mod wheel;
