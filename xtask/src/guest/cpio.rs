//! A writer of `newc` cpio archives, as the kernel unpacks them. The same members give the same bytes.

/// An archive in the making.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    member_count: u32,
}

const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const FILE: u32 = 0o100_000;

impl Archive {
    pub(crate) fn directory(&mut self, path: &str, mode: u32) {
        self.member(path, DIRECTORY | mode, (0, 0), &[]);
    }

    pub(crate) fn character_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.member(path, CHARACTER_DEVICE | mode, (major, minor), &[]);
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.member(path, FILE | mode, (0, 0), contents);
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.member("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn member(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), contents: &[u8]) {
        self.member_count += 1;
        let size = u32::try_from(contents.len()).expect("an initramfs member is far under 4 GiB");
        let name_len = u32::try_from(path.len() + 1).expect("paths are short");
        // inode, mode, uid, gid, links, mtime, size, device (2), node (2), name length, checksum
        let fields = [self.member_count, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_len, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(contents);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
