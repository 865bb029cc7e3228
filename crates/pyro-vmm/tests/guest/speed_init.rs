//! PID 1 of the guest whose speed is measured: tells the host when it runs, and then does what the host orders.
//! Compiled with `rustc`, statically, without any crate.
//!
//! Rust's own start is left out: it ends a program that has neither a console nor `/dev/null`, as under a kernel
//! without a serial port.

#![no_main]

use std::alloc::{Layout, alloc_zeroed};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::FromRawFd;
use std::os::raw::{c_char, c_int, c_uint, c_ulong, c_ushort, c_void};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Instant;

unsafe extern "C" {
    fn mount(s: *const c_char, t: *const c_char, f: *const c_char, flags: c_ulong, d: *const c_void) -> c_int;
    fn reboot(how: c_int) -> c_int;
    fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn connect(fd: c_int, address: *const Address, len: c_uint) -> c_int;
}

#[repr(C)]
struct Address {
    family: c_ushort,
    reserved: c_ushort,
    port: c_uint,
    cid: c_uint,
    zero: [u8; 4],
}

const VSOCK: c_int = 40;
const STREAM: c_int = 1;
const HOST: c_uint = 2;
/// Where the host listens.
const PORT: c_uint = 5006;
const RESTART: c_int = 0x0123_4567;
/// `O_DIRECT` on x86.
const DIRECT: c_int = 0o40000;
const PAGE_BYTES: usize = 4096;

#[unsafe(no_mangle)]
extern "C" fn main() -> c_int {
    let counter = unsafe { core::arch::x86_64::_rdtsc() };
    let result = match connect_to_host() {
        Ok(mut host) => host.write_all(&counter.to_le_bytes()).and_then(|()| serve(&mut host)),
        // A machine without streams reads the console.
        Err(_) => say(&format!("counter {counter}")),
    };
    if let Err(error) = result {
        let _ = say(&error.to_string());
    }
    unsafe { reboot(RESTART) }
}

fn say(text: &str) -> io::Result<()> {
    writeln!(OpenOptions::new().write(true).open("/dev/console")?, "{text}")
}

fn connect_to_host() -> io::Result<File> {
    let fd = unsafe { socket(VSOCK, STREAM, 0) };
    let address = Address { family: VSOCK as c_ushort, reserved: 0, port: PORT, cid: HOST, zero: [0; 4] };
    match unsafe { connect(fd, &address, 16) } {
        0 => Ok(unsafe { File::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An order is a letter, a total and a chunk size in bytes. Each is answered by the nanoseconds that it took.
fn serve(host: &mut File) -> io::Result<()> {
    let mut disk = None;
    loop {
        let mut order = [0u8; 17];
        host.read_exact(&mut order)?;
        let total = u64::from_le_bytes(order[1..9].try_into().unwrap());
        let chunk = u64::from_le_bytes(order[9..17].try_into().unwrap()) as usize;
        if order[0] == b'q' {
            return Ok(());
        }
        if disk.is_none() && b"RrWwN".contains(&order[0]) {
            disk = Some(open_disk()?);
        }
        let begun = Instant::now();
        match (order[0], &mut disk) {
            (b's', _) => send(host, total, chunk)?,
            (b'g', _) => get(host, total, chunk)?,
            (b'R' | b'r' | b'W' | b'w' | b'N', Some(disk)) => access(disk, order[0], total, chunk)?,
            (other, _) => return Err(io::Error::other(format!("no operation {other}"))),
        }
        host.write_all(&(begun.elapsed().as_nanos() as u64).to_le_bytes())?;
    }
}

fn open_disk() -> io::Result<File> {
    let (kind, place) = (CString::new("devtmpfs").unwrap(), CString::new("/dev").unwrap());
    unsafe { mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    OpenOptions::new().read(true).write(true).custom_flags(DIRECT).open("/dev/vda")
}

/// Memory as direct access wants it.
fn pages(len: usize) -> &'static mut [u8] {
    let layout = Layout::from_size_align(len, PAGE_BYTES).unwrap();
    unsafe { std::slice::from_raw_parts_mut(alloc_zeroed(layout), len) }
}

/// Reads or writes `total` bytes of the disk's first half in chunks, capital letters one after the other, small ones
/// here and there. `N` writes one after the other to the second half.
fn access(disk: &mut File, operation: u8, total: u64, chunk: usize) -> io::Result<()> {
    let buffer = pages(chunk);
    buffer.fill(operation);
    let chunks = disk.seek(SeekFrom::End(0))? / 2 / chunk as u64;
    let first = if operation == b'N' { chunks } else { 0 };
    let mut random = 88_172_645_463_325_252u64;
    for index in 0..total / chunk as u64 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let place = if operation.is_ascii_uppercase() { index } else { random };
        let at = (first + place % chunks) * chunk as u64;
        match operation.to_ascii_lowercase() {
            b'r' => disk.read_exact_at(buffer, at)?,
            _ => disk.write_all_at(buffer, at)?,
        }
    }
    Ok(())
}

fn send(host: &mut File, total: u64, chunk: usize) -> io::Result<()> {
    let block = vec![b's'; chunk];
    (0..total).step_by(chunk).try_for_each(|_| host.write_all(&block))
}

fn get(host: &mut File, total: u64, chunk: usize) -> io::Result<()> {
    let mut block = vec![0; chunk];
    let mut left = total;
    while left > 0 {
        let most = chunk.min(left as usize);
        let len = host.read(&mut block[..most])?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= len as u64;
    }
    Ok(())
}
