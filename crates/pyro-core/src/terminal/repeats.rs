//! Clamps the one control sequence whose work its few bytes do not bound: REP, "print that again N times".

/// Characters that one sequence repeats: more than a row's is of no use to any program.
pub(super) const MOST: u32 = 500;

/// Parameter bytes of a sequence that are remembered; longer ones are no REP.
const PARAMETERS: usize = 16;

/// Where in the stream it is.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Ground,
    Escape,
    /// In a control sequence with these parameters so far.
    Control(Vec<u8>),
}

impl Repeats {
    /// The bytes with large counts of REP made small.
    pub(super) fn clamp(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        for byte in bytes {
            let state = std::mem::take(&mut self.state);
            self.state = match (state, *byte) {
                (_, 0x1b) => State::Escape,
                (State::Escape, b'[') => State::Control(Vec::new()),
                (State::Control(mut parameters), 0x20..=0x3f) => {
                    if parameters.len() < PARAMETERS {
                        parameters.push(*byte);
                    }
                    State::Control(parameters)
                }
                // Control characters are carried out in the middle of a sequence.
                (State::Control(parameters), 0..=0x1f) if !matches!(byte, 0x18 | 0x1a) => {
                    State::Control(parameters)
                }
                (State::Control(parameters), b'b') if is_large(&parameters) => {
                    // The emulator has the parameters already: another sequence in its place.
                    out.extend_from_slice(format!("m\x1b[{MOST}").as_bytes());
                    State::Ground
                }
                _ => State::Ground,
            };
            out.push(*byte);
        }
        out
    }
}

/// Whether the first parameter is more than [`MOST`].
fn is_large(parameters: &[u8]) -> bool {
    let digits: Vec<u8> = parameters.iter().copied().take_while(u8::is_ascii_digit).collect();
    let significant = digits.iter().skip_while(|digit| **digit == b'0');
    let value = significant.take(9).fold(0u32, |value, digit| value * 10 + u32::from(digit - b'0'));
    value > MOST || parameters.len() >= PARAMETERS
}
