//! The first line of a message, and the frequencies of a digest.

use std::collections::BTreeMap;

use crate::{
    message::{Counts, Item, Purpose, Verdict},
    text::{describe_count, describe_item},
};

/// Frequencies over `items`, most frequent first, equal ones by name.
pub(super) fn count_items(items: &[Item]) -> Counts {
    let count = |names: &mut dyn Iterator<Item = String>| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        names.for_each(|name| *counts.entry(name).or_default() += 1);
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
        counts
    };
    Counts {
        causes: count(
            &mut items.iter().filter(|item| item.closed_at.is_none()).filter_map(|item| item.cause.clone()),
        ),
        regions: count(&mut items.iter().flat_map(|item| item.regions.iter().cloned())),
        tags: count(&mut items.iter().flat_map(|item| item.tags.iter().cloned())),
    }
}

/// The verdict and the count: `DOWN 42 sites with tag shop: connection refused (31), timeout (11)`.
pub(super) fn build_title(purpose: Purpose, items: &[Item]) -> String {
    let prefix = match purpose {
        Purpose::Test => "TEST ",
        Purpose::Reminder => "STILL ",
        _ => "",
    };
    match items {
        [item] if purpose == Purpose::Acknowledgement => return format!("ACKNOWLEDGED {}", item.name),
        [item] => return format!("{prefix}{}", describe_item(item)),
        _ => {}
    }
    let mut verdicts: BTreeMap<Verdict, Vec<&Item>> = BTreeMap::new();
    for item in items {
        verdicts.entry(item.verdict).or_default().push(item);
    }
    let parts: Vec<String> = verdicts
        .iter()
        .map(|(verdict, items)| match items.as_slice() {
            [item] => format!("{} {}", verdict.as_word(), item.name),
            items => format!("{} {}", verdict.as_word(), describe_count(items.len(), noun_of(*verdict))),
        })
        .collect();
    let mut title = format!("{prefix}{}", parts.join(", "));
    if let Some(tag) = find_common_tag(items) {
        title.push_str(&format!(" with tag {tag}"));
    }
    if purpose == Purpose::Escalation {
        title.push_str(", unacknowledged");
    }
    let causes: Vec<String> =
        count_items(items).causes.iter().take(3).map(|(cause, count)| format!("{cause} ({count})")).collect();
    if !causes.is_empty() {
        title.push_str(&format!(": {}", causes.join(", ")));
    }
    title
}

fn noun_of(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Silent | Verdict::Back => "region",
        Verdict::Failing | Verdict::Working => "channel",
        Verdict::Warns | Verdict::WarningOver => "warning",
        _ => "site",
    }
}

fn find_common_tag(items: &[Item]) -> Option<&String> {
    items.first()?.tags.iter().find(|tag| items.iter().all(|item| item.tags.contains(tag)))
}
