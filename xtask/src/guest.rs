//! `cargo xtask guest`: the guest bundle, that is the kernel and the initramfs with the agent.
//!
//! Both are kept in the user's cache under keys made of their inputs, so that nothing is built twice and a
//! change of the agent leaves the kernel alone. `target/guest` points to the bundle of this tree.

pub(crate) mod cpio;
mod kernel;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{output, programs, root, steps};
pub(crate) use kernel::KernelSource;

/// The guest bundle: kernel and initramfs, built when something they are made of has changed
#[derive(clap::Args, Debug, Default)]
pub(crate) struct Arguments {
    /// Build both again, even when nothing changed
    #[arg(long)]
    force: bool,
    /// Compile the kernel with this many processes [default: all processors]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

/// A finished bundle.
#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    /// The directory that holds `vmlinux`, `initramfs.cpio` and `manifest.json`.
    pub(crate) directory: PathBuf,
    /// What its kernel was made of.
    pub(crate) kernel: KernelSource,
}

/// Layout of the bundle directory, and of its manifest.
const BUNDLE_VERSION: &str = "1";
const AGENT_TARGET: &str = "x86_64-unknown-linux-gnu";
/// The agent sits in the memory of every guest.
const MAX_AGENT_BYTES: u64 = 2 << 20;

/// `manifest.json`, which the product reads.
#[derive(Debug, Serialize)]
struct Manifest {
    bundle_version: String,
    protocol: u32,
    component_versions: BTreeMap<&'static str, String>,
    /// By file name.
    sha256: BTreeMap<&'static str, String>,
    /// Where the kernel's corresponding source is.
    kernel_source: String,
}

/// Builds what is missing and shows where it is.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let bundle = build(arguments)?;
    output::line(&bundle.directory.display().to_string());
    Ok(())
}

/// The bundle of this tree, built if need be.
pub(crate) fn build(arguments: &Arguments) -> Result<Bundle> {
    let cache = cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    // A second builder waits here and then finds the first one's work.
    let lock = File::create(cache.join("lock")).context("cannot open the cache's lock")?;
    if lock.try_lock().is_err() {
        output::note("another build of the guest bundle is running; waiting for it");
        lock.lock().context("cannot lock the cache")?;
    }
    let kernel = kernel::build(&cache, arguments.force, arguments.jobs)?;
    let agent = build_agent()?;
    let bundle = assemble(&cache, &kernel, &agent)?;
    link(&bundle, &root::workspace().join("target/guest"))?;
    Ok(bundle)
}

fn cache() -> Result<PathBuf> {
    Ok(root::user_cache()?.join("pyro-mcp/guest"))
}

fn build_agent() -> Result<Vec<u8>> {
    let mut cargo = steps::cargo(&["build", "--profile", "agent", "--package", "pyro-agent"]);
    // A target of its own keeps the flags away from build scripts, which cannot be static.
    cargo.args(["--target", AGENT_TARGET, "--quiet"]).env("CARGO_ENCODED_RUSTFLAGS", agent_flags());
    steps::run("agent", &mut cargo)?;
    let path = target_directory()?.join(AGENT_TARGET).join("agent/pyro-agent");
    let agent = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let size = agent.len() as u64;
    ensure!(size < MAX_AGENT_BYTES, "the agent has {size} bytes, the limit is {MAX_AGENT_BYTES}");
    ensure!(!is_dynamic(&agent), "{} needs shared libraries, which no guest has", path.display());
    Ok(agent)
}

/// Static, at fixed addresses, which spares each boot the relocation, and without the paths of this machine,
/// so that every tree and user gets the same bytes.
fn agent_flags() -> String {
    let mut flags = ["-Ctarget-feature=+crt-static", "-Crelocation-model=static"].map(str::to_owned).to_vec();
    flags.extend(programs::path_flags());
    programs::encoded(&flags)
}

/// Where cargo puts what it builds, which the user's settings may move.
fn target_directory() -> Result<PathBuf> {
    let metadata = steps::read(&mut steps::cargo(&["metadata", "--format-version=1", "--no-deps"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    Ok(metadata["target_directory"].as_str().context("cargo metadata names no target directory")?.into())
}

/// Whether an ELF file asks for a dynamic loader (a program header of type `PT_INTERP`).
fn is_dynamic(elf: &[u8]) -> bool {
    let number = |at: usize, len: usize| {
        let bytes = elf.get(at..at + len).unwrap_or_default();
        bytes.iter().rev().fold(0usize, |value, byte| value << 8 | usize::from(*byte))
    };
    let (table, size, count) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
    (0..count).any(|index| number(table + index * size, 4) == 3)
}

fn assemble(cache: &Path, kernel: &kernel::Kernel, agent: &[u8]) -> Result<Bundle> {
    let agent_sha256 = hex::encode(Sha256::digest(agent));
    let key = key(&[BUNDLE_VERSION, &kernel.key, &agent_sha256]);
    let directory = cache.join(&key);
    let bundle = Bundle { directory: directory.clone(), kernel: kernel.source.clone() };
    if directory.join("manifest.json").is_file() {
        output::note(&format!("bundle {key} is up to date"));
        return Ok(bundle);
    }
    let initramfs = initramfs(agent);
    let manifest = Manifest {
        bundle_version: BUNDLE_VERSION.to_owned(),
        protocol: pyro_agent::wire::VERSION,
        component_versions: BTreeMap::from([
            ("agent", env!("CARGO_PKG_VERSION").to_owned()),
            ("kernel", kernel.source.version.clone()),
        ]),
        sha256: BTreeMap::from([
            ("initramfs.cpio", hex::encode(Sha256::digest(&initramfs))),
            ("vmlinux", file_sha256(&kernel.vmlinux)?),
        ]),
        kernel_source: kernel.source.note.clone(),
    };
    publish(cache, &directory, |aside| {
        // Another name of the cached kernel: bundles differ by their agents, and cost no more than those.
        fs::hard_link(&kernel.vmlinux, aside.join("vmlinux")).context("cannot link the kernel")?;
        fs::write(aside.join("initramfs.cpio"), &initramfs)?;
        fs::write(aside.join("manifest.json"), serde_json::to_string_pretty(&manifest)? + "\n")?;
        Ok(())
    })?;
    output::note(&format!(
        "bundle {key}: kernel {}, initramfs {} KiB",
        kernel.source.version,
        initramfs.len() >> 10
    ));
    Ok(bundle)
}

/// The agent as `/init`, and the console that the kernel opens for it.
pub(crate) fn initramfs(agent: &[u8]) -> Vec<u8> {
    let mut archive = cpio::Archive::default();
    archive.directory("dev", 0o755);
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.directory("root-disk", 0o755);
    archive.file("init", 0o755, agent);
    archive.finish()
}

/// Fills a directory aside and renames it into place, so that a bundle is whole or absent.
pub(crate) fn publish(cache: &Path, directory: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let aside = cache.join(format!("aside-{}", std::process::id()));
    remove(&aside)?;
    fs::create_dir_all(&aside)?;
    fill(&aside)?;
    for entry in fs::read_dir(&aside)? {
        File::open(entry?.path())?.sync_all()?;
    }
    remove(directory)?;
    fs::rename(&aside, directory).with_context(|| format!("cannot publish {}", directory.display()))
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Replaces the link in one step.
fn link(bundle: &Bundle, link: &Path) -> Result<()> {
    let aside = link.with_file_name(format!("guest-{}", std::process::id()));
    fs::create_dir_all(link.parent().context("target has a parent")?)?;
    let _ = fs::remove_file(&aside);
    std::os::unix::fs::symlink(&bundle.directory, &aside)?;
    fs::rename(&aside, link).with_context(|| format!("cannot set {}", link.display()))
}

/// A short name for a set of inputs.
pub(crate) fn key(inputs: &[&str]) -> String {
    let mut hash = Sha256::new();
    for input in inputs {
        hash.update((input.len() as u64).to_le_bytes());
        hash.update(input.as_bytes());
    }
    let mut key = hex::encode(hash.finalize());
    key.truncate(16);
    key
}

pub(crate) fn file_sha256(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    std::io::copy(&mut file, &mut hash).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hex::encode(hash.finalize()))
}
