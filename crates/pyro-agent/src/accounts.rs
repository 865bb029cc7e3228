//! Users and groups from the guest's own `/etc/passwd` and `/etc/group`. The agent is linked statically, so
//! it reads the files itself; other sources of names (NSS) do not count.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::limits::MAX_ACCOUNT_FILE_BYTES;

#[cfg(test)]
mod tests;

/// Who runs a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// The name, or the number where there is no name.
    pub(crate) name: String,
    pub(crate) home: String,
}

/// The two files' bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accounts {
    passwd: Vec<u8>,
    group: Vec<u8>,
}

/// Why a user specification names nobody.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum UnknownAccount {
    #[error("no user {0:?} in /etc/passwd")]
    User(String),
    #[error("no group {0:?} in /etc/group")]
    Group(String),
}

struct PasswdLine<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct GroupLine<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl Accounts {
    /// Reads the files below `root`; a missing or odd one counts as empty.
    pub(crate) fn read(root: &Path) -> Self {
        Self { passwd: read(&root.join("etc/passwd")), group: read(&root.join("etc/group")) }
    }

    /// Looks up `USER`, `USER:GROUP`, or numbers in their place. A number needs no entry. A named group
    /// replaces the user's supplementary ones, as container engines have it.
    pub(crate) fn identity(&self, spec: &str) -> Result<Identity, UnknownAccount> {
        let (user, group) = match spec.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (spec, None),
        };
        let number = user.parse::<u32>().ok();
        let line = self.users().find(|line| line.name == user);
        let line = line.or_else(|| self.users().find(|line| Some(line.uid) == number));
        let (uid, gid, name, home) = match (line, number) {
            (Some(line), _) => (line.uid, line.gid, line.name.to_owned(), line.home.to_owned()),
            (None, Some(uid)) => (uid, 0, uid.to_string(), "/".to_owned()),
            (None, None) => return Err(UnknownAccount::User(user.to_owned())),
        };
        let (gid, groups) = match group {
            Some(group) => (self.gid(group)?, Vec::new()),
            None => (gid, self.groups_of(&name)),
        };
        let home = if home.is_empty() { "/".to_owned() } else { home };
        Ok(Identity { uid, gid, groups, name, home })
    }

    fn gid(&self, group: &str) -> Result<u32, UnknownAccount> {
        let named = self.groups().find(|line| line.name == group).map(|line| line.gid);
        named.or_else(|| group.parse().ok()).ok_or_else(|| UnknownAccount::Group(group.to_owned()))
    }

    fn groups_of(&self, user: &str) -> Vec<u32> {
        self.groups()
            .filter(|line| line.members.split(',').any(|member| member == user))
            .map(|line| line.gid)
            .collect()
    }

    fn users(&self) -> impl Iterator<Item = PasswdLine<'_>> {
        lines(&self.passwd).filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            let home = fields.nth(1)?;
            Some(PasswdLine { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
        })
    }

    fn groups(&self) -> impl Iterator<Item = GroupLine<'_>> {
        lines(&self.group).filter_map(|line| {
            let mut fields = line.split(':');
            let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
            Some(GroupLine { name, gid: gid.parse().ok()?, members: fields.next()? })
        })
    }
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &str> {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok())
}

/// The path may be anything the guest made of it: a pipe must not block, a device not be read.
fn read(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    let open = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    if let Ok(file) = open
        && file.metadata().is_ok_and(|metadata| metadata.is_file())
        && file.take(MAX_ACCOUNT_FILE_BYTES).read_to_end(&mut bytes).is_err()
    {
        bytes.clear();
    }
    bytes
}
