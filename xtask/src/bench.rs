//! `cargo xtask bench`: the figures that pyro promises, measured in one run and told in one table.

mod bare_boot;
mod clock;
mod idle;
mod lab;
mod network;
mod published_ports;
mod services;
mod shells;
mod table;
mod workspaces;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{env, guest, output, programs, root, setup, steps};
use clock::{Timing, time_command};
use table::{Bound, Table};

/// Measure start-up, boot, disk, vsock, image, workspace and network figures, and print them beside their targets
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How often each command is timed; workspaces have a number of their own
    #[arg(long, default_value_t = 10)]
    runs: u32,
    /// Measure only these parts; repeatable
    #[arg(long, value_enum, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// Measure the native engine beside Firecracker instead, in a lab whose time counts instructions
    #[arg(long, conflicts_with_all = ["runs", "only"])]
    lab: bool,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// `pyro --version`: time and memory
    Version,
    /// `pyro run` beside a bare boot, and the stream through vsock
    Run,
    /// Making disks
    Disks,
    /// Images from layers
    Images,
    /// Workspaces: create, exec, snapshot, reset, fork, stop and start, diff, sync, export
    Workspaces,
    /// A workspace with a tree of very many files: times, memory, and whether it comes back as it was
    LargeTree,
    /// Shells: from what is typed to its echo, and to what it prints
    Shells,
    /// Services: start, stop, and what goes into a log
    Services,
    /// Published ports beside connections without a guest: both ways, and the time of a request
    PublishedPorts,
    /// A running machine in which nothing happens: memory and processor time; as root
    IdleMemory,
    /// The network stack beside pasta; as root
    Network,
}

impl Arguments {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

const MEBIBYTE: f64 = 1_048_576.0;
/// What the guest writes to standard output to measure vsock, in pieces of 64 KiB.
const STREAM_BYTES: u64 = 256 << 20;

/// Measures everything. A figure that misses its target is marked, and is no failure: machines differ.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run(&setup::Arguments::default())?;
    if arguments.lab {
        return lab::run();
    }
    let mut table = Table::new(machine());
    if arguments.wants(Part::Network) {
        network::measure(&mut table)?;
    }
    if arguments.only == [Part::Network] {
        table.lines().iter().for_each(|line| output::line(line));
        return Ok(());
    }
    let pyro = programs::release()?;
    let bundle = guest::build(&guest::Arguments::default())?.directory;
    env::ensure("debian:12")?;
    let place = root::target().join("bench");
    std::fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;

    if arguments.wants(Part::Version) {
        version(&pyro, arguments.runs, &place, &mut table)?;
    }
    if arguments.wants(Part::Run) {
        let boots = boot(&pyro, &bundle, arguments.runs, &place, &mut table)?;
        stream(&pyro, boots.mean, &place, &mut table)?;
    }
    if arguments.wants(Part::Disks) {
        disk_creation(&mut table)?;
    }
    if arguments.wants(Part::Images) {
        flatten(&place, &mut table)?;
    }
    // Last, and its failure is told after the table: the other figures are worth reading all the same.
    let workspaces = match arguments.wants(Part::Workspaces) {
        true => workspaces::measure(&pyro, &place, &mut table),
        false => Ok(()),
    };
    let large = match arguments.wants(Part::LargeTree) {
        true => workspaces::measure_large(&pyro, &place, &mut table),
        false => Ok(()),
    };
    let shells = match arguments.wants(Part::Shells) {
        true => shells::measure(&pyro, &place, &mut table),
        false => Ok(()),
    };
    let services = match arguments.wants(Part::Services) {
        true => services::measure(&pyro, &place, &mut table),
        false => Ok(()),
    };
    let ports = match arguments.wants(Part::PublishedPorts) {
        true => published_ports::measure(&pyro, &place, &mut table),
        false => Ok(()),
    };
    let idle = match arguments.wants(Part::IdleMemory) {
        true => idle::measure(&pyro, &place, &mut table),
        false => Ok(()),
    };
    for line in table.lines() {
        output::line(&line);
    }
    let rest = shells.context("shells").and(services.context("services"));
    let rest = rest.and(ports.context("published ports")).and(idle.context("idle machine"));
    workspaces.context("workspaces").and(large.context("large tree")).and(rest)
}

fn version(pyro: &Path, runs: u32, place: &Path, table: &mut Table) -> Result<()> {
    let words = [pyro.as_os_str().to_owned(), "--version".into()];
    let timing = time_command("pyro --version", &words, runs.max(50), place)?;
    table.add("pyro --version", timing.milliseconds(), "ms", Bound::AtMost(10.0));
    let measured = Command::new("/usr/bin/time")
        .args(["--format=%M"])
        .args(&words)
        .output()
        .context("cannot run /usr/bin/time; `cargo xtask setup` installs it")?;
    let kibibytes: f64 =
        String::from_utf8_lossy(&measured.stderr).trim().parse().context("time prints a number")?;
    table.add("pyro --version, memory", kibibytes / 1024.0, "MiB", Bound::AtMost(20.0));
    Ok(())
}

/// `pyro run` from start to exit, against the same kernel booted by QEMU alone.
fn boot(pyro: &Path, bundle: &Path, runs: u32, place: &Path, table: &mut Table) -> Result<Timing> {
    let bare = bare_boot::command(bundle, place)?;
    let words: Vec<_> = [pyro.as_os_str().to_owned()]
        .into_iter()
        .chain(["run", "debian:12", "--", "true"].map(Into::into))
        .collect();
    let ours = time_command("pyro run debian:12 -- true", &words, runs, place)?;
    let theirs = time_command("bare QEMU boot", &bare, runs, place)?;
    table.add("pyro run debian:12 -- true", ours.mean * 1000.0, "ms", Bound::AtMost(2500.0));
    table.add("bare QEMU boot of the same kernel", theirs.mean * 1000.0, "ms", Bound::None);
    table.add("ratio of the two", ours.mean / theirs.mean, "", Bound::AtMost(1.3));
    Ok(ours)
}

/// Guest to host through agent, vsock and supervisor, start-up taken off.
fn stream(pyro: &Path, start_up: f64, place: &Path, table: &mut Table) -> Result<()> {
    let count = STREAM_BYTES >> 16;
    let dd = format!("dd if=/dev/zero bs=64k count={count} status=none");
    let words: Vec<_> = [pyro.as_os_str().to_owned()]
        .into_iter()
        .chain(["run", "debian:12", "--shell", &dd].map(Into::into))
        .collect();
    let timing = time_command("stream through vsock", &words, 3, place)?;
    let seconds = timing.mean - start_up;
    ensure!(seconds > 0.0, "the stream took no longer than an empty command");
    table.add(
        "guest to host, 64 KiB writes",
        STREAM_BYTES as f64 / MEBIBYTE / seconds,
        "MiB/s",
        Bound::AtLeast(80.0),
    );
    Ok(())
}

/// The benchmark of the machine's own crate, which knows how disks are made.
fn disk_creation(table: &mut Table) -> Result<()> {
    let program = root::workspace().join("crates/pyro-vmm/examples/disk_creation.rs");
    if !program.is_file() {
        table.missing("disk creation, 1 MiB and 64 GiB image", "no program measures it yet");
        return Ok(());
    }
    let text = steps::read(&mut steps::cargo(&[
        "run",
        "--release",
        "--quiet",
        "--package",
        "pyro-vmm",
        "--example",
        "disk_creation",
    ]))?;
    for line in text.lines() {
        let Some((name, microseconds)) = line.rsplit_once(' ') else { continue };
        table.add(
            &format!("disk creation, {name}"),
            microseconds.parse().context("a number")?,
            "us",
            Bound::None,
        );
    }
    Ok(())
}

/// Layers to ext4, by this program built for release.
fn flatten(place: &Path, table: &mut Table) -> Result<()> {
    let tar = env::tree("debian:12")?;
    let image = place.join("flatten.ext4");
    let mut inner =
        steps::cargo(&["run", "--release", "--quiet", "--package", "xtask", "--", "bench-flatten"]);
    inner.arg(&tar).arg(&image);
    let seconds: f64 = steps::read(&mut inner)?.trim().parse().context("bench-flatten prints seconds")?;
    let bytes = std::fs::metadata(&tar).with_context(|| format!("cannot read {}", tar.display()))?.len();
    table.add("image from layers", bytes as f64 / MEBIBYTE / seconds, "MiB/s", Bound::AtLeast(200.0));
    Ok(())
}

/// Flattens one archive and prints the seconds; run by [`run`] in a release build
#[derive(clap::Args)]
pub(crate) struct FlattenArguments {
    tar: PathBuf,
    image: PathBuf,
}

/// The best of three.
pub(crate) fn run_flatten(arguments: &FlattenArguments) -> Result<()> {
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let started = std::time::Instant::now();
        pyro_oci::flatten_tar_files(std::slice::from_ref(&arguments.tar), &arguments.image)?;
        best = best.min(started.elapsed().as_secs_f64());
        std::fs::remove_file(&arguments.image).context("cannot remove the image")?;
    }
    output::line(&best.to_string());
    Ok(())
}

fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn every_part_is_measured_unless_some_are_named() {
        let parse = |words: &[&str]| Line::parse_from([&["bench"], words].concat()).arguments;
        assert!(parse(&[]).wants(Part::Version) && parse(&[]).wants(Part::Workspaces));
        let one = parse(&["--only", "workspaces"]);
        assert!(one.wants(Part::Workspaces) && !one.wants(Part::Run));
        let two = parse(&["--only", "run,disks"]);
        assert!(two.wants(Part::Run) && two.wants(Part::Disks) && !two.wants(Part::Images));
    }
}
