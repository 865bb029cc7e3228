//! The public surface of the crate, item by item, against the list that is kept of it.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable that has the test write the list instead of comparing it.
const UPDATE: &str = "PYRO_UPDATE_PUBLIC_API";

#[test]
fn the_public_surface_is_the_one_on_record() {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("public-api.txt");
    let now = surface();
    if std::env::var_os(UPDATE).is_some() {
        return fs::write(&list, now).unwrap();
    }
    let kept = fs::read_to_string(&list).unwrap_or_default();
    let (kept, now): (BTreeSet<&str>, BTreeSet<&str>) = (kept.lines().collect(), now.lines().collect());
    let gone = kept.difference(&now).map(|line| format!("- {line}\n"));
    let new = now.difference(&kept).map(|line| format!("+ {line}\n"));
    let changes: String = gone.chain(new).collect();
    assert!(
        changes.is_empty(),
        "the public surface of pyro-core has changed:\n{changes}\
         Where that is meant: {UPDATE}=1 cargo test -p pyro-core --test public_api, and a line in CHANGELOG.md"
    );
}

/// Every public item, one a line. Hidden ones, and implementations that the compiler or a derive adds, are left
/// out.
fn surface() -> String {
    let api = public_api::Builder::from_rustdoc_json(described())
        .omit_blanket_impls(true)
        .omit_auto_trait_impls(true)
        .omit_auto_derived_impls(true)
        .build()
        .unwrap();
    api.to_string()
}

/// What rustdoc knows of the crate, as JSON: a form that only `-Z unstable-options` gives. The compiler is pinned, and
/// the reader of this form with it.
fn described() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let target = scratch.parent().unwrap();
    // Only rustdoc may be unstable: build scripts look at the variable, and would build everything anew.
    let rustdoc = scratch.join("rustdoc");
    fs::write(&rustdoc, "#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc \"$@\"\n").unwrap();
    fs::set_permissions(&rustdoc, fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(&root)
        .args("rustdoc --package pyro-core --lib --locked --offline --target-dir".split(' '))
        .arg(target)
        .args("-- -Z unstable-options --output-format json --cap-lints allow".split(' '))
        .env("RUSTDOC", &rustdoc)
        .env_remove("RUSTDOCFLAGS")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target.join("doc/pyro_core.json")
}
