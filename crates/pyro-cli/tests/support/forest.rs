//! Trees as people have them, and some that nobody should have.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

/// A `git` that knows nothing of its user.
pub(crate) fn git(directory: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null");
    command.env_remove("GIT_DIR").env("GIT_CEILING_DIRECTORIES", directory.parent().unwrap());
    command.args(["-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "safe.directory=*"]);
    command
}

/// The standard output of a program that must succeed.
pub(crate) fn done(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {said}", output.status);
    output.stdout
}

/// Whether a program is here; where not, the part of a test that needs it is skipped, and said to be.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        println!("not covered: there is no `{program}`");
    }
    found
}

pub(crate) fn write(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A checkout with history: packed objects and loose ones, two branches, a tag, an ignored file.
pub(crate) fn checkout(root: &Path) {
    fs::create_dir_all(root).unwrap();
    let run = |arguments: &[&str]| done(git(root).args(arguments));
    run(&["init", "-q", "-b", "main", "."]);
    for number in 0..5 {
        for file in 0..4 {
            write(
                &root.join(format!("src/part{file}.txt")),
                format!("{number}\n{file}\n").repeat(50).as_bytes(),
            );
        }
        run(&["add", "."]);
        run(&["commit", "-q", "-m", &format!("change {number}")]);
    }
    run(&["gc", "-q"]);
    run(&["tag", "-a", "v1", "-m", "first"]);
    write(&root.join("run.sh"), b"#!/bin/sh\n");
    fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("src/part0.txt", root.join("link")).unwrap();
    write(&root.join(".gitignore"), b"ignored/\n*.log\n");
    run(&["add", "."]);
    run(&["commit", "-q", "-m", "loose"]);
    run(&["branch", "other", "HEAD~2"]);
    write(&root.join("ignored/file"), b"not tracked\n");
}

/// A virtual environment, whose links are absolute; by hand where there is no working Python.
pub(crate) fn venv(root: &Path) {
    let made = Command::new("python3").args(["-m", "venv", "--without-pip"]).arg(root).output();
    if made.is_ok_and(|output| output.status.success()) {
        return;
    }
    println!("not covered: there is no `python3 -m venv`, so one is made by hand");
    write(&root.join("pyvenv.cfg"), b"home = /usr/bin\n");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(root.join("lib/python3/site-packages")).unwrap();
    symlink("/usr/bin/python3", root.join("bin/python3")).unwrap();
    symlink("python3", root.join("bin/python")).unwrap();
    symlink("lib", root.join("lib64")).unwrap();
}

/// What package managers of JavaScript make: links to programs, and packages of one store by hard links.
pub(crate) fn node_modules(root: &Path) {
    for package in ["alpha", "beta", "@scope/gamma"] {
        let store = root.join(".store").join(package);
        write(&store.join("index.js"), format!("module.exports = '{package}';\n").as_bytes());
        write(&store.join("cli.js"), b"#!/usr/bin/env node\n");
        fs::set_permissions(store.join("cli.js"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(root.join(package)).unwrap();
        for file in ["index.js", "cli.js"] {
            fs::hard_link(store.join(file), root.join(package).join(file)).unwrap();
        }
    }
    fs::create_dir_all(root.join(".bin")).unwrap();
    symlink("../alpha/cli.js", root.join(".bin/alpha")).unwrap();
    symlink("../@scope/gamma/cli.js", root.join(".bin/gamma")).unwrap();
    symlink("../.store/beta", root.join("@scope/beta")).unwrap();
}

/// Names in any bytes, empty directories, holes, modes, times, attributes, links of every kind.
pub(crate) fn oddities(root: &Path) {
    let odd: [&[u8]; 9] = [
        b"new\nline",
        b"not \xff\xfe utf8",
        b"\"quoted\" 'twice'",
        b" spaces ",
        b"-rf",
        b"back\\slash",
        "\u{fc}ml\u{e4}ut".as_bytes(),
        b"tab\there",
        b"\x01control",
    ];
    for name in odd {
        write(&root.join("names").join(OsStr::from_bytes(name)), name);
    }
    fs::create_dir(root.join("names").join(OsStr::from_bytes(&[b'n'; 255]))).unwrap();
    fs::create_dir_all(root.join("empty/in empty")).unwrap();
    write(&root.join("empty file"), b"");
    let deep = (0..40).fold(root.join("deep"), |path, _| path.join("a rather long name of a directory"));
    write(&deep.join("file"), b"deep down\n");
    links(root);
    modes(root);
    sparse(root);
    times(root);
    write(&root.join("attributes"), b"with\n");
    let long = vec![b'v'; 1500];
    for (name, value) in [("user.plain", &b"text"[..]), ("user.bytes", b"\0\xff\n="), ("user.long", &long)] {
        for path in ["attributes", "empty"] {
            let set = rustix::fs::setxattr(root.join(path), name, value, rustix::fs::XattrFlags::empty());
            if set.is_err() {
                println!("not covered: this file system keeps no user attributes");
                return;
            }
        }
    }
}

fn links(root: &Path) {
    let links = root.join("links");
    write(&links.join("file"), b"linked\n");
    for (target, name) in [
        ("file", "inside"),
        ("missing", "dangling"),
        ("self", "self"),
        ("../names", "above"),
        ("/etc/passwd", "absolute"),
        ("../../../outside", "outside"),
        ("./..//links/./file", "winding"),
    ] {
        symlink(target, links.join(name)).unwrap();
    }
    symlink(OsStr::from_bytes(&[b'x'; 1000]), links.join("long")).unwrap();
    symlink(OsStr::from_bytes(b"\xff\n"), links.join("bytes")).unwrap();
    fs::hard_link(links.join("file"), links.join("hard")).unwrap();
    fs::hard_link(links.join("dangling"), links.join("hard link to a link")).unwrap();
    fs::create_dir(root.join("elsewhere")).unwrap();
    fs::hard_link(links.join("file"), root.join("elsewhere/hard")).unwrap();
}

/// Every mode that lets its owner read: others fail a seed, unless it is root's.
fn modes(root: &Path) {
    for mode in (0o400..0o1000).filter(|mode| mode & 0o400 != 0) {
        let file = root.join(format!("modes/{mode:o}"));
        write(&file, b"");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }
    for mode in [0o500, 0o555, 0o700, 0o1777, 0o775] {
        let directory = root.join(format!("modes/directory-{mode:o}"));
        write(&directory.join("inside"), b"x");
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn sparse(root: &Path) {
    fs::create_dir(root.join("sparse")).unwrap();
    for (name, size, data) in [
        ("hole only", 3 << 20, &[][..]),
        ("hole at its end", 5 << 20, &[(0, 10_000)]),
        ("hole at its start", (1 << 20) + 1, &[(1 << 20, 1)]),
        ("holes between", 32 << 20, &[(1 << 16, 4096), (1 << 24, 100), ((32 << 20) - 8192, 4096)]),
    ] {
        let file = File::create(root.join("sparse").join(name)).unwrap();
        file.set_len(size).unwrap();
        for (at, len) in data {
            file.write_all_at(&vec![b's'; *len], *at).unwrap();
        }
    }
    // Long enough to be several frames of the transfer, and not a multiple of any block.
    let bytes: Vec<u8> = (0..3_000_001_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    write(&root.join("large"), &bytes);
}

fn times(root: &Path) {
    for (name, nanos) in
        [("epoch", 0), ("nanos", 1_234_567_890_123_456_789), ("year 2100", 4_102_444_800_000_000_001)]
    {
        let path = root.join("times").join(name);
        write(&path, b"");
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_times(FileTimes::new().set_modified(time))
            .unwrap();
    }
    let before = SystemTime::UNIX_EPOCH - Duration::new(1000, 1);
    write(&root.join("times/before the epoch"), b"");
    let file = File::options().write(true).open(root.join("times/before the epoch")).unwrap();
    file.set_times(FileTimes::new().set_modified(before)).unwrap();
}
