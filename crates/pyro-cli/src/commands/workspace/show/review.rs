//! What was done and what came of it: logs, differences, the summary.

use super::or_unknown;
use crate::output::printable;
use pyro_core::workspace::{Diff, LogEntry, Summary, SummaryCommand};
use serde_json::Value;

/// The columns that a file's changes are drawn in.
const STAT_COLUMNS: usize = 40;

/// A command's head in the logs.
pub(in super::super) fn log_entry(entry: &LogEntry) -> String {
    format!(
        "#{} exit_code={} duration_ms={} cwd={}\n$ {}",
        entry.sequence,
        or_unknown(entry.exit_code),
        or_unknown(entry.duration_ms),
        printable(&entry.cwd),
        entry.command
    )
}

/// The line above a patch.
pub(in super::super) fn diff_header(diff: &Diff) -> String {
    let summary = &diff.summary;
    format!(
        "[workspace-diff] workspace_id={} total={} added={} modified={} deleted={} type_changed={} \
         text_patched={} non_text={}",
        diff.workspace_id,
        summary.total,
        summary.added,
        summary.modified,
        summary.deleted,
        summary.type_changed,
        summary.text_patched,
        summary.non_text
    )
}

/// How much each file changed, as `git diff --stat` draws it.
pub(in super::super) fn diff_stat(diff: &Diff) -> String {
    let paths: Vec<String> = diff.entries.iter().map(|entry| printable(&entry.path)).collect();
    let counts: Vec<Option<Changes>> =
        diff.entries.iter().map(|entry| entry.text_patch.as_deref().map(Changes::of)).collect();
    let width = paths.iter().map(|path| path.chars().count()).max().unwrap_or(0);
    let most = counts.iter().flatten().map(|changes| changes.added + changes.deleted).max().unwrap_or(0);
    let mut lines = Vec::new();
    for ((path, changes), entry) in paths.iter().zip(&counts).zip(&diff.entries) {
        lines.push(match changes {
            Some(changes) => format!(" {path:<width$} | {}", changes.drawn(most)),
            None => format!(" {path:<width$} | {} {}", entry.artifact_type, entry.status),
        });
    }
    let plural = |count, one: &str, many: &str| format!("{count} {}", if count == 1 { one } else { many });
    let added = counts.iter().flatten().map(|changes| changes.added).sum();
    let deleted = counts.iter().flatten().map(|changes| changes.deleted).sum();
    lines.push(format!(
        " {} changed, {}, {}",
        plural(paths.len(), "file", "files"),
        plural(added, "insertion(+)", "insertions(+)"),
        plural(deleted, "deletion(-)", "deletions(-)")
    ));
    lines.join("\n")
}

/// Lines that one file's patch adds and removes.
#[derive(Clone, Copy, Default)]
struct Changes {
    added: usize,
    deleted: usize,
}

impl Changes {
    fn of(patch: &str) -> Self {
        let mut changes = Self::default();
        // The labels above the first hunk begin like changed lines.
        for line in patch.lines().skip_while(|line| !line.starts_with("@@ ")) {
            match line.as_bytes().first() {
                Some(b'+') => changes.added += 1,
                Some(b'-') => changes.deleted += 1,
                _ => {}
            }
        }
        changes
    }

    /// Their number and a bar, to the scale of the file that changed `most`.
    fn drawn(self, most: usize) -> String {
        // A change is seen, however small it is beside the largest.
        let scaled = |count: usize| match most > STAT_COLUMNS {
            true => (count * STAT_COLUMNS).div_ceil(most),
            false => count,
        };
        let (added, deleted) = ("+".repeat(scaled(self.added)), "-".repeat(scaled(self.deleted)));
        format!("{} {added}{deleted}", self.added + self.deleted).trim_end().to_owned()
    }
}

/// What was done since a workspace was made or last reset.
pub(in super::super) fn summary(summary: &Summary) -> String {
    let name = summary.name.as_deref().map(|name| format!(" ({})", printable(name))).unwrap_or_default();
    let counts = &summary.commands;
    let mut lines = vec![
        format!("Workspace: {}{name}", summary.workspace_id),
        format!("State: {}", summary.state),
        format!("Reset count: {}", summary.reset_count),
        format!(
            "Commands: {} total, {} succeeded, {} failed, {} lost, {} running",
            counts.total, counts.succeeded, counts.failed, counts.lost, counts.running
        ),
    ];
    if summary.shell_count > 0 {
        lines.push(format!("Shells: {} open", summary.shell_count));
    }
    lines.extend(summary.failed_commands.iter().map(|one| format!("- failed: {}", short(one))));
    if let Some(last) = &summary.last_command {
        lines.push(format!("- last: {}", short(last)));
    }
    if summary.service_count > 0 {
        lines.push(format!("Services: {}/{} running", summary.running_service_count, summary.service_count));
    }
    let kinds = summary.event_counts.iter().map(|(kind, count)| format!("{count} {kind}"));
    let kinds = kinds.collect::<Vec<_>>().join(", ");
    lines.push(format!("Events: {}", if kinds.is_empty() { "none" } else { &kinds }));
    lines.extend(summary.events.iter().map(|event| format!("- {}{}", event.kind, details(&event.detail))));
    lines.join("\n")
}

fn short(command: &SummaryCommand) -> String {
    let exit_code = or_unknown(command.exit_code);
    format!("#{} exit_code={exit_code} {}", command.sequence, printable(&command.command))
}

/// The fields of an event's detail, as the other lines have theirs.
fn details(detail: &Value) -> String {
    let Value::Object(fields) = detail else { return String::new() };
    let field = |(key, value): (&String, &Value)| match value {
        Value::String(text) => format!(" {key}={}", printable(text)),
        other => format!(" {key}={}", printable(&other.to_string())),
    };
    fields.iter().map(field).collect()
}
