//! A `pyro` with workspaces in real guests.

use super::{Pyro, Ran, patience};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A `pyro` whose workspaces are deleted at the end, also of a test that fails.
pub(crate) struct Host {
    pub(crate) pyro: Pyro,
    /// Seeds, changes and exports.
    pub(crate) files: tempfile::TempDir,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.pyro.run(&["workspace", "delete", "--all"]);
        // Directories of a tree that was exported may forbid their owner to write.
        let _ = Command::new("chmod").args(["-R", "u+rwx"]).arg(self.files.path()).output();
    }
}

impl Host {
    pub(crate) fn new() -> Self {
        Self { pyro: Pyro::new(), files: tempfile::tempdir().unwrap() }
    }

    /// A path beside the state directory, as text.
    pub(crate) fn path(&self, name: &str) -> String {
        self.files.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        let path = self.files.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn workspace(&self, arguments: &[&str]) -> Ran {
        self.pyro.run(&[&["workspace"], arguments].concat())
    }

    /// Begins a command whose output is read later.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = self.pyro.command(&[&["workspace"], arguments].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The standard output of a command that must succeed.
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let ran = self.workspace(arguments);
        assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
        ran.stdout
    }

    /// The result of a command that must succeed.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.done(&[arguments, &["--json"]].concat())).unwrap()
    }

    pub(crate) fn create(&self, arguments: &[&str]) -> String {
        let small = ["create", "debian:12", "--id-only", "--mem-mib", "256"];
        let id = self.done(&[&small, arguments].concat());
        let id = id.strip_suffix('\n').unwrap();
        assert!(id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        id.to_owned()
    }

    /// The standard output of a shell text that must succeed in the guest.
    pub(crate) fn shell(&self, workspace: &str, text: &str) -> String {
        self.done(&["exec", workspace, "--shell", text])
    }

    pub(crate) fn spawn_shell(&self, workspace: &str, text: &str) -> Child {
        let limit = patience(Duration::from_secs(60)).as_secs().to_string();
        self.spawn(&["exec", workspace, "--timeout-seconds", &limit, "--shell", text])
    }

    /// Lets a workspace's time be over now, and a second after any use of it.
    pub(crate) fn expire(&self, id: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let database = rusqlite::Connection::open(self.pyro.state.path().join("state.db")).unwrap();
        database.busy_timeout(Duration::from_secs(10)).unwrap();
        let sql = "UPDATE workspaces SET ttl_seconds = 1, expires_at = ?2 WHERE id = ?1";
        assert_eq!(database.execute(sql, rusqlite::params![id, i64::try_from(now).unwrap()]).unwrap(), 1);
    }

    /// Processes that hold a file of the state directory open: supervisors and their machines.
    pub(crate) fn holders(&self) -> BTreeSet<u32> {
        self.pyro.holders()
    }

    /// The supervisor of the only started workspace.
    pub(crate) fn supervisor(&self) -> u32 {
        self.pyro.supervisor()
    }
}
