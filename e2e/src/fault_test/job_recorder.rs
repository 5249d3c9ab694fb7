//! Hears every job that is published, also those that the stream drops as the second of two.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use picket_proto::{CheckRequest, Epoch, Shard, Timestamp};
use tokio::task::AbortHandle;

use super::FaultTest;

/// Listens for as long as it lives.
pub struct JobRecorder {
    jobs: Arc<Mutex<Vec<RecordedJob>>>,
    task: AbortHandle,
}

/// What a scheduled job said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedJob {
    /// Of its tick.
    pub id: String,
    /// Of its site.
    pub shard: Shard,
    /// Under which it was published.
    pub epoch: Epoch,
    /// When it was due.
    pub scheduled_at: Timestamp,
}

impl RecordedJob {
    fn parse_payload(payload: &[u8]) -> Option<Self> {
        let request = CheckRequest::decode(payload).ok()?;
        Some(Self {
            id: request.id?,
            shard: request.shard?,
            epoch: request.epoch?,
            scheduled_at: request.scheduled_at?,
        })
    }
}

impl JobRecorder {
    /// Begins to listen.
    pub async fn subscribe(drill: &FaultTest) -> Self {
        let client = drill.connect_client().await;
        let mut jobs = client.subscribe(picket_proto::subject::JOB_SUBJECTS).await.expect("a subscription");
        client.flush().await.expect("the server knows of it");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&heard);
        let listening = tokio::spawn(async move {
            while let Some(message) = jobs.next().await {
                if let Some(job) = RecordedJob::parse_payload(&message.payload) {
                    list.lock().unwrap_or_else(PoisonError::into_inner).push(job);
                }
            }
        });
        Self { jobs: heard, task: listening.abort_handle() }
    }

    /// All that was published since, in the order in which the server had it.
    pub fn recorded_jobs(&self) -> Vec<RecordedJob> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The jobs that were published for a shard under an epoch older than one under which another had been published
    /// before.
    pub fn stale_epoch_jobs(&self) -> Vec<RecordedJob> {
        let mut newest = std::collections::HashMap::new();
        let mut late = self.recorded_jobs();
        late.retain(|job| {
            let newest = newest.entry(job.shard).or_insert(job.epoch);
            *newest = (*newest).max(job.epoch);
            job.epoch < *newest
        });
        late
    }
}

impl Drop for JobRecorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}
