//! Facts from `/proc/PID`, read through descriptors that were opened before the jail closed.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use super::{Limit, ProcessJail};

/// `status` is near 1.5 KiB.
const STATUS_BYTES: usize = 8 << 10;

/// Fills in what `/proc/PID/status` tells at this moment. Returns how many threads the process has, if that is told.
pub(super) fn observe(jail: &mut ProcessJail, status: Option<&File>) -> Option<u32> {
    let mut bytes = [0; STATUS_BYTES];
    let Some(len) = status.and_then(|file| file.read_at(&mut bytes, 0).ok()) else {
        jail.missing.push("/proc/PID/status cannot be read".into());
        return None;
    };
    let text = String::from_utf8_lossy(&bytes[..len]);
    jail.no_new_privs = number(&text, "NoNewPrivs") == Some(1);
    jail.seccomp_filters = match number(&text, "Seccomp") {
        // Kernels before 5.9 do not count them.
        Some(2) => number(&text, "Seccomp_filters").unwrap_or(1),
        _ => 0,
    };
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    jail.no_capabilities = sets
        .iter()
        .all(|set| field(&text, set).and_then(|value| u64::from_str_radix(value, 16).ok()) == Some(0));
    number(&text, "Threads")
}

/// The process id behind a descriptor as the mounted `/proc` counts it.
pub(super) fn pid_behind(pidfd: BorrowedFd<'_>) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    number(&text, "Pid").filter(|pid| *pid != 0)
}

/// Hard limits that are not unlimited, from `/proc/PID/limits`.
pub(super) fn limits(path: &str) -> Vec<Limit> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let names =
        [("core", "Max core file size"), ("nofile", "Max open files"), ("memlock", "Max locked memory")];
    names
        .into_iter()
        .filter_map(|(name, title)| {
            let line = text.lines().find_map(|line| line.strip_prefix(title))?;
            let value = line.split_whitespace().nth(1)?.parse().ok()?;
            Some(Limit { name: name.to_owned(), value })
        })
        .collect()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn number(text: &str, name: &str) -> Option<u32> {
    field(text, name)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_matched_by_their_whole_name() {
        let text = "Name:\tx\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n";
        assert_eq!(number(text, "Seccomp"), Some(2));
        assert_eq!(number(text, "Seccomp_filters"), Some(3));
        assert_eq!(number(text, "NoNew"), None);
    }

    #[test]
    fn this_test_is_not_confined() {
        let mut jail = ProcessJail::default();
        observe(&mut jail, Some(&File::open("/proc/self/status").unwrap()));
        assert_eq!(jail.missing, Vec::<String>::new());
        assert!(!jail.no_capabilities || !rustix::process::geteuid().is_root());
    }
}
