//! Single direction of a connection: forwards bytes when and as fast as the network conditions
//! allow.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{ReadHalf, WriteHalf},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::NetworkConditions;

/// Maximum size of a read.
const CHUNK_BYTES: usize = 16 << 10;

/// Maximum number of chunks in flight: the capacity of a delayed line. When the line is full, the
/// sender waits.
const MAX_CHUNKS_IN_FLIGHT: usize = 1024;

/// Forwards everything up to and including the end of the input.
pub(super) async fn forward_bytes(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    conditions: watch::Receiver<NetworkConditions>,
) -> io::Result<()> {
    let (in_flight, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(MAX_CHUNKS_IN_FLIGHT);
    let mut reader_conditions = conditions.clone();
    let reading = async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            wait_blackhole_end(&mut reader_conditions).await;
            let count = from.read(&mut buffer).await?;
            let delay = reader_conditions.borrow().delay;
            // An empty chunk marks the end of the input, which is delayed like the data.
            let sent = in_flight.send((Instant::now() + delay, buffer[..count].to_vec())).await;
            if count == 0 || sent.is_err() {
                return Ok(());
            }
        }
    };
    let mut writer_conditions = conditions;
    let writing = async move {
        while let Some((due, chunk)) = arriving.recv().await {
            sleep_until(due).await;
            if chunk.is_empty() {
                wait_blackhole_end(&mut writer_conditions).await;
                return to.shutdown().await;
            }
            write_throttled(&chunk, &mut to, &mut writer_conditions).await?;
        }
        Ok(())
    };
    tokio::try_join!(reading, writing)?;
    Ok(())
}

/// Writes at the allowed rate, in slices of a twentieth of a second.
async fn write_throttled(
    chunk: &[u8],
    to: &mut WriteHalf<'_>,
    conditions: &mut watch::Receiver<NetworkConditions>,
) -> io::Result<()> {
    let mut rest = chunk;
    while !rest.is_empty() {
        wait_blackhole_end(conditions).await;
        let rate = conditions.borrow().bytes_per_second;
        let slice_len = rate.map_or(rest.len(), |rate| (rate as usize / 20).clamp(1, rest.len()));
        // The time of the write counts towards the slice.
        let began = Instant::now();
        to.write_all(&rest[..slice_len]).await?;
        if let Some(rate) = rate {
            sleep_until(began + Duration::from_secs(1) * u32::try_from(slice_len).unwrap_or(u32::MAX) / rate)
                .await;
        }
        rest = &rest[slice_len..];
    }
    Ok(())
}

/// Waits for the end of a blackhole.
pub(super) async fn wait_blackhole_end(conditions: &mut watch::Receiver<NetworkConditions>) {
    // An error means that the proxy was dropped, and the caller is about to end too.
    let _ = conditions.wait_for(|conditions| !conditions.is_blackholed).await;
}
