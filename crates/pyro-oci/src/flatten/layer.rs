//! One layer: decompressed once, hashed, spooled, and indexed.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::{FlattenError, LayerSource, Work, acl, path};
use crate::digest::{Digest, Hasher};
use crate::limits::{LayerLimits, PATH_BYTES, XATTR_BLOCK_BYTES, XATTR_NAME_BYTES};
use crate::tarball::{Attributes, Content, Member, MemberKind, Source, TarError, TarReader, shown};

/// Bytes handed from the decompressing thread at once.
const CHUNK: usize = 1 << 20;

/// Chunks between the two threads: enough that neither waits for the other's hiccups.
const CHUNKS_IN_FLIGHT: usize = 4;

/// A member with its path checked.
pub(crate) struct Entry {
    pub(super) path: Box<str>,
    pub(super) kind: EntryKind,
    pub(super) attributes: Attributes,
    pub(super) xattrs: Vec<(String, Vec<u8>)>,
}

/// What the entry is, with link targets checked.
pub(super) enum EntryKind {
    File(Content),
    Directory,
    Symlink(Box<str>),
    HardLink(String),
    CharDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
    Fifo,
}

/// An indexed layer and the file in which its uncompressed bytes lie.
pub(super) struct Indexed {
    pub(super) members: Vec<Entry>,
    pub(super) data: Arc<File>,
    pub(super) diff_id: Digest,
    pub(super) bytes: u64,
}

/// A regular file found in a layer.
pub(crate) struct SingleFile {
    /// Its name without directories.
    pub(crate) name: String,
    pub(crate) content: Content,
    pub(crate) data: Arc<File>,
    pub(crate) diff_id: Digest,
}

impl Indexed {
    pub(super) fn into_files(self) -> Vec<SingleFile> {
        let Self { members, data, diff_id, .. } = self;
        let file = |entry: Entry| match entry.kind {
            EntryKind::File(content) => {
                let name = entry.path.rsplit('/').next().unwrap_or_default().to_owned();
                Some(SingleFile { name, content, data: Arc::clone(&data), diff_id })
            }
            _ => None,
        };
        members.into_iter().filter_map(file).collect()
    }
}

/// What all layers of an image may still use.
pub(super) struct Budget<'a> {
    limits: &'a LayerLimits,
    entries: u64,
    devices: u64,
    bytes: u64,
    metadata: u64,
}

impl<'a> Budget<'a> {
    pub(super) fn new(limits: &'a LayerLimits) -> Self {
        Self { limits, entries: 0, devices: 0, bytes: 0, metadata: 0 }
    }

    fn take_entry(&mut self, member: &Member) -> Result<(), FlattenError> {
        self.entries += 1;
        over(self.entries, self.limits.entries, "entries")?;
        let mut metadata = member.path.len() as u64 + 64;
        match &member.kind {
            MemberKind::CharDevice { .. } | MemberKind::BlockDevice { .. } => {
                self.devices += 1;
                over(self.devices, self.limits.devices, "device nodes")?;
            }
            MemberKind::Symlink(target) | MemberKind::HardLink(target) => metadata += target.len() as u64,
            MemberKind::File(Content::Sparse { segments, .. }) => metadata += 24 * segments.len() as u64,
            MemberKind::File(Content::Plain { .. }) | MemberKind::Directory | MemberKind::Fifo => {}
        }
        metadata +=
            member.xattrs.iter().map(|(name, value)| (name.len() + value.len() + 48) as u64).sum::<u64>();
        self.metadata += metadata;
        over(self.metadata, self.limits.metadata_bytes, "bytes of names and attributes")
    }

    fn take_bytes(&mut self, bytes: u64) -> Result<(), FlattenError> {
        self.bytes = self.bytes.saturating_add(bytes);
        over(self.bytes, self.limits.uncompressed_bytes, "uncompressed bytes")
    }
}

fn over(count: u64, limit: u64, what: &'static str) -> Result<(), FlattenError> {
    if count > limit { Err(FlattenError::TooMuch { what, limit }) } else { Ok(()) }
}

/// How a blob is compressed, by its first bytes; what its media type claims does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

impl Compression {
    pub(crate) fn detect(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame in front of a zstd stream.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }

    pub(crate) fn of_file(file: &File) -> io::Result<Self> {
        let mut first = [0; 4];
        let n = file.read_at(&mut first, 0)?;
        Ok(Self::detect(&first[..n]))
    }
}

/// The uncompressed bytes of a file, from its start.
pub(crate) fn decompressor(file: File, compression: Compression) -> io::Result<Box<dyn Read + Send>> {
    let raw = io::BufReader::with_capacity(CHUNK, Spool::new(file));
    Ok(match compression {
        Compression::Plain => Box::new(raw),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(raw)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(raw)?),
    })
}

/// Reads a file from a position of its own, whatever others do with the descriptor.
pub(crate) struct Spool {
    file: File,
    at: u64,
}

impl Spool {
    pub(crate) fn new(file: File) -> Self {
        Self { file, at: 0 }
    }
}

impl Read for Spool {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Indexes a layer; its uncompressed bytes are in the source itself when that is plain, else in a
/// nameless file in `spool_dir`.
pub(super) fn index(
    source: LayerSource,
    position: usize,
    spool_dir: &Path,
    budget: &mut Budget<'_>,
    work: &Work,
) -> Result<Indexed, FlattenError> {
    let io = |action| FlattenError::io(action, spool_dir);
    let compression = Compression::of_file(&source.file).map_err(io("reading a layer in"))?;
    let indexed = match compression {
        Compression::Plain => index_plain(source.file, position, budget, work)?,
        Compression::Gzip | Compression::Zstd => {
            index_compressed(source.file, compression, spool_dir, position, budget, work)?
        }
    };
    match source.diff_id {
        Some(expected) if expected != indexed.diff_id => {
            Err(FlattenError::DiffId { layer: position, expected, actual: indexed.diff_id })
        }
        _ => Ok(indexed),
    }
}

/// A file that vanishes with its last descriptor.
pub(crate) fn nameless_file(dir: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(File::from(file)),
        // Not every file system has them: the overlay ones of older kernels, on which containers run, do not.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => unlinked_file(dir),
        Err(error) => Err(error.into()),
    }
}

/// The same where a file must first have a name.
fn unlinked_file(dir: &Path) -> io::Result<File> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
    let path = dir.join(format!(".spool-{}", hex::encode(random)));
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

fn index_plain(
    file: File,
    position: usize,
    budget: &mut Budget<'_>,
    work: &Work,
) -> Result<Indexed, FlattenError> {
    let io = |source| tar_error(position, TarError::Read { at: 0, source });
    let len = file.metadata().map_err(io)?.len();
    budget.take_bytes(len)?;
    let (members, diff_id) = std::thread::scope(|scope| {
        let hashing = scope.spawn(|| hash_file(&file, work));
        let reader = TarReader::new(FileSource::new(&file, len));
        let members = index_members(reader, position, budget, work).map(|(members, _)| members);
        if members.is_err() {
            work.cancel();
        }
        let diff_id = hashing.join().expect("hashing does not panic");
        Ok::<_, FlattenError>((members?, diff_id))
    })?;
    let diff_id = diff_id.map_err(io)?.ok_or(FlattenError::Cancelled)?;
    Ok(Indexed { members, data: Arc::new(file), diff_id, bytes: len })
}

fn hash_file(file: &File, work: &Work) -> io::Result<Option<Digest>> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    loop {
        if work.is_cancelled() {
            return Ok(None);
        }
        let n = file.read_at(&mut buffer, at)?;
        if n == 0 {
            return Ok(Some(hasher.finish()));
        }
        hasher.update(&buffer[..n]);
        at += n as u64;
        work.advance(n as u64);
    }
}

/// A full disk met while an archive is being read must not pass for a damaged archive.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct SpoolFailed(io::Error);

fn index_compressed(
    file: File,
    compression: Compression,
    spool_dir: &Path,
    position: usize,
    budget: &mut Budget<'_>,
    work: &Work,
) -> Result<Indexed, FlattenError> {
    let io = |source| tar_error(position, TarError::Read { at: 0, source });
    let spool = nameless_file(spool_dir).map_err(FlattenError::io("creating a spool file in", spool_dir))?;
    let allowed = budget.limits.uncompressed_bytes.saturating_sub(budget.bytes);
    let input = decompressor(file, compression).map_err(io)?;
    let chunks = ChunkReader::spawn(input).map_err(io)?;
    let source = SpoolingSource {
        chunks,
        chunk: Vec::new(),
        used: 0,
        spool: &spool,
        written: 0,
        allowed,
        hasher: Hasher::default(),
        work,
    };
    let indexed =
        index_members(TarReader::new(source), position, budget, work).and_then(|(members, mut source)| {
            // What stands after the end marker belongs to the digest too.
            source.drain().map_err(io)?;
            Ok((members, source.written, source.hasher.finish()))
        });
    let (members, bytes, diff_id) = indexed.map_err(|error| source_error(error, spool_dir, budget.limits))?;
    budget.take_bytes(bytes)?;
    Ok(Indexed { members, data: Arc::new(spool), diff_id, bytes })
}

/// The archive's reader sees only that its source failed; this tells why.
fn source_error(error: FlattenError, spool_dir: &Path, limits: &LayerLimits) -> FlattenError {
    let FlattenError::Tar { layer, source: TarError::Read { at, source } } = error else { return error };
    if source.kind() == io::ErrorKind::FileTooLarge {
        return FlattenError::TooMuch { what: "uncompressed bytes", limit: limits.uncompressed_bytes };
    }
    match source.downcast() {
        Ok(SpoolFailed(source)) => FlattenError::io("writing a spool file in", spool_dir)(source),
        Err(source) => tar_error(layer, TarError::Read { at, source }),
    }
}

/// Indexes an archive in memory. For fuzzing.
pub(super) fn index_bytes(
    bytes: &[u8],
    position: usize,
    budget: &mut Budget<'_>,
) -> Result<Vec<Entry>, FlattenError> {
    budget.take_bytes(bytes.len() as u64)?;
    index_members(TarReader::new(bytes), position, budget, &Work::default()).map(|(members, _)| members)
}

/// Indexes a plain archive without its digest. For tests of archives too large to hash.
#[cfg(test)]
pub(super) fn index_plain_unhashed(file: &File, budget: &mut Budget<'_>) -> Result<Vec<Entry>, FlattenError> {
    let len = file.metadata().map_err(FlattenError::io("reading", Path::new("test")))?.len();
    let reader = TarReader::new(FileSource::new(file, len));
    index_members(reader, 1, budget, &Work::default()).map(|(members, _)| members)
}

fn index_members<S: Source>(
    mut reader: TarReader<S>,
    position: usize,
    budget: &mut Budget<'_>,
    work: &Work,
) -> Result<(Vec<Entry>, S), FlattenError> {
    let mut entries = Vec::new();
    loop {
        work.check()?;
        match reader.next_member() {
            Ok(Some(member)) => {
                budget.take_entry(&member)?;
                entries.push(entry(member)?);
            }
            Ok(None) => return Ok((entries, reader.into_source())),
            Err(source) if work.is_cancelled() => {
                drop(source);
                return Err(FlattenError::Cancelled);
            }
            Err(source) => return Err(tar_error(position, source)),
        }
    }
}

fn tar_error(layer: usize, source: TarError) -> FlattenError {
    FlattenError::Tar { layer, source }
}

fn entry(member: Member) -> Result<Entry, FlattenError> {
    let path = path::parse(&member.path)?;
    let kind = match member.kind {
        MemberKind::File(content) => EntryKind::File(content),
        MemberKind::Directory => EntryKind::Directory,
        MemberKind::Symlink(target) => EntryKind::Symlink(symlink_target(&path, target)?),
        MemberKind::HardLink(target) => EntryKind::HardLink(hard_link_target(&path, &target)?),
        MemberKind::CharDevice { major, minor } => EntryKind::CharDevice { major, minor },
        MemberKind::BlockDevice { major, minor } => EntryKind::BlockDevice { major, minor },
        MemberKind::Fifo => EntryKind::Fifo,
    };
    let xattrs = xattrs(&path, member.xattrs)?;
    Ok(Entry { path: path.into(), kind, attributes: member.attributes, xattrs })
}

/// Any text is a fine target, wherever it points: nothing on the host follows it.
fn symlink_target(path: &str, target: Vec<u8>) -> Result<Box<str>, FlattenError> {
    let member = |why: &str| FlattenError::Member { path: path.into(), why: why.into() };
    if target.is_empty() {
        return Err(member("is a symbolic link with an empty target"));
    }
    if target.len() > PATH_BYTES || target.contains(&0) {
        return Err(member("is a symbolic link whose target is not a path of at most 4095 bytes"));
    }
    let target = String::from_utf8(target)
        .map_err(|e| FlattenError::NotUtf8 { path: format!("{path} -> {}", shown(e.as_bytes())) })?;
    Ok(target.into())
}

fn hard_link_target(path: &str, target: &[u8]) -> Result<String, FlattenError> {
    path::parse(target).map_err(|error| match error {
        FlattenError::Path { .. } => FlattenError::HardLink {
            path: path.into(),
            target: shown(target),
            why: "is outside of the image",
        },
        other => other,
    })
}

/// Attributes that Linux keeps on ext4. Others (of other systems) are left out, as the kernel
/// itself would refuse them; what an overlay mount notes for itself means nothing here.
fn xattrs(path: &str, claimed: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Vec<(String, Vec<u8>)>, FlattenError> {
    const KEPT: [&str; 3] = ["user.", "trusted.", "security."];
    let mut out: Vec<(String, Vec<u8>)> = Vec::new();
    let mut used = 0;
    for (name, mut value) in claimed {
        let name = String::from_utf8(name).map_err(|e| FlattenError::NotUtf8 {
            path: format!("{path} (extended attribute {})", shown(e.as_bytes())),
        })?;
        let short = if matches!(&*name, "system.posix_acl_access" | "system.posix_acl_default") {
            value = acl::to_ext4(&value).ok_or_else(|| FlattenError::Member {
                path: path.into(),
                why: format!("has an invalid access control list in {name}"),
            })?;
            0
        } else if let Some(prefix) = KEPT.iter().find(|prefix| name.starts_with(**prefix))
            && !name.starts_with("trusted.overlay.")
        {
            name.len() - prefix.len()
        } else {
            continue;
        };
        used += 16 + short.next_multiple_of(4) + value.len().next_multiple_of(4);
        if short > XATTR_NAME_BYTES || name.contains('\0') || used > XATTR_BLOCK_BYTES {
            let why =
                format!("has extended attributes larger than ext4 holds (at {})", shown(name.as_bytes()));
            return Err(FlattenError::Member { path: path.into(), why });
        }
        out.retain(|(n, _)| *n != name);
        out.push((name, value));
    }
    Ok(out)
}

/// Chunks read by a thread of their own, so that decompressing overlaps with hashing and writing.
pub(crate) struct ChunkReader {
    full: Receiver<io::Result<Vec<u8>>>,
    empty: SyncSender<Vec<u8>>,
}

impl ChunkReader {
    pub(crate) fn spawn(mut input: Box<dyn Read + Send>) -> io::Result<Self> {
        let (full_sender, full) = sync_channel(CHUNKS_IN_FLIGHT);
        let (empty, empty_receiver) = sync_channel::<Vec<u8>>(CHUNKS_IN_FLIGHT + 2);
        std::thread::Builder::new().name("decompress".into()).spawn(move || {
            loop {
                let mut chunk = empty_receiver.try_recv().unwrap_or_default();
                chunk.resize(CHUNK, 0);
                let result = fill(&mut *input, &mut chunk).map(|n| {
                    chunk.truncate(n);
                    chunk
                });
                let last = result.as_ref().map_or(true, |chunk| chunk.len() < CHUNK);
                // The other side hangs up when it has seen enough.
                if full_sender.send(result).is_err() || last {
                    return;
                }
            }
        })?;
        Ok(Self { full, empty })
    }

    /// The next chunk, or `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.full.recv() {
            Ok(Ok(chunk)) if chunk.is_empty() => Ok(None),
            Ok(Ok(chunk)) => Ok(Some(chunk)),
            Ok(Err(error)) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Gives a chunk's memory back.
    pub(crate) fn recycle(&self, chunk: Vec<u8>) {
        // A full channel only means that enough buffers wait already.
        drop(self.empty.try_send(chunk));
    }
}

fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// A compressed layer: every chunk is hashed and spooled before the archive's reader sees it.
struct SpoolingSource<'a> {
    chunks: ChunkReader,
    chunk: Vec<u8>,
    used: usize,
    spool: &'a File,
    written: u64,
    allowed: u64,
    hasher: Hasher,
    work: &'a Work,
}

impl SpoolingSource<'_> {
    /// Makes sure that there are unread bytes; false at the end.
    fn refill(&mut self) -> io::Result<bool> {
        if self.used < self.chunk.len() {
            return Ok(true);
        }
        if self.work.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let Some(chunk) = self.chunks.next()? else { return Ok(false) };
        self.chunks.recycle(std::mem::replace(&mut self.chunk, chunk));
        self.used = 0;
        if self.written + self.chunk.len() as u64 > self.allowed {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.hasher.update(&self.chunk);
        let kept = self.spool.write_all_at(&self.chunk, self.written);
        kept.map_err(|error| io::Error::other(SpoolFailed(error)))?;
        self.written += self.chunk.len() as u64;
        self.work.advance(self.chunk.len() as u64);
        Ok(true)
    }

    fn drain(&mut self) -> io::Result<()> {
        while self.refill()? {
            self.used = self.chunk.len();
        }
        Ok(())
    }
}

impl Read for SpoolingSource<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.refill()? {
            return Ok(0);
        }
        let n = buffer.len().min(self.chunk.len() - self.used);
        buffer[..n].copy_from_slice(&self.chunk[self.used..self.used + n]);
        self.used += n;
        Ok(n)
    }
}

impl Source for SpoolingSource<'_> {
    fn skip(&mut self, mut len: u64) -> io::Result<()> {
        while len > 0 {
            if !self.refill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let n = len.min((self.chunk.len() - self.used) as u64);
            self.used += n as usize;
            len -= n;
        }
        Ok(())
    }
}

/// A plain layer: headers are read, data is stepped over.
pub(crate) struct FileSource<'a> {
    file: &'a File,
    len: u64,
    at: u64,
    buffer: Vec<u8>,
    buffer_at: u64,
}

impl<'a> FileSource<'a> {
    pub(crate) fn new(file: &'a File, len: u64) -> Self {
        Self { file, len, at: 0, buffer: Vec::new(), buffer_at: 0 }
    }
}

impl Read for FileSource<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        // Small files stand close together: one read serves several headers.
        const AHEAD: usize = 32 << 10;
        let end = self.buffer_at + self.buffer.len() as u64;
        if self.at < self.buffer_at || self.at >= end {
            self.buffer.resize(AHEAD, 0);
            let n = self.file.read_at(&mut self.buffer, self.at)?;
            self.buffer.truncate(n);
            self.buffer_at = self.at;
        }
        let rest = &self.buffer[(self.at - self.buffer_at) as usize..];
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        self.at += n as u64;
        Ok(n)
    }
}

impl Source for FileSource<'_> {
    fn skip(&mut self, len: u64) -> io::Result<()> {
        if len > self.len.saturating_sub(self.at) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += len;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_not_taken_for_a_damaged_layer() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let source = SpoolingSource {
            chunks: ChunkReader::spawn(Box::new(io::repeat(0).take(4096))).unwrap(),
            chunk: Vec::new(),
            used: 0,
            spool: &full,
            written: 0,
            allowed: u64::MAX,
            hasher: Hasher::default(),
            work: &Work::default(),
        };
        let limits = LayerLimits::default();
        let read = index_members(TarReader::new(source), 1, &mut Budget::new(&limits), &Work::default());
        let error = source_error(read.map(drop).unwrap_err(), Path::new("cache"), &limits);
        let FlattenError::Io { path, source, .. } = error else { panic!("{error}") };
        assert_eq!((path.as_path(), source.kind()), (Path::new("cache"), io::ErrorKind::StorageFull));
    }

    #[test]
    fn spool_files_have_no_name() {
        let dir = tempfile::tempdir().unwrap();
        for file in [nameless_file(dir.path()).unwrap(), unlinked_file(dir.path()).unwrap()] {
            file.write_all_at(b"x", 9).unwrap();
            assert_eq!(file.metadata().unwrap().len(), 10);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
