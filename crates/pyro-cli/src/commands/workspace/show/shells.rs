//! Shells.

use super::or_unknown;
use crate::output::printable;
use pyro_core::workspace::{ShellOutput, ShellView};

/// A shell that something was done with.
pub(in super::super) fn shell(done: &str, shell: &ShellView) -> String {
    format!(
        "[workspace-shell-{done}] workspace_id={} shell_id={} state={} cwd={} cols={} rows={} execution_mode={}",
        shell.workspace_id,
        shell.shell_id,
        shell.state,
        printable(&shell.cwd),
        shell.cols,
        shell.rows,
        shell.execution_mode
    )
}

/// A shell in one line.
pub(in super::super) fn shell_listed(shell: &ShellView) -> String {
    format!(
        "[workspace-shell] workspace_id={} shell_id={} state={} cwd={} cols={} rows={} started_at={:?} exit_code={}",
        shell.workspace_id,
        shell.shell_id,
        shell.state,
        printable(&shell.cwd),
        shell.cols,
        shell.rows,
        shell.started_at,
        or_unknown(shell.exit_code)
    )
}

/// What is said of a shell's output beside it.
pub(in super::super) fn shell_read(read: &ShellOutput) -> String {
    let truth = |value: bool| if value { "True" } else { "False" };
    let satisfied =
        read.wait_satisfied.map(|is| format!(" wait_satisfied={}", truth(is))).unwrap_or_default();
    let lost = match read.lost_bytes {
        0 => String::new(),
        lost => format!(" lost_bytes={lost}"),
    };
    format!(
        "[workspace-shell-read] workspace_id={} shell_id={} state={} cursor={} next_cursor={} truncated={}{lost}\
         {satisfied} execution_mode={}",
        read.shell.workspace_id,
        read.shell.shell_id,
        read.shell.state,
        read.cursor,
        read.next_cursor,
        truth(read.truncated),
        read.shell.execution_mode
    )
}

/// A shell that a terminal was attached to.
pub(in super::super) fn shell_attached(shell: &ShellView) -> String {
    format!(
        "[workspace-shell-attach] workspace_id={} shell_id={} state={} exit_code={} execution_mode={}",
        shell.workspace_id,
        shell.shell_id,
        shell.state,
        or_unknown(shell.exit_code),
        shell.execution_mode
    )
}
