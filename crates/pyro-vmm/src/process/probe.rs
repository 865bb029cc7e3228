//! The jail without a machine: what is in force on this host, and what happens to who tries to leave.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::thread::JoinHandle;

use super::{SetupError, exited, send_event, take};
use crate::jail::{Confinement, Jail, JailError, NamespaceIds, Place, Trial};
use crate::protocol::{Event, ExitReason, SeccompAction, Started, fds};

/// Closes the jail, with one thread as of a vCPU, reports, and tries what it is told to. The last event tells how
/// that went, if it can: [`ExitReason::PoweredOff`] when nothing was refused.
pub(super) fn run(
    host_namespaces: NamespaceIds,
    seccomp: SeccompAction,
    trial: Option<Trial>,
    control: &OwnedFd,
) -> Result<Event, SetupError> {
    let device = trial.as_ref().map(|_| take(fds::PROBE_DEVICE)).transpose()?;
    let trial = trial.zip(device);
    let mut jail = Jail::prepare(host_namespaces, seccomp)?;
    jail.enclose()?;
    let vcpu = VcpuThread::start(jail.confinement())?;
    let (early, late) = match trial {
        Some((trial, device)) if trial.place == Place::Enclosed => (Some((trial, device)), None),
        late => (None, late),
    };
    let early = early.map(carry_out);
    jail.filter()?;
    let started = Started { engine: "none".into(), engine_pid: 0, jail: jail.report() };
    // A host that does not listen also does not care.
    let _ = send_event(control.as_fd(), &Event::Started(started));
    let outcome = match late {
        Some((trial, device)) if trial.place == Place::Devices => {
            vcpu.end(None)??;
            carry_out((trial, device))
        }
        late => vcpu.end(late)?,
    };
    Ok(exited(match early.unwrap_or(outcome) {
        Ok(()) => ExitReason::PoweredOff,
        Err(refused) => ExitReason::VmmFailed { message: format!("refused: {refused}") },
    }))
}

/// What is tried, and the device for it.
type Prepared = (Trial, OwnedFd);

fn carry_out((trial, device): Prepared) -> io::Result<()> {
    trial.attempt.carry_out(device.as_fd())
}

/// A thread that is confined as a vCPU's and waits for what it shall try.
struct VcpuThread {
    thread: JoinHandle<io::Result<()>>,
    orders: mpsc::Sender<Prepared>,
}

impl VcpuThread {
    /// Returns when it is confined.
    fn start(confinement: Confinement) -> Result<Self, SetupError> {
        let (orders, order) = mpsc::channel();
        let (confined, is_confined) = mpsc::channel();
        let body = move || {
            let _ = confined.send(confinement.close());
            // Without an order it ends with its owner's wish to end it.
            order.recv().map_or(Ok(()), carry_out)
        };
        let thread = std::thread::Builder::new().name("vcpu0".to_owned()).spawn(body)?;
        let confined = is_confined.recv().unwrap_or_else(|_| Err("its thread ended".to_owned()));
        confined.map_err(JailError::Seccomp)?;
        Ok(Self { thread, orders })
    }

    /// Lets it try something, if anything, and end.
    fn end(self, last: Option<Prepared>) -> io::Result<io::Result<()>> {
        let Self { thread, orders } = self;
        // The thread waits for this, so that it is taken.
        last.map_or(Ok(()), |last| orders.send(last)).map_err(io::Error::other)?;
        drop(orders);
        thread.join().map_err(|_| io::Error::other("the thread panicked"))
    }
}
