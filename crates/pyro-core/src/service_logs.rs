//! What a service prints and what a network records, in files of bounded size outside the guest.
//!
//! A stream is a sequence of bytes counted from 0. Its files are named by the stream and the number of their
//! first byte, so nothing else need be known to read them, whenever their writer died. The newest two stay.

use crate::limits::LOG_FILE_BYTES;
use crate::places::create_private_dir;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Files of one stream that are kept.
const FILES: usize = 2;
/// Digits of a name's number: those of `u64::MAX`.
const DIGITS: usize = 20;

/// One of a service's two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The name of the only stream of a network's log.
const FLOWS: &str = "flows";

/// One file of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    start: u64,
    path: PathBuf,
}

/// The files of a stream, the oldest first. A directory that is not there has none.
fn segments(dir: &Path, stream: &str) -> io::Result<Vec<Segment>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(stream)?.strip_prefix('-'));
        if let Some(start) = number.and_then(|number| number.parse().ok()) {
            found.push(Segment { start, path: entry.path() });
        }
    }
    found.sort_by_key(|segment| segment.start);
    Ok(found)
}

/// Writes one stream. What cannot be written, for lack of space, is lost, and its reader is told so.
#[derive(Debug)]
pub(crate) struct LogWriter {
    dir: PathBuf,
    stream: &'static str,
    /// The number of the next byte.
    at: u64,
    /// The newest file and how much is in it.
    open: Option<(File, u64)>,
    file_bytes: u64,
}

impl LogWriter {
    /// Goes on after what is there.
    pub(crate) fn open(dir: &Path, stream: Stream) -> io::Result<Self> {
        Self::open_named(dir, stream.name())
    }

    /// The same for what a network records.
    pub(crate) fn open_flows(dir: &Path) -> io::Result<Self> {
        Self::open_named(dir, FLOWS)
    }

    fn open_named(dir: &Path, stream: &'static str) -> io::Result<Self> {
        create_private_dir(dir)?;
        let mut at = 0;
        if let Some(last) = segments(dir, stream)?.last() {
            at = last.start + std::fs::metadata(&last.path)?.len();
        }
        Ok(Self { dir: dir.to_owned(), stream, at, open: None, file_bytes: LOG_FILE_BYTES })
    }

    /// The number of the next byte.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    pub(crate) fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = match &self.open {
                Some((_, len)) => self.file_bytes.saturating_sub(*len),
                None => 0,
            };
            if room == 0 {
                self.open = self.next_file().ok().map(|file| (file, 0));
            }
            let room = if room == 0 { self.file_bytes } else { room };
            let step = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            let (now, rest) = bytes.split_at(step);
            let written = match &mut self.open {
                Some((file, len)) => {
                    *len += now.len() as u64;
                    file.write_all(now)
                }
                None => Ok(()),
            };
            self.at += now.len() as u64;
            if written.is_err() {
                // How much of it is there is not known; the next file's name tells where it goes on.
                self.open = None;
            }
            bytes = rest;
        }
    }

    fn next_file(&self) -> io::Result<File> {
        let there = segments(&self.dir, self.stream)?;
        for old in there.iter().rev().skip(FILES - 1) {
            std::fs::remove_file(&old.path)?;
        }
        let name = format!("{}-{:0DIGITS$}", self.stream, self.at);
        OpenOptions::new().create(true).append(true).mode(0o600).open(self.dir.join(name))
    }
}

/// A part of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogPart {
    pub(crate) bytes: Vec<u8>,
    /// Bytes in between, or before, that are not there any more.
    pub(crate) lost: u64,
    /// The number of the byte after the last.
    pub(crate) next: u64,
}

/// Reads a stream from the byte with the number `from`, `most` bytes at most. Its writer may go on meanwhile.
pub(crate) fn read(dir: &Path, stream: Stream, from: u64, most: usize) -> io::Result<LogPart> {
    read_named(dir, stream.name(), from, most)
}

/// The same of what a network has recorded.
pub(crate) fn read_flows(dir: &Path, from: u64, most: usize) -> io::Result<LogPart> {
    read_named(dir, FLOWS, from, most)
}

fn read_named(dir: &Path, stream: &str, from: u64, most: usize) -> io::Result<LogPart> {
    let mut part = LogPart { next: from, ..LogPart::default() };
    for segment in segments(dir, stream)? {
        let room = most - part.bytes.len();
        if room == 0 {
            break;
        }
        let mut file = match File::open(&segment.path) {
            // Its time was over at this moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?,
        };
        let len = file.metadata()?.len();
        if segment.start + len <= part.next {
            continue;
        }
        part.lost += segment.start.saturating_sub(part.next);
        part.next = part.next.max(segment.start);
        file.seek(SeekFrom::Start(part.next - segment.start))?;
        let read = file.take(room as u64).read_to_end(&mut part.bytes)?;
        part.next += read as u64;
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(dir: &Path, file_bytes: u64) -> LogWriter {
        LogWriter { file_bytes, ..LogWriter::open(dir, Stream::Stdout).unwrap() }
    }

    fn part(dir: &Path, from: u64, most: usize) -> (String, u64, u64) {
        let part = read(dir, Stream::Stdout, from, most).unwrap();
        (String::from_utf8(part.bytes).unwrap(), part.lost, part.next)
    }

    #[test]
    fn the_newest_two_files_are_kept_and_what_is_lost_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = writer(dir.path(), 4);
        log.write(b"abc");
        assert_eq!(part(dir.path(), 0, 100), ("abc".to_owned(), 0, 3));
        log.write(b"defghijk");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!(part(dir.path(), 0, 100), ("efghijk".to_owned(), 4, 11));
        assert_eq!(part(dir.path(), 6, 3), ("ghi".to_owned(), 0, 9));
        assert_eq!(part(dir.path(), 11, 100), (String::new(), 0, 11));
        assert_eq!(part(dir.path(), 99, 100), (String::new(), 0, 99));
        assert_eq!(log.at(), 11);
    }

    #[test]
    fn another_writer_goes_on_where_the_last_one_ended() {
        let dir = tempfile::tempdir().unwrap();
        writer(dir.path(), 4).write(b"abcdef");
        let mut log = writer(dir.path(), 4);
        assert_eq!(log.at(), 6);
        log.write(b"gh");
        assert_eq!(part(dir.path(), 4, 100), ("efgh".to_owned(), 0, 8));
    }

    #[test]
    fn what_cannot_be_written_is_lost_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("logs");
        let mut log = writer(&logs, 4);
        log.write(b"ab");
        std::fs::rename(&logs, dir.path().join("aside")).unwrap();
        // The open file takes two more; then there is no place for the next one.
        log.write(b"cdef");
        std::fs::rename(dir.path().join("aside"), &logs).unwrap();
        log.write(b"gh");
        assert_eq!(part(&logs, 0, 100), ("abcdgh".to_owned(), 2, 8));
    }

    #[test]
    fn a_log_that_was_never_written_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(part(&dir.path().join("none"), 0, 100), (String::new(), 0, 0));
        std::fs::write(dir.path().join("stdout-x"), "").unwrap();
        assert_eq!(part(dir.path(), 0, 100), (String::new(), 0, 0));
    }
}
