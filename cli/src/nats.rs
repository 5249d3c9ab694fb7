//! `picket nats`: the configuration of a NATS in which each role and region has its own credential.

mod config;
mod users;

use std::path::PathBuf;

use clap::{ArgMatches, Args, Subcommand};
use picket_proto::{Region, Role};
use picket_runtime::{
    Chain,
    streams::{self, Adopted},
};
use picket_store::tickets;

use self::{
    config::ServerOptions,
    users::{Added, User, Users},
};
use crate::{
    error::Error,
    output::{complain, print},
    reach::{self, Both},
};

/// See `picket nats --help`.
#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Command {
    /// Write a NATS configuration with a credential for each role, and for each region's probers
    ///
    /// DIR then has nats.conf, which is yours to edit, accounts.conf, which is written anew at each change of users, the
    /// file users with their public keys, and in creds the seeds: give each to its processes as NATS_NKEY, and keep it
    /// nowhere else. Run again it adds what is not there and changes no key.
    Init(Box<Init>),
    /// Add a region, and say where the credential of its probers is
    AddRegion(AddRegion),
    /// Take the credentials of a region's probers back
    RemoveRegion(One),
    /// Take over a bus that belongs to another installation
    ///
    /// For a database that was made anew beside the bus of an old one. Coordinators and sinks of the other
    /// installation stop using the bus, and results of its checks that the streams still hold are refused. On a bus
    /// with credentials this needs that of the administrator: NATS_NKEY=nats/creds/admin.nk.
    Adopt(Box<Both>),
}

#[derive(Args, Clone, Debug)]
struct Dir {
    /// Where the configuration is
    #[arg(long, value_name = "DIR", default_value = "nats")]
    dir: PathBuf,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Init {
    /// A region whose probers get a credential; may be repeated
    #[arg(long = "region", value_name = "NAME", value_parser = reach::region)]
    regions: Vec<Region>,
    /// Write nats.conf anew where there is one
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    server: ServerOptions,
    #[command(flatten)]
    dir: Dir,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct AddRegion {
    #[command(flatten)]
    one: One,
    /// A credential for a leaf node there, a server through which its probers reach the hub, instead of for probers
    #[arg(long)]
    leaf: bool,
    /// Print the credential itself, and nothing else: picket nats add-region NAME --show > prober.nk
    #[arg(long)]
    show: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct One {
    /// The region's name: lower-case letters, digits and '-', such as eu-west
    #[arg(value_parser = reach::region)]
    name: Region,
    #[command(flatten)]
    dir: Dir,
}

const RELOAD: &str = "then let every server read it: nats-server --signal reload, or SIGHUP";

pub(crate) async fn run(command: Command, matches: &ArgMatches) -> Result<(), Error> {
    match command {
        Command::Init(options) => init(*options),
        Command::AddRegion(options) => add_region(options),
        Command::Adopt(place) => adopt(*place, matches).await,
        Command::RemoveRegion(One { name, dir }) => {
            let (dir, mut users) = dir.open()?;
            let probers = users.remove(&dir, &User::Of(Role::Prober(name.clone())))?;
            let leaf = users.remove(&dir, &User::Of(Role::Leaf(name.clone())))?;
            if !probers && !leaf {
                return Err(Error::Usage(format!("region: '{name}' has no credential in {}", dir.display())));
            }
            write(&dir, &users)?;
            print(&format!(
                "the probers of {name} have no credential any more; {RELOAD}, which lets them go\n"
            ))
        }
    }
}

async fn adopt(place: Both, matches: &ArgMatches) -> Result<(), Error> {
    let (store, bus) = place.connect(matches).await?;
    let installation = tickets::Keyring::load(&store).await?.tickets().installation();
    let adopted = streams::adopt(&bus.jetstream, installation)
        .await
        .map_err(|error| Error::Unreachable(Chain(&error).to_string()))?;
    let mut said = String::new();
    for Adopted { name, owner } in &adopted {
        let before = owner.as_deref().unwrap_or("nobody in particular");
        said += &format!("{name} belonged to {before} and belongs to {installation} now\n");
    }
    if adopted.is_empty() {
        said = format!("the bus belongs to {installation} already\n");
    }
    print(&said)
}

fn init(options: Init) -> Result<(), Error> {
    let dir = absolute(&options.dir.dir);
    let file = dir.join("nats.conf");
    users::make_dirs(&dir)?;
    let mut known = Users::read(&dir)?;
    let roles = Role::WITHOUT_REGION.into_iter().chain(options.regions.into_iter().map(Role::Prober));
    let mut said = String::new();
    for user in roles.map(User::Of).chain([User::System]) {
        let name = user.to_string();
        said += &match known.ensure(&dir, user)? {
            Added::Now(path) => format!("{name:<20} {}\n", path.display()),
            Added::Before(path) if path.exists() => format!("{name:<20} {} (as before)\n", path.display()),
            Added::Before(_) => format!("{name:<20} has a credential, which is not here\n"),
        };
    }
    write(&dir, &known)?;
    let is_new = options.replace || !file.exists();
    if is_new {
        users::write(&file, &options.server.text(&dir))?;
    }
    print(&format!(
        "{} {}\n{said}each is the NATS_NKEY of its processes, and theirs alone; admin and system are for people, in need\n\
         run it: nats-server -c {}\n",
        file.display(),
        if is_new { "is written" } else { "is left as it was (--replace writes it anew)" },
        file.display()
    ))
}

fn add_region(AddRegion { one: One { name, dir }, leaf, show }: AddRegion) -> Result<(), Error> {
    let (dir, mut users) = dir.open()?;
    let role = if leaf { Role::Leaf(name.clone()) } else { Role::Prober(name.clone()) };
    let whose = if leaf { format!("a leaf node of {name}") } else { format!("the probers of {name}") };
    let added = users.ensure(&dir, User::Of(role.clone()))?;
    write(&dir, &users)?;
    let (Added::Now(file) | Added::Before(file)) = &added;
    if show {
        let seed = std::fs::read_to_string(file).map_err(|why| users::unusable("read", file, &why))?;
        complain(format_args!("the credential of {whose}; {RELOAD}"));
        return print(&seed);
    }
    let have = if leaf { "has" } else { "have" };
    let lead = match added {
        Added::Now(_) => format!("{have} the credential"),
        Added::Before(_) if file.exists() => format!("{have} the credential, as before,"),
        Added::Before(_) => "had a credential before, which is not here any more; it was".to_owned(),
    };
    let there = match leaf {
        true => format!("in its configuration: nkey: {role}.nk"),
        false => format!("PICKET_REGION={name} NATS_NKEY={role}.nk picket-prober"),
    };
    print(&format!("{whose} {lead} {}\n{RELOAD}\nand there: {there}\n", file.display()))
}

/// Users first: with them the other file can be made again.
fn write(dir: &std::path::Path, users: &Users) -> Result<(), Error> {
    users.write(dir)?;
    users::write(&dir.join("accounts.conf"), &config::accounts(users))
}

impl Dir {
    /// The directory that `init` has filled, and its users.
    fn open(&self) -> Result<(PathBuf, Users), Error> {
        let users = Users::read(&self.dir)?;
        if users.0.is_empty() {
            return Err(Error::Usage(format!(
                "--dir: '{}' has no users yet; begin with: picket nats init --dir {}",
                self.dir.display(),
                self.dir.display()
            )));
        }
        Ok((absolute(&self.dir), users))
    }
}

fn absolute(dir: &std::path::Path) -> PathBuf {
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned())
}
