//! Where each block of a delta is read from.
//!
//! Two bits a block, lowest first, in pages as they lie in the file: 0 falls through, 1 present, 2 zero. A page of
//! which nothing but zeroes is known takes no room, so a table costs what was written and not what the disk could hold.

use std::iter;
use std::ops::Range;

use super::format::{FormatError, TABLE_OFFSET, blocks};
use crate::device::iov::Source;

/// The unit in which the table is read and written; 64 MiB of the disk.
pub(super) const PAGE_BYTES: usize = 4096;
const BLOCKS_PER_BYTE: u64 = 4;
/// Blocks are looked at by words.
const WORD_BYTES: usize = 8;
const BLOCKS_PER_WORD: u64 = WORD_BYTES as u64 * BLOCKS_PER_BYTE;
const BLOCKS_PER_PAGE: u64 = PAGE_BYTES as u64 * BLOCKS_PER_BYTE;
/// The lower bit of each block of a word.
const LOWER_BITS: u64 = 0x5555_5555_5555_5555;

/// Where a block is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    FallsThrough,
    Present,
    Zero,
}

impl State {
    /// A word whose blocks all have this state.
    fn pattern(self) -> u64 {
        match self {
            State::FallsThrough => 0,
            State::Present => LOWER_BITS,
            State::Zero => LOWER_BITS << 1,
        }
    }
}

struct Page {
    bytes: [u8; PAGE_BYTES],
    /// The file does not have it so yet.
    is_changed: bool,
}

impl Page {
    fn empty() -> Box<Self> {
        Box::new(Page { bytes: [0; PAGE_BYTES], is_changed: false })
    }

    /// The word with this block.
    fn word(&self, block: u64) -> u64 {
        u64::from_le_bytes(self.bytes.as_chunks().0[word_index(block)])
    }

    fn set_word(&mut self, block: u64, word: u64) {
        self.bytes.as_chunks_mut().0[word_index(block)] = word.to_le_bytes();
        self.is_changed = true;
    }
}

fn word_index(block: u64) -> usize {
    (block % BLOCKS_PER_PAGE / BLOCKS_PER_WORD) as usize
}

/// The blocks of one word that lie in a range which begins in it: both bits of each, and where they end.
fn lanes(range: &Range<u64>) -> (u64, u64) {
    let end = ((range.start / BLOCKS_PER_WORD + 1) * BLOCKS_PER_WORD).min(range.end);
    let bits = 2 * (end - range.start);
    (u64::MAX >> (u64::BITS as u64 - bits) << (2 * (range.start % BLOCKS_PER_WORD)), end)
}

/// Blocks of a word that are present.
fn count_present(word: u64) -> u64 {
    (word & LOWER_BITS).count_ones().into()
}

/// The state of every block, and what of it the file does not have yet.
pub(super) struct Table {
    pages: Vec<Option<Box<Page>>>,
    /// Numbers of the changed pages.
    changed: Vec<usize>,
    blocks: u64,
    present: u64,
}

impl Table {
    /// All blocks fall through.
    pub(super) fn new(size_bytes: u64) -> Self {
        let blocks = blocks(size_bytes);
        let pages = iter::repeat_with(|| None).take(blocks.div_ceil(BLOCKS_PER_PAGE) as usize).collect();
        Table { pages, changed: Vec::new(), blocks, present: 0 }
    }

    /// Takes a page as the file has it; the last one may be short. Each page comes once, before any change.
    pub(super) fn parse_page(&mut self, number: u64, bytes: &[u8]) -> Result<(), FormatError> {
        let mut page = Page::empty();
        page.bytes[..bytes.len()].copy_from_slice(bytes);
        let (mut block, mut is_empty) = (number * BLOCKS_PER_PAGE, true);
        for word in page.bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)) {
            let inside = self.blocks.saturating_sub(block).min(BLOCKS_PER_WORD) as u32;
            let exist = u64::MAX.checked_shr(u64::BITS - 2 * inside).unwrap_or(0);
            let wrong = word & word >> 1 & LOWER_BITS | word & !exist;
            if wrong != 0 {
                return Err(FormatError::State(block + u64::from(wrong.trailing_zeros() / 2)));
            }
            self.present += count_present(word);
            is_empty &= word == 0;
            block += BLOCKS_PER_WORD;
        }
        if !is_empty {
            self.pages[number as usize] = Some(page);
        }
        Ok(())
    }

    fn page(&self, block: u64) -> Option<&Page> {
        self.pages.get((block / BLOCKS_PER_PAGE) as usize)?.as_deref()
    }

    /// The block's state; beyond the disk everything falls through.
    pub(super) fn get(&self, block: u64) -> State {
        let word = self.page(block).map_or(0, |page| page.word(block));
        match word >> (2 * (block % BLOCKS_PER_WORD)) & 3 {
            1 => State::Present,
            2 => State::Zero,
            _ => State::FallsThrough,
        }
    }

    /// The state of the range's first block, and where in the range another one begins.
    pub(super) fn run(&self, range: Range<u64>) -> (State, u64) {
        let (state, mut at) = (self.get(range.start), range.start);
        while at < range.end {
            let Some(page) = self.page(at) else {
                if state != State::FallsThrough {
                    break;
                }
                at = (at / BLOCKS_PER_PAGE + 1) * BLOCKS_PER_PAGE;
                continue;
            };
            let (mask, end) = lanes(&(at..range.end));
            let others = (page.word(at) ^ state.pattern()) & mask;
            if others != 0 {
                at = at / BLOCKS_PER_WORD * BLOCKS_PER_WORD + u64::from(others.trailing_zeros() / 2);
                break;
            }
            at = end;
        }
        (state, at.min(range.end))
    }

    /// How many blocks of a range are present.
    pub(super) fn present_in(&self, mut range: Range<u64>) -> u64 {
        let mut present = 0;
        while range.start < range.end {
            let (mask, end) = lanes(&range);
            present += self.page(range.start).map_or(0, |page| count_present(page.word(range.start) & mask));
            range.start = end;
        }
        present
    }

    /// How many blocks are present.
    pub(super) fn present(&self) -> u64 {
        self.present
    }

    /// The range lies within the disk: the callers have checked.
    pub(super) fn set(&mut self, mut range: Range<u64>, state: State) {
        while range.start < range.end {
            let (mask, end) = lanes(&range);
            let number = (range.start / BLOCKS_PER_PAGE) as usize;
            let page = self.pages[number].get_or_insert_with(Page::empty);
            let old = page.word(range.start);
            let new = old & !mask | state.pattern() & mask;
            if new != old {
                self.present = self.present + count_present(new) - count_present(old);
                if !page.is_changed {
                    self.changed.push(number);
                }
                page.set_word(range.start, new);
            }
            range.start = end;
        }
    }

    pub(super) fn is_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Runs of changed pages: where they lie in the file, and their bytes.
    pub(super) fn changed_runs(&mut self) -> impl Iterator<Item = (u64, Source<'_>)> {
        self.changed.sort_unstable();
        let table_bytes = self.blocks.div_ceil(BLOCKS_PER_BYTE) as usize;
        let (pages, changed) = (&self.pages, &self.changed);
        changed.chunk_by(|one, next| one + 1 == *next).map(move |numbers| {
            let mut source = Source::empty();
            for number in numbers {
                let page = pages[*number].as_ref().expect("a changed page is there");
                source.push_slice(&page.bytes[..PAGE_BYTES.min(table_bytes - number * PAGE_BYTES)]);
            }
            (TABLE_OFFSET + (numbers[0] * PAGE_BYTES) as u64, source)
        })
    }

    /// The file has everything.
    pub(super) fn mark_unchanged(&mut self) {
        for number in self.changed.drain(..) {
            if let Some(page) = &mut self.pages[number] {
                page.is_changed = false;
            }
        }
    }
}

/// What a disk's table takes in the file.
pub(super) fn table_bytes(size_bytes: u64) -> u64 {
    blocks(size_bytes).div_ceil(BLOCKS_PER_BYTE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Two pages and a half, the last word and byte in part.
    const SIZE_BLOCKS: u64 = 5 * BLOCKS_PER_PAGE / 2 + 3 * BLOCKS_PER_WORD + 7;
    const SIZE_BYTES: u64 = SIZE_BLOCKS * super::super::format::BLOCK_BYTES;

    fn range() -> impl Strategy<Value = Range<u64>> {
        let near = |unit: u64| {
            (0..=SIZE_BLOCKS / unit, 0..5u64).prop_map(move |(n, off)| (n * unit + off).max(2) - 2)
        };
        let place = || prop_oneof![0..SIZE_BLOCKS, near(BLOCKS_PER_WORD), near(BLOCKS_PER_PAGE)];
        let place = move || place().prop_map(|place| place.min(SIZE_BLOCKS));
        (place(), prop_oneof![place(), 0..80u64])
            .prop_map(|(start, len)| start..(start + len).min(SIZE_BLOCKS))
    }

    fn state() -> impl Strategy<Value = State> {
        prop_oneof![Just(State::FallsThrough), Just(State::Present), Just(State::Zero)]
    }

    /// The table as a file has it.
    fn emit(table: &mut Table, file: &mut [u8]) {
        for (at, pages) in table.changed_runs() {
            let len = pages.copy_to(&mut file[(at - TABLE_OFFSET) as usize..]);
            assert_eq!(len, pages.len());
        }
        table.mark_unchanged();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_table_behaves_like_a_vector_of_states(sets in prop::collection::vec((range(), state(), any::<bool>()), 1..20)) {
            let mut table = Table::new(SIZE_BYTES);
            let mut model = vec![State::FallsThrough; SIZE_BLOCKS as usize];
            let mut file = vec![0; table_bytes(SIZE_BYTES) as usize];
            for (range, state, flushed) in sets {
                table.set(range.clone(), state);
                model[range.start as usize..range.end as usize].fill(state);
                if flushed {
                    emit(&mut table, &mut file);
                }
            }
            emit(&mut table, &mut file);
            prop_assert!(!table.is_changed());
            let mut read = Table::new(SIZE_BYTES);
            for (number, page) in (0..).zip(file.chunks(PAGE_BYTES)) {
                read.parse_page(number, page).unwrap();
            }
            for table in [table, read] {
                let present = |states: &[State]| states.iter().filter(|state| **state == State::Present).count() as u64;
                prop_assert_eq!(table.present(), present(&model));
                let mut at = 0;
                while at < SIZE_BLOCKS {
                    let (state, end) = table.run(at..SIZE_BLOCKS);
                    let same = model[at as usize..].iter().take_while(|one| **one == model[at as usize]).count();
                    prop_assert_eq!((state, end), (model[at as usize], at + same as u64));
                    let part = at..(at + 100).min(SIZE_BLOCKS);
                    let places = part.start as usize..part.end as usize;
                    prop_assert_eq!(table.present_in(part), present(&model[places]));
                    at = end;
                }
            }
        }
    }

    #[test]
    fn what_is_no_state_or_no_block_is_refused() {
        let last = table_bytes(SIZE_BYTES) as usize % PAGE_BYTES;
        for (number, at, byte, block) in [
            (0, 0, 3, 0),
            (1, PAGE_BYTES - 1, 0xc0, 2 * BLOCKS_PER_PAGE - 1),
            (2, last - 1, 0x40, SIZE_BLOCKS),
            (2, last - 1, 0x80, SIZE_BLOCKS),
        ] {
            let mut page = vec![0; if number == 2 { last } else { PAGE_BYTES }];
            page[at] = byte;
            let refused = Table::new(SIZE_BYTES).parse_page(number, &page);
            assert_eq!(refused, Err(FormatError::State(block)));
        }
    }

    #[test]
    fn beyond_the_disk_everything_falls_through() {
        let mut table = Table::new(SIZE_BYTES);
        table.set(0..SIZE_BLOCKS, State::Present);
        let far = SIZE_BLOCKS + 3 * BLOCKS_PER_PAGE;
        assert_eq!(table.run(0..far), (State::Present, SIZE_BLOCKS));
        assert_eq!(table.run(SIZE_BLOCKS..far), (State::FallsThrough, far));
        assert_eq!(table.run(far..far + 1), (State::FallsThrough, far + 1));
    }
}
