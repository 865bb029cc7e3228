//! `cargo xtask test`: all tests, real guests included.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::counts::Counts;
use crate::smoke::kvm::Turn;
use crate::suite::{self, BINARY_TIME, Ring, Settings, TestBinary};
use crate::user::OrdinaryUser;
use crate::{clients, env, guest, root, setup, steps};

/// All tests, real guests included, ending with the line `N passed, N failed, N skipped`
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only this ring: 0 pure code, 1 edges, 2 simulation, 3 real guests
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=3))]
    ring: Option<u8>,
    /// Leave out the tests of ring 3 on KVM, which run in the lab where KVM does not work here
    #[arg(long)]
    no_lab: bool,
    /// Only tests whose names contain one of these
    filters: Vec<String>,
}

impl Arguments {
    /// The guest suite on the emulated engine, filtered.
    pub(crate) fn guests(filters: &[String]) -> Self {
        Self { ring: Some(3), filters: filters.to_vec(), no_lab: true }
    }
}

/// What the tests may not skip once everything is set up.
const REQUIRED: &str = "guest,registry,mcp-clients";
/// The same for root, who can make network namespaces.
const REQUIRED_OF_ROOT: &str = "guest,registry,mcp-clients,netns";

/// Tests by programs that others wrote and that are installed for the caller alone.
const CLIENTS: &str = "guest_clients";

/// Those are not run a second time as an ordinary user, nor are these, which take minutes and are the same for everybody.
const ONCE: [&str; 2] = [CLIENTS, "guest_archives"];

/// Megabytes of each bulk transfer, once: with the smaller default it takes a minute less, which is enough for
/// the ordinary user's turn.
const BULK_MIB: &str = "1024";

/// Sets the machine up, builds what guests need, runs the tests and prints the sum.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::run(&setup::Arguments::default())?;
    let ring = arguments.ring.map(|number| Ring::from_number(number).context("no such ring")).transpose()?;
    let wanted = |binary: &TestBinary| ring.is_none_or(|ring| ring == binary.ring);
    let binaries: Vec<TestBinary> = suite::build()?.into_iter().filter(wanted).collect();
    let is_guest = |binary: &&TestBinary| binary.ring == Ring::Guest;
    let needs = binaries.iter().find(is_guest).map(|_| Needs::prepare()).transpose()?;

    let required = if setup::is_root() { REQUIRED_OF_ROOT } else { REQUIRED };
    let mut variables = BTreeMap::from([("PYRO_REQUIRE".to_owned(), OsString::from(required))]);
    variables.extend(needs.iter().flat_map(Needs::variables));
    if binaries.iter().any(|binary| binary.name.ends_with(CLIENTS)) {
        variables.extend(client_variables());
    }
    let bulk = ("PYRO_TEST_BULK_MIB".to_owned(), OsString::from(BULK_MIB));
    let own_variables =
        variables.iter().map(|(key, value)| (key.clone(), value.clone())).chain([bulk]).collect();
    let own = Settings {
        filters: &arguments.filters,
        variables: own_variables,
        prefix: Vec::new(),
        words: Vec::new(),
        limit: BINARY_TIME,
    };
    let mut sum = Counts::default();
    for binary in &binaries {
        sum += suite::run(binary, &own)?;
    }
    if let Some(needs) = needs.as_ref().filter(|_| setup::is_root()) {
        let user = OrdinaryUser::prepare(&needs.bundle, &needs.cache)?;
        variables.extend(user.variables());
        let theirs = Settings { variables, prefix: user.prefix(), ..own };
        let is_for_all = |binary: &&TestBinary| ONCE.iter().all(|name| !binary.name.ends_with(name));
        for binary in binaries.iter().filter(is_guest).filter(is_for_all) {
            let name = format!("{} as an ordinary user", binary.name);
            sum += suite::run(&TestBinary { name, ..binary.clone() }, &theirs)?;
        }
    }
    if let Some(needs) = needs.filter(|_| !arguments.no_lab && arguments.filters.is_empty()) {
        let guests: Vec<TestBinary> = binaries.iter().filter(is_guest).cloned().collect();
        sum += Turn::of_every_change().run(&guests, &needs)?;
    }
    if ring.is_none() && arguments.filters.is_empty() {
        sum += suite::run_doc_tests()?;
    }
    if sum == Counts::default() {
        bail!("no test was run: no name contains {}", arguments.filters.join(" or "));
    }
    Ok(sum.conclude()?)
}

/// Runs one binary of guest tests, or those of its tests whose names contain a filter, as the caller, and prints the sum.
pub(crate) fn run_guest_test(name: &str, filters: &[String]) -> Result<()> {
    setup::run(&setup::Arguments::default())?;
    let binary = suite::build_guest_test(name)?;
    let needs = Needs::prepare()?;
    let required = ("PYRO_REQUIRE".to_owned(), OsString::from(REQUIRED));
    let mut variables: BTreeMap<_, _> = needs.variables().into_iter().chain([required]).collect();
    if name == CLIENTS {
        variables.extend(client_variables());
    }
    let settings = Settings { filters, variables, prefix: Vec::new(), words: Vec::new(), limit: BINARY_TIME };
    Ok(suite::run(&binary, &settings)?.conclude()?)
}

/// Where the MCP clients are. Without them their tests fail with the reason; all others can be run.
fn client_variables() -> Vec<(String, OsString)> {
    let (name, value) = match clients::ensure() {
        Ok(directory) => ("PYRO_TEST_CLIENTS", directory.into_os_string()),
        Err(error) => ("PYRO_TEST_NO_CLIENTS", format!("{error:#}").into()),
    };
    vec![(name.to_owned(), value)]
}

/// What the guest suite boots.
pub(crate) struct Needs {
    pub(crate) bundle: PathBuf,
    pub(crate) cache: PathBuf,
    /// An init that exercises devices without the agent, for the tests of pyro-vmm.
    pub(crate) init: PathBuf,
}

impl Needs {
    /// Builds what is absent.
    pub(crate) fn prepare() -> Result<Self> {
        let bundle = guest::build(&guest::Arguments::default())?.directory;
        let cache = env::ensure("debian:12")?;
        let init = root::target().join("debug/guest-test-init");
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc.args(["--edition=2024", "-Copt-level=2", "-Ctarget-feature=+crt-static", "-Cpanic=abort"]);
        rustc.args(["--target=x86_64-unknown-linux-gnu", "-Cstrip=symbols", "-o"]).arg(&init);
        rustc.arg("crates/pyro-vmm/tests/guest/init.rs").current_dir(root::workspace());
        steps::run("init of device tests", &mut rustc)?;
        Ok(Self { bundle, cache, init })
    }

    /// Where the tests find it.
    pub(crate) fn variables(&self) -> [(String, OsString); 3] {
        [
            ("PYRO_RUNTIME_BUNDLE_DIR".to_owned(), self.bundle.clone().into()),
            ("PYRO_ENVIRONMENT_CACHE_DIR".to_owned(), self.cache.clone().into()),
            ("PYRO_TEST_INIT".to_owned(), self.init.clone().into()),
        ]
    }
}
