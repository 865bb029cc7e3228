//! Scatter-gather lists over memory that somebody else may change at any time.
//!
//! Such memory is never borrowed as a Rust slice: it is copied byte by byte or handed to the kernel. A
//! [`Source`] is read from, a [`Target`] is written to; both may lie in guest memory or in ours.

use std::borrow::Cow;
use std::marker::PhantomData;

mod sys;
#[cfg(test)]
mod tests;

pub use sys::{FileIo, SocketIo};

/// Memory to read from, in pieces.
#[derive(Clone)]
pub struct Source<'a> {
    pieces: Pieces<'a>,
    lives: PhantomData<&'a [u8]>,
}

/// Memory to write to, in pieces.
pub struct Target<'a> {
    pieces: Pieces<'a>,
    lives: PhantomData<&'a mut [u8]>,
}

/// Where the memory is. A part that has whole pieces borrows them, so that most requests are made once.
#[derive(Clone, Default)]
struct Pieces<'a> {
    vecs: Cow<'a, [libc::iovec]>,
    len: usize,
}

impl Pieces<'_> {
    fn push(&mut self, piece: libc::iovec) {
        if piece.iov_len > 0 {
            self.len += piece.iov_len;
            self.vecs.to_mut().push(piece);
        }
    }

    /// The part from `skip` on, at most `len` bytes long.
    fn part(&self, mut skip: usize, len: usize) -> Pieces<'_> {
        if skip == 0 && len >= self.len {
            return Pieces { vecs: Cow::Borrowed(&self.vecs), len: self.len };
        }
        let mut rest = &*self.vecs;
        while let [piece, others @ ..] = rest
            && piece.iov_len <= skip
        {
            skip -= piece.iov_len;
            rest = others;
        }
        let (mut part, mut count) = (Pieces::default(), 0);
        if skip == 0 {
            while let Some(piece) = rest.get(count)
                && piece.iov_len <= len - part.len
            {
                part.len += piece.iov_len;
                count += 1;
            }
        }
        part.vecs = Cow::Borrowed(&rest[..count]);
        for piece in &rest[count..] {
            let wanted = len - part.len;
            if wanted == 0 {
                break;
            }
            let base = piece.iov_base.cast::<u8>().wrapping_add(skip).cast();
            part.push(libc::iovec { iov_base: base, iov_len: (piece.iov_len - skip).min(wanted) });
            skip = 0;
        }
        part
    }
}

impl<'a> Source<'a> {
    /// No memory at all.
    pub fn empty() -> Self {
        Source { pieces: Pieces::default(), lives: PhantomData }
    }

    /// The bytes of a slice.
    pub fn from_slice(bytes: &'a [u8]) -> Self {
        let mut source = Self::empty();
        source.push_slice(bytes);
        source
    }

    /// Appends the bytes of a slice.
    pub fn push_slice(&mut self, bytes: &'a [u8]) {
        self.pieces.push(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() });
    }

    /// Bytes in all pieces.
    pub fn len(&self) -> usize {
        self.pieces.len
    }

    /// True when there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.pieces.len == 0
    }

    /// The part from `skip` on, at most `len` bytes long.
    pub fn part(&self, skip: usize, len: usize) -> Source<'_> {
        Source { pieces: self.pieces.part(skip, len), lives: PhantomData }
    }
}

impl<'a> Target<'a> {
    /// No memory at all.
    pub fn empty() -> Self {
        Target { pieces: Pieces::default(), lives: PhantomData }
    }

    /// The bytes of a slice.
    pub fn from_slice(bytes: &'a mut [u8]) -> Self {
        let mut target = Self::empty();
        target.pieces.push(libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() });
        target
    }

    /// Bytes in all pieces.
    pub fn len(&self) -> usize {
        self.pieces.len
    }

    /// True when there is nothing to write to.
    pub fn is_empty(&self) -> bool {
        self.pieces.len == 0
    }

    /// The part from `skip` on, at most `len` bytes long. It borrows this target, so that no two parts are
    /// in use at a time.
    pub fn part(&mut self, skip: usize, len: usize) -> Target<'_> {
        Target { pieces: self.pieces.part(skip, len), lives: PhantomData }
    }
}
