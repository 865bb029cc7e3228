//! The host name in `/etc`. Files of the image are kept; `/etc/hosts` gets one marked line, so that tools
//! which look their own host up (`sudo`) find it without a network. `/etc/resolv.conf` is the image's, see `network`.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

#[cfg(test)]
mod tests;

const MARK: &str = "# this machine";
const LOCALHOST: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
/// A longer `/etc/hosts` is left alone.
const MAX_HOSTS_BYTES: u64 = 1 << 20;

/// Letters, digits, dots and hyphens: nothing that `/etc/hosts` gives a meaning.
pub(super) fn is_host_name(name: &str) -> bool {
    !name.starts_with(['-', '.'])
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

/// Writes `hostname` and `hosts` below `etc`; gives what went wrong.
pub(super) fn write_files(etc: &Path, name: &str) -> Vec<String> {
    let hosts = etc.join("hosts");
    let hostname = etc.join("hostname");
    let made = fs::create_dir_all(etc);
    let results = [
        ("/etc", made),
        ("/etc/hostname", update(&hostname, |_| format!("{name}\n"))),
        ("/etc/hosts", update(&hosts, |old| with_host(old, name))),
    ];
    results
        .into_iter()
        .filter_map(|(path, result)| result.err().map(|error| format!("{path} is not written: {error}")))
        .collect()
}

fn with_host(old: &str, name: &str) -> String {
    let names_it = |line: &&str| {
        let line = line.split('#').next().unwrap_or_default();
        line.split_ascii_whitespace().skip(1).any(|word| word == name)
    };
    if old.lines().find(names_it).is_some() {
        return old.to_owned();
    }
    let mut text: String =
        old.lines().filter(|line| !line.ends_with(MARK)).flat_map(|line| [line, "\n"]).collect();
    if !text.lines().any(|line| line.split_ascii_whitespace().any(|word| word == "localhost")) {
        text.push_str(LOCALHOST);
    }
    text + &format!("127.0.1.1\t{name}\t{MARK}\n")
}

/// Replaces a regular file's text, if it changes; anything else in its place is the image's own business.
fn update(path: &Path, change: impl FnOnce(&str) -> String) -> io::Result<()> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut options = File::options();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(flags)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > MAX_HOSTS_BYTES {
        return Err(io::Error::other("not a regular file of sane size"));
    }
    let mut old = String::new();
    (&file).take(MAX_HOSTS_BYTES).read_to_string(&mut old)?;
    let new = change(&old);
    if new != old {
        io::Seek::rewind(&mut file)?;
        file.write_all(new.as_bytes())?;
        file.set_len(new.len() as u64)?;
    }
    Ok(())
}
