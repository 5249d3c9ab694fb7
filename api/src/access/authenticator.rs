//! Finds the rights of a token or a session.
//!
//! Found rights are remembered for some seconds, so that a page with several requests reads a single row. Bound:
//! [`Authenticator::MAX_ENTRIES`] entries. Loss: none; the rows are in the database. A revocation takes effect at
//! once in this process, and within [`Authenticator::MAX_AGE`] in others.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use http::{HeaderMap, header};
use moka::future::Cache;
use picket_store::{Store, api_tokens, sessions};
use sha2::{Digest, Sha256};
use tokio::time::sleep;
use tracing::debug;

use super::{activity::Activity, cookie::find_session_secret, rights::Access};

/// What a request shows to be authenticated.
#[derive(Clone)]
pub(crate) enum Credential {
    /// A token, in the header Authorization.
    Token(String),
    /// A session, in a cookie.
    Session(String),
    /// Something else in the header Authorization.
    Unknown,
}

impl Credential {
    /// The credential of a request. A header Authorization takes precedence over cookies.
    pub(crate) fn find(headers: &HeaderMap, is_secure: bool) -> Option<Self> {
        match headers.get(header::AUTHORIZATION) {
            Some(value) => {
                let token = value.to_str().ok().and_then(|text| {
                    let (scheme, token) = text.split_once(' ')?;
                    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
                });
                Some(token.map_or(Self::Unknown, Self::Token))
            }
            None => find_session_secret(headers, is_secure).map(Self::Session),
        }
    }

    /// Why the request is refused if the credential is not valid.
    pub(crate) fn describe_refusal(&self) -> &'static str {
        match self {
            Self::Token(_) => "the token is unknown, expired or revoked",
            Self::Session(_) => "the session has ended; sign in at /sign-in",
            Self::Unknown => {
                "the header Authorization is not understood; allowed: a token, as 'Bearer pkt_…'"
            }
        }
    }

    fn cache_key(&self) -> [u8; 32] {
        // Secrets are not kept in memory longer than need be.
        match self {
            Self::Token(secret) | Self::Session(secret) => Sha256::digest(secret.as_bytes()).into(),
            Self::Unknown => [0; 32],
        }
    }
}

/// Remembered rights.
#[derive(Clone)]
struct KnownAccess {
    access: Access,
    /// False if only background requests have shown the credential.
    is_use_recorded: bool,
}

/// See the module documentation.
pub(crate) struct Authenticator {
    store: Store,
    /// Rights of valid tokens and sessions; invalid ones are looked for anew.
    known: Cache<[u8; 32], KnownAccess>,
    /// Tokens and sessions that were valid when they were looked for last, by which a flood of invalid ones from
    /// the same address does not lock their senders out.
    familiar: Cache<[u8; 32], ()>,
    /// True once a token is known to exist. Tokens are never deleted.
    has_tokens: AtomicBool,
    /// Filled while no token exists.
    lacks_tokens: Cache<(), ()>,
}

impl Authenticator {
    /// Maximum age of remembered rights. The sum of all delays of a revocation.
    const MAX_AGE: Duration = Duration::from_secs(5);
    const MAX_ENTRIES: u64 = 10_000;
    /// Time for which a credential remains familiar. Its rights are read anew all the same.
    const FAMILIAR_AGE: Duration = Duration::from_secs(3_600);

    pub(crate) fn new(store: Store) -> Self {
        let familiar = Cache::builder().max_capacity(Self::MAX_ENTRIES).time_to_live(Self::FAMILIAR_AGE);
        Self {
            store,
            familiar: familiar.build(),
            known: Cache::builder().max_capacity(Self::MAX_ENTRIES).time_to_live(Self::MAX_AGE).build(),
            has_tokens: AtomicBool::new(false),
            lacks_tokens: Cache::builder().max_capacity(1).time_to_live(Duration::from_secs(1)).build(),
        }
    }

    /// True for a credential that was valid lately, so that a look for it is no guess.
    pub(crate) fn is_familiar(&self, credential: &Credential) -> bool {
        self.familiar.contains_key(&credential.cache_key())
    }

    /// Learns which tokens and sessions are valid, each minute, so that a flood of guesses refuses no valid one.
    /// Never returns.
    pub(crate) async fn learn_regularly(&self) {
        const LEARN_INTERVAL: Duration = Duration::from_secs(60);
        loop {
            match sessions::list_credential_hashes(&self.store, Self::MAX_ENTRIES).await {
                Ok(hashes) => {
                    for hash in hashes.iter().filter_map(|hash| <[u8; 32]>::try_from(hash.as_slice()).ok()) {
                        self.familiar.insert(hash, ()).await;
                    }
                }
                Err(error) => debug!(%error, "could not read which tokens are valid"),
            }
            sleep(LEARN_INTERVAL).await;
        }
    }

    /// Rights of a credential; `None` if it is not valid. A background request does not count as a use.
    ///
    /// # Errors
    /// If the database does not answer in time.
    pub(crate) async fn authenticate(
        &self,
        credential: &Credential,
        activity: Activity,
    ) -> Result<Option<Access>, picket_store::Error> {
        let key = credential.cache_key();
        // Programs have no pages that refresh themselves: each use of a token is recorded.
        let is_background = activity == Activity::Background && matches!(credential, Credential::Session(_));
        if let Some(known) = self.known.get(&key).await
            && (known.is_use_recorded || is_background)
        {
            return Ok(Some(known.access));
        }
        let found = self.find_access(credential, !is_background).await?;
        match &found {
            Some(access) => {
                let known = KnownAccess { access: access.clone(), is_use_recorded: !is_background };
                self.known.insert(key, known).await;
                self.familiar.insert(key, ()).await;
            }
            None => self.familiar.invalidate(&key).await,
        }
        Ok(found)
    }

    async fn find_access(
        &self,
        credential: &Credential,
        is_use: bool,
    ) -> Result<Option<Access>, picket_store::Error> {
        match credential {
            Credential::Token(secret) => {
                let token = api_tokens::find_token(&self.store, secret).await?;
                if let Some(token) = token.as_ref().filter(|_| is_use) {
                    log_failure(api_tokens::record_token_use(&self.store, token.id).await);
                }
                Ok(token.map(Access::of_token))
            }
            Credential::Session(secret) => {
                let session = sessions::find_session(&self.store, secret).await?;
                if is_use && session.is_some() {
                    log_failure(sessions::record_session_use(&self.store, secret).await);
                }
                Ok(session.map(Access::of_session))
            }
            Credential::Unknown => Ok(None),
        }
    }

    /// True while no token has ever been created. A person who creates the first token closes the API
    /// to everybody without one.
    ///
    /// # Errors
    /// If the database does not answer in time.
    pub(crate) async fn is_open(&self) -> Result<bool, picket_store::Error> {
        if self.has_tokens.load(Ordering::Relaxed) {
            return Ok(false);
        }
        if self.lacks_tokens.contains_key(&()) {
            return Ok(true);
        }
        let has_tokens = api_tokens::has_tokens(&self.store).await?;
        match has_tokens {
            true => self.has_tokens.store(true, Ordering::Relaxed),
            false => self.lacks_tokens.insert((), ()).await,
        }
        Ok(!has_tokens)
    }

    /// Forgets all remembered rights, after a change of tokens or sessions.
    pub(crate) fn forget_all(&self) {
        self.known.invalidate_all();
        self.lacks_tokens.invalidate_all();
    }
}

/// The time of the last use is for people; a request does not fail for it.
fn log_failure(recorded: Result<(), picket_store::Error>) {
    if let Err(error) = recorded {
        debug!(error = &error as &dyn std::error::Error, "could not record the use of a token or session");
    }
}
