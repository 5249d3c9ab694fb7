//! Silences: spans in which incidents are recorded and nobody is told.

use std::time::Duration;

use picket_proto::{SiteId, Timestamp, ValidationError, site::SiteSpec};
use serde::Serialize;
use sqlx::FromRow;

use crate::{DbTimestamp, Error, RowVersion, Store, tags::TagWarning};

const SILENCES_TIMEOUT: Duration = Duration::from_secs(30);

/// What is silenced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SilenceTarget {
    /// A single site.
    Site(SiteId),
    /// All sites with a tag.
    Tag(String),
    /// All sites.
    All,
}

/// A silence to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSilence {
    /// What is silenced.
    pub target: SilenceTarget,
    /// Start of the silence.
    pub from: Timestamp,
    /// Exclusive end.
    pub to: Timestamp,
    /// Why, for those who wonder.
    pub reason: String,
    /// Who adds it; the login of the database if absent.
    pub created_by: Option<String>,
}

impl NewSilence {
    /// Maximum number of characters of a reason.
    const MAX_REASON_CHARS: usize = 500;
    /// Maximum number of characters of an author.
    pub(crate) const MAX_AUTHOR_CHARS: usize = 320;

    /// # Errors
    /// The first field that is not allowed.
    pub fn validate(&self) -> Result<(), ValidationError> {
        if let SilenceTarget::Tag(tag) = &self.target {
            SiteSpec::check_tag("tag", tag)?;
        }
        check_end(self.from, self.to)?;
        check_reason(&self.reason)?;
        check_author("created_by", self.created_by.as_deref())
    }
}

fn check_end(from: Timestamp, to: Timestamp) -> Result<(), ValidationError> {
    match to > from && to < Timestamp::MAX {
        true => Ok(()),
        false => Err(ValidationError::new("to", to, format!("a time after {from}"))),
    }
}

fn check_reason(reason: &str) -> Result<(), ValidationError> {
    let count = reason.chars().count();
    match reason.trim().is_empty() || count > NewSilence::MAX_REASON_CHARS {
        false => Ok(()),
        true => {
            let allowed = format!("1 to {} characters", NewSilence::MAX_REASON_CHARS);
            Err(ValidationError::new("reason", reason, allowed))
        }
    }
}

/// Checks the name of the person or token that writes a row.
pub(crate) fn check_author(field: &str, author: Option<&str>) -> Result<(), ValidationError> {
    match author.filter(|author| author.is_empty() || author.chars().count() > NewSilence::MAX_AUTHOR_CHARS) {
        None => Ok(()),
        Some(author) => {
            let allowed = format!("1 to {} characters", NewSilence::MAX_AUTHOR_CHARS);
            Err(ValidationError::new(field, author, allowed))
        }
    }
}

/// A row of the list of silences.
#[derive(Clone, Debug, Serialize)]
pub struct SilenceWindow {
    /// Id of the silence.
    pub id: i64,
    /// The site, for a silence of one site.
    pub site_id: Option<i64>,
    /// Name or URL of the site; absent if the site is unknown.
    pub site: Option<String>,
    /// The tag, for a silence of all sites with a tag.
    pub tag: Option<String>,
    /// True for a silence of all sites.
    pub all: bool,
    /// Start of the silence.
    pub from: Timestamp,
    /// Exclusive end.
    pub to: Timestamp,
    /// Why, for those who wonder.
    pub reason: String,
    /// Who added it.
    pub created_by: String,
    /// `planned`, `now` or `over`.
    pub state: String,
    /// What may be a mistake and is allowed: a tag that no site has.
    pub warnings: Vec<String>,
    /// Version, which each change replaces.
    #[serde(skip)]
    pub version: RowVersion,
}

#[derive(FromRow)]
struct SilenceRow {
    silence_id: i64,
    site_id: Option<i64>,
    site: Option<String>,
    tag: Option<String>,
    all_sites: bool,
    starts_at: DbTimestamp,
    ends_at: DbTimestamp,
    reason: String,
    created_by: String,
    state: String,
    concerns_nothing: bool,
    version: String,
}

impl From<SilenceRow> for SilenceWindow {
    fn from(row: SilenceRow) -> Self {
        let unused = row.tag.clone().filter(|_| row.concerns_nothing && row.state != "over");
        let warning = unused.map(|tag| TagWarning { field: "tag", tag, meant: None }.to_string());
        Self {
            id: row.silence_id,
            site_id: row.site_id,
            site: row.site,
            tag: row.tag,
            all: row.all_sites,
            from: row.starts_at.into(),
            to: row.ends_at.into(),
            reason: row.reason,
            created_by: row.created_by,
            state: row.state,
            warnings: warning.into_iter().collect(),
            version: row.version.into(),
        }
    }
}

/// Selection of silences.
#[derive(Clone, Copy, Debug, Default)]
pub struct SilenceFilter<'a> {
    /// Includes silences that are over.
    pub over: bool,
    /// Only the silence with this id.
    pub id: Option<i64>,
    /// Only silences of sites with one of these tags, and of these tags.
    pub tags: Option<&'a [String]>,
    /// Only silences after the one with this start and id, in the order of the list.
    pub after: Option<(Timestamp, i64)>,
    /// Maximum number of silences.
    pub limit: Option<i64>,
}

/// Adds a silence; returns its id.
///
/// # Errors
/// If a field is not allowed, there is no such site, or the database cannot be reached in time.
pub async fn add_silence(store: &Store, new: &NewSilence) -> Result<i64, Error> {
    new.validate()?;
    let (site, tag) = match &new.target {
        SilenceTarget::Site(site) => (Some(site.0), None),
        SilenceTarget::Tag(tag) => (None, Some(tag)),
        SilenceTarget::All => (None, None),
    };
    let query = sqlx::query_scalar(
        "INSERT INTO picket.silences (site_id, tag, all_sites, starts_at, ends_at, reason, created_by)
         SELECT $1, $2, $3, $4, $5, $6, coalesce($7, session_user)
         WHERE $1::bigint IS NULL OR EXISTS (SELECT FROM picket.sites WHERE id = $1)
         RETURNING silence_id",
    )
    .bind(site)
    .bind(tag)
    .bind(new.target == SilenceTarget::All)
    .bind(DbTimestamp(new.from))
    .bind(DbTimestamp(new.to))
    .bind(&new.reason)
    .bind(&new.created_by);
    let added: Option<i64> =
        store.with_timeout(SILENCES_TIMEOUT, "add the silence", query.fetch_optional(&store.pool)).await?;
    // No row was inserted because the site does not exist.
    added.ok_or_else(|| Error::SiteNotFound(SiteId(site.unwrap_or_default())))
}

/// Lists the selected silences, the newest first.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_silences(store: &Store, filter: SilenceFilter<'_>) -> Result<Vec<SilenceWindow>, Error> {
    let query = sqlx::query_as(
        "SELECT silence.silence_id, silence.site_id, site.site, silence.tag, silence.all_sites, silence.starts_at, silence.ends_at,
                silence.reason, silence.created_by,
                CASE WHEN ends_at <= now() THEN 'over' WHEN starts_at <= now() THEN 'now' ELSE 'planned' END AS state,
                silence.tag IS NOT NULL AND NOT EXISTS (
                    SELECT FROM picket.sites AS tagged WHERE tagged.tags @> ARRAY[silence.tag]) AS concerns_nothing,
                silence.xmin::text AS version
         FROM picket.silences AS silence LEFT JOIN picket.known_sites AS site ON site.id = silence.site_id
         WHERE ($1 OR silence.ends_at > now()) AND ($2::bigint IS NULL OR silence.silence_id = $2)
           AND ($3::text[] IS NULL OR site.tags && $3 OR silence.tag = ANY ($3))
           AND ($4::timestamptz IS NULL OR (silence.starts_at, silence.silence_id) < ($4, $5))
         ORDER BY silence.starts_at DESC, silence.silence_id DESC LIMIT $6",
    )
    .bind(filter.over)
    .bind(filter.id)
    .bind(filter.tags)
    .bind(filter.after.map(|(from, _)| DbTimestamp(from)))
    .bind(filter.after.map(|(_, id)| id))
    .bind(filter.limit);
    let rows: Vec<SilenceRow> =
        store.with_timeout(SILENCES_TIMEOUT, "list silences", query.fetch_all(&store.pool)).await?;
    Ok(rows.into_iter().map(SilenceWindow::from).collect())
}

/// Moves the end of a silence that still has `version`, and replaces its reason. Returns false if the
/// silence is missing or has another version.
///
/// # Errors
/// If the end is not after the start or the reason is not allowed, or the database cannot be reached
/// in time.
pub async fn change_silence(
    store: &Store,
    silence: &SilenceWindow,
    to: Timestamp,
    reason: &str,
) -> Result<bool, Error> {
    check_end(silence.from, to)?;
    check_reason(reason)?;
    let query = sqlx::query(
        "UPDATE picket.silences SET ends_at = $2, reason = $3 WHERE silence_id = $1 AND xmin::text = $4",
    )
    .bind(silence.id)
    .bind(DbTimestamp(to))
    .bind(reason)
    .bind(silence.version.as_str());
    let done = store.with_timeout(SILENCES_TIMEOUT, "change the silence", query.execute(&store.pool)).await?;
    Ok(done.rows_affected() > 0)
}

/// Removes a silence; with `version`, only if it still has it. What is down then is told at once.
/// Returns false if there is no such silence.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn remove_silence(store: &Store, id: i64, version: Option<&RowVersion>) -> Result<bool, Error> {
    let query = sqlx::query(
        "DELETE FROM picket.silences WHERE silence_id = $1 AND ($2::text IS NULL OR xmin::text = $2)",
    )
    .bind(id)
    .bind(version.map(RowVersion::as_str));
    let done = store.with_timeout(SILENCES_TIMEOUT, "remove the silence", query.execute(&store.pool)).await?;
    Ok(done.rows_affected() > 0)
}
