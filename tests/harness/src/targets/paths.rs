//! Paths of a plain target, each with its own behaviour.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{TargetStats, script::ConnectionEnd};

pub(super) async fn respond_to_request<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    stats: &TargetStats,
) -> std::io::Result<ConnectionEnd> {
    let Some(head) = read_request(stream).await? else {
        return Ok(ConnectionEnd::Close);
    };
    let path = head.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let is_head = head.starts_with("HEAD ");
    stats.record_request(head.clone());
    let (name, rest) =
        path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    let number = rest.parse::<u64>().unwrap_or(0);
    match name {
        "ok" => respond_ok(stream, "all is well").await?,
        "echo" => respond_ok(stream, &head).await?,
        "status" => write_response(stream, rest, "", "a status").await?,
        "slow" => {
            tokio::time::sleep(Duration::from_millis(number)).await;
            respond_ok(stream, "slow and well").await?;
        }
        "slow-body" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n").await?;
            stream.flush().await?;
            tokio::time::sleep(Duration::from_millis(number)).await;
            stream.write_all(b"well").await?;
        }
        "redirect" => {
            let next = if number > 1 { format!("/redirect/{}", number - 1) } else { "/ok".to_owned() };
            write_response(stream, "302", &format!("location: {next}\r\n"), "").await?;
        }
        "to" => write_response(stream, "302", &format!("location: {rest}\r\n"), "").await?,
        "see" => {
            let (status, url) = rest.split_once('/').unwrap_or((rest, ""));
            write_response(stream, status, &format!("location: {url}\r\n"), "").await?;
        }
        "loop" => write_response(stream, "302", "location: /loop\r\n", "").await?,
        "large" => {
            // Three bytes more for the "end".
            let length = number + 3;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let length = usize::try_from(number).unwrap_or(0);
            stream.write_all(&vec![b'x'; length]).await?;
            stream.write_all(b"end").await?;
        }
        "endless" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            loop {
                stream.write_all(&[b'x'; 8 << 10]).await?;
            }
        }
        "headers" => {
            let headers: String = (0..number).map(|i| format!("x-{i}: {i}\r\n")).collect();
            write_response(stream, "200", &headers, "well").await?;
        }
        "gzip" => {
            let length = GZIP_BODY.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await?;
            if !is_head {
                stream.write_all(GZIP_BODY).await?;
            }
        }
        "never" => std::future::pending().await,
        "drip" => drip_bytes(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await?,
        "drip-body" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await?;
            drip_bytes(stream, &[b'x'; 1_000]).await?;
        }
        "close" => return Ok(ConnectionEnd::Close),
        "reset" => return Ok(ConnectionEnd::Reset),
        "broken-body" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this").await?;
        }
        "garbage" => stream.write_all(b"SSH-2.0-OpenSSH_9.6\r\n").await?,
        _ => write_response(stream, "404", "", "there is no such path").await?,
    }
    stream.flush().await?;
    Ok(ConnectionEnd::Close)
}

/// "compressed and well", compressed with gzip.
const GZIP_BODY: &[u8] = &[
    0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0x4b, 0xce, 0xcf, 0x2d, 0x28, 0x4a, 0x2d,
    0x2e, 0x4e, 0x4d, 0x51, 0x48, 0xcc, 0x4b, 0x51, 0x28, 0x4f, 0xcd, 0xc9, 0x01, 0x00, 0xc0, 0x46, 0xbf,
    0x94, 0x13, 0x00, 0x00, 0x00,
];

/// Reads a request: the head, and the body if the head has a content length.
pub(super) async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<Option<String>> {
    const MAX_REQUEST_BYTES: usize = 64 << 10;
    let mut head = Vec::new();
    while !is_complete_request(&head) {
        if head.len() > MAX_REQUEST_BYTES || stream.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
        if head.first().is_some_and(|byte| !byte.is_ascii_alphabetic()) {
            // The client sent a TLS handshake to a plain port.
            return Ok(Some("GET /status/400 HTTP/1.1".to_owned()));
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

/// Beginning of an HTTP/2 connection, before the client's frames.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Returns true if the client's `frames` contain a whole HEADERS frame: it has opened its stream. A
/// response before that breaks the rules of HTTP/2.
fn has_http2_headers(mut frames: &[u8]) -> bool {
    const HEAD_BYTES: usize = 9;
    const HEADERS: u8 = 1;
    while let [high, middle, low, kind, ..] = *frames {
        let end = HEAD_BYTES + u32::from_be_bytes([0, high, middle, low]) as usize;
        if frames.len() < end {
            return false;
        }
        if kind == HEADERS {
            return true;
        }
        frames = &frames[end..];
    }
    false
}

fn is_complete_request(request: &[u8]) -> bool {
    if let Some(frames) = request.strip_prefix(HTTP2_PREFACE) {
        return has_http2_headers(frames);
    }
    // The preface contains the end of a head of HTTP/1, so a part of it is not complete either.
    if HTTP2_PREFACE.starts_with(request) {
        return false;
    }
    let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    request.len() >= end + 4 + length.unwrap_or(0)
}

pub(super) async fn respond_ok<S: AsyncWrite + Unpin>(stream: &mut S, body: &str) -> std::io::Result<()> {
    write_response(stream, "200", "", body).await
}

async fn write_response<S: AsyncWrite + Unpin>(
    stream: &mut S,
    status: &str,
    headers: &str,
    body: &str,
) -> std::io::Result<()> {
    let response = format!(
        "HTTP/1.1 {status} Because\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(response.as_bytes()).await
}

async fn drip_bytes<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8]) -> std::io::Result<()> {
    for byte in bytes {
        stream.write_all(&[*byte]).await?;
        stream.flush().await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}
