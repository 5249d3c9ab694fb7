//! A secrets file whose values are marks, and the servers for its keys and proxies.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use picket_e2e::{Process, Stack};
use picket_harness::{
    servers,
    targets::{CertificateAuthority, ConnectProxy, Identity, ProxyBehaviour, Target, Validity},
};

/// Base64 of `me:MARK-proxy-password`.
pub(crate) const PROXY_LOGIN: &str = "Basic bWU6TUFSSy1wcm94eS1wYXNzd29yZA==";
/// Login of a proxy in the secrets file.
const PROXY_PASSWORD: &str = "user = 'me'\npassword = 'MARK-proxy-password'\n";

/// A site that requires a client certificate, and a proxy that requires a password, with a site
/// behind it.
pub(crate) struct ProtectedServers {
    authority: CertificateAuthority,
    client: Identity,
    /// Its authority is unknown to the site.
    stranger: Identity,
    pub(crate) site: Target,
    _proxied: Target,
    pub(crate) proxy: ConnectProxy,
}

impl ProtectedServers {
    pub(crate) async fn start() -> Self {
        let (authority, clients) = (CertificateAuthority::new(), CertificateAuthority::new());
        let identity = authority.issue_identity(&["127.0.0.1"], Validity::Current);
        let proxied = Target::serve_http().await;
        let names = [("proxied.example:80", proxied.address())];
        let proxy = ConnectProxy::start(&names, ProxyBehaviour::RequireCredentials(PROXY_LOGIN.into())).await;
        Self {
            client: clients.issue_identity(&["picket"], Validity::Current),
            stranger: CertificateAuthority::new().issue_identity(&["picket"], Validity::Current),
            site: Target::serve_https_for_clients(&identity, &clients).await,
            authority,
            _proxied: proxied,
            proxy,
        }
    }

    /// Name, URL, options and verdict of each site that uses the key or the password, or fails to.
    pub(crate) fn sites(&self) -> Vec<(&'static str, String, String, &'static str)> {
        let with_key = |name, key: &str, verdict| {
            let options = format!(r#"{{"client_certificate": "{key}", "ca": "office"}}"#);
            (name, self.site.url(&format!("/echo/{name}")), options, verdict)
        };
        let with_proxy = |name, proxy: &str, verdict| {
            (
                name,
                format!("http://proxied.example/echo/{name}"),
                format!(r#"{{"proxy": "{proxy}"}}"#),
                verdict,
            )
        };
        vec![
            with_key("key", "key", "up"),
            with_key("strange-key", "strange-key", "down tls"),
            with_key("unusable-key", "unusable-key", "missed secret_unavailable"),
            with_proxy("proxy", "office", "up"),
            with_proxy("proxy-wrong", "wrong", "missed secret_unavailable"),
            with_proxy("proxy-closed", "closed", "missed source_unavailable"),
        ]
    }

    /// The lines of the private keys.
    pub(crate) fn key_lines(&self) -> Vec<String> {
        let keys = [&self.client, &self.stranger].map(|identity| identity.pem().1);
        let lines = keys.into_iter().flat_map(str::lines).filter(|line| !line.starts_with("-----"));
        lines.map(|line| line.trim().to_owned()).filter(|line| line.len() >= 12).collect()
    }
}

/// A directory with a secrets file of marks.
pub(crate) struct SecretsFile(PathBuf);

impl SecretsFile {
    /// A directory without a file.
    pub(crate) fn empty() -> Self {
        Self(servers::scratch_dir("secrets"))
    }

    /// Secrets for these targets, and further entries with marks.
    pub(crate) fn new(targets: &[&Target]) -> Self {
        let hosts: Vec<String> = targets.iter().map(|target| target.address().to_string()).collect();
        let secret = |name: &str, value: &str| {
            format!("[secret.{name}]\n{value}\nhosts = {hosts:?}\ninsecure = true\n")
        };
        let file = Self::empty();
        file.write("bearer", "MARK-bearer-token\n");
        file.write(
            "unusable-key.pem",
            "-----BEGIN PRIVATE KEY-----\nMARK-key-line-of-a-key\n-----END PRIVATE KEY-----\n",
        );
        let entries = [
            secret("basic", "value = 'MARK-basic-password'"),
            secret("bearer", "value_file = 'bearer'"),
            secret("header", "value_env = 'TEST_HEADER'"),
            secret("oauth", "value = 'MARK-oauth-secret'"),
            secret("unusable-key", "value_file = 'unusable-key.pem'"),
            format!("[proxy.closed]\nurl = 'http://127.0.0.1:1'\n{PROXY_PASSWORD}"),
        ];
        file.write("secrets.toml", &entries.concat());
        file
    }

    /// Adds the keys for `servers`, and the proxy with its password and with a wrong one.
    pub(crate) fn with_protected_servers(self, servers: &ProtectedServers) -> Self {
        let mut entries = fs::read_to_string(self.path()).unwrap();
        for (name, identity) in [("key", &servers.client), ("strange-key", &servers.stranger)] {
            let (certificate, key) = identity.pem();
            self.write(&format!("{name}.pem"), &format!("{certificate}{key}"));
            let host = servers.site.address();
            entries += &format!("[secret.{name}]\nvalue_file = '{name}.pem'\nhosts = ['{host}']\n");
        }
        self.write("roots.pem", servers.authority.pem());
        entries += "[ca.office]\nfile = 'roots.pem'\n";
        let wrong_password = PROXY_PASSWORD.replace("proxy-password", "wrong-password");
        for (name, password) in [("office", PROXY_PASSWORD), ("wrong", &wrong_password)] {
            entries += &format!("[proxy.{name}]\nurl = 'http://{}'\n{password}", servers.proxy.address());
        }
        self.write("secrets.toml", &entries);
        self
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub(crate) fn path(&self) -> String {
        self.0.join("secrets.toml").to_str().unwrap().to_owned()
    }

    pub(crate) async fn spawn_prober(&self, stack: &Stack) -> Process {
        let options = ["--region", "local", "--allow-addresses", "127.0.0.0/8"];
        let path = self.path();
        // Libraries log what they send and receive at the lowest levels.
        let log = "debug,hyper=trace,hyper_util=trace,h2=trace,reqwest=trace,rustls=trace";
        let variables = [
            ("PICKET_SECRETS_FILE", path.as_str()),
            ("TEST_HEADER", "MARK-header-value"),
            ("PICKET_LOG", log),
        ];
        stack.spawn_process("picket-prober", &options, &variables).await
    }
}
