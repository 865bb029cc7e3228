//! The guest suite on the native engine: here where KVM works, else in the lab.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

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

/// How much slower than elsewhere guests are here, where an emulator runs the processor that runs them: tests wait longer.
const SLOWNESS: (&str, &str) = ("PYRO_TEST_SLOWNESS", "6");
/// Megabytes of each bulk transfer, at about one a second.
const BULK_MIB: (&str, &str) = ("PYRO_TEST_BULK_MIB", "4");
/// Machines at once, one processor each: more than one processor in a lab makes its guests hang or die now and then.
const LABS: usize = 2;
/// What takes longest comes first, so that the machines end together.
const LONGEST: &[&str] = &[
    "pyro-cli test guest_crashes",
    "pyro-cli test guest_shells",
    "pyro-cli test guest_services",
    "pyro-cli test guest_ports",
    "pyro-cli test guest",
    "pyro-cli test guest_network",
    "pyro-vmm test guest_boot",
];
/// What `cargo xtask test` runs on KVM: no more than time allows (docs/lab.md). The rest is left to
/// `cargo xtask smoke --engine kvm`.
const EVERY_CHANGE: &[&str] = &["pyro-vmm test guest_boot"];
/// Parts of the names of its tests that are run.
const EVERY_CHANGE_TESTS: &[&str] = &[
    "a_guest_that_powers_off",
    "a_guest_that_restarts",
    "a_panic_is_reported",
    "streams_run_both_ways",
    "several_cpus_work",
    "a_paused_guest",
    "stopped_by_a_signal",
    "both_processes_are_confined",
    "a_killed_machine",
];
/// Twice what the longest of them takes on two processors.
const EVERY_CHANGE_LIMIT: Duration = Duration::from_secs(20 * 60);
/// The test that boots one machine after the other, and the variable that tells it how many.
const BOOTS_TEST: &str = "machines_boot_one_after_the_other";
const BOOTS_BINARY: &str = "pyro-vmm test guest_boot";
const BOOTS: &str = "PYRO_TEST_BOOTS";

/// Builds, runs and counts.
pub(super) fn run(arguments: &Arguments) -> Result<()> {
    setup::run(&setup::Arguments::default())?;
    let mut binaries = suite::build_guest_tests()?;
    let needs = Needs::prepare()?;
    let mut turn = Turn {
        part: Part::All,
        filters: arguments.filters.clone(),
        size: arguments.size.clone(),
        limit: Duration::from_secs(60 * arguments.limit),
        variables: BTreeMap::new(),
        words: Vec::new(),
    };
    if let Some(count) = arguments.boots {
        binaries.retain(|binary| binary.name == BOOTS_BINARY);
        turn.filters = vec![BOOTS_TEST.to_owned()];
        turn.variables.insert(BOOTS.to_owned(), count.to_string().into());
        // Each boot is told when it ends.
        turn.words.push("--nocapture".into());
    }
    let sum = turn.run(&binaries, &needs)?;
    if sum.passed + sum.failed == 0 {
        bail!("no test was run: no name contains {}", arguments.filters.join(" or "));
    }
    Ok(sum.conclude()?)
}

/// The guest tests that are run on the native engine, and how.
pub(crate) struct Turn {
    part: Part,
    /// Only tests whose names contain one of these; all when empty.
    filters: Vec<String>,
    size: lab::SizeArguments,
    /// How long a binary may run.
    limit: Duration,
    /// Beside those that all tests get.
    variables: BTreeMap<String, OsString>,
    /// For the binaries, beside the filters.
    words: Vec<OsString>,
}

/// Which binaries are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    All,
    /// Those of [`EVERY_CHANGE`].
    EveryChange,
}

impl Part {
    fn has(self, name: &str) -> bool {
        self == Self::All || EVERY_CHANGE.contains(&name)
    }
}

impl Turn {
    /// What `cargo xtask test` runs.
    pub(crate) fn of_every_change() -> Self {
        Self {
            part: Part::EveryChange,
            filters: EVERY_CHANGE_TESTS.iter().map(|&name| name.to_owned()).collect(),
            size: lab::SizeArguments::default(),
            limit: EVERY_CHANGE_LIMIT,
            variables: BTreeMap::new(),
            words: Vec::new(),
        }
    }

    /// Runs those of `binaries` that say something of this engine.
    pub(crate) fn run(&self, binaries: &[TestBinary], needs: &Needs) -> Result<Counts> {
        let mut variables: BTreeMap<String, OsString> = needs.variables().into_iter().collect();
        for (name, value) in [ENGINE, REQUIRED, NO_CLIENTS] {
            variables.insert(name.to_owned(), value.into());
        }
        variables.extend(self.variables.clone());
        let mut sum = Counts::default();
        let mut wanted = Vec::new();
        for binary in binaries {
            if EMULATED_ONLY.contains(&binary.name.as_str()) {
                output::skip(&binary.name, "it boots under QEMU's emulator and nothing else");
                sum.skipped += 1;
            } else if !self.part.has(&binary.name) {
                output::skip(&binary.name, "on KVM it is left to cargo xtask smoke --engine kvm");
                sum.skipped += 1;
            } else if self.has_tests(binary)? {
                wanted.push(binary.clone());
            }
        }
        wanted.sort_by_key(|binary| {
            LONGEST.iter().position(|name| *name == binary.name).unwrap_or(LONGEST.len())
        });
        if wanted.is_empty() {
            return Ok(sum);
        }
        if works_here(&variables)? {
            let settings = Settings {
                filters: &self.filters,
                variables,
                prefix: Vec::new(),
                words: self.words.clone(),
                limit: self.limit,
            };
            for binary in &wanted {
                sum += suite::run(binary, &settings)?;
            }
            return Ok(sum);
        }
        for (name, value) in [SLOWNESS, BULK_MIB] {
            variables.insert(name.to_owned(), value.into());
        }
        sum += self.run_in_labs(wanted, needs, &variables)?;
        Ok(sum)
    }

    /// Asks a binary, so that no lab boots for nothing.
    fn has_tests(&self, binary: &TestBinary) -> Result<bool> {
        let mut list = Command::new(&binary.executable);
        list.arg("--list").args(&self.filters).current_dir(&binary.directory);
        Ok(steps::read(&mut list)?.lines().any(|line| line.ends_with(": test")))
    }

    fn run_in_labs(
        &self,
        binaries: Vec<TestBinary>,
        needs: &Needs,
        variables: &BTreeMap<String, OsString>,
    ) -> Result<Counts> {
        output::note("KVM runs no guests here: the tests run in the lab");
        let mut paths: Vec<PathBuf> = binaries.iter().map(|binary| binary.executable.clone()).collect();
        paths.extend(["pyro", "pyro-vmm"].map(program));
        paths.extend([&needs.bundle, &needs.cache, &needs.init].map(PathBuf::clone));
        let pack =
            steps::call("pack for the lab", || lab::Pack::make(&paths))?.context("there is much to pack")?;
        lab::ensure_image()?;
        let prefix = lab::prefix(&self.size, &pack)?;
        // All that a lone one says is shown as it comes.
        let run = if binaries.len() == 1 { suite::run } else { suite::run_beside };
        let queue = Mutex::new(VecDeque::from(binaries));
        let next = || queue.lock().ok().and_then(|mut queue| queue.pop_front());
        let work = || -> Result<Counts> {
            let mut sum = Counts::default();
            while let Some(binary) = next() {
                let settings = Settings {
                    filters: &self.filters,
                    variables: BTreeMap::new(),
                    prefix: [prefix.as_slice(), &environment(variables, &binary.directory)].concat(),
                    words: self.words.clone(),
                    limit: self.limit,
                };
                sum += run(&binary, &settings)?;
            }
            Ok(sum)
        };
        std::thread::scope(|scope| {
            let labs: Vec<_> = (0..LABS).map(|_| scope.spawn(work)).collect();
            let mut sum = Counts::default();
            for lab in labs {
                sum += lab.join().map_err(|_| anyhow!("a thread of the lab panicked"))??;
            }
            Ok(sum)
        })
    }
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
