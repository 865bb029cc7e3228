//! Forbidden things that the jailed process can be told to try, so that the jail is proved rather than believed.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

mod sys;

/// Something that must not work inside the jail. What it names is the host's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attempt {
    /// Open a file for reading.
    OpenFile(PathBuf),
    /// Connect to a socket file.
    ConnectUnix(PathBuf),
    /// Connect to a socket by its abstract name.
    ConnectAbstract(String),
    /// Connect to a TCP port of the loopback.
    ConnectTcp(u16),
    /// Make a pair of sockets that can send to any address.
    DatagramPair,
    /// Find out whether a process exists by signalling it.
    Signal(i32),
    /// Read a byte of a process's memory.
    ReadMemory {
        /// The process.
        pid: i32,
        /// Where in it.
        address: u64,
    },
    /// Become a process's debugger.
    Trace(i32),
    /// Start a program.
    Execute(PathBuf),
    /// Start a process.
    Fork,
    /// Start a thread.
    StartThread,
    /// Make executable memory.
    ExecutableMemory,
    /// Make memory executable.
    MakeExecutable,
    /// Make a file without a name.
    AnonymousFile,
    /// Make an io_uring.
    IoUring,
    /// Make namespaces of its own.
    Unshare,
    /// Send a request to a device: the one that is given, or the null device.
    Ioctl(u32),
}

/// Where in the process something is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In the closed jail, but for the filters of system calls.
    Enclosed,
    /// On the thread that serves the devices.
    Devices,
    /// On a vCPU's thread.
    Vcpu,
}

/// What is tried where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// What.
    pub attempt: Attempt,
    /// Where.
    pub place: Place,
}

impl Attempt {
    /// Tries it, with `device` for requests. Under a filter of system calls this does not return.
    pub fn carry_out(&self, device: BorrowedFd<'_>) -> io::Result<()> {
        match self {
            Self::OpenFile(path) => File::open(path).map(drop),
            Self::ConnectUnix(path) => UnixStream::connect(path).map(drop),
            Self::ConnectAbstract(name) => {
                UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?).map(drop)
            }
            Self::ConnectTcp(port) => TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).map(drop),
            Self::DatagramPair => UnixDatagram::pair().map(drop),
            Self::Signal(pid) => Ok(rustix::process::test_kill_process(process(*pid)?)?),
            Self::ReadMemory { pid, address } => sys::read_memory(*pid, *address),
            Self::Trace(pid) => sys::trace(*pid),
            Self::Execute(path) => Command::new(path).status().map(drop),
            Self::Fork => sys::fork(),
            Self::StartThread => {
                let thread = std::thread::Builder::new().spawn(|| {})?;
                thread.join().map_err(|_| io::Error::other("the thread panicked"))
            }
            Self::ExecutableMemory => sys::map_executable_page(),
            Self::MakeExecutable => sys::make_page_executable(),
            Self::AnonymousFile => {
                Ok(rustix::fs::memfd_create("attempt", rustix::fs::MemfdFlags::CLOEXEC).map(drop)?)
            }
            Self::IoUring => sys::io_uring(),
            Self::Unshare => sys::unshare(),
            Self::Ioctl(request) => sys::ioctl(device, *request),
        }
    }
}

fn process(pid: i32) -> io::Result<Pid> {
    Pid::from_raw(pid).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
