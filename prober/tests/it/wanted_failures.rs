//! Checks that must fail, at a prober without canaries.

use picket_harness::{
    builders::scheduled_job_subject,
    eventually,
    targets::{ConnectProxy, ProxyBehaviour, Target},
};
use picket_prober::SecretsOptions;
use picket_proto::{Cause, CheckRequest, Outcome, SiteId};
use serde_json::{Value, json};

use crate::{
    bus::{STATE_TIMEOUT, TestRegion, scheduled_request},
    named_files::write_private,
};

async fn queue_check(place: &TestRegion, site: i64, url: &str, fields: &Value) {
    let request = CheckRequest {
        assertions: serde_json::from_value(fields["assertions"].clone()).unwrap_or_default(),
        options: serde_json::from_value(fields["options"].clone()).unwrap_or_default(),
        ..scheduled_request(site, url)
    };
    place.publish_request(&scheduled_job_subject(&place.region, SiteId(site)), &request).await;
}

/// A site behind a proxy counts as far away, and so does a name that does not resolve.
#[tokio::test]
async fn without_canaries_a_wanted_failure_needs_a_response_from_as_far_away() {
    let place = TestRegion::on_shared_nats("must-fail-alone").await;
    let site = Target::serve_http().await;
    let proxy = ConnectProxy::start(&[("a.example:80", site.address())], ProxyBehaviour::Forward).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secrets.toml");
    write_private(&file, &format!("[proxy.office]\nurl = \"http://{}\"", proxy.address()));
    let secrets = SecretsOptions { secrets_file: Some(file), adhoc_secrets: false };
    let prober = place.start_ready_with("one", 20, |config| config.secrets = secrets).await;
    let unresolved = "http://no-such-host.invalid/";
    let must_fail = json!({"assertions": {"must_fail": ["dns", "connect"]}});
    let through_proxy = json!({"options": {"proxy": "office"}});

    queue_check(&place, 1, unresolved, &must_fail).await;
    // A failure on this machine needs no network, and a response of this machine proves none.
    queue_check(&place, 2, &format!("http://{}/", Target::closed_address().await), &must_fail).await;
    queue_check(&place, 3, &site.url("/ok"), &json!({})).await;
    let alone = place.read_results(3).await;
    queue_check(&place, 4, unresolved, &must_fail).await;
    eventually(STATE_TIMEOUT, "a check that is held", async || {
        prober.read_metric("picket_prober_checks_running") > 0.0
    })
    .await;
    queue_check(&place, 5, "http://a.example/ok", &through_proxy).await;
    let results = place.read_results(5).await;

    let result_of = |site: i64| results.iter().find(|result| result.site_id == Some(SiteId(site))).unwrap();
    let verdict = |site: i64| (result_of(site).outcome, result_of(site).cause);
    assert!(alone.iter().all(|result| result.site_id < Some(SiteId(4))), "{alone:?}");
    assert_eq!(verdict(1), (Outcome::Missed, Some(Cause::ProberOffline)), "{results:?}");
    let message = result_of(1).message.as_deref().unwrap();
    assert!(message.contains("and there are no canaries (PICKET_CANARIES) ("), "{message}");
    for up in 2..=5 {
        assert_eq!(verdict(up), (Outcome::Up, None), "{up}: {results:?}");
    }
}
