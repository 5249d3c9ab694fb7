//! `picket route test`: whom incidents of sites reach.

use clap::{ArgMatches, Args};
use picket_store::{
    routes::{self, ReachFilter, SiteReach},
    tags::read_tag_index,
};

use super::describe_reach;
use crate::{
    connect::DatabaseArgs,
    error::Error,
    output::{OutputFormat, OutputOptions, TextTable, print_coloured, print_error, status_cell, text_cell},
    site::find_one_site,
};

#[derive(Args, Clone, Debug)]
pub(crate) struct TestRouteOptions {
    /// Site id or URL [default: all sites]
    site: Option<String>,
    /// Only sites with this tag
    #[arg(long, value_name = "TAG", conflicts_with = "site")]
    tag: Option<String>,
    /// Only sites that reach nobody
    #[arg(long)]
    unreached: bool,
    /// List all sites in a table; JSON always contains all
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Maximum listed sites without `--all`.
const MAX_LISTED_SITES: usize = 40;

pub(super) async fn test_routes(options: TestRouteOptions, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let ids = match &options.site {
        Some(word) => Some([find_one_site(&store, word).await?.id.0]),
        None => None,
    };
    let tags = options.tag.map(|tag| [tag]);
    let filter = ReachFilter {
        ids: ids.as_ref().map(|ids| &ids[..]),
        tags: tags.as_ref().map(|tags| &tags[..]),
        limit: None,
    };
    let mut reached = routes::list_reach(&store, filter).await?;
    if options.unreached {
        reached.retain(|site| site.channels.is_empty());
    }
    if options.output.output == OutputFormat::Json {
        return options.output.print_rows(&reached, |_| TextTable::new([], ""));
    }
    let shown = if options.all { reached.len() } else { reached.len().min(MAX_LISTED_SITES) };
    let rest = match reached.len() - shown {
        0 => String::new(),
        hidden => format!("and {hidden} more: --all\n"),
    };
    if let Some([tag]) = &tags
        && let Some(warning) = read_tag_index(&store, [tag], true).await?.find_warning("tag", tag)
    {
        print_error(warning);
    }
    let summary = match ids {
        Some(_) => String::new(),
        None => describe_reach(routes::count_reach(&store, filter.tags).await?),
    };
    print_coloured(&format!("{}{rest}{summary}", build_table(&reached[..shown], options.unreached)))
}

fn build_table(sites: &[SiteReach], unreached: bool) -> TextTable {
    let empty = match unreached {
        true => "every site reaches a channel",
        false => "no sites to show",
    };
    let mut listing = TextTable::new(["ID", "SITE", "CHANNELS", "LATER", "ROUTES"], empty).align_right([0]);
    let join = |names: &[String]| (!names.is_empty()).then(|| names.join(","));
    for site in sites {
        listing.add_row([
            text_cell(site.site_id),
            text_cell(&site.site),
            join(&site.channels).map_or_else(|| status_cell("NOBODY"), text_cell),
            text_cell(join(&site.escalation_channels)),
            text_cell(join(&site.routes)),
        ]);
    }
    listing
}
