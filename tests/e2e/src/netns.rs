//! Network lab on a single machine: network namespaces as hosts with their own addresses, connected
//! by a router that can drop packets.
//!
//! A test that needs the lab is run again in its own network, which becomes the hub: NATS,
//! Postgres, coordinators and sinks started by the test run at the hub. Child processes hold the
//! other hosts. A namespace ends with its last process, so no test leaves anything behind, however
//! the test ended. Root is not required if the system allows users to create namespaces.

use std::{
    env,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use picket_harness::{network::NetworkNamespace, targets::Target};
use tokio::runtime::Handle;

use crate::fault_test;

/// Environment variable set in the inner test, which runs in its own network.
const INSIDE_ENV: &str = "PICKET_E2E_HOSTS";
/// Maximum time of an inner test.
const INNER_TEST_TIMEOUT: Duration = Duration::from_secs(900);

/// Hosts of the lab: the hub, the regions, and the world with the sites. Every packet between hosts
/// passes the router.
#[derive(Debug)]
pub struct NetnsLab {
    router: LabHost,
    hub: LabHost,
    world: LabHost,
    regions: Vec<(&'static str, LabHost)>,
}

/// Host in the lab.
#[derive(Clone, Debug)]
pub struct LabHost {
    number: u8,
    pid: u32,
    network: NetworkNamespace,
    _holder: Option<Arc<NamespaceHolder>>,
}

/// Child process that holds a namespace. Killed when dropped.
#[derive(Debug)]
struct NamespaceHolder(Child);

impl Drop for NamespaceHolder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl NetnsLab {
    /// Creates the hosts for the test with this path in the test program. Returns `None` in the
    /// outer test: by then the inner test has passed in its own network, or the system does not
    /// allow namespaces, which is printed.
    pub async fn enter(test: &str, regions: &[&'static str]) -> Option<Self> {
        if env::var_os(INSIDE_ENV).is_some() {
            return Some(Self::new(regions));
        }
        let unshare = || {
            let mut command = tokio::process::Command::new("unshare");
            if !rustix::process::geteuid().is_root() {
                // Keeps the user, because Postgres refuses root, and adds the capabilities for the
                // namespace's network.
                command.args(["--user", "--map-current-user", "--keep-caps"]);
            }
            command.arg("--net");
            command
        };
        let probe =
            unshare().args(["sh", "-c", LabHost::CAPABILITY_SCRIPT]).stdin(Stdio::null()).output().await;
        if !probe.as_ref().is_ok_and(|output| output.status.success()) {
            let why = probe.map(|output| String::from_utf8_lossy(&output.stderr).trim().to_owned());
            eprintln!("NOT TESTED: {test}: this system does not allow network namespaces: {why:?}");
            return None;
        }
        let _test_slot = fault_test::acquire_test_slot().await;
        let executable = env::current_exe().expect("a program has a path");
        let run = unshare()
            .arg(executable)
            .args(["--exact", test, "--include-ignored", "--nocapture"])
            .env(INSIDE_ENV, "1")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output =
            tokio::time::timeout(INNER_TEST_TIMEOUT, run).await.expect("it ends in time").expect("it runs");
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let passed = output.status.success() && stdout.contains("1 passed");
        assert!(passed, "{test} in its own network: {}\n{stdout}\n{stderr}", output.status);
        None
    }

    fn new(names: &[&'static str]) -> Self {
        let router = LabHost::new(0);
        router.run_shell("echo 1 >/proc/sys/net/ipv4/ip_forward");
        let hub = LabHost::current(1);
        hub.run_shell("ip link set lo up");
        let world = LabHost::new(2);
        let regions: Vec<_> = (3..).zip(names).map(|(number, name)| (*name, LabHost::new(number))).collect();
        for host in [&hub, &world].into_iter().chain(regions.iter().map(|(_, host)| host)) {
            let (number, pid, address, gateway) = (host.number, host.pid, host.address(), host.gateway());
            router.run_shell(&format!(
                "ip link add to-{number} type veth peer name eth0 netns {pid} &&
                 ip address add {gateway}/24 dev to-{number} && ip link set to-{number} up"
            ));
            host.run_shell(&format!(
                "ip address add {address}/24 dev eth0 && ip link set eth0 up && ip route add default via {gateway}"
            ));
        }
        Self { router, hub, world, regions }
    }

    /// Host of the servers and of the test itself.
    pub fn hub(&self) -> &LabHost {
        &self.hub
    }

    /// Host of the sites.
    pub fn world(&self) -> &LabHost {
        &self.world
    }

    /// Host of the probers of `region`.
    pub fn region_host(&self, region: &str) -> &LabHost {
        let host = self.regions.iter().find(|(name, _)| *name == region);
        &host.expect("a region of these hosts").1
    }

    /// Starts a website in the world.
    pub fn start_website(&self) -> Target {
        self.start_website_at(80)
    }

    /// Starts a website in the world at `port`, which makes it a host of its own.
    pub fn start_website_at(&self, port: u16) -> Target {
        let address = SocketAddr::from((self.world.address(), port));
        let runtime = Handle::current();
        self.world
            .run_inside(|| runtime.block_on(Target::serve_http_at(address)))
            .expect("the world has a free port")
    }

    /// Drops all packets between two hosts in both directions without notice: a partition, not a
    /// refusal.
    pub fn cut_link(&self, first: &LabHost, second: &LabHost) {
        self.edit_rules("add", first, second);
    }

    /// Ends a [`cut_link`](Self::cut_link).
    pub fn restore_link(&self, first: &LabHost, second: &LabHost) {
        self.edit_rules("delete", first, second);
    }

    /// Removes all routes of `host` except the one to the hub. The host still reaches the bus, and
    /// its own system reports all other addresses as unreachable.
    pub fn remove_routes(&self, host: &LabHost) {
        let (hub, gateway) = (self.hub.address(), host.gateway());
        host.run_shell(&format!("ip route add {hub} via {gateway} && ip route delete default"));
    }

    /// Ends a [`remove_routes`](Self::remove_routes).
    pub fn restore_routes(&self, host: &LabHost) {
        host.run_shell(&format!("ip route add default via {}", host.gateway()));
    }

    /// Replaces the default gateway of `host` by one that does not exist, except towards the hub. The
    /// host still reaches the bus, and its packets to all other addresses end on its own network.
    pub fn silence_gateway(&self, host: &LabHost) {
        let (hub, gateway) = (self.hub.address(), host.gateway());
        let nobody = Ipv4Addr::new(10, 77, host.number, 99);
        host.run_shell(&format!("ip route add {hub} via {gateway} && ip route replace default via {nobody}"));
    }

    /// Ends a [`silence_gateway`](Self::silence_gateway).
    pub fn restore_gateway(&self, host: &LabHost) {
        host.run_shell(&format!("ip route replace default via {}", host.gateway()));
    }

    fn edit_rules(&self, verb: &str, first: &LabHost, second: &LabHost) {
        let rule = |from: &LabHost, to: &LabHost| {
            format!("ip rule {verb} from {} to {} blackhole", from.address(), to.address())
        };
        self.router.run_shell(&format!("{} && {}", rule(first, second), rule(second, first)));
    }
}

impl LabHost {
    /// Script that fails unless the system allows everything that hosts need.
    const CAPABILITY_SCRIPT: &str = "set -e
        ip link add one type veth peer name other
        ip address add 10.77.0.1/24 dev one
        ip rule add from 10.77.0.1 to 10.77.0.2 blackhole
        echo 1 >/proc/sys/net/ipv4/ip_forward";

    fn new(number: u8) -> Self {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo up && exec cat >/dev/null"])
            // The holder ends with this pipe, even if the test process is killed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is there");
        let mut line = String::new();
        let up_line = holder.stdout.take().map(|up_line| BufReader::new(up_line).read_line(&mut line));
        assert!(matches!(up_line, Some(Ok(_))) && line.trim() == "up", "a host is up");
        let pid = holder.id();
        Self { _holder: Some(Arc::new(NamespaceHolder(holder))), ..Self::from_pid(number, pid) }
    }

    /// Host of this process's network.
    fn current(number: u8) -> Self {
        Self::from_pid(number, std::process::id())
    }

    fn from_pid(number: u8, pid: u32) -> Self {
        Self { number, pid, network: NetworkNamespace::of_process(pid), _holder: None }
    }

    /// Network of this host.
    pub fn network(&self) -> NetworkNamespace {
        self.network.clone()
    }

    /// Address of the host. Each host has its own network.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 2)
    }

    fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 1)
    }

    /// Runs `work` in the network of this host. Sockets and processes created by `work` belong to
    /// the host.
    pub fn run_inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.network.run_inside(work)
    }

    /// Runs a shell command on this host. Panics if the command fails.
    fn run_shell(&self, script: &str) {
        let output =
            self.run_inside(|| Command::new("sh").args(["-c", script]).stdin(Stdio::null()).output());
        let output = output.expect("there is a shell");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
