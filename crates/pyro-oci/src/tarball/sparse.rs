//! Sparse maps: pairs of offset and length become [`Segment`]s of one [`Content`].

use super::{Content, Segment, TarError, shown};
use crate::limits::{MEMBER_LOGICAL_BYTES, SPARSE_SEGMENTS};

/// Checks a map against the bytes that are stored and the size that is claimed.
///
/// Writers end a map with an empty segment at the end of the file; it carries no bytes and is left out.
pub(super) fn content(
    path: &[u8],
    map: &[(u64, u64)],
    size: u64,
    stored_at: u64,
    stored_len: u64,
) -> Result<Content, TarError> {
    let bad = |what: String| TarError::Sparse { path: shown(path), what };
    if size > MEMBER_LOGICAL_BYTES {
        return Err(TarError::MemberTooLarge { path: shown(path), bytes: size, limit: MEMBER_LOGICAL_BYTES });
    }
    if map.len() > SPARSE_SEGMENTS {
        return Err(bad(format!("{} segments; the limit is {SPARSE_SEGMENTS}", map.len())));
    }
    let mut segments = Vec::with_capacity(map.len());
    let mut end = 0;
    let mut used = 0;
    for &(offset, len) in map {
        let segment_end =
            offset.checked_add(len).ok_or_else(|| bad(format!("offset {offset} + {len} overflows")))?;
        if offset < end {
            return Err(bad(format!("segment at {offset} overlaps or precedes the one before")));
        }
        if segment_end > size {
            return Err(bad(format!("segment ends at {segment_end}, after the file's {size} bytes")));
        }
        if len > stored_len - used {
            return Err(bad(format!("segments hold more than the {stored_len} bytes stored")));
        }
        if len > 0 {
            segments.push(Segment { offset, len, at: stored_at + used });
        }
        end = segment_end;
        used += len;
    }
    if used != stored_len {
        return Err(bad(format!("segments hold {used} of the {stored_len} bytes stored")));
    }
    Ok(Content::Sparse { size, segments: segments.into_boxed_slice() })
}
