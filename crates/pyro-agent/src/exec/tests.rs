//! The engine on the host: over a socket pair, in this process's own reaper, with cgroups where this user
//! may make them.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::thread::JoinHandle;

use pyro_agent::wire::{self, Decoder, Operation, STDIN_WINDOW_BYTES};

use super::*;
use crate::reaper::Reaper;
use crate::serve::Server;

/// Enough for a loaded machine; nothing here takes long by itself.
const PATIENCE: Duration = Duration::from_secs(30);

fn reaper() -> Arc<Reaper> {
    static REAPER: OnceLock<Arc<Reaper>> = OnceLock::new();
    let start = || {
        let reaper = Arc::new(Reaper::default());
        let reaping = Arc::clone(&reaper);
        std::thread::spawn(move || reaping.run());
        reaper
    };
    Arc::clone(REAPER.get_or_init(start))
}

/// A directory for one test's cgroups, where this user may make any.
fn cgroup_base(test: &str) -> Option<std::path::PathBuf> {
    let is_usable = |base: &std::path::PathBuf| {
        let is_usable = Cgroups::open(base).is_ok();
        if !is_usable {
            // What is no cgroup is a directory that stays.
            let _ = std::fs::remove_dir(base);
        }
        is_usable
    };
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .map(|root| Path::new(root).join(format!("pyro-agent-test-{test}-{}", std::process::id())))
        .find(is_usable)
}

/// The host's side of one exec.
struct Host {
    socket: UnixStream,
    decoder: Decoder,
    agent: JoinHandle<()>,
    credit: usize,
}

#[derive(Debug, Default)]
struct Result_ {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    exit: Option<Exit>,
    failure: Option<Failure>,
}

impl Host {
    fn start(exec: Exec, cgroups: Option<Cgroups>) -> Self {
        Self::start_with(exec, cgroups, Arc::new(Secrets::new("/nonexistent")))
    }

    fn start_with(exec: Exec, cgroups: Option<Cgroups>, secrets: Arc<Secrets>) -> Self {
        let (host, agent) = UnixStream::pair().unwrap();
        host.set_read_timeout(Some(PATIENCE)).unwrap();
        let staging = crate::staging::Staging::new("/nonexistent/staging");
        let authorities = Authorities::new("/nonexistent", "/nonexistent");
        let server = Server::new(Executor { reaper: reaper(), cgroups, secrets, authorities }, staging);
        let agent = std::thread::spawn(move || server.serve(Connection::new(agent.into())));
        let mut host = Self { socket: host, decoder: Decoder::new(), agent, credit: 0 };
        host.send(
            FrameKind::Request,
            &serde_json::to_vec(&wire::Request::new(Operation::Exec(exec))).unwrap(),
        );
        host
    }

    fn send(&mut self, kind: FrameKind, payload: &[u8]) {
        use std::io::Write as _;
        self.socket.write_all(&wire::emit_frame(kind, payload)).unwrap();
    }

    fn next(&mut self) -> (FrameKind, Vec<u8>) {
        use std::io::Read as _;
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return frame;
            }
            let mut chunk = [0; 4096];
            let len = self.socket.read(&mut chunk).expect("the agent answers in time");
            assert_ne!(len, 0, "the agent closed before the end");
            self.decoder.feed(&chunk[..len]);
        }
    }

    /// Frames up to this kind; gives its payload.
    fn until(&mut self, kind: FrameKind) -> Vec<u8> {
        loop {
            let (found, payload) = self.next();
            if found == kind {
                return payload;
            }
        }
    }

    fn started(&mut self) -> i32 {
        serde_json::from_slice::<Started>(&self.until(FrameKind::Started)).unwrap().pid
    }

    fn finish(mut self) -> Result_ {
        let mut result = Result_::default();
        while result.exit.is_none() && result.failure.is_none() {
            let (kind, payload) = self.next();
            match kind {
                FrameKind::Stdout => result.stdout.extend(payload),
                FrameKind::Stderr => result.stderr.extend(payload),
                FrameKind::StdinCredit => self.credit += serde_json::from_slice::<usize>(&payload).unwrap(),
                FrameKind::Started => {}
                FrameKind::Exit => result.exit = Some(serde_json::from_slice(&payload).unwrap()),
                FrameKind::Error => result.failure = Some(serde_json::from_slice(&payload).unwrap()),
                other => panic!("{other:?} from the agent"),
            }
        }
        drop(self.socket);
        self.agent.join().unwrap();
        result
    }
}

fn exec(argv: &[&str]) -> Exec {
    Exec {
        argv: argv.iter().map(|text| (*text).to_owned()).collect(),
        env: Vec::new(),
        cwd: Some("/".to_owned()),
        user: Some(rustix::process::getuid().as_raw().to_string()),
        stdin: false,
        tty: None,
        timeout_ms: None,
        secret_env: Vec::new(),
        confined: false,
    }
}

fn shell(text: &str) -> Exec {
    exec(&["/bin/sh", "-c", text])
}

fn run(exec: Exec) -> Result_ {
    Host::start(exec, None).finish()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap().trim_end()
}

/// Waits until a process is gone, by its pidfd: no polling of its id.
fn await_death(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
        Ok(fd) => assert!(wait(fd.as_fd(), PollFlags::IN, PATIENCE).unwrap(), "process {pid:?} lives on"),
        Err(error) => assert_eq!(error, rustix::io::Errno::SRCH),
    }
}

#[test]
fn streams_come_apart_with_the_exit_code() {
    let result = run(shell("echo out; echo err >&2; exit 7"));
    assert_eq!((text(&result.stdout), text(&result.stderr)), ("out", "err"));
    assert_eq!(result.exit.unwrap().code, Some(7));
}

#[test]
fn a_signal_that_ends_the_command_is_told() {
    let exit = run(shell("kill -TERM $$")).exit.unwrap();
    assert_eq!((exit.code, exit.signal, exit.status()), (None, Some(15), 143));
}

#[test]
fn arguments_environment_and_directory_arrive_as_given() {
    let mut request =
        exec(&["sh", "-c", "printf '%s|' \"$@\" \"$KEY\" \"$HOME\" \"$PWD\"", "sh", "a b", "", "ö"]);
    request.env = vec![("KEY".into(), "v=1".into()), ("HOME".into(), "/h".into())];
    request.cwd = Some("/usr".into());
    assert_eq!(text(&run(request).stdout), "a b||ö|v=1|/h|/usr|");
}

#[test]
fn output_larger_than_every_buffer_arrives_whole_and_in_order() {
    let result = run(shell("i=0; while [ $i -lt 40000 ]; do echo line $i; i=$((i+1)); done"));
    let wanted: String = (0..40000).map(|i| format!("line {i}\n")).collect();
    assert!(text(&result.stdout) == wanted.trim_end(), "{} bytes", result.stdout.len());
}

#[test]
fn stdin_reaches_the_command_and_its_credit_comes_back() {
    let mut request = exec(&["/bin/cat"]);
    request.stdin = true;
    let mut host = Host::start(request, None);
    let sent: Vec<u8> = (0..STDIN_WINDOW_BYTES).map(|at| (at % 253) as u8).collect();
    let mut echoed = Vec::new();
    for chunk in sent.chunks(50_000) {
        host.send(FrameKind::Stdin, chunk);
        while echoed.len() < chunk.len() {
            match host.next() {
                (FrameKind::Stdout, bytes) => echoed.extend(bytes),
                (FrameKind::StdinCredit, n) => host.credit += serde_json::from_slice::<usize>(&n).unwrap(),
                _ => {}
            }
        }
        assert!(echoed == chunk);
        echoed.clear();
    }
    host.send(FrameKind::Stdin, &[]);
    let credit = host.credit;
    let result = host.finish();
    assert_eq!(result.exit.unwrap().code, Some(0));
    assert!(credit > 0 && credit <= sent.len());
}

#[test]
fn a_signal_passes_input_that_the_command_never_reads() {
    let mut request = shell("trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done");
    request.stdin = true;
    let mut host = Host::start(request, None);
    host.until(FrameKind::Stdout);
    host.send(FrameKind::Stdin, &vec![b'x'; STDIN_WINDOW_BYTES]);
    host.send(FrameKind::Signal, b"10");
    assert_eq!(host.finish().exit.unwrap().code, Some(9));
}

#[test]
fn a_command_that_closes_its_input_does_not_stop_the_exec() {
    let mut request = shell("exec 0<&-; echo closed; sleep 0.1");
    request.stdin = true;
    let mut host = Host::start(request, None);
    host.until(FrameKind::Stdout);
    host.send(FrameKind::Stdin, &vec![0; 200_000]);
    assert_eq!(host.finish().exit.unwrap().code, Some(0));
}

#[test]
fn a_timeout_keeps_the_output_so_far_and_kills_the_descendants() {
    let mut request = shell("sleep 1000 & echo $!; sleep 1000");
    request.timeout_ms = Some(300);
    let result = run(request);
    let exit = result.exit.unwrap();
    assert!(exit.timed_out && exit.duration_ms < 20_000, "{exit:?}");
    assert_eq!(exit.status(), 124);
    await_death(text(&result.stdout).parse().unwrap());
}

#[test]
fn background_holders_of_the_pipes_do_not_hold_up_the_exec() {
    let started = Instant::now();
    let result = run(shell("sleep 1000 & echo $!"));
    assert_eq!(result.exit.unwrap().code, Some(0));
    assert!(started.elapsed() < Duration::from_secs(20));
    await_death(text(&result.stdout).parse().unwrap());
}

#[test]
fn what_background_writers_finish_at_once_is_still_delivered() {
    let result = run(shell("(sleep 0.02; echo late) & exit 0"));
    assert_eq!(text(&result.stdout), "late");
}

#[test]
fn a_host_that_leaves_takes_the_tree_with_it() {
    let mut host = Host::start(shell("sleep 1000 & echo $!; wait"), None);
    let pid = text(&host.until(FrameKind::Stdout)).parse().unwrap();
    drop(host.socket);
    host.agent.join().unwrap();
    await_death(pid);
}

#[test]
fn a_host_that_reads_slowly_gets_everything() {
    let mut host = Host::start(shell("head -c 2000000 /dev/zero; echo end >&2"), None);
    host.started();
    std::thread::yield_now();
    let result = host.finish();
    assert_eq!((result.stdout.len(), text(&result.stderr)), (2_000_000, "end"));
}

#[test]
fn failures_to_execute_say_what_was_missing() {
    let code = |request| run(request).failure.map(|failure| failure.code);
    assert_eq!(code(exec(&["no-such-program"])), Some(FailureCode::NotFound));
    assert_eq!(code(exec(&["/no/such/program"])), Some(FailureCode::NotFound));
    assert_eq!(code(exec(&["/etc/passwd"])), Some(FailureCode::PermissionDenied));
    assert_eq!(code(exec(&[])), Some(FailureCode::BadRequest));
    let mut request = shell("true");
    request.cwd = Some("/no/such/directory".into());
    assert_eq!(code(request.clone()), Some(FailureCode::NotFound));
    request.cwd = Some("/etc/passwd".into());
    assert_eq!(code(request.clone()), Some(FailureCode::NotFound));
    request.cwd = None;
    request.user = Some("no-such-user".into());
    assert_eq!(code(request.clone()), Some(FailureCode::NotFound));
    request.user = None;
    request.env = vec![("A=B".into(), String::new())];
    assert_eq!(code(request), Some(FailureCode::BadRequest));
}

#[test]
fn a_script_without_its_interpreter_is_told_from_a_missing_file() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let failure = run(exec(&[script.to_str().unwrap()])).failure.unwrap();
    assert_eq!(failure.code, FailureCode::NotFound);
    assert!(failure.message.contains("interpreter"), "{}", failure.message);
}

#[test]
fn a_terminal_has_its_size_echoes_and_hangs_up() {
    let mut request = shell("stty size; read line; stty size; echo got $line; tty >&2");
    request.tty = Some(TtySize { cols: 91, rows: 33 });
    request.stdin = true;
    let mut host = Host::start(request, None);
    let first = host.until(FrameKind::Stdout);
    assert!(text(&first).starts_with("33 91"), "{first:?}");
    host.send(FrameKind::Resize, br#"{"cols":100,"rows":40}"#);
    host.send(FrameKind::Stdin, b"hello\n");
    let result = host.finish();
    let seen = text(&result.stdout);
    assert!(seen.contains("40 100") && seen.contains("got hello") && seen.contains("/dev/pts/"), "{seen}");
    assert_eq!((result.stderr.len(), result.exit.unwrap().code), (0, Some(0)));
}

#[test]
fn interrupts_go_to_the_terminals_foreground_group() {
    let mut request = shell("trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done");
    request.tty = Some(TtySize { cols: 80, rows: 24 });
    request.stdin = true;
    let mut host = Host::start(request, None);
    host.until(FrameKind::Stdout);
    host.send(FrameKind::Stdin, b"\x03");
    assert_eq!(host.finish().exit.unwrap().code, Some(3));
}

#[test]
fn a_running_exec_does_not_hold_up_another() {
    let mut long = Host::start(shell("echo up; sleep 1000"), None);
    long.until(FrameKind::Stdout);
    let statuses: BTreeMap<i32, Option<i32>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|n| scope.spawn(move || (n, run(shell(&format!("exit {n}"))).exit.unwrap().code)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(statuses, (0..8).map(|n| (n, Some(n))).collect());
    long.send(FrameKind::Signal, b"9");
    assert_eq!(long.finish().exit.unwrap().signal, Some(9));
}

#[test]
fn a_cgroup_catches_what_leaves_its_session_and_is_removed() {
    let Some(base) = cgroup_base("daemons") else {
        println!("skipped (no cgroup2 directory that this user may change)");
        return;
    };
    let mut request = shell("setsid sh -c 'setsid sleep 1000 & echo $!' & wait; sleep 1000");
    request.timeout_ms = Some(500);
    let result = Host::start(request, Some(Cgroups::open(&base).unwrap())).finish();
    assert!(result.exit.unwrap().timed_out);
    await_death(text(&result.stdout).parse().unwrap());
    let left: Vec<_> = std::fs::read_dir(&base)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    std::fs::remove_dir(&base).unwrap();
}

#[test]
fn a_whole_tree_is_asked_to_end_and_given_time_for_it() {
    let Some(base) = cgroup_base("stop") else {
        println!("skipped (no cgroup2 directory that this user may change)");
        return;
    };
    // The other one is in a session of its own, and needs longer than what a command's rest is given.
    let other = "trap 'sleep 0.5; echo done; exit' TERM; echo up; while :; do sleep 0.05; done";
    let text_of_it = format!("setsid sh -c \"{other}\" & exec sleep 1000");
    let mut host = Host::start(shell(&text_of_it), Some(Cgroups::open(&base).unwrap()));
    assert_eq!(host.until(FrameKind::Stdout), b"up\n");
    host.send(FrameKind::SignalTree, b"15");
    let result = host.finish();
    assert_eq!((text(&result.stdout), result.exit.unwrap().signal), ("done", Some(15)));
    std::fs::remove_dir(&base).unwrap();
}

#[test]
fn orphans_that_nobody_waits_for_are_reaped() {
    rustix::process::set_child_subreaper(Some(rustix::process::Pid::INIT)).unwrap();
    // Out of the session, so that the tree's end does not kill it and it becomes this process's child.
    let result = run(shell("setsid sh -c 'sh -c \"echo \\$\\$; exec sleep 0.3\" >&3 3>&- & exit' 3>&1"));
    let pid: i32 = text(&result.stdout).parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH) {
        assert!(Instant::now() < deadline, "{pid:?} stays a zombie");
        std::thread::yield_now();
    }
}

fn with_secrets(items: &[(&str, &str)]) -> (tempfile::TempDir, Arc<Secrets>) {
    use std::io::Write as _;
    let home = tempfile::tempdir().unwrap();
    let secrets = Arc::new(Secrets::new(home.path().join("secrets")));
    let (mut host, agent) = UnixStream::pair().unwrap();
    let mut records = Vec::new();
    for (name, value) in items {
        let item = wire::SecretItem { name: (*name).into(), value: value.as_bytes().to_vec() };
        item.emit(&mut records);
    }
    host.write_all(&wire::emit_frame(FrameKind::Data, &records)).unwrap();
    host.write_all(&wire::emit_frame(FrameKind::Data, &[])).unwrap();
    secrets.install(&mut Connection::new(agent.into())).unwrap();
    (home, secrets)
}

#[test]
fn secrets_reach_the_command_and_are_redacted_from_both_streams() {
    let (_home, secrets) = with_secrets(&[("TOKEN", "hunter2"), ("LONG", "hunter2-and-more")]);
    let script = r#"test "$API" = hunter2 || exit 9; printf hun; sleep 0.05; printf 'ter2 %s' "$L"; printf 'e %s hunt' "$API" >&2"#;
    let mut request = shell(script);
    request.env = vec![("API".into(), "overridden".into())];
    request.secret_env = vec![("TOKEN".into(), "API".into()), ("LONG".into(), "L".into())];
    let result = Host::start_with(request, None, Arc::clone(&secrets)).finish();
    assert_eq!(result.exit.unwrap().code, Some(0));
    assert_eq!((text(&result.stdout), text(&result.stderr)), ("[REDACTED] [REDACTED]", "e [REDACTED] hunt"));
    let mut request = shell("true");
    request.secret_env = vec![("NONE".into(), "X".into())];
    let failure = Host::start_with(request, None, secrets).finish().failure.unwrap();
    assert_eq!(failure.code, FailureCode::BadRequest);
    assert_eq!(failure.message, r#"secret_env references unknown workspace secret "NONE""#);
}

#[test]
fn a_secret_that_cannot_be_a_variable_is_refused_without_its_value() {
    let (_home, secrets) = with_secrets(&[("BINARY", "hunter\0two")]);
    let mut request = shell("true");
    request.secret_env = vec![("BINARY".into(), "X".into())];
    let failure = Host::start_with(request, None, secrets).finish().failure.unwrap();
    assert!(failure.message.contains("BINARY") && !failure.message.contains("hunter"), "{failure:?}");
}

#[test]
fn redacted_output_larger_than_every_buffer_arrives_whole() {
    let (_home, secrets) = with_secrets(&[("S", "17")]);
    let script = "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done";
    let result = Host::start_with(shell(script), None, secrets).finish();
    let wanted: String = (0..20000).map(|i| format!("{i}\n").replace("17", "[REDACTED]")).collect();
    assert!(result.stdout == wanted.as_bytes(), "{} bytes", result.stdout.len());
}

#[test]
fn an_echo_does_not_wait_for_the_next_letter_of_what_may_be_a_secret() {
    let (_home, secrets) = with_secrets(&[("TOKEN", "hunter2")]);
    let mut request =
        shell("stty -echo; printf ready; head -c 1 > /dev/null; printf hu; read x; printf 'nter2.'");
    request.tty = Some(TtySize { cols: 80, rows: 24 });
    request.stdin = true;
    request.secret_env = vec![("TOKEN".into(), "X".into())];
    let mut host = Host::start_with(request, None, secrets);
    assert_eq!(text(&host.until(FrameKind::Stdout)), "ready");
    host.send(FrameKind::Stdin, b"\n");
    // Nothing else comes before the rest is asked for.
    assert_eq!(text(&host.until(FrameKind::Stdout)), "hu");
    host.send(FrameKind::Stdin, b"\n");
    assert_eq!(text(&host.finish().stdout), "[REDACTED].");
}
