//! Commands that run by themselves, and what becomes of them.

use super::or_unknown;
use crate::output::{printable, quoted, yes_no};
use pyro_core::workspace::{CommandView, DetachedCommand, WaitedCommand, WaitedWorkspace};

/// A command that has just been detached.
pub(in super::super) fn detached(started: &DetachedCommand) -> String {
    format!(
        "[workspace-exec] workspace_id={} sequence={} cwd={} execution_mode={} state={}",
        started.facts.workspace_id,
        started.facts.sequence,
        printable(&started.facts.cwd),
        started.execution_mode,
        started.state
    )
}

/// A command in one line.
pub(in super::super) fn command_listed(command: &CommandView) -> String {
    format!(
        "[workspace-command] {} detached={} started_at={:?} cwd={} command={}",
        facts(command),
        yes_no(command.detached),
        command.started_at,
        printable(&command.cwd),
        quoted(&command.command)
    )
}

/// A command that was waited for.
pub(in super::super) fn command_waited(waited: &WaitedCommand) -> String {
    let timed_out = yes_no(waited.wait_timed_out);
    format!("[workspace-exec-wait] {} wait_timed_out={timed_out}", facts(&waited.command))
}

/// A command that was ended.
pub(in super::super) fn command_killed(command: &CommandView) -> String {
    format!("[workspace-exec-kill] {}", facts(command))
}

/// A workspace that was waited for.
pub(in super::super) fn workspace_waited(waited: &WaitedWorkspace) -> String {
    format!(
        "[workspace-wait] workspace_id={} state={} wait_timed_out={}",
        waited.workspace.workspace_id,
        waited.workspace.state,
        yes_no(waited.wait_timed_out)
    )
}

fn facts(command: &CommandView) -> String {
    format!(
        "workspace_id={} sequence={} state={} exit_code={} duration_ms={}",
        command.workspace_id,
        command.sequence,
        command.state,
        or_unknown(command.exit_code),
        or_unknown(command.duration_ms)
    )
}
