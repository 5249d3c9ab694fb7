//! Outcomes of the ticks due during a fault test.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Stack;

/// Outcomes of the ticks in a span.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TickAccount {
    /// Ticks due.
    pub ticks: i64,
    /// Rows with outcome `up`.
    pub up: i64,
    /// Rows with outcome `down`.
    pub down: i64,
    /// Rows with outcome `missed`.
    pub missed: i64,
    /// Ticks without a row in a recorded gap.
    pub gap: i64,
    /// Ticks without a row outside of gaps.
    pub unaccounted: i64,
    /// Rows of a tick beyond the first.
    pub doubled: i64,
    /// Missed ticks by region and cause, as in `east: no_prober`.
    pub causes: BTreeMap<String, i64>,
    /// Longest time from a tick to the start of its check, in milliseconds.
    pub latest_ms: i64,
    /// Time from the end of the fault to the last missed tick, in seconds. 0 without missed ticks
    /// after the end.
    pub recovery_s: f64,
    /// Messages that could not be stored.
    pub dead_letters: i64,
    /// Incidents of sites that were never down, and incidents of an outage beyond the first.
    #[serde(default)]
    pub false_incidents: i64,
}

/// The sites of a fault test are up or down permanently. A down site has a single incident, unless
/// checks were missing for a while.
const FALSE_INCIDENTS_SQL: &str = "SELECT count(*) FROM picket.incidents AS incident
    JOIN picket.known_sites AS site ON site.id = incident.site_id
    WHERE site.url LIKE '%/ok/%' OR EXISTS (
        SELECT FROM picket.incidents AS before WHERE before.site_id = incident.site_id
          AND before.incident_id < incident.incident_id AND NOT before.unwatched)";

/// Row in the table of faults.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReportLine {
    /// Id in the fault matrix.
    pub fault: String,
    /// Description of the fault.
    pub description: String,
    /// Duration of the test, in seconds.
    pub seconds: u64,
    /// Outcomes of the ticks.
    pub account: TickAccount,
}

impl TickAccount {
    /// Waits until the ledger is closed up to `to`, then counts the ticks since `from`. Times are
    /// SQL texts of the database's clock. `healed` is the end of the fault.
    pub async fn for_span(stack: &Stack, from: &str, to: &str, healed: &str) -> Self {
        stack.wait_ledger_closed(to).await;
        let sum = |column: &str| {
            format!("SELECT coalesce(sum({column}), 0)::bigint FROM report.ledger('{from}', '{to}')")
        };
        let span = format!("scheduled_at > '{from}' AND scheduled_at <= '{to}' AND kind = 'scheduled'");
        let causes = stack
            .query_lines(&format!(
                "SELECT count(*) || ' ' || region.name || ': ' || cause FROM picket.check_results
                 JOIN picket.regions AS region ON region.id = region_id WHERE {span} AND outcome = 'missed'
                 GROUP BY region.name, cause"
            ))
            .await;
        let causes = causes.iter().filter_map(|line| {
            let (count, cause) = line.split_once(' ')?;
            Some((cause.to_owned(), count.parse().ok()?))
        });
        let account = Self {
            ticks: stack.query_number(&sum("expected")).await,
            up: stack.query_number(&sum("up")).await,
            down: stack.query_number(&sum("down")).await,
            missed: stack.query_number(&sum("missed")).await,
            gap: stack.query_number(&sum("gap")).await,
            unaccounted: stack.query_number(&sum("unaccounted")).await,
            doubled: stack
                .query_number(&format!(
                    "SELECT count(*) - count(DISTINCT (site_id, region_id, scheduled_at)) FROM picket.check_results WHERE {span}"
                ))
                .await,
            causes: causes.collect(),
            latest_ms: stack
                .query_number(&format!("SELECT coalesce(max(lateness_us) / 1000, 0)::bigint FROM picket.check_results WHERE {span}"))
                .await,
            recovery_s: stack
                .query_number(&format!(
                    "SELECT greatest(0, coalesce(extract(epoch FROM max(scheduled_at) - '{healed}') * 1000, 0))::bigint
                     FROM picket.check_results WHERE {span} AND outcome = 'missed'"
                ))
                .await as f64
                / 1_000.0,
            dead_letters: stack.query_number("SELECT count(*) FROM picket.dead_letters").await,
            false_incidents: stack.query_number(FALSE_INCIDENTS_SQL).await,
        };
        // `report.ledger` is under test here as well, and must agree with counting tick by tick.
        let by_tick =
            stack.count_ticks(&format!("'{from}'::timestamptz"), &format!("'{to}'::timestamptz")).await;
        assert_eq!(
            (by_tick.ticks, by_tick.unaccounted, by_tick.missed),
            (account.ticks, account.unaccounted + account.gap, account.missed),
            "report.ledger and counting tick by tick differ: {account:#?}"
        );
        account
    }

    /// Number of missed ticks in `region`.
    pub fn missed_in_region(&self, region: &str) -> i64 {
        let matching = self.causes.iter().filter(|(cause, _)| cause.starts_with(&format!("{region}: ")));
        matching.map(|(_, ticks)| ticks).sum()
    }

    /// Number of ticks missed for `cause` in all regions.
    pub fn missed_for_cause(&self, cause: &str) -> i64 {
        let matching = self.causes.iter().filter(|(name, _)| name.ends_with(&format!(": {cause}")));
        matching.map(|(_, ticks)| ticks).sum()
    }
}
