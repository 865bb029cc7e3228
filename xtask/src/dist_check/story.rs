//! What somebody does with a fresh installation.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::client::Client;
use super::ensure_below;
use super::installation::Installation;

/// Who uses one installation, with a state of their own.
pub(super) struct Visitor {
    installation: Installation,
    /// The directory that everything of the installation is below.
    place: PathBuf,
    /// An empty directory to work in.
    desk: PathBuf,
    state: PathBuf,
    cache: PathBuf,
}

/// The steps in their order.
pub(super) struct Steps;

type Step = fn(&Visitor) -> Result<()>;

impl Steps {
    pub(super) const ALL: [(&'static str, Step); 7] = [
        ("pyro doctor", Visitor::doctor),
        ("pyro run debian:12 -- git --version", Visitor::run_once),
        ("pyro workspace create", Visitor::create),
        ("pyro workspace exec", Visitor::exec),
        ("pyro workspace delete", Visitor::delete),
        ("MCP initialize and tools/list", Visitor::shake_hands),
        ("its documents", Visitor::read_documents),
    ];
}

/// The little memory that these guests need.
const GUEST_MEMORY: &str = "--mem-mib=256";
/// The workspace's name.
const NAME: &str = "dist-check";
/// Variables that would lead pyro away from its installation, or into other settings.
const LEADING_AWAY: [&str; 6] = [
    "PYRO_RUNTIME_BUNDLE_DIR",
    "PYRO_REGISTRY_MIRROR",
    "PYRO_TEST_FAULT",
    "PYRO_TEST_TRAP_LOG",
    "PYRO_TEST_INIT",
    "PYTHONPATH",
];

impl Visitor {
    pub(super) fn new(installation: Installation, place: &Path, cache: PathBuf) -> Result<Self> {
        let [desk, state] = ["desk", "state"].map(|name| place.join(name));
        fs::create_dir(&desk).context("cannot make a directory to work in")?;
        Ok(Self { installation, place: place.to_owned(), desk, state, cache })
    }

    fn pyro(&self, arguments: &[&str]) -> Command {
        let words = &self.installation.words;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(arguments).current_dir(&self.desk).stdin(Stdio::null());
        for name in LEADING_AWAY {
            command.env_remove(name);
        }
        command
            .envs(self.installation.variables.iter().map(|(name, value)| (name, value)))
            .env("PYRO_STATE_DIR", &self.state)
            .env("PYRO_CONFIG", self.place.join("config.toml"))
            .env("PYRO_ENVIRONMENT_CACHE_DIR", &self.cache);
        command
    }

    /// Standard output of a command that must succeed.
    fn told(&self, arguments: &[&str]) -> Result<String> {
        let result = self.pyro(arguments).output().context("cannot start pyro")?;
        let (stdout, stderr) =
            (String::from_utf8_lossy(&result.stdout), String::from_utf8_lossy(&result.stderr));
        ensure!(result.status.success(), "{}: {}{}", result.status, stdout.trim(), stderr.trim());
        Ok(stdout.into_owned())
    }

    fn doctor(&self) -> Result<()> {
        let told = self.told(&["doctor"])?;
        ensure!(told.contains("Runtime: PASS"), "{told}");
        ensure_below(&self.bundle()?, &self.place)
    }

    fn bundle(&self) -> Result<PathBuf> {
        let report: Value = serde_json::from_str(&self.told(&["doctor", "--json"])?)?;
        let bundle = report["runtime"]["bundle_root"].as_str().context("the report names no guest bundle")?;
        Ok(bundle.into())
    }

    fn run_once(&self) -> Result<()> {
        let told = self.told(&["run", GUEST_MEMORY, "debian:12", "--", "git", "--version"])?;
        ensure!(told.starts_with("git version "), "{told}");
        Ok(())
    }

    fn create(&self) -> Result<()> {
        let told = self.told(&["workspace", "create", GUEST_MEMORY, "debian:12", "--name", NAME])?;
        ensure!(told.contains("State: started"), "{told}");
        Ok(())
    }

    fn exec(&self) -> Result<()> {
        let told = self.told(&["workspace", "exec", NAME, "--", "sh", "-c", "echo made > it; cat it"])?;
        ensure!(told == "made\n", "{told}");
        Ok(())
    }

    fn delete(&self) -> Result<()> {
        self.told(&["workspace", "delete", NAME])?;
        let left = self.told(&["workspace", "list", "--json"])?;
        ensure!(!left.contains(NAME), "{left}");
        Ok(())
    }

    fn shake_hands(&self) -> Result<()> {
        let mut client = Client::start(self.pyro(&["mcp", "serve"]))?;
        let server = client.initialize()?;
        let own = env!("CARGO_PKG_VERSION");
        ensure!(server["serverInfo"]["version"] == own, "{server}");
        let tools = client.request("tools/list", &serde_json::json!({}))?;
        let named = |name: &str| {
            tools["tools"].as_array().is_some_and(|tools| tools.iter().any(|tool| tool["name"] == name))
        };
        ensure!(named("workspace_create") && named("workspace_exec"), "{tools}");
        client.close()
    }

    /// The licences, the sources' whereabouts and the bill of materials, beside the bundle.
    fn read_documents(&self) -> Result<()> {
        let documents = self.bundle()?.join("../../doc/pyro");
        for name in
            ["LICENSE", "THIRD-PARTY-LICENSES", "SOURCES", "kernel/COPYING", "kernel/config", "pyro.cdx.json"]
        {
            let path = documents.join(name);
            let len = fs::metadata(&path).with_context(|| format!("cannot find {}", path.display()))?.len();
            if len == 0 {
                bail!("{} is empty", path.display());
            }
        }
        Ok(())
    }
}
