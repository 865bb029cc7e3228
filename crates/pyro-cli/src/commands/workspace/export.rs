use super::arguments::host_path;
use super::{Addressed, show};
use crate::cli::answer;
use crate::output::{self, TreeProgress};
use clap::Args;
use pyro_core::workspace::{ExportOptions, Exported, LinkPolicy, Overwrite};
use std::path::PathBuf;
use std::process::ExitCode;

/// Copy one file or directory of a workspace to the host.
///
/// It appears there whole or not at all. Links that would lead out of an exported directory are told, not
/// made.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace export fix src/note.txt --output ./note.txt")]
pub(super) struct Export {
    #[command(flatten)]
    target: Addressed,
    /// What to copy; relative to /workspace.
    path: String,
    /// Where to; it must not exist, unless --force is given.
    #[arg(long, value_name = "HOST_PATH")]
    output: PathBuf,
    /// Replace what is there.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    links: LinkArgs,
}

#[derive(Debug, Args)]
pub(super) struct LinkArgs {
    /// Also make links that lead out of the copied tree.
    #[arg(long)]
    all_links: bool,
}

impl LinkArgs {
    pub(super) fn policy(&self) -> LinkPolicy {
        if self.all_links { LinkPolicy::All } else { LinkPolicy::InsideOnly }
    }
}

impl Export {
    pub(super) fn run(self) -> ExitCode {
        let output = host_path(&self.output);
        let overwrite = if self.force { Overwrite::Replace } else { Overwrite::Refuse };
        let options = ExportOptions { overwrite, links: self.links.policy() };
        let format = self.target.output.format();
        answer(
            format,
            async |pyro| {
                let progress = TreeProgress::new(format, "receiving");
                let moved = |bytes| progress.moved(bytes);
                pyro.export(&self.target.workspace, &self.path, &output, options, &moved).await
            },
            |exported| tell("workspace-export", exported),
        )
    }
}

/// The result's line, and a note on each entry that was left out.
pub(super) fn tell(tag: &str, exported: &Exported) {
    output::line(show::exported(tag, exported));
    for skipped in show::skipped(tag, exported) {
        output::note(skipped);
    }
    if exported.skipped_count > 0 {
        output::note("hint: --all-links makes links that lead out of the tree, too");
    }
}
