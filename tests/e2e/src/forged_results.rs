//! Forged results: a region's prober claims results of checks that it was not given.

use picket_proto::{Cause, CheckKind, CheckResult, Outcome, RegionName, SiteId, Timestamp};
use serde_json::{Value, json};

/// Forges results that differ from the given check in every possible property, each with the ticket
/// of the given check.
pub fn forge_results(result: &CheckResult, other: &RegionName) -> Vec<Value> {
    let result = CheckResult {
        prober: "liar".to_owned(),
        outcome: Outcome::Down,
        cause: Some(Cause::Connect),
        ..result.clone()
    };
    let at = |seconds: i64| Timestamp::from_micros(result.scheduled_at.as_micros() + seconds * 1_000_000);
    let forgeries = [
        CheckResult { site_id: result.site_id.map(|site| SiteId(site.0 + 1)), ..result.clone() },
        CheckResult { kind: CheckKind::Confirm, ..result.clone() },
        CheckResult { scheduled_at: at(1), ..result.clone() },
        CheckResult { scheduled_at: at(-29 * 86_400), ..result.clone() },
        CheckResult { scheduled_at: at(280), ..result.clone() },
        CheckResult { expires_at: Some(at(7)), ..result.clone() },
        CheckResult { expires_at: None, ..result.clone() },
        CheckResult { ticket: None, ..result.clone() },
        CheckResult { ticket: Some("0".repeat(36)), ..result.clone() },
        CheckResult { region: other.clone(), ..result.clone() },
        CheckResult { installation: "00000000-0000-4000-8000-000000000000".parse().ok(), ..result.clone() },
    ];
    let mut forged: Vec<Value> = forgeries.iter().map(|forgery| json!(forgery)).collect();
    let mut shard = json!(result);
    shard["shard"] = json!(result.shard.map_or(0, |shard| (shard.0 + 1) % 64));
    forged.push(shard);
    forged
}
