//! Scripted servers: a test lists the steps of a connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Step of a scripted connection.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends these bytes repeatedly until the client disconnects.
    Repeat(Vec<u8>),
    /// Waits for this time.
    Wait(Duration),
    /// Sends nothing further and leaves the connection open.
    Stall,
    /// Resets the connection.
    Reset,
    /// Closes the TCP connection without a TLS close notification.
    Abandon,
}

impl Step {
    /// Step that sends this text.
    pub fn send(text: impl AsRef<[u8]>) -> Self {
        Self::Send(text.as_ref().to_vec())
    }

    /// Step that waits for this number of milliseconds.
    pub fn wait_ms(ms: u64) -> Self {
        Self::Wait(Duration::from_millis(ms))
    }
}

pub(super) type Script = Arc<dyn Fn(&str) -> Vec<Step> + Send + Sync>;

/// End of a connection.
pub(super) enum ConnectionEnd {
    Close,
    Reset,
    Abandon,
}

/// Performs `steps`, and counts in `sent` the bytes accepted by the connection.
pub(super) async fn perform_steps<S: AsyncWrite + Unpin>(
    stream: &mut S,
    steps: &[Step],
    sent: &AtomicU64,
) -> std::io::Result<ConnectionEnd> {
    for step in steps {
        match step {
            Step::Send(bytes) => send_counted(stream, bytes, sent).await?,
            Step::Repeat(bytes) => {
                // Sends many repetitions per write, as a hostile server would.
                let repeated = bytes.repeat((16_384 / bytes.len().max(1)).max(1));
                loop {
                    send_counted(stream, &repeated, sent).await?;
                }
            }
            Step::Wait(duration) => {
                stream.flush().await?;
                tokio::time::sleep(*duration).await;
            }
            Step::Stall => {
                stream.flush().await?;
                std::future::pending().await
            }
            Step::Reset => {
                stream.flush().await?;
                return Ok(ConnectionEnd::Reset);
            }
            Step::Abandon => return Ok(ConnectionEnd::Abandon),
        }
    }
    stream.flush().await?;
    Ok(ConnectionEnd::Close)
}

async fn send_counted<S: AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &[u8],
    sent: &AtomicU64,
) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    Ok(())
}
