//! Trees across the border between two worlds.

use super::*;

fn portable(links: LinkPolicy) -> UnpackOptions {
    UnpackOptions { fidelity: Fidelity::Portable, links, limits: Limits::default() }
}

fn unpack_with(
    root: &Path,
    members: &[(Member, Vec<u8>)],
    options: &UnpackOptions,
) -> Result<TreeStats, TreeError> {
    unpack(root, &mut &archive(members)[..], options)
}

fn pack_with(root: &Path, options: &PackOptions) -> (TreeStats, Vec<Member>) {
    let mut bytes = Vec::new();
    let stats = pack(root, &mut bytes, options).unwrap();
    (stats, members_of(&bytes))
}

fn members_of(archive: &[u8]) -> Vec<Member> {
    let mut reader = crate::pax::Reader::new(archive);
    let mut members = Vec::new();
    while let Some(member) = reader.next_member().unwrap() {
        members.push(member);
    }
    members
}

fn paths(members: &[Member]) -> Vec<&str> {
    let mut paths: Vec<_> = members.iter().map(|m| std::str::from_utf8(&m.path).unwrap()).collect();
    paths.sort_unstable();
    paths
}

#[test]
fn a_portable_archive_is_roots_and_keeps_modes() {
    let from = tempfile::tempdir().unwrap();
    fs::write(from.path().join("run"), "x").unwrap();
    fs::set_permissions(from.path().join("run"), fs::Permissions::from_mode(0o751)).unwrap();
    let set = |name: &str| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(from.path().join("run"), name, b"v", flags).is_ok()
    };
    let has_attributes = set("user.kept");
    let _ = set("trusted.dropped");
    let options = PackOptions { fidelity: Fidelity::Portable, ..PackOptions::default() };
    let (_, members) = pack_with(from.path(), &options);
    assert!(members.iter().all(|member| (member.uid, member.gid) == (0, 0)));
    let run = members.iter().find(|member| member.path == b"./run").unwrap();
    assert_eq!(run.mode, 0o751);
    if has_attributes {
        assert_eq!(run.xattrs, [(b"user.kept".to_vec(), b"v".to_vec())]);
    }
}

#[test]
fn unpacking_for_an_ordinary_user_drops_what_is_dangerous() {
    let to = tempfile::tempdir().unwrap();
    let (mut run, text) = file("run", "x");
    run.mode = 0o6755;
    run.xattrs = vec![(b"security.capability".to_vec(), vec![1]), (b"trusted.x".to_vec(), vec![1])];
    (run.uid, run.gid) = (12_345, 54_321);
    let members = [bare(".", Kind::Directory), (run, text), bare("pipe", Kind::Fifo)];
    let stats = unpack_with(to.path(), &members, &portable(LinkPolicy::All)).unwrap();
    let meta = fs::metadata(to.path().join("run")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o755, rustix::process::getuid().as_raw()));
    for name in ["security.capability", "trusted.x"] {
        assert!(rustix::fs::getxattr(to.path().join("run"), name, &mut [0u8; 9][..]).is_err(), "{name}");
    }
    assert!(!to.path().join("pipe").exists());
    assert_eq!((stats.entry_count, stats.skipped_count), (2, 1));
    assert_eq!(stats.skipped, [Skipped { path: b"pipe".to_vec(), reason: SkipReason::Fifo }]);
    assert_eq!(stats.root, Some(Root::Directory));
}

#[test]
fn links_that_lead_out_are_reported_and_so_are_their_other_names() {
    let to = tempfile::tempdir().unwrap();
    let link = |path: &str, target: &str| bare(path, Kind::Symlink(target.into()));
    let hard = |path: &str, target: &str| bare(path, Kind::HardLink(target.into()));
    let members = [
        bare("a/b", Kind::Directory),
        link("a/b/root", "../.."),
        link("a/b/up", "../../.."),
        link("a/b/trick", "root/../x"),
        link("absolute", "/etc/passwd"),
        link("fine", "a/b/./none"),
        // Inside where it is, outside under its second name.
        hard("second", "a/b/root"),
        hard("a/c", "a/b/root"),
        hard("a/d/e", "a/b/root"),
        hard("third", "absolute"),
        hard("fourth", "not/there"),
    ];
    let stats = unpack_with(to.path(), &members, &portable(LinkPolicy::InsideOnly)).unwrap();
    let skipped: Vec<_> = stats.skipped.iter().map(|s| String::from_utf8_lossy(&s.path)).collect();
    assert_eq!(skipped, ["a/b/up", "a/b/trick", "absolute", "second", "a/c", "third", "fourth"]);
    let outside = SkipReason::LinkOutside { target: b"../..".to_vec() };
    assert_eq!(stats.skipped[3].reason, outside);
    assert_eq!(stats.skipped[5].reason, SkipReason::NameOfSkipped);
    assert_eq!((stats.entry_count, stats.skipped_count), (4, 7));
    assert_eq!(fs::read_link(to.path().join("a/d/e")).unwrap(), Path::new("../.."));
    assert!(to.path().join("fine").is_symlink() && !to.path().join("second").is_symlink());
}

#[test]
fn limits_hold_before_anything_is_written() {
    let holes = Content { size: 1 << 50, extents: vec![Extent { offset: 7, len: 2 }] };
    let limits = Limits { max_entries: 3, max_stored_bytes: 10, max_apparent_bytes: 100, max_depth: 2 };
    let options = UnpackOptions { limits, ..portable(LinkPolicy::All) };
    let cases = [
        (vec![file("a", "123456"), file("b", "12345")], "the tree has more than 10 bytes of contents"),
        (vec![(member("h", Kind::File(holes)), b"ab".to_vec())], "more than 100 bytes in its files"),
        (vec![file("a", ""), file("b", ""), file("a", ""), file("b", "")], "more than 3 entries"),
        (vec![file("a/b/c", "")], "nested too deep"),
    ];
    for (members, text) in cases {
        let to = tempfile::tempdir().unwrap();
        let error = unpack_with(to.path(), &members, &options).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert!(!to.path().join("h").exists());
    }
}

#[test]
fn one_entry_is_packed_under_its_name() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    fs::write(path("f"), "text").unwrap();
    symlink("f", path("l")).unwrap();
    fs::create_dir(path("d")).unwrap();
    symlink("d", path("ld")).unwrap();
    let follow = PackOptions { root_link: RootLink::Follow, ..PackOptions::default() };
    let keep = PackOptions::default();
    let single = |name: &str, kind| Some(Root::Single { name: name.into(), kind });
    for (name, options, root, member) in [
        ("f", &keep, single("f", SingleKind::File), "f"),
        ("l", &keep, single("l", SingleKind::Symlink), "l"),
        ("l", &follow, single("f", SingleKind::File), "f"),
        ("ld", &keep, single("ld", SingleKind::Symlink), "ld"),
        ("ld", &follow, Some(Root::Directory), "."),
    ] {
        let (stats, members) = pack_with(&path(name), options);
        assert_eq!((stats.root, paths(&members)), (root.clone(), vec![member]));
        let to = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        pack(&path(name), &mut bytes, options).unwrap();
        assert_eq!(unpack(to.path(), &mut &bytes[..], &UnpackOptions::default()).unwrap().root, root);
    }
    let _socket = std::os::unix::net::UnixListener::bind(path("s")).unwrap();
    assert!(matches!(pack(&path("s"), &mut Vec::new(), &keep), Err(TreeError::Refused { .. })));
    let error = pack(&path("none"), &mut Vec::new(), &keep).unwrap_err();
    assert!(error.to_string().contains("none"), "{error}");
}

#[test]
fn a_selection_takes_its_entries_and_the_way_to_them() {
    let from = tempfile::tempdir().unwrap();
    fs::create_dir_all(from.path().join("a/b")).unwrap();
    fs::create_dir_all(from.path().join("other/deep")).unwrap();
    for name in ["a/b/yes", "a/b/no", "a/no", "other/deep/no", "top"] {
        fs::write(from.path().join(name), "").unwrap();
    }
    let only = Selection::new(["a/b/yes", "top", "gone/away"].map(|path| path.as_bytes().to_vec()));
    let options = PackOptions { only: Some(only), ..PackOptions::default() };
    let (_, members) = pack_with(from.path(), &options);
    assert_eq!(paths(&members), [".", "./a", "./a/b", "./a/b/yes", "./top"]);
}

#[test]
fn a_tree_is_removed_whatever_its_modes_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    fs::create_dir_all(tree.join("locked/inner")).unwrap();
    fs::write(tree.join("locked/inner/file"), "").unwrap();
    fs::write(place.path().join("kept"), "").unwrap();
    fs::create_dir(place.path().join("kept directory")).unwrap();
    symlink(place.path().join("kept directory"), tree.join("link")).unwrap();
    for name in ["locked/inner", "locked", "."] {
        fs::set_permissions(tree.join(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    remove_tree(&tree).unwrap();
    remove_tree(&tree).unwrap();
    assert!(place.path().join("kept directory").exists() && !tree.exists());
    symlink("kept directory", place.path().join("link")).unwrap();
    remove_tree(&place.path().join("link")).unwrap();
    remove_tree(&place.path().join("kept")).unwrap();
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}
