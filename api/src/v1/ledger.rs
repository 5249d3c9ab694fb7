//! The ledger: the account of every tick of a span.

use axum::{Json, extract::State};
use picket_proto::{SiteId, Timestamp};
use picket_store::ledger::{self, LedgerFilter, LedgerRow};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{api_row::api_row, sites::find_site, span::check_span};
use crate::{
    access::Reader,
    extract::{ApiPath, ApiQuery},
    problem::Problem,
    state::Api,
};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(read_ledger)).routes(routes!(read_site_ledger))
}

api_row! {
    /// Ticks of a region.
    RegionTicks from LedgerRow {
        /// Name of the region.
        region: String,
        /// Number of ticks due.
        expected: i64,
        /// Number of `up` rows.
        up: i64,
        /// Number of `down` rows.
        down: i64,
        /// Number of `missed` rows.
        missed: i64,
        /// Number of ticks without a row inside a recorded gap.
        gap: i64,
        /// Number of ticks without a row.
        unaccounted: i64,
    }
}

/// Missed ticks of a region by cause.
#[derive(Serialize, ToSchema)]
struct MissedTicks {
    /// Name of the region.
    region: String,
    /// Why the ticks were missed.
    cause: String,
    /// Number of ticks.
    ticks: i64,
}

/// The account of all ticks of a span. `expected = up + down + missed + gap + unaccounted`.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({
    "from": "2026-11-20T11:00:00.000000Z", "to": "2026-11-20T12:00:00.000000Z",
    "closed_through": "2026-11-20T12:00:00.000000Z", "expected": 60, "up": 58, "down": 1, "missed": 1, "gap": 0,
    "unaccounted": 0, "regions": [{"region": "eu-west", "expected": 60, "up": 58, "down": 1, "missed": 1, "gap": 0,
    "unaccounted": 0}], "missed_by_cause": [{"region": "eu-west", "cause": "prober_offline", "ticks": 1}],
    "statement": "SELECT * FROM report.ledger('2026-11-20T11:00:00Z', '2026-11-20T12:00:00Z') WHERE unaccounted <> 0"
}))]
struct Ledger {
    /// Exclusive start of the span.
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    /// Inclusive end of the span.
    #[schema(value_type = String, format = DateTime)]
    to: Timestamp,
    /// Time through which the ledgers of all shards are closed; null without schedules.
    #[schema(value_type = Option<String>, format = DateTime)]
    closed_through: Option<Timestamp>,
    /// Number of ticks due.
    expected: i64,
    /// Number of `up` rows.
    up: i64,
    /// Number of `down` rows.
    down: i64,
    /// Number of `missed` rows.
    missed: i64,
    /// Number of ticks without a row inside a recorded gap.
    gap: i64,
    /// Number of ticks without a row; 0 in any closed span.
    unaccounted: i64,
    /// The same by region.
    regions: Vec<RegionTicks>,
    /// The missed ticks by region and cause.
    missed_by_cause: Vec<MissedTicks>,
    /// SQL that proves the number of ticks without a row.
    statement: String,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LedgerQuery {
    /// Exclusive start of the span; by default an hour before its end.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Inclusive end of the span; by default the time through which the ledger is closed.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
}

/// Reads the ledger: every tick of the span ended as exactly one row, or lies in a recorded gap. A token that is
/// limited to tags reads that of its sites.
#[utoipa::path(
    get, path = "/ledger", tag = "reports", security(("token" = ["read"])), params(LedgerQuery),
    responses(
        (status = OK, body = Ledger),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "The span is longer than 400 days, or ends before it begins."),
    ),
)]
async fn read_ledger(
    Reader(access): Reader,
    State(api): State<Api>,
    ApiQuery(query): ApiQuery<LedgerQuery>,
) -> Result<Json<Ledger>, Problem> {
    let filter = LedgerFilter { tags: access.tag_limit(), site: None };
    account_for(&api, &query, filter).await.map(Json)
}

/// Reads the ledger of a site.
#[utoipa::path(
    get, path = "/sites/{site}/ledger", tag = "sites", security(("token" = ["read"])),
    params(("site" = i64, Path, description = "Id of the site"), LedgerQuery),
    responses(
        (status = OK, body = Ledger),
        (status = NOT_FOUND, body = Problem, content_type = "application/problem+json",
            description = "There is no such site, or the token is limited to tags of which it has none."),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "The span is longer than 400 days, or ends before it begins."),
    ),
)]
async fn read_site_ledger(
    Reader(access): Reader,
    State(api): State<Api>,
    ApiPath(site): ApiPath<i64>,
    ApiQuery(query): ApiQuery<LedgerQuery>,
) -> Result<Json<Ledger>, Problem> {
    let site = find_site(&api, &access, SiteId(site)).await?.site.id;
    account_for(&api, &query, LedgerFilter { tags: None, site: Some(site) }).await.map(Json)
}

async fn account_for(api: &Api, query: &LedgerQuery, filter: LedgerFilter<'_>) -> Result<Ledger, Problem> {
    let (now, through) = ledger::read_accounted_through(&api.store).await?;
    let to = query.to.unwrap_or_else(|| ledger::find_closed_end(now, through));
    let from = query.from.unwrap_or_else(|| to.saturating_sub(ledger::DEFAULT_SPAN));
    check_span(from, to)?;
    let (rows, missed) = fetch_ledger(api, from, to, filter).await?;
    let sum = ledger::sum_rows(&rows);
    Ok(Ledger {
        from,
        to,
        closed_through: through,
        expected: sum.expected,
        up: sum.up,
        down: sum.down,
        missed: sum.missed,
        gap: sum.gap,
        unaccounted: sum.unaccounted,
        missed_by_cause: missed
            .into_iter()
            .map(|(region, cause, ticks)| MissedTicks { region, cause, ticks })
            .collect(),
        statement: build_statement(from, to, filter),
        regions: rows.into_iter().map(RegionTicks::from).collect(),
    })
}

/// Rows by region, and missed ticks by region and cause.
type LedgerAccount = (Vec<LedgerRow>, Vec<(String, String, i64)>);

/// Reads the ledger of a span with a permit.
///
/// # Errors
/// If no permit is free in time, or the database cannot be reached in time.
pub(crate) async fn fetch_ledger(
    api: &Api,
    from: Timestamp,
    to: Timestamp,
    filter: LedgerFilter<'_>,
) -> Result<LedgerAccount, Problem> {
    let (store, site, tags) = (api.store.clone(), filter.site, filter.tags.map(<[_]>::to_vec));
    let read = async move {
        let filter = LedgerFilter { tags: tags.as_deref(), site };
        let rows = ledger::list_by_region(&store, from, to, filter).await?;
        let missed = ledger::count_missed_by_cause(&store, from, to, filter).await?;
        Ok((rows, missed))
    };
    api.reports.read(read).await
}

/// SQL that lists the schedules with ticks without a row.
fn build_statement(from: Timestamp, to: Timestamp, filter: LedgerFilter<'_>) -> String {
    let statement = format!("SELECT * FROM report.ledger('{from}', '{to}') WHERE unaccounted <> 0");
    if let Some(site) = filter.site {
        return format!("{statement} AND site_id = {site}");
    }
    let Some(tags) = filter.tags else { return statement };
    let quoted: Vec<String> = tags.iter().map(|tag| format!("'{}'", tag.replace('\'', "''"))).collect();
    format!(
        "{statement} AND site_id IN (SELECT site_id FROM report.sites WHERE tags && ARRAY[{}])",
        quoted.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_selects_the_tags_of_the_token_and_quotes_them() {
        let (from, to) = (Timestamp::from_micros(0), Timestamp::from_micros(1_000_000));

        let statement =
            build_statement(from, to, LedgerFilter { tags: Some(&["it's".to_owned()]), site: None });

        assert_eq!(
            statement,
            "SELECT * FROM report.ledger('1970-01-01T00:00:00.000000Z', '1970-01-01T00:00:01.000000Z') WHERE unaccounted <> 0 \
             AND site_id IN (SELECT site_id FROM report.sites WHERE tags && ARRAY['it''s'])"
        );
    }
}
