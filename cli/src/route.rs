//! `picket route`: which events are told to which channels.

mod args;
mod record;
mod set;
mod test;

use clap::{ArgMatches, Args, Subcommand};
use picket_proto::route::{RouteDefinition, RouteFields, name_routes};
use picket_store::{
    Store,
    routes::{self, Reach, RoutePlace},
    tags::read_tag_index_of_routes,
};

use self::{
    args::RouteArgs,
    record::{RouteRecord, describe_route, list_records, show_record},
    set::{RouteSwitchOptions, SetRouteOptions},
    test::TestRouteOptions,
};
use crate::{
    connect::DatabaseArgs,
    error::Error,
    notifier::warn_without_notifier,
    output::{OutputOptions, print_error, print_text},
};

/// Options of `picket route`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum RouteCommand {
    /// Add a route
    #[command(after_help = "\
All routes that match an event apply, and a channel is told once: of several routes with a channel, the settings of the \
first hold. A route without tags and sites is for all sites.

Examples:
  picket route add --channel ops
  picket route add --tag shop --channel ops --remind 2h --escalate 15m=phone --escalate 1h=boss
  picket route add --tag shop --channel desk --active 'mon-fri 08:00-18:00' --time-zone Europe/Berlin
  picket route add --event certificate --event warning --channel desk
  picket route add --fallback --channel ops              # where no other route applies")]
    Add(Box<AddRouteOptions>),
    /// List all routes in their order
    #[command(after_help = "\
Examples:
  picket route list
  picket route list --output json")]
    List(ListRoutesOptions),
    /// Show a route with all that differs from the defaults
    #[command(after_help = "\
Example:
  picket route show shop-to-ops")]
    Show(ShowRouteOptions),
    /// Change the given fields of a route; events from now on are told by them
    #[command(after_help = "\
An option that may be repeated replaces all values of its field.

Examples:
  picket route set shop-to-ops --channel ops --channel desk
  picket route set shop-to-ops --remind never --clear escalate
  picket route set shop-to-ops --rename shop --position 0")]
    Set(Box<SetRouteOptions>),
    /// Pause a route: nothing is told by it
    #[command(after_help = "\
What waits for its channels already is still told. An incident that opens meanwhile is not told later.

Example:
  picket route pause shop-to-ops")]
    Pause(RouteSwitchOptions),
    /// Resume a paused route
    #[command(after_help = "\
Example:
  picket route resume shop-to-ops")]
    Resume(RouteSwitchOptions),
    /// Remove a route
    #[command(after_help = "\
The ends of incidents that it has told are still told.

Example:
  picket route remove shop-to-ops")]
    Remove(RemoveRouteOptions),
    /// Show which channels each site reaches, and how many sites reach nobody
    #[command(after_help = "\
An incident in all regions of a site is assumed. Silences, maintenance and active hours are not looked at.

Examples:
  picket route test
  picket route test https://example.com
  picket route test --tag shop --unreached")]
    Test(TestRouteOptions),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct AddRouteOptions {
    /// Name of the route [default: made of its tags and channels]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Channel to tell; may be repeated
    #[arg(long = "channel", value_name = "CHANNEL", required = true)]
    channels: Vec<String>,
    #[command(flatten)]
    route: RouteArgs,
    /// Add the route paused
    #[arg(long)]
    paused: bool,
    /// Place among the routes, from 0 [default: the last]
    #[arg(long, value_name = "N")]
    position: Option<i64>,
    /// Tell the route's channels once of what is open now and concerns it
    #[arg(long)]
    catch_up: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ListRoutesOptions {
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ShowRouteOptions {
    /// Name of the route, as listed by 'picket route list'
    name: String,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RemoveRouteOptions {
    /// Name of the route, as listed by 'picket route list'
    name: String,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(crate) async fn run(command: RouteCommand, matches: &ArgMatches) -> Result<(), Error> {
    match command {
        RouteCommand::Add(options) => add_route(*options, matches).await,
        RouteCommand::List(ListRoutesOptions { output, database }) => {
            let store = database.connect(matches).await?;
            let found = routes::list_routes(&store).await?;
            warn_of_tags(&store, found.iter().filter_map(|route| route.definition.as_ref().ok())).await?;
            let records: Vec<RouteRecord> = found.into_iter().map(RouteRecord::from).collect();
            list_records(&records, output)
        }
        RouteCommand::Show(ShowRouteOptions { name, output, database }) => {
            let store = database.connect(matches).await?;
            let found = find_route(&store, &name).await?;
            warn_of_tags(&store, found.definition.as_ref().ok()).await?;
            show_record(found.into(), output)
        }
        RouteCommand::Set(options) => set::set_route(*options, matches).await,
        RouteCommand::Pause(options) => set::switch_route(options, false, matches).await,
        RouteCommand::Resume(options) => set::switch_route(options, true, matches).await,
        RouteCommand::Test(options) => test::test_routes(options, matches).await,
        RouteCommand::Remove(RemoveRouteOptions { name, database }) => {
            let store = database.connect(matches).await?;
            if !routes::remove_route(&store, &name, None).await? {
                return Err(unknown_route(&store, &name).await);
            }
            let reach = routes::count_reach(&store, None).await?;
            print_text(&format!("removed route {name}\n{}", describe_reach(reach)))
        }
    }
}

async fn add_route(options: AddRouteOptions, matches: &ArgMatches) -> Result<(), Error> {
    let AddRouteOptions { name, channels, route, paused, position, catch_up, database } = options;
    let mut fields =
        RouteFields { name, channels, enabled: paused.then_some(false), ..RouteFields::default() };
    route.apply_to(&mut fields)?;
    let mut new = [fields.into_definition(position.unwrap_or(0))?];
    let store = database.connect(matches).await?;
    let taken = routes::list_routes(&store).await?.into_iter().map(|route| route.name);
    name_routes(&mut new, taken);
    let [route] = new;
    let place = match position {
        Some(_) => RoutePlace::Defined,
        None => RoutePlace::Last,
    };
    let told = match catch_up {
        true => {
            let notices = routes::add_route_with_catch_up(&store, &route, place).await?;
            format!("its channels are told of what is open now: {notices}\n")
        }
        false => {
            routes::add_route(&store, &route, place).await?;
            String::new()
        }
    };
    let reach = routes::count_reach(&store, None).await?;
    print_text(&format!(
        "added route {}: {}\n{told}{}",
        route.name,
        describe_route(&route),
        describe_reach(reach)
    ))?;
    warn_of_tags(&store, [&route]).await?;
    warn_without_notifier(&store).await
}

/// Names tags of the routes without a site on standard error.
async fn warn_of_tags<'a>(
    store: &Store,
    routes: impl IntoIterator<Item = &'a RouteDefinition>,
) -> Result<(), Error> {
    let routes: Vec<&RouteDefinition> = routes.into_iter().collect();
    let index = read_tag_index_of_routes(store, routes.iter().copied()).await?;
    for route in routes {
        for warning in index.list_warnings(route) {
            print_error(format_args!("route {}: {warning}", route.name));
        }
    }
    Ok(())
}

/// Finds the route with this name.
///
/// # Errors
/// [`Error::Usage`] with the names of all if there is no such route.
async fn find_route(store: &Store, name: &str) -> Result<routes::Route, Error> {
    match routes::find_route(store, name).await? {
        Some(route) => Ok(route),
        None => Err(unknown_route(store, name).await),
    }
}

/// Refusal of an unknown route.
async fn unknown_route(store: &Store, name: &str) -> Error {
    let known = match routes::list_routes(store).await {
        Ok(known) => known,
        Err(error) => return error.into(),
    };
    let names: Vec<&str> = known.iter().map(|route| route.name.as_str()).collect();
    Error::Usage(match names.is_empty() {
        true => {
            format!("there is no route '{name}', and no other; add one: picket route add --channel NAME")
        }
        false => format!("there is no route '{name}'; there are: {}", names.join(", ")),
    })
}

/// One sentence about the sites that reach nobody; empty without routes.
pub(crate) fn describe_reach(reach: Reach) -> String {
    match (reach.routes, reach.unreached, reach.sites) {
        (0, _, _) | (_, _, 0) => String::new(),
        (_, 0, sites) => format!("incidents of all {sites} sites reach a channel\n"),
        (_, some, sites) => {
            format!("incidents of {some} of {sites} sites reach NOBODY; see: picket route test --unreached\n")
        }
    }
}
