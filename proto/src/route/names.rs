//! Names of routes that people have not named.

use std::collections::BTreeSet;

use super::RouteDefinition;
use crate::ValidationError;

/// Longest name made here, so that a number fits behind it.
const MAX_NAME_BYTES: usize = 60;

/// Gives the routes without a name one that says what they do, such as `shop-to-slack-ops`, and that
/// is unique among `routes` and `taken`. The same list always has the same names.
pub fn name_routes(routes: &mut [RouteDefinition], taken: impl IntoIterator<Item = String>) {
    let mut names: BTreeSet<String> = taken.into_iter().collect();
    names.extend(routes.iter().map(|route| route.name.clone()).filter(|name| !name.is_empty()));
    for route in routes.iter_mut().filter(|route| route.name.is_empty()) {
        let base = describe_route(route);
        let numbered = (2_usize..).map(|number| format!("{base}-{number}"));
        let free = std::iter::once(base.clone()).chain(numbered).find(|name| !names.contains(name));
        route.name = free.unwrap_or(base);
        names.insert(route.name.clone());
    }
}

/// Refuses a route with the name of an earlier one.
///
/// # Errors
/// If one of `earlier` has the name; a route without a name has none.
pub fn refuse_taken_name(
    route: RouteDefinition,
    earlier: &[RouteDefinition],
) -> Result<RouteDefinition, ValidationError> {
    match !route.name.is_empty() && earlier.iter().any(|earlier| earlier.name == route.name) {
        true => Err(ValidationError::new("name", route.name, "a name that no other route has")),
        false => Ok(route),
    }
}

fn describe_route(route: &RouteDefinition) -> String {
    let tags: Vec<&str> = route.tags.iter().chain(&route.all_tags).map(String::as_str).collect();
    let what = match (route.fallback, tags.is_empty(), route.sites.is_empty()) {
        (true, _, _) => "fallback".to_owned(),
        (_, false, _) => tags.join("-"),
        (_, true, false) => "sites".to_owned(),
        (_, true, true) => "all".to_owned(),
    };
    let mut name = String::new();
    for letter in format!("{what}-to-{}", route.channels.join("-")).to_lowercase().chars() {
        let letter = match letter {
            'a'..='z' | '0'..='9' | '_' | '.' => letter,
            _ => '-',
        };
        // A name starts with a letter or a digit, and is easier to type without runs of '-'.
        if name.len() < MAX_NAME_BYTES
            && (letter.is_ascii_alphanumeric() || !name.is_empty())
            && !(letter == '-' && name.ends_with('-'))
        {
            name.push(letter);
        }
    }
    name.truncate(name.trim_end_matches('-').len());
    name
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{channel_definition::check_notification_name, route::RouteFields};

    #[test]
    fn routes_without_a_name_get_one_from_what_they_do_and_no_two_have_the_same() {
        let mut routes: Vec<RouteDefinition> = [
            json!({"channels": ["ops"]}),
            json!({"channels": ["ops"], "tags": ["Shop", "ä ö"]}),
            json!({"channels": ["ops"], "name": "mine"}),
            json!({"channels": ["ops"]}),
            json!({"channels": ["mail"], "fallback": true}),
            json!({"channels": ["mail"], "sites": ["7"]}),
            json!({"channels": ["mail"], "tags": ["x".repeat(64)]}),
        ]
        .into_iter()
        .map(|fields| serde_json::from_value::<RouteFields>(fields).unwrap().into_definition(0).unwrap())
        .collect();

        name_routes(&mut routes, ["fallback-to-mail".to_owned()]);

        let names: Vec<&str> = routes.iter().map(|route| route.name.as_str()).collect();
        let long = "x".repeat(60);
        assert_eq!(
            names,
            [
                "all-to-ops",
                "shop-to-ops",
                "mine",
                "all-to-ops-2",
                "fallback-to-mail-2",
                "sites-to-mail",
                &long
            ]
        );
        names.iter().for_each(|name| check_notification_name("name", name).unwrap());
    }
}
