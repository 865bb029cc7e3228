use super::*;

fn config() -> Config {
    Config {
        version: VERSION,
        engine: EngineConfig::Emulated { qemu: "/usr/bin/qemu-system-x86_64".into() },
        vcpu_count: 1,
        mem_mib: 512,
        disk_limit_bytes: None,
        disk_size_bytes: None,
        sealed_layers: 64,
        network: None,
        guest_cid: 3,
        host_ports: vec![5006],
        boot_args: vec!["quiet".into()],
        seccomp: SeccompAction::Kill,
        host_namespaces: crate::jail::NamespaceIds::default(),
    }
}

fn refusal(change: impl FnOnce(&mut Config)) -> String {
    let mut config = config();
    change(&mut config);
    Order::parse(&serde_json::to_vec(&Order::Run(config)).unwrap()).unwrap_err().to_string()
}

#[test]
fn a_configuration_survives_the_wire() {
    let order = Order::Run(config());
    assert_eq!(Order::parse(&serde_json::to_vec(&order).unwrap()).unwrap(), order);
}

#[test]
fn values_out_of_range_are_named() {
    assert_eq!(refusal(|c| c.vcpu_count = 0), "0 vCPUs are not between 1 and 32");
    assert_eq!(refusal(|c| c.vcpu_count = 33), "33 vCPUs are not between 1 and 32");
    assert_eq!(refusal(|c| c.mem_mib = 255), "255 MiB of memory are not between 256 and 1048576");
    assert_eq!(refusal(|c| c.mem_mib = 1_048_577), "1048577 MiB of memory are not between 256 and 1048576");
    assert_eq!(refusal(|c| c.guest_cid = 2), "guest address 2 is reserved (use 3 or more)");
    assert_eq!(refusal(|c| c.version = 7), "configuration has version 7, this is version 1");
    assert_eq!(
        refusal(|c| c.boot_args = vec!["a b".into()]),
        "boot argument \"a b\" is not one printable word"
    );
    assert_eq!(refusal(|c| c.sealed_layers = 65), "65 sealed layers are over the limit of 64");
    assert!(refusal(|c| c.boot_args = vec!["x".repeat(2000)]).contains("over the limit"));
    assert!(refusal(|c| c.engine = EngineConfig::Emulated { qemu: "qemu".into() }).contains("absolute"));
}

#[test]
fn unknown_fields_are_refused() {
    let mut value = serde_json::to_value(Order::Run(config())).unwrap();
    value["run"]["surprise"] = true.into();
    assert!(Order::parse(value.to_string().as_bytes()).is_err());
}

#[test]
fn events_carry_bytes_that_are_not_text() {
    let event = Event::Exited { reason: ExitReason::PoweredOff, console_tail: vec![0, 255, b'\n'] };
    let json = serde_json::to_string(&event).unwrap();
    assert_eq!(json, r#"{"exited":{"reason":"powered_off","console_tail":"AP8K"}}"#);
    assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
}

#[test]
fn the_largest_event_fits_its_limit() {
    let event = Event::Exited {
        reason: ExitReason::EngineDied {
            status: "signal 11".into(),
            engine_output: "\u{1}".repeat(limits::ENGINE_OUTPUT_BYTES),
        },
        console_tail: vec![7; limits::CONSOLE_TAIL_BYTES],
    };
    assert!(serde_json::to_vec(&event).unwrap().len() <= limits::MAX_EVENT_BYTES);
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        fuzz_parse(&bytes);
    }
}
