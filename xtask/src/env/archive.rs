//! Where Debian packages come from: the archives that apt uses on this machine, so that no host is named here.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::{setup, steps};

/// Lines for `sources.list`, and what tells one day's archive from another's.
pub(crate) struct Sources {
    pub(crate) lines: String,
    pub(super) package_lists: String,
}

/// What apt tells of each package list, one a line, tabs between.
const FORMAT: &str = "$(ORIGIN)\t$(CODENAME)\t$(COMPONENT)\t$(SITE)\t$(FILENAME)";

/// The archives of `suite` with its updates and security fixes.
pub(crate) fn sources(suite: &str, mirror: Option<&str>) -> Result<Sources> {
    if let Some(mirror) = mirror {
        // The mirror's lists are not apt's here, so nothing tells whether they changed: build by the recipe alone.
        return Ok(Sources { lines: format!("deb {mirror} {suite} main\n"), package_lists: String::new() });
    }
    let mut found = parse(&targets()?, suite);
    if found.lines.is_empty() && setup::is_root() {
        setup::update_lists()?;
        found = parse(&targets()?, suite);
    }
    ensure!(
        !found.lines.is_empty(),
        "apt knows no Debian archive of {suite} here: run apt-get update on Debian 12, or name one with --mirror URL"
    );
    Ok(found)
}

fn targets() -> Result<String> {
    steps::read(Command::new("apt-get").args(["indextargets", "--format", FORMAT, "Created-By: Packages"]))
}

fn parse(targets: &str, suite: &str) -> Sources {
    let mut lines = BTreeSet::new();
    let mut package_lists = String::new();
    for target in targets.lines() {
        let fields: Vec<&str> = target.split('\t').collect();
        let [origin, codename, component, site, file] = fields[..] else { continue };
        let of_suite =
            codename.strip_prefix(suite).is_some_and(|rest| ["", "-updates", "-security"].contains(&rest));
        if origin == "Debian" && component == "main" && of_suite {
            lines.insert((codename, site));
            // The file's time is the archive's own, set by apt: it changes exactly when the list does.
            let changed = std::fs::metadata(file).and_then(|found| found.modified()).ok();
            let since = changed.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            let _ = writeln!(package_lists, "{codename} {}", since.map_or(0, |time| time.as_secs()));
        }
    }
    let lines = lines.into_iter().map(|(codename, site)| format!("deb {site} {codename} main\n")).collect();
    Sources { lines, package_lists }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_suites_own_archives_are_taken() {
        let targets = "Debian\tbookworm\tmain\thttp://mirror.example/debian\t/nowhere\n\
                       Debian\tbookworm\tcontrib\thttp://mirror.example/debian\t/nowhere\n\
                       Debian\tbookworm-security\tmain\thttp://mirror.example/security\t/nowhere\n\
                       Debian Backports\tbookworm-backports\tmain\thttp://mirror.example/debian\t/nowhere\n\
                       Elsewhere\tbookworm\tmain\thttp://other.example\t/nowhere\n\
                       Debian\ttrixie\tmain\thttp://mirror.example/debian\t/nowhere\n";
        assert_eq!(
            parse(targets, "bookworm").lines,
            "deb http://mirror.example/debian bookworm main\n\
             deb http://mirror.example/security bookworm-security main\n"
        );
        assert_eq!(parse("", "bookworm").lines, "");
    }

    #[test]
    fn a_named_mirror_replaces_what_apt_knows() {
        let sources = sources("bookworm", Some("http://mirror.example/debian")).unwrap();
        assert_eq!(sources.lines, "deb http://mirror.example/debian bookworm main\n");
    }
}
