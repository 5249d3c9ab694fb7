//! Tags that routes and silences name, compared with those of sites: a misspelt one concerns nothing.

use std::{collections::BTreeSet, fmt, time::Duration};

use picket_proto::{route::RouteDefinition, suggestion::suggest_name, validation::sanitize_text};

use crate::{Error, Store};

const TAGS_TIMEOUT: Duration = Duration::from_secs(30);

/// A tag without a site, which is allowed: a site may get the tag later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagWarning {
    /// Name of the field with the tag.
    pub field: &'static str,
    /// The tag.
    pub tag: String,
    /// The probably meant tag of a site.
    pub meant: Option<String>,
}

impl fmt::Display for TagWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: no site has the tag '{}'", self.field, sanitize_text(&self.tag, 64))?;
        match &self.meant {
            Some(meant) => write!(f, "; did you mean '{}'?", sanitize_text(meant, 64)),
            None => Ok(()),
        }
    }
}

/// Tags of sites, as far as definitions name them.
#[derive(Clone, Debug, Default)]
pub struct TagIndex {
    /// The named tags of sites.
    used: BTreeSet<String>,
    /// Tags of sites for suggestions.
    known: BTreeSet<String>,
}

impl TagIndex {
    /// Adds the tags of sites before their addition.
    pub fn add_tags<'a>(&mut self, tags: impl IntoIterator<Item = &'a String>) {
        self.used.extend(tags.into_iter().cloned());
    }

    /// Warns of a tag without a site.
    pub fn find_warning(&self, field: &'static str, tag: &str) -> Option<TagWarning> {
        if self.used.contains(tag) {
            return None;
        }
        let known = self.known.iter().chain(&self.used).map(String::as_str);
        Some(TagWarning { field, tag: tag.to_owned(), meant: suggest_name(tag, known).map(str::to_owned) })
    }

    /// Warns of each tag of a route without a site.
    pub fn list_warnings(&self, route: &RouteDefinition) -> Vec<TagWarning> {
        let tags = route.tags.iter().map(|tag| ("tags", tag));
        let all_tags = route.all_tags.iter().map(|tag| ("all_tags", tag));
        tags.chain(all_tags).filter_map(|(field, tag)| self.find_warning(field, tag)).collect()
    }
}

/// Finds the tags of sites among `tags`. With `suggest`, other tags of sites are read as well if one of
/// `tags` has no site.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn read_tag_index<'a>(
    store: &Store,
    tags: impl IntoIterator<Item = &'a String>,
    suggest: bool,
) -> Result<TagIndex, Error> {
    let tags: BTreeSet<&String> = tags.into_iter().collect();
    if tags.is_empty() {
        return Ok(TagIndex::default());
    }
    let tags: Vec<&String> = tags.into_iter().collect();
    let read = async {
        let used: Vec<String> = sqlx::query_scalar(
            "SELECT tag FROM unnest($1::text[]) AS tag
             WHERE EXISTS (SELECT FROM picket.sites AS site WHERE site.tags @> ARRAY[tag])",
        )
        .bind(&tags)
        .fetch_all(&store.pool)
        .await?;
        let known: Vec<String> = match suggest && used.len() < tags.len() {
            false => Vec::new(),
            // Bounded, because a suggestion is not worth reading a million sites.
            true => sqlx::query_scalar(
                "SELECT DISTINCT tag FROM (SELECT unnest(tags) AS tag FROM picket.sites LIMIT 10000) AS sampled",
            )
            .fetch_all(&store.pool)
            .await?,
        };
        Ok(TagIndex { used: used.into_iter().collect(), known: known.into_iter().collect() })
    };
    store.with_timeout(TAGS_TIMEOUT, "look for sites with these tags", read).await
}

/// Reads the index of the tags of routes.
///
/// # Errors
/// If the database cannot be reached in time.
pub async fn read_tag_index_of_routes<'a>(
    store: &Store,
    routes: impl IntoIterator<Item = &'a RouteDefinition>,
) -> Result<TagIndex, Error> {
    let tags: Vec<String> =
        routes.into_iter().flat_map(|route| route.tags.iter().chain(&route.all_tags).cloned()).collect();
    read_tag_index(store, &tags, true).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_that_no_site_has_is_named_with_the_one_that_is_probably_meant() {
        let set = |tags: &[&str]| tags.iter().map(|tag| (*tag).to_owned()).collect();
        let index = TagIndex { used: set(&["blog"]), known: set(&["blog", "shop"]) };

        assert_eq!(index.find_warning("tags", "blog"), None);
        assert_eq!(
            index.find_warning("tags", "shpo").unwrap().to_string(),
            "tags: no site has the tag 'shpo'; did you mean 'shop'?"
        );
        assert_eq!(
            index.find_warning("tag", "other\u{1b}").unwrap().to_string(),
            "tag: no site has the tag 'other '"
        );
    }
}
