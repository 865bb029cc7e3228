use std::io::{self, Write};

use super::header::{Header, MAX_OCTAL_ID, MAX_OCTAL_SIZE};
use super::records::Records;
use super::{BLOCK_BYTES, Content, Kind, MAX_PATH_BYTES, MAX_RECORDS_BYTES, Member};

/// Why a member cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The stream below failed.
    #[error("archive stream: {0}")]
    Io(#[from] io::Error),
    /// The member breaks a limit of the format, or a device, which is not kept.
    #[error("{path:?} cannot be archived: {reason}")]
    Unfit {
        /// The member's path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// More contents were given than the member announced.
    #[error("contents longer than announced")]
    TooLong,
}

/// Writes members one after another.
#[derive(Debug)]
pub struct Writer<W> {
    inner: W,
    content_left: u64,
    padding: u64,
}

impl<W: Write> Writer<W> {
    /// A writer at an archive's start.
    pub fn new(inner: W) -> Self {
        Self { inner, content_left: 0, padding: 0 }
    }

    /// Starts a member. For a file its stored bytes follow by [`Writer::write_content`]; what is missing of
    /// the previous file's is filled with zeros, so a file that shrank while it was read keeps the archive sound.
    pub fn start_member(&mut self, member: &Member) -> Result<(), WriteError> {
        self.end_content()?;
        check(member)?;
        let mut records = Records { xattrs: member.xattrs.clone(), ..Records::default() };
        let mut header = Header {
            path: member.path.clone(),
            link: Vec::new(),
            type_flag: b'0',
            mode: member.mode & 0o7777,
            uid: u64::from(member.uid),
            gid: u64::from(member.gid),
            size: 0,
            mtime: member.mtime.seconds,
        };
        let mut map = Vec::new();
        match &member.kind {
            Kind::File(content) if content.is_solid() => header.size = content.size,
            Kind::File(content) => {
                map = sparse_map(content);
                header.size = map.len() as u64 + content.stored_bytes();
                header.path = b"GNUSparseFile.0/member".to_vec();
                records.sparse = Some((member.path.clone(), content.size));
            }
            Kind::Directory => header.type_flag = b'5',
            Kind::Symlink(target) => (header.type_flag, header.link) = (b'2', target.clone()),
            Kind::HardLink(target) => (header.type_flag, header.link) = (b'1', target.clone()),
            Kind::Fifo => header.type_flag = b'6',
            Kind::Device => return Err(unfit(member, "device nodes are not kept")),
        }
        amend(&mut records, &header, member);
        self.write_records(&records, member)?;
        self.inner.write_all(&header.emit())?;
        self.inner.write_all(&map)?;
        self.content_left = header.size - map.len() as u64;
        self.padding = header.size.wrapping_neg() % BLOCK_BYTES as u64;
        Ok(())
    }

    /// Adds stored bytes of the current file.
    pub fn write_content(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        let left = self.content_left.checked_sub(bytes.len() as u64).ok_or(WriteError::TooLong)?;
        self.inner.write_all(bytes)?;
        self.content_left = left;
        Ok(())
    }

    /// Stored bytes that the current file still lacks.
    pub fn content_left(&self) -> u64 {
        self.content_left
    }

    /// Writes the end mark and gives the stream back.
    pub fn finish(mut self) -> Result<W, WriteError> {
        self.end_content()?;
        self.inner.write_all(&[0; 2 * BLOCK_BYTES])?;
        Ok(self.inner)
    }

    fn write_records(&mut self, records: &Records, member: &Member) -> Result<(), WriteError> {
        let bytes = records.emit();
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.len() > MAX_RECORDS_BYTES {
            return Err(unfit(member, "its extended attributes are too large"));
        }
        let header = Header {
            path: b"PaxHeaders/member".to_vec(),
            link: Vec::new(),
            type_flag: b'x',
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: bytes.len() as u64,
            mtime: 0,
        };
        self.inner.write_all(&header.emit())?;
        self.inner.write_all(&bytes)?;
        self.zeros((bytes.len() as u64).wrapping_neg() % BLOCK_BYTES as u64)?;
        Ok(())
    }

    fn end_content(&mut self) -> Result<(), WriteError> {
        self.zeros(self.content_left.saturating_add(self.padding))?;
        (self.content_left, self.padding) = (0, 0);
        Ok(())
    }

    fn zeros(&mut self, count: u64) -> io::Result<()> {
        io::copy(&mut io::Read::take(io::repeat(0), count), &mut self.inner).map(drop)
    }
}

/// Moves into records what the header block cannot carry.
fn amend(records: &mut Records, header: &Header, member: &Member) {
    if header.path.len() > 100 {
        records.path = Some(header.path.clone());
    }
    if header.link.len() > 100 {
        records.link = Some(header.link.clone());
    }
    if header.size > MAX_OCTAL_SIZE {
        records.size = Some(header.size);
    }
    if header.uid > MAX_OCTAL_ID {
        records.uid = Some(header.uid);
    }
    if header.gid > MAX_OCTAL_ID {
        records.gid = Some(header.gid);
    }
    let plain = u64::try_from(header.mtime).is_ok_and(|mtime| mtime <= MAX_OCTAL_SIZE);
    if !plain || member.mtime.nanos != 0 {
        records.mtime = Some(member.mtime);
    }
}

fn sparse_map(content: &Content) -> Vec<u8> {
    // A last extent of no bytes marks the file's end, for readers that size files by their map.
    let end = super::Extent { offset: content.size, len: 0 };
    let mut map = format!("{}\n", content.extents.len() + 1).into_bytes();
    for extent in content.extents.iter().chain([&end]) {
        map.extend_from_slice(format!("{}\n{}\n", extent.offset, extent.len).as_bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK_BYTES), 0);
    map
}

fn check(member: &Member) -> Result<(), WriteError> {
    let path_fits = |path: &[u8]| matches!(path.len(), 1..=MAX_PATH_BYTES) && !path.contains(&0);
    if !path_fits(&member.path) {
        return Err(unfit(member, "the path is empty or too long"));
    }
    match &member.kind {
        Kind::Symlink(target) | Kind::HardLink(target) if !path_fits(target) => {
            Err(unfit(member, "the link target is empty or too long"))
        }
        // The map's end mark counts as an extent.
        Kind::File(content) if !content.is_sound() || content.extents.len() >= super::MAX_EXTENTS => {
            Err(unfit(member, "its extents are out of order or too many"))
        }
        _ => Ok(()),
    }
}

fn unfit(member: &Member, reason: &'static str) -> WriteError {
    WriteError::Unfit { path: String::from_utf8_lossy(&member.path).into_owned(), reason }
}
