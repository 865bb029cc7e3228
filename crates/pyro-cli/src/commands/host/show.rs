//! Clients and their entries, for people.

use crate::clients::{ClientReport, Done, PlaceReport, Standing};
use crate::output::{self, printable, shell_words, yes_no};

/// What was done about an entry, or would be.
pub(super) fn done(done: &Done) {
    if let Some(command) = &done.command {
        output::line(printable(&shell_words(command)));
    }
    if let Some(diff) = &done.diff {
        output::bytes(diff.as_bytes());
    }
    output::note(format_args!(
        "[host] host={} scope={} path={} changed={}{}",
        done.host.as_str(),
        done.scope.as_str(),
        printable(&done.path.to_string_lossy()),
        yes_no(done.changed),
        if done.dry_run { " dry_run=yes" } else { "" },
    ));
    if done.changed && done.after != Some(Standing::Present) {
        output::note("[host] the entry is not found there now: ask the client which servers it has");
    }
    if let Some(path) = &done.overridden_by {
        let path = printable(&path.to_string_lossy());
        output::note(format_args!("[host] here another entry counts: the one in {path}"));
    }
}

pub(super) fn reports(reports: &[ClientReport]) {
    for report in reports {
        output::line(format_args!(
            "{}: {} installed={}",
            report.host.as_str(),
            report.state,
            yes_no(report.installed)
        ));
        report.places.iter().filter(|place| place.is_worth_a_line()).for_each(self::place);
    }
}

fn place(place: &PlaceReport) {
    let path = printable(&place.path.to_string_lossy());
    output::line(format_args!("- {} {}: {path}", place.scope.as_str(), place.state));
    for difference in &place.differences {
        output::line(format_args!("  {}", printable(difference)));
    }
    if let Some(problem) = &place.problem {
        output::line(format_args!("  {}", printable(&problem.message)));
    }
}

impl PlaceReport {
    /// Claude Code's third list is for those who know of it.
    fn is_worth_a_line(&self) -> bool {
        self.scope.is_offered() || self.state != "missing"
    }
}
