//! Doubts about failures that may be those of a prober, asked for when an incident would open.
//!
//! The database decides and records (`picket.doubt_failures`), so that all sinks agree. A batch
//! that opens no incident asks nothing.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use picket_proto::{Cause, Outcome, Timestamp};
use sqlx::PgConnection;

use crate::{
    DbTimestamp, Error, Store,
    decisions::context::SqlResult,
    incident_rules::{Decision, Doubts, RegionId, RegionResult, RegionState},
};

/// A span in which the failures of a prober are doubtful.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoubtfulWindow {
    /// Name of the region.
    pub region: String,
    /// Name of the prober.
    pub prober: String,
    /// Due time of the first failure.
    pub from: Timestamp,
    /// Exclusive end, which a response brings forward.
    pub to: Timestamp,
    /// Hosts that failed here and that other regions reached.
    pub hosts: u32,
}

/// Rounds of a batch: results of hours stored at once may open an incident again after the
/// end of each doubt. After the last round an incident opens.
pub(super) const MAX_DOUBT_ROUNDS: usize = 4;

#[derive(sqlx::FromRow)]
struct DoubtRow {
    doubtful_site: i64,
    doubtful_region: i16,
    since: DbTimestamp,
    until: DbTimestamp,
    by_prober: String,
    failing_hosts: Option<i32>,
    is_new: bool,
}

/// Failures by which incidents would open, in columns.
#[derive(Default)]
struct Failures {
    sites: Vec<i64>,
    regions: Vec<RegionId>,
    due_times: Vec<DbTimestamp>,
    kinds: Vec<&'static str>,
    first_failures: Vec<DbTimestamp>,
    decided_times: Vec<DbTimestamp>,
    contradicted: Vec<bool>,
}

impl Failures {
    fn push_opening(&mut self, site: i64, decision: &Decision) {
        for opening in &decision.openings {
            for state in opening.down.iter().filter(|state| is_transport_failure(state)) {
                let (due_at, kind) = state.judged_failure();
                self.sites.push(site);
                self.regions.push(state.region);
                self.due_times.push(DbTimestamp(due_at));
                self.kinds.push(kind.as_str());
                self.first_failures.push(DbTimestamp(Timestamp::from_micros(state.failing_since_us)));
                self.decided_times.push(DbTimestamp(opening.at));
                // The other regions; this one is among those that are down.
                self.contradicted.push(opening.up_count > opening.down.len() - 1);
            }
        }
    }
}

/// Returns true if the last failure is one that a prober without a network would report.
fn is_transport_failure(state: &RegionState) -> bool {
    matches!(state.cause, Some(Cause::Dns | Cause::Connect | Cause::Tls | Cause::Timeout))
}

/// Finds the doubtful failures behind these decisions, by site, and the windows recorded now.
pub(super) async fn find_doubts<'a>(
    connection: &mut PgConnection,
    decisions: impl Iterator<Item = (i64, &'a Decision)>,
) -> SqlResult<(HashMap<i64, Doubts>, Vec<(RegionId, DoubtfulWindow)>)> {
    let mut failures = Failures::default();
    for (site, decision) in decisions {
        failures.push_opening(site, decision);
    }
    let (mut found, mut recorded): (HashMap<i64, Doubts>, Vec<(RegionId, DoubtfulWindow)>) =
        Default::default();
    if failures.sites.is_empty() {
        return Ok((found, recorded));
    }
    let rows: Vec<DoubtRow> = sqlx::query_as(
        "SELECT * FROM picket.doubt_failures($1::bigint[], $2::smallint[], $3::timestamptz[], $4::text[],
             $5::timestamptz[], $6::timestamptz[], $7::boolean[])",
    )
    .bind(failures.sites)
    .bind(failures.regions)
    .bind(failures.due_times)
    .bind(failures.kinds)
    .bind(failures.first_failures)
    .bind(failures.decided_times)
    .bind(failures.contradicted)
    .fetch_all(connection)
    .await?;
    for row in rows {
        let (from, to) = (row.since.into(), row.until.into());
        let hosts = row.failing_hosts.map_or(0, i32::unsigned_abs);
        let window = DoubtfulWindow { region: String::new(), prober: row.by_prober, from, to, hosts };
        let region = row.doubtful_region;
        if row.is_new && !recorded.iter().any(|(known, other)| (*known, other) == (region, &window)) {
            recorded.push((region, window));
        }
        found.entry(row.doubtful_site).or_default().entry(region).or_default().push((from, to));
    }
    Ok((found, recorded))
}

/// Ends the doubts of the probers that reached a server. Costs one short query for a batch with
/// successes of sites that are not fully up, and nothing for others.
pub(super) async fn end_doubts(
    connection: &mut PgConnection,
    news: &BTreeMap<i64, Vec<RegionResult>>,
) -> SqlResult<()> {
    // A first selection; the function judges by the phases of the check as well.
    let is_reached = |new: &&RegionResult| {
        new.outcome != Outcome::Missed && (new.outcome == Outcome::Up || new.cause != Some(Cause::Connect))
    };
    let reached: Vec<(i64, &RegionResult)> = news
        .iter()
        .flat_map(|(site, new)| new.iter().filter(is_reached).map(move |new| (*site, new)))
        .collect();
    if reached.is_empty() {
        return Ok(());
    }
    sqlx::query("SELECT picket.end_doubts($1::bigint[], $2::smallint[], $3::timestamptz[], $4::text[])")
        .bind(reached.iter().map(|(site, _)| *site).collect::<Vec<_>>())
        .bind(reached.iter().map(|(_, new)| new.region).collect::<Vec<_>>())
        .bind(reached.iter().map(|(_, new)| DbTimestamp(new.scheduled_at)).collect::<Vec<_>>())
        .bind(reached.iter().map(|(_, new)| new.kind.as_str()).collect::<Vec<_>>())
        .execute(connection)
        .await
        .map(drop)
}

/// Lists the windows that have not ended, by the database's clock.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_open_windows(store: &Store) -> Result<Vec<DoubtfulWindow>, Error> {
    let listing = sqlx::query_as(
        "SELECT region, prober, doubtful_from, doubtful_to, hosts FROM report.doubtful_windows
         WHERE doubtful_to > now() ORDER BY region, prober, doubtful_from",
    )
    .fetch_all(&store.pool);
    let rows: Vec<(String, String, DbTimestamp, DbTimestamp, i32)> =
        store.with_timeout(Duration::from_secs(30), "read the doubtful windows", listing).await?;
    let window = |(region, prober, from, to, hosts): (String, String, DbTimestamp, DbTimestamp, i32)| {
        DoubtfulWindow { region, prober, from: from.into(), to: to.into(), hosts: hosts.unsigned_abs() }
    };
    Ok(rows.into_iter().map(window).collect())
}
