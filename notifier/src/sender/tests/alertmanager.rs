//! A real Alertmanager, where there is one.

use std::{path::PathBuf, process::Stdio};

use picket_harness::{
    eventually, http,
    servers::{non_ephemeral_port, scratch_dir},
};
use picket_runtime::clock::wall_clock_now;
use tokio::process::Command;

use super::*;

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Alertmanager on the PATH, or as `PICKET_ALERTMANAGER` names it.
fn find_alertmanager() -> Option<PathBuf> {
    let named = std::env::var_os("PICKET_ALERTMANAGER").map(PathBuf::from);
    let on_path = std::env::var_os("PATH").into_iter().flat_map(|path| {
        std::env::split_paths(&path).map(|dir| dir.join("prometheus-alertmanager")).collect::<Vec<_>>()
    });
    named.into_iter().chain(on_path).find(|program| program.is_file())
}

#[tokio::test]
async fn alertmanager_shows_an_alert_while_it_fires_and_forgets_it_at_its_end() {
    let Some(program) = find_alertmanager() else {
        eprintln!(
            "NOT TESTED: no prometheus-alertmanager on this machine (Debian's package of that name, or \
             PICKET_ALERTMANAGER)"
        );
        return;
    };
    let dir = scratch_dir("alertmanager");
    std::fs::write(dir.join("config.yaml"), "route: {receiver: none}\nreceivers: [{name: none}]\n").unwrap();
    let address = format!("127.0.0.1:{}", non_ephemeral_port());
    let mut server = Command::new(program)
        .arg(format!("--config.file={}", dir.join("config.yaml").display()))
        .arg(format!("--storage.path={}", dir.display()))
        .arg(format!("--web.listen-address={address}"))
        .arg("--cluster.listen-address=")
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(dir.join("log")).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let alerts = async || {
        let response = http::get(address.parse().unwrap(), "/api/v2/alerts", WAIT_TIMEOUT).await?;
        serde_json::from_str::<Value>(&response.body).map_err(|why| format!("{why}: {}", response.body))
    };
    let has_started =
        eventually(WAIT_TIMEOUT, "Alertmanager answers or ends", async || match server.try_wait() {
            Ok(Some(_)) => Ok(false),
            _ => alerts().await.map(|_| true),
        })
        .await;
    if !has_started {
        let log = std::fs::read_to_string(dir.join("log")).unwrap();
        let why = log.lines().last().unwrap_or("it says nothing");
        eprintln!("NOT TESTED: this machine's prometheus-alertmanager does not start: {why}");
        return;
    }
    let channel = channel(ChannelKind::Alertmanager, json!({ "urls": [format!("http://{address}")] }));
    let sender = sender(Secrets::none());
    let (mut down, mut up) = (samples::down(), samples::up());
    (down.composed_at, down.items[0].opened_at) = (wall_clock_now(), wall_clock_now());

    let opened = sender.send(&channel, &down).await;
    assert!(opened.is_delivered(), "{opened:?}");
    let again = sender.send_batch(&channel, &[down.clone()]).await.unwrap();
    assert!(again.is_delivered(), "{again:?}");
    let firing = eventually(WAIT_TIMEOUT, "one alert fires", async || match alerts().await {
        Ok(found) if found.as_array().is_some_and(|found| found.len() == 1) => Ok(found),
        other => Err(other),
    })
    .await;
    assert_eq!(firing[0]["labels"]["site"], "shop.example.com");
    assert_eq!(firing[0]["annotations"]["summary"], down.title);

    (up.composed_at, up.items[0].opened_at) = (wall_clock_now(), down.items[0].opened_at);
    up.items[0].closed_at = Some(wall_clock_now());
    let closed = sender.send(&channel, &up).await;
    assert!(closed.is_delivered(), "{closed:?}");
    eventually(WAIT_TIMEOUT, "no alert fires", async || match alerts().await {
        Ok(found) if found.as_array().is_some_and(Vec::is_empty) => Ok(()),
        other => Err(other),
    })
    .await;
    server.kill().await.unwrap();
}
