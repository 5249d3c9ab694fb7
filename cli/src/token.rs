//! `picket token`: tokens of the API, which also sign in to the web UI.

use clap::{ArgMatches, Args, Subcommand};
use picket_proto::Timestamp;
use picket_runtime::clock;
use picket_store::{
    Store,
    api_tokens::{self, ApiToken, NewToken, Scope},
};
use serde::Serialize;

use crate::{
    connect::DatabaseArgs,
    error::Error,
    output::{
        OutputFormat, OutputOptions, TextTable, print_data, print_text, status_cell, text_cell,
        to_pretty_json,
    },
    site::format_timestamp,
    time_arg::{TimeArg, parse_time_arg},
};

/// Options of `picket token`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum TokenCommand {
    /// Create a token and print its secret, which cannot be shown again
    #[command(after_help = "\
Scopes: read (sites, results, incidents, reports), write (change sites, regions and maintenance), check (ad-hoc checks), \
admin (tokens and settings, and all other scopes). The first token ends the open mode of the API on loopback.

Examples:
  picket token create ci --scopes read,write --tags shop
  picket token create prometheus --scopes read --expires +90d
  curl -H \"Authorization: Bearer pkt_…\" http://127.0.0.1:8088/api/v1/me")]
    Create(CreateTokenOptions),
    /// List valid tokens
    List(ListTokensOptions),
    /// Revoke a token and end its sessions; takes effect within seconds
    Revoke(RevokeTokenOptions),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CreateTokenOptions {
    /// Name of the token, unique among valid ones
    name: String,
    /// What the token allows, separated by commas: read, write, check, admin
    #[arg(long, value_name = "SCOPE[,SCOPE…]", value_delimiter = ',', required = true, value_parser = parse_scope)]
    scopes: Vec<Scope>,
    /// Only sites with at least one of these tags; may be repeated [default: all sites]
    #[arg(long, visible_alias = "tag", value_name = "TAG[,TAG…]", value_delimiter = ',')]
    tags: Option<Vec<String>>,
    /// End of the token: a time such as 2027-12-01T00:00:00Z, or '+90d' from now [default: none]
    #[arg(long, value_name = "TIME", value_parser = parse_time_arg)]
    expires: Option<TimeArg>,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ListTokensOptions {
    /// Include expired and revoked tokens
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    database: DatabaseArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RevokeTokenOptions {
    /// Name or id of the token
    token: String,
    #[command(flatten)]
    database: DatabaseArgs,
}

fn parse_scope(text: &str) -> Result<Scope, String> {
    text.parse().map_err(|why: picket_proto::ValidationError| why.to_string())
}

pub(crate) async fn run(command: TokenCommand, matches: &ArgMatches) -> Result<(), Error> {
    match command {
        TokenCommand::Create(options) => create_token(options, matches).await,
        TokenCommand::List(options) => list_tokens(options, matches).await,
        TokenCommand::Revoke(options) => revoke_token(options, matches).await,
    }
}

/// A created token as JSON.
#[derive(Serialize)]
struct CreatedToken<'a> {
    #[serde(flatten)]
    token: &'a ApiToken,
    secret: &'a str,
}

async fn create_token(options: CreateTokenOptions, matches: &ArgMatches) -> Result<(), Error> {
    let CreateTokenOptions { name, scopes, tags, expires, output, database } = options;
    let store = database.connect(matches).await?;
    let now = clock::wall_clock_now();
    let expires_at = expires.map(|end| end.to_timestamp(now));
    let new = NewToken { name, scopes, tags, expires_at };
    let (token, secret) = api_tokens::create_token(&store, &new).await?;
    match output.output {
        OutputFormat::Json => {
            print_data(&to_pretty_json(&CreatedToken { token: &token, secret: secret.reveal() }))
        }
        OutputFormat::Table => print_text(&format!(
            "token {} '{}': {}\n{}\nThis is the only time that the secret is shown.\n",
            token.id,
            token.name,
            describe_rights(&token),
            secret.reveal()
        )),
    }
}

fn describe_rights(token: &ApiToken) -> String {
    let scopes = join(token.scopes.iter().map(|scope| scope.as_str()));
    let sites = match &token.tags {
        Some(tags) => format!("sites with the tags {}", tags.join(", ")),
        None => "all sites".to_owned(),
    };
    let end = match token.expires_at {
        Some(end) => format!("until {}", format_timestamp(Some(end)).unwrap_or_default()),
        None => "without an end".to_owned(),
    };
    format!("{scopes}; {sites}; {end}")
}

fn join<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

async fn list_tokens(options: ListTokensOptions, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let tokens = api_tokens::list_tokens(&store, options.all).await?;
    options.output.print_rows(&tokens, |tokens| {
        let columns = ["ID", "NAME", "STATE", "SCOPES", "TAGS", "CREATED", "EXPIRES", "LAST USED"];
        let mut listing =
            TextTable::new(columns, "no valid tokens; create one: picket token create NAME --scopes read")
                .align_right([0]);
        for token in tokens {
            let time = |at: Option<Timestamp>| text_cell(format_timestamp(at));
            listing.add_row([
                text_cell(token.id),
                text_cell(&token.name),
                status_cell(&token.state),
                text_cell(join(token.scopes.iter().map(|scope| scope.as_str()))),
                text_cell(token.tags.as_ref().map(|tags| tags.join(", "))),
                time(Some(token.created_at)),
                time(token.expires_at),
                time(token.last_used_at),
            ]);
        }
        listing
    })
}

async fn revoke_token(options: RevokeTokenOptions, matches: &ArgMatches) -> Result<(), Error> {
    let store = options.database.connect(matches).await?;
    let id = find_token_id(&store, &options.token).await?;
    match api_tokens::revoke_token(&store, id).await? {
        Some(token) => print_text(&format!("revoked token {} '{}'\n", token.id, token.name)),
        None => Err(picket_store::Error::TokenNotFound(options.token).into()),
    }
}

/// The id of a token that is not revoked. A name takes precedence over an id.
async fn find_token_id(store: &Store, word: &str) -> Result<i64, Error> {
    let tokens = api_tokens::list_tokens(store, true).await?;
    let known: Vec<&ApiToken> = tokens.iter().filter(|token| token.revoked_at.is_none()).collect();
    let by_name = known.iter().find(|token| token.name == word);
    let found = by_name.or_else(|| known.iter().find(|token| token.id.to_string() == word));
    found.map(|token| token.id).ok_or_else(|| picket_store::Error::TokenNotFound(word.to_owned()).into())
}
