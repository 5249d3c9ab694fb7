//! Pure: the sites and schedules of all held shards, small enough that a million fit in a fraction of a gigabyte.

use std::collections::{HashMap, HashSet};

use picket_proto::{Shard, SiteId, Timestamp, job::Template};
use picket_store::schedules::Schedule;

/// A site that is to be watched, with the encoded part of its jobs.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Which.
    pub id: SiteId,
    /// Its shard.
    pub shard: Shard,
    /// The part of its jobs that says what to check.
    pub template: Template,
    /// One for each region.
    pub schedules: Vec<Schedule>,
}

/// Sites and their schedules, by small numbers.
#[derive(Default)]
pub struct Roster {
    sites: Vec<Site>,
    entries: Vec<Entry>,
    by_id: HashMap<SiteId, u32>,
    free_sites: Vec<u32>,
    free_entries: Vec<u32>,
    live_entries: usize,
}

struct Site {
    id: SiteId,
    template: Template,
    /// The first of its entries; they are a list, since most sites have few.
    first: u32,
    shard: Shard,
}

#[derive(Clone, Copy)]
struct Entry {
    site: u32,
    next: u32,
    /// 0 when the entry is dead: still on the wheel, until that next visits it.
    interval_ms: u32,
    phase_ms: u32,
    region_id: i16,
}

const NONE: u32 = u32::MAX;

/// An entry that is new: its next tick must be put on the wheel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    /// Its number.
    pub entry: u32,
    /// Ticks after this are its own.
    pub valid_from: Timestamp,
}

/// What a job is made of.
pub struct Due<'a> {
    /// Whose.
    pub site: SiteId,
    /// Its shard.
    pub shard: Shard,
    /// The site's part of the job.
    pub template: &'a Template,
    /// Where.
    pub region_id: i16,
    /// In milliseconds.
    pub interval_ms: u32,
}

impl Roster {
    /// How many schedules are alive.
    pub fn schedules(&self) -> usize {
        self.live_entries
    }

    /// How many sites there are.
    pub fn sites(&self) -> usize {
        self.by_id.len()
    }

    /// Puts a site in, or brings it up to date. Schedules that stay as they are keep their place on the wheel;
    /// those that are new are returned.
    pub fn put(&mut self, planned: Planned) -> Vec<Added> {
        if planned.schedules.is_empty() {
            self.remove(planned.id);
            return Vec::new();
        }
        let site = match self.by_id.get(&planned.id) {
            Some(site) => {
                self.sites[*site as usize].template = planned.template;
                *site
            }
            None => self.add_site(planned.id, planned.shard, planned.template),
        };
        let mut missing = planned.schedules;
        let mut kept = NONE;
        let mut entry = self.sites[site as usize].first;
        while entry != NONE {
            let this = self.entries[entry as usize];
            let same = missing.iter().position(|schedule| this.is(schedule));
            match same {
                Some(place) => {
                    missing.swap_remove(place);
                    self.entries[entry as usize].next = kept;
                    kept = entry;
                }
                None => self.kill(entry),
            }
            entry = this.next;
        }
        let mut added = Vec::with_capacity(missing.len());
        for schedule in missing {
            let entry = self.add_entry(Entry {
                site,
                next: kept,
                interval_ms: schedule.interval_ms.unsigned_abs(),
                phase_ms: schedule.phase_ms.unsigned_abs(),
                region_id: schedule.region_id,
            });
            kept = entry;
            added.push(Added { entry, valid_from: schedule.valid_from });
        }
        self.sites[site as usize].first = kept;
        added
    }

    /// Takes a site out; its entries are dead.
    pub fn remove(&mut self, id: SiteId) {
        let Some(site) = self.by_id.remove(&id) else {
            return;
        };
        let mut entry = std::mem::replace(&mut self.sites[site as usize].first, NONE);
        while entry != NONE {
            let next = self.entries[entry as usize].next;
            self.kill(entry);
            entry = next;
        }
        self.free_sites.push(site);
    }

    /// Takes out all sites of the shards that `gone` names.
    pub fn remove_shards(&mut self, gone: impl Fn(Shard) -> bool) {
        let ids: Vec<SiteId> = self
            .by_id
            .iter()
            .filter(|(_, site)| gone(self.sites[**site as usize].shard))
            .map(|(id, _)| *id)
            .collect();
        ids.into_iter().for_each(|id| self.remove(id));
    }

    /// Drops all sites but these.
    pub fn retain(&mut self, sites: &HashSet<SiteId>) {
        let gone: Vec<SiteId> = self.by_id.keys().filter(|id| !sites.contains(id)).copied().collect();
        gone.into_iter().for_each(|id| self.remove(id));
    }

    /// The first tick of a living entry at or after `from_ms`. Called by the wheel, which lets go of what is dead.
    pub fn tick(&self, entry: u32, from_ms: i64) -> Option<i64> {
        let Entry { interval_ms, phase_ms, .. } = *self.entries.get(entry as usize)?;
        match interval_ms {
            0 => None,
            interval => Some(from_ms + (i64::from(phase_ms) - from_ms).rem_euclid(i64::from(interval))),
        }
    }

    /// The last tick of a living entry at or before `now_ms`.
    pub fn last_tick(&self, entry: u32, now_ms: i64) -> Option<i64> {
        let interval = i64::from(self.entries.get(entry as usize)?.interval_ms);
        Some(self.tick(entry, now_ms + 1)? - interval)
    }

    /// What the job of a living entry is made of.
    pub fn due(&self, entry: u32) -> Option<Due<'_>> {
        let this = self.entries.get(entry as usize).filter(|entry| entry.interval_ms > 0)?;
        let site = &self.sites[this.site as usize];
        Some(Due {
            site: site.id,
            shard: site.shard,
            template: &site.template,
            region_id: this.region_id,
            interval_ms: this.interval_ms,
        })
    }

    /// What the jobs of a site are made of, in each of its regions.
    pub fn all_due(&self, id: SiteId) -> impl Iterator<Item = Due<'_>> {
        let first = self.by_id.get(&id).map(|site| self.sites[*site as usize].first);
        let next = |entry: &u32| Some(self.entries[*entry as usize].next).filter(|next| *next != NONE);
        std::iter::successors(first, next).filter_map(|entry| self.due(entry))
    }

    /// The wheel has let go of this dead entry: its number may be used again.
    pub fn reclaim(&mut self, entry: u32) {
        debug_assert_eq!(self.entries[entry as usize].interval_ms, 0);
        self.free_entries.push(entry);
    }

    fn kill(&mut self, entry: u32) {
        self.entries[entry as usize].interval_ms = 0;
        self.live_entries -= 1;
    }

    fn add_site(&mut self, id: SiteId, shard: Shard, template: Template) -> u32 {
        let site = Site { id, template, first: NONE, shard };
        let place = place(&mut self.sites, &mut self.free_sites, site);
        self.by_id.insert(id, place);
        place
    }

    fn add_entry(&mut self, entry: Entry) -> u32 {
        self.live_entries += 1;
        place(&mut self.entries, &mut self.free_entries, entry)
    }
}

impl Entry {
    fn is(&self, schedule: &Schedule) -> bool {
        self.region_id == schedule.region_id
            && self.interval_ms == schedule.interval_ms.unsigned_abs()
            && self.phase_ms == schedule.phase_ms.unsigned_abs()
    }
}

/// Puts `value` into a free place of `all`, or at its end; four thousand million places are never reached.
fn place<T>(all: &mut Vec<T>, free: &mut Vec<u32>, value: T) -> u32 {
    match free.pop() {
        Some(place) => {
            all[place as usize] = value;
            place
        }
        None => {
            all.push(value);
            u32::try_from(all.len() - 1).unwrap_or(NONE)
        }
    }
}

#[cfg(test)]
mod tests {
    use picket_proto::CheckRequest;

    use super::*;

    fn site(id: i64, shard: u16, schedules: &[(i16, i32)]) -> Planned {
        let schedules = schedules.iter().map(|(region_id, interval_ms)| Schedule {
            region_id: *region_id,
            interval_ms: *interval_ms,
            phase_ms: 7,
            valid_from: Timestamp::from_millis(5),
        });
        Planned {
            id: SiteId(id),
            shard: Shard(shard),
            template: Template::new(&CheckRequest::new(format!("http://x/{id}"))),
            schedules: schedules.collect(),
        }
    }

    #[test]
    fn ticks_are_counted_from_the_epoch_by_interval_and_phase() {
        let mut roster = Roster::default();
        let entry = roster.put(site(1, 0, &[(1, 1_000)]))[0].entry;

        assert_eq!(roster.tick(entry, 0), Some(7));
        assert_eq!(roster.tick(entry, 7), Some(7));
        assert_eq!(roster.tick(entry, 8), Some(1_007));
        assert_eq!(roster.last_tick(entry, 1_006), Some(7));
        assert_eq!(roster.last_tick(entry, 1_007), Some(1_007));
    }

    #[test]
    fn a_change_leaves_the_schedules_that_it_does_not_touch_on_the_wheel() {
        let mut roster = Roster::default();
        let before = roster.put(site(1, 0, &[(1, 1_000), (2, 1_000)]));

        let added = roster.put(site(1, 0, &[(1, 1_000), (2, 5_000), (3, 1_000)]));

        assert_eq!((added.len(), roster.schedules(), roster.all_due(SiteId(1)).count()), (2, 3, 3));
        let alive = before.iter().filter(|added| roster.due(added.entry).is_some()).count();
        assert_eq!(alive, 1);
    }

    #[test]
    fn a_site_without_schedules_and_the_sites_of_a_lost_shard_are_gone() {
        let mut roster = Roster::default();
        roster.put(site(1, 0, &[(1, 1_000)]));
        roster.put(site(2, 1, &[(1, 1_000)]));
        let third = roster.put(site(3, 1, &[(1, 1_000)]))[0].entry;

        roster.put(site(1, 0, &[]));
        assert_eq!((roster.sites(), roster.schedules()), (2, 2));
        roster.remove_shards(|shard| shard == Shard(1));
        assert_eq!((roster.sites(), roster.schedules(), roster.tick(third, 0)), (0, 0, None));
        roster.reclaim(third);
        assert_eq!(roster.put(site(4, 2, &[(1, 1_000)]))[0].entry, third);
    }

    #[test]
    fn a_site_that_is_not_among_those_of_a_restored_database_is_gone() {
        let mut roster = Roster::default();
        roster.put(site(1, 0, &[(1, 1_000)]));
        let lost = roster.put(site(2, 0, &[(1, 1_000)]))[0].entry;

        roster.retain(&HashSet::from([SiteId(1), SiteId(7)]));

        assert_eq!((roster.sites(), roster.schedules(), roster.tick(lost, 0)), (1, 1, None));
    }
}
