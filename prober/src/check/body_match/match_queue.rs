//! Threads for body searches that may take long: few threads, low priority, short slices.
//!
//! Bound: a check awaits one search at a time, so the queue holds no more tasks than checks are
//! running. The task with the fewest steps so far runs next, so an expensive regex delays other
//! searches by one slice and not by its whole search. Loss: none; a task whose check has ended is
//! dropped.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    sync::Arc,
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::{
    super::{failure::Failure, tracked_pattern::BodyExtent},
    BodyMatcher, Evaluation,
};

/// Runs body searches. Clones share the threads, which end when the last clone is dropped.
#[derive(Clone)]
pub(in crate::check) struct MatchQueue(Arc<QueueOwner>);

/// Stops the threads when the last handle is dropped.
struct QueueOwner(Arc<QueueState>);

#[derive(Default)]
struct QueueState {
    pending: Mutex<PendingTasks>,
    changed: Condvar,
}

#[derive(Default)]
struct PendingTasks {
    tasks: BinaryHeap<Reverse<QueuedTask>>,
    /// Slices enqueued so far.
    enqueued_count: u64,
    is_closed: bool,
}

/// Search of one body.
pub(in crate::check) struct MatchTask {
    pub(in crate::check) matcher: BodyMatcher,
    pub(in crate::check) body: Vec<u8>,
    pub(in crate::check) extent: BodyExtent,
}

/// Verdict, with the matcher that reached it.
pub(in crate::check) type Evaluated = (Result<(), Failure>, BodyMatcher);

struct QueuedTask {
    steps: u64,
    /// Order among tasks with equal steps: first in, first out.
    sequence: u64,
    task: MatchTask,
    reply: oneshot::Sender<Evaluated>,
}

impl MatchTask {
    /// Evaluates the body inline if that is cheap, else on the threads of `queue`. Returns `None`
    /// if a match thread failed.
    pub(in crate::check) async fn evaluate_in(mut self, queue: &MatchQueue) -> Option<Evaluated> {
        if self.matcher.is_cheap(self.body.len())
            && let Evaluation::Decided(verdict) = self.matcher.evaluate(&self.body, self.extent)
        {
            return Some((verdict, self.matcher));
        }
        queue.run_task(self).await
    }
}

impl PartialEq for QueuedTask {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for QueuedTask {}

impl PartialOrd for QueuedTask {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for QueuedTask {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.steps, self.sequence).cmp(&(other.steps, other.sequence))
    }
}

impl MatchQueue {
    /// Maximum number of match threads.
    const MAX_MATCH_THREADS: usize = 4;

    /// Starts the threads: one per two processors.
    ///
    /// # Errors
    /// Fails if the system cannot start a thread.
    pub(in crate::check) fn new() -> std::io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(QueueState::default());
        // Dropped on an early return, which stops the threads started so far.
        let owner = QueueOwner(Arc::clone(&shared));
        for number in 0..processors.div_ceil(2).min(Self::MAX_MATCH_THREADS) {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("match-{number}")).spawn(move || shared.run_worker())?;
        }
        Ok(Self(Arc::new(owner)))
    }

    /// Runs the search to its end. Returns `None` if a match thread failed.
    async fn run_task(&self, task: MatchTask) -> Option<Evaluated> {
        let (answer, answered) = oneshot::channel();
        self.0.0.enqueue_task(task, answer);
        answered.await.ok()
    }
}

impl Drop for QueueOwner {
    fn drop(&mut self) {
        self.0.pending.lock().is_closed = true;
        self.0.changed.notify_all();
    }
}

impl QueueState {
    fn enqueue_task(&self, task: MatchTask, answer: oneshot::Sender<Evaluated>) {
        let mut waiting = self.pending.lock();
        waiting.enqueued_count += 1;
        let turn = QueuedTask {
            steps: task.matcher.steps_spent(),
            sequence: waiting.enqueued_count,
            task,
            reply: answer,
        };
        waiting.tasks.push(Reverse(turn));
        drop(waiting);
        self.changed.notify_one();
    }

    fn next_task(&self) -> Option<QueuedTask> {
        let mut waiting = self.pending.lock();
        self.changed.wait_while(&mut waiting, |waiting| !waiting.is_closed && waiting.tasks.is_empty());
        match waiting.is_closed {
            true => None,
            false => waiting.tasks.pop().map(|Reverse(turn)| turn),
        }
    }

    fn run_worker(&self) {
        /// Lower priority than checks, for machines with fewer processors than busy threads.
        const NICENESS: i32 = 10;
        // Affects this thread only. Without the priority the threads still work, at equal priority.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        while let Some(turn) = self.next_task() {
            // The check timed out: its result is of no use.
            if turn.reply.is_closed() {
                continue;
            }
            let QueuedTask { mut task, reply: answer, .. } = turn;
            match task.matcher.evaluate(&task.body, task.extent) {
                Evaluation::Interrupted => self.enqueue_task(task, answer),
                Evaluation::Decided(verdict) => {
                    // The check may have ended meanwhile.
                    let _ = answer.send((verdict, task.matcher));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use picket_proto::{CheckRequest, pattern::MAX_STEPS};

    use super::*;

    fn task(pattern: &str, length: usize) -> MatchTask {
        let request = CheckRequest { regex: Some(pattern.into()), ..CheckRequest::new("http://a.example/") };
        let matching = BodyMatcher::new(&request.validate().unwrap());
        let body = "\u{e9}".bytes().chain(std::iter::repeat_n(b'a', length)).collect();
        MatchTask { matcher: matching, body, extent: BodyExtent::Complete }
    }

    #[tokio::test]
    async fn a_long_search_delays_a_short_one_by_a_turn_and_not_by_its_whole_length() {
        let queue = MatchQueue::new().unwrap();
        let costly: Vec<_> = (0..20)
            .map(|_| {
                let (queue, task) = (queue.clone(), task(r"(?:[ab]{0,99}b?){5}\b!", 1 << 20));
                tokio::spawn(async move { queue.run_task(task).await.unwrap().1.steps_spent() })
            })
            .collect();

        let (look, short) = queue.run_task(task("abbey", 600_000)).await.unwrap();

        assert!(look.is_err(), "{look:?}");
        assert!(short.steps_spent() < MAX_STEPS / 8);
        assert!(!costly.iter().all(tokio::task::JoinHandle::is_finished), "it waited for all of the others");
        costly.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn a_search_without_a_waiter_is_skipped() {
        let queue = MatchQueue::new().unwrap();
        for _ in 0..1_000 {
            // The check times out immediately.
            let _ =
                tokio::time::timeout(std::time::Duration::ZERO, queue.run_task(task("abbey", 1 << 20))).await;
        }

        let (look, _) = queue.run_task(task("abbey", 600_000)).await.unwrap();

        assert!(look.is_err(), "{look:?}");
        assert!(queue.0.0.pending.lock().tasks.is_empty());
    }
}
