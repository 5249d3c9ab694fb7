//! Removes the servers and directories of a test process after its end.
//!
//! Statics are not dropped, and a killed process drops nothing. Therefore a shell waits for the end
//! of a pipe held by the test process only. It then kills all processes with the directory in their
//! command line, and removes the directory.

use std::{
    env,
    fs::DirBuilder,
    io,
    os::unix::{
        fs::{DirBuilderExt, MetadataExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Waits for the end of its input and then another 0.2 s, because a server may be between fork and
/// exec.
///
/// QUIT is Postgres's immediate shutdown, which also removes its shared memory; other processes end
/// by it as well. The directory is passed in the environment, because on a command line the search
/// would match the script itself.
const REAPER_SCRIPT: &str = r#"
trap '' HUP INT TERM
cat >/dev/null
sleep 0.2
guarded() {
    if [ -e /proc/self/cmdline ]; then
        printf '%s\n' "$GUARDED/" | grep -laF -f - /proc/[0-9]*/cmdline 2>/dev/null | cut -d / -f 3
    else
        ps -axww -o pid=,command= | awk 'index($0, ENVIRON["GUARDED"] "/") { print $1 }'
    fi
}
for signal in QUIT KILL; do
    pids=$(guarded)
    [ -n "$pids" ] || break
    kill -s "$signal" $pids
    kill -s CONT $pids
    looks=0
    while [ -n "$(guarded)" ] && [ "$looks" -lt 50 ]; do
        sleep 0.1
        looks=$((looks + 1))
    done
done
rm -rf -- "$GUARDED"
"#;

/// Creates a fresh directory below the root directory of this process.
pub(super) fn create_scratch_dir(name: &str) -> PathBuf {
    static GUARDED: LazyLock<ReapedDir> =
        LazyLock::new(|| ReapedDir::new().expect("a guarded directory can be made"));
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let dir = GUARDED.dir.join(format!("{name}-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    DirBuilder::new().mode(0o755).create(&dir).expect("a directory can be made");
    dir
}

struct ReapedDir {
    dir: PathBuf,
    /// Holds the writing end of the pipe, which no child process inherits.
    _reaper: Child,
}

impl ReapedDir {
    fn new() -> io::Result<Self> {
        let dir = create_root_dir()?;
        let reaper = Command::new("/bin/sh")
            .args(["-c", REAPER_SCRIPT])
            .env("GUARDED", &dir)
            .current_dir("/")
            // Ctrl-C must reach the tests only.
            .process_group(0)
            .stdin(Stdio::piped())
            // With inherited output, a reader of the tests' output would also wait for the end of
            // the reaper.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { dir, _reaper: reaper })
    }
}

fn create_root_dir() -> io::Result<PathBuf> {
    let candidates = [env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from("/tmp")];
    // Root's TMPDIR may be inaccessible to the user that Postgres runs as.
    let parent =
        candidates.iter().find(|dir| is_world_accessible(dir)).unwrap_or(&candidates[0]).canonicalize()?;
    for number in 0.. {
        let dir = parent.join(format!("picket-test-{}-{number}", process::id()));
        match DirBuilder::new().mode(0o755).create(&dir) {
            // A directory of an earlier process with the same process id.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created.map(|()| dir),
        }
    }
    unreachable!("the numbers do not end")
}

/// Returns true if all users can enter the directory.
fn is_world_accessible(dir: &Path) -> bool {
    let dir = dir.canonicalize();
    dir.is_ok_and(|dir| {
        dir.ancestors().all(|dir| dir.metadata().is_ok_and(|metadata| metadata.mode() & 0o001 != 0))
    })
}
