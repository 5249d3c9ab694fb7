//! The pinned nats-server and Postgres as child processes, for `picket up` and for tests.
//!
//! ```no_run
//! # async fn example() -> Result<(), picket_servers::Error> {
//! use std::{path::Path, time::Duration};
//!
//! use picket_servers::{DataDir, Nats, NatsConfig, Postgres, PostgresConfig, Tools};
//!
//! let tools = Tools::in_dir(Some(Path::new(".tools")));
//! let data = DataDir::lock(Path::new(".picket"))?;
//! let mut nats = Nats::start(&tools, &data, NatsConfig::default()).await?;
//! let mut postgres = Postgres::start(&tools, &data, PostgresConfig::default()).await?;
//! println!("{} {}", nats.url(), postgres.url());
//!
//! tokio::select! {
//!     error = nats.wait_exited() => eprintln!("{error}"),
//!     error = postgres.wait_exited() => eprintln!("{error}"),
//! }
//! postgres.stop(Duration::from_secs(10)).await?;
//! nats.stop(Duration::from_secs(10)).await
//! # }
//! ```
//!
//! Each server runs in its own process group, so Ctrl-C in a terminal does not stop it before the
//! processes that use it. A killed owner leaves its servers running; the next start in the same
//! [`DataDir`] finds and stops them.
#![warn(missing_docs)]

mod data_dir;
mod error;
mod log_file;
mod nats;
mod orphans;
mod port;
mod postgres;
pub mod private_file;
mod server;
mod tools;

pub use data_dir::DataDir;
pub use error::Error;
pub use log_file::rotate_if_full;
pub use nats::{Nats, NatsConfig};
pub use port::free_port;
pub use postgres::{Postgres, PostgresConfig};
pub use server::Signal;
pub use tools::{PostgresTools, Tools};
