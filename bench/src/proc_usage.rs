//! CPU time and memory of processes including all descendants, from `/proc`.

use std::fs;

use rustix::time::{ClockId, clock_gettime};

/// CPU time of a process and all its descendants in seconds, including ended ones.
///
/// The resolution is a hundredth of a second, too coarse for short or idle spans.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    // A child that ends between both readings would be counted twice or not at all.
    const MAX_ATTEMPTS: usize = 5;
    let mut family = process_tree(pid);
    let mut sum = 0;
    for _ in 0..MAX_ATTEMPTS {
        sum = family.iter().filter_map(|pid| cpu_ticks(*pid)).sum();
        let after = self::process_tree(pid);
        if after == family {
            break;
        }
        family = after;
    }
    sum as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// CPU time of this process in seconds, with a resolution of a nanosecond.
pub(crate) fn own_cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// CPU time of this process's ended children in seconds.
pub(crate) fn ended_children_seconds() -> f64 {
    const CHILDREN_FIELD: usize = 2;
    let ticks: u64 = read_cpu_fields("self").map_or(0, |fields| fields.iter().skip(CHILDREN_FIELD).sum());
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Memory of a process and all its descendants in bytes, with shared pages divided among their
/// users (PSS).
pub(crate) fn memory_bytes(pid: u32) -> u64 {
    process_tree(pid).into_iter().filter_map(pss_bytes).sum()
}

/// Process and all its descendants. Postgres serves each session in its own process.
fn process_tree(pid: u32) -> Vec<u32> {
    let (mut found, mut looked) = (vec![pid], 0);
    while let Some(parent) = found.get(looked).copied() {
        looked += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else { continue };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    found
}

/// User and system time of the process and of its reaped children, in clock ticks.
fn cpu_ticks(pid: u32) -> Option<u64> {
    read_cpu_fields(&pid.to_string()).map(|fields| fields.iter().sum())
}

/// The four CPU times of a process: user and system time of its own, and of its reaped children.
fn read_cpu_fields(process: &str) -> Option<Vec<u64>> {
    const USER_FIELD: usize = 11;
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name, in brackets, may contain any character.
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split(' ').skip(USER_FIELD).take(4).filter_map(|field| field.parse().ok()).collect())
}

/// Memory of a single process in bytes, with its share of shared pages (PSS).
pub(crate) fn pss_bytes(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kib = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = kib.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1_024)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_time_of_a_child_counts_while_it_runs_and_after_it_has_ended() {
        let me = std::process::id();
        let before = cpu_seconds(me);
        let work = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo; read -r line";
        let mut child = Command::new("sh")
            .args(["-c", work])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();

        let running = cpu_seconds(me);
        drop(child.stdin.take());
        child.wait().unwrap();
        let ended = cpu_seconds(me);

        assert!(running > before, "{before} {running}");
        assert!(ended >= running, "{running} {ended}");
    }
}
