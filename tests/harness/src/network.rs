//! Network namespaces, in which processes and sockets can be created.

use std::{fs::File, os::fd::AsFd, sync::Arc, thread};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::Handle;

/// Network namespace. Exists as long as a process or this value refers to it.
#[derive(Clone, Debug)]
pub struct NetworkNamespace(Arc<File>);

impl NetworkNamespace {
    /// Network of the process `pid`.
    pub fn of_process(pid: u32) -> Self {
        let file = File::open(format!("/proc/{pid}/ns/net")).expect("a process has a network");
        Self(Arc::new(file))
    }

    /// Runs `work` in this network. Sockets and processes created by `work` belong to the network.
    pub fn run_inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let runtime = Handle::try_current();
        let moved = || {
            let _runtime = runtime.as_ref().map(Handle::enter);
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("a network can be entered");
            work()
        };
        // Uses a separate thread, because the network is a permanent property of a thread.
        thread::scope(|scope| scope.spawn(moved).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
