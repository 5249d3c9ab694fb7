//! A NATS configuration with credentials, as an operator has it written.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use picket_testkit::{
    servers,
    target::{CertificateAuthority, Validity},
};

use crate::program_path;

/// What 'picket nats init' has written, and certificates of an authority of the test's own.
#[derive(Clone, Debug)]
pub struct Credentials {
    dir: PathBuf,
    tls: bool,
}

impl Credentials {
    /// Has it written for these regions.
    pub fn init(regions: &[&str]) -> Self {
        let credentials = Self { dir: servers::scratch_dir("credentials"), tls: false };
        let regions: Vec<_> = regions.iter().flat_map(|region| ["--region", region]).collect();
        credentials.run_picket_nats("init", &regions);
        credentials
    }

    /// As [`init`](Self::init), for servers at these addresses that speak TLS alone.
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

    /// Runs 'picket nats' on it, which must go well; returns what it said.
    pub fn run_picket_nats(&self, command: &str, options: &[&str]) -> String {
        let mut picket = Command::new(program_path("picket"));
        let output = picket.args(["nats", command]).args(options).arg("--dir").arg(&self.dir).output();
        let output = output.expect("picket runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The configuration as it is now, copied for one server that listens on `port`.
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

    /// The file with the credential of this user.
    pub fn credential_path(&self, user: &str) -> PathBuf {
        self.dir.join(format!("creds/{user}.nk"))
    }

    /// The certificate of the authority, where TLS is spoken.
    pub fn authority_path(&self) -> Option<PathBuf> {
        self.tls.then(|| self.pem_path("ca"))
    }

    /// What a client of this user is told of the servers.
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
