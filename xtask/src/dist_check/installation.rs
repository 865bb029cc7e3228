//! The forms of distribution, each installed as its users do, into a directory of its own.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::dist::Artifacts;
use crate::steps;

/// A way to install pyro.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    /// The tarball, unpacked.
    Tarball,
    /// The Debian package, unpacked below an empty root.
    Deb,
    /// The wheel in a virtual environment, by pip.
    Wheel,
    /// The wheel by `uvx --from`.
    Uvx,
}

/// pyro, installed.
#[derive(Debug)]
pub(super) struct Installation {
    /// The words that start pyro.
    pub(super) words: Vec<OsString>,
    /// Variables that those words need.
    pub(super) variables: Vec<(&'static str, OsString)>,
}

impl Form {
    pub(super) const ALL: [Self; 4] = [Self::Tarball, Self::Deb, Self::Wheel, Self::Uvx];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tarball => "tarball",
            Self::Deb => "deb",
            Self::Wheel => "wheel",
            Self::Uvx => "uvx",
        }
    }
}

impl Installation {
    /// Installs `form` below `place`.
    pub(super) fn make(form: Form, artifacts: &Artifacts, place: &Path) -> Result<Self> {
        match form {
            Form::Tarball => tarball(&artifacts.tarball, place),
            Form::Deb => deb(&artifacts.deb, place),
            Form::Wheel => wheel(&artifacts.wheel, place),
            Form::Uvx => uvx(&artifacts.wheel, place),
        }
    }

    fn of_program(path: PathBuf) -> Self {
        Self { words: vec![path.into()], variables: Vec::new() }
    }
}

fn tarball(archive: &Path, place: &Path) -> Result<Installation> {
    let prefix = place.join("opt");
    fs::create_dir(&prefix).context("cannot make the prefix")?;
    steps::read(
        Command::new("tar").args(["--strip-components=1", "-C"]).arg(&prefix).arg("-xf").arg(archive),
    )?;
    Ok(Installation::of_program(prefix.join("bin/pyro")))
}

fn deb(package: &Path, place: &Path) -> Result<Installation> {
    let root = place.join("root");
    steps::read(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&root))?;
    Ok(Installation::of_program(root.join("usr/bin/pyro")))
}

/// An empty virtual environment. Packages come from where this machine's pip takes them.
fn environment(directory: PathBuf) -> Result<PathBuf> {
    steps::read(Command::new("python3").args(["-m", "venv"]).arg(&directory))?;
    Ok(directory)
}

fn pip(environment: &Path) -> Command {
    let mut pip = Command::new(environment.join("bin/pip"));
    pip.args(["--disable-pip-version-check", "install", "--quiet"]);
    pip
}

fn wheel(wheel: &Path, place: &Path) -> Result<Installation> {
    let environment = environment(place.join("venv"))?;
    steps::read(pip(&environment).args(["--no-index", "--no-deps"]).arg(wheel))?;
    Ok(Installation::of_program(environment.join("bin/pyro")))
}

/// uv itself is installed by pip; pyro's wheel needs nothing of any index.
fn uvx(wheel: &Path, place: &Path) -> Result<Installation> {
    let environment = environment(place.join("uv"))?;
    steps::read(pip(&environment).arg("uv"))?;
    let uvx = environment.join("bin/uvx");
    let words =
        [uvx.as_os_str(), "--offline".as_ref(), "--from".as_ref(), wheel.as_os_str(), "pyro".as_ref()];
    Ok(Installation {
        words: words.map(OsString::from).to_vec(),
        variables: vec![
            ("UV_CACHE_DIR", place.join("uv-cache").into()),
            ("UV_PYTHON_DOWNLOADS", "never".into()),
            ("UV_NO_PROGRESS", "1".into()),
        ],
    })
}
