//! Content of the secrets file with all values read.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use url::Url;

use super::{
    SecretUnavailable, SecretValue, SecretsError,
    file::{self, SecretsFile, ValueSource},
    host_rule::HostRule,
    private_file::{self, FileAccess, FileStamp},
};

/// Maximum size of the secrets file and of a file of certificates.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Maximum size of a value.
const MAX_VALUE_BYTES: u64 = 64 << 10;

/// Kinds of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// Table `[secret.NAME]`.
    Secret,
    /// Table `[proxy.NAME]`.
    Proxy,
    /// Table `[ca.NAME]`.
    Ca,
}

impl EntryKind {
    /// The word in the file and in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Proxy => "proxy",
            Self::Ca => "ca",
        }
    }
}

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Name and hosts of an entry, without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretSummary {
    /// Kind of the entry.
    pub kind: EntryKind,
    /// Name of the entry.
    pub name: String,
    /// Hosts that a secret may be sent to, or the address of a proxy.
    pub hosts: Vec<String>,
    /// True if a secret may be sent without a verified certificate.
    pub insecure: bool,
}

/// A proxy, and the login for it.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// URL without a login.
    pub url: Url,
    /// User and password.
    pub login: Option<(String, SecretValue)>,
}

/// A secret with its value.
#[derive(Debug)]
pub(super) struct LoadedSecret {
    pub(super) value: SecretValue,
    /// Of a URL, the parts that only its owner knows. A server may repeat them without the rest.
    pub(super) url_parts: Vec<SecretValue>,
    pub(super) hosts: Vec<HostRule>,
    pub(super) insecure: bool,
}

impl LoadedSecret {
    /// Refuses a destination that the entry does not allow.
    pub(super) fn check_destination(
        &self,
        name: &str,
        url: &Url,
        is_verified: bool,
    ) -> Result<(), SecretUnavailable> {
        if !self.hosts.iter().any(|rule| rule.allows_url(url)) {
            let host = url.host_str().unwrap_or_default();
            let port = url.port_or_known_default().unwrap_or_default();
            return Err(SecretUnavailable::HostNotListed(name.to_owned(), format!("{host}:{port}")));
        }
        match (url.scheme() == "https" && is_verified) || self.insecure {
            true => Ok(()),
            false => Err(SecretUnavailable::Insecure(name.to_owned())),
        }
    }
}

/// All entries of a file.
#[derive(Debug, Default)]
pub(super) struct LoadedSecrets {
    pub(super) generation: u64,
    pub(super) secrets: BTreeMap<String, LoadedSecret>,
    pub(super) proxies: BTreeMap<String, Proxy>,
    pub(super) authorities: BTreeMap<String, Arc<str>>,
}

/// Files and their stamps.
pub(super) type Stamps = Vec<(PathBuf, Option<FileStamp>)>;

impl LoadedSecrets {
    /// Loads the file at `path` and all files that it names. Returns the stamps of all files too,
    /// taken before each was read: a later change differs from them.
    pub(super) fn load(path: &Path, credentials: Option<&Path>) -> (Result<Self, SecretsError>, Stamps) {
        let mut loader = Loader { path, credentials, stamps: Vec::new() };
        let loaded = loader.load_all();
        (loaded, loader.stamps)
    }

    /// All values to redact.
    pub(super) fn values(&self) -> impl Iterator<Item = &SecretValue> {
        let passwords =
            self.proxies.values().filter_map(|proxy| proxy.login.as_ref().map(|(_, password)| password));
        let secrets = self.secrets.values();
        secrets.flat_map(|secret| [&secret.value].into_iter().chain(&secret.url_parts)).chain(passwords)
    }

    pub(super) fn summaries(&self) -> Vec<SecretSummary> {
        let secrets = self.secrets.iter().map(|(name, secret)| SecretSummary {
            kind: EntryKind::Secret,
            name: name.clone(),
            hosts: secret.hosts.iter().map(ToString::to_string).collect(),
            insecure: secret.insecure,
        });
        let proxies = self.proxies.iter().map(|(name, proxy)| SecretSummary {
            kind: EntryKind::Proxy,
            name: name.clone(),
            hosts: vec![proxy.url.to_string()],
            insecure: false,
        });
        let authorities = self.authorities.keys().map(|name| SecretSummary {
            kind: EntryKind::Ca,
            name: name.clone(),
            hosts: Vec::new(),
            insecure: false,
        });
        secrets.chain(proxies).chain(authorities).collect()
    }
}

/// Path with query of a URL, and its long segments and parameters.
fn secret_url_parts(value: &SecretValue) -> Vec<SecretValue> {
    /// Shorter parts are words of the service, such as `services`.
    const MIN_PART_BYTES: usize = 16;
    let Some(url) = parse_web_url(value) else { return Vec::new() };
    let whole = &url[url::Position::BeforePath..];
    let segments = url.path().split('/').map(str::to_owned);
    let parameters = url.query_pairs().map(|(_, value)| value.into_owned());
    let parts = segments.chain(parameters).chain([whole.to_owned()]);
    parts.filter(|part| part.len() >= MIN_PART_BYTES).map(SecretValue::new).collect()
}

/// The value as a URL of a web server.
pub(super) fn parse_web_url(value: &SecretValue) -> Option<Url> {
    let url = Url::parse(value.expose_text().trim()).ok()?;
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

struct Loader<'a> {
    path: &'a Path,
    credentials: Option<&'a Path>,
    stamps: Stamps,
}

impl Loader<'_> {
    fn load_all(&mut self) -> Result<LoadedSecrets, SecretsError> {
        let path = self.path;
        let text = self
            .read_file(path, FileAccess::Private, MAX_FILE_BYTES)
            .map_err(|why| SecretsError::of_file(path, why))?;
        let file = SecretsFile::parse(&text, path)?;
        let mut loaded = LoadedSecrets::default();
        for (name, entry) in file.secrets {
            let value = self.read_value(entry.source, &format!("secret.{name}: value"), entry.line)?;
            let url_parts = secret_url_parts(&value);
            let (hosts, insecure) = (entry.hosts, entry.insecure);
            loaded.secrets.insert(name, LoadedSecret { value, url_parts, hosts, insecure });
        }
        for (name, entry) in file.proxies {
            let field = format!("proxy.{name}: password");
            let password =
                entry.password.map(|source| self.read_value(source, &field, entry.line)).transpose()?;
            loaded.proxies.insert(name, Proxy { url: entry.url, login: entry.user.zip(password) });
        }
        for (name, entry) in file.authorities {
            let pem = self.read_file(&entry.file, FileAccess::Public, MAX_FILE_BYTES).map_err(|why| {
                let why = format!("ca.{name}: file '{}': {why}", entry.file.display());
                SecretsError::at_line(path, entry.line, why)
            })?;
            loaded.authorities.insert(name, Arc::from(pem.as_str()));
        }
        Ok(loaded)
    }

    fn read_value(
        &mut self,
        source: ValueSource,
        field: &str,
        line: usize,
    ) -> Result<SecretValue, SecretsError> {
        let value = match source {
            ValueSource::Inline(value) => Ok(value),
            ValueSource::Environment(variable) => match std::env::var(&variable) {
                Ok(value) => Ok(SecretValue::new(value)),
                Err(_) => Err(format!("variable {variable} is not set, or not a text")),
            },
            ValueSource::File(path) => match self.read_file(&path, FileAccess::Private, MAX_VALUE_BYTES) {
                // Editors end a file with a line feed, which belongs to no value.
                Ok(text) => {
                    let value = text.strip_suffix('\n').unwrap_or(&text);
                    Ok(SecretValue::new(value.strip_suffix('\r').unwrap_or(value).to_owned()))
                }
                Err(why) => Err(format!("file '{}': {why}", path.display())),
            },
        };
        let checked = value.and_then(|value| file::check_value(value.expose_text()).map(|()| value));
        checked.map_err(|why| SecretsError::at_line(self.path, line, format!("{field}: {why}")))
    }

    fn read_file(
        &mut self,
        path: &Path,
        access: FileAccess,
        max_bytes: u64,
    ) -> Result<zeroize::Zeroizing<String>, String> {
        self.stamps.push((path.to_owned(), FileStamp::of_path(path)));
        private_file::read_text(path, access, max_bytes, self.credentials)
    }
}
