//! Paths of the server programs in the tools directory, which `tools/install` fills.

use std::{
    env,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::Error;

/// Search path of the server programs.
///
/// Programs are checked only when needed: with an external Postgres none has to be installed here.
#[derive(Clone, Debug)]
pub struct Tools {
    dir: Option<PathBuf>,
}

/// A Postgres installation.
#[derive(Clone, Debug)]
pub struct PostgresTools {
    /// Directory of `postgres`, `initdb` and `psql`.
    pub(crate) bin_dir: PathBuf,
}

impl Tools {
    /// Searches `dir`, in the layout of `tools/install`. For nats-server the `PATH` is searched
    /// next.
    pub fn in_dir(dir: Option<&Path>) -> Self {
        let absolute = |dir: &Path| std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        Self { dir: dir.map(absolute) }
    }

    /// Path of nats-server. Any version on the `PATH` is accepted here; Picket's processes check
    /// the version at start.
    pub fn find_nats_server(&self) -> Result<PathBuf, Error> {
        let own = self.dir.iter().map(|dir| dir.join("bin"));
        own.chain(search_path_dirs())
            .map(|dir| dir.join("nats-server"))
            .find(|program| is_executable(program))
            .ok_or_else(|| self.missing_tool_error("nats-server", " and on the PATH"))
    }

    /// The pinned Postgres installation. The `PATH` is not searched: one major version cannot read
    /// the data of another.
    pub fn find_postgres(&self) -> Result<PostgresTools, Error> {
        self.dir
            .iter()
            .map(|dir| dir.join("postgres/bin"))
            .find(|bin| ["postgres", "initdb", "psql"].iter().all(|name| is_executable(&bin.join(name))))
            .map(|bin| PostgresTools { bin_dir: bin })
            .ok_or_else(|| self.missing_tool_error("postgres", ""))
    }

    fn missing_tool_error(&self, program: &'static str, and: &str) -> Error {
        let looked_in = match &self.dir {
            Some(dir) => format!("{}{and}", dir.display()),
            None => format!("no tools directory (none was given){and}"),
        };
        Error::ToolMissing { program, looked_in }
    }
}

impl PostgresTools {
    /// Path of psql.
    pub fn psql_path(&self) -> PathBuf {
        self.bin_dir.join("psql")
    }

    pub(crate) fn postgres_path(&self) -> PathBuf {
        self.bin_dir.join("postgres")
    }

    pub(crate) fn initdb_path(&self) -> PathBuf {
        self.bin_dir.join("initdb")
    }
}

fn search_path_dirs() -> Vec<PathBuf> {
    env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default()
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}
