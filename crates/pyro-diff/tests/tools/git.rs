//! git reads our patches, and we read git's and diff's.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use proptest::prelude::*;
use pyro_diff::{SideKind, parse, plan};

use crate::has;
use crate::tree::{Tree, carry_out, emit_all, read, tree, two_trees, write};

fn command(program: &str, args: &[&str], top: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .current_dir(top)
        .env_remove("GIT_DIR")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CEILING_DIRECTORIES", top.parent().unwrap())
        .env("TZ", "America/New_York");
    command
}

pub(crate) fn run(program: &str, args: &[&str], top: &Path, input: &[u8]) -> Output {
    let mut child = command(program, args, top)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).ok();
    child.wait_with_output().unwrap()
}

fn git(args: &[&str], top: &Path) -> Vec<u8> {
    let output = run("git", &[&["-c", "user.name=a", "-c", "user.email=a@b"], args].concat(), top, b"");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Whether a link that leads to itself gives way to a directory. Then `git apply` fails over the link that its
/// own patch removes, whoever wrote the patch; in two steps it would not.
fn loops_become_directories(old: &Tree, new: &Tree, top: &Path) -> bool {
    const ELOOP: i32 = 40;
    let loops = |path: &[u8]| {
        let place = top.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(path));
        fs::metadata(place).is_err_and(|error| error.raw_os_error() == Some(ELOOP))
    };
    old.keys().any(|path| {
        let below = [path.as_slice(), b"/"].concat();
        new.keys().any(|other| other.starts_with(&below)) && loops(path)
    })
}

fn planned(old: &Tree, patch: &[u8]) -> Tree {
    let parsed = parse(patch).unwrap_or_else(|error| panic!("{error}\n{}", patch.escape_ascii()));
    let changes = plan(&parsed, |path| old.get(path).cloned())
        .unwrap_or_else(|error| panic!("{error}\n{}", patch.escape_ascii()));
    let mut result = old.clone();
    carry_out(&mut result, changes);
    result
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn our_patches_read_back_and_give_the_new_tree((old, new) in two_trees()) {
        let patch = emit_all(&old, &new);
        if old == new {
            prop_assert!(patch.is_empty());
        } else {
            prop_assert_eq!(planned(&old, &patch), new);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn git_applies_our_patches_to_the_baseline((old, new) in two_trees()) {
        if !has("git", "git") {
            return Ok(());
        }
        let patch = emit_all(&old, &new);
        if patch.is_empty() {
            return Ok(());
        }
        let place = tempfile::tempdir().unwrap();
        let top = place.path().join("tree");
        fs::create_dir(&top).unwrap();
        write(&old, &top);
        prop_assume!(!loops_become_directories(&old, &new, &top));
        let output = run("git", &["apply", "--whitespace=nowarn", "-"], &top, &patch);
        prop_assert!(
            output.status.success(),
            "{}\n{}", String::from_utf8_lossy(&output.stderr), patch.escape_ascii()
        );
        prop_assert_eq!(read(&top), new);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn patches_of_git_give_the_new_tree((old, new) in two_trees()) {
        if old == new || !has("git", "git") {
            return Ok(());
        }
        let place = tempfile::tempdir().unwrap();
        let top = place.path().join("tree");
        fs::create_dir(&top).unwrap();
        git(&["init", "-q", "."], &top);
        write(&old, &top);
        git(&["add", "-A", "-f", "."], &top);
        git(&["commit", "-q", "--allow-empty", "-m", "old\n\n--- a note\n+ not a patch"], &top);
        for path in old.keys() {
            let place = top.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(path));
            fs::remove_file(&place).unwrap();
            let mut above = place.parent();
            while let Some(directory) = above.filter(|directory| *directory != top && fs::remove_dir(directory).is_ok()) {
                above = directory.parent();
            }
        }
        write(&new, &top);
        git(&["add", "-A", "-f", "."], &top);
        for options in [
            &["--binary"][..],
            &["--binary", "-M", "-C", "--find-copies-harder"],
            &["--binary", "--no-prefix"],
            &["--binary", "--no-renames", "--full-index", "-U1"],
            &["--binary", "-M", "--src-prefix=i/", "--dst-prefix=w/"],
        ] {
            let patch = git(&[&["diff", "--cached"], options, &["HEAD"]].concat(), &top);
            prop_assert_eq!(&planned(&old, &patch), &new, "{:?}\n{}", options, patch.escape_ascii());
        }
        git(&["commit", "-q", "-m", "new"], &top);
        for mail in [
            git(&["format-patch", "--stdout", "--binary", "-1"], &top),
            git(&["show", "--binary", "HEAD"], &top),
        ] {
            prop_assert_eq!(&planned(&old, &mail), &new, "{}", mail.escape_ascii());
        }
    }

    #[test]
    fn patches_of_plain_diff_give_the_new_tree(old in tree(), new in tree()) {
        if !has("diff", "diffutils") {
            return Ok(());
        }
        // diff -N tells neither modes, links, binary files nor empty ones.
        let plain = |tree: Tree| -> Tree {
            tree.into_iter()
                .filter(|(path, side)| {
                    side.kind == SideKind::File && !side.content.is_empty() && std::str::from_utf8(&side.content).is_ok()
                        && !side.content.contains(&0) && !path.contains(&b'/')
                })
                .map(|(path, side)| (path, pyro_diff::Side { mode: 0o644, ..side }))
                .collect()
        };
        let (old, new) = (plain(old), plain(new));
        let place = tempfile::tempdir().unwrap();
        for (name, tree) in [("old", &old), ("new", &new)] {
            fs::create_dir(place.path().join(name)).unwrap();
            write(tree, &place.path().join(name));
        }
        let patch = run("diff", &["-ruN", "old", "new"], place.path(), b"").stdout;
        if old != new {
            prop_assert_eq!(planned(&old, &patch), new, "{}", patch.escape_ascii());
        }
    }
}
