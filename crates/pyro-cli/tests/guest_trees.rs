//! Trees into real guests and out again, bit for bit, and what is told of their changes.

#![allow(clippy::unwrap_used)]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::ops::Deref;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::forest::{self, done, git, has};
use support::host::Host;
use support::tree::{self, Content, GitTree, Tree, as_git_sees, assert_same, below};
use support::{Ran, guest_available, wait_until};

/// One workspace and files of the host.
struct Lab {
    host: Host,
    id: String,
}

impl Deref for Lab {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Lab {
    /// A workspace of a seed that `make` makes.
    fn new(make: impl FnOnce(&Path), arguments: &[&str]) -> Self {
        let host = Host::new();
        let seed = host.path("seed");
        fs::create_dir(&seed).unwrap();
        make(Path::new(&seed));
        let id = host.create(&[&["--seed-path", &seed], arguments].concat());
        Self { host, id }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// The standard output, whatever bytes it is, of a command that must succeed.
    fn bytes(&self, arguments: &[&str]) -> Vec<u8> {
        done(&mut self.pyro.command(&[&["workspace"], arguments].concat()))
    }

    /// Runs a script of any bytes in the guest; it must succeed.
    fn script(&self, script: &[u8]) -> String {
        let arguments =
            ["workspace", "exec", &self.id, "--timeout-seconds", "120", "--stdin", "--", "sh", "-e"];
        let mut command = self.pyro.command(&arguments);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        child.stdin.take().unwrap().write_all(script).unwrap();
        let ran = Ran::from(child.wait_with_output().unwrap());
        assert_eq!(ran.code, Some(0), "{}: {ran:?}", script.escape_ascii());
        ran.stdout
    }

    fn push(&self, source: &Path, dest: &str, more: &[&str]) {
        let push = ["sync", "push", &self.id, source.to_str().unwrap(), "--dest", dest];
        self.done(&[&push, more].concat());
    }

    /// Copies `path` out, links and all, and reads the copy.
    fn export(&self, path: &str, name: &str) -> Tree {
        let output = self.path(name);
        self.done(&["export", &self.id, path, "--output", output.to_str().unwrap(), "--all-links"]);
        tree::read(&output)
    }
}

#[test]
fn trees_come_back_bit_for_bit() {
    if !guest_available() {
        return;
    }
    let host = Lab::new(
        |seed| {
            forest::checkout(&seed.join("checkout"));
            forest::venv(&seed.join("venv"));
            forest::node_modules(&seed.join("node_modules"));
            forest::oddities(seed);
            fs::set_permissions(seed, fs::Permissions::from_mode(0o750)).unwrap();
        },
        &[],
    );
    let seed = tree::read(&host.path("seed"));
    assert!(seed.len() > 400, "{}", seed.len());
    assert_same("seed", &seed, &host.export("/workspace", "exported"));
    // The same into a directory that is not there yet, and over what is there.
    host.push(&host.path("seed"), "again/in", &[]);
    assert_same("push", &seed, &host.export("again/in", "pushed"));
    host.script(b"cd again/in; rm -rf names; echo other > large; chmod 700 modes empty; touch links");
    host.push(&host.path("seed"), "again/in", &[]);
    assert_same("push over a changed tree", &seed, &host.export("again/in", "pushed again"));
    host.script(b"rm -rf again");

    git_finds_nothing_wrong(&host);
    archives_are_trees_too(&host, &seed);
    a_filtered_push_takes_what_git_would(&host);
    a_push_merges(&host);
    what_only_guests_have(&host);
    exports_are_careful(&host);
    interrupted_transfers_leave_no_trace(&host);
}

fn git_finds_nothing_wrong(host: &Lab) {
    let text = b"cd checkout; git config --global safe.directory '*'; git fsck --full --strict; \
                 git status --porcelain; git log --oneline other | wc -l";
    assert_eq!(host.script(text), "4\n");
    let exported = host.path("exported/checkout");
    done(git(&exported).args(["fsck", "--full", "--strict"]));
    assert_eq!(done(git(&exported).args(["status", "--porcelain"])), b"");
    let history = |root: &Path| done(git(root).args(["log", "--all", "--format=%H %D"]));
    assert_eq!(history(&exported), history(&host.path("seed/checkout")));
}

/// Archives of other programs, plain and compressed; the names do not matter.
fn archives_are_trees_too(host: &Lab, seed: &Tree) {
    if !has("tar") {
        return;
    }
    let archive = |name: &str, more: &[&str]| {
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(host.path("seed")).arg("-cf").arg(host.path(name)).arg(".");
        done(tar.args(["--sparse", "--format=posix", "--xattrs"]).args(more));
    };
    archive("tree.tar", &[]);
    let zstd = has("zstd");
    for (name, program) in [("tree.tar.gz", "gzip"), ("tree.tar.zst", "zstd")] {
        if program == "gzip" || zstd {
            let compressed = done(Command::new(program).arg("-c").arg(host.path("tree.tar")));
            fs::write(host.path(name), compressed).unwrap();
        }
    }
    fs::copy(host.path("tree.tar.gz"), host.path("tree.tgz")).unwrap();
    for name in ["tree.tar", "tree.tar.gz", "tree.tgz", "tree.tar.zst"] {
        if name.ends_with("zst") && !zstd {
            continue;
        }
        host.push(&host.path(name), name, &[]);
        let got = host.export(name, &format!("from {name}"));
        // What tar has no word for: links have no attributes of their own there, and no holes of their own.
        assert_same(name, seed, &got);
        host.script(format!("rm -rf {name}").as_bytes());
    }
}

fn a_filtered_push_takes_what_git_would(host: &Lab) {
    let checkout = host.path("seed/checkout");
    forest::write(&checkout.join("new file.txt"), b"neither tracked nor ignored\n");
    forest::write(&checkout.join("noise.log"), b"ignored\n");
    host.push(&checkout, "filtered", &["--filter", "git"]);
    let got = as_git_sees(&host.export("filtered", "filtered"));
    let listed = done(git(&checkout).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]));
    let listed: BTreeSet<&[u8]> = listed.split(|byte| *byte == 0).filter(|path| !path.is_empty()).collect();
    assert!(listed.contains(&b"new file.txt"[..]) && listed.contains(&b"run.sh"[..]), "{listed:?}");
    assert_eq!(got.keys().map(|path| &path[..]).collect::<BTreeSet<_>>(), listed);
    let whole = as_git_sees(&tree::read(&checkout));
    assert!(got.iter().all(|(path, node)| whole.get(path) == Some(node)));
}

fn a_push_merges(host: &Lab) {
    host.script(
        b"mkdir -p merge/both merge/old; echo kept > merge/both/kept; echo old > merge/both/replaced",
    );
    let push = host.path("to merge");
    forest::write(&push.join("both/replaced"), b"new\n");
    forest::write(&push.join("new/file"), b"new\n");
    symlink("replaced", push.join("both/link")).unwrap();
    host.push(&push, "merge", &[]);
    let text = "cd merge; cat both/kept both/replaced both/link new/file; ls -d old";
    assert_eq!(host.script(text.as_bytes()), "kept\nnew\nnew\nnew\nold\n");

    // A conflict deep down is found before anything is changed.
    let before = host.export("merge", "before conflict");
    forest::write(&push.join("a first file"), b"first\n");
    forest::write(&push.join("both/kept/now a directory"), b"x");
    let push = push.to_str().unwrap();
    let ran = host.workspace(&["sync", "push", &host.id, push, "--dest", "merge"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("directory conflicts with existing path"), "{ran:?}");
    assert_same("refused push", &before, &host.export("merge", "after conflict"));
}

/// What a seed cannot hold but a guest can make.
fn what_only_guests_have(host: &Lab) {
    let text = "mkdir own; cd own; echo secret > unreadable; chmod 0 unreadable; mkfifo pipe; \
                echo x > setuid; chmod 4755 setuid; ln -s /etc/passwd out; ln -s ../../x up; ln -s setuid in; \
                mkdir closed; echo y > closed/file; chmod 0 closed";
    host.script(text.as_bytes());
    let output = host.path("own");
    let told = host.json(&["export", &host.id, "own", "--output", output.to_str().unwrap()]);
    assert_eq!(told["skipped_count"], 3, "{told}");
    let skipped = told["skipped"].as_array().unwrap();
    let skipped: BTreeMap<_, _> =
        skipped.iter().map(|one| (one["path"].as_str().unwrap(), one["reason"].as_str().unwrap())).collect();
    assert_eq!(skipped["out"], "a link that leads out, to /etc/passwd");
    assert_eq!(skipped["up"], "a link that leads out, to ../../x");
    assert_eq!(skipped["pipe"], "a named pipe");
    let mode = |name: &str| output.join(name).symlink_metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("unreadable"), mode("closed"), mode("setuid")), (0, 0, 0o755));
    assert_eq!(fs::read_link(output.join("in")).unwrap(), Path::new("setuid"));
    for name in ["out", "up", "pipe"] {
        assert!(output.join(name).symlink_metadata().is_err(), "{name} was made");
    }
    fs::set_permissions(output.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(fs::read(output.join("closed/file")).unwrap(), b"y\n");

    let ran =
        host.workspace(&["export", &host.id, "own/out", "--output", host.path("link").to_str().unwrap()]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(host.path("link").symlink_metadata().is_err());

    host.script(b"ln -s /etc own/etc");
    let output = host.path("passwd");
    let ran = host.workspace(&["export", &host.id, "own/etc/passwd", "--output", output.to_str().unwrap()]);
    assert!(ran.code == Some(1) && ran.stderr.contains("symlinked parent"), "{ran:?}");
    let ran = host.workspace(&["export", &host.id, "own/none", "--output", output.to_str().unwrap()]);
    assert!(
        ran.stderr.starts_with("[error] workspace path does not exist: /workspace/own/none\n"),
        "{ran:?}"
    );
    assert!(output.symlink_metadata().is_err());
}

fn exports_are_careful(host: &Lab) {
    let out = host.path("careful");
    fs::create_dir(&out).unwrap();
    let export = |path: &str, name: &str, more: &[&str]| {
        let output = out.join(name);
        let arguments = ["export", &host.id, path, "--output", output.to_str().unwrap()];
        host.workspace(&[&arguments, more].concat())
    };
    forest::write(&out.join("file"), b"mine\n");
    forest::write(&out.join("directory/file"), b"mine\n");
    forest::write(&out.join("victim"), b"mine\n");
    symlink("victim", out.join("link")).unwrap();
    symlink("missing", out.join("dangling")).unwrap();
    // Its own time changes with what comes and goes.
    let inside = || {
        let mut tree = tree::read(&out);
        tree.remove(&b""[..]);
        tree
    };
    let before = inside();
    for name in ["file", "directory", "link", "dangling"] {
        for path in ["checkout", "checkout/run.sh"] {
            let ran = export(path, name, &[]);
            assert_eq!(ran.code, Some(1), "{ran:?}");
            assert!(ran.stderr.contains("output_path already exists"), "{ran:?}");
        }
    }
    // What fails later leaves nothing either, no directory on the way included.
    assert_eq!(export("no such path", "made/on the way/x", &[]).code, Some(1));
    assert_eq!(export("own/pipe", "made/pipe", &["--force"]).code, Some(1));
    assert_eq!(export("checkout", "file/below a file", &[]).code, Some(1));
    assert_same("exports that failed", &before, &inside());

    for name in ["file", "directory", "link", "dangling"] {
        let ran = export("node_modules", name, &["--force"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let wanted = below(&tree::read(&host.path("exported")), "node_modules");
        assert_same("replaced", &wanted, &tree::read(&out.join(name)));
    }
    // A link was replaced, not followed, and nothing else is there.
    assert_eq!(fs::read(out.join("victim")).unwrap(), b"mine\n");
    let names: BTreeSet<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, BTreeSet::from(["dangling", "directory", "file", "link", "victim"].map(Into::into)));
}

fn interrupted_transfers_leave_no_trace(host: &Lab) {
    let large = host.path("too large");
    for number in 0..24 {
        forest::write(&large.join(format!("checkout/src/part{number}.txt")), &vec![number; 8 << 20]);
    }
    let large = large.to_str().unwrap();
    let listing = "find /workspace -printf '%p %y %m %s %T@ %C@ %i %l\\n' | sort; du -s /.pyro/staging";
    let before = host.script(listing.as_bytes());
    let mut push = host.pyro.command(&["workspace", "sync", "push", &host.id, large]).spawn().unwrap();
    let pid = push.id();
    wait_until("the push to be under way", || bytes_read(pid) > 48 << 20);
    push.kill().unwrap();
    push.wait().unwrap();
    // The guest notices the end by itself, and nobody is told.
    wait_until("what had arrived to go", || host.script(listing.as_bytes()) == before);

    host.script(b"head -c 100000000 /dev/zero | tr '\\0' x > big");
    let out = host.path("interrupted");
    fs::create_dir(&out).unwrap();
    let output = out.join("some/where/big");
    let arguments = ["workspace", "export", &host.id, "big", "--output", output.to_str().unwrap()];
    let mut export = host.pyro.command(&arguments).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the export to be under way", || out.join("some/where").exists());
    kill_process(Pid::from_child(&export), Signal::INT).unwrap();
    assert_eq!(export.wait().unwrap().code(), Some(130));
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "an interrupted export left something");

    // On the disk, so that there is nothing to wait for when it is stopped.
    host.script(b"sync");
    let export = host.spawn(&arguments[1..]);
    wait_until("the export to be under way", || out.join("some/where").exists());
    host.done(&["stop", &host.id]);
    let ran = Ran::from(export.wait_with_output().unwrap());
    let told = format!("[error] workspace {} was stopped meanwhile\n", host.id);
    assert!(ran.code == Some(1) && ran.stderr.starts_with(&told), "{ran:?}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "an export that was cut off left something");
}

/// Bytes that a process has read so far.
fn bytes_read(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.map_or(0, |count| count.parse().unwrap())
}

#[test]
fn a_diff_applied_to_where_it_began_gives_the_present() {
    if !guest_available() {
        return;
    }
    let mut random = Random(0x5eed);
    let host = Lab::new(|seed| ordinary(seed, &mut Random(7)), &["--seed-filter", "all"]);
    let base = host.export("/workspace", "base");
    let mut against = ("baseline".to_owned(), "base".to_owned());
    let mut previous = base;
    for round in 0..4 {
        host.script(&mutations(&previous, &mut random));
        let name = format!("present{round}");
        let present = host.export("/workspace", &name);
        patch_gives(&host, &against, &present);
        // A snapshot is as good as the baseline.
        let snapshot = format!("snapshot-{round}");
        host.done(&["snapshot", "create", &host.id, &snapshot]);
        assert_eq!(host.json(&["diff", &host.id, "--against", &snapshot])["changed"], false);
        against = (snapshot, name);
        previous = present;
    }
    patch_gives(&host, &("baseline".to_owned(), "base".to_owned()), &previous);
    let previous = a_patch_of_git_applies(&host, &previous, &mut random);

    let diffs = |host: &Lab| {
        ["baseline", "snapshot-1"].map(|against| host.bytes(&["diff", &host.id, "--against", against]))
    };
    let running = diffs(&host);
    host.done(&["stop", &host.id]);
    assert_eq!(diffs(&host).map(lossy), running.map(lossy), "a diff at rest is another");
    patch_gives(&host, &("baseline".to_owned(), "base".to_owned()), &previous);
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Where two trees differ, as text.
fn unlike(wanted: &GitTree, got: &GitTree) -> Vec<String> {
    let paths: BTreeSet<_> = wanted.keys().chain(got.keys()).collect();
    let state = |tree: &GitTree, path| match tree.get(path) {
        Some((kind, content)) => format!("{kind} \"{}\"", content[..content.len().min(200)].escape_ascii()),
        None => "absent".to_owned(),
    };
    let differing = paths.into_iter().filter(|path| wanted.get(*path) != got.get(*path));
    differing
        .map(|path| {
            format!("{}: wanted {}, got {}", path.escape_ascii(), state(wanted, path), state(got, path))
        })
        .collect()
}

/// Applies the workspace's diff to a copy of where it began, by git.
fn patch_gives(host: &Lab, (snapshot, directory): &(String, String), present: &Tree) {
    let copy = host.path("copy");
    done(Command::new("cp").arg("-a").arg(host.path(directory)).arg(&copy));
    let (old, new) = (tree::read(&copy), as_git_sees(present));
    let diff = host.bytes(&["diff", &host.id, "--against", snapshot]);
    let end = diff.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let patch = host.path("patch");
    fs::write(&patch, &diff[end..]).unwrap();
    let applied = git(&copy).args(["apply", "--whitespace=nowarn"]).arg(&patch).output().unwrap();
    let said = String::from_utf8_lossy(&applied.stderr);
    let kept = |what: &str| panic!("{what} {said}\n{}", String::from_utf8_lossy(&diff));
    if !applied.status.success() {
        kept("git does not take it:");
    }
    let got = as_git_sees(&tree::read(&copy));
    let wrong = unlike(&new, &got);
    if !wrong.is_empty() {
        kept(&format!("{wrong:?} is not as it should be"));
    }
    // Every difference is told, and nothing else but modes and directories, which git knows nothing of.
    let told = host.json(&["diff", &host.id, "--against", snapshot]);
    let told = told["entries"].as_array().unwrap().iter();
    let told: BTreeSet<String> = told.map(|one| one["path"].as_str().unwrap().to_owned()).collect();
    let paths = |differs: &dyn Fn(&Vec<u8>) -> bool| {
        let all = old.keys().chain(present.keys());
        all.filter(|path| differs(path)).cloned().map(lossy).collect::<BTreeSet<_>>()
    };
    let (seen_before, seen_now) = (as_git_sees(&old), &new);
    let wanted = paths(&|path| seen_before.get(path) != seen_now.get(path));
    let mode = |tree: &Tree, path: &Vec<u8>| {
        tree.get(path).map(|node| (node.mode, node.content == Content::Directory))
    };
    let unknown = paths(&|path| mode(&old, path) != mode(present, path));
    assert!(told.is_superset(&wanted), "not told: {:?}", wanted.difference(&told));
    let more: BTreeSet<_> = told.difference(&wanted).cloned().collect();
    assert!(more.is_subset(&unknown), "told without need: {:?}", more.difference(&unknown));
    fs::remove_dir_all(copy).unwrap();
}

/// Changes on the host, told by `git diff`, arrive in the guest. Gives what is there then.
fn a_patch_of_git_applies(host: &Lab, present: &Tree, random: &mut Random) -> Tree {
    let work = host.path("work");
    done(Command::new("cp").arg("-a").arg(host.path("present3")).arg(&work));
    for arguments in [&["init", "-q"][..], &["add", "-Af"], &["commit", "-qm", "before"]] {
        done(git(&work).args(arguments));
    }
    let mut sh = Command::new("sh");
    let mut child = sh.arg("-e").current_dir(&work).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&mutations(present, random)).unwrap();
    assert!(child.wait().unwrap().success());
    // Without what git remembers of the files, which can miss what changes neither size nor time.
    done(git(&work).args(["read-tree", "--empty"]));
    done(git(&work).args(["add", "-Af"]));
    let patch = done(git(&work).args(["diff", "--cached", "--binary", "-M", "HEAD"]));
    fs::remove_dir_all(work.join(".git")).unwrap();
    assert!(patch.len() > 1000);
    fs::write(host.path("patch"), patch).unwrap();
    let file = host.path("patch");
    host.done(&["patch", "apply", &host.id, "--patch-file", file.to_str().unwrap()]);
    let got = host.export("/workspace", "patched");
    let wrong = unlike(&as_git_sees(&tree::read(&work)), &as_git_sees(&got));
    let patch = lossy(fs::read(host.path("patch")).unwrap());
    assert!(wrong.is_empty(), "a patch of git gives something else: {wrong:#?}\n{patch}");
    got
}

/// Small numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// A tree of text, binary files, links and names that must be quoted.
fn ordinary(root: &Path, random: &mut Random) {
    for number in 0..60 {
        let odd: &[u8] =
            [&b"plain"[..], b"with space", b"quo\"te", b"new\nline", b"\xff\xfe", b"\xc3\xbc"][number % 6];
        let name = [format!("d{}/", number % 7).as_bytes(), odd, format!("-{number}").as_bytes()].concat();
        let path = tree::at(root, &name);
        let lines: Vec<String> =
            (0..random.below(60)).map(|line| format!("line {line} of {number}\n")).collect();
        let mut content = lines.concat().into_bytes();
        match number % 10 {
            0 => content = (0..random.below(5000)).map(|_| random.below(256) as u8).collect(),
            1 => content.extend_from_slice(b"no end of line"),
            2 => content.clear(),
            _ => {}
        }
        forest::write(&path, &content);
        if number % 9 == 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    symlink("d0", root.join("link to a directory")).unwrap();
    symlink("missing", root.join("dangling")).unwrap();
}

/// A shell script that changes some of `present`, each path once.
fn mutations(present: &Tree, random: &mut Random) -> Vec<u8> {
    let mut script = Vec::new();
    let mut paths: Vec<&Vec<u8>> = present.keys().filter(|path| !path.is_empty()).collect();
    let mut fresh = 0;
    let of_kind = |path: &Vec<u8>, wanted: fn(&Content) -> bool| wanted(&present[path].content);
    for _ in 0..28 {
        let path = paths.swap_remove(random.below(paths.len()));
        fresh += 1;
        let new = format!("new {}-{fresh}", random.below(1000));
        let name = [&b"./"[..], path].concat();
        let text: &[u8] = if of_kind(path, |content| matches!(content, Content::File { .. })) {
            [
                &b"echo more >> F"[..],
                b"sed '2s/.*/changed/' F > scratch; cat scratch > F; rm scratch",
                b"sed '1i first' F > scratch; mv scratch F",
                b"rm F",
                b"chmod 755 F",
                b"chmod 644 F",
                b"rm F; ln -s 'tar get' F",
                b"rm F; mkdir F; echo inside > F/inside",
                b"head -c 3000 /dev/urandom > F",
                b"printf 'no end' >> F",
                b": > F",
                // Neither size nor modification time tell.
                b"touch -r F scratch; tr 'a-y\\001' 'b-z\\002' < F > other; cat other > F; rm other; touch -r scratch F; rm scratch",
                b"mv F 'N'",
                b"cp F 'N'; mkdir 'N.d'; echo n > 'N.d/file'; printf x > 'N.d/no end'",
                // Written anew, as it was.
                b"cat F > scratch; cat scratch > F; rm scratch",
            ][random.below(15)]
        } else if of_kind(path, |content| matches!(content, Content::Symlink(_))) {
            [&b"rm F; ln -s other F"[..], b"rm F; echo file > F", b"rm F"][random.below(3)]
        } else {
            // What is in a directory is not touched otherwise.
            let inside = [&path[..], b"/"].concat();
            paths.retain(|other| !other.starts_with(&inside));
            [&b"rm -rf F"[..], b"rm -rf F; echo file > F", b"mv F 'N'"][random.below(3)]
        };
        if !of_kind(path, |content| matches!(content, Content::Directory)) || fresh % 9 == 0 {
            // A file whose directory was moved or replaced is gone.
            script.extend(fill(&[b"if [ -e F ] || [ -L F ]; then ", text, b"; fi\n"].concat(), &name, &new));
        }
    }
    script
}

/// `text` with each `F` replaced by a quoted path and each `N` by a new name.
fn fill(text: &[u8], path: &[u8], new: &str) -> Vec<u8> {
    let quoted =
        [&b"'"[..], &path.split(|byte| *byte == b'\'').collect::<Vec<_>>().join(&b"'\\''"[..]), b"'"]
            .concat();
    let part = |byte: &u8| match byte {
        b'F' => quoted.clone(),
        b'N' => new.as_bytes().to_vec(),
        other => vec![*other],
    };
    text.iter().flat_map(part).collect()
}
