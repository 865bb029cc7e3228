//! Hints name commands of `pyro`, for a person. A model has tools.

/// Commands and the tools that do the same, longer ones before those that they begin with.
const TOOLS: [(&str, &str); 14] = [
    ("pyro workspace exec list", "workspace_logs"),
    ("pyro workspace exec kill", "workspace_exec_kill"),
    ("pyro workspace list", "workspace_list"),
    ("pyro workspace start", "workspace_start"),
    ("pyro workspace status", "workspace_status"),
    ("pyro workspace stop", "workspace_stop"),
    ("pyro workspace shell list", "shell_list"),
    ("pyro workspace shell close", "shell_close"),
    ("pyro workspace shell signal", "shell_signal"),
    ("pyro workspace snapshot list", "snapshot_list"),
    ("pyro workspace service list", "service_list"),
    ("pyro workspace service logs", "service_logs"),
    ("pyro workspace service stop", "service_stop"),
    ("pyro env list", "vm_list_environments"),
];

/// `hint` with tools in place of commands, where `has` knows the tool; what has no tool is for the person.
pub(crate) fn for_model(hint: &str, has: impl Fn(&str) -> bool) -> String {
    let known = TOOLS.iter().filter(|(_, tool)| has(tool));
    known.fold(hint.to_owned(), |hint, (command, tool)| hint.replace(command, tool))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools;

    #[test]
    fn commands_become_tools_that_there_are() {
        let all = tools::all();
        for (command, tool) in TOOLS {
            assert!(all.iter().any(|one| one.name == tool), "{tool} is no tool");
            assert_eq!(
                for_model(&format!("`{command} ID` shows it"), |_| true),
                format!("`{tool} ID` shows it")
            );
        }
        let hint = "stop it first: `pyro workspace stop`";
        assert_eq!(for_model(hint, |tool| tool != "workspace_stop"), hint);
    }
}
