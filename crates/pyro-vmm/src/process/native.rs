//! A machine whose vCPUs are threads of this process.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::engine::{Engine, Remains, Word};
use super::serve::{Devices, endpoint};
use super::{BootFiles, Cores, SetupError};
use crate::device::balloon::Balloon;
use crate::device::console::SharedLog;
use crate::engine::kvm::{Native, Shape, Stop, Vcpus};
use crate::jail::Confinement;
use crate::limits;
use crate::poll::{Poller, Source, Token};
use crate::protocol::Config;

/// The engine of such a machine.
pub(super) struct NativeEngine {
    console: SharedLog,
    poller: Arc<Poller>,
    vcpus: Phase,
}

enum Phase {
    /// Without threads.
    Made(Native),
    /// With threads, at first paused.
    Threads(Vcpus),
    Ended,
}

/// Makes the machine, with the kernel in its memory and `cores` on its bus.
pub(super) fn attach(
    config: &Config,
    boot: BootFiles,
    cores: Cores,
    poller: &Arc<Poller>,
) -> Result<(Devices, NativeEngine), SetupError> {
    let console = SharedLog::new(limits::CONSOLE_TAIL_BYTES);
    let shape = Shape {
        vcpu_count: config.vcpu_count,
        mem_mib: config.mem_mib,
        boot_args: &config.boot_args,
        kernel: &boot.kernel,
        initramfs: &boot.initramfs,
    };
    let kvm = boot.kvm.ok_or_else(|| io::Error::other("the KVM device was not given"))?;
    let mut native = Native::new(kvm, &shape, console.clone())?;
    let mut devices = Devices::new(native.attach(cores.block, poller)?);
    devices.add(native.attach(cores.rng, poller)?);
    devices.add(native.attach(cores.vsock, poller)?);
    devices.add(native.attach(Balloon::new(native.reclaim()), poller)?);
    if let Some(network) = cores.network {
        devices.add(native.attach(network, poller)?);
    }
    Ok((devices, NativeEngine { console, poller: Arc::clone(poller), vcpus: Phase::Made(native) }))
}

impl Engine for NativeEngine {
    fn start_threads(&mut self, confinement: Confinement) -> io::Result<()> {
        let Phase::Made(native) = std::mem::replace(&mut self.vcpus, Phase::Ended) else { return Ok(()) };
        let vcpus = native.start(move || confinement.close()).map_err(io::Error::other)?;
        self.poller
            .add(vcpus.stopped_fd(), Token { endpoint: endpoint::ENGINE, source: Source::Messages })?;
        self.vcpus = Phase::Threads(vcpus);
        Ok(())
    }

    fn start(&mut self) -> Option<Word> {
        let Phase::Threads(vcpus) = &self.vcpus else { return None };
        vcpus.resume();
        Some(Word::Started { name: "kvm".to_owned(), pid: 0 })
    }

    fn pause(&mut self) -> io::Result<Option<Word>> {
        let Phase::Threads(vcpus) = &self.vcpus else { return Ok(None) };
        vcpus.pause()?;
        Ok(Some(Word::Paused))
    }

    fn resume(&mut self) -> io::Result<Option<Word>> {
        let Phase::Threads(vcpus) = &self.vcpus else { return Ok(None) };
        vcpus.resume();
        Ok(Some(Word::Resumed))
    }

    fn hear(&mut self, endpoint: u16) -> io::Result<Option<Word>> {
        let Phase::Threads(vcpus) = &self.vcpus else { return Ok(None) };
        if endpoint != endpoint::ENGINE {
            return Ok(None);
        }
        Ok(vcpus.stop_reason().map(|stop| match stop {
            Stop::PoweredOff => Word::PoweredOff,
            Stop::Reset => Word::Reset,
            Stop::Failed(why) => Word::Failed(why.clone()),
        }))
    }

    fn console_tail(&self) -> Vec<u8> {
        self.console.lock().tail(limits::CONSOLE_TAIL_BYTES)
    }

    fn end(&mut self, _: Duration) -> Remains {
        // The threads end with the process, which has nothing left to do.
        Remains::default()
    }
}
