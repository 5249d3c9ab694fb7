//! Notices: the rows behind the numbers of the ledger of notifications.

use axum::{Json, extract::State};
use picket_proto::Timestamp;
use picket_runtime::clock::wall_clock_now;
use picket_store::notifications::{NoticeFilter, list_selected_notices};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{Notice, account::DEFAULT_SPAN};
use crate::{
    access::Reader,
    extract::{ApiQuery, PageLimit},
    problem::Problem,
    state::Api,
    v1::span::check_span,
};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_notices))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct NoticeQuery {
    /// Inclusive start of the span, by the times at which events were recorded; by default a day before its end.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Exclusive end of the span; now by default.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
    /// Only of the channel with this name.
    channel: Option<String>,
    /// Only in this state: waiting, delivered, suppressed or failed.
    state: Option<String>,
    /// Only with this reason, as in the ledger.
    reason: Option<String>,
    /// Only of this step: event, reminder, escalation or calm. The sums of the ledger count those of the step `event`.
    step: Option<String>,
    #[serde(default)]
    limit: PageLimit,
}

/// Notices of a span.
#[derive(Serialize, ToSchema)]
struct NoticeList {
    /// Inclusive start of the span.
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    /// Exclusive end of the span.
    #[schema(value_type = String, format = DateTime)]
    to: Timestamp,
    /// The notices, the newest first.
    items: Vec<Notice>,
    /// True if there are more: ask again with the oldest `recorded_at` as `to`, or with a narrower selection.
    has_more: bool,
}

/// Lists notices, the rows behind the numbers of the ledger, the newest first. A token with a tag limit sees those of its
/// sites.
#[utoipa::path(
    get, path = "/notifications/notices", tag = "notifications", security(("token" = ["read"])), params(NoticeQuery),
    responses(
        (status = OK, body = NoticeList),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "The span is longer than 400 days, or ends before it begins, or a value is not allowed."),
    ),
)]
async fn list_notices(
    Reader(access): Reader,
    State(api): State<Api>,
    ApiQuery(query): ApiQuery<NoticeQuery>,
) -> Result<Json<NoticeList>, Problem> {
    let to = query.to.unwrap_or_else(wall_clock_now);
    let from = query.from.unwrap_or_else(|| to.saturating_sub(DEFAULT_SPAN));
    check_span(from, to)?;
    for (name, value, allowed) in
        [("state", &query.state, NoticeFilter::STATES), ("step", &query.step, NoticeFilter::STEPS)]
    {
        if let Some(value) = value.as_deref().filter(|value| !allowed.contains(value)) {
            return Err(Problem::invalid_parameter(name, value, &allowed.join(", ")));
        }
    }
    let limit = i64::from(query.limit.0);
    let filter = NoticeFilter {
        channel: query.channel.as_deref(),
        state: query.state.as_deref(),
        reason: query.reason.as_deref(),
        step: query.step.as_deref(),
        from: Some(from),
        to: Some(to),
        tags: access.tag_limit(),
        newest_first: true,
        // One more shows that there are others.
        limit: limit + 1,
        ..NoticeFilter::default()
    };
    let mut found = list_selected_notices(&api.store, &filter).await?;
    let shown = usize::from(query.limit.0);
    let has_more = found.len() > shown;
    found.truncate(shown);
    Ok(Json(NoticeList { from, to, items: found.into_iter().map(Notice::from).collect(), has_more }))
}
