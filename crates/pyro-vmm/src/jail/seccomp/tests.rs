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
    let data: Vec<u32> = words.chain(arguments.iter().flat_map(|a| [*a as u32, (*a >> 32) as u32])).collect();
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
        let rules = rules(thread).unwrap();
        for (action, otherwise) in
            [(SeccompAction::Kill, Action::KillProcess), (SeccompAction::Trap, Action::Trap)]
        {
            let (program, chain) = (program(thread, action).unwrap(), chain(thread, otherwise));
            let numbers = (0..600).chain((0..600).map(|n| n | X32)).chain([u32::MAX - 1, u32::MAX]);
            for number in numbers {
                let is_checked = rules.get(&number.into()).is_some_and(|rules| !rules.is_empty());
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
