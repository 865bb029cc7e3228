//! An ordinary user for the guest suite, so that a run as root also shows that root is not needed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{output, root, steps};

const NAME: &str = "pyro-test";
const HOME: &str = "/var/lib/pyro-test";
const BUNDLE: &str = "guest";
const CACHE: &str = "environments";

/// A user who exists and can run the test binaries.
pub(crate) struct OrdinaryUser {
    /// Directories of the tree that only a private view of the file system opens to this user.
    view: Option<PrivateView>,
}

/// A mount namespace where `closed`, a directory that others may not enter, is replaced by an empty one
/// that holds the tree (and nothing else) at its usual path.
struct PrivateView {
    closed: PathBuf,
    kept: Vec<PathBuf>,
}

impl OrdinaryUser {
    /// Makes the user where it does not exist, with copies of the guest bundle and the environments.
    pub(crate) fn prepare(bundle: &Path, cache: &Path) -> Result<Self> {
        let known = Command::new("id").arg(NAME).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !known.is_ok_and(|status| status.success()) {
            steps::run(
                "ordinary user",
                Command::new("useradd").args(["--system", "--create-home", "--home-dir", HOME]).arg(NAME),
            )?;
        }
        for (from, to) in [(bundle, BUNDLE), (cache, CACHE)] {
            copy(from, &Path::new(HOME).join(to))?;
        }
        steps::run("their owner", Command::new("chown").args(["--recursive", NAME]).arg(HOME))?;
        let kept = vec![root::workspace(), root::target()];
        let closed = kept.iter().find_map(|path| closed_ancestor(path));
        if let Some(closed) = &closed {
            output::note(&format!(
                "{} is closed to {NAME}: the tests get a view of their own",
                closed.display()
            ));
        }
        Ok(Self { view: closed.map(|closed| PrivateView { closed, kept }) })
    }

    /// Where this user's pyro finds things.
    pub(crate) fn variables(&self) -> BTreeMap<String, OsString> {
        let below = |tail: &str| Path::new(HOME).join(tail).into_os_string();
        BTreeMap::from([
            ("HOME".to_owned(), HOME.into()),
            ("PYRO_ENVIRONMENT_CACHE_DIR".to_owned(), below(CACHE)),
            ("PYRO_RUNTIME_BUNDLE_DIR".to_owned(), below(BUNDLE)),
        ])
    }

    /// The words before a program that make it run as this user.
    pub(crate) fn prefix(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(view) = &self.view {
            words.extend(["unshare", "--mount", "sh", "-ec", &view.script(), "view"].map(OsString::from));
        }
        let user = format!("--reuid={NAME}");
        let group = format!("--regid={NAME}");
        words.extend(["setpriv", &user, &group, "--init-groups", "--inh-caps=-all"].map(OsString::from));
        words
    }
}

impl PrivateView {
    /// Stashes what is kept, covers the closed directory, and puts what is kept back at its path.
    fn script(&self) -> String {
        let mut stash = String::from("mount -t tmpfs tmpfs /mnt\n");
        let mut restore = format!("mount -t tmpfs -o mode=755 tmpfs '{}'\n", self.closed.display());
        for (number, path) in self.kept.iter().enumerate() {
            let path = path.display();
            stash += &format!("mkdir /mnt/{number}; mount --bind '{path}' /mnt/{number}\n");
            restore += &format!("mkdir -p '{path}'; mount --bind /mnt/{number} '{path}'\n");
        }
        format!("{stash}{restore}umount -l /mnt\nexec \"$@\"\n")
    }
}

/// The outermost directory above `path` that others may not enter.
fn closed_ancestor(path: &Path) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let mut above: Vec<&Path> = path.ancestors().collect();
    above.reverse();
    above
        .into_iter()
        .find(|directory| {
            std::fs::metadata(directory).is_ok_and(|found| found.permissions().mode() & 0o005 != 0o005)
        })
        .map(Path::to_owned)
}

/// A fresh copy, holes kept, so that an old one of the same user never speaks for the new.
fn copy(from: &Path, to: &Path) -> Result<()> {
    ensure!(from.is_dir(), "{} is not a directory", from.display());
    let parent = to.parent().context("a copy has a parent directory")?;
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    if to.exists() {
        std::fs::remove_dir_all(to).with_context(|| format!("cannot remove {}", to.display()))?;
    }
    let mut copy = Command::new("cp");
    copy.args(["--recursive", "--dereference", "--reflink=auto", "--sparse=always"]).arg(from).arg(to);
    steps::run(&format!("copy for {NAME}"), &mut copy)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_outermost_closed_directory_is_found() {
        let top = tempfile::tempdir().unwrap();
        let inner = top.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(top.path(), open).unwrap();
        if closed_ancestor(top.path()).is_some() {
            // The place for temporary files is itself closed: that is then the answer for all below it.
            assert_eq!(closed_ancestor(&inner), closed_ancestor(top.path()));
            return;
        }
        assert_eq!(closed_ancestor(&inner), None);
        std::fs::set_permissions(top.path().join("a"), std::fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(closed_ancestor(&inner), Some(top.path().join("a")));
    }

    #[test]
    fn a_private_view_puts_everything_back_at_its_path() {
        let view = PrivateView { closed: "/secret".into(), kept: vec!["/secret/a b".into()] };
        let script = view.script();
        let cover = script.find("tmpfs '/secret'").unwrap();
        assert!(script.find("mount --bind '/secret/a b' /mnt/0").unwrap() < cover);
        assert!(script.find("mount --bind /mnt/0 '/secret/a b'").unwrap() > cover);
        assert!(script.ends_with("exec \"$@\"\n"));
    }
}
