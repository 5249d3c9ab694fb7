//! One direction of a connection: bytes in, and out again when and as fast as the weather allows.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{ReadHalf, WriteHalf},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::Weather;

/// How much is read at once.
const CHUNK_BYTES: usize = 16 << 10;

/// How many chunks may be on the way: what a delayed line holds. When it is full, the sender waits.
const CHUNKS: usize = 1024;

/// Passes everything on until the end of the input, which it passes on too.
pub(super) async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    weather: watch::Receiver<Weather>,
) -> io::Result<()> {
    let (on_the_way, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS);
    let mut reader_weather = weather.clone();
    let reading = async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            light(&mut reader_weather).await;
            let count = from.read(&mut buffer).await?;
            let delay = reader_weather.borrow().delay;
            // An empty chunk is the end, which is delayed like all else.
            let sent = on_the_way.send((Instant::now() + delay, buffer[..count].to_vec())).await;
            if count == 0 || sent.is_err() {
                return Ok(());
            }
        }
    };
    let mut writer_weather = weather;
    let writing = async move {
        while let Some((due, chunk)) = arriving.recv().await {
            sleep_until(due).await;
            if chunk.is_empty() {
                light(&mut writer_weather).await;
                return to.shutdown().await;
            }
            write(&chunk, &mut to, &mut writer_weather).await?;
        }
        Ok(())
    };
    tokio::try_join!(reading, writing)?;
    Ok(())
}

/// Writes in pieces of a twentieth of a second at the allowed rate.
async fn write(
    chunk: &[u8],
    to: &mut WriteHalf<'_>,
    weather: &mut watch::Receiver<Weather>,
) -> io::Result<()> {
    let mut rest = chunk;
    while !rest.is_empty() {
        light(weather).await;
        let rate = weather.borrow().bytes_per_second;
        let piece = rate.map_or(rest.len(), |rate| (rate as usize / 20).clamp(1, rest.len()));
        let began = Instant::now();
        to.write_all(&rest[..piece]).await?;
        if let Some(rate) = rate {
            sleep_until(began + Duration::from_secs(1) * u32::try_from(piece).unwrap_or(u32::MAX) / rate)
                .await;
        }
        rest = &rest[piece..];
    }
    Ok(())
}

/// Waits until there is no black hole.
pub(super) async fn light(weather: &mut watch::Receiver<Weather>) {
    // An error: the proxy is gone, and so is soon whoever asks.
    let _ = weather.wait_for(|weather| !weather.blackhole).await;
}
