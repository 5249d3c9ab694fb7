//! Limits of concurrent checks, and of the memory of regexes.

pub(crate) mod host_limiter;
pub(crate) mod lane;
pub(crate) mod regex_cache;
