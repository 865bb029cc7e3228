use super::*;
use crate::problem::{Blame, Explain as _};
use pyro_agent::wire::{Failure, FailureCode};
use pyro_tree::PackOptions;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;

mod exports;
mod seeds;

fn tree_in() -> Operation {
    Operation::TreeIn { path: "/workspace".to_owned() }
}

fn tree_out() -> Operation {
    Operation::TreeOut { path: "/workspace".to_owned() }
}

async fn frame(stream: &mut UnixStream) -> (FrameKind, Vec<u8>) {
    let mut header = [0; wire::HEADER_BYTES];
    stream.read_exact(&mut header).await.unwrap();
    let header = wire::Header::parse(header).unwrap();
    let mut payload = vec![0; header.len];
    stream.read_exact(&mut payload).await.unwrap();
    (header.kind, payload)
}

async fn say(stream: &mut UnixStream, kind: FrameKind, payload: &[u8]) {
    stream.write_all(&wire::emit_frame(kind, payload)).await.unwrap();
}

async fn reply(stream: &mut UnixStream) {
    let stats = serde_json::to_vec(&wire::TreeStats::default()).unwrap();
    say(stream, FrameKind::Reply, &stats).await;
}

async fn refuse(stream: &mut UnixStream, message: &str) {
    let failure = Failure { code: FailureCode::NotFound, message: message.to_owned() };
    say(stream, FrameKind::Error, &serde_json::to_vec(&failure).unwrap()).await;
}

/// An agent that unpacks one tree into `root`.
async fn agent_in(mut stream: UnixStream, root: PathBuf) {
    assert_eq!(frame(&mut stream).await.0, FrameKind::Request);
    let mut archive = Vec::new();
    loop {
        let (kind, payload) = frame(&mut stream).await;
        assert_eq!(kind, FrameKind::Data);
        if payload.is_empty() {
            break;
        }
        archive.extend(payload);
    }
    // Root's files, made by whoever tests.
    let options = UnpackOptions { fidelity: Fidelity::Portable, ..UnpackOptions::default() };
    pyro_tree::unpack(&root, &mut &archive[..], &options).unwrap();
    reply(&mut stream).await;
}

fn archive(root: &Path) -> Vec<u8> {
    let mut archive = Vec::new();
    pyro_tree::pack(root, &mut archive, &PackOptions::default()).unwrap();
    archive
}

/// An agent that sends `archive`.
async fn agent_out(mut stream: UnixStream, archive: Vec<u8>) {
    assert_eq!(frame(&mut stream).await.0, FrameKind::Request);
    for chunk in archive.chunks(wire::DATA_CHUNK_BYTES) {
        if stream.write_all(&wire::emit_frame(FrameKind::Data, chunk)).await.is_err() {
            return;
        }
    }
    say(&mut stream, FrameKind::Data, &[]).await;
    reply(&mut stream).await;
}

/// Everything that can be seen of a tree.
fn look(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let meta = path.symlink_metadata().unwrap();
        let contents = if meta.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else if meta.is_file() {
            format!("{:?} {}", fs::read(&path).unwrap(), meta.nlink())
        } else {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        };
        // Archives of older formats and of no root member do not tell the root's own attributes.
        if path != root {
            let name = path.strip_prefix(root).unwrap().to_owned();
            let mtime = if meta.is_dir() { 0 } else { meta.mtime() };
            seen.insert(name, format!("{:o} {mtime} {contents}", meta.mode()));
        }
    }
    seen
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A tree with one of everything that ordinary projects hold.
fn sample(root: &Path) {
    fs::create_dir_all(root.join("src/deep/er")).unwrap();
    fs::create_dir_all(root.join("node_modules/.bin")).unwrap();
    fs::write(root.join("src/main"), "fn main() {}\n").unwrap();
    fs::set_permissions(root.join("src/main"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(root.join("src/deep").join("n".repeat(95)), "long").unwrap();
    fs::write(root.join("large"), vec![9; 200_000]).unwrap();
    fs::hard_link(root.join("src/main"), root.join("again")).unwrap();
    symlink("../../src/main", root.join("node_modules/.bin/run")).unwrap();
    symlink("/usr/bin/env", root.join("absolute")).unwrap();
    symlink("no/such", root.join("dangling")).unwrap();
}

async fn send(source: SeedSource, to: &Path) -> Result<TreeStats, TransferError> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let agent = tokio::spawn(agent_in(theirs, to.to_owned()));
    let stats = push(ours, tree_in(), source, |_| ()).await?;
    agent.await.unwrap();
    Ok(stats)
}

async fn take(
    archive: Vec<u8>,
    target: ExportTarget,
    options: PullOptions,
) -> Result<ExportReport, TransferError> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let agent = tokio::spawn(agent_out(theirs, archive));
    let result = pull(ours, tree_out(), target, options, |_| ()).await;
    agent.abort();
    result
}
