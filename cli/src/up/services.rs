//! Coordinator, sink and probers in this process, each with connections of its own, as in separate
//! processes.

use std::time::Duration;

use futures_util::future::{join_all, select_all};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use picket_proto::Role;
use picket_runtime::{
    Bus, ErrorChain, Health, PipelineHandle, options::NatsOptions, process, streams::StreamLimits,
};
use picket_store::{DatabaseOptions, Store};

use super::UpOptions;
use crate::{connect, error::Error, output::print_line};

/// Time for running checks to finish during a stop. Remaining jobs are redelivered.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// Time for a connection to flush its buffer before it closes.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The running services.
#[derive(Default)]
pub(super) struct Services {
    coordinator: Option<ServiceHandle>,
    probers: Vec<ServiceHandle>,
    sink: Option<ServiceHandle>,
}

struct ServiceHandle {
    pipeline: PipelineHandle,
    bus: Bus,
}

/// Starts the services that `options` select, consumers of results before producers. Services
/// started before an error are in `parts`.
pub(super) async fn start_services(
    options: &UpOptions,
    nats: &NatsOptions,
    database: &DatabaseOptions,
    parts: &mut Services,
) -> Result<(), Error> {
    if !options.no_sink {
        let health = Health::new();
        let bus = connect::connect_bus(nats, &Role::Sink, "picket-sink", &health).await?;
        let store = Store::new(database, "picket-sink", 4)?;
        let config = picket_sink::Config::default();
        let running = picket_sink::start(config, &bus, &store, &health).await.map_err(start_error)?;
        parts.sink = Some(ServiceHandle { pipeline: running, bus });
    }
    if !options.no_coordinator {
        let health = Health::new();
        let watched = health.clone();
        let bus = connect::connect_bus(nats, &Role::Coordinator, "picket-coordinator", &health).await?;
        let store = Store::new(database, "picket-coordinator", 6)?;
        let config = picket_coordinator::Config {
            name: process::unique_name(),
            max_jobs_bytes: StreamLimits::default().max_jobs_bytes,
        };
        let running =
            picket_coordinator::start(config, bus.clone(), store, health).await.map_err(start_error)?;
        parts.coordinator = Some(ServiceHandle { pipeline: running, bus });
        wait_for_streams(&watched).await;
    }
    if !options.no_probers {
        for region in &options.regions {
            let health = Health::new();
            let (role, name) = (Role::Prober(region.clone()), format!("picket-prober {region}"));
            let bus = connect::connect_bus(nats, &role, &name, &health).await?;
            let mut config = picket_prober::Config::new(region.clone());
            config.concurrency = usize::try_from(options.concurrency).unwrap_or(usize::MAX);
            config.limits.allowed_networks = allowed_networks(&options.allow_addresses);
            config.limits.ca_file.clone_from(&options.ca_file);
            config.behaviour.clone_from(&options.behaviour);
            config.drain_timeout = DRAIN_TIMEOUT;
            let running = picket_prober::start(config, bus.clone(), health).await.map_err(start_error)?;
            parts.probers.push(ServiceHandle { pipeline: running, bus });
        }
    }
    Ok(())
}

/// Waits until the coordinator has created the streams, so that probers do not log their absence.
async fn wait_for_streams(health: &Health) {
    const STREAMS_TIMEOUT: Duration = Duration::from_secs(5);
    let made = async {
        while health.unready_checks().iter().any(|(name, _)| *name == "streams") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // Probers wait for the streams themselves, so the timeout is not an error.
    let _ = tokio::time::timeout(STREAMS_TIMEOUT, made).await;
}

fn start_error(error: impl std::error::Error + 'static) -> Error {
    Error::Failed(ErrorChain(&error).to_string())
}

/// The networks allowed by the operator, and loopback. The bus of `up` listens on loopback only, so
/// no other host can request checks.
fn allowed_networks(by_option: &[IpNet]) -> Vec<IpNet> {
    let loopback = [
        IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8)),
        IpNet::V6(Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128)),
    ];
    by_option.iter().copied().chain(loopback).collect()
}

impl Services {
    /// Waits until a service has failed permanently, and returns its name.
    pub(super) async fn wait_for_failure(&mut self) -> String {
        let all = self.coordinator.iter_mut().chain(&mut self.probers).chain(&mut self.sink);
        let endings: Vec<_> = all
            .map(|part| {
                let name = part.pipeline.name().to_owned();
                Box::pin(async move {
                    part.pipeline.wait_ended().await;
                    name
                })
            })
            .collect();
        match endings.is_empty() {
            true => std::future::pending().await,
            false => select_all(endings).await.0,
        }
    }

    /// Stops the services in order: coordinator and probers first, then the sink, when no more
    /// results arrive.
    pub(super) async fn drain_in_order(self) {
        let Self { coordinator, probers, sink } = self;
        join_all(coordinator.into_iter().chain(probers).map(ServiceHandle::drain)).await;
        if let Some(sink) = sink {
            sink.drain().await;
        }
    }
}

impl ServiceHandle {
    async fn drain(self) {
        let name = self.pipeline.name().to_owned();
        self.pipeline.drain().await;
        self.bus.flush_and_close(CLOSE_TIMEOUT).await;
        print_line(format_args!("  {name} stopped"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_allowed_beside_what_the_operator_allows() {
        let nets = allowed_networks(&["10.0.0.0/8".parse().unwrap()]);
        let permits = |address: &str| {
            nets.iter().any(|net| net.contains(&address.parse::<std::net::IpAddr>().unwrap()))
        };

        assert!(["127.0.0.1", "127.9.9.9", "::1", "10.1.2.3"].into_iter().all(permits));
        assert!(!permits("192.168.0.1"));
    }
}
