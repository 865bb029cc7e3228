//! `unsafe` is allowed in modules called `sys` and nowhere else.
//!
//! The compiler denies it everywhere; this rule watches the places that switch the denial off.

use std::path::Path;

use super::{Finding, SourceFile};

/// The lint's name, put together so that this file does not find itself.
const LINT: &str = concat!("unsafe", "_code");

/// A file outside `sys` that allows unsafe code.
pub(super) fn check(file: &SourceFile) -> Option<Finding> {
    if file.path.extension().is_none_or(|extension| extension != "rs") || is_sys(&file.path) {
        return None;
    }
    let allows = file.text.lines().enumerate().find(|(_, line)| {
        let line = line.trim_start();
        line.starts_with('#')
            && line.contains(LINT)
            && ["allow(", "expect(", "warn("].iter().any(|word| line.contains(word))
    });
    allows.map(|(number, _)| {
        Finding::new(
            format!("{}:{}", file.path.display(), number + 1),
            "allows unsafe code outside a module called `sys`",
        )
    })
}

/// `sys.rs`, `sys/...`.
fn is_sys(path: &Path) -> bool {
    path.with_extension("").components().any(|part| part.as_os_str() == "sys")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::file;

    #[test]
    fn unsafe_code_is_allowed_in_sys_modules_only() {
        let text = format!("//! Calls.\n#![allow({LINT})]\nfn f() {{}}\n");
        assert!(check(&file("crates/a/src/sys.rs", &text)).is_none());
        assert!(check(&file("crates/a/src/jail/sys/seccomp.rs", &text)).is_none());
        let finding = check(&file("crates/a/src/system.rs", &text)).unwrap();
        assert_eq!(finding.place, "crates/a/src/system.rs:2");
    }

    #[test]
    fn denying_or_mentioning_the_lint_is_fine() {
        assert!(check(&file("a.rs", &format!("#![deny({LINT})]\n// allow({LINT}) is for sys\n"))).is_none());
    }
}
