//! Secrets of a process: a file maps names to values and to the hosts that each may be sent to.
//!
//! Sites and notifications refer to secrets by name. The values exist in the processes that use
//! them, and are redacted from logs and from everything that these processes publish
//! ([`redact`]).

mod file;
mod host_rule;
mod loaded;
mod private_file;
mod redaction;
mod value;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tracing::{info, warn};
use url::Url;

pub(crate) use self::redaction::WITHHELD_TEXTS;
pub use self::{
    host_rule::HostRule,
    loaded::{EntryKind, Proxy, SecretSummary},
    redaction::{redact, redact_json},
    value::SecretValue,
};
use self::{loaded::LoadedSecrets, private_file::FileStamp, redaction::Redactor};

/// Name of the secrets file among the credentials of the service manager.
const CREDENTIAL_NAME: &str = "picket-secrets.toml";
/// Directory of the service manager's credentials.
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// Refusal of a secrets file, with the line where possible. Contains no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SecretsError {
    path: PathBuf,
    line: Option<usize>,
    why: String,
}

impl SecretsError {
    fn of_file(path: &Path, why: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line: None, why: why.into() }
    }

    fn at_line(path: &Path, line: usize, why: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line: Some(line), why: why.into() }
    }
}

impl fmt::Display for SecretsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secrets file '{}'", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.why)
    }
}

/// Reason why a secret cannot be used. Contains names and hosts only.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretUnavailable {
    /// The process has no secrets file.
    #[error("{0} '{1}' is unknown: there is no secrets file (PICKET_SECRETS_FILE)")]
    NoFile(EntryKind, String),
    /// The file has no such entry.
    #[error("{0} '{1}' is not in the secrets file")]
    Unknown(EntryKind, String),
    /// The hosts of the secret do not include the destination.
    #[error("secret '{0}' may not be sent to {1}, which is not among its hosts")]
    HostNotListed(String, String),
    /// The destination does not prove its name by a certificate.
    #[error(
        "secret '{0}' may not be sent without https and a verified certificate; its entry says 'insecure = true' where it may"
    )]
    Insecure(String),
    /// The value does not fit its use.
    #[error("secret '{0}' is unusable: {1}")]
    Unusable(String, String),
}

/// Consequence of a look at the secrets file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// No file has changed.
    Unchanged,
    /// The new content is in use.
    Reloaded,
    /// The new content is refused, and the last good one stays in use.
    Refused(SecretsError),
}

/// Secrets of a process. Clones share the state.
#[derive(Clone)]
pub struct Secrets(Arc<SecretsState>);

struct SecretsState {
    path: Option<PathBuf>,
    current: RwLock<Arc<LoadedSecrets>>,
    /// Files of the last attempt to load, with their stamps before the attempt.
    stamps: Mutex<Vec<(PathBuf, Option<FileStamp>)>>,
    redactor: Redactor,
}

impl Default for Secrets {
    fn default() -> Self {
        Self::none()
    }
}

impl Secrets {
    /// Minimum length of a value.
    pub const MIN_VALUE_BYTES: usize = file::MIN_VALUE_BYTES;
    /// Interval at which [`follow_changes`](Self::follow_changes) looks for changed files.
    const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

    /// No secrets: every name is unknown.
    pub fn none() -> Self {
        Self(Arc::new(SecretsState {
            path: None,
            current: RwLock::default(),
            stamps: Mutex::default(),
            redactor: Redactor::default(),
        }))
    }

    /// Loads the secrets file at `path`, or else the credential `picket-secrets.toml` of the
    /// service manager, or else nothing.
    ///
    /// # Errors
    /// If there is a file and it is unusable.
    pub fn load_or_none(path: Option<&Path>) -> Result<Self, SecretsError> {
        if let Some(path) = path {
            return Self::load(path);
        }
        let credential = credentials_directory().map(|directory| directory.join(CREDENTIAL_NAME));
        match credential.filter(|path| path.exists()) {
            Some(path) => Self::load(&path),
            None => Ok(Self::none()),
        }
    }

    /// Loads the secrets file at `path` and all files that it names.
    ///
    /// # Errors
    /// If a file cannot be read, is accessible to other users, or has an invalid content. The error
    /// names the line.
    pub fn load(path: &Path) -> Result<Self, SecretsError> {
        let directory = credentials_directory();
        let (loaded, stamps) = LoadedSecrets::load(path, directory.as_deref());
        let loaded = loaded?;
        let redactor = Redactor::registered();
        redactor.set_secrets(loaded.values());
        Ok(Self(Arc::new(SecretsState {
            path: Some(path.to_owned()),
            current: RwLock::new(Arc::new(loaded)),
            stamps: Mutex::new(stamps),
            redactor,
        })))
    }

    /// Loads the files again if one has changed. A refused content leaves the last good one in use.
    /// Blocks on file access.
    pub fn reload_if_changed(&self) -> ReloadOutcome {
        let Some(path) = &self.0.path else { return ReloadOutcome::Unchanged };
        let mut stamps = self.0.stamps.lock();
        if stamps.iter().all(|(path, stamp)| FileStamp::of_path(path) == *stamp) {
            return ReloadOutcome::Unchanged;
        }
        let (loaded, seen) = LoadedSecrets::load(path, credentials_directory().as_deref());
        let mut loaded = match loaded {
            Ok(loaded) => loaded,
            Err(why) => {
                // The files of the last good content stay watched: one of them may be repaired. Those
                // that were not read get their present stamps, so that each change is tried once.
                let unread = stamps.iter().filter(|(path, _)| seen.iter().all(|(read, _)| read != path));
                let unread: Vec<_> =
                    unread.map(|(path, _)| (path.clone(), FileStamp::of_path(path))).collect();
                *stamps = [seen, unread].concat();
                return ReloadOutcome::Refused(why);
            }
        };
        *stamps = seen;
        let previous = self.snapshot();
        loaded.generation = previous.generation + 1;
        // Checks that still run have values of the previous content.
        self.0.redactor.set_secrets(loaded.values().chain(previous.values()));
        *self.0.current.write() = Arc::new(loaded);
        ReloadOutcome::Reloaded
    }

    /// Looks for changed files once a second, for ever. `observe` is called after each change.
    pub async fn follow_changes(self, observe: impl Fn(&ReloadOutcome)) {
        if !self.has_file() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(Self::RELOAD_INTERVAL).await;
            let secrets = self.clone();
            // A file system may hang, which must not hold up the checks.
            let Ok(outcome) = tokio::task::spawn_blocking(move || secrets.reload_if_changed()).await else {
                continue;
            };
            match &outcome {
                ReloadOutcome::Unchanged => continue,
                ReloadOutcome::Reloaded => info!(names = self.summaries().len(), "reloaded the secrets file"),
                ReloadOutcome::Refused(why) => {
                    warn!(error = %why, "refused the changed secrets file, the previous content stays in use");
                }
            }
            observe(&outcome);
        }
    }

    /// Returns true if there is a secrets file.
    pub fn has_file(&self) -> bool {
        self.0.path.is_some()
    }

    /// Number of the content in use, which rises with each reload. Belongs in the key of a cache of
    /// anything that was made of a secret.
    pub fn generation(&self) -> u64 {
        self.snapshot().generation
    }

    /// Value of secret `name` if it may be sent to `url`. `is_verified` is true if the certificate
    /// of an https server will be verified.
    ///
    /// # Errors
    /// If the name is unknown, or the destination is not allowed.
    pub fn value_for(
        &self,
        name: &str,
        url: &Url,
        is_verified: bool,
    ) -> Result<SecretValue, SecretUnavailable> {
        let snapshot = self.snapshot();
        let secret = snapshot.secrets.get(name).ok_or_else(|| self.unknown(EntryKind::Secret, name))?;
        secret.check_destination(name, url, is_verified)?;
        Ok(secret.value.clone())
    }

    /// The URL that is the value of secret `name`, if it may be requested: its own host is among
    /// the hosts of the secret. The certificate of an https server will be verified.
    ///
    /// # Errors
    /// If the name is unknown, the value is no URL, or its host is not listed.
    pub fn url_for(&self, name: &str) -> Result<Url, SecretUnavailable> {
        let snapshot = self.snapshot();
        let secret = snapshot.secrets.get(name).ok_or_else(|| self.unknown(EntryKind::Secret, name))?;
        let why = || SecretUnavailable::Unusable(name.to_owned(), "it is no http or https URL".to_owned());
        let url = loaded::parse_web_url(&secret.value).ok_or_else(why)?;
        secret.check_destination(name, &url, true)?;
        Ok(url)
    }

    /// Name of a secret with this value that may be sent to `url`, one that is not insecure if
    /// possible.
    pub fn find_name(&self, value: &str, url: &Url, is_verified: bool) -> Option<String> {
        let snapshot = self.snapshot();
        let with_value = snapshot.secrets.iter().filter(|(_, secret)| secret.value.expose_text() == value);
        let allowed = with_value.filter(|(name, _)| self.value_for(name, url, is_verified).is_ok());
        allowed.min_by_key(|(_, secret)| secret.insecure).map(|(name, _)| name.clone())
    }

    /// Proxy `name`.
    ///
    /// # Errors
    /// If the name is unknown.
    pub fn proxy(&self, name: &str) -> Result<Proxy, SecretUnavailable> {
        self.snapshot().proxies.get(name).cloned().ok_or_else(|| self.unknown(EntryKind::Proxy, name))
    }

    /// Certificates (PEM) of the certificate authority `name`.
    ///
    /// # Errors
    /// If the name is unknown.
    pub fn authority(&self, name: &str) -> Result<Arc<str>, SecretUnavailable> {
        self.snapshot().authorities.get(name).cloned().ok_or_else(|| self.unknown(EntryKind::Ca, name))
    }

    /// Names and hosts of all entries, without values.
    pub fn summaries(&self) -> Vec<SecretSummary> {
        self.snapshot().summaries()
    }

    /// Adds a value that was obtained with a secret, such as an access token, to those that are
    /// redacted. Of each `origin` the two latest values are kept.
    pub fn redact_token(&self, origin: &str, token: SecretValue) {
        self.0.redactor.add_token(origin, token);
    }

    fn snapshot(&self) -> Arc<LoadedSecrets> {
        Arc::clone(&self.0.current.read())
    }

    fn unknown(&self, kind: EntryKind, name: &str) -> SecretUnavailable {
        match self.0.path {
            None => SecretUnavailable::NoFile(kind, name.to_owned()),
            Some(_) => SecretUnavailable::Unknown(kind, name.to_owned()),
        }
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").field("path", &self.0.path).finish_non_exhaustive()
    }
}

fn credentials_directory() -> Option<PathBuf> {
    std::env::var_os(CREDENTIALS_VARIABLE).map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests;
