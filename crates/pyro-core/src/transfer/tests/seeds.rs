use super::*;

fn run(program: &str, directory: &Path, arguments: &[&str]) {
    let output = Command::new(program)
        .current_dir(directory)
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

fn git(directory: &Path, arguments: &[&str]) {
    let settings = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"];
    run("git", directory, &[&settings[..], arguments].concat());
}

#[tokio::test]
async fn directories_and_archives_of_every_kind_arrive_alike() {
    let place = tempfile::tempdir().unwrap();
    let tree = place.path().join("tree");
    sample(&tree);
    let expected = look(&tree);
    for (name, format) in [("gnu.tar", "gnu"), ("pax.tar", "pax"), ("ustar.tar", "ustar")] {
        run("tar", &tree, &["-cf", &format!("../{name}"), &format!("--format={format}"), "."]);
    }
    run("tar", &tree, &["-czf", "../a.tar.gz", "."]);
    fs::copy(place.path().join("a.tar.gz"), place.path().join("a.tgz")).unwrap();
    let plain = fs::read(place.path().join("pax.tar")).unwrap();
    fs::write(place.path().join("a.tar.zst"), zstd::encode_all(&plain[..], 3).unwrap()).unwrap();
    symlink("tree", place.path().join("link to the tree")).unwrap();
    let sources =
        ["tree", "link to the tree", "gnu.tar", "pax.tar", "ustar.tar", "a.tar.gz", "a.tgz", "a.tar.zst"];
    for name in sources {
        let source = SeedSource::open(&place.path().join(name), SeedFilter::All).await.unwrap();
        let mode = if name.contains("tree") { SeedMode::Directory } else { SeedMode::TarArchive };
        assert_eq!(source.mode(), mode, "{name}");
        let to = tempfile::tempdir().unwrap();
        let stats = send(source, to.path()).await.unwrap();
        assert_eq!(look(to.path()), expected, "{name}");
        assert_eq!(stats.entry_count, expected.len() as u64 + 1, "{name}");
        assert_eq!(stats.bytes_written, 13 + 4 + 200_000, "{name}");
    }
}

#[tokio::test]
async fn what_is_no_seed_is_refused_in_the_documented_words() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    fs::write(path("notes.tar"), "plain text\n".repeat(100)).unwrap();
    fs::write(path("empty.tar"), "").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    let kind = "seed_path must be a directory or a .tar/.tar.gz/.tgz/.tar.zst archive";
    for (name, text) in [("notes.tar", kind), ("empty.tar", kind), ("socket", kind), ("none", "not exist")] {
        let error = SeedSource::open(&path(name), SeedFilter::All).await.unwrap_err();
        assert!(error.to_string().contains(text) && error.to_string().contains(name), "{error}");
        assert_eq!(error.explain().blame, Blame::Caller);
    }
    fs::write(path("zero.tar"), [0; 1024]).unwrap();
    let error = SeedSource::open(&path("zero.tar"), SeedFilter::Git).await.unwrap_err();
    assert!(matches!(error, TransferError::FilteredArchive(_)), "{error}");
    let error = SeedSource::open(place.path(), SeedFilter::Git).await.unwrap_err();
    assert!(matches!(error, TransferError::NotARepository(_)), "{error}");
}

#[tokio::test]
async fn a_damaged_or_hostile_archive_is_an_error_of_the_caller() {
    let place = tempfile::tempdir().unwrap();
    sample(&place.path().join("tree"));
    run("tar", place.path(), &["-czf", "good.tgz", "tree"]);
    let good = fs::read(place.path().join("good.tgz")).unwrap();
    let mut flipped = good.clone();
    let end = flipped.len() - 6;
    flipped[end] ^= 0xff;
    fs::write(place.path().join("up"), "x").unwrap();
    run("tar", &place.path().join("tree"), &["-cPf", "../up.tar", "../up"]);
    let up = fs::read(place.path().join("up.tar")).unwrap();
    for (name, bytes) in [("cut", &good[..good.len() / 2]), ("flipped", &flipped), ("up", &up)] {
        let path = place.path().join(format!("{name}.seed"));
        fs::write(&path, bytes).unwrap();
        let source = SeedSource::open(&path, SeedFilter::All).await.unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let agent = tokio::spawn(agent_in(theirs, place.path().join("unused")));
        let error = push(ours, tree_in(), source, |_| ()).await.unwrap_err();
        assert_eq!(error.explain().blame, Blame::Caller, "{name}: {error:?}");
        // The agent must see the connection end, not a whole tree.
        assert!(agent.await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn the_git_filter_takes_what_git_would_and_runs_nothing_of_the_repository() {
    let place = tempfile::tempdir().unwrap();
    let root = &place.path().join("repo");
    for directory in ["sub", "ignored", "nested", "kept"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    git(root, &["init", "-q"]);
    fs::write(root.join(".gitignore"), "ignored/\n*.log\n").unwrap();
    let files =
        ["tracked", "gone", "sub/tracked", "untracked", "noise.log", "ignored/x", "nested/in", "kept/a.log"];
    for name in files {
        fs::write(root.join(name), name).unwrap();
    }
    git(root, &["add", "tracked", "gone", "sub", ".gitignore"]);
    git(root, &["add", "-f", "kept/a.log"]);
    git(root, &["commit", "-qm", "x"]);
    fs::remove_file(root.join("gone")).unwrap();
    git(&root.join("nested"), &["init", "-q"]);
    symlink("/etc", root.join("link")).unwrap();
    // Whatever the repository's configuration names must not run.
    let trap = place.path().join("trap");
    let script = format!("#!/bin/sh\ntouch '{}'\n", place.path().join("sprung").display());
    fs::write(&trap, script).unwrap();
    fs::set_permissions(&trap, fs::Permissions::from_mode(0o755)).unwrap();
    let trap = trap.to_str().unwrap();
    for setting in ["core.fsmonitor", "filter.t.clean", "core.sshCommand", "core.pager", "core.editor"] {
        git(root, &["config", setting, trap]);
    }
    git(root, &["config", "core.hooksPath", place.path().to_str().unwrap()]);
    fs::copy(trap, place.path().join("post-index-change")).unwrap();

    let source = SeedSource::open(root, SeedFilter::Git).await.unwrap();
    let to = tempfile::tempdir().unwrap();
    send(source, to.path()).await.unwrap();
    let seen: Vec<_> = look(to.path()).into_keys().collect();
    let expected = [
        ".gitignore",
        "kept",
        "kept/a.log",
        "link",
        "nested",
        "nested/in",
        "sub",
        "sub/tracked",
        "tracked",
        "untracked",
    ];
    assert_eq!(seen, expected.map(PathBuf::from));
    assert!(!place.path().join("sprung").exists());

    let source = SeedSource::open(&root.join("sub"), SeedFilter::Git).await.unwrap();
    let to = tempfile::tempdir().unwrap();
    send(source, to.path()).await.unwrap();
    assert_eq!(names(to.path()), ["tracked"]);
}

#[tokio::test]
async fn an_early_refusal_ends_the_sending() {
    let place = tempfile::tempdir().unwrap();
    fs::File::create(place.path().join("large")).unwrap().set_len(0).unwrap();
    fs::write(place.path().join("large"), vec![1; 20 << 20]).unwrap();
    let source = SeedSource::open(place.path(), SeedFilter::All).await.unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let agent = tokio::spawn(async move {
        frame(&mut theirs).await;
        frame(&mut theirs).await;
        refuse(&mut theirs, "no room").await;
        theirs
    });
    let error = push(ours, tree_in(), source, |_| ()).await.unwrap_err();
    assert_eq!(error.to_string(), "no room");
    drop(agent.await.unwrap());
}

#[tokio::test]
async fn files_that_cannot_be_read_are_named() {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir(place.path().join("d")).unwrap();
    fs::write(place.path().join("d/secret"), "x").unwrap();
    fs::set_permissions(place.path().join("d/secret"), fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(place.path().join("d/secret")).is_ok() {
        println!("skipped (this user reads everything)");
        return;
    }
    let source = SeedSource::open(place.path(), SeedFilter::All).await.unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let _agent = tokio::spawn(agent_in(theirs, place.path().join("unused")));
    let problem = push(ours, tree_in(), source, |_| ()).await.unwrap_err().explain();
    assert!(problem.message.contains("d/secret"), "{}", problem.message);
    assert_eq!(problem.blame, Blame::Caller);
}
