//! A nats-server for tests, which can be stopped, killed, paused and restarted.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use picket_servers::{DataDir, NatsConfig, Signal, Tools};
use tokio::sync::OnceCell;

use super::{
    Disk, STOP_TIMEOUT, expect_ok, pinned_tools, run_in_background, scratch_dir, start_on_free_port,
};

/// Starts a nats-server with JetStream for the caller alone.
pub async fn start_nats() -> TestNats {
    let tools = pinned_tools().await;
    let data = expect_ok(DataDir::lock(&scratch_dir("nats")));
    start_server(tools, data, |_| None).await
}

/// Starts a nats-server as [`start_nats`] does, with a configuration file. `write` creates the file
/// for the given port and returns its path.
pub async fn start_nats_with_config(write: impl Fn(u16) -> PathBuf + Send + Sync + 'static) -> TestNats {
    let tools = pinned_tools().await;
    let data = expect_ok(DataDir::lock(&scratch_dir("nats")));
    start_server(tools, data, move |port| Some(write(port))).await
}

/// Starts a nats-server as [`start_nats`] does, with its streams on a disk of `mib` MiB. Returns
/// `None` if the system does not allow the mount.
pub async fn start_nats_on_disk(mib: u32) -> Option<(TestNats, Disk)> {
    let program = expect_ok(pinned_tools().await.find_nats_server());
    let data = expect_ok(DataDir::lock(&scratch_dir("nats")));
    let disk = Disk::mount_at(&data.path().join("nats/jetstream"), mib)?;
    // `Tools` finds programs by directory, so the wrapper script takes the name of the server.
    let wrapped = scratch_dir("tools");
    let wrapper = wrapped.join("bin/nats-server");
    fs::create_dir_all(wrapped.join("bin")).expect("a directory can be made");
    fs::write(&wrapper, disk.wrapper_script(&program)).expect("a program can be written");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("and run");
    Some((start_server(Tools::in_dir(Some(&wrapped)), data, |_| None).await, disk))
}

async fn start_server(
    tools: Tools,
    data: DataDir,
    file: impl Fn(u16) -> Option<PathBuf> + Send + Sync + 'static,
) -> TestNats {
    run_in_background(async move {
        let config = |port| NatsConfig { port, ..NatsConfig::default() };
        let mut last = config(0);
        let server = start_on_free_port(|port| {
            last = NatsConfig { config_file: file(port), ..config(port) };
            let (tools, data, config) = (&tools, &data, last.clone());
            async move { picket_servers::Nats::start(tools, data, config).await }
        })
        .await;
        TestNats { config: last, tools, data, server: Some(server) }
    })
    .await
}

/// The nats-server shared by all tests of this process. Each test has its own subjects.
pub async fn shared_nats() -> &'static TestNats {
    static SHARED: OnceCell<TestNats> = OnceCell::const_new();
    SHARED.get_or_init(start_nats).await
}

/// Handle of a nats-server. Kills the server when dropped.
#[derive(Debug)]
pub struct TestNats {
    config: NatsConfig,
    tools: Tools,
    data: DataDir,
    server: Option<picket_servers::Nats>,
}

impl TestNats {
    /// URL for clients. Stays the same across restarts.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.config.port)
    }

    /// Port for clients.
    pub fn port(&self) -> u16 {
        self.config.port
    }

    /// Makes the server reload its configuration.
    pub fn reload_config(&self) {
        self.send_signal(Signal::HUP);
    }

    /// Log of the server so far.
    pub fn read_log(&self) -> String {
        std::fs::read_to_string(self.data.path().join("logs/nats.log")).unwrap_or_default()
    }

    /// Starts the server again with its stored data.
    pub async fn start(&mut self) {
        assert!(self.server.is_none(), "the nats-server runs already");
        let (tools, data, config) = (self.tools.clone(), self.data.clone(), self.config.clone());
        let start = async move { picket_servers::Nats::start(&tools, &data, config).await };
        self.server = Some(expect_ok(run_in_background(start).await));
    }

    /// Stops the server gracefully.
    pub async fn stop(&mut self) {
        let server = self.server.take().expect("the nats-server runs");
        expect_ok(run_in_background(server.stop(STOP_TIMEOUT)).await);
    }

    /// Kills the server (-9).
    pub async fn kill(&mut self) {
        let server = self.server.take().expect("the nats-server runs");
        expect_ok(run_in_background(server.kill()).await);
    }

    /// Stops the server gracefully and starts it again.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    /// Suspends the server until [`resume`](Self::resume). Its connections stay open and get no
    /// answers.
    pub fn pause(&self) {
        self.send_signal(Signal::STOP);
    }

    /// Ends a [`pause`](Self::pause).
    pub fn resume(&self) {
        self.send_signal(Signal::CONT);
    }

    fn send_signal(&self, signal: Signal) {
        expect_ok(self.server.as_ref().expect("the nats-server runs").send_signal(signal));
    }
}
