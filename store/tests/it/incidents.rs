//! Incidents: one for each outage, with any number of writers, and their events.

mod cost;
mod doubts;
mod events;
mod evidence;
mod lies;
mod warnings;
mod world;
mod writers;

use std::{collections::HashMap, time::Duration};

use picket_proto::{Cause, CheckKind, CheckResult, Outcome, SiteId, Timestamp};
use picket_store::{
    maintenance::{self, MaintenanceTarget},
    outbox, regions,
    results::{IncomingResult, ResultContent, ResultStore},
};
use sqlx::{AssertSqlSafe, types::time::OffsetDateTime};

use self::world::{INTERVAL, REGIONS, World, new_world};
use crate::results::{incoming_result, missed_result, now, up_result};

#[tokio::test]
async fn an_outage_is_one_incident_with_two_events_and_no_remaining_state() {
    let world = new_world().await;

    let first = world.insert_results(&[world.down_result(0, 0)]).await;
    let second = world.insert_results(&[world.down_result(1, 0), world.up_result(2, 0)]).await;
    assert_eq!((first.incidents.confirmations[0].rounds, second.incidents.confirmations[0].rounds), (2, 1));
    world.insert_results(&[world.down_result(0, 1)]).await;
    let opened = world.insert_results(&[world.down_result(1, 1)]).await;
    assert_eq!((opened.incidents.opened, world.count_incidents().await), (1, (1, 1)));
    let status =
        "SELECT status || ' ' || (incident_id IS NOT NULL) || ' ' || regions_down FROM report.site_status";
    let last = [
        world.down_result(0, 2),
        world.down_result(1, 2),
        missed_result(world.site.0, REGIONS[2], world.tick_time(2, 1)),
    ];
    world.insert_results(&last).await;
    assert_eq!(world.query_texts(status).await, ["down true 0"], "its results are older than six ticks");

    world.insert_results(&[world.up_result(0, 3), world.down_result(0, 4), world.up_result(0, 5)]).await;
    world.insert_results(&[world.up_result(1, 3)]).await;
    assert_eq!(world.count_incidents().await, (1, 1), "one success is not two");
    let closed = world.insert_results(&[world.up_result(1, 4), world.up_result(2, 4)]).await;

    assert_eq!((closed.incidents.closed, world.count_incidents().await), (1, (1, 0)));
    assert_eq!(
        world.list_events().await,
        [
            "picket.event.incident.opened incident.1.TIME.opened",
            "picket.event.incident.closed incident.1.TIME.closed"
        ]
    );
    let row = "SELECT (site_id, first_failure_at < opened_at, cause, message, regions, duration > '0')::text
               FROM report.incidents";
    assert_eq!(
        world.query_texts(row).await,
        [format!("({},t,connect,refused,\"{{asia,eu}}\",t)", world.site)]
    );
    assert_eq!(world.count_site_states().await, 1, "one region still fails");
    world.insert_results(&[world.up_result(0, 6)]).await;
    assert_eq!(
        world.count_site_states().await,
        0,
        "{:?}",
        world.query_texts("SELECT regions::text FROM picket.site_states").await
    );
}

#[tokio::test]
async fn duplicate_and_out_of_order_results_change_nothing() {
    let world = new_world().await;
    let outage: Vec<_> =
        (0..4).flat_map(|tick| [world.down_result(0, tick), world.down_result(1, tick)]).collect();
    world.insert_results(&outage).await;
    world
        .insert_results(&[
            world.up_result(0, 6),
            world.up_result(0, 7),
            world.up_result(1, 6),
            world.up_result(1, 7),
        ])
        .await;
    assert_eq!(world.count_incidents().await, (1, 0));

    let again = world.insert_results(&outage).await;
    let late = world
        .insert_results(&[
            world.down_result(0, 4),
            world.down_result(1, 4),
            world.down_result(0, 5),
            world.down_result(1, 5),
        ])
        .await;
    let long_before = world
        .insert_results(&[world.down_result(2, -3), world.down_result(0, -3), world.down_result(0, -2)])
        .await;

    assert_eq!(again.count_inserted(), 0);
    assert_eq!((late.count_inserted(), long_before.count_inserted()), (4, 3));
    for written in [again, late, long_before] {
        assert_eq!((written.incidents.opened, written.incidents.closed), (0, 0));
        assert!(written.incidents.confirmations.iter().all(|suspect| suspect.rounds == 0), "{written:?}");
    }
    assert_eq!((world.count_incidents().await, world.list_events().await.len()), ((1, 0), 2));
}

#[tokio::test]
async fn a_result_that_replaces_a_missed_row_counts_if_it_is_the_newest() {
    let world = new_world().await;
    world.insert_results(&[world.down_result(0, 0), world.down_result(1, 0)]).await;
    let away = |region: usize| missed_result(world.site.0, REGIONS[region], world.tick_time(region, 1));
    world.insert_results(&[away(0), away(1)]).await;
    assert_eq!(world.count_incidents().await, (0, 0));

    world.insert_results(&[world.down_result(0, 1), world.down_result(1, 1)]).await;

    assert_eq!(world.count_incidents().await, (1, 1));
}

#[tokio::test]
async fn confirming_checks_count_beside_ticks() {
    let world = new_world().await;
    let confirm = |region: usize, millis: u64| CheckResult {
        kind: CheckKind::Confirm,
        scheduled_at: world.tick_time(0, 0).saturating_add(Duration::from_millis(millis)),
        ..world.down_result(region, 0)
    };

    world.insert_results(&[world.down_result(0, 0)]).await;
    world.insert_results(&[confirm(0, 300), confirm(1, 300), confirm(2, 300)]).await;
    assert_eq!(world.count_incidents().await, (0, 0));
    let opened = world.insert_results(&[confirm(1, 1_000)]).await;

    assert_eq!((opened.incidents.opened, opened.incidents.confirmations[0].rounds), (1, 0));
}

#[tokio::test]
async fn a_site_that_fails_in_maintenance_is_down_since_its_first_failure() {
    let world = new_world().await;
    let site = world.site;
    let closed = world.tick_time(0, -10);
    world
        .execute_sql(&format!(
            "INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, closed_at, regions)
             VALUES ({site}, timestamptz '{closed}' - interval '1 minute', '{closed}', '{closed}', '{{eu}}')"
        ))
        .await;
    let from = world.tick_time(0, 0).saturating_sub(Duration::from_secs(60));
    maintenance::add_window(&world.store, &MaintenanceTarget::Site(site), from, None).await.unwrap();
    // The first failure of asia is followed by a success; eu fails first of those that still fail.
    let ticks = [
        world.down_result(0, 2),
        world.up_result(0, 3),
        world.down_result(1, 56),
        world.down_result(1, 57),
        world.down_result(2, 57),
        world.up_result(0, 57),
    ];
    world.insert_results(&ticks).await;
    world.execute_sql(&format!("SELECT picket.refresh_site_conditions('{{{site}}}')")).await;

    let first = world.tick_time(1, 56);
    for view in ["report.site_status", "picket.site_summary"] {
        let (state, since) = match view {
            "report.site_status" => ("status", "since"),
            _ => ("state", "state_since"),
        };
        let found =
            format!("SELECT {state} || ' ' || ({since} = '{first}') FROM {view} WHERE site_id = {site}");
        assert_eq!(world.query_texts(&found).await, ["down true"], "{view}");
    }
    assert_eq!(world.count_incidents().await, (1, 0));
}

#[tokio::test]
async fn maintenance_opens_no_incident_until_its_end() {
    let world = new_world().await;
    let tag = format!("UPDATE picket.sites SET tags = '{{shop}}' WHERE id = {}", world.site);
    world.execute_sql(&tag).await;
    let (from, to) = (world.tick_time(0, 0).saturating_sub(Duration::from_secs(60)), world.tick_time(0, 4));
    let scope = MaintenanceTarget::Tag("shop".to_owned());
    let id = maintenance::add_window(&world.store, &scope, from, Some(to)).await.unwrap();

    for tick in 0..3 {
        let written = world.insert_results(&[world.down_result(0, tick), world.down_result(1, tick)]).await;
        assert_eq!((written.count_inserted(), written.incidents.confirmations.len()), (2, 0));
    }
    assert_eq!(world.count_incidents().await, (0, 0));
    let inside = format!("SELECT picket.in_maintenance({}, '{from}')::int::bigint", world.site);
    assert_eq!(world.query_number(&inside).await, 1);
    let windows = "SELECT count(*) FROM picket.maintenance_windows";
    assert_eq!(world.query_number(windows).await, 1);
    world.insert_results(&[world.down_result(0, 4), world.down_result(1, 5)]).await;

    assert_eq!(world.count_incidents().await, (1, 1));
    let listed = maintenance::list_windows(
        &world.store,
        maintenance::WindowFilter { all: true, ..Default::default() },
    )
    .await
    .unwrap();
    assert_eq!(
        (listed[0].id, listed[0].tag.as_deref(), listed[0].from, listed[0].to),
        (id, Some("shop"), from, Some(to))
    );
    assert!(maintenance::remove_window(&world.store, id, None).await.unwrap());
    assert!(!maintenance::remove_window(&world.store, id, None).await.unwrap());
    let refused = maintenance::add_window(&world.store, &MaintenanceTarget::Site(SiteId(-1)), from, Some(to))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("no site"), "{refused}");
}

#[tokio::test]
async fn pausing_or_removing_a_down_site_closes_its_incident() {
    for change in ["UPDATE picket.sites SET enabled = false", "DELETE FROM picket.sites"] {
        let world = new_world().await;
        world
            .insert_results(
                &(0..2)
                    .flat_map(|tick| [world.down_result(0, tick), world.down_result(1, tick)])
                    .collect::<Vec<_>>(),
            )
            .await;
        assert_eq!(world.count_incidents().await, (1, 1));

        world.execute_sql("UPDATE picket.sites SET name = 'shop'").await;
        assert_eq!(world.count_incidents().await, (1, 1), "it is watched as before");
        world.execute_sql(change).await;

        assert_eq!((world.count_incidents().await, world.count_site_states().await), ((1, 0), 0), "{change}");
        assert_eq!(world.list_events().await.len(), 2);
        // Results in flight open no new incident.
        world.insert_results(&[world.down_result(0, 3), world.down_result(1, 3)]).await;
        assert_eq!((world.count_incidents().await, world.count_site_states().await), ((1, 0), 0), "{change}");
    }
}

#[tokio::test]
async fn events_are_locked_in_order_by_one_publisher_and_released_once_published() {
    let world = new_world().await;
    for region in REGIONS {
        let silent = [(region.parse().unwrap(), Duration::from_secs(20))];
        assert_eq!(regions::record_silence(&world.store, &silent, &[]).await.unwrap(), (1, 0));
        assert_eq!(
            regions::record_silence(&world.store, &silent, &[]).await.unwrap(),
            (0, 0),
            "it is published once"
        );
    }
    let back = [REGIONS[0].parse().unwrap()];
    assert_eq!(regions::record_silence(&world.store, &[], &back).await.unwrap(), (0, 1));

    let taken = outbox::lock_next_events(&world.store).await.unwrap().unwrap();
    assert!(outbox::lock_next_events(&world.store).await.unwrap().is_none(), "another has them");
    let subjects: Vec<_> = taken.events.iter().map(|event| event.subject.as_str()).collect();
    assert_eq!(
        subjects,
        [["picket.event.region.silent"; 3].as_slice(), &["picket.event.region.back"]].concat()
    );
    let id = taken.events[0].event_id.clone();
    assert!(id.starts_with("region.asia.") && id.ends_with(".silent"), "{id}");
    let payload = taken.events[0].payload.clone().unwrap();
    assert!(payload.contains(&format!(r#""id": "{id}""#)), "{payload}");
    let done = outbox::SettledEvents { published: vec![0, 1, 2], ..outbox::SettledEvents::default() };
    taken.settle_events(&world.store, &done).await.unwrap();

    assert_eq!(outbox::measure_depth(&world.store).await.unwrap().0, 1);
    drop(outbox::lock_next_events(&world.store).await.unwrap());
    let left = picket_harness::eventually(Duration::from_secs(10), "dropped locks are free", async || {
        outbox::lock_next_events(&world.store).await.unwrap()
    })
    .await;
    assert_eq!(left.events[0].event_id, id.replace("silent", "back"));
}
