//! The text of a NATS configuration: `nats.conf`, which is the operator's to edit, and `accounts.conf`, which is not.

use std::{collections::BTreeMap, fmt::Write, net::SocketAddr, path::PathBuf};

use clap::Args;
use picket_proto::{
    RegionName, Role,
    permissions::{JETSTREAM_DOMAIN, SubjectPermission},
    subject,
};

use super::users::{User, Users};

/// The account that all of Picket is in, and that of the servers themselves.
const PICKET_ACCOUNT: &str = "PICKET";
const SYSTEM_ACCOUNT: &str = "SYS";

/// What a server is told besides who its users are.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "The server")]
pub(crate) struct ServerOptions {
    /// The server's name; in a cluster no two alike
    #[arg(long, value_name = "NAME", default_value = "picket", value_parser = parse_server_name)]
    server_name: String,
    /// Where it listens for clients
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:4222")]
    listen: SocketAddr,
    /// Where its streams are [default: jetstream, in DIR]
    #[arg(long, value_name = "DIR")]
    store_dir: Option<PathBuf>,
    /// Its certificate; clients then must use TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of its certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The authority whose certificates clients must show (and other servers, in a cluster): mutual TLS
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_ca: Option<PathBuf>,
    /// The name of the cluster that it is one of
    #[arg(long, value_name = "NAME", value_parser = parse_server_name)]
    cluster: Option<String>,
    /// Where it listens for the other servers of the cluster
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:6222", requires = "cluster")]
    cluster_listen: SocketAddr,
    /// Another server of the cluster, such as nats://hub-2:6222; may be repeated
    #[arg(long = "route", value_name = "URL", requires = "cluster", value_parser = parse_route)]
    routes: Vec<String>,
    /// Where it listens for leaf nodes of regions, whose credentials 'add-region --leaf' gives
    #[arg(long, value_name = "ADDRESS:PORT")]
    leafnodes: Option<SocketAddr>,
}

fn parse_server_name(name: &str) -> Result<String, String> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    match !name.is_empty() && name.chars().all(is_plain) {
        true => Ok(name.to_owned()),
        false => Err("allowed: letters, digits, '-', '_' and '.'".to_owned()),
    }
}

fn parse_route(text: &str) -> Result<String, String> {
    let is_route =
        |url: &url::Url| ["nats", "nats-route", "tls"].contains(&url.scheme()) && url.host().is_some();
    match url::Url::parse(text).ok().filter(is_route) {
        Some(_) => Ok(text.to_owned()),
        None => Err("allowed: a URL such as nats://hub-2:6222".to_owned()),
    }
}

impl ServerOptions {
    /// `nats.conf` for a server whose files are in `dir`.
    pub(super) fn render_config(&self, dir: &std::path::Path) -> String {
        let store = self.store_dir.clone().unwrap_or_else(|| dir.join("jetstream"));
        let mut text = format!(
            "# A NATS server for Picket. Yours to edit: 'picket nats' writes it once.\n\
             # Try it: nats-server -t -c nats.conf    Run it: nats-server -c nats.conf    After a change: nats-server --signal reload\n\n\
             server_name: {}\n\
             listen: {}\n\
             # Largest message: a job has at most 768 KiB.\n\
             max_payload: 1MB\n\
             # A client that does not read is let go after this.\n\
             write_deadline: \"5s\"\n\
             ping_interval: \"20s\"\n\n\
             jetstream {{\n\
             \x20   store_dir: {}\n\
             \x20   # Room for results (8 GiB unless told otherwise), jobs and events (1 GiB each), and some to spare.\n\
             \x20   max_file_store: 16GB\n\
             \x20   # What a power cut may cost a single server. An fsync for each message costs nearly all throughput.\n\
             \x20   sync_interval: \"1s\"\n\
             }}\n",
            quote_string(&self.server_name),
            quote_string(&self.listen.to_string()),
            quote_string(&store.to_string_lossy()),
        );
        if self.leafnodes.is_some() {
            let domain = format!(
                "jetstream {{\n    # By this leaf nodes call it.\n    domain: {}\n",
                quote_string(JETSTREAM_DOMAIN)
            );
            text = text.replace("jetstream {\n", &domain);
        }
        if let Some(tls) = self.render_tls("") {
            text += "\n# Clients must use TLS";
            text +=
                if self.tls_ca.is_some() { ", and show a certificate of this authority.\n" } else { ".\n" };
            text += &tls;
        }
        if let Some(name) = &self.cluster {
            text += "\n# Whoever reaches this port may join the cluster, unless TLS asks for a certificate: let only the others reach it.\n";
            text += &format!(
                "cluster {{\n    name: {}\n    listen: {}\n",
                quote_string(name),
                quote_string(&self.cluster_listen.to_string())
            );
            let routes: Vec<_> = self.routes.iter().map(|route| quote_string(route)).collect();
            text += &format!(
                "    routes: [{}]\n{}}}\n",
                routes.join(", "),
                self.render_tls("    ").unwrap_or_default()
            );
        }
        if let Some(listen) = self.leafnodes {
            text += "\n# A leaf node has a credential of its region ('picket nats add-region --leaf'), and may do what that may.\n";
            text += &format!(
                "leafnodes {{\n    listen: {}\n{}}}\n",
                quote_string(&listen.to_string()),
                self.render_tls("    ").unwrap_or_default()
            );
        }
        text + "\ninclude \"accounts.conf\"\n"
    }

    fn render_tls(&self, indent: &str) -> Option<String> {
        let (cert, key) = self.tls_cert.as_ref().zip(self.tls_key.as_ref())?;
        let line = |name: &str, value: &str| format!("{indent}    {name}: {value}\n");
        let file = |name: &str, path: &PathBuf| {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            line(name, &quote_string(&path.to_string_lossy()))
        };
        let mut text = format!("{indent}tls {{\n{}{}", file("cert_file", cert), file("key_file", key));
        if let Some(ca) = &self.tls_ca {
            text += &file("ca_file", ca);
            text += &line("verify", "true");
        }
        // Two seconds, the server's own choice, are soon over when all probers of the world come back at once.
        text += &line("timeout", "5");
        Some(format!("{text}{indent}}}\n"))
    }
}

/// `accounts.conf`: what each of `users` may do, and why.
pub(super) fn render_accounts(users: &Users) -> String {
    let mut text = format!(
        "# Written by 'picket nats' from the file 'users', anew at each change: do not edit.\n\
         # What is not listed the server refuses.\n\n\
         system_account: {SYSTEM_ACCOUNT}\n\n\
         accounts {{\n\
         \x20   {SYSTEM_ACCOUNT} {{\n        users: [\n"
    );
    for key in users.public_keys(&User::System) {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "            {{ nkey: {key} }}  # system: looks after the servers (nats server …)"
        );
    }
    let mut regions: BTreeMap<&RegionName, Vec<_>> = BTreeMap::new();
    let mut others = Vec::new();
    for (role, keys) in users.roles_with_keys() {
        match role {
            // A leaf node is no more to the hub than the probers behind it.
            Role::Prober(region) | Role::Leaf(region) => {
                regions.entry(region).or_default().push((role, keys))
            }
            role => others.push((role, keys)),
        }
    }
    text += &format!(
        "        ]\n    }}\n    {PICKET_ACCOUNT} {{\n        jetstream: enabled\n        exports: [\n"
    );
    for (stream, why) in SHARED_STREAMS {
        let _ = writeln!(text, "            {{ stream: {} }}  # {why}", quote_string(stream));
    }
    regions.keys().for_each(|region| write_exports(&mut text, region));
    text += "        ]\n        users: [\n";
    for (role, keys) in others {
        keys.iter().for_each(|key| write_user(&mut text, role, key));
    }
    text += "        ]\n    }\n";
    for (region, roles) in regions {
        write_imports(&mut text, region);
        for (role, keys) in roles {
            keys.iter().for_each(|key| write_user(&mut text, role, key));
        }
        text += "        ]\n    }\n";
    }
    text + "}\n"
}

/// What the probers of all regions hear.
const SHARED_STREAMS: [(&str, &str); 5] = [
    ("picket.check.all", "requests to all regions"),
    ("picket.check.any", "requests to any prober"),
    ("$SRV.*", "who is there"),
    ("$SRV.*.picket-prober", "who is there"),
    ("$SRV.*.picket-prober.*", "who is there"),
];

/// Where answers to requests go: those who may ask.
const REPLY_SUBJECTS: [&str; 2] = ["_INBOX.>", "_INBOX_api.>"];

fn account_name(region: &RegionName) -> String {
    format!("PROBERS_{region}")
}

/// What a region's account may ask of Picket's; `true` where there is more than one answer to a question.
fn region_services(region: &RegionName) -> Vec<(String, bool)> {
    let is_pull = |subject: &str| subject.contains(".MSG.NEXT.");
    let asked = Role::Prober(region.clone()).permissions().publish.into_iter().map(|right| right.subject);
    asked.map(|subject| (subject.clone(), is_pull(&subject))).collect()
}

fn write_exports(text: &mut String, region: &RegionName) {
    let account = account_name(region);
    for (subject, many) in region_services(region) {
        let many = if many { ", response: stream, threshold: \"10s\"" } else { "" };
        let _ = writeln!(
            text,
            "            {{ service: {}, accounts: [{account}]{many} }}",
            quote_string(&subject)
        );
    }
    for subject in REPLY_SUBJECTS {
        let _ = writeln!(text, "            {{ service: {}, accounts: [{account}] }}", quote_string(subject));
    }
    let check = subject::region_check(region);
    let _ = writeln!(text, "            {{ stream: {}, accounts: [{account}] }}", quote_string(&check));
}

fn write_imports(text: &mut String, region: &RegionName) {
    let _ = writeln!(text, "    {} {{\n        imports: [", account_name(region));
    let asked = region_services(region).into_iter().map(|(subject, _)| subject);
    for subject in asked.chain(REPLY_SUBJECTS.map(str::to_owned)) {
        let _ = writeln!(
            text,
            "            {{ service: {{ account: {PICKET_ACCOUNT}, subject: {} }} }}",
            quote_string(&subject)
        );
    }
    let own = subject::region_check(region);
    for subject in [own.as_str()].into_iter().chain(SHARED_STREAMS.map(|(subject, _)| subject)) {
        let _ = writeln!(
            text,
            "            {{ stream: {{ account: {PICKET_ACCOUNT}, subject: {} }} }}",
            quote_string(subject)
        );
    }
    *text += "        ]\n        users: [\n";
}

/// How long somebody may wait for an answer: as `picket check` does for the slowest check.
const RESPONSE_EXPIRY: &str = "130s";

fn write_user(text: &mut String, role: &Role, key: &str) {
    let rights = role.permissions();
    let _ = write!(
        text,
        "            # {role}\n            {{\n                nkey: {key}\n                permissions {{\n"
    );
    write_allow_list(text, "publish", &rights.publish);
    write_allow_list(text, "subscribe", &rights.subscribe);
    if rights.allow_responses {
        let _ = write!(
            text,
            "                    # One answer to each request that it heard.\n                    \
             allow_responses {{ max: 1, expires: \"{RESPONSE_EXPIRY}\" }}\n"
        );
    }
    *text += "                }\n            }\n";
}

fn write_allow_list(text: &mut String, what: &str, rights: &[SubjectPermission]) {
    let _ = writeln!(text, "                    {what} {{ allow: [");
    let widest = rights.iter().map(|right| right.subject.len() + 2).max().unwrap_or(0);
    for SubjectPermission { subject, purpose: why } in rights {
        let _ = writeln!(text, "                        {:<widest$}  # {why}", quote_string(subject));
    }
    *text += "                    ] }\n";
}

/// As the server reads it: a string in which nothing is a variable.
fn quote_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}
