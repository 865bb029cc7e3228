//! Guests that fetch from the package archives that this host itself is set up for, and from a server on a network of
//! its own. No name of an archive is written here: apt, pip and cargo of this host say which they use.
//!
//! pip and cargo are not in `debian:12`, and to install them takes minutes where CPUs are emulated: those of this host
//! are lent to the guest, with a Python that is unpacked and not installed.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::host::Host;
use support::{Pyro, guest_available, patience};

const PATIENCE: Duration = Duration::from_secs(10);

/// Says why a test cannot run, and fails where `PYRO_REQUIRE` has `archives`.
fn skip(reason: &str) {
    let required =
        std::env::var("PYRO_REQUIRE").is_ok_and(|list| list.split(',').any(|word| word == "archives"));
    assert!(!required, "archives are required here, but {reason}");
    println!("skipped ({reason})");
}

/// What a program of this host prints, if it is there and succeeds.
fn printed(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// An archive of this host: its address as a URL, and the name in it.
struct Archive {
    url: String,
    name: String,
}

impl Archive {
    /// The archive at `url`, if this host can connect to it now.
    fn at(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or("its URL has no scheme")?;
        let authority = rest.split('/').next().unwrap_or_default();
        let (name, port) = match (authority.split_once(':'), scheme) {
            (Some((name, port)), _) => (name, port.parse().map_err(|_| "its URL has a strange port")?),
            (None, "https") => (authority, 443),
            (None, "http") => (authority, 80),
            (None, _) => return Err(format!("it is reached by {scheme}")),
        };
        if name.parse::<std::net::IpAddr>().is_ok() {
            return Err("it has no name".to_owned());
        }
        let found = (name, port).to_socket_addrs().map_err(|_| "its name has no address here")?;
        let is_reached = |at| TcpStream::connect_timeout(&at, patience(PATIENCE)).is_ok();
        if !found.into_iter().any(is_reached) {
            return Err("this host cannot connect to it".to_owned());
        }
        Ok(Self { url: url.trim_end_matches('/').to_owned(), name: name.to_owned() })
    }

    /// Whether a guest may reach it without a rule, as the policy itself says.
    fn is_public(&self) -> bool {
        Pyro::new().run(&["network", "check", &self.url]).code == Some(0)
    }
}

/// Debian's archive for the guest's release, as this host's apt has it.
fn apt_archive() -> Result<Archive, String> {
    let targets = ["indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"];
    let targets = printed("apt-get", &targets).ok_or("this host has no apt")?;
    let line = targets.lines().find_map(|line| line.strip_suffix(" bookworm main"));
    Archive::at(line.ok_or("this host's apt knows no archive of the guest's release")?)
}

fn pip_index() -> Result<Archive, String> {
    let configured = printed("pip", &["config", "get", "global.index-url"]);
    let built_in = || {
        let text = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)";
        printed("python3", &["-c", text])
    };
    let named = std::env::var("PIP_INDEX_URL").ok().or(configured).or_else(built_in);
    Archive::at(&named.ok_or("this host has no pip")?)
}

/// The sparse index that this host's cargo has fetched from: its directories have the names, and a hash behind.
fn cargo_index() -> Result<Archive, String> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let indices = home.ok_or("there is no home")?.join("registry/index");
    let found = fs::read_dir(indices).into_iter().flatten().flatten();
    let sparse = found.filter(|entry| entry.path().join("config.json").is_file());
    let name = sparse.filter_map(|entry| entry.file_name().into_string().ok()).next();
    let name = name.ok_or("this host's cargo has fetched from no sparse index")?;
    let (name, _) = name.rsplit_once('-').ok_or("its directory has a strange name")?;
    Archive::at(&format!("https://{name}"))
}

/// Names that a guest was denied because their addresses are not public, and that were opened one after the other.
type Opened = Vec<String>;

/// Runs `text` in the workspace `w` until it succeeds. A name that is denied, for its address is not public, is
/// opened by the rule that the denial tells; each time nothing but what was told is opened.
fn until_open(host: &Host, text: &str, opened: &mut Opened) -> Value {
    const MOST: usize = 4;
    for _ in 0..MOST {
        // An update of apt takes a minute where CPUs are emulated.
        let ran = host.workspace(&["exec", "w", "--json", "--timeout-seconds", "600", "--shell", text]);
        let ran: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"));
        if ran["exit_code"] == 0 {
            assert_eq!(ran["network_denials"], Value::Array(Vec::new()), "{ran:#}");
            return ran;
        }
        let denials = ran["network_denials"].as_array().unwrap();
        assert!(!denials.is_empty(), "{ran:#}");
        for denial in denials {
            let (name, rule) =
                (denial["destination"].as_str().unwrap(), denial["allow_with"].as_str().unwrap());
            assert_eq!((&denial["protocol"], rule), (&"dns".into(), name), "{denial:#}");
            assert!(denial["reason"].as_str().unwrap().contains("its address is not public"), "{denial:#}");
            assert!(!opened.contains(&name.to_owned()), "it was open: {ran:#}");
            host.done(&["update", "w", "--allow", rule]);
            opened.push(name.to_owned());
        }
    }
    panic!("denied more than {MOST} times: {opened:?}");
}

/// The workspace `w` with what is in `files/seed`, the public internet and this host's certificate authorities.
fn create(host: &Host) {
    host.write("seed/.keep", "");
    let (seed, memory) = (host.path("seed"), "1024");
    let options = ["--seed-path", &seed, "--mem-mib", memory, "--network-policy", "egress", "--host-ca"];
    host.done(&[&["create", "debian:12", "--id-only", "--name", "w"][..], &options].concat());
}

/// Lets the guest's apt know the archive alone, and learn what it has.
fn apt_update(archive: &Archive) -> String {
    format!(
        "set -e; rm -f /etc/apt/sources.list.d/*; echo 'deb {} bookworm main' > /etc/apt/sources.list; \
         apt-get -qq -o Acquire::Languages=none -o Acquire::Retries=0 -o APT::Update::Error-Mode=any update",
        archive.url
    )
}

/// A name is denied exactly when its address is not public, whatever else at that address is open.
fn assert_opened(archive: &Archive, opened: &Opened) {
    assert_eq!(opened.contains(&archive.name), !archive.is_public(), "{}: {opened:?}", archive.name);
}

#[test]
fn apt_updates_and_installs_from_this_hosts_archive() {
    if !guest_available() {
        return;
    }
    let archive = match apt_archive() {
        Ok(archive) => archive,
        Err(reason) => return skip(&reason),
    };
    let host = Host::new();
    create(&host);
    let mut opened = Opened::new();
    until_open(&host, &apt_update(&archive), &mut opened);
    assert_opened(&archive, &opened);
    let text =
        "DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install hello >&2; hello";
    let ran = until_open(&host, text, &mut opened);
    assert_eq!(ran["stdout"], "Hello, world!\n");
}

/// pip of this host, without what its own Python made of it.
fn lend_pip(host: &Host) -> Result<(), String> {
    let package =
        printed("python3", &["-c", "import pip; print(pip.__path__[0])"]).ok_or("this host has no pip")?;
    fs::create_dir_all(host.path("seed")).unwrap();
    let status = Command::new("cp").args(["-R", &package, &host.path("seed/pip")]).status().unwrap();
    if status.success() { Ok(()) } else { Err("this host's pip cannot be copied".to_owned()) }
}

#[test]
fn pip_fetches_from_this_hosts_index() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let found = apt_archive().and_then(|archive| Ok((archive, pip_index()?, lend_pip(&host)?)));
    let (archive, index, ()) = match found {
        Ok(found) => found,
        Err(reason) => return skip(&reason),
    };
    create(&host);
    let mut opened = Opened::new();
    until_open(&host, &apt_update(&archive), &mut opened);
    // To compile all of its library takes longer than everything else.
    let unpack = "set -e; mkdir /tmp/debs /tmp/python; cd /tmp/debs; apt-get -qq download python3.11-minimal \
         libpython3.11-minimal libpython3.11-stdlib; \
         for deb in *.deb; do dpkg -x $deb /tmp/python; done";
    until_open(&host, unpack, &mut opened);
    let text = format!(
        "export PYTHONHOME=/tmp/python/usr PYTHONPATH=/workspace PYTHONDONTWRITEBYTECODE=1 \
         LD_LIBRARY_PATH=/tmp/python/usr/lib/x86_64-linux-gnu:/tmp/python/lib/x86_64-linux-gnu; \
         cd /tmp; python/usr/bin/python3.11 -m pip download -q --disable-pip-version-check --retries 0 --timeout 120 \
         --no-deps --index-url {} six >&2 && ls six-*",
        index.url
    );
    let ran = until_open(&host, &text, &mut opened);
    assert!(ran["stdout"].as_str().unwrap().starts_with("six-1."), "{ran:#}");
    assert_opened(&archive, &opened);
    assert_opened(&index, &opened);
}

/// cargo of this host, a compiler that only tells its version, and a package with one dependency.
fn lend_cargo(host: &Host) -> Result<(), String> {
    let cargo = printed("rustup", &["which", "cargo"]).ok_or("this host has no rustup")?;
    let version = printed("rustc", &["-vV"]).ok_or("this host has no rustc")?;
    host.write("seed/rustc", &format!("#!/bin/sh\ncat <<'END'\n{version}\nEND\n"));
    let manifest = "[package]\nname = \"a\"\nversion = \"0.1.0\"\n[dependencies]\nitoa = \"1\"\n";
    host.write("seed/a/Cargo.toml", manifest);
    host.write("seed/a/src/lib.rs", "");
    fs::copy(cargo, host.path("seed/cargo"))
        .map(|_| ())
        .map_err(|_| "this host's cargo cannot be copied".to_owned())
}

#[test]
fn cargo_fetches_from_this_hosts_registry() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let index = match cargo_index().and_then(|index| lend_cargo(&host).map(|()| index)) {
        Ok(index) => index,
        Err(reason) => return skip(&reason),
    };
    create(&host);
    let mut opened = Opened::new();
    // To vendor is to fetch everything without a question to the compiler. The guest has none of this host's
    // settings, so its cargo takes the registry that it was built with.
    let text = "chmod +x cargo rustc; export RUSTC=$PWD/rustc CARGO_HOME=/tmp/cargo CARGO_NET_RETRY=0; \
         cd a && ../cargo vendor -q >&2 && ls /tmp/cargo/registry/cache/*";
    let ran = until_open(&host, text, &mut opened);
    let stdout = ran["stdout"].as_str().unwrap();
    assert!(stdout.starts_with("itoa-1.") && stdout.ends_with(".crate\n"), "{ran:#}");
    assert_opened(&index, &opened);
}

/// A network namespace with one cable to this host, gone with its test.
struct FarNetwork {
    name: String,
    /// The far end of the cable.
    address: Ipv4Addr,
}

impl FarNetwork {
    fn new() -> Self {
        let pid = std::process::id();
        let (name, near, far) = (format!("pyro-test-{pid}"), format!("pyn{pid}"), format!("pyf{pid}"));
        let [_, _, high, low] = (pid << 2).to_be_bytes();
        let network = Self { name, address: Ipv4Addr::new(10, 213, high, low + 2) };
        let own = format!("10.213.{high}.{}/30", low + 1);
        let theirs = format!("{}/30", network.address);
        ip(&["netns", "add", &network.name]);
        ip(&["link", "add", &near, "type", "veth", "peer", "name", &far, "netns", &network.name]);
        ip(&["address", "add", &own, "dev", &near]);
        ip(&["link", "set", &near, "up"]);
        ip(&["-n", &network.name, "address", "add", &theirs, "dev", &far]);
        ip(&["-n", &network.name, "link", "set", &far, "up"]);
        network
    }

    /// A socket that listens there; it stays there whoever uses it.
    fn listen(&self) -> TcpListener {
        let namespace = File::open(Path::new("/run/netns").join(&self.name)).unwrap();
        let address = self.address;
        // A thread of its own goes there, and ends.
        let listening = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            TcpListener::bind((address, 0)).unwrap()
        });
        listening.join().unwrap()
    }
}

impl Drop for FarNetwork {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Serves the files below `root` by HTTP, which is all that git's simplest protocol needs.
fn serve_files(listener: TcpListener, root: PathBuf) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let Some(request) = lines.next() else { continue };
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let path = request.split(['?', ' ']).nth(1).unwrap_or_default();
            let (status, body) = match fs::read(root.join(path.trim_start_matches('/'))) {
                Ok(body) => ("200 OK", body),
                Err(_) => ("404 Not Found", Vec::new()),
            };
            let head =
                format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            // A client that has seen enough leaves.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
}

fn git(directory: &Path, words: &[&str]) {
    let mut command = Command::new("git");
    command.current_dir(directory).args(["-c", "user.name=t", "-c", "user.email=t@example.com"]);
    let output = command.args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn git_clones_by_http_from_another_network_once_a_rule_opens_its_server() {
    if !guest_available() {
        return;
    }
    if !rustix::process::geteuid().is_root() || printed("ip", &["-V"]).is_none() {
        println!("skipped (only root, with ip, can make a network)");
        return;
    }
    let far = FarNetwork::new();
    let host = Host::new();
    git(host.files.path(), &["init", "-q", "repo"]);
    host.write("repo/file", &"content\n".repeat(10_000));
    git(host.files.path(), &["-C", "repo", "add", "file"]);
    git(host.files.path(), &["-C", "repo", "commit", "-q", "-m", "first"]);
    git(host.files.path(), &["clone", "-q", "--bare", "repo", "bare.git"]);
    git(host.files.path(), &["-C", "bare.git", "update-server-info"]);
    let listener = far.listen();
    let server = listener.local_addr().unwrap();
    serve_files(listener, host.files.path().to_owned());
    host.create(&["--name", "w", "--network-policy", "egress"]);
    let text = format!("git clone -q http://{server}/bare.git copy && wc -c < copy/file");
    let denied = host.workspace(&["exec", "w", "--json", "--shell", &text]);
    let denied: Value = serde_json::from_str(&denied.stdout).unwrap();
    let rule = format!("tcp://{server}");
    assert_ne!(denied["exit_code"], 0, "{denied:#}");
    assert_eq!(denied["network_denials"][0]["allow_with"], rule.as_str(), "{denied:#}");
    assert!(denied["network_denials"][0]["reason"].as_str().unwrap().contains("(private)"), "{denied:#}");
    host.done(&["update", "w", "--allow", &rule]);
    assert_eq!(host.shell("w", &text), "80000\n");
}
