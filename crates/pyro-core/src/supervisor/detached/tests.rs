use super::*;
use crate::exec::ExecRequest;
use crate::network::NetworkDenials;
use crate::store::CommandState;
use crate::store::tests::Fixture;
use pyro_agent::wire::{self, FrameKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn output(stdout: &[u8], stderr: &[u8]) -> CommandOutput {
    CommandOutput { stdout: stdout.to_vec(), stderr: stderr.to_vec(), ..CommandOutput::default() }
}

#[test]
fn the_first_bytes_are_kept_and_the_rest_is_told_as_cut_once() {
    let (mut kept, mut truncated) = (vec![b'x'; OUTPUT_BYTES - 2], false);
    assert!(push(&mut kept, &mut truncated, b"yy") && !truncated);
    assert!(push(&mut kept, &mut truncated, b"z") && truncated);
    assert!(!push(&mut kept, &mut truncated, b"z"), "nobody need look again");
    assert!(kept.len() == OUTPUT_BYTES && kept.ends_with(b"xyy"));
    assert!(!push(&mut Vec::new(), &mut false, b""));
}

#[test]
fn an_answer_has_what_was_not_seen_as_far_as_a_packet_holds_it() {
    let seen = SeenOutput { stdout: 2, stderr: 0 };
    assert!(!seen.is_behind(&output(b"ab", b"")) && seen.is_behind(&output(b"ab", b"c")));
    let Answer::Output { stdout, stderr } = next_output(&output(b"ab\xff", b"c"), seen) else { panic!() };
    assert_eq!((stdout.as_str(), stderr.as_str()), ("ff", "63"));
    let much = output(&vec![b'x'; ANSWER_BYTES], &vec![b'y'; ANSWER_BYTES]);
    let answer = next_output(&much, seen);
    assert!(serde_json::to_vec(&answer).unwrap().len() < crate::limits::PACKET_BYTES);
    let Answer::Output { stdout, stderr } = answer else { panic!() };
    assert_eq!((stdout.len(), stderr.len()), (2 * ANSWER_BYTES - 4, 4), "both together are bounded");
}

/// A workspace's commands, and the guest's end of the one that was run last.
struct Lab {
    commands: Commands,
    guest: UnixStream,
    id: WorkspaceId,
    fixture: Fixture,
    denied: Option<DeniedSince>,
}

impl Lab {
    fn new() -> Self {
        let fixture = Fixture::new();
        let id = fixture.workspace(1, now());
        let commands = Commands::new(Arc::new(fixture.again()));
        Self { commands, guest: UnixStream::pair().unwrap().0, id, fixture, denied: None }
    }

    fn run(&mut self) -> Result<Later, Problem> {
        let (host, guest) = UnixStream::pair().unwrap();
        self.guest = guest;
        let command = RunCommand {
            command: "make".into(),
            cwd: "/".into(),
            exec: ExecRequest::new(vec!["make".into()]),
        };
        self.commands.run(self.id, command, host, self.denied.clone())
    }

    /// A command that the guest has begun.
    async fn running(&mut self) -> CommandKey {
        let answer = self.run().unwrap();
        assert_eq!(self.hear().await.0, FrameKind::Request);
        self.say(FrameKind::Started, br#"{"pid":7}"#).await;
        let Answer::Begun { command } = answer.await else { panic!("it was not begun") };
        command
    }

    async fn say(&mut self, kind: FrameKind, payload: &[u8]) {
        self.guest.write_all(&wire::emit_frame(kind, payload)).await.unwrap();
    }

    async fn hear(&mut self) -> (FrameKind, Vec<u8>) {
        let mut header = [0; wire::HEADER_BYTES];
        let heard = timeout(SUPERVISOR_DEADLINE, self.guest.read_exact(&mut header)).await;
        heard.expect("the guest was told nothing").unwrap();
        let header = wire::Header::parse(header).unwrap();
        let mut payload = vec![0; header.len];
        self.guest.read_exact(&mut payload).await.unwrap();
        (header.kind, payload)
    }

    fn state(&self, key: CommandKey) -> (CommandState, Option<i32>) {
        let record = self.fixture.command(self.id, key.sequence).unwrap();
        (record.state, record.exit_code)
    }
}

#[tokio::test]
async fn a_command_is_followed_killed_and_put_on_record() {
    let mut lab = Lab::new();
    let key = lab.running().await;
    assert!(lab.commands.is_busy());
    let new = lab.commands.output(key, SeenOutput::default(), Patience::UntilThereIsMore);
    lab.say(FrameKind::Stdout, b"out").await;
    let Answer::Output { stdout, .. } = new.await else { panic!("no output") };
    assert_eq!(stdout, hex::encode("out"));
    let seen = SeenOutput { stdout: 3, stderr: 0 };
    assert!(matches!(lab.commands.output(key, seen, Patience::None).await, Answer::Done));

    let (waited, killed) = (lab.commands.wait(key), lab.commands.kill(key, 15).unwrap());
    assert_eq!(lab.hear().await, (FrameKind::Signal, b"15".to_vec()));
    assert_eq!(lab.state(key), (CommandState::Running, None));
    lab.say(FrameKind::Exit, br#"{"code":null,"signal":15,"timed_out":false,"duration_ms":5}"#).await;
    for answer in [waited, killed] {
        assert!(matches!(answer.await, Answer::Done));
        assert_eq!(lab.state(key), (CommandState::Killed, Some(143)), "told before it was on record");
    }
    assert_eq!(lab.fixture.output(key).unwrap().stdout, b"out");
    lab.commands.ended().await;
    assert!(!lab.commands.is_busy() && lab.commands.running.is_empty());
    assert!(matches!(lab.commands.wait(key).await, Answer::Done));
}

#[tokio::test]
async fn what_was_denied_meanwhile_is_on_record_before_the_end() {
    let event = r#"{"subject":"flow","started_ms":1,"ended_ms":2,"protocol":"tcp","source":"198.19.255.2:4",
        "destination":"10.0.0.5:5432","verdict":"deny","sent_bytes":0,"received_bytes":0,"end":"too-many-flows",
        "text":"t","left_out":0}"#;
    let mut lab = Lab::new();
    lab.denied = Some(DeniedSince::of_events(&[serde_json::from_str(event).unwrap()]));
    let key = lab.running().await;
    let waited = lab.commands.wait(key);
    lab.say(FrameKind::Exit, br#"{"code":1,"signal":null,"timed_out":false,"duration_ms":5}"#).await;
    assert!(matches!(waited.await, Answer::Done));
    let ended_by_machine = lab.running().await;
    lab.commands.end(CommandOutcome::Lost);
    assert_eq!(lab.fixture.events(lab.id).unwrap().len(), 3, "the first command's end is one, too");
    let events = lab.fixture.events_of(lab.id, EventKind::Denial).unwrap();
    let denials: Vec<_> =
        events.iter().filter_map(|event| NetworkDenials::of_detail(&event.detail)).collect();
    let sequences: Vec<u64> = denials.iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(sequences, [key.sequence, ended_by_machine.sequence]);
    for (_, denied) in denials {
        assert_eq!((denied.denials[0].destination.as_str(), denied.truncated), ("10.0.0.5:5432", false));
    }
}

#[tokio::test]
async fn what_the_guest_refuses_is_told_and_lost() {
    let mut lab = Lab::new();
    let answer = lab.run().unwrap();
    lab.say(FrameKind::Error, br#"{"code":"not_found","message":"no program"}"#).await;
    let Answer::Failed(problem) = answer.await else { panic!("it was not refused") };
    assert_eq!((problem.code.as_ref(), problem.blame), ("not_found", Blame::Caller));
    assert_eq!(lab.fixture.commands(lab.id).unwrap()[0].state, CommandState::Lost);
}

#[tokio::test]
async fn the_end_of_the_machine_keeps_what_was_printed() {
    let mut lab = Lab::new();
    let key = lab.running().await;
    let new = lab.commands.output(key, SeenOutput::default(), Patience::UntilThereIsMore);
    lab.say(FrameKind::Stderr, b"err").await;
    new.await;
    lab.commands.end(CommandOutcome::Killed(None));
    assert_eq!(lab.state(key), (CommandState::Killed, None));
    assert_eq!(lab.fixture.output(key).unwrap().stderr, b"err");
}

#[tokio::test]
async fn a_command_of_a_client_is_over_when_that_has_left() {
    let mut lab = Lab::new();
    let new = NewCommand { command: "make".into(), cwd: "/".into(), detached: false };
    let key = lab.commands.begin(lab.id, &new).unwrap();
    let waited = lab.commands.wait(key);
    assert_eq!(lab.commands.kill(key, 15).err().unwrap().code, "not_detached");
    assert!(!lab.commands.is_busy(), "its client is what keeps the workspace");
    lab.commands.client_left(&[key]);
    assert!(matches!(waited.await, Answer::Done));
    assert_eq!(lab.state(key), (CommandState::Lost, None));
}

#[tokio::test]
async fn detached_commands_are_bounded() {
    let mut lab = Lab::new();
    let answers: Vec<Later> = (0..DETACHED_COMMANDS).map(|_| lab.run().unwrap()).collect();
    assert_eq!(lab.run().err().unwrap().code, "too_many_commands");
    drop(answers);
}
