//! Instruments of tests and benches: real servers, processes, target websites, a fault proxy,
//! waits for conditions, and measurements.
#![warn(missing_docs)]

pub mod builders;
pub mod certificates;
pub mod documented_examples;
pub mod eventually;
pub mod http;
pub mod injected_panic;
pub mod ledger;
pub mod mail_server;
pub mod markup;
pub mod metrics;
pub mod network;
pub mod percentiles;
pub mod proc;
pub mod process;
pub mod proxy;
pub mod receiver;
pub mod servers;
pub mod sse;
pub mod targets;
pub mod tls_proxy;

pub use builders::with_ticket;
pub use eventually::eventually;
pub use metrics::Metrics;
pub use process::Process;
pub use proxy::Proxy;
pub use receiver::Receiver;
pub use tls_proxy::TlsProxy;
