//! The installation of the bus that a coordinator uses, and the tickets of its jobs.

use futures_util::StreamExt;
use picket_proto::{Tickets, ticket::TicketClaims};
use picket_runtime::streams::{self, StreamLimits};
use picket_store::{settings::read_settings, tickets::Keyring};

use super::*;

async fn load_tickets(stack: &Stack) -> Arc<Tickets> {
    let store = stack.connect_store();
    let settings = read_settings(&store).await.unwrap();
    Keyring::load_from(&store, &settings).await.unwrap().tickets()
}

#[tokio::test]
async fn each_job_carries_the_ticket_that_sinks_verify() {
    let stack = Stack::new().await;
    stack.execute_sql("INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://x/', 1)").await;
    let mut jobs = stack.record_jobs().await;
    let running = stack.start_coordinator("maker", Duration::from_secs(15)).await;
    let tickets = load_tickets(&stack).await;

    for _ in 0..3 {
        let message = timeout(TEST_DEADLINE, jobs.subscriber.next()).await.unwrap().unwrap();
        let request = CheckRequest::decode(&message.payload).unwrap();
        let tick = request.scheduled_tick().unwrap().unwrap();
        let claims = TicketClaims { tick, region: &"eu".parse().unwrap() };
        assert_eq!(request.installation, Some(tickets.installation()));
        assert!(request.ticket.is_some());
        assert_eq!(tickets.verify_ticket(request.ticket.as_deref(), &claims), Ok(()));
    }
    running.drain().await;
}

#[tokio::test]
async fn a_coordinator_publishes_nothing_on_the_bus_of_another_installation_until_it_is_adopted() {
    let stack = Stack::new().await;
    stack.execute_sql("INSERT INTO picket.sites (url, interval_seconds) VALUES ('http://x/', 1)").await;
    let jetstream = async_nats::jetstream::new(async_nats::connect(stack.nats.url()).await.unwrap());
    let durability =
        StreamLimits { max_results_bytes: 64 << 20, max_jobs_bytes: 64 << 20, ..StreamLimits::default() };
    streams::create_if_missing(&jetstream, streams::jobs_config(durability)).await.unwrap();
    streams::adopt_streams(&jetstream, "00000000-0000-4000-8000-000000000000".parse().unwrap())
        .await
        .unwrap();
    let mut jobs = stack.record_jobs().await;

    let health = Health::new();
    let running = stack.start_coordinator_with("guest", Duration::from_secs(4), health.clone()).await;
    eventually(TEST_DEADLINE, "the coordinator's reason", async || {
        let missing = health.unready_checks();
        let says =
            |why: &str| why.contains("belongs to another installation") && why.contains("picket nats adopt");
        if missing.iter().any(|(_, why)| says(why)) { Ok(()) } else { Err(missing) }
    })
    .await;
    // Ticks were due meanwhile.
    assert!(timeout(Duration::from_secs(3), jobs.subscriber.next()).await.is_err());

    let ours = load_tickets(&stack).await.installation();
    streams::adopt_streams(&jetstream, ours).await.unwrap();
    jobs.wait_for_jobs(2).await;
    running.drain().await;
}
