//! An archive as another tar program wrote it, as an archive of ours.

use std::io::{self, Read, Write};

use crate::error::refused;
use crate::limits::{COPY_BYTES, MAX_TREE_DEPTH};
use crate::path::clean;
use crate::pax::{Kind, Member, ReadError, Reader, Writer};
use crate::{Fidelity, PackOptions, TreeError, TreeStats, xattrs};

/// Reads a tar archive (pax, GNU, ustar or older) to its end and writes it anew. Members that could lead out
/// of a tree and device nodes are refused; links may point anywhere.
pub fn repack(
    archive: &mut impl Read,
    stream: &mut impl Write,
    options: &PackOptions,
) -> Result<TreeStats, TreeError> {
    let mut reader = Reader::new(archive);
    let mut writer = Writer::new(stream);
    let mut stats = TreeStats::default();
    let mut buffer = vec![0; COPY_BYTES];
    while let Some(mut member) = reader.next_member()? {
        adapt(&mut member, options)?;
        stats.see_root(member.path.strip_prefix(b"./").unwrap_or(&member.path), &member.kind);
        writer.start_member(&member)?;
        stats.entry_count += 1;
        while writer.content_left() > 0 {
            let read = reader.read(&mut buffer).map_err(ReadError::of_contents)?;
            writer.write_content(&buffer[..read])?;
            stats.bytes_written += read as u64;
        }
    }
    writer.finish()?;
    // A compressed stream tells of its damage at its end.
    io::copy(reader.into_inner(), &mut io::sink()).map_err(ReadError::of_contents)?;
    Ok(stats)
}

fn adapt(member: &mut Member, options: &PackOptions) -> Result<(), TreeError> {
    let path = clean(&member.path, MAX_TREE_DEPTH)?;
    if path.is_empty() && member.kind != Kind::Directory {
        return Err(refused(&member.path, "only a directory can be the root of a tree"));
    }
    match &mut member.kind {
        Kind::Device => return Err(refused(&member.path, "device nodes are not accepted")),
        Kind::HardLink(target) => {
            let clean = clean(target, MAX_TREE_DEPTH)?;
            if clean.is_empty() {
                return Err(refused(&member.path, "a hard link cannot name the root"));
            }
            *target = [b"./", &clean[..]].concat();
        }
        Kind::File(_) | Kind::Directory | Kind::Symlink(_) | Kind::Fifo => {}
    }
    member.path = if path.is_empty() { b".".to_vec() } else { [b"./", &path[..]].concat() };
    if options.fidelity == Fidelity::Portable {
        (member.uid, member.gid) = (0, 0);
        member.xattrs.retain(|(name, _)| xattrs::is_portable(name));
    }
    Ok(())
}

/// Drives everything that reads archives here, for fuzzing. What is accepted once is accepted as it comes out.
pub fn fuzz_repack(bytes: &[u8]) {
    let options = PackOptions::default();
    let mut once = Vec::new();
    if let Ok(stats) = repack(&mut &bytes[..], &mut once, &options) {
        let mut twice = Vec::new();
        let again = repack(&mut &once[..], &mut twice, &options).expect("what is written can be read");
        assert!(again == stats && twice == once, "an archive changed on its second way through");
    }
}
