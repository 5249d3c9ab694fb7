//! Warnings from outside: from a site's certificate to the event, the command and the report.

use std::{fs, time::Duration};

use futures_util::StreamExt;
use picket_e2e::Stack;
use picket_harness::{
    certificates::{CertificateAuthority, Validity},
    servers,
    targets::Target,
};
use serde_json::Value;
use tokio::time::timeout;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_certificate_that_ends_soon_warns_everywhere_until_it_is_renewed_and_is_no_incident() {
    let authority = CertificateAuthority::new();
    let ca_file = servers::scratch_dir("roots").join("ca.pem");
    fs::write(&ca_file, authority.pem()).unwrap();
    let site = Target::serve_https(&authority.issue_identity(&["127.0.0.1"], Validity::EndsInDays(9))).await;
    let stack = Stack::start(&["east", "west"]).await;
    let mut events = stack.connect_client().await.subscribe("picket.event.>").await.unwrap();
    let mut processes = vec![stack.spawn_coordinator(&[]).await, stack.spawn_sink(&[]).await];
    for region in ["east", "west"] {
        processes.push(stack.spawn_prober(region, &["--ca-file", &ca_file.to_string_lossy()]).await);
    }
    for process in &processes {
        process.wait_ready().await;
    }
    stack
        .execute_sql(&format!(
            "INSERT INTO picket.sites (url, interval_seconds) VALUES ('{}', 5)",
            site.url("/ok")
        ))
        .await;
    let mut next_event = async || {
        let event = timeout(WAIT_TIMEOUT, events.next()).await.expect("an event").unwrap();
        (event.subject.to_string(), serde_json::from_slice::<Value>(&event.payload).unwrap())
    };

    let (subject, opened) = next_event().await;
    assert_eq!(subject, "picket.event.warning.opened", "{opened}");
    assert_eq!(
        (&opened["kind"], &opened["regions"]),
        (&"certificate".into(), &serde_json::json!(["east", "west"]))
    );
    assert!(opened["message"].as_str().unwrap().contains("9 days"), "{opened}");
    let (_, status, _) = stack.run_picket(&["status"]).await;
    assert!(status.contains("certificate"), "{status}");
    let (_, report, _) = stack.run_picket(&["report", "warnings"]).await;
    assert!(report.contains("certificate") && report.contains("9 days"), "{report}");

    let address = site.shut_down().await;
    let renewed = authority.issue_identity(&["127.0.0.1"], Validity::Current);
    let _site = Target::serve_https_at(address, &renewed).await.unwrap();
    let (subject, closed) = next_event().await;
    assert_eq!(
        (subject.as_str(), &closed["site_id"]),
        ("picket.event.warning.closed", &opened["site_id"]),
        "{closed}"
    );
    let open = "SELECT count(*) FROM report.warnings WHERE closed_at IS NULL";
    assert_eq!(stack.query_number(open).await, 0);
    assert_eq!(stack.query_number("SELECT count(*) FROM picket.incidents").await, 0);
    for process in processes.into_iter().rev() {
        process.stop().await;
    }
}
