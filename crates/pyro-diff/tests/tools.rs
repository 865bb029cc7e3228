//! Second opinions: what git, patch, diff and e2fsprogs make of the same trees.

// The modules beside this file are test code too, which the lints cannot know.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "tools/disk.rs"]
mod disk;
#[path = "tools/git.rs"]
mod git;
#[path = "tools/offsets.rs"]
mod offsets;
#[path = "tools/tree.rs"]
mod tree;

use std::process::Command;

/// Whether `program` is here; where not, says so and, if `PYRO_REQUIRE` names `package`, fails.
fn has(program: &str, package: &str) -> bool {
    if Command::new(program)
        .arg("--version")
        .output()
        .or_else(|_| Command::new(program).arg("-V").output())
        .is_ok()
    {
        return true;
    }
    let required =
        std::env::var("PYRO_REQUIRE").is_ok_and(|list| list.split(',').any(|word| word == package));
    assert!(!required, "no {program}");
    println!("skipped (no {program} on this machine)");
    false
}
