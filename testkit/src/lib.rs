//! Test fixtures: real servers, hostile targets, a fault proxy, and waits for conditions.
#![warn(missing_docs)]

pub mod eventually;
pub mod proxy;
pub mod servers;
pub mod target;
pub mod tickets;
pub mod tls_proxy;

pub use eventually::eventually;
pub use proxy::Proxy;
pub use tickets::with_ticket;
pub use tls_proxy::TlsProxy;
