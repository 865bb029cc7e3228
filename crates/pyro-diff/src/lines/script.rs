//! Which lines go and which come, in bounded time.
//!
//! The library's algorithms are quick on nearly everything, but texts can be made that cost them the product of
//! their lengths. Where that product is too large, lines that occur once on both sides cut the texts into pieces;
//! pieces that are still too large are replaced as a whole, which is a longer patch, but a right one.

use std::collections::HashMap;
use std::ops::Range;

use imara_diff::{Algorithm, Diff, InternedInput, Token};

use super::to_usize;
use crate::limits::MAX_LINE_PAIRS;

/// Lines of the old text that go, and those of the new one that come in their place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) before: Range<usize>,
    pub(super) after: Range<usize>,
}

/// The edits between the texts, in their order.
pub(super) fn edits(input: &InternedInput<&[u8]>) -> Vec<Edit> {
    let (before, after) = (&input.before, &input.after);
    let piece = shrink(before, after, Edit { before: 0..before.len(), after: 0..after.len() });
    let mut budget = MAX_LINE_PAIRS;
    if charge(&mut budget, &piece) {
        let mut diff = Diff::compute(Algorithm::Histogram, input);
        diff.postprocess_lines(input);
        let widen = |range: Range<u32>| to_usize(range.start)..to_usize(range.end);
        return diff
            .hunks()
            .map(|hunk| Edit { before: widen(hunk.before), after: widen(hunk.after) })
            .collect();
    }
    let mut found = Vec::new();
    let (mut old_at, mut new_at) = (piece.before.start, piece.after.start);
    let anchors = anchors(before, after, &piece, to_usize(input.interner.num_tokens()));
    for (old, new) in anchors.into_iter().chain([(piece.before.end, piece.after.end)]) {
        let part = shrink(before, after, Edit { before: old_at..old, after: new_at..new });
        if charge(&mut budget, &part) {
            put_part(before, after, &part, &mut found);
        } else {
            put(part, &mut found);
        }
        (old_at, new_at) = (old + 1, new + 1);
    }
    found
}

/// The piece without what it begins and ends with on both sides.
fn shrink(before: &[Token], after: &[Token], piece: Edit) -> Edit {
    let Edit { before: mut old, after: mut new } = piece;
    while !old.is_empty() && !new.is_empty() && before[old.start] == after[new.start] {
        (old.start, new.start) = (old.start + 1, new.start + 1);
    }
    while !old.is_empty() && !new.is_empty() && before[old.end - 1] == after[new.end - 1] {
        (old.end, new.end) = (old.end - 1, new.end - 1);
    }
    Edit { before: old, after: new }
}

/// Takes what comparing the piece may cost from the budget, if there is as much.
fn charge(budget: &mut u64, piece: &Edit) -> bool {
    let cost = (piece.before.len() as u64).saturating_mul(piece.after.len() as u64);
    match budget.checked_sub(cost) {
        Some(left) => {
            *budget = left;
            true
        }
        None => false,
    }
}

/// Places of lines that occur once on both sides, as many as are in the same order on both.
fn anchors(before: &[Token], after: &[Token], piece: &Edit, tokens: usize) -> Vec<(usize, usize)> {
    const NOWHERE: u32 = u32::MAX;
    const OFTEN: u32 = u32::MAX - 1;
    let once = |lines: &[Token], range: &Range<usize>| {
        let mut places = vec![NOWHERE; tokens];
        for at in range.clone() {
            let place = &mut places[to_usize(lines[at].0)];
            *place = if *place == NOWHERE { u32::try_from(at).unwrap_or(OFTEN) } else { OFTEN };
        }
        places
    };
    let (old, new) = (once(before, &piece.before), once(after, &piece.after));
    let pairs: Vec<(u32, u32)> = piece
        .before
        .clone()
        .map(|at| (old[to_usize(before[at].0)], new[to_usize(before[at].0)]))
        .filter(|(old, new)| *old < OFTEN && *new < OFTEN)
        .collect();
    longest_rising(&pairs).into_iter().map(|at| (to_usize(pairs[at].0), to_usize(pairs[at].1))).collect()
}

/// The longest choice of pairs, whose first numbers rise, such that the second ones rise too.
fn longest_rising(pairs: &[(u32, u32)]) -> Vec<usize> {
    // For each length, the pair that ends such a choice with the least number; and before each pair, the one before.
    let mut ends: Vec<usize> = Vec::new();
    let mut previous: Vec<Option<usize>> = Vec::with_capacity(pairs.len());
    for (at, pair) in pairs.iter().enumerate() {
        let length = ends.partition_point(|end| pairs[*end].1 < pair.1);
        previous.push(length.checked_sub(1).map(|shorter| ends[shorter]));
        if length == ends.len() {
            ends.push(at);
        } else {
            ends[length] = at;
        }
    }
    let mut chosen = Vec::with_capacity(ends.len());
    let mut next = ends.last().copied();
    while let Some(at) = next {
        chosen.push(at);
        next = previous[at];
    }
    chosen.reverse();
    chosen
}

fn put_part(before: &[Token], after: &[Token], part: &Edit, found: &mut Vec<Edit>) {
    if part.before.is_empty() || part.after.is_empty() {
        put(part.clone(), found);
        return;
    }
    // Numbers of their own for the part's lines: the library keeps a table as long as the largest one.
    let mut numbers: HashMap<Token, u32> = HashMap::new();
    let mut renumbered = |lines: &[Token]| -> Vec<Token> {
        lines
            .iter()
            .map(|line| {
                let next = u32::try_from(numbers.len()).expect("lines are counted in 32 bits");
                Token(*numbers.entry(*line).or_insert(next))
            })
            .collect()
    };
    let (old, new) = (renumbered(&before[part.before.clone()]), renumbered(&after[part.after.clone()]));
    let count = u32::try_from(numbers.len()).expect("lines are counted in 32 bits");
    let mut diff = Diff::default();
    diff.compute_with(Algorithm::Histogram, &old, &new, count);
    let shift = |range: Range<u32>, by: usize| by + to_usize(range.start)..by + to_usize(range.end);
    for hunk in diff.hunks() {
        put(
            Edit {
                before: shift(hunk.before, part.before.start),
                after: shift(hunk.after, part.after.start),
            },
            found,
        );
    }
}

fn put(edit: Edit, found: &mut Vec<Edit>) {
    if !edit.before.is_empty() || !edit.after.is_empty() {
        found.push(edit);
    }
}
