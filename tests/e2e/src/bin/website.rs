//! Website for the browser tests, which a test breaks and repairs while it runs.
//!
//! It responds with 200, or with 503 once broken, and after a delay to one prober. Commands on the
//! standard input (`break`, `repair`, `slow MS`) are each confirmed by a line; the end of the input
//! ends the program.

use std::{
    io::{self, BufRead, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use clap::Parser;
use picket_harness::targets::{Step, Target};

/// Serves the website of the browser tests on a free port, and prints its URL
#[derive(Parser)]
struct Options {
    /// User agent, or a part of it, of the prober that `slow MS` delays
    #[arg(long, value_name = "TEXT")]
    slow_agent: String,
}

#[derive(Default)]
struct ShopState {
    is_broken: AtomicBool,
    delay_ms: AtomicU64,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let agent = Options::parse().slow_agent;
    let state = Arc::new(ShopState::default());
    let shop = Arc::clone(&state);
    let target = Target::serve_script(move |request| respond(request, &agent, &shop)).await;
    print_line(&target.url("/shop"))?;
    tokio::task::spawn_blocking(move || obey_commands(&state)).await?
}

fn respond(request: &str, agent: &str, shop: &ShopState) -> Vec<Step> {
    let (status, body) = match shop.is_broken.load(Ordering::SeqCst) {
        false => ("200 OK", "<h1>Shop</h1>\n"),
        true => ("503 Service Unavailable", "<h1>Sorry</h1>\n"),
    };
    let delay = if request.contains(agent) { shop.delay_ms.load(Ordering::SeqCst) } else { 0 };
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    vec![Step::wait_ms(delay), Step::send(head), Step::send(body)]
}

fn obey_commands(shop: &ShopState) -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        let line = line?;
        match (line.as_str(), line.strip_prefix("slow ").map(str::parse)) {
            ("break", _) => shop.is_broken.store(true, Ordering::SeqCst),
            ("repair", _) => shop.is_broken.store(false, Ordering::SeqCst),
            (_, Some(Ok(ms))) => shop.delay_ms.store(ms, Ordering::SeqCst),
            _ => {
                let allowed = format!("'{line}' is no command; allowed: break, repair, slow MS");
                return Err(io::Error::other(allowed));
            }
        }
        print_line(&line)?;
    }
    Ok(())
}

fn print_line(line: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()
}
