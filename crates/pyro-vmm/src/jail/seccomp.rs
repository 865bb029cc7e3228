//! The system calls that the serving process may make: everything else ends it.
//!
//! There is no call here that opens, executes, connects, forks or signals; what has to be opened was opened
//! before.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction as Action, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

use super::sys;
use crate::protocol::SeccompAction;

/// Calls allowed with any arguments.
const ALLOWED: [libc::c_long; 48] = [
    // Streams, queues' notifiers, the disk's files.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    // A disk's next layer is locked, and its sealed one unlocked.
    libc::SYS_flock,
    libc::SYS_sync_file_range,
    libc::SYS_fstat,
    // `File::metadata` is statx with an empty path; there is nothing to name in an empty root.
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_close,
    // Messages with descriptors; new sockets come from socketpair alone.
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    // The loop and its timers.
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_epoll_ctl,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_timerfd_settime,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    // The allocator; new mappings are checked below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // The engine's end, through descriptors.
    libc::SYS_pidfd_send_signal,
    libc::SYS_waitid,
    // The runtime's: locks, panics, the process's end.
    libc::SYS_futex,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Puts the filter in force on this process, which has one thread.
pub(super) fn apply(action: SeccompAction) -> Result<(), String> {
    if action == SeccompAction::Trap {
        sys::report_trapped_calls().map_err(|error| error.to_string())?;
    }
    let program = program(action).map_err(|error| error.to_string())?;
    seccompiler::apply_filter(&program).map_err(|error| error.to_string())
}

fn program(action: SeccompAction) -> Result<BpfProgram, seccompiler::BackendError> {
    let otherwise = match action {
        SeccompAction::Kill => Action::KillProcess,
        SeccompAction::Trap => Action::Trap,
    };
    SeccompFilter::new(rules()?, otherwise, Action::Allow, TargetArch::x86_64)?.try_into()
}

fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.into_iter().map(|call| (call, vec![])).collect();
    let masked = |argument, mask: libc::c_int, value: libc::c_int| {
        SeccompCondition::new(argument, Len::Dword, Op::MaskedEq(mask as u64), value as u64)
    };
    let equal = |argument, value: u64| SeccompCondition::new(argument, Len::Dword, Op::Eq, value);
    let rule = |condition| SeccompRule::new(vec![condition]);
    // Memory for guests and the allocator, never to be executed.
    rules.insert(libc::SYS_mmap, vec![rule(masked(2, libc::PROT_EXEC, 0)?)?]);
    rules.insert(libc::SYS_mprotect, vec![rule(masked(2, libc::PROT_EXEC, 0)?)?]);
    // One end of a stream for the guest goes to the host.
    rules.insert(libc::SYS_socketpair, vec![rule(equal(0, libc::AF_UNIX as u64)?)?]);
    let fcntl = [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC];
    let fcntl: Result<Vec<_>, seccompiler::BackendError> =
        fcntl.into_iter().map(|command| rule(equal(1, command as u64)?)).collect();
    rules.insert(libc::SYS_fcntl, fcntl?);
    // Non-blocking mode, and how much waits to be read.
    let requests = [libc::FIONBIO, libc::FIONREAD];
    let ioctl: Result<Vec<_>, seccompiler::BackendError> =
        requests.into_iter().map(|request| rule(equal(1, request)?)).collect();
    rules.insert(libc::SYS_ioctl, ioctl?);
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiles_for_both_actions() {
        assert!(program(SeccompAction::Kill).is_ok());
        assert!(program(SeccompAction::Trap).is_ok());
    }

    #[test]
    fn nothing_opens_executes_or_connects() {
        let rules = rules().unwrap();
        for call in [
            libc::SYS_open,
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_fork,
            libc::SYS_ptrace,
            libc::SYS_kill,
            libc::SYS_io_uring_setup,
            libc::SYS_memfd_create,
            libc::SYS_mount,
            libc::SYS_unshare,
        ] {
            assert!(!rules.contains_key(&call), "system call {call} is allowed");
        }
    }
}
