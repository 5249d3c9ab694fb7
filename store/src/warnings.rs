//! Warning decisions, made from new rows in the transaction that writes them.
//!
//! A site of which no region warns has no row in `picket.warning_states`, so that a batch of such
//! sites needs no statement here. For other sites the row of each kind is the lock, as in
//! [`incidents`](crate::incidents).

mod reported;

use std::collections::{BTreeMap, HashMap};

use picket_proto::{SiteId, Timestamp, Warning};
use sqlx::{PgConnection, types::Json};

pub(crate) use self::reported::ReportedWarnings;
use crate::{
    DbTimestamp,
    decisions::context::{self, MAX_CLOCK_SPREAD, SiteContext, SqlResult, Subject},
    incident_rules::{RegionResult, RegionState, redate_future_states},
    warning_rules::{
        WarningChange, WarningDecision, WarningDetails, WarningResult, WarningState, WarningView,
        fast_path_still_warned,
    },
};

/// Consequences of new results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WarningOutcome {
    /// Number of opened warnings.
    pub opened: u64,
    /// Number of closed warnings.
    pub closed: u64,
}

/// One kind of warning of a site.
type Key = (i64, Warning);

/// Applies new results of checks that were up to the warnings.
pub(crate) async fn apply_results(
    connection: &mut PgConnection,
    fresh: Vec<(SiteId, RegionResult, ReportedWarnings)>,
    known: Timestamp,
) -> SqlResult<WarningOutcome> {
    if fresh.is_empty() {
        return Ok(WarningOutcome::default());
    }
    let mut by_site: BTreeMap<i64, Vec<(RegionResult, ReportedWarnings)>> = BTreeMap::new();
    for (site, result, warnings) in fresh {
        by_site.entry(site.0).or_default().push((result, warnings));
    }
    let mut pending = PendingWrites::default();
    let mut unsettled: HashMap<Warning, UnsettledSites> = HashMap::new();
    let locked = lock_warning_states(connection, &by_site).await?;
    let now = locked.iter().map(|locked| locked.now.into()).fold(known, Timestamp::max);
    let latest = now.saturating_add(MAX_CLOCK_SPREAD);
    for LockedWarning { site_id: site, kind, state: Json(mut state), open, .. } in locked {
        // The enum type of the database contains no other words.
        let Ok(kind) = kind.parse::<Warning>() else { continue };
        let new = by_site.get(&site).map(|new| results_of_kind(new, kind, latest)).unwrap_or_default();
        let Some(oldest) = new.iter().map(|new| new.scheduled_at).min() else {
            // Only future results: nothing to apply, and the row may be new.
            if state.regions.is_empty() && !open {
                pending.cleared.push((site, kind));
            }
            continue;
        };
        redate_future_states(&mut state.regions, latest, oldest);
        for seen in state.observations.values_mut().filter(|seen| seen.since_us > latest.as_micros()) {
            seen.since_us = oldest.as_micros() - 1;
        }
        if let Some(renewal) = &mut state.renewal {
            redate_future_states(&mut renewal.regions, latest, oldest);
        }
        match open.then(|| fast_path_still_warned(&state, &new)).flatten() {
            Some(state) => pending.states.push(((site, kind), state)),
            None => unsettled.entry(kind).or_default().add(site, state, new),
        }
    }
    for (kind, sites) in unsettled {
        sites.decide(connection, kind, now, &mut pending).await?;
    }
    pending.write_changes(connection).await
}

/// The results of a site with regard to one kind, without those of the future.
fn results_of_kind(
    new: &[(RegionResult, ReportedWarnings)],
    kind: Warning,
    latest: Timestamp,
) -> Vec<WarningResult> {
    let new = new.iter().filter(|(result, _)| result.scheduled_at <= latest);
    new.map(|(result, warnings)| {
        let warning = warnings.find(kind);
        WarningResult {
            region: result.region,
            scheduled_at: result.scheduled_at,
            warned: warning.map(|warning| warning.details.clone()),
            message: warning.and_then(|warning| warning.message.clone()),
        }
    })
    .collect()
}

/// Sites whose warnings of one kind need a full evaluation.
#[derive(Default)]
struct UnsettledSites {
    evidence: BTreeMap<i64, Vec<RegionResult>>,
    regions: HashMap<i64, Vec<RegionState>>,
    /// The rest of the state, and the new results.
    sites: BTreeMap<i64, (WarningState, Vec<WarningResult>)>,
}

impl UnsettledSites {
    fn add(&mut self, site: i64, mut state: WarningState, new: Vec<WarningResult>) {
        self.evidence.insert(site, new.iter().map(WarningResult::to_evidence).collect());
        self.regions.insert(site, std::mem::take(&mut state.regions));
        self.sites.insert(site, (state, new));
    }

    async fn decide(
        mut self,
        connection: &mut PgConnection,
        kind: Warning,
        now: Timestamp,
        pending: &mut PendingWrites,
    ) -> SqlResult<()> {
        let subject = Subject::Warning(kind);
        let contexts = context::load_context(connection, subject, &self.evidence, self.regions, now).await?;
        for mut known in contexts {
            let Some((WarningState { observations, renewal, .. }, new)) = self.sites.remove(&known.id) else {
                continue;
            };
            known.site.maintenance_windows.clear();
            let view = WarningView::new(known.site.clone(), observations, renewal);
            pending.add_decision(&known, kind, view.evaluate_results(new));
        }
        // Sites without a row in the context are no longer checked; their states are deleted.
        pending.cleared.extend(self.sites.into_keys().map(|site| (site, kind)));
        Ok(())
    }
}

/// The row of a locked warning.
#[derive(sqlx::FromRow)]
struct LockedWarning {
    site_id: i64,
    kind: String,
    state: Json<WarningState>,
    /// True if the warning is open.
    open: bool,
    /// The database's clock.
    now: DbTimestamp,
}

/// Locks the rows of the sites, in order; creates missing rows of kinds that the results warn of.
async fn lock_warning_states(
    connection: &mut PgConnection,
    by_site: &BTreeMap<i64, Vec<(RegionResult, ReportedWarnings)>>,
) -> SqlResult<Vec<LockedWarning>> {
    let warned = by_site.iter().flat_map(|(site, new)| {
        let kinds = new.iter().flat_map(|(_, warnings)| warnings.kinds());
        kinds.map(|kind| (*site, kind.as_str()))
    });
    let (warned_sites, kinds): (Vec<i64>, Vec<&str>) = warned.unzip();
    sqlx::query_as(
        // An update without a change waits for the row's lock and then sees the committed row.
        "INSERT INTO picket.warning_states AS state (site_id, kind)
         SELECT site_id, kind FROM unnest($1::bigint[], $2::text[]::picket.warning[]) AS warned (site_id, kind)
         UNION
         SELECT site_id, kind FROM picket.warning_states WHERE site_id = ANY ($3)
         ORDER BY site_id, kind
         ON CONFLICT (site_id, kind) DO UPDATE SET state = state.state
         RETURNING site_id, kind::text, state, EXISTS (
             SELECT FROM picket.warnings AS warning
             WHERE warning.site_id = state.site_id AND warning.kind = state.kind AND closed_at IS NULL) AS open,
             clock_timestamp() AS now",
    )
    .bind(warned_sites)
    .bind(kinds)
    .bind(by_site.keys().copied().collect::<Vec<_>>())
    .fetch_all(connection)
    .await
}

/// Pending writes of a transaction.
#[derive(Default)]
struct PendingWrites {
    states: Vec<(Key, WarningState)>,
    cleared: Vec<Key>,
    /// Changes by rank: the first change of each warning, the second, and so on. Changes of one
    /// warning must be written in order.
    changes: Vec<(Vec<ClosedWarning>, Vec<OpenedWarning>)>,
}

struct ClosedWarning {
    key: Key,
    at: Timestamp,
}

struct OpenedWarning {
    key: Key,
    at: Timestamp,
    first_warned_at: Timestamp,
    details: WarningDetails,
    message: Option<String>,
    regions: String,
}

impl PendingWrites {
    fn add_decision(&mut self, known: &SiteContext, kind: Warning, decision: WarningDecision) {
        let key = (known.id, kind);
        for (rank, change) in decision.changes.into_iter().enumerate() {
            if self.changes.len() <= rank {
                self.changes.push(Default::default());
            }
            let (closed, opened) = &mut self.changes[rank];
            match change {
                WarningChange::Closed { at } => closed.push(ClosedWarning { key, at }),
                WarningChange::Opened { at, first_warned_at, details, message, regions } => {
                    let regions = known.join_region_names(&regions);
                    opened.push(OpenedWarning { key, at, first_warned_at, details, message, regions });
                }
            }
        }
        match decision.state {
            Some(state) => self.states.push((key, state)),
            None => self.cleared.push(key),
        }
    }

    async fn write_changes(self, connection: &mut PgConnection) -> SqlResult<WarningOutcome> {
        let mut outcome = WarningOutcome::default();
        for (closed, opened) in self.changes {
            outcome.closed += close_warnings(connection, closed).await?;
            outcome.opened += open_warnings(connection, opened).await?;
        }
        if !self.states.is_empty() {
            let (keys, states): (Vec<Key>, Vec<_>) =
                self.states.into_iter().map(|(key, state)| (key, Json(state))).unzip();
            let (sites, kinds) = split_keys(keys);
            sqlx::query(
                "UPDATE picket.warning_states AS kept SET state = new.state
                 FROM unnest($1::bigint[], $2::text[], $3::jsonb[]) AS new (site_id, kind, state)
                 WHERE kept.site_id = new.site_id AND kept.kind = new.kind::picket.warning",
            )
            .bind(sites)
            .bind(kinds)
            .bind(states)
            .execute(&mut *connection)
            .await?;
        }
        // Rows are deleted, not emptied: every batch looks up this table, so it must stay small.
        if !self.cleared.is_empty() {
            let (sites, kinds) = split_keys(self.cleared);
            sqlx::query(
                // By its row `close_unwatched` finds the warning of a site without schedules.
                "DELETE FROM picket.warning_states AS kept USING unnest($1::bigint[], $2::text[]) AS cleared (site_id, kind)
                 WHERE kept.site_id = cleared.site_id AND kept.kind = cleared.kind::picket.warning AND NOT EXISTS (
                     SELECT FROM picket.warnings AS warning
                     WHERE warning.site_id = kept.site_id AND warning.kind = kept.kind AND closed_at IS NULL)",
            )
            .bind(sites)
            .bind(kinds)
            .execute(connection)
            .await?;
        }
        Ok(outcome)
    }
}

fn split_keys(keys: impl IntoIterator<Item = Key>) -> (Vec<i64>, Vec<&'static str>) {
    keys.into_iter().map(|(site, kind)| (site, kind.as_str())).unzip()
}

async fn open_warnings(connection: &mut PgConnection, opened: Vec<OpenedWarning>) -> SqlResult<u64> {
    if opened.is_empty() {
        return Ok(0);
    }
    let (sites, kinds) = split_keys(opened.iter().map(|warning| warning.key));
    let done = sqlx::query(
        "INSERT INTO picket.warnings (site_id, kind, opened_at, first_warned_at, serial, expires_at, message, regions)
         SELECT site_id, kind::picket.warning, opened_at, first_warned_at, serial, expires_at, message,
                string_to_array(regions, ',')
         FROM unnest($1::bigint[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::timestamptz[],
                     $7::text[], $8::text[])
             AS new (site_id, kind, opened_at, first_warned_at, serial, expires_at, message, regions)
         ON CONFLICT (site_id, kind) WHERE closed_at IS NULL DO NOTHING",
    )
    .bind(sites)
    .bind(kinds)
    .bind(opened.iter().map(|warning| DbTimestamp(warning.at)).collect::<Vec<_>>())
    .bind(opened.iter().map(|warning| DbTimestamp(warning.first_warned_at)).collect::<Vec<_>>())
    .bind(opened.iter().map(|warning| warning.details.serial.as_deref()).collect::<Vec<_>>())
    .bind(opened.iter().map(|warning| warning.details.expires_at.map(DbTimestamp)).collect::<Vec<_>>())
    .bind(opened.iter().map(|warning| warning.message.as_deref()).collect::<Vec<_>>())
    .bind(opened.iter().map(|warning| warning.regions.as_str()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

async fn close_warnings(connection: &mut PgConnection, closed: Vec<ClosedWarning>) -> SqlResult<u64> {
    if closed.is_empty() {
        return Ok(0);
    }
    let (sites, kinds) = split_keys(closed.iter().map(|warning| warning.key));
    let done = sqlx::query(
        "UPDATE picket.warnings AS warning SET closed_at = greatest(warning.opened_at, done.at)
         FROM unnest($1::bigint[], $2::text[], $3::timestamptz[]) AS done (site_id, kind, at)
         WHERE warning.site_id = done.site_id AND warning.kind = done.kind::picket.warning AND warning.closed_at IS NULL",
    )
    .bind(sites)
    .bind(kinds)
    .bind(closed.iter().map(|warning| DbTimestamp(warning.at)).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
