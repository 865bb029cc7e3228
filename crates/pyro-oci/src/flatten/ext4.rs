//! The tree as an ext4 image, by way of a narrow trait so that the formatter can be replaced.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::tree::{NodeId, NodeKind, ROOT, Tree};
use super::{FlattenError, Work};
use crate::digest::Digest;
use crate::limits::{BLOCK, IMAGE_BYTES};
use crate::tarball::{Attributes, Content, Segment};

/// What a formatter must do: take a namespace, then write it with the files' contents.
pub(super) trait ImageWriter: Sized {
    /// Names an inode that was declared.
    type Inode: Copy;

    fn root(&self) -> Self::Inode;
    fn directory(
        &mut self,
        parent: Self::Inode,
        name: &str,
        meta: &Attributes,
    ) -> Result<Self::Inode, String>;
    /// `runs` are the block-aligned parts of a sparse file that hold data, `None` for a plain file.
    fn file(
        &mut self,
        parent: Self::Inode,
        name: &str,
        meta: &Attributes,
        size: u64,
        runs: Option<&[Run]>,
    ) -> Result<Self::Inode, String>;
    fn symlink(
        &mut self,
        parent: Self::Inode,
        name: &str,
        meta: &Attributes,
        target: &str,
    ) -> Result<Self::Inode, String>;
    fn special(
        &mut self,
        parent: Self::Inode,
        name: &str,
        meta: &Attributes,
        kind: Special,
    ) -> Result<Self::Inode, String>;
    fn link(&mut self, parent: Self::Inode, name: &str, target: Self::Inode) -> Result<(), String>;
    fn attributes(&mut self, inode: Self::Inode, meta: &Attributes) -> Result<(), String>;
    fn xattr(&mut self, inode: Self::Inode, name: &str, value: &[u8]) -> Result<(), String>;
    /// Writes everything to `out`, asking `contents` for each file in the order given.
    fn write(
        self,
        out: &File,
        files: &[Self::Inode],
        contents: &mut dyn FnMut(usize) -> Result<Box<dyn Read>, FlattenError>,
    ) -> Result<(), FlattenError>;
}

/// Device nodes and pipes.
pub(super) enum Special {
    Char { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
}

/// A part of a sparse file that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// Part of the disk that journal, bitmaps and inode tables of a 64 GiB file system take, rounded up:
/// beyond this the formatter would run out of blocks only after minutes of work.
const OVERHEAD_BYTES: u64 = 3 << 30;

/// Writes the image and flushes it; on an error the file is removed. Returns inodes and data bytes.
pub(super) fn write(
    tree: &Tree,
    layers: &[Arc<File>],
    image: &Path,
    key: &Digest,
    work: &Work,
) -> Result<(u64, u64), FlattenError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(image)
        .map_err(FlattenError::io("creating", image))?;
    let result = Mkext4::new(key).and_then(|writer| write_tree(writer, tree, layers, &file, work));
    let result = result.and_then(|counts| {
        file.sync_all().map_err(FlattenError::io("flushing", image))?;
        Ok(counts)
    });
    if result.is_err() {
        // The error that matters is the one that is returned.
        drop(std::fs::remove_file(image));
    }
    result
}

fn write_tree<W: ImageWriter>(
    mut writer: W,
    tree: &Tree,
    layers: &[Arc<File>],
    out: &File,
    work: &Work,
) -> Result<(u64, u64), FlattenError> {
    let declared = Declaration::new(&mut writer, tree).run()?;
    if declared.data_bytes > IMAGE_BYTES - OVERHEAD_BYTES {
        return Err(FlattenError::DiskFull { needed: declared.data_bytes, capacity: IMAGE_BYTES });
    }
    let inodes: Vec<W::Inode> = declared.files.iter().map(|(inode, _)| *inode).collect();
    let mut open = |index: usize| -> Result<Box<dyn Read>, FlattenError> {
        work.check()?;
        let (_, node) = declared.files[index];
        let NodeKind::File { layer, content } = &tree.node(node).kind else {
            return Err(FlattenError::Format("a file's node is not a file".into()));
        };
        Ok(Box::new(ContentReader::new(Arc::clone(&layers[*layer]), content, work.clone())))
    };
    let written = writer.write(out, &inodes, &mut open);
    work.check()?;
    written?;
    Ok((declared.inodes, declared.data_bytes))
}

/// Walks the tree and declares each inode; directories before what they hold.
struct Declaration<'a, W: ImageWriter> {
    writer: &'a mut W,
    tree: &'a Tree,
    seen: HashMap<NodeId, W::Inode>,
    declared: Declared<W::Inode>,
}

struct Declared<I> {
    /// Files with data, in the order in which their data is written.
    files: Vec<(I, NodeId)>,
    inodes: u64,
    data_bytes: u64,
}

impl<'a, W: ImageWriter> Declaration<'a, W> {
    fn new(writer: &'a mut W, tree: &'a Tree) -> Self {
        let declared = Declared { files: Vec::new(), inodes: 1, data_bytes: 0 };
        Self { writer, tree, seen: HashMap::new(), declared }
    }

    fn run(mut self) -> Result<Declared<W::Inode>, FlattenError> {
        let root = self.writer.root();
        let node = self.tree.node(ROOT);
        self.writer.attributes(root, &node.attributes).map_err(FlattenError::Format)?;
        self.xattrs(root, ROOT, "/")?;
        let mut pending = vec![(ROOT, root, String::new())];
        while let Some((id, inode, path)) = pending.pop() {
            let NodeKind::Directory(children) = &self.tree.node(id).kind else { continue };
            for (name, child) in children {
                let child_path = format!("{path}/{name}");
                // The formatter makes this one itself.
                if child_path == "/lost+found" {
                    continue;
                }
                let made = self.child(inode, name, child.node, &child_path)?;
                if matches!(self.tree.node(child.node).kind, NodeKind::Directory(_)) {
                    pending.push((child.node, made, child_path));
                }
            }
        }
        Ok(self.declared)
    }

    fn child(
        &mut self,
        parent: W::Inode,
        name: &str,
        id: NodeId,
        path: &str,
    ) -> Result<W::Inode, FlattenError> {
        let refused = |why| FlattenError::Member { path: path.into(), why };
        if let Some(&inode) = self.seen.get(&id) {
            self.writer.link(parent, name, inode).map_err(refused)?;
            return Ok(inode);
        }
        let node = self.tree.node(id);
        let meta = &node.attributes;
        let inode = match &node.kind {
            NodeKind::Directory(_) => self.writer.directory(parent, name, meta),
            NodeKind::File { content, .. } => self.file(parent, name, id, content),
            NodeKind::Symlink(target) => self.writer.symlink(parent, name, meta, target),
            NodeKind::CharDevice { major, minor } => {
                self.writer.special(parent, name, meta, Special::Char { major: *major, minor: *minor })
            }
            NodeKind::BlockDevice { major, minor } => {
                self.writer.special(parent, name, meta, Special::Block { major: *major, minor: *minor })
            }
            NodeKind::Fifo => self.writer.special(parent, name, meta, Special::Fifo),
        };
        let inode = inode.map_err(refused)?;
        self.declared.inodes += 1;
        if !matches!(node.kind, NodeKind::Directory(_)) {
            self.seen.insert(id, inode);
        }
        self.xattrs(inode, id, path)?;
        Ok(inode)
    }

    fn file(
        &mut self,
        parent: W::Inode,
        name: &str,
        id: NodeId,
        content: &Content,
    ) -> Result<W::Inode, String> {
        let meta = &self.tree.node(id).attributes;
        let (inode, stored) = match content {
            Content::Plain { len, .. } => (self.writer.file(parent, name, meta, *len, None)?, *len),
            Content::Sparse { size, segments } => {
                let runs = block_runs(segments, *size);
                let stored = runs.iter().map(|run| run.len).sum();
                (self.writer.file(parent, name, meta, *size, Some(&runs))?, stored)
            }
        };
        if stored > 0 {
            self.declared.files.push((inode, id));
            self.declared.data_bytes += stored.next_multiple_of(BLOCK);
        }
        Ok(inode)
    }

    fn xattrs(&mut self, inode: W::Inode, id: NodeId, path: &str) -> Result<(), FlattenError> {
        for (name, value) in &self.tree.node(id).xattrs {
            let refused = |why| FlattenError::Member { path: path.into(), why };
            self.writer.xattr(inode, name, value).map_err(refused)?;
        }
        Ok(())
    }
}

/// Widens segments to whole blocks and joins those that then touch; the last may end with the file.
pub(super) fn block_runs(segments: &[Segment], size: u64) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for segment in segments {
        let start = segment.offset / BLOCK * BLOCK;
        let end = (segment.offset + segment.len).next_multiple_of(BLOCK).min(size);
        match runs.last_mut() {
            Some(run) if run.offset + run.len >= start => {
                run.len = end.max(run.offset + run.len) - run.offset
            }
            _ => runs.push(Run { offset: start, len: end - start }),
        }
    }
    runs
}

/// A file's stored bytes, block runs of a sparse file one after the other.
struct ContentReader {
    data: Arc<File>,
    runs: Vec<Run>,
    segments: Vec<Segment>,
    run: usize,
    segment: usize,
    at: u64,
    /// One file may be most of the disk: nobody waits for its end after cancelling.
    work: Work,
}

impl ContentReader {
    fn new(data: Arc<File>, content: &Content, work: Work) -> Self {
        let runs = match content {
            Content::Plain { len, .. } => vec![Run { offset: 0, len: *len }],
            Content::Sparse { size, segments } => block_runs(segments, *size),
        };
        let segments = content.segments();
        let at = runs.first().map_or(0, |run| run.offset);
        Self { data, runs, segments, run: 0, segment: 0, at, work }
    }
}

impl Read for ContentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.work.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        loop {
            let Some(run) = self.runs.get(self.run) else { return Ok(0) };
            let run_end = run.offset + run.len;
            if self.at >= run_end {
                self.run += 1;
                self.at = self.runs.get(self.run).map_or(0, |next| next.offset);
                continue;
            }
            let limit = (run_end - self.at).min(buffer.len() as u64);
            while self.segments.get(self.segment).is_some_and(|s| s.offset + s.len <= self.at) {
                self.segment += 1;
            }
            return match self.segments.get(self.segment) {
                Some(s) if s.offset <= self.at => {
                    let inside = self.at - s.offset;
                    let n = limit.min(s.len - inside) as usize;
                    self.data.read_exact_at(&mut buffer[..n], s.at + inside)?;
                    self.at += n as u64;
                    Ok(n)
                }
                next => {
                    let gap = next.map_or(limit, |s| limit.min(s.offset - self.at)) as usize;
                    buffer[..gap].fill(0);
                    self.at += gap as u64;
                    Ok(gap)
                }
            };
        }
    }
}

/// The formatter in use.
struct Mkext4 {
    builder: mkext4::FsBuilder,
}

impl Mkext4 {
    /// The file system's identifier comes from the key, so that equal inputs give equal bytes.
    fn new(key: &Digest) -> Result<Self, FlattenError> {
        let mut uuid = [0; 16];
        hex::decode_to_slice(&key.hex()[..32], &mut uuid).expect("a digest is hexadecimal");
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        let mut options = mkext4::Options::new(IMAGE_BYTES, uuid, 0);
        options.label = Some("pyro-root".into());
        // Nobody but root writes beside root in a guest: blocks held back for it only confuse.
        options.reserved_percent = 0;
        let builder = mkext4::FsBuilder::new(options).map_err(format_error)?;
        Ok(Self { builder })
    }
}

fn format_error(error: mkext4::Error) -> FlattenError {
    FlattenError::Format(error.to_string())
}

fn meta(attributes: &Attributes) -> mkext4::Meta {
    // What ext4's 34 bits of seconds hold.
    let seconds = attributes.mtime.clamp(i64::from(i32::MIN), 15_032_385_535);
    let Attributes { mode, uid, gid, mtime_nanos, .. } = *attributes;
    mkext4::Meta::new(mode, uid, gid, (seconds, mtime_nanos.min(999_999_999)))
}

impl ImageWriter for Mkext4 {
    type Inode = mkext4::InodeHandle;

    fn root(&self) -> Self::Inode {
        mkext4::ROOT
    }

    fn directory(&mut self, parent: Self::Inode, name: &str, a: &Attributes) -> Result<Self::Inode, String> {
        self.builder.mkdir(parent, name, meta(a)).map_err(|e| e.to_string())
    }

    fn file(
        &mut self,
        parent: Self::Inode,
        name: &str,
        a: &Attributes,
        size: u64,
        runs: Option<&[Run]>,
    ) -> Result<Self::Inode, String> {
        let made = match runs {
            Some(runs) if size > 0 => {
                self.builder.file_sparse(parent, name, meta(a), &sparse_segments(runs, size))
            }
            _ => self.builder.file(parent, name, meta(a), size),
        };
        made.map_err(|e| e.to_string())
    }

    fn symlink(
        &mut self,
        parent: Self::Inode,
        name: &str,
        a: &Attributes,
        target: &str,
    ) -> Result<Self::Inode, String> {
        self.builder.symlink(parent, name, target, meta(a)).map_err(|e| e.to_string())
    }

    fn special(
        &mut self,
        parent: Self::Inode,
        name: &str,
        a: &Attributes,
        kind: Special,
    ) -> Result<Self::Inode, String> {
        let kind = match kind {
            Special::Char { major, minor } => mkext4::SpecialKind::Char { major, minor },
            Special::Block { major, minor } => mkext4::SpecialKind::Block { major, minor },
            Special::Fifo => mkext4::SpecialKind::Fifo,
        };
        self.builder.mknod(parent, name, meta(a), kind).map_err(|e| e.to_string())
    }

    fn link(&mut self, parent: Self::Inode, name: &str, target: Self::Inode) -> Result<(), String> {
        self.builder.hardlink(parent, name, target).map_err(|e| e.to_string())
    }

    fn attributes(&mut self, inode: Self::Inode, a: &Attributes) -> Result<(), String> {
        self.builder.set_meta(inode, meta(a)).map_err(|e| e.to_string())
    }

    fn xattr(&mut self, inode: Self::Inode, name: &str, value: &[u8]) -> Result<(), String> {
        self.builder.set_xattr(inode, name, value).map_err(|e| e.to_string())
    }

    fn write(
        self,
        out: &File,
        files: &[Self::Inode],
        contents: &mut dyn FnMut(usize) -> Result<Box<dyn Read>, FlattenError>,
    ) -> Result<(), FlattenError> {
        let layout = self.builder.seal().map_err(format_error)?;
        out.set_len(layout.image_len()).map_err(|e| FlattenError::Format(e.to_string()))?;
        let mut sink = JoiningSink::new(out);
        let mut writer = layout.writer(&mut sink).map_err(format_error)?;
        for (index, inode) in files.iter().enumerate() {
            let mut content = contents(index)?;
            writer.fill(*inode, &mut content).map_err(format_error)?;
        }
        writer.finish().map_err(format_error)?;
        sink.flush().map_err(|e| FlattenError::Format(e.to_string()))
    }
}

fn sparse_segments(runs: &[Run], size: u64) -> Vec<mkext4::SparseSeg> {
    let mut out = Vec::with_capacity(runs.len() * 2 + 1);
    let mut at = 0;
    for run in runs {
        if run.offset > at {
            out.push(mkext4::SparseSeg::Hole(run.offset - at));
        }
        out.push(mkext4::SparseSeg::Data(run.len));
        at = run.offset + run.len;
    }
    if size > at {
        out.push(mkext4::SparseSeg::Hole(size - at));
    }
    out
}

/// Writes to the image, joining neighbouring small writes: most files of a system are smaller than
/// what one system call should carry. Zeros stay holes.
struct JoiningSink<'a> {
    file: &'a File,
    buffer: Vec<u8>,
    at: u64,
}

impl<'a> JoiningSink<'a> {
    const JOINED: usize = 1 << 20;

    fn new(file: &'a File) -> Self {
        Self { file, buffer: Vec::with_capacity(Self::JOINED), at: 0 }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.at)?;
        self.buffer.clear();
        Ok(())
    }
}

impl mkext4::RegionSink for JoiningSink<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let joins = offset == self.at + self.buffer.len() as u64;
        if !joins || self.buffer.len() + bytes.len() > Self::JOINED {
            self.flush()?;
            self.at = offset;
        }
        if bytes.len() >= Self::JOINED / 4 && self.buffer.is_empty() {
            self.file.write_all_at(bytes, offset)?;
            self.at = offset + bytes.len() as u64;
            return Ok(());
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn zeros(&mut self, offset: u64, len: u64) -> io::Result<()> {
        // The end of a file's last block: written as zeros, it lets the next file join.
        if len < BLOCK && offset == self.at + self.buffer.len() as u64 && !self.buffer.is_empty() {
            self.buffer.resize(self.buffer.len() + len as usize, 0);
        }
        Ok(())
    }
}
