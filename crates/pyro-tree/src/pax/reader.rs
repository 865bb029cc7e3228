use std::io::{self, Read};

use super::header::{self, Block, Header};
use super::records::{Records, parse_unsigned};
use super::{
    BLOCK_BYTES, Content, Extent, Kind, MAX_EXTENTS, MAX_PATH_BYTES, MAX_RECORDS_BYTES, Member, Time,
};
use crate::limits::MAX_ANNOUNCEMENTS;

/// Why an archive cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The stream below failed.
    #[error("archive stream: {0}")]
    Io(#[from] io::Error),
    /// The stream ended inside a member, or without the end mark.
    #[error("archive is truncated")]
    Truncated,
    /// The bytes are not an archive of a supported kind.
    #[error("archive is malformed: {0}")]
    Malformed(String),
}

impl ReadError {
    /// What a failed read of a member's contents means.
    pub(crate) fn of_contents(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Io(error),
        }
    }
}

/// Reads members one after another. As a [`Read`] it gives the current file's stored bytes.
#[derive(Debug)]
pub struct Reader<R> {
    inner: R,
    content_left: u64,
    padding: u64,
    ended: bool,
}

/// Names that GNU's `L` and `K` members announce for the next one.
#[derive(Default)]
struct LongNames {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl<R: Read> Reader<R> {
    /// A reader at an archive's start.
    pub fn new(inner: R) -> Self {
        Self { inner, content_left: 0, padding: 0, ended: false }
    }

    /// The next member, past what was not read of the current one; `None` at the archive's end mark.
    pub fn next_member(&mut self) -> Result<Option<Member>, ReadError> {
        self.skip_content()?;
        let mut records = Records::default();
        let mut long = LongNames::default();
        let mut announcements = 0;
        while !self.ended {
            announcements += 1;
            if announcements > MAX_ANNOUNCEMENTS {
                return Err(malformed("extended headers without a member".to_owned()));
            }
            let block = self.block()?;
            if block.iter().all(|byte| *byte == 0) {
                self.ended = true;
                break;
            }
            let header =
                Header::parse(&block).map_err(|field| malformed(format!("member header: bad {field}")))?;
            match header.type_flag {
                b'x' => {
                    records =
                        Records::parse(&self.small_content(header.size)?).map_err(ReadError::Malformed)?;
                }
                b'g' => {
                    let global =
                        Records::parse(&self.small_content(header.size)?).map_err(ReadError::Malformed)?;
                    if global != Records::default() {
                        let text = "global extended headers that change members are not supported";
                        return Err(malformed(text.to_owned()));
                    }
                }
                b'L' => long.path = Some(c_text(self.small_content(header.size)?)),
                b'K' => long.link = Some(c_text(self.small_content(header.size)?)),
                _ => return self.member(header, records, long, &block).map(Some),
            }
        }
        Ok(None)
    }

    /// The stream below.
    pub fn into_inner(self) -> R {
        self.inner
    }

    fn member(
        &mut self,
        header: Header,
        mut records: Records,
        long: LongNames,
        block: &Block,
    ) -> Result<Member, ReadError> {
        let stored = records.size.unwrap_or(header.size);
        let sparse = records.sparse.take();
        let mut path = records.path.or(long.path).unwrap_or(header.path);
        let link = records.link.or(long.link).unwrap_or(header.link);
        let kind = match header.type_flag {
            0 | b'0' | b'7' if sparse.is_none() && path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' => {
                self.content_left = stored;
                self.padding = padding(stored);
                let content = match sparse {
                    Some((name, size)) => {
                        path = name;
                        let extents = self.sparse_map()?;
                        Content { size, extents }
                    }
                    None => Content::solid(stored),
                };
                Kind::File(content)
            }
            b'S' => {
                let (extents, size) = self.old_sparse(block)?;
                self.content_left = stored;
                self.padding = padding(stored);
                Kind::File(Content { size, extents })
            }
            b'1' => Kind::HardLink(checked_path(link)?),
            b'2' => Kind::Symlink(checked_path(link)?),
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'M' => return Err(malformed("archives in several volumes are not supported".to_owned())),
            other => return Err(malformed(format!("unknown member type {:?}", char::from(other)))),
        };
        if let Kind::File(content) = &kind
            && (!content.is_sound() || content.stored_bytes() != self.content_left)
        {
            return Err(malformed("a file's extents do not fit its size".to_owned()));
        }
        let id = |value: u64, what| u32::try_from(value).map_err(|_| malformed(format!("{what} {value}")));
        Ok(Member {
            path: checked_path(path)?,
            kind,
            mode: header.mode,
            uid: id(records.uid.unwrap_or(header.uid), "owner")?,
            gid: id(records.gid.unwrap_or(header.gid), "group")?,
            mtime: records.mtime.unwrap_or(Time { seconds: header.mtime, nanos: 0 }),
            xattrs: records.xattrs,
        })
    }

    /// The map that precedes the data in sparse format 1.0: a count, then offsets and lengths, a number a
    /// line, filled up to whole blocks.
    fn sparse_map(&mut self) -> Result<Vec<Extent>, ReadError> {
        let mut block: &[u8] = &[];
        let mut held;
        let mut line = Vec::new();
        let mut numbers = Vec::new();
        let mut wanted = 1;
        while numbers.len() < wanted {
            let Some((byte, rest)) = block.split_first() else {
                if self.content_left < BLOCK_BYTES as u64 {
                    return Err(malformed("sparse map is longer than its member".to_owned()));
                }
                held = self.block()?;
                self.content_left -= BLOCK_BYTES as u64;
                block = &held;
                continue;
            };
            block = rest;
            if *byte != b'\n' {
                line.push(*byte);
                if line.len() > 20 {
                    return Err(malformed("sparse map holds a line that is no number".to_owned()));
                }
                continue;
            }
            let number = parse_unsigned(&line).ok_or_else(|| malformed("sparse map".to_owned()))?;
            line.clear();
            if numbers.is_empty() {
                let count = usize::try_from(number).ok().filter(|count| *count <= MAX_EXTENTS);
                let count = count.ok_or_else(|| malformed(format!("sparse map of {number} extents")))?;
                wanted = 1 + 2 * count;
            }
            numbers.push(number);
        }
        let pairs = numbers[1..].chunks_exact(2);
        Ok(pairs.map(|pair| Extent { offset: pair[0], len: pair[1] }).filter(|e| e.len != 0).collect())
    }

    fn old_sparse(&mut self, block: &Block) -> Result<(Vec<Extent>, u64), ReadError> {
        let bad = || malformed("sparse header".to_owned());
        let (mut extents, size, mut more) = header::parse_old_sparse(block).ok_or_else(bad)?;
        while more {
            let (next, again) = header::parse_old_sparse_more(&self.block()?).ok_or_else(bad)?;
            extents.extend(next);
            if extents.len() > MAX_EXTENTS {
                return Err(malformed(format!("sparse file of more than {MAX_EXTENTS} extents")));
            }
            more = again;
        }
        extents.retain(|extent| extent.len != 0);
        Ok((extents, size))
    }

    fn block(&mut self) -> Result<Block, ReadError> {
        let mut block = [0; BLOCK_BYTES];
        self.exact(&mut block)?;
        Ok(block)
    }

    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), ReadError> {
        self.inner.read_exact(buffer).map_err(ReadError::of_contents)
    }

    fn small_content(&mut self, size: u64) -> Result<Vec<u8>, ReadError> {
        if size > MAX_RECORDS_BYTES as u64 {
            return Err(malformed(format!("extended header of {size} bytes")));
        }
        let len = usize::try_from(size).expect("under MAX_RECORDS_BYTES");
        let mut content = vec![0; len.next_multiple_of(BLOCK_BYTES)];
        self.exact(&mut content)?;
        content.truncate(len);
        Ok(content)
    }

    fn skip_content(&mut self) -> Result<(), ReadError> {
        let left = self.content_left.saturating_add(self.padding);
        let skipped =
            io::copy(&mut self.inner.by_ref().take(left), &mut io::sink()).map_err(ReadError::of_contents)?;
        (self.content_left, self.padding) = (0, 0);
        if skipped == left { Ok(()) } else { Err(ReadError::Truncated) }
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(usize::try_from(self.content_left).unwrap_or(usize::MAX));
        if len == 0 {
            return Ok(0);
        }
        let read = self.inner.read(&mut buffer[..len])?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "archive is truncated"));
        }
        self.content_left -= read as u64;
        Ok(read)
    }
}

fn padding(stored: u64) -> u64 {
    stored.wrapping_neg() % BLOCK_BYTES as u64
}

fn malformed(what: String) -> ReadError {
    ReadError::Malformed(what)
}

fn c_text(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// A path that the kernel could take: not empty, no NUL, not too long.
fn checked_path(path: Vec<u8>) -> Result<Vec<u8>, ReadError> {
    match path.len() {
        0 => Err(malformed("member without a name".to_owned())),
        1..=MAX_PATH_BYTES if !path.contains(&0) => Ok(path),
        _ => Err(malformed(format!("path of {} bytes or with a zero byte", path.len()))),
    }
}
