//! A client of server-sent events over HTTP/1.1, which reads only when asked.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Maximum time without an expected event.
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

/// An event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// Name of the event; `message` without one.
    pub name: String,
    /// Id of the event, if it has one.
    pub id: Option<String>,
    /// Data of the event.
    pub data: String,
}

/// An open stream.
pub struct SseStream {
    connection: TcpStream,
    /// Head of the response.
    pub head: String,
    /// Received bytes of the chunked body.
    raw: Vec<u8>,
    /// Decoded text that is no complete event yet.
    text: String,
    /// Last value of the field `retry`.
    pub retry: Option<u64>,
    /// Number of received comments.
    pub comments: usize,
    is_ended: bool,
}

impl SseStream {
    /// Sends a request with these header lines, and reads the head of its response.
    ///
    /// # Errors
    /// If the connection ends before the head of a response.
    pub async fn open(
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &str,
    ) -> io::Result<Self> {
        let mut connection = TcpStream::connect(address).await?;
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n{headers}\r\n{body}",
            body.len()
        );
        connection.write_all(request.as_bytes()).await?;
        let (mut raw, mut piece) = (Vec::new(), [0; 4_096]);
        let end = loop {
            if let Some(end) = raw.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end;
            }
            match connection.read(&mut piece).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => raw.extend_from_slice(&piece[..read]),
            }
        };
        let head = String::from_utf8_lossy(&raw[..end]).into_owned();
        let raw = raw.split_off(end + 4);
        Ok(Self { connection, head, raw, text: String::new(), retry: None, comments: 0, is_ended: false })
    }

    /// Opens a stream by GET.
    ///
    /// # Panics
    /// Panics without a response.
    pub async fn get(address: SocketAddr, path: &str) -> Self {
        Self::open(address, "GET", path, &[], "").await.expect("a response")
    }

    /// Status code of the response.
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// Returns true if the head has this line, without regard to case.
    pub fn has_header(&self, line: &str) -> bool {
        self.head.lines().any(|found| found.eq_ignore_ascii_case(line))
    }

    /// The next event; `None` at the end of the stream.
    ///
    /// # Panics
    /// Panics if neither comes in time.
    pub async fn next_event(&mut self) -> Option<SseEvent> {
        let next = timeout(EVENT_TIMEOUT, self.read_event()).await;
        next.unwrap_or_else(|_| panic!("no event within {EVENT_TIMEOUT:?}"))
    }

    /// The next event with this name, skipping others.
    ///
    /// # Panics
    /// Panics if it does not come in time, or the stream ends.
    pub async fn expect_event(&mut self, name: &str) -> SseEvent {
        let wanted = async {
            loop {
                match self.read_event().await {
                    Some(event) if event.name == name => return event,
                    Some(_) => {}
                    None => panic!("the stream ended before an event '{name}'"),
                }
            }
        };
        timeout(EVENT_TIMEOUT, wanted)
            .await
            .unwrap_or_else(|_| panic!("no '{name}' within {EVENT_TIMEOUT:?}"))
    }

    async fn read_event(&mut self) -> Option<SseEvent> {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                if let Some(event) = self.parse_block(&block) {
                    return Some(event);
                }
            }
            if self.is_ended || !self.read_chunk().await {
                return None;
            }
        }
    }

    /// Parses a block; `None` for comments and fields of the connection.
    fn parse_block(&mut self, block: &str) -> Option<SseEvent> {
        let mut event = SseEvent { name: "message".to_owned(), ..SseEvent::default() };
        let mut has_data = false;
        for line in block.lines() {
            match line.split_once(": ") {
                Some(("event", name)) => name.clone_into(&mut event.name),
                Some(("id", id)) => event.id = Some(id.to_owned()),
                Some(("data", data)) => {
                    has_data = true;
                    event.data.push_str(data);
                }
                Some(("retry", retry)) => self.retry = retry.parse().ok(),
                None if line.starts_with(':') => self.comments += 1,
                _ => {}
            }
        }
        has_data.then_some(event)
    }

    /// Reads a chunk of the body. Returns false at its end.
    async fn read_chunk(&mut self) -> bool {
        loop {
            if let Some(end) = self.raw.windows(2).position(|bytes| bytes == b"\r\n") {
                let size = usize::from_str_radix(&String::from_utf8_lossy(&self.raw[..end]), 16).unwrap_or(0);
                let whole = end + 2 + size + 2;
                if self.raw.len() >= whole {
                    self.text.push_str(&String::from_utf8_lossy(&self.raw[end + 2..end + 2 + size]));
                    self.raw.drain(..whole);
                    self.is_ended = size == 0;
                    return size > 0;
                }
            }
            let mut piece = [0; 8_192];
            match self.connection.read(&mut piece).await {
                Ok(0) | Err(_) => {
                    self.is_ended = true;
                    return false;
                }
                Ok(read) => self.raw.extend_from_slice(&piece[..read]),
            }
        }
    }
}
