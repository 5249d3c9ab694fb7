//! What the drills share: servers, notifiers, a receiver, incidents.

use std::time::Duration;

use picket_e2e::{Process, Stack};
use picket_harness::{Receiver, eventually, receiver::ReceivedRequest};
use serde_json::{Value, json};

/// Maximum time for anything that is awaited.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// A running system of notifiers. Incidents are written as sinks write them: as rows, whose trigger
/// writes the event.
pub(crate) struct Drill {
    pub(crate) stack: Stack,
    pub(crate) receiver: Receiver,
    pub(crate) notifiers: Vec<Process>,
}

impl Drill {
    /// Starts `notifiers` notifiers, and a sink that publishes events.
    pub(crate) async fn start(notifiers: usize) -> Self {
        let stack = Stack::start(&["eu", "us"]).await;
        let mut drill = Self { stack, receiver: Receiver::start().await, notifiers: Vec::new() };
        for _ in 0..notifiers {
            drill.add_notifier().await;
        }
        drill
    }

    pub(crate) async fn add_notifier(&mut self) {
        let notifier = self.spawn_notifier(&[]).await;
        notifier.wait_ready().await;
        self.notifiers.push(notifier);
    }

    pub(crate) async fn spawn_notifier(&self, variables: &[(&str, &str)]) -> Process {
        let options = ["--notify-allow-addresses", "127.0.0.0/8"];
        self.stack.spawn_process("picket-notifier", &options, variables).await
    }

    /// Adds a channel of programs, which receives every event at `/hook`.
    pub(crate) async fn add_webhook(&self, name: &str) {
        self.add_channel(name, "webhook", &json!({"url": self.receiver.url("/hook")})).await;
    }

    /// Adds a channel of people.
    pub(crate) async fn add_ntfy(&self, name: &str) {
        self.add_channel(name, "ntfy", &json!({"api_url": self.receiver.url(""), "topic": name})).await;
    }

    pub(crate) async fn add_channel(&self, name: &str, kind: &str, settings: &Value) {
        let sql = format!(
            "INSERT INTO picket.channels (name, kind, settings) VALUES ('{name}', '{kind}', '{}')",
            settings.to_string().replace('\'', "''")
        );
        self.stack.execute_sql(&sql).await;
    }

    /// Adds a route of all sites to `channels`; `more` are further columns with values.
    pub(crate) async fn add_route(&self, name: &str, channels: &[&str], more: &[(&str, &str)]) {
        let columns: String = more.iter().map(|(column, _)| format!(", {column}")).collect();
        let values: String = more.iter().map(|(_, value)| format!(", {value}")).collect();
        let sql = format!(
            "INSERT INTO picket.routes (name, channels{columns}) VALUES ('{name}', '{{{}}}'{values})",
            channels.join(",")
        );
        self.stack.execute_sql(&sql).await;
    }

    /// Adds sites without checking them.
    pub(crate) async fn add_sites(&self, count: i64) {
        let sql = format!(
            "INSERT INTO picket.sites (url, name, tags)
             SELECT 'https://site-' || n || '.example/', 'site-' || n, '{{shop}}' FROM generate_series(1, {count}) AS n"
        );
        self.stack.execute_sql(&sql).await;
    }

    /// Opens incidents of the sites `first` to `last`.
    pub(crate) async fn open_incidents(&self, first: i64, last: i64) {
        let sql = format!(
            "INSERT INTO picket.incidents (site_id, opened_at, first_failure_at, cause, message, regions)
             SELECT n, clock_timestamp(), clock_timestamp() - interval '1 minute' + n * interval '1 millisecond', 'connect',
                    'connection refused', '{{eu,us}}'
             FROM generate_series({first}, {last}) AS n"
        );
        self.stack.execute_sql(&sql).await;
    }

    /// Closes the open incidents of the sites `first` to `last`.
    pub(crate) async fn close_incidents(&self, first: i64, last: i64) {
        let sql = format!(
            "UPDATE picket.incidents SET closed_at = greatest(opened_at, clock_timestamp())
             WHERE closed_at IS NULL AND site_id BETWEEN {first} AND {last}"
        );
        self.stack.execute_sql(&sql).await;
    }

    /// Waits until the receiver has had `count` requests, and returns them.
    pub(crate) async fn wait_requests(&self, count: usize) -> Vec<ReceivedRequest> {
        eventually(WAIT_TIMEOUT, &format!("{count} requests"), async || match self.receiver.count() {
            found if found >= count => Ok(()),
            found => Err(found),
        })
        .await;
        self.receiver.requests()
    }

    /// Waits until no notice waits that is not to be told later.
    pub(crate) async fn wait_settled(&self) {
        let waiting =
            "SELECT (SELECT count(*) FROM picket.notices WHERE state = 'waiting' AND step = 'event')
                            + (SELECT count(*) FROM picket.transitions WHERE planned_at IS NULL)";
        eventually(WAIT_TIMEOUT, "no notice that waits", async || {
            match self.stack.query_number(waiting).await {
                0 => Ok(()),
                waiting => Err(waiting),
            }
        })
        .await;
    }

    /// Every transition and channel is accounted for, and nothing waits.
    pub(crate) async fn assert_ledger_closed(&self) {
        let unaccounted = self
            .stack
            .query_number(
                "SELECT coalesce(sum(unaccounted + waiting), 0)::bigint FROM report.notification_ledger('-infinity', 'infinity')",
            )
            .await;
        assert_eq!(unaccounted, 0, "unaccounted or waiting rows in the ledger of notifications");
    }

    /// Number of notices of events in a state, whose reason is `reason` if it is not empty.
    pub(crate) async fn count_notices(&self, state: &str, reason: &str) -> i64 {
        let sql = format!(
            "SELECT count(*) FROM picket.notices WHERE step = 'event' AND state = '{state}' AND coalesce(reason, '') = '{reason}'"
        );
        self.stack.query_number(&sql).await
    }
}
