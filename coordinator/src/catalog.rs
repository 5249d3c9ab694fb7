//! Knows what is to be watched: reads the schedules of shards that were taken, follows changes, and judges sites.
//!
//! Bound: one statement at a time; calls of the database while it reads are one. Loss: none, all is read again.

use std::{collections::HashMap, sync::Arc, time::Duration};

use picket_proto::{Shard, SiteId, Timestamp, job::Template, site::IntervalRange};
use picket_runtime::{Backoff, Chain, Condition};
use picket_store::{Error, Store, changes, leases::Lease, regions, schedules::Scheduled, sites};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tracing::{info, warn};

use crate::{
    metrics::Metrics,
    planner::{self, roster::Planned},
};

pub enum Msg {
    /// These shards were taken: read them.
    Load(Vec<Lease>),
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
    pub metrics: Metrics,
    pub condition: Condition,
}

/// What has been read.
pub struct Read {
    through: Option<changes::Snapshot>,
    /// Shards whose reading failed, to be tried again.
    waiting: Vec<Lease>,
    backoff: Backoff,
}

/// The database calls when something changes; this often we look all the same.
const POLL: Duration = Duration::from_secs(1);
/// Sites that are handed to the planner at once.
const PIECE: usize = 2_048;

impl Actor for Catalog {
    type Msg = Msg;
    type State = Read;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<Read, ActorProcessingErr> {
        myself.send_after(POLL, || Msg::Poll);
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        Ok(Read { through: None, waiting: Vec::new(), backoff })
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
                self.load(read).await
            }
            Msg::Called | Msg::Poll if !read.waiting.is_empty() => self.load(read).await,
            Msg::Called | Msg::Poll => self.follow(read).await,
        };
        match done {
            Ok(()) => {
                self.condition.holds();
                read.backoff.reset();
            }
            Err(error) => {
                self.metrics.database_errors.inc();
                self.condition.fails(Chain(&error).to_string());
                warn!(error = %Chain(&error), "could not read what is to be watched, trying again");
            }
        }
        if poll {
            let wait = if read.waiting.is_empty() { POLL } else { read.backoff.next_wait() };
            myself.send_after(wait, || Msg::Poll);
        }
        Ok(())
    }
}

impl Catalog {
    async fn load(&self, read: &mut Read) -> Result<(), Error> {
        let began = tokio::time::Instant::now();
        let shards: Vec<Shard> = read.waiting.iter().map(|lease| lease.shard).collect();
        self.tell_regions().await?;
        let _ = self.planner.cast(planner::Msg::Take(read.waiting.clone()));
        let (mut judged, mut sites) = (Judged::default(), 0);
        let snapshot = changes::load(&self.store, &shards, |scheduled| {
            sites += 1;
            self.judge(scheduled, &mut judged);
            if judged.planned.len() >= PIECE {
                let _ = self.planner.cast(planner::Msg::Sites(std::mem::take(&mut judged.planned)));
            }
        })
        .await?;
        let Judged { planned, problems, .. } = judged;
        let _ = self.planner.cast(planner::Msg::Sites(planned));
        let _ = self.planner.cast(planner::Msg::Taken(std::mem::take(&mut read.waiting)));
        // What changed while this was read is read again by the next poll.
        read.through = Some(read.through.map_or(snapshot, |through| through.min(snapshot)));
        info!(
            shards = shards.len(),
            sites,
            duration_ms = began.elapsed().as_millis(),
            "read {sites} sites of {} shards",
            shards.len()
        );
        self.write_down(problems).await
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
            |scheduled| self.judge(scheduled, &mut judged),
            |site| removed.push(site.id),
        )
        .await?;
        let Judged { planned, problems, mut gone } = judged;
        gone.extend(removed);
        if !planned.is_empty() || !gone.is_empty() {
            self.tell_regions().await?;
            let _ = self.planner.cast(planner::Msg::Change(planned, gone));
        }
        read.through = Some(now);
        self.write_down(problems).await
    }

    async fn tell_regions(&self) -> Result<(), Error> {
        let names: HashMap<_, _> = regions::numbers(&self.store).await?.into_iter().collect();
        let _ = self.planner.cast(planner::Msg::Regions(Arc::new(names)));
        Ok(())
    }

    fn judge(&self, Scheduled { site, schedules }: Scheduled, judged: &mut Judged) {
        if site.problem.is_some() {
            judged.gone.push(site.id);
            return;
        }
        let verdict = site.spec.and_then(|spec| spec.validate(self.intervals).map(|()| spec));
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

    async fn write_down(&self, problems: Vec<(SiteId, Timestamp, String)>) -> Result<(), Error> {
        for (id, _, problem) in &problems {
            warn!(site.id = %id, problem, "site {id} cannot be watched: {problem}");
        }
        self.metrics.problems.inc_by(problems.len() as u64);
        match problems.is_empty() {
            true => Ok(()),
            false => sites::set_problems(&self.store, &problems).await,
        }
    }
}

#[derive(Default)]
struct Judged {
    planned: Vec<Planned>,
    problems: Vec<(SiteId, Timestamp, String)>,
    gone: Vec<SiteId>,
}
