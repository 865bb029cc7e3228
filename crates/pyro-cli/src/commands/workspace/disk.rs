use super::arguments::host_path;
use super::file::{ReadArgs, tell_content};
use super::{Addressed, show};
use crate::cli::answer;
use crate::output;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Look into the whole disk of a stopped workspace.
///
/// Paths are the guest's; relative ones begin at /workspace.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Example:\n  pyro workspace disk read fix /etc/os-release"
)]
pub(super) struct Disk {
    #[command(subcommand)]
    command: DiskCommand,
}

#[derive(Debug, Subcommand)]
enum DiskCommand {
    Export(Export),
    List(List),
    Read(Read),
}

/// Copy the disk to a raw ext4 image of the host.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace disk export fix --output ./fix.ext4")]
struct Export {
    #[command(flatten)]
    target: Addressed,
    /// The image to make; it must not exist.
    #[arg(long, value_name = "HOST_PATH")]
    output: PathBuf,
}

/// List a directory of the disk.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace disk list fix /etc")]
struct List {
    #[command(flatten)]
    target: Addressed,
    /// The directory.
    #[arg(default_value = "/workspace")]
    path: String,
    /// Also what is below its directories.
    #[arg(long)]
    recursive: bool,
}

/// Print a file of the disk.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace disk read fix /etc/os-release")]
struct Read {
    #[command(flatten)]
    target: Addressed,
    /// The file.
    path: String,
    #[command(flatten)]
    content: ReadArgs,
}

impl Disk {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            DiskCommand::Export(command) => command.run(),
            DiskCommand::List(command) => command.run(),
            DiskCommand::Read(command) => command.run(),
        }
    }
}

impl Export {
    fn run(self) -> ExitCode {
        let output = host_path(&self.output);
        answer(
            self.target.output.format(),
            async |pyro| pyro.disk_export(&self.target.workspace, &output).await,
            |exported| output::line(show::disk_exported(exported)),
        )
    }
}

impl List {
    fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| pyro.disk_list(&self.target.workspace, &self.path, self.recursive).await,
            |listing| {
                output::line(show::disk_listing(listing));
                if listing.truncated {
                    output::note(show::CUT_LISTING);
                }
            },
        )
    }
}

impl Read {
    fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| pyro.disk_read(&self.target.workspace, &self.path, self.content.max_bytes).await,
            |content| tell_content(&content.bytes, self.content.content_only, || show::disk_read(content)),
        )
    }
}
