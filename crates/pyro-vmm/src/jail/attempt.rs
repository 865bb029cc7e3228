//! Forbidden things that the jailed process can be told to try, so that the jail is proved rather than believed.

use std::fs::File;
use std::net::UdpSocket;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// Something that must not work inside the jail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attempt {
    /// Open a file.
    OpenFile,
    /// Make an internet socket.
    InetSocket,
    /// Start a program.
    Execute,
    /// Make executable memory.
    ExecutableMemory,
}

impl Attempt {
    /// Tries it. Inside a closed jail this does not return.
    pub fn carry_out(self) {
        let worked = match self {
            Self::OpenFile => File::open("/").is_ok(),
            Self::InetSocket => UdpSocket::bind("127.0.0.1:0").is_ok(),
            Self::Execute => Command::new("/bin/true").status().is_ok(),
            Self::ExecutableMemory => super::sys::map_executable_page(),
        };
        assert!(!worked, "{self:?} works inside the jail");
    }
}
