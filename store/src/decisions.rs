//! Decisions made from new rows, in the transaction that writes them: incidents and warnings.

pub(crate) mod context;

use std::collections::{BTreeMap, HashSet};

use picket_proto::{CheckKind, SiteId, Timestamp};
use sqlx::PgConnection;

use self::context::SqlResult;
use crate::{
    DbTimestamp,
    incident_rules::{RegionId, RegionResult},
    incidents::{self, IncidentOutcome},
    warnings::{self, ReportedWarnings, WarningOutcome},
};

/// A new result that may affect an incident or a warning.
#[derive(Clone, Debug)]
pub(crate) struct NewResult {
    pub(crate) site: SiteId,
    pub(crate) result: RegionResult,
    /// True if the result may affect an incident.
    pub(crate) concerns_incidents: bool,
    /// What the check warned about; absent if the result can affect no warning.
    pub(crate) warnings: Option<ReportedWarnings>,
}

/// Consequences of new results.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    pub(crate) incidents: IncidentOutcome,
    pub(crate) warnings: WarningOutcome,
}

/// Applies `fresh` results, as the last step of the transaction. The current time is the database's
/// clock or `known`, whichever is later: while the database's clock is behind, checks are scheduled
/// by its former time.
pub(crate) async fn apply_results(
    connection: &mut PgConnection,
    fresh: Vec<NewResult>,
    known: Timestamp,
) -> SqlResult<Decisions> {
    let fresh = drop_unscheduled_results(connection, fresh).await?;
    let mut of_incidents: BTreeMap<i64, Vec<RegionResult>> = BTreeMap::new();
    let mut of_warnings = Vec::new();
    for NewResult { site, result, concerns_incidents, warnings } in fresh {
        if let Some(warnings) = warnings {
            of_warnings.push((site, result.clone(), warnings));
        }
        if concerns_incidents {
            of_incidents.entry(site.0).or_default().push(result);
        }
    }
    // Every transaction locks the states of incidents before those of warnings, which prevents
    // deadlocks.
    Ok(Decisions {
        incidents: incidents::apply_results(connection, of_incidents, known).await?,
        warnings: warnings::apply_results(connection, of_warnings, known).await?,
    })
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
        fresh.retain(|NewResult { site, result, .. }| {
            result.kind != CheckKind::Scheduled
                || !odd.contains(&(site.0, result.region, result.scheduled_at))
        });
    }
    Ok(fresh)
}
