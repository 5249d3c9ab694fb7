//! Compares phase timings: a delay in a phase must show in the same phase of both programs, with
//! equal times in the other phases.

use std::{net::SocketAddr, time::Duration};

use comfy_table::{CellAlignment, Table, presets};
use picket_harness::{
    percentiles::Samples,
    targets::{FullBacklog, Target},
};
use picket_proto::{CheckRequest, IpVersion, Timing};

use crate::{
    PicketClient,
    blackbox::{BLACKBOX_PHASES, BlackboxExporter},
    print_line,
    target_sites::TargetSites,
};

/// Phase with the delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DelayPoint {
    Nowhere,
    Connect,
    Tls,
    FirstByte,
    Transfer,
    /// In the response after two redirects.
    Redirects,
}

/// Case with a delay in a single phase.
pub(crate) struct DelayCase {
    name: &'static str,
    point: DelayPoint,
    /// The URL is replaced before each check, because the port changes.
    pub(crate) request: CheckRequest,
}

/// Phases by Picket's names, as in the contract.
const PICKET_PHASES: [&str; 5] = ["dns", "connect", "tls", "first byte", "transfer"];
/// Smaller differences than this are never significant.
const MIN_NOISE_MS: f64 = 1.0;

/// All cases.
pub(crate) fn delay_cases() -> Vec<DelayCase> {
    [
        ("none", DelayPoint::Nowhere),
        ("connecting: the first SYN is dropped", DelayPoint::Connect),
        ("300 ms in the handshake", DelayPoint::Tls),
        ("200 ms before the head", DelayPoint::FirstByte),
        ("200 ms before the body", DelayPoint::Transfer),
        ("two redirects, then 200 ms", DelayPoint::Redirects),
    ]
    .into_iter()
    .map(|(name, at)| {
        let request = CheckRequest {
            ip_version: IpVersion::V4,
            regex: Some("well$".to_owned()),
            ..CheckRequest::new("http://localhost/")
        };
        DelayCase { name, point: at, request }
    })
    .collect()
}

impl DelayCase {
    /// Prepares the target of a check. Returns the URL and a task that must be alive during the
    /// check.
    async fn prepare_target(&self, sites: &TargetSites) -> (String, Option<tokio::task::JoinHandle<Target>>) {
        let secure = |path: &str| sites.secure.localhost_url(path);
        match self.point {
            DelayPoint::Nowhere => (secure("/ok"), None),
            DelayPoint::Tls => (sites.slow_tls.localhost_url("/ok"), None),
            DelayPoint::FirstByte => (secure("/slow/200"), None),
            DelayPoint::Transfer => (secure("/slow-body/200"), None),
            DelayPoint::Redirects => {
                (secure(&format!("/to/{}", secure(&format!("/to/{}", secure("/slow/200"))))), None)
            }
            DelayPoint::Connect => {
                let full_backlog =
                    FullBacklog::listen_at(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
                let url = format!("http://localhost:{}/ok", full_backlog.address().port());
                let opening = async {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    full_backlog.clear_and_serve()
                };
                (url, Some(tokio::spawn(opening)))
            }
        }
    }
}

/// Runs each case `rounds` times in turns with both programs. Returns true if all phases agree
/// within noise. The modules of the cases begin at number `first`.
pub(crate) async fn compare_phases(
    blackbox: &BlackboxExporter,
    picket: &PicketClient,
    sites: &TargetSites,
    delays: &[DelayCase],
    first: usize,
    rounds: usize,
) -> Result<bool, String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["DELAY", "PHASE", "BLACKBOX", "PICKET", "APART", "NOISE"]);
    for column in 2..=5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut outside = 0;
    for (number, delay) in delays.iter().enumerate() {
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        // The first round of each case warms up caches and is discarded.
        for round in 0..=rounds {
            let (url, target) = delay.prepare_target(sites).await;
            let probe = blackbox.run_probe(first + number, &url).await?;
            drop(target);
            let (url, target) = delay.prepare_target(sites).await;
            let result = picket.run_check(&CheckRequest { url, ..delay.request.clone() }).await?;
            drop(target);
            if !probe.success || result.cause.is_some() {
                return Err(format!("{}: {} / {:?}", delay.name, probe.reason, result.message));
            }
            if round > 0 {
                theirs.push(probe.phases.map(|seconds| seconds.unwrap_or_default() * 1e3));
                ours.push(phase_millis(&result.timing));
            }
        }
        for phase in 0..BLACKBOX_PHASES.len() {
            let quartiles =
                |all: &[[f64; 5]]| Quartiles::from_samples(all.iter().map(|phases| phases[phase]).collect());
            let (theirs, ours) = (quartiles(&theirs), quartiles(&ours));
            let apart = ours.median - theirs.median;
            let noise = theirs.quartile_distance().max(ours.quartile_distance()).max(MIN_NOISE_MS);
            let is_within = apart.abs() <= noise;
            outside += usize::from(!is_within);
            table.add_row([
                if phase == 0 { delay.name.to_owned() } else { String::new() },
                format!("{} = {}", BLACKBOX_PHASES[phase], PICKET_PHASES[phase]),
                theirs.to_string(),
                ours.to_string(),
                format!("{apart:+.2}"),
                format!("{noise:.2}{}", if is_within { "" } else { " OUTSIDE" }),
            ]);
        }
    }
    print_line(&format!("{table}\n"));
    print_line(&format!(
        "Medians of {rounds} (and quartiles) in ms, in turns. Noise is the larger distance of quartiles, and at least \
         {MIN_NOISE_MS} ms: {outside} of {} phases are further apart.",
        delays.len() * BLACKBOX_PHASES.len(),
    ));
    Ok(outside == 0)
}

fn phase_millis(timing: &Timing) -> [f64; 5] {
    [timing.dns_us, timing.connect_us, timing.tls_us, timing.first_byte_us, timing.transfer_us]
        .map(|micros| micros.map_or(0.0, |micros| f64::from(micros) / 1e3))
}

/// Median and quartiles, which resist single outliers.
#[derive(Clone, Copy, Debug)]
struct Quartiles {
    low: f64,
    median: f64,
    high: f64,
}

impl Quartiles {
    fn from_samples(samples: Vec<f64>) -> Self {
        let samples = Samples::new(samples);
        let at = |share| samples.quantile(share).unwrap_or(f64::NAN);
        Self { low: at(0.25), median: at(0.5), high: at(0.75) }
    }

    fn quartile_distance(&self) -> f64 {
        self.high - self.low
    }
}

impl std::fmt::Display for Quartiles {
    fn fmt(&self, text: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(text, "{:.2} ({:.2} to {:.2})", self.median, self.low, self.high)
    }
}
