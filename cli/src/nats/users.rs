//! The users of a NATS server: their public keys in one file, and the secret seed of each in a file
//! of its own.
//!
//! The servers need only the public keys. A seed file may be moved to its process; it is not read
//! here again.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nkeys::{KeyPair, KeyPairType};
use picket_proto::Role;

use crate::error::Error;

const FILE_HEADER: &str = "\
# The users of this NATS and their public keys, which are not secret. 'picket nats' writes accounts.conf from this file.
# A role may have several keys: during a rotation both the old and the new key are valid.
";

/// Owner of a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum User {
    /// A role of Picket.
    Role(Role),
    /// Administrator of the servers, in the system account.
    System,
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Role(role) => role.fmt(f),
            Self::System => f.pad("system"),
        }
    }
}

/// All users, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Users(pub(super) Vec<(User, String)>);

/// Result of a request for a credential.
pub(super) enum CredentialStatus {
    /// A credential was created, in this file.
    Created(PathBuf),
    /// The user already had a credential. Its file, unless it was moved.
    Existing(PathBuf),
}

impl Users {
    fn file_path(dir: &Path) -> PathBuf {
        dir.join("users")
    }

    /// Reads the file; no users if it does not exist.
    pub(super) fn read_file(dir: &Path) -> Result<Self, Error> {
        let file = Self::file_path(dir);
        match fs::read_to_string(&file) {
            Ok(text) => {
                Self::parse_lines(&text).map_err(|why| Error::Usage(format!("{}: {why}", file.display())))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(io_error("read", &file, &error)),
        }
    }

    fn parse_lines(text: &str) -> Result<Self, String> {
        let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        let users = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).map(|(number, line)| {
            let (name, key) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let user = match name {
                "system" => User::System,
                name => User::Role(name.parse().map_err(|why| format!("line {number}: {why}"))?),
            };
            match KeyPair::from_public_key(key.trim()) {
                Ok(pair) if pair.key_pair_type() == KeyPairType::User => Ok((user, key.trim().to_owned())),
                _ => Err(format!(
                    "line {number}: the key of {name}: '{}' is refused; allowed: a user's public nkey, which begins with U",
                    picket_proto::validation::sanitize_text(key.trim(), 80)
                )),
            }
        });
        users.collect::<Result<_, _>>().map(Self)
    }

    /// Writes the file atomically.
    pub(super) fn write_file(&self, dir: &Path) -> Result<(), Error> {
        let lines = self.0.iter().map(|(user, key)| format!("{user:<20} {key}\n"));
        replace_file(&Self::file_path(dir), &lines.fold(FILE_HEADER.to_owned(), |text, line| text + &line))
    }

    /// Creates a credential for `user` if it has none.
    pub(super) fn create_if_missing(&mut self, dir: &Path, user: User) -> Result<CredentialStatus, Error> {
        let file = seed_path(dir, &user);
        if self.0.iter().any(|(known, _)| *known == user) {
            return Ok(CredentialStatus::Existing(file));
        }
        self.create_credential(dir, user).map(CredentialStatus::Created)
    }

    /// Creates a new credential for `user`. A seed file left by a killed command is reused, because
    /// no server knows it yet.
    pub(super) fn create_credential(&mut self, dir: &Path, user: User) -> Result<PathBuf, Error> {
        let file = seed_path(dir, &user);
        let pair = match fs::read_to_string(&file) {
            Ok(text) => KeyPair::from_seed(text.trim()).map_err(|_| {
                Error::Usage(format!("{}: the file exists and contains no nkey seed", file.display()))
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let pair = KeyPair::new_user();
                let seed =
                    pair.seed().map_err(|why| Error::Failed(format!("could not generate a key: {why}")))?;
                write_secret(&file, &seed).map_err(|why| io_error("write", &file, &why))?;
                pair
            }
            Err(error) => return Err(io_error("read", &file, &error)),
        };
        self.0.push((user, pair.public_key()));
        Ok(file)
    }

    /// Removes all keys of `user`, and its seed file if present. Returns true if the user had any.
    pub(super) fn remove_user(&mut self, dir: &Path, user: &User) -> Result<bool, Error> {
        let before = self.0.len();
        self.0.retain(|(known, _)| known != user);
        let file = seed_path(dir, user);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error("remove", &file, &error)),
            _ => Ok(self.0.len() < before),
        }
    }

    /// Picket's roles, each once, with all its keys.
    pub(super) fn roles_with_keys(&self) -> impl Iterator<Item = (&Role, Vec<&str>)> {
        let roles = self.0.iter().filter_map(|(user, _)| match user {
            User::Role(role) => Some(role),
            User::System => None,
        });
        let roles: BTreeSet<_> = roles.collect();
        roles.into_iter().map(|role| (role, self.public_keys(&User::Role(role.clone()))))
    }

    /// All keys of `user`.
    pub(super) fn public_keys(&self, user: &User) -> Vec<&str> {
        self.0.iter().filter(|(known, _)| known == user).map(|(_, key)| key.as_str()).collect()
    }
}

/// Path of a user's seed file.
pub(super) fn seed_path(dir: &Path, user: &User) -> PathBuf {
    dir.join("creds").join(format!("{user}.nk"))
}

pub(super) fn create_dirs(dir: &Path) -> Result<(), Error> {
    let creds = dir.join("creds");
    let made = fs::create_dir_all(dir).and_then(|()| match DirBuilder::new().mode(0o700).create(&creds) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
    });
    made.map_err(|why| io_error("create", &creds, &why))
}

/// Creates a file readable only by its owner, complete or not at all. Fails if the file exists.
fn write_secret(path: &Path, secret: &str) -> io::Result<()> {
    let new = path.with_extension(format!("new.{}", std::process::id()));
    let written =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).and_then(|mut file| {
            writeln!(file, "{secret}")?;
            file.sync_all()?;
            // A hard link fails if the file exists; a rename would overwrite it.
            fs::hard_link(&new, path)
        });
    let _ = fs::remove_file(&new);
    written
}

/// Replaces a file atomically.
pub(super) fn replace_file(path: &Path, text: &str) -> Result<(), Error> {
    let new = path.with_extension(format!("new.{}", std::process::id()));
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, path));
    written.map_err(|why| {
        let _ = fs::remove_file(&new);
        io_error("write", path, &why)
    })
}

pub(super) fn io_error(doing: &str, path: &Path, why: &io::Error) -> Error {
    Error::Usage(format!("could not {doing} {}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_credential_is_created_once_and_readable_by_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        create_dirs(dir.path()).unwrap();
        let user = User::Role("prober-eu".parse().unwrap());
        let mut users = Users::default();

        let CredentialStatus::Created(file) = users.create_if_missing(dir.path(), user.clone()).unwrap()
        else {
            panic!("it is new")
        };
        users.write_file(dir.path()).unwrap();
        let seed = fs::read_to_string(&file).unwrap();

        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(dir.path().join("creds")).unwrap().permissions().mode() & 0o777, 0o700);
        let mut again = Users::read_file(dir.path()).unwrap();
        assert_eq!(again, users);
        assert!(matches!(
            again.create_if_missing(dir.path(), user.clone()).unwrap(),
            CredentialStatus::Existing(_)
        ));
        assert_eq!(KeyPair::from_seed(seed.trim()).unwrap().public_key(), again.public_keys(&user)[0]);
        assert!(!fs::read_to_string(dir.path().join("users")).unwrap().contains(seed.trim()));
        assert!(again.remove_user(dir.path(), &user).unwrap() && !file.exists());
    }

    #[test]
    fn an_invalid_user_line_is_refused_with_its_number_and_the_expected_form() {
        let seed = KeyPair::new_user().seed().unwrap();
        for (line, said) in [
            ("prober-EU UX", "prober-<region>"),
            ("sink", "begins with U"),
            (&format!("sink {}", KeyPair::new_account().public_key()), "begins with U"),
            (&format!("sink {seed}"), "begins with U"),
        ] {
            let why = Users::parse_lines(&format!("# head\n{line}\n")).unwrap_err();
            assert!(why.contains("line 2") && why.contains(said), "{why}");
        }
    }
}
