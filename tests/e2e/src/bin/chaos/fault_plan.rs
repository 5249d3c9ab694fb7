//! Plan of random faults, derived from a seed alone. Pure.

use std::{ops::RangeInclusive, time::Duration};

use crate::REGIONS;

/// Kind of fault and its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    KillCoordinator(usize),
    StopCoordinator(usize),
    PauseCoordinator(usize),
    KillProber(usize, usize),
    StopProber(usize, usize),
    PauseProber(usize, usize),
    EmptyRegion(usize),
    CutRegion(usize),
    ResetRegion(usize),
    KillSink(usize),
    StopSink(usize),
    PauseSink(usize),
    RestartPostgres,
    KillPostgres,
    RestartNats,
    KillNats,
    PurgeJobs,
    PurgeResults,
    DeleteJobs,
    DeleteConsumer(usize),
    ReplayResults,
    EditSites,
    /// Sets the database's clock by this number of seconds, and back at the end.
    StepClock(i64),
    /// Inserts sites that no process can use, bypassing the constraints.
    InsertInvalidRows,
    KillNotifier(usize),
    StopNotifier(usize),
    PauseNotifier(usize),
    /// The receiver of notifications answers 500.
    FailReceiver,
    /// Half of the sites that are up have an unexpected status.
    BreakSites,
    /// Publishes results of checks that the region was not given, with the region's credential.
    ForgeFromRegion(usize),
}

/// Steps large enough to be rejected as implausible, in both directions.
const CLOCK_STEPS_S: [i64; 4] = [180, -600, 45 * 86_400, -45 * 86_400];

/// Fault with its time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PlannedFault {
    /// Time since the start of the run.
    pub(crate) begins_at: Duration,
    pub(crate) ends_at: Duration,
    pub(crate) fault: Fault,
}

impl Fault {
    /// Id in the fault matrix.
    pub(crate) fn matrix_id(self) -> &'static str {
        match self {
            Self::KillCoordinator(_) => "F1",
            Self::PauseCoordinator(_) => "F2",
            Self::StopCoordinator(_) => "F3",
            Self::KillProber(..) | Self::PauseProber(..) => "F4",
            Self::StopProber(..) => "F5",
            Self::EmptyRegion(_) => "F6",
            Self::KillSink(_) | Self::StopSink(_) | Self::PauseSink(_) => "F7",
            Self::RestartPostgres => "F8",
            Self::KillPostgres => "F9",
            Self::RestartNats | Self::KillNats => "F10",
            Self::CutRegion(_) | Self::ResetRegion(_) => "F11",
            Self::ReplayResults => "F12",
            Self::PurgeJobs | Self::PurgeResults | Self::DeleteJobs | Self::DeleteConsumer(_) => "F14",
            Self::EditSites => "F18",
            Self::StepClock(_) => "F21",
            Self::InsertInvalidRows => "F22",
            Self::ForgeFromRegion(_) => "F23",
            Self::KillNotifier(_) | Self::StopNotifier(_) => "N1",
            Self::PauseNotifier(_) => "N3",
            Self::FailReceiver => "N4",
            Self::BreakSites => "N10",
        }
    }

    /// Description of the fault.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::KillCoordinator(n) => format!("kill -9 coordinator {n}"),
            Self::StopCoordinator(n) => format!("SIGTERM coordinator {n}"),
            Self::PauseCoordinator(n) => format!("SIGSTOP coordinator {n}"),
            Self::KillProber(region, n) => format!("kill -9 prober {n} of {}", REGIONS[region]),
            Self::StopProber(region, n) => format!("SIGTERM prober {n} of {}", REGIONS[region]),
            Self::PauseProber(region, n) => format!("SIGSTOP prober {n} of {}", REGIONS[region]),
            Self::EmptyRegion(region) => format!("kill -9 all probers of {}", REGIONS[region]),
            Self::CutRegion(region) => format!("cut {} off, silently", REGIONS[region]),
            Self::ResetRegion(region) => format!("reset the connections of {}", REGIONS[region]),
            Self::KillSink(n) => format!("kill -9 sink {n}"),
            Self::StopSink(n) => format!("SIGTERM sink {n}"),
            Self::PauseSink(n) => format!("SIGSTOP sink {n}"),
            Self::KillNotifier(n) => format!("kill -9 notifier {n}"),
            Self::StopNotifier(n) => format!("SIGTERM notifier {n}"),
            Self::PauseNotifier(n) => format!("SIGSTOP notifier {n}"),
            Self::FailReceiver => "the receiver of notifications answers 500".to_owned(),
            Self::BreakSites => "half of the sites go down".to_owned(),
            Self::RestartPostgres => "stop Postgres".to_owned(),
            Self::KillPostgres => "kill -9 Postgres".to_owned(),
            Self::RestartNats => "stop NATS".to_owned(),
            Self::KillNats => "kill -9 NATS".to_owned(),
            Self::PurgeJobs => "purge the stream of jobs".to_owned(),
            Self::PurgeResults => "purge the stream of results".to_owned(),
            Self::DeleteJobs => "delete the stream of jobs".to_owned(),
            Self::DeleteConsumer(region) => format!("delete the consumer of {}", REGIONS[region]),
            Self::ReplayResults => "deliver the last results again, shuffled".to_owned(),
            Self::EditSites => "edit, disable, delete and add sites".to_owned(),
            Self::StepClock(seconds) => format!("set the database's clock by {seconds} s"),
            Self::InsertInvalidRows => "insert sites that no process can use".to_owned(),
            Self::ForgeFromRegion(region) => {
                format!("publish results of checks that {} was not given", REGIONS[region])
            }
        }
    }

    /// Range of durations, in seconds.
    fn duration_range(self) -> RangeInclusive<u64> {
        match self {
            Self::PauseCoordinator(_) | Self::EmptyRegion(_) | Self::CutRegion(_) | Self::FailReceiver => {
                3..=30
            }
            Self::PauseNotifier(_) => 3..=45,
            Self::BreakSites => 10..=40,
            Self::PauseProber(..) | Self::PauseSink(_) | Self::StepClock(_) => 3..=25,
            Self::RestartPostgres | Self::KillPostgres | Self::RestartNats | Self::KillNats => 1..=15,
            Self::PurgeJobs
            | Self::PurgeResults
            | Self::DeleteJobs
            | Self::DeleteConsumer(_)
            | Self::ReplayResults
            | Self::EditSites
            | Self::ForgeFromRegion(_) => 0..=0,
            _ => 0..=10,
        }
    }

    /// Parts affected by the fault. Two faults must not affect the same part at the same time, or a
    /// dead process would be killed.
    fn affected_parts(self) -> Vec<(&'static str, usize)> {
        match self {
            Self::KillCoordinator(n) | Self::StopCoordinator(n) | Self::PauseCoordinator(n) => {
                vec![("coordinator", n)]
            }
            Self::KillProber(region, n) | Self::StopProber(region, n) | Self::PauseProber(region, n) => {
                vec![("prober", region * 2 + n)]
            }
            Self::EmptyRegion(region) => vec![("prober", region * 2), ("prober", region * 2 + 1)],
            Self::CutRegion(region) | Self::ResetRegion(region) => vec![("link", region)],
            Self::KillSink(n) | Self::StopSink(n) | Self::PauseSink(n) => vec![("sink", n)],
            Self::KillNotifier(n) | Self::StopNotifier(n) | Self::PauseNotifier(n) => vec![("notifier", n)],
            Self::FailReceiver => vec![("receiver", 0)],
            // Faults injected by SQL need Postgres.
            Self::RestartPostgres
            | Self::KillPostgres
            | Self::EditSites
            | Self::InsertInvalidRows
            | Self::BreakSites
            | Self::StepClock(_) => {
                vec![("postgres", 0)]
            }
            _ => vec![("nats", 0)],
        }
    }

    fn draw_random(random: &mut fastrand::Rng) -> Self {
        let (two, region) = (random.usize(..2), random.usize(..REGIONS.len()));
        match random.u8(..31) {
            0 => Self::KillCoordinator(two),
            1 => Self::StopCoordinator(two),
            2 => Self::PauseCoordinator(two),
            3 => Self::KillProber(region, two),
            4 => Self::StopProber(region, two),
            5 => Self::PauseProber(region, two),
            6 => Self::EmptyRegion(region),
            7 => Self::CutRegion(region),
            8 => Self::ResetRegion(region),
            9 => Self::KillSink(two),
            10 => Self::StopSink(two),
            11 => Self::PauseSink(two),
            12 => Self::RestartPostgres,
            13 => Self::KillPostgres,
            14 => Self::RestartNats,
            15 => Self::KillNats,
            16 => Self::PurgeJobs,
            17 => Self::PurgeResults,
            18 => Self::DeleteJobs,
            19 => Self::DeleteConsumer(region),
            20 => Self::ReplayResults,
            21 => Self::StepClock(CLOCK_STEPS_S[random.usize(..CLOCK_STEPS_S.len())]),
            22 => Self::InsertInvalidRows,
            23 => Self::ForgeFromRegion(region),
            24 => Self::KillNotifier(two),
            25 => Self::StopNotifier(two),
            26 => Self::PauseNotifier(two),
            27 => Self::FailReceiver,
            28 | 29 => Self::BreakSites,
            _ => Self::EditSites,
        }
    }
}

/// Plans the faults of a run of `total`, in the order of their start. Starts are some seconds
/// apart, so that some faults overlap, but never on the same part. The last minute is for recovery.
pub(crate) fn plan_faults(seed: u64, total: Duration) -> Vec<PlannedFault> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut faults: Vec<PlannedFault> = Vec::new();
    let mut at = Duration::from_secs(5);
    let end = total.saturating_sub(Duration::from_secs(60));
    while at < end {
        let fault = Fault::draw_random(&mut random);
        let duration = Duration::from_secs(random.u64(fault.duration_range()));
        // A part needs a while to recover before the next fault.
        let is_unaffected = faults.iter().all(|other| {
            other.ends_at + Duration::from_secs(5) < at
                || !other.fault.affected_parts().iter().any(|part| fault.affected_parts().contains(part))
        });
        if is_unaffected {
            faults.push(PlannedFault { begins_at: at, ends_at: (at + duration).min(end), fault });
            at += Duration::from_millis(random.u64(2_000..=20_000));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_seed_determines_the_plan() {
        assert_eq!(plan_faults(7, HOUR), plan_faults(7, HOUR));
        assert_ne!(plan_faults(7, HOUR), plan_faults(8, HOUR));
    }

    #[test]
    fn an_hours_plan_contains_every_fault_and_no_overlap_on_one_part() {
        let faults = plan_faults(1, HOUR);

        for fault in [
            "F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8", "F9", "F10", "F11", "F12", "F14", "F18", "F21",
            "F22", "F23", "N1", "N3", "N4", "N10",
        ] {
            assert!(faults.iter().any(|planned| planned.fault.matrix_id() == fault), "{fault}");
        }
        for (place, one) in faults.iter().enumerate() {
            for other in &faults[place + 1..] {
                let shared = one
                    .fault
                    .affected_parts()
                    .iter()
                    .any(|taken| other.fault.affected_parts().contains(taken));
                assert!(!shared || other.begins_at > one.ends_at, "{one:?} {other:?}");
            }
        }
    }
}
