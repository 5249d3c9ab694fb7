//! `picket nats`: the configuration of a NATS in which each role and region has its own credential.

mod config;
mod users;

use std::path::PathBuf;

use clap::{ArgMatches, Args, Subcommand};
use picket_proto::{RegionName, Role};
use picket_runtime::{
    ErrorChain,
    streams::{self, AdoptedStream},
};
use picket_store::tickets;

use self::{
    config::ServerOptions,
    users::{CredentialStatus, User, Users},
};
use crate::{
    connect::{self, DatabaseAndNatsArgs},
    error::Error,
    output::{print_error, print_text},
};

/// See `picket nats --help`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum NatsCommand {
    /// Write a NATS configuration with a credential for each role, and for each region's probers
    ///
    /// DIR then has nats.conf, which is yours to edit, accounts.conf, which is written anew at each change of users, the
    /// file users with their public keys, and in creds the seeds: give each to its processes as NATS_NKEY, and keep it
    /// nowhere else. Run again it adds what is not there and changes no key.
    Init(Box<InitOptions>),
    /// Add a region, and say where the credential of its probers is
    AddRegion(AddRegionOptions),
    /// Take the credentials of a region's probers back
    RemoveRegion(RegionDirOptions),
    /// Take over a bus that belongs to another installation
    ///
    /// For a database that was made anew beside the bus of an old one. Coordinators and sinks of the other
    /// installation stop using the bus, and results of its checks that the streams still hold are refused. On a bus
    /// with credentials this needs that of the administrator: NATS_NKEY=nats/creds/admin.nk.
    Adopt(Box<DatabaseAndNatsArgs>),
}

#[derive(Args, Clone, Debug)]
struct NatsDirOption {
    /// Where the configuration is
    #[arg(long, value_name = "DIR", default_value = "nats")]
    dir: PathBuf,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct InitOptions {
    /// A region whose probers get a credential; may be repeated
    #[arg(long = "region", value_name = "NAME", value_parser = connect::parse_region)]
    regions: Vec<RegionName>,
    /// Write nats.conf anew where there is one
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    server: ServerOptions,
    #[command(flatten)]
    dir: NatsDirOption,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct AddRegionOptions {
    #[command(flatten)]
    region: RegionDirOptions,
    /// A credential for a leaf node there, a server through which its probers reach the hub, instead of for probers
    #[arg(long)]
    leaf: bool,
    /// Print the credential itself, and nothing else: picket nats add-region NAME --show > prober.nk
    #[arg(long)]
    show: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RegionDirOptions {
    /// The region's name: lower-case letters, digits and '-', such as eu-west
    #[arg(value_parser = connect::parse_region)]
    name: RegionName,
    #[command(flatten)]
    dir: NatsDirOption,
}

const RELOAD_HINT: &str = "then let every server read it: nats-server --signal reload, or SIGHUP";

pub(crate) async fn run(command: NatsCommand, matches: &ArgMatches) -> Result<(), Error> {
    match command {
        NatsCommand::Init(options) => init_config(*options),
        NatsCommand::AddRegion(options) => add_region(options),
        NatsCommand::Adopt(place) => adopt_bus(*place, matches).await,
        NatsCommand::RemoveRegion(RegionDirOptions { name, dir }) => {
            let (dir, mut users) = dir.load_users()?;
            let probers = users.remove_user(&dir, &User::Role(Role::Prober(name.clone())))?;
            let leaf = users.remove_user(&dir, &User::Role(Role::Leaf(name.clone())))?;
            if !probers && !leaf {
                return Err(Error::Usage(format!("region: '{name}' has no credential in {}", dir.display())));
            }
            write_user_files(&dir, &users)?;
            print_text(&format!(
                "the probers of {name} have no credential any more; {RELOAD_HINT}, which lets them go\n"
            ))
        }
    }
}

async fn adopt_bus(place: DatabaseAndNatsArgs, matches: &ArgMatches) -> Result<(), Error> {
    let (store, bus) = place.connect(matches).await?;
    let installation = tickets::Keyring::load_from(&store).await?.tickets().installation();
    let adopted = streams::adopt_streams(&bus.jetstream, installation)
        .await
        .map_err(|error| Error::Unreachable(ErrorChain(&error).to_string()))?;
    let mut said = String::new();
    for AdoptedStream { name, previous_owner: owner } in &adopted {
        let before = owner.as_deref().unwrap_or("nobody in particular");
        said += &format!("{name} belonged to {before} and belongs to {installation} now\n");
    }
    if adopted.is_empty() {
        said = format!("the bus belongs to {installation} already\n");
    }
    print_text(&said)
}

fn init_config(options: InitOptions) -> Result<(), Error> {
    let dir = absolute_path(&options.dir.dir);
    let file = dir.join("nats.conf");
    users::create_dirs(&dir)?;
    let mut known = Users::read_file(&dir)?;
    let roles = Role::GLOBAL_ROLES.into_iter().chain(options.regions.into_iter().map(Role::Prober));
    let mut said = String::new();
    for user in roles.map(User::Role).chain([User::System]) {
        let name = user.to_string();
        said += &match known.create_if_missing(&dir, user)? {
            CredentialStatus::Created(path) => format!("{name:<20} {}\n", path.display()),
            CredentialStatus::Existing(path) if path.exists() => {
                format!("{name:<20} {} (as before)\n", path.display())
            }
            CredentialStatus::Existing(_) => format!("{name:<20} has a credential, which is not here\n"),
        };
    }
    write_user_files(&dir, &known)?;
    let is_new = options.replace || !file.exists();
    if is_new {
        users::replace_file(&file, &options.server.render_config(&dir))?;
    }
    print_text(&format!(
        "{} {}\n{said}each is the NATS_NKEY of its processes, and theirs alone; admin and system are for people, in need\n\
         run it: nats-server -c {}\n",
        file.display(),
        if is_new { "is written" } else { "is left as it was (--replace writes it anew)" },
        file.display()
    ))
}

fn add_region(
    AddRegionOptions { region: RegionDirOptions { name, dir }, leaf, show }: AddRegionOptions,
) -> Result<(), Error> {
    let (dir, mut users) = dir.load_users()?;
    let role = if leaf { Role::Leaf(name.clone()) } else { Role::Prober(name.clone()) };
    let whose = if leaf { format!("a leaf node of {name}") } else { format!("the probers of {name}") };
    let added = users.create_if_missing(&dir, User::Role(role.clone()))?;
    write_user_files(&dir, &users)?;
    let (CredentialStatus::Created(file) | CredentialStatus::Existing(file)) = &added;
    if show {
        let seed = std::fs::read_to_string(file).map_err(|why| users::io_error("read", file, &why))?;
        print_error(format_args!("the credential of {whose}; {RELOAD_HINT}"));
        return print_text(&seed);
    }
    let have = if leaf { "has" } else { "have" };
    let lead = match added {
        CredentialStatus::Created(_) => format!("{have} the credential"),
        CredentialStatus::Existing(_) if file.exists() => format!("{have} the credential, as before,"),
        CredentialStatus::Existing(_) => {
            "had a credential before, which is not here any more; it was".to_owned()
        }
    };
    let there = match leaf {
        true => format!("in its configuration: nkey: {role}.nk"),
        false => format!("PICKET_REGION={name} NATS_NKEY={role}.nk picket-prober"),
    };
    print_text(&format!("{whose} {lead} {}\n{RELOAD_HINT}\nand there: {there}\n", file.display()))
}

/// Users first: with them the other file can be made again.
fn write_user_files(dir: &std::path::Path, users: &Users) -> Result<(), Error> {
    users.write_file(dir)?;
    users::replace_file(&dir.join("accounts.conf"), &config::render_accounts(users))
}

impl NatsDirOption {
    /// The directory that `init` has filled, and its users.
    fn load_users(&self) -> Result<(PathBuf, Users), Error> {
        let users = Users::read_file(&self.dir)?;
        if users.0.is_empty() {
            return Err(Error::Usage(format!(
                "--dir: '{}' has no users yet; begin with: picket nats init --dir {}",
                self.dir.display(),
                self.dir.display()
            )));
        }
        Ok((absolute_path(&self.dir), users))
    }
}

fn absolute_path(dir: &std::path::Path) -> PathBuf {
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned())
}
