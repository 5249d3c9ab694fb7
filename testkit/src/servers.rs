//! Real servers for tests, on free ports: one Postgres shared by a test process, and a nats-server for who wants one.
//!
//! They are gone when the test process is, however it ended: see `guardian`.

mod disk;
mod nats;
mod postgres;
mod reaper;

use std::{
    env,
    error::Error as _,
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

use picket_servers::{Error, Tools};
use tokio::{process::Command, runtime::Runtime, sync::OnceCell};

pub use disk::Disk;
pub use nats::{TestNats, shared_nats, start_nats, start_nats_on_disk, start_nats_with_config};
pub use picket_servers::Signal;
pub use postgres::{TestPostgres, dump_database, shared_postgres, start_postgres, start_postgres_with_env};

/// How long a server may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// The pinned tools: of `PICKET_TOOLS_DIR`, or of `.tools` at the root, where they are installed if need be.
pub async fn pinned_tools() -> Tools {
    static TOOLS: OnceCell<Tools> = OnceCell::const_new();
    TOOLS.get_or_init(|| run_in_background(install_tools())).await.clone()
}

/// An empty directory that is removed when the test process is gone, with all processes whose command line names it.
///
/// Others can enter it, so that an unprivileged Postgres can.
pub fn scratch_dir(name: &str) -> PathBuf {
    reaper::create_scratch_dir(name)
}

/// A port of 127.0.0.1 on which nobody listens, for a server that may be stopped and started again on it.
///
/// It is below the ports that the system gives to clients: one that tries in vain to connect to a port of those may
/// get the very port for its own end, and be connected to itself.
pub fn non_ephemeral_port() -> u16 {
    const FIRST: u16 = 16_384;
    const COUNT: u16 = 16_384;
    // Test processes run side by side: each begins somewhere else.
    static NEXT: LazyLock<AtomicU16> =
        LazyLock::new(|| AtomicU16::new((process::id() as u16).wrapping_mul(97)));
    (0..COUNT)
        .map(|_| FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("there is a free port")
}

async fn install_tools() -> Tools {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let dir = env::var_os("PICKET_TOOLS_DIR").map_or_else(|| root.join(".tools"), PathBuf::from);
    // Does nothing, quickly, where all is there.
    let status = Command::new(root.join("tools/install")).arg(&dir).status().await;
    let status = status.expect("tools/install runs");
    assert!(status.success(), "tools/install {} failed ({status}); above is why", dir.display());
    Tools::in_dir(Some(&dir))
}

/// Runs on a runtime that lives as long as the process, with a clock that nobody pauses.
///
/// A test's own runtime ends with the test, which shared servers do not, and where its clock is paused a deadline for
/// something real passes at once.
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

/// The value, or a panic that says the whole of the error.
#[track_caller]
fn expect_ok<T>(result: Result<T, Error>) -> T {
    result.unwrap_or_else(|error| {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text += &format!(": {cause}");
            source = cause.source();
        }
        panic!("{text}")
    })
}

/// Starts a server on a free port, and on another one if somebody was quicker.
async fn start_on_free_port<S, F>(mut start: impl FnMut(u16) -> F) -> S
where
    F: Future<Output = Result<S, Error>>,
{
    const TRIES: usize = 5;
    let mut result = start(non_ephemeral_port()).await;
    for _ in 1..TRIES {
        let taken = match &result {
            Err(Error::PortTaken { .. }) => true,
            Err(Error::ExitedAtStart { tail, .. }) => tail.to_lowercase().contains("address already in use"),
            _ => false,
        };
        if !taken {
            break;
        }
        result = start(non_ephemeral_port()).await;
    }
    expect_ok(result)
}
