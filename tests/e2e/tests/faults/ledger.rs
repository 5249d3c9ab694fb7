//! That the proof of all the other tests can fail.

use picket_e2e::fault_test::{FaultTest, Topology};

#[tokio::test]
async fn removed_rows_are_found_by_the_ledger_and_named_by_its_command() {
    let drill = FaultTest::start("proof", "rows removed by hand", Topology::default()).await;
    drill.wait_served().await;
    let to = drill.database_now().await;
    drill.stack.wait_ledger_closed(&to).await;
    assert_eq!(drill.stack.run_picket(&["ledger", "--since", "15m"]).await.0, 0);

    let removed = drill
        .stack
        .execute_sql(&format!(
            "DELETE FROM picket.check_results WHERE scheduled_at <= '{to}' AND kind = 'scheduled' AND site_id IN (2, 5)
                 AND region_id = (SELECT id FROM picket.regions WHERE name = 'west')"
        ))
        .await;

    assert!(removed >= 2, "{removed}");
    let (code, text, errors) = drill.stack.run_picket(&["ledger", "--since", "15m"]).await;
    assert_eq!(code, 1, "{text}{errors}");
    assert!(text.contains(&format!("{removed} ticks from")) && text.contains("UNACCOUNTED FOR"), "{text}");
    assert!(text.contains("Schedules with ticks that are unaccounted for: 2"), "{text}");
    let (_, named) = text.split_once("unaccounted for: 2").unwrap_or_default();
    let named: Vec<Vec<&str>> = named.lines().map(|line| line.split_whitespace().take(2).collect()).collect();
    assert!(named.contains(&vec!["2", "west"]) && named.contains(&vec!["5", "west"]), "{text}");
    drill.stop().await;
}
