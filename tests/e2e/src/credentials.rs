//! NATS configuration with credentials, generated as an operator would.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use picket_harness::{
    servers,
    targets::{CertificateAuthority, Validity},
};

use crate::program_path;

/// Output of `picket nats init`, and certificates of a test's own authority.
#[derive(Clone, Debug)]
pub struct Credentials {
    dir: PathBuf,
    tls: bool,
}

impl Credentials {
    /// Generates the configuration for these regions.
    pub fn init(regions: &[&str]) -> Self {
        let credentials = Self { dir: servers::scratch_dir("credentials"), tls: false };
        let regions: Vec<_> = regions.iter().flat_map(|region| ["--region", region]).collect();
        credentials.run_picket_nats("init", &regions);
        credentials
    }

    /// Generates the configuration as [`init`](Self::init) does, for servers at these addresses
    /// that accept TLS only.
    pub fn init_with_tls(regions: &[&str], addresses: &[&str]) -> Self {
        let credentials = Self { tls: true, ..Self::init(regions) };
        let authority = CertificateAuthority::new();
        let identity = authority.issue_identity(addresses, Validity::Current);
        let (certificate, key) = identity.pem();
        for (name, text) in [("ca", authority.pem()), ("cert", certificate), ("key", key)] {
            fs::write(credentials.pem_path(name), text).expect("a file for it");
        }
        credentials
    }

    /// Runs `picket nats` on the directory and returns its output. Panics if the command fails.
    pub fn run_picket_nats(&self, command: &str, options: &[&str]) -> String {
        let mut picket = Command::new(program_path("picket"));
        let output = picket.args(["nats", command]).args(options).arg("--dir").arg(&self.dir).output();
        let output = output.expect("picket runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Copies the current configuration for a server that listens on `port`.
    pub fn write_server_config(&self, port: u16, options: &[&str]) -> PathBuf {
        let copy = servers::scratch_dir("server");
        let text = |path: PathBuf| path.display().to_string();
        let (listen, store) = (format!("0.0.0.0:{port}"), text(copy.join("jetstream")));
        let (cert, key) = (text(self.pem_path("cert")), text(self.pem_path("key")));
        let tls = ["--tls-cert", &cert, "--tls-key", &key];
        let tls: &[&str] = if self.tls { &tls } else { &[] };
        let own = ["--replace", "--listen", &listen, "--store-dir", &store];
        self.run_picket_nats("init", &[&own, tls, options].concat());
        for file in ["nats.conf", "accounts.conf"] {
            fs::copy(self.dir.join(file), copy.join(file)).expect("a file of the configuration");
        }
        copy.join("nats.conf")
    }

    /// Credential file of this user.
    pub fn credential_path(&self, user: &str) -> PathBuf {
        self.dir.join(format!("creds/{user}.nk"))
    }

    /// Certificate file of the authority, if TLS is on.
    pub fn authority_path(&self) -> Option<PathBuf> {
        self.tls.then(|| self.pem_path("ca"))
    }

    /// Client options of this user.
    pub fn client_options(&self, user: &str) -> async_nats::ConnectOptions {
        let seed = fs::read_to_string(self.credential_path(user)).expect("a credential");
        let options = async_nats::ConnectOptions::new().nkey(seed.trim().to_owned());
        match self.authority_path() {
            Some(authority) => options.add_root_certificates(authority).require_tls(true),
            None => options,
        }
    }

    fn pem_path(&self, name: &str) -> PathBuf {
        Path::new(&self.dir).join(format!("{name}.pem"))
    }
}
