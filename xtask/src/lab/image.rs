//! What L1 boots: a kernel, drivers for an initrd, a root disk and an empty disk, made of Debian packages.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::env::archive;
use crate::env::tree::{self, Contents};
use crate::guest::{cpio::Archive, key, publish};
use crate::{output, root, setup, steps};

/// Counts changes of how it is made.
const RECIPE_VERSION: &str = "1";
const SUITE: &str = "bookworm";
/// What the tests and people who look into machines use.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "ca-certificates",
    "curl",
    "docker-registry",
    "e2fsprogs",
    "git",
    "hyperfine",
    "iproute2",
    "iputils-ping",
    "jq",
    "kmod",
    "less",
    "linux-image-amd64",
    "openssh-client",
    "openssl",
    "procps",
    "python3",
    "python3-venv",
    "socat",
    "strace",
    "sudo",
    "time",
    "tmux",
    "xxd",
];
/// Drivers of devices that the machine does not have are half of the disk.
const LEFT_OUT: &[&str] = &[
    "path-exclude=/lib/modules/*/kernel/sound/*",
    "path-exclude=/lib/modules/*/kernel/drivers/gpu/*",
    "path-exclude=/lib/modules/*/kernel/drivers/infiniband/*",
    "path-exclude=/lib/modules/*/kernel/drivers/media/*",
    "path-exclude=/lib/modules/*/kernel/drivers/net/ethernet/*",
    "path-exclude=/lib/modules/*/kernel/drivers/net/wireless/*",
    "path-exclude=/lib/modules/*/kernel/drivers/scsi/*",
    "path-exclude=/lib/modules/*/kernel/drivers/staging/*",
    "path-exclude=/lib/modules/*/kernel/drivers/usb/*",
];
/// Loaded from the initrd, in this order; what they depend on comes along.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "crc32c_generic",
    "ext4",
    "overlay",
    "kvm-amd",
    "tun",
];
/// More than any run writes; the file is sparse.
const SCRATCH_SIZE: &str = "32G";

/// The files of a finished image.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    directory: PathBuf,
}

impl Image {
    pub(super) fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The kernel as an ELF file, which needs no unpacking by an emulated processor.
    pub(super) fn kernel(&self) -> PathBuf {
        self.directory.join("vmlinux")
    }

    pub(super) fn root_disk(&self) -> PathBuf {
        self.directory.join("root.ext4")
    }

    /// An empty file system, for machines that are given no files.
    pub(super) fn scratch_disk(&self) -> PathBuf {
        self.directory.join("scratch.ext4")
    }

    /// Drivers and busybox, as the first part of an initrd.
    pub(super) fn drivers(&self) -> PathBuf {
        self.directory.join("drivers.cpio")
    }

    /// The drivers with the programs that come first. Those are not in the cache, so that they can change without it.
    pub(super) fn initrd(&self) -> Result<Vec<u8>> {
        let mut initrd = fs::read(self.drivers()).context("cannot read the lab's drivers")?;
        let mut scripts = Archive::default();
        scripts.file("init", 0o755, include_bytes!("first.sh"));
        scripts.file("second", 0o755, include_bytes!("second.sh"));
        initrd.extend(scripts.finish());
        Ok(initrd)
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

/// The directory of everything that the lab keeps.
pub(super) fn cache() -> Result<PathBuf> {
    let cache = root::user_cache()?.join("pyro-mcp/lab");
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    Ok(cache)
}

/// Held while something is made in the cache; a second builder waits and then finds the first one's work. What a builder that
/// was killed has left is removed.
pub(super) fn lock(cache: &Path) -> Result<File> {
    let lock = File::create(cache.join("lock")).context("cannot open the lab's lock")?;
    if lock.try_lock().is_err() {
        output::note("another build of the lab is running; waiting for it");
        lock.lock().context("cannot lock the lab's cache")?;
    }
    for entry in fs::read_dir(cache).context("cannot list the lab's cache")? {
        let entry = entry.context("cannot list the lab's cache")?;
        if entry.file_name().to_string_lossy().starts_with("aside-") {
            fs::remove_dir_all(entry.path()).context("cannot remove what is unfinished")?;
        }
    }
    Ok(lock)
}

/// The image of this tree's recipe, built where it is absent.
pub(crate) fn ensure(mirror: Option<&str>, force: bool) -> Result<Image> {
    let cache = cache()?;
    let image = Image::at(cache.join(image_key()));
    let _lock = lock(&cache)?;
    if image.drivers().is_file() && !force {
        return Ok(image);
    }
    setup::run(&setup::Arguments::default())?;
    publish(&cache, &image.directory, |aside| fill(aside, mirror))?;
    Ok(image)
}

/// The archive's state is no part of it: a lab is as good with last month's packages.
fn image_key() -> String {
    key(&[&[RECIPE_VERSION, SUITE, SCRATCH_SIZE], PACKAGES, LEFT_OUT, MODULES].concat())
}

fn fill(directory: &Path, mirror: Option<&str>) -> Result<()> {
    let tar = directory.join("root.tar");
    let contents = Contents { name: "lab", suite: SUITE, packages: PACKAGES, dpkg_options: LEFT_OUT };
    let sources = archive::sources(SUITE, mirror)?;
    tree::build(contents, &sources.lines, &tar, &directory.join("packages.txt"))?;
    steps::call("lab: kernel and drivers", || {
        let boot = BootFiles::read(&tar)?;
        fs::write(directory.join("vmlinux"), unpack_kernel(&boot.kernel)?)?;
        fs::write(directory.join("drivers.cpio"), drivers(&boot))?;
        Ok(())
    })?;
    steps::call("lab: root disk", || {
        Ok(pyro_oci::flatten_tar_files(std::slice::from_ref(&tar), &directory.join("root.ext4"))?)
    })?;
    fs::remove_file(&tar).context("cannot remove the archive")?;
    make_disk(&directory.join("scratch.ext4"), None)
}

/// A sparse ext4 disk, with the files of a directory in it.
pub(super) fn make_disk(disk: &Path, files: Option<&Path>) -> Result<()> {
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"]);
    if let Some(files) = files {
        mke2fs.arg("-d").arg(files);
    }
    // What it prints is not the command's output.
    steps::read(mke2fs.arg(disk).arg(SCRATCH_SIZE)).map(drop)
}

/// What of the tree is needed before there is a root.
struct BootFiles {
    kernel: Vec<u8>,
    busybox: Vec<u8>,
    /// In the order in which they can be loaded.
    modules: Vec<(String, Vec<u8>)>,
}

impl BootFiles {
    fn read(tar: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut archive = tar::Archive::new(File::open(tar).context("cannot open the tree's archive")?);
        for entry in archive.entries().context("cannot read the tree's archive")? {
            let mut entry = entry.context("cannot read the tree's archive")?;
            let path = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
            let is_wanted = path.starts_with("boot/vmlinuz-")
                || path.ends_with("bin/busybox")
                || path.ends_with("/modules.dep")
                || path.ends_with(".ko");
            if is_wanted && entry.header().entry_type().is_file() {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes)?;
                files.insert(path, bytes);
            }
        }
        let mut take = |what: &dyn Fn(&str) -> bool| {
            let path = files.keys().find(|path| what(path)).cloned()?;
            files.remove(&path).map(|bytes| (path, bytes))
        };
        let (_, kernel) = take(&|path| path.starts_with("boot/")).context("the tree has no kernel")?;
        let (_, busybox) = take(&|path| path.ends_with("busybox")).context("the tree has no busybox")?;
        let (list, dependencies) =
            take(&|path| path.ends_with("/modules.dep")).context("the tree has no modules.dep")?;
        let directory = list.trim_end_matches("modules.dep").to_owned();
        let order = load_order(&String::from_utf8_lossy(&dependencies), MODULES)?;
        let modules = order.iter().map(|path| {
            let (_, bytes) = take(&|found| found.strip_prefix(&directory) == Some(path))
                .with_context(|| format!("the tree has no {path}"))?;
            Ok((file_name(path).to_owned(), unsigned(&bytes).to_owned()))
        });
        Ok(Self { kernel, busybox, modules: modules.collect::<Result<_>>()? })
    }
}

/// A module without its signature (Linux, Documentation/admin-guide/module-signing.rst): to check it, an emulated processor
/// takes as long as for the rest of loading.
pub(super) fn unsigned(module: &[u8]) -> &[u8] {
    const MAGIC: &[u8] = b"~Module signature appended~\n";
    /// `struct module_signature`; its last four bytes are the signature's length.
    const RECORD_BYTES: usize = 12;
    let inside = || {
        let signed = module.strip_suffix(MAGIC)?;
        let (signed, record) = signed.split_at(signed.len().checked_sub(RECORD_BYTES)?);
        let len = u32::from_be_bytes(record[RECORD_BYTES - 4..].try_into().ok()?);
        signed.get(..signed.len().checked_sub(usize::try_from(len).ok()?)?)
    };
    inside().unwrap_or(module)
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Paths of the modules named and of all that they depend on, each after what it needs, from depmod's list.
pub(super) fn load_order(dependencies: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let lines = || dependencies.lines().filter_map(|line| line.split_once(':'));
    let mut order: Vec<String> = Vec::new();
    for name in wanted {
        let (path, needs) = lines()
            .find(|(path, _)| file_name(path).strip_suffix(".ko") == Some(name))
            .with_context(|| format!("the kernel has no module {name}"))?;
        // The list names everything below a module, what is nearest to it first.
        for module in needs.split_whitespace().rev().chain([path]) {
            if !order.iter().any(|known| known == module) {
                order.push(module.to_owned());
            }
        }
    }
    Ok(order)
}

fn drivers(boot: &BootFiles) -> Vec<u8> {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "lower", "modules", "proc", "root", "scratch", "sys"] {
        archive.directory(directory, 0o755);
    }
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.file("bin/busybox", 0o755, &boot.busybox);
    let mut order = String::new();
    for (name, bytes) in &boot.modules {
        archive.file(&format!("modules/{name}"), 0o644, bytes);
        order += &format!("{name}\n");
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    archive.finish()
}

/// The ELF file inside a bzImage, which is an xz stream and its size unpacked.
fn unpack_kernel(image: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(image)?;
    let mut xz = Command::new("xz")
        .args(["--decompress", "--stdout", "--single-stream"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run xz; `cargo xtask setup` installs it")?;
    let mut input = xz.stdin.take().context("the input was piped")?;
    let payload = payload.to_owned();
    let writer = std::thread::spawn(move || input.write_all(&payload));
    let unpacked = xz.wait_with_output().context("cannot wait for xz")?;
    ensure!(unpacked.status.success(), "xz cannot unpack the kernel");
    if writer.join().is_err() || !unpacked.stdout.starts_with(b"\x7fELF") {
        bail!("the kernel's payload is no ELF file");
    }
    Ok(unpacked.stdout)
}

/// The compressed part of a bzImage (Linux, Documentation/arch/x86/boot.rst: `setup_sects`, `payload_offset`,
/// `payload_length`), without the four bytes behind it.
pub(super) fn payload(image: &[u8]) -> Result<&[u8]> {
    const MAGIC: std::ops::Range<usize> = 0x202..0x206;
    ensure!(image.get(MAGIC) == Some(b"HdrS"), "the kernel is no bzImage");
    let number = |at: usize| -> Option<usize> {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let inside = || {
        let setup_sectors = usize::from(*image.get(0x1f1)?);
        let begin = (setup_sectors + 1) * 512 + number(0x248)?;
        image.get(begin..begin + number(0x24c)?.checked_sub(4)?)
    };
    inside().context("the kernel's header points outside of it")
}
