//! The reqwest client of checks over https without options for the connection.

use std::sync::Arc;

use reqwest::{Client, redirect};
use rustls::ClientConfig;

use super::{
    resolver::Resolver,
    settings::{Error, MAX_HEADER_LIST_BYTES, MAX_HEADERS},
    timing::ConnectLayer,
};

/// Builds a client that opens a connection for each request. `window` is the flow-control window of
/// HTTP/2, in bytes.
pub(super) fn build_client(
    tls: ClientConfig,
    resolver: Arc<Resolver>,
    window: u32,
    user_agent: &str,
) -> Result<Client, Error> {
    Client::builder()
        .tls_backend_preconfigured(tls)
        .dns_resolver(resolver)
        .connector_layer(ConnectLayer)
        .pool_max_idle_per_host(0)
        // Keepalive is useless: a connection lives no longer than its check, whose deadline covers
        // stalls. Saves five system calls per connection.
        .tcp_keepalive(None)
        .tcp_keepalive_interval(None)
        .tcp_keepalive_retries(None)
        .tcp_user_timeout(None)
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        // Accept malformed headers that browsers accept: visitors of such a site are served.
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_ignore_invalid_headers_in_responses(true)
        .http1_max_headers(MAX_HEADERS)
        .http2_max_header_list_size(MAX_HEADER_LIST_BYTES)
        .http2_initial_stream_window_size(window)
        .http2_initial_connection_window_size(window)
        .user_agent(user_agent)
        .build()
        .map_err(Error::Client)
}
