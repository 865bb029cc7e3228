//! Datagrams that the guest sent in pieces, put together again.
//!
//! Pieces that overlap are no accident: what they were of is dropped whole, for two readers would see two datagrams.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::Dropped;
use crate::limits;

/// A piece of an IP packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fragment<'a> {
    pub(crate) key: FragmentKey,
    /// Where its payload stands in the whole.
    pub(crate) offset: usize,
    pub(crate) is_last: bool,
    pub(crate) payload: &'a [u8],
}

/// What the pieces of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FragmentKey {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// The protocol of the whole.
    pub(crate) protocol: u8,
    pub(crate) identification: u32,
}

/// Packets of which some pieces are there.
#[derive(Default)]
pub(crate) struct Fragments(VecDeque<Partial>);

struct Partial {
    key: FragmentKey,
    since: Duration,
    /// By their places; they do not overlap.
    pieces: BTreeMap<usize, Vec<u8>>,
    bytes: usize,
    whole_bytes: Option<usize>,
}

impl Partial {
    fn new(key: FragmentKey, since: Duration) -> Self {
        Self { key, since, pieces: BTreeMap::new(), bytes: 0, whole_bytes: None }
    }

    /// Adds a piece. An error means that the packet cannot be.
    fn add(&mut self, fragment: &Fragment<'_>) -> Result<(), Dropped> {
        let (start, end) = (fragment.offset, fragment.offset + fragment.payload.len());
        // The cable doubles nothing, but a kernel may.
        if self.pieces.get(&start).is_some_and(|known| known == fragment.payload) {
            return Ok(());
        }
        let before = self.pieces.range(..end).next_back();
        if before.is_some_and(|(at, piece)| at + piece.len() > start)
            || self.pieces.len() == limits::MAX_FRAGMENTS
            || self.whole_bytes.is_some_and(|whole| end > whole || fragment.is_last)
            || fragment.is_last && self.pieces.range(end..).next().is_some()
        {
            return Err(Dropped::Fragment);
        }
        if fragment.is_last {
            self.whole_bytes = Some(end);
        }
        self.bytes += fragment.payload.len();
        self.pieces.insert(start, fragment.payload.to_vec());
        Ok(())
    }
}

impl Fragments {
    /// Takes a piece at `now`; gives the payload of the packet that it completes.
    pub(crate) fn take(
        &mut self,
        fragment: &Fragment<'_>,
        now: Duration,
    ) -> Result<Option<Vec<u8>>, Dropped> {
        let length = fragment.payload.len();
        if length == 0
            || !fragment.is_last && !length.is_multiple_of(8)
            || fragment.offset + length > limits::MAX_FRAGMENTED_BYTES
        {
            return Err(Dropped::Fragment);
        }
        self.0.retain(|partial| partial.since + limits::FRAGMENT_LIFE > now);
        let mut partial = match self.0.iter().position(|partial| partial.key == fragment.key) {
            Some(at) => self.0.remove(at).ok_or(Dropped::Fragment)?,
            None => Partial::new(fragment.key, now),
        };
        partial.add(fragment)?;
        if partial.whole_bytes == Some(partial.bytes) {
            return Ok(Some(partial.pieces.into_values().flatten().collect()));
        }
        if self.0.len() == limits::MAX_FRAGMENTED {
            self.0.pop_front();
        }
        self.0.push_back(partial);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::GUEST_V4;
    use proptest::prelude::*;

    fn key(identification: u32) -> FragmentKey {
        FragmentKey {
            source: GUEST_V4.into(),
            destination: [1, 2, 3, 4].into(),
            protocol: super::super::UDP,
            identification,
        }
    }

    fn piece(number: u32, offset: usize, is_last: bool, payload: &[u8]) -> Fragment<'_> {
        Fragment { key: key(number), offset, is_last, payload }
    }

    const NOW: Duration = Duration::from_secs(5);

    #[test]
    fn pieces_of_several_packets_come_in_any_order_and_twice() {
        let mut fragments = Fragments::default();
        assert_eq!(fragments.take(&piece(1, 8, true, b"end"), NOW), Ok(None));
        assert_eq!(fragments.take(&piece(2, 0, false, b"otherone"), NOW), Ok(None));
        assert_eq!(fragments.take(&piece(1, 8, true, b"end"), NOW), Ok(None));
        assert_eq!(fragments.take(&piece(1, 0, false, b"datagram"), NOW), Ok(Some(b"datagramend".to_vec())));
        assert_eq!(fragments.take(&piece(2, 8, true, b"2"), NOW), Ok(Some(b"otherone2".to_vec())));
        assert!(fragments.0.is_empty());
        // A piece that is all is a packet at once.
        assert_eq!(fragments.take(&piece(3, 0, true, b"x"), NOW), Ok(Some(b"x".to_vec())));
    }

    #[test]
    fn pieces_that_overlap_or_do_not_fit_end_the_packet() {
        for wrong in [
            piece(1, 8, false, b"12345678"),
            piece(1, 0, false, b"1234567812345678"),
            piece(1, 16, true, b"1"),
            piece(1, 24, true, b"1"),
            piece(1, 32, false, b"12345678"),
        ] {
            let mut fragments = Fragments::default();
            assert_eq!(fragments.take(&piece(1, 8, false, b"abcdefgh"), NOW), Ok(None));
            assert_eq!(fragments.take(&piece(1, 16, true, b"abcdefgh"), NOW), Ok(None));
            assert_eq!(fragments.take(&wrong, NOW), Err(Dropped::Fragment), "{wrong:?}");
            assert!(fragments.0.is_empty());
        }
        // An end before what is there already.
        let mut fragments = Fragments::default();
        assert_eq!(fragments.take(&piece(1, 16, false, b"abcdefgh"), NOW), Ok(None));
        assert_eq!(fragments.take(&piece(1, 8, true, b"a"), NOW), Err(Dropped::Fragment));
    }

    #[test]
    fn pieces_of_wrong_sizes_are_not_kept() {
        let mut fragments = Fragments::default();
        for wrong in [
            piece(1, 0, false, b"1234567"),
            piece(1, 0, true, b""),
            piece(1, 65528, true, b"1"),
            piece(1, limits::MAX_FRAGMENTED_BYTES - 3, true, b"1234"),
        ] {
            assert_eq!(fragments.take(&wrong, NOW), Err(Dropped::Fragment), "{wrong:?}");
        }
        assert!(fragments.0.is_empty());
    }

    #[test]
    fn packets_pieces_and_time_are_bounded() {
        let mut fragments = Fragments::default();
        for number in 0..1000 {
            assert_eq!(fragments.take(&piece(number, 0, false, &[7; 1480]), NOW), Ok(None));
        }
        assert_eq!(fragments.0.len(), limits::MAX_FRAGMENTED);
        assert_eq!(fragments.take(&piece(1001, 8, true, b"1"), NOW + limits::FRAGMENT_LIFE), Ok(None));
        assert_eq!(fragments.0.len(), 1, "the others are too old");
        let mut refused = None;
        for at in 0..=limits::MAX_FRAGMENTS {
            refused = fragments.take(&piece(5, 8 * at, false, b"12345678"), NOW).err();
        }
        assert_eq!(refused, Some(Dropped::Fragment));
    }

    proptest! {
        #[test]
        fn what_comes_out_is_what_was_cut(
            payload in proptest::collection::vec(any::<u8>(), 1..2000),
            cut in 4usize..40,
            order in any::<u64>(),
        ) {
            let mut pieces: Vec<(usize, &[u8])> =
                payload.chunks(cut * 8).enumerate().map(|(at, piece)| (at * cut * 8, piece)).collect();
            let last = payload.len();
            pieces.sort_by_key(|(at, _)| (*at as u64 + 1).wrapping_mul(order | 1));
            let mut fragments = Fragments::default();
            let mut whole = None;
            for (at, piece_bytes) in &pieces {
                prop_assert!(whole.is_none());
                whole = fragments.take(&piece(1, *at, at + piece_bytes.len() == last, piece_bytes), NOW).unwrap();
            }
            prop_assert_eq!(whole, Some(payload.clone()));
        }
    }
}
