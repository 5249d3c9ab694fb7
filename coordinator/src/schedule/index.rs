//! Pure: sites and schedules of all held shards, compact enough for a million sites in a fraction
//! of a gigabyte.

use std::collections::{HashMap, HashSet};

use picket_proto::{Shard, SiteId, Timestamp, job::JobTemplate};
use picket_store::schedules::Schedule;

/// A site to be checked, with the encoded part of its jobs.
#[derive(Clone, Debug)]
pub(crate) struct WatchedSite {
    /// Site id.
    pub(crate) id: SiteId,
    /// Shard of the site.
    pub(crate) shard: Shard,
    /// The constant part of the site's jobs: the check request.
    pub(crate) template: JobTemplate,
    /// One schedule per region.
    pub(crate) schedules: Vec<Schedule>,
}

/// Sites and their schedules, addressed by small numbers.
#[derive(Default)]
pub(crate) struct ScheduleIndex {
    sites: Vec<SiteSlot>,
    entries: Vec<ScheduleEntry>,
    by_id: HashMap<SiteId, u32>,
    free_sites: Vec<u32>,
    free_entries: Vec<u32>,
    live_entries: usize,
}

struct SiteSlot {
    id: SiteId,
    template: JobTemplate,
    /// First of the site's entries, a linked list because most sites have few.
    first_entry: u32,
    shard: Shard,
}

#[derive(Clone, Copy)]
struct ScheduleEntry {
    site: u32,
    next_entry: u32,
    /// 0 for a dead entry, which stays on the wheel until its bucket is visited.
    interval_ms: u32,
    phase_ms: u32,
    region_id: i16,
}

const NIL_INDEX: u32 = u32::MAX;

/// A new entry, whose next tick must be put on the wheel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NewEntry {
    /// Number of the entry.
    pub(crate) entry: u32,
    /// Ticks after this time belong to the schedule.
    pub(crate) valid_from: Timestamp,
}

/// Data for the job of a schedule.
pub(crate) struct ScheduleRef<'a> {
    /// Site id.
    pub(crate) site: SiteId,
    /// Shard of the site.
    pub(crate) shard: Shard,
    /// The site's part of the job.
    pub(crate) template: &'a JobTemplate,
    /// Region number.
    pub(crate) region_id: i16,
    /// Interval in milliseconds.
    pub(crate) interval_ms: u32,
}

impl ScheduleIndex {
    /// Number of live schedules.
    pub(crate) fn schedule_count(&self) -> usize {
        self.live_entries
    }

    /// Number of sites.
    pub(crate) fn site_count(&self) -> usize {
        self.by_id.len()
    }

    /// Adds or updates a site. Unchanged schedules keep their place on the wheel; new entries are
    /// returned.
    pub(crate) fn upsert_site(&mut self, planned: WatchedSite) -> Vec<NewEntry> {
        if planned.schedules.is_empty() {
            self.remove_site(planned.id);
            return Vec::new();
        }
        let site = match self.by_id.get(&planned.id) {
            Some(site) => {
                // The wheel holds numbers of entries and no templates, so a new template moves no
                // entry.
                self.sites[*site as usize].template = planned.template;
                *site
            }
            None => self.add_site(planned.id, planned.shard, planned.template),
        };
        let mut missing = planned.schedules;
        // Rebuilds the linked list of entries: unchanged ones are relinked, others marked dead.
        let mut kept = NIL_INDEX;
        let mut entry = self.sites[site as usize].first_entry;
        while entry != NIL_INDEX {
            let this = self.entries[entry as usize];
            let same = missing.iter().position(|schedule| this.is_same_schedule(schedule));
            match same {
                Some(place) => {
                    missing.swap_remove(place);
                    self.entries[entry as usize].next_entry = kept;
                    kept = entry;
                }
                None => self.mark_dead(entry),
            }
            entry = this.next_entry;
        }
        let mut added = Vec::with_capacity(missing.len());
        for schedule in missing {
            let entry = self.add_entry(ScheduleEntry {
                site,
                next_entry: kept,
                interval_ms: schedule.interval_ms.unsigned_abs(),
                phase_ms: schedule.phase_ms.unsigned_abs(),
                region_id: schedule.region_id,
            });
            kept = entry;
            added.push(NewEntry { entry, valid_from: schedule.valid_from });
        }
        self.sites[site as usize].first_entry = kept;
        added
    }

    /// Removes a site and marks its entries dead.
    pub(crate) fn remove_site(&mut self, id: SiteId) {
        let Some(site) = self.by_id.remove(&id) else {
            return;
        };
        let mut entry = std::mem::replace(&mut self.sites[site as usize].first_entry, NIL_INDEX);
        while entry != NIL_INDEX {
            let next = self.entries[entry as usize].next_entry;
            self.mark_dead(entry);
            entry = next;
        }
        // Dead entries still name this slot. Nothing follows them, because only live entries are
        // read.
        self.free_sites.push(site);
    }

    /// Removes all sites of the shards for which `gone` returns true.
    pub(crate) fn remove_shards(&mut self, gone: impl Fn(Shard) -> bool) {
        // Collected first, because each removal changes the map.
        let ids: Vec<SiteId> = self
            .by_id
            .iter()
            .filter(|(_, site)| gone(self.sites[**site as usize].shard))
            .map(|(id, _)| *id)
            .collect();
        ids.into_iter().for_each(|id| self.remove_site(id));
    }

    /// Removes all sites except `sites`.
    pub(crate) fn retain_sites(&mut self, sites: &HashSet<SiteId>) {
        let gone: Vec<SiteId> = self.by_id.keys().filter(|id| !sites.contains(id)).copied().collect();
        gone.into_iter().for_each(|id| self.remove_site(id));
    }

    /// First tick of a live entry at or after `from_ms`; `None` if the entry is dead. Called by the
    /// wheel, which drops dead entries.
    pub(crate) fn next_tick(&self, entry: u32, from_ms: i64) -> Option<i64> {
        let ScheduleEntry { interval_ms, phase_ms, .. } = *self.entries.get(entry as usize)?;
        match interval_ms {
            0 => None,
            interval => Some(from_ms + (i64::from(phase_ms) - from_ms).rem_euclid(i64::from(interval))),
        }
    }

    /// Last tick of a live entry at or before `now_ms`.
    pub(crate) fn last_tick(&self, entry: u32, now_ms: i64) -> Option<i64> {
        let interval = i64::from(self.entries.get(entry as usize)?.interval_ms);
        // Ticks are periodic, so the last tick lies one interval before the next one.
        Some(self.next_tick(entry, now_ms + 1)? - interval)
    }

    /// Data for the job of a live entry.
    pub(crate) fn schedule_ref(&self, entry: u32) -> Option<ScheduleRef<'_>> {
        let this = self.entries.get(entry as usize).filter(|entry| entry.interval_ms > 0)?;
        let site = &self.sites[this.site as usize];
        Some(ScheduleRef {
            site: site.id,
            shard: site.shard,
            template: &site.template,
            region_id: this.region_id,
            interval_ms: this.interval_ms,
        })
    }

    /// Data for the jobs of a site in each of its regions.
    pub(crate) fn site_schedules(&self, id: SiteId) -> impl Iterator<Item = ScheduleRef<'_>> {
        let first = self.by_id.get(&id).map(|site| self.sites[*site as usize].first_entry);
        let next =
            |entry: &u32| Some(self.entries[*entry as usize].next_entry).filter(|next| *next != NIL_INDEX);
        std::iter::successors(first, next).filter_map(|entry| self.schedule_ref(entry))
    }

    /// Frees the number of a dead entry after the wheel has dropped the entry.
    pub(crate) fn free_entry(&mut self, entry: u32) {
        debug_assert_eq!(self.entries[entry as usize].interval_ms, 0);
        self.free_entries.push(entry);
    }

    fn mark_dead(&mut self, entry: u32) {
        // The wheel cannot find an entry by its number. The bucket of its next tick drops it, and
        // then `free_entry` frees the number.
        self.entries[entry as usize].interval_ms = 0;
        self.live_entries -= 1;
    }

    fn add_site(&mut self, id: SiteId, shard: Shard, template: JobTemplate) -> u32 {
        let site = SiteSlot { id, template, first_entry: NIL_INDEX, shard };
        let place = alloc_slot(&mut self.sites, &mut self.free_sites, site);
        self.by_id.insert(id, place);
        place
    }

    fn add_entry(&mut self, entry: ScheduleEntry) -> u32 {
        self.live_entries += 1;
        alloc_slot(&mut self.entries, &mut self.free_entries, entry)
    }
}

impl ScheduleEntry {
    fn is_same_schedule(&self, schedule: &Schedule) -> bool {
        self.region_id == schedule.region_id
            && self.interval_ms == schedule.interval_ms.unsigned_abs()
            && self.phase_ms == schedule.phase_ms.unsigned_abs()
    }
}

/// Stores `value` in a free slot, or at the end; four billion slots are never reached.
fn alloc_slot<T>(all: &mut Vec<T>, free: &mut Vec<u32>, value: T) -> u32 {
    match free.pop() {
        Some(place) => {
            all[place as usize] = value;
            place
        }
        None => {
            all.push(value);
            u32::try_from(all.len() - 1).unwrap_or(NIL_INDEX)
        }
    }
}

#[cfg(test)]
mod tests {
    use picket_proto::CheckRequest;

    use super::*;

    fn site(id: i64, shard: u16, schedules: &[(i16, i32)]) -> WatchedSite {
        let schedules = schedules.iter().map(|(region_id, interval_ms)| Schedule {
            region_id: *region_id,
            interval_ms: *interval_ms,
            phase_ms: 7,
            valid_from: Timestamp::from_millis(5),
        });
        WatchedSite {
            id: SiteId(id),
            shard: Shard(shard),
            template: JobTemplate::new(&CheckRequest::new(format!("http://x/{id}"))),
            schedules: schedules.collect(),
        }
    }

    #[test]
    fn ticks_are_computed_from_the_unix_epoch_by_interval_and_phase() {
        let mut index = ScheduleIndex::default();
        let entry = index.upsert_site(site(1, 0, &[(1, 1_000)]))[0].entry;

        assert_eq!(index.next_tick(entry, 0), Some(7));
        assert_eq!(index.next_tick(entry, 7), Some(7));
        assert_eq!(index.next_tick(entry, 8), Some(1_007));
        assert_eq!(index.last_tick(entry, 1_006), Some(7));
        assert_eq!(index.last_tick(entry, 1_007), Some(1_007));
    }

    #[test]
    fn a_change_keeps_unaffected_schedules_on_the_wheel() {
        let mut index = ScheduleIndex::default();
        let before = index.upsert_site(site(1, 0, &[(1, 1_000), (2, 1_000)]));

        let added = index.upsert_site(site(1, 0, &[(1, 1_000), (2, 5_000), (3, 1_000)]));

        assert_eq!((added.len(), index.schedule_count(), index.site_schedules(SiteId(1)).count()), (2, 3, 3));
        let alive = before.iter().filter(|added| index.schedule_ref(added.entry).is_some()).count();
        assert_eq!(alive, 1);
    }

    #[test]
    fn a_site_without_schedules_and_the_sites_of_a_lost_shard_are_removed() {
        let mut index = ScheduleIndex::default();
        index.upsert_site(site(1, 0, &[(1, 1_000)]));
        index.upsert_site(site(2, 1, &[(1, 1_000)]));
        let third = index.upsert_site(site(3, 1, &[(1, 1_000)]))[0].entry;

        index.upsert_site(site(1, 0, &[]));
        assert_eq!((index.site_count(), index.schedule_count()), (2, 2));
        index.remove_shards(|shard| shard == Shard(1));
        assert_eq!((index.site_count(), index.schedule_count(), index.next_tick(third, 0)), (0, 0, None));
        index.free_entry(third);
        assert_eq!(index.upsert_site(site(4, 2, &[(1, 1_000)]))[0].entry, third);
    }

    #[test]
    fn a_site_missing_from_a_restored_database_is_removed() {
        let mut index = ScheduleIndex::default();
        index.upsert_site(site(1, 0, &[(1, 1_000)]));
        let lost = index.upsert_site(site(2, 0, &[(1, 1_000)]))[0].entry;

        index.retain_sites(&HashSet::from([SiteId(1), SiteId(7)]));

        assert_eq!((index.site_count(), index.schedule_count(), index.next_tick(lost, 0)), (1, 1, None));
    }
}
