//! The schedule: sites of the held shards, and the jobs that are due.

mod batch_window;
pub(crate) mod catalog;
pub(crate) mod index;
pub(crate) mod listener;
pub(crate) mod scheduler;
mod state;
pub(crate) mod watermark;
pub(crate) mod wheel;
