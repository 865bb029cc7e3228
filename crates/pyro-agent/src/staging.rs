//! Places on the root disk, apart from everything a user looks at, where changes are prepared.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::console::say;
use crate::files::remove_tree;

/// The directory that stages are made in. It is made when it is first needed.
#[derive(Clone, Debug)]
pub(crate) struct Staging {
    base: PathBuf,
}

impl Staging {
    /// Stages below `base`, whose parent is made private, too.
    pub(crate) fn new(base: impl Into<PathBuf>) -> Self {
        Self { base: base.into() }
    }

    /// A new empty stage.
    pub(crate) fn create(&self) -> rustix::io::Result<Stage> {
        if let Some(parent) = self.base.parent() {
            make_private(parent)?;
        }
        make_private(&self.base)?;
        let base = self.open()?;
        let name = random_name("")?;
        rustix::fs::mkdirat(&base, &name[..], Mode::from_raw_mode(0o700))?;
        let directory = crate::walk::open_below(base.as_fd(), name.as_bytes())?;
        let path = self.base.join(&name);
        Ok(Stage { base, name, directory, path })
    }

    /// Removes what an earlier boot left. That may take its time, so a thread does it.
    pub(crate) fn clear_in_background(&self) {
        let Ok(base) = self.open() else { return };
        let mut buffer = crate::walk::directory_buffer();
        let limit = crate::limits::MAX_WALK_NAME_BYTES;
        let Ok(mut names) = crate::walk::Names::read(base.as_fd(), &mut buffer, limit) else { return };
        let clear = move || {
            while let Some(name) = names.take() {
                if let Err(error) = remove_tree(base.as_fd(), name) {
                    say(&format!("warning: a stage of an earlier boot stays: {error}"));
                }
            }
        };
        let thread = std::thread::Builder::new().stack_size(crate::limits::THREAD_STACK_BYTES);
        if let Err(error) = thread.spawn(clear) {
            say(&format!("warning: stages of an earlier boot stay: {error}"));
        }
    }

    fn open(&self) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(&self.base, flags, Mode::empty())
    }
}

fn make_private(path: &Path) -> rustix::io::Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error),
    }
}

/// One stage. Dropping it removes all that is left in it.
#[derive(Debug)]
pub(crate) struct Stage {
    base: OwnedFd,
    name: String,
    directory: OwnedFd,
    path: PathBuf,
}

impl Stage {
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(self.base.as_fd(), self.name.as_bytes()) {
            say(&format!("warning: the stage {} stays: {error}", self.path.display()));
        }
    }
}

/// A name that nothing has.
pub(crate) fn random_name(prefix: &str) -> rustix::io::Result<String> {
    let mut bytes = [0; 12];
    let len = getrandom(&mut bytes[..], GetRandomFlags::empty())?;
    Ok(format!("{prefix}{}", hex::encode(&bytes[..len])))
}
