//! The guest kernel: Debian's source, our configuration, nothing of the machine that builds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::{file_sha256, key, publish, remove};
use crate::{output, root, steps};

/// A built kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    /// The name of its inputs.
    pub(super) key: String,
    pub(super) vmlinux: PathBuf,
    pub(super) source: KernelSource,
}

/// What a kernel was made of, as whoever distributes it must tell.
#[derive(Clone, Debug)]
pub(crate) struct KernelSource {
    pub(crate) version: String,
    /// The Debian package with the source, and its version.
    pub(crate) package: &'static str,
    pub(crate) package_version: String,
    /// The file of that package that is the source.
    pub(crate) tarball: PathBuf,
    /// The whole configuration.
    pub(crate) config: PathBuf,
    /// Variables that the build sets, each as `NAME=value`.
    pub(crate) variables: Vec<String>,
    /// Compiler and linker.
    pub(crate) tools: Vec<String>,
    /// All this in a sentence.
    pub(crate) note: String,
}

const PACKAGE: &str = "linux-source-6.12";
const TARBALL: &str = "/usr/src/linux-source-6.12.tar.xz";
/// Counts changes of how it is built.
const RECIPE_VERSION: u32 = 1;
/// What the kernel would take from the machine and the moment.
const FIXED: [(&str, &str); 6] = [
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
    ("KBUILD_BUILD_USER", "pyro"),
    ("KBUILD_BUILD_HOST", "pyro"),
    ("KBUILD_BUILD_VERSION", "1"),
    ("SOURCE_DATE_EPOCH", "0"),
    ("LC_ALL", "C"),
];
/// Lines of the log shown when a step fails.
const LOG_TAIL_LINES: usize = 40;

/// Where the corresponding source is, as the licence asks.
fn source_note(version: &str, package_version: &str) -> String {
    format!(
        "Linux {version}, GPL-2.0: Debian source package {PACKAGE} {package_version}, configured by \
         guest/linux-x86_64.config over tinyconfig, unmodified otherwise"
    )
}

/// The kernel for this tree's configuration, from the cache or built.
pub(super) fn build(cache: &Path, force: bool, jobs: Option<usize>) -> Result<Kernel> {
    let fragment = root::workspace().join("guest/linux-x86_64.config");
    let options = fs::read_to_string(&fragment).context("cannot read the kernel configuration")?;
    ensure!(
        Path::new(TARBALL).is_file(),
        "{TARBALL} is missing; it is in the Debian package {PACKAGE} (cargo xtask setup)"
    );
    let package_version =
        steps::read(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", PACKAGE]))?;
    let tools = [tool_version("gcc")?, tool_version("ld")?];
    // What is said of options compiles no kernel anew.
    let effective: Vec<&str> = options.lines().filter(|line| line.starts_with("CONFIG_")).collect();
    let (source, effective) = (file_sha256(Path::new(TARBALL))?, effective.join("\n"));
    let inputs = [&source, &effective, &RECIPE_VERSION.to_string(), &tools[0], &tools[1]];
    let key = key(&inputs.map(String::as_str));
    let directory = cache.join("kernels").join(&key);
    let vmlinux = directory.join("vmlinux");
    if force || !vmlinux.is_file() {
        fs::create_dir_all(cache.join("kernels"))?;
        compile(cache, &key, &directory, &fragment, &options, jobs)?;
    } else {
        output::note(&format!("kernel {key} is up to date"));
    }
    let version = fs::read_to_string(directory.join("release"))?.trim().to_owned();
    let source = KernelSource {
        note: source_note(&version, &package_version),
        version,
        package: PACKAGE,
        package_version,
        tarball: TARBALL.into(),
        config: directory.join("config"),
        variables: FIXED.iter().map(|(name, value)| format!("{name}='{value}'")).collect(),
        tools: tools.to_vec(),
    };
    Ok(Kernel { key, vmlinux, source })
}

fn tool_version(tool: &str) -> Result<String> {
    let text = steps::read(Command::new(tool).arg("--version"))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn compile(
    cache: &Path,
    key: &str,
    directory: &Path,
    fragment: &Path,
    options: &str,
    jobs: Option<usize>,
) -> Result<()> {
    let work = cache.join("kernels").join(format!("build-{key}"));
    remove(&work)?;
    fs::create_dir_all(&work)?;
    let jobs = jobs.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let build = Build { work: work.clone(), log: cache.join("kernels").join(format!("build-{key}.log")) };
    let _ = fs::remove_file(&build.log);
    output::note(&format!("log: {}", build.log.display()));
    build.run("kernel: unpack", Command::new("tar").args(["--strip-components=1", "-xf", TARBALL]))?;
    build.run("kernel: tinyconfig", Command::new("make").arg("tinyconfig"))?;
    let merge = ["-m", ".config"];
    build.run(
        "kernel: merge options",
        Command::new("scripts/kconfig/merge_config.sh").args(merge).arg(fragment),
    )?;
    build.run("kernel: olddefconfig", Command::new("make").arg("olddefconfig"))?;
    let config = fs::read_to_string(work.join(".config"))?;
    check_options(options, &config)?;
    let jobs = format!("-j{jobs}");
    build.run(
        &format!("kernel: compile ({jobs}, about ten minutes on two processors)"),
        Command::new("make").args([&jobs, "vmlinux"]),
    )?;
    build.run("kernel: strip", Command::new("strip").args(["-o", "vmlinux.stripped", "vmlinux"]))?;
    publish(cache, directory, |aside| {
        fs::rename(work.join("vmlinux.stripped"), aside.join("vmlinux"))?;
        fs::rename(work.join("include/config/kernel.release"), aside.join("release"))?;
        fs::write(aside.join("config"), &config)?;
        Ok(())
    })?;
    remove(&work)
}

/// The fragment's options that did not survive: renamed, or without what they depend on.
pub(super) fn check_options(fragment: &str, config: &str) -> Result<()> {
    let lost: Vec<&str> = fragment
        .lines()
        .filter(|line| line.starts_with("CONFIG_"))
        .filter(|line| match line.strip_suffix("=n") {
            Some(name) => {
                config.lines().any(|set| set.strip_prefix(name).is_some_and(|v| v.starts_with('=')))
            }
            None => !config.lines().any(|set| set == *line),
        })
        .collect();
    if lost.is_empty() {
        return Ok(());
    }
    bail!("the kernel did not take these options of guest/linux-x86_64.config:\n  {}", lost.join("\n  "))
}

struct Build {
    work: PathBuf,
    log: PathBuf,
}

impl Build {
    /// Runs a step with its output in the log, whose end is shown when it fails.
    fn run(&self, name: &str, command: &mut Command) -> Result<()> {
        let log = fs::File::options().create(true).append(true).open(&self.log)?;
        command.current_dir(&self.work).envs(FIXED).stdin(std::process::Stdio::null());
        // What the caller's own make or shell set is not part of the recipe.
        for variable in ["MAKEFLAGS", "MFLAGS", "ARCH", "CROSS_COMPILE", "KCFLAGS", "LOCALVERSION", "CFLAGS"]
        {
            command.env_remove(variable);
        }
        command.stdout(log.try_clone()?).stderr(log);
        steps::call(name, || {
            let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
            if !status.success() {
                let text = fs::read(&self.log).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let lines: Vec<&str> = text.lines().collect();
                let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
                bail!("{name} failed ({status}); the end of {}:\n{tail}", self.log.display());
            }
            Ok(())
        })
    }
}
