//! The contents of many named files in one connection.

use std::io::Write as _;
use std::os::fd::AsFd;

use pyro_agent::wire::{FetchItem, FileKind, GuestPath, MAX_BATCH, MAX_BATCH_BYTES, parse_path_record};
use rustix::fs::AtFlags;

use crate::connection::{Connection, DataWriter};
use crate::files::open_regular;
use crate::paths::{FileError, On as _, Root, Spot, facts, facts_at};
use crate::records::Records;
use pyro_tree::limits::COPY_BYTES;

/// Receives the paths, then sends what is there.
pub(crate) fn send(connection: &mut Connection, root: &GuestPath, max_bytes: u64) -> Result<(), FileError> {
    let root = Root::open(root)?;
    let paths = receive_paths(connection)?;
    let mut fetch = Fetch {
        root: &root,
        max_bytes,
        stream: DataWriter::new(connection),
        buffer: vec![0; COPY_BYTES],
        record: Vec::new(),
        scratch: Vec::new(),
    };
    for path in paths {
        fetch.add(&root.relative(&path)?)?;
    }
    fetch.stream.finish().map_err(FileError::Host)
}

fn receive_paths(connection: &mut Connection) -> Result<Vec<Vec<u8>>, FileError> {
    let mut records = Records::new(connection);
    let (mut paths, mut total) = (Vec::new(), 0);
    while let Some(path) = records.next(parse_path_record)? {
        total += path.len();
        if paths.len() >= MAX_BATCH || total > MAX_BATCH_BYTES {
            return Err(FileError::BadStream(format!("more than {MAX_BATCH} paths, or too long ones")));
        }
        paths.push(path);
    }
    Ok(paths)
}

struct Fetch<'a> {
    root: &'a Root,
    max_bytes: u64,
    stream: DataWriter<'a>,
    buffer: Vec<u8>,
    record: Vec<u8>,
    scratch: Vec<u8>,
}

impl Fetch<'_> {
    fn add(&mut self, spot: &Spot) -> Result<(), FileError> {
        let parent = match self.root.open_parent(spot) {
            Err(FileError::Missing(_) | FileError::SymlinkedParent(_) | FileError::Refused { .. }) => {
                return self.emit(&FetchItem::Absent);
            }
            other => other?,
        };
        let Ok(stat) = rustix::fs::statat(&parent, spot.name(), AtFlags::SYMLINK_NOFOLLOW) else {
            return self.emit(&FetchItem::Absent);
        };
        if facts(&stat).kind != FileKind::File {
            return match facts_at(parent.as_fd(), spot.name(), &mut self.scratch) {
                Ok((facts, _)) => self.emit(&FetchItem::Bare(facts)),
                Err(_) => self.emit(&FetchItem::Absent),
            };
        }
        let (file, stat) = match open_regular(self.root, spot) {
            // It went, or became something else, between two looks.
            Err(FileError::Missing(_) | FileError::Refused { .. }) => return self.emit(&FetchItem::Absent),
            other => other?,
        };
        if stat.st_size.unsigned_abs() > self.max_bytes {
            return self.emit(&FetchItem::TooLarge(facts(&stat)));
        }
        self.emit(&FetchItem::Content(facts(&stat)))?;
        // A file that grows meanwhile is cut at the size that was told.
        let mut left = stat.st_size.unsigned_abs();
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let len = rustix::io::read(&file, &mut self.buffer[..room]).on(spot)?;
            if len == 0 {
                break;
            }
            left -= len as u64;
            let chunk = FetchItem::Chunk(self.buffer[..len].to_vec());
            self.emit(&chunk)?;
        }
        self.emit(&FetchItem::End)
    }

    fn emit(&mut self, item: &FetchItem) -> Result<(), FileError> {
        self.record.clear();
        item.emit(&mut self.record);
        self.stream.write_all(&self.record).map_err(FileError::Host)
    }
}
