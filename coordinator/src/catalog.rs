//! Knows what is to be watched: reads the schedules of shards that were taken, follows changes, and judges sites.
//!
//! Bound: one statement at a time; calls of the database while it reads are one. Loss: none, all is read again.

mod patterns;

use std::{collections::HashMap, sync::Arc, time::Duration};

use picket_proto::{Shard, SiteId, Timestamp, job::Template, site::IntervalRange};
use picket_runtime::{Backoff, Chain, Condition, clock::Boottime};
use picket_store::{Error, Store, changes, leases::Lease, regions, schedules::Scheduled, sites};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tracing::{info, warn};

use self::patterns::Patterns;
use crate::{
    fence::{Fence, Gateway},
    metrics::Metrics,
    planner::{self, roster::Planned},
};

pub enum Msg {
    /// These shards were taken: read them.
    Load(Vec<Lease>),
    /// Read the next of those that wait.
    Next,
    /// The database called: something has changed.
    Called,
    /// Time to look, whether it called or not.
    Poll,
}

/// See the module.
#[derive(Clone)]
pub struct Catalog {
    pub store: Store,
    pub intervals: IntervalRange,
    pub planner: ActorRef<planner::Msg>,
    pub fence: Fence,
    pub metrics: Metrics,
    pub condition: Condition,
}

/// What has been read.
pub struct Read {
    through: Option<changes::Snapshot>,
    /// Shards that have not been read yet.
    waiting: Vec<Lease>,
    /// What is wrong with sites, and could not be written down yet.
    problems: Vec<Problem>,
    patterns: Patterns,
    backoff: Backoff,
}

type Problem = (SiteId, Timestamp, String);

/// The database calls when something changes; this often we look all the same.
const POLL: Duration = Duration::from_secs(1);
/// Shards that are read at once. In between, changes of those that were read are followed.
const SHARDS: usize = 8;
/// Sites that are handed to the planner, and problems that are written down, at once.
const PIECE: usize = 2_048;

impl Actor for Catalog {
    type Msg = Msg;
    type State = Read;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<Read, ActorProcessingErr> {
        myself.send_after(POLL, || Msg::Poll);
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let patterns = Patterns::default();
        Ok(Read { through: None, waiting: Vec::new(), problems: Vec::new(), patterns, backoff })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        read: &mut Read,
    ) -> Result<(), ActorProcessingErr> {
        let poll = matches!(message, Msg::Poll);
        let done = match message {
            Msg::Load(leases) => {
                read.waiting.extend(leases);
                myself.cast(Msg::Next)?;
                return Ok(());
            }
            Msg::Next => self.load(read).await,
            Msg::Called | Msg::Poll => self.follow(read).await,
        };
        let done = match done {
            Ok(()) => self.write_down(read).await,
            failed => failed,
        };
        let wait = match done {
            Ok(()) => {
                self.condition.holds();
                read.backoff.reset();
                POLL
            }
            Err(error) => {
                self.metrics.database_errors.inc();
                self.condition.fails(Chain(&error).to_string());
                warn!(error = %Chain(&error), "could not read what is to be watched, trying again");
                read.backoff.next_wait()
            }
        };
        if poll {
            myself.send_after(wait, || Msg::Poll);
        }
        // After a failure the next poll goes on, so that there is a pause.
        if !read.waiting.is_empty() && (poll || wait == POLL) {
            myself.cast(Msg::Next)?;
        }
        Ok(())
    }
}

impl Catalog {
    async fn load(&self, read: &mut Read) -> Result<(), Error> {
        // Leases that were lost or given back while they waited.
        let held =
            |lease: &Lease| self.fence.look(lease.shard, lease.epoch, Boottime::now()) != Gateway::Shut;
        read.waiting.retain(held);
        let leases: Vec<Lease> = read.waiting.iter().take(SHARDS).copied().collect();
        if leases.is_empty() {
            return Ok(());
        }
        let began = tokio::time::Instant::now();
        let shards: Vec<Shard> = leases.iter().map(|lease| lease.shard).collect();
        self.tell_regions().await?;
        let _ = self.planner.cast(planner::Msg::Take(leases.clone()));
        let (mut judged, mut sites) = (Judged::default(), 0);
        let snapshot = changes::load(&self.store, &shards, |scheduled| {
            sites += 1;
            self.judge(scheduled, &mut read.patterns, &mut judged);
            if judged.planned.len() >= PIECE {
                let _ = self.planner.cast(planner::Msg::Sites(std::mem::take(&mut judged.planned)));
            }
        })
        .await?;
        read.waiting.drain(..leases.len());
        read.problems.extend(judged.problems);
        let _ = self.planner.cast(planner::Msg::Sites(judged.planned));
        let _ = self.planner.cast(planner::Msg::Taken(leases));
        // The next poll starts at the oldest snapshot, so that changes during this load are read again.
        read.through.get_or_insert(snapshot);
        info!(
            shards = shards.len(),
            sites,
            duration_ms = began.elapsed().as_millis(),
            "read {sites} sites of {} shards, {} shards wait",
            shards.len(),
            read.waiting.len()
        );
        Ok(())
    }

    async fn follow(&self, read: &mut Read) -> Result<(), Error> {
        // Before the first shard there is nothing to follow.
        let Some(through) = read.through else {
            return Ok(());
        };
        let mut judged = Judged::default();
        let mut removed = Vec::new();
        let now = changes::since(
            &self.store,
            through,
            &self.fence.shards(),
            |scheduled| {
                self.judge(scheduled, &mut read.patterns, &mut judged);
            },
            |site| removed.push(site.id),
        )
        .await?;
        let Judged { planned, problems, mut gone } = judged;
        gone.extend(removed);
        if !now.follows(through) {
            warn!("the database was restored or failed over to a replica, reloaded all sites");
            let _ = self.planner.cast(planner::Msg::Retain(planned.iter().map(|site| site.id).collect()));
        }
        if !planned.is_empty() || !gone.is_empty() {
            // A region may be what is new.
            self.tell_regions().await?;
            let _ = self.planner.cast(planner::Msg::Change(planned, gone));
        }
        read.through = Some(now);
        read.problems.extend(problems);
        Ok(())
    }

    async fn tell_regions(&self) -> Result<(), Error> {
        let names: HashMap<_, _> = regions::numbers(&self.store).await?.into_iter().collect();
        let _ = self.planner.cast(planner::Msg::Regions(Arc::new(names)));
        Ok(())
    }

    fn judge(&self, scheduled: Scheduled, patterns: &mut Patterns, judged: &mut Judged) {
        let Scheduled { site, schedules } = scheduled;
        if site.problem.is_some() {
            judged.gone.push(site.id);
            return;
        }
        let judge_regex = |field: &str, pattern: &str| patterns.judge(field, pattern);
        let verdict =
            site.spec.and_then(|spec| spec.validate_with(self.intervals, judge_regex).map(|()| spec));
        match verdict {
            Ok(spec) => judged.planned.push(Planned {
                id: site.id,
                shard: site.shard,
                template: Template::new(&spec.check),
                schedules,
            }),
            Err(problem) => {
                judged.gone.push(site.id);
                judged.problems.push((site.id, site.updated_at, problem.to_string()));
            }
        }
    }

    async fn write_down(&self, read: &mut Read) -> Result<(), Error> {
        // In one order, so that two coordinators do not wait for each other.
        read.problems.sort_unstable();
        let mut most = PIECE;
        while !read.problems.is_empty() {
            let piece = read.problems.len().min(most);
            match sites::set_problems(&self.store, &read.problems[..piece]).await {
                Ok(()) => {}
                Err(error) if error.is_transient() => return Err(error),
                Err(error) if piece == 1 => {
                    warn!(error = %Chain(&error), "the database refuses to record a problem of a site");
                }
                // One of them is refused. Which one, shows when each is written alone.
                Err(_) => {
                    most = 1;
                    continue;
                }
            }
            for (id, _, problem) in read.problems.drain(..piece) {
                self.metrics.problems.inc();
                warn!(site.id = %id, problem, "site {id} cannot be watched: {problem}");
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Judged {
    planned: Vec<Planned>,
    problems: Vec<Problem>,
    gone: Vec<SiteId>,
}
