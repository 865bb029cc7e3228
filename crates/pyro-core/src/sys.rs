//! The crate's only unsafe code.

#![allow(unsafe_code)]

use rustix::fd::OwnedFd;
use rustix::mm::{Advice, madvise};
use std::fs;
use std::io;
use std::ptr;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Puts a descriptor on the runtime's event loop.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open until it is dropped, `AsyncFd` owns it and gives out shared
    // references only, and its `as_raw_fd` always answers with the same number.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(|error| error.into_parts().1)
}

/// Takes this process's code out of its memory, but for what runs next: nearly all of it was needed once, and the rest
/// of the machine's life is waiting. The files still have it, and the kernel maps it again where it is wanted.
pub(crate) fn forget_code() -> io::Result<()> {
    for (start, end) in code(&fs::read_to_string("/proc/self/maps")?) {
        let place = ptr::without_provenance_mut(start);
        // SAFETY: the mapping is a file's, private, and cannot be written, so that what comes back is what was there;
        // it is still there, for this process unmaps no code.
        unsafe { madvise(place, end - start, Advice::LinuxDontNeed)? };
    }
    Ok(())
}

/// The mappings of files that can be executed and not written, first and last address of each (proc(5), `maps`).
fn code(maps: &str) -> impl Iterator<Item = (usize, usize)> {
    maps.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (range, access, path) = (words.next()?, words.next()?, words.nth(3)?);
        let (start, end) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        (access == "r-xp" && path.starts_with('/')).then_some((address(start)?, address(end)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_what_files_have_and_nobody_writes() {
        let maps = "\
            55d0-55e0 r--p 00000000 fe:00 12 /usr/bin/pyro\n\
            55e0-55f0 r-xp 00010000 fe:00 12 /usr/bin/pyro with space\n\
            55f0-5600 rwxp 00020000 fe:00 12 /usr/bin/pyro\n\
            7f00-7f10 r-xp 00000000 00:00 0\n\
            7fff-8000 r-xp 00000000 00:00 0 [vdso]\n";
        assert_eq!(code(maps).collect::<Vec<_>>(), [(0x55e0, 0x55f0)]);
    }

    #[test]
    fn forgotten_code_takes_no_memory_and_runs_again() {
        let resident = || {
            let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
            let mut lines = smaps.lines().skip_while(|line| !line.contains(" r-xp "));
            let rss = lines.find_map(|line| line.strip_prefix("Rss:")).unwrap();
            rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        // What other tests run meanwhile comes back at once, so that one look may find more than before.
        let is_smaller = (0..100).any(|_| {
            let before = resident();
            forget_code().unwrap();
            resident() < before
        });
        assert!(is_smaller);
    }
}
