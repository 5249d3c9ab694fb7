//! Which stored site each entry of a file defines.

use std::collections::HashMap;

use super::StoredSite;
use crate::site::{SiteIdentity, SiteKey, SiteSpec};

/// An entry of the file, or a readable stored site, with the position of each.
struct Variant<'a> {
    position: usize,
    spec: &'a SiteSpec,
    /// Options and assertions.
    variant: String,
}

/// The entries and the stored sites with one key.
#[derive(Default)]
struct Group<'a> {
    entries: Vec<Variant<'a>>,
    sites: Vec<Variant<'a>>,
}

/// Finds the stored site of each entry; `None` for an entry that is a new site.
///
/// An entry defines the site with its identity. A changed option or assertion changes the identity,
/// but the site should keep its history: among the sites of the same key that are left, an entry
/// also defines the site with its name, and then the only one that is left for it. A stored site is
/// that of one entry at most.
pub(super) fn match_sites<'a>(
    wanted: &[SiteSpec],
    stored: &'a [StoredSite<'a>],
) -> Vec<Option<&'a StoredSite<'a>>> {
    // Grouped by key first: comparing every pair of sites would be quadratic.
    let mut groups = HashMap::<SiteKey<'_>, Group<'_>>::new();
    for (position, spec) in wanted.iter().enumerate() {
        let SiteIdentity { key, variant } = SiteIdentity::of_spec(spec);
        groups.entry(key).or_default().entries.push(Variant { position, spec, variant });
    }
    let mut unreadable = HashMap::<&str, Vec<&StoredSite<'_>>>::new();
    for (position, site) in stored.iter().enumerate().rev() {
        match site.spec {
            Ok(spec) => {
                let SiteIdentity { key, variant } = SiteIdentity::of_spec(spec);
                if let Some(group) = groups.get_mut(&key) {
                    group.sites.push(Variant { position, spec, variant });
                }
            }
            Err(_) => unreadable.entry(site.url).or_default().push(site),
        }
    }
    let mut matched = vec![None; wanted.len()];
    for group in groups.into_values() {
        for (entry, site) in group.pair() {
            matched[entry] = stored.get(site);
        }
    }
    // A site that cannot be read has only its URL for comparison.
    for (spec, site) in wanted.iter().zip(&mut matched).filter(|(_, site)| site.is_none()) {
        *site = unreadable.get_mut(spec.check.url.as_str()).and_then(Vec::pop);
    }
    matched
}

impl<'a> Group<'a> {
    /// Positions of the entries and of their sites. `sites` are in descending order.
    fn pair(mut self) -> Vec<(usize, usize)> {
        let mut pairs = Vec::new();
        let mut by_variant = HashMap::<&str, Vec<usize>>::new();
        for site in &self.sites {
            by_variant.entry(&site.variant).or_default().push(site.position);
        }
        let mut changed = Vec::new();
        for entry in self.entries {
            match by_variant.get_mut(entry.variant.as_str()).and_then(Vec::pop) {
                Some(site) => pairs.push((entry.position, site)),
                None => changed.push(entry),
            }
        }
        let left: std::collections::HashSet<usize> = by_variant.into_values().flatten().collect();
        self.sites.retain(|site| left.contains(&site.position));

        let names = (count_names(&changed), count_names(&self.sites));
        let is_unique = |name: &str| [&names.0, &names.1].iter().all(|names| names.get(name) == Some(&1));
        changed.retain(|entry| {
            let Some(name) = entry.spec.name.as_deref().filter(|name| is_unique(name)) else { return true };
            let site = self.sites.iter().position(|site| site.spec.name.as_deref() == Some(name));
            match site {
                Some(index) => {
                    pairs.push((entry.position, self.sites.swap_remove(index).position));
                    false
                }
                None => true,
            }
        });
        // Two names are two sites: one of them may have been added by another file or by hand.
        if let ([entry], [site]) = (&changed[..], &self.sites[..])
            && (entry.spec.name.is_none() || site.spec.name.is_none())
        {
            pairs.push((entry.position, site.position));
        }
        pairs
    }
}

/// How often each name occurs.
fn count_names<'a>(variants: &[Variant<'a>]) -> HashMap<&'a str, usize> {
    let mut counts = HashMap::new();
    for name in variants.iter().filter_map(|variant| variant.spec.name.as_deref()) {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SiteId, ValidationError};

    fn stored_site(id: i64, spec: &SiteSpec) -> StoredSite<'_> {
        StoredSite { id: SiteId(id), url: &spec.check.url, spec: Ok(spec) }
    }

    /// A site with this connect_to, and a name unless it is empty.
    fn variant(connect_to: &str, name: &str) -> SiteSpec {
        let mut spec = SiteSpec::new("https://a/");
        spec.check.options.connect_to = Some(connect_to.to_owned()).filter(|place| !place.is_empty());
        spec.name = Some(name.to_owned()).filter(|name| !name.is_empty());
        spec
    }

    /// Ids of the stored sites of the entries; the stored ones are numbered from 1.
    fn match_ids(wanted: &[SiteSpec], stored: &[SiteSpec]) -> Vec<Option<i64>> {
        let stored: Vec<StoredSite<'_>> =
            stored.iter().zip(1..).map(|(spec, id)| stored_site(id, spec)).collect();
        match_sites(wanted, &stored).into_iter().map(|site| site.map(|site| site.id.0)).collect()
    }

    #[test]
    fn variants_of_a_site_are_matched_in_any_order_of_the_file() {
        let (plain, one, two) = (variant("", ""), variant("192.0.2.1", ""), variant("192.0.2.2", ""));
        let stored = [plain.clone(), one.clone(), two.clone()];

        assert_eq!(match_ids(&[two, plain, one], &stored), [Some(3), Some(1), Some(2)]);
    }

    #[test]
    fn a_changed_option_or_assertion_changes_the_only_site_that_is_left() {
        let (one, moved) = (variant("192.0.2.1", ""), variant("192.0.2.9", ""));
        let mut asserted = variant("", "");
        asserted.check.assertions.warn_after_ms = Some(500);

        assert_eq!(match_ids(std::slice::from_ref(&moved), std::slice::from_ref(&one)), [Some(1)]);
        assert_eq!(match_ids(&[asserted], &[variant("", "")]), [Some(1)]);
        // Another variant that is unchanged is no candidate.
        let plain = variant("", "");
        assert_eq!(match_ids(&[moved, plain.clone()], &[plain, one]), [Some(2), Some(1)]);
    }

    #[test]
    fn several_changed_variants_are_matched_by_their_names_and_otherwise_added() {
        let stored = [variant("192.0.2.1", "one"), variant("192.0.2.2", "two"), variant("192.0.2.3", "")];
        let file = [variant("192.0.2.8", "two"), variant("192.0.2.9", "one"), variant("192.0.2.7", "")];
        assert_eq!(match_ids(&file, &stored), [Some(2), Some(1), Some(3)]);

        let unnamed = [variant("192.0.2.8", ""), variant("192.0.2.9", "")];
        assert_eq!(match_ids(&unnamed, &[variant("192.0.2.1", ""), variant("192.0.2.2", "")]), [None, None]);
        assert_eq!(match_ids(&unnamed, &[variant("192.0.2.1", "")]), [None, None]);
        let twice = [variant("192.0.2.8", "one"), variant("192.0.2.9", "one")];
        assert_eq!(match_ids(&twice, &stored[..1]), [None, None]);
    }

    #[test]
    fn a_site_with_another_name_and_another_option_is_another_site() {
        let (one, two) = (variant("192.0.2.1", "one"), variant("192.0.2.2", "two"));

        assert_eq!(match_ids(std::slice::from_ref(&two), std::slice::from_ref(&one)), [None]);
        // A name alone may change.
        assert_eq!(match_ids(&[variant("192.0.2.1", "two")], &[one]), [Some(1)]);
    }

    #[test]
    fn a_site_that_cannot_be_read_is_that_of_an_entry_without_another_one() {
        let plain = variant("", "");
        let why = ValidationError::new("options", "…", "an object");
        let broken = StoredSite { spec: Err(&why), ..stored_site(1, &plain) };
        let stored = [broken, stored_site(2, &plain)];

        let matched =
            match_sites(&[plain.clone(), variant("192.0.2.1", ""), variant("192.0.2.2", "")], &stored);

        let ids: Vec<Option<i64>> = matched.into_iter().map(|site| site.map(|site| site.id.0)).collect();
        assert_eq!(ids, [Some(2), Some(1), None]);
    }
}
