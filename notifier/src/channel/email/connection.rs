//! Connections to mail servers: to addresses that the policy allows, encrypted and verified.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use lettre::transport::smtp::{client::AsyncTokioStream, extension::ClientId};
use picket_runtime::{
    address_policy::AddressPolicy, error_source::describe_io_error, name_lookup::describe_lookup_error,
    tls_roots::parse_roots,
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use url::Host;

use super::{
    EmailSender,
    failure::Failure,
    settings::{EmailSettings, Security},
};

/// Addresses of a server that are tried.
const MAX_ADDRESSES: usize = 4;
/// Maximum time to connect to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of bytes that a server may send in a connection: it has little to say.
const MAX_RECEIVED_BYTES: usize = 256 << 10;
/// Maximum size of an answer before TLS.
const MAX_PLAIN_ANSWER_BYTES: usize = 16 << 10;
const MAX_CA_FILE_BYTES: u64 = 1 << 20;

/// Answer that takes the place of a greeting: after STARTTLS, a server greets no second time.
const GREETING: &[u8] = b"220 TLS\r\n";

/// A connection that is ready for the SMTP client.
pub(super) struct MailConnection {
    pub(super) stream: MailStream,
    /// Name to introduce oneself by.
    pub(super) client_id: ClientId,
}

/// Connects and, as the settings demand, encrypts.
pub(super) async fn connect(
    sender: &EmailSender,
    settings: &EmailSettings,
) -> Result<MailConnection, Failure> {
    let host = settings.parse_host().map_err(|refusal| Failure::of_channel(&refusal.to_string()))?;
    let mut tcp = connect_tcp(&host, settings, &sender.addresses).await?;
    let client_id = match settings.parse_helo() {
        Ok(Some(client_id)) => client_id,
        Ok(None) => tcp.local_addr().map_or_else(|_| ClientId::default(), |own| own_address(own.ip())),
        Err(refusal) => return Err(Failure::of_channel(&refusal.to_string())),
    };
    let (stream, greeting): (_, &[u8]) = match settings.security {
        Security::None => (Transport::Plain(tcp), &[]),
        Security::Implicit => (connect_tls(tcp, &host, settings, &sender.roots).await?, &[]),
        Security::Starttls => {
            negotiate_starttls(&mut tcp, &client_id, settings).await?;
            (connect_tls(tcp, &host, settings, &sender.roots).await?, GREETING)
        }
    };
    let stream = MailStream { transport: stream, greeting, remaining: MAX_RECEIVED_BYTES };
    Ok(MailConnection { stream, client_id })
}

fn own_address(address: IpAddr) -> ClientId {
    match address.to_canonical() {
        IpAddr::V4(address) => ClientId::Ipv4(address),
        IpAddr::V6(address) => ClientId::Ipv6(address),
    }
}

async fn connect_tcp(
    host: &Host<String>,
    settings: &EmailSettings,
    policy: &AddressPolicy,
) -> Result<TcpStream, Failure> {
    let (port, server) = (settings.port(), settings.server_name());
    let found: Vec<IpAddr> = match host {
        Host::Ipv4(address) => vec![(*address).into()],
        Host::Ipv6(address) => vec![(*address).into()],
        Host::Domain(name) => match tokio::net::lookup_host((name.as_str(), port)).await {
            Ok(found) => found.map(|address| address.ip()).collect(),
            Err(why) => {
                let why = describe_lookup_error(&why);
                return Err(Failure::of_network(&format!("could not resolve {name}: {why}")));
            }
        },
    };
    let vetted = policy.vet_addresses(found).map_err(|address| {
        Failure::of_channel(&format!(
            "{server} is at {address}, and notifications may not go there (see PICKET_NOTIFY_ALLOW_ADDRESSES)"
        ))
    })?;
    let mut last = Failure::of_network(&format!("{server} has no address"));
    for address in vetted.into_iter().take(MAX_ADDRESSES) {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect((address, port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(why)) => {
                let why = describe_io_error(&why);
                last = Failure::of_network(&format!("could not connect to {server}: {why}"));
            }
            Err(_) => last = Failure::of_network(&format!("could not connect to {server} in time")),
        }
    }
    Err(last)
}

async fn connect_tls(
    tcp: TcpStream,
    host: &Host<String>,
    settings: &EmailSettings,
    platform: &Arc<RootCertStore>,
) -> Result<Transport, Failure> {
    let roots = match &settings.ca_file {
        None => Arc::clone(platform),
        Some(path) => Arc::new(read_roots(path).await.map_err(|why| {
            Failure::of_channel(&format!("the certificates in ca_file '{path}' are unusable: {why}"))
        })?),
    };
    let unusable = |why: &dyn fmt::Display| Failure::of_channel(&format!("TLS is impossible: {why}"));
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|why| unusable(&why))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = match host {
        Host::Domain(name) => ServerName::try_from(name.clone()).map_err(|why| unusable(&why))?,
        Host::Ipv4(address) => ServerName::IpAddress(IpAddr::V4(*address).into()),
        Host::Ipv6(address) => ServerName::IpAddress(IpAddr::V6(*address).into()),
    };
    let connected = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    connected.map(|stream| Transport::Tls(Box::new(stream))).map_err(|why| {
        let text = format!("no TLS with {}, so nothing was sent: {why}", settings.server_name());
        // A rejected certificate stays rejected until a person acts, unlike a lost connection.
        match why.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            true => Failure::of_channel(&text),
            false => Failure::of_network(&text),
        }
    })
}

async fn read_roots(path: &str) -> Result<RootCertStore, String> {
    // A pipe or a device would never end.
    let kind = tokio::fs::metadata(path).await.map_err(|why| why.to_string())?;
    if !kind.is_file() {
        return Err("it is not a file".to_owned());
    }
    let file = tokio::fs::File::open(path).await.map_err(|why| why.to_string())?;
    let mut pem = Vec::new();
    file.take(MAX_CA_FILE_BYTES).read_to_end(&mut pem).await.map_err(|why| why.to_string())?;
    parse_roots(&pem).map_err(str::to_owned)
}

/// Has the server begin TLS. Ends with an error if the server does not offer it, or has sent
/// something that would count as sent by TLS.
async fn negotiate_starttls(
    tcp: &mut TcpStream,
    client_id: &ClientId,
    settings: &EmailSettings,
) -> Result<(), Failure> {
    let mut dialogue = PlainDialogue { tcp, buffer: Vec::new(), server: settings.server_name().to_string() };
    dialogue.read_answer(220, "its greeting").await?;
    let offers = dialogue.ask(&format!("EHLO {client_id}\r\n"), 250).await?;
    let has_starttls = offers.lines().any(|line| {
        let offer = line.get(4..).and_then(|offer| offer.split_ascii_whitespace().next());
        offer.is_some_and(|offer| offer.eq_ignore_ascii_case("STARTTLS"))
    });
    if !has_starttls {
        return Err(Failure::of_channel(&format!(
            "{} does not offer STARTTLS, so nothing was sent (another party may have removed the offer; \
             security: implicit needs none)",
            dialogue.server
        )));
    }
    dialogue.ask("STARTTLS\r\n", 220).await?;
    match dialogue.buffer.is_empty() {
        true => Ok(()),
        false => Err(Failure::of_channel(&format!(
            "{} sent more than its answer to STARTTLS before TLS began, so nothing was sent",
            dialogue.server
        ))),
    }
}

/// Questions and answers before TLS.
struct PlainDialogue<'a> {
    tcp: &'a mut TcpStream,
    buffer: Vec<u8>,
    server: String,
}

impl PlainDialogue<'_> {
    async fn ask(&mut self, command: &str, expected: u16) -> Result<String, Failure> {
        self.tcp.write_all(command.as_bytes()).await.map_err(|why| self.lost(&why))?;
        self.read_answer(expected, command.trim_end()).await
    }

    /// Reads one answer of any number of lines.
    async fn read_answer(&mut self, expected: u16, to: &str) -> Result<String, Failure> {
        loop {
            if let Some(end) = find_answer_end(&self.buffer) {
                let answer: Vec<u8> = self.buffer.drain(..end).collect();
                let answer = String::from_utf8_lossy(&answer).trim_end().to_owned();
                let code = answer.get(..3).and_then(|code| code.parse::<u16>().ok());
                return match code {
                    Some(code) if code == expected => Ok(answer),
                    _ => Err(Failure {
                        code,
                        ..Failure::of_network(&format!("{}: answer to {to}: {answer}", self.server))
                    }),
                };
            }
            if self.buffer.len() > MAX_PLAIN_ANSWER_BYTES {
                return Err(Failure::of_network(&format!("{}: too long an answer to {to}", self.server)));
            }
            let mut chunk = [0; 1024];
            match self.tcp.read(&mut chunk).await {
                Ok(0) => {
                    return Err(Failure::of_network(&format!("{} closed the connection", self.server)));
                }
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(why) => return Err(self.lost(&why)),
            }
        }
    }

    fn lost(&self, why: &io::Error) -> Failure {
        Failure::of_network(&format!("{}: {why}", self.server))
    }
}

/// Length of the first complete answer: its last line has no hyphen after the code.
fn find_answer_end(buffer: &[u8]) -> Option<usize> {
    let mut start = 0;
    for line in buffer.split_inclusive(|byte| *byte == b'\n') {
        if !line.ends_with(b"\n") {
            return None;
        }
        start += line.len();
        if line.get(3) != Some(&b'-') {
            return Some(start);
        }
    }
    None
}

enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Bytes to and from a mail server. Limits what it may send.
pub(super) struct MailStream {
    transport: Transport,
    /// Read before anything that the server sends.
    greeting: &'static [u8],
    remaining: usize,
}

impl MailStream {
    /// Returns true if the server has proved its name.
    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self.transport, Transport::Tls(_))
    }

    fn tcp(&self) -> &TcpStream {
        match &self.transport {
            Transport::Plain(tcp) => tcp,
            Transport::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl fmt::Debug for MailStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailStream").field("is_encrypted", &self.is_encrypted()).finish_non_exhaustive()
    }
}

impl AsyncTokioStream for MailStream {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().peer_addr()
    }
}

impl AsyncRead for MailStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.greeting.is_empty() {
            let (now, later) = self.greeting.split_at(self.greeting.len().min(buffer.remaining()));
            buffer.put_slice(now);
            self.greeting = later;
            return Poll::Ready(Ok(()));
        }
        if self.remaining == 0 {
            return Poll::Ready(Err(io::Error::other("the server sends too much")));
        }
        let before = buffer.filled().len();
        let polled = match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        let received = buffer.filled().len().saturating_sub(before);
        self.remaining = self.remaining.saturating_sub(received);
        polled
    }
}

impl AsyncWrite for MailStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_its_first_line_without_a_hyphen() {
        assert_eq!(find_answer_end(b"250-a\r\n250 b\r\nrest"), Some(14));
        assert_eq!(find_answer_end(b"220 ready\r\n"), Some(11));
        for incomplete in [&b"250-a\r\n250 b"[..], b"", b"250-a\r\n"] {
            assert_eq!(find_answer_end(incomplete), None);
        }
    }
}
