//! Connections of a command, which reports a server that does not respond, where a service would
//! wait.

use std::time::Duration;

use picket_proto::Role;
use tokio::{net::TcpStream, time::timeout};

use crate::{Bus, Health, bus, options::NatsOptions};

/// Time for a server to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for a first attempt, enough for a server to admit the client. The reason for a refusal is
/// queried afterwards.
const FIRST_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);

/// Reasons for which a server cannot be used now.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus cannot be used.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// The server does not respond, or refuses the connection.
    #[error("{0}")]
    Unreachable(String),
}

/// Checks that the database accepts TCP connections, if it is reached over TCP.
///
/// # Errors
/// [`Error::Unreachable`] with the address and the reason.
pub async fn probe_database(url: &str) -> Result<(), Error> {
    let Some((host, port)) = parse_host_port(url, 5432) else { return Ok(()) };
    probe_tcp(&host, port).await.map_err(|why| {
        Error::Unreachable(format!(
            "could not reach Postgres at {host}:{port}: {why}; is 'picket up' running? set DATABASE_URL, or run: \
             set -a; . .picket/env"
        ))
    })
}

/// Connects to the bus, or fails soon. A process would wait for the bus, but an operator does not
/// want to.
///
/// # Errors
/// If no server accepts the connection, or the bus cannot be used.
pub async fn connect_bus(
    options: &NatsOptions,
    role: &Role,
    name: &str,
    health: &Health,
) -> Result<Bus, Error> {
    let hint = "is 'picket up' running? set NATS_URL, or run: set -a; . .picket/env";
    let mut refusals = Vec::new();
    // A plain TCP connection gives a clear error at once, where the NATS client would retry.
    let servers: Vec<_> = options.nats_url.split(',').map(str::trim).collect();
    for server in &servers {
        let Some((host, port)) = parse_host_port(server, 4222) else {
            continue;
        };
        if let Err(why) = probe_tcp(&host, port).await {
            refusals.push(format!("{host}:{port}: {why}"));
        }
    }
    if refusals.len() == servers.len() {
        let at = refusals.join(", ");
        return Err(Error::Unreachable(format!("could not reach NATS at {at}; {hint}")));
    }
    let bus = Bus::connect(options, role, name, health).await?;
    for limit in [FIRST_ATTEMPT_TIMEOUT, CONNECT_TIMEOUT] {
        if let Ok(connected) = timeout(limit, bus.wait_connected()).await {
            connected?;
            return Ok(bus);
        }
        if let Some(why) = bus.diagnose_connection().await {
            return Err(Error::Unreachable(format!("NATS refused the connection: {why}")));
        }
    }
    Err(Error::Unreachable("the connection to NATS is unstable; try again".to_owned()))
}

/// Host and port of a server's URL, if the server is reached over TCP. A bare `host:port` is
/// accepted.
pub fn parse_host_port(url: &str, default_port: u16) -> Option<(String, u16)> {
    let url = match url.contains("://") {
        true => url.to_owned(),
        false => format!("nats://{url}"),
    };
    let url = url::Url::parse(&url).ok()?;
    let host = url.host_str().filter(|host| !host.is_empty() && !host.contains('%'))?;
    // These parameters override the host of the URL, often with a socket directory.
    let by_parameter = url.query_pairs().any(|(name, _)| name == "host" || name == "hostaddr");
    (!by_parameter).then(|| {
        let host = host.trim_matches(['[', ']']).to_owned();
        (host, url.port().unwrap_or(default_port))
    })
}

async fn probe_tcp(host: &str, port: u16) -> Result<(), String> {
    match timeout(CONNECT_TIMEOUT, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(why)) => Err(match why.kind() {
            std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            _ => why.to_string(),
        }),
        Err(_) => Err(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_address_is_parsed_from_every_form_of_url() {
        let found = |url| parse_host_port(url, 5432).map(|(host, port)| format!("{host} {port}"));

        assert_eq!(found("postgres://me:p%40ss@db.example/picket").unwrap(), "db.example 5432");
        assert_eq!(found("postgres://me@[::1]:7777/picket").unwrap(), "::1 7777");
        assert_eq!(found("127.0.0.1:4222").unwrap(), "127.0.0.1 4222");
        assert_eq!(found("postgres:///picket?host=/run/postgresql"), None);
        assert_eq!(found("postgres://%2Frun%2Fpostgresql/picket"), None);
    }
}
