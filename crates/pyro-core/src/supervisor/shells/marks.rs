//! Marks that a shell's prompts carry, as terminals' semantic prompts (OSC 133) have them. They are taken out of
//! the output: nobody sees them in a terminal, and who reads the bytes need not either.

/// What a shell tells of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// The prompt is there, a command may be typed.
    PromptEnd,
    /// A command is executed.
    Executed,
}

const PROMPT_END: &[u8] = b"\x1b]133;B\x07";
const EXECUTED: &[u8] = b"\x1b]133;C\x07";

/// Takes the marks out of a stream that comes in pieces. Holds back less than a mark's length.
#[derive(Debug, Default)]
pub(super) struct Marks {
    held: Vec<u8>,
}

impl Marks {
    /// The next bytes without marks, in parts, and the mark that stood after each.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<(Vec<u8>, Option<Mark>)> {
        let mut parts = Vec::new();
        let mut shown = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if self.held.is_empty() && *byte != PROMPT_END[0] {
                shown.push(*byte);
                continue;
            }
            self.held.push(*byte);
            let mark = match self.held.as_slice() {
                PROMPT_END => Mark::PromptEnd,
                EXECUTED => Mark::Executed,
                held if PROMPT_END.starts_with(held) || EXECUTED.starts_with(held) => continue,
                _ => {
                    // None after all; a mark may begin with this byte, and does with no other of them.
                    let last = self.held.pop().filter(|last| *last == PROMPT_END[0]);
                    shown.append(&mut self.held);
                    match last {
                        Some(last) => self.held.push(last),
                        None => shown.push(*byte),
                    }
                    continue;
                }
            };
            self.held.clear();
            parts.push((std::mem::take(&mut shown), Some(mark)));
        }
        parts.push((shown, None));
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &[u8], cut: usize) -> (Vec<u8>, Vec<(usize, Mark)>) {
        let mut marks = Marks::default();
        let (mut shown, mut found) = (Vec::new(), Vec::new());
        for piece in text.chunks(cut) {
            for (part, mark) in marks.take(piece) {
                shown.extend(part);
                found.extend(mark.map(|mark| (shown.len(), mark)));
            }
        }
        (shown, found)
    }

    #[test]
    fn marks_are_found_and_taken_out_however_the_stream_is_cut() {
        let text = b"pyro$ \x1b]133;B\x07ls\r\n\x1b]133;C\x07\x1b\x1b[0m\x1b]133;\x1b]133;B\x07\x1b]133;Dx";
        for cut in 1..text.len() {
            let (shown, found) = taken(text, cut);
            assert_eq!(shown, b"pyro$ ls\r\n\x1b\x1b[0m\x1b]133;\x1b]133;Dx", "cut at {cut}");
            assert_eq!(found, [(6, Mark::PromptEnd), (10, Mark::Executed), (21, Mark::PromptEnd)]);
        }
    }
}
