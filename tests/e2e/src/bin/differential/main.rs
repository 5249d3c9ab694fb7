//! Differential test: checks the same targets with blackbox_exporter and with Picket, and compares
//! verdicts and times.
//!
//! Both run as processes, as in production, and the targets are on loopback. Cases with different
//! verdicts give the reason. Exits with 1 on an unexpected verdict, or on times that differ by more
//! than the noise.

mod assertion_cases;
mod blackbox;
mod cases;
mod comparison_case;
mod phase_delays;
mod target_sites;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use async_nats::Client;
use clap::Parser;
use comfy_table::{Table, presets};
use futures_util::{StreamExt, stream};
use picket_e2e::Stack;
use picket_proto::{CheckRequest, CheckResult, Outcome};

use crate::{
    blackbox::{BlackboxExporter, BlackboxOptions, ProbeResult},
    comparison_case::ComparisonCase,
    target_sites::TargetSites,
};

/// Checks the same targets with blackbox_exporter and with Picket, and compares the results
#[derive(Parser)]
struct Options {
    /// Path of blackbox_exporter [default: prometheus-blackbox-exporter or blackbox_exporter on the
    /// PATH or among the tools]
    #[arg(long, value_name = "PATH")]
    blackbox: Option<PathBuf>,
    /// Measurements of each delay by each program; 0 compares verdicts only
    #[arg(long, value_name = "N", default_value_t = 15)]
    rounds: usize,
}

/// Client of the prober's ad-hoc service.
pub(crate) struct PicketClient(Client);

impl PicketClient {
    /// Requests a check and waits for its result.
    ///
    /// # Errors
    /// Fails without an answer, or if the answer is no result.
    pub(crate) async fn run_check(&self, request: &CheckRequest) -> Result<CheckResult, String> {
        let payload = serde_json::to_vec(request).map_err(|why| why.to_string())?;
        let request_sent = self.0.request("picket.check.local", payload.into());
        let answer = request_sent.await.map_err(|why| format!("picket-prober: {why}"))?;
        serde_json::from_slice(&answer.payload)
            .map_err(|why| format!("picket-prober: {why}: {}", String::from_utf8_lossy(&answer.payload)))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match run_comparison(options).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("differential: {why}");
            ExitCode::from(3)
        }
    }
}

/// Runs all comparisons. Returns true if everything is as expected.
async fn run_comparison(options: Options) -> Result<bool, String> {
    let program = blackbox::find_exporter(options.blackbox)?;
    let sites = TargetSites::start().await;
    let cases = [cases::all_cases(&sites), assertion_cases::all_cases(&sites)].concat();
    let delays = phase_delays::delay_cases();
    // blackbox_exporter takes options by module only, so each case has its own module.
    let modules: Vec<(&CheckRequest, BlackboxOptions)> = cases
        .iter()
        .map(|case| (&case.request, case.blackbox_options))
        .chain(delays.iter().map(|delay| (&delay.request, BlackboxOptions::default())))
        .collect();
    let blackbox = BlackboxExporter::start(&program, &sites.ca_file, &modules).await?;
    let stack = Stack::start(&["local"]).await;
    let ca_file = sites.ca_file.to_string_lossy().into_owned();
    let (coordinator, prober) =
        (stack.spawn_coordinator(&[]).await, stack.spawn_prober("local", &["--ca-file", &ca_file]).await);
    coordinator.wait_ready().await;
    prober.wait_ready().await;
    let client = async_nats::ConnectOptions::new().request_timeout(Some(Duration::from_secs(30)));
    let picket = PicketClient(client.connect(stack.nats.url()).await.map_err(|why| why.to_string())?);

    let verdicts_agree = compare_verdicts(&blackbox, &picket, &cases).await?;
    let times_agree = match options.rounds {
        0 => true,
        rounds => {
            phase_delays::compare_phases(&blackbox, &picket, &sites, &delays, cases.len(), rounds).await?
        }
    };
    prober.stop().await;
    coordinator.stop().await;
    Ok(verdicts_agree && times_agree)
}

async fn compare_verdicts(
    blackbox: &BlackboxExporter,
    picket: &PicketClient,
    cases: &[ComparisonCase],
) -> Result<bool, String> {
    /// Concurrent checks. Few enough that only the deadline delays a check.
    const MAX_CONCURRENT: usize = 8;
    let both = stream::iter(cases.iter().enumerate())
        .map(async |(number, case)| {
            let theirs = blackbox.run_probe(number, &case.request.url).await?;
            Ok::<_, String>((case, theirs, picket.run_check(&case.request).await?))
        })
        .buffered(MAX_CONCURRENT);
    let both: Vec<_> = both.collect::<Vec<_>>().await.into_iter().collect::<Result<_, _>>()?;
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["TARGET", "BLACKBOX", "PICKET", "AGREE"]);
    let (mut agreed, mut unexpected) = (0, 0);
    for (case, theirs, ours) in &both {
        let wrong = find_mismatches(case, theirs, ours);
        let verdict = match (wrong.is_empty(), case.expected.difference) {
            (true, None) => "yes".to_owned(),
            (true, Some(why)) => format!("no: {why}"),
            (false, _) => format!("UNEXPECTED: {}", wrong.join("; ")),
        };
        agreed += usize::from(wrong.is_empty() && case.expected.difference.is_none());
        unexpected += usize::from(!wrong.is_empty());
        let status = |status: Option<u16>| status.map_or(String::new(), |status| format!(" ({status})"));
        let success = match (theirs.success, case.is_inverted()) {
            (true, false) => "success",
            (false, false) => "failure",
            (true, true) => "failure (inverted)",
            (false, true) => "success (inverted)",
        };
        let cause = ours.cause.map_or(String::new(), |cause| format!("/{}", cause.as_str()));
        table.add_row([
            case.name.to_owned(),
            format!("{success}{}", status(theirs.status)),
            format!("{}{cause}{}", ours.outcome.as_str(), status(ours.http_status)),
            verdict,
        ]);
    }
    print_line(&format!("{table}\n"));
    print_line(&format!(
        "{} targets, blackbox_exporter {}: {agreed} agree, {} differ for the reason given, {unexpected} unexpected\n",
        both.len(),
        blackbox.version,
        both.len() - agreed - unexpected,
    ));
    Ok(unexpected == 0)
}

/// Lists the deviations from the expected verdict.
fn find_mismatches(case: &ComparisonCase, theirs: &ProbeResult, ours: &CheckResult) -> Vec<String> {
    let mut wrong = Vec::new();
    let success = theirs.success != case.is_inverted();
    if success != case.expected.success {
        wrong.push(format!("blackbox_exporter reports: {}", theirs.reason));
    }
    let message = ours.message.as_deref().unwrap_or("up");
    if ours.cause != case.expected.cause {
        wrong.push(format!("Picket reports: {message}"));
    }
    if case.expected.difference.is_none() && success != (ours.outcome == Outcome::Up) {
        wrong.push("the two differ".to_owned());
    }
    // Statuses are compared only without an expected difference: along redirects, one program may
    // have received a response that the other does not report.
    if let (None, Some(theirs), Some(ours)) = (case.expected.difference, theirs.status, ours.http_status)
        && theirs != ours
    {
        wrong.push("the statuses differ".to_owned());
    }
    if let Some(theirs) = theirs.certificate_ends
        && ours.tls_expires_at.map(|ends| ends.as_millis() / 1_000) != Some(theirs)
    {
        wrong.push(format!("the certificate's ends differ: {theirs} and {:?}", ours.tls_expires_at));
    }
    wrong
}

#[expect(clippy::print_stdout, reason = "the tables are for a person")]
pub(crate) fn print_line(text: &str) {
    println!("{text}");
}
