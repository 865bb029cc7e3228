//! QEMU's command line and the guest kernel's, as data.

use crate::engine::{KERNEL_WORDS, RELIABLE_TSC};
use crate::protocol::NetworkConfig;
use std::ffi::OsString;
use std::os::fd::RawFd;

/// Code translated at once, MiB: bounds what the emulator takes beside the guest's memory. A Debian boot
/// and a compiler run fit.
const TRANSLATION_CACHE_MIB: u32 = 256;

/// Slower and faster counters than these do not exist; a host that claims one does not know its own.
const MIN_TSC_KHZ: u64 = 500_000;
const MAX_TSC_KHZ: u64 = 10_000_000;

/// What the emulator would offer of a network device though ours does not do it. Without the control queue there
/// is nothing to change at run time.
const OFF: [&str; 12] = [
    "ctrl_vq",
    "ctrl_rx",
    "ctrl_rx_extra",
    "ctrl_vlan",
    "ctrl_mac_addr",
    "ctrl_guest_offloads",
    "mq",
    "guest_announce",
    "guest_ecn",
    "guest_ufo",
    "host_ecn",
    "host_ufo",
];

/// Everything that differs between machines.
pub(crate) struct Arguments<'a> {
    pub(crate) vcpu_count: u8,
    pub(crate) mem_mib: u32,
    pub(crate) boot_args: &'a [String],
    pub(crate) tsc_khz: Option<u64>,
    pub(crate) kernel: RawFd,
    pub(crate) initramfs: RawFd,
    pub(crate) block: RawFd,
    pub(crate) vsock: RawFd,
    pub(crate) rng: RawFd,
    pub(crate) console: RawFd,
    pub(crate) monitor: RawFd,
    pub(crate) network: Option<(RawFd, NetworkConfig)>,
}

impl Arguments<'_> {
    /// The words after the program's name.
    pub(crate) fn to_words(&self) -> Vec<OsString> {
        let thread = if self.vcpu_count > 1 { "multi" } else { "single" };
        let mut words: Vec<String> =
            ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"].map(str::to_owned).to_vec();
        let mut add = |option: &str, value: String| words.extend([format!("-{option}"), value]);
        add("sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".to_owned());
        // The clock chip stays: without it the kernel waits a second for it at boot. So does the timer, with
        // which the kernel measures the processor's clock at once, and in vain for 70 ms where there is none.
        add("machine", "microvm,acpi=on,pit=on,pic=off,rtc=on,memory-backend=mem".to_owned());
        add("accel", format!("tcg,thread={thread},tb-size={TRANSLATION_CACHE_MIB}"));
        // Emulated string instructions go byte by byte. Without this flag the kernel and libc clear and copy by
        // words and vectors.
        add("cpu", "max,erms=off".to_owned());
        add("smp", self.vcpu_count.to_string());
        add("m", format!("{}M", self.mem_mib));
        // Shared, so that the devices in the other process see the guest's memory.
        add("object", format!("memory-backend-memfd,id=mem,size={}M,share=on", self.mem_mib));
        // vhost-user needs the modern virtio-mmio registers.
        add("global", "virtio-mmio.force-legacy=false".to_owned());
        for (name, fd, device) in [
            ("block", self.block, "vhost-user-blk,num-queues=1".to_owned()),
            ("vsock", self.vsock, "vhost-user-vsock-device".to_owned()),
            ("rng", self.rng, "vhost-user-rng".to_owned()),
        ] {
            add("chardev", format!("socket,id={name},fd={fd}"));
            add("device", format!("{device},chardev={name}"));
        }
        if let Some((fd, NetworkConfig { mac, mtu })) = self.network {
            add("chardev", format!("socket,id=network,path=/proc/self/fd/{fd}"));
            add("netdev", "vhost-user,id=cable,chardev=network".to_owned());
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            let off = OFF.map(|feature| format!("{feature}=off")).join(",");
            add("device", format!("virtio-net-device,netdev=cable,mac={mac},host_mtu={mtu},{off}"));
        }
        // The guest tells which of its memory is free, and the emulator takes those pages out of the shared file. It is
        // the emulator's own device: over vhost-user there is none.
        add("device", "virtio-balloon-device,free-page-reporting=on".to_owned());
        add("chardev", format!("socket,id=console,fd={}", self.console));
        add("serial", "chardev:console".to_owned());
        add("chardev", format!("socket,id=monitor,fd={}", self.monitor));
        add("mon", "chardev=monitor,mode=control".to_owned());
        add("kernel", format!("/proc/self/fd/{}", self.kernel));
        add("initrd", format!("/proc/self/fd/{}", self.initramfs));
        add("append", self.kernel_command_line());
        words.into_iter().map(OsString::from).collect()
    }

    fn kernel_command_line(&self) -> String {
        let mut words = KERNEL_WORDS.map(str::to_owned).to_vec();
        words.push(RELIABLE_TSC.to_owned());
        // The emulator has no timer to calibrate against in time; a busy host would hang the boot.
        words.extend(self.tsc_khz.map(|khz| format!("tsc_early_khz={khz}")));
        words.extend_from_slice(self.boot_args);
        words.join(" ")
    }
}

/// The frequency of the host's time stamp counter, which the guest reads as it is.
pub(crate) fn host_tsc_khz() -> Option<u64> {
    tsc_khz(&std::fs::read_to_string("/proc/cpuinfo").ok()?)
}

/// From proc(5) `cpuinfo`. `bogomips` is twice the counter's rate where the kernel knows that rate; `cpu MHz`
/// is the momentary clock and only right where it does not change.
fn tsc_khz(cpuinfo: &str) -> Option<u64> {
    let number = |name| thousandths(cpuinfo.lines().find_map(|line| line.strip_prefix(name))?);
    let clock = number("cpu MHz");
    let counter = number("bogomips").map(|value| value / 2);
    let plausible = |khz: &u64| (MIN_TSC_KHZ..=MAX_TSC_KHZ).contains(khz);
    counter.filter(plausible).or(clock.filter(plausible))
}

/// `\t: 2596.130` in thousandths.
fn thousandths(value: &str) -> Option<u64> {
    let (whole, fraction) = value.trim_start_matches([' ', '\t', ':']).trim().split_once('.')?;
    let fraction = format!("{fraction:0<3}");
    Some(whole.parse::<u64>().ok()? * 1000 + fraction.get(..3)?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_the_golden_one() {
        let arguments = Arguments {
            vcpu_count: 2,
            mem_mib: 512,
            boot_args: &["extra=1".to_owned()],
            tsc_khz: Some(2_596_130),
            kernel: 5,
            initramfs: 6,
            block: 10,
            vsock: 11,
            rng: 12,
            console: 13,
            monitor: 14,
            network: Some((15, NetworkConfig { mac: [2, 0, 0, 0, 0, 0xab], mtu: 1500 })),
        };
        let words = arguments.to_words();
        let line: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(line.join(" ").replace(" -", "\n-"), include_str!("argv.golden").trim_end());
    }

    #[test]
    fn the_counters_rate_is_read_in_khz() {
        assert_eq!(tsc_khz("cpu MHz\t\t: 1200.000\nbogomips\t: 5192.26\n"), Some(2_596_130));
        assert_eq!(tsc_khz("cpu MHz\t\t: 2596.130\n"), Some(2_596_130));
        assert_eq!(tsc_khz("cpu MHz\t\t: 2596.130\nbogomips\t: 48.00\n"), Some(2_596_130));
        assert_eq!(tsc_khz("processor : 0\n"), None);
    }
}
