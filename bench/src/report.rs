//! What was measured, as JSON and as Markdown.

use std::{fmt::Write, fs, thread::available_parallelism};

use serde::Serialize;

use crate::waiting::Found;

/// One round of one side.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) checks: u64,
    /// Of the whole process, which does nothing else.
    pub(crate) cpu_s: f64,
    pub(crate) wall_s: f64,
}

/// Pairs of rounds, ours and the bare loop's, under the same conditions.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Setting {
    pub(crate) tls: bool,
    /// How many at once.
    pub(crate) width: usize,
    pub(crate) pairs: Vec<(Round, Round)>,
}

/// What waits.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Memory {
    pub(crate) tls: bool,
    pub(crate) check: Found,
    pub(crate) bare: Found,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    cores: usize,
    cpu: String,
    /// Whether this build's numbers say anything.
    optimized: bool,
    settings: Vec<Summed>,
    memory: Vec<Memory>,
}

#[derive(Clone, Debug, Serialize)]
struct Summed {
    #[serde(flatten)]
    setting: Setting,
    /// Checks per CPU-second, ours by the bare loop's.
    ratio: Spread,
    check_cpu_us: Spread,
    bare_cpu_us: Spread,
    check_per_s: Spread,
    bare_per_s: Spread,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Spread {
    least: f64,
    median: f64,
    most: f64,
}

impl Spread {
    fn of(numbers: impl Iterator<Item = f64>) -> Self {
        let mut numbers: Vec<f64> = numbers.collect();
        numbers.sort_by(f64::total_cmp);
        let at = |place: usize| numbers.get(place).copied().unwrap_or(f64::NAN);
        let middle = numbers.len() / 2;
        let median = match numbers.len() % 2 {
            0 if middle > 0 => f64::midpoint(at(middle - 1), at(middle)),
            _ => at(middle),
        };
        Self { least: at(0), median, most: at(numbers.len().saturating_sub(1)) }
    }
}

impl Round {
    fn cpu_us(self) -> f64 {
        self.cpu_s * 1e6 / self.checks as f64
    }

    fn per_s(self) -> f64 {
        self.checks as f64 / self.wall_s
    }
}

impl Report {
    pub(crate) fn new(settings: Vec<Setting>, memory: Vec<Memory>) -> Self {
        let summed = |setting: Setting| {
            let of = |number: fn(&(Round, Round)) -> f64| Spread::of(setting.pairs.iter().map(number));
            Summed {
                ratio: of(|(check, bare)| bare.cpu_us() / check.cpu_us()),
                check_cpu_us: of(|(check, _)| check.cpu_us()),
                bare_cpu_us: of(|(_, bare)| bare.cpu_us()),
                check_per_s: of(|(check, _)| check.per_s()),
                bare_per_s: of(|(_, bare)| bare.per_s()),
                setting,
            }
        };
        Self {
            cores: available_parallelism().map_or(0, usize::from),
            cpu: cpu(),
            optimized: !cfg!(debug_assertions),
            settings: settings.into_iter().map(summed).collect(),
            memory,
        }
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "## The prober's check beside a bare reqwest loop\n")?;
        writeln!(
            text,
            "{} cores ({}), the target in a process of its own on the same ones.",
            self.cores, self.cpu
        )?;
        if !self.optimized {
            writeln!(text, "A debug build: these numbers say nothing.")?;
        }
        writeln!(
            text,
            "\nThe ratio is checks per CPU-second, ours by the bare loop's: the median of pairs of rounds (least to most).\n"
        )?;
        writeln!(text, "| | at once | ratio | CPU µs a check, ours | bare | checks a second, ours | bare |")?;
        writeln!(text, "| --- | --- | --- | --- | --- | --- | --- |")?;
        for one in &self.settings {
            writeln!(
                text,
                "| {} | {} | **{:.2}** ({:.2} to {:.2}) | {:.1} | {:.1} | {:.0} | {:.0} |",
                scheme(one.setting.tls),
                one.setting.width,
                one.ratio.median,
                one.ratio.least,
                one.ratio.most,
                one.check_cpu_us.median,
                one.bare_cpu_us.median,
                one.check_per_s.median,
                one.bare_per_s.median,
            )?;
        }
        writeln!(text, "\nChecks that wait for a site which has taken the request and never answers:\n")?;
        writeln!(text, "| | waiting | KiB each, ours | bare | more than bare | the future of ours, bytes |")?;
        writeln!(text, "| --- | --- | --- | --- | --- | --- |")?;
        for one in &self.memory {
            let kib = |found: Found| found.bytes_each as f64 / 1_024.0;
            writeln!(
                text,
                "| {} | {} | {:.1} | {:.1} | {:.1} | {} |",
                scheme(one.tls),
                one.check.checks,
                kib(one.check),
                kib(one.bare),
                kib(one.check) - kib(one.bare),
                one.check.future_bytes,
            )?;
        }
        Ok(())
    }
}

fn scheme(tls: bool) -> &'static str {
    if tls { "TLS" } else { "plain" }
}

fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| "unknown".to_owned(), |(_, model)| model.to_owned())
}
