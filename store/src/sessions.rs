//! Sessions of browsers, and one-time links to sign in.

use std::time::Duration;

use picket_proto::{Timestamp, validation::sanitize_text};

use crate::{
    DbTimestamp, Error, Store,
    api_secrets::{ApiSecret, hash_secret},
    api_tokens::{Scope, parse_scopes, scope_names},
};

const SESSIONS_TIMEOUT: Duration = Duration::from_secs(5);
const SESSION_PREFIX: &str = "pks_";
const LINK_PREFIX: &str = "pkl_";
/// Maximum time between uses of a session.
pub const SESSION_IDLE_LIMIT: Duration = Duration::from_secs(12 * 3_600);
/// Maximum time from sign-in to the end of a session.
pub const SESSION_LIMIT: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Time for which a link is valid.
pub const LINK_LIMIT: Duration = Duration::from_secs(10 * 60);

/// A person or program that signs in, with the rights that its session gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionIdentity {
    /// Name of the token or of the person, for pages and logs.
    pub name: String,
    /// What the session allows.
    pub scopes: Vec<Scope>,
    /// Only sites with at least one of these tags, if given.
    pub tags: Option<Vec<String>>,
    /// The token that signs in, whose end is the session's end.
    pub token_id: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct SessionRow {
    name: String,
    scopes: Vec<String>,
    tags: Option<Vec<String>>,
    token_id: Option<i64>,
}

/// Seconds for `make_interval`.
fn interval_seconds(limit: Duration) -> f64 {
    limit.as_secs_f64()
}

/// Starts a session. Returns its secret, for the cookie, and its end.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn create_session(
    store: &Store,
    identity: &SessionIdentity,
) -> Result<(ApiSecret, Timestamp), Error> {
    let secret = ApiSecret::generate(SESSION_PREFIX);
    let create = async {
        // Each new session removes some of those that have ended, so that the table stays small.
        sqlx::query(
            "DELETE FROM picket.sessions WHERE session_hash IN (
                 SELECT session_hash FROM picket.sessions WHERE expires_at <= clock_timestamp() LIMIT 100)",
        )
        .execute(&store.pool)
        .await?;
        sqlx::query_scalar::<_, DbTimestamp>(
            "INSERT INTO picket.sessions (session_hash, token_id, name, scopes, tags, expires_at)
             SELECT $1, $2, $3, $4, $5,
                    least(clock_timestamp() + make_interval(secs => $6),
                          (SELECT expires_at FROM picket.api_tokens WHERE token_id = $2))
             RETURNING expires_at",
        )
        .bind(secret.hash().to_vec())
        .bind(identity.token_id)
        .bind(sanitize_text(&identity.name, 320))
        .bind(scope_names(&identity.scopes))
        .bind(&identity.tags)
        .bind(interval_seconds(SESSION_LIMIT))
        .fetch_one(&store.pool)
        .await
    };
    let end = store.with_timeout(SESSIONS_TIMEOUT, "start a session", create).await?;
    Ok((secret, end.into()))
}

/// Lists the SHA-256 hashes of valid tokens and sessions, at most `limit` of them.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn list_credential_hashes(store: &Store, limit: u64) -> Result<Vec<Vec<u8>>, Error> {
    let query = sqlx::query_scalar(
        "SELECT token_hash FROM picket.api_tokens
         WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
         UNION ALL
         SELECT session_hash FROM picket.sessions
         WHERE expires_at > clock_timestamp() AND last_used_at > clock_timestamp() - make_interval(secs => $1)
         LIMIT $2",
    )
    .bind(interval_seconds(SESSION_IDLE_LIMIT))
    .bind(i64::try_from(limit).unwrap_or(i64::MAX));
    store.with_timeout(SESSIONS_TIMEOUT, "list tokens and sessions", query.fetch_all(&store.pool)).await
}

/// Finds the session with this secret, unless it or its token has ended.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn find_session(store: &Store, secret: &str) -> Result<Option<SessionIdentity>, Error> {
    if !secret.starts_with(SESSION_PREFIX) || secret.len() > ApiSecret::MAX_LENGTH {
        return Ok(None);
    }
    let query = sqlx::query_as::<_, SessionRow>(
        "SELECT session.name, session.scopes, session.tags, session.token_id
         FROM picket.sessions AS session LEFT JOIN picket.api_tokens AS token USING (token_id)
         WHERE session.session_hash = $1 AND session.expires_at > clock_timestamp()
           AND session.last_used_at > clock_timestamp() - make_interval(secs => $2)
           AND token.revoked_at IS NULL AND (token.expires_at IS NULL OR token.expires_at > clock_timestamp())",
    )
    .bind(hash_secret(secret).to_vec())
    .bind(interval_seconds(SESSION_IDLE_LIMIT));
    let row =
        store.with_timeout(SESSIONS_TIMEOUT, "find a session", query.fetch_optional(&store.pool)).await?;
    Ok(row.map(|row| SessionIdentity {
        name: row.name,
        scopes: parse_scopes(&row.scopes),
        tags: row.tags,
        token_id: row.token_id,
    }))
}

/// Records a use of a session, at most once a minute.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn record_session_use(store: &Store, secret: &str) -> Result<(), Error> {
    let query = sqlx::query(
        "UPDATE picket.sessions SET last_used_at = clock_timestamp()
         WHERE session_hash = $1 AND last_used_at < clock_timestamp() - interval '1 minute'",
    )
    .bind(hash_secret(secret).to_vec());
    let used = query.execute(&store.pool);
    store.with_timeout(SESSIONS_TIMEOUT, "record the use of a session", used).await.map(drop)
}

/// Ends a session, if there is one with this secret.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn end_session(store: &Store, secret: &str) -> Result<(), Error> {
    let query =
        sqlx::query("DELETE FROM picket.sessions WHERE session_hash = $1").bind(hash_secret(secret).to_vec());
    store.with_timeout(SESSIONS_TIMEOUT, "end a session", query.execute(&store.pool)).await.map(drop)
}

/// Creates a link that signs in once within [`LINK_LIMIT`]. Returns its secret.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn create_sign_in_link(store: &Store) -> Result<ApiSecret, Error> {
    let secret = ApiSecret::generate(LINK_PREFIX);
    let create = async {
        sqlx::query("DELETE FROM picket.sign_in_links WHERE expires_at <= clock_timestamp()")
            .execute(&store.pool)
            .await?;
        sqlx::query(
            "INSERT INTO picket.sign_in_links (link_hash, expires_at)
             VALUES ($1, clock_timestamp() + make_interval(secs => $2))",
        )
        .bind(secret.hash().to_vec())
        .bind(interval_seconds(LINK_LIMIT))
        .execute(&store.pool)
        .await
    };
    store.with_timeout(SESSIONS_TIMEOUT, "create a sign-in link", create).await?;
    Ok(secret)
}

/// Uses a link. Returns false if there is no valid link with this secret; of concurrent uses, one
/// returns true.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn redeem_sign_in_link(store: &Store, secret: &str) -> Result<bool, Error> {
    if !secret.starts_with(LINK_PREFIX) || secret.len() > ApiSecret::MAX_LENGTH {
        return Ok(false);
    }
    let query = sqlx::query_scalar::<_, bool>(
        "DELETE FROM picket.sign_in_links WHERE link_hash = $1 RETURNING expires_at > clock_timestamp()",
    )
    .bind(hash_secret(secret).to_vec());
    let valid =
        store.with_timeout(SESSIONS_TIMEOUT, "use a sign-in link", query.fetch_optional(&store.pool)).await?;
    Ok(valid == Some(true))
}
