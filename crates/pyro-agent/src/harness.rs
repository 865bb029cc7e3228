//! Operations in a test: a server over a socket pair, a workspace and a stage in a temporary directory.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pyro_agent::wire::{self, Decoder, Failure, FrameKind, GuestPath, Operation, RecordCutter};
use serde::de::DeserializeOwned;

use crate::authorities::Authorities;
use crate::connection::Connection;
use crate::exec::Executor;
use crate::reaper::Reaper;
use crate::secrets::Secrets;
use crate::serve::Server;
use crate::staging::Staging;

/// Enough for a loaded machine; nothing here takes long by itself.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Home {
    directory: tempfile::TempDir,
}

/// What an operation gave.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) data: Vec<u8>,
    pub(crate) result: Result<serde_json::Value, Failure>,
}

impl Answer {
    pub(crate) fn reply<T: DeserializeOwned>(&self) -> T {
        serde_json::from_value(self.result.clone().unwrap()).unwrap()
    }

    pub(crate) fn failure(&self) -> &Failure {
        self.result.as_ref().unwrap_err()
    }

    pub(crate) fn records(&self) -> Vec<Vec<u8>> {
        let mut cutter = RecordCutter::new();
        cutter.feed(&self.data);
        let mut records = Vec::new();
        while let Some(body) = cutter.next_record().unwrap() {
            records.push(body.to_vec());
        }
        assert!(cutter.is_empty());
        records
    }
}

impl Home {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("workspace")).unwrap();
        Self { directory }
    }

    pub(crate) fn workspace(&self) -> PathBuf {
        self.directory.path().join("workspace")
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.directory.path().join("private/staging")
    }

    /// The workspace as operations name it.
    pub(crate) fn root(&self) -> GuestPath {
        GuestPath::from(self.workspace().to_str().unwrap())
    }

    /// A path in it.
    pub(crate) fn path(&self, relative: &str) -> GuestPath {
        GuestPath::from(self.workspace().join(relative).to_str().unwrap())
    }

    /// Nothing that was prepared is left.
    pub(crate) fn assert_no_stage(&self) {
        let left: Vec<_> = std::fs::read_dir(self.staging()).into_iter().flatten().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    fn serve(&self) -> (UnixStream, std::thread::JoinHandle<()>) {
        let (host, agent) = UnixStream::pair().unwrap();
        host.set_read_timeout(Some(PATIENCE)).unwrap();
        let secrets = Arc::new(Secrets::new(self.directory.path().join("secrets")));
        let authorities = Authorities::new("/nonexistent", "/nonexistent");
        let executor = Executor { reaper: Arc::new(Reaper::default()), cgroups: None, secrets, authorities };
        let server = Server::new(executor, Staging::new(self.staging()));
        (host, std::thread::spawn(move || server.serve(Connection::new(agent.into()))))
    }

    /// Runs an operation that takes no data.
    pub(crate) fn ask(&self, operation: Operation) -> Answer {
        self.run(operation, None)
    }

    /// Runs an operation with this data.
    pub(crate) fn send(&self, operation: Operation, data: &[u8]) -> Answer {
        self.run(operation, Some(data))
    }

    fn run(&self, operation: Operation, data: Option<&[u8]>) -> Answer {
        let (mut host, agent) = self.serve();
        let request = wire::emit_json(FrameKind::Request, &wire::Request::new(operation)).unwrap();
        host.write_all(&request).unwrap();
        if let Some(data) = data {
            for chunk in data.chunks(wire::DATA_CHUNK_BYTES) {
                // The agent may have refused by now.
                let _ = host.write_all(&wire::emit_frame(FrameKind::Data, chunk));
            }
            let _ = host.write_all(&wire::emit_frame(FrameKind::Data, &[]));
        }
        let (mut data, mut decoder) = (Vec::new(), Decoder::new());
        let mut chunk = vec![0; 64 << 10];
        let result = loop {
            match decoder.next_frame().unwrap() {
                Some((FrameKind::Data, bytes)) => data.extend(bytes),
                Some((FrameKind::Reply, json)) => break Ok(serde_json::from_slice(&json).unwrap()),
                Some((FrameKind::Error, json)) => break Err(serde_json::from_slice(&json).unwrap()),
                Some((other, _)) => panic!("{other:?} from the agent"),
                None => {
                    let len = host.read(&mut chunk).expect("the agent answers in time");
                    assert_ne!(len, 0, "the agent closed before the end");
                    decoder.feed(&chunk[..len]);
                }
            }
        };
        drop(host);
        agent.join().unwrap();
        Answer { data, result }
    }

    /// Starts an operation, sends these bytes of its data, and leaves.
    pub(crate) fn leave_after(&self, operation: Operation, data: &[u8]) {
        let (mut host, agent) = self.serve();
        let request = wire::emit_json(FrameKind::Request, &wire::Request::new(operation)).unwrap();
        host.write_all(&request).unwrap();
        host.write_all(&wire::emit_frame(FrameKind::Data, data)).unwrap();
        drop(host);
        agent.join().unwrap();
    }
}

/// Every path below a directory with its kind, mode and content: equal trees give equal texts.
pub(crate) fn picture(directory: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt as _;
    let mut lines = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(at) = todo.pop() {
        let metadata = std::fs::symlink_metadata(&at).unwrap();
        let content = if metadata.is_file() {
            format!("{:?}", std::fs::read(&at).unwrap().escape_ascii().to_string())
        } else if metadata.is_symlink() {
            format!("-> {:?}", std::fs::read_link(&at).unwrap())
        } else {
            todo.extend(std::fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        };
        let shown = at.strip_prefix(directory).unwrap().display().to_string();
        lines.push(format!("{shown} {:o} {}:{} {content}", metadata.mode(), metadata.uid(), metadata.gid()));
    }
    lines.sort();
    lines
}
