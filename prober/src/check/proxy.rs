//! HTTP proxies that the operator of a prober has named: their settings, and tunnels through them
//! (CONNECT, RFC 9110, section 9.3.6).

pub(super) mod liveness;

use std::{io, sync::Arc};

use picket_proto::Cause;
use picket_runtime::SecretValue;
use reqwest::header::HeaderValue;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use url::Url;

use super::{
    connection_error::ConnectionError, credentials::encode_basic, destination::Destination, failure::Failure,
};

/// Proxy of this prober. The address policy does not apply to it, nor to the sites behind it, whose
/// names the proxy resolves.
#[derive(Clone, Debug)]
pub(super) struct ProxySettings {
    /// Name by which sites refer to the proxy.
    pub(super) name: Arc<str>,
    pub(super) destination: Destination,
    /// Value of `Proxy-Authorization`.
    pub(super) authorization: Option<HeaderValue>,
}

impl ProxySettings {
    /// Settings of the proxy `name` at `url`, with the user and the password that it requires.
    ///
    /// # Errors
    /// Fails if `url` has no host.
    pub(super) fn new(name: &str, url: &Url, login: Option<&(String, SecretValue)>) -> Result<Self, Failure> {
        let unusable = |what| {
            let message = format!("proxy '{name}' of this prober cannot be used: its {what} cannot be sent");
            Failure::new(Cause::SecretUnavailable, message)
        };
        let destination = Destination::from_url(url).ok_or_else(|| unusable("URL"))?;
        let authorization = login
            .map(|(user, password)| HeaderValue::try_from(format!("Basic {}", encode_basic(user, password))));
        let mut authorization = authorization.transpose().map_err(|_| unusable("password"))?;
        if let Some(value) = &mut authorization {
            value.set_sensitive(true);
        }
        Ok(Self { name: name.into(), destination, authorization })
    }

    /// Opens a tunnel to `site` on a connection to this proxy.
    ///
    /// # Errors
    /// Fails if the proxy refuses, or if the connection ends.
    pub(super) async fn open_tunnel(
        &self,
        stream: &mut TcpStream,
        site: &Destination,
    ) -> Result<(), super::plain_http::BoxError> {
        let mut request = format!("CONNECT {site} HTTP/1.1\r\nHost: {site}\r\n").into_bytes();
        if let Some(authorization) = &self.authorization {
            request.extend_from_slice(b"Proxy-Authorization: ");
            request.extend_from_slice(authorization.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        stream.write_all(&request).await?;
        let proxy = || Arc::clone(&self.name);
        let status =
            read_status(stream).await?.ok_or_else(|| ConnectionError::NotProxy { proxy: proxy() })?;
        match status {
            200..=299 => Ok(()),
            407 => Err(ConnectionError::ProxyCredentials { proxy: proxy() }.into()),
            502..=504 => {
                Err(ConnectionError::SiteUnreachable { proxy: proxy(), site: site.to_string(), status }
                    .into())
            }
            _ => Err(ConnectionError::ProxyRefusal { proxy: proxy(), site: site.to_string(), status }.into()),
        }
    }
}

/// Reads the head of a response to CONNECT. Returns its status, or `None` if the answer is not a
/// head of HTTP/1, is too long, or has bytes after a head that opens a tunnel: the client speaks
/// first in TLS.
async fn read_status(stream: &mut TcpStream) -> io::Result<Option<u16>> {
    const MAX_HEAD_BYTES: usize = 16 << 10;
    const HEAD_END: &[u8] = b"\r\n\r\n";
    let mut head = Vec::new();
    let end = loop {
        if let Some(at) = head.windows(HEAD_END.len()).position(|bytes| bytes == HEAD_END) {
            break at + HEAD_END.len();
        }
        if head.len() > MAX_HEAD_BYTES {
            return Ok(None);
        }
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let status = parse_status_line(&head);
    Ok(status.filter(|status| !(200..300).contains(status) || end == head.len()))
}

/// The status in a head such as `HTTP/1.1 200 Connection established`.
fn parse_status_line(head: &[u8]) -> Option<u16> {
    let rest = head.strip_prefix(b"HTTP/1.")?;
    let [_, b' ', status @ ..] = rest else { return None };
    let (status, after) = status.split_at_checked(3)?;
    let is_delimited = matches!(after.first(), Some(b' ' | b'\r'));
    let status: u16 = std::str::from_utf8(status).ok()?.parse().ok()?;
    (is_delimited && (100..600).contains(&status)).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_a_proxy_is_read_from_a_head_of_http_1_alone() {
        for (head, status) in [
            ("HTTP/1.1 200 Connection established\r\n\r\n", Some(200)),
            ("HTTP/1.0 407\r\n\r\n", Some(407)),
            ("HTTP/1.1 2000 OK\r\n\r\n", None),
            ("HTTP/1.1 +20 OK\r\n\r\n", None),
            ("HTTP/1.1 099 OK\r\n\r\n", None),
            ("HTTP/2 200 OK\r\n\r\n", None),
            ("SSH-2.0-OpenSSH_9.6\r\n\r\n", None),
            ("", None),
        ] {
            assert_eq!(parse_status_line(head.as_bytes()), status, "{head}");
        }
    }

    #[test]
    fn the_password_of_a_proxy_is_sent_and_never_shown() {
        let url = Url::parse("http://[::1]/").unwrap();
        let login = ("me".to_owned(), SecretValue::new("p@ss:word".to_owned()));
        let proxy = ProxySettings::new("office", &url, Some(&login)).unwrap();

        assert_eq!(proxy.destination.to_string(), "[::1]:80");
        let authorization = proxy.authorization.clone().unwrap();
        assert_eq!(authorization.to_str().unwrap(), "Basic bWU6cEBzczp3b3Jk");
        let shown = format!("{proxy:?}");
        assert!(!shown.contains("p@ss") && !shown.contains("bWU6"), "{shown}");
    }
}
