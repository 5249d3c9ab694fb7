//! What a server does, step by step, where that is a test's own affair.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::io::{AsyncWrite, AsyncWriteExt};

/// One thing that a server does.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends these bytes again and again, until the client has gone.
    Repeat(Vec<u8>),
    /// Does nothing for so long.
    Wait(Duration),
    /// Does nothing any more, and keeps the connection.
    Stall,
    /// Resets the connection.
    Reset,
    /// Closes the TCP connection without TLS's farewell.
    Abandon,
}

impl Step {
    /// Sends this text.
    pub fn send(text: impl AsRef<[u8]>) -> Self {
        Self::Send(text.as_ref().to_vec())
    }

    /// Does nothing for so many milliseconds.
    pub fn wait_ms(ms: u64) -> Self {
        Self::Wait(Duration::from_millis(ms))
    }
}

pub(super) type Script = Arc<dyn Fn(&str) -> Vec<Step> + Send + Sync>;

/// How a connection ends.
pub(super) enum ConnectionEnd {
    Close,
    Reset,
    Abandon,
}

/// Does `steps`, and counts in `sent` the bytes that the connection took.
pub(super) async fn perform_steps<S: AsyncWrite + Unpin>(
    stream: &mut S,
    steps: &[Step],
    sent: &AtomicU64,
) -> std::io::Result<ConnectionEnd> {
    for step in steps {
        match step {
            Step::Send(bytes) => send_counted(stream, bytes, sent).await?,
            Step::Repeat(bytes) => {
                // Many at once, as a server does that wants to be a nuisance.
                let many = bytes.repeat((16_384 / bytes.len().max(1)).max(1));
                loop {
                    send_counted(stream, &many, sent).await?;
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
