//! POSIX access control lists: archives carry the form of the system call, ext4 stores a shorter one.

/// Converts the system call's form (version 2, eight bytes an entry) to ext4's (version 1, entries
/// that need no identifier in four bytes). `None` when the value is not a list.
pub(super) fn to_ext4(value: &[u8]) -> Option<Vec<u8>> {
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    let (version, entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != 2 || entries.len() % 8 != 0 {
        return None;
    }
    let mut out = 1_u32.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let len = match tag {
            USER | GROUP => 8,
            // Owner, owning group, mask, others.
            0x01 | 0x04 | 0x10 | 0x20 => 4,
            _ => return None,
        };
        out.extend_from_slice(&entry[..len]);
    }
    Some(out)
}
