use super::*;
use proptest::prelude::*;

fn kind() -> impl Strategy<Value = FrameKind> {
    (1u8..=14).prop_map(|byte| FrameKind::from_byte(byte).expect("1 to 14 are kinds"))
}

fn exec() -> impl Strategy<Value = Exec> {
    let text = ".{0,40}";
    (
        prop::collection::vec(text, 0..5),
        prop::collection::vec((text, text), 0..5),
        prop::option::of(text),
        prop::option::of(text),
        any::<(bool, bool)>(),
        prop::option::of((any::<u16>(), any::<u16>())),
        prop::option::of(any::<u64>()),
        prop::collection::vec((text, text), 0..3),
    )
        .prop_map(|(argv, env, cwd, user, (stdin, confined), tty, timeout_ms, secret_env)| Exec {
            argv,
            env,
            cwd,
            user,
            stdin,
            tty: tty.map(|(cols, rows)| TtySize { cols, rows }),
            timeout_ms,
            secret_env,
            confined,
        })
}

fn guest_path() -> impl Strategy<Value = GuestPath> {
    prop_oneof![
        ".{0,40}".prop_map(|text| GuestPath::from(text.as_str())),
        prop::collection::vec(any::<u8>(), 0..60).prop_map(GuestPath::new),
    ]
}

fn file_operation() -> impl Strategy<Value = Operation> {
    let places = (guest_path(), guest_path(), guest_path(), any::<bool>());
    (0..11, places, any::<u64>(), any::<u64>(), prop::option::of(any::<u32>())).prop_map(
        |(choice, (root, path, other, flag), a, b, mode)| match choice {
            0 => Operation::FileStat { root, path },
            1 => Operation::FileList { root, path, recursive: flag, limit: a },
            2 => Operation::FileRead { root, path, offset: a, max_bytes: b },
            3 => Operation::FileWrite { root, path, mode, create_parents: flag },
            4 => Operation::FileRemove { root, path, recursive: flag },
            5 => Operation::FileMkdir { root, path, parents: flag },
            6 => Operation::FileMove { root, from: path, to: other, replace: flag },
            7 => Operation::Walk { path },
            8 => Operation::FilesOut { root, max_bytes: a },
            9 => Operation::Apply { root, prune: flag },
            _ => Operation::SyncIn { root, path },
        },
    )
}

fn probe() -> impl Strategy<Value = Probe> {
    (0..3, guest_path(), ".{0,40}", any::<u16>(), ".{0,40}").prop_map(|(choice, path, host, port, target)| {
        match choice {
            0 => Probe::File { path },
            1 => Probe::Tcp { host, port },
            _ => Probe::Http { host, port, target },
        }
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (probe(), any::<u64>(), any::<u64>()).prop_map(|(probe, interval_ms, timeout_ms)| {
            Operation::AwaitReady { probe, interval_ms, timeout_ms }
        }),
        any::<i32>().prop_map(|pid| Operation::Usage { pid }),
        exec().prop_map(Operation::Exec),
        any::<u64>().prop_map(|unix_nanos| Operation::SetClock { unix_nanos }),
        Just(Operation::PowerOff),
        Just(Operation::Metrics),
        Just(Operation::Freeze),
        Just(Operation::Secrets),
        Just(Operation::Authorities),
        file_operation(),
        ".{0,40}".prop_map(|path| Operation::TreeOut { path }),
        ".{0,40}".prop_map(|path| Operation::TreeIn { path }),
        (".{0,20}", any::<u64>(), "[0-9a-f]{0,64}").prop_map(|(hostname, unix_nanos, entropy_hex)| {
            Operation::Configure(Configure { hostname, unix_nanos, entropy_hex, network: None })
        }),
    ]
}

proptest! {
    #[test]
    fn a_header_parses_back_to_itself(kind in kind(), len in 0..=MAX_PAYLOAD_BYTES) {
        let header = Header { kind, len };
        prop_assert_eq!(Header::parse(header.emit()), Ok(header));
    }

    #[test]
    fn any_five_bytes_are_refused_or_emit_back_to_themselves(bytes in any::<[u8; HEADER_BYTES]>()) {
        if let Ok(header) = Header::parse(bytes) {
            prop_assert!(header.len <= MAX_PAYLOAD_BYTES);
            prop_assert_eq!(header.emit(), bytes);
        }
    }

    #[test]
    fn a_request_parses_back_to_itself(operation in operation()) {
        let request = Request::new(operation);
        let payload = serde_json::to_vec(&request).unwrap();
        prop_assert_eq!(Request::parse(&payload), Ok(request));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048), cut in 1usize..64) {
        let _ = Request::parse(&bytes);
        fuzz_stream(&bytes, cut);
    }

    #[test]
    fn frames_survive_any_way_of_cutting_the_stream(
        frames in prop::collection::vec((kind(), prop::collection::vec(any::<u8>(), 0..300)), 0..8),
        cut in 1usize..400,
    ) {
        let stream: Vec<u8> = frames.iter().flat_map(|(kind, payload)| emit_frame(*kind, payload)).collect();
        let mut decoder = Decoder::new();
        let mut seen = Vec::new();
        for piece in stream.chunks(cut) {
            decoder.feed(piece);
            while let Some(frame) = decoder.next_frame().unwrap() {
                seen.push(frame);
            }
        }
        prop_assert_eq!(seen, frames);
        prop_assert!(decoder.is_empty());
    }
}

#[test]
fn another_version_is_told_apart_from_a_bad_request() {
    let future = br#"{"version":4,"operation":{"teleport":{}},"more":1}"#;
    assert_eq!(Request::parse(future).unwrap_err().code, FailureCode::VersionMismatch);
    let nonsense = br#"{"version":3,"operation":{"teleport":{}}}"#;
    assert_eq!(Request::parse(nonsense).unwrap_err().code, FailureCode::BadRequest);
    assert_eq!(Request::parse(b"").unwrap_err().code, FailureCode::BadRequest);
}

#[test]
fn an_oversized_frame_is_refused_before_its_payload_arrives() {
    let mut decoder = Decoder::new();
    decoder.feed(&[10, 0xff, 0xff, 0xff, 0x7f]);
    assert_eq!(decoder.next_frame(), Err(FrameError::TooLarge(0x7fff_ffff)));
}

#[test]
fn exit_status_follows_the_shell() {
    let exit = Exit { code: Some(3), signal: None, timed_out: false, duration_ms: 0 };
    assert_eq!(exit.status(), 3);
    assert_eq!(Exit { code: None, signal: Some(9), ..exit.clone() }.status(), 137);
    assert_eq!(Exit { timed_out: true, ..exit }.status(), EXIT_TIMED_OUT);
}
