//! What became of the ticks that were due during a drill.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Stack;

/// What became of the ticks of a span.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TickAccount {
    /// Those that should have been.
    pub ticks: i64,
    /// Rows by outcome.
    pub up: i64,
    /// Rows by outcome.
    pub down: i64,
    /// Rows by outcome.
    pub missed: i64,
    /// Ticks without a row that lie in a gap on record.
    pub gap: i64,
    /// Ticks without a row.
    pub unaccounted: i64,
    /// Rows of a tick beyond its first.
    pub doubled: i64,
    /// Missed ticks by region and cause, as `east: no_prober`.
    pub causes: BTreeMap<String, i64>,
    /// The longest time from a tick to the start of its check, in milliseconds.
    pub latest_ms: i64,
    /// From the end of the injury to the last tick that was missed, in seconds; 0 if none was after it.
    pub recovery_s: f64,
    /// Messages that could not be stored.
    pub dead_letters: i64,
    /// Incidents of sites that were never down, and those of an outage beyond its first.
    #[serde(default)]
    pub false_incidents: i64,
}

/// The sites of a drill are down or up for good: one that is down has one incident, unless it was not watched for a while.
const FALSE_INCIDENTS_SQL: &str = "SELECT count(*) FROM picket.incidents AS incident
    JOIN picket.known_sites AS site ON site.id = incident.site_id
    WHERE site.url LIKE '%/ok/%' OR EXISTS (
        SELECT FROM picket.incidents AS before WHERE before.site_id = incident.site_id
          AND before.incident_id < incident.incident_id AND NOT before.unwatched)";

/// A line of the table of faults.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReportLine {
    /// Its number in the matrix.
    pub fault: String,
    /// What was done to what.
    pub injury: String,
    /// How long it all took.
    pub seconds: u64,
    /// What came of it.
    pub account: TickAccount,
}

impl TickAccount {
    /// Waits until the ledger is closed up to `to`, then counts the ticks since `from`. Times are the database's, as SQL
    /// has them; `healed` is when the injury had ended.
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
        // The function that is under test here as well must say what counting tick by tick says.
        let by_tick =
            stack.count_ticks(&format!("'{from}'::timestamptz"), &format!("'{to}'::timestamptz")).await;
        assert_eq!(
            (by_tick.ticks, by_tick.unaccounted, by_tick.missed),
            (account.ticks, account.unaccounted + account.gap, account.missed),
            "report.ledger and counting tick by tick differ: {account:#?}"
        );
        account
    }

    /// How many ticks of `region` were missed.
    pub fn missed_in_region(&self, region: &str) -> i64 {
        let there = self.causes.iter().filter(|(cause, _)| cause.starts_with(&format!("{region}: ")));
        there.map(|(_, ticks)| ticks).sum()
    }

    /// How many ticks were missed for `cause`, everywhere.
    pub fn missed_for_cause(&self, cause: &str) -> i64 {
        let so = self.causes.iter().filter(|(name, _)| name.ends_with(&format!(": {cause}")));
        so.map(|(_, ticks)| ticks).sum()
    }
}
