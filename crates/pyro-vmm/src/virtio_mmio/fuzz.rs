//! A hostile driver: arbitrary writes to registers, arbitrary memory behind the queues, kicks at any time. For fuzz
//! targets and the test that shares their body; nothing here panics unless the transport or a core does.
#![doc(hidden)]

use std::sync::Arc;
use std::time::Duration;

use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use super::{MmioDevice, PAGE_BYTES, RegisterPages, Registers, count_up};
use crate::device::console::{Console, SharedLog};
use crate::device::rng::Rng;
use crate::endpoint::Endpoint;
use crate::poll::Poller;

const MEMORY_BYTES: usize = 1 << 16;
/// Turns after which a device that is never idle is left alone.
const MAX_TURNS: usize = 64;

/// Two devices on one loop, and a driver that does what `bytes` say.
pub fn fuzz_registers(bytes: &[u8]) {
    // Only a host without descriptors or memory fails here.
    let _ = drive(bytes);
}

fn drive(mut bytes: &[u8]) -> std::io::Result<()> {
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)])
        .map_err(std::io::Error::other)?;
    let poller = Arc::new(Poller::new()?);
    let pages = RegisterPages::new(2)?;
    let mut rng = MmioDevice::new(0, Rng::new(), memory.clone(), &pages, &poller)?;
    let log = SharedLog::new(256);
    let mut console = MmioDevice::new(1, Console::new(log), memory.clone(), &pages, &poller)?;
    while let [what, a, b, c, rest @ ..] = bytes {
        bytes = rest;
        let registers: &dyn Registers = if what & 1 == 0 { &*rng } else { &*console };
        let kicks = if what & 1 == 0 { rng.kicks() } else { console.kicks() };
        let (low, high) = (u64::from(u16::from_le_bytes([*a, *b])), u32::from(*c));
        match what >> 1 & 7 {
            // A register of the specification, with a small value, a large one, or an address in memory.
            0 => registers.write(low & 0xfc, &high.to_le_bytes()),
            1 => registers.write(low & 0xfc, &(high << 24).to_le_bytes()),
            2 => registers.write(low & 0xfc, &(high << 8).to_le_bytes()),
            // Anywhere, of any width.
            3 => registers.write(low % (2 * PAGE_BYTES as u64), &[*c; 16][..usize::from(c % 17)]),
            4 => registers.read(low, &mut [0; 16][..usize::from(c % 17)]),
            // Where memory ends nothing is written.
            5 => drop(memory.write_obj(high, GuestAddress(low)).ok()),
            6 => drop(memory.write_slice(&rest[..rest.len().min(usize::from(*c))], GuestAddress(low)).ok()),
            _ => kicks.iter().for_each(count_up),
        }
        for _ in 0..MAX_TURNS {
            let tokens = poller.wait(Some(Duration::ZERO))?;
            for token in &tokens {
                // A core that cannot go on ends the machine, cleanly.
                let served = match token.endpoint {
                    0 => rng.ready(token.source),
                    _ => console.ready(token.source),
                };
                if served.is_err() {
                    return Ok(());
                }
            }
            let more = rng.resume().unwrap_or(false) | console.resume().unwrap_or(false);
            if tokens.is_empty() && !more {
                break;
            }
        }
    }
    Ok(())
}
