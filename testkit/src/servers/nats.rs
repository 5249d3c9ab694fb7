//! A nats-server for a test, which may be stopped, killed, paused and started again.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use picket_servers::{DataDir, NatsConfig, Signal, Tools};
use tokio::sync::OnceCell;

use super::{
    Disk, STOP_TIMEOUT, expect_ok, pinned_tools, run_in_background, scratch_dir, start_on_free_port,
};

/// Starts a nats-server with JetStream, of the caller alone.
pub async fn start_nats() -> TestNats {
    let tools = pinned_tools().await;
    let data = expect_ok(DataDir::lock(&scratch_dir("nats")));
    start_server(tools, data, |_| None).await
}

/// As [`nats`], with a configuration that `write` makes for the port that it is given, and says the path of.
pub async fn start_nats_with_config(write: impl Fn(u16) -> PathBuf + Send + Sync + 'static) -> TestNats {
    let tools = pinned_tools().await;
    let data = expect_ok(DataDir::lock(&scratch_dir("nats")));
    start_server(tools, data, move |port| Some(write(port))).await
}

/// As [`nats`], with its streams on a disk of `mib` MiB. `None` where the system lets us make no disk.
pub async fn start_nats_on_disk(mib: u32) -> Option<(TestNats, Disk)> {
    let program = expect_ok(pinned_tools().await.find_nats_server());
    let data = expect_ok(DataDir::lock(&scratch_dir("nats")));
    let disk = Disk::mount_at(&data.path().join("nats/jetstream"), mib)?;
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

/// The nats-server that all tests of this process share: each has subjects of its own.
pub async fn shared_nats() -> &'static TestNats {
    static SHARED: OnceCell<TestNats> = OnceCell::const_new();
    SHARED.get_or_init(start_nats).await
}

/// A nats-server. Dropped, it is killed.
#[derive(Debug)]
pub struct TestNats {
    config: NatsConfig,
    tools: Tools,
    data: DataDir,
    server: Option<picket_servers::Nats>,
}

impl TestNats {
    /// Where clients connect to; the same after a restart.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.config.port)
    }

    /// The port for clients.
    pub fn port(&self) -> u16 {
        self.config.port
    }

    /// Has it read its configuration again.
    pub fn reload_config(&self) {
        self.send_signal(Signal::HUP);
    }

    /// What the server has logged so far.
    pub fn read_log(&self) -> String {
        std::fs::read_to_string(self.data.path().join("logs/nats.log")).unwrap_or_default()
    }

    /// Starts it again, with what it had stored.
    pub async fn start(&mut self) {
        assert!(self.server.is_none(), "the nats-server runs already");
        let (tools, data, config) = (self.tools.clone(), self.data.clone(), self.config.clone());
        let start = async move { picket_servers::Nats::start(&tools, &data, config).await };
        self.server = Some(expect_ok(run_in_background(start).await));
    }

    /// Stops it in order.
    pub async fn stop(&mut self) {
        let server = self.server.take().expect("the nats-server runs");
        expect_ok(run_in_background(server.stop(STOP_TIMEOUT)).await);
    }

    /// Kills it (-9).
    pub async fn kill(&mut self) {
        let server = self.server.take().expect("the nats-server runs");
        expect_ok(run_in_background(server.kill()).await);
    }

    /// Stops it in order and starts it again.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    /// Lets it do nothing until [`resume`](Self::resume): its connections stay, and nobody answers on them.
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
