//! Whether a delay in one phase shows in that phase by both, and the other phases are as short.

use std::{net::SocketAddr, time::Duration};

use comfy_table::{CellAlignment, Table, presets};
use picket_proto::{CheckRequest, IpVersion, Timing};
use picket_testkit::target::{FullBacklog, Target};

use crate::{
    PicketClient,
    blackbox::{BLACKBOX_PHASES, BlackboxExporter},
    print_line,
    target_sites::TargetSites,
};

/// Where the delay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DelayPoint {
    Nowhere,
    Connect,
    Tls,
    FirstByte,
    Transfer,
    /// In the answer that follows two redirects.
    Redirects,
}

/// A delay in one phase.
pub(crate) struct DelayCase {
    name: &'static str,
    point: DelayPoint,
    /// Its URL is made anew for each check where the target is.
    pub(crate) request: CheckRequest,
}

/// Ours, as the contract calls them.
const PICKET_PHASES: [&str; 5] = ["dns", "connect", "tls", "first byte", "transfer"];
/// Less than that no one calls a difference.
const MIN_NOISE_MS: f64 = 1.0;

/// All of them.
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
    /// The URL to ask, and what has to be there meanwhile.
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
                let crowded =
                    FullBacklog::listen_at(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
                let url = format!("http://localhost:{}/ok", crowded.address().port());
                let opening = async {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    crowded.clear_and_serve()
                };
                (url, Some(tokio::spawn(opening)))
            }
        }
    }
}

/// Asks both in turns, `rounds` times each; whether all phases lie within each other's noise. Modules of the delays
/// begin at number `first`.
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
        // The first of each warms caches up.
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
            let of =
                |all: &[[f64; 5]]| Quartiles::from_samples(all.iter().map(|phases| phases[phase]).collect());
            let (theirs, ours) = (of(&theirs), of(&ours));
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

/// The median of some numbers and the quartiles, which a single outlier does not move.
#[derive(Clone, Copy, Debug)]
struct Quartiles {
    low: f64,
    median: f64,
    high: f64,
}

impl Quartiles {
    fn from_samples(mut numbers: Vec<f64>) -> Self {
        numbers.sort_by(f64::total_cmp);
        let last = numbers.len().saturating_sub(1);
        let at = |place: usize| numbers.get(place).copied().unwrap_or(f64::NAN);
        Self { low: at(last / 4), median: at(last / 2), high: at(last - last / 4) }
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
