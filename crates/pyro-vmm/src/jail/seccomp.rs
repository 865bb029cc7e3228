//! The system calls that the serving process may make: everything else ends it.
//!
//! There is no call here that opens, executes, connects, forks or signals another process; what has to be opened
//! was opened before. The threads share their memory, so a filter keeps the host from a thread, not one thread
//! from another.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction as Action, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

use super::sys;
use crate::protocol::SeccompAction;

/// `_IOW(0xAE, 0x61, struct kvm_irq_level)`, `_IO(0xAE, 0x80)` and `_IOR(0xAE, 0x81, struct kvm_regs)` of
/// `linux/kvm.h`.
const KVM_IRQ_LINE: u64 = 0x4008_AE61;
const KVM_RUN: u64 = 0xAE80;
const KVM_GET_REGS: u64 = 0x8090_AE81;

/// The type in a socket's type, beside its flags (`SOCK_TYPE_MASK` of `linux/net.h`).
const SOCKET_TYPE_MASK: libc::c_int = 0xf;

/// What a thread is for, which decides what it may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thread {
    /// The loop with all devices.
    Devices(Engine),
    /// A vCPU of the native engine: it runs the guest and changes registers of devices.
    Vcpu,
}

impl Thread {
    /// For the one who reads what was trapped.
    fn name(self) -> &'static str {
        match self {
            Self::Devices(_) => "devices",
            Self::Vcpu => "vcpu",
        }
    }
}

/// Where the vCPUs are that the thread with the devices stops and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    /// In a process of their own.
    Process,
    /// Threads of this process.
    Threads,
}

/// Calls of every thread, with any arguments.
const COMMON: [libc::c_long; 17] = [
    // Event counters, and what a trapped call says.
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_clock_gettime,
    // A driver that resets its socket device ends the streams that the loop watches.
    libc::SYS_epoll_ctl,
    // The allocator; new mappings are checked below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // The runtime's: locks, panics, the end of a thread and of the process.
    libc::SYS_futex,
    // The kernel's own, when a wait with a time limit goes on after the process was stopped.
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_sched_yield,
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Calls of the thread with the devices, with any arguments.
const OF_DEVICES: [libc::c_long; 31] = [
    // Streams, queues' notifiers, the disk's files.
    libc::SYS_read,
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
    // Messages with descriptors; new sockets come from socketpair alone.
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    // The loop and its timers.
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_timerfd_settime,
    libc::SYS_getrandom,
];

/// Puts the filter in force on this thread.
pub(super) fn apply(thread: Thread, action: SeccompAction) -> Result<(), String> {
    if action == SeccompAction::Trap {
        sys::report_trapped_calls(thread.name()).map_err(|error| error.to_string())?;
    }
    let program = program(thread, action).map_err(|error| error.to_string())?;
    seccompiler::apply_filter(&program).map_err(|error| error.to_string())
}

fn program(thread: Thread, action: SeccompAction) -> Result<BpfProgram, seccompiler::BackendError> {
    let otherwise = match action {
        SeccompAction::Kill => Action::KillProcess,
        SeccompAction::Trap => Action::Trap,
    };
    let rules = rules(thread)?;
    let runs = runs(&rules);
    let checked = rules.into_iter().filter(|(_, rules)| !rules.is_empty()).collect();
    let checked: BpfProgram =
        SeccompFilter::new(checked, otherwise.clone(), Action::Allow, TargetArch::x86_64)?.try_into()?;
    Ok(by_halving(&runs, checked, otherwise))
}

/// What follows from a system call's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Allow = 0,
    Refuse = 1,
    /// Its arguments decide.
    Check = 2,
}

/// Numbers with one verdict, from this one to the next run's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u32,
    verdict: Verdict,
}

/// All numbers there are, in order.
fn runs(rules: &Rules) -> Vec<Run> {
    let mut runs = vec![Run { first: 0, verdict: Verdict::Refuse }];
    for (&call, rules) in rules {
        let first = u32::try_from(call).expect("numbers of system calls are small");
        let verdict = if rules.is_empty() { Verdict::Allow } else { Verdict::Check };
        // The refused run before it may be empty.
        runs.pop_if(|last| last.first == first);
        if runs.last().is_none_or(|last| last.verdict != verdict) {
            runs.push(Run { first, verdict });
        }
        runs.push(Run { first: first + 1, verdict: Verdict::Refuse });
    }
    runs
}

/// Places in `struct seccomp_data` of `linux/seccomp.h`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// `AUDIT_ARCH_X86_64` of `linux/audit.h`.
const X86_64: u32 = 0xC000_003E;

/// The filter that finds a number's run by halving, and leaves numbers whose arguments count to the filter `checked`.
///
/// A chain of comparisons would mean the same. But a kernel that takes a filter runs it for every number, to learn
/// which calls it need not filter at all, and a chain is as long as the list.
fn by_halving(runs: &[Run], checked: BpfProgram, otherwise: Action) -> BpfProgram {
    let statement = |code: u32, k| sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load = |place| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, place);
    let result = |action: Action| statement(libc::BPF_RET | libc::BPF_K, action.into());
    let mut program = vec![load(ARCHITECTURE)];
    // There is one jump fewer than there are runs, and before them the number is loaded.
    let verdicts = program.len() + 2 + runs.len() - 1;
    // `checked` begins with the architecture, too, and ends the process for another one.
    let other = verdicts + Verdict::Check as usize;
    program.push(jump(libc::BPF_JEQ, X86_64, program.len(), program.len() + 1, other));
    program.push(load(NUMBER));
    search(runs, verdicts, &mut program);
    // In the order of `Verdict`.
    program.extend([result(Action::Allow), result(otherwise)]);
    program.extend(checked);
    program
}

/// Appends the jumps from a number within `runs`, which are two or more, to what is behind `verdicts`.
fn search(runs: &[Run], verdicts: usize, program: &mut BpfProgram) {
    let (low, high) = runs.split_at(runs.len() / 2);
    let place = program.len();
    let target = |half: &[Run], jumps| match half {
        [run] => verdicts + run.verdict as usize,
        _ => jumps,
    };
    let (to_low, to_high) = (target(low, place + 1), target(high, place + low.len()));
    program.push(jump(libc::BPF_JGE, high[0].first, place, to_high, to_low));
    for half in [low, high].into_iter().filter(|half| half.len() > 1) {
        search(half, verdicts, program);
    }
}

/// A jump at `place` that compares with `k`.
fn jump(comparison: u32, k: u32, place: usize, if_true: usize, if_false: usize) -> sock_filter {
    let over = |target: usize| u8::try_from(target - place - 1).expect("there are fewer than 250 runs");
    let code = (libc::BPF_JMP | libc::BPF_K | comparison) as u16;
    sock_filter { code, jt: over(if_true), jf: over(if_false), k }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn rules(thread: Thread) -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = COMMON.into_iter().map(|call| (call, vec![])).collect();
    // Memory for guests and the allocator, never to be executed.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![SeccompRule::new(vec![masked(2, libc::PROT_EXEC, 0)?])?]);
    }
    // Words to the host, a panic's among them; never to an address.
    let nowhere = SeccompCondition::new(4, Len::Qword, Op::Eq, 0)?;
    rules.insert(libc::SYS_sendto, vec![SeccompRule::new(vec![nowhere])?]);
    match thread {
        Thread::Devices(engine) => {
            rules.extend(OF_DEVICES.into_iter().map(|call| (call, vec![])));
            // One end of a stream for the guest goes to the host. A stream has one peer, where datagrams could go
            // to any address.
            let family = SeccompCondition::new(0, Len::Dword, Op::Eq, libc::AF_UNIX as u64)?;
            let kind = masked(1, SOCKET_TYPE_MASK, libc::SOCK_STREAM)?;
            rules.insert(libc::SYS_socketpair, vec![SeccompRule::new(vec![family, kind])?]);
            let commands =
                [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC];
            rules.insert(libc::SYS_fcntl, any_of(1, &commands.map(|command| command as u64))?);
            rules.extend(for_engine(engine)?);
        }
        Thread::Vcpu => {
            // Runs the guest; the registers are for the error when it cannot go on.
            rules.insert(libc::SYS_ioctl, any_of(1, &[KVM_RUN, KVM_GET_REGS])?);
            // In a build with assertions the standard library looks at a descriptor before it closes it.
            rules.insert(libc::SYS_fcntl, any_of(1, &[libc::F_GETFD as u64])?);
            // Whether this filter is in force, for the report.
            rules.insert(libc::SYS_prctl, any_of(0, &[libc::PR_GET_SECCOMP as u64])?);
        }
    }
    Ok(rules)
}

/// What it takes to interrupt, stop and end the vCPUs.
fn for_engine(engine: Engine) -> Result<Rules, seccompiler::BackendError> {
    // Non-blocking mode, and how much waits to be read.
    let requests = [libc::FIONBIO, libc::FIONREAD];
    Ok(match engine {
        // Through counters, and the descriptor of their process.
        Engine::Process => [
            (libc::SYS_ioctl, any_of(1, &requests)?),
            (libc::SYS_pidfd_send_signal, vec![]),
            (libc::SYS_waitid, vec![]),
        ]
        .into(),
        // By lines of the machine's interrupt controllers, and a kick within this process.
        Engine::Threads => {
            let own = SeccompCondition::new(0, Len::Dword, Op::Eq, std::process::id().into())?;
            let kick = SeccompCondition::new(2, Len::Dword, Op::Eq, libc::SIGRTMIN() as u64)?;
            let kicks = vec![SeccompRule::new(vec![own, kick])?];
            let requests = any_of(1, &[&requests[..], &[KVM_IRQ_LINE]].concat())?;
            [(libc::SYS_ioctl, requests), (libc::SYS_getpid, vec![]), (libc::SYS_tgkill, kicks)].into()
        }
    })
}

/// Rules that allow a call when one of its arguments has one of these values.
fn any_of(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let rule =
        |value: &u64| SeccompRule::new(vec![SeccompCondition::new(argument, Len::Dword, Op::Eq, *value)?]);
    values.iter().map(rule).collect()
}

fn masked(
    argument: u8,
    mask: libc::c_int,
    value: libc::c_int,
) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, Len::Dword, Op::MaskedEq(mask as u64), value as u64)
}

#[cfg(test)]
mod tests;
