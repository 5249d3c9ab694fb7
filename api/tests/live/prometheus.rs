//! `/probe`, service discovery and metrics of sites, as Prometheus reads them.

use std::{collections::BTreeSet, path::PathBuf, process::Stdio};

use picket_api::Config;
use picket_harness::{
    eventually, process,
    servers::scratch_dir,
    targets::{Identity, Target},
};
use serde_json::Value;
use tokio::process::Command;

use crate::stack::{TEST_TIMEOUT, TestStack};

/// Metrics of blackbox_exporter's prober `http` that Picket gives for each check of a target.
const METRICS: [&str; 14] = [
    "probe_dns_lookup_time_seconds",
    "probe_duration_seconds",
    "probe_failed_due_to_regex",
    "probe_http_content_length",
    "probe_http_duration_seconds",
    "probe_http_redirects",
    "probe_http_ssl",
    "probe_http_status_code",
    "probe_http_uncompressed_body_length",
    "probe_http_version",
    "probe_ip_addr_hash",
    "probe_ip_protocol",
    "probe_success",
    // Of https only.
    "probe_ssl_earliest_cert_expiry",
];

/// Samples by series.
fn parse_strictly(text: &str) -> Vec<(String, f64)> {
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with(|first: char| first.is_ascii_digit())
            && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':')
    };
    assert!(text.ends_with('\n'), "the last line has an end");
    let (mut samples, mut family, mut seen) = (Vec::new(), String::new(), BTreeSet::new());
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<&str> = comment.splitn(3, ' ').collect();
            let [kind, name, rest] = words.as_slice() else { panic!("{line}") };
            assert!(is_name(name), "{line}");
            match *kind {
                "HELP" => {
                    family = (*name).to_owned();
                    assert!(seen.insert(family.clone()), "a second family {name}");
                }
                "TYPE" => assert_eq!((*name, *rest), (family.as_str(), "gauge"), "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let (name, labels) =
            series.split_once('{').map_or((series, None), |(name, labels)| (name, Some(labels)));
        assert_eq!(name, family, "a sample follows its family: {line}");
        if let Some(labels) = labels {
            let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
            for label in labels.split(',') {
                let (label, text) = label.split_once('=').unwrap_or_else(|| panic!("{line}"));
                assert!(
                    is_name(label) && text.len() >= 2 && text.starts_with('"') && text.ends_with('"'),
                    "{line}"
                );
            }
        }
        samples.push((series.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}"))));
    }
    samples
}

fn names(samples: &[(String, f64)]) -> BTreeSet<&str> {
    samples.iter().map(|(series, _)| series.split('{').next().unwrap()).collect()
}

fn value(samples: &[(String, f64)], series: &str) -> f64 {
    samples.iter().find(|(found, _)| found == series).unwrap_or_else(|| panic!("{series} in {samples:?}")).1
}

#[tokio::test]
async fn a_probe_has_the_metrics_of_blackbox_exporter() {
    let target = Target::serve_http().await;
    let stack = TestStack::start().await;
    let api = stack.start_api().await;
    let prober = stack.start_prober("eu").await;

    let up = api.get(&format!("/probe?target={}&module=http_2xx", target.url("/redirect/2"))).await;
    assert_eq!(up.status, 200, "{}", up.body);
    let samples = parse_strictly(&up.body);
    let plain: BTreeSet<&str> = METRICS.into_iter().filter(|name| !name.contains("ssl_earliest")).collect();
    assert_eq!(names(&samples), plain);
    let phases =
        samples.iter().filter(|(series, _)| series.starts_with("probe_http_duration_seconds{phase="));
    assert_eq!(phases.count(), 5);
    for (series, expected) in [
        ("probe_success", 1.0),
        ("probe_http_status_code", 200.0),
        ("probe_http_redirects", 2.0),
        ("probe_http_ssl", 0.0),
        ("probe_http_version", 1.1),
        ("probe_ip_protocol", 4.0),
    ] {
        assert_eq!(value(&samples, series), expected, "{series}");
    }
    assert!(value(&samples, "probe_duration_seconds") > 0.0);

    let down = api.get(&format!("/probe?target={}&region=eu", target.url("/status/503"))).await;
    let samples = parse_strictly(&down.body);
    assert_eq!((value(&samples, "probe_success"), value(&samples, "probe_http_status_code")), (0.0, 503.0));
    prober.drain().await;
    api.drain().await;
}

#[tokio::test]
async fn a_probe_over_tls_has_the_end_of_the_certificate() {
    let target = Target::serve_https(&Identity::self_signed(&["localhost"])).await;
    let stack = TestStack::start().await;
    let api = stack.start_api().await;
    let prober = stack.start_prober("eu").await;

    // The prober does not trust the authority: the target is down, and its certificate is known.
    let down = api.get(&format!("/probe?target={}", target.url("/ok"))).await;

    let samples = parse_strictly(&down.body);
    assert_eq!(value(&samples, "probe_success"), 0.0);
    assert!(value(&samples, "probe_ssl_earliest_cert_expiry") > 1.7e9, "{}", down.body);
    prober.drain().await;
    api.drain().await;
}

#[tokio::test]
async fn a_check_that_was_not_made_is_an_error_of_the_scrape_and_not_a_target_that_is_down() {
    let target = Target::serve_http().await;
    let stack = TestStack::start().await;
    let api = stack.start_api().await;
    let prober = stack.start_prober_with("eu", &[]).await;

    let blocked = api.get(&format!("/probe?target={}", target.url("/ok"))).await;
    let nobody = api.get(&format!("/probe?target={}&region=us", target.url("/ok"))).await;

    assert_eq!(blocked.status, 503);
    assert!(
        blocked.body.contains("not checked: blocked") && !blocked.body.contains("probe_success"),
        "{}",
        blocked.body
    );
    assert_eq!(nobody.status, 503);
    assert!(nobody.body.contains("region us: no active probers"), "{}", nobody.body);
    for (query, text) in [
        ("module=http_2xx", "Target parameter is missing"),
        ("target=x&module=icmp", "there are http_2xx, http_post_2xx"),
        ("target=http://", "url: "),
    ] {
        let refused = api.get(&format!("/probe?{query}")).await;
        assert_eq!(refused.status, 400, "{query}");
        assert!(refused.body.contains(text), "{}", refused.body);
    }
    prober.drain().await;
    api.drain().await;
}

#[tokio::test]
async fn service_discovery_lists_the_sites_by_region_with_their_tags() {
    let stack = TestStack::start().await;
    stack
        .run_sql(
            "INSERT INTO picket.sites (url, name, tags, regions, enabled) VALUES
             ('http://one.example', 'shop', '{a,b}', '{eu}', true), ('http://two.example', NULL, '{}', '{}', true),
             ('http://three.example', NULL, '{a}', '{}', false)",
        )
        .await;
    let api = stack.start_api().await;
    let list = async |query: &str| -> Vec<Value> {
        let response = api.get(&format!("/api/v1/integrations/prometheus/targets{query}")).await;
        assert_eq!(response.status, 200, "{}", response.body);
        serde_json::from_str(&response.body).unwrap()
    };

    let all = list("").await;
    let found: Vec<_> = all
        .iter()
        .map(|group| {
            (group["targets"][0].as_str().unwrap(), group["labels"]["__meta_picket_region"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        found,
        [("http://one.example", "eu"), ("http://two.example", "eu"), ("http://two.example", "us")]
    );
    assert_eq!(all[0]["labels"]["__meta_picket_tags"], ",a,b,");
    assert_eq!((list("?tag=a").await.len(), list("?region=us").await.len()), (1, 1));
    api.drain().await;
}

#[tokio::test]
async fn the_state_of_sites_is_among_the_metrics_if_wanted() {
    let stack = TestStack::start().await;
    stack
        .run_sql(
            "INSERT INTO picket.sites (url, name, regions) VALUES ('http://one.example', 'shop', '{eu}');
             UPDATE picket.schedules SET valid_from = now() - interval '1 hour';
             SELECT picket.ensure_partitions(1, 1);
             INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, total_us, prober)
             SELECT date_bin(interval_ms * interval '1 millisecond', now(), 'epoch'::timestamptz + phase_ms * interval '1 millisecond'),
                    site_id, region_id, 'scheduled', 'up', 2500, 'p' FROM picket.schedules",
        )
        .await;
    let without = stack.start_api().await;
    let with = stack.start_api_with(Config { site_metrics: 10, ..Config::default() }).await;

    eventually(TEST_TIMEOUT, "the site's state", async || {
        let text = with.encode_metrics();
        let is_there = text.contains(r#"picket_site_up{site_id="1",site="shop"} 1"#)
            && text.contains(r#"picket_site_latency_seconds{site_id="1",site="shop",region="eu"} 0.0025"#);
        if is_there { Ok(()) } else { Err(text) }
    })
    .await;
    assert!(!without.encode_metrics().contains("picket_site_up"));
    with.drain().await;
    without.drain().await;
}

/// Prometheus on the PATH, or as `PICKET_PROMETHEUS` names it.
fn find_prometheus() -> Option<PathBuf> {
    let named = std::env::var_os("PICKET_PROMETHEUS").map(PathBuf::from);
    let on_path = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|path| std::env::split_paths(&path).map(|dir| dir.join("prometheus")).collect::<Vec<_>>());
    named.into_iter().chain(on_path).find(|program| program.is_file())
}

#[tokio::test]
async fn prometheus_scrapes_the_discovered_sites_with_a_configuration_for_blackbox_exporter() {
    let Some(program) = find_prometheus() else {
        eprintln!(
            "NOT TESTED: no prometheus on this machine (Debian's package of that name, or PICKET_PROMETHEUS)"
        );
        // A run that must not skip anything says so.
        assert!(std::env::var_os("PICKET_REQUIRE_PROMETHEUS").is_none(), "PICKET_REQUIRE_PROMETHEUS is set");
        return;
    };
    let target = Target::serve_http().await;
    let stack = TestStack::start().await;
    stack
        .run_sql(&format!(
            "INSERT INTO picket.sites (url, regions) VALUES ('{}', '{{eu}}')",
            target.url("/ok")
        ))
        .await;
    let api = stack.start_api().await;
    let prober = stack.start_prober("eu").await;
    let dir = scratch_dir("prometheus");
    let config = include_str!("../../../deploy/prometheus/probe.yaml")
        .replace("picket.example.com:8088", &api.address.to_string());
    std::fs::write(
        dir.join("prometheus.yml"),
        config
            .replace("scrape_interval: 60s", "scrape_interval: 1s")
            .replace("scrape_timeout: 10s", "scrape_timeout: 1s"),
    )
    .unwrap();
    let listen = process::free_address();
    let _server = Command::new(program)
        .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
        .arg(format!("--web.listen-address={listen}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();

    eventually(TEST_TIMEOUT, "a sample of the site", async || {
        let answer =
            picket_harness::http::get(listen, "/api/v1/query?query=probe_success", TEST_TIMEOUT).await;
        let answer = answer.map(|answer| answer.body);
        match &answer {
            Ok(body)
                if body.contains("\"instance\"")
                    && body.contains("\"region\":\"eu\"")
                    && body.contains("\"1\"]") =>
            {
                Ok(())
            }
            _ => Err(answer),
        }
    })
    .await;
    prober.drain().await;
    api.drain().await;
}
