//! Catalog of sites: loads the schedules of acquired shards, follows changes, and validates sites.
//!
//! Bound: one statement at a time; notifications during a load are combined. Loss: none, everything
//! is read again.

mod pattern_cache;

use std::{collections::HashMap, sync::Arc, time::Duration};

use picket_proto::{Shard, SiteId, Timestamp, job::JobTemplate, pattern, site::IntervalRange};
use picket_runtime::{Backoff, ErrorChain, ReadinessCheck, clock::Boottime};
use picket_store::{Error, Store, change_feed, leases::Lease, regions, schedules::SiteWithSchedules, sites};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tracing::{Span, field, info, instrument, warn};

use self::pattern_cache::PatternCache;
use crate::{
    fence::{Admission, Fence},
    metrics::Metrics,
    schedule::{index::WatchedSite, scheduler},
};

pub(crate) enum Msg {
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
pub(crate) struct Catalog {
    pub(crate) store: Store,
    pub(crate) scheduler: ActorRef<scheduler::Msg>,
    pub(crate) fence: Fence,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: ReadinessCheck,
}

/// State of the catalog.
pub(crate) struct CatalogState {
    cursor: Option<change_feed::Cursor>,
    /// Shards not loaded yet.
    unread_leases: Vec<Lease>,
    /// Problems of sites not stored in the database yet.
    unsaved_problems: Vec<SiteProblem>,
    /// Sites whose accepted regexes are not recorded yet.
    validated: Vec<Validated>,
    pattern_cache: PatternCache,
    backoff: Backoff,
}

type SiteProblem = (SiteId, Timestamp, String);
type Validated = (SiteId, Timestamp);

/// Interval of polling, in addition to notifications by the database.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Shards loaded at once. Between loads, changes of loaded shards are followed.
const SHARDS_PER_LOAD: usize = 8;
/// Maximum number of sites per message to the scheduler, and of problems per statement.
const SITES_PER_MESSAGE: usize = 2_048;
/// Sites whose regexes are compiled before they are sent to the scheduler. A costly regex takes 4 ms.
const SITES_PER_COMPILATION: usize = 256;

impl Actor for Catalog {
    type Msg = Msg;
    type State = CatalogState;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<CatalogState, ActorProcessingErr> {
        myself.send_after(POLL_INTERVAL, || Msg::Poll);
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let patterns = PatternCache::new(self.metrics.patterns_compiled.clone());
        let (waiting, problems, validated) = (Vec::new(), Vec::new(), Vec::new());
        Ok(CatalogState {
            cursor: None,
            unread_leases: waiting,
            unsaved_problems: problems,
            validated,
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
        // Loading the remaining shards comes first.
        if done.is_ok() && read.unread_leases.is_empty() {
            self.record_validated(read).await;
        }
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
        let has_work = !read.unread_leases.is_empty() || !read.validated.is_empty();
        if has_work && (poll || wait == POLL_INTERVAL) {
            myself.cast(Msg::LoadNext)?;
        }
        Ok(())
    }
}

impl Catalog {
    #[instrument(level = "debug", skip_all, fields(shard.ids = field::Empty))]
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
        Span::current().record("shard.ids", field::debug(&shards));
        self.send_regions().await?;
        let _ = self.scheduler.cast(scheduler::Msg::ShardsAcquired(leases.clone()));
        let (mut judged, mut unvalidated, mut sites) = (ValidationBatch::default(), Vec::new(), 0);
        let snapshot = change_feed::load_shards(&self.store, &shards, |scheduled| {
            sites += 1;
            match has_unvalidated_patterns(&scheduled.site) {
                true => unvalidated.push(scheduled),
                false => judged.validate_site(scheduled, None),
            }
            if judged.watched.len() >= SITES_PER_MESSAGE {
                let _ = self.scheduler.cast(scheduler::Msg::SitesLoaded(std::mem::take(&mut judged.watched)));
            }
        })
        .await?;
        read.unread_leases.drain(..leases.len());
        read.unsaved_problems.extend(judged.problems);
        let _ = self.scheduler.cast(scheduler::Msg::SitesLoaded(judged.watched));
        // The scheduler has all sites whose regexes need no compilation; compile the others now.
        while !unvalidated.is_empty() {
            let chunk = unvalidated.split_off(unvalidated.len().saturating_sub(SITES_PER_COMPILATION));
            let judged = self.compile_patterns(chunk, read).await;
            let _ = self.scheduler.cast(scheduler::Msg::SitesLoaded(judged.watched));
        }
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
        let (mut judged, mut unvalidated) = (ValidationBatch::default(), Vec::new());
        let mut removed = Vec::new();
        let now = change_feed::load_changes(
            &self.store,
            through,
            &self.fence.held_shards(),
            |scheduled| match has_unvalidated_patterns(&scheduled.site) {
                true => unvalidated.push(scheduled),
                false => judged.validate_site(scheduled, None),
            },
            |site| removed.push(site.id),
        )
        .await?;
        let ValidationBatch { watched: planned, problems, removed: mut gone, .. } = judged;
        gone.extend(removed);
        if !now.is_successor_of(through) {
            warn!("the database was restored or failed over to a replica, reloaded all sites");
            let planned = planned.iter().map(|site| site.id);
            let there = planned.chain(unvalidated.iter().map(|scheduled| scheduled.site.id));
            let _ = self.scheduler.cast(scheduler::Msg::RetainSites(there.collect()));
        }
        if !planned.is_empty() || !gone.is_empty() || !unvalidated.is_empty() {
            // A change may refer to a new region.
            self.send_regions().await?;
            let _ = self.scheduler.cast(scheduler::Msg::SitesChanged(planned, gone));
        }
        read.cursor = Some(now);
        read.unsaved_problems.extend(problems);
        while !unvalidated.is_empty() {
            let chunk = unvalidated.split_off(unvalidated.len().saturating_sub(SITES_PER_COMPILATION));
            let judged = self.compile_patterns(chunk, read).await;
            let _ = self.scheduler.cast(scheduler::Msg::SitesChanged(judged.watched, judged.removed));
        }
        Ok(())
    }

    async fn send_regions(&self) -> Result<(), Error> {
        let names: HashMap<_, _> = regions::list_region_ids(&self.store).await?.into_iter().collect();
        let _ = self.scheduler.cast(scheduler::Msg::RegionsUpdated(Arc::new(names)));
        Ok(())
    }

    /// Validates sites whose regexes have to be compiled, on a blocking thread.
    async fn compile_patterns(
        &self,
        sites: Vec<SiteWithSchedules>,
        read: &mut CatalogState,
    ) -> ValidationBatch {
        let mut patterns = std::mem::take(&mut read.pattern_cache);
        let compiling = tokio::task::spawn_blocking(move || {
            let mut judged = ValidationBatch::default();
            for scheduled in sites {
                judged.validate_site(scheduled, Some(&mut patterns));
            }
            (judged, patterns)
        });
        let (mut judged, patterns) = match compiling.await {
            Ok(done) => done,
            Err(stopped) => match stopped.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down, which cancels this task too.
                Err(_) => std::future::pending().await,
            },
        };
        read.pattern_cache = patterns;
        read.unsaved_problems.append(&mut judged.problems);
        read.validated.append(&mut judged.validated);
        judged
    }

    async fn persist_problems(&self, read: &mut CatalogState) -> Result<(), Error> {
        // A fixed order, so that two coordinators do not deadlock.
        read.unsaved_problems.sort_unstable();
        let mut most = SITES_PER_MESSAGE;
        while !read.unsaved_problems.is_empty() {
            let chunk = read.unsaved_problems.len().min(most);
            match sites::set_problems(&self.store, &read.unsaved_problems[..chunk]).await {
                Ok(()) => {}
                Err(error) if error.is_transient() => return Err(error),
                Err(error) if chunk == 1 => {
                    warn!(error = %ErrorChain(&error), "database rejected the problem of a site");
                }
                // At least one problem is refused; writing each alone shows which.
                Err(_) => {
                    most = 1;
                    continue;
                }
            }
            for (id, _, problem) in read.unsaved_problems.drain(..chunk) {
                self.metrics.site_problems.inc();
                warn!(site.id = %id, problem, "site failed validation");
            }
        }
        Ok(())
    }

    /// Records a chunk of the sites whose regexes were accepted. A failure drops all of them, which
    /// costs only their compilation at the next acquisition.
    async fn record_validated(&self, read: &mut CatalogState) {
        let chunk = read.validated.split_off(read.validated.len().saturating_sub(SITES_PER_MESSAGE));
        if chunk.is_empty() {
            return;
        }
        let recorded = sites::set_patterns_validated(&self.store, pattern::RULES_VERSION, &chunk).await;
        if let Err(error) = recorded {
            self.metrics.database_errors.inc();
            let sites = chunk.len() + read.validated.len();
            warn!(sites, error = %ErrorChain(&error), "could not record validated regexes, dropped");
            read.validated.clear();
        }
    }
}

fn has_unvalidated_patterns(site: &sites::Site) -> bool {
    let has_patterns = site.spec.as_ref().is_ok_and(|spec| spec.check.has_patterns());
    has_patterns && site.problem.is_none() && site.patterns_validated != Some(pattern::RULES_VERSION)
}

#[derive(Default)]
struct ValidationBatch {
    watched: Vec<WatchedSite>,
    problems: Vec<SiteProblem>,
    removed: Vec<SiteId>,
    validated: Vec<Validated>,
}

impl ValidationBatch {
    /// Validates a site. Without `patterns` its regexes are not compiled, since a coordinator has
    /// accepted them before.
    fn validate_site(&mut self, scheduled: SiteWithSchedules, patterns: Option<&mut PatternCache>) {
        // The database judges intervals by its settings; a site that it refused has a problem.
        let intervals = IntervalRange::WIDEST;
        let SiteWithSchedules { site, schedules } = scheduled;
        if site.problem.is_some() {
            self.removed.push(site.id);
            return;
        }
        let has_compiled = patterns.is_some();
        let verdict = site.spec.and_then(|spec| {
            let valid = match patterns {
                Some(patterns) => {
                    spec.validate_with(intervals, |field, text| patterns.validate_pattern(field, text))
                }
                // The recorded version covers the sizes as well.
                None => spec.validate_with(intervals, |_, _| Ok(0)),
            };
            valid.map(|()| spec)
        });
        match verdict {
            Ok(spec) => {
                if has_compiled {
                    self.validated.push((site.id, site.updated_at));
                }
                self.watched.push(WatchedSite {
                    id: site.id,
                    shard: site.shard,
                    template: JobTemplate::new(&spec.check),
                    schedules,
                });
            }
            Err(problem) => {
                self.removed.push(site.id);
                self.problems.push((site.id, site.updated_at, problem.to_string()));
            }
        }
    }
}
