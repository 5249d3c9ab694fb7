//! The tags of sites, which decide what viewers with a tag limit see.
//!
//! Read when the first viewer needs them, followed each second, and dropped with the last. Bound:
//! [`TagIndex::MAX_SITES`] sites. Loss: none; a site whose tags are not known is shown to no viewer
//! with a tag limit.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;
use picket_proto::SiteId;
use picket_store::{Store, live_feed};
use tokio::time::{Instant, sleep};
use tracing::warn;

/// Tags by site. Equal tags of sites share one text.
#[derive(Debug, Default)]
pub(crate) struct TagIndex {
    sites: HashMap<SiteId, Box<[Arc<str>]>>,
    texts: HashSet<Arc<str>>,
}

impl TagIndex {
    /// Maximum number of sites with tags.
    const MAX_SITES: usize = 1_000_000;

    /// Applies changed tags, after removing all if the changes are complete. Returns the number of
    /// sites for which there was no room.
    pub(crate) fn apply(&mut self, is_complete: bool, changed: Vec<(SiteId, Vec<String>)>) -> usize {
        if is_complete {
            *self = Self::default();
        }
        let mut refused = 0;
        for (site, tags) in changed {
            if tags.is_empty() {
                self.sites.remove(&site);
            } else if self.sites.len() >= Self::MAX_SITES && !self.sites.contains_key(&site) {
                refused += 1;
            } else {
                let tags = tags.into_iter().map(|tag| self.share_text(tag)).collect();
                self.sites.insert(site, tags);
            }
        }
        refused
    }

    fn share_text(&mut self, tag: String) -> Arc<str> {
        if let Some(shared) = self.texts.get(tag.as_str()) {
            return Arc::clone(shared);
        }
        let shared: Arc<str> = tag.into();
        self.texts.insert(Arc::clone(&shared));
        shared
    }

    /// Returns true if the site is known to have one of the tags.
    pub(crate) fn has_one(&self, site: SiteId, wanted: &[String]) -> bool {
        let tags = self.sites.get(&site);
        tags.is_some_and(|tags| tags.iter().any(|tag| wanted.iter().any(|wanted| **wanted == **tag)))
    }
}

/// Keeps the index as the database has it, until aborted.
pub(crate) async fn follow_tags(store: Store, index: Arc<RwLock<TagIndex>>) {
    const INTERVAL: Duration = Duration::from_secs(1);
    /// Interval of complete reads, which drop deleted sites and correct what a failover hid.
    const COMPLETE_INTERVAL: Duration = Duration::from_secs(300);
    let (mut cursor, mut complete_at) = (None, Instant::now());
    loop {
        let is_complete = Instant::now() >= complete_at;
        match live_feed::load_tags(&store, cursor.filter(|_| !is_complete)).await {
            Ok(changes) => {
                cursor = Some(changes.cursor);
                if changes.is_complete {
                    complete_at = Instant::now() + COMPLETE_INTERVAL;
                }
                let refused = index.write().apply(changes.is_complete, changes.sites);
                if refused > 0 {
                    warn!(refused, "too many sites with tags; viewers with a tag limit do not see them all");
                }
            }
            // The next read begins at the same cursor, so no change is missed.
            Err(error) => warn!(error = &error as &dyn std::error::Error, "could not read the tags of sites"),
        }
        sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(tags: &[&str]) -> Vec<String> {
        tags.iter().map(|&tag| tag.to_owned()).collect()
    }

    #[test]
    fn changes_replace_the_tags_of_their_sites() {
        let mut index = TagIndex::default();
        index.apply(true, vec![(SiteId(1), tags(&["a", "b"])), (SiteId(2), tags(&["a"]))]);
        let has = |index: &TagIndex, site| index.has_one(SiteId(site), &tags(&["b", "c"]));
        assert!(has(&index, 1) && !has(&index, 2) && !has(&index, 3));

        index.apply(false, vec![(SiteId(1), tags(&[])), (SiteId(2), tags(&["c"]))]);
        assert!(!has(&index, 1) && has(&index, 2));

        index.apply(true, vec![(SiteId(1), tags(&["b"]))]);
        assert!(has(&index, 1) && !has(&index, 2));
    }
}
