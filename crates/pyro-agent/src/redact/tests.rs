use super::*;
use proptest::prelude::*;

/// By definition: mark every byte of every occurrence, then write one mark for each overlapping group.
fn naive(values: &[Vec<u8>], text: &[u8]) -> Vec<u8> {
    let mut occurrences: Vec<(usize, usize)> = Vec::new();
    for value in values.iter().filter(|value| !value.is_empty()) {
        for at in 0..text.len() {
            if text[at..].starts_with(value) {
                occurrences.push((at, at + value.len()));
            }
        }
    }
    occurrences.sort_unstable();
    let mut groups: Vec<(usize, usize)> = Vec::new();
    for (start, end) in occurrences {
        match groups.last_mut() {
            Some(last) if start < last.1 => last.1 = last.1.max(end),
            _ => groups.push((start, end)),
        }
    }
    let (mut out, mut at) = (Vec::new(), 0);
    for (start, end) in groups {
        out.extend_from_slice(&text[at..start]);
        out.extend_from_slice(REDACTED);
        at = end;
    }
    out.extend_from_slice(&text[at..]);
    out
}

fn redact_in_pieces(values: &[Vec<u8>], text: &[u8], cut: usize) -> Vec<u8> {
    let needles = Arc::new(Needles::new(values.to_vec()));
    let longest = values.iter().map(Vec::len).max().unwrap_or(0);
    let mut redactor = Redactor::new(Arc::clone(&needles));
    let mut out = Vec::new();
    for piece in text.chunks(cut) {
        redactor.push(piece, &mut out);
        assert!(redactor.held.len() <= longest.saturating_sub(1), "{} bytes held", redactor.held.len());
    }
    redactor.finish(&mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn pieces_of_any_size_give_what_the_whole_gives(
        values in prop::collection::vec("[ab]{0,6}", 0..4),
        text in "[abc]{0,60}",
        cut in 1usize..9,
    ) {
        let values: Vec<Vec<u8>> = values.into_iter().map(String::into_bytes).collect();
        prop_assert_eq!(redact_in_pieces(&values, text.as_bytes(), cut), naive(&values, text.as_bytes()));
    }

    #[test]
    fn values_that_do_not_overlap_are_replaced_as_by_a_text_replacement(
        parts in prop::collection::vec(("[xyz \n]{0,8}", 0usize..3), 0..20),
        cut in 1usize..40,
    ) {
        let values = ["hunter2", "pass word\n", "s3cr3t-s3cr3t!"];
        let text: String =
            parts.iter().map(|(plain, which)| format!("{plain}{}", values[*which])).collect();
        let wanted = values.iter().fold(text.clone(), |text, value| text.replace(value, "[REDACTED]"));
        let values = values.map(|value| value.as_bytes().to_vec());
        let found = redact_in_pieces(&values, text.as_bytes(), cut);
        prop_assert_eq!(String::from_utf8(found).unwrap(), wanted);
    }
}

#[test]
fn the_end_of_a_stream_lets_go_of_a_secrets_beginning() {
    let needles = Arc::new(Needles::new([b"secret".to_vec()]));
    let mut redactor = Redactor::new(Arc::clone(&needles));
    let mut out = Vec::new();
    redactor.push(b"a secre", &mut out);
    assert_eq!(out, b"a ");
    redactor.finish(&mut out);
    assert_eq!(out, b"a secre");
    redactor.push(b"t secret", &mut out);
    redactor.finish(&mut out);
    assert_eq!(out, b"a secret [REDACTED]");
}

#[test]
fn long_runs_of_a_repetitive_secret_take_linear_time() {
    let needles = Arc::new(Needles::new([vec![b'a'; 64 << 10]]));
    let text = vec![b'a'; 2 << 20];
    assert_eq!(redact(&needles, &text), REDACTED);
}

#[test]
fn needles_do_not_tell_their_values() {
    let needles = Arc::new(Needles::new([b"hunter2".to_vec()]));
    assert_eq!(format!("{needles:?}"), "Needles(1)");
    assert!(!format!("{:?}", Redactor::new(Arc::clone(&needles))).contains("hunter"));
}

/// Every byte comes by itself, with the stream idle after it.
fn typed(values: &[&[u8]], text: &[u8]) -> Vec<Vec<u8>> {
    let needles = Arc::new(Needles::new(values.iter().map(|value| value.to_vec())));
    let mut redactor = Redactor::new(needles);
    let mut shown = Vec::new();
    for byte in text {
        let mut out = Vec::new();
        redactor.push(&[*byte], &mut out);
        redactor.let_go(&mut out);
        shown.push(out);
    }
    let mut out = Vec::new();
    redactor.finish(&mut out);
    shown.push(out);
    shown
}

#[test]
fn an_idle_stream_lets_go_of_a_short_beginning_and_hides_the_rest() {
    let shown = typed(&[b"secret"], b"a secret!");
    let shown: Vec<&[u8]> = shown.iter().map(Vec::as_slice).collect();
    assert_eq!(shown, [&b"a"[..], b" ", b"s", b"e", b"c", b"", b"", b"[REDACTED]", b"!", b""]);
    assert_eq!(typed(&[b"secret"], b"seen").concat(), b"seen");
    // What was none after all comes as soon as that is known.
    let shown = typed(&[b"secret"], b"secreX");
    assert_eq!(shown[3..], [&b""[..], b"", b"reX", b""].map(<[u8]>::to_vec));
}

#[test]
fn letting_go_again_and_again_never_shows_more_of_a_secret() {
    let secret = b"abcabcabd";
    let shown = typed(&[secret], b"abcabcabcabd-abcabcabd").concat();
    assert!(!shown.windows(4).any(|part| part == &secret[secret.len() - 4..]), "{shown:?}");
    assert!(shown.windows(10).any(|part| part == REDACTED), "{shown:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_end_of_a_secret_is_never_shown_however_the_stream_idles(
        before in "[ab]{0,10}",
        value in "[ab]{5,8}",
        idle in prop::collection::vec(any::<bool>(), 18),
    ) {
        let mut redactor = Redactor::new(Arc::new(Needles::new([value.clone().into_bytes()])));
        let mut out = Vec::new();
        let mut at_the_secret = 0;
        for (index, byte) in format!("{before}{value}").bytes().enumerate() {
            if index == before.len() {
                at_the_secret = out.len();
            }
            redactor.push(&[byte], &mut out);
            if idle[index] {
                redactor.let_go(&mut out);
            }
        }
        redactor.finish(&mut out);
        prop_assert!(out.ends_with(REDACTED), "{:?}", String::from_utf8_lossy(&out));
        let plain = out[at_the_secret..].iter().filter(|byte| byte.is_ascii_lowercase()).count();
        prop_assert!(plain <= before.len() + SHOWN_BYTES);
    }
}
