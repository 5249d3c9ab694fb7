//! Faults between hosts: the hub, three regions, and the world, each with its own address.

use std::{
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use async_nats::Client;
use parking_lot::Mutex;
use picket_e2e::{
    Credentials, LabHost, NetnsLab,
    fault_test::{Environment, FaultTest, Topology, WAIT_TIMEOUT},
};
use picket_harness::{eventually, servers};
use tokio::runtime::Handle;

const REGIONS: [&str; 3] = ["asia", "east", "west"];

/// The hub's NATS requires a credential and TLS.
async fn start_on_lab(
    hosts: NetnsLab,
    fault: &'static str,
    description: &'static str,
) -> (FaultTest, Credentials) {
    let credentials =
        Credentials::init_with_tls(&REGIONS, &["127.0.0.1", &hosts.hub().address().to_string()]);
    let written = credentials.clone();
    let nats = servers::start_nats_with_config(move |port| written.write_server_config(port, &[])).await;
    let topology = Topology { regions: &REGIONS, probers: 1, ..Topology::default() };
    let setting = Environment {
        nats: Some(nats),
        credentials: Some(credentials.clone()),
        hosts: Some(hosts),
        ..Environment::default()
    };
    (FaultTest::start_with(fault, description, topology, setting).await, credentials)
}

/// Cuts one region off from the hub for so long; its probers still see the sites.
async fn run_cut(mut drill: FaultTest, span: Duration) {
    let hosts = drill.hosts.take().expect("this drill has hosts");
    hosts.cut_link(hosts.hub(), hosts.region_host("east"));
    drill.mark_fault_started().await;
    drill.wait_served_in("region.name <> 'east'").await;
    drill.run_for(span).await;
    for (_, prober) in drill.probers.iter().filter(|(region, _)| *region == "east") {
        prober.wait_unready("").await;
    }
    hosts.restore_link(hosts.hub(), hosts.region_host("east"));
    drill.mark_fault_ended().await;
    drill.wait_served().await;

    let account = drill.verify_account().await;
    assert_eq!((account.missed_in_region("west"), account.missed_in_region("asia")), (0, 0), "{account:#?}");
    // Six sites are due every two seconds; the first moments are still on their way, or come late.
    let due = 3 * span.as_secs() as i64;
    assert!(account.missed_in_region("east") >= due - 30, "{due} were due and {account:#?}");
    assert!(account.recovery_s < 10.0, "{account:#?}");
    drill.stop().await;
}

#[tokio::test]
async fn f11b_only_a_host_cut_off_from_the_hub_is_missed_and_it_recovers_by_itself() {
    let test = "hosts::f11b_only_a_host_cut_off_from_the_hub_is_missed_and_it_recovers_by_itself";
    let Some(hosts) = NetnsLab::enter(test, &REGIONS).await else { return };
    let (drill, _) = start_on_lab(hosts, "F11b", "a region's host cut off from the hub's for 20 s").await;
    run_cut(drill, Duration::from_secs(20)).await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f11c_only_a_host_cut_off_for_two_minutes_is_missed_and_it_recovers_by_itself() {
    let test = "hosts::f11c_only_a_host_cut_off_for_two_minutes_is_missed_and_it_recovers_by_itself";
    let Some(hosts) = NetnsLab::enter(test, &REGIONS).await else { return };
    let (drill, _) =
        start_on_lab(hosts, "F11c", "a region's host cut off from the hub's for two minutes").await;
    run_cut(drill, Duration::from_secs(120)).await;
}

#[tokio::test]
#[ignore = "slow: just e2e"]
async fn f11d_sites_unreachable_from_one_of_three_regions_are_down_there_without_an_incident() {
    let test = "hosts::f11d_sites_unreachable_from_one_of_three_regions_are_down_there_without_an_incident";
    let Some(hosts) = NetnsLab::enter(test, &REGIONS).await else { return };
    let (mut drill, _) = start_on_lab(hosts, "F11d", "the sites turn one of three regions away").await;
    let hosts = drill.hosts.take().expect("this drill has hosts");
    let down = |region: &str, since: &str| {
        format!(
            "SELECT count(DISTINCT result.site_id) FROM picket.check_results AS result
             JOIN picket.regions AS region ON region.id = region_id
             JOIN picket.sites AS site ON site.id = result.site_id AND interval_seconds <= 5 AND url LIKE '%/ok/%'
             WHERE kind = 'scheduled' AND region.name = '{region}' AND outcome = 'down' AND cause = 'timeout'
               AND scheduled_at > '{since}'"
        )
    };

    hosts.cut_link(hosts.world(), hosts.region_host("east"));
    let since = drill.mark_fault_started().await;
    // More than once, for once is never an incident.
    for _ in 0..3 {
        let since = drill.database_now().await;
        drill.stack.wait_at_least(WAIT_TIMEOUT, 6, &down("east", &since)).await;
    }
    drill.wait_served_in("region.name <> 'east'").await;
    for other in ["asia", "west"] {
        assert_eq!(drill.stack.query_number(&down(other, &since)).await, 0, "{other} sees them up");
    }
    drill.mark_fault_ended().await;
    // Among others: no incident of a site that is up, and none that is missed.
    let account = drill.verify_account().await;
    assert_eq!(account.missed, 0, "{account:#?}");

    // With a second region it is a majority: had there been a reason, there would have been an incident.
    hosts.cut_link(hosts.world(), hosts.region_host("west"));
    let open = "SELECT count(*) FROM picket.incidents JOIN picket.sites AS site ON site.id = site_id
                WHERE url LIKE '%/ok/%' AND interval_seconds <= 5 AND closed_at IS NULL AND incidents.regions = '{east,west}'";
    drill.stack.wait_at_least(WAIT_TIMEOUT, 6, open).await;
    drill.stop().await;
}

/// A client with this credential, connected from this host, and the errors that the server sends
/// it.
async fn connect_from_host(
    host: &LabHost,
    url: &str,
    credentials: &Credentials,
    user: &str,
) -> (Client, Refusals) {
    let refusals = Refusals::default();
    let heard = refusals.clone();
    let connecting = credentials
        .client_options(user)
        .custom_inbox_prefix(format!("_INBOX_{user}"))
        .request_timeout(Some(Duration::from_secs(2)))
        .event_callback(move |event| {
            heard.lock().push(event.to_string());
            async {}
        })
        .connect(url);
    let runtime = Handle::current();
    (host.run_inside(|| runtime.block_on(connecting)).unwrap(), refusals)
}

type Refusals = Arc<Mutex<Vec<String>>>;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow: just e2e"]
async fn f20_a_regions_credential_on_its_own_host_reaches_nothing_of_another_region_and_no_database() {
    let test =
        "hosts::f20_a_regions_credential_on_its_own_host_reaches_nothing_of_another_region_and_no_database";
    let Some(hosts) = NetnsLab::enter(test, &REGIONS).await else { return };
    let (mut drill, credentials) =
        start_on_lab(hosts, "F20", "a region's credential tries another's subjects, and the database").await;
    let hosts = drill.hosts.take().expect("this drill has hosts");
    let (hub, east) = (hosts.hub().address(), hosts.region_host("east"));
    let url = format!("nats://{hub}:{}", drill.stack.nats.port());
    let (client, refusals) = connect_from_host(east, &url, &credentials, "prober-east").await;
    let own = "$JS.API.CONSUMER.MSG.NEXT.PICKET_JOBS.prober-east";
    let asked = client.request(own, "{\"batch\":1,\"no_wait\":true}".into()).await;
    // A job, which another prober may get immediately, or the status that there is none.
    if let Some(job) = asked.expect("it may pull its own jobs").reply {
        client.publish(job, "-NAK".into()).await.unwrap();
    }

    drill.mark_fault_started().await;
    for subject in
        ["picket.job.west.>", "picket.result.>", "picket.event.>", "picket.check.west", "_INBOX.>", ">"]
    {
        let _subscription = client.subscribe(subject).await.unwrap();
        wait_refused(&refusals, "Subscription", subject).await;
    }
    let calls = [
        "CONSUMER.MSG.NEXT.PICKET_JOBS.prober-west",
        "CONSUMER.INFO.PICKET_JOBS.prober-west",
        "CONSUMER.MSG.NEXT.PICKET_RESULTS.sink",
        "CONSUMER.DELETE.PICKET_JOBS.prober-west",
        "STREAM.PURGE.PICKET_JOBS",
        "STREAM.DELETE.PICKET_RESULTS",
    ]
    .map(|call| format!("$JS.API.{call}"));
    let forged =
        ["picket.result.west.1", "picket.job.west.1", "picket.event.incident.opened", "picket.check.west"];
    for subject in calls.iter().map(String::as_str).chain(forged) {
        client.publish(subject.to_owned(), "{\"batch\":1}".into()).await.unwrap();
        wait_refused(&refusals, "Publish", subject).await;
    }

    // The database listens on the hub only, and requires a password.
    let database: url::Url = drill.stack.database_url().parse().unwrap();
    let address = SocketAddr::from((hub, database.port().unwrap()));
    let reached = east.run_inside(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)));
    assert!(reached.is_err(), "{address} can be reached from a region");
    let mut without = database;
    without.set_password(None).unwrap();
    let refusal = sqlx::PgPool::connect(without.as_str()).await.unwrap_err().to_string();
    assert!(refusal.contains("password"), "{refusal}");

    // Nothing of it has had an effect.
    drill.mark_fault_ended().await;
    drill.wait_served().await;
    let account = drill.verify_account().await;
    assert_eq!((account.missed, account.dead_letters), (0, 0), "{account:#?}");
    drill.stop().await;
}

/// Waits until the server has refused it.
async fn wait_refused(refusals: &Refusals, what: &str, subject: &str) {
    let said = format!("permissions violation for {what} to \"{subject}\"").to_lowercase();
    eventually(WAIT_TIMEOUT, &said, async || {
        let refusals = refusals.lock().clone();
        let is_refused = refusals.iter().any(|refusal| refusal.to_lowercase().contains(&said));
        if is_refused { Ok(()) } else { Err(refusals) }
    })
    .await;
}
