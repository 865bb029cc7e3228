//! An engine as the loop sees it, whichever it is.

use std::io;
use std::time::Duration;

use crate::jail::Confinement;

/// What is heard of an engine.
pub(super) enum Word {
    /// The vCPUs run.
    Started {
        /// The engine, in words.
        name: String,
        /// Its process, 0 where it has none of its own.
        pid: u32,
    },
    /// No vCPU runs the guest.
    Paused,
    /// The vCPUs go on.
    Resumed,
    /// The guest switched itself off.
    PoweredOff,
    /// The guest's CPU was reset; the console tells what for.
    Reset,
    /// The engine is gone or on its way, without having said why.
    Gone,
    /// It cannot go on.
    Failed(String),
}

/// What is left of an engine that has ended.
#[derive(Default)]
pub(super) struct Remains {
    /// How its process ended.
    pub(super) status: String,
    /// The last lines that it wrote.
    pub(super) output: String,
}

pub(super) trait Engine {
    /// The jail is closed but for the filter of system calls: the last moment for threads.
    fn start_threads(&mut self, confinement: Confinement) -> io::Result<()> {
        let _ = confinement;
        Ok(())
    }

    /// The jail is closed: the guest may run. `Some` where that needs no waiting.
    fn start(&mut self) -> Option<Word>;

    /// Stops the vCPUs. `Some` where that needs no waiting, as [`Engine::resume`] does.
    fn pause(&mut self) -> io::Result<Option<Word>>;

    /// Lets the vCPUs go on.
    fn resume(&mut self) -> io::Result<Option<Word>>;

    /// Something happened at `endpoint`, one of its own. To be called until it has nothing more to tell.
    fn hear(&mut self, endpoint: u16) -> io::Result<Option<Word>>;

    /// The last bytes that the guest's console showed.
    fn console_tail(&self) -> Vec<u8>;

    /// Ends the vCPUs, after `patience` for an engine that is ending by itself.
    fn end(&mut self, patience: Duration) -> Remains;
}
