//! Catalog of sites: loads the schedules of acquired shards, follows changes, and validates sites.
//!
//! Bound: one statement at a time; notifications during a load are combined. Loss: none, everything
//! is read again.

mod pattern_cache;

use std::{collections::HashMap, sync::Arc, time::Duration};

use picket_proto::{Shard, SiteId, Timestamp, job::JobTemplate, site::IntervalRange};
use picket_runtime::{Backoff, ErrorChain, ReadinessCheck, clock::Boottime};
use picket_store::{Error, Store, change_feed, leases::Lease, regions, schedules::SiteWithSchedules, sites};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tracing::{info, warn};

use self::pattern_cache::PatternCache;
use crate::{
    fence::{Admission, Fence},
    metrics::Metrics,
    scheduler::{self, index::WatchedSite},
};

pub enum Msg {
    /// These shards were acquired; load them.
    LoadShards(Vec<Lease>),
    /// Load the next waiting shards.
    LoadNext,
    /// The database has notified of a change.
    Notified,
    /// Poll for changes, with or without a notification.
    Poll,
}

/// See the module documentation.
#[derive(Clone)]
pub struct Catalog {
    pub store: Store,
    pub intervals: IntervalRange,
    pub scheduler: ActorRef<scheduler::Msg>,
    pub fence: Fence,
    pub metrics: Metrics,
    pub readiness: ReadinessCheck,
}

/// State of the catalog.
pub struct CatalogState {
    cursor: Option<change_feed::Cursor>,
    /// Shards not loaded yet.
    unread_leases: Vec<Lease>,
    /// Problems of sites not stored in the database yet.
    unsaved_problems: Vec<SiteProblem>,
    pattern_cache: PatternCache,
    backoff: Backoff,
}

type SiteProblem = (SiteId, Timestamp, String);

/// Interval of polling, in addition to notifications by the database.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Shards loaded at once. Between loads, changes of loaded shards are followed.
const SHARDS_PER_LOAD: usize = 8;
/// Maximum number of sites per message to the scheduler, and of problems per statement.
const SITES_PER_MESSAGE: usize = 2_048;

impl Actor for Catalog {
    type Msg = Msg;
    type State = CatalogState;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<CatalogState, ActorProcessingErr> {
        myself.send_after(POLL_INTERVAL, || Msg::Poll);
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let patterns = PatternCache::default();
        Ok(CatalogState {
            cursor: None,
            unread_leases: Vec::new(),
            unsaved_problems: Vec::new(),
            pattern_cache: patterns,
            backoff,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        read: &mut CatalogState,
    ) -> Result<(), ActorProcessingErr> {
        let poll = matches!(message, Msg::Poll);
        let done = match message {
            Msg::LoadShards(leases) => {
                read.unread_leases.extend(leases);
                myself.cast(Msg::LoadNext)?;
                return Ok(());
            }
            Msg::LoadNext => self.load_shards(read).await,
            Msg::Notified | Msg::Poll => self.follow_changes(read).await,
        };
        let done = match done {
            Ok(()) => self.persist_problems(read).await,
            failed => failed,
        };
        let wait = match done {
            Ok(()) => {
                self.readiness.set_ready();
                read.backoff.reset();
                POLL_INTERVAL
            }
            Err(error) => {
                self.metrics.database_errors.inc();
                self.readiness.set_unready(ErrorChain(&error).to_string());
                warn!(error = %ErrorChain(&error), "could not load sites, retrying");
                read.backoff.next_delay()
            }
        };
        if poll {
            myself.send_after(wait, || Msg::Poll);
        }
        // After a failure the next poll continues loading, so that there is a pause.
        if !read.unread_leases.is_empty() && (poll || wait == POLL_INTERVAL) {
            myself.cast(Msg::LoadNext)?;
        }
        Ok(())
    }
}

impl Catalog {
    async fn load_shards(&self, read: &mut CatalogState) -> Result<(), Error> {
        // Skips leases lost or released while they waited.
        let held = |lease: &Lease| {
            self.fence.check_admission(lease.shard, lease.epoch, Boottime::now()) != Admission::Closed
        };
        read.unread_leases.retain(held);
        let leases: Vec<Lease> = read.unread_leases.iter().take(SHARDS_PER_LOAD).copied().collect();
        if leases.is_empty() {
            return Ok(());
        }
        let began = tokio::time::Instant::now();
        let shards: Vec<Shard> = leases.iter().map(|lease| lease.shard).collect();
        self.send_regions().await?;
        let _ = self.scheduler.cast(scheduler::Msg::ShardsAcquired(leases.clone()));
        let (mut judged, mut sites) = (ValidationBatch::default(), 0);
        let snapshot = change_feed::load_shards(&self.store, &shards, |scheduled| {
            sites += 1;
            self.validate_site(scheduled, &mut read.pattern_cache, &mut judged);
            if judged.watched.len() >= SITES_PER_MESSAGE {
                let _ = self.scheduler.cast(scheduler::Msg::SitesLoaded(std::mem::take(&mut judged.watched)));
            }
        })
        .await?;
        read.unread_leases.drain(..leases.len());
        read.unsaved_problems.extend(judged.problems);
        let _ = self.scheduler.cast(scheduler::Msg::SitesLoaded(judged.watched));
        let _ = self.scheduler.cast(scheduler::Msg::ShardsLoaded(leases));
        // The next poll starts at the oldest snapshot, so that changes during this load are read
        // again.
        read.cursor.get_or_insert(snapshot);
        info!(
            shards = shards.len(),
            sites,
            duration_ms = began.elapsed().as_millis(),
            waiting = read.unread_leases.len(),
            "loaded sites of acquired shards"
        );
        Ok(())
    }

    async fn follow_changes(&self, read: &mut CatalogState) -> Result<(), Error> {
        // Before the first shard there is nothing to follow.
        let Some(through) = read.cursor else {
            return Ok(());
        };
        let mut judged = ValidationBatch::default();
        let mut removed = Vec::new();
        let now = change_feed::load_changes(
            &self.store,
            through,
            &self.fence.held_shards(),
            |scheduled| {
                self.validate_site(scheduled, &mut read.pattern_cache, &mut judged);
            },
            |site| removed.push(site.id),
        )
        .await?;
        let ValidationBatch { watched: planned, problems, removed: mut gone } = judged;
        gone.extend(removed);
        if !now.is_successor_of(through) {
            warn!("the database was restored or failed over to a replica, reloaded all sites");
            let _ = self
                .scheduler
                .cast(scheduler::Msg::RetainSites(planned.iter().map(|site| site.id).collect()));
        }
        if !planned.is_empty() || !gone.is_empty() {
            // A change may refer to a new region.
            self.send_regions().await?;
            let _ = self.scheduler.cast(scheduler::Msg::SitesChanged(planned, gone));
        }
        read.cursor = Some(now);
        read.unsaved_problems.extend(problems);
        Ok(())
    }

    async fn send_regions(&self) -> Result<(), Error> {
        let names: HashMap<_, _> = regions::list_region_ids(&self.store).await?.into_iter().collect();
        let _ = self.scheduler.cast(scheduler::Msg::RegionsUpdated(Arc::new(names)));
        Ok(())
    }

    fn validate_site(
        &self,
        scheduled: SiteWithSchedules,
        patterns: &mut PatternCache,
        judged: &mut ValidationBatch,
    ) {
        let SiteWithSchedules { site, schedules } = scheduled;
        if site.problem.is_some() {
            judged.removed.push(site.id);
            return;
        }
        let judge_regex = |field: &str, pattern: &str| patterns.validate_pattern(field, pattern);
        let verdict =
            site.spec.and_then(|spec| spec.validate_with(self.intervals, judge_regex).map(|()| spec));
        match verdict {
            Ok(spec) => judged.watched.push(WatchedSite {
                id: site.id,
                shard: site.shard,
                template: JobTemplate::new(&spec.check),
                schedules,
            }),
            Err(problem) => {
                judged.removed.push(site.id);
                judged.problems.push((site.id, site.updated_at, problem.to_string()));
            }
        }
    }

    async fn persist_problems(&self, read: &mut CatalogState) -> Result<(), Error> {
        // A fixed order, so that two coordinators do not deadlock.
        read.unsaved_problems.sort_unstable();
        let mut most = SITES_PER_MESSAGE;
        while !read.unsaved_problems.is_empty() {
            let piece = read.unsaved_problems.len().min(most);
            match sites::set_problems(&self.store, &read.unsaved_problems[..piece]).await {
                Ok(()) => {}
                Err(error) if error.is_transient() => return Err(error),
                Err(error) if piece == 1 => {
                    warn!(error = %ErrorChain(&error), "database rejected the problem of a site");
                }
                // At least one problem is refused; writing each alone shows which.
                Err(_) => {
                    most = 1;
                    continue;
                }
            }
            for (id, _, problem) in read.unsaved_problems.drain(..piece) {
                self.metrics.site_problems.inc();
                warn!(site.id = %id, problem, "site failed validation");
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct ValidationBatch {
    watched: Vec<WatchedSite>,
    problems: Vec<SiteProblem>,
    removed: Vec<SiteId>,
}
