//! The HTTP client for requests to the provider.

use std::{future::Future, pin::Pin, time::Duration};

use openidconnect::{HttpRequest, HttpResponse};

/// Failure of a request to the provider.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// No answer, or a connection that failed.
    #[error("the provider did not answer")]
    Request(#[from] reqwest::Error),
    /// The request cannot be sent.
    #[error("the request to the provider is malformed")]
    Malformed(#[from] http::Error),
    /// The answer is too large.
    #[error("the answer of the provider has more than {} bytes", HttpClient::MAX_ANSWER_BYTES)]
    TooLarge,
}

/// Sends requests to the provider. Follows no redirects, which could lead the client secret elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct HttpClient(reqwest::Client);

type Answer = Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send>>;

impl HttpClient {
    const TIMEOUT: Duration = Duration::from_secs(10);
    const MAX_ANSWER_BYTES: usize = 1 << 20;

    /// # Errors
    /// If the system's certificate authorities cannot be read.
    pub(crate) fn new() -> Result<Self, reqwest::Error> {
        let builder = reqwest::Client::builder()
            .timeout(Self::TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("picket-api/", env!("CARGO_PKG_VERSION")));
        Ok(Self(builder.build()?))
    }

    /// The client in the form that `openidconnect` takes.
    pub(crate) fn as_function(&self) -> impl Fn(HttpRequest) -> Answer + Send + Sync + use<> {
        let client = self.0.clone();
        move |request| Box::pin(send_request(client.clone(), request))
    }
}

async fn send_request(client: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, HttpError> {
    let (parts, body) = request.into_parts();
    let mut answer =
        client.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body).send().await?;
    let mut response = http::Response::builder().status(answer.status());
    if let Some(headers) = response.headers_mut() {
        *headers = answer.headers().clone();
    }
    let mut content = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        content.extend_from_slice(&chunk);
        if content.len() > HttpClient::MAX_ANSWER_BYTES {
            return Err(HttpError::TooLarge);
        }
    }
    Ok(response.body(content)?)
}
