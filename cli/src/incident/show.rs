//! `picket incident show`: an incident with its evidence and its notices.

use picket_proto::Timestamp;
use picket_store::{
    DbTimestamp, Store,
    acknowledgements::{self, Acknowledgement},
    incident_pages::{self, IncidentEvidence},
    notifications::{self, ListedNotice, NoticesOf, read_notifier_presence},
};
use serde::Serialize;

use super::unknown_incident;
use crate::{
    error::Error,
    notification::{NoticeColumns, notice_table},
    notifier::warn_without_notifier,
    output::{
        OutputFormat, OutputOptions, TextTable, print_coloured, print_data, status_cell, text_cell,
        to_pretty_json,
    },
    site::{format_interval, format_timestamp},
};

/// Maximum number of shown notices.
const MAX_NOTICES: i64 = 1_000;

/// An incident as JSON.
#[derive(Serialize)]
struct IncidentDetails {
    #[serde(flatten)]
    evidence: IncidentEvidence,
    acknowledgement: Option<Acknowledgement>,
    notices: Vec<ListedNotice>,
}

pub(super) async fn show_incident(store: &Store, id: i64, output: OutputOptions) -> Result<(), Error> {
    let evidence =
        incident_pages::read_incident(store, id, None).await?.ok_or_else(|| unknown_incident(id))?;
    let details = IncidentDetails {
        evidence,
        acknowledgement: acknowledgements::list_acknowledgements(store, &[id]).await?.pop(),
        notices: notifications::list_notices(store, NoticesOf::Incident(id), MAX_NOTICES).await?,
    };
    if output.output == OutputFormat::Json {
        return print_data(&to_pretty_json(&[details]));
    }
    let mut regions =
        TextTable::new(["REGION", "OUTCOME", "FAILURES", "CAUSE", "MESSAGE"], "no region has reported")
            .align_right([2]);
    for vote in &details.evidence.votes {
        regions.add_row([
            text_cell(&vote.region),
            status_cell(&vote.outcome),
            text_cell(vote.failures),
            text_cell(vote.cause.clone()),
            text_cell(vote.message.clone()),
        ]);
    }
    let notifiers = read_notifier_presence(store, Some(id)).await?;
    let empty = match notifiers.undecided {
        0 => "no route names a channel for this incident; see: picket route test",
        _ => "it is not decided yet who is told of this incident: a notifier decides it",
    };
    let notices = notice_table(&details.notices, NoticeColumns::OfIncident, empty);
    print_coloured(&format!("{}\n{regions}\n{notices}", build_summary(&details)))?;
    let is_pending = details.notices.iter().any(|notice| notice.state == "waiting");
    match notifiers.undecided > 0 || is_pending {
        true => warn_without_notifier(store).await,
        false => Ok(()),
    }
}

fn build_summary(details: &IncidentDetails) -> TextTable {
    let incident = &details.evidence.incident;
    let mut lines = TextTable::new(["INCIDENT", &incident.incident_id.to_string()], "");
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.add_row([text_cell(name), text_cell(value)]);
        }
    };
    let time = |at: DbTimestamp| format_timestamp(Some(Timestamp::from(at)));
    add("site", Some(format!("{} (site {})", incident.site, incident.site_id)));
    add("cause", incident.cause.clone());
    add("message", incident.message.clone());
    add("first failure", time(incident.first_failure_at));
    add("opened", time(incident.opened_at));
    add("closed", incident.closed_at.and_then(time));
    add("duration", Some(format_interval(incident.seconds)));
    add("regions down", Some(incident.regions.join(", ")));
    if details.evidence.unwatched {
        add("closed because", Some("the site is no longer checked".to_owned()));
    }
    if let Some(acknowledgement) = &details.acknowledgement {
        let at = time(acknowledgement.acknowledged_at).unwrap_or_default();
        add("acknowledged", Some(format!("{at} by {}", acknowledgement.acknowledged_by)));
        add("note", acknowledgement.note.clone());
    }
    lines
}
