//! `cargo xtask lab`: a KVM host made by software, for machines whose own `/dev/kvm` cannot run guests.
//!
//! QEMU's emulator runs a Debian, called L1, on a processor with AMD's virtualisation: its `/dev/kvm` is real, and what runs
//! on it is a guest in a guest. Nothing of the host can be changed from there but directories that are shared for writing.

mod image;
mod machine;
mod pack;
mod peer;
mod session;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;

use crate::{guest, output, root};
pub(crate) use machine::COUNTED_PROCESSOR;
use machine::{Access, Account, Clock, Job, Share, Size};
pub(crate) use pack::Pack;
pub(crate) use peer::ensure as firecracker;
use session::Ended;

/// A KVM host made by software: a Debian under QEMU's emulator whose `/dev/kvm` works
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make its kernel and disks from Debian packages, unless they are there; the other commands do so by themselves
    Build(BuildArguments),
    /// Run a command there, in this tree, and exit with its status; 124 when its time was up
    Run(RunArguments),
    /// Print the path of Firecracker, a peer to be compared with
    Peer(PeerArguments),
}

#[derive(clap::Args)]
struct BuildArguments {
    /// Build even when nothing changed since the last time
    #[arg(long)]
    force: bool,
    /// Take the packages from this Debian archive instead of the ones that apt uses here
    #[arg(long, value_name = "URL", env = "PYRO_DEBIAN_MIRROR")]
    mirror: Option<String>,
}

/// The machine.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct SizeArguments {
    /// Processors; with more than one, guests in L1 hang or die now and then
    #[arg(long, value_name = "N", default_value_t = 1)]
    smp: u32,
    /// Memory [default: 2048 and 1024 a processor]
    #[arg(long, value_name = "N")]
    mem_mib: Option<u64>,
    /// Let time count instructions, on one processor: figures are the same from run to run
    #[arg(long, env = "LAB_ICOUNT", value_parser = clap::builder::FalseyValueParser::new())]
    icount: bool,
}

#[derive(clap::Args)]
struct RunArguments {
    #[command(flatten)]
    size: SizeArguments,
    /// Show this directory, to be read and written, at its own path; repeatable
    #[arg(long, value_name = "DIR")]
    share: Vec<PathBuf>,
    /// Copy this file or directory into L1's own disk, at its own path: fast to read, and writing changes only the copy;
    /// repeatable
    #[arg(long, value_name = "PATH")]
    pack: Vec<PathBuf>,
    /// A disk in which everything to be packed is already
    #[arg(long, hide = true, requires = "pack")]
    disk: Option<PathBuf>,
    /// End it after this many seconds
    #[arg(long, value_name = "S")]
    timeout: Option<u64>,
    /// Run as an ordinary user
    #[arg(long)]
    ordinary: bool,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    words: Vec<OsString>,
}

#[derive(clap::Args)]
struct PeerArguments {
    /// Boot this tree's guest kernel with it in L1 up to an init, twice, and tell how long that took
    #[arg(long)]
    boot: bool,
    #[command(flatten)]
    size: SizeArguments,
}

/// The command in L1 ended so, and that is to be our status.
#[derive(Debug)]
pub(crate) struct CommandFailed(pub(crate) u8);

impl fmt::Display for CommandFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the command's status is {}", self.0)
    }
}

impl std::error::Error for CommandFailed {}

/// The status of a command whose time was up, as of `timeout`.
pub(crate) const TIME_UP: u8 = 124;
const BASE_MEM_MIB: u64 = 2048;
const CPU_MEM_MIB: u64 = 1024;

impl Default for SizeArguments {
    fn default() -> Self {
        Self { smp: 1, mem_mib: None, icount: false }
    }
}

impl SizeArguments {
    /// The same as words.
    fn words(&self) -> Vec<OsString> {
        let smp = Some(format!("--smp={}", self.smp));
        let memory = self.mem_mib.map(|mebibytes| format!("--mem-mib={mebibytes}"));
        let clock = self.icount.then(|| "--icount".to_owned());
        [smp, memory, clock].into_iter().flatten().map(OsString::from).collect()
    }

    fn size(&self) -> Result<Size> {
        let clock = if self.icount { Clock::Instructions } else { Clock::Host };
        let cpu_count = self.smp;
        ensure!(clock == Clock::Host || cpu_count == 1, "time that counts instructions has one processor");
        let mem_mib = self.mem_mib.unwrap_or(BASE_MEM_MIB + CPU_MEM_MIB * u64::from(cpu_count));
        Ok(Size { cpu_count, mem_mib, clock })
    }
}

/// Makes kernel and disks, so that machines that start at once find them.
pub(crate) fn ensure_image() -> Result<()> {
    image::ensure(None, false).map(drop)
}

/// The words that make this program run the rest of its command line in L1 as an ordinary user, with what `pack` holds.
/// L1 dies with whoever runs it.
pub(crate) fn prefix(size: &SizeArguments, pack: &Pack) -> Result<Vec<OsString>> {
    let mut words: Vec<OsString> = ["setpriv", "--pdeathsig", "KILL"].map(OsString::from).into();
    words.push(std::env::current_exe().context("cannot find this program")?.into());
    words.extend(["lab", "run", "--ordinary"].map(OsString::from));
    words.extend(size.words());
    words.extend(["--disk".into(), pack.disk().into()]);
    words.extend(pack.paths().iter().flat_map(|path| ["--pack".into(), path.into()]));
    words.push("--".into());
    Ok(words)
}

/// Runs the chosen command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.command {
        Command::Build(build) => {
            let image = image::ensure(build.mirror.as_deref(), build.force)?;
            output::line(&image.directory().display().to_string());
            Ok(())
        }
        Command::Run(run) => run_command(run),
        Command::Peer(peer) if peer.boot => boot_peer(&peer.size),
        Command::Peer(_) => {
            output::line(&peer::ensure()?.display().to_string());
            Ok(())
        }
    }
}

fn run_command(arguments: &RunArguments) -> Result<()> {
    let task = Task {
        size: arguments.size.size()?,
        writable: canonical(&arguments.share)?,
        packed: canonical(&arguments.pack)?,
        disk: arguments.disk.clone(),
        account: if arguments.ordinary { Account::Ordinary } else { Account::Root },
        limit: arguments.timeout.map(Duration::from_secs),
        words: arguments.words.clone(),
    };
    task.run()
}

fn canonical(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let path =
        |path: &PathBuf| path.canonicalize().with_context(|| format!("cannot find {}", path.display()));
    paths.iter().map(path).collect()
}

/// A command for L1 in this tree.
struct Task {
    size: Size,
    writable: Vec<PathBuf>,
    packed: Vec<PathBuf>,
    /// Where they are packed already.
    disk: Option<PathBuf>,
    account: Account,
    limit: Option<Duration>,
    words: Vec<OsString>,
}

impl Task {
    fn run(self) -> Result<()> {
        let image = image::ensure(None, false)?;
        let tree = root::workspace();
        let pack = match self.disk {
            None => Pack::make(&self.packed)?,
            Some(_) => None,
        };
        let made = pack.as_ref().map(|pack| pack.disk().to_owned());
        let scratch = self.disk.or(made).unwrap_or_else(|| image.scratch_disk());
        let read = Share { directory: tree.clone(), access: Access::Read };
        let write = self.writable.into_iter().map(|directory| Share { directory, access: Access::Write });
        let job = Job {
            shares: [read].into_iter().chain(write).collect(),
            packed: self.packed,
            directory: start_directory(&tree)?,
            account: self.account,
            words: self.words,
        };
        match session::run(&image, self.size, &scratch, &job, self.limit)? {
            Ended::Exited(0) => Ok(()),
            Ended::Exited(status) => Err(CommandFailed(status).into()),
            Ended::TimeUp => {
                output::note("the command's time was up");
                Err(CommandFailed(TIME_UP).into())
            }
        }
    }
}

/// Where the command begins: here, if that is in the tree.
fn start_directory(tree: &Path) -> Result<PathBuf> {
    let here = std::env::current_dir().context("the directory that this was started in is gone")?;
    Ok(if here.starts_with(tree) { here } else { tree.to_owned() })
}

/// Boots the guest kernel with Firecracker: once for its files' sake, and once for the time.
fn boot_peer(size: &SizeArguments) -> Result<()> {
    let firecracker = peer::ensure()?;
    let bundle = guest::build(&guest::Arguments::default())?.directory;
    let task = Task {
        size: size.size()?,
        writable: Vec::new(),
        packed: vec![firecracker.clone(), bundle.clone()],
        disk: None,
        account: Account::Ordinary,
        limit: None,
        words: peer::boot_words(&firecracker, &bundle),
    };
    task.run()
}
