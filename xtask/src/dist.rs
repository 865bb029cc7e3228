//! `cargo xtask dist`: what people install, in `target/dist`.
//!
//! One tree of files in three forms: a tarball, a Debian package and a Python wheel, with their checksums. Their bytes
//! depend on the files and on one moment alone, `SOURCE_DATE_EPOCH` or the time of the last commit.

mod date;
mod deb;
mod elf;
mod licences;
mod packages;
mod release;
mod sbom;
mod sources;
mod tarball;
mod tree;
mod wheel;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::{output, root, setup, steps};
use release::Release;

/// The tarball, the Debian package and the Python wheel, with checksums, in target/dist
#[derive(clap::Args, Debug, Default)]
pub(crate) struct Arguments {
    /// Make everything twice from the same programs and compare every byte
    #[arg(long)]
    verify: bool,
    /// Pack pyro and pyro-vmm from this directory instead of building them
    #[arg(long, value_name = "DIRECTORY")]
    programs: Option<PathBuf>,
    /// Put the guest kernel's source beside the rest, for whoever publishes them
    #[arg(long)]
    with_kernel_source: bool,
}

/// Where the finished files are.
#[derive(Clone, Debug)]
pub(crate) struct Artifacts {
    pub(crate) tarball: PathBuf,
    pub(crate) deb: PathBuf,
    pub(crate) wheel: PathBuf,
}

/// A finished file: its name and its bytes.
type Made = (String, Vec<u8>);

/// Makes everything and tells what it is.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    make(arguments)?;
    Ok(())
}

/// Makes everything in `target/dist`, where nothing else is left.
pub(crate) fn make(arguments: &Arguments) -> Result<Artifacts> {
    setup::run(&setup::Arguments::default())?;
    let programs = arguments.programs.as_deref();
    let release = Release::build(programs)?;
    let made = steps::call("archives", || pack(&release))?;
    if arguments.verify {
        let again = steps::call("archives once more", || pack(&Release::build(programs)?))?;
        compare(&made, &again)?;
        output::note("made twice, the same in every byte");
    }
    let directory = root::target().join("dist");
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| format!("cannot empty {}", directory.display()))?;
    }
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    for (name, bytes) in &made {
        write(&directory.join(name), bytes)?;
    }
    if arguments.with_kernel_source {
        add_kernel_source(&release, &directory)?;
    }
    tell(&release, &made, &directory);
    let path = |index: usize| directory.join(&made[index].0);
    Ok(Artifacts { tarball: path(0), deb: path(1), wheel: path(2) })
}

/// What an earlier run left in `target/dist`.
pub(crate) fn find() -> Result<Artifacts> {
    let directory = root::target().join("dist");
    let named = |start: &str, end: &str| -> Result<PathBuf> {
        let entries = fs::read_dir(&directory)
            .with_context(|| format!("{} is missing: cargo xtask dist makes it", directory.display()))?;
        let mut paths = entries.map_while(Result::ok).map(|entry| entry.path());
        let fits = |path: &PathBuf| {
            path.file_name().is_some_and(|name| {
                let name = name.to_string_lossy();
                name.starts_with(start) && name.ends_with(end)
            })
        };
        paths.find(fits).with_context(|| format!("{} has no {start}*{end}", directory.display()))
    };
    Ok(Artifacts {
        tarball: named("pyro-", ".tar.gz")?,
        deb: named("pyro_", ".deb")?,
        wheel: named("pyro_mcp-", ".whl")?,
    })
}

/// Checks the files by their sums, with the program that people have for that.
pub(crate) fn verify_checksums(artifacts: &Artifacts) -> Result<()> {
    let directory = artifacts.tarball.parent().context("the tarball is in a directory")?;
    let mut sum = Command::new("sha256sum");
    steps::read(sum.args(["--check", "--strict", "--quiet", "SHA256SUMS"]).current_dir(directory))?;
    Ok(())
}

/// The three archives in the order of [`Artifacts`], the bill of materials, and the checksums of all.
fn pack(release: &Release) -> Result<Vec<Made>> {
    let version = release.version;
    let stem = format!("pyro-{version}-linux-x86_64");
    let tar = tarball::tar(&release.tree, &format!("{stem}/"), release.date)?;
    let wheel = release.wheel();
    let bill = release.bill.as_bytes();
    let mut made = vec![
        (format!("{stem}.tar.gz"), tarball::gzip(&tar)?),
        (
            format!("pyro_{version}_amd64.deb"),
            deb::package(&release.tree, version, &release.needs, release.date)?,
        ),
        (wheel.file_name(), wheel.pack(&release.tree, &release.licences(), bill)?),
        (format!("{stem}.cdx.json"), bill.to_vec()),
    ];
    made.push(("SHA256SUMS".to_owned(), checksums(&made).into_bytes()));
    Ok(made)
}

/// Lines as `sha256sum --check` reads them.
fn checksums(made: &[Made]) -> String {
    made.iter().fold(String::new(), |mut lines, (name, bytes)| {
        let _ = writeln!(lines, "{}  {name}", hex::encode(Sha256::digest(bytes)));
        lines
    })
}

fn compare(first: &[Made], second: &[Made]) -> Result<()> {
    ensure!(first.len() == second.len(), "the second time made other files");
    for ((name, bytes), again) in first.iter().zip(second) {
        ensure!((name, bytes) == (&again.0, &again.1), "{name} differs when it is made again");
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// Copies the archive that the kernel was built from, and adds its line to the checksums.
fn add_kernel_source(release: &Release, directory: &Path) -> Result<()> {
    let from = &release.kernel_source;
    let name = from.file_name().context("the kernel's source has a name")?.to_string_lossy().into_owned();
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    write(&directory.join(&name), &bytes)?;
    let sums = directory.join("SHA256SUMS");
    let lines = fs::read_to_string(&sums).context("cannot read SHA256SUMS")?;
    write(&sums, (lines + &checksums(&[(name, bytes)])).as_bytes())
}

fn tell(release: &Release, made: &[Made], directory: &Path) {
    let libraries: Vec<&str> = release.needs.libraries.iter().map(String::as_str).collect();
    output::note(&format!("oldest glibc that will do: {}", release.needs.glibc));
    // A static glibc cannot load the modules that getaddrinfo asks, which pyro-net needs for names.
    output::note(&format!("dynamically linked with {}", libraries.join(", ")));
    output::note(&format!("third-party packages: {}", release.third_party_count()));
    for (name, bytes) in made {
        output::line(&format!("{} ({} KiB)", directory.join(name).display(), bytes.len() >> 10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_lines_for_sha256sum() {
        let made = [("a.tar.gz".to_owned(), b"abc".to_vec())];
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(checksums(&made), format!("{abc}  a.tar.gz\n"));
    }

    #[test]
    fn a_difference_is_named() {
        let one = [("a".to_owned(), vec![1]), ("b".to_owned(), vec![2])];
        assert!(compare(&one, &one).is_ok());
        let other = [one[0].clone(), ("b".to_owned(), vec![3])];
        assert_eq!(compare(&one, &other).unwrap_err().to_string(), "b differs when it is made again");
        assert!(compare(&one, &one[..1]).is_err());
    }
}
