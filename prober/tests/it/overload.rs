//! Delays and limits of the prober itself are not attributed to the site.

use std::time::Duration;

use picket_harness::{
    Process,
    builders::scheduled_job_subject,
    eventually,
    process::free_address,
    servers::{Signal, scratch_dir},
    targets::Target,
};
use picket_proto::{Cause, CheckRequest, Outcome, SiteId};
use picket_runtime::options::DurationArg;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::{
    process::Command,
    time::{Instant, sleep_until},
};

use crate::bus::{STATE_TIMEOUT, TestRegion, scheduled_request};

/// Starts a prober in a process of its own, which may be stopped, and waits until it takes jobs.
pub(crate) async fn start_process(place: &TestRegion, options: &[&str]) -> Process {
    let listen = free_address();
    let mut command = Command::new(env!("CARGO_BIN_EXE_picket-prober"));
    command
        .args(["--region", place.region.as_str(), "--allow-addresses", "127.0.0.0/8,::1"])
        .args(["--nats-url", &place.url, "--listen", &listen.to_string()])
        .args(options);
    let process = Process::spawn("picket-prober", command, listen, &scratch_dir("prober"));
    process.wait_ready().await;
    process
}

/// Lets it open no more files than it has, or as many as before.
fn limit_files(process: &Process, most: u64) {
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let pid = Pid::from_raw(process.pid().cast_signed());
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(most), maximum }).unwrap();
}

#[tokio::test]
async fn a_prober_suspended_during_a_check_reports_no_slow_site() {
    let (place, target) = (TestRegion::on_shared_nats("overload-stop").await, Target::serve_http().await);
    let process = start_process(&place, &[]).await;
    // One would have answered in time, one is slow, and one would have had more time.
    for (site, path, timeout_ms) in [(1, "/slow/300", 1_000), (2, "/slow/300", 60_000), (3, "/never", 1_500)]
    {
        let request = CheckRequest { timeout_ms, ..scheduled_request(site, &target.url(path)) };
        place.publish_request(&scheduled_job_subject(&place.region, SiteId(site)), &request).await;
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
    assert!(process.fetch_metrics().await.expect("picket_prober_stalls_total") > 0.0);
}

#[tokio::test]
async fn a_check_in_a_blocked_runtime_is_missed_overloaded_and_the_next_is_up() {
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
async fn a_prober_out_of_file_descriptors_reports_no_site_down() {
    let (place, target) = (TestRegion::on_shared_nats("overload-files").await, Target::serve_http().await);
    let process = start_process(&place, &["--max-drift", "20s"]).await;
    let before = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(1_024);

    // Nothing new can be opened below the lowest number that is in use.
    limit_files(&process, 3);
    for (site, url) in
        [(1, target.url("/ok")), (2, target.localhost_url("/ok")), (3, "http://no.invalid/".into())]
    {
        place.queue_check(site, &url).await;
    }
    let results = place.read_results(3).await;
    limit_files(&process, before);
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
