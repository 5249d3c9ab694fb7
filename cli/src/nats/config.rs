//! The text of a NATS configuration: `nats.conf`, which the operator may edit, and `accounts.conf`,
//! which is generated.

use std::{collections::BTreeMap, fmt::Write, net::SocketAddr, path::PathBuf};

use clap::Args;
use picket_proto::{
    RegionName, Role,
    permissions::{JETSTREAM_DOMAIN, SubjectPermission},
    subject,
};

use super::users::{User, Users};

/// Account of Picket's coordinators, sinks and operators, and account of the servers.
const PICKET_ACCOUNT: &str = "PICKET";
const SYSTEM_ACCOUNT: &str = "SYS";

/// Settings of a NATS server, apart from its users.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServerOptions {
    /// Name of the server, unique in its cluster
    #[arg(long, value_name = "NAME", default_value = "picket", value_parser = parse_server_name)]
    server_name: String,
    /// Listen address for clients
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:4222")]
    listen: SocketAddr,
    /// Directory of the streams [default: jetstream, in DIR]
    #[arg(long, value_name = "DIR")]
    store_dir: Option<PathBuf>,
    /// Certificate of the server (PEM); requires clients to use TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Certificate authority (PEM) for client certificates, and in a cluster for other servers:
    /// mutual TLS
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_ca: Option<PathBuf>,
    /// Name of the cluster
    #[arg(long, value_name = "NAME", value_parser = parse_server_name)]
    cluster: Option<String>,
    /// Listen address for other servers of the cluster
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:6222", requires = "cluster")]
    cluster_listen: SocketAddr,
    /// URL of another server of the cluster, such as nats://hub-2:6222; may be repeated
    #[arg(long = "route", value_name = "URL", requires = "cluster", value_parser = parse_route)]
    routes: Vec<String>,
    /// Listen address for leaf nodes of regions, which use a credential of 'add-region --leaf'
    #[arg(long, value_name = "ADDRESS:PORT")]
    leafnodes: Option<SocketAddr>,
}

fn parse_server_name(name: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
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
    /// Renders `nats.conf` for a server whose files are in `dir`.
    pub(super) fn render_config(&self, dir: &std::path::Path) -> String {
        let store = self.store_dir.clone().unwrap_or_else(|| dir.join("jetstream"));
        let mut text = format!(
            "# A NATS server for Picket. Yours to edit: 'picket nats' writes it once.\n\
             # Try it: nats-server -t -c nats.conf    Run it: nats-server -c nats.conf    After a change: nats-server --signal reload\n\n\
             server_name: {}\n\
             listen: {}\n\
             # Largest message: a job has at most 768 KiB.\n\
             max_payload: 1MB\n\
             # Time after which a client that does not read is disconnected.\n\
             write_deadline: \"5s\"\n\
             ping_interval: \"20s\"\n\n\
             jetstream {{\n\
             \x20   store_dir: {}\n\
             \x20   # Space for results (8 GiB by default), jobs and events (1 GiB each), with a reserve.\n\
             \x20   max_file_store: 16GB\n\
             \x20   # A power failure may lose this much on a single server. An fsync for each message costs nearly all throughput.\n\
             \x20   sync_interval: \"1s\"\n\
             }}\n",
            quote_string(&self.server_name),
            quote_string(&self.listen.to_string()),
            quote_string(&store.to_string_lossy()),
        );
        // Leaf nodes address the JetStream of this server by its domain.
        if self.leafnodes.is_some() {
            let domain = format!(
                "jetstream {{\n    # Name of this JetStream for leaf nodes.\n    domain: {}\n",
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
            text += "\n# Any host that reaches this port can join the cluster, unless TLS requires a certificate. Admit only the other servers.\n";
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
            text += "\n# A leaf node uses a credential of its region ('picket nats add-region --leaf') and has its permissions.\n";
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
        // The server's default of 2 s is too short when the probers of all regions reconnect at
        // once.
        text += &line("timeout", "5");
        Some(format!("{text}{indent}}}\n"))
    }
}

/// Renders `accounts.conf`: the permissions of each of `users`, with their purpose.
pub(super) fn render_accounts(users: &Users) -> String {
    let mut text = format!(
        "# Written by 'picket nats' from the file 'users' at each change: do not edit.\n\
         # The server refuses everything that is not listed.\n\n\
         system_account: {SYSTEM_ACCOUNT}\n\n\
         accounts {{\n\
         \x20   {SYSTEM_ACCOUNT} {{\n        users: [\n"
    );
    for key in users.public_keys(&User::System) {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "            {{ nkey: {key} }}  # system: administers the servers (nats server …)"
        );
    }
    let mut regions: BTreeMap<&RegionName, Vec<_>> = BTreeMap::new();
    let mut others = Vec::new();
    for (role, keys) in users.roles_with_keys() {
        match role {
            // To the hub, a leaf node has the same permissions as the probers behind it.
            Role::Prober(region) | Role::Leaf(region) => {
                regions.entry(region).or_default().push((role, keys))
            }
            role => others.push((role, keys)),
        }
    }
    text += &format!(
        "        ]\n    }}\n    {PICKET_ACCOUNT} {{\n        jetstream: enabled\n        exports: [\n"
    );
    // The probers of each region are in an account of their own, so that a region cannot read the
    // subjects of another. Exports and imports connect the accounts.
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

/// Streams that the probers of all regions receive, with their purpose.
const SHARED_STREAMS: [(&str, &str); 5] = [
    ("picket.check.all", "requests to all regions"),
    ("picket.check.any", "requests to any prober"),
    ("$SRV.*", "service discovery"),
    ("$SRV.*.picket-prober", "service discovery"),
    ("$SRV.*.picket-prober.*", "service discovery"),
];

/// Reply subjects: the inboxes of clients that may send requests.
const REPLY_SUBJECTS: [&str; 2] = ["_INBOX.>", "_INBOX_api.>"];

fn account_name(region: &RegionName) -> String {
    format!("PROBERS_{region}")
}

/// Subjects of the main account that a region's account may send requests to. `true` if a request
/// has more than one reply.
fn region_services(region: &RegionName) -> Vec<(String, bool)> {
    let is_pull = |subject: &str| subject.contains(".MSG.NEXT.");
    let requested = Role::Prober(region.clone()).permissions().publish.into_iter().map(|right| right.subject);
    requested.map(|subject| (subject.clone(), is_pull(&subject))).collect()
}

fn write_exports(text: &mut String, region: &RegionName) {
    let account = account_name(region);
    for (subject, is_multi) in region_services(region) {
        let response = if is_multi { ", response: stream, threshold: \"10s\"" } else { "" };
        let _ = writeln!(
            text,
            "            {{ service: {}, accounts: [{account}]{response} }}",
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
    let requested = region_services(region).into_iter().map(|(subject, _)| subject);
    for subject in requested.chain(REPLY_SUBJECTS.map(str::to_owned)) {
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

/// Maximum time for a reply, as long as `picket check` waits for the slowest check.
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
            "                    # One reply to each received request.\n                    \
             allow_responses {{ max: 1, expires: \"{RESPONSE_EXPIRY}\" }}\n"
        );
    }
    *text += "                }\n            }\n";
}

fn write_allow_list(text: &mut String, direction: &str, rights: &[SubjectPermission]) {
    let _ = writeln!(text, "                    {direction} {{ allow: [");
    let widest = rights.iter().map(|right| right.subject.len() + 2).max().unwrap_or(0);
    for SubjectPermission { subject, purpose: why } in rights {
        let _ = writeln!(text, "                        {:<widest$}  # {why}", quote_string(subject));
    }
    *text += "                    ] }\n";
}

/// Quotes a string in the server's syntax, without variable substitution.
fn quote_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}
