//! Incident decisions, made from new rows in the transaction that writes them.
//!
//! A fully up site has no row in `picket.site_states`, so that a batch of such sites costs one
//! lookup in an empty table. For other sites the row is the lock: its owner sees all earlier
//! commits and stores the new state.

mod doubts;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use picket_proto::{CheckKind, ConfirmationRequest, MESSAGE_VERSION, Shard, SiteId, Timestamp};
use sqlx::{PgConnection, types::Json};

pub use self::doubts::{DoubtfulWindow, list_open_windows};
use crate::{
    DbTimestamp, Error, Store,
    incident_rules::{
        self, Decision, Doubts, IncidentChange, IncidentPolicy, RegionId, RegionResult, RegionState,
        RegionView, SiteView,
    },
    leases::to_shard,
};

/// A new result that may affect an incident.
#[derive(Clone, Debug)]
pub(crate) struct NewResult {
    pub(crate) site: SiteId,
    pub(crate) result: RegionResult,
}

/// Consequences of new results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IncidentOutcome {
    /// Number of opened incidents.
    pub opened: u64,
    /// Number of closed incidents.
    pub closed: u64,
    /// Requested and cancelled confirmations of sites.
    pub confirmations: Vec<ConfirmationRequest>,
    /// Probers whose failures are doubtful from now on.
    pub doubts: Vec<DoubtfulWindow>,
}

type SqlResult<T> = Result<T, sqlx::Error>;

/// Tolerance between two clocks that show the same time. Results due later than this from now are
/// ignored here: with a due time in the future, a region would be the only one that reports.
const MAX_CLOCK_SPREAD: Duration = Duration::from_secs(5);

/// Applies `fresh` results to the incidents, as the last step of the transaction. The current time
/// is the database's clock or `known`, whichever is later: while the database's clock is behind,
/// checks are scheduled by its former time.
pub(crate) async fn apply_results(
    connection: &mut PgConnection,
    fresh: Vec<NewResult>,
    known: Timestamp,
) -> SqlResult<IncidentOutcome> {
    let fresh = drop_unscheduled_results(connection, fresh).await?;
    if fresh.is_empty() {
        return Ok(IncidentOutcome::default());
    }
    let mut news: BTreeMap<i64, Vec<RegionResult>> = BTreeMap::new();
    for NewResult { site, result } in fresh {
        news.entry(site.0).or_default().push(result);
    }
    let mut pending = PendingWrites::default();
    let mut kept = HashMap::new();
    let locked = lock_site_states(connection, news.keys().copied().collect()).await?;
    // After the sites' locks, as every statement that locks doubts.
    doubts::end_doubts(connection, &news).await?;
    let now = locked.iter().map(|locked| locked.now.into()).fold(known, Timestamp::max);
    let latest = now.saturating_add(MAX_CLOCK_SPREAD);
    for LockedSite { site_id: site, regions: Json(mut states), open, .. } in locked {
        let Some(new) = news.get_mut(&site) else { continue };
        new.retain(|new| new.scheduled_at <= latest);
        let Some(oldest) = new.iter().map(|new| new.scheduled_at.as_micros()).min() else {
            // Only future results: nothing to apply, and the row was created only for the lock.
            news.remove(&site);
            if states.is_empty() && !open {
                pending.cleared_sites.push(site);
            }
            continue;
        };
        // Written before the clock was set back, or by an earlier version. The state still holds,
        // so it is dated just before the new results.
        for state in states.iter_mut().filter(|state| state.last_scheduled_us > latest.as_micros()) {
            state.last_scheduled_us = oldest - 1;
            state.failing_since_us = state.failing_since_us.min(state.last_scheduled_us);
        }
        // A site that stays down needs no decision and therefore no lookup of its context.
        let still_down = news
            .get(&site)
            .filter(|_| open)
            .and_then(|new| incident_rules::fast_path_still_down(&states, new));
        match still_down {
            Some(states) => {
                news.remove(&site);
                pending.states.push((site, states));
            }
            None => drop(kept.insert(site, states)),
        }
    }
    let contexts =
        if news.is_empty() { Vec::new() } else { load_context(connection, &news, kept, now).await? };
    for (known, decision) in decide_sites(connection, contexts, &mut news, &mut pending.doubts).await? {
        pending.add_decision(&known, decision);
    }
    // Sites without a row in the context are no longer checked; their states are deleted.
    pending.cleared_sites.extend(news.keys());
    pending.write_changes(connection).await
}

/// Decides each site. Before an incident opens, the votes for it are examined for doubts.
async fn decide_sites(
    connection: &mut PgConnection,
    contexts: Vec<SiteContext>,
    news: &mut BTreeMap<i64, Vec<RegionResult>>,
    recorded: &mut Vec<DoubtfulWindow>,
) -> SqlResult<Vec<(SiteContext, Decision)>> {
    let mut decided: Vec<_> = contexts
        .into_iter()
        .map(|known| {
            let new = news.remove(&known.id).unwrap_or_default();
            let decision = known.site.clone().evaluate_results(new.clone());
            (known, new, Doubts::new(), decision)
        })
        .collect();
    for _ in 0..doubts::MAX_DOUBT_ROUNDS {
        let opening = decided.iter().map(|(known, _, _, decision)| (known.id, decision));
        let (mut found, windows) = doubts::find_doubts(connection, opening).await?;
        if found.is_empty() {
            break;
        }
        for (region, window) in windows {
            let name = decided.iter().find_map(|(known, ..)| known.region_names.get(&region));
            recorded.push(DoubtfulWindow { region: name.cloned().unwrap_or_default(), ..window });
        }
        for (known, new, doubts, decision) in &mut decided {
            let Some(more) = found.remove(&known.id) else { continue };
            for (region, spans) in more {
                doubts.entry(region).or_default().extend(spans);
            }
            *decision = known.site.clone().evaluate_with_doubts(new.clone(), doubts);
        }
    }
    Ok(decided.into_iter().map(|(known, _, _, decision)| (known, decision)).collect())
}

/// Drops scheduled results whose due time is no tick of a schedule; they are not evidence.
async fn drop_unscheduled_results(
    connection: &mut PgConnection,
    mut fresh: Vec<NewResult>,
) -> SqlResult<Vec<NewResult>> {
    let scheduled: Vec<&NewResult> =
        fresh.iter().filter(|new| new.result.kind == CheckKind::Scheduled).collect();
    if scheduled.is_empty() {
        return Ok(fresh);
    }
    let odd: Vec<(i64, i16, DbTimestamp)> = sqlx::query_as(
        "SELECT site_id, region_id, at FROM unnest($1::bigint[], $2::smallint[], $3::timestamptz[]) AS new (site_id, region_id, at)
         WHERE NOT EXISTS (
             SELECT FROM picket.schedules AS schedule
             WHERE schedule.site_id = new.site_id AND schedule.region_id = new.region_id AND picket.has_tick(schedule, new.at))",
    )
    .bind(scheduled.iter().map(|new| new.site.0).collect::<Vec<_>>())
    .bind(scheduled.iter().map(|new| new.result.region).collect::<Vec<_>>())
    .bind(scheduled.iter().map(|new| DbTimestamp(new.result.scheduled_at)).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    if !odd.is_empty() {
        let odd: HashSet<(i64, RegionId, Timestamp)> =
            odd.into_iter().map(|(site, region, at)| (site, region, at.into())).collect();
        fresh.retain(|NewResult { site, result }| {
            result.kind != CheckKind::Scheduled
                || !odd.contains(&(site.0, result.region, result.scheduled_at))
        });
    }
    Ok(fresh)
}

/// The row of a locked site.
#[derive(sqlx::FromRow)]
struct LockedSite {
    site_id: i64,
    regions: Json<Vec<RegionState>>,
    /// True if an incident is open.
    open: bool,
    /// The database's clock.
    now: DbTimestamp,
}

/// Locks the rows of the sites, in order; creates missing rows.
async fn lock_site_states(connection: &mut PgConnection, sites: Vec<i64>) -> SqlResult<Vec<LockedSite>> {
    sqlx::query_as(
        // An update without a change waits for the row's lock and then sees the committed row.
        "INSERT INTO picket.site_states AS state (site_id) SELECT unnest($1::bigint[])
         ON CONFLICT (site_id) DO UPDATE SET regions = state.regions
         RETURNING site_id, regions, EXISTS (
             SELECT FROM picket.incidents AS incident WHERE incident.site_id = state.site_id AND closed_at IS NULL) AS open,
             clock_timestamp() AS now",
    )
    .bind(sites)
    .fetch_all(connection)
    .await
}

#[derive(sqlx::FromRow)]
struct SiteRegionRow {
    site_id: i64,
    shard: i16,
    quorum: Option<i32>,
    failures_to_open: i32,
    successes_to_close: i32,
    open: bool,
    window_from: Option<Vec<DbTimestamp>>,
    window_to: Option<Vec<DbTimestamp>>,
    region_id: i16,
    region: String,
    window_ms: i64,
    joining_until: DbTimestamp,
    downs: Option<Vec<DbTimestamp>>,
    ups: Option<Vec<DbTimestamp>>,
}

/// A site with its context, and the names of its regions.
struct SiteContext {
    id: i64,
    shard: Shard,
    site: SiteView,
    region_names: HashMap<RegionId, String>,
}

async fn load_context(
    connection: &mut PgConnection,
    news: &BTreeMap<i64, Vec<RegionResult>>,
    mut kept: HashMap<i64, Vec<RegionState>>,
    now: Timestamp,
) -> SqlResult<Vec<SiteContext>> {
    // A success missing from the state matters only while the region is failing and not yet down.
    let settled = |state: &&RegionState| state.is_down || state.consecutive_failures == 0;
    let known: Vec<(i64, RegionId)> = kept
        .iter()
        .flat_map(|(site, states)| states.iter().filter(settled).map(|state| (*site, state.region)))
        .collect();
    let (known_sites, known_regions): (Vec<i64>, Vec<RegionId>) = known.into_iter().unzip();
    let moments =
        news.iter().flat_map(|(site, new)| new.iter().map(|new| (*site, DbTimestamp(new.scheduled_at))));
    let (sites, ats): (Vec<i64>, Vec<DbTimestamp>) = moments.unzip();
    let rows: Vec<SiteRegionRow> = sqlx::query_as(include_str!("incidents/evidence.sql"))
        .bind(sites)
        .bind(ats)
        .bind(known_sites)
        .bind(known_regions)
        .bind(DbTimestamp(now))
        .fetch_all(connection)
        .await?;
    let mut sites: Vec<SiteContext> = Vec::new();
    for row in rows {
        let new = news.get(&row.site_id).map_or(&[][..], Vec::as_slice);
        let states = kept.entry(row.site_id).or_default();
        let state = states.iter().position(|state| state.region == row.region_id);
        let state = state.map(|place| states.swap_remove(place));
        // The rows are ordered by site, so a new id starts the next site.
        if sites.last().is_none_or(|last| last.id != row.site_id) {
            sites.push(row.to_site_context());
        }
        if let Some(known) = sites.last_mut() {
            known.site.regions.insert(row.region_id, row.to_region_view(state, new));
            known.region_names.insert(row.region_id, row.region);
        }
    }
    Ok(sites)
}

impl SiteRegionRow {
    fn to_site_context(&self) -> SiteContext {
        // SQL admits values that the coordinator rejects later, so they are clamped here.
        let count = |number: i32| u32::try_from(number).unwrap_or(1).max(1);
        let windows = self.window_from.iter().flatten().zip(self.window_to.iter().flatten());
        let site = SiteView {
            policy: IncidentPolicy {
                failures_to_open: count(self.failures_to_open),
                successes_to_close: count(self.successes_to_close),
                quorum: self.quorum.map(count),
            },
            regions: BTreeMap::new(),
            has_open_incident: self.open,
            maintenance_windows: windows.map(|(from, to)| ((*from).into(), (*to).into())).collect(),
        };
        SiteContext { id: self.site_id, shard: to_shard(self.shard), site, region_names: HashMap::new() }
    }

    fn to_region_view(&self, state: Option<RegionState>, new: &[RegionResult]) -> RegionView {
        // The new rows are in the table already; only older rows describe the former state.
        let new: HashSet<Timestamp> =
            new.iter().filter(|new| new.region == self.region_id).map(|new| new.scheduled_at).collect();
        let newest = |seen: &Option<Vec<DbTimestamp>>| {
            let seen = seen.iter().flatten().map(|at| Timestamp::from(*at));
            seen.filter(|at| !new.contains(at)).max()
        };
        let (down, up) = (newest(&self.downs), newest(&self.ups));
        RegionView {
            state,
            reporting_window: Duration::from_millis(self.window_ms.unsigned_abs()),
            joining_until: self.joining_until.into(),
            last_result_at: down.max(up),
            last_success_at: up,
        }
    }
}

/// Pending writes of a transaction.
#[derive(Default)]
struct PendingWrites {
    states: Vec<(i64, Vec<RegionState>)>,
    cleared_sites: Vec<i64>,
    /// Incident changes by rank: the first change of each site, the second, and so on. Changes of
    /// one site must be written in order.
    incident_writes: Vec<Vec<(i64, IncidentWrite)>>,
    confirmations: Vec<ConfirmationRequest>,
    doubts: Vec<DoubtfulWindow>,
}

enum IncidentWrite {
    Opened {
        at: Timestamp,
        first: Timestamp,
        cause: Option<&'static str>,
        message: Option<String>,
        regions: String,
    },
    Closed(Timestamp),
}

impl PendingWrites {
    fn add_decision(&mut self, known: &SiteContext, decision: Decision) {
        let (id, shard) = (known.id, known.shard);
        for (place, change) in decision.changes.into_iter().enumerate() {
            let change = match change {
                IncidentChange::Closed { at } => IncidentWrite::Closed(at),
                IncidentChange::Opened { at, first_failure_at, cause, message, regions } => {
                    let names: Vec<&str> =
                        regions.iter().filter_map(|id| Some(known.region_names.get(id)?.as_str())).collect();
                    let cause = cause.map(|cause| cause.as_str());
                    // Region names contain no comma.
                    IncidentWrite::Opened {
                        at,
                        first: first_failure_at,
                        cause,
                        message,
                        regions: names.join(","),
                    }
                }
            };
            if self.incident_writes.len() <= place {
                self.incident_writes.push(Vec::new());
            }
            self.incident_writes[place].push((id, change));
        }
        if let Some(rounds) = decision.confirmation_rounds {
            self.confirmations.push(ConfirmationRequest {
                v: MESSAGE_VERSION,
                site_id: SiteId(id),
                shard,
                rounds,
            });
        }
        match decision.states {
            Some(states) => self.states.push((id, states)),
            None => self.cleared_sites.push(id),
        }
    }

    async fn write_changes(self, connection: &mut PgConnection) -> SqlResult<IncidentOutcome> {
        let mut decided = IncidentOutcome {
            confirmations: self.confirmations,
            doubts: self.doubts,
            ..IncidentOutcome::default()
        };
        for changes in self.incident_writes {
            let (opened, closed) =
                changes.into_iter().partition(|(_, change)| matches!(change, IncidentWrite::Opened { .. }));
            decided.closed += close_incidents(connection, closed).await?;
            decided.opened += open_incidents(connection, opened).await?;
        }
        if !self.states.is_empty() {
            let (sites, states): (Vec<_>, Vec<_>) =
                self.states.into_iter().map(|(site, states)| (site, Json(states))).unzip();
            sqlx::query(
                "UPDATE picket.site_states AS state SET regions = new.regions
                 FROM unnest($1::bigint[], $2::jsonb[]) AS new (site_id, regions) WHERE state.site_id = new.site_id",
            )
            .bind(sites)
            .bind(states)
            .execute(&mut *connection)
            .await?;
        }
        // Rows are deleted, not emptied: every batch looks up this table, so it must stay small.
        if !self.cleared_sites.is_empty() {
            sqlx::query("DELETE FROM picket.site_states WHERE site_id = ANY ($1)")
                .bind(self.cleared_sites)
                .execute(connection)
                .await?;
        }
        Ok(decided)
    }
}

/// Closes incidents of sites without schedules that were missed when the schedules ended.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn close_unwatched(store: &Store) -> Result<(), Error> {
    let closing = sqlx::query("SELECT picket.close_unwatched_incidents()").execute(&store.pool);
    store
        .with_timeout(Duration::from_secs(30), "close incidents of unscheduled sites", closing)
        .await
        .map(drop)
}

async fn open_incidents(connection: &mut PgConnection, opened: Vec<(i64, IncidentWrite)>) -> SqlResult<u64> {
    if opened.is_empty() {
        return Ok(0);
    }
    let (mut sites, mut ats, mut firsts) = (vec![], vec![], vec![]);
    let (mut causes, mut messages, mut places) = (vec![], vec![], vec![]);
    for (site, change) in opened {
        if let IncidentWrite::Opened { at, first, cause, message, regions } = change {
            sites.push(site);
            ats.push(DbTimestamp(at));
            firsts.push(DbTimestamp(first));
            causes.push(cause);
            messages.push(message);
            places.push(regions);
        }
    }
    let done = sqlx::query(
        "INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, cause, message, regions)
         SELECT site_id, opened_at, first_failure_at, cause::picket.cause, message, string_to_array(regions, ',')
         FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::text[], $5::text[], $6::text[])
             AS new (site_id, opened_at, first_failure_at, cause, message, regions)
         ON CONFLICT (site_id) WHERE closed_at IS NULL DO NOTHING",
    )
    .bind(sites)
    .bind(ats)
    .bind(firsts)
    .bind(causes)
    .bind(messages)
    .bind(places)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

async fn close_incidents(connection: &mut PgConnection, closed: Vec<(i64, IncidentWrite)>) -> SqlResult<u64> {
    if closed.is_empty() {
        return Ok(0);
    }
    let (sites, ats): (Vec<i64>, Vec<DbTimestamp>) = closed
        .into_iter()
        .filter_map(|(site, change)| match change {
            IncidentWrite::Closed(at) => Some((site, DbTimestamp(at))),
            IncidentWrite::Opened { .. } => None,
        })
        .unzip();
    let done = sqlx::query(
        "UPDATE picket.incidents AS incident SET closed_at = greatest(incident.opened_at, done.at)
         FROM unnest($1::bigint[], $2::timestamptz[]) AS done (site_id, at)
         WHERE incident.site_id = done.site_id AND incident.closed_at IS NULL",
    )
    .bind(sites)
    .bind(ats)
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
