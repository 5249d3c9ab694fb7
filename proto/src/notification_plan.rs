//! The changes that bring stored channels and routes to a wanted definition: of `picket apply`, and
//! of the API.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{SiteId, ValidationError, channel_definition::ChannelDefinition, route::RouteDefinition};

/// Wanted channels and routes. What is absent is left alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DesiredNotifications {
    /// All wanted channels.
    pub channels: Option<Vec<ChannelDefinition>>,
    /// All wanted routes.
    pub routes: Option<Vec<RouteDefinition>>,
}

/// A stored channel or route, as far as a plan compares it.
#[derive(Clone, Debug)]
pub struct StoredDefinition<T> {
    /// Name, available even if the definition is invalid.
    pub name: String,
    /// The definition, or the reason why it cannot be read.
    pub definition: Result<T, ValidationError>,
}

/// Changes to channels and routes.
#[derive(Clone, Debug, Default)]
pub struct NotificationPlan {
    /// Changes to channels.
    pub channels: NamedPlan<ChannelDefinition>,
    /// Changes to routes.
    pub routes: NamedPlan<RouteDefinition>,
}

/// Changes to definitions that are known by their names.
#[derive(Clone, Debug)]
pub struct NamedPlan<T> {
    /// Definitions to add.
    pub add: Vec<T>,
    /// Definitions to change: the stored one, or the reason why it cannot be read, and the wanted
    /// one.
    pub change: Vec<(Result<T, ValidationError>, T)>,
    /// Names of definitions to remove.
    pub remove: Vec<String>,
    /// Names of definitions that are not wanted and stay.
    pub kept: Vec<String>,
    /// Number of definitions that are as wanted.
    pub unchanged: usize,
}

impl<T> Default for NamedPlan<T> {
    fn default() -> Self {
        let (add, change) = (Vec::new(), Vec::new());
        Self { add, change, remove: Vec::new(), kept: Vec::new(), unchanged: 0 }
    }
}

/// A definition that is known by its name.
pub trait NamedDefinition: Clone + PartialEq {
    /// The name.
    fn name(&self) -> &str;

    /// The fields that differ from their defaults, without the name.
    fn to_json_fields(&self) -> Map<String, Value>;
}

impl NamedDefinition for ChannelDefinition {
    fn name(&self) -> &str {
        &self.name
    }

    fn to_json_fields(&self) -> Map<String, Value> {
        to_object(&self.to_fields())
    }
}

impl NamedDefinition for RouteDefinition {
    fn name(&self) -> &str {
        &self.name
    }

    fn to_json_fields(&self) -> Map<String, Value> {
        let mut fields = to_object(&self.to_fields());
        fields.remove("name");
        fields.insert("position".to_owned(), self.position.into());
        fields
    }
}

fn to_object<T: Serialize>(fields: &T) -> Map<String, Value> {
    match serde_json::to_value(fields) {
        Ok(Value::Object(fields)) => fields,
        // Only non-text keys and non-finite numbers can fail, and these fields have neither.
        _ => Map::new(),
    }
}

impl<T: NamedDefinition> NamedPlan<T> {
    /// Plans the changes from `stored` to `wanted`. With `prune`, what is not wanted is removed.
    pub fn new(wanted: &[T], stored: &[StoredDefinition<T>], prune: bool) -> Self {
        let mut plan = Self::default();
        let by_name: BTreeMap<&str, &StoredDefinition<T>> =
            stored.iter().map(|stored| (stored.name.as_str(), stored)).collect();
        let names: BTreeSet<&str> = wanted.iter().map(NamedDefinition::name).collect();
        for wanted in wanted {
            match by_name.get(wanted.name()).map(|stored| &stored.definition) {
                None => plan.add.push(wanted.clone()),
                Some(Ok(there)) if there == wanted => plan.unchanged += 1,
                Some(there) => plan.change.push((there.clone(), wanted.clone())),
            }
        }
        let missing = stored.iter().map(|stored| &stored.name).filter(|name| !names.contains(name.as_str()));
        let missing = missing.cloned().collect();
        match prune {
            true => plan.remove = missing,
            false => plan.kept = missing,
        }
        plan
    }

    /// Returns true if the plan changes nothing.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.change.is_empty() && self.remove.is_empty()
    }

    /// Number of changes by kind, as text.
    pub fn summary(&self) -> String {
        let (added, changed, removed) = (self.add.len(), self.change.len(), self.remove.len());
        format!("{added} added, {changed} changed, {removed} removed, {} unchanged", self.unchanged)
    }
}

impl NotificationPlan {
    /// Plans the changes from the stored channels and routes, these in their order, to `wanted`.
    /// `sites` are all stored sites with their URLs.
    pub fn new(
        wanted: &DesiredNotifications,
        channels: &[StoredDefinition<ChannelDefinition>],
        routes: &[StoredDefinition<RouteDefinition>],
        sites: &[(SiteId, &str)],
        prune: bool,
    ) -> Self {
        let plan_routes = |wanted: &Vec<RouteDefinition>| {
            let canonical = |route: &RouteDefinition| RouteDefinition {
                sites: name_sites(&route.sites, sites),
                ..route.clone()
            };
            let mut wanted: Vec<RouteDefinition> = wanted.iter().map(canonical).collect();
            place_routes(&mut wanted, routes);
            NamedPlan::new(&wanted, routes, prune)
        };
        Self {
            channels: wanted
                .channels
                .as_ref()
                .map(|wanted| NamedPlan::new(wanted, channels, prune))
                .unwrap_or_default(),
            routes: wanted.routes.as_ref().map(plan_routes).unwrap_or_default(),
        }
    }

    /// Returns true if the plan changes nothing.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.routes.is_empty()
    }
}

/// Gives the wanted routes positions in the order of their list: the stored ones, if the stored routes
/// have this order already, and else 0, 1, 2 and so on. So a file that names the stored routes as they
/// are changes none of them, whatever their positions.
fn place_routes(wanted: &mut [RouteDefinition], stored: &[StoredDefinition<RouteDefinition>]) {
    let positions = keep_positions(wanted, stored);
    for (index, route) in wanted.iter_mut().enumerate() {
        route.position = match &positions {
            Some(positions) => positions[index],
            None => i64::try_from(index).unwrap_or(i64::MAX),
        };
    }
}

/// Positions that leave the stored routes where they are and put new ones between them; `None` if the
/// order differs or leaves no room. Of two routes with a position, the older one is first.
fn keep_positions(
    wanted: &[RouteDefinition],
    stored: &[StoredDefinition<RouteDefinition>],
) -> Option<Vec<i64>> {
    let ranks: BTreeMap<&str, (usize, i64)> = stored
        .iter()
        .enumerate()
        .filter_map(|(rank, stored)| {
            Some((stored.name.as_str(), (rank, stored.definition.as_ref().ok()?.position)))
        })
        .collect();
    // The place of a route that cannot be read is unknown.
    let is_unreadable = |route: &RouteDefinition| {
        stored.iter().any(|stored| stored.name == route.name && stored.definition.is_err())
    };
    if wanted.iter().any(is_unreadable) {
        return None;
    }
    let places: Vec<Option<(usize, i64)>> =
        wanted.iter().map(|route| ranks.get(route.name.as_str()).copied()).collect();
    if !places.iter().flatten().is_sorted_by(|one, other| one.0 < other.0) {
        return None;
    }
    let mut positions: Vec<i64> = Vec::with_capacity(places.len());
    for (index, place) in places.iter().enumerate() {
        let before = positions.last().copied();
        let after = places[index..].iter().flatten().next().map(|(_, position)| *position);
        positions.push(match (place, before, after) {
            (Some((_, position)), _, _) => *position,
            (None, before, None) => before.map_or(0, |before| before + 1),
            (None, Some(before), Some(after)) if before < after => (before + 1).min(after - 1),
            (None, None, Some(after)) if after > 0 => after - 1,
            (None, _, Some(_)) => return None,
        });
    }
    positions.iter().all(|position| *position <= RouteDefinition::MAX_POSITION).then_some(positions)
}

/// The sites that `words` name by id or URL, each as the URL if that names no other site, and else
/// as the id; sorted. Words of sites that are still to be added stay.
pub fn name_sites(words: &[String], sites: &[(SiteId, &str)]) -> Vec<String> {
    let mut named = BTreeSet::new();
    // Most routes name no site.
    if words.is_empty() {
        return Vec::new();
    }
    let mut ids_by_url: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
    let mut urls_by_id: BTreeMap<i64, &str> = BTreeMap::new();
    for (id, url) in sites {
        ids_by_url.entry(url).or_default().insert(id.0);
        urls_by_id.insert(id.0, url);
    }
    let mut chosen = BTreeSet::new();
    for word in words {
        let by_id = word.parse().ok().filter(|id: &i64| urls_by_id.contains_key(id));
        match (by_id, ids_by_url.get(word.as_str())) {
            (None, None) => drop(named.insert(word.clone())),
            (by_id, by_url) => chosen.extend(by_id.into_iter().chain(by_url.into_iter().flatten().copied())),
        }
    }
    for id in &chosen {
        let url = urls_by_id.get(id).copied().unwrap_or_default();
        let all_chosen = ids_by_url.get(url).is_some_and(|ids| ids.is_subset(&chosen));
        named.insert(if all_chosen { url.to_owned() } else { id.to_string() });
    }
    named.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{channel_definition::ChannelFields, route::RouteFields};

    fn channel(name: &str, pace: &str) -> ChannelDefinition {
        let fields = json!({"kind": "slack", "url": {"secret": "s"}, "pace": pace});
        serde_json::from_value::<ChannelFields>(fields).unwrap().into_definition(name.into()).unwrap()
    }

    fn route(name: &str, sites: &[&str]) -> RouteDefinition {
        let fields = json!({"name": name, "channels": ["a"], "sites": sites});
        serde_json::from_value::<RouteFields>(fields).unwrap().into_definition(0).unwrap()
    }

    fn stored<T: NamedDefinition>(definition: &T) -> StoredDefinition<T> {
        StoredDefinition { name: definition.name().to_owned(), definition: Ok(definition.clone()) }
    }

    #[test]
    fn only_what_is_wanted_is_added_changed_and_pruned() {
        let (kept, slow, extra) = (channel("kept", "1s"), channel("slow", "1s"), channel("extra", "1s"));
        let wanted = DesiredNotifications {
            channels: Some(vec![kept.clone(), channel("slow", "9s"), channel("new", "1s")]),
            routes: None,
        };
        let there = [stored(&kept), stored(&slow), stored(&extra)];
        let routes = [stored(&route("r", &[]))];

        let plan = NotificationPlan::new(&wanted, &there, &routes, &[], true);
        assert_eq!(plan.channels.summary(), "1 added, 1 changed, 1 removed, 1 unchanged");
        assert_eq!(plan.channels.remove, ["extra"]);
        assert!(plan.routes.is_empty() && plan.routes.kept.is_empty());
        let gentle = NotificationPlan::new(&wanted, &there, &routes, &[], false);
        assert_eq!((gentle.channels.remove.len(), &gentle.channels.kept[..]), (0, &["extra".to_owned()][..]));
    }

    /// Positions after the plan that brings routes with these names and positions to the names.
    fn place(stored_routes: &[(&str, i64)], names: &[&str]) -> Vec<i64> {
        let there: Vec<_> = stored_routes
            .iter()
            .map(|(name, position)| stored(&RouteDefinition { position: *position, ..route(name, &[]) }))
            .collect();
        let mut wanted: Vec<RouteDefinition> = names.iter().map(|name| route(name, &[])).collect();
        place_routes(&mut wanted, &there);
        wanted.iter().map(|route| route.position).collect()
    }

    #[test]
    fn positions_stay_if_the_order_is_that_of_the_file_and_start_from_zero_if_not() {
        let there = [("a", 3), ("b", 7), ("c", 7), ("d", 1_000_000)];
        assert_eq!(place(&there, &["a", "b", "c", "d"]), [3, 7, 7, 1_000_000]);
        assert_eq!(place(&there, &["a", "c"]), [3, 7]);
        assert_eq!(
            place(&there, &["x", "a", "y", "z", "b", "c", "u", "d"]),
            [2, 3, 4, 5, 7, 7, 8, 1_000_000]
        );
        // Two routes with a position stand in the order of their ages, which a new one cannot come between.
        assert_eq!(place(&there, &["a", "b", "x", "c", "d"]), [0, 1, 2, 3, 4]);
        assert_eq!(place(&there, &["a", "b", "c", "d", "x"]), [0, 1, 2, 3, 4]);
        assert_eq!(place(&there, &["b", "a"]), [0, 1]);
        assert_eq!(place(&[("a", 0)], &["x", "a"]), [0, 1]);
        assert_eq!(place(&[("a", 1), ("b", 2)], &["a", "x", "y", "b"]), [1, 1, 1, 2]);
        assert_eq!(place(&[], &["a", "b"]), [0, 1]);
    }

    #[test]
    fn a_definition_that_cannot_be_read_is_changed() {
        let wanted = channel("ops", "1s");
        let why = ValidationError::new("kind", "carrier-pigeon", "slack");
        let broken = StoredDefinition { name: "ops".into(), definition: Err(why) };

        assert_eq!(NamedPlan::new(&[wanted], &[broken], false).change.len(), 1);
    }

    #[test]
    fn a_site_is_the_same_by_its_id_and_by_its_url_and_two_of_a_url_are_told_apart() {
        let sites = [(SiteId(1), "https://a/"), (SiteId(2), "https://b/"), (SiteId(3), "https://b/")];
        for (words, named) in [
            (&["1"][..], &["https://a/"][..]),
            (&["https://a/", "1"], &["https://a/"]),
            (&["2", "https://new/"], &["2", "https://new/"]),
            (&["3", "2"], &["https://b/"]),
            (&["9"], &["9"]),
        ] {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(name_sites(&words, &sites), named);
        }
        let wanted = DesiredNotifications { routes: Some(vec![route("r", &["1"])]), channels: None };
        let there = [stored(&route("r", &["https://a/"]))];
        assert!(NotificationPlan::new(&wanted, &[], &there, &sites, true).is_empty());
    }
}
