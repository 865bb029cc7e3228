use super::*;
use pyro_tree::pax::{Content, Extent, Kind, Member, Time, Writer};

fn target(path: &Path) -> ExportTarget {
    ExportTarget::new(path, Overwrite::Refuse).unwrap()
}

fn all_links() -> PullOptions {
    PullOptions { links: LinkPolicy::All, ..PullOptions::default() }
}

fn member(path: &str, kind: Kind) -> Member {
    Member {
        path: path.into(),
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        xattrs: Vec::new(),
    }
}

fn pack_members(members: &[Member]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    members.iter().for_each(|member| writer.start_member(member).unwrap());
    writer.finish().unwrap()
}

#[tokio::test]
async fn a_directory_appears_whole_with_its_parents() {
    let place = tempfile::tempdir().unwrap();
    let from = place.path().join("from");
    sample(&from);
    let to = place.path().join("a/b/out");
    let report = take(archive(&from), target(&to), all_links()).await.unwrap();
    assert_eq!(look(&to), look(&from));
    assert_eq!(report.artifact, Artifact::Directory);
    assert_eq!(report.entry_count, look(&from).len() as u64 + 1);
    assert_eq!((report.bytes_written, report.skipped_count), (13 + 4 + 200_000, 0));
    assert_eq!(names(&place.path().join("a/b")), ["out"]);
}

#[tokio::test]
async fn a_single_file_or_link_is_exported_under_the_targets_name() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    fs::write(path("note.txt"), "hello").unwrap();
    symlink("note.txt", path("link")).unwrap();
    let report =
        take(archive(&path("note.txt")), target(&path("copy")), PullOptions::default()).await.unwrap();
    assert_eq!((report.artifact, report.entry_count, report.bytes_written), (Artifact::File, 1, 5));
    assert_eq!(fs::read_to_string(path("copy")).unwrap(), "hello");
    let refused = take(archive(&path("link")), target(&path("l2")), PullOptions::default()).await;
    assert!(matches!(&refused, Err(TransferError::LinkOutside { target }) if target == "note.txt"));
    let report = take(archive(&path("link")), target(&path("l2")), all_links()).await.unwrap();
    assert_eq!(report.artifact, Artifact::Symlink);
    assert_eq!(fs::read_link(path("l2")).unwrap(), Path::new("note.txt"));
    assert_eq!(names(place.path()), ["copy", "l2", "link", "note.txt"]);
}

#[tokio::test]
async fn what_is_there_stays_unless_forced_and_is_then_replaced_whole() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    fs::create_dir(path("from")).unwrap();
    fs::write(path("from/new"), "new").unwrap();
    symlink("nowhere", path("dangling")).unwrap();
    fs::write(path("file"), "old").unwrap();
    fs::create_dir_all(path("directory/full")).unwrap();
    fs::set_permissions(path("directory/full"), fs::Permissions::from_mode(0o555)).unwrap();
    for name in ["dangling", "file", "directory"] {
        let error = ExportTarget::new(&path(name), Overwrite::Refuse).unwrap_err();
        assert!(error.to_string().starts_with("output_path already exists: "), "{error}");
        let forced = ExportTarget::new(&path(name), Overwrite::Replace).unwrap();
        let report = take(archive(&path("from")), forced, PullOptions::default()).await.unwrap();
        assert_eq!((report.artifact, report.left_behind), (Artifact::Directory, None));
        assert_eq!(names(&path(name)), ["new"]);
        let forced = ExportTarget::new(&path(name), Overwrite::Replace).unwrap();
        take(archive(&path("from/new")), forced, PullOptions::default()).await.unwrap();
        assert_eq!(fs::read_to_string(path(name)).unwrap(), "new");
    }
    // Something that appears while the tree arrives is not overwritten either.
    let late = target(&path("late"));
    fs::write(path("late"), "mine").unwrap();
    let error = take(archive(&path("from")), late, PullOptions::default()).await.unwrap_err();
    assert!(matches!(error, TransferError::OutputExists(_)), "{error}");
    assert_eq!(fs::read_to_string(path("late")).unwrap(), "mine");
    assert_eq!(names(place.path()), ["dangling", "directory", "file", "from", "late"]);
    assert!(matches!(
        ExportTarget::new(Path::new("/"), Overwrite::Replace),
        Err(TransferError::OutputName(_))
    ));
}

#[tokio::test]
async fn trees_that_forbid_writing_are_made_and_replaced_all_the_same() {
    let place = tempfile::tempdir().unwrap();
    let from = place.path().join("from");
    fs::create_dir_all(from.join("d")).unwrap();
    fs::write(from.join("d/f"), "x").unwrap();
    for (name, mode) in [("d/f", 0o444), ("d", 0o555), (".", 0o555)] {
        fs::set_permissions(from.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let to = place.path().join("out");
    for source in [from.clone(), from.clone(), from.join("d/f"), from.clone()] {
        let forced = ExportTarget::new(&to, Overwrite::Replace).unwrap();
        let report = take(archive(&source), forced, PullOptions::default()).await.unwrap();
        assert_eq!(report.left_behind, None);
        assert_eq!(to.metadata().unwrap().mode(), source.metadata().unwrap().mode());
        assert_eq!(names(place.path()), ["from", "out"]);
    }
    pyro_tree::remove_tree(&from).unwrap();
    pyro_tree::remove_tree(&to).unwrap();
}

#[tokio::test]
async fn links_that_lead_out_are_reported_and_not_made() {
    let place = tempfile::tempdir().unwrap();
    let from = place.path().join("from");
    sample(&from);
    let to = place.path().join("out");
    let report = take(archive(&from), target(&to), PullOptions::default()).await.unwrap();
    let reason = SkipReason::LinkOutside { target: b"/usr/bin/env".to_vec() };
    assert_eq!(report.skipped, [Skipped { path: b"absolute".to_vec(), reason }]);
    assert!(to.join("absolute").symlink_metadata().is_err());
    assert!(to.join("node_modules/.bin/run").exists() && to.join("dangling").is_symlink());
}

#[tokio::test]
async fn a_hostile_or_broken_guest_leaves_nothing() {
    let file = |size| member("./f", Kind::File(Content::solid(size)));
    let root = member(".", Kind::Directory);
    let petabyte = Content { size: 1 << 50, extents: vec![Extent { offset: 0, len: 3 }] };
    let whole = pack_members(&[root.clone(), file(3000)]);
    let mut trailing = whole.clone();
    trailing.resize(whole.len() + 3 * (MAX_TRAILING_BYTES as usize), 1);
    let cases = [
        ("no archive", b"x".repeat(5000)),
        ("empty", Vec::new()),
        ("cut off", whole[..1500].to_vec()),
        ("no members", pack_members(&[])),
        ("no root", pack_members(&[file(1), member("g", Kind::Directory)])),
        ("climbing", pack_members(&[root.clone(), member("../x", Kind::Directory)])),
        ("a petabyte", pack_members(&[root.clone(), member("p", Kind::File(petabyte))])),
        ("endless", trailing),
    ];
    for (name, bytes) in cases {
        let place = tempfile::tempdir().unwrap();
        let error = take(bytes, target(&place.path().join("a/b")), PullOptions::default()).await.unwrap_err();
        assert_eq!(error.explain().blame, Blame::Guest, "{name}: {error:?}");
        assert_eq!(names(place.path()), [""; 0], "{name}");
    }
}

#[tokio::test]
async fn a_pipe_alone_is_the_callers_choice_and_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let pipe = pack_members(&[member("p", Kind::Fifo)]);
    let error = take(pipe, target(&place.path().join("a/b")), PullOptions::default()).await.unwrap_err();
    assert!(matches!(error, TransferError::Pipe), "{error:?}");
    assert_eq!(error.explain().blame, Blame::Caller);
    assert_eq!(names(place.path()), [""; 0]);
}

#[tokio::test]
async fn a_refusal_or_a_lost_connection_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    for chunks in [0, 1] {
        for refused in [true, false] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let agent = tokio::spawn(async move {
                frame(&mut theirs).await;
                let start = pack_members(&[member(".", Kind::Directory)]);
                for _ in 0..chunks {
                    say(&mut theirs, FrameKind::Data, &start[..512]).await;
                }
                if refused {
                    refuse(&mut theirs, "no such path").await;
                }
            });
            let to = target(&place.path().join("new/out"));
            let error = pull(ours, tree_out(), to, PullOptions::default(), |_| ()).await.unwrap_err();
            let text = if refused { "no such path" } else { "the connection to the guest ended" };
            assert_eq!(error.to_string(), text);
            assert_eq!(names(place.path()), [""; 0]);
            agent.await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_dropped_pull_leaves_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let archive = pack_members(&[
        member(".", Kind::Directory),
        member("./d", Kind::Directory),
        member("./d/f", Kind::File(Content::solid(9))),
    ]);
    let to = target(&place.path().join("new/out"));
    let pulling = tokio::spawn(pull(ours, tree_out(), to, PullOptions::default(), |_| ()));
    frame(&mut theirs).await;
    say(&mut theirs, FrameKind::Data, &archive).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    let wait_until = async |done: &dyn Fn() -> bool| {
        while !done() {
            assert!(Instant::now() < deadline, "it takes too long");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    wait_until(&|| place.path().join("new").exists() && !names(&place.path().join("new")).is_empty()).await;
    assert!(names(&place.path().join("new"))[0].starts_with(".out.pyro-"));
    pulling.abort();
    wait_until(&|| names(place.path()).is_empty()).await;
}
