//! Every bound of this crate, with its reason.

/// Largest patch that is parsed.
pub const MAX_PATCH_BYTES: usize = 16 << 20;
/// Most files that one patch may name.
pub const MAX_PATCH_FILES: usize = 20_000;
/// Longest path in a patch: that of Linux.
pub const MAX_PATH_BYTES: usize = 4096;
/// Most bytes that the binary parts of one patch may inflate to, all together.
pub const MAX_INFLATED_BYTES: usize = 64 << 20;
/// Largest file that a patch may change or leave behind; four bytes are kept for each of its lines.
pub const MAX_PATCHED_BYTES: usize = 32 << 20;
/// How much comparing (in steps of 16 bytes) the search for one file's hunks may cost: some tenths of a second.
pub const MAX_SEARCH_STEPS: u64 = 50_000_000;

/// Larger files are not compared by lines: the comparison holds several words for each line.
pub const MAX_TEXT_BYTES: usize = 4 << 20;
/// Larger contents are told as `Binary files differ` and not given.
pub const MAX_BINARY_BYTES: usize = 16 << 20;

/// Most entries of one tree, on either side of a comparison. Some 200 bytes are kept for each.
pub const MAX_TREE_ENTRIES: usize = 2_000_000;
/// Most bytes of paths and link targets kept for one tree.
pub const MAX_TREE_NAME_BYTES: usize = 512 << 20;
/// Deepest directory that is walked; a loop of directories on a damaged disk ends here.
pub const MAX_DEPTH: usize = 512;
/// Most symbolic links followed for one path: as Linux.
pub const MAX_LINKS: usize = 40;
/// Blocks of an image kept in memory.
pub const MAX_CACHED_BLOCKS: usize = 1024;
/// Largest directory, in bytes: some millions of names.
pub const MAX_DIRECTORY_BYTES: u64 = 256 << 20;
/// Most block groups of an image: 16 TiB of 128 MiB each.
pub const MAX_GROUPS: u64 = 131_072;
/// Most blocks that a journal may hold for its replay.
pub const MAX_JOURNAL_BLOCKS: u32 = 1 << 20;
/// Times that a kernel notes are as coarse as its tick; two changes within this may carry the same time.
pub const RACY_WINDOW_NS: i128 = 20_000_000;
/// Most bytes of directories read in one walk.
pub const MAX_WALK_BYTES: u64 = 2 << 30;
/// Most blocks that a journal may revoke.
pub const MAX_REVOKED_BLOCKS: usize = 1 << 22;
/// Pairs of lines that a comparison of two texts may have to look at: a second at the worst.
pub const MAX_LINE_PAIRS: u64 = 400_000_000;
