//! One virtual machine of the host's kernel: memory, interrupt lines, and kicks that never leave it.

mod sys;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use kvm_bindings::{
    KVM_API_VERSION, KVM_CAP_PMU_CAPABILITY, KVM_MAX_CPUID_ENTRIES, KVM_PMU_CAP_DISABLE, kvm_cpuid_entry2,
    kvm_enable_cap,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, NoDatamatch, VcpuFd, VmFd};
use rustix::event::{EventfdFlags, eventfd};
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_QUEUE_NOTIFY};

use super::layout;
use super::memory::Region;
use crate::device::Device;
use crate::virtio_mmio::{InterruptLine, MmioDevice, RegisterPages};

/// What the engine cannot do without, with the names of `KVM_CAP_...`.
const NEEDED: [(Cap, &str); 8] = [
    (Cap::UserMemory, "USER_MEMORY"),
    (Cap::Irqchip, "IRQCHIP"),
    (Cap::Irqfd, "IRQFD"),
    (Cap::Ioeventfd, "IOEVENTFD"),
    (Cap::SetTssAddr, "SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "SET_IDENTITY_MAP_ADDR"),
    (Cap::ExtCpuid, "EXT_CPUID"),
    (Cap::ImmediateExit, "IMMEDIATE_EXIT"),
];

/// Why the host's kernel does not give what a machine needs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VmError {
    /// KVM of another age.
    #[error("KVM speaks API version {0}, not {KVM_API_VERSION}")]
    Version(i32),
    /// Something indispensable is not there.
    #[error("KVM has no {0}")]
    Missing(&'static str),
    /// A request failed.
    #[error("{what}: {source}")]
    Kvm {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: kvm_ioctls::Error,
    },
    /// An event counter could not be had.
    #[error("cannot make an event counter: {0}")]
    Counter(#[from] io::Error),
}

/// For `map_err`.
pub(super) fn failed(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> VmError {
    move |source| VmError::Kvm { what, source }
}

/// A line of the interrupt controllers.
pub(crate) struct Line {
    vm: Arc<VmFd>,
    gsi: u32,
}

impl InterruptLine for Line {
    /// A counter connected to the line would do the same, but later: KVM cannot raise lines where counters are counted,
    /// and leaves them to a thread of the kernel, which takes two switches an interrupt.
    fn pulse(&self) -> io::Result<()> {
        for level in [true, false] {
            self.vm.set_irq_line(self.gsi, level).map_err(io::Error::from)?;
        }
        Ok(())
    }
}

/// The host's KVM, which has what machines need.
pub(crate) struct Host {
    kvm: Kvm,
}

impl Host {
    /// The KVM behind `device`.
    pub(crate) fn new(device: File) -> Result<Self, VmError> {
        let kvm = sys::kvm(device);
        let version = kvm.get_api_version();
        if version != KVM_API_VERSION as i32 {
            return Err(VmError::Version(version));
        }
        if let Some((_, name)) = NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            return Err(VmError::Missing(name));
        }
        Ok(Self { kvm })
    }

    /// What the host's processor and kernel offer a guest.
    pub(crate) fn supported_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>, VmError> {
        let supported = self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        Ok(supported.map_err(failed("ask for the processor's features"))?.as_slice().to_vec())
    }

    /// A machine with its interrupt controllers. The kernel waits for grace periods of RCU over it, some
    /// milliseconds without work.
    pub(crate) fn make_vm(&self) -> Result<Vm, VmError> {
        let kvm = &self.kvm;
        let fd = kvm.create_vm().map_err(failed("make a virtual machine"))?;
        fd.set_identity_map_address(layout::KVM_IDENTITY_MAP_ADDRESS)
            .map_err(failed("place the identity map"))?;
        fd.set_tss_address(layout::KVM_TSS_ADDRESS as usize).map_err(failed("place the task segment"))?;
        fd.create_irq_chip().map_err(failed("make the interrupt controllers"))?;
        if kvm.check_extension_raw(KVM_CAP_PMU_CAPABILITY.into()) & KVM_PMU_CAP_DISABLE as i32 != 0 {
            let args = [KVM_PMU_CAP_DISABLE.into(), 0, 0, 0];
            let disable = kvm_enable_cap { cap: KVM_CAP_PMU_CAPABILITY, args, ..kvm_enable_cap::default() };
            // Some processors have counters that no feature tells of, and so none can hide.
            fd.enable_cap(&disable).map_err(failed("switch the performance counters off"))?;
        }
        Ok(Vm { fd: Arc::new(fd), slots: 0 })
    }
}

/// A virtual machine without vCPUs.
pub(crate) struct Vm {
    fd: Arc<VmFd>,
    slots: u32,
}

impl Vm {
    /// Whether local timers can be set by the time stamp counter.
    pub(crate) fn has_tsc_deadline(&self) -> bool {
        self.fd.check_extension(Cap::TscDeadlineTimer)
    }

    /// Gives the guest memory that it reads and writes.
    pub(crate) fn add_ram(&mut self, region: Region) -> Result<(), VmError> {
        let slot = self.next_slot();
        sys::add_memory(&self.fd, slot, region, false).map_err(failed("give the guest memory"))
    }

    /// Lets the guest read the registers of devices; what it writes there still leaves it. Where the kernel
    /// cannot do that, reads leave the guest as well.
    pub(crate) fn add_registers(&mut self, pages: &RegisterPages) -> Result<(), VmError> {
        if !self.fd.check_extension(Cap::ReadonlyMem) {
            return Ok(());
        }
        let slot = self.next_slot();
        let region = Region {
            guest_address: layout::DEVICES_START,
            len_bytes: pages.region().size() as u64,
            host_address: pages.region().as_ptr().addr() as u64,
        };
        sys::add_memory(&self.fd, slot, region, true).map_err(failed("give the guest registers"))
    }

    /// Counting `counter` up raises line `gsi`, an edge each.
    pub(crate) fn connect_line(&self, counter: BorrowedFd<'_>, gsi: u32) -> Result<(), VmError> {
        let event = sys::event(counter)?;
        self.fd.register_irqfd(&event, gsi).map_err(failed("connect an interrupt"))
    }

    /// Line `gsi`, for interrupts that are edges.
    pub(crate) fn line(&self, gsi: u32) -> Line {
        Line { vm: Arc::clone(&self.fd), gsi }
    }

    /// Connects what of device `index` goes through counters: the kicks of its queues, and its acknowledgements,
    /// which nobody has to hear of.
    pub(crate) fn connect<D: Device + 'static>(
        &self,
        index: u8,
        device: &MmioDevice<D>,
    ) -> Result<(), VmError> {
        let register = |offset: u32| IoEventAddress::Mmio(layout::device_address(index) + u64::from(offset));
        for (queue, kick) in (0u32..).zip(device.kicks()) {
            let kick = sys::event(kick.as_fd())?;
            self.fd
                .register_ioevent(&kick, &register(VIRTIO_MMIO_QUEUE_NOTIFY), queue)
                .map_err(failed("connect a queue"))?;
        }
        let unheard = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
        self.fd
            .register_ioevent(
                &sys::event(unheard.as_fd())?,
                &register(VIRTIO_MMIO_INTERRUPT_ACK),
                NoDatamatch,
            )
            .map_err(failed("connect acknowledgements"))
    }

    /// A vCPU, not set up.
    pub(crate) fn vcpu(&self, index: u8) -> Result<VcpuFd, VmError> {
        self.fd.create_vcpu(index.into()).map_err(failed("make a vCPU"))
    }

    fn next_slot(&mut self) -> u32 {
        self.slots += 1;
        self.slots - 1
    }
}
