//! Bounds on everything that the guest, the engine or a caller can make grow.

/// A machine has at least one vCPU.
pub const MIN_VCPUS: u8 = 1;
/// The product's range; more than the host has share its own.
pub const MAX_VCPUS: u8 = 32;
/// IPv6 asks this much of every link (RFC 8200, section 5).
pub const MIN_MTU: u16 = 1280;
/// Below this the guest kernel, its initramfs and a package manager do not fit.
pub const MIN_MEM_MIB: u32 = 256;
/// 1 TiB: what a guest gets is bounded by its host, before it gets here; up to this its addresses fit everywhere.
pub const MAX_MEM_MIB: u32 = 1 << 20;
/// The kernel's command line ends at 2048 bytes; our own words take less than half.
pub const MAX_BOOT_ARGS_BYTES: usize = 1024;
/// A machine needs a handful of open host ports.
pub const MAX_HOST_PORTS: usize = 64;
/// A configuration of the largest allowed lists stays far below this; the socket's buffer is three times as much.
pub const MAX_CONFIG_BYTES: usize = 64 << 10;
/// The console tail kept and sent: enough for a panic's trace with the log before it.
pub const CONSOLE_TAIL_BYTES: usize = 64 << 10;
/// Characters of a guest's panic message that are passed on; the kernel's own are far shorter, and the rest
/// stays on the console.
pub const PANIC_MESSAGE_CHARS: usize = 1 << 10;
/// An event holds at most one console tail, a third larger as base64, and short texts.
pub const MAX_EVENT_BYTES: usize = 128 << 10;
/// What is kept of the engine's own messages.
pub const ENGINE_OUTPUT_BYTES: usize = 4 << 10;
/// The longest line of the engine's control protocol: its longest event is under 1 KiB.
pub const MAX_QMP_LINE_BYTES: usize = 64 << 10;
/// QEMU has at most a handful of memory regions: RAM below and above 4 GiB and small ROMs.
pub const MAX_MEMORY_REGIONS: usize = 8;
/// The largest queue of any device.
pub const MAX_QUEUE_SIZE: u16 = 1024;
/// What is read from the serial console at once; bounds one turn of the loop.
pub const CONSOLE_READ_BYTES: usize = 16 << 10;
/// How long a machine may take from its process's start until the engine answers.
pub const ENGINE_START: std::time::Duration = std::time::Duration::from_secs(30);
/// How long the machine's program may take to report on its jail.
pub const JAIL_REPORT: std::time::Duration = std::time::Duration::from_secs(30);
/// How long the engine may take to end after it said why.
pub const ENGINE_EXIT: std::time::Duration = std::time::Duration::from_secs(2);
