//! CPU time and memory of processes, from `/proc`.

use procfs::{
    Current, ProcResult,
    process::{Process, Stat},
    ticks_per_second,
};
use rustix::time::{ClockId, clock_gettime};

/// CPU time of a process and all its descendants in seconds, including ended ones.
///
/// The resolution is a hundredth of a second, too coarse for short or idle spans.
pub fn cpu_seconds(pid: u32) -> f64 {
    // A child that ends between both readings would be counted twice or not at all.
    const MAX_ATTEMPTS: usize = 5;
    let mut family = process_tree(pid);
    let mut ticks = 0;
    for _ in 0..MAX_ATTEMPTS {
        let stats = family.iter().filter_map(|pid| find_process(*pid)?.stat().ok());
        ticks = stats.map(|stat| stat.utime + stat.stime + children_ticks(&stat)).sum();
        let after = process_tree(pid);
        if after == family {
            break;
        }
        family = after;
    }
    ticks as f64 / ticks_per_second() as f64
}

/// CPU time of this process in seconds, with a resolution of a nanosecond. Excludes children.
pub fn own_cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// CPU time of this process's ended children in seconds.
pub fn ended_children_seconds() -> f64 {
    let stat = Process::myself().and_then(|process| process.stat());
    stat.map_or(0.0, |stat| children_ticks(&stat) as f64 / ticks_per_second() as f64)
}

/// Memory of a process and all its descendants in bytes, with shared pages divided among their
/// users (PSS).
pub fn memory_bytes(pid: u32) -> u64 {
    process_tree(pid).into_iter().filter_map(pss_bytes).sum()
}

/// Memory of a single process in bytes, with its share of shared pages (PSS). Returns `None` if
/// the process does not exist.
pub fn pss_bytes(pid: u32) -> Option<u64> {
    let rollup = find_process(pid)?.smaps_rollup().ok()?;
    rollup.memory_map_rollup.0.first()?.extension.map.get("Pss").copied()
}

/// Resident memory of a process in KiB. Returns `None` if the process does not exist.
pub fn resident_kib(pid: u32) -> Option<u64> {
    find_process(pid)?.status().ok()?.vmrss
}

/// Largest resident memory of a process so far, in KiB. Returns `None` if the process does not
/// exist.
pub fn peak_resident_kib(pid: u32) -> Option<u64> {
    find_process(pid)?.status().ok()?.vmhwm
}

/// Returns true if the process runs. An ended process that was not waited for does not run.
pub fn is_running(pid: u32) -> bool {
    find_process(pid).and_then(|process| process.stat().ok()).is_some_and(|stat| stat.state != 'Z')
}

/// Model name of the processor.
pub fn cpu_model() -> String {
    let info = procfs::CpuInfo::current().ok();
    let model = info.as_ref().and_then(|info| info.model_name(0));
    model.unwrap_or("unknown").to_owned()
}

/// Load averages of the last minute, five minutes and fifteen minutes. Empty if unknown.
pub fn load_average() -> String {
    let load = procfs::LoadAverage::current();
    load.map(|load| format!("{:.2}, {:.2}, {:.2}", load.one, load.five, load.fifteen)).unwrap_or_default()
}

/// Process and all its descendants. Postgres serves each session in its own process.
fn process_tree(pid: u32) -> Vec<u32> {
    let (mut found, mut visited) = (vec![pid], 0);
    while let Some(parent) = found.get(visited).copied() {
        visited += 1;
        found.extend(children(parent).unwrap_or_default());
    }
    found
}

fn children(pid: u32) -> ProcResult<Vec<u32>> {
    let tasks = Process::new(pid.cast_signed())?.tasks()?;
    Ok(tasks.flatten().filter_map(|task| task.children().ok()).flatten().collect())
}

/// User and system time of the process's reaped children, in clock ticks.
fn children_ticks(stat: &Stat) -> u64 {
    (stat.cutime + stat.cstime).unsigned_abs()
}

fn find_process(pid: u32) -> Option<Process> {
    Process::new(pid.cast_signed()).ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_childs_cpu_time_counts_while_it_runs_and_after_its_end() {
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

    #[test]
    fn an_ended_process_is_not_running_even_before_it_is_reaped() {
        let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        assert!(is_running(child.id()));

        drop(child.stdin.take());
        while is_running(child.id()) {
            std::thread::yield_now();
        }

        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn the_memory_of_this_process_is_not_above_its_peak() {
        let me = std::process::id();
        let (resident, peak) = (resident_kib(me).unwrap(), peak_resident_kib(me).unwrap());

        assert!(resident > 0 && resident <= peak, "{resident} {peak}");
        assert!(pss_bytes(me).is_some_and(|pss| pss > 0 && pss <= peak_resident_kib(me).unwrap() * 1_024));
        assert_eq!(resident_kib(u32::MAX >> 1), None);
    }
}
