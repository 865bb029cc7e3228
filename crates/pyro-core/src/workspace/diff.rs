//! What is different from a snapshot.

use super::disk::{Disk, apart};
use super::files::text_path;
use super::{Pyro, WORKSPACE_PATH, WorkspaceError};
use crate::guest::{self, FetchedKind, FileKind, FileTime, GuestPath};
use crate::limits::DIFF_BYTES;
use pyro_diff::limits::{MAX_BINARY_BYTES, MAX_TREE_ENTRIES};
use pyro_diff::{
    ArtifactType, BaselineTree, Certainty, Comparison, Difference, EmitLimits, Entry, EntryKind, Ext4, Side,
    SideKind, State, Status, Told, emit, emit_omitted,
};
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is different in `/workspace`.
#[derive(Clone, Debug, Serialize)]
pub struct Diff {
    /// The workspace.
    pub workspace_id: String,
    /// The snapshot that it is compared with.
    pub against: String,
    /// Whether anything is different.
    pub changed: bool,
    /// How much.
    pub summary: DiffSummary,
    /// What, in the order of paths.
    pub entries: Vec<DiffEntry>,
    /// All of it as `git apply` takes it.
    #[serde(serialize_with = "as_text")]
    pub patch: Vec<u8>,
}

/// How many paths are different.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DiffSummary {
    /// All of them.
    pub total: u64,
    /// New ones.
    pub added: u64,
    /// Those with other contents or modes.
    pub modified: u64,
    /// Those that are gone.
    pub deleted: u64,
    /// Those that are something else now.
    pub type_changed: u64,
    /// Those that the patch tells as text.
    pub text_patched: u64,
    /// The others.
    pub non_text: u64,
}

/// One path that is different.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiffEntry {
    /// Below `/workspace`; bytes that are no UTF-8 are replaced.
    pub path: String,
    /// `added`, `modified`, `deleted` or `type_changed`.
    pub status: &'static str,
    /// `file`, `directory`, `symlink` or `other`.
    pub artifact_type: &'static str,
    /// Its part of the patch where that is text.
    pub text_patch: Option<String>,
    /// Whether the patch says only that it differs, because it is too large.
    pub omitted: bool,
}

/// Contents of the present tree that are held at a time.
const BATCH_BYTES: u64 = 64 << 20;

fn as_text<S: Serializer>(patch: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(patch))
}

/// Where the present tree's metadata and contents come from.
enum Present {
    Running(crate::machine::Link),
    AtRest(Arc<Ext4<Disk>>),
}

impl Pyro {
    /// Compares `/workspace` with a snapshot: metadata first, and contents of what they make suspicious.
    pub async fn diff(&self, address: &str, against: &str) -> Result<Diff, WorkspaceError> {
        let id = self.resolve(address)?;
        let snapshot = self.store.snapshot(id, against)?;
        let disk = self.open_disk(id, Some(&snapshot.name), None)?;
        let opened = apart(move || {
            let baseline = Ext4::open(disk)?;
            let comparison = Comparison::open(&baseline, WORKSPACE_PATH.as_bytes())?;
            Ok((baseline, comparison))
        });
        let (baseline, comparison) = opened.await?;
        let present = match self.hold_at_rest(id).await? {
            Some(held) => Present::AtRest(Arc::new(Ext4::open(self.open_disk(id, None, Some(held))?)?)),
            None => Present::Running(self.started(id, "workspace_diff")?),
        };
        let report = present.compare(&baseline, comparison);
        let report = match &present {
            Present::Running(link) => self.during(id, link, report).await?,
            Present::AtRest(_) => report.await?,
        };
        Ok(report.finish(id.to_string(), snapshot.name))
    }
}

impl Present {
    async fn compare(&self, baseline: &Ext4<Disk>, comparison: Comparison) -> Result<Report, WorkspaceError> {
        let comparison = self.walk(comparison).await?;
        let differences = comparison.finish();
        let mut report = Report::default();
        for batch in batches(&differences) {
            let contents = self.contents(batch).await?;
            for difference in batch {
                if is_large_suspect(difference) && self.is_same(baseline, difference).await? {
                    continue;
                }
                let new = contents.get(&difference.path);
                report.add(baseline, difference, new)?;
            }
        }
        Ok(report)
    }
}

/// Whether only contents can tell, and these are too large to be held.
fn is_large_suspect(difference: &Difference) -> bool {
    let sizes = difference.old.as_ref().zip(difference.new.as_ref()).map(|(old, new)| (old.size, new.size));
    difference.certainty == Certainty::Suspected
        && sizes.is_some_and(|(old, new)| old == new && new > MAX_BINARY_BYTES as u64)
}

/// Differences whose contents are held at a time.
fn batches(differences: &[Difference]) -> impl Iterator<Item = &[Difference]> {
    let mut rest = differences;
    std::iter::from_fn(move || {
        let mut bytes = 0u64;
        let fits = |difference: &&Difference| {
            bytes = bytes.saturating_add(fetched_bytes(difference));
            bytes <= BATCH_BYTES
        };
        let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (batch, others) = rest.split_at(count);
        rest = others;
        (!batch.is_empty()).then_some(batch)
    })
}

/// Bytes of one side's contents that are wanted.
fn fetched_bytes(difference: &Difference) -> u64 {
    match &difference.new {
        Some(new) if is_fetched(difference) => new.size,
        _ => 0,
    }
}

/// Whether the present content is wanted: that of a regular file that is not too large to be told.
fn is_fetched(difference: &Difference) -> bool {
    let new = difference.new.as_ref();
    difference.needs_content
        && new.is_some_and(|new| new.kind == EntryKind::File && new.size <= MAX_BINARY_BYTES as u64)
}

impl Present {
    async fn walk(&self, mut comparison: Comparison) -> Result<Comparison, WorkspaceError> {
        match self {
            Self::Running(link) => {
                let root = GuestPath::from(WORKSPACE_PATH);
                let mut entries = guest::walk(link.agent().await?, &root, MAX_TREE_ENTRIES as u64).await?;
                while let Some(entry) = entries.next().await? {
                    comparison.observe(entry_of(entry))?;
                }
                Ok(comparison)
            }
            Self::AtRest(disk) => {
                let disk = Arc::clone(disk);
                let walk = move || {
                    let mut observed = Ok(());
                    disk.walk(WORKSPACE_PATH.as_bytes(), &mut |entry| {
                        if observed.is_ok() {
                            observed = comparison.observe(entry);
                        }
                        Ok(())
                    })?;
                    observed?;
                    Ok(comparison)
                };
                apart(walk).await
            }
        }
    }

    /// Contents by path. A file that has changed since the walk is told as it is now; one that is gone is
    /// not told.
    async fn contents(&self, batch: &[Difference]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, WorkspaceError> {
        let paths: Vec<Vec<u8>> =
            batch.iter().filter(|difference| is_fetched(difference)).map(|d| d.path.clone()).collect();
        if paths.is_empty() {
            return Ok(BTreeMap::new());
        }
        let most = MAX_BINARY_BYTES as u64;
        match self {
            Self::Running(link) => {
                let root = GuestPath::from(WORKSPACE_PATH);
                let mut files = guest::files_out(link.agent().await?, &root, paths, most).await?;
                let mut contents = BTreeMap::new();
                while let Some(file) = files.next().await? {
                    if let FetchedKind::File(_, content) = file.found {
                        contents.insert(file.path, content);
                    }
                }
                Ok(contents)
            }
            Self::AtRest(disk) => {
                let read = |path: Vec<u8>| {
                    let whole = [WORKSPACE_PATH.as_bytes(), b"/", &path].concat();
                    Ok((path, disk.read_file(&whole, most)?))
                };
                paths.into_iter().map(read).collect()
            }
        }
    }
}

/// Bytes of large files that are compared at a time, where the disk is read from outside.
const COMPARED_BYTES: u64 = 1 << 20;

impl Present {
    /// Whether a file has the same content as before, compared as it is read.
    async fn is_same(&self, baseline: &Ext4<Disk>, difference: &Difference) -> Result<bool, WorkspaceError> {
        let path = [WORKSPACE_PATH.as_bytes(), b"/", &difference.path].concat();
        let size = difference.new.as_ref().map_or(0, |new| new.size);
        let mut before = Vec::new();
        let mut at = 0;
        match self {
            Self::Running(link) => {
                let (root, file) = (GuestPath::from(WORKSPACE_PATH), GuestPath::new(path.as_slice()));
                let mut reader = guest::file_read(link.agent().await?, &root, &file, 0, size).await?;
                while let Some(now) = reader.next_chunk().await? {
                    before.resize(now.len(), 0);
                    baseline.read_range(&path, at, &mut before)?;
                    if before != now {
                        return Ok(false);
                    }
                    at += now.len() as u64;
                }
            }
            Self::AtRest(disk) => {
                let mut now = Vec::new();
                while at < size {
                    let len = usize::try_from((size - at).min(COMPARED_BYTES)).expect("a megabyte");
                    before.resize(len, 0);
                    now.resize(len, 0);
                    baseline.read_range(&path, at, &mut before)?;
                    disk.read_range(&path, at, &mut now)?;
                    if before != now {
                        return Ok(false);
                    }
                    at += len as u64;
                }
            }
        }
        // A file that became shorter meanwhile is another one.
        Ok(at == size)
    }
}

fn entry_of(entry: guest::Entry) -> Entry {
    let nanos = |time: FileTime| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    Entry {
        path: entry.path,
        kind: match entry.facts.kind {
            FileKind::File => EntryKind::File,
            FileKind::Directory => EntryKind::Directory,
            FileKind::Symlink => EntryKind::Symlink,
            FileKind::Fifo | FileKind::Socket | FileKind::Device => EntryKind::Other,
        },
        mode: entry.facts.mode,
        size: entry.facts.size_bytes,
        mtime_ns: nanos(entry.facts.mtime),
        ctime_ns: Some(nanos(entry.facts.ctime)),
        ino: Some(entry.facts.ino),
        link_target: entry.facts.link_target.map(GuestPath::into_bytes).unwrap_or_default(),
    }
}

/// A diff being put together.
#[derive(Default)]
struct Report {
    summary: DiffSummary,
    entries: Vec<DiffEntry>,
    patch: Vec<u8>,
}

impl Report {
    /// Adds a difference, unless contents clear it. `new` is the present content of a regular file.
    fn add(
        &mut self,
        baseline: &Ext4<Disk>,
        difference: &Difference,
        new: Option<&Vec<u8>>,
    ) -> Result<(), WorkspaceError> {
        let old = old_side(baseline, difference)?;
        let new = match &difference.new {
            Some(state) => side(state, new.cloned()),
            None => Content::Absent,
        };
        let equal = match (&old, &new) {
            (Content::Known(old), Content::Known(new)) => old == new,
            _ => false,
        };
        let Some(difference) = difference.clone().settle(equal) else { return Ok(()) };
        let start = self.patch.len();
        let told = self.emit(&difference.path, &old, &new);
        self.count(difference.status, told);
        self.entries.push(DiffEntry {
            path: text_path(&difference.path),
            status: status(difference.status),
            artifact_type: artifact(difference.artifact_type),
            text_patch: (told == Told::Text).then(|| text_path(&self.patch[start..])),
            omitted: told == Told::Differs,
        });
        Ok(())
    }

    fn emit(&mut self, path: &[u8], old: &Content, new: &Content) -> Told {
        if self.patch.len() < DIFF_BYTES
            && let (Some(old), Some(new)) = (old.known(), new.known())
        {
            return emit(path, old, new, &EmitLimits::default(), &mut self.patch);
        }
        emit_omitted(path, old.mode(), new.mode(), &mut self.patch)
    }

    fn count(&mut self, status: Status, told: Told) {
        let summary = &mut self.summary;
        summary.total += 1;
        match status {
            Status::Added => summary.added += 1,
            Status::Modified => summary.modified += 1,
            Status::Deleted => summary.deleted += 1,
            Status::TypeChanged => summary.type_changed += 1,
        }
        match told {
            Told::Text => summary.text_patched += 1,
            Told::Nothing | Told::Binary | Told::Differs => summary.non_text += 1,
        }
    }

    fn finish(self, workspace_id: String, against: String) -> Diff {
        Diff {
            workspace_id,
            against,
            changed: self.summary.total > 0,
            summary: self.summary,
            entries: self.entries,
            patch: self.patch,
        }
    }
}

/// One side of a difference, as far as its content is at hand.
enum Content {
    Absent,
    Known(Side),
    /// A file too large to be told; its mode with its type.
    TooLarge(u32),
}

impl Content {
    /// The side for a patch, if one can be told from it.
    fn known(&self) -> Option<Option<&Side>> {
        match self {
            Self::Absent => Some(None),
            Self::Known(side) => Some(Some(side)),
            Self::TooLarge(_) => None,
        }
    }

    fn mode(&self) -> Option<u32> {
        match self {
            Self::Absent => None,
            Self::Known(side) => match side.kind {
                SideKind::File => Some(0o100_000 | side.mode),
                SideKind::Symlink => Some(0o120_000),
                SideKind::Other => None,
            },
            Self::TooLarge(mode) => Some(*mode),
        }
    }
}

fn side(state: &State, content: Option<Vec<u8>>) -> Content {
    let known = |kind, content| Content::Known(Side { kind, mode: state.mode, content });
    match (state.kind, content) {
        (EntryKind::File, Some(content)) => known(SideKind::File, content),
        // What is known to be empty is not read.
        (EntryKind::File, None) if state.size == 0 => known(SideKind::File, Vec::new()),
        (EntryKind::File, None) => Content::TooLarge(0o100_000 | state.mode),
        (EntryKind::Symlink, _) => known(SideKind::Symlink, state.link_target.clone()),
        (EntryKind::Directory | EntryKind::Other, _) => known(SideKind::Other, Vec::new()),
    }
}

fn old_side(baseline: &Ext4<Disk>, difference: &Difference) -> Result<Content, WorkspaceError> {
    let Some(old) = &difference.old else { return Ok(Content::Absent) };
    let wanted = old.kind == EntryKind::File
        && old.size <= MAX_BINARY_BYTES as u64
        && (difference.needs_content || difference.new.is_none());
    let content = match wanted {
        true => {
            let path = [WORKSPACE_PATH.as_bytes(), b"/", &difference.path].concat();
            Some(baseline.read_file(&path, MAX_BINARY_BYTES as u64)?)
        }
        false => None,
    };
    Ok(side(old, content))
}

fn status(status: Status) -> &'static str {
    match status {
        Status::Added => "added",
        Status::Modified => "modified",
        Status::Deleted => "deleted",
        Status::TypeChanged => "type_changed",
    }
}

fn artifact(artifact: ArtifactType) -> &'static str {
    match artifact {
        ArtifactType::File => "file",
        ArtifactType::Directory => "directory",
        ArtifactType::Symlink => "symlink",
        ArtifactType::Other => "other",
    }
}
