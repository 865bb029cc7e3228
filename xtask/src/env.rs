//! `cargo xtask env build NAME`: the curated environments, from Debian packages.

pub(crate) mod archive;
mod artifact;
mod install;
mod recipe;
pub(crate) mod tree;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;

use crate::{guest, output, root, setup};
use artifact::Origin;
use install::Installed;
use recipe::Recipe;

/// The curated environments
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make an environment from Debian packages and install it into this user's cache
    Build(BuildArguments),
}

#[derive(clap::Args)]
struct BuildArguments {
    /// debian:12, debian:12-base or debian:12-build
    name: String,
    /// Build even when nothing changed since the last time
    #[arg(long)]
    force: bool,
    /// Build twice and compare every byte
    #[arg(long)]
    verify: bool,
    /// Copy the finished image to this registry: HOST or HOST:PORT
    #[arg(long, value_name = "REGISTRY")]
    push: Option<String>,
    /// Take the packages from this Debian archive instead of the ones that apt uses here
    #[arg(long, value_name = "URL", env = "PYRO_DEBIAN_MIRROR")]
    mirror: Option<String>,
}

/// Runs the chosen command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Command::Build(build) = &arguments.command;
    setup::run(&setup::Arguments::default())?;
    let recipe = recipe::named(&build.name)?;
    let tar = build_tree(recipe, build.mirror.as_deref(), build.force)?;
    let kernel = kernel()?;
    let origin = Origin::new(recipe, &kernel)?;
    let layout = directory(recipe).join("layout");
    let digest = artifact::write(recipe, &origin, &tar, &kernel, &layout)?;
    let installed = install::install(&install::cache()?, recipe, &layout)?;
    if build.verify {
        verify(recipe, build.mirror.as_deref(), &kernel, &digest)?;
    }
    if let Some(registry) = &build.push {
        artifact::push(recipe.catalog_entry()?, &layout, registry)?;
    }
    output::line(&format!("{} is installed in {}", recipe.name, installed.display()));
    output::line(&format!("layout {} {digest}", layout.display()));
    Ok(())
}

/// Builds and installs `name` unless it is there already, and returns the cache that has it.
pub(crate) fn ensure(name: &str) -> Result<PathBuf> {
    let recipe = recipe::named(name)?;
    let cache = install::cache()?;
    let kernel = kernel()?;
    let origin = Origin::new(recipe, &kernel)?;
    match install::installed(&cache, recipe, &origin)? {
        Installed::Usable => output::note(&format!("{name} is installed in {}", cache.display())),
        Installed::Absent | Installed::Outdated => {
            let tar = build_tree(recipe, None, false)?;
            let layout = directory(recipe).join("layout");
            artifact::write(recipe, &origin, &tar, &kernel, &layout)?;
            install::install(&cache, recipe, &layout)?;
        }
    }
    Ok(cache)
}

fn kernel() -> Result<PathBuf> {
    Ok(guest::build(&guest::Arguments::default())?.directory.join("vmlinux"))
}

/// The root file system of `name` as an archive, built if need be.
pub(crate) fn tree(name: &str) -> Result<PathBuf> {
    build_tree(recipe::named(name)?, None, false)
}

/// The directory of everything that is made for `recipe`.
fn directory(recipe: &Recipe) -> PathBuf {
    root::target().join("environments").join(recipe.name.replace(':', "_"))
}

/// Builds the archive, unless the last one was made from the same recipe and the same package lists.
fn build_tree(recipe: &Recipe, mirror: Option<&str>, force: bool) -> Result<PathBuf> {
    let directory = directory(recipe);
    let tar = directory.join("rootfs.tar");
    let sources = archive::sources(recipe.suite, mirror)?;
    let key = recipe.key(&sources);
    let key_file = directory.join("key");
    if !force && tar.is_file() && std::fs::read_to_string(&key_file).is_ok_and(|old| old == key) {
        output::note(&format!("{} is up to date", recipe.name));
        return Ok(tar);
    }
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let started = Instant::now();
    tree::build(recipe.contents(), &sources.lines, &tar, &directory.join("packages.txt"))?;
    std::fs::write(&key_file, key).with_context(|| format!("cannot write {}", key_file.display()))?;
    output::note(&format!("{} made in {}", recipe.name, output::seconds(started.elapsed())));
    Ok(tar)
}

/// Builds once more from the packages on, elsewhere, and compares every byte by the manifests' digests.
fn verify(recipe: &Recipe, mirror: Option<&str>, kernel: &Path, first: &str) -> Result<()> {
    let elsewhere = directory(recipe).join("verify");
    std::fs::create_dir_all(&elsewhere).with_context(|| format!("cannot make {}", elsewhere.display()))?;
    let tar = elsewhere.join("rootfs.tar");
    let sources = archive::sources(recipe.suite, mirror)?;
    tree::build(recipe.contents(), &sources.lines, &tar, &elsewhere.join("packages.txt"))?;
    let origin = Origin::new(recipe, kernel)?;
    let second = artifact::write(recipe, &origin, &tar, kernel, &elsewhere.join("layout"))?;
    ensure!(
        first == second,
        "{}: two builds from the same packages differ; the second one is in {}",
        recipe.name,
        elsewhere.display()
    );
    output::note(&format!("{}: a second build is the same in every byte", recipe.name));
    std::fs::remove_dir_all(&elsewhere).with_context(|| format!("cannot remove {}", elsewhere.display()))
}

/// A name that no recipe has.
fn unknown(name: &str) -> Result<&'static Recipe> {
    let known: Vec<&str> = recipe::ALL.iter().map(|recipe| recipe.name).collect();
    bail!("no recipe is called {name}; there are {}", known.join(", "))
}
