//! Pure: which sites are to be confirmed, when, and how often at most.
//!
//! When many sites are suspected at once, a sample of them is confirmed: rounds of sites come from a bucket that refills
//! slowly, and a site whose first round was published has all of its rounds before another one begins. What is not
//! confirmed within [`MAX_DELAY`] is left to the site's ticks, which tell the same an interval later.

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use picket_proto::{SiteId, Suspect};
use tokio::time::Instant;

/// The most sites that are remembered at once.
pub(super) const MAX_SITES: usize = 10_000;
/// The most rounds for one suspicion.
const MAX_ROUNDS: u32 = 10;
/// The last of a suspicion's rounds begins about so long after its first, so that its answers come within seconds.
const SPREAD: Duration = Duration::from_millis(1_000);
const SHORTEST_GAP: Duration = Duration::from_millis(250);
const LONGEST_GAP: Duration = Duration::from_millis(700);
/// From one suspicion of a site to the next; twice as long each time, so that one that flaps is not checked for ever.
const FIRST_QUIET: Duration = Duration::from_secs(5);
const LONGEST_QUIET: Duration = Duration::from_secs(300);

/// Rounds that may be published at once. A round is one job in each region of the site.
pub(super) const BURST: u32 = 100;
/// From one round to the next when the burst is spent, so that a region has 20 confirming jobs a second at most: with a
/// timeout of 10 s these fill the permits that a prober of 1,000 slots has for them.
const REFILL: Duration = Duration::from_millis(50);
/// A site that waits for so long is left to its ticks.
const MAX_DELAY: Duration = Duration::from_secs(30);

/// The sites that are, or lately were, to be confirmed.
#[derive(Default)]
pub(super) struct Rounds {
    sites: HashMap<SiteId, Site>,
    bucket: Bucket,
}

/// What is due.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// The sites of which a round is to be published now.
    pub(super) sites: Vec<SiteId>,
    /// How many sites wait for the bucket to refill.
    pub(super) delayed: usize,
    /// How many sites have waited for too long, and are left to their ticks.
    pub(super) dropped: usize,
}

/// Rounds that may be published: `spent_until` is when the bucket is full again.
#[derive(Default)]
struct Bucket {
    spent_until: Option<Instant>,
}

struct Site {
    left: u32,
    /// Whether a round of this suspicion has been published.
    started: bool,
    next: Instant,
    gap: Duration,
    /// No other suspicion is followed before.
    quiet_until: Instant,
    quiet: Duration,
}

impl Rounds {
    /// Takes in what a sink said. Says whether there was room for it.
    pub(super) fn hear(&mut self, suspect: &Suspect, now: Instant) -> bool {
        let rounds = suspect.rounds.min(MAX_ROUNDS);
        let Some(site) = self.sites.get_mut(&suspect.site_id) else {
            if rounds == 0 {
                return true;
            }
            self.sites.retain(|_, site| !site.is_forgotten(now));
            if self.sites.len() >= MAX_SITES {
                return false;
            }
            let site = Site {
                left: rounds,
                started: false,
                next: now,
                gap: gap(rounds),
                quiet_until: now + FIRST_QUIET,
                quiet: FIRST_QUIET,
            };
            self.sites.insert(suspect.site_id, site);
            return true;
        };
        if rounds == 0 {
            site.left = 0;
        } else if site.left == 0 {
            site.quiet = match site.is_forgotten(now) {
                true => FIRST_QUIET,
                false => (site.quiet * 2).min(LONGEST_QUIET),
            };
            (site.left, site.started, site.gap) = (rounds, false, gap(rounds));
            site.next = now.max(site.quiet_until);
            site.quiet_until = site.next + site.quiet;
        } else {
            // One round at a time; how many are needed the last one to ask knows best.
            site.left = rounds;
        }
        true
    }

    /// What is due, and how much of it may be published now.
    pub(super) fn due(&mut self, now: Instant) -> Due {
        let mut dropped = 0;
        let mut waiting: Vec<(SiteId, bool, Instant)> = Vec::new();
        for (id, site) in &mut self.sites {
            if site.left == 0 || site.next > now {
                continue;
            }
            if now > site.next + MAX_DELAY {
                site.left = 0;
                dropped += 1;
                continue;
            }
            waiting.push((*id, site.started, site.next));
        }
        let free = self.bucket.free(now);
        if waiting.len() > free {
            // Stable, so that among those that came together the map's order decides, which is another each time.
            waiting.sort_by_key(|(_, started, next)| (Reverse(*started), *next));
        }
        let delayed = waiting.len().saturating_sub(free);
        waiting.truncate(free);
        for (id, ..) in &waiting {
            if let Some(site) = self.sites.get_mut(id) {
                site.left -= 1;
                site.started = true;
                site.next = now + site.gap;
            }
        }
        self.bucket.spend(waiting.len(), now);
        Due { sites: waiting.into_iter().map(|(id, ..)| id).collect(), delayed, dropped }
    }

    /// When the next round is due, and may be published.
    pub(super) fn next(&self) -> Option<Instant> {
        let due = self.sites.values().filter(|site| site.left > 0).map(|site| site.next).min()?;
        Some(self.bucket.ready_at().map_or(due, |ready| ready.max(due)))
    }
}

impl Bucket {
    /// How many rounds may be published at `now`.
    fn free(&self, now: Instant) -> usize {
        let spent = self.spent_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let left = (REFILL * BURST).saturating_sub(spent);
        usize::try_from(left.as_nanos() / REFILL.as_nanos()).unwrap_or(usize::MAX)
    }

    fn spend(&mut self, rounds: usize, now: Instant) {
        let from = self.spent_until.map_or(now, |until| until.max(now));
        self.spent_until = Some(from + REFILL * u32::try_from(rounds).unwrap_or(u32::MAX));
    }

    /// When at least one round may be published.
    fn ready_at(&self) -> Option<Instant> {
        self.spent_until?.checked_sub(REFILL * (BURST - 1))
    }
}

impl Site {
    /// Whether it was quiet for so long that it counts as new.
    fn is_forgotten(&self, now: Instant) -> bool {
        self.left == 0 && now >= self.quiet_until + self.quiet * 4
    }
}

fn gap(rounds: u32) -> Duration {
    (SPREAD / rounds.saturating_sub(1).max(1)).clamp(SHORTEST_GAP, LONGEST_GAP)
}

#[cfg(test)]
mod tests {
    use picket_proto::{Shard, VERSION};

    use super::*;

    fn suspect(site: i64, rounds: u32) -> Suspect {
        Suspect { v: VERSION, site_id: SiteId(site), shard: Shard(1), rounds }
    }

    /// When rounds of site 1 are due within `span`.
    fn rounds_within(rounds: &mut Rounds, from: Instant, span: Duration) -> Vec<u128> {
        let mut found = Vec::new();
        while let Some(next) = rounds.next().filter(|next| *next < from + span) {
            rounds.due(next).sites.iter().for_each(|_| found.push((next - from).as_millis()));
        }
        found
    }

    #[test]
    fn the_first_round_is_at_once_and_the_last_within_a_second() {
        let now = Instant::now();
        let mut rounds = Rounds::default();

        assert!(rounds.hear(&suspect(1, 2), now));

        assert_eq!(rounds_within(&mut rounds, now, Duration::from_secs(60)), [0, 700]);
        assert!(rounds.hear(&suspect(2, 4), now));
        let last = rounds_within(&mut rounds, now, Duration::from_secs(60)).pop();
        assert!(last <= Some(1_000), "{last:?}");
    }

    #[test]
    fn what_is_taken_back_is_not_checked_again() {
        let now = Instant::now();
        let mut rounds = Rounds::default();
        rounds.hear(&suspect(1, 5), now);
        rounds.due(now);

        rounds.hear(&suspect(1, 0), now);

        assert_eq!(rounds.next(), None);
    }

    #[test]
    fn a_site_that_is_suspected_again_and_again_is_confirmed_ever_more_seldom() {
        let now = Instant::now();
        let mut rounds = Rounds::default();
        let mut found = 0;
        for second in 0..3_600 {
            let at = now + Duration::from_secs(second);
            rounds.hear(&suspect(1, 2), at);
            found += rounds_within(&mut rounds, at, Duration::from_secs(1)).len();
        }

        assert!(found < 60, "{found} rounds in an hour");
        let later = now + Duration::from_secs(3 * 3_600);
        rounds.hear(&suspect(1, 0), later);
        rounds.hear(&suspect(1, 1), later);
        assert_eq!(
            rounds_within(&mut rounds, later, Duration::from_secs(1)),
            [0],
            "after a long quiet it is new"
        );
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let now = Instant::now();
        let mut rounds = Rounds::default();

        let taken = (0..MAX_SITES as i64 + 5).filter(|site| rounds.hear(&suspect(*site, 1), now)).count();

        assert_eq!(taken, MAX_SITES);
        let later = now + Duration::from_secs(60);
        assert_eq!(rounds.due(later).dropped, MAX_SITES, "what waited for so long is left to its ticks");
        assert!(rounds.hear(&suspect(-1, 1), later), "those that are quiet make room");
    }

    #[test]
    fn of_many_sites_that_are_suspected_at_once_a_sample_is_confirmed_to_its_end_at_a_bounded_rate() {
        let now = Instant::now();
        let mut rounds = Rounds::default();
        (0..1_000).for_each(|site| assert!(rounds.hear(&suspect(site, 2), now)));
        let mut published: HashMap<SiteId, Vec<Duration>> = HashMap::new();
        let mut dropped = 0;
        let mut at = now;
        while let Some(next) = rounds.next() {
            assert!(next >= at, "no round is due in the past: the caller would spin");
            at = next;
            let due = rounds.due(at);
            dropped += due.dropped;
            due.sites.iter().for_each(|site| published.entry(*site).or_default().push(at - now));
        }

        let in_first =
            |span: u64| published.values().flatten().filter(|at| **at < Duration::from_secs(span)).count();
        for (span, most) in [(1, 120), (10, 300), (30, 700)] {
            assert!((most - 1..=most).contains(&in_first(span)), "{} in {span} s", in_first(span));
        }
        let whole = published.values().filter(|rounds| rounds.len() == 2).count();
        let first_whole =
            published.values().filter(|rounds| rounds.last() < Some(&Duration::from_secs(6))).count();
        assert!(first_whole >= 100, "a sample is decided within seconds: {first_whole}");
        assert!(published.len() - whole <= 1, "{} begun, {whole} done", published.len());
        assert_eq!(published.len() + dropped, 1_000, "the others are left to their ticks, and counted");
    }

    #[test]
    fn a_site_among_many_has_the_same_chance_whatever_its_number() {
        let now = Instant::now();
        let chosen = |_| {
            let mut rounds = Rounds::default();
            (0..1_000).for_each(|site| assert!(rounds.hear(&suspect(site, 2), now)));
            rounds.due(now).sites
        };
        let mut ever: Vec<SiteId> = (0..200).flat_map(chosen).collect();
        ever.sort_unstable();
        ever.dedup();

        assert!(ever.len() > 990, "{} of 1000 sites were ever in a sample of {BURST}", ever.len());
    }

    #[test]
    fn a_few_suspicions_after_a_flood_are_confirmed_at_once_again() {
        let now = Instant::now();
        let mut rounds = Rounds::default();
        (0..1_000).for_each(|site| assert!(rounds.hear(&suspect(site, 2), now)));
        rounds.due(now);
        (0..1_000).for_each(|site| assert!(rounds.hear(&suspect(site, 0), now)));

        let later = now + REFILL * BURST;
        rounds.hear(&suspect(5_000, 2), later);

        assert_eq!(rounds_within(&mut rounds, later, Duration::from_secs(60)), [0, 700]);
    }
}
