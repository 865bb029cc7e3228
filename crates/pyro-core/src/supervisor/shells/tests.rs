use super::*;
use crate::exec::ExecRequest;
use crate::limits::SHELL_BYTES;
use crate::store::tests::Fixture;
use pyro_agent::wire::{self, FrameKind, HEADER_BYTES, Header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A workspace's shells, and the test as its guest.
struct Lab {
    shells: Shells,
    id: WorkspaceId,
    fixture: Fixture,
}

/// The guest's end of one shell.
struct Guest {
    stream: UnixStream,
}

impl Guest {
    async fn say(&mut self, kind: FrameKind, payload: &[u8]) {
        self.stream.write_all(&wire::emit_frame(kind, payload)).await.unwrap();
    }

    async fn print(&mut self, text: &str) {
        self.say(FrameKind::Stdout, text.as_bytes()).await;
    }

    async fn hear(&mut self) -> (FrameKind, Vec<u8>) {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header).await.unwrap();
        let header = Header::parse(header).unwrap();
        let mut payload = vec![0; header.len];
        self.stream.read_exact(&mut payload).await.unwrap();
        (header.kind, payload)
    }

    async fn exit(mut self, code: i32) {
        let exit = format!(r#"{{"code":{code},"signal":null,"timed_out":false,"duration_ms":9}}"#);
        self.say(FrameKind::Exit, exit.as_bytes()).await;
    }
}

impl Lab {
    fn new() -> Self {
        let fixture = Fixture::new();
        let id = fixture.workspace(1, now());
        let places = Places::new(fixture.directory.path());
        Self { shells: Shells::new(Arc::new(fixture.again()), places, id), id, fixture }
    }

    async fn open(&mut self) -> (ShellId, Guest) {
        let (host, stream) = UnixStream::pair().unwrap();
        let exec = ExecRequest { tty: Some((40, 10)), stdin: true, ..ExecRequest::shell("x") };
        let new = Box::new(OpenShell { cwd: "/workspace".into(), exec });
        let opened = self.shells.carry_out(ShellRequest::Open(new), || Ok(host)).unwrap();
        let mut guest = Guest { stream };
        assert_eq!(guest.hear().await.0, FrameKind::Request);
        guest.say(FrameKind::Started, br#"{"pid":7}"#).await;
        let Answer::Shell(answer) = opened.await else { panic!("not opened") };
        let ShellAnswer::State(record) = *answer else { panic!("{answer:?}") };
        assert!(record.is_running && (record.cols, record.rows) == (40, 10));
        (record.shell, guest)
    }

    fn ask(&mut self, shell: ShellId, action: ShellAction) -> Result<Later, Problem> {
        self.shells.carry_out(ShellRequest::To { shell, action }, || panic!("no stream is needed"))
    }

    fn begin_read(&mut self, shell: ShellId, cursor: u64, form: ReadForm, until: Until) -> Later {
        let read = ReadShell { cursor, most: usize::MAX, form, until, limit_ms: 10_000 };
        self.ask(shell, ShellAction::Read(read)).unwrap()
    }

    async fn read(&mut self, shell: ShellId, cursor: u64, until: Until) -> ShellRead {
        read(self.begin_read(shell, cursor, ReadForm::Raw, until)).await
    }
}

async fn read(later: Later) -> ShellRead {
    let Answer::Shell(answer) = later.await else { panic!("no answer") };
    let ShellAnswer::Read(read) = *answer else { panic!("{answer:?}") };
    read
}

fn text(read: &ShellRead) -> String {
    String::from_utf8(hex::decode(&read.output).unwrap()).unwrap()
}

async fn problem(later: Result<Later, Problem>) -> String {
    match later {
        Err(problem) => problem.message,
        Ok(later) => match later.await {
            Answer::Failed(problem) => problem.message,
            other => panic!("{other:?}"),
        },
    }
}

#[tokio::test]
async fn the_newest_bytes_are_kept_and_a_reader_is_told_what_it_missed() {
    let mut lab = Lab::new();
    let (shell, mut guest) = lab.open().await;
    let chunk = "0123456789abcde\n".repeat(1024);
    let total = 2 * SHELL_BYTES as u64;
    for _ in 0..total / chunk.len() as u64 {
        guest.print(&chunk).await;
    }
    guest.print("end").await;
    let got = lab.read(shell, 0, Until::Text("end".into())).await;
    assert_eq!((got.lost_bytes, got.more, got.is_satisfied), (total + 3 - SHELL_BYTES as u64, true, true));
    let last = lab.read(shell, total, Until::Now).await;
    assert_eq!((text(&last).as_str(), last.next_cursor, last.more), ("end", total + 3, false));
    let beyond =
        ReadShell { cursor: total + 4, most: 1, form: ReadForm::Raw, until: Until::Now, limit_ms: 1 };
    let beyond = problem(lab.ask(shell, ShellAction::Read(beyond))).await;
    assert_eq!(
        beyond,
        format!("cursor {} is beyond the end of the shell's output, {}", total + 4, total + 3)
    );
}

#[tokio::test]
async fn a_prompt_counts_until_something_is_typed_and_again_after_it() {
    let mut lab = Lab::new();
    let (shell, mut guest) = lab.open().await;
    guest.print("pyro$ \x1b]133;B\x07").await;
    assert!(lab.read(shell, 0, Until::Prompt).await.is_satisfied);
    let wrote = lab.ask(shell, ShellAction::Write { input: hex::encode("make\n") }).unwrap();
    assert!(matches!(wrote.await, Answer::Shell(_)));
    assert_eq!(guest.hear().await, (FrameKind::Stdin, b"make\n".to_vec()));
    let read_it = lab.begin_read(shell, 6, ReadForm::Plain, Until::Prompt);
    let read_it = tokio::spawn(read(read_it));
    guest.print("make\r\n\x1b]133;C\x0710%\r").await;
    guest.print("99%\r\npyro$ \x1b]133;").await;
    guest.print("B\x07").await;
    let got = read_it.await.unwrap();
    assert!(got.is_satisfied);
    assert_eq!(text(&got), "pyro$ make\n99%\npyro$");
}

#[tokio::test]
async fn an_end_ends_every_wait_and_the_output_stays_until_the_close() {
    let mut lab = Lab::new();
    let (shell, mut guest) = lab.open().await;
    let waits: Vec<_> = [Until::Text("x".into()), Until::Prompt, Until::More, Until::Idle(9000)]
        .map(|until| tokio::spawn(read(lab.begin_read(shell, 0, ReadForm::Raw, until))))
        .into();
    guest.print("bye").await;
    guest.exit(4).await;
    let mut satisfied = Vec::new();
    for wait in waits {
        satisfied.push(wait.await.unwrap().is_satisfied);
    }
    assert_eq!(satisfied, [false, false, true, true]);
    let got = lab.read(shell, 0, Until::Now).await;
    assert_eq!((text(&got).as_str(), got.record.is_running, got.record.exit_code), ("bye", false, Some(4)));
    assert!(!lab.fixture.shell(lab.id, shell).unwrap().is_running);
    let write = ShellAction::Write { input: hex::encode("x") };
    assert_eq!(problem(lab.ask(shell, write)).await, format!("shell {shell} is not running"));
    assert!(matches!(lab.ask(shell, ShellAction::Close).unwrap().await, Answer::Shell(_)));
    let gone = format!("shell '{shell}' does not exist in workspace '{}'", lab.id);
    assert_eq!(problem(lab.ask(shell, ShellAction::Close)).await, gone);
    assert_eq!(lab.fixture.shells(lab.id).unwrap(), []);
}

#[tokio::test]
async fn a_signal_does_not_wait_for_input_that_nobody_reads() {
    let mut lab = Lab::new();
    let (shell, mut guest) = lab.open().await;
    // More than the agent takes without its program reading any.
    let mut writes = Vec::new();
    for _ in 0..=wire::STDIN_WINDOW_BYTES >> 16 {
        let input = hex::encode(vec![b'x'; 64 << 10]);
        writes.push(tokio::spawn(lab.ask(shell, ShellAction::Write { input }).unwrap()));
    }
    let mut taken = 0;
    while taken < wire::STDIN_WINDOW_BYTES {
        taken += guest.hear().await.1.len();
    }
    assert!(!writes.pop().unwrap().is_finished());
    let signal = lab.ask(shell, ShellAction::Signal { signal: 2 }).unwrap();
    assert!(matches!(signal.await, Answer::Shell(_)));
    assert_eq!(guest.hear().await, (FrameKind::Signal, b"2".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_close_hangs_up_again_and_again_and_kills_at_last() {
    let mut lab = Lab::new();
    let (shell, mut guest) = lab.open().await;
    let close = tokio::spawn(lab.ask(shell, ShellAction::Close).unwrap());
    let mut hang_ups = 0;
    loop {
        match guest.hear().await {
            (FrameKind::Signal, signal) if signal == b"1" => hang_ups += 1,
            (FrameKind::Signal, signal) if signal == b"9" => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(hang_ups > 3, "{hang_ups}");
    guest.exit(137).await;
    let Answer::Shell(answer) = close.await.unwrap() else { panic!("not closed") };
    let ShellAnswer::State(record) = *answer else { panic!("{answer:?}") };
    assert_eq!((record.is_running, record.exit_code), (false, Some(137)));
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_says_nothing_is_left_behind_by_a_close() {
    let mut lab = Lab::new();
    let (shell, guest) = lab.open().await;
    let closed = lab.ask(shell, ShellAction::Close).unwrap().await;
    assert!(matches!(closed, Answer::Shell(_)), "{closed:?}");
    drop(guest);
}

#[tokio::test]
async fn no_more_shells_are_opened_than_may_be() {
    let mut lab = Lab::new();
    let mut guests = Vec::new();
    for _ in 0..SHELLS {
        guests.push(lab.open().await);
    }
    let (host, _guest) = UnixStream::pair().unwrap();
    let new = Box::new(OpenShell { cwd: "/".into(), exec: ExecRequest::shell("x") });
    let more = lab.shells.carry_out(ShellRequest::Open(new), || Ok(host));
    assert_eq!(problem(more).await, "64 shells are open in this workspace already");
}

#[tokio::test]
async fn a_pattern_that_would_take_too_much_is_refused() {
    let mut lab = Lab::new();
    let (shell, _guest) = lab.open().await;
    for (pattern, reason) in [
        ("(", "unclosed group"),
        (r"(\w{100}){100}{100}", "Compiled regex exceeds size limit of 1048576 bytes."),
    ] {
        let until = Until::Pattern(pattern.into());
        let read = ReadShell { cursor: 0, most: 1, form: ReadForm::Raw, until, limit_ms: 1 };
        let wanted = format!("the pattern cannot be used: {reason}");
        assert_eq!(problem(lab.ask(shell, ShellAction::Read(read))).await, wanted);
    }
}
