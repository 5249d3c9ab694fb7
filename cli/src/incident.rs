//! `picket incident`: incidents one at a time, who was told, and who takes care.

mod show;

use clap::{ArgMatches, Args, Subcommand};
use picket_proto::Timestamp;
use picket_runtime::{clock, options::DurationArg};
use picket_store::{
    acknowledgements::{self, Acknowledged, Acknowledgement},
    incident_pages::{self, EpisodeFilter, ListedIncident},
};
use serde::Serialize;

use crate::{
    connect::DatabaseArgs,
    error::Error,
    output::{OutputOptions, TextTable, print_text, status_cell, text_cell},
    person::find_login,
    site::{find_one_site, format_timestamp},
};

/// Options of `picket incident`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum IncidentCommand {
    /// List open incidents, newest first
    #[command(after_help = "\
Examples:
  picket incident list
  picket incident list --since 7d --tag shop")]
    List(ListIncidentsOptions),
    /// Show an incident with its evidence and with what each channel was told
    #[command(after_help = "\
Example:
  picket incident show 42")]
    Show(ShowIncidentOptions),
    /// Acknowledge an open incident: reminders and escalation stop, its end is told
    #[command(after_help = "\
Examples:
  picket incident ack 42 --note 'provider knows, ticket 77'
  picket incident ack 42 --withdraw                  # reminders and escalation go on")]
    Ack(AckIncidentOptions),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ListIncidentsOptions {
    /// Include closed incidents that were open within this time, such as 7d
    #[arg(long, value_name = "DURATION")]
    since: Option<DurationArg>,
    /// Only incidents of this site (id or URL)
    #[arg(long, value_name = "SITE")]
    site: Option<String>,
    /// Only incidents of sites with this tag
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Maximum number of incidents, 1 to 10000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ShowIncidentOptions {
    /// Number of the incident
    id: i64,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct AckIncidentOptions {
    /// Number of the incident
    id: i64,
    /// What you know or do about it, for the others
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Take the acknowledgement back
    #[arg(long, conflicts_with = "note")]
    withdraw: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// An incident of a list as JSON.
#[derive(Serialize)]
struct IncidentRecord<'a> {
    #[serde(flatten)]
    incident: &'a ListedIncident,
    acknowledgement: Option<&'a Acknowledgement>,
}

pub(crate) async fn run(command: IncidentCommand, matches: &ArgMatches) -> Result<(), Error> {
    match command {
        IncidentCommand::List(options) => list_incidents(options, matches).await,
        IncidentCommand::Show(options) => {
            let store = options.database.connect(matches).await?;
            show::show_incident(&store, options.id, options.output).await
        }
        IncidentCommand::Ack(options) => acknowledge(options, matches).await,
    }
}

async fn list_incidents(options: ListIncidentsOptions, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let site_id = match &options.site {
        Some(word) => Some(find_one_site(&store, word).await?.id.0),
        None => None,
    };
    let tags = options.tag.map(|tag| [tag]);
    let filter = EpisodeFilter {
        tags: tags.as_ref().map(|tags| &tags[..]),
        open: options.since.is_none().then_some(true),
        site_id,
        from: options.since.map(|since| clock::wall_clock_now().saturating_sub(since.0)),
        limit: options.limit,
        ..EpisodeFilter::default()
    };
    let incidents = incident_pages::list_incidents(&store, &filter).await?;
    let ids: Vec<i64> = incidents.iter().map(|incident| incident.incident_id).collect();
    let acknowledged = acknowledgements::list_acknowledgements(&store, &ids).await?;
    let find = |id: i64| acknowledged.iter().find(|acknowledged| acknowledged.incident_id == id);
    let records: Vec<IncidentRecord<'_>> = incidents
        .iter()
        .map(|incident| IncidentRecord { incident, acknowledgement: find(incident.incident_id) })
        .collect();
    options.output.print_rows(&records, |records| {
        let columns = ["ID", "STATE", "OPENED", "CLOSED", "CAUSE", "REGIONS", "ACKNOWLEDGED BY", "SITE"];
        let empty = match options.since {
            None => "no incident is open; closed ones: picket incident list --since 7d",
            Some(_) => "no incident was open in that time",
        };
        let mut listing = TextTable::new(columns, empty).align_right([0]);
        for IncidentRecord { incident, acknowledgement } in records {
            let time = |at: Timestamp| text_cell(format_timestamp(Some(at)));
            listing.add_row([
                text_cell(incident.incident_id),
                status_cell(if incident.closed_at.is_some() { "closed" } else { "down" }),
                time(incident.opened_at.into()),
                incident.closed_at.map_or_else(|| text_cell(None::<&str>), |at| time(at.into())),
                text_cell(incident.cause.clone()),
                text_cell(incident.regions.join(",")),
                text_cell(acknowledgement.map(|acknowledgement| acknowledgement.acknowledged_by.clone())),
                text_cell(&incident.site),
            ]);
        }
        listing
    })
}

async fn acknowledge(options: AckIncidentOptions, matches: &ArgMatches) -> Result<(), Error> {
    let AckIncidentOptions { id, note, withdraw, database } = options;
    let store = database.connect(matches).await?;
    if withdraw {
        return match acknowledgements::withdraw_acknowledgement(&store, id).await? {
            true => print_text(&format!("incident {id}: reminders and escalation go on\n")),
            false => Err(Error::Usage(format!("incident {id} is not acknowledged"))),
        };
    }
    let by = find_login();
    match acknowledgements::acknowledge_incident(&store, id, by.as_deref(), note.as_deref()).await? {
        Acknowledged::Now(now) => print_text(&format!(
            "incident {id} is acknowledged by {}: no reminder and no escalation; its end is told\n",
            now.acknowledged_by
        )),
        Acknowledged::Before(before) => print_text(&format!(
            "incident {id} was acknowledged by {} at {} already; nothing was changed\n",
            before.acknowledged_by,
            format_timestamp(Some(before.acknowledged_at.into())).unwrap_or_default()
        )),
        Acknowledged::Closed => {
            Err(Error::Usage(format!("incident {id} is closed; there is nothing to stop")))
        }
        Acknowledged::NotFound => Err(unknown_incident(id)),
    }
}

/// Refusal of a number that no incident has.
fn unknown_incident(id: i64) -> Error {
    Error::Usage(format!("there is no incident {id}; see: picket incident list --since 30d"))
}
