//! System calls of the jail that no safe interface offers.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

/// Ends this process when the thread that made it ends. Cleared by changes of credentials.
pub(super) fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?)
}

/// No program that this process executes can give it privileges.
pub(super) fn forbid_new_privileges() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// Neither core dumps nor other processes of the user see this process's memory.
pub(super) fn forbid_dumps() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

/// Closes every descriptor from `first` on.
pub(super) fn close_from(first: RawFd) -> io::Result<()> {
    let first = libc::c_uint::try_from(first).map_err(io::Error::other)?;
    // SAFETY: at this point of the process's life nothing has opened a descriptor of that range.
    match unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The kernel's Landlock ABI.
pub(super) fn landlock_abi() -> io::Result<u32> {
    const CREATE_RULESET_VERSION: libc::c_uint = 1;
    let (attributes, size) = (std::ptr::null::<u8>(), 0usize);
    // SAFETY: with this flag the kernel takes no attributes and only returns a number.
    let abi =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, attributes, size, CREATE_RULESET_VERSION) };
    u32::try_from(abi).map_err(|_| io::Error::last_os_error())
}

/// A mount namespace of this process's own.
pub(super) fn own_mounts() -> io::Result<()> {
    // SAFETY: only the view of mounts is unshared; descriptors and memory stay as they are.
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?)
}

/// Empties all capability sets, the bounding set included.
pub(super) fn drop_capabilities() -> io::Result<()> {
    for number in 0..64 {
        // Numbers that the kernel does not know, and processes without the right to drop: the sets below
        // matter, and the report shows what is left.
        // SAFETY: the call takes plain numbers.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
    }
    let _ = rustix::thread::clear_ambient_capability_set();
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Runs `step` in the child between `fork` and `exec`. This process must have one thread, so that the child
/// may allocate.
pub(super) fn before_exec(
    command: &mut Command,
    step: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: the process has one thread, so no lock is held by another one at the fork.
    unsafe { command.pre_exec(step) };
}

/// Whether the kernel says that a filter of system calls is in force on this thread.
pub(super) fn is_filtered() -> bool {
    // `SECCOMP_MODE_FILTER` of `linux/seccomp.h`.
    const FILTER: libc::c_int = 2;
    // SAFETY: the call takes plain numbers and only returns one.
    unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) == FILTER }
}

/// Keeps the C library to one heap. The heaps that it makes for other threads shrink, and before the first one does
/// it opens a file of `/proc` to decide how.
pub(super) fn keep_one_heap() {
    // Another C library has no such heaps.
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes plain numbers.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

thread_local! {
    /// What this thread is for, as its trapped calls tell it.
    static KIND: Cell<&'static str> = const { Cell::new("unknown") };
}

/// Makes a trapped system call of this thread tell its number and the thread's `kind` on standard error before the
/// process ends.
pub(super) fn report_trapped_calls(kind: &'static str) -> io::Result<()> {
    KIND.set(kind);
    // SAFETY: an all-zero `sigaction` is valid: no flags, empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_trap as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the action is initialised, and its function makes only async-signal-safe calls.
    match unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What a process that was trapped exits with: as a shell tells of signal 31.
const TRAPPED: libc::c_int = 128 + libc::SIGSYS;

extern "C" fn on_trap(_: libc::c_int, details: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // `si_syscall` of `siginfo_t`: after three ints and a pointer.
    const SYSCALL_OFFSET: usize = 24;
    // SAFETY: the kernel passes a whole `siginfo_t`, which is 128 bytes long.
    let place = unsafe { details.cast::<u8>().add(SYSCALL_OFFSET) };
    // SAFETY: the place is inside that structure and aligned for an int.
    let number = unsafe { place.cast::<libc::c_int>().read() };
    let mut text = *b"forbidden system call 0000 of a thread for ";
    let mut rest = number.unsigned_abs();
    for digit in text[22..26].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    for part in [&text[..], KIND.get().as_bytes(), b"\n"] {
        // SAFETY: the buffer is as long as said.
        unsafe { libc::write(2, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(TRAPPED) }
}
