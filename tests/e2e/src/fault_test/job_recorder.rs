//! Records every published job, including duplicates dropped by the stream.

use std::sync::Arc;

use futures_util::StreamExt;
use parking_lot::Mutex;
use picket_proto::{CheckRequest, Epoch, Shard, Timestamp};
use tokio::task::AbortHandle;

use super::FaultTest;

/// Recorder that subscribes to all jobs until dropped.
pub struct JobRecorder {
    jobs: Arc<Mutex<Vec<RecordedJob>>>,
    task: AbortHandle,
}

/// Properties of a published scheduled job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedJob {
    /// Id of the tick.
    pub id: String,
    /// Shard of the site.
    pub shard: Shard,
    /// Epoch of the publishing lease.
    pub epoch: Epoch,
    /// Time of the tick.
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
    /// Starts recording.
    pub async fn subscribe(drill: &FaultTest) -> Self {
        let client = drill.connect_client().await;
        let mut jobs = client.subscribe(picket_proto::subject::JOB_SUBJECTS).await.expect("a subscription");
        client.flush().await.expect("the server knows of it");
        let recorded = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&recorded);
        let recording = tokio::spawn(async move {
            while let Some(message) = jobs.next().await {
                if let Some(job) = RecordedJob::parse_payload(&message.payload) {
                    list.lock().push(job);
                }
            }
        });
        Self { jobs: recorded, task: recording.abort_handle() }
    }

    /// Jobs published since the start, in the order of their arrival at the server.
    pub fn recorded_jobs(&self) -> Vec<RecordedJob> {
        self.jobs.lock().clone()
    }

    /// Jobs published under an older epoch than an earlier job of the same shard.
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
