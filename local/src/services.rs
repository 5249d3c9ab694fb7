//! Coordinator, sink, probers, notifier and API in this process, each with connections of its own, as in separate
//! processes.

use std::time::Duration;

use futures_util::future::{join_all, select_all};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use picket_proto::Role;
use picket_runtime::{
    Bus, ErrorChain, Health, PipelineHandle, connect, console::print_line, options::NatsOptions,
};
use picket_store::{DatabaseOptions, Store};

use crate::{config::Config, error::Error};

/// Time for running checks to finish during a stop. Remaining jobs are redelivered.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);
/// Time for a connection to flush its buffer before it closes.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The running services.
#[derive(Default)]
pub(crate) struct Services {
    coordinator: Option<ServiceHandle>,
    probers: Vec<ServiceHandle>,
    sink: Option<ServiceHandle>,
    notifier: Option<ServiceHandle>,
    api: Option<ServiceHandle>,
    /// Where people reach the API, if it runs.
    pub(crate) web: Option<WebAddress>,
}

/// Where people reach the API and the web UI.
#[derive(Clone)]
pub(crate) struct WebAddress {
    /// URL without a slash at its end.
    pub(crate) url: String,
    /// True if it may be open to all users of this machine while there is no token.
    pub(crate) may_be_open: bool,
}

struct ServiceHandle {
    pipeline: PipelineHandle,
    bus: Bus,
}

/// Starts the services of `config`, consumers of results before producers. Services
/// started before an error are in `parts`.
pub(crate) async fn start_services(
    config: &Config,
    nats: &NatsOptions,
    database: &DatabaseOptions,
    parts: &mut Services,
) -> Result<(), Error> {
    if let Some(sink) = config.sink {
        let health = Health::new();
        let bus = connect::connect_bus(nats, &Role::Sink, "picket-sink", &health).await?;
        let store = Store::new(database, "picket-sink", picket_sink::DATABASE_CONNECTIONS)?;
        let pipeline = picket_sink::start(sink, bus.clone(), store, health).await.map_err(start_error)?;
        parts.sink = Some(ServiceHandle { pipeline, bus });
    }
    if let Some(coordinator) = config.coordinator.clone() {
        let health = Health::new();
        let watched = health.clone();
        let bus = connect::connect_bus(nats, &Role::Coordinator, "picket-coordinator", &health).await?;
        let store = Store::new(database, "picket-coordinator", picket_coordinator::DATABASE_CONNECTIONS)?;
        let pipeline =
            picket_coordinator::start(coordinator, bus.clone(), store, health).await.map_err(start_error)?;
        parts.coordinator = Some(ServiceHandle { pipeline, bus });
        wait_for_streams(&watched).await;
    }
    for prober in &config.probers {
        let mut prober = prober.clone();
        prober.limits.allowed_networks = with_loopback(&prober.limits.allowed_networks);
        prober.drain_timeout = DRAIN_TIMEOUT;
        let health = Health::new();
        let (role, name) = (Role::Prober(prober.region.clone()), format!("picket-prober {}", prober.region));
        let bus = connect::connect_bus(nats, &role, &name, &health).await?;
        let pipeline = picket_prober::start(prober, bus.clone(), health).await.map_err(start_error)?;
        parts.probers.push(ServiceHandle { pipeline, bus });
    }
    if let Some(api) = config.api.clone() {
        let health = Health::new();
        let bus = connect::connect_bus(nats, &Role::Api, "picket-api", &health).await?;
        let store = Store::new(database, "picket-api", picket_api::DATABASE_CONNECTIONS)?;
        let api = picket_api::Config { drain_timeout: DRAIN_TIMEOUT, ..api };
        let running = picket_api::start(api, bus.clone(), store, health).await.map_err(start_error)?;
        parts.api = Some(ServiceHandle { pipeline: running.pipeline, bus });
        parts.web = Some(WebAddress { url: running.url, may_be_open: running.may_be_open });
    }
    if let Some(mut notifier) = config.notifier.clone() {
        let allowed = &mut notifier.delivery.notify_allow_addresses;
        *allowed = with_loopback(allowed);
        notifier.drain_timeout = DRAIN_TIMEOUT;
        notifier.default_public_url = parts.web.as_ref().map(|web| web.url.clone());
        let health = Health::new();
        let bus = connect::connect_bus(nats, &Role::Notifier, "picket-notifier", &health).await?;
        let store = Store::new(database, "picket-notifier", picket_notifier::DATABASE_CONNECTIONS)?;
        let pipeline =
            picket_notifier::start(notifier, bus.clone(), store, health).await.map_err(start_error)?;
        parts.notifier = Some(ServiceHandle { pipeline, bus });
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
fn with_loopback(by_option: &[IpNet]) -> Vec<IpNet> {
    let loopback = [
        IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8)),
        IpNet::V6(Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128)),
    ];
    by_option.iter().copied().chain(loopback).collect()
}

impl Services {
    /// Waits until a service has failed permanently, and returns its name.
    pub(crate) async fn wait_for_failure(&mut self) -> String {
        let producers = self.coordinator.iter_mut().chain(&mut self.probers);
        let all = producers.chain(&mut self.sink).chain(&mut self.notifier).chain(&mut self.api);
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

    /// Stops the services in order: the sink last, when no more results arrive.
    pub(crate) async fn drain_in_order(self) {
        let Self { coordinator, probers, sink, notifier, api, .. } = self;
        let first = coordinator.into_iter().chain(probers).chain(notifier).chain(api);
        join_all(first.map(ServiceHandle::drain)).await;
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
        let nets = with_loopback(&["10.0.0.0/8".parse().unwrap()]);
        let permits = |address: &str| {
            nets.iter().any(|net| net.contains(&address.parse::<std::net::IpAddr>().unwrap()))
        };

        assert!(["127.0.0.1", "127.9.9.9", "::1", "10.1.2.3"].into_iter().all(permits));
        assert!(!permits("192.168.0.1"));
    }
}
