//! Context of a decision: the site, its regions, and what their earlier results were.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use picket_proto::{Shard, Timestamp, Warning};
use sqlx::PgConnection;

use crate::{
    DbTimestamp,
    incident_rules::{IncidentPolicy, RegionId, RegionResult, RegionState, RegionView, SiteView},
    leases::to_shard,
};

pub(crate) type SqlResult<T> = Result<T, sqlx::Error>;

/// Tolerance between two clocks that show the same time. Results due later than this from now are
/// no evidence: with a due time in the future, a region would be the only one that reports.
pub(crate) const MAX_CLOCK_SPREAD: Duration = Duration::from_secs(5);

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
pub(crate) struct SiteContext {
    pub(crate) id: i64,
    pub(crate) shard: Shard,
    pub(crate) site: SiteView,
    region_names: HashMap<RegionId, String>,
}

impl SiteContext {
    /// The name of a region of the site.
    pub(crate) fn region_name(&self, region: RegionId) -> Option<&str> {
        self.region_names.get(&region).map(String::as_str)
    }

    /// Names of regions, separated by commas, which no name contains.
    pub(crate) fn join_region_names(&self, regions: &[RegionId]) -> String {
        let names: Vec<&str> =
            regions.iter().filter_map(|id| Some(self.region_names.get(id)?.as_str())).collect();
        names.join(",")
    }
}

/// What a decision is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject {
    /// Incidents.
    Outage,
    /// Warnings of this kind.
    Warning(Warning),
}

/// Loads the sites that have new results, with their regions and the results of before.
pub(crate) async fn load_context(
    connection: &mut PgConnection,
    subject: Subject,
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
    let rows: Vec<SiteRegionRow> = sqlx::query_as(include_str!("evidence.sql"))
        .bind(sites)
        .bind(ats)
        .bind(known_sites)
        .bind(known_regions)
        .bind(DbTimestamp(now))
        .bind(match subject {
            Subject::Outage => None,
            Subject::Warning(kind) => Some(kind.as_str()),
        })
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
