//! Channels and routes: their definitions, and whom an incident reaches.

use picket_proto::{
    SiteId,
    channel_definition::{ChannelDefinition, ChannelFields},
    notification_plan::{DesiredNotifications, NotificationPlan},
    route::{RouteDefinition, RouteFields},
    site::SiteSpec,
};
use picket_store::{
    Error, channels,
    definitions::{ApplyMode, DefinitionChanges, apply_definitions},
    regions,
    routes::{self, ReachFilter, RoutePlace},
    sites::{self, SiteChanges},
};
use serde_json::{Value, json};

use crate::{Database, new_database};

pub(crate) fn channel(name: &str) -> ChannelDefinition {
    let fields = json!({"kind": "slack", "url": {"secret": "slack-ops"}, "pace": "2s"});
    serde_json::from_value::<ChannelFields>(fields).unwrap().into_definition(name.to_owned()).unwrap()
}

pub(crate) fn route(fields: Value) -> RouteDefinition {
    serde_json::from_value::<RouteFields>(fields).unwrap().into_definition(0).unwrap()
}

pub(crate) async fn add_channels(database: &Database, names: &[&str]) {
    for name in names {
        channels::add_channel(&database.store, &channel(name)).await.unwrap();
    }
}

async fn add_site(database: &Database, url: &str, tags: &[&str]) -> SiteId {
    let mut spec = SiteSpec::new(url);
    spec.tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    sites::insert_site(&database.store, &spec).await.unwrap()
}

#[track_caller]
fn refused_field<T: std::fmt::Debug>(result: Result<T, Error>) -> (String, String) {
    match result.unwrap_err() {
        Error::Invalid(why) => (why.field, why.expected),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_channel_reads_back_equal_and_a_change_needs_the_version_that_was_read() {
    let database = new_database().await;
    let store = &database.store;
    add_channels(&database, &["ops"]).await;

    let read = channels::find_channel(store, "ops").await.unwrap().unwrap();
    assert_eq!(read.definition.clone().unwrap(), channel("ops"));
    assert_eq!((read.state.waiting, read.state.is_failing), (0, false));
    let paused = ChannelDefinition { enabled: false, ..channel("ops") };
    assert!(channels::update_channel(store, &paused, Some(&read.version)).await.unwrap());
    assert!(!channels::update_channel(store, &channel("ops"), Some(&read.version)).await.unwrap());
    assert!(!channels::remove_channel(store, "ops", Some(&read.version)).await.unwrap());
    assert_eq!(channels::list_channels(store).await.unwrap()[0].definition, Ok(paused));

    let (field, allowed) = refused_field(channels::add_channel(store, &channel("ops")).await);
    assert!(field == "name" && allowed.contains("no other channel"), "{field}: {allowed}");
    assert!(!channels::update_channel(store, &channel("none"), None).await.unwrap());
    assert!(channels::remove_channel(store, "ops", None).await.unwrap());
}

#[tokio::test]
async fn a_channel_of_an_unknown_kind_is_listed_with_the_reason() {
    let database = new_database().await;
    sqlx::query("INSERT INTO picket.channels (name, kind) VALUES ('new', 'pigeon')")
        .execute(&database.pool)
        .await
        .unwrap();

    let listed = channels::list_channels(&database.store).await.unwrap();

    assert_eq!(
        (listed[0].kind.as_str(), listed[0].definition.as_ref().unwrap_err().field.as_str()),
        ("pigeon", "kind")
    );
}

#[tokio::test]
async fn a_route_reads_back_equal_with_the_urls_of_its_sites() {
    let database = new_database().await;
    let store = &database.store;
    regions::add_region(store, &"eu".parse().unwrap()).await.unwrap();
    add_channels(&database, &["ops", "phone"]).await;
    let shop = add_site(&database, "https://shop.example/", &[]).await;
    let whole = route(json!({
        "name": "shop", "tags": ["shop"], "all_tags": ["prod"], "sites": [shop.0.to_string()], "regions": ["eu"], "min_regions": 1,
        "events": ["incident", "warning"], "channels": ["ops"], "wait": "30s", "delay": "2m", "group_by": "tag", "remind": "never",
        "storm_after": 50, "escalate": [{"after": "15m", "channels": ["phone"]}],
        "active": {"time_zone": "Europe/Berlin", "hours": [{"days": ["mon-fri"], "from": "08:00", "to": "18:00"}]}, "fallback": true}));

    routes::add_route(store, &whole, RoutePlace::Defined).await.unwrap();
    routes::add_route(store, &route(json!({"name": "all", "channels": ["ops"]})), RoutePlace::Last)
        .await
        .unwrap();

    let read = routes::list_routes(store).await.unwrap();
    let expected = RouteDefinition { sites: vec!["https://shop.example/".into()], ..whole.clone() };
    assert_eq!(read[0].definition.as_ref().unwrap(), &expected);
    assert_eq!(read[1].definition.as_ref().unwrap().position, 1);
    let renamed = RouteDefinition { name: "store".into(), ..expected };
    assert!(routes::update_route(store, "shop", &renamed, Some(&read[0].version)).await.unwrap());
    assert!(!routes::update_route(store, "store", &renamed, Some(&read[0].version)).await.unwrap());
    assert_eq!(routes::find_route(store, "store").await.unwrap().unwrap().definition, Ok(renamed));
    assert!(routes::remove_route(store, "store", None).await.unwrap());
    assert!(!routes::remove_route(store, "store", None).await.unwrap());
}

#[tokio::test]
async fn a_route_that_names_what_there_is_not_is_refused_and_so_is_removing_a_named_channel() {
    let database = new_database().await;
    let store = &database.store;
    regions::add_region(store, &"eu".parse().unwrap()).await.unwrap();
    add_channels(&database, &["ops", "phone"]).await;
    let hours = |zone: &str| json!({"time_zone": zone, "hours": [{"from": "08:00", "to": "18:00"}]});
    for (fields, field, allowed) in [
        (json!({"name": "r", "channels": ["ops", "mail"]}), "channels", "ops, phone"),
        (
            json!({"name": "r", "channels": ["ops"], "escalate": [{"after": "1h", "channels": ["boss"]}]}),
            "escalate[0].channels",
            "ops, phone",
        ),
        (json!({"name": "r", "channels": ["ops"], "regions": ["us"]}), "regions", "eu"),
        (
            json!({"name": "r", "channels": ["ops"], "sites": ["https://none.example/"]}),
            "sites",
            "id or the URL",
        ),
        (json!({"name": "r", "channels": ["ops"], "sites": ["7"]}), "sites", "id or the URL"),
        (
            json!({"name": "r", "channels": ["ops"], "active": hours("Europe/Atlantis")}),
            "active.time_zone",
            "Europe/Berlin",
        ),
    ] {
        let refused = refused_field(routes::add_route(store, &route(fields), RoutePlace::Last).await);
        assert!(refused.0 == field && refused.1.contains(allowed), "{refused:?}");
    }
    let good =
        route(json!({"name": "r", "channels": ["ops"], "escalate": [{"after": "1h", "channels": ["phone"]}],
        "active": hours("UTC")}));
    routes::add_route(store, &good, RoutePlace::Last).await.unwrap();
    let (field, _) = refused_field(routes::add_route(store, &good, RoutePlace::Last).await);
    assert_eq!(field, "name");

    for name in ["ops", "phone"] {
        let (_, allowed) = refused_field(channels::remove_channel(store, name, None).await);
        assert!(allowed.contains("remove these routes first: r"), "{allowed}");
    }
    routes::remove_route(store, "r", None).await.unwrap();
    assert!(channels::remove_channel(store, "phone", None).await.unwrap());
}

#[tokio::test]
async fn the_reach_of_sites_counts_those_that_no_channel_is_told_about() {
    let database = new_database().await;
    let store = &database.store;
    regions::add_region(store, &"eu".parse().unwrap()).await.unwrap();
    add_channels(&database, &["ops", "mail", "phone"]).await;
    let tags: [(&str, &[&str]); 4] =
        [("shop", &["shop", "prod"]), ("blog", &["blog"]), ("lab", &["lab"]), ("plain", &[])];
    for (name, tags) in tags {
        add_site(&database, &format!("https://{name}.example/"), tags).await;
    }
    let count = async || {
        let reach = routes::count_reach(store, None).await.unwrap();
        (reach.sites, reach.unreached, reach.routes)
    };
    assert_eq!(count().await, (4, 4, 0));
    for fields in [
        json!({"name": "shop", "tags": ["shop"], "channels": ["ops"], "escalate": [{"after": "15m", "channels": ["phone"]}]}),
        json!({"name": "prod", "all_tags": ["prod"], "regions": ["eu"], "channels": ["mail", "ops"]}),
        json!({"name": "blog", "sites": ["https://blog.example/"], "channels": ["mail"]}),
        json!({"name": "certificates", "events": ["certificate"], "channels": ["mail"]}),
    ] {
        routes::add_route(store, &route(fields), RoutePlace::Last).await.unwrap();
    }

    assert_eq!(count().await, (4, 2, 4));
    assert_eq!(routes::count_reach(store, Some(&["lab".to_owned()])).await.unwrap().unreached, 1);
    let reach = routes::list_reach(store, ReachFilter::default()).await.unwrap();
    let shown: Vec<String> = reach
        .iter()
        .map(|site| {
            [&site.routes, &site.channels, &site.escalation_channels].map(|names| names.join(",")).join(" ")
        })
        .collect();
    assert_eq!(shown, ["shop,prod mail,ops phone", "blog mail ", "  ", "  "]);
    let rest = route(json!({"name": "rest", "channels": ["mail"], "fallback": true}));
    routes::add_route(store, &rest, RoutePlace::Last).await.unwrap();
    assert_eq!(count().await, (4, 0, 5));
    // Nobody is told by a channel that is paused.
    let paused = ChannelDefinition { enabled: false, ..channel("mail") };
    channels::update_channel(store, &paused, None).await.unwrap();
    assert_eq!(count().await, (4, 3, 5));
}

#[tokio::test]
async fn a_file_of_definitions_is_applied_as_a_whole_or_not_at_all() {
    let database = new_database().await;
    let store = &database.store;
    let wanted = DesiredNotifications {
        channels: Some(vec![channel("ops")]),
        routes: Some(vec![route(
            json!({"name": "new", "sites": ["https://new.example/"], "channels": ["ops"]}),
        )]),
    };
    let changes = DefinitionChanges {
        sites: SiteChanges { inserts: vec![SiteSpec::new("https://new.example/")], ..SiteChanges::default() },
        notifications: NotificationPlan::new(&wanted, &[], &[], &[], false),
    };

    let tried = apply_definitions(store, &changes, ApplyMode::DryRun).await.unwrap();
    assert_eq!((tried.reach.sites, tried.reach.unreached), (1, 0));
    assert!(sites::list_sites(store).await.unwrap().is_empty());
    assert!(channels::list_channels(store).await.unwrap().is_empty());

    let mut broken = changes.clone();
    broken.notifications.routes.add[0].channels = vec!["none".into()];
    assert_eq!(refused_field(apply_definitions(store, &broken, ApplyMode::Commit).await).0, "channels");
    assert!(sites::list_sites(store).await.unwrap().is_empty());

    apply_definitions(store, &changes, ApplyMode::Commit).await.unwrap();
    let stored: Vec<_> =
        routes::list_routes(store).await.unwrap().iter().map(routes::Route::to_stored).collect();
    let there: Vec<_> =
        channels::list_channels(store).await.unwrap().iter().map(channels::Channel::to_stored).collect();
    let sites = [(SiteId(1), "https://new.example/")];
    assert!(NotificationPlan::new(&wanted, &there, &stored, &sites, true).is_empty());

    let none = DesiredNotifications { channels: Some(Vec::new()), routes: Some(Vec::new()) };
    let removal = DefinitionChanges {
        notifications: NotificationPlan::new(&none, &there, &stored, &sites, true),
        ..DefinitionChanges::default()
    };
    let left = apply_definitions(store, &removal, ApplyMode::Commit).await.unwrap();
    assert_eq!((left.reach.routes, left.reach.unreached), (0, 1));
}
