//! Rules that hold for every page, on pages with sample values.

mod samples;

use picket_harness::markup::{Element, parse_markup};

use self::samples::{HOSTILE, render_samples};

/// Each page with its elements.
fn parse_samples() -> impl Iterator<Item = (&'static str, Vec<Element>)> {
    render_samples().into_iter().map(|(name, html)| {
        let elements = parse_markup(&html).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, elements)
    })
}

#[test]
fn pages_are_well_formed_and_escape_every_text() {
    for (name, html) in render_samples() {
        let elements = parse_markup(&html).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!html.contains(HOSTILE), "{name}");
        let scripts = elements.iter().filter(|element| element.name == "script");
        for script in scripts {
            assert!(
                script.text.is_empty() && script.attribute("src").is_some(),
                "{name} has an inline script"
            );
        }
    }
}

#[test]
fn pages_have_nothing_inline() {
    for (name, elements) in parse_samples() {
        for element in &elements {
            assert_ne!(element.name, "style", "{name}");
            for (attribute, value) in &element.attributes {
                let is_inline =
                    attribute == "style" || attribute.starts_with("on") || value.starts_with("javascript:");
                assert!(!is_inline, "{name}: <{} {attribute}=\"{value}\">", element.name);
            }
        }
    }
}

#[test]
fn headings_follow_each_other_without_a_missing_level() {
    for (name, elements) in parse_samples() {
        let levels: Vec<u32> = elements
            .iter()
            .filter_map(|element| element.name.strip_prefix('h').and_then(|level| level.parse().ok()))
            .collect();
        assert_eq!(levels.iter().filter(|level| **level == 1).count(), 1, "{name}");
        assert_eq!(levels.first(), Some(&1), "{name}");
        assert!(levels.windows(2).all(|pair| pair[1] <= pair[0] + 1), "{name}: {levels:?}");
    }
}

#[test]
fn ids_are_unique_and_references_to_them_resolve() {
    for (name, elements) in parse_samples() {
        let ids: Vec<&str> = elements.iter().filter_map(|element| element.attribute("id")).collect();
        let unique: std::collections::HashSet<_> = ids.iter().collect();
        assert_eq!(ids.len(), unique.len(), "{name}: {ids:?}");
        for element in &elements {
            let href = element.attribute("href").and_then(|href| href.strip_prefix('#'));
            let references = ["for", "aria-labelledby", "aria-describedby"].map(|key| element.attribute(key));
            let fill =
                element.attribute("fill").and_then(|fill| fill.strip_prefix("url(#")?.strip_suffix(')'));
            for reference in references.into_iter().chain([href, fill]).flatten() {
                assert!(ids.contains(&reference), "{name}: <{}> refers to '{reference}'", element.name);
            }
        }
    }
}

#[test]
fn every_input_has_a_name_for_screen_readers() {
    for (name, elements) in parse_samples() {
        let labels: Vec<&str> = elements.iter().filter_map(|element| element.attribute("for")).collect();
        for element in &elements {
            let is_input = matches!(element.name.as_str(), "input" | "select" | "textarea")
                && element.attribute("type") != Some("hidden");
            let has_label = element.attribute("id").is_some_and(|id| labels.contains(&id));
            assert!(
                !is_input || has_label || element.attribute("aria-label").is_some(),
                "{name}: {element:?}"
            );
        }
        for region in elements.iter().filter(|element| element.attribute("role") == Some("img")) {
            assert!(region.attribute("aria-label").is_some_and(|label| !label.is_empty()), "{name}");
        }
    }
}

#[test]
fn pages_have_landmarks_and_a_language() {
    for (name, elements) in parse_samples() {
        let count = |tag: &str| elements.iter().filter(|element| element.name == tag).count();
        assert_eq!((count("main"), count("header"), count("footer")), (1, 1, 1), "{name}");
        // Charts have titles of their own.
        let head = elements.iter().take_while(|element| element.name != "body");
        assert_eq!(head.filter(|element| element.name == "title").count(), 1, "{name}");
        assert_eq!(elements[0].attribute("lang"), Some("en"), "{name}");
        let current =
            elements.iter().filter(|element| element.attribute("aria-current") == Some("page")).count();
        assert_eq!(current, 1, "{name}");
    }
}

#[test]
fn pages_refer_to_no_other_host() {
    for (name, elements) in parse_samples() {
        for element in &elements {
            for key in ["src", "action"] {
                assert!(
                    element.attribute(key).is_none_or(|address| address.starts_with('/')),
                    "{name}: {element:?}"
                );
            }
            if element.name == "link" {
                assert!(
                    element.attribute("href").is_some_and(|address| address.starts_with("/assets/")),
                    "{name}"
                );
            }
        }
    }
}
