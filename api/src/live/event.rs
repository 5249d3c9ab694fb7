//! Events of live streams: decoded and encoded once, shared by all viewers.

use bytes::Bytes;
use picket_proto::{
    CheckResult, Event, InstallationId, Outcome, RegionName, SiteId, Timestamp, bundle, result_message,
    subject::{EventSubject, ResultSubject},
};
use serde::Serialize;

use super::changes::OutcomeHistory;

/// Kind of an event, its name in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventKind {
    Result,
    Incident,
    Warning,
    Region,
}

impl EventKind {
    pub(crate) const ALL_KINDS: [Self; 4] = [Self::Result, Self::Incident, Self::Warning, Self::Region];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::Incident => "incident",
            Self::Warning => "warning",
            Self::Region => "region",
        }
    }
}

/// An event with the properties that filters compare.
#[derive(Clone, Debug)]
pub(crate) struct LiveEvent {
    pub(crate) kind: EventKind,
    pub(crate) site: Option<SiteId>,
    pub(crate) regions: Regions,
    /// Outcome of a result.
    pub(crate) outcome: Option<Outcome>,
    /// True if the outcome of a result differs from the one before.
    pub(crate) is_change: bool,
    /// Tags of the site, if the event has them.
    pub(crate) tags: Option<Vec<String>>,
    /// The event as it is sent.
    pub(crate) bytes: Bytes,
}

/// Regions of an event.
#[derive(Clone, Debug)]
pub(crate) enum Regions {
    One(RegionName),
    Many(Vec<String>),
}

impl Regions {
    pub(crate) fn contains(&self, region: &RegionName) -> bool {
        match self {
            Self::One(name) => name == region,
            Self::Many(names) => names.iter().any(|name| name == region.as_str()),
        }
    }
}

/// Encodes an event of a stream. JSON as serde writes it has no line feed.
pub(crate) fn encode_event(name: &str, id: Option<Timestamp>, data: &impl Serialize) -> Bytes {
    let mut bytes = Vec::with_capacity(512);
    bytes.extend_from_slice(b"event: ");
    bytes.extend_from_slice(name.as_bytes());
    if let Some(id) = id {
        bytes.extend_from_slice(b"\nid: ");
        bytes.extend_from_slice(id.to_string().as_bytes());
    }
    bytes.extend_from_slice(b"\ndata: ");
    // No message of Picket has a map with keys other than texts, the only error there is.
    let _ = serde_json::to_writer(&mut bytes, data);
    bytes.extend_from_slice(b"\n\n");
    Bytes::from(bytes)
}

/// Reads messages of the bus.
#[derive(Debug)]
pub(crate) struct EventReader {
    installation: InstallationId,
    outcomes: OutcomeHistory,
}

impl EventReader {
    pub(crate) fn new(installation: InstallationId) -> Self {
        Self { installation, outcomes: OutcomeHistory::default() }
    }

    /// Appends the events of a message to `events`. The time of receipt is the place of an event in
    /// the stream; results have none, because they are not replayed. Returns the number of results
    /// and events that this version cannot use.
    pub(crate) fn read_message(
        &mut self,
        subject: &str,
        payload: &[u8],
        received_at: Timestamp,
        is_change_wanted: bool,
        events: &mut Vec<LiveEvent>,
    ) -> u64 {
        if subject.starts_with(EventSubject::PREFIX) {
            let event = serde_json::from_slice::<Event>(payload);
            return match event {
                Ok(event) => {
                    events.extend(LiveEvent::from_event(event, received_at));
                    0
                }
                Err(_) => 1,
            };
        }
        let Ok(source) = result_message::parse_source(subject, payload) else { return 1 };
        if !is_change_wanted {
            self.outcomes.clear();
        }
        let mut unusable = 0;
        let is_bundle = matches!(source, ResultSubject::Bundle(_));
        for line in bundle::split_results(payload, is_bundle) {
            let Ok(result) = result_message::decode_result(&source, line) else {
                unusable += 1;
                continue;
            };
            // Another installation on the same bus has sites with the same numbers.
            if result.installation.is_some_and(|of| of != self.installation) {
                continue;
            }
            let is_change = is_change_wanted && self.outcomes.record(&result);
            events.push(LiveEvent::from_result(result, is_change));
        }
        unusable
    }
}

impl LiveEvent {
    pub(crate) fn from_result(result: CheckResult, is_change: bool) -> Self {
        // What proves the result to the sink is of no use to a viewer.
        let result = CheckResult { ticket: None, installation: None, ..result };
        Self {
            kind: EventKind::Result,
            site: result.site_id,
            outcome: Some(result.outcome),
            is_change,
            tags: None,
            bytes: encode_event(EventKind::Result.as_str(), None, &result),
            regions: Regions::One(result.region),
        }
    }

    /// The event for live views; `None` for one that no view shows.
    pub(crate) fn from_event(event: Event, received_at: Timestamp) -> Option<Self> {
        let kind = match &event {
            Event::IncidentOpened(_) | Event::IncidentClosed(_) => EventKind::Incident,
            Event::WarningOpened(_) | Event::WarningClosed(_) => EventKind::Warning,
            Event::RegionSilent(_) | Event::RegionBack(_) => EventKind::Region,
            Event::ChannelFailing(_)
            | Event::ChannelWorking(_)
            | Event::CertificateExpiring(_)
            | Event::LedgerUnaccounted(_) => return None,
        };
        let bytes = encode_event(kind.as_str(), Some(received_at), &event);
        let site = event.site().map(|(site, _)| site);
        let (tags, regions) = match event {
            Event::IncidentOpened(incident) | Event::IncidentClosed(incident) => {
                (incident.tags, Regions::Many(incident.regions))
            }
            Event::WarningOpened(warning) | Event::WarningClosed(warning) => {
                (warning.tags, Regions::Many(warning.regions))
            }
            Event::RegionSilent(silence) | Event::RegionBack(silence) => (None, Regions::One(silence.region)),
            Event::ChannelFailing(_)
            | Event::ChannelWorking(_)
            | Event::CertificateExpiring(_)
            | Event::LedgerUnaccounted(_) => return None,
        };
        // The site of an event is known; a site without tags has none.
        let tags = site.map(|_| tags.unwrap_or_default());
        Some(Self { kind, site, regions, outcome: None, is_change: false, tags, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "6b0f4f6a-7e57-4c1e-9a52-0d6f4b1c2a33";
    const RESULT: &str = r#"{"v":1,"id":"a","site_id":7,"kind":"scheduled","region":"eu","shard":3,"prober":"p","url":"http://x/","scheduled_at":"2026-11-20T12:00:00.000000Z","outcome":"down","cause":"status","message":"a\nb","installation":"6b0f4f6a-7e57-4c1e-9a52-0d6f4b1c2a33","ticket":"0001fa15b87b276e7ec3f7f2b9f3c4b7043b"}"#;
    const SILENT: &str = r#"{"v":1,"id":"a","event":"region.silent","region":"eu","since":"2026-11-20T12:00:00.000000Z","at":"2026-11-20T12:00:20.000000Z"}"#;

    fn read(subject: &str, payload: &str) -> (Vec<LiveEvent>, u64) {
        let mut events = Vec::new();
        let mut reader = EventReader::new(OURS.parse().unwrap());
        let unusable = reader.read_message(
            subject,
            payload.as_bytes(),
            "2026-11-20T12:00:30Z".parse().unwrap(),
            true,
            &mut events,
        );
        (events, unusable)
    }

    #[test]
    fn a_result_is_sent_without_what_proves_it() {
        let (events, _) = read("picket.result.eu.3", RESULT);

        let text = str::from_utf8(&events[0].bytes).unwrap();
        let data = text.strip_prefix("event: result\ndata: ").and_then(|rest| rest.strip_suffix("\n\n"));
        let data = data.unwrap_or_else(|| panic!("{text}"));
        assert!(!data.contains('\n') && !data.contains("ticket") && !data.contains("installation"), "{data}");
        assert_eq!(serde_json::from_str::<CheckResult>(data).unwrap().message.as_deref(), Some("a\nb"));
    }

    #[test]
    fn an_event_has_its_place_in_the_stream() {
        let (events, _) = read("picket.event.region.silent", SILENT);

        assert!(
            events[0].bytes.starts_with(b"event: region\nid: 2026-11-20T12:00:30.000000Z\ndata: {"),
            "{:?}",
            events[0].bytes
        );
        assert!(events[0].regions.contains(&"eu".parse().unwrap()));
    }

    #[test]
    fn a_result_that_contradicts_its_subject_or_is_of_another_installation_is_not_shown() {
        let foreign = RESULT.replace("6b0f4f6a", "00000000");
        let bundle = [RESULT, "{", &foreign, &RESULT.replace(r#""eu""#, r#""us""#)].join("\n");

        let (events, unusable) = read("picket.result.eu.bundle", &bundle);

        assert_eq!((events.len(), unusable), (1, 2));
        for (subject, payload) in [
            ("picket.result.us.3", RESULT),
            ("picket.result.eu.4", RESULT),
            ("picket.result.eu", RESULT),
            ("picket.event.region.silent", "{}"),
        ] {
            let (events, unusable) = read(subject, payload);
            assert_eq!((events.len(), unusable), (0, 1), "{subject}");
        }
    }
}
