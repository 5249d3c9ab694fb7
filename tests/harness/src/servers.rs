//! Real servers for tests, on free ports: a Postgres shared by a test process, and a nats-server
//! for each test that needs its own.
//!
//! All servers end with the test process, however the process ends: see `reaper`.

mod disk;
mod nats;
mod postgres;
mod reaper;

use std::{
    env,
    future::Future,
    net::TcpListener,
    path::PathBuf,
    process,
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use picket_runtime::ErrorChain;
use picket_servers::{Error, Tools};
use tokio::{process::Command, runtime::Runtime, sync::OnceCell};

pub use disk::Disk;
pub use nats::{TestNats, shared_nats, start_nats, start_nats_on_disk, start_nats_with_config};
pub use picket_servers::Signal;
pub use postgres::{TestPostgres, dump_database, shared_postgres, start_postgres, start_postgres_with_env};

/// Maximum time for a server to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Pinned tools: in `PICKET_TOOLS_DIR`, or in `.tools` at the root, installed if missing.
pub async fn pinned_tools() -> Tools {
    static TOOLS: OnceCell<Tools> = OnceCell::const_new();
    TOOLS.get_or_init(|| run_in_background(install_tools())).await.clone()
}

/// Creates an empty directory. The directory is removed after the end of the test process, and all
/// processes whose command line names it are killed.
///
/// Other users can enter the directory, because Postgres runs unprivileged.
pub fn scratch_dir(name: &str) -> PathBuf {
    reaper::create_scratch_dir(name)
}

/// Returns a free port of 127.0.0.1 for a server that may be stopped and restarted on the same
/// port.
///
/// The port lies below the ephemeral range. A client that connects to an unused ephemeral port may
/// be assigned this very port as its own, and then connects to itself.
pub fn non_ephemeral_port() -> u16 {
    const FIRST_PORT: u16 = 16_384;
    const PORT_COUNT: u16 = 16_384;
    // Test processes run in parallel, so each starts at a different port.
    static NEXT: LazyLock<AtomicU16> =
        LazyLock::new(|| AtomicU16::new((process::id() as u16).wrapping_mul(97)));
    (0..PORT_COUNT)
        .map(|_| FIRST_PORT + NEXT.fetch_add(1, Ordering::Relaxed) % PORT_COUNT)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("there is a free port")
}

/// Directory of the pinned tools and packages.
pub(crate) fn tools_dir() -> PathBuf {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    env::var_os("PICKET_TOOLS_DIR").map_or_else(|| root.join(".tools"), PathBuf::from)
}

async fn install_tools() -> Tools {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let dir = tools_dir();
    // Quick if all tools are installed.
    let status = Command::new(root.join("tools/install")).arg(&dir).status().await;
    let status = status.expect("tools/install runs");
    assert!(status.success(), "tools/install {} failed ({status}); above is why", dir.display());
    Tools::in_dir(Some(&dir))
}

/// Runs `future` on a runtime that lives as long as the process, with a clock that is never paused.
///
/// A test's own runtime ends with the test, before shared servers end. If its clock is paused, a
/// deadline for a real event expires at once.
async fn run_in_background<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        let builder = &mut tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("servers").enable_all().build().expect("a runtime starts")
    });
    RUNTIME.spawn(future).await.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => panic!("{error}"),
    })
}

/// Returns the value, or panics with the error and all its causes.
#[track_caller]
fn expect_ok<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|error| panic!("{}", ErrorChain(&error)))
}

/// Starts a server on a free port. Retries on another port if the port has been taken meanwhile.
async fn start_on_free_port<S, F>(mut start: impl FnMut(u16) -> F) -> S
where
    F: Future<Output = Result<S, Error>>,
{
    const MAX_ATTEMPTS: usize = 5;
    let mut result = start(non_ephemeral_port()).await;
    for _ in 1..MAX_ATTEMPTS {
        let is_port_taken = match &result {
            Err(Error::PortTaken { .. }) => true,
            Err(Error::ExitedAtStart { tail, .. }) => tail.to_lowercase().contains("address already in use"),
            _ => false,
        };
        if !is_port_taken {
            break;
        }
        result = start(non_ephemeral_port()).await;
    }
    expect_ok(result)
}
