//! Against scripted agents: what they should say, and what they should not.

use super::*;
use crate::problem::{Blame, Explain as _};
use pyro_agent::wire::{
    self, ChangeItem, Decoder, FetchItem, FileFacts, RecordCutter, Request, emit_entry, parse_path_record,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What a guest says: frames one after the other.
#[derive(Default)]
struct Script(Vec<u8>);

impl Script {
    fn frame(mut self, kind: FrameKind, payload: &[u8]) -> Self {
        self.0.extend(wire::emit_frame(kind, payload));
        self
    }

    fn data(self, bytes: &[u8]) -> Self {
        self.frame(FrameKind::Data, bytes)
    }

    fn end(self) -> Self {
        self.data(&[])
    }

    fn reply(self, json: &str) -> Self {
        self.frame(FrameKind::Reply, json.as_bytes())
    }

    /// A connection to an agent that says all this at once and goes on listening.
    async fn start(self) -> (UnixStream, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&self.0).await.unwrap();
        (ours, theirs)
    }
}

fn facts(kind: FileKind) -> FileFacts {
    let time = FileTime { seconds: 5, nanos: 6 };
    let link_target = (kind == FileKind::Symlink).then(|| GuestPath::from("t"));
    FileFacts {
        kind,
        size_bytes: 3,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: time,
        ctime: time,
        ino: 9,
        link_count: 1,
        link_target,
    }
}

fn entries(paths: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    paths.iter().for_each(|path| emit_entry(path.as_bytes(), &facts(FileKind::File), &mut out));
    out
}

fn root() -> GuestPath {
    GuestPath::from("/workspace")
}

fn is_lie<T>(result: &Result<T, AgentError>) -> bool {
    matches!(result, Err(AgentError::Protocol(_)))
}

/// Reads the host's request and its data up to the end.
async fn heard(theirs: &mut UnixStream) -> (Operation, Vec<u8>) {
    let (mut decoder, mut data, mut operation) = (Decoder::new(), Vec::new(), None);
    loop {
        match decoder.next_frame().unwrap() {
            Some((FrameKind::Request, payload)) => {
                operation = Some(Request::parse(&payload).unwrap().operation);
            }
            Some((FrameKind::Data, bytes)) if bytes.is_empty() => return (operation.unwrap(), data),
            Some((FrameKind::Data, bytes)) => data.extend(bytes),
            Some((other, _)) => panic!("{other:?} from the host"),
            None => {
                let mut chunk = [0; 4096];
                let len = theirs.read(&mut chunk).await.unwrap();
                assert_ne!(len, 0, "the host closed before the end");
                decoder.feed(&chunk[..len]);
            }
        }
    }
}

#[tokio::test]
async fn a_walk_arrives_in_order_however_it_is_cut() {
    let paths = ["a", "a/b", "a/b/c", "a.txt", "b"];
    let bytes = entries(&paths);
    let mut script = Script::default();
    for piece in bytes.chunks(7) {
        script = script.data(piece);
    }
    let (ours, _theirs) = script.end().reply(r#"{"count":5,"truncated":false}"#).start().await;
    let (all, listed) = walk(ours, &root(), 100).await.unwrap().collect(100).await.unwrap();
    let seen: Vec<&[u8]> = all.iter().map(|entry| &entry.path[..]).collect();
    assert_eq!(seen, paths.map(str::as_bytes));
    assert_eq!(listed.count, 5);
}

#[tokio::test]
async fn entries_that_no_walk_gives_are_refused() {
    let lists: [&[&str]; 13] = [
        &["b", "a"],
        &["a", "a"],
        &["a.txt", "a/b"],
        &["../x"],
        &["a/../b"],
        &["/etc"],
        &["a//b"],
        &["a/"],
        &["."],
        &["", "a"],
        &["a", ""],
        &["a", "b", "c", "d"],
        &["a"],
    ];
    for paths in lists {
        let script = Script::default().data(&entries(paths)).end();
        let (ours, _theirs) = script.reply(r#"{"count":2,"truncated":false}"#).start().await;
        let result = walk(ours, &root(), 3).await.unwrap().collect(100).await;
        assert!(is_lie(&result), "{paths:?}: {result:?}");
    }
    let long = "n".repeat(256);
    let (ours, _theirs) = Script::default().data(&entries(&[&long])).start().await;
    assert!(is_lie(&walk(ours, &root(), 3).await.unwrap().next().await));
    let deep = vec!["d"; 513].join("/");
    let (ours, _theirs) = Script::default().data(&entries(&[&deep])).start().await;
    assert!(is_lie(&walk(ours, &root(), 3).await.unwrap().next().await));
    let (ours, _theirs) = Script::default().data(&[0xff; 64]).start().await;
    assert!(is_lie(&walk(ours, &root(), 3).await.unwrap().next().await));
    let (ours, _theirs) = Script::default().data(&entries(&["a/b"])).start().await;
    assert!(is_lie(&file_list(ours, &root(), &root(), false, 9).await.unwrap().next().await));
}

#[tokio::test]
async fn a_guest_that_leaves_in_the_middle_is_disconnected() {
    let (ours, theirs) = Script::default().data(&entries(&["a"])).start().await;
    drop(theirs);
    let mut entries = walk(ours, &root(), 9).await;
    if let Ok(entries) = &mut entries {
        assert!(entries.next().await.unwrap().is_some());
        assert!(matches!(entries.next().await, Err(AgentError::Disconnected)));
    }
}

#[tokio::test]
async fn listing_a_single_file_gives_it_without_a_path() {
    let script = Script::default().data(&entries(&[""])).end().reply(r#"{"count":1,"truncated":false}"#);
    let (ours, _theirs) = script.start().await;
    let list = file_list(ours, &root(), &root(), false, 9).await.unwrap();
    assert_eq!(list.collect(9).await.unwrap().0[0].path, b"");
}

#[tokio::test]
async fn a_file_is_read_up_to_what_was_asked_for() {
    let script = || Script::default().data(b"hel").data(b"lo");
    let reply = r#"{"size_bytes":9,"mode":420,"truncated":true}"#;
    let (ours, _theirs) = script().end().reply(reply).start().await;
    let (bytes, result) = file_read(ours, &root(), &root(), 0, 5).await.unwrap().read_to_end().await.unwrap();
    assert_eq!((&bytes[..], result.size_bytes, result.truncated), (&b"hello"[..], 9, true));
    let (ours, _theirs) = script().end().reply(reply).start().await;
    assert!(is_lie(&file_read(ours, &root(), &root(), 0, 4).await.unwrap().read_to_end().await));
    let short = r#"{"size_bytes":9,"mode":420,"truncated":false}"#;
    let (ours, _theirs) = script().end().reply(short).start().await;
    assert!(is_lie(&file_read(ours, &root(), &root(), 0, 9).await.unwrap().read_to_end().await));
    // A reply before the end of the data.
    let (ours, _theirs) = script().reply(reply).start().await;
    assert!(is_lie(&file_read(ours, &root(), &root(), 0, 9).await.unwrap().read_to_end().await));
}

#[tokio::test]
async fn facts_out_of_range_are_refused() {
    let good = serde_json::to_value(facts(FileKind::Symlink)).unwrap();
    let (ours, _theirs) = Script::default().reply(&good.to_string()).start().await;
    assert_eq!(file_stat(ours, &root(), &root()).await.unwrap(), facts(FileKind::Symlink));
    for (field, value) in [
        ("mode", serde_json::json!(0o10000)),
        ("link_target", serde_json::Value::Null),
        ("kind", serde_json::json!("file")),
        ("mtime", serde_json::json!({"seconds": 0, "nanos": 1_000_000_000})),
        ("kind", serde_json::json!("door")),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        let (ours, _theirs) = Script::default().reply(&bad.to_string()).start().await;
        assert!(is_lie(&file_stat(ours, &root(), &root()).await), "{bad}");
    }
}

#[tokio::test]
async fn a_write_sends_everything_and_gives_the_reply() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let content: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    let sent = content.clone();
    let agent = tokio::spawn(async move {
        let heard = heard(&mut theirs).await;
        let reply = br#"{"bytes_written":200000,"created":true}"#;
        theirs.write_all(&wire::emit_frame(FrameKind::Reply, reply)).await.unwrap();
        heard
    });
    let path = GuestPath::new(b"/workspace/\xff".to_vec());
    let mut upload = file_write(ours, &root(), &path, Some(0o600), true).await.unwrap();
    for piece in sent.chunks(999) {
        upload.send(piece).await.unwrap();
    }
    assert_eq!(upload.finish().await.unwrap(), FileWritten { bytes_written: 200_000, created: true });
    let (operation, data) = agent.await.unwrap();
    assert!(data == content);
    let wanted = Operation::FileWrite { root: root(), path, mode: Some(0o600), create_parents: true };
    assert_eq!(operation, wanted);
}

/// Sends without end until an error comes.
async fn refusal(upload: &mut Upload<FileWritten>) -> AgentError {
    let chunk = vec![0; 64 << 10];
    loop {
        if let Err(error) = upload.send(&chunk).await {
            return error;
        }
    }
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_an_upload_is_told_as_it_is() {
    let told = br#"{"code":"conflict","message":"workspace path has changed meanwhile: /workspace/a"}"#;
    let path = GuestPath::from("/workspace/a");
    // Said before anything was sent, and nothing is read.
    let (ours, theirs) = Script::default().frame(FrameKind::Error, told).start().await;
    let mut upload = file_write(ours, &root(), &path, None, true).await.unwrap();
    let error = refusal(&mut upload).await;
    let problem = error.explain();
    assert_eq!((problem.code.as_ref(), problem.blame), ("conflict", Blame::Caller));
    assert!(problem.message.ends_with("/workspace/a"));
    drop(theirs);
    // A reply that comes too early is no success.
    let written = r#"{"bytes_written":0,"created":true}"#;
    let (ours, _theirs) = Script::default().reply(written).start().await;
    let mut upload = file_write(ours, &root(), &path, None, true).await.unwrap();
    assert!(matches!(refusal(&mut upload).await, AgentError::Protocol(_)));
}

fn items(items: &[FetchItem]) -> Vec<u8> {
    let mut out = Vec::new();
    items.iter().for_each(|item| item.emit(&mut out));
    out
}

#[tokio::test]
async fn named_files_come_back_under_their_names() {
    let (file, link) = (facts(FileKind::File), facts(FileKind::Symlink));
    let answer = items(&[
        FetchItem::Content(file.clone()),
        FetchItem::Chunk(b"ab".to_vec()),
        FetchItem::Chunk(b"c".to_vec()),
        FetchItem::End,
        FetchItem::Absent,
        FetchItem::TooLarge(file.clone()),
        FetchItem::Bare(link.clone()),
    ]);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let agent = tokio::spawn(async move {
        let (_, data) = heard(&mut theirs).await;
        let script = Script::default().data(&answer).end().reply("{}");
        theirs.write_all(&script.0).await.unwrap();
        let mut cutter = RecordCutter::new();
        cutter.feed(&data);
        let mut paths = Vec::new();
        while let Some(body) = cutter.next_record().unwrap() {
            paths.push(parse_path_record(body).unwrap());
        }
        paths
    });
    let paths: Vec<Vec<u8>> = ["a", "b/c", "d", "e"].map(|path| path.into()).to_vec();
    let mut files = files_out(ours, &root(), paths.clone(), 3).await.unwrap();
    let mut found = Vec::new();
    while let Some(file) = files.next().await.unwrap() {
        found.push(file);
    }
    assert_eq!(agent.await.unwrap(), paths);
    let wanted = [
        FetchedKind::File(file.clone(), b"abc".to_vec()),
        FetchedKind::Absent,
        FetchedKind::TooLarge(file),
        FetchedKind::Other(link),
    ];
    let wanted: Vec<FetchedFile> =
        paths.into_iter().zip(wanted).map(|(path, found)| FetchedFile { path, found }).collect();
    assert_eq!(found, wanted);
}

#[tokio::test]
async fn files_that_nobody_asked_for_or_too_much_of_one_are_refused() {
    let file = facts(FileKind::File);
    let content = || FetchItem::Content(file.clone());
    let cases: [&[FetchItem]; 9] = [
        &[FetchItem::Absent, FetchItem::Absent],
        &[content(), FetchItem::Chunk(b"1234".to_vec())],
        &[content(), FetchItem::Chunk(b"12".to_vec()), FetchItem::Chunk(b"34".to_vec())],
        &[content()],
        &[content(), content()],
        &[FetchItem::End],
        &[FetchItem::Chunk(b"1".to_vec())],
        &[FetchItem::Bare(file.clone())],
        &[],
    ];
    for case in cases {
        let script = Script::default().data(&items(case));
        let script = if case.is_empty() { Script::default() } else { script };
        let (ours, _theirs) = script.end().reply("{}").start().await;
        let mut files = files_out(ours, &root(), vec![b"a".to_vec()], 3).await.unwrap();
        let result = loop {
            match files.next().await {
                Ok(Some(_)) => {}
                other => break other,
            }
        };
        assert!(is_lie(&result), "{case:?}: {result:?}");
    }
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let error = files_out(ours, &root(), vec![b"../a".to_vec()], 3).await.err().unwrap();
    assert_eq!(error.explain().blame, Blame::Caller);
}

#[tokio::test]
async fn a_transaction_sends_its_changes_in_order() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let agent = tokio::spawn(async move {
        let heard = heard(&mut theirs).await;
        let reply = br#"{"written_count":2,"removed_count":1,"chmod_count":1,"bytes_written":70000}"#;
        theirs.write_all(&wire::emit_frame(FrameKind::Reply, reply)).await.unwrap();
        heard
    });
    let mut transaction = apply(ours, &root(), true).await.unwrap();
    let content = vec![1; 70_000];
    transaction.write(b"a", Expected::Absent, Some(0o755), &content).await.unwrap();
    transaction.remove(b"b", Expected::Content([7; 32])).await.unwrap();
    transaction.chmod(b"c", Expected::Any, 0o600).await.unwrap();
    transaction.symlink(b"d", Expected::Any, b"t").await.unwrap();
    assert_eq!(transaction.commit().await.unwrap().written_count, 2);
    let (operation, data) = agent.await.unwrap();
    assert_eq!(operation, Operation::Apply { root: root(), prune: true });
    let mut cutter = RecordCutter::new();
    cutter.feed(&data);
    let (mut shape, mut bytes) = (String::new(), 0);
    while let Some(body) = cutter.next_record().unwrap() {
        shape.push(match ChangeItem::parse(body).unwrap() {
            ChangeItem::Change(Change { action, .. }) => match action {
                ChangeAction::Write { .. } => 'w',
                ChangeAction::Remove => 'r',
                ChangeAction::Chmod { .. } => 'c',
                ChangeAction::Symlink { .. } => 's',
            },
            ChangeItem::Chunk(chunk) => {
                bytes += chunk.len();
                '.'
            }
            ChangeItem::End => ';',
        });
    }
    assert_eq!((shape.as_str(), bytes), ("w..;rcs", 70_000));
}

#[tokio::test]
async fn a_freeze_is_held_until_it_is_thawed() {
    let script = Script::default().frame(FrameKind::Frozen, b"{}").reply(r#"{"expired":false}"#);
    let (ours, mut theirs) = script.start().await;
    let frozen = freeze(ours).await.unwrap();
    assert!(!frozen.thaw().await.unwrap().expired);
    assert_eq!(heard(&mut theirs).await, (Operation::Freeze, Vec::new()));
    let script = Script::default().frame(FrameKind::Frozen, b"{}").reply(r#"{"expired":true}"#);
    let (ours, _theirs) = script.start().await;
    assert!(freeze(ours).await.unwrap().thaw().await.unwrap().expired);
    let (ours, _theirs) = Script::default().reply(r#"{"expired":false}"#).start().await;
    assert!(is_lie(&freeze(ours).await));
}

#[tokio::test]
async fn secrets_are_sent_apart_from_the_request_and_never_told_in_an_error() {
    let secret = |name: &str, value: &[u8]| SecretItem { name: name.into(), value: value.to_vec() };
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let agent = tokio::spawn(async move {
        let heard = heard(&mut theirs).await;
        theirs.write_all(&wire::emit_frame(FrameKind::Reply, br#"{"count":1}"#)).await.unwrap();
        heard
    });
    install_secrets(ours, &[secret("TOKEN", b"hunter2")]).await.unwrap();
    let (operation, data) = agent.await.unwrap();
    assert_eq!(operation, Operation::Secrets);
    assert_eq!(SecretItem::parse(&data[4..]).unwrap(), secret("TOKEN", b"hunter2"));
    let large = vec![b'h'; wire::MAX_SECRET_BYTES + 1];
    for bad in [secret("a/b", b"hunter2"), secret("", b"hunter2"), secret("A", &large)] {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let error = install_secrets(ours, &[bad]).await.err().unwrap();
        assert!(matches!(error, AgentError::Refused(_)));
        assert!(!error.to_string().contains("hunter") && !error.to_string().contains("hhh"));
    }
}
