//! Pages of incidents and of warnings, and one incident with its evidence.

use picket_proto::Timestamp;
use serde::Serialize;
use sqlx::FromRow;

use crate::{DbTimestamp, Error, Store};

/// Selection of incidents or warnings, and position in their list: the newest first, by time of
/// opening and id, neither of which ever changes.
#[derive(Clone, Debug, Default)]
pub struct EpisodeFilter<'a> {
    /// Only of sites with one of these tags.
    pub tags: Option<&'a [String]>,
    /// Only open ones, or only closed ones.
    pub open: Option<bool>,
    /// Only of this site.
    pub site_id: Option<i64>,
    /// Only those in which this region took part.
    pub region: Option<&'a str>,
    /// Only warnings of this kind.
    pub kind: Option<&'a str>,
    /// Only those that were open at this time or later.
    pub from: Option<Timestamp>,
    /// Only those that opened before this time.
    pub to: Option<Timestamp>,
    /// Only those after the one with this opening time and id.
    pub after: Option<(Timestamp, i64)>,
    /// Maximum number of rows.
    pub limit: i64,
}

/// An incident in a list.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct ListedIncident {
    /// Id of the incident.
    pub incident_id: i64,
    /// Id of the site.
    pub site_id: i64,
    /// Name of the site, or its URL.
    pub site: String,
    /// Due time of the check that made the site down.
    pub opened_at: DbTimestamp,
    /// Due time of the check that made the site up again; absent while it is down.
    pub closed_at: Option<DbTimestamp>,
    /// Duration in seconds, up to now for an open incident.
    pub seconds: i64,
    /// Due time of the first of the failing checks.
    pub first_failure_at: DbTimestamp,
    /// Cause in the region that failed first.
    pub cause: Option<String>,
    /// The cause in words.
    pub message: Option<String>,
    /// Regions that were down when the incident opened.
    pub regions: Vec<String>,
}

/// A warning in a list.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct ListedWarning {
    /// Id of the warning.
    pub warning_id: i64,
    /// Id of the site.
    pub site_id: i64,
    /// Name of the site, or its URL.
    pub site: String,
    /// Kind of the warning.
    pub kind: String,
    /// Due time of the check that opened the warning.
    pub opened_at: DbTimestamp,
    /// Due time of the check that ended the warning; absent while it is open.
    pub closed_at: Option<DbTimestamp>,
    /// Duration in seconds, up to now for an open warning.
    pub seconds: i64,
    /// End of the certificate or of the registration.
    pub expires_at: Option<DbTimestamp>,
    /// Days until then.
    pub days_left: Option<i32>,
    /// The warning in words.
    pub message: Option<String>,
    /// Regions that warned when the warning opened.
    pub regions: Vec<String>,
}

/// What a region reported before an incident opened.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct RegionVote {
    /// Name of the region.
    pub region: String,
    /// True if the region was down when the incident opened.
    pub down: bool,
    /// Number of `down` checks from the first failure to the opening.
    pub failures: i64,
    /// Number of confirmation checks in that time.
    pub confirmations: i64,
    /// Due time of the region's newest check in that time.
    pub checked_at: DbTimestamp,
    /// Outcome of that check.
    pub outcome: String,
    /// Cause of that check, if it was not up.
    pub cause: Option<String>,
    /// The cause in words.
    pub message: Option<String>,
}

/// An incident with its evidence.
#[derive(Clone, Debug, Serialize)]
pub struct IncidentEvidence {
    /// The incident.
    pub incident: ListedIncident,
    /// Time when the incident was recorded.
    pub recorded_at: Timestamp,
    /// True if the incident closed because the site is no longer checked.
    pub unwatched: bool,
    /// What each region reported from the first failure to the opening, at most an hour.
    pub votes: Vec<RegionVote>,
    /// Number of times at which confirmation checks were due.
    pub confirmation_rounds: i64,
}

/// Conditions on `episode` and `site`: $1 tags, $2 open, $3 site, $4 region, $5 and $6 the span, $7
/// and $8 the position. Those that are null select all.
const EPISODE_CONDITIONS_SQL: &str = "($1::text[] IS NULL OR site.tags && $1)
    AND ($2::boolean IS NULL OR (episode.closed_at IS NULL) = $2)
    AND ($3::bigint IS NULL OR episode.site_id = $3)
    AND ($4::text IS NULL OR $4 = ANY (episode.regions))
    AND ($5::timestamptz IS NULL OR coalesce(episode.closed_at, now()) >= $5)
    AND ($6::timestamptz IS NULL OR episode.opened_at < $6)";

const INCIDENT_COLUMNS_SQL: &str = "episode.incident_id, episode.site_id,
    left(coalesce(site.site, 'site ' || episode.site_id), 1000) AS site, episode.opened_at, episode.closed_at,
    least(extract(epoch FROM coalesce(episode.closed_at, greatest(now(), episode.opened_at)) - episode.opened_at), 1e12)::bigint
        AS seconds,
    episode.first_failure_at, episode.cause::text AS cause, episode.message, episode.regions";

impl EpisodeFilter<'_> {
    async fn fetch_page<T>(&self, store: &Store, doing: &'static str, sql: String) -> Result<Vec<T>, Error>
    where
        T: for<'r> FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
    {
        let query = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(self.tags)
            .bind(self.open)
            .bind(self.site_id)
            .bind(self.region)
            .bind(self.from.map(DbTimestamp))
            .bind(self.to.map(DbTimestamp))
            .bind(self.after.map(|(at, _)| DbTimestamp(at)))
            .bind(self.after.map(|(_, id)| id))
            .bind(self.limit)
            .bind(self.kind);
        let read = async {
            let mut transaction = store.begin_page_read().await?;
            query.fetch_all(&mut *transaction).await
        };
        store.read_for_page(doing, read).await
    }
}

/// Lists a page of incidents, the newest first.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_incidents(store: &Store, filter: &EpisodeFilter<'_>) -> Result<Vec<ListedIncident>, Error> {
    let sql = format!(
        "SELECT {INCIDENT_COLUMNS_SQL}
         FROM picket.incidents AS episode LEFT JOIN picket.known_sites AS site ON site.id = episode.site_id
         WHERE {EPISODE_CONDITIONS_SQL} AND $10::text IS NULL
           AND ($7::timestamptz IS NULL OR (episode.opened_at, episode.incident_id) < ($7, $8::bigint))
         ORDER BY episode.opened_at DESC, episode.incident_id DESC LIMIT $9"
    );
    filter.fetch_page(store, "list incidents", sql).await
}

/// Lists a page of warnings, the newest first.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_warnings(store: &Store, filter: &EpisodeFilter<'_>) -> Result<Vec<ListedWarning>, Error> {
    let sql = format!(
        "SELECT episode.warning_id, episode.site_id, left(coalesce(site.site, 'site ' || episode.site_id), 1000) AS site,
                episode.kind::text AS kind, episode.opened_at, episode.closed_at,
                least(extract(epoch FROM coalesce(episode.closed_at, greatest(now(), episode.opened_at)) - episode.opened_at),
                      1e12)::bigint AS seconds,
                episode.expires_at,
                CASE WHEN isfinite(episode.expires_at)
                     THEN floor(extract(epoch FROM episode.expires_at - now()) / 86400)::integer END AS days_left,
                episode.message, episode.regions
         FROM picket.warnings AS episode LEFT JOIN picket.known_sites AS site ON site.id = episode.site_id
         WHERE {EPISODE_CONDITIONS_SQL} AND ($10::text IS NULL OR episode.kind::text = $10)
           AND ($7::timestamptz IS NULL OR (episode.opened_at, episode.warning_id) < ($7, $8::bigint))
         ORDER BY episode.opened_at DESC, episode.warning_id DESC LIMIT $9"
    );
    filter.fetch_page(store, "list warnings", sql).await
}

#[derive(FromRow)]
struct IncidentRow {
    #[sqlx(flatten)]
    incident: ListedIncident,
    recorded_at: DbTimestamp,
    unwatched: bool,
}

/// Reads an incident with its evidence; `None` if there is no such incident of a site with one of
/// the `tags`.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn read_incident(
    store: &Store,
    id: i64,
    tags: Option<&[String]>,
) -> Result<Option<IncidentEvidence>, Error> {
    let sql = format!(
        "SELECT {INCIDENT_COLUMNS_SQL}, episode.recorded_at, episode.unwatched
         FROM picket.incidents AS episode LEFT JOIN picket.known_sites AS site ON site.id = episode.site_id
         WHERE episode.incident_id = $1 AND ($2::text[] IS NULL OR site.tags && $2)"
    );
    let read = async {
        let mut transaction = store.begin_page_read().await?;
        let found: Option<IncidentRow> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(id)
            .bind(tags)
            .fetch_optional(&mut *transaction)
            .await?;
        let Some(IncidentRow { incident, recorded_at, unwatched }) = found else { return Ok(None) };
        let votes = sqlx::query_as(include_str!("incident_pages/votes.sql"))
            .bind(incident.site_id)
            .bind(incident.first_failure_at)
            .bind(incident.opened_at)
            .bind(&incident.regions)
            .fetch_all(&mut *transaction)
            .await?;
        let rounds = sqlx::query_scalar(include_str!("incident_pages/rounds.sql"))
            .bind(incident.site_id)
            .bind(incident.first_failure_at)
            .bind(incident.opened_at)
            .fetch_one(&mut *transaction)
            .await?;
        let recorded_at = recorded_at.into();
        Ok(Some(IncidentEvidence { incident, recorded_at, unwatched, votes, confirmation_rounds: rounds }))
    };
    store.read_for_page("read the incident", read).await
}
