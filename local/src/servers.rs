//! The local nats-server and Postgres of `up`. External servers are used instead where variables
//! name them.

use std::{collections::VecDeque, future::pending, time::Duration};

use picket_runtime::{
    Backoff, ErrorChain,
    console::{print_error, print_line},
};
use picket_servers::{DataDir, Nats, NatsConfig, Postgres, PostgresConfig, Tools};
use tokio::time::Instant;

use crate::{config::Config, error::Error};

/// Time for a server to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) struct Servers {
    tools: Tools,
    data: DataDir,
    nats: ServerSource<Nats, NatsConfig>,
    postgres: ServerSource<Postgres, PostgresConfig>,
    recent_exits: VecDeque<Instant>,
}

/// Source of a server.
enum ServerSource<S, C> {
    /// An external server at this URL.
    External(String),
    /// A server started here; `None` while it is not running.
    Managed { config: C, server: Option<S> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerKind {
    Nats,
    Postgres,
}

/// The unexpected end of a server.
pub(crate) struct ServerExit {
    kind: ServerKind,
    error: picket_servers::Error,
}

impl Servers {
    /// Maximum number of exits within [`EXIT_WINDOW`](Self::EXIT_WINDOW); with more, restarts
    /// cannot help.
    const MAX_EXITS: usize = 5;
    /// Window for counting exits.
    const EXIT_WINDOW: Duration = Duration::from_secs(120);

    pub(crate) fn new(
        config: &Config,
        data: &DataDir,
        nats_url: Option<String>,
        database_url: Option<String>,
    ) -> Self {
        let nats = NatsConfig { port: config.nats_port, ..NatsConfig::default() };
        let postgres = PostgresConfig { port: config.pg_port, ..PostgresConfig::default() };
        Self {
            tools: Tools::in_dir(Some(&config.tools_dir)),
            data: data.clone(),
            nats: ServerSource::new(nats_url, nats),
            postgres: ServerSource::new(database_url, postgres),
            recent_exits: VecDeque::new(),
        }
    }

    /// Starts the managed servers, both at once.
    pub(crate) async fn start(&mut self) -> Result<(), Error> {
        let Self { tools, data, nats, postgres, .. } = self;
        let nats = async {
            if let ServerSource::Managed { config, server: server @ None } = nats {
                *server = Some(Nats::start(tools, data, config.clone()).await?);
            }
            Ok(())
        };
        let postgres = async {
            if let ServerSource::Managed { config, server: server @ None } = postgres {
                *server = Some(Postgres::start(tools, data, config.clone()).await?);
            }
            Ok(())
        };
        // Not `try_join!`: it would drop the other server in the middle of its start.
        let (nats, postgres): (Result<(), picket_servers::Error>, Result<(), picket_servers::Error>) =
            tokio::join!(nats, postgres);
        Ok(nats.and(postgres)?)
    }

    pub(crate) fn nats_url(&self) -> String {
        match &self.nats {
            ServerSource::External(url) => url.clone(),
            ServerSource::Managed { config, .. } => format!("nats://127.0.0.1:{}", config.port),
        }
    }

    /// URL of the database, including the password.
    pub(crate) fn database_url(&self) -> String {
        match &self.postgres {
            ServerSource::External(url) => url.clone(),
            ServerSource::Managed { server: Some(server), .. } => server.url(),
            ServerSource::Managed { config, .. } => {
                format!("postgres://picket@127.0.0.1:{}/picket", config.port)
            }
        }
    }

    /// Returns true if this server is started here.
    pub(crate) fn is_managed(&self, which: ServerKind) -> bool {
        match which {
            ServerKind::Nats => matches!(self.nats, ServerSource::Managed { .. }),
            ServerKind::Postgres => matches!(self.postgres, ServerSource::Managed { .. }),
        }
    }

    /// Waits until a managed server ends by itself.
    pub(crate) async fn wait_for_exit(&mut self) -> ServerExit {
        let Self { nats, postgres, .. } = self;
        let nats = async {
            match nats {
                ServerSource::Managed { server: Some(server), .. } => server.wait_exited().await,
                _ => pending().await,
            }
        };
        let postgres = async {
            match postgres {
                ServerSource::Managed { server: Some(server), .. } => server.wait_exited().await,
                _ => pending().await,
            }
        };
        tokio::select! {
            error = nats => ServerExit { kind: ServerKind::Nats, error },
            error = postgres => ServerExit { kind: ServerKind::Postgres, error },
        }
    }

    /// Restarts a server that ended, with backoff. Gives up after too many exits.
    pub(crate) async fn restart_server(&mut self, died: ServerExit) -> Result<(), Error> {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(15));
        let mut why = Error::from(died.error);
        match died.kind {
            ServerKind::Nats => self.nats.drop_server(),
            ServerKind::Postgres => self.postgres.drop_server(),
        }
        loop {
            print_error(&why);
            let now = Instant::now();
            // Only exits within the window count, so rare exits never add up.
            self.recent_exits.retain(|death| now.duration_since(*death) < Self::EXIT_WINDOW);
            self.recent_exits.push_back(now);
            if self.recent_exits.len() > Self::MAX_EXITS {
                return Err(Error::Failed(format!(
                    "a server ended {} times within {} s, giving up",
                    self.recent_exits.len(),
                    Self::EXIT_WINDOW.as_secs()
                )));
            }
            let delay = backoff.next_delay();
            print_error(format_args!(
                "restarting it in {:.1} s; the services wait for it",
                delay.as_secs_f64()
            ));
            tokio::time::sleep(delay).await;
            match self.start().await {
                Ok(()) => {
                    print_line("the server is running again");
                    return Ok(());
                }
                Err(error) => why = error,
            }
        }
    }

    /// Stops the managed servers in order: NATS, then Postgres.
    pub(crate) async fn stop(&mut self) {
        if let Some(nats) = self.nats.take_server() {
            report_stop("NATS", nats.stop(STOP_TIMEOUT).await);
        }
        if let Some(postgres) = self.postgres.take_server() {
            report_stop("Postgres", postgres.stop(STOP_TIMEOUT).await);
        }
    }

    /// Stops the managed servers at once.
    pub(crate) async fn kill(&mut self) {
        if let Some(nats) = self.nats.take_server() {
            let _ = nats.kill().await;
        }
        if let Some(postgres) = self.postgres.take_server() {
            // Not SIGKILL, which would orphan the children of the postmaster.
            let _ = postgres.stop(Duration::ZERO).await;
        }
    }
}

fn report_stop(name: &str, stopped: Result<(), picket_servers::Error>) {
    match stopped {
        Ok(()) => print_line(format_args!("  {name} stopped")),
        Err(error) => print_error(ErrorChain(&error)),
    }
}

impl<S, C> ServerSource<S, C> {
    fn new(external_url: Option<String>, config: C) -> Self {
        match external_url {
            Some(url) => Self::External(url),
            None => Self::Managed { config, server: None },
        }
    }

    fn take_server(&mut self) -> Option<S> {
        match self {
            Self::Managed { server, .. } => server.take(),
            Self::External(_) => None,
        }
    }

    fn drop_server(&mut self) {
        drop(self.take_server());
    }
}
