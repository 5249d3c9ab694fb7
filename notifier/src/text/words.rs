//! Words for the facts of an item, without markup.

use picket_proto::{
    Timestamp,
    duration::{describe_duration, describe_micros},
};

use crate::message::{Counts, Item, Verdict};

/// Regions named of an item.
const MAX_REGIONS: usize = 10;
/// Entries named of each frequency.
const MAX_COUNTS: usize = 5;

/// `2026-11-20 12:00:03 UTC`.
pub fn format_time(at: Timestamp) -> String {
    let exact = at.to_string();
    format!("{} UTC", exact.get(..19).unwrap_or(&exact).replace('T', " "))
}

/// `1 site` or `3 sites`.
pub fn describe_count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        more => format!("{more} {noun}s"),
    }
}

/// `and 153 more`.
pub fn describe_more(count: usize) -> String {
    format!("and {count} more")
}

/// `a, b and 3 more`, of `count` names of which `names` are the first.
pub fn describe_names(names: &[String], count: usize) -> String {
    let listed = names.join(", ");
    match count.saturating_sub(names.len()) {
        0 => listed,
        hidden if names.is_empty() => describe_count(hidden, "site"),
        hidden => format!("{listed} {}", describe_more(hidden)),
    }
}

/// A single line on `item`: verdict, name, and the most important fact.
pub fn describe_item(item: &Item) -> String {
    let (word, name) = (item.verdict.as_word(), &item.name);
    let duration = describe_duration(item.duration);
    let lasting = match (item.lasting, item.verdict) {
        (None, _) => String::new(),
        // Its fact is the duration.
        (Some(""), Verdict::Silent) => String::new(),
        (Some(aside), Verdict::Silent) => format!(", {aside}"),
        (Some(""), _) => format!(" for {duration}"),
        (Some(aside), _) => format!(" for {duration}, {aside}"),
    };
    let cause = || item.cause.as_deref().or(item.explanation.as_deref()).unwrap_or("unknown cause");
    let fact = item.headline.clone().unwrap_or_else(|| match item.verdict {
        Verdict::Down | Verdict::Warns => match count_regions(item) {
            Some(regions) => format!("{} ({regions})", cause()),
            None => cause().to_owned(),
        },
        Verdict::Flapping => "down and up often".to_owned(),
        Verdict::Failing | Verdict::Unaccounted => cause().to_owned(),
        Verdict::Silent => format!("no active prober for {duration}"),
        Verdict::Up | Verdict::Unwatched => format!("was down {duration}"),
        Verdict::WasDown => format!("was down {duration}, is up again"),
        Verdict::WarningOver => format!("lasted {duration}"),
        Verdict::Back => format!("was silent {duration}"),
        Verdict::Working => format!("did not deliver for {duration}"),
        Verdict::Test => item.note.clone().unwrap_or_else(|| "nothing is wrong".to_owned()),
    });
    format!("{word} {name}{lasting}: {fact}")
}

/// `3 of 4 regions`; `None` if no region is known.
fn count_regions(item: &Item) -> Option<String> {
    let (down, reporting) = (item.regions.len(), item.regions_reporting);
    match reporting {
        _ if down == 0 => None,
        Some(1) => None,
        Some(all) => Some(format!("{down} of {all} regions")),
        None if down == 1 => Some("1 region".to_owned()),
        None => Some(format!("{down} regions")),
    }
}

/// `3 of 4: eu-west, us-east, asia`; `None` if no region is known.
pub fn describe_regions(item: &Item) -> Option<String> {
    let names = list_names(&item.regions, MAX_REGIONS)?;
    Some(match item.regions_reporting {
        Some(all) => format!("{} of {all}: {names}", item.regions.len()),
        None => names,
    })
}

/// `DNS 1.2 ms, connect 30 ms`; `None` without phases.
pub fn describe_phases(phases: &[(&'static str, u64)]) -> Option<String> {
    let describe = |(name, micros): &(&str, u64)| {
        format!("{name} {}", describe_micros(f64::from(u32::try_from(*micros).unwrap_or(u32::MAX))))
    };
    (!phases.is_empty()).then(|| phases.iter().map(describe).collect::<Vec<_>>().join(", "))
}

/// A line for each frequency, such as `By cause: connection refused (31), timeout (11)`.
pub fn describe_counts(counts: &Counts) -> Vec<String> {
    let all = [("By cause", &counts.causes), ("By region", &counts.regions), ("By tag", &counts.tags)];
    let describe = |(word, entries): &(&str, &Vec<(String, usize)>)| {
        let named: Vec<String> =
            entries.iter().map(|(name, count)| format!("{} ({count})", cut_name(name))).collect();
        list_names(&named, MAX_COUNTS).map(|list| format!("{word}: {list}"))
    };
    all.iter().filter_map(describe).collect()
}

/// `a, b and 3 more`, of `max` names; `None` without names.
pub(super) fn list_names(names: &[String], max: usize) -> Option<String> {
    let shown: Vec<&str> = names.iter().take(max).map(String::as_str).collect();
    match names.len().checked_sub(shown.len()) {
        _ if names.is_empty() => None,
        Some(hidden) if hidden > 0 => Some(format!("{} {}", shown.join(", "), describe_more(hidden))),
        _ => Some(shown.join(", ")),
    }
}

fn cut_name(name: &str) -> String {
    const MAX_NAME_BYTES: usize = 60;
    picket_proto::validation::sanitize_text(name, MAX_NAME_BYTES)
}
