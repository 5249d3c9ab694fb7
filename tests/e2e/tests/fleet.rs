//! Observing the fleet: the command, the health check, and the queries of `deploy/`.
#![expect(clippy::unwrap_used, reason = "a test fails without what it needs")]

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use picket_e2e::{Process, Stack, program_path};
use picket_harness::{eventually, targets::Target};
use serde_json::Value;
use sqlx::AssertSqlSafe;

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// A process of each kind, and a site that is up, one that is down, one that cannot be watched.
struct FleetFixture {
    _target: Target,
    stack: Stack,
    coordinator: Process,
    prober: Process,
    sink: Process,
    notifier: Process,
}

impl FleetFixture {
    async fn new() -> Self {
        let target = Target::serve_http().await;
        let stack = Stack::start(&["east"]).await;
        stack.set_setting("ledger_grace", "10s").await;
        let coordinator = stack.spawn_coordinator(&[]).await;
        let prober = stack.spawn_prober("east", &["--prober-name", "the-prober"]).await;
        let sink = stack.spawn_sink(&[]).await;
        let notifier = stack.spawn_notifier(&[]).await;
        for process in [&coordinator, &prober, &sink, &notifier] {
            process.wait_ready().await;
        }
        // The site that is down is told to a receiver.
        let receiver = target.url("/ok");
        stack
            .execute_sql(&format!(
                "INSERT INTO picket.channels (name, kind, settings) VALUES ('ops', 'webhook', jsonb_build_object('url', '{receiver}'));
                 INSERT INTO picket.routes (name, channels) VALUES ('all', '{{ops}}')"
            ))
            .await;
        for path in ["/ok", "/status/500"] {
            let url = target.url(path);
            let sql = format!("INSERT INTO picket.sites (url, interval_seconds) VALUES ('{url}', 5)");
            stack.execute_sql(&sql).await;
        }
        stack.execute_sql("INSERT INTO picket.sites (url) VALUES ('nonsense')").await;
        for outcome in ["up", "down"] {
            let rows = format!("SELECT count(*) FROM picket.check_results WHERE outcome = '{outcome}'");
            stack.wait_at_least(WAIT_TIMEOUT, 2, &rows).await;
        }
        // An incident that is over before people would be told of it is suppressed.
        stack
            .execute_sql(&format!(
                "INSERT INTO picket.channels (name, kind, settings)
                 VALUES ('phone', 'ntfy', jsonb_build_object('api_url', '{receiver}', 'topic', 'picket'));
                 INSERT INTO picket.routes (name, channels) VALUES ('people', '{{phone}}');
                 INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, regions)
                 SELECT id, now(), now(), '{{east}}' FROM picket.sites WHERE url LIKE '%/ok';
                 UPDATE picket.incidents SET closed_at = now()
                 WHERE site_id = (SELECT id FROM picket.sites WHERE url LIKE '%/ok')"
            ))
            .await;
        Self { _target: target, stack, coordinator, prober, sink, notifier }
    }

    async fn stop(self) {
        for process in [self.prober, self.coordinator, self.sink, self.notifier] {
            process.stop().await;
        }
    }
}

fn deploy_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

#[tokio::test]
async fn probers_are_listed_with_their_slots_and_healthchecks_exit_by_readiness() {
    let world = FleetFixture::new().await;

    let (code, json, error) = world.stack.run_picket(&["probers", "--output", "json"]).await;
    assert_eq!(code, 0, "{error}");
    let listed: Value = serde_json::from_str(&json).unwrap();
    let prober = &listed[0];
    assert_eq!((&prober["region"], &prober["prober"]), (&"east".into(), &"the-prober".into()), "{json}");
    assert_eq!(
        (&prober["version"], &prober["slots_total"]),
        (&env!("CARGO_PKG_VERSION").into(), &1000.into())
    );
    assert!(prober["last_seen"].is_string(), "{json}");
    let (_, table, _) = world.stack.run_picket(&["probers"]).await;
    assert!(table.starts_with("REGION") && table.lines().nth(1).unwrap().ends_with("now"), "{table}");

    for (program, listen, code, says) in [
        ("picket-coordinator", world.coordinator.listen_address(), 0, "ready"),
        ("picket-prober", world.prober.listen_address(), 0, "ready"),
        ("picket-sink", world.sink.listen_address(), 0, "ready"),
        ("picket-notifier", world.notifier.listen_address(), 0, "ready"),
        ("picket-sink", SocketAddr::from(([127, 0, 0, 1], 1)), 3, "no answer from 127.0.0.1:1"),
    ] {
        let asked = Command::new(program_path(program))
            .arg("--healthcheck")
            .env("PICKET_LISTEN", listen.to_string())
            .env("PICKET_REGION", "east")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&[asked.stdout, asked.stderr].concat()).into_owned();
        assert!(asked.status.code() == Some(code) && said.contains(says), "{program}: {said}");
    }
    world.stop().await;
}

#[tokio::test]
async fn every_query_of_the_dashboard_and_alerts_finds_its_metrics_and_columns() {
    let world = FleetFixture::new().await;

    let mut queries = Vec::new();
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(deploy_dir().join("grafana/picket.json")).unwrap()).unwrap();
    collect_texts(&dashboard, &["rawSql", "query"], &mut queries);
    queries.retain(|query| query.starts_with("SELECT"));
    assert!(queries.len() > 10, "{queries:?}");
    let mut connection = world.stack.database.acquire().await.unwrap();
    sqlx::raw_sql("SET ROLE picket_report").execute(&mut *connection).await.unwrap();
    for query in queries {
        let sql = expand_macros(&query);
        assert!(!sql.contains('$'), "a macro that is not known here: {sql}");
        let rows = sqlx::raw_sql(AssertSqlSafe(sql.clone())).fetch_all(&mut *connection).await;
        if let Err(why) = rows {
            panic!("{sql}\n{why}");
        }
    }

    let named = find_named_metrics(&deploy_dir());
    assert!(named.len() > 20, "{named:?}");
    eventually(WAIT_TIMEOUT, "every metric that is named in deploy/ to be served", async || {
        let served = served_metrics(&[&world.coordinator, &world.prober, &world.sink, &world.notifier]);
        let missing: Vec<_> = named.difference(&served).cloned().collect();
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    })
    .await;
    world.stop().await;
}

/// The texts under these names, wherever they are.
fn collect_texts(value: &Value, names: &[&str], found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match value.as_str() {
                    Some(text) if names.contains(&name.as_str()) => found.push(text.to_owned()),
                    _ => collect_texts(value, names, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_texts(item, names, found)),
        _ => {}
    }
}

/// Grafana's macros and variable, expanded as documented.
fn expand_macros(query: &str) -> String {
    let (from, to) = ("'2026-01-01T00:00:00Z'", "'2100-01-01T00:00:00Z'");
    let mut sql = query.replace("$__timeFrom()", from).replace("$__timeTo()", to).replace("$site", "1");
    for (name, write) in [
        ("$__timeFilter(", &(|of: &str| format!("{of} BETWEEN {from} AND {to}")) as &dyn Fn(&str) -> String),
        ("$__timeGroup(", &|of| {
            let (column, _) = of.split_once(',').unwrap();
            format!("floor(extract(epoch FROM {column}) / 300) * 300")
        }),
    ] {
        while let Some(at) = sql.find(name) {
            let inside = at + name.len();
            let end = inside + sql[inside..].find(')').unwrap();
            let written = write(&sql[inside..end]);
            sql.replace_range(at..=end, &written);
        }
    }
    sql
}

/// Picket's metrics named in any file below `dir`.
fn find_named_metrics(dir: &Path) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            named.append(&mut find_named_metrics(&path));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let metrics = words.filter(|word| {
            ["picket_coordinator_", "picket_prober_", "picket_sink_", "picket_notifier_"]
                .iter()
                .any(|of| word.starts_with(of))
        });
        named.extend(metrics.map(str::to_owned));
    }
    named
}

fn served_metrics(processes: &[&Process]) -> BTreeSet<String> {
    let mut served = BTreeSet::new();
    for process in processes {
        let text = process.http_get("/metrics").map(|response| response.body).unwrap_or_default();
        for line in text.lines() {
            let words: Vec<&str> = line.split([' ', '{']).collect();
            match words[..] {
                // One of a family that has no member yet.
                ["#", "TYPE", name, "counter"] => _ = served.insert(format!("{name}_total")),
                ["#", ..] => {}
                [name, ..] => _ = served.insert(name.to_owned()),
                [] => {}
            }
        }
    }
    served
}
