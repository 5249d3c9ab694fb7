//! A program and all its children, as one to be killed.

use rustix::process::{Pid, Signal, kill_process_group};

/// Process group of a program. Killed when dropped, unless the program has ended.
pub(super) struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    /// The group that the process `id` leads.
    pub(super) fn led_by(id: Option<u32>) -> Self {
        Self(id.and_then(|id| Pid::from_raw(id.cast_signed())))
    }

    /// Leaves the group alone from now on: its number may belong to another after the program's end.
    pub(super) fn release(&mut self) {
        self.0 = None;
    }

    /// Kills all processes of the group.
    pub(super) fn kill(&mut self) {
        if let Some(leader) = self.0.take() {
            // An error means that there is none left.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
    }
}
