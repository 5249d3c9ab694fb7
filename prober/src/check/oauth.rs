//! Access tokens by the client credentials grant of OAuth 2 (RFC 6749, section 4.4).
//!
//! A token is requested once for all checks that need it at the same time, kept until shortly
//! before it ends, and replaced once if a site answers 401. The time of a token request belongs to
//! no check.
//!
//! Bound: the requests of [`TokenCache::MAX_TOKENS`] tokens at once, each with a deadline; checks
//! wait in their slots. Loss: a restarted prober requests its tokens again.

mod token_response;

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use picket_runtime::SecretValue;
use tokio::time::Instant;
use url::Url;

pub(super) use self::token_response::{AccessToken, TokenBody};

/// Parameters of a token request.
pub(super) struct TokenRequest {
    pub(super) token_url: Url,
    pub(super) client_id: String,
    pub(super) secret_name: String,
    pub(super) scopes: String,
    /// Generation of the secrets file with `secret`.
    pub(super) generation: u64,
    pub(super) secret: SecretValue,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct TokenKey {
    token_url: Url,
    client_id: String,
    secret_name: String,
    scopes: String,
    generation: u64,
}

impl TokenRequest {
    fn to_key(&self) -> TokenKey {
        TokenKey {
            token_url: self.token_url.clone(),
            client_id: self.client_id.clone(),
            secret_name: self.secret_name.clone(),
            scopes: self.scopes.clone(),
            generation: self.generation,
        }
    }

    /// Name of the origin of the token, which contains no secret.
    pub(super) fn origin(&self) -> String {
        format!("{} {} {} {}", self.token_url, self.client_id, self.secret_name, self.scopes)
    }
}

/// Token in use by a check.
pub(crate) struct TokenGrant {
    pub(super) token: SecretValue,
    /// True if the token was requested for this check: a 401 then means something else.
    pub(super) is_fresh: bool,
}

/// Tokens of a process, by their requests.
#[derive(Default)]
pub(super) struct TokenCache {
    slots: Mutex<HashMap<TokenKey, Arc<TokenSlot>>>,
}

/// Token of one kind. The lock is held during a request, so that all others wait for its result.
#[derive(Default)]
struct TokenSlot(tokio::sync::Mutex<TokenState>);

#[derive(Default)]
struct TokenState {
    token: Option<SecretValue>,
    /// Time until which `token` is used.
    use_until: Option<Instant>,
    /// Reason of the last failed request, and the time until which it is not repeated.
    failure: Option<(String, Instant)>,
    /// Time of the last replacement after a 401.
    replaced_at: Option<Instant>,
}

impl TokenCache {
    /// Maximum number of cached tokens.
    const MAX_TOKENS: usize = 1_000;
    /// Time before the end of a token from which it is not used.
    const END_MARGIN: Duration = Duration::from_secs(30);
    /// Time after a failure in which checks get the same failure.
    const FAILURE_TTL: Duration = Duration::from_secs(5);
    /// Minimum time between two replacements: a site that always answers 401 must not cause a token
    /// request with each check.
    const REPLACE_INTERVAL: Duration = Duration::from_secs(30);

    /// Returns the cached token, or the one that `fetch` requests.
    pub(super) async fn get_or_fetch<F>(
        &self,
        request: &TokenRequest,
        fetch: impl FnOnce() -> F,
    ) -> Result<TokenGrant, String>
    where
        F: Future<Output = Result<AccessToken, String>>,
    {
        let slot = self.slot(request);
        let mut state = slot.0.lock().await;
        let now = Instant::now();
        if let (Some(token), Some(use_until)) = (&state.token, state.use_until)
            && now < use_until
        {
            return Ok(TokenGrant { token: token.clone(), is_fresh: false });
        }
        if let Some((why, until)) = &state.failure
            && now < *until
        {
            return Err(why.clone());
        }
        state.store_result(fetch().await).map(|token| TokenGrant { token, is_fresh: true })
    }

    /// Replaces `rejected`, which a site refused with a 401. Returns `None` if a new token would
    /// not help or was requested a short time ago.
    pub(super) async fn replace<F>(
        &self,
        request: &TokenRequest,
        rejected: &SecretValue,
        fetch: impl FnOnce() -> F,
    ) -> Option<TokenGrant>
    where
        F: Future<Output = Result<AccessToken, String>>,
    {
        let slot = self.slot(request);
        let mut state = slot.0.lock().await;
        let now = Instant::now();
        // Another check has replaced it already.
        if let Some(token) = state.token.as_ref().filter(|token| *token != rejected) {
            return Some(TokenGrant { token: token.clone(), is_fresh: true });
        }
        if state.replaced_at.is_some_and(|at| now.duration_since(at) < Self::REPLACE_INTERVAL) {
            return None;
        }
        state.replaced_at = Some(now);
        let token = state.store_result(fetch().await).ok()?;
        Some(TokenGrant { token, is_fresh: true })
    }

    fn slot(&self, request: &TokenRequest) -> Arc<TokenSlot> {
        let key = request.to_key();
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(&key) {
            return Arc::clone(slot);
        }
        // Tokens of an earlier content of the secrets file are not requested again.
        slots.retain(|known, _| known.generation == key.generation);
        if slots.len() >= Self::MAX_TOKENS
            && let Some(other) = slots.keys().next().cloned()
        {
            slots.remove(&other);
        }
        Arc::clone(slots.entry(key).or_default())
    }
}

impl TokenState {
    fn store_result(&mut self, result: Result<AccessToken, String>) -> Result<SecretValue, String> {
        let now = Instant::now();
        match result {
            Ok(AccessToken { token, lifetime }) => {
                self.use_until = Some(now + lifetime.saturating_sub(TokenCache::END_MARGIN));
                self.failure = None;
                self.token = Some(token.clone());
                Ok(token)
            }
            Err(why) => {
                self.token = None;
                self.failure = Some((why.clone(), now + TokenCache::FAILURE_TTL));
                Err(why)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::time::{advance, sleep};

    use super::*;

    fn request(generation: u64) -> TokenRequest {
        TokenRequest {
            token_url: Url::parse("https://auth.example/").unwrap(),
            client_id: "me".into(),
            secret_name: "a".into(),
            scopes: String::new(),
            generation,
            secret: SecretValue::new("client-secret".into()),
        }
    }

    /// Endpoint that counts its requests and numbers its tokens.
    #[derive(Default)]
    struct Endpoint {
        requests: AtomicUsize,
    }

    impl Endpoint {
        async fn serve(&self) -> Result<AccessToken, String> {
            let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
            sleep(Duration::from_millis(100)).await;
            let token = SecretValue::new(format!("access-token-{number}"));
            Ok(AccessToken { token, lifetime: Duration::from_secs(100) })
        }

        async fn refuse(&self) -> Result<AccessToken, String> {
            self.requests.fetch_add(1, Ordering::Relaxed);
            Err("status 500".into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_requested_once_for_all_and_kept_until_30_s_before_its_end() {
        let (cache, endpoint, request) = (TokenCache::default(), Endpoint::default(), request(0));
        let ask = || async { cache.get_or_fetch(&request, || endpoint.serve()).await.unwrap() };

        let tokens = join_all((0..50).map(|_| ask())).await;
        assert_eq!(endpoint.requests.load(Ordering::Relaxed), 1);
        assert!(tokens.iter().all(|grant| grant.token.expose_text() == "access-token-1"));
        assert_eq!(tokens.iter().filter(|grant| grant.is_fresh).count(), 1);

        advance(Duration::from_millis(69_900)).await;
        assert_eq!(ask().await.token.expose_text(), "access-token-1");
        advance(Duration::from_millis(200)).await;
        assert_eq!(ask().await.token.expose_text(), "access-token-2");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_request_is_repeated_after_five_seconds() {
        let (cache, endpoint, request) = (TokenCache::default(), Endpoint::default(), request(0));

        for _ in 0..3 {
            let failure = cache.get_or_fetch(&request, || endpoint.refuse()).await.err().unwrap();
            assert_eq!(failure, "status 500");
        }
        assert_eq!(endpoint.requests.load(Ordering::Relaxed), 1);
        advance(Duration::from_secs(5)).await;
        cache.get_or_fetch(&request, || endpoint.serve()).await.ok().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejected_token_is_replaced_once_by_all_and_not_again_at_once() {
        let (cache, endpoint, request) = (TokenCache::default(), Endpoint::default(), request(0));
        let first = cache.get_or_fetch(&request, || endpoint.serve()).await.unwrap().token;

        let replace = |token: SecretValue| {
            let (cache, endpoint, request) = (&cache, &endpoint, &request);
            async move { cache.replace(request, &token, || endpoint.serve()).await }
        };
        let replaced = join_all((0..20).map(|_| replace(first.clone()))).await;
        assert!(replaced.iter().flatten().all(|grant| grant.token.expose_text() == "access-token-2"));
        assert_eq!((replaced.iter().flatten().count(), endpoint.requests.load(Ordering::Relaxed)), (20, 2));

        let second = replaced[0].as_ref().unwrap().token.clone();
        assert!(replace(second.clone()).await.is_none());
        advance(TokenCache::REPLACE_INTERVAL).await;
        assert_eq!(replace(second).await.unwrap().token.expose_text(), "access-token-3");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reloaded_secret_gets_a_new_token() {
        let (cache, endpoint) = (TokenCache::default(), Endpoint::default());

        for (generation, token) in [(0, "access-token-1"), (1, "access-token-2"), (1, "access-token-2")] {
            let grant = cache.get_or_fetch(&request(generation), || endpoint.serve()).await.unwrap();
            assert_eq!(grant.token.expose_text(), token);
        }
        assert_eq!(cache.slots.lock().len(), 1);
    }
}
