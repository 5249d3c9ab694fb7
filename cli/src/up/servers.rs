//! The nats-server and the Postgres that `up` runs, unless others run them for us.

use std::{collections::VecDeque, future::pending, time::Duration};

use picket_runtime::{Backoff, ErrorChain};
use picket_servers::{DataDir, Nats, NatsConfig, Postgres, PostgresConfig, Tools};
use tokio::time::Instant;

use super::UpOptions;
use crate::{
    error::Error,
    output::{print_error, print_line},
};

/// How long a server may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) struct Servers {
    tools: Tools,
    data: DataDir,
    nats: ServerSource<Nats, NatsConfig>,
    postgres: ServerSource<Postgres, PostgresConfig>,
    recent_exits: VecDeque<Instant>,
}

/// Where a server is.
enum ServerSource<S, C> {
    /// Somebody else's, at this URL.
    External(String),
    /// Ours; absent while it does not run.
    Managed { config: C, server: Option<S> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerKind {
    Nats,
    Postgres,
}

/// A server that ended by itself.
pub(super) struct ServerExit {
    kind: ServerKind,
    error: picket_servers::Error,
}

impl Servers {
    /// More deaths than this within [`SPELL`](Self::SPELL) are not mended by another start.
    const MAX_EXITS: usize = 5;
    const EXIT_WINDOW: Duration = Duration::from_secs(120);

    pub(super) fn new(
        options: &UpOptions,
        data: &DataDir,
        nats_url: Option<String>,
        database_url: Option<String>,
    ) -> Self {
        let nats = NatsConfig { port: options.nats_port, ..NatsConfig::default() };
        let postgres = PostgresConfig { port: options.pg_port, ..PostgresConfig::default() };
        Self {
            tools: Tools::in_dir(Some(&options.tools_dir)),
            data: data.clone(),
            nats: ServerSource::new(nats_url, nats),
            postgres: ServerSource::new(database_url, postgres),
            recent_exits: VecDeque::new(),
        }
    }

    /// Starts those that are ours, both at once.
    pub(super) async fn start(&mut self) -> Result<(), Error> {
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
        // Not `try_join!`: the one that is left would be dropped in the middle of its start.
        let (nats, postgres): (Result<(), picket_servers::Error>, Result<(), picket_servers::Error>) =
            tokio::join!(nats, postgres);
        Ok(nats.and(postgres)?)
    }

    pub(super) fn nats_url(&self) -> String {
        match &self.nats {
            ServerSource::External(url) => url.clone(),
            ServerSource::Managed { config, .. } => format!("nats://127.0.0.1:{}", config.port),
        }
    }

    /// With the password in it.
    pub(super) fn database_url(&self) -> String {
        match &self.postgres {
            ServerSource::External(url) => url.clone(),
            ServerSource::Managed { server: Some(server), .. } => server.url(),
            ServerSource::Managed { config, .. } => {
                format!("postgres://picket@127.0.0.1:{}/picket", config.port)
            }
        }
    }

    /// Whether this server is run here.
    pub(super) fn is_managed(&self, which: ServerKind) -> bool {
        match which {
            ServerKind::Nats => matches!(self.nats, ServerSource::Managed { .. }),
            ServerKind::Postgres => matches!(self.postgres, ServerSource::Managed { .. }),
        }
    }

    /// Waits for one of ours to end by itself.
    pub(super) async fn wait_for_exit(&mut self) -> ServerExit {
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

    /// Starts a server again that died; gives up when that happens again and again.
    pub(super) async fn restart_server(&mut self, died: ServerExit) -> Result<(), Error> {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(15));
        let mut why = Error::from(died.error);
        match died.kind {
            ServerKind::Nats => self.nats.drop_server(),
            ServerKind::Postgres => self.postgres.drop_server(),
        }
        loop {
            print_error(&why);
            let now = Instant::now();
            self.recent_exits.retain(|death| now.duration_since(*death) < Self::EXIT_WINDOW);
            self.recent_exits.push_back(now);
            if self.recent_exits.len() > Self::MAX_EXITS {
                return Err(Error::Failed(format!(
                    "a server ended {} times within {} s, giving up",
                    self.recent_exits.len(),
                    Self::EXIT_WINDOW.as_secs()
                )));
            }
            let wait = backoff.next_delay();
            print_error(format_args!(
                "starting it again in {:.1} s; what runs here waits for it",
                wait.as_secs_f64()
            ));
            tokio::time::sleep(wait).await;
            match self.start().await {
                Ok(()) => {
                    print_line("it runs again");
                    return Ok(());
                }
                Err(error) => why = error,
            }
        }
    }

    /// Stops ours in order: NATS, then Postgres.
    pub(super) async fn stop(&mut self) {
        if let Some(nats) = self.nats.take_server() {
            report_stop("NATS", nats.stop(STOP_TIMEOUT).await);
        }
        if let Some(postgres) = self.postgres.take_server() {
            report_stop("Postgres", postgres.stop(STOP_TIMEOUT).await);
        }
    }

    /// Ends ours at once.
    pub(super) async fn kill(&mut self) {
        if let Some(nats) = self.nats.take_server() {
            let _ = nats.kill().await;
        }
        if let Some(postgres) = self.postgres.take_server() {
            // Not -9: that would leave its children to find out by themselves.
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
    fn new(there: Option<String>, config: C) -> Self {
        match there {
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
