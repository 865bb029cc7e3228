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

/// `_IO(0xAE, 0x80)` and `_IOR(0xAE, 0x81, struct kvm_regs)` of `linux/kvm.h`.
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
            // Non-blocking mode, and how much waits to be read.
            rules.insert(libc::SYS_ioctl, any_of(1, &[libc::FIONBIO, libc::FIONREAD])?);
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

/// What it takes to stop and end the vCPUs.
fn for_engine(engine: Engine) -> Result<Rules, seccompiler::BackendError> {
    Ok(match engine {
        // Through the descriptor of its process.
        Engine::Process => [libc::SYS_pidfd_send_signal, libc::SYS_waitid].map(|call| (call, vec![])).into(),
        // By a kick, within this process.
        Engine::Threads => {
            let own = SeccompCondition::new(0, Len::Dword, Op::Eq, std::process::id().into())?;
            let kick = SeccompCondition::new(2, Len::Dword, Op::Eq, libc::SIGRTMIN() as u64)?;
            let kicks = vec![SeccompRule::new(vec![own, kick])?];
            [(libc::SYS_getpid, vec![]), (libc::SYS_tgkill, kicks)].into()
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
mod tests {
    use super::*;

    const THREADS: [Thread; 3] =
        [Thread::Devices(Engine::Process), Thread::Devices(Engine::Threads), Thread::Vcpu];

    #[test]
    fn the_filter_compiles_for_both_actions() {
        for thread in THREADS {
            assert!(program(thread, SeccompAction::Kill).is_ok());
            assert!(program(thread, SeccompAction::Trap).is_ok());
        }
    }

    /// `AUDIT_ARCH_I386` and `__X32_SYSCALL_BIT`.
    const I386: u32 = 0x4000_0003;
    const X32: u32 = 0x4000_0000;

    fn chain(thread: Thread, otherwise: Action) -> BpfProgram {
        let filter = SeccompFilter::new(rules(thread).unwrap(), otherwise, Action::Allow, TargetArch::x86_64);
        filter.unwrap().try_into().unwrap()
    }

    /// What the kernel does with a call, and after how many steps.
    fn outcome(program: &[sock_filter], architecture: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
        let words = [number, architecture, 0, 0].into_iter();
        let data: Vec<u32> =
            words.chain(arguments.iter().flat_map(|a| [*a as u32, (*a >> 32) as u32])).collect();
        let (mut place, mut accumulator) = (0, 0);
        for step in 1.. {
            let sock_filter { code, jt, jf, k } = program[place].clone();
            let branch = |taken| usize::from(if taken { jt } else { jf });
            place += 1;
            match u32::from(code) {
                0x20 => accumulator = data[k as usize / 4],
                0x54 => accumulator &= k,
                0x05 => place += k as usize,
                0x15 => place += branch(accumulator == k),
                0x25 => place += branch(accumulator > k),
                0x35 => place += branch(accumulator >= k),
                0x06 => return (k, step),
                other => panic!("instruction {other:#x}"),
            }
        }
        unreachable!()
    }

    /// Arguments that rules of ours tell apart, for every call.
    fn arguments() -> Vec<[u64; 6]> {
        let first = [0, 1, u64::from(std::process::id()), libc::PR_GET_SECCOMP as u64, libc::AF_INET as u64];
        let second = [0, 1, 2, 3, 4, 5, 0x801, 1030, libc::FIONBIO, libc::FIONREAD, KVM_RUN, KVM_GET_REGS];
        let third = [0, 2, 4, 9, libc::SIGRTMIN() as u64];
        let fifth = [0, 1, 1 << 32];
        let mut all = Vec::new();
        for (a, b) in first.into_iter().flat_map(|a| second.map(|b| (a, b))) {
            all.extend(third.into_iter().flat_map(|c| fifth.map(|e| [a, b, c, 0, e, 0])));
        }
        all
    }

    #[test]
    fn halving_means_what_a_chain_of_the_rules_means() {
        let arguments = arguments();
        for thread in THREADS {
            for (action, otherwise) in
                [(SeccompAction::Kill, Action::KillProcess), (SeccompAction::Trap, Action::Trap)]
            {
                let (program, chain) = (program(thread, action).unwrap(), chain(thread, otherwise));
                let numbers = (0..600).chain((0..600).map(|n| n | X32)).chain([u32::MAX - 1, u32::MAX]);
                for number in numbers {
                    let is_checked =
                        rules(thread).unwrap().get(&number.into()).is_some_and(|r| !r.is_empty());
                    let arguments = if is_checked { &arguments[..] } else { &arguments[..1] };
                    for arguments in arguments {
                        for architecture in [X86_64, I386, 0] {
                            let ours = outcome(&program, architecture, number, *arguments).0;
                            let theirs = outcome(&chain, architecture, number, *arguments).0;
                            assert_eq!(ours, theirs, "{thread:?}: {number} {arguments:?} {architecture:#x}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn other_architectures_and_unlisted_numbers_are_refused_and_listed_ones_allowed() {
        let (allow, kill) = (u32::from(Action::Allow), u32::from(Action::KillProcess));
        for thread in THREADS {
            let (program, rules) = (program(thread, SeccompAction::Kill).unwrap(), rules(thread).unwrap());
            let outcome = |architecture, number| outcome(&program, architecture, number, [0; 6]).0;
            for number in 0..600 {
                let unchecked = rules.get(&number.into()).is_some_and(|rules| rules.is_empty());
                assert_eq!(outcome(X86_64, number | X32), kill);
                assert_eq!(outcome(I386, number), kill);
                assert!(!unchecked || outcome(X86_64, number) == allow, "{thread:?}: {number}");
                assert!(rules.contains_key(&number.into()) || outcome(X86_64, number) == kill);
            }
        }
    }

    #[test]
    fn a_number_is_found_in_few_steps() {
        for thread in THREADS {
            let program = program(thread, SeccompAction::Kill).unwrap();
            let rules = rules(thread).unwrap();
            let free = (0..500).filter(|number| rules.get(&i64::from(*number)).is_none_or(Vec::is_empty));
            let most = free.map(|number| outcome(&program, X86_64, number, [0; 6]).1).max();
            // Loads, the architecture, seven halvings, the result.
            assert!(most <= Some(11), "{thread:?}: {most:?} of {}", program.len());
        }
    }

    #[test]
    fn nothing_opens_executes_or_connects() {
        let rules = THREADS.map(|thread| rules(thread).unwrap());
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
            libc::SYS_tkill,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_getfd,
            libc::SYS_seccomp,
            libc::SYS_io_uring_setup,
            libc::SYS_memfd_create,
            libc::SYS_mount,
            libc::SYS_unshare,
        ] {
            assert!(rules.iter().all(|rules| !rules.contains_key(&call)), "system call {call} is allowed");
        }
    }

    #[test]
    fn a_signal_goes_to_the_engine_where_it_is_and_nowhere_else() {
        let signals = [libc::SYS_tgkill, libc::SYS_pidfd_send_signal];
        let allowed = THREADS.map(|thread| signals.map(|call| rules(thread).unwrap().contains_key(&call)));
        assert_eq!(allowed, [[false, true], [true, false], [false, false]]);
    }
}
