//! PID 1 of the test guest: does what the environment variable `TEST` of the kernel command line says.
//! Compiled by the tests with `rustc`, statically, without any crate.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::raw::{c_char, c_int, c_uint, c_ulong, c_ushort, c_void};
use std::os::unix::fs::FileExt;

unsafe extern "C" {
    fn mount(s: *const c_char, t: *const c_char, f: *const c_char, flags: c_ulong, d: *const c_void) -> c_int;
    fn reboot(how: c_int) -> c_int;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn connect(fd: c_int, address: *const Address, len: c_uint) -> c_int;
    fn bind(fd: c_int, address: *const Address, len: c_uint) -> c_int;
    fn if_nametoindex(name: *const c_char) -> c_uint;
    fn listen(fd: c_int, backlog: c_int) -> c_int;
    fn accept(fd: c_int, address: *mut c_void, len: *mut c_uint) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int;
}

#[repr(C)]
struct Address {
    family: c_ushort,
    reserved: c_ushort,
    port: c_uint,
    cid: c_uint,
    zero: [u8; 4],
}

/// `sockaddr_ll`, packet(7), as far as binding needs it.
#[repr(C)]
struct LinkAddress {
    family: c_ushort,
    protocol: c_ushort,
    interface: c_int,
    rest: [u8; 12],
}

/// `ifreq` with flags, netdevice(7).
#[repr(C)]
struct Flags {
    name: [u8; 16],
    flags: c_ushort,
    rest: [u8; 22],
}

const PACKET: c_int = 17;
const RAW: c_int = 3;
const SIOCSIFFLAGS: c_ulong = 0x8914;
const UP: c_ushort = 1;
/// An Ethernet type for experiments (IEEE 802, section 9.2.3), so that nothing of the kernel's own comes along.
const EXPERIMENT: u16 = 0x88b5;
const VSOCK: c_int = 40;
const STREAM: c_int = 1;
const HOST: c_uint = 2;
const ANY: c_uint = u32::MAX;
const POWER_OFF: c_int = 0x4321_fedc;
const RESTART: c_int = 0x0123_4567;
const BLKDISCARD: c_ulong = 0x1277;

fn main() {
    mount_at("devtmpfs", "/dev");
    mount_at("proc", "/proc");
    mount_at("sysfs", "/sys");
    match std::env::var("TEST").as_deref() {
        Ok("power_off") => end(POWER_OFF),
        Ok("restart") => end(RESTART),
        Ok("panic") => std::process::exit(7),
        Ok("chatter") => chatter(),
        Ok("serve") => serve().expect("serve"),
        other => panic!("no such test: {other:?}"),
    }
}

fn end(how: c_int) {
    unsafe { reboot(how) };
}

fn mount_at(kind: &str, place: &str) {
    let _ = std::fs::create_dir(place);
    let (kind, place) = (CString::new(kind).unwrap(), CString::new(place).unwrap());
    unsafe { mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
}

/// Writes far more to the console than is kept of it.
fn chatter() {
    let mut console = OpenOptions::new().write(true).open("/dev/console").unwrap();
    for line in 0..4000 {
        writeln!(console, "line {line} of a guest that talks too much").unwrap();
    }
    end(POWER_OFF);
}

fn vsock() -> c_int {
    unsafe { socket(VSOCK, STREAM, 0) }
}

fn address(cid: c_uint, port: c_uint) -> Address {
    Address { family: VSOCK as c_ushort, reserved: 0, port, cid, zero: [0; 4] }
}

fn connect_to_host(port: c_uint) -> io::Result<File> {
    let fd = vsock();
    match unsafe { connect(fd, &address(HOST, port), 16) } {
        0 => Ok(unsafe { File::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Listens on port 5005, tells the host on its port 5006, then serves until told to end.
fn serve() -> io::Result<()> {
    let listener = vsock();
    assert_eq!(unsafe { bind(listener, &address(ANY, 5005), 16) }, 0);
    assert_eq!(unsafe { listen(listener, 64) }, 0);
    let closed = connect_to_host(5007).expect_err("port 5007 of the host is not open");
    let mut ready = connect_to_host(5006)?;
    writeln!(ready, "ready, 5007: {:?}", closed.kind())?;
    loop {
        let fd = unsafe { accept(listener, std::ptr::null_mut(), std::ptr::null_mut()) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        let stream = unsafe { File::from_raw_fd(fd) };
        std::thread::spawn(move || operate(stream));
    }
}

/// A connection starts with a letter, a total and a chunk size.
fn operate(mut stream: File) {
    let mut order = [0u8; 17];
    if stream.read_exact(&mut order).is_err() {
        return;
    }
    let total = u64::from_le_bytes(order[1..9].try_into().unwrap());
    let chunk = u64::from_le_bytes(order[9..17].try_into().unwrap()) as usize;
    let result = match order[0] {
        b'e' => echo(&mut stream),
        b's' => send(&mut stream, total, chunk),
        b'r' => receive(&mut stream, total, chunk),
        b'z' => send_zeroes(&mut stream, total, chunk),
        b'd' => disk(&mut stream, total),
        b'w' => write_disk(&mut stream, total, chunk as u64),
        b'v' => verify_disk(&mut stream, total, chunk as u64),
        b'k' => random(&mut stream),
        b'n' => echo_frames(&mut stream),
        b'c' => std::fs::read("/sys/devices/system/cpu/online").and_then(|cpus| stream.write_all(&cpus)),
        b'm' => hold_memory(&mut stream, total as usize),
        b'p' => return end(POWER_OFF),
        b'x' => {
            let _ = std::fs::write("/proc/sysrq-trigger", "c");
            // Without sysrq: the end of PID 1 is a panic as well.
            std::process::exit(9);
        }
        other => panic!("no operation {other}"),
    };
    if let Err(error) = result {
        let _ = write!(stream, "error: {error}");
    }
}

/// Brings the interface up, says so, and sends back every frame of the experiment.
fn echo_frames(stream: &mut File) -> io::Result<()> {
    let name = c"eth0";
    let fd = unsafe { socket(PACKET, RAW, c_int::from(EXPERIMENT.to_be())) };
    let interface = unsafe { if_nametoindex(name.as_ptr()) } as c_int;
    if fd < 0 || interface == 0 {
        return Err(io::Error::last_os_error());
    }
    let mut flags = Flags { name: [0; 16], flags: UP, rest: [0; 22] };
    flags.name[..4].copy_from_slice(b"eth0");
    let address = LinkAddress { family: PACKET as c_ushort, protocol: EXPERIMENT.to_be(), interface, rest: [0; 12] };
    let len = std::mem::size_of::<LinkAddress>() as c_uint;
    let up = unsafe { ioctl(fd, SIOCSIFFLAGS, (&raw mut flags).cast()) };
    if up != 0 || unsafe { bind(fd, (&raw const address).cast(), len) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut packets = unsafe { File::from_raw_fd(fd) };
    let mac = std::fs::read_to_string("/sys/class/net/eth0/address");
    write!(stream, "{}", mac.unwrap_or_else(|error| error.to_string()))?;
    let mut frame = vec![0; 70_000];
    loop {
        let len = packets.read(&mut frame)?;
        packets.write_all(&frame[..len])?;
    }
}

fn echo(stream: &mut File) -> io::Result<()> {
    let mut bytes = vec![0; 16 << 10];
    loop {
        let len = stream.read(&mut bytes)?;
        if len == 0 {
            return Ok(());
        }
        stream.write_all(&bytes[..len])?;
    }
}

/// The stream of bytes that both sides know.
struct Pattern(u64);

impl Pattern {
    fn fill(&mut self, bytes: &mut [u8]) {
        for word in bytes.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_le_bytes()[..word.len()]);
        }
    }
}

/// Bytes of the pattern made at once.
const BLOCK: usize = 64 << 10;

fn send(stream: &mut File, total: u64, chunk: usize) -> io::Result<()> {
    let mut pattern = Pattern(88172645463325252);
    let mut block = vec![0; BLOCK];
    let mut left = total as usize;
    while left > 0 {
        let len = left.min(BLOCK);
        pattern.fill(&mut block[..len]);
        for part in block[..len].chunks(chunk) {
            stream.write_all(part)?;
        }
        left -= len;
    }
    Ok(())
}

/// As fast as this guest can: no pattern to make.
fn send_zeroes(stream: &mut File, total: u64, chunk: usize) -> io::Result<()> {
    let block = vec![0; chunk];
    (0..total).step_by(chunk).try_for_each(|_| stream.write_all(&block))
}

fn receive(stream: &mut File, total: u64, chunk: usize) -> io::Result<()> {
    let mut pattern = Pattern(88172645463325252);
    let (mut block, mut expected) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut left = total as usize;
    while left > 0 {
        let len = left.min(BLOCK);
        pattern.fill(&mut expected[..len]);
        for part in block[..len].chunks_mut(chunk) {
            stream.read_exact(part)?;
        }
        if block[..len] != expected[..len] {
            return Err(io::Error::other(format!("other bytes {left} before the end")));
        }
        left -= len;
    }
    stream.write_all(b"intact")
}

/// Writes, reads, flushes and discards on the root disk, past the page cache where that matters.
fn disk(stream: &mut File, len: u64) -> io::Result<()> {
    let disk = OpenOptions::new().read(true).write(true).open("/dev/vda")?;
    let mut first = [0; 16];
    disk.read_exact_at(&mut first, 0)?;
    let (mut block, mut expected) = (vec![0; BLOCK], vec![0; BLOCK]);
    let mut pattern = Pattern(7);
    for at in (0..len).step_by(BLOCK) {
        pattern.fill(&mut block);
        disk.write_all_at(&block, (1 << 20) + at)?;
    }
    disk.sync_all()?;
    std::fs::write("/proc/sys/vm/drop_caches", "3")?;
    let mut pattern = Pattern(7);
    for at in (0..len).step_by(BLOCK) {
        pattern.fill(&mut expected);
        disk.read_exact_at(&mut block, (1 << 20) + at)?;
        if block != expected {
            return Err(io::Error::other(format!("the disk returned other bytes at {at}")));
        }
    }
    let mut range = [1u64 << 20, len];
    if unsafe { ioctl(disk.as_raw_fd(), BLKDISCARD, range.as_mut_ptr().cast()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    std::fs::write("/proc/sys/vm/drop_caches", "3")?;
    disk.read_exact_at(&mut block, 1 << 20)?;
    if block.iter().any(|byte| *byte != 0) {
        return Err(io::Error::other("discarded blocks are not zero"));
    }
    stream.write_all(b"disk ok ")?;
    stream.write_all(&first)
}

/// Fills a range of the root disk with the pattern of its place and makes it durable.
fn write_disk(stream: &mut File, len: u64, at: u64) -> io::Result<()> {
    let disk = OpenOptions::new().write(true).open("/dev/vda")?;
    let (mut pattern, mut block) = (Pattern(at + 1), vec![0; BLOCK]);
    for offset in (0..len).step_by(BLOCK) {
        pattern.fill(&mut block);
        disk.write_all_at(&block, at + offset)?;
    }
    disk.sync_all()?;
    stream.write_all(b"written")
}

/// Reads such a range back, past the page cache.
fn verify_disk(stream: &mut File, len: u64, at: u64) -> io::Result<()> {
    std::fs::write("/proc/sys/vm/drop_caches", "3")?;
    let disk = File::open("/dev/vda")?;
    let (mut pattern, mut block, mut expected) = (Pattern(at + 1), vec![0; BLOCK], vec![0; BLOCK]);
    for offset in (0..len).step_by(BLOCK) {
        pattern.fill(&mut expected);
        disk.read_exact_at(&mut block, at + offset)?;
        if block != expected {
            return Err(io::Error::other(format!("the disk returned other bytes at {}", at + offset)));
        }
    }
    stream.write_all(b"intact")
}

/// Takes memory, says so, and lets go of it when the host has said all that it has to say.
fn hold_memory(stream: &mut File, len: usize) -> io::Result<()> {
    let held = std::hint::black_box(vec![7u8; len]);
    stream.write_all(b"held")?;
    stream.read_to_end(&mut Vec::new())?;
    drop(held);
    stream.write_all(b"freed")
}

/// Which source feeds the kernel's pool, and bytes from it.
fn random(stream: &mut File) -> io::Result<()> {
    let mut bytes = [0; 32];
    File::open("/dev/hwrng")?.read_exact(&mut bytes)?;
    stream.write_all(&bytes)
}
