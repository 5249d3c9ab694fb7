//! Incident decisions, made from new rows in the transaction that writes them.
//!
//! A fully up site has no row in `picket.site_states`, so that a batch of such sites costs one
//! lookup in an empty table. For other sites the row is the lock: its owner sees all earlier
//! commits and stores the new state.

mod doubts;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use picket_proto::{ConfirmationRequest, MESSAGE_VERSION, SiteId, Timestamp};
use sqlx::{PgConnection, types::Json};

pub use self::doubts::{DoubtfulWindow, list_open_windows};
use crate::{
    DbTimestamp, Error, Store,
    decisions::context::{self, MAX_CLOCK_SPREAD, SiteContext, SqlResult, Subject},
    incident_rules::{self, Decision, Doubts, IncidentChange, RegionResult, RegionState},
};

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

/// Applies new results by site to the incidents.
pub(crate) async fn apply_results(
    connection: &mut PgConnection,
    mut news: BTreeMap<i64, Vec<RegionResult>>,
    known: Timestamp,
) -> SqlResult<IncidentOutcome> {
    if news.is_empty() {
        return Ok(IncidentOutcome::default());
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
        let Some(oldest) = new.iter().map(|new| new.scheduled_at).min() else {
            // Only future results: nothing to apply, and the row was created only for the lock.
            news.remove(&site);
            if states.is_empty() && !open {
                pending.cleared_sites.push(site);
            }
            continue;
        };
        incident_rules::redate_future_states(&mut states, latest, oldest);
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
    let contexts = if news.is_empty() {
        Vec::new()
    } else {
        context::load_context(connection, Subject::Outage, &news, kept, now).await?
    };
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
            let name = decided.iter().find_map(|(known, ..)| known.region_name(region));
            recorded.push(DoubtfulWindow { region: name.unwrap_or_default().to_owned(), ..window });
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
        regions_reporting: i16,
    },
    Closed(Timestamp),
}

impl PendingWrites {
    fn add_decision(&mut self, known: &SiteContext, decision: Decision) {
        let (id, shard) = (known.id, known.shard);
        let mut openings = decision.openings.iter();
        for (place, change) in decision.changes.into_iter().enumerate() {
            let change = match change {
                IncidentChange::Closed { at } => IncidentWrite::Closed(at),
                IncidentChange::Opened { at, first_failure_at, cause, message, regions } => {
                    let cause = cause.map(|cause| cause.as_str());
                    let reporting =
                        openings.next().map_or(0, |opening| opening.down.len() + opening.up_count);
                    let regions_reporting = i16::try_from(reporting).unwrap_or(i16::MAX);
                    let regions = known.join_region_names(&regions);
                    let first = first_failure_at;
                    IncidentWrite::Opened { at, first, cause, message, regions, regions_reporting }
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
            sqlx::query(
                // By its row `close_unwatched` finds the incident of a site without schedules.
                "DELETE FROM picket.site_states AS state WHERE site_id = ANY ($1) AND NOT EXISTS (
                     SELECT FROM picket.incidents AS incident
                     WHERE incident.site_id = state.site_id AND closed_at IS NULL)",
            )
            .bind(self.cleared_sites)
            .execute(connection)
            .await?;
        }
        Ok(decided)
    }
}

/// Closes incidents and warnings of sites without schedules that were missed when the schedules
/// ended.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn close_unwatched(store: &Store) -> Result<(), Error> {
    let closing = sqlx::query("SELECT picket.close_unwatched_incidents(), picket.close_unwatched_warnings()")
        .execute(&store.pool);
    store
        .with_timeout(Duration::from_secs(30), "close incidents and warnings of unscheduled sites", closing)
        .await
        .map(drop)
}

async fn open_incidents(connection: &mut PgConnection, opened: Vec<(i64, IncidentWrite)>) -> SqlResult<u64> {
    if opened.is_empty() {
        return Ok(0);
    }
    let (mut sites, mut ats, mut firsts) = (vec![], vec![], vec![]);
    let (mut causes, mut messages, mut places, mut reporting) = (vec![], vec![], vec![], vec![]);
    for (site, change) in opened {
        if let IncidentWrite::Opened { at, first, cause, message, regions, regions_reporting } = change {
            reporting.push(regions_reporting);
            sites.push(site);
            ats.push(DbTimestamp(at));
            firsts.push(DbTimestamp(first));
            causes.push(cause);
            messages.push(message);
            places.push(regions);
        }
    }
    let done = sqlx::query(
        "INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, cause, message, regions, regions_reporting)
         SELECT site_id, opened_at, first_failure_at, cause::picket.cause, message, string_to_array(regions, ','), reporting
         FROM unnest($1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::smallint[])
             AS new (site_id, opened_at, first_failure_at, cause, message, regions, reporting)
         ON CONFLICT (site_id) WHERE closed_at IS NULL DO NOTHING",
    )
    .bind(sites)
    .bind(ats)
    .bind(firsts)
    .bind(causes)
    .bind(messages)
    .bind(places)
    .bind(reporting)
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
