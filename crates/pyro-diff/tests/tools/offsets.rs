//! Where hunks go when the file is not the one that the patch was made from.

use std::fs;

use proptest::prelude::*;
use pyro_diff::{EmitLimits, apply, emit, parse};

use crate::git::run;
use crate::has;
use crate::tree::{file, text};

fn lines() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(&["a", "b", "c", "d", "e", "f", "g", "h"][..]), 0..25)
        .prop_map(|lines| lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect())
}

fn edited(base: &[u8], edits: &[(prop::sample::Index, u8, &str)]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = base.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    for (place, action, word) in edits {
        let at = place.index(lines.len() + 1);
        match action {
            0 if at < lines.len() => drop(lines.remove(at)),
            1 if at < lines.len() => lines[at] = format!("{word}\n").into_bytes(),
            _ => lines.insert(at, format!("{word}\n").into_bytes()),
        }
    }
    lines.concat()
}

fn edits(most: usize) -> impl Strategy<Value = Vec<(prop::sample::Index, u8, &'static str)>> {
    let word = prop::sample::select(&["new", "a", "b", "other"][..]);
    prop::collection::vec((any::<prop::sample::Index>(), 0..3_u8, word), 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn a_patch_gives_the_new_content_of_any_two_texts(old in text(), new in text()) {
        let mut patch = Vec::new();
        emit(b"x", Some(&file(&old)), Some(&file(&new)), &EmitLimits::default(), &mut patch);
        if old != new {
            let parsed = parse(&patch).unwrap();
            prop_assert_eq!(apply(&parsed.files[0], Some(&old)).unwrap(), new);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_patch_goes_where_git_puts_it(base in lines(), ours in edits(4), theirs in edits(4)) {
        let (new, target) = (edited(&base, &ours), edited(&base, &theirs));
        let mut patch = Vec::new();
        emit(b"x", Some(&file(&base)), Some(&file(&new)), &EmitLimits::default(), &mut patch);
        if base == new || !has("git", "git") || !has("patch", "patch") {
            return Ok(());
        }
        let mine = apply(&parse(&patch).unwrap().files[0], Some(&target));
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("x"), &target).unwrap();
        let output = run("git", &["apply", "-"], place.path(), &patch);
        let git = output.status.success().then(|| fs::read(place.path().join("x")).unwrap());
        prop_assert_eq!(
            mine.as_ref().ok(), git.as_ref(),
            "{:?} {}\n{}\n{}", mine, String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&patch), String::from_utf8_lossy(&target)
        );
        // GNU patch accepts more, and remembers offsets; where the target is the base, all agree.
        if target == base {
            let output = run("patch", &["-p1", "-F0", "-s"], place.path(), b"");
            prop_assert!(output.status.success());
            fs::write(place.path().join("x"), &target).unwrap();
            let output = run("patch", &["-p1", "-F0", "-s"], place.path(), &patch);
            prop_assert!(output.status.success());
            prop_assert_eq!(fs::read(place.path().join("x")).unwrap_or_default(), new);
        }
    }
}
