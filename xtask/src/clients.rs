//! MCP clients that others wrote, for the tests of pyro's server: the SDKs of Python and TypeScript, and the Inspector's
//! command line. They are installed by pip and npm as this machine has them set up.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::{output, root, setup, steps};

/// What is installed, exactly: each file is part of the key.
const PINS: [&str; 3] = ["requirements.txt", "package.json", "package-lock.json"];

/// Written last, so that what a broken-off run left is made anew.
const COMPLETE: &str = "complete";

/// Programs that are needed, the arguments with which each shows that it is whole, and Debian's packages that have them.
const PROGRAMS: [(&str, &[&str], &[&str]); 2] = [
    ("python3", &["-c", "import venv, ensurepip"], &["python3", "python3-venv"]),
    ("npm", &["--version"], &["npm"]),
];

/// A directory with `venv` and `node_modules`, made where the user's cache does not have it yet.
pub(crate) fn ensure() -> Result<PathBuf> {
    let cache = root::user_cache()?.join("pyro-mcp/clients");
    let directory = cache.join(key()?);
    if directory.join(COMPLETE).exists() {
        output::note(&format!("the MCP clients are in {}", directory.display()));
        return Ok(directory);
    }
    for (program, arguments, packages) in PROGRAMS {
        if !works(program, arguments) {
            setup::install(packages).with_context(|| format!("{program} is missing or not whole"))?;
        }
    }
    if directory.exists() {
        std::fs::remove_dir_all(&directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    install_python(&directory)?;
    install_node(&directory)?;
    std::fs::write(directory.join(COMPLETE), "").context("cannot finish the MCP clients")?;
    Ok(directory)
}

fn install_python(directory: &Path) -> Result<()> {
    let venv = directory.join("venv");
    steps::run("virtual environment", Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    let mut pip = Command::new(venv.join("bin/python"));
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--requirement",
    ]);
    steps::run("Python SDK", pip.arg(pins().join(PINS[0])))
}

fn install_node(directory: &Path) -> Result<()> {
    for name in &PINS[1..] {
        std::fs::copy(pins().join(name), directory.join(name))
            .with_context(|| format!("cannot copy {name}"))?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
        .current_dir(directory);
    steps::run("TypeScript SDK and Inspector", &mut npm)
}

fn works(program: &str, arguments: &[&str]) -> bool {
    let quiet = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

fn pins() -> PathBuf {
    root::workspace().join("xtask/clients")
}

/// Changes with whatever is pinned and with the Python that the virtual environment stands on.
fn key() -> Result<String> {
    let mut digest = Sha256::new();
    for name in PINS {
        let text = std::fs::read(pins().join(name)).with_context(|| format!("cannot read {name}"))?;
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    }
    let python =
        Command::new("python3").arg("-c").arg("import sys; print(sys.base_prefix, sys.version)").output();
    // Where there is none yet, there is nothing in the cache either.
    digest.update(python.map(|python| python.stdout).unwrap_or_default());
    Ok(hex::encode(digest.finalize())[..16].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_is_pinned_and_no_host_is_named() {
        let read = |name: &str| std::fs::read_to_string(pins().join(name)).unwrap();
        for line in read(PINS[0]).lines() {
            assert!(line.split_once("==").is_some_and(|(_, version)| !version.is_empty()), "{line}");
        }
        let package: serde_json::Value = serde_json::from_str(&read(PINS[1])).unwrap();
        for (name, version) in package["dependencies"].as_object().unwrap() {
            assert!(version.as_str().unwrap().starts_with(|c: char| c.is_ascii_digit()), "{name} {version}");
        }
        assert!(!read(PINS[2]).contains("\"resolved\""), "use npm's omit-lockfile-registry-resolved");
    }

    #[test]
    fn the_key_is_a_name_and_the_same_twice() {
        let first = key().unwrap();
        assert_eq!((first.len(), &first), (16, &key().unwrap()));
    }
}
