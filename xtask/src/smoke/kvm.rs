//! The guest suite on the native engine: here where KVM works, else in the lab.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Arguments;
use crate::counts::Counts;
use crate::suite::{self, Settings, TestBinary};
use crate::test::Needs;
use crate::{lab, output, root, setup, steps};

/// The variable that chooses the engine of pyro and of the tests.
const ENGINE: (&str, &str) = ("PYRO_ENGINE", "kvm");
/// What the tests may not skip.
const REQUIRED: (&str, &str) = ("PYRO_REQUIRE", "guest,kvm,registry");
/// Clients that others wrote are installed for the caller alone, and not in the lab.
const NO_CLIENTS: (&str, &str) = ("PYRO_TEST_NO_CLIENTS", "the KVM run of the suite has no MCP clients");
/// Binaries that start QEMU by themselves and so say nothing of this engine.
const EMULATED_ONLY: &[&str] = &["pyro-agent test guest_boot"];

/// Builds, runs and counts.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    setup::run(&setup::Arguments::default())?;
    let binaries = suite::build_guest_tests()?;
    let needs = Needs::prepare()?;
    let mut variables: BTreeMap<String, OsString> = needs.variables().into_iter().collect();
    for (name, value) in [ENGINE, REQUIRED, NO_CLIENTS] {
        variables.insert(name.to_owned(), value.into());
    }
    let place = if works_here(&variables)? { Place::Here } else { Place::lab(arguments, &binaries, &needs)? };
    let mut sum = Counts::default();
    for binary in &binaries {
        if EMULATED_ONLY.contains(&binary.name.as_str()) {
            output::skip(&binary.name, "it boots under QEMU's emulator and nothing else");
            sum.skipped += 1;
            continue;
        }
        sum += suite::run(binary, &place.settings(arguments, binary, &variables))?;
    }
    if sum.passed + sum.failed == 0 {
        bail!("no test was run: no name contains {}", arguments.filters.join(" or "));
    }
    Ok(sum.conclude()?)
}

fn program(name: &str) -> PathBuf {
    root::target().join("debug").join(name)
}

/// Whether pyro says that its native engine can run guests on this host.
fn works_here(variables: &BTreeMap<String, OsString>) -> Result<bool> {
    let result = Command::new(program("pyro"))
        .args(["doctor", "--json"])
        .envs(variables)
        .output()
        .context("cannot run pyro doctor")?;
    let report = serde_json::from_slice(&result.stdout).context("pyro doctor prints no JSON")?;
    Ok(is_native(&report))
}

/// Reads the report of `pyro doctor`. A machine whose device opens and runs nothing is told by the engine that was chosen.
fn is_native(report: &serde_json::Value) -> bool {
    report["engine"]["name"] == "kvm" && report["runtime_ok"] == true
}

/// Where the tests run.
enum Place {
    Here,
    Lab {
        prefix: Vec<OsString>,
        /// What the prefix names.
        _pack: lab::Pack,
    },
}

impl Place {
    fn lab(arguments: &Arguments, binaries: &[TestBinary], needs: &Needs) -> Result<Self> {
        output::note("KVM runs no guests here: the tests run in the lab");
        let mut paths: Vec<PathBuf> = binaries.iter().map(|binary| binary.executable.clone()).collect();
        paths.extend(["pyro", "pyro-vmm"].map(program));
        paths.extend([&needs.bundle, &needs.cache, &needs.init].map(PathBuf::clone));
        let pack =
            steps::call("pack for the lab", || lab::Pack::make(&paths))?.context("there is much to pack")?;
        Ok(Self::Lab { prefix: lab::prefix(&arguments.size, &pack)?, _pack: pack })
    }

    fn settings<'a>(
        &self,
        arguments: &'a Arguments,
        binary: &TestBinary,
        variables: &BTreeMap<String, OsString>,
    ) -> Settings<'a> {
        let filters = &arguments.filters;
        match self {
            Self::Here => Settings {
                filters,
                variables: variables.clone(),
                prefix: Vec::new(),
                limit: suite::BINARY_TIME,
            },
            Self::Lab { prefix, .. } => Settings {
                filters,
                variables: BTreeMap::new(),
                prefix: [prefix.as_slice(), &environment(variables, &binary.directory)].concat(),
                limit: Duration::from_secs(60 * arguments.limit),
            },
        }
    }
}

/// `env` with variables: what is set here is not set in the lab.
fn environment(variables: &BTreeMap<String, OsString>, directory: &Path) -> Vec<OsString> {
    let manifest = ("CARGO_MANIFEST_DIR".to_owned(), directory.as_os_str().to_owned());
    let mut words = vec![OsString::from("env")];
    for (name, value) in variables.iter().map(|(name, value)| (name.clone(), value.clone())).chain([manifest])
    {
        let mut word = OsString::from(name + "=");
        word.push(value);
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_engine_that_was_chosen_and_works_is_native() {
        let report =
            |name: &str, ok: bool| serde_json::json!({ "runtime_ok": ok, "engine": { "name": name } });
        assert!(is_native(&report("kvm", true)));
        assert!(!is_native(&report("kvm", false)) && !is_native(&report("emulated", true)));
        assert!(!is_native(&serde_json::json!({})));
    }

    #[test]
    fn the_lab_is_told_the_variables_as_words() {
        let variables = BTreeMap::from([("A".to_owned(), OsString::from("b c"))]);
        let words = environment(&variables, Path::new("/tree/crate"));
        assert_eq!(words, ["env", "A=b c", "CARGO_MANIFEST_DIR=/tree/crate"]);
    }
}
