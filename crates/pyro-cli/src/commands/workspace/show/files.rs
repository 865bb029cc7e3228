//! Files on their way, patches and listings.

use crate::output::{printable, yes_no};
use pyro_core::workspace::{
    DiskExport, Exported, FileChanged, FileContent, FileEntry, FileListing, FileStat, FileWritten,
    PatchReport, Synced,
};
use std::borrow::Cow;
use std::path::Path;

/// Said after a listing that is not whole.
pub(in super::super) const CUT_LISTING: &str = "hint: there is more; list a directory further down";

/// Bytes that end with an end of line, unless there are none.
pub(in super::super) fn whole_lines(bytes: &[u8]) -> Cow<'_, [u8]> {
    match bytes.last() {
        None | Some(b'\n') => Cow::Borrowed(bytes),
        Some(_) => Cow::Owned([bytes, b"\n"].concat()),
    }
}

/// Files that came from the host.
pub(in super::super) fn synced(synced: &Synced) -> String {
    let facts = &synced.workspace_sync;
    format!(
        "[workspace-sync] workspace_id={} mode={} source={} destination={} entry_count={} bytes_written={} \
         execution_mode={}",
        synced.workspace_id,
        facts.mode,
        path(&facts.source_path),
        printable(&facts.destination),
        facts.entry_count,
        facts.bytes_written,
        synced.execution_mode
    )
}

/// Files that went to the host.
pub(in super::super) fn exported(tag: &str, exported: &Exported) -> String {
    format!(
        "[{tag}] workspace_id={} workspace_path={} output_path={} artifact_type={} entry_count={} \
         bytes_written={} execution_mode={}",
        exported.workspace_id,
        printable(&exported.workspace_path),
        path(&exported.output_path),
        exported.artifact_type,
        exported.entry_count,
        exported.bytes_written,
        exported.execution_mode
    )
}

/// What did not go to the host, a line each.
pub(in super::super) fn skipped(tag: &str, exported: &Exported) -> Vec<String> {
    let told = exported.skipped.iter();
    let mut lines: Vec<String> = told
        .map(|one| format!("[{tag}] skipped: {} ({})", printable(&one.path), printable(&one.reason)))
        .collect();
    let untold = exported.skipped_count.saturating_sub(lines.len() as u64);
    if untold > 0 {
        lines.push(format!("[{tag}] skipped: {untold} more"));
    }
    lines
}

fn path(path: &Path) -> String {
    printable(&path.display().to_string())
}

/// A directory of a started workspace.
pub(in super::super) fn file_listing(listing: &FileListing) -> String {
    with_entries(vec![format!("Workspace file path: {}", printable(&listing.path))], &listing.entries)
}

/// A directory of a stopped workspace's disk.
pub(in super::super) fn disk_listing(listing: &FileListing) -> String {
    let head =
        vec![format!("Workspace: {}", listing.workspace_id), format!("Path: {}", printable(&listing.path))];
    with_entries(head, &listing.entries)
}

fn with_entries(mut lines: Vec<String>, entries: &[FileEntry]) -> String {
    lines.extend(entries.iter().map(entry));
    if entries.is_empty() {
        lines.push("No workspace entries found.".to_owned());
    }
    lines.join("\n")
}

fn entry(entry: &FileEntry) -> String {
    let target =
        entry.link_target.as_ref().map(|target| format!(" -> {}", printable(target))).unwrap_or_default();
    format!("- {} [{}] bytes={}{target}", printable(&entry.path), entry.artifact_type, entry.size_bytes)
}

/// What is known of a file that was read.
pub(in super::super) fn file_read(content: &FileContent) -> String {
    read("workspace-file-read", &content.workspace_id, &content.path, content.size_bytes, content.truncated)
}

/// What is known of a file that was read from a disk.
pub(in super::super) fn disk_read(content: &FileContent) -> String {
    read("workspace-disk-read", &content.workspace_id, &content.path, content.size_bytes, content.truncated)
}

fn read(tag: &str, workspace_id: &str, path: &str, size_bytes: u64, truncated: bool) -> String {
    format!(
        "[{tag}] workspace_id={workspace_id} path={} size_bytes={size_bytes} truncated={}",
        printable(path),
        yes_no(truncated)
    )
}

/// A file that was written.
pub(in super::super) fn file_written(written: &FileWritten) -> String {
    format!(
        "[workspace-file-write] workspace_id={} path={} bytes_written={} execution_mode={}",
        written.workspace_id,
        printable(&written.path),
        written.bytes_written,
        written.execution_mode
    )
}

/// A file that was removed, made or moved.
pub(in super::super) fn file_changed(tag: &str, changed: &FileChanged) -> String {
    format!(
        "[{tag}] workspace_id={} path={} execution_mode={}",
        changed.workspace_id,
        printable(&changed.path),
        changed.execution_mode
    )
}

/// What is known of a file.
pub(in super::super) fn file_facts(facts: &FileStat) -> String {
    let shown = entry(&facts.entry);
    let shown = shown.strip_prefix("- ").unwrap_or(&shown);
    format!(
        "{shown} mode={} uid={} gid={} modified_at={:?}",
        facts.mode, facts.uid, facts.gid, facts.modified_at
    )
}

/// A patch that was applied.
pub(in super::super) fn patched(report: &PatchReport) -> String {
    let summary = &report.summary;
    format!(
        "[workspace-patch] workspace_id={} total={} added={} modified={} deleted={} execution_mode={}",
        report.workspace_id,
        summary.total,
        summary.added,
        summary.modified,
        summary.deleted,
        report.execution_mode
    )
}

/// A disk that was copied out.
pub(in super::super) fn disk_exported(exported: &DiskExport) -> String {
    format!(
        "[workspace-disk-export] workspace_id={} output_path={} disk_format={} bytes_written={}",
        exported.workspace_id,
        path(&exported.output_path),
        exported.disk_format,
        exported.bytes_written
    )
}
