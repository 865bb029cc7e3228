//! Source files stay short enough to be read at one sitting.

use super::exceptions::{Exceptions, Rule};
use super::{Finding, SourceFile};

const MOST_LINES: usize = 700;

/// Whether a source file is too long. An excepted file may not grow beyond what its exception states.
pub(super) fn check(file: &SourceFile, exceptions: &mut Exceptions) -> Option<Finding> {
    if file.path.extension().is_none_or(|extension| extension != "rs") {
        return None;
    }
    let lines = file.text.lines().count();
    let most = if lines > MOST_LINES {
        exceptions.take(Rule::LongFile, &file.path).map_or(MOST_LINES, |limit| limit.max(MOST_LINES))
    } else {
        MOST_LINES
    };
    (lines > most).then(|| {
        Finding::new(file.path.to_string_lossy(), format!("{lines} lines, at most {most} are allowed"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::file;

    #[test]
    fn long_sources_are_found_and_other_texts_are_not() {
        let mut none = Exceptions::parse("").unwrap();
        let long = "x\n".repeat(701);
        assert!(check(&file("a.rs", &long), &mut none).is_some());
        assert!(check(&file("a.md", &long), &mut none).is_none());
        assert!(check(&file("a.rs", &"x\n".repeat(700)), &mut none).is_none());
    }

    #[test]
    fn an_excepted_file_may_not_grow() {
        let mut exceptions = Exceptions::parse("long-file a.rs 710 a table").unwrap();
        assert!(check(&file("a.rs", &"x\n".repeat(710)), &mut exceptions).is_none());
        assert!(check(&file("a.rs", &"x\n".repeat(711)), &mut exceptions).is_some());
    }
}
