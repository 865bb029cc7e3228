//! A parsed patch.

/// What a patch does, file by file, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// At least one; each path is changed once, but may be deleted and then added as something else.
    pub files: Vec<FilePatch>,
}

impl Patch {
    /// Every path whose present state planning may ask for: those changed, and where renames and copies come from.
    pub fn paths(&self) -> impl Iterator<Item = &[u8]> {
        self.files.iter().flat_map(|file| {
            let source = match &file.operation {
                Operation::Rename { from } | Operation::Copy { from } => Some(from.as_slice()),
                Operation::Add | Operation::Modify | Operation::Delete => None,
            };
            source.into_iter().chain([file.path.as_slice()])
        })
    }
}

/// What a patch does to one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePatch {
    /// The file that is there afterwards; of a deletion, the one that was.
    pub path: Vec<u8>,
    /// What happens to it.
    pub operation: Operation,
    /// The mode it must have had, as far as the patch tells it, with the type (`0o100644`).
    pub old_mode: Option<u32>,
    /// The mode it gets, as far as the patch tells it.
    pub new_mode: Option<u32>,
    /// Names of the contents before and after, if they are given in full.
    pub(crate) ids: Option<(String, String)>,
    pub(crate) body: Body,
}

impl FilePatch {
    /// How many hunks of text there are.
    #[must_use]
    pub fn hunk_count(&self) -> usize {
        match &self.body {
            Body::Text(hunks) => hunks.len(),
            Body::None | Body::Binary(_) => 0,
        }
    }
}

/// What happens to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is new.
    Add,
    /// Its content or mode changes.
    Modify,
    /// It goes away.
    Delete,
    /// It is what `from` was, which goes away.
    Rename {
        /// Where it was.
        from: Vec<u8>,
    },
    /// It is what `from` is, which stays.
    Copy {
        /// What is copied.
        from: Vec<u8>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// No change of content.
    None,
    Text(Vec<Hunk>),
    Binary(Binary),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    /// The whole new content.
    Literal(Vec<u8>),
    /// How to build it from the old one.
    Delta(Vec<u8>),
}

/// A run of lines, checked: the counts fit, and a line without an end is the last of its side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hunk {
    pub(crate) old_start: usize,
    pub(crate) old_count: usize,
    pub(crate) new_start: usize,
    pub(crate) new_count: usize,
    /// The lines as the patch has them, marks included.
    pub(crate) body: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Context,
    Remove,
    Add,
}

impl Hunk {
    /// Each line with its mark; a line without an end comes without one.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (Mark, &[u8])> {
        let mut lines = self.body.split_inclusive(|byte| *byte == b'\n').peekable();
        std::iter::from_fn(move || {
            let line = lines.next()?;
            let mark = match line.first()? {
                b'-' => Mark::Remove,
                b'+' => Mark::Add,
                _ => Mark::Context,
            };
            let text = &line[1..];
            let bare = lines.next_if(|next| next.first() == Some(&b'\\')).is_some();
            Some((mark, if bare { text.strip_suffix(b"\n").unwrap_or(text) } else { text }))
        })
    }
}
