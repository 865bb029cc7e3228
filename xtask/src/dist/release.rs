//! Everything of one release, gathered from cargo, the programs and the guest bundle.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::date::Date;
use super::elf::Needs;
use super::licences::{self, Text, Work};
use super::packages::{self, Package};
use super::sbom;
use super::sources::Sources;
use super::tree::Tree;
use super::wheel::Wheel;
use crate::{guest, programs, root, steps};

/// What is to be packed, and what is told of it.
pub(super) struct Release {
    pub(super) version: &'static str,
    pub(super) date: Date,
    pub(super) tree: Tree,
    pub(super) needs: Needs,
    /// The bill of materials.
    pub(super) bill: String,
    pub(super) kernel_source: PathBuf,
    licence: String,
    third_party: String,
    description: String,
    packages: Vec<Package>,
}

const DOCUMENTS: &str = "share/doc/pyro";
/// The form of the shells' completion scripts, and where each shell looks for them.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/pyro"),
    ("fish", "share/fish/vendor_completions.d/pyro.fish"),
    ("zsh", "share/zsh/vendor-completions/_pyro"),
];

impl Release {
    /// Builds the guest bundle where need be, and the programs unless there are finished ones, and reads everything.
    pub(super) fn build(finished: Option<&Path>) -> Result<Self> {
        let date = date()?;
        let bundle = guest::build(&guest::Arguments::default())?;
        let built = finished.map_or_else(programs::distributable, |directory| Ok(directory.to_owned()))?;
        let packages = packages::read()?;
        let sources = Sources::of(&bundle)?;
        let version = env!("CARGO_PKG_VERSION");
        let bill = sbom::document(version, date, &packages, &packages::PROGRAMS, &sources)?;
        let mut works = works(&packages)?;
        works.push(rust_library()?);
        let mut release = Self {
            version,
            date,
            tree: Tree::default(),
            needs: Needs::default(),
            bill,
            kernel_source: bundle.kernel.tarball.clone(),
            licence: text("LICENSE")?,
            third_party: licences::document(&works),
            description: text("xtask/src/dist/wheel.md")?,
            packages,
        };
        release.add_programs(&built)?;
        release.add_bundle(&bundle)?;
        release.add_documents(&sources)?;
        release.add_generated(&built.join("pyro"))?;
        Ok(release)
    }

    /// The wheel's own part.
    pub(super) fn wheel(&self) -> Wheel<'_> {
        Wheel {
            version: self.version,
            glibc: self.needs.glibc,
            description: &self.description,
            date: self.date,
        }
    }

    /// The licence texts by file name.
    pub(super) fn licences(&self) -> [(&'static str, &[u8]); 2] {
        [("LICENSE", self.licence.as_bytes()), ("THIRD-PARTY-LICENSES", self.third_party.as_bytes())]
    }

    /// How many crates of others are in the programs.
    pub(super) fn third_party_count(&self) -> usize {
        self.packages.iter().filter(|package| !package.is_ours()).count()
    }

    fn add_programs(&mut self, built: &Path) -> Result<()> {
        for name in ["pyro", "pyro-vmm"] {
            let path = built.join(name);
            let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let needs = Needs::of(&bytes).with_context(|| format!("{} is unfit", path.display()))?;
            self.needs = std::mem::take(&mut self.needs).and(needs);
            self.tree.add_program(format!("bin/{name}"), bytes);
        }
        Ok(())
    }

    fn add_bundle(&mut self, bundle: &guest::Bundle) -> Result<()> {
        for name in ["initramfs.cpio", "manifest.json", "vmlinux"] {
            self.tree.add_copy(format!("share/pyro/guest/{name}"), &bundle.directory.join(name))?;
        }
        Ok(())
    }

    fn add_documents(&mut self, sources: &Sources) -> Result<()> {
        let copyright = format!("{COPYRIGHT}\n{}", self.licence);
        for (name, contents) in [
            ("LICENSE", self.licence.as_str()),
            ("THIRD-PARTY-LICENSES", &self.third_party),
            ("SOURCES", &sources.document()),
            ("copyright", &copyright),
            ("pyro.cdx.json", &self.bill),
        ] {
            self.tree.add(format!("{DOCUMENTS}/{name}"), contents);
        }
        for (name, path) in sources.attachments() {
            self.tree.add_copy(format!("{DOCUMENTS}/{name}"), &path)?;
        }
        let rust = rust_documents()?.join("COPYRIGHT-library.html");
        self.tree.add_copy(format!("{DOCUMENTS}/rust-library-COPYRIGHT.html"), &rust)?;
        self.tree.add_copy(format!("{DOCUMENTS}/CHANGELOG.md"), &root::workspace().join("CHANGELOG.md"))
    }

    /// What the program itself writes: completions and manual pages.
    fn add_generated(&mut self, pyro: &Path) -> Result<()> {
        for (shell, path) in COMPLETIONS {
            self.tree.add(path, steps::read(Command::new(pyro).args(["completion", shell]))?);
        }
        let pages = tempfile::tempdir().context("cannot make a temporary directory")?;
        steps::read(Command::new(pyro).arg("man").arg(pages.path()))?;
        for entry in std::fs::read_dir(pages.path()).context("cannot list the manual pages")? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let page = std::fs::read(entry.path()).with_context(|| format!("cannot read {name}"))?;
            self.tree.add(format!("share/man/man1/{name}.gz"), super::tarball::gzip(&page)?);
        }
        Ok(())
    }
}

const COPYRIGHT: &str = "\
pyro is licensed under Apache-2.0, whose text follows. THIRD-PARTY-LICENSES has the licences of the packages whose code
is in its programs; SOURCES tells of the guest kernel (GPL-2.0) and of the C library in the guest's agent (LGPL-2.1).
";

/// `SOURCE_DATE_EPOCH`, or when the last commit was made.
fn date() -> Result<Date> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => {
            let mut git = Command::new("git");
            git.args(["log", "-1", "--format=%ct"]).current_dir(root::workspace());
            steps::read(&mut git).context("outside a git checkout set SOURCE_DATE_EPOCH")?
        }
    };
    let seconds = text.trim().parse().with_context(|| format!("SOURCE_DATE_EPOCH: `{text}` is no number"))?;
    Ok(Date(seconds))
}

fn text(name: &str) -> Result<String> {
    std::fs::read_to_string(root::workspace().join(name)).with_context(|| format!("cannot read {name}"))
}

/// Everybody else's packages with their licence texts.
fn works(packages: &[Package]) -> Result<Vec<Work>> {
    let work = |package: &Package| {
        Ok(Work {
            name: package.name.clone(),
            version: package.version.clone(),
            licence: package.licence.clone(),
            texts: licences::texts(&package.directory)?,
        })
    };
    packages.iter().filter(|package| !package.is_ours()).map(work).collect()
}

/// Rust's own library, which is in every program and in no graph of cargo.
fn rust_library() -> Result<Work> {
    let version = steps::read(rustc().arg("--version"))?;
    let version = version.split_whitespace().nth(1).context("rustc tells no version")?.to_owned();
    let documents = rust_documents()?;
    let text = |name: &str| Text::read(&documents.join("licenses").join(name), name.to_owned());
    Ok(Work {
        name: "the Rust standard library".to_owned(),
        version,
        licence: "MIT OR Apache-2.0".to_owned(),
        texts: vec![text("MIT.txt")?, text("Apache-2.0.txt")?],
    })
}

/// Where the toolchain keeps what it tells of itself.
fn rust_documents() -> Result<PathBuf> {
    let sysroot = steps::read(rustc().args(["--print", "sysroot"]))?;
    Ok(Path::new(sysroot.trim()).join("share/doc/rust"))
}

/// The compiler of the tree's toolchain.
fn rustc() -> Command {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.current_dir(root::workspace());
    command
}
