//! The native engine: the host's processor runs the guest, by the kernel's KVM.
//!
//! ```text
//! Native::new -> attach, attach, ... -> start -> Vcpus
//! ```
//! Devices are in this process, behind virtio-mmio registers; there is no PCI, no PIT and no keyboard controller.

mod acpi;
mod bus;
pub(crate) mod canary;
mod cpuid;
mod layout;
mod loader;
mod memory;
mod registers;
mod vcpu;
mod vm;

pub(crate) use loader::fuzz_kernel;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::sync::Arc;

use kvm_bindings::{CpuId, Msrs, kvm_cpuid_entry2};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes as _, GuestAddress};

use crate::device::Device;
use crate::device::balloon::PrivateMemory;
use crate::device::console::SharedLog;
use crate::poll::Poller;
use crate::virtio_mmio::{MmioDevice, RegisterPages, Registers};
use bus::Bus;
use memory::GuestRam;
use vcpu::Machine;
pub(crate) use vcpu::{Stop, Vcpus};
use vm::{Host, VmError, failed};

/// What of a machine the engine has to know.
pub(crate) struct Shape<'a> {
    pub(crate) vcpu_count: u8,
    pub(crate) mem_mib: u32,
    pub(crate) boot_args: &'a [String],
    pub(crate) kernel: &'a File,
    pub(crate) initramfs: &'a File,
}

/// Why a machine cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NativeError {
    #[error(transparent)]
    Vm(#[from] VmError),
    #[error(transparent)]
    Ram(#[from] memory::RamError),
    #[error(transparent)]
    Load(#[from] loader::LoadError),
    #[error("cannot write to the guest's memory: {0}")]
    Write(#[from] vm_memory::GuestMemoryError),
    #[error("the processor has too many features to be told")]
    Cpuid,
    #[error("KVM offers guests no clock")]
    NoClock,
    #[error("the thread that fills the memory panicked")]
    Panic,
    #[error("the bus has no place for one more device")]
    TooManyDevices,
    #[error("{0}")]
    Os(#[from] io::Error),
}

/// A machine that does not run yet.
pub(crate) struct Native {
    machine: Machine,
    supported: Vec<kvm_cpuid_entry2>,
    entry: loader::Entry,
    vcpu_count: u8,
    /// In the order of their places on the bus.
    devices: Vec<Arc<dyn Registers>>,
    console: SharedLog,
}

impl Native {
    /// A machine of the KVM behind `kvm`, with its kernel loaded.
    pub(crate) fn new(kvm: File, shape: &Shape<'_>, console: SharedLog) -> Result<Self, NativeError> {
        let host = Host::new(kvm)?;
        let ram = GuestRam::new(u64::from(shape.mem_mib) << 20)?;
        let supported = host.supported_cpuid()?;
        if !cpuid::has_clock(&supported) {
            return Err(NativeError::NoClock);
        }
        let command_line = kernel_command_line(cpuid::has_invariant_tsc(&supported), shape.boot_args);
        let (mut vm, entry) = std::thread::scope(|scope| {
            // The memory is filled while the host's kernel makes a machine, which is mostly waiting.
            let filling = std::thread::Builder::new()
                .spawn_scoped(scope, || loader::load(shape.kernel, shape.initramfs, &command_line, &ram))?;
            let vm = host.make_vm();
            let entry = filling.join().map_err(|_| NativeError::Panic)?;
            Ok::<_, NativeError>((vm?, entry?))
        })?;
        ram.regions().try_for_each(|region| vm.add_ram(region))?;
        let pages = RegisterPages::new(layout::MAX_DEVICES.into())?;
        vm.add_registers(&pages)?;
        let vcpu_count = shape.vcpu_count;
        let machine = Machine { vm, ram, pages };
        Ok(Self { machine, supported, entry, vcpu_count, devices: Vec::new(), console })
    }

    /// Puts a device on the next place of the bus, and on the loop under the place's number.
    pub(crate) fn attach<D: Device + 'static>(
        &mut self,
        core: D,
        poller: &Arc<Poller>,
    ) -> Result<Arc<MmioDevice<D>>, NativeError> {
        let place = u8::try_from(self.devices.len()).ok().filter(|place| *place < layout::MAX_DEVICES);
        let place = place.ok_or(NativeError::TooManyDevices)?;
        let device = MmioDevice::new(
            place.into(),
            core,
            self.machine.ram.memory().clone(),
            &self.machine.pages,
            Box::new(self.machine.vm.line(layout::device_gsi(place))),
            poller,
        )?;
        self.machine.vm.connect(place, &device)?;
        self.devices.push(device.clone());
        Ok(device)
    }

    /// What gives the guest's memory back to the host.
    pub(crate) fn reclaim(&self) -> PrivateMemory {
        PrivateMemory::new(Arc::new(self.machine.ram.memory().clone()))
    }

    /// Makes the vCPUs and their threads, paused. `confine` runs on each thread before the guest does.
    pub(crate) fn start(
        self,
        confine: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Result<Vcpus, NativeError> {
        let device_count = self.devices.len() as u8;
        let tables = acpi::tables(&acpi::Shape { vcpu_count: self.vcpu_count, device_count });
        self.machine.ram.memory().write_slice(&tables, GuestAddress(layout::ACPI_START))?;
        let bus = Bus::new(self.devices.clone(), self.console.clone())?;
        self.machine.vm.connect_line(bus.serial_interrupt(), layout::SERIAL_GSI)?;
        let vcpus = (0..self.vcpu_count).map(|index| self.vcpu(index)).collect::<Result<Vec<_>, _>>()?;
        Ok(Vcpus::start(self.machine, vcpus, bus, confine)?)
    }

    fn vcpu(&self, index: u8) -> Result<VcpuFd, NativeError> {
        let vcpu = self.machine.vm.vcpu(index)?;
        let features =
            cpuid::configure(&self.supported, index, self.vcpu_count, self.machine.vm.has_tsc_deadline());
        let features = CpuId::from_entries(&features).map_err(|_| NativeError::Cpuid)?;
        vcpu.set_cpuid2(&features).map_err(failed("tell a vCPU its features"))?;
        let msrs = Msrs::from_entries(&registers::boot_msrs()).map_err(|_| NativeError::Cpuid)?;
        vcpu.set_msrs(&msrs).map_err(failed("set a vCPU's model-specific registers"))?;
        let mut lapic = vcpu.get_lapic().map_err(failed("read a vCPU's interrupt controller"))?;
        registers::lapic(&mut lapic);
        vcpu.set_lapic(&lapic).map_err(failed("set a vCPU's interrupt controller"))?;
        if index == 0 {
            let mut sregs = vcpu.get_sregs().map_err(failed("read a vCPU's registers"))?;
            let regs = registers::boot(&self.entry, &mut sregs);
            vcpu.set_sregs(&sregs).map_err(failed("set a vCPU's registers"))?;
            vcpu.set_regs(&regs).map_err(failed("set a vCPU's registers"))?;
        }
        Ok(vcpu)
    }
}

fn kernel_command_line(has_invariant_tsc: bool, boot_args: &[String]) -> String {
    let clock = has_invariant_tsc.then_some(super::RELIABLE_TSC);
    let given = boot_args.iter().map(String::as_str);
    let words = super::KERNEL_WORDS.into_iter().chain(clock).chain(given);
    words.collect::<Vec<_>>().join(" ")
}
