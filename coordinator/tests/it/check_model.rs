//! Options and assertions of sites in the jobs that a coordinator publishes.

use serde_json::{Value, json};

use super::*;

impl JobLog {
    /// The next job of the site of which `is_wanted` is true.
    async fn wait_for_job(&mut self, site: i64, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let listening = async {
            loop {
                let message = self.subscriber.next().await.unwrap();
                let job: Value = serde_json::from_slice(&message.payload).unwrap();
                if job["site_id"] == site && is_wanted(&job) {
                    return job;
                }
            }
        };
        timeout(TEST_DEADLINE, listening).await.expect("such a job")
    }
}

#[tokio::test]
async fn a_job_names_the_features_of_its_site_and_follows_their_change() {
    let stack = Stack::new().await;
    stack
        .execute_sql(
            r#"INSERT INTO picket.sites (url, interval_seconds, assertions)
               VALUES ('http://a.example/', 1, '{"json": [{"path": "$.a", "exists": true}]}'), ('http://b.example/', 1, '{}')"#,
        )
        .await;
    let mut jobs = stack.record_jobs().await;
    let running = stack.start_coordinator("one", Duration::from_secs(15)).await;

    let job = jobs.wait_for_job(1, |_| true).await;
    assert_eq!(
        (&job["requires"], &job["url"]),
        (&json!(["assertions.json"]), &json!("requires:assertions.json"))
    );
    let check =
        json!({"url": "http://a.example/", "assertions": {"json": [{"path": "$.a", "exists": true}]}});
    assert_eq!(job["check"], check);
    let plain = jobs.wait_for_job(2, |_| true).await;
    assert_eq!(
        (&plain["url"], plain.get("requires"), plain.get("check")),
        (&json!("http://b.example/"), None, None)
    );

    stack
        .execute_sql(
            r#"UPDATE picket.sites SET assertions = '{}', options = '{"http_version": "2"}' WHERE id = 1;
               UPDATE picket.sites SET assertions = '{"warn_after_ms": 1500}' WHERE id = 2"#,
        )
        .await;
    jobs.wait_for_job(1, |job| job["requires"] == json!(["options.http_version"])).await;
    jobs.wait_for_job(2, |job| job["check"]["assertions"] == json!({"warn_after_ms": 1500})).await;

    stack.execute_sql("UPDATE picket.sites SET options = '{}' WHERE id = 1").await;
    jobs.wait_for_job(1, |job| job["url"] == "http://a.example/").await;
    running.drain().await;
}

#[tokio::test]
async fn a_site_with_an_option_of_a_newer_version_is_a_problem_and_not_checked_without_it() {
    let stack = Stack::new().await;
    stack
        .execute_sql(
            r#"INSERT INTO picket.sites (url, interval_seconds, assertions) VALUES ('http://a.example/', 1, '{"future": 1}');
               INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://b.example/', 1)"#,
        )
        .await;
    let mut jobs = stack.record_jobs().await;
    let running = stack.start_coordinator("one", Duration::from_secs(15)).await;

    let named = "SELECT count(*) FROM picket.sites WHERE id = 1 AND problem LIKE 'assertions.future: %'";
    eventually(TEST_DEADLINE, "the problem", async || match stack.query_number(named).await {
        1 => Ok(()),
        there => Err(there),
    })
    .await;
    jobs.wait_for_jobs(3).await;

    assert_eq!(jobs.ticks_by_site.keys().copied().collect::<Vec<_>>(), [SiteId(2)]);
    running.drain().await;
}
