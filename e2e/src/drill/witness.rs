//! Hears every job that is published, also those that the stream drops as the second of two.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use picket_proto::{CheckRequest, Epoch, Shard, Timestamp};
use tokio::task::AbortHandle;

use super::Drill;

/// Listens for as long as it lives.
pub struct Witness {
    heard: Arc<Mutex<Vec<Job>>>,
    listening: AbortHandle,
}

/// What a scheduled job said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Of its tick.
    pub id: String,
    /// Of its site.
    pub shard: Shard,
    /// Under which it was published.
    pub epoch: Epoch,
    /// When it was due.
    pub scheduled_at: Timestamp,
}

impl Job {
    fn read(payload: &[u8]) -> Option<Self> {
        let request = CheckRequest::decode(payload).ok()?;
        Some(Self {
            id: request.id?,
            shard: request.shard?,
            epoch: request.epoch?,
            scheduled_at: request.scheduled_at?,
        })
    }
}

impl Witness {
    /// Begins to listen.
    pub async fn of(drill: &Drill) -> Self {
        let client = drill.bus().await;
        let mut jobs = client.subscribe(picket_proto::subject::JOB_SUBJECTS).await.expect("a subscription");
        client.flush().await.expect("the server knows of it");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&heard);
        let listening = tokio::spawn(async move {
            while let Some(message) = jobs.next().await {
                if let Some(job) = Job::read(&message.payload) {
                    list.lock().unwrap_or_else(PoisonError::into_inner).push(job);
                }
            }
        });
        Self { heard, listening: listening.abort_handle() }
    }

    /// All that was published since, in the order in which the server had it.
    pub fn heard(&self) -> Vec<Job> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The jobs that were published for a shard under an epoch older than one under which another had been published
    /// before.
    pub fn out_of_turn(&self) -> Vec<Job> {
        let mut newest = std::collections::HashMap::new();
        let mut late = self.heard();
        late.retain(|job| {
            let newest = newest.entry(job.shard).or_insert(job.epoch);
            *newest = (*newest).max(job.epoch);
            job.epoch < *newest
        });
        late
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.listening.abort();
    }
}
