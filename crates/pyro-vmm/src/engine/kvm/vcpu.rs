//! The threads of the vCPUs.
//!
//! ```text
//! made -> (confined) -> paused <-> running -> stopped
//! ```
//! A thread that is to pause gets a signal. Its handler asks KVM to leave the guest at once, so that the request
//! is not lost wherever it arrives, and KVM first completes an access of the guest that is half done.

mod sys;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use kvm_bindings::{KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};
use rustix::event::{EventfdFlags, eventfd};

use super::bus::Bus;
use super::vm::Vm;

/// How long a vCPU may take to leave the guest; it does so at once unless the host is starved.
const PAUSE_DEADLINE: Duration = Duration::from_secs(10);

/// Why the vCPUs run no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The guest switched the machine off.
    PoweredOff,
    /// The guest reset its CPU, on purpose or by a fault that it could not handle.
    Reset,
    /// KVM or this engine cannot go on.
    Failed(String),
}

/// What the threads are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Paused,
    Running,
}

struct State {
    wanted: Wanted,
    /// Threads that wait for [`Wanted::Running`].
    paused: usize,
}

/// What the threads share with their owner.
struct Shared {
    bus: Bus,
    state: Mutex<State>,
    changed: Condvar,
    stop: OnceLock<Stop>,
    stopped: OwnedFd,
}

/// All vCPUs of a machine, each on its thread. The threads end with the process.
pub(crate) struct Vcpus {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    #[allow(
        dead_code,
        reason = "held for its interrupt lines, which KVM cuts when nobody has the machine open"
    )]
    vm: Vm,
}

impl Vcpus {
    /// Starts the threads, paused, once all of them are confined. `confine` runs on each before anything of
    /// the guest does.
    pub(crate) fn start(
        vm: Vm,
        vcpus: Vec<VcpuFd>,
        bus: Bus,
        confine: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        sys::handle_kicks()?;
        let shared = Arc::new(Shared {
            bus,
            state: Mutex::new(State { wanted: Wanted::Paused, paused: 0 }),
            changed: Condvar::new(),
            stop: OnceLock::new(),
            stopped: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let confine = Arc::new(confine);
        let start = |(index, mut vcpu): (usize, VcpuFd)| {
            let (shared, confine) = (Arc::clone(&shared), Arc::clone(&confine));
            std::thread::Builder::new().name(format!("vcpu{index}")).spawn(move || {
                let _guard = PanicGuard(Arc::clone(&shared));
                sys::prepare_thread(&mut vcpu);
                let stop = match confine() {
                    Ok(()) => run(&mut vcpu, &shared),
                    Err(why) => Stop::Failed(format!("cannot confine a vCPU's thread: {why}")),
                };
                sys::forget_vcpu();
                shared.stop(stop);
            })
        };
        let threads = vcpus.into_iter().enumerate().map(start).collect::<io::Result<Vec<_>>>()?;
        let vcpus = Self { shared, threads, vm };
        vcpus.await_paused()?;
        Ok(vcpus)
    }

    /// Readable when [`Vcpus::stop_reason`] has something to tell.
    pub(crate) fn stopped_fd(&self) -> BorrowedFd<'_> {
        self.shared.stopped.as_fd()
    }

    /// Why they stopped, if they did.
    pub(crate) fn stop_reason(&self) -> Option<&Stop> {
        self.shared.stop.get()
    }

    /// Lets the guest go on.
    pub(crate) fn resume(&self) {
        self.shared.lock().wanted = Wanted::Running;
        self.shared.changed.notify_all();
    }

    /// Stops the guest between two instructions; returns when every vCPU is out of it.
    pub(crate) fn pause(&self) -> io::Result<()> {
        self.shared.lock().wanted = Wanted::Paused;
        for thread in &self.threads {
            sys::kick(thread)?;
        }
        self.await_paused()
    }

    fn await_paused(&self) -> io::Result<()> {
        let all_paused =
            |state: &mut State| state.paused < self.threads.len() && self.stop_reason().is_none();
        let (state, timeout) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), PAUSE_DEADLINE, all_paused)
            .expect("the process ends at the first panic");
        drop(state);
        match self.stop_reason() {
            Some(Stop::Failed(why)) => Err(io::Error::other(why.clone())),
            Some(Stop::PoweredOff | Stop::Reset) => Ok(()),
            None if timeout.timed_out() => Err(io::Error::other("a vCPU does not leave the guest")),
            None => Ok(()),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the process ends at the first panic")
    }

    /// The first reason is the one that counts.
    fn stop(&self, stop: Stop) {
        let _ = self.stop.set(stop);
        let _ = rustix::io::write(&self.stopped, &1u64.to_ne_bytes());
        // Under the lock, so that who has just looked waits already.
        drop(self.lock());
        self.changed.notify_all();
    }

    fn wait_while_paused(&self) {
        let mut state = self.lock();
        if state.wanted == Wanted::Running {
            return;
        }
        state.paused += 1;
        self.changed.notify_all();
        let mut state = self
            .changed
            .wait_while(state, |state| state.wanted == Wanted::Paused)
            .expect("the process ends at the first panic");
        state.paused -= 1;
    }
}

/// Makes a panic of a thread the machine's end.
struct PanicGuard(Arc<Shared>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self.0.stop.set(Stop::Failed("a vCPU's thread panicked".to_owned()));
            let _ = rustix::io::write(&self.0.stopped, &1u64.to_ne_bytes());
        }
    }
}

/// Body of a vCPU's thread.
fn run(vcpu: &mut VcpuFd, shared: &Shared) -> Stop {
    loop {
        shared.wait_while_paused();
        if let Some(stop) = run_until_kicked(vcpu, &shared.bus) {
            return stop;
        }
        vcpu.set_kvm_immediate_exit(0);
    }
}

/// `None` when the thread was kicked.
fn run_until_kicked(vcpu: &mut VcpuFd, bus: &Bus) -> Option<Stop> {
    loop {
        let stop = match vcpu.run() {
            Ok(VcpuExit::MmioWrite(address, data)) => {
                bus.write_memory(address, data);
                None
            }
            Ok(VcpuExit::MmioRead(address, data)) => {
                bus.read_memory(address, data);
                None
            }
            Ok(VcpuExit::IoOut(port, data)) => bus.write_port(port, data),
            Ok(VcpuExit::IoIn(port, data)) => {
                bus.read_port(port, data);
                None
            }
            Ok(VcpuExit::Shutdown) => Some(Stop::Reset),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => Some(Stop::PoweredOff),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET | KVM_SYSTEM_EVENT_CRASH, _)) => {
                Some(Stop::Reset)
            }
            Ok(VcpuExit::FailEntry(reason, _)) => {
                Some(Stop::Failed(format!("the processor does not enter the guest (reason {reason:#x})")))
            }
            Ok(VcpuExit::InternalError) => Some(Stop::Failed(internal_error(vcpu))),
            Ok(exit) => Some(Stop::Failed(format!("KVM left the guest for a reason unknown here: {exit:?}"))),
            Err(error) if error.errno() == libc::EINTR => return None,
            Err(error) if error.errno() == libc::EAGAIN => None,
            Err(error) => Some(Stop::Failed(format!("KVM does not run the guest: {error}"))),
        };
        if stop.is_some() {
            return stop;
        }
    }
}

/// What KVM says when it cannot go on, with where the guest was.
fn internal_error(vcpu: &mut VcpuFd) -> String {
    let why = match sys::internal_error_kind(vcpu.get_kvm_run()) {
        1 => "it cannot emulate an instruction".to_owned(),
        2 => "events overlap".to_owned(),
        3 => "an event cannot be delivered".to_owned(),
        4 => "the processor left the guest unexpectedly".to_owned(),
        kind => format!("error {kind}"),
    };
    match vcpu.get_regs() {
        Ok(registers) => format!("KVM cannot go on with the guest: {why} (at {:#x})", registers.rip),
        Err(_) => format!("KVM cannot go on with the guest: {why}"),
    }
}
