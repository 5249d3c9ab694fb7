//! `picket maintenance`: maintenance windows, in which checks continue and no incident opens.

use clap::{ArgGroup, ArgMatches, Args, Subcommand};
use picket_runtime::clock;
use picket_store::maintenance::{self, MaintenanceTarget, WindowFilter};

use crate::{
    connect::DatabaseArgs,
    error::Error,
    output::{OutputOptions, TextTable, print_text, status_cell, text_cell},
    site::{find_one_site, format_timestamp},
    time_arg::{TimeArg, parse_time_arg},
};

/// Options of `picket maintenance`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum MaintenanceCommand {
    /// Add a maintenance window for a site, or for all sites with a tag
    #[command(after_help = "\
Checks continue and their results are stored; no incident opens in the window. An open incident stays open until the \
site is up again. A site that is down at the end of the window gets an incident then. Uptime reports can exclude the window.

Examples:
  picket maintenance add https://example.com --to +2h
  picket maintenance add --tag shop --from 2026-12-01T22:00:00Z --to 2026-12-02T02:00:00Z
  picket maintenance add https://example.com                       # until further notice")]
    Add(AddWindowOptions),
    /// List current and planned windows
    List(ListWindowsOptions),
    /// Remove a window by its number
    Remove(RemoveWindowOptions),
}

#[derive(Args, Clone, Debug)]
#[command(group(ArgGroup::new("scope").required(true).args(["site", "tag"])))]
pub(crate) struct AddWindowOptions {
    /// Site id or URL
    site: Option<String>,
    /// Tag; the window covers all sites with this tag, including sites tagged later
    #[arg(long, visible_alias = "tags", value_name = "TAG")]
    tag: Option<String>,
    /// Start: a time such as 2026-12-01T22:00:00Z, 'now', or '+30m' from now
    #[arg(long, value_name = "TIME", default_value = "now", value_parser = parse_time_arg)]
    from: TimeArg,
    /// End: a time such as 2026-12-02T02:00:00Z, or '+2h' from now [default: until further notice]
    #[arg(long, value_name = "TIME", value_parser = parse_time_arg)]
    to: Option<TimeArg>,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ListWindowsOptions {
    /// Include windows that are over
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RemoveWindowOptions {
    /// Number of the window, as listed by 'picket maintenance list'
    id: i64,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// The end of an open-ended window, in words.
pub(crate) const UNTIL_FURTHER_NOTICE: &str = "until further notice";

pub(crate) async fn run(command: MaintenanceCommand, matches: &ArgMatches) -> Result<(), Error> {
    match command {
        MaintenanceCommand::Add(options) => add_window(options, matches).await,
        MaintenanceCommand::List(options) => list_windows(options, matches).await,
        MaintenanceCommand::Remove(RemoveWindowOptions { id, database }) => {
            let store = database.connect(matches).await?;
            match maintenance::remove_window(&store, id, None).await? {
                true => print_text(&format!("removed window {id}\n")),
                false => Err(Error::Usage(format!(
                    "id: there is no window {id}; see: picket maintenance list --all"
                ))),
            }
        }
    }
}

async fn add_window(options: AddWindowOptions, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let (scope, target) = match (options.site, options.tag) {
        (Some(word), _) => {
            let site = find_one_site(&store, &word).await?;
            (MaintenanceTarget::Site(site.id), format!("site {} ({})", site.id, site.url))
        }
        (None, tag) => {
            let tag = tag.unwrap_or_default();
            let target = format!("all sites with the tag '{tag}'");
            (MaintenanceTarget::Tag(tag), target)
        }
    };
    let now = clock::wall_clock_now();
    let (from, to) = (options.from.to_timestamp(now), options.to.map(|to| to.to_timestamp(now)));
    let id = maintenance::add_window(&store, &scope, from, to).await?;
    let from = format_timestamp(Some(from)).unwrap_or_default();
    let until = match to {
        Some(to) => format!("to {}", format_timestamp(Some(to)).unwrap_or_default()),
        None => UNTIL_FURTHER_NOTICE.to_owned(),
    };
    print_text(&format!("window {id}: no incident opens for {target} from {from} {until}\n"))
}

async fn list_windows(options: ListWindowsOptions, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let windows =
        maintenance::list_windows(&store, WindowFilter { all: options.all, ..WindowFilter::default() })
            .await?;
    options.output.print_rows(&windows, |windows| {
        let columns = ["ID", "STATE", "FROM", "TO", "TAG", "SITE ID", "SITE"];
        let mut listing = TextTable::new(
            columns,
            "no maintenance is planned; add a window: picket maintenance add SITE --to +2h",
        )
        .align_right([0, 5]);
        for window in windows {
            listing.add_row([
                text_cell(window.id),
                status_cell(&window.state),
                text_cell(format_timestamp(Some(window.from))),
                text_cell(format_timestamp(window.to).unwrap_or_else(|| UNTIL_FURTHER_NOTICE.to_owned())),
                text_cell(window.tag.clone()),
                text_cell(window.site_id),
                text_cell(window.site.clone()),
            ]);
        }
        listing
    })
}
