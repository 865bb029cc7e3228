use super::*;
use proptest::prelude::*;

fn fed(cols: u16, rows: u16, text: &str) -> Terminal {
    let mut terminal = Terminal::new(cols, rows);
    terminal.feed(text.as_bytes());
    terminal
}

/// What a reader is told who has seen nothing.
fn all(terminal: &Terminal) -> String {
    terminal.changes(0, usize::MAX).text
}

#[test]
fn progress_bars_collapse_and_colours_are_gone() {
    let mut terminal = Terminal::new(40, 5);
    for percent in 0..=100 {
        terminal.feed(format!("\r\x1b[32m{percent}%\x1b[0m [{}]", "#".repeat(percent / 10)).as_bytes());
    }
    terminal.feed(b"\r\ndone\r\n");
    assert_eq!(all(&terminal), "100% [##########]\ndone");
}

#[test]
fn a_reader_is_told_what_has_changed_since() {
    let mut terminal = fed(40, 5, "one\r\ntwo\r\n50%");
    let first = terminal.changes(0, usize::MAX);
    assert_eq!((first.text.as_str(), first.next, first.more), ("one\ntwo\n50%", 13, false));
    terminal.feed(b"\r99%\r\n");
    let second = terminal.changes(first.next, usize::MAX);
    assert_eq!(second.text, "99%");
    assert_eq!(
        terminal.changes(second.next, usize::MAX),
        Changes { next: second.next, ..Changes::default() }
    );
    // Only a line above is changed.
    terminal.feed(b"\x1b[1;1HONE\x1b[4;1H");
    assert_eq!(terminal.changes(second.next, usize::MAX).text, "ONE");
}

#[test]
fn lines_that_scroll_away_are_still_told_and_told_once() {
    let mut terminal = Terminal::new(20, 4);
    let mut told = Vec::new();
    let mut since = 0;
    for number in 0..1000 {
        terminal.feed(format!("line {number}\r\n").as_bytes());
        if number % 7 == 0 {
            let changes = terminal.changes(since, usize::MAX);
            told.extend(changes.text.lines().map(str::to_owned));
            since = changes.next;
        }
    }
    told.extend(terminal.changes(since, usize::MAX).text.lines().map(str::to_owned));
    let wanted: Vec<String> = (0..1000).map(|number| format!("line {number}")).collect();
    assert_eq!(told, wanted);
}

#[test]
fn equal_lines_are_told_each() {
    let terminal = fed(20, 4, &"y\r\n".repeat(100));
    assert_eq!(all(&terminal), vec!["y"; 100].join("\n"));
}

#[test]
fn a_line_that_is_wrapped_is_one_line() {
    let long: String = ('a'..='z').cycle().take(70).collect();
    let mut terminal = fed(20, 3, &format!("{long}\r\nshort\r\n"));
    assert_eq!(all(&terminal), format!("{long}\nshort"));
    let since = terminal.changes(0, usize::MAX).next;
    terminal.feed(format!("{long}!\r\n\r\n\r\n\r\n").as_bytes());
    assert_eq!(terminal.changes(since, usize::MAX).text, format!("{long}!"));
}

#[test]
fn wide_and_combining_characters_stand_where_a_person_sees_them() {
    let terminal = fed(20, 3, "日本語 e\u{301}|\r\n\x1b[2;5Hx");
    assert_eq!(all(&terminal), "日本語 e\u{301}|\n    x");
}

#[test]
fn a_full_screen_program_is_told_with_its_whole_screen() {
    let mut terminal = fed(20, 4, "$ vi\r\n");
    let before = terminal.changes(0, usize::MAX).next;
    terminal.feed(b"\x1b[?1049h\x1b[2J\x1b[1;1Htext\x1b[4;1H-- INSERT --");
    let inside = terminal.changes(before, usize::MAX);
    assert_eq!(inside.text, "text\n\n\n-- INSERT --");
    terminal.feed(b"\x1b[2;1Hmore");
    let inside = terminal.changes(inside.next, usize::MAX);
    assert_eq!(inside.text, "text\nmore\n\n-- INSERT --");
    assert_eq!(terminal.changes(inside.next, usize::MAX).text, "");
    terminal.feed(b"\x1b[?1049l$ ");
    assert_eq!(terminal.changes(inside.next, usize::MAX).text, "$");
}

#[test]
fn more_than_is_asked_for_comes_in_parts_that_make_the_whole() {
    let mut terminal = Terminal::new(30, 5);
    for number in 0..5000 {
        terminal.feed(format!("line number {number}\r\n").as_bytes());
    }
    let (mut since, mut parts, mut more) = (0, Vec::new(), true);
    while more {
        let changes = terminal.changes(since, 4096);
        assert!(changes.text.len() <= 4096 && changes.next > since);
        assert_eq!(changes.lost_bytes, 0);
        (since, more) = (changes.next, changes.more);
        parts.push(changes.text);
    }
    assert!(parts.len() > 10);
    assert_eq!(parts.join("\n"), all(&terminal));
}

#[test]
fn what_is_kept_is_bounded_and_a_loss_is_told() {
    let mut terminal = Terminal::new(80, 5);
    for _ in 0..20 {
        terminal.feed("some line of text\r\n".repeat(1000).as_bytes());
    }
    let kept: usize = terminal.history.iter().map(Line::size).sum();
    assert!(kept <= HISTORY_BYTES && kept == terminal.history_bytes);
    assert!(terminal.changes(0, usize::MAX).lost_bytes > 0);
    assert_eq!(terminal.changes(terminal.fed() - 100, usize::MAX).lost_bytes, 0);
}

#[test]
fn a_drawing_gives_another_terminal_the_same_screen_and_modes() {
    let text = "\x1b[?1049h\x1b[?2004h\x1b[?1006h\x1b[?1000h\x1b[31mred\x1b[0m\r\n日本\x1b[3;4H";
    let one = fed(30, 6, text);
    let mut other = Terminal::new(30, 6);
    other.feed(&one.drawing(64 << 10).bytes);
    let (one, other) = (one.parser.screen(), other.parser.screen());
    assert_eq!(one.contents_formatted(), other.contents_formatted());
    assert_eq!(one.input_mode_formatted(), other.input_mode_formatted());
    assert_eq!(one.cursor_position(), other.cursor_position());
    assert!(other.alternate_screen());
}

#[test]
fn a_drawing_keeps_to_its_bound() {
    let mut terminal = Terminal::new(500, 200);
    for number in 0..30_000u32 {
        terminal.feed(format!("\x1b[38;5;{}mx", number % 256).as_bytes());
    }
    assert!(terminal.drawing(64 << 10).bytes.len() <= 64 << 10);
}

#[test]
fn a_size_change_is_no_change_of_lines() {
    let mut terminal = fed(20, 4, "one\r\ntwo\r\nthree\r\nfour\r\nfive");
    let since = terminal.changes(0, usize::MAX).next;
    for (cols, rows) in [(30, 3), (30, 10), (10, 2), (80, 24)] {
        terminal.resize(cols, rows);
        assert_eq!(terminal.changes(since, usize::MAX).text, "", "{cols}x{rows}");
    }
    terminal.feed(b"!");
    assert_eq!(terminal.changes(since, usize::MAX).text, "five!");
    assert_eq!(all(&terminal), "one\ntwo\nthree\nfour\nfive!");
}

#[test]
fn hostile_repeats_are_clamped_and_honest_ones_are_not() {
    let mut terminal = fed(80, 5, "x\x1b[9b");
    assert_eq!(all(&terminal), "x".repeat(10));
    for text in ["x\x1b[65535b", "x\x1b[0000000000000000065535b", "x\x1b[6\n5535b"] {
        let clamped = Repeats::default().clamp(text.as_bytes());
        assert!(String::from_utf8(clamped).unwrap().ends_with("\x1b[500b"), "{text:?}");
    }
    // Enough for hours without the clamp.
    terminal.feed("x\x1b[65535b".repeat(300).as_bytes());
}

#[test]
fn other_sequences_pass_as_they_are() {
    let mut repeats = Repeats::default();
    let bytes = b"b\x1b[38;2;600;1mb\x1b]0;b\x07\x1b[?1049h\x1bb\x1b[500b";
    assert_eq!(repeats.clamp(bytes), bytes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn how_the_stream_is_cut_makes_no_difference_to_the_screen(
        pieces in prop::collection::vec("\\PC{0,5}|\r\n|\r|\t|\x08|\x1b\\[[0-9]{0,3}[A-Zb-m]|\x1b\\[\\?1049[hl]", 0..60),
        cut in 1usize..9,
    ) {
        let text = pieces.concat();
        let whole = fed(30, 8, &text);
        let mut parts = Terminal::new(30, 8);
        text.as_bytes().chunks(cut).for_each(|piece| parts.feed(piece));
        prop_assert_eq!(whole.screen(), parts.screen());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzz(&bytes);
    }
}
