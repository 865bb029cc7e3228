use super::*;

fn report(qemu: QemuReport) -> EngineReport {
    EngineReport { kvm: KvmReport::Unusable { why: "a small guest died: it cried".into() }, qemu }
}

fn found() -> QemuReport {
    QemuReport::Found { path: "/usr/bin/qemu-system-x86_64".into(), version: "7.2.22".into() }
}

#[test]
fn version_is_read_from_the_first_line() {
    let text = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright (c) 2003-2022\n";
    assert_eq!(parse_version(text), Some(("7.2.22".into(), (7, 2))));
    assert_eq!(parse_version("QEMU emulator version 10.0.2\n"), Some(("10.0.2".into(), (10, 0))));
    assert_eq!(parse_version("something else"), None);
    assert_eq!(parse_version("version x.y"), None);
}

#[test]
fn auto_takes_the_emulated_engine_and_says_why() {
    let chosen = report(found()).choose(EngineChoice::Auto).unwrap();
    assert_eq!(chosen.engine, EngineSpec::Emulated { qemu: "/usr/bin/qemu-system-x86_64".into() });
    assert_eq!(chosen.why, "/dev/kvm opens, but a small guest died: it cried");
}

#[test]
fn kvm_is_refused_with_the_reason() {
    let error = report(found()).choose(EngineChoice::Kvm).unwrap_err();
    assert_eq!(
        error.to_string(),
        "engine kvm cannot be used: /dev/kvm opens, but a small guest died: it cried"
    );
}

#[test]
fn without_qemu_there_is_no_engine() {
    let error = report(QemuReport::Absent).choose(EngineChoice::Auto).unwrap_err();
    assert_eq!(error.to_string(), "engine emulated cannot be used: qemu-system-x86_64 is not in PATH");
}

#[test]
fn an_empty_search_path_has_no_qemu() {
    assert_eq!(probe_qemu(OsStr::new("")), QemuReport::Absent);
}

#[test]
fn an_old_or_broken_qemu_is_told_apart() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(QEMU_PROGRAM);
    let write = |script: &str| {
        // A fresh file each time: the previous one may still be busy.
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        probe_qemu(directory.path().as_os_str())
    };
    assert_eq!(
        write("#!/bin/sh\necho QEMU emulator version 5.2.0\n"),
        QemuReport::TooOld { path: path.clone(), version: "5.2.0".into() }
    );
    assert!(matches!(write("#!/bin/sh\nexit 3\n"), QemuReport::Broken { .. }));
    assert!(matches!(write("#!/bin/sh\necho hello\n"), QemuReport::Broken { .. }));
}
