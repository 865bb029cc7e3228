use std::time::{Duration, Instant};

use super::*;

fn hunks(old: &str, new: &str) -> String {
    let mut out = Vec::new();
    put_hunks(old.as_bytes(), new.as_bytes(), &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn changes_near_each_other_share_a_hunk_and_far_ones_do_not() {
    let old: String = (1..=20).map(|number| format!("{number}\n")).collect();
    let near = old.replace("\n3\n", "\nthree\n").replace("\n10\n", "\nten\n");
    assert_eq!(hunks(&old, &near).matches("@@ -").count(), 1);
    let far = old.replace("\n3\n", "\nthree\n").replace("\n11\n", "\neleven\n");
    assert_eq!(hunks(&old, &far).matches("@@ -").count(), 2);
}

#[test]
fn headers_count_as_diff_does() {
    assert_eq!(hunks("", "a\n"), "@@ -0,0 +1 @@\n+a\n");
    assert_eq!(hunks("a\nb\n", ""), "@@ -1,2 +0,0 @@\n-a\n-b\n");
    assert_eq!(hunks("a\n", "b"), "@@ -1 +1 @@\n-a\n+b\n\\ No newline at end of file\n");
    assert_eq!(hunks("same", "same"), "");
}

#[test]
fn lines_are_counted_with_and_without_an_end() {
    for (text, expected) in [("", 0), ("a", 1), ("a\n", 1), ("a\nb", 2), ("\n\n", 2)] {
        assert_eq!(count(text.as_bytes()), expected, "{text:?}");
        assert_eq!(lines(text.as_bytes()).count(), expected, "{text:?}");
    }
}

#[test]
fn texts_that_are_cut_into_pieces_still_lead_from_one_to_the_other() {
    let mix =
        |number: usize, salt: usize| number.wrapping_add(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50;
    let make = |salt: usize, kinds: usize| -> Vec<u8> {
        (0..60_000)
            .flat_map(|number| {
                let line = mix(number, salt) % kinds;
                if line == 0 { format!("unique {number}\n") } else { format!("{line}\n") }.into_bytes()
            })
            .collect()
    };
    for kinds in [2, 3, 500] {
        let (old, new) = (make(1, kinds), make(77, kinds));
        let mut patch = b"--- a/x\n+++ b/x\n".to_vec();
        assert!(put_hunks(&old, &new, &mut patch));
        let parsed = crate::parse(&patch).unwrap();
        assert!(crate::apply(&parsed.files[0], Some(&old)).unwrap() == new);
    }
}

/// Texts made to be slow: few kinds of lines in great numbers, reversed order, interleaved lines.
#[test]
fn texts_made_to_be_slow_are_compared_in_bounded_time() {
    let lines = 400_000;
    let make = |line: &dyn Fn(usize) -> usize| -> Vec<u8> {
        (0..lines).flat_map(|number| format!("{}\n", line(number)).into_bytes()).collect()
    };
    let mix = |number: usize, salt: usize| {
        number.wrapping_add(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(salt | 1)
            >> 40
    };
    let pairs = [
        (make(&|number| mix(number, 1) % 2), make(&|number| mix(number, 77) % 2)),
        (make(&|number| mix(number, 1) % 100), make(&|number| mix(number, 77) % 100)),
        (make(&|number| number), make(&|number| lines - number)),
        (make(&|number| mix(number, 1) % 5000), make(&|number| mix(number, 77) % 5000)),
        (make(&|number| number % 64), make(&|number| (number * 7) % 64)),
        (make(&|number| number), make(&|number| if number % 2 == 0 { number / 2 } else { lines + number })),
        (
            make(&|number| number / 2),
            make(&|number| if number % 2 == 0 { number / 4 } else { lines + number }),
        ),
    ];
    for (index, (old, new)) in pairs.iter().enumerate() {
        let start = Instant::now();
        put_hunks(old, new, &mut Vec::new());
        println!("{index}: {:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(60), "{index}");
    }
    for (index, (old, new)) in pairs.iter().enumerate() {
        // As long as is compared without cutting.
        let cut = |text: &[u8]| super::lines(text).take(20_000).collect::<Vec<_>>().concat();
        let (old, new) = (cut(old), cut(new));
        let start = Instant::now();
        put_hunks(&old, &new, &mut Vec::new());
        println!("{index} short: {:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(60), "{index} short");
    }
}
