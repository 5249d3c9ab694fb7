//! The ledger of notifications: each event and each channel that its routes named, and the outcome.

use std::time::Duration;

use axum::{Json, extract::State};
use picket_proto::Timestamp;
use picket_runtime::clock::wall_clock_now;
use picket_store::{
    DbTimestamp,
    notifications::{
        LedgerEntry, LedgerReason, LedgerStep, LedgerSum, NotificationLedger,
        read_notification_ledger as read_ledger,
    },
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    access::Reader,
    extract::ApiQuery,
    problem::Problem,
    state::Api,
    v1::{api_row::api_row, span::check_span},
};

/// Span of the ledger by default.
pub(super) const DEFAULT_SPAN: Duration = Duration::from_secs(86_400);
/// Maximum unaccounted rows of a response.
const MAX_UNACCOUNTED: i64 = 100;

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(read_notification_ledger))
}

api_row! {
    /// What was to be told to a channel, and the outcome.
    ChannelSum from LedgerSum {
        /// Name of the channel; null for events without any notice.
        channel: Option<String>,
        /// Number of planned notices.
        expected: i64,
        /// Number of notices delivered.
        delivered: i64,
        /// Number of notices suppressed, with a reason.
        suppressed: i64,
        /// Number of failed notices, with a reason.
        failed: i64,
        /// Number of waiting notices.
        waiting: i64,
        /// Number of unaccounted ones; 0 unless Picket has a defect.
        unaccounted: i64,
    }
}

api_row! {
    /// Undelivered notices, by channel and reason.
    NotDelivered from LedgerReason {
        /// Name of the channel.
        channel: String,
        /// `event`, which the sums count, `reminder`, `escalation` or `calm`.
        step: String,
        /// `suppressed` or `failed`.
        state: String,
        /// The reason.
        reason: String,
        /// Number of notices.
        notices: i64,
    }
}

api_row! {
    /// Reminders, escalations or notes of calm of a channel. No number of them is expected.
    StepSum from LedgerStep {
        /// Name of the channel.
        channel: String,
        /// `reminder`, `escalation` or `calm`.
        step: String,
        /// Number of notices delivered.
        delivered: i64,
        /// Number of notices suppressed, with a reason.
        suppressed: i64,
        /// Number of failed notices, with a reason.
        failed: i64,
        /// Number of waiting notices.
        waiting: i64,
    }
}

api_row! {
    /// Unaccounted notices of an event.
    Unaccounted from LedgerEntry {
        /// The incident, for events of incidents.
        incident_id: Option<i64>,
        /// Name of the event.
        event: String,
        /// Name of the channel; null if there is no notice at all.
        channel: Option<String>,
        /// Time when the event was recorded.
        #[schema(value_type = String, format = DateTime)]
        recorded_at: DbTimestamp,
        /// Number of notices.
        unaccounted: i64,
    }
}

/// The ledger of notifications of a span.
#[derive(Serialize, ToSchema)]
struct NotificationAccount {
    /// Inclusive start of the span, by the times at which events were recorded.
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    /// Exclusive end of the span.
    #[schema(value_type = String, format = DateTime)]
    to: Timestamp,
    /// Number of unaccounted notices; 0 unless Picket has a defect.
    unaccounted: i64,
    /// Number of events without a route.
    untold: i64,
    /// Sums by channel.
    channels: Vec<ChannelSum>,
    /// Reminders and escalations of the same events, which the sums do not count.
    steps: Vec<StepSum>,
    /// Why notices were not delivered. `GET /notifications/notices` lists the rows of each.
    reasons: Vec<NotDelivered>,
    /// The newest unaccounted rows, at most 100.
    rows: Vec<Unaccounted>,
    /// SQL of the unaccounted rows.
    statement: String,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AccountQuery {
    /// Inclusive start of the span; by default a day before its end.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<Timestamp>,
    /// Exclusive end of the span; now by default.
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<Timestamp>,
}

/// Reads the ledger of notifications: each event and each channel that its routes named has exactly one notice, which ends
/// as delivered, suppressed or failed.
#[utoipa::path(
    get, path = "/notifications/ledger", tag = "notifications", security(("token" = ["read"])), params(AccountQuery),
    responses(
        (status = OK, body = NotificationAccount),
        (status = FORBIDDEN, body = Problem, content_type = "application/problem+json",
            description = "The token is limited to tags, and the ledger concerns all sites."),
        (status = UNPROCESSABLE_ENTITY, body = Problem, content_type = "application/problem+json",
            description = "The span is longer than 400 days, or ends before it begins."),
    ),
)]
async fn read_notification_ledger(
    Reader(access): Reader,
    State(api): State<Api>,
    ApiQuery(query): ApiQuery<AccountQuery>,
) -> Result<Json<NotificationAccount>, Problem> {
    access.require_all_sites()?;
    let to = query.to.unwrap_or_else(wall_clock_now);
    let from = query.from.unwrap_or_else(|| to.saturating_sub(DEFAULT_SPAN));
    check_span(from, to)?;
    let ledger = fetch_notification_ledger(&api, from, to).await?;
    Ok(Json(NotificationAccount {
        from,
        to,
        unaccounted: ledger.unaccounted_total(),
        untold: ledger.untold,
        channels: ledger.channels.into_iter().map(ChannelSum::from).collect(),
        steps: ledger.steps.into_iter().map(StepSum::from).collect(),
        reasons: ledger.reasons.into_iter().map(NotDelivered::from).collect(),
        rows: ledger.unaccounted.into_iter().map(Unaccounted::from).collect(),
        statement: format!(
            "SELECT * FROM report.notification_ledger('{from}', '{to}') WHERE unaccounted <> 0"
        ),
    }))
}

/// Reads the ledger of notifications with a permit.
///
/// # Errors
/// If no permit is free in time, or the database cannot be reached in time.
async fn fetch_notification_ledger(
    api: &Api,
    from: Timestamp,
    to: Timestamp,
) -> Result<NotificationLedger, Problem> {
    let store = api.store.clone();
    let read = async move { read_ledger(&store, from, to, MAX_UNACCOUNTED).await };
    Ok(api.reports.run(read).await??)
}
