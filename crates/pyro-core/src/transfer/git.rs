//! The files of a git work tree, by git itself: it alone knows its index and ignore rules in all their forms.
//!
//! The tree may be a stranger's, and a repository's own configuration can name programs. Those that listing
//! files could run are switched off: the file system monitor, hooks, and what fetches missing objects.

use super::TransferError;
use pyro_tree::Selection;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

/// Work trees within work trees.
const MAX_NESTING: usize = 16;
/// Work trees in all.
const MAX_WORK_TREES: usize = 1000;
/// The names of some ten million files.
const MAX_LISTING_BYTES: u64 = 1 << 30;
/// The first words of git's complaint.
const MAX_COMPLAINT_BYTES: u64 = 4096;
/// A million files take seconds.
const DEADLINE: Duration = Duration::from_secs(120);

const SETTINGS: &[&str] = &[
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "protocol.allow=never",
    "safe.bareRepository=explicit",
];

/// Variables that point git at another repository or change how it reads this one.
const FOREIGN: &[&str] = &[
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_CEILING_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_GLOB_PATHSPECS",
    "GIT_ICASE_PATHSPECS",
    "GIT_INDEX_FILE",
    "GIT_LITERAL_PATHSPECS",
    "GIT_NAMESPACE",
    "GIT_NOGLOB_PATHSPECS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_TRACE",
    "GIT_WORK_TREE",
];

/// The tracked files below `root` and those neither tracked nor ignored. A nested work tree, submodule or
/// not, is listed by its own rules. Files that are gone are listed too; they are not found later.
pub(super) async fn list(root: &Path) -> Result<Selection, TransferError> {
    let mut selected = Vec::new();
    let mut open = VecDeque::from([(PathBuf::new(), 0)]);
    let mut trees = 0;
    while let Some((prefix, nesting)) = open.pop_front() {
        trees += 1;
        let directory = root.join(&prefix);
        let listing = tokio::time::timeout(DEADLINE, ls_files(&directory))
            .await
            .map_err(|_| failed(&directory, format!("it took over {} seconds", DEADLINE.as_secs())))??;
        let (files, nested) = tokio::task::spawn_blocking(move || sort(&directory, &listing))
            .await
            .map_err(|_| TransferError::Panicked)?;
        let below = |name: &PathBuf| prefix.join(name);
        if nesting < MAX_NESTING && trees + open.len() + nested.len() <= MAX_WORK_TREES {
            open.extend(nested.iter().map(|name| (below(name), nesting + 1)));
        } else if !nested.is_empty() {
            return Err(failed(root, "too many work trees within work trees".to_owned()));
        }
        selected.extend(files.iter().chain(&nested).map(|name| below(name).into_os_string()));
    }
    Ok(Selection::new(selected.into_iter().map(std::os::unix::ffi::OsStringExt::into_vec)))
}

/// The names in a listing: plain entries, and work trees of their own.
fn sort(directory: &Path, listing: &[u8]) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let names = listing.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| PathBuf::from(OsStr::from_bytes(name.strip_suffix(b"/").unwrap_or(name))))
        .partition(|name| directory.join(name).join(".git").symlink_metadata().is_err())
}

async fn ls_files(directory: &Path) -> Result<Vec<u8>, TransferError> {
    let mut command = Command::new("git");
    command.arg("--no-pager");
    for setting in SETTINGS {
        command.args(["-c", setting]);
    }
    command.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    for variable in FOREIGN {
        command.env_remove(variable);
    }
    command
        .env("GIT_ALLOW_PROTOCOL", "")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("LC_ALL", "C")
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(TransferError::GitMissing)?;
    let (listing, complaint) =
        read(&mut child).await.map_err(|error| failed(directory, error.to_string()))?;
    if listing.len() as u64 > MAX_LISTING_BYTES {
        return Err(failed(directory, "it lists too many files".to_owned()));
    }
    let status = child.wait().await.map_err(|error| failed(directory, error.to_string()))?;
    if status.success() {
        return Ok(listing);
    }
    let complaint = String::from_utf8_lossy(&complaint);
    if complaint.contains("not a git repository") || complaint.contains("must be run in a work tree") {
        return Err(TransferError::NotARepository(directory.to_owned()));
    }
    let first = complaint.lines().next().unwrap_or_default();
    Err(failed(directory, if first.is_empty() { status.to_string() } else { first.to_owned() }))
}

/// Both outputs, each up to its bound.
async fn read(child: &mut Child) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let (mut listing, mut complaint) = (Vec::new(), Vec::new());
    let mut stdout = stdout.take(MAX_LISTING_BYTES + 1);
    let complaints = async {
        let mut bounded = stderr.take(MAX_COMPLAINT_BYTES);
        bounded.read_to_end(&mut complaint).await?;
        tokio::io::copy(&mut bounded.into_inner(), &mut tokio::io::sink()).await
    };
    let (read, complained) = tokio::join!(stdout.read_to_end(&mut listing), complaints);
    read.and(complained)?;
    Ok((listing, complaint))
}

fn failed(path: &Path, reason: String) -> TransferError {
    TransferError::Git { path: path.to_owned(), reason }
}
