//! Tokens of the API: who may do what, without a password.

use std::{fmt, str::FromStr, time::Duration};

use picket_proto::{Timestamp, ValidationError, site::SiteSpec, validation::sanitize_text};
use serde::{Serialize, Serializer};

use crate::{
    DbTimestamp, Error, Store,
    api_secrets::{ApiSecret, hash_secret},
    error::DriverError,
};

const TOKENS_TIMEOUT: Duration = Duration::from_secs(5);
/// First characters of each token.
pub const TOKEN_PREFIX: &str = "pkt_";
/// Constraint by which a name is unique among valid tokens.
const NAME_CONSTRAINT: &str = "api_tokens_name";

/// A right of a token or a session. Scopes are independent of each other, but for `admin`, which
/// includes all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Read sites, results, incidents and reports.
    Read,
    /// Change sites, regions and maintenance.
    Write,
    /// Run ad-hoc checks.
    Check,
    /// Manage tokens and settings.
    Admin,
}

impl Scope {
    /// All scopes.
    pub const ALL_SCOPES: [Self; 4] = [Self::Read, Self::Write, Self::Check, Self::Admin];

    /// The scope's name in commands, tokens and the OpenAPI document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Check => "check",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = ValidationError;

    fn from_str(text: &str) -> Result<Self, ValidationError> {
        let refuse = || ValidationError::new("scopes", text, Self::ALL_SCOPES.map(Self::as_str).join(", "));
        Self::ALL_SCOPES.into_iter().find(|scope| scope.as_str() == text).ok_or_else(refuse)
    }
}

/// Names of scopes as the database has them.
pub(crate) fn scope_names(scopes: &[Scope]) -> Vec<&'static str> {
    scopes.iter().map(|scope| scope.as_str()).collect()
}

/// Scopes by their names. A name of a newer release is left out: it grants nothing here.
pub(crate) fn parse_scopes(names: &[String]) -> Vec<Scope> {
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

/// A token to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// Name, unique among valid tokens.
    pub name: String,
    /// What the token allows.
    pub scopes: Vec<Scope>,
    /// Only sites with at least one of these tags, if given.
    pub tags: Option<Vec<String>>,
    /// End of the token, if it has one.
    pub expires_at: Option<Timestamp>,
}

impl NewToken {
    /// Maximum number of tags of a token.
    const MAX_TAGS: usize = 50;

    /// # Errors
    /// The first field that is not allowed.
    pub fn validate(&self, now: Timestamp) -> Result<(), ValidationError> {
        let name = self.name.as_str();
        if name.trim() != name
            || name.is_empty()
            || name.chars().count() > 100
            || sanitize_text(name, 400) != name
        {
            let allowed = "1 to 100 visible characters without spaces at the ends";
            return Err(ValidationError::new("name", name, allowed));
        }
        if self.scopes.is_empty() {
            return Err(ValidationError::new("scopes", "", Scope::ALL_SCOPES.map(Scope::as_str).join(", ")));
        }
        if let Some(tags) = &self.tags {
            if self.scopes.contains(&Scope::Admin) {
                let allowed = "no tags beside the scope admin, which includes all sites";
                return Err(ValidationError::new("tags", tags.join(","), allowed));
            }
            tags.iter().try_for_each(|tag| SiteSpec::check_tag("tags", tag))?;
            if tags.is_empty() || tags.len() > Self::MAX_TAGS {
                let allowed = format!("1 to {} tags, or none given for all sites", Self::MAX_TAGS);
                return Err(ValidationError::new("tags", format!("{} tags", tags.len()), allowed));
            }
        }
        match self.expires_at.filter(|end| *end <= now) {
            Some(end) => Err(ValidationError::new("expires_at", end, format!("a time after {now}"))),
            None => Ok(()),
        }
    }
}

/// A token without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApiToken {
    /// Id of the token.
    pub id: i64,
    /// Name of the token.
    pub name: String,
    /// What the token allows.
    pub scopes: Vec<Scope>,
    /// Only sites with at least one of these tags, if given.
    pub tags: Option<Vec<String>>,
    /// Time of creation.
    pub created_at: Timestamp,
    /// End of the token, if it has one.
    pub expires_at: Option<Timestamp>,
    /// Last use, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// Time of the revocation.
    pub revoked_at: Option<Timestamp>,
    /// `valid`, `expired` or `revoked`.
    pub state: String,
}

#[derive(sqlx::FromRow)]
struct TokenRow {
    token_id: i64,
    name: String,
    scopes: Vec<String>,
    tags: Option<Vec<String>>,
    created_at: DbTimestamp,
    expires_at: Option<DbTimestamp>,
    last_used_at: Option<DbTimestamp>,
    revoked_at: Option<DbTimestamp>,
    state: String,
}

impl From<TokenRow> for ApiToken {
    fn from(row: TokenRow) -> Self {
        Self {
            id: row.token_id,
            name: row.name,
            scopes: parse_scopes(&row.scopes),
            tags: row.tags,
            created_at: row.created_at.into(),
            expires_at: row.expires_at.map(Timestamp::from),
            last_used_at: row.last_used_at.map(Timestamp::from),
            revoked_at: row.revoked_at.map(Timestamp::from),
            state: row.state,
        }
    }
}

/// Columns of [`TokenRow`].
macro_rules! token_columns {
    () => {
        "token_id, name, scopes, tags, created_at, expires_at, last_used_at, revoked_at,
         CASE WHEN revoked_at < coalesce(expires_at, 'infinity') THEN 'revoked' WHEN expires_at <= now() THEN 'expired'
              ELSE 'valid' END AS state"
    };
}

/// Creates a token. Returns it with its secret, which cannot be read again.
///
/// # Errors
/// If a field is not allowed, a valid token has the name, or the database cannot be reached in time.
pub async fn create_token(store: &Store, new: &NewToken) -> Result<(ApiToken, ApiSecret), Error> {
    new.validate(store.read_clock().await?)?;
    let secret = ApiSecret::generate(TOKEN_PREFIX);
    let mut scopes = new.scopes.clone();
    scopes.sort();
    scopes.dedup();
    let create = async {
        let mut transaction = store.pool.begin().await?;
        // The index of names excludes revoked tokens, and no index can tell the time: an expired token of the name
        // is revoked first, and remains as history.
        sqlx::query(
            "UPDATE picket.api_tokens SET revoked_at = clock_timestamp()
             WHERE name = $1 AND revoked_at IS NULL AND expires_at <= clock_timestamp()",
        )
        .bind(&new.name)
        .execute(&mut *transaction)
        .await?;
        let row = sqlx::query_as::<_, TokenRow>(concat!(
            "INSERT INTO picket.api_tokens (name, secret_hash, scopes, tags, expires_at) VALUES ($1, $2, $3, $4, $5) RETURNING ",
            token_columns!()
        ))
        .bind(&new.name)
        .bind(secret.hash().as_slice().to_vec())
        .bind(scope_names(&scopes))
        .bind(&new.tags)
        .bind(new.expires_at.map(DbTimestamp))
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(row)
    };
    match store.with_timeout(TOKENS_TIMEOUT, "create a token", create).await {
        Ok(row) => Ok((row.into(), secret)),
        Err(Error::Database { source: DriverError(sqlx::Error::Database(error)), .. })
            if error.constraint() == Some(NAME_CONSTRAINT) =>
        {
            Err(Error::DuplicateToken(new.name.clone()))
        }
        Err(error) => Err(error),
    }
}

/// Lists the tokens, the newest first; `all` includes revoked and expired ones.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_tokens(store: &Store, all: bool) -> Result<Vec<ApiToken>, Error> {
    let query = sqlx::query_as::<_, TokenRow>(concat!(
        "SELECT ",
        token_columns!(),
        " FROM picket.api_tokens
          WHERE $1 OR (revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()))
          ORDER BY token_id DESC"
    ))
    .bind(all);
    let rows = store.with_timeout(TOKENS_TIMEOUT, "list tokens", query.fetch_all(&store.pool)).await?;
    Ok(rows.into_iter().map(ApiToken::from).collect())
}

/// Reads a token, revoked and expired ones too; `None` if there is none with this id.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn read_token(store: &Store, id: i64) -> Result<Option<ApiToken>, Error> {
    let query = sqlx::query_as::<_, TokenRow>(concat!(
        "SELECT ",
        token_columns!(),
        " FROM picket.api_tokens WHERE token_id = $1"
    ))
    .bind(id);
    let row = store.with_timeout(TOKENS_TIMEOUT, "read a token", query.fetch_optional(&store.pool)).await?;
    Ok(row.map(ApiToken::from))
}

/// Revokes a token and ends its sessions. Returns the token, or `None` if there is no token of this
/// id that is not revoked yet.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn revoke_token(store: &Store, id: i64) -> Result<Option<ApiToken>, Error> {
    let revoke = async {
        let mut transaction = store.pool.begin().await?;
        let row = sqlx::query_as::<_, TokenRow>(concat!(
            "UPDATE picket.api_tokens SET revoked_at = clock_timestamp() WHERE token_id = $1 AND revoked_at IS NULL RETURNING ",
            token_columns!()
        ))
        .bind(id)
        .fetch_optional(&mut *transaction)
        .await?;
        sqlx::query("DELETE FROM picket.sessions WHERE token_id = $1")
            .bind(id)
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(row)
    };
    let row = store.with_timeout(TOKENS_TIMEOUT, "revoke a token", revoke).await?;
    Ok(row.map(ApiToken::from))
}

/// Finds the valid token with this secret.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn find_token(store: &Store, secret: &str) -> Result<Option<ApiToken>, Error> {
    if !secret.starts_with(TOKEN_PREFIX) || secret.len() > ApiSecret::MAX_LENGTH {
        return Ok(None);
    }
    let query = sqlx::query_as::<_, TokenRow>(concat!(
        "SELECT ",
        token_columns!(),
        " FROM picket.api_tokens
          WHERE secret_hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())"
    ))
    .bind(hash_secret(secret).to_vec());
    let row = store.with_timeout(TOKENS_TIMEOUT, "find a token", query.fetch_optional(&store.pool)).await?;
    Ok(row.map(ApiToken::from))
}

/// Records a use of a token, at most once a minute.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn record_token_use(store: &Store, id: i64) -> Result<(), Error> {
    let query = sqlx::query(
        "UPDATE picket.api_tokens SET last_used_at = clock_timestamp()
         WHERE token_id = $1 AND (last_used_at IS NULL OR last_used_at < clock_timestamp() - interval '1 minute')",
    )
    .bind(id);
    store
        .with_timeout(TOKENS_TIMEOUT, "record the use of a token", query.execute(&store.pool))
        .await
        .map(drop)
}

/// Returns true if a token has ever been created. Revoked and expired tokens count, so that the end
/// of the last token opens nothing.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn has_tokens(store: &Store) -> Result<bool, Error> {
    let query = sqlx::query_scalar("SELECT EXISTS (SELECT FROM picket.api_tokens)");
    store.with_timeout(TOKENS_TIMEOUT, "look for tokens", query.fetch_one(&store.pool)).await
}
