//! Hosts with addresses of their own, on one machine: network namespaces, joined by a router that can lose packets.
//!
//! A test that wants them is run once more in a network of its own, which becomes the hub: what it starts there (NATS,
//! Postgres, coordinators, sinks) is the hub's. The other hosts are held by children. A namespace ends with its last
//! process, so that nothing is left behind, however the test ended; and nobody need be root where users may make
//! namespaces.

use std::{
    env,
    fs::File,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use picket_testkit::target::Target;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::Handle;

use crate::fault_test;

/// Set in the test that runs in a network of its own.
const INSIDE_ENV: &str = "PICKET_E2E_HOSTS";
/// How long such a test may take.
const INNER_TEST_TIMEOUT: Duration = Duration::from_secs(900);

/// The hub, the regions, and the world with the sites; every packet from one to another goes through the router.
#[derive(Debug)]
pub struct NetnsLab {
    router: LabHost,
    hub: LabHost,
    world: LabHost,
    regions: Vec<(&'static str, LabHost)>,
}

/// One host.
#[derive(Clone, Debug)]
pub struct LabHost {
    number: u8,
    pid: u32,
    namespace: Arc<File>,
    _holder: Option<Arc<NamespaceHolder>>,
}

/// A child that holds a namespace, and ends with us.
#[derive(Debug)]
struct NamespaceHolder(Child);

impl Drop for NamespaceHolder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl NetnsLab {
    /// Hosts for the test of this name (its path in the test program). `None` in the test as it was started: it has been
    /// run to its good end in a network of its own by then, or, and that is printed, this system does not let it.
    pub async fn enter(test: &str, regions: &[&'static str]) -> Option<Self> {
        if env::var_os(INSIDE_ENV).is_some() {
            return Some(Self::new(regions));
        }
        let unshare = || {
            let mut command = tokio::process::Command::new("unshare");
            if !rustix::process::geteuid().is_root() {
                // The same user, for Postgres does not run as root, but with power over networks of its own.
                command.args(["--user", "--map-current-user", "--keep-caps"]);
            }
            command.arg("--net");
            command
        };
        let may =
            unshare().args(["sh", "-c", LabHost::CAPABILITY_SCRIPT]).stdin(Stdio::null()).output().await;
        if !may.as_ref().is_ok_and(|output| output.status.success()) {
            let why = may.map(|output| String::from_utf8_lossy(&output.stderr).trim().to_owned());
            eprintln!("NOT TESTED: {test}: this system lets us make no hosts (network namespaces): {why:?}");
            return None;
        }
        let _place = fault_test::acquire_test_slot().await;
        let this = env::current_exe().expect("a program has a path");
        let run = unshare()
            .arg(this)
            .args(["--exact", test, "--include-ignored", "--nocapture"])
            .env(INSIDE_ENV, "1")
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output =
            tokio::time::timeout(INNER_TEST_TIMEOUT, run).await.expect("it ends in time").expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        let passed = output.status.success() && said.contains("1 passed");
        assert!(passed, "{test} in a network of its own: {}\n{said}\n{complained}", output.status);
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

    /// Where the servers are, and the test itself.
    pub fn hub(&self) -> &LabHost {
        &self.hub
    }

    /// Where the sites are.
    pub fn world(&self) -> &LabHost {
        &self.world
    }

    /// Where the probers of `region` are.
    pub fn region_host(&self, region: &str) -> &LabHost {
        let found = self.regions.iter().find(|(name, _)| *name == region);
        &found.expect("a region of these hosts").1
    }

    /// A website in the world.
    pub fn start_website(&self) -> Target {
        let address = SocketAddr::from((self.world.address(), 80));
        let runtime = Handle::current();
        self.world
            .run_inside(|| runtime.block_on(Target::serve_http_at(address)))
            .expect("the world has a free port")
    }

    /// From now on no packet passes between the two, either way, and nobody is told: a partition, not a refusal.
    pub fn cut_link(&self, one: &LabHost, other: &LabHost) {
        self.edit_rules("add", one, other);
    }

    /// Ends a [`cut`](Self::cut).
    pub fn restore_link(&self, one: &LabHost, other: &LabHost) {
        self.edit_rules("delete", one, other);
    }

    /// Takes all routes of `host` away but that to the hub: it reaches the bus and nothing else, and its own system says so.
    pub fn remove_routes(&self, host: &LabHost) {
        let (hub, gateway) = (self.hub.address(), host.gateway());
        host.run_shell(&format!("ip route add {hub} via {gateway} && ip route delete default"));
    }

    /// Ends an [`unroute`](Self::unroute).
    pub fn restore_routes(&self, host: &LabHost) {
        host.run_shell(&format!("ip route add default via {}", host.gateway()));
    }

    fn edit_rules(&self, verb: &str, one: &LabHost, other: &LabHost) {
        let rule = |from: &LabHost, to: &LabHost| {
            format!("ip rule {verb} from {} to {} blackhole", from.address(), to.address())
        };
        self.router.run_shell(&format!("{} && {}", rule(one, other), rule(other, one)));
    }
}

impl LabHost {
    /// Fails where one of the things that hosts need may not be done.
    const CAPABILITY_SCRIPT: &str = "set -e
        ip link add one type veth peer name other
        ip address add 10.77.0.1/24 dev one
        ip rule add from 10.77.0.1 to 10.77.0.2 blackhole
        echo 1 >/proc/sys/net/ipv4/ip_forward";

    fn new(number: u8) -> Self {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo up && exec cat >/dev/null"])
            // Its end is the holder's end, whatever becomes of us.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is there");
        let mut line = String::new();
        let said = holder.stdout.take().map(|said| BufReader::new(said).read_line(&mut line));
        assert!(matches!(said, Some(Ok(_))) && line.trim() == "up", "a host is up");
        let pid = holder.id();
        Self { _holder: Some(Arc::new(NamespaceHolder(holder))), ..Self::from_pid(number, pid) }
    }

    /// The network that this program is in.
    fn current(number: u8) -> Self {
        Self::from_pid(number, std::process::id())
    }

    fn from_pid(number: u8, pid: u32) -> Self {
        let network = File::open(format!("/proc/{pid}/ns/net")).expect("a process has a network");
        Self { number, pid, namespace: Arc::new(network), _holder: None }
    }

    /// Its address; each host has a network of its own.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 2)
    }

    fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 1)
    }

    /// Runs `work` in this host's network: the sockets that it makes and the processes that it starts are this host's.
    pub fn run_inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let runtime = Handle::try_current();
        let moved = || {
            let _runtime = runtime.as_ref().map(Handle::enter);
            let network = self.namespace.as_fd();
            move_into_link_name_space(network, Some(LinkNameSpaceType::Network))
                .expect("a host can be entered");
            work()
        };
        // A thread of its own: the network is the thread's, and stays.
        thread::scope(|scope| scope.spawn(moved).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a line of shell there, which must go well.
    fn run_shell(&self, script: &str) {
        let output =
            self.run_inside(|| Command::new("sh").args(["-c", script]).stdin(Stdio::null()).output());
        let output = output.expect("there is a shell");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
