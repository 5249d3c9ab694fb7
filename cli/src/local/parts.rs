//! Coordinator, sink and probers inside this process; each with a connection of its own, as if it were alone.

use std::time::Duration;

use futures_util::future::{join_all, select_all};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use picket_proto::Role;
use picket_runtime::{Bus, Chain, Health, Running, options::NatsOptions, process, streams::Durability};
use picket_store::{DatabaseOptions, Store};

use super::UpOptions;
use crate::{error::Error, output::say, reach};

/// How long checks under way may take to finish when all is stopped; what is left comes again.
const FINISH_CHECKS: Duration = Duration::from_secs(15);
/// How long a connection may take to write out what is left.
const CLOSE: Duration = Duration::from_secs(5);

/// What runs here.
#[derive(Default)]
pub(super) struct Parts {
    coordinator: Option<Part>,
    probers: Vec<Part>,
    sink: Option<Part>,
}

struct Part {
    running: Running,
    bus: Bus,
}

/// Starts what `options` ask for: who takes results before who makes them. What was started is in `parts` also when another
/// part cannot be.
pub(super) async fn start(
    options: &UpOptions,
    nats: &NatsOptions,
    database: &DatabaseOptions,
    parts: &mut Parts,
) -> Result<(), Error> {
    if !options.no_sink {
        let health = Health::new();
        let bus = reach::bus(nats, &Role::Sink, "picket-sink", &health).await?;
        let store = Store::new(database, "picket-sink", 4)?;
        let config = picket_sink::Config {
            retention: Duration::from_secs(86_400 * u64::from(options.retention.retention_days)),
            ..picket_sink::Config::default()
        };
        let running = picket_sink::start(config, &bus, &store, &health).await.map_err(failed)?;
        parts.sink = Some(Part { running, bus });
    }
    if !options.no_coordinator {
        let health = Health::new();
        let watched = health.clone();
        let bus = reach::bus(nats, &Role::Coordinator, "picket-coordinator", &health).await?;
        let store = Store::new(database, "picket-coordinator", 6)?;
        let config = picket_coordinator::Config {
            name: process::unique_name(),
            lease_time: options.lease_time.0,
            intervals: options.intervals.range()?,
            durability: Durability::default(),
            ledger_grace: options.ledger_grace.0,
            gather: options.gather.0,
            retention: options.retention.days(),
        };
        let running = picket_coordinator::start(config, bus.clone(), store, health).await.map_err(failed)?;
        parts.coordinator = Some(Part { running, bus });
        provided(&watched).await;
    }
    if !options.no_probers {
        for region in &options.regions {
            let health = Health::new();
            let (role, name) = (Role::Prober(region.clone()), format!("picket-prober {region}"));
            let bus = reach::bus(nats, &role, &name, &health).await?;
            let mut config = picket_prober::Config::new(region.clone());
            config.concurrency = usize::try_from(options.concurrency).unwrap_or(usize::MAX);
            config.limits.allow = allowed(&options.allow_addresses);
            config.limits.ca_file.clone_from(&options.ca_file);
            config.manners.clone_from(&options.manners);
            config.drain_timeout = FINISH_CHECKS;
            let running = picket_prober::start(config, bus.clone(), health).await.map_err(failed)?;
            parts.probers.push(Part { running, bus });
        }
    }
    Ok(())
}

/// Waits until the coordinator has made the streams, so that probers do not complain of their absence.
async fn provided(health: &Health) {
    const LIMIT: Duration = Duration::from_secs(5);
    let made = async {
        while health.missing().iter().any(|(name, _)| *name == "streams") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // Longer than this is no reason not to begin; they wait for themselves.
    let _ = tokio::time::timeout(LIMIT, made).await;
}

fn failed(error: impl std::error::Error + 'static) -> Error {
    Error::Failed(Chain(&error).to_string())
}

/// What the operator allows, and loopback: the bus of `up` listens there only, so nobody else can ask.
fn allowed(by_option: &[IpNet]) -> Vec<IpNet> {
    let loopback = [
        IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8)),
        IpNet::V6(Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128)),
    ];
    by_option.iter().copied().chain(loopback).collect()
}

impl Parts {
    /// Waits until one of them has failed for good, and says which.
    pub(super) async fn ended(&mut self) -> String {
        let all = self.coordinator.iter_mut().chain(&mut self.probers).chain(&mut self.sink);
        let endings: Vec<_> = all
            .map(|part| {
                let name = part.running.name().to_owned();
                Box::pin(async move {
                    part.running.ended().await;
                    name
                })
            })
            .collect();
        match endings.is_empty() {
            true => std::future::pending().await,
            false => select_all(endings).await.0,
        }
    }

    /// Ends them in order: who asks and who checks, and then, when no more results come, the sink.
    pub(super) async fn drain(self) {
        let Self { coordinator, probers, sink } = self;
        join_all(coordinator.into_iter().chain(probers).map(Part::drain)).await;
        if let Some(sink) = sink {
            sink.drain().await;
        }
    }
}

impl Part {
    async fn drain(self) {
        let name = self.running.name().to_owned();
        self.running.drain().await;
        self.bus.close(CLOSE).await;
        say(format_args!("  {name} stopped"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_allowed_beside_what_the_operator_allows() {
        let nets = allowed(&["10.0.0.0/8".parse().unwrap()]);
        let permits = |address: &str| {
            nets.iter().any(|net| net.contains(&address.parse::<std::net::IpAddr>().unwrap()))
        };

        assert!(["127.0.0.1", "127.9.9.9", "::1", "10.1.2.3"].into_iter().all(permits));
        assert!(!permits("192.168.0.1"));
    }
}
