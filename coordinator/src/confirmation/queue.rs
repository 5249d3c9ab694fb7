//! Pure: the queue of sites to confirm, with rate limits.
//!
//! If many sites are suspected at once, only a sample is confirmed. Rounds draw from a token bucket
//! that refills slowly, and a site whose first round was published gets all of its rounds before
//! another site starts. A site not confirmed within [`MAX_QUEUE_DELAY`] is left to its ticks, which
//! give the same information an interval later.

use std::{cmp::Reverse, collections::HashMap, time::Duration};

use picket_proto::{ConfirmationRequest, SiteId};
use tokio::time::Instant;

/// Maximum number of sites in the queue, including sites in cooldown.
pub(super) const MAX_SITES: usize = 10_000;
/// Maximum number of rounds per request.
const MAX_ROUNDS: u32 = 10;
/// Time from the first to the last round of a request, about one second, so that a decision follows
/// within seconds.
const ROUNDS_SPREAD: Duration = Duration::from_millis(1_000);
const MIN_ROUND_GAP: Duration = Duration::from_millis(250);
const MAX_ROUND_GAP: Duration = Duration::from_millis(700);
/// Minimum time between the starts of two confirmations of one site: the lifetime of a confirming
/// job, so that a confirmation whose checks took too long is repeated soon. A site that flaps at
/// every tick of the shortest interval costs two additional rounds per cooldown.
const COOLDOWN: Duration = Duration::from_secs(10);

/// Maximum number of rounds published at once. A round is one job in each region of the site.
pub(super) const MAX_BURST_ROUNDS: u32 = 100;
/// Time per round once the burst is spent. It limits a region to 20 confirming jobs per second;
/// with a timeout of 10 s these fill the permits that a prober with 1,000 slots has for confirming
/// checks.
const REFILL_INTERVAL: Duration = Duration::from_millis(50);
/// A site waiting longer than this is left to its ticks.
const MAX_QUEUE_DELAY: Duration = Duration::from_secs(30);

/// Sites to confirm, and sites in cooldown.
#[derive(Default)]
pub(super) struct ConfirmationQueue {
    sites: HashMap<SiteId, PendingSite>,
    bucket: TokenBucket,
}

/// Due confirmations.
#[derive(Debug, Default)]
pub(super) struct DueConfirmations {
    /// Sites for which a round is to be published now.
    pub(super) sites: Vec<SiteId>,
    /// Number of sites waiting for the bucket to refill.
    pub(super) delayed: usize,
    /// Number of sites dropped after waiting too long; their ticks decide.
    pub(super) dropped: usize,
}

/// Token bucket for rounds; `full_at` is the time at which the bucket is full again.
#[derive(Default)]
struct TokenBucket {
    full_at: Option<Instant>,
}

struct PendingSite {
    rounds_left: u32,
    /// True if a round of the current request has been published.
    is_started: bool,
    next_at: Instant,
    round_gap: Duration,
    /// Requests for the site are deferred until this time.
    cooldown_until: Instant,
}

impl ConfirmationQueue {
    /// Handles a sink's request. Returns false if the queue is full.
    pub(super) fn accept_request(&mut self, suspect: &ConfirmationRequest, now: Instant) -> bool {
        let rounds = suspect.rounds.min(MAX_ROUNDS);
        let Some(site) = self.sites.get_mut(&suspect.site_id) else {
            if rounds == 0 {
                return true;
            }
            // Expired sites are removed only here, when a new site needs room.
            self.sites.retain(|_, site| !site.is_expired(now));
            if self.sites.len() >= MAX_SITES {
                return false;
            }
            let site = PendingSite {
                rounds_left: rounds,
                is_started: false,
                next_at: now,
                round_gap: round_gap(rounds),
                cooldown_until: now + COOLDOWN,
            };
            self.sites.insert(suspect.site_id, site);
            return true;
        };
        if rounds == 0 {
            site.rounds_left = 0;
        } else if site.rounds_left == 0 {
            (site.rounds_left, site.is_started, site.round_gap) = (rounds, false, round_gap(rounds));
            site.next_at = now.max(site.cooldown_until);
            site.cooldown_until = site.next_at + COOLDOWN;
        } else {
            // Rounds are published one at a time, and the latest request knows best how many are
            // still needed.
            site.rounds_left = rounds;
        }
        true
    }

    /// Removes and returns the rounds that are due and allowed by the bucket.
    pub(super) fn take_due(&mut self, now: Instant) -> DueConfirmations {
        let mut dropped = 0;
        let mut waiting: Vec<(SiteId, bool, Instant)> = Vec::new();
        for (id, site) in &mut self.sites {
            if site.rounds_left == 0 || site.next_at > now {
                continue;
            }
            if now > site.next_at + MAX_QUEUE_DELAY {
                site.rounds_left = 0;
                dropped += 1;
                continue;
            }
            waiting.push((*id, site.is_started, site.next_at));
        }
        let free = self.bucket.available_rounds(now);
        if waiting.len() > free {
            // Stable sort, so that sites with equal times keep the random order of the map.
            waiting.sort_by_key(|(_, started, next)| (Reverse(*started), *next));
        }
        let delayed = waiting.len().saturating_sub(free);
        waiting.truncate(free);
        for (id, ..) in &waiting {
            if let Some(site) = self.sites.get_mut(id) {
                site.rounds_left -= 1;
                site.is_started = true;
                site.next_at = now + site.round_gap;
            }
        }
        self.bucket.spend_rounds(waiting.len(), now);
        DueConfirmations { sites: waiting.into_iter().map(|(id, ..)| id).collect(), delayed, dropped }
    }

    /// Time at which the next round is due and allowed.
    pub(super) fn next_due_at(&self) -> Option<Instant> {
        let due = self.sites.values().filter(|site| site.rounds_left > 0).map(|site| site.next_at).min()?;
        Some(self.bucket.ready_at().map_or(due, |ready| ready.max(due)))
    }
}

impl TokenBucket {
    /// Number of rounds that may be published at `now`.
    fn available_rounds(&self, now: Instant) -> usize {
        let spent = self.full_at.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let left = (REFILL_INTERVAL * MAX_BURST_ROUNDS).saturating_sub(spent);
        usize::try_from(left.as_nanos() / REFILL_INTERVAL.as_nanos()).unwrap_or(usize::MAX)
    }

    fn spend_rounds(&mut self, rounds: usize, now: Instant) {
        let from = self.full_at.map_or(now, |until| until.max(now));
        self.full_at = Some(from + REFILL_INTERVAL * u32::try_from(rounds).unwrap_or(u32::MAX));
    }

    /// Time at which at least one round may be published.
    fn ready_at(&self) -> Option<Instant> {
        self.full_at?.checked_sub(REFILL_INTERVAL * (MAX_BURST_ROUNDS - 1))
    }
}

impl PendingSite {
    /// Returns true if the site counts as new: nothing is pending, and the cooldown is over.
    fn is_expired(&self, now: Instant) -> bool {
        self.rounds_left == 0 && now >= self.cooldown_until
    }
}

fn round_gap(rounds: u32) -> Duration {
    (ROUNDS_SPREAD / rounds.saturating_sub(1).max(1)).clamp(MIN_ROUND_GAP, MAX_ROUND_GAP)
}

#[cfg(test)]
mod tests {
    use picket_proto::{MESSAGE_VERSION, Shard};

    use super::*;

    fn suspect(site: i64, rounds: u32) -> ConfirmationRequest {
        ConfirmationRequest { v: MESSAGE_VERSION, site_id: SiteId(site), shard: Shard(1), rounds }
    }

    /// Times of the rounds of site 1 that are due within `span`.
    fn rounds_within(rounds: &mut ConfirmationQueue, from: Instant, span: Duration) -> Vec<u128> {
        let mut found = Vec::new();
        while let Some(next) = rounds.next_due_at().filter(|next| *next < from + span) {
            rounds.take_due(next).sites.iter().for_each(|_| found.push((next - from).as_millis()));
        }
        found
    }

    #[test]
    fn the_first_round_is_immediate_and_the_last_within_a_second() {
        let now = Instant::now();
        let mut rounds = ConfirmationQueue::default();

        assert!(rounds.accept_request(&suspect(1, 2), now));

        assert_eq!(rounds_within(&mut rounds, now, Duration::from_secs(60)), [0, 700]);
        assert!(rounds.accept_request(&suspect(2, 4), now));
        let last = rounds_within(&mut rounds, now, Duration::from_secs(60)).pop();
        assert!(last <= Some(1_000), "{last:?}");
    }

    #[test]
    fn a_withdrawn_request_gets_no_further_checks() {
        let now = Instant::now();
        let mut rounds = ConfirmationQueue::default();
        rounds.accept_request(&suspect(1, 5), now);
        rounds.take_due(now);

        rounds.accept_request(&suspect(1, 0), now);

        assert_eq!(rounds.next_due_at(), None);
    }

    #[test]
    fn a_flapping_site_is_confirmed_once_per_cooldown() {
        let now = Instant::now();
        let mut rounds = ConfirmationQueue::default();
        let mut found = 0;
        for second in 0..3_600 {
            let at = now + Duration::from_secs(second);
            rounds.accept_request(&suspect(1, 2), at);
            found += rounds_within(&mut rounds, at, Duration::from_secs(1)).len();
        }

        assert_eq!(found, 2 * 360, "two rounds for each ten seconds of an hour");
        let later = now + Duration::from_secs(2 * 3_600);
        rounds.accept_request(&suspect(1, 0), later);
        rounds.accept_request(&suspect(1, 1), later);
        assert_eq!(
            rounds_within(&mut rounds, later, Duration::from_secs(1)),
            [0],
            "quiet sites count as new"
        );
    }

    #[test]
    fn the_number_of_remembered_sites_is_bounded() {
        let now = Instant::now();
        let mut rounds = ConfirmationQueue::default();

        let taken =
            (0..MAX_SITES as i64 + 5).filter(|site| rounds.accept_request(&suspect(*site, 1), now)).count();

        assert_eq!(taken, MAX_SITES);
        let later = now + Duration::from_secs(60);
        assert_eq!(
            rounds.take_due(later).dropped,
            MAX_SITES,
            "a request that waited for so long is left to the site's ticks"
        );
        assert!(rounds.accept_request(&suspect(-1, 1), later), "idle sites are evicted");
    }

    #[test]
    fn many_simultaneous_requests_are_sampled_and_confirmed_completely_at_a_bounded_rate() {
        let now = Instant::now();
        let mut rounds = ConfirmationQueue::default();
        (0..1_000).for_each(|site| assert!(rounds.accept_request(&suspect(site, 2), now)));
        let mut published: HashMap<SiteId, Vec<Duration>> = HashMap::new();
        let mut dropped = 0;
        let mut at = now;
        while let Some(next) = rounds.next_due_at() {
            assert!(next >= at, "no round is due in the past: the caller would spin");
            at = next;
            let due = rounds.take_due(at);
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
    fn sampling_does_not_depend_on_the_site_id() {
        let now = Instant::now();
        let chosen = |_| {
            let mut rounds = ConfirmationQueue::default();
            (0..1_000).for_each(|site| assert!(rounds.accept_request(&suspect(site, 2), now)));
            rounds.take_due(now).sites
        };
        let mut ever: Vec<SiteId> = (0..200).flat_map(chosen).collect();
        ever.sort_unstable();
        ever.dedup();

        assert!(ever.len() > 990, "{} of 1000 sites were ever in a sample of {MAX_BURST_ROUNDS}", ever.len());
    }

    #[test]
    fn a_few_requests_after_a_flood_are_confirmed_immediately_again() {
        let now = Instant::now();
        let mut rounds = ConfirmationQueue::default();
        (0..1_000).for_each(|site| assert!(rounds.accept_request(&suspect(site, 2), now)));
        rounds.take_due(now);
        (0..1_000).for_each(|site| assert!(rounds.accept_request(&suspect(site, 0), now)));

        let later = now + REFILL_INTERVAL * MAX_BURST_ROUNDS;
        rounds.accept_request(&suspect(5_000, 2), later);

        assert_eq!(rounds_within(&mut rounds, later, Duration::from_secs(60)), [0, 700]);
    }
}
