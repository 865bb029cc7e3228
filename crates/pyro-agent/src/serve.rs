//! Accepts the host's connections, one operation each.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pyro_agent::wire::{
    Configure, Failure, FailureCode, FrameKind, Operation, READY_INTERVAL_MS, READY_LIMIT_MS, Request,
};
use rustix::time::{ClockId, Timespec};
use serde::Serialize;

use crate::connection::{Connection, failure, os_failure};
use crate::console::say;
use crate::exec::Executor;
use crate::limits::{
    LINGER, MAX_CONNECTIONS, MAX_ENTROPY_BYTES, MAX_HOSTNAME_BYTES, POWER_OFF_LINGER, REQUEST_DEADLINE,
    THREAD_STACK_BYTES,
};
use crate::staging::Staging;
use crate::walk::{self, Depth};
use crate::{apply, boot, fetch, files, freeze, metrics, network, ready, sync, sys, tree};

mod identity;

/// Serves operations.
#[derive(Debug)]
pub(crate) struct Server {
    executor: Executor,
    staging: Staging,
    connection_count: AtomicUsize,
}

/// An empty reply.
#[derive(Serialize)]
struct Done {}

impl Server {
    pub(crate) fn new(executor: Executor, staging: Staging) -> Self {
        Self { executor, staging, connection_count: AtomicUsize::new(0) }
    }

    /// Accepts for ever. Only the host is served: the guest's own processes have other context ids.
    pub(crate) fn accept_all(self: &Arc<Self>, listener: &OwnedFd) -> ! {
        loop {
            match sys::accept(listener.as_fd()) {
                Ok((socket, sys::HOST_CID)) => self.admit(socket),
                Ok((_, cid)) => say(&format!("warning: connection from cid {cid} refused")),
                // Out of memory or descriptors, or a peer that went away: the next accept waits again.
                Err(error) => say(&format!("warning: accept: {error}")),
            }
        }
    }

    fn admit(self: &Arc<Self>, socket: OwnedFd) {
        let mut connection = Connection::new(socket);
        if self.connection_count.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            self.connection_count.fetch_sub(1, Ordering::Relaxed);
            let refusal =
                failure(FailureCode::BadRequest, format!("more than {MAX_CONNECTIONS} operations at a time"));
            // A fresh socket has room for this; a host that is gone needs no answer.
            let _ = connection.send(FrameKind::Error, &refusal);
            return;
        }
        let server = Arc::clone(self);
        let thread = std::thread::Builder::new().stack_size(THREAD_STACK_BYTES).spawn(move || {
            server.serve(connection);
            server.connection_count.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = thread {
            self.connection_count.fetch_sub(1, Ordering::Relaxed);
            say(&format!("warning: no thread for a connection: {error}"));
        }
    }

    /// One connection from request to end.
    pub(crate) fn serve(&self, mut connection: Connection) {
        // A host that sent nothing, nonsense, or left, has nothing to wait for.
        let Ok(Some((kind, payload))) = connection.receive_within(REQUEST_DEADLINE) else { return };
        let request = match kind {
            FrameKind::Request => Request::parse(&payload),
            other => Err(failure(FailureCode::BadRequest, format!("{other:?} frame in a request's place"))),
        };
        let outcome = request.and_then(|request| self.operate(&mut connection, request.operation));
        if let Err(failure) = outcome
            && connection.send(FrameKind::Error, &failure).is_err()
        {
            return;
        }
        connection.linger(LINGER);
    }

    fn operate(&self, connection: &mut Connection, operation: Operation) -> Result<(), Failure> {
        match operation {
            Operation::Configure(configure) => {
                configure_guest(&configure)?;
                reply(connection, &Done {});
            }
            Operation::Exec(exec) => self.executor.run(connection, &exec)?,
            Operation::SetClock { unix_nanos } => {
                set_clock(unix_nanos)?;
                reply(connection, &Done {});
            }
            Operation::PowerOff => power_off(connection),
            Operation::TreeOut { path } => {
                let stats = tree::send(connection, &path)?;
                reply(connection, &stats);
            }
            Operation::TreeIn { path } => {
                let stats = tree::receive(connection, &path)?;
                reply(connection, &stats);
            }
            Operation::Metrics => {
                let metrics = metrics::read().map_err(|error| os_failure("cannot read metrics", &error))?;
                reply(connection, &metrics);
            }
            Operation::Freeze => {
                let thawed = freeze::freeze(connection)?;
                reply(connection, &thawed);
            }
            Operation::Secrets => {
                let installed = self.executor.secrets.install(connection)?;
                reply(connection, &installed);
            }
            Operation::Authorities => {
                self.executor.authorities.install(connection)?;
                reply(connection, &Done {});
            }
            Operation::FileStat { .. }
            | Operation::FileList { .. }
            | Operation::FileRead { .. }
            | Operation::FileWrite { .. }
            | Operation::FileRemove { .. }
            | Operation::FileMkdir { .. }
            | Operation::FileMove { .. } => operate_on_file(connection, operation)?,
            Operation::Walk { path } => {
                let listed = walk::walk(connection, &path)?;
                reply(connection, &listed);
            }
            Operation::FilesOut { root, max_bytes } => {
                fetch::send(connection, &root, max_bytes)?;
                reply(connection, &Done {});
            }
            Operation::Apply { root, prune } => {
                let applied = apply::apply(connection, &self.staging, &root, prune)?;
                reply(connection, &applied);
            }
            Operation::AwaitReady { probe, interval_ms, timeout_ms } => {
                let interval = Duration::from_millis(interval_ms.max(READY_INTERVAL_MS));
                let timeout = Duration::from_millis(timeout_ms.min(READY_LIMIT_MS));
                // A host that left meanwhile wants no answer.
                if let Some(readied) = ready::wait(connection, &probe, interval, timeout)? {
                    reply(connection, &readied);
                }
            }
            Operation::Usage { pid } => {
                let usage = self.executor.usage(pid)?;
                reply(connection, &usage);
            }
            Operation::SyncIn { root, path } => {
                let (stats, replaced) = sync::receive(connection, &self.staging, &root, &path)?;
                reply(connection, &stats);
                drop(replaced);
            }
        }
        Ok(())
    }
}

/// The operations on one name.
fn operate_on_file(connection: &mut Connection, operation: Operation) -> Result<(), Failure> {
    match operation {
        Operation::FileStat { root, path } => reply(connection, &files::stat(&root, &path)?),
        Operation::FileList { root, path, recursive, limit } => {
            let depth = if recursive { Depth::All } else { Depth::One };
            let listed = walk::list(connection, &root, &path, depth, limit)?;
            reply(connection, &listed);
        }
        Operation::FileRead { root, path, offset, max_bytes } => {
            let read = files::read(connection, &root, &path, offset, max_bytes)?;
            reply(connection, &read);
        }
        Operation::FileWrite { root, path, mode, create_parents } => {
            let written = files::write(connection, &root, &path, mode, create_parents)?;
            reply(connection, &written);
        }
        Operation::FileRemove { root, path, recursive } => {
            reply(connection, &files::remove(&root, &path, recursive)?);
        }
        Operation::FileMkdir { root, path, parents } => {
            reply(connection, &files::make_directory(&root, &path, parents)?);
        }
        Operation::FileMove { root, from, to, replace } => {
            reply(connection, &files::rename(&root, &from, &to, replace)?);
        }
        other => return Err(failure(FailureCode::BadRequest, format!("{other:?} is not on one file"))),
    }
    Ok(())
}

/// Sends a result. A host that left does not want it.
fn reply<T: Serialize>(connection: &mut Connection, message: &T) {
    let _ = connection.send(FrameKind::Reply, message);
}

fn configure_guest(configure: &Configure) -> Result<(), Failure> {
    let bad = |message: String| failure(FailureCode::BadRequest, message);
    let name = &configure.hostname;
    if name.is_empty() || name.len() > MAX_HOSTNAME_BYTES || !identity::is_host_name(name) {
        return Err(bad(format!("{name:?} is no host name of at most {MAX_HOSTNAME_BYTES} bytes")));
    }
    let entropy = hex::decode(&configure.entropy_hex)
        .ok()
        .filter(|entropy| entropy.len() <= MAX_ENTROPY_BYTES)
        .ok_or_else(|| bad(format!("entropy is not at most {MAX_ENTROPY_BYTES} bytes in hexadecimal")))?;
    if !entropy.is_empty() {
        sys::add_entropy(&entropy).map_err(|error| os_failure("cannot add entropy", &error))?;
    }
    set_clock(configure.unix_nanos)?;
    rustix::system::sethostname(name.as_bytes())
        .map_err(|error| os_failure("cannot set the host name", &error.into()))?;
    if let Some(network) = &configure.network {
        network::configure(network)?;
    }
    for problem in identity::write_files(std::path::Path::new("/etc"), name) {
        // A read-only or full disk is no reason to refuse the boot.
        say(&format!("warning: {problem}"));
    }
    Ok(())
}

fn set_clock(unix_nanos: u64) -> Result<(), Failure> {
    let seconds = i64::try_from(unix_nanos / 1_000_000_000).expect("u64 nanoseconds are under 2^35 seconds");
    let nanos = i64::try_from(unix_nanos % 1_000_000_000).expect("under a billion");
    rustix::time::clock_settime(ClockId::Realtime, Timespec { tv_sec: seconds, tv_nsec: nanos })
        .map_err(|error: rustix::io::Errno| os_failure("cannot set the clock", &io::Error::from(error)))
}

fn power_off(connection: &mut Connection) -> ! {
    boot::settle_disks();
    reply(connection, &Done {});
    connection.await_close(POWER_OFF_LINGER);
    boot::power_off()
}
