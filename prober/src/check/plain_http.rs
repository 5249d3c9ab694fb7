//! HTTP client for `http` URLs: hyper's client, as in reqwest, with a metered connector.
//!
//! reqwest gives no access to its streams. For `https`, bytes are counted on decryption; for
//! `http`, bytes are counted on read, and a task that reads much at once yields to other tasks.

use std::{
    error::Error,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use hyper::{Uri, http::header::Entry};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connected, Connection, HttpConnector, dns},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use reqwest::{
    Body, Request, Response,
    dns::{Addrs, Resolve, Resolving},
    header::{ACCEPT, HeaderMap, HeaderValue, USER_AGENT},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    task::coop,
};
use tower::Service;

use super::{
    inbound::InboundMeter,
    resolver::Resolver,
    settings,
    timing::{self, ConnectLayer, ConnectService},
};

/// Error of a request by either client.
pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// Client for `http` requests. Clones share all state.
#[derive(Clone)]
pub(super) struct PlainHttpClient {
    client: Client<ConnectService<MeteredConnector>, Body>,
    user_agent: HeaderValue,
}

impl PlainHttpClient {
    pub(super) fn new(resolver: Arc<Resolver>, user_agent: HeaderValue) -> Self {
        let mut http = HttpConnector::new_with_resolver(HyperResolver(resolver));
        http.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_max_idle_per_host(0)
            .retry_canceled_requests(false)
            // Accept malformed headers that browsers accept: visitors of such a site are served.
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .http1_allow_spaces_after_header_name_in_responses(true)
            .http1_ignore_invalid_headers_in_responses(true)
            .http1_max_headers(settings::MAX_HEADERS)
            .build(tower::Layer::layer(&ConnectLayer, MeteredConnector(http)));
        Self { client, user_agent }
    }

    /// Sends `request` in the same way as reqwest.
    ///
    /// # Errors
    /// Fails if no response arrives.
    pub(super) async fn send_request(&self, request: Request) -> Result<Response, BoxError> {
        let mut request = hyper::Request::<Body>::try_from(request)?;
        set_default_headers(request.headers_mut(), &self.user_agent);
        let response = self.client.request(request).await?;
        Ok(response.map(Body::wrap).into())
    }
}

/// Adds the headers that reqwest adds.
pub(super) fn set_default_headers(headers: &mut HeaderMap, user_agent: &HeaderValue) {
    for (name, value) in [(ACCEPT, HeaderValue::from_static("*/*")), (USER_AGENT, user_agent.clone())] {
        if let Entry::Vacant(vacant) = headers.entry(name) {
            vacant.insert(value);
        }
    }
}

/// Resolver in the form required by hyper.
#[derive(Clone)]
pub(super) struct HyperResolver(pub(super) Arc<Resolver>);

impl Service<dns::Name> for HyperResolver {
    type Response = Addrs;
    type Error = BoxError;
    type Future = Resolving;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: dns::Name) -> Resolving {
        match name.as_str().parse::<reqwest::dns::Name>() {
            Ok(name) => self.0.resolve(name),
            Err(why) => Box::pin(std::future::ready(Err(why.into()))),
        }
    }
}

/// Connector for metered connections.
#[derive(Clone)]
pub(super) struct MeteredConnector(HttpConnector<HyperResolver>);

impl Service<Uri> for MeteredConnector {
    type Response = TokioIo<MeteredStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let inbound = timing::current_recorder().map(|marks| marks.inbound()).unwrap_or_default();
        let connecting = self.0.call(to);
        Box::pin(async move {
            let stream = connecting.await?.into_inner();
            Ok(TokioIo::new(MeteredStream { stream, inbound }))
        })
    }
}

/// TCP stream that counts received bytes.
pub(super) struct MeteredStream {
    pub(super) stream: TcpStream,
    pub(super) inbound: Arc<InboundMeter>,
}

/// Charges the task's cooperative budget for `bytes`, in addition to the unit that each read costs:
/// one of 128 units per 4 KiB. With an exhausted budget the next read yields to other tasks.
fn consume_coop_budget(bytes: usize, context: &mut Context<'_>) {
    for _ in 0..bytes >> 12 {
        match coop::poll_proceed(context) {
            Poll::Ready(unit) => unit.made_progress(),
            Poll::Pending => return,
        }
    }
}

impl AsyncRead for MeteredStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        let bytes = &into.filled()[before..];
        consume_coop_budget(bytes.len(), context);
        Poll::Ready(self.inbound.count_bytes(bytes).map_err(io::Error::other))
    }
}

impl AsyncWrite for MeteredStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connection for MeteredStream {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}
