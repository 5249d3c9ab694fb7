//! Certificates of sites.

use axum::{
    extract::{OriginalUri, State},
    response::Response,
};
use picket_store::{
    DbTimestamp,
    certificates::{self, CertificateRow},
};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    api_row::api_row,
    paging::{Page, PageRequest},
};
use crate::{
    access::Reader,
    extract::{ApiQuery, PageLimit},
    problem::Problem,
    state::Api,
};

pub(super) fn build_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_certificates))
}

api_row! {
    /// The certificate that a site presented in the last two days.
    #[schema(example = json!({
        "site_id": 7, "site": "shop", "url": "https://example.com", "expires_at": "2027-01-15T23:59:59.000000Z", "days_left": 56
    }))]
    Certificate from CertificateRow {
        /// Id of the site.
        site_id: i64,
        /// Name of the site, or its URL.
        site: String,
        /// URL of the site.
        url: String,
        /// End of the certificate; the earliest if regions receive different ones.
        #[schema(value_type = String, format = DateTime)]
        expires_at: DbTimestamp,
        /// Days until then; negative after it.
        days_left: i32,
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct CertificateQuery {
    /// Only certificates with at most so many days left.
    days: Option<i32>,
    #[serde(default)]
    limit: PageLimit,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists the certificates of sites, the soonest to expire first.
#[utoipa::path(
    get, path = "/certificates", tag = "sites", security(("token" = ["read"])), params(CertificateQuery),
    responses((status = OK, body = Page<Certificate>, headers(("Link" = String, description = "The next page, if any")))),
)]
async fn list_certificates(
    Reader(access): Reader,
    State(api): State<Api>,
    OriginalUri(uri): OriginalUri,
    ApiQuery(query): ApiQuery<CertificateQuery>,
) -> Result<Response, Problem> {
    let request = PageRequest::new(query.limit, query.cursor.as_deref())?;
    let (after, limit) = (request.after, request.row_limit());
    let rows =
        certificates::list_certificates(&api.store, access.tag_limit(), query.days, after, limit).await?;
    let page = request.build_page(rows, |row| (row.expires_at.into(), row.site_id), Certificate::from);
    Ok(page.into_response(&uri))
}
