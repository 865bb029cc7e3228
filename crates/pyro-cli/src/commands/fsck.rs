use crate::cli::answer;
use crate::output::{self, Format};
use clap::Args;
use pyro_core::Blame;
use pyro_core::workspace::{FsckReport, Repair};
use std::process::ExitCode;

/// Check the records of workspaces against their files.
///
/// Exits with 0 when nothing is wrong, or when all that was wrong has been put right, and with 5 otherwise.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  pyro fsck\n  pyro fsck --repair")]
pub(crate) struct Fsck {
    /// Remove files that no record names.
    #[arg(long)]
    repair: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Fsck {
    pub(crate) fn run(self) -> ExitCode {
        let format = Format::from_flag(self.json);
        let repair = if self.repair { Repair::Yes } else { Repair::No };
        let mut clean = true;
        let code = answer(
            format,
            async |pyro| {
                let report = pyro.fsck(repair).await?;
                clean = report.problems.is_empty();
                Ok(report)
            },
            |report| output::line(report_lines(report, repair)),
        );
        if clean { code } else { ExitCode::from(Blame::Host.exit_code()) }
    }
}

fn report_lines(report: &FsckReport, repair: Repair) -> String {
    let mut lines = Vec::new();
    lines.extend(report.repaired.iter().map(|text| format!("- repaired: {}", output::printable(text))));
    lines.extend(report.problems.iter().map(|text| format!("- {}", output::printable(text))));
    lines.push(match (report.problems.len(), repair) {
        (0, _) => "State: clean".to_owned(),
        (count, Repair::No) => format!("State: problems ({count}); `pyro fsck --repair` mends what it can"),
        (count, Repair::Yes) => format!("State: problems left ({count})"),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(problems: &[&str], repaired: &[&str]) -> FsckReport {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        FsckReport { problems: owned(problems), repaired: owned(repaired) }
    }

    #[test]
    fn a_report_ends_with_the_state() {
        assert_eq!(report_lines(&report(&[], &[]), Repair::No), "State: clean");
        assert_eq!(report_lines(&report(&[], &["x"]), Repair::Yes), "- repaired: x\nState: clean");
        let found = report_lines(&report(&["a\nb"], &[]), Repair::No);
        assert_eq!(found, "- a\\nb\nState: problems (1); `pyro fsck --repair` mends what it can");
    }
}
