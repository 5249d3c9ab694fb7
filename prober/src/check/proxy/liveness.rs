//! Probe of a proxy that left a request without a response: a proxy that answers for itself works, so
//! the site is at fault, and any other proxy says nothing about the site.
//!
//! Bound: one connection for a failed check, for at most [`PROBE_TIMEOUT`]. Loss: none.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Maximum time of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// Beginning of every response, whether the proxy knows the method or not.
const RESPONSE_START: &[u8] = b"HTTP/";

/// Returns true if a proxy at one of `addresses` responds to a request that it must not forward
/// (RFC 9110, section 7.6.2). The request has no credentials, since a refusal is a response.
pub(in crate::check) async fn is_responding(addresses: &[SocketAddr]) -> bool {
    let probing = async {
        for address in addresses {
            if matches!(read_response_start(*address).await, Ok(true)) {
                return true;
            }
        }
        false
    };
    timeout(PROBE_TIMEOUT, probing).await.unwrap_or(false)
}

async fn read_response_start(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let request =
        format!("OPTIONS * HTTP/1.1\r\nHost: {address}\r\nMax-Forwards: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut start = [0; RESPONSE_START.len()];
    stream.read_exact(&mut start).await?;
    Ok(start == RESPONSE_START)
}
