//! What tests stand on: real servers, hostile targets, a fault proxy, and waiting on states.

pub mod eventually;
pub mod proxy;
pub mod servers;
pub mod target;

pub use eventually::eventually;
pub use proxy::Proxy;
