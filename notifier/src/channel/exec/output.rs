//! The first kilobytes of what a program prints; the rest is read and dropped, so that the program
//! does not block.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{ChildStderr, ChildStdout},
    task::JoinSet,
    time::timeout,
};

/// Output that is kept, of both streams together.
const MAX_OUTPUT_BYTES: usize = 4 << 10;
/// Maximum time for output after the end of the program: a child of it may hold the pipe open for
/// ever.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(200);

/// Reads both streams of a program until they end.
pub(super) struct Output {
    kept: Arc<Mutex<Vec<u8>>>,
    readers: JoinSet<()>,
}

impl Output {
    pub(super) fn of(stdout: Option<ChildStdout>, stderr: Option<ChildStderr>) -> Self {
        let mut output = Self { kept: Arc::default(), readers: JoinSet::new() };
        if let Some(stdout) = stdout {
            output.readers.spawn(read_stream(stdout, Arc::clone(&output.kept)));
        }
        if let Some(stderr) = stderr {
            output.readers.spawn(read_stream(stderr, Arc::clone(&output.kept)));
        }
        output
    }

    /// What was printed, at most [`MAX_OUTPUT_BYTES`].
    pub(super) async fn finish(mut self) -> String {
        let drained = timeout(DRAIN_TIMEOUT, async { while self.readers.join_next().await.is_some() {} });
        let _ = drained.await;
        String::from_utf8_lossy(&self.kept.lock()).into_owned()
    }
}

async fn read_stream(mut stream: impl AsyncRead + Unpin, kept: Arc<Mutex<Vec<u8>>>) {
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut chunk).await {
        let mut kept = kept.lock();
        let room = MAX_OUTPUT_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..count.min(room)]);
    }
}
