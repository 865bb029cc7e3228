use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use pyro_agent::wire::{self, FrameKind};

use super::*;

fn install(secrets: &Secrets, items: &[(&str, &[u8])]) -> Result<SecretsInstalled, FileError> {
    let mut records = Vec::new();
    for (name, value) in items {
        SecretItem { name: (*name).into(), value: value.to_vec() }.emit(&mut records);
    }
    let (host, agent) = UnixStream::pair().unwrap();
    let sender = std::thread::spawn(move || {
        use std::io::Write as _;
        let mut host = host;
        for chunk in records.chunks(wire::DATA_CHUNK_BYTES) {
            // The agent may have refused already.
            let _ = host.write_all(&wire::emit_frame(FrameKind::Data, chunk));
        }
        let _ = host.write_all(&wire::emit_frame(FrameKind::Data, &[]));
    });
    let installed = secrets.install(&mut Connection::new(agent.into()));
    sender.join().unwrap();
    installed
}

fn files(directory: &Path) -> Vec<(String, Vec<u8>, u32)> {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o7777;
            (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap(), mode)
        })
        .collect();
    files.sort();
    files
}

#[test]
fn an_installation_replaces_everything_before_it() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("secrets");
    let secrets = Secrets::new(&directory);
    assert_eq!(install(&secrets, &[("A", b"one"), ("B", b"\0\xff")]).unwrap().count, 2);
    assert_eq!(
        files(&directory),
        [("A".to_owned(), b"one".to_vec(), 0o600), ("B".to_owned(), b"\0\xff".to_vec(), 0o600)]
    );
    assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(install(&secrets, &[("B", b"two")]).unwrap().count, 1);
    assert_eq!(files(&directory), [("B".to_owned(), b"two".to_vec(), 0o600)]);
    assert_eq!((secrets.current().value("A"), secrets.current().value("B")), (None, Some(&b"two"[..])));
    install(&secrets, &[]).unwrap();
    assert!(files(&directory).is_empty() && secrets.current().needles().is_empty());
}

#[test]
fn bad_names_and_too_many_bytes_are_refused_without_telling_a_value() {
    let home = tempfile::tempdir().unwrap();
    let secrets = Secrets::new(home.path().join("secrets"));
    install(&secrets, &[("KEEP", b"kept-value")]).unwrap();
    let large = vec![b'v'; wire::MAX_SECRET_BYTES];
    let too_much: Vec<(String, &[u8])> = (0..65).map(|n| (format!("S{n}"), &large[..])).collect();
    let too_much: Vec<(&str, &[u8])> = too_much.iter().map(|(name, value)| (&name[..], *value)).collect();
    let longer = vec![b'v'; wire::MAX_SECRET_BYTES + 1];
    let cases: [&[(&str, &[u8])]; 6] = [
        &[("../x", b"hunter2")],
        &[("", b"hunter2")],
        &[(".hidden", b"hunter2")],
        &[("A", b"hunter2"), ("A", b"hunter3")],
        &[("A", &longer)],
        &too_much,
    ];
    for case in cases {
        let error = install(&secrets, case).unwrap_err();
        assert!(matches!(error, FileError::BadStream(_)), "{error:?}");
        assert!(!format!("{error:?} {error}").contains("hunter"), "{error}");
        assert_eq!(secrets.current().value("KEEP"), Some(&b"kept-value"[..]));
    }
    assert!(!format!("{secrets:?}").contains("kept-value"));
}
