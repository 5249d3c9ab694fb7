//! HTTP proxy as operators run one: tunnels (CONNECT) and requests with a whole URL. It resolves
//! names itself, by a table of the test.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use super::paths::read_request;

/// Proxy of a test. Stops when dropped, with all its connections.
pub struct ConnectProxy {
    address: SocketAddr,
    shared: Arc<ProxyState>,
    accept_task: JoinHandle<()>,
}

struct ProxyState {
    /// Address behind each `host:port`.
    names: HashMap<String, SocketAddr>,
    behaviour: ProxyBehaviour,
    requests: Mutex<Vec<String>>,
}

/// Behaviour of a proxy towards each request.
#[derive(Clone, Debug, Default)]
pub enum ProxyBehaviour {
    /// Forwards.
    #[default]
    Forward,
    /// Forwards if the request has this `Proxy-Authorization`; responds with status 407 otherwise.
    RequireCredentials(String),
    /// Responds with these bytes and closes the connection.
    Respond(Vec<u8>),
    /// Accepts the connection and sends nothing.
    Stall,
    /// Sends nothing in response to these methods, and forwards other requests.
    StallMethods(&'static [&'static str]),
}

impl ConnectProxy {
    /// Starts a proxy that knows `names`, such as `("a.example:443", address)`, and addresses. It
    /// responds with status 502 where it cannot connect.
    pub async fn start(names: &[(&str, SocketAddr)], behaviour: ProxyBehaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let names = names.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect();
        let shared = Arc::new(ProxyState { names, behaviour, requests: Mutex::default() });
        let accept_task = tokio::spawn(accept_connections(listener, Arc::clone(&shared)));
        Self { address, shared, accept_task }
    }

    /// Listen address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Heads of the requests to this proxy.
    pub fn received_requests(&self) -> Vec<String> {
        self.shared.requests.lock().clone()
    }
}

impl Drop for ConnectProxy {
    fn drop(&mut self) {
        self.accept_task.abort();
    }
}

async fn accept_connections(listener: TcpListener, shared: Arc<ProxyState>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            // The client sees an error of the connection as its end.
            let _ = shared.serve(stream).await;
        });
    }
}

impl ProxyState {
    async fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let Some(request) = read_request(&mut client).await? else { return Ok(()) };
        self.requests.lock().push(request.clone());
        match &self.behaviour {
            ProxyBehaviour::Stall => std::future::pending().await,
            ProxyBehaviour::StallMethods(methods)
                if methods.iter().any(|method| request.starts_with(method)) =>
            {
                std::future::pending().await
            }
            ProxyBehaviour::Respond(bytes) => return client.write_all(bytes).await,
            ProxyBehaviour::RequireCredentials(expected)
                if header(&request, PROXY_AUTHORIZATION) != Some(expected) =>
            {
                let challenge = "proxy-authenticate: Basic realm=\"proxy\"\r\n";
                return respond(&mut client, "407 Proxy Authentication Required", challenge).await;
            }
            ProxyBehaviour::RequireCredentials(_)
            | ProxyBehaviour::StallMethods(_)
            | ProxyBehaviour::Forward => {}
        }
        let target = request.split_whitespace().nth(1).unwrap_or_default();
        if request.starts_with("CONNECT ") {
            let Some(mut site) = self.connect(target).await else {
                return respond(&mut client, "502 Bad Gateway", "").await;
            };
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
            return copy_bidirectional(&mut client, &mut site).await.map(drop);
        }
        let Some((host, path)) = target.strip_prefix("http://").and_then(|rest| rest.split_once('/')) else {
            return respond(&mut client, "400 Bad Request", "").await;
        };
        let host_and_port = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        let Some(mut site) = self.connect(&host_and_port).await else {
            return respond(&mut client, "502 Bad Gateway", "").await;
        };
        // A proxy forwards a path, and keeps its own credentials to itself.
        let forwarded = request.replacen(target, &format!("/{path}"), 1);
        let own = |line: &&str| !line.to_ascii_lowercase().starts_with(PROXY_AUTHORIZATION);
        let forwarded: String = forwarded.split_inclusive("\r\n").filter(own).collect();
        site.write_all(forwarded.as_bytes()).await?;
        copy_bidirectional(&mut client, &mut site).await.map(drop)
    }

    async fn connect(&self, host_and_port: &str) -> Option<TcpStream> {
        let address = match self.names.get(host_and_port) {
            Some(address) => *address,
            None => host_and_port.parse().ok()?,
        };
        TcpStream::connect(address).await.ok()
    }
}

const PROXY_AUTHORIZATION: &str = "proxy-authorization";

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = request.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

async fn respond(client: &mut TcpStream, status: &str, headers: &str) -> std::io::Result<()> {
    let response = format!("HTTP/1.1 {status}\r\n{headers}content-length: 0\r\nconnection: close\r\n\r\n");
    client.write_all(response.as_bytes()).await
}
