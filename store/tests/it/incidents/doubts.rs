//! Failures that are a prober's own: what is doubted, for how long, and what a region that lies makes of it.

use picket_store::{incidents, results::InsertSummary};

use super::{world::insert_into_store, *};

/// Sites of a test: five hosts that every region checks and one that the first region alone checks.
/// Any single region opens an incident.
struct Fleet {
    world: World,
    sites: Vec<i64>,
    /// The site of the first region alone.
    lone_site: i64,
    /// Phase of each site in each region.
    phases: HashMap<(i64, String), i64>,
    began: i64,
}

const SHARED_SITES: usize = 5;
const ASIA: &str = REGIONS[0];

impl Fleet {
    /// Checked by the first `regions` regions since `ago`, and up at first.
    async fn new(regions: usize, ago: Duration) -> Self {
        let world = new_world().await;
        let checking = REGIONS[..regions].join(",");
        world
            .execute_sql(&format!(
                "DELETE FROM picket.sites;
                 INSERT INTO picket.sites (url, interval_seconds, quorum, regions)
                 SELECT 'http://host-' || n || '.example/', 5, 1,
                        string_to_array(CASE WHEN n > {SHARED_SITES} THEN '{ASIA}' ELSE '{checking}' END, ',')
                 FROM generate_series(1, {SHARED_SITES} + 1) AS n;
                 UPDATE picket.schedules SET valid_from = valid_from - interval '1 hour' WHERE valid_to IS NULL;"
            ))
            .await;
        let schedules: Vec<(i64, String, i32)> = sqlx::query_as(
            "SELECT site_id, name, phase_ms FROM picket.schedules JOIN picket.regions ON region_id = id
             WHERE valid_to IS NULL ORDER BY 1",
        )
        .fetch_all(&world.pool)
        .await
        .unwrap();
        let mut sites: Vec<i64> = schedules.iter().map(|(site, ..)| *site).collect();
        sites.dedup();
        let lone_site = sites.pop().unwrap();
        let phases = schedules.into_iter().map(|(site, region, phase)| ((site, region), i64::from(phase)));
        let began = now().saturating_sub(ago).as_millis() / INTERVAL * INTERVAL;
        let fleet = Self { sites, lone_site, phases: phases.collect(), began, world };
        fleet.insert_tick(0, |_, _| Outcome::Up).await;
        fleet
    }

    fn result(&self, site: i64, region: &str, tick: i64, outcome: Outcome) -> CheckResult {
        let at = self.began + tick * INTERVAL + self.phases[&(site, region.to_owned())];
        let result = CheckResult {
            prober: format!("{region}-1"),
            ..up_result(site, region, Timestamp::from_millis(at))
        };
        match outcome {
            Outcome::Down => CheckResult {
                outcome,
                cause: Some(Cause::Timeout),
                message: Some("no answer within 10 s (connecting to 198.51.100.7:80)".to_owned()),
                ..result
            },
            _ => result,
        }
    }

    /// Results of one tick of each schedule, in the order in which they were due.
    fn tick_results(&self, tick: i64, outcome: impl Fn(i64, &str) -> Outcome) -> Vec<CheckResult> {
        let schedules = self.phases.keys();
        let mut results: Vec<_> = schedules
            .map(|(site, region)| self.result(*site, region, tick, outcome(*site, region)))
            .collect();
        results.sort_by_key(|result| result.scheduled_at);
        results
    }

    async fn insert_tick(&self, tick: i64, outcome: impl Fn(i64, &str) -> Outcome) -> InsertSummary {
        self.world.insert_results(&self.tick_results(tick, outcome)).await
    }

    async fn list_windows(&self) -> Vec<String> {
        self.world
            .query_texts(
                "SELECT concat_ws(' ', region, prober, extract(epoch FROM doubtful_to - doubtful_from)::integer, hosts)
                 FROM report.doubtful_windows ORDER BY doubtful_from",
            )
            .await
    }
}

/// A region that reaches nothing; the others reach everything.
fn only_asia_fails(_: i64, region: &str) -> Outcome {
    if region == ASIA { Outcome::Down } else { Outcome::Up }
}

#[tokio::test]
async fn a_prober_that_reaches_nothing_while_another_region_reaches_the_same_hosts_opens_no_incident() {
    let fleet = Fleet::new(2, Duration::from_secs(300)).await;

    let mut recorded = Vec::new();
    for tick in 1..6 {
        recorded.extend(fleet.insert_tick(tick, only_asia_fails).await.incidents.doubts);
    }
    assert_eq!(fleet.world.count_incidents().await, (0, 0), "the site of that region alone has none either");
    assert_eq!(fleet.list_windows().await, ["asia asia-1 600 5"]);
    let [doubt] = &recorded[..] else { panic!("{recorded:?}") };
    assert_eq!((doubt.region.as_str(), doubt.prober.as_str(), doubt.hosts), ("asia", "asia-1", 5));
    assert_eq!(incidents::list_open_windows(&fleet.world.store).await.unwrap(), recorded);
    let down = "SELECT count(*) FROM picket.check_results WHERE outcome = 'down'";
    assert_eq!(fleet.world.query_number(down).await, 30, "the ledger has what the prober saw");

    fleet.insert_tick(6, |_, _| Outcome::Up).await;
    let [window] = &fleet.list_windows().await[..] else { panic!("one window") };
    assert_ne!(window, "asia asia-1 600 5", "its first response ends the doubt");
    assert!(incidents::list_open_windows(&fleet.world.store).await.unwrap().is_empty());

    let first = fleet.sites[0];
    let one_fails = |site, region: &str| only_asia_fails(site, if site == first { region } else { "" });
    for tick in 7..9 {
        fleet.insert_tick(tick, one_fails).await;
    }
    assert_eq!(fleet.world.count_incidents().await, (1, 1), "its network works, and one site does not");
}

#[tokio::test]
async fn a_doubt_lasts_ten_minutes_and_a_new_name_gives_its_region_no_second_one() {
    let fleet = Fleet::new(2, Duration::from_secs(1_500)).await;
    // Ten minutes are 120 ticks.
    for tick in 1..115 {
        fleet.insert_tick(tick, only_asia_fails).await;
    }
    assert_eq!(fleet.world.count_incidents().await, (0, 0));

    for tick in 115..125 {
        fleet.insert_tick(tick, only_asia_fails).await;
    }
    assert_eq!(fleet.world.count_incidents().await, (6, 6), "what lasts is an outage of that region");
    assert_eq!(fleet.list_windows().await, ["asia asia-1 600 5"]);

    // Restarted under another name, the prober reaches the sites, and then nothing again.
    let rename = |mut results: Vec<CheckResult>| {
        for result in results.iter_mut().filter(|result| result.region.as_str() == ASIA) {
            result.prober = "asia-2".to_owned();
        }
        results
    };
    for tick in 125..127 {
        let up = rename(fleet.tick_results(tick, |_, _| Outcome::Up));
        fleet.world.insert_results(&up).await;
    }
    assert_eq!(fleet.world.count_incidents().await, (6, 0));
    for tick in 127..133 {
        let down = rename(fleet.tick_results(tick, only_asia_fails));
        fleet.world.insert_results(&down).await;
    }
    assert_eq!(fleet.world.count_incidents().await.1, 6, "at once, for there was a doubt until lately");
    assert_eq!(fleet.list_windows().await, ["asia asia-1 600 5"]);
}

#[tokio::test]
async fn a_region_that_lies_raises_no_doubt_about_what_two_others_see() {
    let fleet = Fleet::new(3, Duration::from_secs(300)).await;
    fleet.world.execute_sql("UPDATE picket.sites SET quorum = NULL").await;
    let liar = |_: i64, region: &str| if region == "us" { Outcome::Up } else { Outcome::Down };

    for tick in 1..4 {
        fleet.insert_tick(tick, liar).await;
    }

    let shared = "SELECT count(*) FROM picket.incidents WHERE closed_at IS NULL AND regions = '{asia,eu}'";
    assert_eq!(fleet.world.query_number(shared).await, SHARED_SITES as i64);
    assert!(fleet.list_windows().await.is_empty());
}

#[tokio::test]
async fn an_outage_that_most_other_results_confirm_is_not_doubted() {
    let fleet = Fleet::new(2, Duration::from_secs(300)).await;
    // Two of five hosts are up for the other region: the sites are down, not the prober.
    let spared = fleet.sites[..2].to_vec();
    let outage = |site: i64, region: &str| match region == ASIA || !spared.contains(&site) {
        true => Outcome::Down,
        false => Outcome::Up,
    };

    for tick in 1..4 {
        fleet.insert_tick(tick, outage).await;
    }

    assert!(fleet.list_windows().await.is_empty());
    let open = fleet.world.count_incidents().await.1;
    assert_eq!(open, 4, "of six: those that the other region reaches wait a minute");
}

#[tokio::test]
async fn a_contradicted_failure_waits_until_another_check_of_its_prober_and_a_minute_at_most() {
    let fleet = Fleet::new(2, Duration::from_secs(300)).await;
    let site = fleet.sites[0];
    let failing =
        |tick| [fleet.result(site, ASIA, tick, Outcome::Down), fleet.result(site, "eu", tick, Outcome::Up)];

    // Nothing is known of the prober but these failures.
    for tick in 1..4 {
        fleet.world.insert_results(&failing(tick)).await;
    }
    assert_eq!(fleet.world.count_incidents().await, (0, 0));
    for tick in 4..14 {
        fleet.world.insert_results(&failing(tick)).await;
    }
    assert_eq!(fleet.world.count_incidents().await, (1, 1));
    assert!(fleet.list_windows().await.is_empty(), "one host is no reason to doubt");

    let other = fleet.sites[1];
    for tick in 14..17 {
        let own =
            [fleet.result(other, ASIA, tick, Outcome::Down), fleet.result(other, "eu", tick, Outcome::Up)];
        let reached = fleet.result(fleet.sites[2], ASIA, tick, Outcome::Up);
        fleet.world.insert_results(&own).await;
        fleet.world.insert_results(&[reached]).await;
    }
    assert_eq!(fleet.world.count_incidents().await, (2, 2), "the prober reached another site meanwhile");
}

#[tokio::test]
async fn a_site_that_its_only_region_cannot_reach_has_its_incident_at_once() {
    let fleet = Fleet::new(2, Duration::from_secs(300)).await;
    for tick in 1..3 {
        fleet.world.insert_results(&[fleet.result(fleet.lone_site, ASIA, tick, Outcome::Down)]).await;
    }

    assert_eq!(fleet.world.count_incidents().await, (1, 1), "nobody contradicts it");
}

#[tokio::test]
async fn sinks_that_find_the_same_trouble_at_once_record_one_doubt() {
    let fleet = Fleet::new(2, Duration::from_secs(300)).await;
    fleet.insert_tick(1, only_asia_fails).await;
    let results = fleet.tick_results(2, only_asia_fails);
    let (mine, yours): (Vec<_>, Vec<_>) =
        results.into_iter().partition(|result| result.site_id.is_some_and(|site| site.0 % 2 == 0));
    let other = ResultStore::new(fleet.world.store.clone());

    tokio::join!(fleet.world.insert_results(&mine), insert_into_store(&other, &yours, now()));
    fleet.insert_tick(3, only_asia_fails).await;

    let shared = format!("SELECT count(*) FROM picket.incidents WHERE site_id <> {}", fleet.lone_site);
    assert_eq!((fleet.list_windows().await.len(), fleet.world.query_number(&shared).await), (1, 0));
}

#[tokio::test]
async fn a_comparison_looks_up_the_ticks_of_a_sample_of_the_sites() {
    const SITES: i64 = 600;
    let world = new_world().await;
    world.add_sites(SITES).await;
    // The first region fails at a tick, and the others are up at a later one.
    world
        .execute_sql(&format!(
            "INSERT INTO picket.check_results (scheduled_at, site_id, region_id, kind, outcome, prober)
             SELECT to_timestamp((floor((extract(epoch FROM now()) * 1000 - phase_ms) / interval_ms) * interval_ms + phase_ms) / 1000.0)
                        - (CASE name WHEN '{ASIA}' THEN 20 ELSE 10 END) * interval_ms * interval '1 ms',
                    site_id, region_id, 'scheduled', (CASE name WHEN '{ASIA}' THEN 'down' ELSE 'up' END)::picket.outcome, name || '-1'
             FROM picket.schedules JOIN picket.regions ON id = region_id WHERE site_id <> {};
             ANALYZE",
            world.site
        ))
        .await;
    let mut transaction = world.pool.begin().await.unwrap();
    // Counts of earlier transactions of the session may be among these.
    let count = "SELECT idx_scan FROM pg_stat_xact_user_tables WHERE relname = 'schedules'";
    let before: i64 = sqlx::query_scalar(count).fetch_one(&mut *transaction).await.unwrap();

    let compared: String = sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT (compared_sites, contradicted_sites)::text
         FROM picket.regions CROSS JOIN LATERAL picket.compare_prober(id, '{ASIA}-1', NULL, now()) WHERE name = '{ASIA}'"
    )))
    .fetch_one(&mut *transaction)
    .await
    .unwrap();
    let after: i64 = sqlx::query_scalar(count).fetch_one(&mut *transaction).await.unwrap();

    assert_eq!(compared, "(200,200)");
    let lookups = after - before;
    assert!(lookups <= 2 * 200, "{lookups} lookups for 200 sites in two other regions");
}
