//! Results of the prober bench, as JSON and as Markdown.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread::available_parallelism,
};

use picket_harness::{percentiles::Samples, proc};
use serde::Serialize;

use crate::{Error, idle_memory::IdleMemory};

/// Options of all benches.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct RunOptions {
    /// Run for a few seconds to see that everything works; the numbers are meaningless
    #[arg(long)]
    pub(crate) smoke: bool,
    /// Write the numbers to this file as JSON
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

/// Writes the numbers to a file as JSON, if requested, and prints the Markdown.
///
/// # Errors
/// Fails if either cannot be written.
pub(crate) fn write_results(
    json: Option<&Path>,
    numbers: &impl Serialize,
    markdown: &str,
) -> Result<(), Error> {
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(numbers).map_err(|why| Error::Failed(why.to_string()))?;
        fs::write(path, text + "\n").map_err(|error| Error::System("could not write the JSON", error))?;
    }
    let mut out = io::stdout().lock();
    out.write_all(markdown.as_bytes()).map_err(|error| Error::System("standard output", error))
}

/// Single round of one contender.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct ProberRound {
    pub(crate) checks: u64,
    /// CPU time of the whole process, which does nothing else.
    pub(crate) cpu_s: f64,
    pub(crate) wall_s: f64,
}

/// Turns of the prober's check, the bare loop and hyper, under the same conditions.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct WidthResult {
    pub(crate) tls: bool,
    /// Number of concurrent checks.
    pub(crate) width: usize,
    pub(crate) turns: Vec<[ProberRound; 3]>,
}

/// Memory of waiting checks, by contender.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct MemoryComparison {
    pub(crate) tls: bool,
    pub(crate) check: IdleMemory,
    pub(crate) bare: IdleMemory,
}

/// All results of the prober bench.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProberReport {
    cores: usize,
    cpu: String,
    /// True if this is an optimized build, whose numbers are meaningful.
    optimized: bool,
    settings: Vec<WidthSummary>,
    memory: Vec<MemoryComparison>,
}

#[derive(Clone, Debug, Serialize)]
struct WidthSummary {
    #[serde(flatten)]
    setting: WidthResult,
    /// Checks per CPU-second of the prober, relative to the bare loop.
    ratio: MedianRange,
    /// Checks per CPU-second of the prober, relative to hyper.
    hyper_ratio: MedianRange,
    hyper_cpu_us: MedianRange,
    check_cpu_us: MedianRange,
    bare_cpu_us: MedianRange,
    check_per_s: MedianRange,
    bare_per_s: MedianRange,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct MedianRange {
    least: f64,
    median: f64,
    most: f64,
}

impl MedianRange {
    fn from_numbers(numbers: impl Iterator<Item = f64>) -> Self {
        let numbers = Samples::new(numbers.collect());
        let at = |share| numbers.quantile(share).unwrap_or(f64::NAN);
        Self { least: at(0.0), median: at(0.5), most: at(1.0) }
    }
}

impl ProberRound {
    fn cpu_us(self) -> f64 {
        self.cpu_s * 1e6 / self.checks as f64
    }

    fn checks_per_s(self) -> f64 {
        self.checks as f64 / self.wall_s
    }
}

impl ProberReport {
    pub(crate) fn new(settings: Vec<WidthResult>, memory: Vec<MemoryComparison>) -> Self {
        let summed = |setting: WidthResult| {
            let range = |number: fn(&[ProberRound; 3]) -> f64| {
                MedianRange::from_numbers(setting.turns.iter().map(number))
            };
            WidthSummary {
                ratio: range(|[check, bare, _]| bare.cpu_us() / check.cpu_us()),
                hyper_ratio: range(|[check, _, hyper]| hyper.cpu_us() / check.cpu_us()),
                hyper_cpu_us: range(|[.., hyper]| hyper.cpu_us()),
                check_cpu_us: range(|[check, ..]| check.cpu_us()),
                bare_cpu_us: range(|[_, bare, _]| bare.cpu_us()),
                check_per_s: range(|[check, ..]| check.checks_per_s()),
                bare_per_s: range(|[_, bare, _]| bare.checks_per_s()),
                setting,
            }
        };
        Self {
            cores: available_parallelism().map_or(0, usize::from),
            cpu: proc::cpu_model(),
            optimized: !cfg!(debug_assertions),
            settings: settings.into_iter().map(summed).collect(),
            memory,
        }
    }

    /// Results at a number of concurrent checks: checks per CPU-second of the prober relative to
    /// the bare loop, and the CPU time of a bare request in µs.
    pub(crate) fn ratio_at_width(&self, tls: bool, width: usize) -> (f64, f64) {
        let setting =
            self.settings.iter().find(|summary| summary.setting.tls == tls && summary.setting.width == width);
        setting.map_or((f64::NAN, f64::NAN), |summary| (summary.ratio.median, summary.bare_cpu_us.median))
    }

    pub(crate) fn to_markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write_markdown(&mut text);
        text
    }

    fn write_markdown(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "## The prober's check beside a bare reqwest loop\n")?;
        writeln!(
            text,
            "{} cores ({}), the target in a process of its own on the same ones.",
            self.cores, self.cpu
        )?;
        if !self.optimized {
            writeln!(text, "A debug build: these numbers are meaningless.")?;
        }
        writeln!(
            text,
            "\nThe ratio is checks per CPU-second, ours by the bare loop's: the median of the turns (least to most).\n"
        )?;
        writeln!(
            text,
            "| | at once | ratio | CPU µs a check, ours | bare | hyper alone | ratio to that | checks a second, ours | bare |"
        )?;
        writeln!(text, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
        for summary in &self.settings {
            writeln!(
                text,
                "| {} | {} | **{:.2}** ({:.2} to {:.2}) | {:.1} | {:.1} | {:.1} | {:.2} | {:.0} | {:.0} |",
                scheme_name(summary.setting.tls),
                summary.setting.width,
                summary.ratio.median,
                summary.ratio.least,
                summary.ratio.most,
                summary.check_cpu_us.median,
                summary.bare_cpu_us.median,
                summary.hyper_cpu_us.median,
                summary.hyper_ratio.median,
                summary.check_per_s.median,
                summary.bare_per_s.median,
            )?;
        }
        writeln!(text, "\nChecks that wait for a site which has taken the request and never answers:\n")?;
        writeln!(text, "| | waiting | KiB each, ours | bare | more than bare | the future of ours, bytes |")?;
        writeln!(text, "| --- | --- | --- | --- | --- | --- |")?;
        for comparison in &self.memory {
            let kib = |memory: IdleMemory| memory.bytes_each as f64 / 1_024.0;
            writeln!(
                text,
                "| {} | {} | {:.1} | {:.1} | {:.1} | {} |",
                scheme_name(comparison.tls),
                comparison.check.checks,
                kib(comparison.check),
                kib(comparison.bare),
                kib(comparison.check) - kib(comparison.bare),
                comparison.check.future_bytes,
            )?;
        }
        Ok(())
    }
}

fn scheme_name(tls: bool) -> &'static str {
    if tls { "TLS" } else { "plain" }
}
