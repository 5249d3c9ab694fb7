//! Token endpoint of OAuth 2 (client credentials) that issues numbered tokens.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::{Identity, Step, Target};

/// Token endpoint. Stops when dropped.
pub struct TokenEndpoint {
    target: Target,
    issuer: Issuer,
}

/// Tokens issued by an endpoint, for sites that accept the newest one. Clones share the state.
#[derive(Clone)]
pub struct Issuer(Arc<IssuerState>);

struct IssuerState {
    /// Value of the `Authorization` header of the client.
    login: String,
    /// Beginning of all tokens.
    prefix: String,
    delay: Duration,
    issued: AtomicUsize,
    is_revoked: AtomicBool,
    is_failing: AtomicBool,
}

impl TokenEndpoint {
    /// Serves HTTP. Accepts the client with `login` as its `Authorization` header, and issues the
    /// tokens `<prefix>-1`, `<prefix>-2` and so on, each after `delay`.
    pub async fn serve_http(login: &str, prefix: &str, delay: Duration) -> Self {
        let issuer = Issuer::new(login, prefix, delay);
        let script = issuer.clone();
        Self { target: Target::serve_script(move |request| script.respond(request)).await, issuer }
    }

    /// Serves HTTPS as [`serve_http`](Self::serve_http) does.
    pub async fn serve_https(identity: &Identity, login: &str, prefix: &str, delay: Duration) -> Self {
        let issuer = Issuer::new(login, prefix, delay);
        let script = issuer.clone();
        let target = Target::serve_script_https(identity, move |request| script.respond(request)).await;
        Self { target, issuer }
    }

    /// The server itself.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The issued tokens.
    pub fn issuer(&self) -> Issuer {
        self.issuer.clone()
    }
}

impl Issuer {
    fn new(login: &str, prefix: &str, delay: Duration) -> Self {
        Self(Arc::new(IssuerState {
            login: login.to_owned(),
            prefix: prefix.to_owned(),
            delay,
            issued: AtomicUsize::new(0),
            is_revoked: AtomicBool::new(false),
            is_failing: AtomicBool::new(false),
        }))
    }

    /// Number of tokens issued.
    pub fn issued_tokens(&self) -> usize {
        self.0.issued.load(Ordering::SeqCst)
    }

    /// Has sites reject all tokens issued so far.
    pub fn revoke_tokens(&self) {
        self.0.is_revoked.store(true, Ordering::SeqCst);
    }

    /// Has the endpoint answer with status 500, or serve again.
    pub fn set_failing(&self, is_failing: bool) {
        self.0.is_failing.store(is_failing, Ordering::SeqCst);
    }

    /// Steps of a site that answers 200 to the newest token, and else 401 with what it was sent.
    pub fn protect_site(&self, request: &str) -> Vec<Step> {
        let token = format!("{}-{}", self.0.prefix, self.issued_tokens());
        let is_valid = !self.0.is_revoked.load(Ordering::SeqCst);
        match is_valid && has_authorization(request, &format!("Bearer {token}")) {
            true => vec![respond("200 OK", "welcome")],
            false => vec![respond("401 Unauthorized", request)],
        }
    }

    fn respond(&self, request: &str) -> Vec<Step> {
        let state = &self.0;
        if state.is_failing.load(Ordering::SeqCst) {
            return vec![respond("500 Internal Server Error", request)];
        }
        let is_grant = request.starts_with("POST ") && request.contains("grant_type=client_credentials");
        if !is_grant || !has_authorization(request, &state.login) {
            return vec![respond("401 Unauthorized", r#"{"error":"invalid_client"}"#)];
        }
        let number = state.issued.fetch_add(1, Ordering::SeqCst) + 1;
        state.is_revoked.store(false, Ordering::SeqCst);
        let token = format!("{}-{number}", state.prefix);
        let body = format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":3600}}"#);
        vec![Step::Wait(state.delay), respond("200 OK", &body)]
    }
}

fn has_authorization(request: &str, value: &str) -> bool {
    request
        .lines()
        .filter_map(|line| line.split_once(": "))
        .any(|(name, given)| name.eq_ignore_ascii_case("authorization") && given.trim_end() == value)
}

fn respond(status: &str, body: &str) -> Step {
    let length = body.len();
    Step::send(format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"))
}
