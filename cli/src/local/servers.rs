//! The nats-server and the Postgres that `up` runs, unless others run them for us.

use std::{collections::VecDeque, future::pending, time::Duration};

use picket_runtime::{Backoff, Chain};
use picket_servers::{DataDir, Nats, NatsConfig, Postgres, PostgresConfig, Tools};
use tokio::time::Instant;

use super::UpOptions;
use crate::{
    error::Error,
    output::{complain, say},
};

/// How long a server may take to stop.
const STOP: Duration = Duration::from_secs(20);

pub(super) struct Servers {
    tools: Tools,
    data: DataDir,
    nats: Place<Nats, NatsConfig>,
    postgres: Place<Postgres, PostgresConfig>,
    deaths: VecDeque<Instant>,
}

/// Where a server is.
enum Place<S, C> {
    /// Somebody else's, at this URL.
    There(String),
    /// Ours; absent while it does not run.
    Here { config: C, server: Option<S> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Nats,
    Postgres,
}

/// A server that ended by itself.
pub(super) struct Died {
    which: Which,
    why: picket_servers::Error,
}

impl Servers {
    /// More deaths than this within [`SPELL`](Self::SPELL) are not mended by another start.
    const DEATHS: usize = 5;
    const SPELL: Duration = Duration::from_secs(120);

    pub(super) fn new(
        options: &UpOptions,
        data: &DataDir,
        nats_url: Option<String>,
        database_url: Option<String>,
    ) -> Self {
        let nats = NatsConfig { port: options.nats_port, ..NatsConfig::default() };
        let postgres = PostgresConfig { port: options.pg_port, ..PostgresConfig::default() };
        Self {
            tools: Tools::find(Some(&options.tools_dir)),
            data: data.clone(),
            nats: Place::new(nats_url, nats),
            postgres: Place::new(database_url, postgres),
            deaths: VecDeque::new(),
        }
    }

    /// Starts those that are ours, both at once.
    pub(super) async fn start(&mut self) -> Result<(), Error> {
        let Self { tools, data, nats, postgres, .. } = self;
        let nats = async {
            if let Place::Here { config, server: server @ None } = nats {
                *server = Some(Nats::start(tools, data, config.clone()).await?);
            }
            Ok(())
        };
        let postgres = async {
            if let Place::Here { config, server: server @ None } = postgres {
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
            Place::There(url) => url.clone(),
            Place::Here { config, .. } => format!("nats://127.0.0.1:{}", config.port),
        }
    }

    /// With the password in it.
    pub(super) fn database_url(&self) -> String {
        match &self.postgres {
            Place::There(url) => url.clone(),
            Place::Here { server: Some(server), .. } => server.url(),
            Place::Here { config, .. } => format!("postgres://picket@127.0.0.1:{}/picket", config.port),
        }
    }

    /// Whether this server is run here.
    pub(super) fn is_here(&self, which: Which) -> bool {
        match which {
            Which::Nats => matches!(self.nats, Place::Here { .. }),
            Which::Postgres => matches!(self.postgres, Place::Here { .. }),
        }
    }

    /// Waits for one of ours to end by itself.
    pub(super) async fn died(&mut self) -> Died {
        let Self { nats, postgres, .. } = self;
        let nats = async {
            match nats {
                Place::Here { server: Some(server), .. } => server.exited().await,
                _ => pending().await,
            }
        };
        let postgres = async {
            match postgres {
                Place::Here { server: Some(server), .. } => server.exited().await,
                _ => pending().await,
            }
        };
        tokio::select! {
            why = nats => Died { which: Which::Nats, why },
            why = postgres => Died { which: Which::Postgres, why },
        }
    }

    /// Starts a server again that died; gives up when that happens again and again.
    pub(super) async fn revive(&mut self, died: Died) -> Result<(), Error> {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(15));
        let mut why = Error::from(died.why);
        match died.which {
            Which::Nats => self.nats.forget(),
            Which::Postgres => self.postgres.forget(),
        }
        loop {
            complain(&why);
            let now = Instant::now();
            self.deaths.retain(|death| now.duration_since(*death) < Self::SPELL);
            self.deaths.push_back(now);
            if self.deaths.len() > Self::DEATHS {
                return Err(Error::Failed(format!(
                    "a server ended {} times within {} s, giving up",
                    self.deaths.len(),
                    Self::SPELL.as_secs()
                )));
            }
            let wait = backoff.next_wait();
            complain(format_args!(
                "starting it again in {:.1} s; what runs here waits for it",
                wait.as_secs_f64()
            ));
            tokio::time::sleep(wait).await;
            match self.start().await {
                Ok(()) => {
                    say("it runs again");
                    return Ok(());
                }
                Err(error) => why = error,
            }
        }
    }

    /// Stops ours in order: NATS, then Postgres.
    pub(super) async fn stop(&mut self) {
        if let Some(nats) = self.nats.take() {
            tell("NATS", nats.stop(STOP).await);
        }
        if let Some(postgres) = self.postgres.take() {
            tell("Postgres", postgres.stop(STOP).await);
        }
    }

    /// Ends ours at once.
    pub(super) async fn kill(&mut self) {
        if let Some(nats) = self.nats.take() {
            let _ = nats.kill().await;
        }
        if let Some(postgres) = self.postgres.take() {
            // Not -9: that would leave its children to find out by themselves.
            let _ = postgres.stop(Duration::ZERO).await;
        }
    }
}

fn tell(name: &str, stopped: Result<(), picket_servers::Error>) {
    match stopped {
        Ok(()) => say(format_args!("  {name} stopped")),
        Err(error) => complain(Chain(&error)),
    }
}

impl<S, C> Place<S, C> {
    fn new(there: Option<String>, config: C) -> Self {
        match there {
            Some(url) => Self::There(url),
            None => Self::Here { config, server: None },
        }
    }

    fn take(&mut self) -> Option<S> {
        match self {
            Self::Here { server, .. } => server.take(),
            Self::There(_) => None,
        }
    }

    fn forget(&mut self) {
        drop(self.take());
    }
}
