//! Changes of sites during their checks.

use picket_e2e::fault_test::{FaultTest, Topology};

/// Changes, made repeatedly to sites that are being checked nearly all of the time.
const SITE_CHANGES_SQL: [&str; 10] = [
    "UPDATE picket.sites SET interval_seconds = 3 WHERE name IN ('a', 'b')",
    "UPDATE picket.sites SET timeout_ms = 1000 WHERE name IN ('a', 'c')",
    "UPDATE picket.sites SET url = url || '1' WHERE name IN ('b', 'c')",
    "UPDATE picket.sites SET regions = '{east}' WHERE name = 'd'",
    "UPDATE picket.sites SET enabled = false WHERE name IN ('e', 'f')",
    "DELETE FROM picket.sites WHERE id IN (SELECT id FROM picket.sites WHERE name = 'g' LIMIT 3)",
    "UPDATE picket.sites SET interval_seconds = 2, timeout_ms = 2000 WHERE name IN ('a', 'b', 'c')",
    "UPDATE picket.sites SET regions = '{west}' WHERE name = 'd'",
    "UPDATE picket.sites SET enabled = true, interval_seconds = 5 - interval_seconds WHERE name IN ('e', 'f')",
    "UPDATE picket.sites SET regions = '{}' WHERE name = 'd'",
];

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f18_a_site_can_be_changed_disabled_and_deleted_during_its_checks() {
    let mut drill =
        FaultTest::start("F18", "sites changed, disabled, deleted, moved while checked", Topology::default())
            .await;
    let url = drill.target.url("/slow/");
    drill
        .stack
        .execute_sql(&format!(
            "INSERT INTO picket.sites (url, name, interval_seconds, timeout_ms)
             SELECT '{url}' || (1000 + n), substr('abcdefg', n % 7 + 1, 1), 2, 2000 FROM generate_series(1, 42) AS n"
        ))
        .await;
    drill.wait_served().await;

    drill.mark_fault_started().await;
    for round in 0..10 {
        drill.stack.execute_sql(SITE_CHANGES_SQL[round % SITE_CHANGES_SQL.len()]).await;
        // Until a check or two of each have begun since.
        let now = drill.database_now().await;
        drill
            .stack
            .wait_at_least(
                picket_e2e::fault_test::WAIT_TIMEOUT,
                20,
                &format!("SELECT count(*) FROM picket.check_results WHERE scheduled_at > '{now}'"),
            )
            .await;
    }
    drill.mark_fault_ended().await;
    drill.wait_served().await;

    let account = drill.verify_account().await;
    assert_eq!(account.dead_letters, 0, "{account:#?}");
    assert!(drill.stack.query_number("SELECT count(*) FROM picket.retired_sites").await >= 3);
    for sink in &drill.sinks {
        let log = sink.read_log();
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    }
    drill.stop().await;
}
