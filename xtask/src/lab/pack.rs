//! Files for L1 in a disk of its own, which an emulated machine reads many times faster than a share.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::image::make_disk;
use crate::{root, steps};

/// A disk with copies of files. It has no name in the file system, so that it is gone with us, however we end.
pub(crate) struct Pack {
    disk: PathBuf,
    paths: Vec<PathBuf>,
    /// What the disk's path leads to.
    _file: File,
}

impl Pack {
    /// Copies `paths` to `pack/0`, `pack/1` and so on of a new disk; `None` where there are none.
    pub(crate) fn make(paths: &[PathBuf]) -> Result<Option<Self>> {
        if paths.is_empty() {
            return Ok(None);
        }
        let place = root::target().join("lab");
        std::fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        let directory = tempfile::Builder::new().prefix("pack-").tempdir_in(&place)?;
        let tree = directory.path().join("tree");
        std::fs::create_dir_all(tree.join("pack"))?;
        for (number, path) in paths.iter().enumerate() {
            copy(path, &tree.join("pack").join(number.to_string()))?;
        }
        let named = directory.path().join("disk.ext4");
        make_disk(&named, Some(&tree))?;
        let file = File::open(&named).context("cannot open what is packed")?;
        let disk = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        directory.close().context("cannot remove what was packed")?;
        Ok(Some(Self { disk: disk.into(), paths: paths.to_owned(), _file: file }))
    }

    /// What it has copies of, in the order of their numbers.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// A path for programs that start while this is alive.
    pub(crate) fn disk(&self) -> &Path {
        &self.disk
    }
}

/// Another name for each file where that is possible, else a copy that keeps its holes.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let cp = |how: &str| {
        let mut cp = Command::new("cp");
        cp.args(["--recursive", "--preserve=mode,timestamps", "--dereference", how]).arg(from).arg(to);
        cp
    };
    if steps::read(&mut cp("--link")).is_ok() {
        return Ok(());
    }
    let _ = std::fs::remove_dir_all(to);
    steps::read(&mut cp("--sparse=always")).map(drop)
}
