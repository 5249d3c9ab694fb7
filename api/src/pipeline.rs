//! The parts of an API process, built together.

use std::sync::Arc;

use picket_runtime::{Pipeline, spawn_task};
use ractor::{ActorCell, SpawnErr};
use tokio::net::TcpListener;

use crate::{router::build_router, server::Server, state::Api};

pub(crate) struct ApiPipeline {
    api: Api,
    listener: Arc<TcpListener>,
}

impl ApiPipeline {
    pub(crate) fn new(api: Api, listener: TcpListener) -> Self {
        Self { api, listener: Arc::new(listener) }
    }
}

impl Pipeline for ApiPipeline {
    type Actors = Server;

    async fn spawn_actors(&self, supervisor: ActorCell) -> Result<Server, SpawnErr> {
        let follower = self.api.settings.clone().follow_database(self.api.store.clone());
        spawn_task("settings_follower", follower, supervisor.clone()).await?;
        let sites = self.api.config.site_metrics;
        if sites > 0 {
            let follower = self.api.site_metrics.clone().follow_sites(self.api.store.clone(), sites);
            spawn_task("site_metrics", follower, supervisor.clone()).await?;
        }
        let api = self.api.clone();
        let sweeper = async move { api.limits.sweep_regularly().await };
        spawn_task("limits_sweeper", sweeper, supervisor.clone()).await?;
        let api = self.api.clone();
        let learner = async move { api.authenticator.learn_regularly().await };
        spawn_task("credential_learner", learner, supervisor.clone()).await?;
        let router = build_router(&self.api);
        let (metrics, stopping) = (self.api.metrics.clone(), self.api.stopping.clone());
        let max_connections = self.api.config.max_connections;
        let server = Server::new(self.listener.clone(), router, max_connections, metrics, stopping);
        spawn_task("server", server.clone().serve(), supervisor).await?;
        Ok(server)
    }

    async fn drain(&self, server: Server) {
        server.drain().await;
    }
}
