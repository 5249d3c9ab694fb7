//! `picket tail`: prints results and events as they arrive.

use async_nats::Message;
use clap::{ArgMatches, Args};
use futures_util::StreamExt;
use picket_proto::{
    CheckKind, CheckResult, Event, Outcome, RegionName, SiteId, Timestamp, bundle, safe_text,
    subject::{self, EventSubject},
    validation::sanitize_text,
};

use crate::{
    check::join_warnings,
    connect::{self, NatsArgs},
    error::{Error, connection_lost},
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
        if place.starts_with(EventSubject::PREFIX) {
            return self.format_event(place, payload).into_iter().collect();
        }
        bundle::result_payloads(place, payload)
            .filter_map(|result| self.format_result(place, result))
            .collect()
    }

    fn format_event(&self, place: &str, payload: &[u8]) -> Option<String> {
        let event = serde_json::from_slice::<Event>(payload).ok();
        self.should_show_event(event.as_ref()).then(|| match (self.output.output, event) {
            (OutputFormat::Table, Some(event)) => format_event_row(&event),
            (OutputFormat::Table, None) => {
                format!("{} {}\n", sanitize_text(place, 200), sanitize_payload(payload))
            }
            (OutputFormat::Json, _) => to_json_line(payload),
        })
    }

    fn format_result(&self, place: &str, payload: &[u8]) -> Option<String> {
        let Ok(result) = CheckResult::decode(payload) else {
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
            event.and_then(Event::site).is_some_and(|(id, url)| {
                let is_same_url = |url: &str| url.trim_end_matches('/') == word.trim_end_matches('/');
                word.parse().is_ok_and(|word| id == SiteId(word)) || url.is_some_and(is_same_url)
            })
        };
        let region = |region: &RegionName| event.is_some_and(|event| event.is_about_region(region));
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

/// An event as one line: its time, what happened, and the number of the incident or warning.
fn format_event_row(event: &Event) -> String {
    let text = |text: &str| sanitize_text(text, 200);
    let maybe = |maybe: &Option<String>| text(maybe.as_deref().unwrap_or("-"));
    let (at, words) = match event {
        Event::IncidentOpened(incident) => (
            incident.opened_at,
            format!(
                "{} {}  {} in {}  {}",
                colour_by_status("down", "DOWN".to_owned()),
                maybe(&incident.site),
                incident.cause.map_or("-", |cause| cause.as_str()),
                text(&incident.regions.join(", ")),
                maybe(&incident.message)
            ),
        ),
        Event::IncidentClosed(incident) => {
            let at = incident.closed_at.unwrap_or(incident.opened_at);
            let lasted = format_time_between(incident.opened_at, at);
            let back = colour_by_status("up", "BACK".to_owned());
            (at, format!("{back} {} after {lasted}", maybe(&incident.site)))
        }
        Event::WarningOpened(warning) => (
            warning.opened_at,
            format!(
                "{} {}  {} in {}  {}",
                colour_by_status("warning", "WARNING".to_owned()),
                maybe(&warning.site),
                warning.kind,
                text(&warning.regions.join(", ")),
                maybe(&warning.message)
            ),
        ),
        Event::WarningClosed(warning) => {
            let at = warning.closed_at.unwrap_or(warning.opened_at);
            let lasted = format_time_between(warning.opened_at, at);
            (at, format!("no more {} warning of {} after {lasted}", warning.kind, maybe(&warning.site)))
        }
        Event::RegionSilent(silence) => {
            (silence.at, format!("no active probers in region {}", silence.region))
        }
        Event::RegionBack(silence) => {
            let lasted = format_time_between(silence.since, silence.at);
            (silence.at, format!("region {} has active probers again after {lasted}", silence.region))
        }
        Event::ChannelFailing(failure) => (
            failure.at,
            format!("channel {} does not deliver: {}", text(&failure.channel), maybe(&failure.message)),
        ),
        Event::ChannelWorking(channel) => {
            (channel.at, format!("channel {} delivers again", text(&channel.channel)))
        }
        Event::CertificateExpiring(certificate) => {
            (certificate.at, format!("{}: {}", maybe(&certificate.site), maybe(&certificate.message)))
        }
        Event::LedgerUnaccounted(ledger) => (ledger.at, format!("ledger: {}", maybe(&ledger.message))),
    };
    let number = match event {
        Event::IncidentOpened(event) | Event::IncidentClosed(event) => {
            format!("  (incident {})", event.incident_id)
        }
        Event::WarningOpened(event) | Event::WarningClosed(event) => {
            format!("  (warning {})", event.warning_id)
        }
        Event::RegionSilent(_)
        | Event::RegionBack(_)
        | Event::ChannelFailing(_)
        | Event::ChannelWorking(_)
        | Event::CertificateExpiring(_)
        | Event::LedgerUnaccounted(_) => String::new(),
    };
    format!("{}  ** {words}{number}\n", &at.to_string()[11..23])
}

fn format_time_between(from: Timestamp, to: Timestamp) -> String {
    format_interval(i64::try_from(to.saturating_duration_since(from).as_secs()).unwrap_or(i64::MAX))
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
    let warnings = join_warnings(result)
        .map(|kinds| format!("  {}", colour_by_status("warning", format!("(warning: {kinds})"))))
        .unwrap_or_default();
    let kind = if result.kind == CheckKind::Confirm { "  (confirmation)" } else { "" };
    format!(
        "{}  {:<12}  {outcome}  {cause:<14}  {status:>3}  {total:>9} ms  {site:>7}  {}{message}{warnings}{kind}\n",
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

    const OPENED: &str = r#"{"v":1,"id":"incident.4.opened","event":"incident.opened","incident_id":4,"site_id":7,"site":"shop","url":"http://x/","tags":[],"opened_at":"2026-11-20T12:00:01.000000Z","closed_at":null,"first_failure_at":"2026-11-20T12:00:00.000000Z","cause":"connect","message":"refused\u001b[2J","regions":["eu","us"],"unwatched":false}"#;

    #[test]
    fn a_result_is_one_aligned_line() {
        let shown = line(&[], "picket.result.eu.3", RESULT).unwrap();

        assert_eq!(
            shown,
            "12:00:01.234  eu            down    status          503       12.3 ms        7  http://x/  503\n"
        );
    }

    #[test]
    fn warnings_and_confirmations_are_marked_at_the_end_of_the_line() {
        let warned = RESULT.replace(
            r#""outcome":"down","cause":"status","message":"503""#,
            r#""outcome":"up","warnings":["slow","certificate"]"#,
        );
        let confirming = RESULT.replace("scheduled\",\"region", "confirm\",\"region");

        let warned = line(&[], "picket.result.eu.3", &warned).unwrap();
        let confirming = line(&[], "picket.result.eu.3", &confirming).unwrap();

        assert!(
            warned.contains(" up ") && warned.ends_with("http://x/  (warning: slow,certificate)\n"),
            "{warned}"
        );
        assert!(confirming.ends_with("http://x/  503  (confirmation)\n"), "{confirming}");
    }

    #[test]
    fn json_output_is_the_message_unchanged() {
        let shown = line(&["--output", "json"], "picket.result.eu.3", RESULT).unwrap();

        assert_eq!(shown, format!("{RESULT}\n"));
    }

    #[test]
    fn json_of_a_hostile_message_is_one_printable_line_with_the_same_value() {
        let hostile = RESULT
            .replace(r#""message":"503""#, "\"message\":\"\u{202e}\u{9b}2J\u{7f}\"")
            .replace(",", ",\n");

        let shown = line(&["--output", "json"], "picket.result.eu.3", &hostile).unwrap();

        assert!(shown.is_ascii() && !shown.contains('\x7f') && shown.lines().count() == 1, "{shown:?}");
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(read(&shown), read(&hostile));
    }

    #[test]
    fn results_of_a_bundle_are_shown_on_a_line_each() {
        let other = RESULT.replace(r#""site_id":7"#, r#""site_id":8"#);
        let bundle = [RESULT, &other, RESULT].join("\n");

        assert_eq!(lines(&[], "picket.result.eu.bundle", &bundle).len(), 3);
        let json = lines(&["--site", "8", "--output", "json"], "picket.result.eu.bundle", &bundle);
        assert_eq!(json, [format!("{other}\n")]);
    }

    #[test]
    fn filters_drop_messages_that_do_not_match() {
        let shown = |arguments: &[&str]| line(arguments, "picket.result.eu.3", RESULT).is_some();

        assert!(shown(&["--site", "7", "--region", "eu", "--outcome", "down"]));
        assert!(shown(&["--site", "http://x"]));
        assert!(!shown(&["--site", "8"]));
        assert!(!shown(&["--region", "us"]));
        assert!(!shown(&["--outcome", "up"]));
    }

    #[test]
    fn every_kind_of_event_is_shown_with_its_duration() {
        let silent = r#"{"v":1,"id":"a","event":"region.silent","region":"eu","since":"2026-11-20T12:00:00.000000Z","at":"2026-11-20T12:00:20.000000Z"}"#;
        let closed = OPENED
            .replace("incident.opened", "incident.closed")
            .replace(r#""closed_at":null"#, r#""closed_at":"2026-11-20T12:05:01.000000Z""#);
        let back = silent.replace("region.silent", "region.back").replace("12:00:20", "12:01:30");
        let shown = |kind: &str, payload: &str| line(&[], &format!("picket.event.{kind}"), payload).unwrap();

        assert_eq!(shown("incident.closed", &closed), "12:05:01.000  ** BACK shop after 5m  (incident 4)\n");
        assert_eq!(shown("region.silent", silent), "12:00:20.000  ** no active probers in region eu\n");
        assert_eq!(
            shown("region.back", &back),
            "12:01:30.000  ** region eu has active probers again after 1m 30s\n"
        );
        let warned = r#"{"v":1,"id":"a","event":"warning.opened","warning_id":9,"site_id":7,"site":"shop","url":"http://x/","tags":[],"kind":"certificate","opened_at":"2026-11-20T12:00:01.000000Z","closed_at":null,"first_warned_at":"2026-11-20T12:00:00.000000Z","message":"ends in 9 days","serial":"0a","expires_at":"2026-11-29T12:00:00.000000Z","regions":["eu","us"],"in_maintenance":false,"unwatched":false}"#;
        let renewed = warned
            .replace("warning.opened", "warning.closed")
            .replace(r#""closed_at":null"#, r#""closed_at":"2026-11-20T12:02:01.000000Z""#);
        assert_eq!(
            shown("warning.opened", warned),
            "12:00:01.000  ** WARNING shop  certificate in eu, us  ends in 9 days  (warning 9)\n"
        );
        assert_eq!(
            shown("warning.closed", &renewed),
            "12:02:01.000  ** no more certificate warning of shop after 2m  (warning 9)\n"
        );
        assert_eq!(line(&["--site", "8"], "picket.event.warning.opened", warned), None);
        // An event of a later version is shown as it came.
        let unknown = silent.replace("region.silent", "region.renamed");
        assert_eq!(shown("region.renamed", &unknown), format!("picket.event.region.renamed {unknown}\n"));
    }

    #[test]
    fn an_event_or_a_foreign_message_stays_on_one_line() {
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
