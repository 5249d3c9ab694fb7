//! The fault proxy, in front of an echo.

use std::{io, net::SocketAddr, time::Duration};

use picket_harness::{Proxy, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

const TEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Long enough for a byte on loopback, if it comes at all.
const LOOPBACK_WAIT: Duration = Duration::from_millis(200);

async fn start_echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut reads, mut writes) = stream.split();
                let _ = tokio::io::copy(&mut reads, &mut writes).await;
                let _ = writes.shutdown().await;
            });
        }
    });
    address
}

async fn echo_text(stream: &mut TcpStream, text: &str) -> io::Result<String> {
    stream.write_all(text.as_bytes()).await?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn data_and_its_end_are_forwarded() {
    let proxy = Proxy::forward_to(start_echo_server().await).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();

    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(TEST_TIMEOUT, stream.read_to_string(&mut answer)).await.unwrap().unwrap();

    assert_eq!(answer, "hello");
    assert_eq!(proxy.accepted_connections(), 1);
    eventually(TEST_TIMEOUT, "the connection's end", async || proxy.open_connections() == 0).await;
}

#[tokio::test]
async fn a_cut_proxy_refuses_and_a_healed_one_forwards() {
    let proxy = Proxy::forward_to(start_echo_server().await).await;
    let mut old = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(echo_text(&mut old, "before").await.unwrap(), "before");

    for _ in 0..5 {
        proxy.cut().await;
        let refused = TcpStream::connect(proxy.address()).await.unwrap_err();
        proxy.heal().await;
        let mut new = TcpStream::connect(proxy.address()).await.unwrap();

        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(echo_text(&mut new, "after").await.unwrap(), "after");
    }
    let reset = timeout(TEST_TIMEOUT, old.read(&mut [0])).await.unwrap().unwrap_err();
    assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_black_hole_holds_data_until_healed() {
    let proxy = Proxy::forward_to(start_echo_server().await).await;
    let mut old = TcpStream::connect(proxy.address()).await.unwrap();
    assert_eq!(echo_text(&mut old, "before").await.unwrap(), "before");

    proxy.blackhole();
    let mut new = TcpStream::connect(proxy.address()).await.expect("a connection seems to be made");
    let (on_old, on_new) = tokio::join!(
        timeout(LOOPBACK_WAIT, echo_text(&mut old, "a")),
        timeout(LOOPBACK_WAIT, echo_text(&mut new, "b"))
    );
    proxy.heal().await;

    assert!(on_old.is_err() && on_new.is_err(), "nothing comes through: {on_old:?} {on_new:?}");
    for (stream, held) in [(&mut old, b'a'), (&mut new, b'b')] {
        let answer = timeout(TEST_TIMEOUT, stream.read_u8()).await.unwrap().unwrap();
        assert_eq!(answer, held);
    }
}

#[tokio::test]
async fn a_delay_applies_to_the_line_and_not_to_each_byte() {
    let proxy = Proxy::forward_to(start_echo_server().await).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let one_way = Duration::from_millis(100);
    proxy.delay(one_way);

    let began = Instant::now();
    let text = "x".repeat(200_000);
    let (mut reads, mut writes) = stream.split();
    let mut answer = vec![0; text.len()];
    let (sent, received) = tokio::join!(writes.write_all(text.as_bytes()), reads.read_exact(&mut answer));
    let took = began.elapsed();

    sent.unwrap();
    received.unwrap();
    assert!(took >= 2 * one_way && took < 20 * one_way, "{took:?}");
}

#[tokio::test]
async fn a_throttled_line_takes_its_time() {
    let proxy = Proxy::forward_to(start_echo_server().await).await;
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    proxy.throttle(10_000);

    let began = Instant::now();
    echo_text(&mut stream, &"x".repeat(5_000)).await.unwrap();

    assert!(began.elapsed() >= Duration::from_millis(450), "{:?}", began.elapsed());
}
