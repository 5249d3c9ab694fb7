//! A receiver of notifications: an HTTP server that records each request and answers as told, also by
//! resets, silence and endless bodies.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

/// A request as received.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    /// Time of arrival.
    pub at: Instant,
    /// Method.
    pub method: String,
    /// Path with the query.
    pub path: String,
    /// Headers by their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Body.
    pub body: Vec<u8>,
}

impl ReceivedRequest {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|why| panic!("{why}: {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// How the receiver answers.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A status with headers (`name: value`, one a line) and a body.
    Status(u16, String, String),
    /// The connection is reset after the request was received.
    Reset,
    /// No answer within this time, and then a status of 200.
    Late(Duration),
    /// One byte a second.
    Dripping,
    /// A body without end.
    Endless,
}

impl Answer {
    /// A status without headers and body.
    pub fn status(status: u16) -> Self {
        Self::Status(status, String::new(), String::new())
    }
}

type Rule = Box<dyn Fn(&ReceivedRequest) -> Answer + Send>;

/// A running receiver, which ends when dropped.
pub struct Receiver {
    address: SocketAddr,
    state: Arc<State>,
    _server: AbortOnDropHandle<()>,
}

struct State {
    requests: Mutex<Vec<ReceivedRequest>>,
    rule: Mutex<Rule>,
}

impl Receiver {
    /// Starts a receiver on loopback that answers 200.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let rule: Rule = Box::new(|_| Answer::status(200));
        let state = Arc::new(State { requests: Mutex::default(), rule: Mutex::new(rule) });
        let shared = state.clone();
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Self { address, state, _server: AbortOnDropHandle::new(server) }
    }

    /// URL of `path`, which begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers every request from now on so.
    pub fn answer(&self, answer: Answer) {
        self.answer_by(move |_| answer.clone());
    }

    /// Answers every request from now on by a rule.
    pub fn answer_by(&self, rule: impl Fn(&ReceivedRequest) -> Answer + Send + 'static) {
        *self.state.rule.lock() = Box::new(rule);
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.state.requests.lock().clone()
    }

    /// Number of requests so far.
    pub fn count(&self) -> usize {
        self.state.requests.lock().len()
    }

    /// Forgets the requests so far.
    pub fn clear(&self) {
        self.state.requests.lock().clear();
    }
}

async fn serve(mut stream: TcpStream, state: Arc<State>) {
    while let Some(request) = read_request(&mut stream).await {
        state.requests.lock().push(request.clone());
        let answer = (state.rule.lock())(&request);
        if !write_answer(&mut stream, answer).await {
            return;
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<ReceivedRequest> {
    const MAX_BYTES: usize = 8 << 20;
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if bytes.len() > MAX_BYTES || stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    while bytes.len() < end + length.min(MAX_BYTES) {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = bytes[end..end + length].to_vec();
    Some(ReceivedRequest { at: Instant::now(), method, path, headers, body })
}

/// Returns true if the connection can be used again.
async fn write_answer(stream: &mut TcpStream, answer: Answer) -> bool {
    let head = |status: u16, headers: &str, length: usize| {
        let headers: String = headers.lines().map(|line| format!("{line}\r\n")).collect();
        format!("HTTP/1.1 {status} Answer\r\n{headers}Content-Length: {length}\r\n\r\n")
    };
    match answer {
        Answer::Status(status, headers, body) => {
            let answer = head(status, &headers, body.len()) + &body;
            stream.write_all(answer.as_bytes()).await.is_ok()
        }
        Answer::Late(time) => {
            sleep(time).await;
            stream.write_all(head(200, "", 0).as_bytes()).await.is_ok()
        }
        Answer::Reset => {
            // Closes with a reset in place of an orderly end.
            let _ = stream.set_zero_linger();
            false
        }
        Answer::Dripping => {
            for byte in head(200, "", 1 << 20).bytes().chain(std::iter::repeat(b'x')) {
                if stream.write_all(&[byte]).await.is_err() {
                    break;
                }
                sleep(Duration::from_secs(1)).await;
            }
            false
        }
        Answer::Endless => {
            let _ = stream.write_all(head(200, "", usize::MAX / 2).as_bytes()).await;
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
            false
        }
    }
}
