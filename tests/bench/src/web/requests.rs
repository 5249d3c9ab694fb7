//! Requests to two API processes in turns, and their times.

use std::net::SocketAddr;

use picket_harness::{
    percentiles::Samples,
    process::{self, Process},
};
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    Error, log_progress,
    testbed::{Testbed, with_context},
};

/// Requests: name, and path, in which `{site}` is the id of a site with history. A list of which the small database has
/// but few rows asks for so many, so that both return as much.
pub(super) const REQUESTS: [(&str, &str); 34] = [
    ("overview", "/"),
    ("page of sites", "/sites"),
    ("page of sites, search", "/sites?q=shop"),
    ("page of a site", "/sites/{site}"),
    ("page of a site, 30 days", "/sites/{site}?span=30d"),
    ("page of incidents", "/incidents"),
    ("page of warnings", "/warnings"),
    ("list by creation", "/api/v1/sites?limit=100"),
    ("list by name", "/api/v1/sites?limit=100&sort=name"),
    ("list by state", "/api/v1/sites?limit=100&sort=state"),
    ("list by state since", "/api/v1/sites?limit=100&sort=-state_since"),
    ("list by uptime 24 h", "/api/v1/sites?limit=100&sort=uptime_24h"),
    ("list by uptime 7 d", "/api/v1/sites?limit=100&sort=uptime_7d"),
    ("list by uptime 30 d", "/api/v1/sites?limit=100&sort=uptime_30d"),
    ("list by uptime 90 d", "/api/v1/sites?limit=100&sort=uptime_90d"),
    ("list by coverage", "/api/v1/sites?limit=100&sort=coverage"),
    ("list by p50", "/api/v1/sites?limit=100&sort=-p50"),
    ("list by p95", "/api/v1/sites?limit=100&sort=-p95"),
    ("search of a word in a fifth of all", "/api/v1/sites?limit=100&q=shop"),
    ("search of two words", "/api/v1/sites?limit=10&q=journal%20team-7"),
    ("search of a part of one name", "/api/v1/sites?limit=100&q=c4ca4238"),
    ("search without a match", "/api/v1/sites?limit=100&q=zzzyyyxxx"),
    ("search, by p95", "/api/v1/sites?limit=100&q=portal&sort=-p95"),
    ("tag of a tenth", "/api/v1/sites?limit=100&tag=gold"),
    ("tag of a hundredth", "/api/v1/sites?limit=10&tag=team-7"),
    ("tag of a hundredth, by p95", "/api/v1/sites?limit=10&tag=team-7&sort=-p95"),
    ("sites that are down", "/api/v1/sites?limit=5&status=down"),
    ("sites that are down, by p95", "/api/v1/sites?limit=5&status=down&sort=-p95"),
    ("sites of a region", "/api/v1/sites?limit=100&region=eu-west"),
    ("summary", "/api/v1/summary"),
    ("status of a site", "/api/v1/sites/{site}/status"),
    ("checks of a site", "/api/v1/sites/{site}/checks?limit=100"),
    ("incidents", "/api/v1/incidents?limit=100"),
    ("open incidents", "/api/v1/incidents?limit=5&open=true"),
];

/// An API process on a filled database.
pub(crate) struct WebServer {
    pub(crate) bed: Testbed,
    pub(crate) api: Process,
    address: SocketAddr,
    client: reqwest::Client,
    token: String,
    /// Every how many-th site has history, and how many have it.
    sample: i64,
    with_history: i64,
}

impl WebServer {
    /// Starts the process, with a token that reads everything.
    pub(crate) async fn start(bed: Testbed, sample: u32, with_history: u32) -> Result<Self, Error> {
        let token = bed.create_token("bench").await?;
        let address = process::free_address();
        let api = bed.spawn_process("picket-api", &["--api-listen", &address.to_string()]);
        api.wait_ready().await;
        // A client needs one even for plain HTTP. The second server finds it installed.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = reqwest::Client::builder().build().map_err(with_context("client"))?;
        Ok(Self {
            bed,
            api,
            address,
            client,
            token,
            sample: sample.into(),
            with_history: with_history.into(),
        })
    }

    /// Sends a request, and returns the time until its last byte in milliseconds, and the size of
    /// the answer in bytes.
    pub(crate) async fn request(&self, path: &str) -> Result<(f64, usize), Error> {
        let began = Instant::now();
        let request = self.client.get(format!("http://{}{path}", self.address)).bearer_auth(&self.token);
        let response = request.send().await.map_err(with_context("request"))?;
        let status = response.status();
        let body = response.bytes().await.map_err(with_context("answer"))?;
        match status.as_u16() {
            200 => Ok((began.elapsed().as_secs_f64() * 1e3, body.len())),
            _ => Err(Error::Failed(format!("{path}: {status} {}", String::from_utf8_lossy(&body)))),
        }
    }

    /// Path for the round: each round asks for another site with history.
    fn path_of_round(&self, path: &str, round: usize) -> String {
        let number = i64::try_from(round).unwrap_or_default() % self.with_history;
        path.replace("{site}", &(7 + number * self.sample).to_string())
    }

    pub(crate) async fn stop(self) -> Result<(), Error> {
        self.api.stop().await;
        self.bed.stop().await
    }
}

/// Times of a request in milliseconds, 50th and 95th percentile.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RequestTimes {
    pub(super) name: &'static str,
    pub(super) small_ms: [f64; 2],
    pub(super) large_ms: [f64; 2],
    /// Size of the last answer of the large database.
    pub(super) large_bytes: usize,
}

impl RequestTimes {
    /// Ratio of the 95th percentiles.
    pub(super) fn ratio(&self) -> f64 {
        self.large_ms[1] / self.small_ms[1]
    }
}

/// Measures each request in turns on both databases.
pub(super) async fn measure_requests(
    small: &WebServer,
    large: &WebServer,
    rounds: usize,
) -> Result<Vec<RequestTimes>, Error> {
    let mut results = Vec::new();
    for (name, path) in REQUESTS {
        let (mut small_ms, mut large_ms) = (Vec::new(), Vec::new());
        let mut large_bytes = 0;
        for round in 0..=rounds {
            let (first, _) = small.request(&small.path_of_round(path, round)).await?;
            let (second, bytes) = large.request(&large.path_of_round(path, round)).await?;
            // The first request also plans its statements and reads its index pages.
            if round > 0 {
                small_ms.push(first);
                large_ms.push(second);
            }
            large_bytes = bytes;
        }
        let percentiles = |times: Vec<f64>| {
            let times = Samples::new(times);
            [0.5, 0.95].map(|share| times.quantile(share).unwrap_or(f64::NAN))
        };
        let times = RequestTimes {
            name,
            small_ms: percentiles(small_ms),
            large_ms: percentiles(large_ms),
            large_bytes,
        };
        log_progress(format_args!("{times:?}"));
        results.push(times);
    }
    Ok(results)
}
