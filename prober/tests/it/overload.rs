//! What this prober's own delays and limits do to a check is not held against the site.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use picket_proto::{Cause, CheckRequest, Outcome, SiteId, subject};
use picket_runtime::options::DurationArg;
use picket_testkit::{
    eventually,
    servers::{self},
    target::Target,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tokio::time::{Instant, sleep_until};

use crate::bus::{STATE_TIMEOUT, TestRegion, scheduled_request};

/// A prober in a process of its own, which may be stopped.
pub(crate) struct ProberProcess {
    child: Child,
    listen: SocketAddr,
}

impl ProberProcess {
    /// Starts one of `place`, and waits until it takes jobs.
    pub(crate) async fn start(place: &TestRegion, options: &[&str]) -> Self {
        let listen = SocketAddr::from(([127, 0, 0, 1], servers::non_ephemeral_port()));
        let child = Command::new(env!("CARGO_BIN_EXE_picket-prober"))
            .args(["--region", place.region.as_str(), "--allow-addresses", "127.0.0.0/8,::1"])
            .args(["--nats-url", &place.url, "--listen", &listen.to_string()])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let process = Self { child, listen };
        eventually(STATE_TIMEOUT, "a process that is ready", async || process.get_path("/readyz").await)
            .await;
        process
    }

    async fn get_path(&self, path: &str) -> Result<String, String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let asking = async {
            let mut stream = tokio::net::TcpStream::connect(self.listen).await?;
            stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = asking.await.map_err(|why| why.to_string())?;
        if answer.starts_with("HTTP/1.1 200") { Ok(answer) } else { Err(answer) }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn send_signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Lets it open no more files than it has, or as many as before.
    fn limit_files(&self, most: u64) {
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        prlimit(Some(self.pid()), Resource::Nofile, Rlimit { current: Some(most), maximum }).unwrap();
    }
}

impl Drop for ProberProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_prober_that_was_stopped_during_a_check_does_not_say_that_the_site_was_slow() {
    let (place, target) = (TestRegion::on_shared_nats("overload-stop").await, Target::serve_http().await);
    let process = ProberProcess::start(&place, &[]).await;
    // One would have answered in time, one is slow, and one would have had more time.
    for (site, path, timeout_ms) in [(1, "/slow/300", 1_000), (2, "/slow/300", 60_000), (3, "/never", 1_500)]
    {
        let request = CheckRequest { timeout_ms, ..scheduled_request(site, &target.url(path)) };
        place.publish_request(&subject::scheduled_job(&place.region, SiteId(site)), &request).await;
    }
    eventually(STATE_TIMEOUT, "all under way", async || target.received_requests().len() == 3).await;
    let stopped = Instant::now();

    process.send_signal(Signal::STOP);
    sleep_until(stopped + Duration::from_secs(3)).await;
    process.send_signal(Signal::CONT);
    let results = place.read_results(3).await;

    for result in &results {
        assert_eq!((result.outcome, result.cause), (Outcome::Missed, Some(Cause::Overloaded)), "{result:?}");
        let message = result.message.as_deref().unwrap_or_default();
        assert!(message.contains("this prober was held up for "), "{message}");
        assert!(result.timing.is_empty() && result.started_at.is_some(), "{result:?}");
    }
    let metrics = process.get_path("/metrics").await.unwrap();
    let stalls = metrics.lines().find(|line| line.starts_with("picket_prober_stalls_total")).unwrap();
    assert!(!stalls.ends_with(" 0"), "{stalls}");
}

#[tokio::test]
async fn a_check_in_a_runtime_that_is_blocked_is_overloaded_and_the_next_one_is_well() {
    let (place, target) = (TestRegion::on_shared_nats("overload-block").await, Target::serve_http().await);
    let bound = Duration::from_millis(1_500);
    let _prober =
        place.start_ready_with("one", 10, |config| config.behaviour.max_drift = DurationArg(bound)).await;
    place.queue_check(1, &target.url("/slow/300")).await;
    eventually(STATE_TIMEOUT, "a check under way", async || target.accepted_connections() == 1).await;

    // The test, the prober and the target share one thread.
    std::thread::sleep(bound * 2);
    let [result] = place.read_results(1).await.try_into().unwrap();

    assert_eq!((result.outcome, result.cause), (Outcome::Missed, Some(Cause::Overloaded)), "{result:?}");
    place.queue_check(2, &target.url("/ok")).await;
    let results = place.read_results(2).await;
    assert_eq!(results[1].outcome, Outcome::Up, "{results:?}");
}

#[tokio::test]
async fn a_prober_that_can_open_no_more_files_does_not_say_that_the_site_is_down() {
    let (place, target) = (TestRegion::on_shared_nats("overload-files").await, Target::serve_http().await);
    let process = ProberProcess::start(&place, &["--max-drift", "20s"]).await;
    let before = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(1_024);

    // Nothing new can be opened below the lowest number that is in use.
    process.limit_files(3);
    for (site, url) in
        [(1, target.url("/ok")), (2, target.localhost_url("/ok")), (3, "http://no.invalid/".into())]
    {
        place.queue_check(site, &url).await;
    }
    let results = place.read_results(3).await;
    process.limit_files(before);
    place.queue_check(4, &target.url("/ok")).await;
    let all = place.read_results(4).await;

    for result in &results {
        assert_eq!((result.outcome, result.cause), (Outcome::Missed, Some(Cause::Overloaded)), "{result:?}");
        let message = result.message.as_deref().unwrap_or_default();
        assert!(message.contains("no more files"), "{message}");
    }
    assert_eq!(all[3].outcome, Outcome::Up, "{:?}", all[3]);
    assert_eq!(target.accepted_connections(), 1);
}
