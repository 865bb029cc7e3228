//! Which tools a server shows, and what it tells of them.

use crate::tool::AnyTool;
use crate::tools;
use std::fmt;
use std::str::FromStr;

/// A set of tools by how much of pyro they show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// One command in a machine that is thrown away.
    VmRun,
    /// What an agent's daily loop needs.
    #[default]
    WorkspaceCore,
    /// Everything.
    WorkspaceFull,
}

/// A set of tools by what is to be done with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reproduce a fault, mend it, and prove that.
    ReproFix,
    /// Look at code that nobody trusts.
    Inspect,
    /// Build and start a project from nothing.
    ColdStart,
    /// Review and evaluate with checkpoints.
    ReviewEval,
}

/// What a server shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// By how much of pyro.
    Profile(Profile),
    /// By what is to be done.
    Mode(Mode),
}

impl Default for Surface {
    fn default() -> Self {
        Self::Profile(Profile::default())
    }
}

/// A word that is none.
#[derive(Debug, thiserror::Error)]
#[error("unknown MCP {kind} '{word}'; expected one of: {expected}")]
pub struct UnknownSurface {
    kind: &'static str,
    word: String,
    expected: String,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::VmRun, Self::WorkspaceCore, Self::WorkspaceFull];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::VmRun => "vm-run",
            Self::WorkspaceCore => "workspace-core",
            Self::WorkspaceFull => "workspace-full",
        }
    }
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ReproFix, Self::Inspect, Self::ColdStart, Self::ReviewEval];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReproFix => "repro-fix",
            Self::Inspect => "inspect",
            Self::ColdStart => "cold-start",
            Self::ReviewEval => "review-eval",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Profile {
    type Err = UnknownSurface;

    fn from_str(word: &str) -> Result<Self, UnknownSurface> {
        named(&Self::ALL, "profile", word)
    }
}

impl FromStr for Mode {
    type Err = UnknownSurface;

    fn from_str(word: &str) -> Result<Self, UnknownSurface> {
        named(&Self::ALL, "mode", word)
    }
}

fn named<T: fmt::Display + Copy>(all: &[T], kind: &'static str, word: &str) -> Result<T, UnknownSurface> {
    let found = all.iter().find(|one| one.to_string() == word).copied();
    found.ok_or_else(|| {
        let expected = all.iter().map(T::to_string).collect::<Vec<_>>().join(", ");
        UnknownSurface { kind, word: word.to_owned(), expected }
    })
}

/// The loop that each surface with workspaces has in common.
const LOOK: [&str; 5] =
    ["workspace_list", "workspace_status", "workspace_logs", "workspace_summary", "workspace_delete"];
const READ: [&str; 6] = [
    "workspace_create",
    "workspace_exec",
    "workspace_file_list",
    "workspace_file_read",
    "workspace_diff",
    "workspace_export",
];
const EDIT: [&str; 5] = [
    "workspace_update",
    "workspace_sync_push",
    "workspace_file_write",
    "workspace_patch_apply",
    "workspace_reset",
];
const SERVICES: [&str; 7] = [
    "service_start",
    "service_list",
    "service_status",
    "service_logs",
    "service_stop",
    "workspace_stop",
    "workspace_start",
];
const REVIEW: [&str; 8] = [
    "snapshot_create",
    "snapshot_list",
    "snapshot_delete",
    "shell_open",
    "shell_read",
    "shell_write",
    "shell_signal",
    "shell_close",
];

/// Arguments that only the full profile shows, by tool. Without them a workspace has no secrets and no network.
const FULL_ONLY: [(&str, &[&str]); 3] = [
    ("workspace_create", &["secrets", "network_policy", "allow", "allow_only", "deny", "disk_mib"]),
    ("workspace_exec", &["secret_env", "detach", "env", "cwd", "user"]),
    ("workspace_update", &["network_policy", "allow", "allow_only", "deny", "clear_rules"]),
];

/// Arguments that need the grant of a network, by tool.
const NETWORK: [(&str, &[&str]); 5] = [
    ("vm_run", &["network", "allow"]),
    ("vm_create", &["network", "allow"]),
    ("workspace_create", &["network_policy", "allow", "allow_only", "deny"]),
    ("workspace_update", &["network_policy", "allow", "allow_only", "deny", "clear_rules"]),
    ("service_start", &["published_ports"]),
];

impl Surface {
    /// The tools, in the order in which they are told.
    pub(crate) fn tools(self) -> Vec<AnyTool> {
        let all = tools::all();
        match self {
            Self::Profile(Profile::WorkspaceFull) => all,
            other => all.into_iter().filter(|tool| other.has(tool.name)).collect(),
        }
    }

    fn has(self, tool: &str) -> bool {
        let within = |sets: &[&[&str]]| sets.iter().any(|set| set.contains(&tool));
        match self {
            Self::Profile(Profile::VmRun) => tool == "vm_run",
            Self::Profile(Profile::WorkspaceCore) => tool == "vm_run" || within(&[&LOOK, &READ, &EDIT]),
            Self::Profile(Profile::WorkspaceFull) => true,
            Self::Mode(Mode::ReproFix) => within(&[&LOOK, &READ, &EDIT]),
            Self::Mode(Mode::Inspect) => within(&[&LOOK, &READ]),
            Self::Mode(Mode::ColdStart) => within(&[&LOOK, &READ, &EDIT, &SERVICES]),
            Self::Mode(Mode::ReviewEval) => within(&[&LOOK, &READ, &EDIT, &REVIEW]),
        }
    }

    /// Whether an argument is not there for the model.
    pub(crate) fn hides(self, tool: &str, argument: &str, network_granted: bool) -> bool {
        let listed = |table: &[(&str, &[&str])]| {
            table.iter().any(|(name, arguments)| *name == tool && arguments.contains(&argument))
        };
        let is_full = self == Self::Profile(Profile::WorkspaceFull);
        (listed(&NETWORK) && (!network_granted || self == Self::Mode(Mode::Inspect)))
            || (listed(&FULL_ONLY) && !is_full)
    }

    /// What a tool is for, where this surface has more to say of it.
    pub(crate) fn description(self, tool: &AnyTool) -> &'static str {
        match (self, tool.name) {
            (Self::Mode(Mode::ReproFix), "workspace_create") => {
                "Make a workspace with a copy of the project, to reproduce a fault in. Its baseline is what \
                 workspace_diff compares with and workspace_reset goes back to. For a second attempt make another."
            }
            (Self::Mode(Mode::Inspect), "workspace_create") => {
                "Make an offline workspace with a copy of the code to look at. Nothing that runs in it reaches the \
                 network or the host."
            }
            (Self::Mode(Mode::ColdStart), "workspace_create") => {
                "Make a workspace with a copy of the project, to build and start it as on a new machine."
            }
            (Self::Mode(Mode::ReviewEval), "workspace_create") => {
                "Make a workspace with a copy of what is reviewed. Take a snapshot before each evaluation."
            }
            _ => tool.description,
        }
    }

    /// The workflow, for a model.
    pub(crate) fn instructions(self) -> &'static str {
        match self {
            Self::Profile(Profile::VmRun) => {
                "pyro runs a command in a disposable Linux machine. vm_run boots one, runs the command and deletes \
                 the machine; nothing is kept."
            }
            Self::Profile(Profile::WorkspaceCore | Profile::WorkspaceFull) => {
                "pyro keeps disposable Linux machines. Make one with workspace_create (it starts with a copy of the \
                 project, where there is one), run commands with workspace_exec, edit with workspace_patch_apply \
                 and workspace_file_write, look at workspace_diff, go back with workspace_reset, take results out \
                 with workspace_export, and end with workspace_delete. workspace_id takes an id or a name. Commands \
                 are shell text and run in /workspace; the host sees nothing that is not exported. vm_run is for \
                 one command without a workspace."
            }
            Self::Mode(Mode::ReproFix) => {
                "Reproduce and mend a fault in a disposable Linux machine: workspace_create, run the failing check \
                 with workspace_exec, read, change by workspace_patch_apply, run the check again, look at \
                 workspace_diff, take the result out with workspace_export. workspace_reset begins again; another \
                 attempt beside this one is another workspace."
            }
            Self::Mode(Mode::Inspect) => {
                "Look at code that is not trusted in an offline Linux machine: workspace_create, list and read files \
                 first, run only what you must with workspace_exec, and export nothing but your report."
            }
            Self::Mode(Mode::ColdStart) => {
                "Prove that a project builds and starts on a new Linux machine: workspace_create, workspace_exec for \
                 each step, service_start with a readiness check for what must run, service_logs where it fails, \
                 workspace_export for the report, workspace_stop or workspace_delete at the end."
            }
            Self::Mode(Mode::ReviewEval) => {
                "Review and evaluate in a disposable Linux machine: workspace_create, snapshot_create before each \
                 evaluation, shells for what is interactive, workspace_exec for checks, workspace_reset to a \
                 snapshot to begin again, workspace_export for the report."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(surface: Surface) -> Vec<&'static str> {
        surface.tools().iter().map(|tool| tool.name).collect()
    }

    #[test]
    fn surfaces_show_the_tools_of_the_contract() {
        assert_eq!(names(Surface::Profile(Profile::VmRun)), ["vm_run"]);
        let core = names(Surface::default());
        assert_eq!(core.len(), 17, "{core:?}");
        let full = names(Surface::Profile(Profile::WorkspaceFull));
        for set in [&LOOK[..], &READ, &EDIT, &SERVICES, &REVIEW] {
            for name in set {
                assert!(full.contains(name), "{name} is no tool");
            }
        }
        for mode in Mode::ALL {
            assert!(names(Surface::Mode(mode)).len() >= LOOK.len() + READ.len(), "{mode}");
        }
    }

    #[test]
    fn what_is_hidden_is_an_argument_of_its_tool() {
        for (tool, arguments) in FULL_ONLY.iter().chain(&NETWORK) {
            let found = tools::all().into_iter().find(|one| one.name == *tool).unwrap();
            let declared = found.declaration("", |_| false);
            for argument in *arguments {
                let there = declared.input_schema["properties"].get(argument).is_some();
                assert!(there, "{tool} has no argument {argument}");
            }
        }
    }

    #[test]
    fn no_surface_shows_a_network_that_was_not_granted() {
        let word = |surface: Surface, granted| {
            let tools = surface.tools();
            let told = tools
                .iter()
                .map(|tool| tool.declaration("", |argument| surface.hides(tool.name, argument, granted)));
            serde_json::to_string(&told.map(|tool| tool.input_schema).collect::<Vec<_>>()).unwrap()
        };
        let all = Profile::ALL.map(Surface::Profile).into_iter().chain(Mode::ALL.map(Surface::Mode));
        for surface in all {
            let shown = word(surface, false);
            assert!(!shown.contains("\"network") && !shown.contains("\"allow\""), "{surface:?}: {shown}");
        }
        assert!(word(Surface::Profile(Profile::WorkspaceFull), true).contains("network_policy"));
        assert!(!word(Surface::Mode(Mode::Inspect), true).contains("\"network"));
    }

    #[test]
    fn words_that_are_none_are_told_with_those_that_are() {
        let error = "full".parse::<Profile>().unwrap_err().to_string();
        let expected = "unknown MCP profile 'full'; expected one of: vm-run, workspace-core, workspace-full";
        assert_eq!(error, expected);
        assert_eq!("repro-fix".parse::<Mode>().unwrap(), Mode::ReproFix);
    }
}
