//! `picket nats`: configuration of a NATS server in which each role and region has its own
//! credential.

mod config;
mod users;

use std::path::PathBuf;

use clap::{ArgMatches, Args, Subcommand};
use picket_proto::{RegionName, Role};
use picket_runtime::{
    ErrorChain,
    streams::{self, AdoptedStream},
};
use picket_store::settings;

use self::{
    config::ServerOptions,
    users::{CredentialStatus, User, Users},
};
use crate::{
    connect::{self, DatabaseAndNatsArgs},
    error::Error,
    output::{print_error, print_text},
};

/// Commands of `picket nats`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum NatsCommand {
    /// Write a server configuration with a credential for each role and region
    ///
    /// The directory DIR then contains nats.conf (yours to edit), accounts.conf (generated,
    /// rewritten at each change of users), users (the public keys), and creds/ (the secret seeds).
    /// Give each seed to its processes as NATS_NKEY, and store it nowhere else. A second run adds
    /// missing files and changes no key.
    Init(Box<InitOptions>),
    /// Add a region and print the path of its credential
    AddRegion(AddRegionOptions),
    /// Revoke the credentials of a region
    RemoveRegion(RegionDirOptions),
    /// Take over a bus that belongs to another installation
    ///
    /// Needed if a new database uses the bus of an old database. Coordinators and sinks of the
    /// other installation stop using the bus, and results of its checks still in the streams are
    /// rejected. A bus with credentials requires the administrator's:
    /// NATS_NKEY=nats/creds/admin.nk.
    Adopt(Box<DatabaseAndNatsArgs>),
}

#[derive(Args, Clone, Debug)]
struct NatsDirOption {
    /// Directory of the configuration
    #[arg(long, value_name = "DIR", default_value = "nats")]
    dir: PathBuf,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct InitOptions {
    /// Region whose probers get a credential; may be repeated
    #[arg(long = "region", value_name = "NAME", value_parser = connect::parse_region)]
    regions: Vec<RegionName>,
    /// Overwrite an existing nats.conf
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
    /// Create a credential for a leaf node instead of probers; probers of the region then connect
    /// through it
    #[arg(long)]
    leaf: bool,
    /// Print only the credential: picket nats add-region NAME --show > prober.nk
    #[arg(long)]
    show: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RegionDirOptions {
    /// Name of the region: lower-case letters, digits and '-', such as eu-west
    #[arg(value_parser = connect::parse_region)]
    name: RegionName,
    #[command(flatten)]
    dir: NatsDirOption,
}

const RELOAD_HINT: &str = "then reload every server: nats-server --signal reload, or SIGHUP";

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
                "revoked the credentials of region {name}; {RELOAD_HINT}, which disconnects its probers\n"
            ))
        }
    }
}

async fn adopt_bus(place: DatabaseAndNatsArgs, matches: &ArgMatches) -> Result<(), Error> {
    let (store, bus) = place.connect(matches).await?;
    let installation = settings::read_settings(&store).await?.installation_id;
    let adopted = streams::adopt_streams(&bus.jetstream, installation)
        .await
        .map_err(|error| Error::Unreachable(ErrorChain(&error).to_string()))?;
    let mut report = String::new();
    for AdoptedStream { name, previous_owner: owner } in &adopted {
        let before = owner.as_deref().unwrap_or("no installation");
        report += &format!("{name} belonged to {before}, now belongs to {installation}\n");
    }
    if adopted.is_empty() {
        report = format!("the bus already belongs to {installation}\n");
    }
    print_text(&report)
}

fn init_config(options: InitOptions) -> Result<(), Error> {
    let dir = absolute_path(&options.dir.dir);
    let file = dir.join("nats.conf");
    users::create_dirs(&dir)?;
    let mut known = Users::read_file(&dir)?;
    let roles = Role::GLOBAL_ROLES.into_iter().chain(options.regions.into_iter().map(Role::Prober));
    let mut report = String::new();
    for user in roles.map(User::Role).chain([User::System]) {
        let name = user.to_string();
        report += &match known.create_if_missing(&dir, user)? {
            CredentialStatus::Created(path) => format!("{name:<20} {}\n", path.display()),
            CredentialStatus::Existing(path) if path.exists() => {
                format!("{name:<20} {} (unchanged)\n", path.display())
            }
            CredentialStatus::Existing(_) => format!("{name:<20} has a credential, whose file is not here\n"),
        };
    }
    write_user_files(&dir, &known)?;
    let is_new = options.replace || !file.exists();
    // nats.conf belongs to the operator, so an existing file is replaced only on request.
    if is_new {
        users::replace_file(&file, &options.server.render_config(&dir))?;
    }
    print_text(&format!(
        "{} {}\n{report}give each file as NATS_NKEY to its processes only; admin and system are for operators, in emergencies\n\
         run it: nats-server -c {}\n",
        file.display(),
        if is_new { "is written" } else { "is unchanged (--replace overwrites it)" },
        file.display()
    ))
}

fn add_region(
    AddRegionOptions { region: RegionDirOptions { name, dir }, leaf, show }: AddRegionOptions,
) -> Result<(), Error> {
    let (dir, mut users) = dir.load_users()?;
    let role = if leaf { Role::Leaf(name.clone()) } else { Role::Prober(name.clone()) };
    let holder = if leaf { format!("a leaf node of {name}") } else { format!("the probers of {name}") };
    let added = users.create_if_missing(&dir, User::Role(role.clone()))?;
    write_user_files(&dir, &users)?;
    let (CredentialStatus::Created(file) | CredentialStatus::Existing(file)) = &added;
    if show {
        let seed = std::fs::read_to_string(file).map_err(|why| users::io_error("read", file, &why))?;
        print_error(format_args!("the credential of {holder}; {RELOAD_HINT}"));
        return print_text(&seed);
    }
    let have = if leaf { "has" } else { "have" };
    let lead = match added {
        CredentialStatus::Created(_) => format!("{have} the credential"),
        CredentialStatus::Existing(_) if file.exists() => format!("{have} the credential, unchanged:"),
        CredentialStatus::Existing(_) => "had a credential before, whose file is not here; it was".to_owned(),
    };
    let usage = match leaf {
        true => format!("in the leaf node's configuration: nkey: {role}.nk"),
        false => format!("PICKET_REGION={name} NATS_NKEY={role}.nk picket-prober"),
    };
    print_text(&format!("{holder} {lead} {}\n{RELOAD_HINT}\nuse it: {usage}\n", file.display()))
}

/// Writes `users` first: accounts.conf can be regenerated from it.
fn write_user_files(dir: &std::path::Path, users: &Users) -> Result<(), Error> {
    users.write_file(dir)?;
    users::replace_file(&dir.join("accounts.conf"), &config::render_accounts(users))
}

impl NatsDirOption {
    /// The directory filled by `init`, with its users.
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
