//! Obtains the credentials of a check before its clock starts, with token requests where needed.

use std::{error::Error, net::IpAddr, time::Duration};

use picket_proto::{Cause, Check, Outcome};
use picket_runtime::{SecretValue, error_source::innermost_source};
use reqwest::{
    Method, Request,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use tokio::time::timeout;
use url::{Host, form_urlencoded};

use super::{
    Checker, Observation,
    credentials::{self, Credentials},
    failure::Failure,
    oauth::{AccessToken, TokenBody, TokenRequest},
};

/// Deadline of a token request, from the name lookup to the end of the body.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);

impl Checker {
    /// Obtains the credentials of `check`, and requests an access token if none is cached.
    ///
    /// # Errors
    /// If a secret is unknown or may not be sent to the site, or if there is no token.
    pub(super) async fn obtain_credentials(&self, check: &Check) -> Result<Option<Credentials>, Failure> {
        if !credentials::needs_credentials(check) {
            return Ok(None);
        }
        let mut headers = credentials::static_headers(check, &self.secrets)?;
        let Some(request) = credentials::token_request(check, &self.secrets)? else {
            return Ok(Some(Credentials { headers, grant: None }));
        };
        let grant = self.tokens.get_or_fetch(&request, || self.fetch_token(&request)).await;
        let grant = grant.map_err(|why| {
            let host = request.token_url.host_str().unwrap_or_default();
            let name = &request.secret_name;
            Failure::new(
                Cause::SecretUnavailable,
                format!("no access token from {host} with the secret '{name}': {why}"),
            )
        })?;
        credentials::insert_bearer(&mut headers, &grant.token, &request.secret_name)?;
        Ok(Some(Credentials { headers, grant: Some(grant) }))
    }

    /// Replaces the access token of `used` if the check failed with a 401 that a new token may
    /// avoid. The check is then repeated, once.
    pub(super) async fn renew_credentials(
        &self,
        check: &Check,
        used: Option<&Credentials>,
        seen: &Observation,
    ) -> Option<Credentials> {
        let grant = used?.grant.as_ref().filter(|grant| !grant.is_fresh)?;
        if seen.http_status != Some(401) || seen.outcome != Outcome::Down {
            return None;
        }
        let mut headers = credentials::static_headers(check, &self.secrets).ok()?;
        let request = credentials::token_request(check, &self.secrets).ok()??;
        let replaced = self.tokens.replace(&request, &grant.token, || self.fetch_token(&request)).await?;
        credentials::insert_bearer(&mut headers, &replaced.token, &request.secret_name).ok()?;
        Some(Credentials { headers, grant: Some(replaced) })
    }

    /// Requests a token. The errors name no value.
    async fn fetch_token(&self, request: &TokenRequest) -> Result<AccessToken, String> {
        let fetching = self.send_token_request(request);
        match timeout(TOKEN_TIMEOUT, fetching).await {
            Ok(Ok(token)) => {
                self.secrets.redact_token(&request.origin(), token.token.clone());
                Ok(token)
            }
            Ok(Err(why)) => Err(why),
            Err(_) => Err(format!("no response within {} s", TOKEN_TIMEOUT.as_secs())),
        }
    }

    async fn send_token_request(&self, request: &TokenRequest) -> Result<AccessToken, String> {
        // Names are vetted by the resolver.
        let literal: Option<IpAddr> = match request.token_url.host() {
            Some(Host::Ipv4(address)) => Some(address.into()),
            Some(Host::Ipv6(address)) => Some(address.into()),
            Some(Host::Domain(_)) | None => None,
        };
        if let Some(address) = literal.filter(|address| !self.address_policy.is_allowed(*address)) {
            return Err(format!("checks may not connect to {address} (see PICKET_ALLOW_ADDRESSES)"));
        }
        let post = build_token_request(request)?;
        let describe = |why: &(dyn Error + 'static)| innermost_source(why).to_string();
        let mut response = match request.token_url.scheme() {
            "http" => self.plain_client.send_request(post).await.map_err(|why| describe(why.as_ref()))?,
            _ => self.verifying_client.execute(post).await.map_err(|why| describe(&why))?,
        };
        let mut body = TokenBody::new();
        while let Some(chunk) = response.chunk().await.map_err(|why| describe(&why))? {
            body.push_chunk(&chunk)?;
        }
        body.parse_token(response.status().as_u16())
    }
}

/// A request with the client's login as in RFC 6749, section 2.3.1.
fn build_token_request(request: &TokenRequest) -> Result<Request, String> {
    let encode = |text: &[u8]| form_urlencoded::byte_serialize(text).collect::<String>();
    let secret = SecretValue::new(encode(request.secret.expose_bytes()));
    let login = credentials::encode_basic(&encode(request.client_id.as_bytes()), &secret);
    let mut form = form_urlencoded::Serializer::new("grant_type=client_credentials".to_owned());
    if !request.scopes.is_empty() {
        form.append_pair("scope", &request.scopes);
    }
    let mut post = Request::new(Method::POST, request.token_url.clone());
    let mut authorization = HeaderValue::try_from(format!("Basic {login}"))
        .map_err(|_| "the client's login cannot be sent".to_owned())?;
    authorization.set_sensitive(true);
    let headers = post.headers_mut();
    headers.insert(AUTHORIZATION, authorization);
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    *post.body_mut() = Some(form.finish().into());
    Ok(post)
}
