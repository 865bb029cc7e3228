//! Shells in real guests of `debian:12`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use support::{Pyro, Ran, guest_available, wait_until};

/// A `pyro` with one workspace, which is deleted at the end, also of a test that fails.
struct Host {
    pyro: Pyro,
    id: String,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.pyro.run(&["workspace", "delete", "--all"]);
    }
}

const SECRET: &str = "hunter2-and-more";

impl Host {
    fn new() -> Self {
        let mut host = Self { pyro: Pyro::new(), id: String::new() };
        let secret = format!("TOKEN={SECRET}");
        let create = ["create", "debian:12", "--id-only", "--mem-mib", "512", "--secret", &secret];
        host.id = host.done(&create).trim_end().to_owned();
        host
    }

    fn workspace(&self, arguments: &[&str]) -> Ran {
        self.pyro.run(&[&["workspace"], arguments].concat())
    }

    /// The standard output of a command that must succeed.
    fn done(&self, arguments: &[&str]) -> String {
        let ran = self.workspace(arguments);
        assert_eq!(ran.code, Some(0), "{arguments:?}: {ran:?}");
        ran.stdout
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.done(&[arguments, &["--json"]].concat())).unwrap()
    }

    fn open(&self, arguments: &[&str]) -> Shell<'_> {
        let id = self.done(&[&["shell", "open", &self.id, "--id-only"], arguments].concat());
        let shell = Shell { host: self, id: id.trim_end().to_owned() };
        shell.read(0, &["--wait-for-prompt"]);
        shell
    }

    /// The one error line of a command that must be refused, and its exit code.
    fn refused(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let ran = self.workspace(&[&["shell"], arguments].concat());
        assert_eq!(ran.stdout, "", "{arguments:?}: {ran:?}");
        (ran.code, ran.stderr.lines().next().unwrap_or_default().to_owned())
    }

    fn count(&self) -> u64 {
        self.json(&["status", &self.id])["shell_count"].as_u64().unwrap()
    }
}

/// An open shell.
struct Shell<'a> {
    host: &'a Host,
    id: String,
}

impl Shell<'_> {
    fn write(&self, text: &str) {
        self.host.done(&["shell", "write", &self.host.id, &self.id, "--input", text]);
    }

    fn read(&self, cursor: u64, arguments: &[&str]) -> Value {
        let cursor = cursor.to_string();
        let read = ["shell", "read", &self.host.id, &self.id, "--cursor", &cursor];
        self.host.json(&[&read, arguments].concat())
    }

    /// What a command leaves on the screen, after the line that it was typed in.
    fn command(&self, text: &str) -> String {
        let before = cursor(&self.read(0, &["--max-chars", "1048576", "--wait-for-prompt"]));
        self.write(text);
        let read = self.read(before, &["--plain", "--wait-for-prompt", "--wait-seconds", "60"]);
        let output = read["output"].as_str().unwrap().to_owned();
        let (_, output) = output.split_once('\n').unwrap();
        output.strip_suffix("pyro$").unwrap_or_else(|| panic!("{output:?}")).trim_end().to_owned()
    }

    fn signal(&self, name: &str) {
        self.host.done(&["shell", "signal", &self.host.id, &self.id, "--signal", name]);
    }

    fn close(&self) -> Value {
        self.host.json(&["shell", "close", &self.host.id, &self.id])
    }
}

fn cursor(read: &Value) -> u64 {
    read["next_cursor"].as_u64().unwrap()
}

#[test]
fn the_transcripts_lines_come_on_the_transcripts_streams() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let id = host.id.as_str();
    let line = |done: &str, shell: &str| {
        format!(
            "[workspace-shell-{done}] workspace_id={id} shell_id={shell} state=running cwd=/workspace cols=120 \
             rows=30 execution_mode=guest_vsock\n"
        )
    };
    let opened = host.workspace(&["shell", "open", id, "--secret-env", "TOKEN"]);
    assert_eq!((opened.code, opened.stdout.as_str()), (Some(0), ""), "{opened:?}");
    let shell = opened.stderr.split_once("shell_id=").unwrap().1[..12].to_owned();
    assert_eq!(opened.stderr, line("open", &shell));
    // On a slow host it begins only now, and the prompt that is waited for below would be its first.
    host.json(&["shell", "read", id, &shell, "--wait-for-prompt"]);
    let wrote = host.workspace(&["shell", "write", id, &shell, "--input", "pwd"]);
    assert_eq!((wrote.code, wrote.stdout.as_str()), (Some(0), ""), "{wrote:?}");
    assert_eq!(wrote.stderr, line("write", &shell));
    let waited = host.json(&["shell", "read", id, &shell, "--wait-for-prompt"]);
    let next = cursor(&waited);
    assert!(waited["output"].as_str().unwrap().contains("\r/workspace\r\n"), "{waited}");
    let read = host.workspace(&["shell", "read", id, &shell]);
    assert!(read.stdout.contains("\r/workspace\r\n"), "{read:?}");
    assert_eq!(
        read.stderr,
        format!(
            "[workspace-shell-read] workspace_id={id} shell_id={shell} state=running cursor=0 \
             next_cursor={next} truncated=False execution_mode=guest_vsock\n"
        )
    );
    assert_eq!(host.workspace(&["shell", "signal", id, &shell]).stderr, line("signal", &shell));
    let closed = host.workspace(&["shell", "close", id, &shell]);
    assert_eq!((closed.code, closed.stdout.as_str()), (Some(0), ""), "{closed:?}");
    assert_eq!(closed.stderr, line("close", &shell).replace("state=running", "state=stopped"));
    assert_eq!(host.done(&["shell", "list", id]), "No shells.\n");
}

#[test]
fn a_shell_is_read_as_a_person_would_see_it() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let shell = host.open(&["--secret-env", "TOKEN", "--cols", "100"]);
    let progress = r#"for p in 10 50 100; do printf '\r\033[32m%d%%\033[0m' $p; done; echo; echo done"#;
    assert_eq!(shell.command(progress), "100%\ndone");
    assert_eq!(shell.command("cd /tmp && pwd; tput cols"), "/tmp\n100");
    assert_eq!(shell.command("printf '日本語\\n'; printf 'a\\tb\\n'"), "日本語\na       b");
    let long = "x".repeat(250);
    assert_eq!(shell.command(&format!("printf '%s\\n' {long}")).lines().last(), Some(long.as_str()));

    secrets_are_hidden_however_they_come(&shell);
    a_full_screen_program_is_its_screen(&shell);
    a_flood_is_kept_as_far_as_it_goes_and_the_loss_is_told(&shell);
    waits_end_with_what_they_wait_for(&shell);
    bytes_that_are_no_text_are_told_exactly(&shell);
}

fn secrets_are_hidden_however_they_come(shell: &Shell<'_>) {
    assert_eq!(shell.command("echo \"<$TOKEN>\""), "<[REDACTED]>");
    // Letter by letter, with a read in between each.
    let letters = "for i in $(seq 0 15); do printf %s \"${TOKEN:$i:1}\"; sleep 0.1; done; echo";
    let before = cursor(&shell.read(0, &["--max-chars", "1048576"]));
    shell.write(letters);
    let (mut at, mut raw) = (before, String::new());
    while !raw.contains("[REDACTED]") || !raw.ends_with("pyro$ ") {
        let read = shell.read(at, &["--wait-for-idle-ms", "30"]);
        (at, raw) = (cursor(&read), raw + read["output"].as_str().unwrap());
    }
    assert!(raw.contains("[REDACTED]"), "{raw:?}");
    assert!(!raw.contains(&SECRET[3..]) && !raw.contains(&SECRET[..5]), "{raw:?}");
}

fn a_full_screen_program_is_its_screen(shell: &Shell<'_>) {
    shell.command("seq 1000 > /tmp/numbers");
    let before = cursor(&shell.read(0, &["--max-chars", "1048576"]));
    shell.write("less /tmp/numbers");
    let read = shell.read(before, &["--plain", "--wait-for", "/^29\\n/"]);
    assert_eq!(read["wait_satisfied"], true, "{read}");
    shell.host.done(&["shell", "write", &shell.host.id, &shell.id, "--input", "G", "--no-newline"]);
    let read = shell.read(cursor(&read), &["--plain", "--wait-for", "(END)"]);
    let screen: Vec<String> = (972..=1000).map(|number| number.to_string()).chain(["(END)".into()]).collect();
    assert_eq!(read["output"].as_str().unwrap(), screen.join("\n"));
    shell.host.done(&["shell", "write", &shell.host.id, &shell.id, "--input", "q", "--no-newline"]);
    shell.read(0, &["--wait-for-prompt"]);
    assert_eq!(shell.command("echo back"), "back");
}

fn a_flood_is_kept_as_far_as_it_goes_and_the_loss_is_told(shell: &Shell<'_>) {
    let before = cursor(&shell.read(0, &["--max-chars", "1048576"]));
    shell.write("seq 600000");
    let read = shell.read(before, &["--wait-for-prompt", "--wait-seconds", "120", "--max-chars", "100"]);
    assert_eq!(
        (&read["wait_satisfied"], &read["truncated"], &read["more"]),
        (&true.into(), &true.into(), &true.into())
    );
    let lost = read["lost_bytes"].as_u64().unwrap();
    assert!(lost > 3_000_000, "{read}");
    assert_eq!(read["output"].as_str().unwrap().len(), 100);
    let read = shell.read(before + lost, &["--max-chars", "1048576"]);
    assert_eq!((&read["lost_bytes"], &read["truncated"]), (&0.into(), &false.into()));
    assert!(read["output"].as_str().unwrap().contains("\r\n599999\r\n600000\r\n"));
    let plain = shell.read(cursor(&read) - 10, &["--plain"]);
    assert!(plain["output"].as_str().unwrap().ends_with("600000\npyro$"), "{plain}");
}

fn waits_end_with_what_they_wait_for(shell: &Shell<'_>) {
    let before = cursor(&shell.read(0, &["--max-chars", "1048576"]));
    let read = ["shell", "read", &shell.host.id, &shell.id, "--cursor", &before.to_string()];
    let never =
        shell.host.workspace(&[&read[..], &["--wait-for", "never-ever", "--wait-seconds", "1"]].concat());
    assert_eq!(never.code, Some(124), "{never:?}");
    assert!(never.stderr.contains(" wait_satisfied=False "), "{never:?}");
    shell.write("read line; echo got $line; sleep 1000");
    // A program that waits for input is no prompt.
    let asked = shell.host.workspace(&[&read[..], &["--wait-for-prompt", "--wait-seconds", "1"]].concat());
    assert_eq!(asked.code, Some(124), "{asked:?}");
    shell.write("this");
    let got = shell.read(before, &["--wait-for", "/^got t.is\r?$/"]);
    assert_eq!(got["wait_satisfied"], true);
    shell.signal("INT");
    let prompt = shell.read(before, &["--wait-for-prompt"]);
    assert_eq!((&prompt["wait_satisfied"], &prompt["state"]), (&true.into(), &"running".into()));
}

fn bytes_that_are_no_text_are_told_exactly(shell: &Shell<'_>) {
    let before = cursor(&shell.read(0, &["--max-chars", "1048576"]));
    shell.write(r"printf '<\377\376>\n'");
    let read = shell.read(before, &["--wait-for-prompt"]);
    assert!(read["output"].as_str().unwrap().contains("<\u{fffd}\u{fffd}>"), "{read}");
    assert!(read["output_base64"].as_str().unwrap().len() > 8, "{read}");
}

#[test]
fn signals_reach_the_job_in_the_foreground_and_a_close_ends_everything() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let shell = host.open(&[]);
    let before = cursor(&shell.read(0, &[]));
    shell.write(
        "sh -c 'trap \"echo caught; exit 7\" USR1; echo up; while :; do sleep 0.05; done'; echo code $?",
    );
    shell.read(before, &["--wait-for", "/^up/"]);
    shell.signal("SIGUSR1");
    let read = shell.read(before, &["--wait-for", "/^code 7/"]);
    assert_eq!(read["wait_satisfied"], true, "{read}");

    // The foreground job does not mind being hung up, and another one has left the terminal.
    shell.write("setsid sleep 1111 & trap '' HUP; sleep 2222");
    wait_until("both to run", || host.done(&["exec", &host.id, "--", "pgrep", "-c", "sleep"]) == "2\n");
    let closed = shell.close();
    assert_eq!((&closed["closed"], &closed["state"]), (&true.into(), &"stopped".into()));
    let left = host.workspace(&["exec", &host.id, "--", "pgrep", "-c", "sleep"]);
    assert_eq!(left.stdout, "0\n", "{left:?}");
    let gone = format!("[error] shell '{}' does not exist in workspace '{}'", shell.id, host.id);
    assert_eq!(host.refused(&["read", &host.id, &shell.id]), (Some(1), gone));

    let ended = host.open(&[]);
    ended.write("exit 5");
    let read = ended.read(0, &["--wait-for-idle-ms", "10000"]);
    assert_eq!((&read["state"], &read["exit_code"]), (&"stopped".into(), &5.into()), "{read}");
}

#[test]
fn fifty_shells_live_at_once_and_hold_each_their_own() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let shells: Vec<String> = std::thread::scope(|scope| {
        let open = || host.done(&["shell", "open", &host.id, "--id-only"]).trim_end().to_owned();
        let threads: Vec<_> = (0..50).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let shells: Vec<Shell<'_>> = shells.into_iter().map(|id| Shell { host: &host, id }).collect();
    assert_eq!(host.count(), 50);
    std::thread::scope(|scope| {
        for (number, shell) in shells.iter().enumerate() {
            scope.spawn(move || shell.write(&format!("n={number}; sleep 0.$((n % 10)); echo number $n.")));
        }
    });
    for (number, shell) in shells.iter().enumerate() {
        let read = shell
            .read(0, &["--plain", "--wait-for", &format!("\nnumber {number}."), "--wait-seconds", "120"]);
        assert_eq!(read["wait_satisfied"], true, "{read}");
    }
    for _ in 50..64 {
        host.done(&["shell", "open", &host.id, "--id-only"]);
    }
    let many = host.refused(&["open", &host.id]);
    assert_eq!(many, (Some(1), "[error] 64 shells are open in this workspace already".to_owned()));
    shells[0].close();
    host.done(&["shell", "open", &host.id]);
    host.done(&["stop", &host.id]);
    assert_eq!((host.count(), host.done(&["shell", "list", &host.id])), (0, "No shells.\n".to_owned()));
}

#[test]
fn shells_outlive_the_command_line_and_end_with_the_machine() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let id = host.id.as_str();
    let shell = host.open(&[]);
    let reader = ["workspace", "shell", "read", id, &shell.id, "--wait-for", "never"];
    let mut reader = host.pyro.command(&reader).stdout(Stdio::piped()).spawn().unwrap();
    shell.write("x=kept");
    reader.kill().unwrap();
    reader.wait().unwrap();
    assert_eq!(shell.command("echo $x"), "kept");
    assert!(host.done(&["list"]).contains(" shells=1"));
    assert!(host.done(&["summary", id]).contains("\nShells: 1 open\n"));

    // Whoever waits when the machine ends is told at once.
    let read = ["workspace", "shell", "read", id, &shell.id, "--wait-for", "never", "--wait-seconds", "3600"];
    let supervisor_files = format!("/proc/{}/fd", host.pyro.supervisor());
    let files = || std::fs::read_dir(&supervisor_files).unwrap().count();
    let before = files();
    let reader = spawn(&host.pyro, &read);
    wait_until("the reader to be let in", || files() > before);
    host.done(&["stop", id]);
    let told = Ran::from(reader.wait_with_output().unwrap());
    // Of its shell, which ends first, or of the machine.
    match told.code {
        Some(124) => assert!(told.stderr.contains(" state=stopped "), "{told:?}"),
        code => {
            assert_eq!(code, Some(3), "{told:?}");
            assert!(told.stderr.starts_with("[error] the machine ended: it was stopped"), "{told:?}");
        }
    }
    let stopped = format!("[error] workspace {id} must be in 'started' state before shell operations");
    assert_eq!(host.refused(&["open", id]), (Some(1), stopped.clone()));
    assert_eq!(host.refused(&["read", id, &shell.id]), (Some(1), stopped));

    host.done(&["start", id]);
    assert_eq!(host.count(), 0);
    let shell = host.open(&[]);
    host.done(&["reset", id]);
    assert_eq!(host.refused(&["read", id, &shell.id]).0, Some(1));

    // A supervisor that is killed leaves rows, which the next look removes.
    host.open(&[]);
    let pid = i32::try_from(host.pyro.supervisor()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    wait_until("the machine to be settled", || host.json(&["status", id])["state"] == "stopped");
    assert_eq!(host.count(), 0);
    host.done(&["start", id]);
    host.open(&[]);
    host.done(&["delete", id]);
    assert_eq!(host.refused(&["list", id]).0, Some(1));
}

fn spawn(pyro: &Pyro, arguments: &[&str]) -> Child {
    pyro.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn bad_input_is_one_clear_error_and_leaves_nothing() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let id = host.id.as_str();
    let shell = host.open(&[]);
    let sh = shell.id.as_str();
    for (arguments, text) in [
        (&["open", id, "--cwd", "missing"][..], "working directory \"/workspace/missing\""),
        (&["open", id, "--cwd", "/etc"], "workspace path must stay inside /workspace: /etc"),
        (&["open", id, "--cols", "1"], "cols must be between 2 and 500, not 1"),
        (&["open", id, "--rows", "201"], "rows must be between 2 and 200, not 201"),
        (&["open", id, "--secret-env", "NONE"], "secret_env references unknown workspace secret \"NONE\""),
        (&["open", "nowhere"], "workspace 'nowhere' does not exist"),
        (&["read", id, "ffffffffffff"], "shell 'ffffffffffff' does not exist in workspace"),
        (&["read", id, ""], "shell '' does not exist in workspace"),
        (&["read", id, sh, "--cursor", "999999"], "cursor 999999 is beyond the end of the shell's output"),
        (&["read", id, sh, "--max-chars", "0"], "max_chars must be between 1 and 1048576, not 0"),
        (&["read", id, sh, "--wait-for-idle-ms", "10001"], "wait_for_idle_ms must be between 1 and 10000"),
        (&["read", id, sh, "--wait-for", "/(/"], "the pattern cannot be used"),
        (&["read", id, sh, "--wait-for", ""], "the text to wait for must not be empty"),
        (&["resize", id, sh, "--cols", "0", "--rows", "5"], "cols must be between 2 and 500, not 0"),
        (&["attach", id, sh], "attach needs a terminal, but standard input or output is none"),
    ] {
        let (code, line) = host.refused(arguments);
        assert_eq!(code, Some(1), "{arguments:?}: {line}");
        assert!(line.starts_with(&format!("[error] {text}")), "{arguments:?}: {line}");
    }
    assert_eq!(host.count(), 1);
    let ran = host.workspace(&["shell", "read", id, "none", "--json"]);
    let error: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&error["ok"], &error["error"]["code"]), (&false.into(), &"no_such_shell".into()));
    assert_eq!((error["error"]["blame"].as_str(), ran.code), (Some("caller"), Some(1)));
    // A unique beginning of its id is enough.
    assert_eq!(host.json(&["shell", "read", id, &sh[..11]])["shell_id"], sh);
    shell.write("exit 3");
    assert_eq!(shell.read(0, &["--wait-for-idle-ms", "5000"])["exit_code"], 3);
    let ended = format!("[error] shell {sh} is not running");
    for arguments in [
        &["write", id, sh, "--input", "x"][..],
        &["signal", id, sh],
        &["resize", id, sh, "--cols", "80", "--rows", "24"],
    ] {
        assert_eq!(host.refused(arguments), (Some(1), ended.clone()), "{arguments:?}");
    }
    assert_eq!(shell.close()["exit_code"], 3);
}

/// A terminal multiplexer of the host with one window, driven as a person would.
struct Screen {
    directory: tempfile::TempDir,
}

impl Screen {
    fn start(host: &Host, shell: &Shell<'_>, cols: u16, rows: u16) -> Option<Self> {
        if Command::new("tmux").arg("-V").output().is_err() {
            println!("skipped (no tmux)");
            return None;
        }
        let screen = Self { directory: tempfile::tempdir().unwrap() };
        let pyro = env!("CARGO_BIN_EXE_pyro");
        let attach =
            format!("'{pyro}' workspace shell attach {} {}; echo code $?; exec cat", host.id, shell.id);
        let (cols, rows) = (cols.to_string(), rows.to_string());
        let state = format!("PYRO_STATE_DIR={}", host.pyro.state.path().display());
        screen.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-e",
            &state,
            "-x",
            &cols,
            "-y",
            &rows,
            &attach,
        ]);
        Some(screen)
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.directory.path().join("socket")).args(arguments).env_remove("TMUX");
        let output = command.env("LANG", "C.UTF-8").output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// The screen's lines, without blanks at their ends.
    fn lines(&self) -> Vec<String> {
        self.tmux(&["capture-pane", "-p"]).lines().map(|line| line.trim_end().to_owned()).collect()
    }

    fn wait_for(&self, what: &str, condition: impl Fn(&[String]) -> bool) -> Vec<String> {
        wait_until(what, || condition(&self.lines()));
        self.lines()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let socket = self.directory.path().join("socket");
        let _ = Command::new("tmux").arg("-S").arg(socket).arg("kill-server").output();
    }
}

#[test]
fn an_attached_terminal_shows_what_the_shell_shows() {
    if !guest_available() {
        return;
    }
    let host = Host::new();
    let shell = host.open(&["--cols", "132", "--rows", "40"]);
    shell.command("echo before");
    let Some(screen) = Screen::start(&host, &shell, 90, 20) else { return };
    screen.wait_for("the screen to be drawn", |lines| lines.iter().any(|line| line == "before"));
    screen.keys(&["stty size; printf '\\033[31m日本語\\033[m e\\314\\201\\n'", "Enter"]);
    screen.wait_for("the size", |lines| lines.iter().any(|line| line == "20 90"));
    let shown = screen.wait_for("the text", |lines| {
        lines.iter().any(|line| line == "日本語 é" || line == "日本語 e\u{301}")
    });
    assert!(shown.iter().any(|line| line.starts_with("pyro$ stty size;")), "{shown:?}");

    // A full-screen program, compared with what a plain reader is told.
    screen.keys(&["seq 500 > /tmp/n; less /tmp/n", "Enter"]);
    screen.wait_for("less", |lines| lines.first().is_some_and(|line| line == "1"));
    screen.keys(&["G"]);
    let shown = screen.wait_for("the end", |lines| lines.last().is_some_and(|line| line == "(END)"));
    let plain = shell.read(0, &["--plain", "--max-chars", "1048576"]);
    let told = plain["output"].as_str().unwrap();
    assert!(told.ends_with(&shown.join("\n")), "{told}\n---\n{}", shown.join("\n"));

    // The size follows, and the program draws anew.
    screen.tmux(&["resize-window", "-x", "60", "-y", "10"]);
    screen.wait_for("a smaller screen", |lines| {
        lines.len() == 10 && lines[..9].iter().zip(492..).all(|(line, number)| *line == number.to_string())
            || lines.len() == 10 && lines[8].parse::<u32>().is_ok()
    });
    // The terminal cuts what it shows before the shell hears of it.
    wait_until("the shell's size", || {
        let read = shell.read(0, &[]);
        (&read["cols"], &read["rows"]) == (&60.into(), &10.into())
    });

    // Detaching leaves the program where it is; attaching draws its screen again.
    screen.keys(&["C-p", "C-q"]);
    screen.wait_for("the end of attach", |lines| lines.iter().any(|line| line == "code 0"));
    assert_eq!(shell.read(0, &[])["state"], "running");
    let again = Screen::start(&host, &shell, 60, 10).unwrap();
    again.wait_for("the program's screen", |lines| lines.len() == 10 && lines[8].parse::<u32>().is_ok());
    again.keys(&["q"]);
    // The prompt is drawn by the shell, which reads what follows.
    let last = |lines: &[String]| lines.iter().rfind(|line| !line.is_empty()).cloned().unwrap_or_default();
    again.wait_for("the prompt", |lines| last(lines).starts_with("pyro$"));
    again.keys(&["cat", "Enter"]);
    again.wait_for("cat to read", |_| host.done(&["exec", &host.id, "--", "pgrep", "-c", "cat"]) == "1\n");
    again.keys(&["typed", "Enter"]);
    again.wait_for("the echo", |lines| lines.iter().filter(|line| *line == "typed").count() == 2);
    again.keys(&["C-c"]);
    again.wait_for("the prompt", |lines| last(lines).ends_with("pyro$"));
    again.keys(&["exit 6", "Enter"]);
    again.wait_for("the exit code", |lines| lines.iter().any(|line| line == "code 6"));
}
