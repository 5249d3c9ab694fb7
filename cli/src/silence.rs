//! `picket silence`: spans in which incidents are recorded and nobody is told.

use clap::{ArgGroup, ArgMatches, Args, Subcommand};
use picket_runtime::clock;
use picket_store::{
    silences::{self, NewSilence, SilenceFilter, SilenceTarget},
    tags::read_tag_index,
};

use crate::{
    connect::DatabaseArgs,
    error::Error,
    output::{OutputOptions, TextTable, print_error, print_text, status_cell, text_cell},
    person::find_login,
    site::{find_one_site, format_timestamp},
    time_arg::{TimeArg, parse_time_arg},
};

/// Options of `picket silence`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum SilenceCommand {
    /// Silence a site, all sites with a tag, or all sites
    #[command(after_help = "\
Incidents open and are recorded, and nobody is told of them. What is still down at the end is told once then, and so is \
the end of an incident that was told before the silence. For planned work, in which no incident shall open at all: \
picket maintenance.

Examples:
  picket silence add https://example.com --to +2h --reason 'provider is at it'
  picket silence add --tag shop --to 2026-12-02T06:00:00Z --reason 'known: CDN outage'
  picket silence add --all --to +30m --reason 'alert storm'")]
    Add(AddSilenceOptions),
    /// List current and planned silences
    #[command(after_help = "\
Examples:
  picket silence list
  picket silence list --all --output json")]
    List(ListSilencesOptions),
    /// Remove a silence by its number; what is down is told at once
    #[command(after_help = "\
Example:
  picket silence remove 3")]
    Remove(RemoveSilenceOptions),
}

#[derive(Args, Clone, Debug)]
#[command(group(ArgGroup::new("scope").required(true).args(["site", "tag", "all"])))]
pub(crate) struct AddSilenceOptions {
    /// Site id or URL
    site: Option<String>,
    /// Tag; the silence covers all sites with this tag, including sites tagged later
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// All sites
    #[arg(long)]
    all: bool,
    /// Start: a time such as 2026-12-01T22:00:00Z, 'now', or '+30m' from now
    #[arg(long, value_name = "TIME", default_value = "now", value_parser = parse_time_arg)]
    from: TimeArg,
    /// End: a time such as 2026-12-02T02:00:00Z, or '+2h' from now
    #[arg(long, value_name = "TIME", required = true, value_parser = parse_time_arg)]
    to: TimeArg,
    /// Why, for those who wonder
    #[arg(long, value_name = "TEXT", required = true)]
    reason: String,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ListSilencesOptions {
    /// Include silences that are over
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RemoveSilenceOptions {
    /// Number of the silence, as listed by 'picket silence list'
    id: i64,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(crate) async fn run(command: SilenceCommand, matches: &ArgMatches) -> Result<(), Error> {
    match command {
        SilenceCommand::Add(options) => add_silence(options, matches).await,
        SilenceCommand::List(options) => list_silences(options, matches).await,
        SilenceCommand::Remove(RemoveSilenceOptions { id, database }) => {
            let store = database.connect(matches).await?;
            match silences::remove_silence(&store, id, None).await? {
                true => print_text(&format!("removed silence {id}; what is down is told now\n")),
                false => {
                    Err(Error::Usage(format!("id: there is no silence {id}; see: picket silence list --all")))
                }
            }
        }
    }
}

async fn add_silence(options: AddSilenceOptions, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let (target, whom) = match (options.site, options.tag) {
        (Some(word), _) => {
            let site = find_one_site(&store, &word).await?;
            (SilenceTarget::Site(site.id), format!("site {} ({})", site.id, site.url))
        }
        (None, Some(tag)) => {
            let whom = format!("all sites with the tag '{tag}'");
            (SilenceTarget::Tag(tag), whom)
        }
        (None, None) => (SilenceTarget::All, "all sites".to_owned()),
    };
    let now = clock::wall_clock_now();
    let (from, to) = (options.from.to_timestamp(now), options.to.to_timestamp(now));
    let new = NewSilence { target, from, to, reason: options.reason, created_by: find_login() };
    let id = silences::add_silence(&store, &new).await?;
    let [from, to] = [from, to].map(|at| format_timestamp(Some(at)).unwrap_or_default());
    print_text(&format!(
        "silence {id}: nobody is told of {whom} from {from} to {to}; what is down at its end is told then\n"
    ))?;
    if let SilenceTarget::Tag(tag) = &new.target {
        let index = read_tag_index(&store, [tag], true).await?;
        if let Some(warning) = index.find_warning("tag", tag) {
            print_error(format_args!("silence {id}: {warning}"));
        }
    }
    Ok(())
}

async fn list_silences(options: ListSilencesOptions, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let filter = SilenceFilter { over: options.all, ..SilenceFilter::default() };
    let silences = silences::list_silences(&store, filter).await?;
    for silence in &silences {
        for warning in &silence.warnings {
            print_error(format_args!("silence {}: {warning}", silence.id));
        }
    }
    options.output.print_rows(&silences, |silences| {
        let columns = ["ID", "STATE", "FROM", "TO", "SITES", "BY", "REASON"];
        let mut listing = TextTable::new(
            columns,
            "nothing is silenced; add a silence: picket silence add SITE --to +2h --reason TEXT",
        )
        .align_right([0]);
        for silence in silences {
            let sites = match (&silence.tag, silence.site_id) {
                (Some(tag), _) => format!("tag {tag}"),
                (None, Some(id)) => silence.site.clone().unwrap_or_else(|| format!("site {id}")),
                (None, None) => "all".to_owned(),
            };
            listing.add_row([
                text_cell(silence.id),
                status_cell(&silence.state),
                text_cell(format_timestamp(Some(silence.from))),
                text_cell(format_timestamp(Some(silence.to))),
                text_cell(sites),
                text_cell(&silence.created_by),
                text_cell(&silence.reason),
            ]);
        }
        listing
    })
}
