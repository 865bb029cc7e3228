use std::os::unix::fs::symlink;

use super::*;
use crate::harness::Home;

#[test]
fn only_paths_at_or_below_the_root_are_accepted() {
    let home = Home::new();
    let root = Root::open(&home.root()).unwrap();
    let text = |path: &GuestPath| root.absolute(path).map(|spot| spot.shown()).map_err(|e| e.to_string());
    let base = home.workspace().display().to_string();
    assert_eq!(text(&home.path("a/./b//c/")), Ok(format!("{base}/a/b/c")));
    assert_eq!(text(&home.root()), Ok(base.clone()));
    for outside in ["/", "/etc/passwd", &format!("{base}x"), &format!("{base}/../x"), "a", "", "/a\0b"] {
        assert!(text(&GuestPath::from(outside)).is_err(), "{outside:?}");
    }
    let outside = text(&GuestPath::from("/etc")).unwrap_err();
    assert_eq!(outside, format!("workspace path must stay inside {base}: /etc"));
    assert_eq!(text(&GuestPath::from("")).unwrap_err(), "workspace path must not be empty: ");
    let deep = "d/".repeat(MAX_TREE_DEPTH + 1);
    assert!(text(&home.path(&deep)).is_err());
    for bad in [&b"/a"[..], b"", b".", b"a/../b", b"a\0"] {
        assert!(root.relative(bad).is_err(), "{bad:?}");
    }
    assert_eq!(root.relative(b"x/y").unwrap().parent().relative(), b"x");
}

#[test]
fn a_root_of_slash_shows_paths_as_they_are() {
    let root = Root::open(&GuestPath::from("/")).unwrap();
    assert_eq!(root.spot().shown(), "/");
    assert_eq!(root.absolute(&GuestPath::from("/etc/passwd")).unwrap().shown(), "/etc/passwd");
    assert_eq!(root.absolute(&GuestPath::from("/etc/passwd")).unwrap().relative(), b"etc/passwd");
}

#[test]
fn no_look_up_goes_through_a_link() {
    let home = Home::new();
    std::fs::create_dir(home.workspace().join("real")).unwrap();
    symlink("real", home.workspace().join("link")).unwrap();
    symlink("/", home.workspace().join("out")).unwrap();
    let root = Root::open(&home.root()).unwrap();
    for path in ["link/x", "out/etc"] {
        let spot = root.absolute(&home.path(path)).unwrap();
        let error = root.open_parent(&spot).unwrap_err();
        let wanted = format!("would traverse through a symlinked parent: {}", spot.shown());
        assert!(error.to_string().ends_with(&wanted), "{error}");
    }
    assert_eq!(
        kind(root.stat(&root.absolute(&home.path("link")).unwrap()).unwrap().st_mode),
        FileKind::Symlink
    );
}
