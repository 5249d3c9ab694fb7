//! The threads that match bodies where that may take long: few, of low priority, in short turns.
//!
//! Bound: a check waits for one look at a time, so there are no more of them than checks under way. What has
//! taken the fewest steps so far has the next turn, so a dear regex delays the others by one turn and not by all of its search.
//! Loss: none; a check whose time is over takes its look with it.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::{Extent, Look, Matching};

/// Looks at bodies. Clones share the threads, which end with the last of them.
#[derive(Clone)]
pub(in crate::http) struct Queue(Arc<Owner>);

/// Ends the threads when nobody can ask any more.
struct Owner(Arc<Shared>);

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    turns: BinaryHeap<Reverse<Turn>>,
    /// Turns that were ever asked for.
    asked: u64,
    is_closed: bool,
}

/// What is looked at, and comes back to the check.
pub(in crate::http) struct Task {
    pub(in crate::http) matching: Matching,
    pub(in crate::http) body: Vec<u8>,
    pub(in crate::http) extent: Extent,
}

struct Turn {
    steps: u64,
    /// Of as many steps, those that asked first.
    number: u64,
    task: Task,
    answer: oneshot::Sender<(Look, Task)>,
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Turn {}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.steps, self.number).cmp(&(other.steps, other.number))
    }
}

impl Queue {
    /// The most threads.
    const MAX_THREADS: usize = 4;

    /// Starts the threads: one for each two processors.
    ///
    /// # Errors
    /// When the system gives none.
    pub(in crate::http) fn new() -> std::io::Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared::default());
        // Ends those that were started if one cannot be.
        let owner = Owner(Arc::clone(&shared));
        for number in 0..processors.div_ceil(2).min(Self::MAX_THREADS) {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("match-{number}")).spawn(move || shared.run())?;
        }
        Ok(Self(Arc::new(owner)))
    }

    /// Looks until the look is at its end. `None` when a thread failed.
    pub(in crate::http) async fn look(&self, task: Task) -> Option<(Look, Task)> {
        let (answer, answered) = oneshot::channel();
        let shared = &self.0.0;
        shared.add(task, answer);
        answered.await.ok()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.waiting().is_closed = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, task: Task, answer: oneshot::Sender<(Look, Task)>) {
        let mut waiting = self.waiting();
        waiting.asked += 1;
        let turn = Turn { steps: task.matching.steps(), number: waiting.asked, task, answer };
        waiting.turns.push(Reverse(turn));
        drop(waiting);
        self.changed.notify_one();
    }

    fn next(&self) -> Option<Turn> {
        let waiting = self.waiting();
        let wait = self.changed.wait_while(waiting, |waiting| !waiting.is_closed && waiting.turns.is_empty());
        let mut waiting = wait.unwrap_or_else(PoisonError::into_inner);
        match waiting.is_closed {
            true => None,
            false => waiting.turns.pop().map(|Reverse(turn)| turn),
        }
    }

    fn run(&self) {
        /// Where there are fewer processors than threads with work, checks go first.
        const NICENESS: i32 = 10;
        // Of this thread alone. Without it the system shares as it likes.
        let _ = rustix::process::setpriority_process(None, NICENESS);
        while let Some(turn) = self.next() {
            if turn.answer.is_closed() {
                continue;
            }
            let Turn { mut task, answer, .. } = turn;
            match task.matching.look(&task.body, task.extent) {
                Look::Interrupted => self.add(task, answer),
                look => {
                    // The check may be over.
                    let _ = answer.send((look, task));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use picket_proto::{CheckRequest, pattern::MAX_STEPS};

    use super::*;

    fn task(pattern: &str, length: usize) -> Task {
        let request = CheckRequest { regex: Some(pattern.into()), ..CheckRequest::new("http://a.example/") };
        let matching = Matching::new(&request.validate().unwrap());
        let body = "\u{e9}".bytes().chain(std::iter::repeat_n(b'a', length)).collect();
        Task { matching, body, extent: Extent::Whole }
    }

    #[tokio::test]
    async fn a_search_that_takes_long_delays_a_short_one_by_its_turns_and_not_by_its_whole_length() {
        let queue = Queue::new().unwrap();
        let dear: Vec<_> = (0..20)
            .map(|_| {
                let (queue, task) = (queue.clone(), task(r"(?:[ab]{0,99}b?){5}\b!", 1 << 20));
                tokio::spawn(async move { queue.look(task).await.unwrap().1.matching.steps() })
            })
            .collect();

        let (look, short) = queue.look(task("abbey", 600_000)).await.unwrap();

        assert!(matches!(look, Look::Decided(Err(_))), "{look:?}");
        assert!(short.matching.steps() < MAX_STEPS / 8);
        assert!(!dear.iter().all(tokio::task::JoinHandle::is_finished), "it waited for all of the others");
        dear.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn a_look_that_nobody_waits_for_is_not_taken() {
        let queue = Queue::new().unwrap();
        for _ in 0..1_000 {
            // The check's time is over at once.
            let _ = tokio::time::timeout(std::time::Duration::ZERO, queue.look(task("abbey", 1 << 20))).await;
        }

        let (look, _) = queue.look(task("abbey", 600_000)).await.unwrap();

        assert!(matches!(look, Look::Decided(Err(_))), "{look:?}");
        assert!(queue.0.0.waiting().turns.is_empty());
    }
}
