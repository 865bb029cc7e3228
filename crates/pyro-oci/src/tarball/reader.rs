//! Walking an archive member by member, passing over every byte once.

use std::io::Read;

use super::header::{Header, sparse_extension};
use super::{Attributes, Content, Member, MemberKind, RECORD, TarError, pax, shown, sparse};
use crate::limits::{EXTENDED_HEADER_BYTES, MEMBER_LOGICAL_BYTES, SPARSE_MAP_BYTES, SPARSE_SEGMENTS};

/// A stream that can pass over bytes without handing them out.
pub(crate) trait Source: Read {
    /// Passes over exactly `len` bytes.
    fn skip(&mut self, len: u64) -> std::io::Result<()>;
}

impl Source for &[u8] {
    fn skip(&mut self, len: u64) -> std::io::Result<()> {
        let rest = usize::try_from(len).ok().and_then(|len| self.get(len..));
        *self = rest.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        Ok(())
    }
}

/// Reads members from `source`, which stands at byte 0 of an uncompressed archive.
pub(crate) struct TarReader<S> {
    source: S,
    at: u64,
}

/// What extended headers say about the member that follows them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: PaxSparse,
}

#[derive(Default)]
struct PaxSparse {
    major: Option<u64>,
    minor: Option<u64>,
    name: Option<Vec<u8>>,
    size: Option<u64>,
    map: Vec<(u64, u64)>,
    pending_offset: Option<u64>,
    seen: bool,
}

impl<S: Source> TarReader<S> {
    pub(crate) fn new(source: S) -> Self {
        Self { source, at: 0 }
    }

    /// The source, wherever reading has got to.
    pub(crate) fn into_source(self) -> S {
        self.source
    }

    /// The next member, or `None` at the end of the archive.
    pub(crate) fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        let mut extended = Extended::default();
        let mut pending = false;
        // One member's extended headers share one bound: any number of them may stand in a row, and what
        // they say is kept until the member comes.
        let mut rest = EXTENDED_HEADER_BYTES;
        loop {
            let at = self.at;
            let Some(block) = self.header_block()? else {
                return if pending { Err(TarError::Truncated { at }) } else { Ok(None) };
            };
            let header = Header::parse(&block, at)?;
            match header.flag {
                b'x' | b'L' | b'K' => {
                    let body = self.extended_body(&header, at, rest)?;
                    rest -= header.size;
                    extended.apply(header.flag, &body).map_err(|what| TarError::Extended { at, what })?;
                    pending = true;
                }
                // A global header: defaults such as a comment. Nothing in it bears on a file system.
                b'g' => drop(self.extended_body(&header, at, EXTENDED_HEADER_BYTES)?),
                _ => return self.member(header, extended, at).map(Some),
            }
        }
    }

    fn header_block(&mut self) -> Result<Option<[u8; 512]>, TarError> {
        let mut block = [0; 512];
        if !self.fill(&mut block)? || block.iter().all(|&b| b == 0) {
            return Ok(None);
        }
        Ok(Some(block))
    }

    fn extended_body(&mut self, header: &Header, at: u64, limit: u64) -> Result<Vec<u8>, TarError> {
        if header.size > limit {
            return Err(TarError::ExtendedTooLarge { at, len: header.size, limit: EXTENDED_HEADER_BYTES });
        }
        let mut body = vec![0; header.size.next_multiple_of(RECORD) as usize];
        self.exact(&mut body)?;
        body.truncate(header.size as usize);
        Ok(body)
    }

    fn member(&mut self, header: Header, extended: Extended, at: u64) -> Result<Member, TarError> {
        let path = extended.sparse.name.clone().or(extended.path.clone()).unwrap_or(header.name.clone());
        let link = extended.link.clone().unwrap_or(header.link.clone());
        let size = extended.size.unwrap_or(header.size);
        let attributes = attributes(&header, &extended, at)?;
        // Only files have data: for every other type a size is a leftover that readers ignore.
        let kind = match header.flag {
            b'0' | 0 | b'7' if path.ends_with(b"/") => MemberKind::Directory,
            b'0' | 0 | b'7' => MemberKind::File(self.file_content(&path, size, &extended.sparse, at)?),
            b'S' => MemberKind::File(self.old_gnu_content(&path, &header, size, at)?),
            b'1' => MemberKind::HardLink(link),
            b'2' => MemberKind::Symlink(link),
            b'3' | b'4' => device(&header, at)?,
            b'5' => MemberKind::Directory,
            b'6' => MemberKind::Fifo,
            other => {
                let flag = char::from(other).escape_default().to_string();
                return Err(TarError::UnsupportedType { path: shown(&path), flag });
            }
        };
        Ok(Member { path, kind, attributes, xattrs: extended.xattrs })
    }

    fn file_content(
        &mut self,
        path: &[u8],
        size: u64,
        form: &PaxSparse,
        at: u64,
    ) -> Result<Content, TarError> {
        if !form.seen {
            let content = Content::Plain { at: self.at, len: size };
            if size > MEMBER_LOGICAL_BYTES {
                return Err(TarError::MemberTooLarge {
                    path: shown(path),
                    bytes: size,
                    limit: MEMBER_LOGICAL_BYTES,
                });
            }
            self.pass_over(size)?;
            return Ok(content);
        }
        let bad = |what: &str| TarError::Sparse { path: shown(path), what: what.to_owned() };
        let real = form.size.ok_or_else(|| bad("it states no size"))?;
        match (form.major, form.minor) {
            (Some(1), Some(0)) => {
                let map = self.leading_map(path, size)?;
                let used = self.at - (at + RECORD);
                let stored = size.checked_sub(used).ok_or_else(|| bad("it is longer than its member"))?;
                self.sparse_content(path, &map, real, stored)
            }
            (None | Some(0), _) => self.sparse_content(path, &form.map, real, size),
            _ => Err(bad("its version is not known")),
        }
    }

    fn sparse_content(
        &mut self,
        path: &[u8],
        map: &[(u64, u64)],
        real: u64,
        stored: u64,
    ) -> Result<Content, TarError> {
        let content = sparse::content(path, map, real, self.at, stored)?;
        self.pass_over(stored)?;
        Ok(content)
    }

    /// The decimal map in front of a PAX 1.0 member's data: whole records of numbers, a line each.
    fn leading_map(&mut self, path: &[u8], size: u64) -> Result<Vec<(u64, u64)>, TarError> {
        let bad = |what: String| TarError::Sparse { path: shown(path), what };
        let mut numbers = DecimalLines::default();
        let mut used = 0;
        loop {
            if used + RECORD > size.min(SPARSE_MAP_BYTES) {
                return Err(bad(format!("it does not end within {} bytes", size.min(SPARSE_MAP_BYTES))));
            }
            let mut block = [0; 512];
            self.exact(&mut block)?;
            used += RECORD;
            if numbers.push(&block).map_err(bad)? {
                return numbers.pairs().map_err(bad);
            }
        }
    }

    fn old_gnu_content(
        &mut self,
        path: &[u8],
        header: &Header,
        stored: u64,
        at: u64,
    ) -> Result<Content, TarError> {
        let (mut map, real, mut more) = header.old_gnu_sparse(at)?;
        while more {
            if map.len() > SPARSE_SEGMENTS {
                let what = format!("more than {SPARSE_SEGMENTS} segments");
                return Err(TarError::Sparse { path: shown(path), what });
            }
            let block_at = self.at;
            let mut block = [0; 512];
            self.exact(&mut block)?;
            let (entries, another) = sparse_extension(&block, block_at)?;
            map.extend(entries);
            more = another;
        }
        self.sparse_content(path, &map, real, stored)
    }

    /// Passes over a member's data and its padding.
    fn pass_over(&mut self, len: u64) -> Result<(), TarError> {
        let padded = len.checked_next_multiple_of(RECORD).ok_or(TarError::Truncated { at: self.at })?;
        self.source.skip(padded).map_err(|e| self.read_error(e))?;
        self.at += padded;
        Ok(())
    }

    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), TarError> {
        self.source.read_exact(buffer).map_err(|e| self.read_error(e))?;
        self.at += buffer.len() as u64;
        Ok(())
    }

    /// Fills the buffer, or returns false at a clean end.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.source.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(TarError::Truncated { at: self.at + filled as u64 }),
                Ok(n) => filled += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.read_error(e)),
            }
        }
        self.at += filled as u64;
        Ok(true)
    }

    fn read_error(&self, source: std::io::Error) -> TarError {
        if source.kind() == std::io::ErrorKind::UnexpectedEof && source.get_ref().is_none() {
            TarError::Truncated { at: self.at }
        } else {
            TarError::Read { at: self.at, source }
        }
    }
}

impl Extended {
    fn apply(&mut self, flag: u8, body: &[u8]) -> Result<(), String> {
        let text = || body.split(|&b| b == 0).next().unwrap_or_default().to_vec();
        match flag {
            b'L' => self.path = Some(text()),
            b'K' => self.link = Some(text()),
            _ => {
                for (key, value) in pax::records(body)? {
                    self.record(key, value)?;
                }
            }
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let bad = || format!("{} has the value {:?}", shown(key), shown(value));
        let number = || pax::decimal(value).ok_or_else(bad);
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => self.mtime = Some(pax::time(value).ok_or_else(bad)?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                } else if let Some(field) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.record(field, value).ok_or_else(bad)?;
                }
            }
        }
        Ok(())
    }
}

impl PaxSparse {
    /// `None` when the value does not fit the field.
    fn record(&mut self, field: &[u8], value: &[u8]) -> Option<()> {
        self.seen = true;
        match field {
            b"major" => self.major = Some(pax::decimal(value)?),
            b"minor" => self.minor = Some(pax::decimal(value)?),
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(pax::decimal(value)?),
            b"offset" => self.pending_offset = Some(pax::decimal(value)?),
            b"numbytes" => self.map.push((self.pending_offset.take()?, pax::decimal(value)?)),
            b"map" => {
                let numbers: Option<Vec<u64>> = value.split(|&b| b == b',').map(pax::decimal).collect();
                let numbers = numbers?;
                if numbers.len() % 2 != 0 {
                    return None;
                }
                self.map = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
            }
            _ => {}
        }
        Some(())
    }
}

/// Numbers of a PAX 1.0 map: first the count of pairs, then the pairs.
#[derive(Default)]
struct DecimalLines {
    numbers: Vec<u64>,
    partial: Vec<u8>,
}

impl DecimalLines {
    /// Takes one record; true when the map is complete, the rest of the record being padding.
    fn push(&mut self, block: &[u8; 512]) -> Result<bool, String> {
        for &byte in block {
            if byte != b'\n' {
                // Twenty digits are the most a 64-bit number has.
                if self.partial.len() >= 20 {
                    return Err("a number has more than 20 digits".into());
                }
                self.partial.push(byte);
                continue;
            }
            let n = pax::decimal(&self.partial)
                .ok_or_else(|| format!("{:?} is not a number", shown(&self.partial)))?;
            self.partial.clear();
            self.numbers.push(n);
            let pairs = self.numbers[0];
            if pairs > SPARSE_SEGMENTS as u64 {
                return Err(format!("{pairs} segments; the limit is {SPARSE_SEGMENTS}"));
            }
            if self.numbers.len() as u64 == 1 + 2 * pairs {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn pairs(&self) -> Result<Vec<(u64, u64)>, String> {
        Ok(self.numbers[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }
}

fn attributes(header: &Header, extended: &Extended, at: u64) -> Result<Attributes, TarError> {
    let id = |value: u64, what: &str| {
        u32::try_from(value)
            .map_err(|_| TarError::Header { at, what: format!("{what} {value} is out of range") })
    };
    let (mtime, mtime_nanos) = extended.mtime.unwrap_or((header.mtime, 0));
    Ok(Attributes {
        mode: header.mode,
        uid: id(extended.uid.unwrap_or(header.uid), "uid")?,
        gid: id(extended.gid.unwrap_or(header.gid), "gid")?,
        mtime,
        mtime_nanos,
    })
}

fn device(header: &Header, at: u64) -> Result<MemberKind, TarError> {
    // What a Linux `dev_t` holds.
    const LARGEST_MAJOR: u64 = 0xfff;
    const LARGEST_MINOR: u64 = 0xf_ffff;
    if header.major > LARGEST_MAJOR || header.minor > LARGEST_MINOR {
        let what = format!("device number {}:{} is out of range", header.major, header.minor);
        return Err(TarError::Header { at, what });
    }
    let (major, minor) = (header.major as u32, header.minor as u32);
    Ok(if header.flag == b'3' {
        MemberKind::CharDevice { major, minor }
    } else {
        MemberKind::BlockDevice { major, minor }
    })
}
