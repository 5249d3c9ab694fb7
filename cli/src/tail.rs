//! `picket tail`: prints results and events as they arrive.

use async_nats::Message;
use clap::{ArgMatches, Args};
use futures_util::StreamExt;
use picket_proto::{
    CheckResult, Outcome, RegionName, SiteId, Timestamp, bundle, safe_text, subject,
    validation::sanitize_text,
};
use serde::Deserialize;

use crate::{
    connect::{self, NatsArgs},
    discovery::connection_lost,
    error::Error,
    output::{OutputFormat, OutputOptions, colour_by_status, format_ms, print_coloured},
    site::format_interval,
};

/// Options of `picket tail`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Ctrl-C stops it. Only new results and events are shown; earlier results are in the database: picket site show SITE.")]
pub(crate) struct TailOptions {
    /// Only results of this site (id or URL)
    #[arg(long, value_name = "SITE")]
    site: Option<String>,
    /// Only results of this region
    #[arg(long, value_name = "REGION", value_parser = connect::parse_region)]
    region: Option<RegionName>,
    /// Only results with this outcome: up, down or missed
    #[arg(long, value_name = "OUTCOME", value_parser = parse_outcome)]
    outcome: Option<Outcome>,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    nats: NatsArgs,
}

fn parse_outcome(word: &str) -> Result<Outcome, String> {
    word.parse().map_err(|why: picket_proto::ValidationError| format!("allowed: {}", why.expected))
}

pub(crate) async fn run(options: TailOptions, matches: &ArgMatches) -> Result<(), Error> {
    let bus = options.nats.clone().connect(matches).await?;
    let results = bus.client.subscribe(subject::RESULT_SUBJECTS).await.map_err(connection_lost)?;
    let events = bus.client.subscribe(subject::EVENT_SUBJECTS).await.map_err(connection_lost)?;
    bus.client.flush().await.map_err(connection_lost)?;
    let mut messages = futures_util::stream::select(results, events);
    let mut stop = std::pin::pin!(picket_runtime::process::shutdown_signal());
    loop {
        let message = tokio::select! {
            message = messages.next() => message.ok_or_else(|| connection_lost("the subscription ended"))?,
            _ = &mut stop => return Ok(()),
        };
        for line in options.format_message(&message) {
            print_coloured(&line)?;
        }
    }
}

impl TailOptions {
    /// Lines to print for a message; none if the filters exclude it.
    fn format_message(&self, message: &Message) -> Vec<String> {
        let (place, payload) = (message.subject.as_str(), message.payload.as_ref());
        if place.starts_with("picket.event.") {
            return self.format_event(place, payload).into_iter().collect();
        }
        bundle::result_payloads(place, payload)
            .filter_map(|result| self.format_result(place, result))
            .collect()
    }

    fn format_event(&self, place: &str, payload: &[u8]) -> Option<String> {
        let event = serde_json::from_slice::<Event>(payload).ok();
        self.should_show_event(event.as_ref()).then(|| match (self.output.output, event) {
            (OutputFormat::Table, Some(event)) => event.format_row(),
            (OutputFormat::Table, None) => {
                format!("{} {}\n", sanitize_text(place, 200), sanitize_payload(payload))
            }
            (OutputFormat::Json, _) => to_json_line(payload),
        })
    }

    fn format_result(&self, place: &str, payload: &[u8]) -> Option<String> {
        let Ok(result) = serde_json::from_slice::<CheckResult>(payload) else {
            let unread =
                format!("(not a result) {} {}\n", sanitize_text(place, 200), sanitize_payload(payload));
            return (self.output.output == OutputFormat::Table).then_some(unread);
        };
        self.should_show_result(&result).then(|| match self.output.output {
            OutputFormat::Json => to_json_line(payload),
            OutputFormat::Table => format_result_row(&result),
        })
    }

    /// Returns true if the filters admit an event. Events have no outcome, so `--outcome` excludes
    /// all of them.
    fn should_show_event(&self, event: Option<&Event>) -> bool {
        let site = |word: &str| {
            let is = |event: &Event| {
                let by_id = word.parse().is_ok_and(|id| event.site_id == Some(id));
                by_id
                    || event
                        .url
                        .as_ref()
                        .is_some_and(|url| url.trim_end_matches('/') == word.trim_end_matches('/'))
            };
            event.is_some_and(is)
        };
        let region = |region: &RegionName| event.is_some_and(|event| event.is_about_region(region.as_str()));
        self.outcome.is_none()
            && self.site.as_deref().is_none_or(site)
            && self.region.as_ref().is_none_or(region)
    }

    fn should_show_result(&self, result: &CheckResult) -> bool {
        let site = |word: &str| {
            let by_id = word.parse().is_ok_and(|id| result.site_id == Some(SiteId(id)));
            by_id || result.url.trim_end_matches('/') == word.trim_end_matches('/')
        };
        self.site.as_deref().is_none_or(site)
            && self.region.as_ref().is_none_or(|region| *region == result.region)
            && self.outcome.is_none_or(|outcome| outcome == result.outcome)
    }
}

/// A message as one line of JSON, with invisible characters escaped.
fn to_json_line(payload: &[u8]) -> String {
    let text = String::from_utf8_lossy(payload).replace('\n', " ");
    safe_text::sanitize_json(text.trim_end()).into_owned() + "\n"
}

/// A payload as text, with control characters replaced, because terminals act on them.
fn sanitize_payload(payload: &[u8]) -> String {
    sanitize_text(&String::from_utf8_lossy(payload), 64 << 10)
}

/// The displayed fields of an event. Other fields are ignored.
#[derive(Deserialize)]
struct Event {
    event: String,
    incident_id: Option<i64>,
    site_id: Option<i64>,
    site: Option<String>,
    url: Option<String>,
    opened_at: Option<Timestamp>,
    closed_at: Option<Timestamp>,
    cause: Option<String>,
    message: Option<String>,
    region: Option<String>,
    #[serde(default)]
    regions: Vec<String>,
    at: Option<Timestamp>,
    since: Option<Timestamp>,
}

impl Event {
    fn is_about_region(&self, region: &str) -> bool {
        self.region.as_deref() == Some(region) || self.regions.iter().any(|name| name == region)
    }

    fn format_row(&self) -> String {
        // Events differ in their time fields; the first present one is the time of the event.
        let at = self.at.or(self.closed_at).or(self.opened_at).map_or_else(String::new, |at| at.to_string());
        let lasted = match (self.opened_at.or(self.since), self.closed_at.or(self.at)) {
            (Some(from), Some(to)) => {
                format!(
                    " after {}",
                    format_interval(
                        i64::try_from(to.saturating_duration_since(from).as_secs()).unwrap_or(i64::MAX)
                    )
                )
            }
            _ => String::new(),
        };
        let text = |text: &Option<String>| sanitize_text(text.as_deref().unwrap_or("-"), 200);
        let words = match self.event.as_str() {
            "incident.opened" => format!(
                "{} {}  {} in {}  {}",
                colour_by_status("down", "DOWN".to_owned()),
                text(&self.site),
                text(&self.cause),
                sanitize_text(&self.regions.join(", "), 200),
                text(&self.message)
            ),
            "incident.closed" => {
                format!("{} {}{lasted}", colour_by_status("up", "BACK".to_owned()), text(&self.site))
            }
            "region.silent" => format!("no active probers in region {}", text(&self.region)),
            "region.back" => format!("region {} has active probers again{lasted}", text(&self.region)),
            other => sanitize_text(other, 200),
        };
        let number = self.incident_id.map_or_else(String::new, |id| format!("  (incident {id})"));
        format!("{}  ** {words}{number}\n", at.get(11..23).unwrap_or("-"))
    }
}

fn format_result_row(result: &CheckResult) -> String {
    let time = result.started_at.unwrap_or(result.scheduled_at).to_string();
    let cause = result.cause.map_or("-", |cause| cause.as_str());
    let status = result.http_status.map_or_else(|| "-".to_owned(), |status| status.to_string());
    let total = format_ms(result.timing.total_us).unwrap_or_else(|| "-".to_owned());
    let site = match result.site_id {
        Some(id) => id.to_string(),
        None => "adhoc".to_owned(),
    };
    let outcome = colour_by_status(result.outcome.as_str(), format!("{:<6}", result.outcome));
    let message =
        result.message.as_deref().map(|text| format!("  {}", sanitize_text(text, 200))).unwrap_or_default();
    format!(
        "{}  {:<12}  {outcome}  {cause:<14}  {status:>3}  {total:>9} ms  {site:>7}  {}{message}\n",
        &time[11..23],
        result.region.as_str(),
        sanitize_text(&result.url, 200),
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Tail {
        #[command(flatten)]
        options: TailOptions,
    }

    fn line(arguments: &[&str], place: &str, payload: &str) -> Option<String> {
        lines(arguments, place, payload).pop()
    }

    fn lines(arguments: &[&str], place: &str, payload: &str) -> Vec<String> {
        let options = Tail::try_parse_from([&["tail"], arguments].concat()).unwrap().options;
        options.format_message(&Message {
            subject: place.into(),
            reply: None,
            payload: payload.as_bytes().to_vec().into(),
            headers: None,
            status: None,
            description: None,
            length: payload.len(),
        })
    }

    const RESULT: &str = r#"{"v":1,"id":"a","site_id":7,"kind":"scheduled","region":"eu","prober":"p","url":"http://x/","scheduled_at":"2026-11-20T12:00:00.000000Z","started_at":"2026-11-20T12:00:01.234567Z","outcome":"down","cause":"status","message":"503","http_status":503,"timing":{"total_us":12345}}"#;

    const OPENED: &str = r#"{"v":1,"id":"incident.4.opened","event":"incident.opened","incident_id":4,"site_id":7,"site":"shop","url":"http://x/","opened_at":"2026-11-20T12:00:01.000000Z","closed_at":null,"cause":"connect","message":"refused\u001b[2J","regions":["eu","us"]}"#;

    #[test]
    fn a_result_is_one_aligned_line() {
        let shown = line(&[], "picket.result.eu.3", RESULT).unwrap();

        assert_eq!(
            shown,
            "12:00:01.234  eu            down    status          503       12.3 ms        7  http://x/  503\n"
        );
    }

    #[test]
    fn json_is_the_message_as_it_came() {
        let shown = line(&["--output", "json"], "picket.result.eu.3", RESULT).unwrap();

        assert_eq!(shown, format!("{RESULT}\n"));
    }

    #[test]
    fn json_of_a_hostile_message_is_a_line_of_plain_text_that_says_the_same() {
        let hostile = RESULT
            .replace(r#""message":"503""#, "\"message\":\"\u{202e}\u{9b}2J\u{7f}\"")
            .replace(",", ",\n");

        let shown = line(&["--output", "json"], "picket.result.eu.3", &hostile).unwrap();

        assert!(shown.is_ascii() && !shown.contains('\x7f') && shown.lines().count() == 1, "{shown:?}");
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(read(&shown), read(&hostile));
    }

    #[test]
    fn results_that_share_a_message_are_shown_a_line_each() {
        let other = RESULT.replace(r#""site_id":7"#, r#""site_id":8"#);
        let bundle = [RESULT, &other, RESULT].join("\n");

        assert_eq!(lines(&[], "picket.result.eu.bundle", &bundle).len(), 3);
        let json = lines(&["--site", "8", "--output", "json"], "picket.result.eu.bundle", &bundle);
        assert_eq!(json, [format!("{other}\n")]);
    }

    #[test]
    fn filters_leave_out_what_was_not_asked_for() {
        let shown = |arguments: &[&str]| line(arguments, "picket.result.eu.3", RESULT).is_some();

        assert!(shown(&["--site", "7", "--region", "eu", "--outcome", "down"]));
        assert!(shown(&["--site", "http://x"]));
        assert!(!shown(&["--site", "8"]));
        assert!(!shown(&["--region", "us"]));
        assert!(!shown(&["--outcome", "up"]));
    }

    #[test]
    fn an_event_and_a_message_that_is_none_of_ours_do_not_break_a_line() {
        let event = line(&[], "picket.event.region.silent", "{\"region\":\"eu\"}\n").unwrap();
        let noise = line(&[], "picket.result.eu.3", "\x1b[2J\nnoise").unwrap();

        let opened =
            line(&["--site", "http://x", "--region", "eu"], "picket.event.incident.opened", OPENED).unwrap();

        assert_eq!(opened, "12:00:01.000  ** DOWN shop  connect in eu, us  refused [2J  (incident 4)\n");
        assert_eq!(line(&["--site", "8"], "picket.event.incident.opened", OPENED), None);
        assert_eq!(line(&["--outcome", "down"], "picket.event.incident.opened", OPENED), None);
        assert_eq!(event.lines().count(), 1);
        assert!(noise.lines().count() == 1 && !noise.contains('\x1b'), "{noise:?}");
    }
}
