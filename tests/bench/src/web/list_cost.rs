//! CPU time of the list of the API beside its statement and serialization alone.

use picket_harness::{percentiles::Samples, proc};
use picket_store::{
    DatabaseOptions, Store,
    site_list::{Direction, SiteFilter, SiteSort, list_sites_page},
};
use serde::Serialize;

use super::requests::WebServer;
use crate::{Error, testbed::with_context};

/// CPU time of a list of 100 sites in milliseconds, the median of the turns.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct ListCost {
    pub(super) api_ms: f64,
    pub(super) api_postgres_ms: f64,
    pub(super) alone_ms: f64,
    pub(super) alone_postgres_ms: f64,
}

impl ListCost {
    /// Cost of the API relative to the statement and serialization alone, Postgres included.
    pub(super) fn ratio(&self) -> f64 {
        (self.api_ms + self.api_postgres_ms) / (self.alone_ms + self.alone_postgres_ms)
    }
}

/// Measures in turns.
pub(super) async fn measure_list_cost(server: &WebServer, smoke: bool) -> Result<ListCost, Error> {
    let (turns, requests) = if smoke { (1, 5) } else { (5, 300) };
    let options = DatabaseOptions { database_url: Some(server.bed.postgres.url()) };
    let store = Store::new(&options, "bench", 2).map_err(with_context("store"))?;
    let postgres = server.bed.postgres.pid();
    let mut samples: [Vec<f64>; 4] = Default::default();
    for turn in 0..=turns {
        let before = [proc::cpu_seconds(server.api.pid()), proc::cpu_seconds(postgres)];
        for _ in 0..requests {
            server.request("/api/v1/sites?limit=100").await?;
        }
        let between = [proc::cpu_seconds(server.api.pid()), proc::cpu_seconds(postgres)];
        let own = proc::own_cpu_seconds();
        for _ in 0..requests {
            list_and_serialize(&store).await?;
        }
        let alone = [proc::own_cpu_seconds() - own, proc::cpu_seconds(postgres) - between[1]];
        // The first turn also opens connections.
        if turn > 0 {
            let api = [between[0] - before[0], between[1] - before[1]];
            for (samples, seconds) in samples.iter_mut().zip(api.into_iter().chain(alone)) {
                samples.push(seconds * 1e3 / f64::from(requests));
            }
        }
    }
    store.close().await;
    let median = |samples: Vec<f64>| Samples::new(samples).quantile(0.5).unwrap_or(f64::NAN);
    let [api_ms, api_postgres_ms, alone_ms, alone_postgres_ms] = samples.map(median);
    Ok(ListCost { api_ms, api_postgres_ms, alone_ms, alone_postgres_ms })
}

async fn list_and_serialize(store: &Store) -> Result<usize, Error> {
    let all = SiteFilter::default();
    let page = list_sites_page(store, &all, SiteSort::Created, Direction::Ascending, None, 100).await;
    let page = page.map_err(with_context("list"))?;
    Ok(serde_json::to_vec(&page).map_err(with_context("serialize"))?.len())
}
