//! Events as the triggers write them, against their type and their JSON Schema.

use picket_proto::{CheckResult, Event, Warning};
use serde_json::Value;

use super::{REGIONS, World, new_world};

const EVENT_SCHEMA: &str = include_str!("../../../../proto/schema/event.schema.json");

/// Subject, id and payload of each event, oldest first.
async fn load_events(world: &World) -> Vec<(String, String, Value)> {
    sqlx::query_as("SELECT subject, event_id, payload FROM picket.outbox ORDER BY id")
        .fetch_all(&world.pool)
        .await
        .unwrap()
}

/// Asserts that each event is its type's serialization, without a field more or less, and valid by
/// the schema. Returns the events.
async fn assert_events_match_their_type(world: &World) -> Vec<Event> {
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(&serde_json::from_str(EVENT_SCHEMA).unwrap())
        .unwrap();
    let mut events = Vec::new();
    for (subject, id, payload) in load_events(world).await {
        let event: Event =
            serde_json::from_value(payload.clone()).unwrap_or_else(|why| panic!("{why}: {payload}"));
        assert_eq!(serde_json::to_value(&event).unwrap(), payload);
        let errors: Vec<_> = validator.iter_errors(&payload).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}: {payload}");
        assert_eq!((event.subject().as_str(), event.id()), (subject.as_str(), id.as_str()));
        events.push(event);
    }
    events
}

impl World {
    async fn insert_outage(&self) {
        let outage: Vec<_> =
            (0..2).flat_map(|tick| [self.down_result(0, tick), self.down_result(1, tick)]).collect();
        self.insert_results(&outage).await;
    }
}

#[tokio::test]
async fn every_event_of_a_trigger_matches_its_type_and_schema() {
    let world = new_world().await;
    world.execute_sql("UPDATE picket.sites SET name = 'shop', tags = '{a,b}'").await;
    world.insert_outage().await;
    for tick in 2..4 {
        world.insert_results(&[world.up_result(0, tick), world.up_result(1, tick)]).await;
    }
    for tick in 4..6 {
        let expires_at = "2037-01-02T03:04:05.000000Z";
        let details = serde_json::json!({ "certificate": { "serial": "0a1b", "expires_at": expires_at, "subject": "shop.example" } });
        let warned = |region| CheckResult {
            warnings: vec![Warning::Certificate],
            details: details.as_object().cloned(),
            ..world.up_result(region, tick)
        };
        world.insert_results(&[warned(0), warned(1)]).await;
    }
    world.execute_sql("UPDATE picket.sites SET enabled = false").await;
    world.execute_sql("SET TimeZone = 'Asia/Tokyo'; INSERT INTO picket.silent_regions (region_id, since) SELECT id, clock_timestamp() FROM picket.regions WHERE name = 'eu'; DELETE FROM picket.silent_regions").await;

    let events = assert_events_match_their_type(&world).await;

    assert_eq!(
        events.iter().map(|event| event.subject().as_str()).collect::<Vec<_>>(),
        [
            "picket.event.incident.opened",
            "picket.event.incident.closed",
            "picket.event.warning.opened",
            "picket.event.warning.closed",
            "picket.event.region.silent",
            "picket.event.region.back"
        ]
    );
    let durations = world
        .query_texts(
            "SELECT (trunc(extract(epoch FROM (payload ->> 'closed_at')::timestamptz - (payload ->> 'opened_at')::timestamptz) * 1000)
                     = (payload ->> 'duration_ms')::numeric)::text
             FROM picket.outbox WHERE payload ->> 'event' = 'incident.closed'",
        )
        .await;
    assert_eq!(durations, ["true"], "from the opening to the closing");
    let normalized = world
        .query_texts(
            r#"SELECT regexp_replace(regexp_replace(regexp_replace(regexp_replace(payload::text,
                   '\d{4}-\d\d-\d\dT[0-9:.]{15}Z', 'TIME', 'g'), '\d{13}', 'MS'), 'in \d+ days', 'in N days'),
                   '"duration_ms": \d+', '"duration_ms": MS')
               FROM picket.outbox ORDER BY id"#,
        )
        .await
        .join("\n");
    insta::assert_snapshot!("events", normalized);
}

#[tokio::test]
async fn an_event_with_an_unknown_or_unscheduled_site_or_overlong_text_matches_its_type() {
    let world = new_world().await;
    world.insert_outage().await;
    world.execute_sql("DELETE FROM picket.sites").await;
    world
        .execute_sql(&format!(
            "INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, cause, message, regions)
         VALUES (4711, clock_timestamp(), clock_timestamp(), NULL, NULL, '{{}}'),
                (4712, clock_timestamp(), clock_timestamp(), 'dns', repeat('é', 100000), '{{{}}}')",
            REGIONS.join(",")
        ))
        .await;

    let events = assert_events_match_their_type(&world).await;

    let incidents: Vec<_> = events.iter().map(|event| event.incident().unwrap()).collect();
    assert_eq!(incidents.len(), 4);
    assert!(!incidents[0].unwatched && incidents[1].unwatched);
    assert!(incidents[2].url.is_none() && incidents[2].tags.is_none() && incidents[2].cause.is_none());
    assert!(incidents[3].message.as_ref().unwrap().ends_with('…'));
}
