//! Which events a viewer gets: the filter of its request, and the tag limit of its token.

use picket_proto::{Outcome, RegionName, SiteId};

use super::event::{EventKind, LiveEvent};

/// See the module documentation. An empty list admits all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) kinds: Vec<EventKind>,
    pub(crate) sites: Vec<SiteId>,
    pub(crate) tags: Vec<String>,
    pub(crate) regions: Vec<RegionName>,
    /// Outcomes of results; events without an outcome are admitted.
    pub(crate) outcomes: Vec<Outcome>,
    /// Only results whose outcome differs from the one before.
    pub(crate) is_changes_only: bool,
    /// Tags of the sites that the token may see; `None` for all sites.
    pub(crate) tag_limit: Option<Vec<String>>,
}

impl Filter {
    /// Returns true if tags of sites decide which events are admitted.
    pub(crate) fn needs_tags(&self) -> bool {
        self.tag_limit.is_some() || !self.tags.is_empty()
    }

    pub(crate) fn admits_kind(&self, kind: EventKind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }

    /// Returns true if the viewer gets the event. `has_tag` tells whether a site is known to have
    /// one of some tags.
    pub(crate) fn admits(&self, event: &LiveEvent, has_tag: impl Fn(SiteId, &[String]) -> bool) -> bool {
        let has_one = |wanted: &[String]| match (&event.tags, event.site) {
            (Some(tags), _) => wanted.iter().any(|tag| tags.contains(tag)),
            (None, Some(site)) => has_tag(site, wanted),
            // Without a site: an ad-hoc check, or an event of a region.
            (None, None) => false,
        };
        // Regions are no secret of a site.
        let is_of_all_sites = event.kind == EventKind::Region;
        self.admits_kind(event.kind)
            && (self.outcomes.is_empty()
                || event.outcome.is_none_or(|outcome| self.outcomes.contains(&outcome)))
            && (!self.is_changes_only || event.is_change || event.kind != EventKind::Result)
            && (self.sites.is_empty()
                || is_of_all_sites
                || event.site.is_some_and(|site| self.sites.contains(&site)))
            && (self.regions.is_empty() || self.regions.iter().any(|region| event.regions.contains(region)))
            && (is_of_all_sites
                || (self.tags.is_empty() || has_one(&self.tags))
                    && self.tag_limit.as_ref().is_none_or(|limit| has_one(limit)))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use picket_harness::builders::up_result;
    use picket_proto::CheckResult;

    use super::*;

    /// Site 1 has the tag `shop`, site 2 has `blog`, site 3 is not known yet.
    fn has_tag(site: SiteId, wanted: &[String]) -> bool {
        let tag = match site {
            SiteId(1) => "shop",
            SiteId(2) => "blog",
            _ => return false,
        };
        wanted.iter().any(|wanted| wanted == tag)
    }

    fn result(site: i64, region: &str, outcome: Outcome, is_change: bool) -> LiveEvent {
        let up = up_result(SiteId(site), &region.parse().unwrap(), "2026-11-20T12:00:00Z".parse().unwrap());
        LiveEvent::from_result(CheckResult { outcome, ..up }, is_change)
    }

    fn admits(filter: &Filter, event: &LiveEvent) -> bool {
        filter.admits(event, has_tag)
    }

    #[test]
    fn a_filter_without_conditions_admits_all() {
        assert!(admits(&Filter::default(), &result(3, "eu", Outcome::Up, false)));
        assert!(!Filter::default().needs_tags());
    }

    #[test]
    fn each_condition_excludes_what_does_not_meet_it() {
        let down = result(1, "eu", Outcome::Down, false);
        let none = Filter::default();
        let eu = "eu".parse().unwrap();
        for (filter, is_admitted) in [
            (Filter { sites: vec![SiteId(1), SiteId(9)], ..none.clone() }, true),
            (Filter { sites: vec![SiteId(9)], ..none.clone() }, false),
            (Filter { regions: vec![eu], ..none.clone() }, true),
            (Filter { regions: vec!["us".parse().unwrap()], ..none.clone() }, false),
            (Filter { outcomes: vec![Outcome::Down], ..none.clone() }, true),
            (Filter { outcomes: vec![Outcome::Up, Outcome::Missed], ..none.clone() }, false),
            (Filter { kinds: vec![EventKind::Result], ..none.clone() }, true),
            (Filter { kinds: vec![EventKind::Incident], ..none.clone() }, false),
            (Filter { is_changes_only: true, ..none.clone() }, false),
            (Filter { tags: vec!["shop".to_owned()], ..none.clone() }, true),
            (Filter { tags: vec!["blog".to_owned()], ..none.clone() }, false),
        ] {
            assert_eq!(admits(&filter, &down), is_admitted, "{filter:?}");
        }
    }

    #[test]
    fn a_token_sees_only_sites_with_its_tags_and_no_site_with_unknown_tags() {
        let limited = Filter { tag_limit: Some(vec!["shop".to_owned()]), ..Filter::default() };
        let both = Filter { tags: vec!["blog".to_owned()], ..limited.clone() };

        assert!(admits(&limited, &result(1, "eu", Outcome::Up, false)));
        for site in [2, 3] {
            assert!(!admits(&limited, &result(site, "eu", Outcome::Up, false)), "{site}");
        }
        assert!(
            !admits(&both, &result(1, "eu", Outcome::Up, false))
                && !admits(&both, &result(2, "eu", Outcome::Up, false))
        );
        let adhoc = LiveEvent { site: None, ..result(1, "eu", Outcome::Up, false) };
        assert!(!admits(&limited, &adhoc));
    }

    #[test]
    fn an_events_own_tags_decide_and_regions_are_seen_by_all() {
        let limited = Filter { tag_limit: Some(vec!["shop".to_owned()]), ..Filter::default() };
        let event = |kind, site, tags: Option<&str>| LiveEvent {
            kind,
            site,
            outcome: None,
            tags: tags.map(|tag| vec![tag.to_owned()]),
            bytes: Bytes::new(),
            ..result(3, "eu", Outcome::Up, false)
        };

        assert!(admits(&limited, &event(EventKind::Incident, Some(SiteId(3)), Some("shop"))));
        assert!(!admits(&limited, &event(EventKind::Warning, Some(SiteId(1)), Some("blog"))));
        assert!(admits(&limited, &event(EventKind::Region, None, None)));
    }
}
