//! Pure: which sites are to be confirmed, when, and how often at most.

use std::{collections::HashMap, time::Duration};

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

/// The sites that are, or lately were, to be confirmed.
#[derive(Default)]
pub(super) struct Rounds(HashMap<SiteId, Site>);

struct Site {
    left: u32,
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
        let Some(site) = self.0.get_mut(&suspect.site_id) else {
            if rounds == 0 {
                return true;
            }
            self.0.retain(|_, site| !site.is_forgotten(now));
            if self.0.len() >= MAX_SITES {
                return false;
            }
            let site = Site {
                left: rounds,
                next: now,
                gap: gap(rounds),
                quiet_until: now + FIRST_QUIET,
                quiet: FIRST_QUIET,
            };
            self.0.insert(suspect.site_id, site);
            return true;
        };
        if rounds == 0 {
            site.left = 0;
        } else if site.left == 0 {
            site.quiet = match site.is_forgotten(now) {
                true => FIRST_QUIET,
                false => (site.quiet * 2).min(LONGEST_QUIET),
            };
            (site.left, site.gap) = (rounds, gap(rounds));
            site.next = now.max(site.quiet_until);
            site.quiet_until = site.next + site.quiet;
        } else {
            // One round at a time; how many are needed the last one to ask knows best.
            site.left = rounds;
        }
        true
    }

    /// The sites of which a round is due.
    pub(super) fn due(&mut self, now: Instant) -> Vec<SiteId> {
        let mut due = Vec::new();
        for (id, site) in &mut self.0 {
            if site.left > 0 && site.next <= now {
                site.left -= 1;
                site.next = now + site.gap;
                due.push(*id);
            }
        }
        due
    }

    /// When the next round is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().filter(|site| site.left > 0).map(|site| site.next).min()
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
            rounds.due(next).iter().for_each(|_| found.push((next - from).as_millis()));
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
        rounds.due(now);
        assert!(
            rounds.hear(&suspect(-1, 1), now + Duration::from_secs(60)),
            "those that are quiet make room"
        );
    }
}
