//! L1 as data: the words of QEMU's command line, and the text that L1's shell reads.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::image::Image;

/// How much of a machine L1 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) cpu_count: u32,
    pub(crate) mem_mib: u64,
    pub(crate) clock: Clock,
}

/// What time is in L1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// The host's.
    Host,
    /// The number of executed instructions, a nanosecond each, on one processor: the same from run to run.
    Instructions,
}

/// A directory of the host that L1 sees at its own path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) directory: PathBuf,
    pub(crate) access: Access,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Who runs the command in L1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    Root,
    /// The user `pyro`, number 1000.
    Ordinary,
}

/// What L1 runs.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) shares: Vec<Share>,
    /// Paths whose contents are in the scratch disk, in the order of their numbers there.
    pub(crate) packed: Vec<PathBuf>,
    pub(crate) directory: PathBuf,
    pub(crate) account: Account,
    pub(crate) words: Vec<OsString>,
}

/// The ports that L1's init and the host talk over.
pub(super) const PORTS: [&str; 3] = ["control", "stdout", "stderr"];

/// Without the features that make Linux copy and clear by bytes: each byte would count as one instruction, ten times
/// what a processor takes. By words of eight bytes it is half as fast as one.
pub(crate) const COUNTED_PROCESSOR: &str = "max,erms=off,fsrm=off";

/// Read-only files change for nobody while L1 looks, so its kernel may keep them.
const READ_OPTIONS: &str = "trans=virtio,version=9p2000.L,msize=524288,cache=loose,access=any,ro";
/// Files that both sides write are looked up again each time.
const WRITE_OPTIONS: &str = "trans=virtio,version=9p2000.L,msize=524288,cache=mmap,access=any";

/// The command line that starts L1. The sockets of the ports are in `run`, as is the initrd.
pub(super) fn qemu_words(
    image: &Image,
    size: Size,
    scratch: &Path,
    shares: &[Share],
    run: &Path,
) -> Vec<OsString> {
    let mut words = Words::default();
    let threads = match size.clock {
        Clock::Host => "multi",
        Clock::Instructions => "single",
    };
    let processor = match size.clock {
        Clock::Host => "max",
        Clock::Instructions => COUNTED_PROCESSOR,
    };
    words.add(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-cpu", processor]);
    words.add([
        "-machine",
        "q35,usb=off,smbus=off,sata=off,vmport=off",
        "-accel",
        &format!("tcg,thread={threads}"),
    ]);
    words.add(["-smp", &size.cpu_count.to_string(), "-m", &format!("{}M", size.mem_mib)]);
    if size.clock == Clock::Instructions {
        // Idle time costs nothing, and what the processor calls random is the same each time.
        words.add(["-icount", "shift=0,sleep=off", "-seed", "1", "-rtc", "base=2025-01-01,clock=vm"]);
    }
    words.path("-kernel", "", &image.kernel());
    words.path("-initrd", "", &run.join("initrd"));
    words.add(["-append", kernel_words(size.clock)]);
    words.path("-chardev", "file,id=console,path=", &run.join("console.log"));
    words.add(["-serial", "chardev:console"]);
    for (name, disk, options) in [
        ("root", &*image.root_disk(), "readonly=on"),
        ("scratch", scratch, "snapshot=on,cache=unsafe,discard=unmap"),
    ] {
        words.path("-drive", &format!("if=none,id={name},format=raw,{options},file="), disk);
        words.add(["-device", &format!("virtio-blk-pci,drive={name},serial={name},romfile=")]);
    }
    words.add(["-device", "virtio-serial-pci,romfile="]);
    for name in PORTS {
        words.path("-chardev", &format!("socket,id={name},path="), &run.join(name));
        words.add(["-device", &format!("virtserialport,chardev={name},name={name}")]);
    }
    for (number, share) in shares.iter().enumerate() {
        let access = match share.access {
            Access::Read => "on",
            Access::Write => "off",
        };
        let options =
            format!("local,id=s{number},security_model=none,multidevs=remap,readonly={access},path=");
        words.path("-fsdev", &options, &share.directory);
        words.add(["-device", &format!("virtio-9p-pci,fsdev=s{number},mount_tag=share{number}")]);
    }
    words.0
}

fn kernel_words(clock: Clock) -> &'static str {
    match clock {
        Clock::Host => "console=ttyS0 panic=-1 quiet loglevel=3 mitigations=off nokaslr cryptomgr.notests",
        // Nor may addresses differ.
        Clock::Instructions => {
            "console=ttyS0 panic=-1 quiet loglevel=3 mitigations=off nokaslr norandmaps cryptomgr.notests"
        }
    }
}

/// Words of a command line.
#[derive(Default)]
struct Words(Vec<OsString>);

impl Words {
    fn add<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) {
        self.0.extend(words.into_iter().map(OsString::from));
    }

    /// An option whose value ends with a path; QEMU reads two commas as one that does not separate.
    fn path(&mut self, option: &str, before: &str, path: &Path) {
        use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
        let is_list = !before.is_empty();
        let mut value = before.as_bytes().to_vec();
        for byte in path.as_os_str().as_bytes() {
            value.extend(std::iter::repeat_n(*byte, if is_list && *byte == b',' { 2 } else { 1 }));
        }
        self.0.extend([option.into(), OsString::from_vec(value)]);
    }
}

impl Job {
    /// The text that L1's shell reads: everything put to its place, then the command instead of the shell.
    pub(super) fn script(&self) -> Result<String> {
        let mut text = String::from("set -e\n");
        for (number, share) in self.shares.iter().enumerate() {
            let (path, options) = (quoted(share.directory.as_os_str())?, options(share.access));
            let _ = writeln!(text, "mkdir -p {path}\nmount -t 9p -o {options} share{number} {path}");
        }
        for (number, path) in self.packed.iter().enumerate() {
            let place = quoted(path.as_os_str())?;
            let parent = quoted(path.parent().unwrap_or(path).as_os_str())?;
            let from = format!("/scratch/pack/{number}");
            let _ = writeln!(
                text,
                "if [ -d {from} ]; then mkdir -p {place}; else mkdir -p {parent}; [ -e {place} ] || : >{place}; fi"
            );
            let _ = writeln!(text, "mount --bind {from} {place}");
        }
        let words: Vec<String> = self.words.iter().map(|word| quoted(word)).collect::<Result<_>>()?;
        ensure!(!words.is_empty(), "there is no command");
        let _ = writeln!(text, "cd {}", quoted(self.directory.as_os_str())?);
        match self.account {
            Account::Root => text.push_str("exec "),
            Account::Ordinary => text.push_str(
                "chown -R pyro:pyro /scratch/pack 2>/dev/null || :\n\
                 export HOME=/home/pyro USER=pyro\n\
                 exec setpriv --reuid=pyro --regid=pyro --init-groups --inh-caps=-all ",
            ),
        }
        text.push_str(&words.join(" "));
        text.push('\n');
        Ok(text)
    }
}

fn options(access: Access) -> &'static str {
    match access {
        Access::Read => READ_OPTIONS,
        Access::Write => WRITE_OPTIONS,
    }
}

/// A word as a shell reads it back.
fn quoted(word: &OsStr) -> Result<String> {
    let text = word.to_str().with_context(|| format!("{word:?} is not UTF-8"))?;
    Ok(format!("'{}'", text.replace('\'', r"'\''")))
}
