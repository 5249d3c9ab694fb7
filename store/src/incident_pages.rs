//! Pages of incidents and of warnings, and one incident with its evidence.

use picket_proto::Timestamp;
use serde::Serialize;
use sqlx::{FromRow, Postgres, QueryBuilder};

use crate::{DbTimestamp, Error, Store};

/// Selection of incidents or warnings, and position in their list: the newest first, by time of
/// opening and id, neither of which ever changes.
#[derive(Clone, Debug, Default)]
pub struct EpisodeFilter<'a> {
    /// Only of sites with one of these tags.
    pub tags: Option<&'a [String]>,
    /// Only of sites with this tag.
    pub tag: Option<&'a str>,
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

const INCIDENT_COLUMNS_SQL: &str = "episode.incident_id, episode.site_id,
    left(coalesce(site.site, 'site ' || episode.site_id), 1000) AS site, episode.opened_at, episode.closed_at,
    least(extract(epoch FROM coalesce(episode.closed_at, greatest(now(), episode.opened_at)) - episode.opened_at), 1e12)::bigint
        AS seconds,
    episode.first_failure_at, episode.cause::text AS cause, episode.message, episode.regions";

const WARNING_COLUMNS_SQL: &str = "episode.warning_id, episode.site_id,
    left(coalesce(site.site, 'site ' || episode.site_id), 1000) AS site,
    episode.kind::text AS kind, episode.opened_at, episode.closed_at,
    least(extract(epoch FROM coalesce(episode.closed_at, greatest(now(), episode.opened_at)) - episode.opened_at), 1e12)::bigint
        AS seconds,
    episode.expires_at,
    CASE WHEN isfinite(episode.expires_at)
         THEN floor(extract(epoch FROM episode.expires_at - now()) / 86400)::integer END AS days_left,
    episode.message, episode.regions";

/// A table of incidents or warnings, with an index of the opening time and the id, and one of those that are open.
#[derive(Clone, Copy, Debug)]
struct EpisodeTable {
    name: &'static str,
    id: &'static str,
    columns: &'static str,
}

const INCIDENTS: EpisodeTable =
    EpisodeTable { name: "picket.incidents", id: "incident_id", columns: INCIDENT_COLUMNS_SQL };
const WARNINGS: EpisodeTable =
    EpisodeTable { name: "picket.warnings", id: "warning_id", columns: WARNING_COLUMNS_SQL };

impl EpisodeFilter<'_> {
    /// Builds the statement of a page. The sites are read for its rows only.
    fn build_page(&self, table: EpisodeTable) -> QueryBuilder<Postgres> {
        let EpisodeTable { name, id, columns } = table;
        let mut query = QueryBuilder::new("WITH page AS MATERIALIZED (");
        match self.from {
            None => self.push_part(&mut query, table, "", None),
            // Those that opened since then, in the order of their index. If they do not fill the page, they are few, and
            // so are those that closed since then.
            Some(from) => {
                let from = DbTimestamp(from);
                self.push_part(&mut query, table, " AND episode.opened_at >= ", Some(from));
                query.push(" UNION ALL (SELECT * FROM (");
                let open = " AND episode.closed_at IS NULL AND episode.opened_at < ";
                self.push_part(&mut query, table, open, Some(from));
                query.push(format!(
                    " UNION ALL (SELECT episode.* FROM {name} AS episode WHERE episode.closed_at >= "
                ));
                query.push_bind(from).push(" AND episode.opened_at < ").push_bind(from);
                self.push_conditions(&mut query, id);
                // The OFFSET keeps the planner from reading all others in the order of their opening.
                query.push(format!(
                    " OFFSET 0)) AS episode ORDER BY episode.opened_at DESC, episode.{id} DESC LIMIT "
                ));
                query.push_bind(self.limit).push(") LIMIT ").push_bind(self.limit);
            }
        }
        query.push(format!(
            ") SELECT {columns} FROM page AS episode LEFT JOIN picket.known_sites AS site ON site.id = episode.site_id
             ORDER BY episode.opened_at DESC, episode.{id} DESC"
        ));
        query
    }

    /// Adds the newest rows that meet the filter and a `condition`, which ends with the value `at`, if any.
    fn push_part(
        &self,
        query: &mut QueryBuilder<Postgres>,
        table: EpisodeTable,
        condition: &str,
        at: Option<DbTimestamp>,
    ) {
        let EpisodeTable { name, id, columns: _ } = table;
        query.push(format!("(SELECT episode.* FROM {name} AS episode WHERE true{condition}"));
        if let Some(at) = at {
            query.push_bind(at);
        }
        self.push_conditions(query, id);
        query.push(format!(" ORDER BY episode.opened_at DESC, episode.{id} DESC LIMIT "));
        query.push_bind(self.limit).push(")");
    }

    /// Adds the conditions, each preceded by AND, on `episode`.
    fn push_conditions(&self, query: &mut QueryBuilder<Postgres>, id: &str) {
        const HAS_TAG_SQL: &str = " AND EXISTS (SELECT FROM picket.known_sites AS site WHERE site.id = episode.site_id AND site.tags ";
        let Self { tags, tag, open, site_id, region, kind, from, to, after, limit: _ } = self;
        if let Some(tags) = tags {
            query.push(HAS_TAG_SQL).push("&& ").push_bind(tags.to_vec()).push(")");
        }
        if let Some(tag) = tag {
            query.push(HAS_TAG_SQL).push("@> ARRAY[").push_bind((*tag).to_owned()).push("])");
        }
        if let Some(open) = open {
            query.push(format!(" AND episode.closed_at IS {}NULL", if *open { "" } else { "NOT " }));
        }
        if let Some(site) = site_id {
            query.push(" AND episode.site_id = ").push_bind(*site);
        }
        if let Some(region) = region {
            query.push(" AND ").push_bind((*region).to_owned()).push(" = ANY (episode.regions)");
        }
        if let Some(kind) = kind {
            query.push(" AND episode.kind::text = ").push_bind((*kind).to_owned());
        }
        if let Some(from) = from {
            query.push(" AND coalesce(episode.closed_at, now()) >= ").push_bind(DbTimestamp(*from));
        }
        if let Some(to) = to {
            query.push(" AND episode.opened_at < ").push_bind(DbTimestamp(*to));
        }
        if let Some((at, after)) = after {
            query.push(format!(" AND (episode.opened_at, episode.{id}) < (")).push_bind(DbTimestamp(*at));
            query.push(", ").push_bind(*after).push(")");
        }
    }

    async fn fetch_page<T>(
        &self,
        store: &Store,
        doing: &'static str,
        table: EpisodeTable,
    ) -> Result<Vec<T>, Error>
    where
        T: for<'r> FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin,
    {
        let mut query = self.build_page(table);
        let read = async {
            let mut transaction = store.begin_page_read().await?;
            query.build_query_as().fetch_all(&mut *transaction).await
        };
        store.read_for_page(doing, read).await
    }
}

/// Lists a page of incidents, the newest first. A kind, which incidents have not, is ignored.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_incidents(store: &Store, filter: &EpisodeFilter<'_>) -> Result<Vec<ListedIncident>, Error> {
    let filter = EpisodeFilter { kind: None, ..filter.clone() };
    filter.fetch_page(store, "list incidents", INCIDENTS).await
}

/// Lists a page of warnings, the newest first.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_warnings(store: &Store, filter: &EpisodeFilter<'_>) -> Result<Vec<ListedWarning>, Error> {
    filter.fetch_page(store, "list warnings", WARNINGS).await
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
