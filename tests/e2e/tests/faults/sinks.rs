//! Faults of sinks.

use async_nats::jetstream;
use picket_e2e::fault_test::{FaultTest, Topology, WAIT_TIMEOUT};
use picket_harness::{eventually, servers::Signal, with_ticket};
use picket_proto::subject;

/// Results of sites that do not exist, each of a tick of its own: they are rows, and in no ledger.
const RESULT_COUNT: usize = 20_000;
const FIRST_SITE_ID: usize = 1_000_000;
const STORED_COUNT_SQL: &str = "SELECT count(*) FROM picket.check_results WHERE site_id >= 1000000";
/// Commits of a tenth of a second, so that there is a batch in flight nearly always.
const SLOW_INSERT_SQL: &str = "
    CREATE FUNCTION picket.slow() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END $$;
    CREATE TRIGGER slow BEFORE INSERT ON picket.check_results FOR EACH STATEMENT EXECUTE FUNCTION picket.slow();";
const WRITING_COUNT_SQL: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
    AND state = 'active' AND pid <> pg_backend_pid()
    AND query LIKE '%INSERT INTO picket.check_results AS kept%'";

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f7_every_acknowledged_result_is_stored_once_however_often_sinks_are_killed() {
    let topology = Topology { sinks: 1, sink_options: &["--batch-size", "200"], ..Topology::default() };
    let mut drill =
        FaultTest::start("F7", "kill -9 of nine sinks, each at another point of its work", topology).await;
    drill.stack.execute_sql(SLOW_INSERT_SQL).await;

    drill.mark_fault_started().await;
    drill.sinks[0].send_signal(Signal::STOP);
    publish_results(&drill).await;
    drill.sinks[0].send_signal(Signal::CONT);
    for round in 0..9 {
        let stored = drill.stack.query_number(STORED_COUNT_SQL).await;
        drill.stack.wait_at_least(WAIT_TIMEOUT, stored + 1, STORED_COUNT_SQL).await;
        let sink = drill.sinks.remove(0);
        match round % 3 {
            // In the middle of a statement.
            0 => drop(drill.stack.wait_at_least(WAIT_TIMEOUT, 1, WRITING_COUNT_SQL).await),
            // After a statement and before its commit.
            1 => {
                drill.stack.wait_at_least(WAIT_TIMEOUT, 1, WRITING_COUNT_SQL).await;
                sink.send_signal(Signal::STOP);
                eventually(WAIT_TIMEOUT, "the end of the statement", async || {
                    drill.stack.query_number(WRITING_COUNT_SQL).await == 0
                })
                .await;
            }
            // Right after a commit, before its acknowledgement or nearly.
            _ => drop(drill.stack.wait_at_least(WAIT_TIMEOUT, stored + 400, STORED_COUNT_SQL).await),
        }
        sink.kill().await;
        let sink = drill.spawn_sink().await;
        drill.sinks.push(sink);
    }
    assert!(drill.stack.query_number(STORED_COUNT_SQL).await < 15_000, "there was a backlog to the end");
    let healed = drill.mark_fault_ended().await;

    drill.stack.wait_at_least(WAIT_TIMEOUT, RESULT_COUNT as i64, STORED_COUNT_SQL).await;
    drill.stack.execute_sql("DROP TRIGGER slow ON picket.check_results").await;
    drill.wait_served().await;
    drill.wait_completed(&healed, "true").await;
    let twice =
        "SELECT count(*) - count(DISTINCT site_id) FROM picket.check_results WHERE site_id >= 1000000";
    assert_eq!(drill.stack.query_number(twice).await, 0);
    let account = drill.verify_account().await;
    assert_eq!((account.missed, account.dead_letters), (0, 0), "{account:#?}");
    drill.stop().await;
}

/// Publishes the results, and waits until the stream has acknowledged each.
async fn publish_results(drill: &FaultTest) {
    let jetstream = jetstream::new(drill.connect_client().await);
    let at = drill
        .stack
        .query_lines("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
        .await
        .remove(0);
    let tickets = drill.stack.load_tickets().await;
    for some in (FIRST_SITE_ID..FIRST_SITE_ID + RESULT_COUNT).collect::<Vec<_>>().chunks(1_000) {
        let mut acknowledgements = vec![];
        for site in some {
            let result = format!(
                r#"{{"v":1,"id":"{site}","site_id":{site},"kind":"scheduled","region":"east","shard":7,"prober":"p",
                    "url":"http://x/","scheduled_at":"{at}","started_at":"{at}","outcome":"up"}}"#
            );
            let result = with_ticket(serde_json::from_str(&result).expect("a result"), &tickets);
            let result = serde_json::to_string(&result).expect("JSON");
            let subject = subject::site_result(&"east".parse().unwrap(), picket_proto::Shard(7));
            acknowledgements.push(jetstream.publish(subject, result.into()).await.unwrap());
        }
        for acknowledgement in acknowledgements {
            acknowledgement.await.unwrap();
        }
    }
}
