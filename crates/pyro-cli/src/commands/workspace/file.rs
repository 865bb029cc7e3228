use super::arguments::ArgumentError;
use super::{Addressed, content, show};
use crate::cli::answer;
use crate::output;
use clap::{Args, Subcommand};
use pyro_core::Explain;
use std::path::PathBuf;
use std::process::ExitCode;

/// Read and change single files of a started workspace.
///
/// Paths are relative to /workspace and stay in it.
#[derive(Debug, Args)]
#[command(arg_required_else_help = true, after_help = "Example:\n  pyro workspace file read fix src/main.rs")]
pub(super) struct File {
    #[command(subcommand)]
    command: FileCommand,
}

#[derive(Debug, Subcommand)]
enum FileCommand {
    List(List),
    Read(Read),
    Write(Write),
    Remove(Remove),
    Mkdir(Mkdir),
    Move(Move),
    Stat(Stat),
}

/// List a directory.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace file list fix src --recursive")]
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

/// Print a file.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro workspace file read fix note.txt
  pyro workspace file read fix image.png --content-only --max-bytes 1048576 > image.png")]
struct Read {
    #[command(flatten)]
    target: Addressed,
    /// The file.
    path: String,
    #[command(flatten)]
    content: ReadArgs,
}

#[derive(Debug, Args)]
pub(super) struct ReadArgs {
    /// Print at most this much.
    #[arg(long, default_value_t = 65_536, value_name = "BYTES")]
    pub(super) max_bytes: u64,
    /// Print the bytes as they are and nothing else.
    #[arg(long, conflicts_with = "json")]
    pub(super) content_only: bool,
}

/// Make a file or replace its content; its mode stays, directories above it are made.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro workspace file write fix note.txt --text hello
  pyro workspace file write fix image.png --text-file ./image.png")]
struct Write {
    #[command(flatten)]
    target: Addressed,
    /// The file.
    path: String,
    #[command(flatten)]
    content: WriteArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct WriteArgs {
    /// The new content.
    #[arg(long, allow_hyphen_values = true)]
    text: Option<String>,
    /// A file of the host with the new content, which may be any bytes.
    #[arg(long, value_name = "HOST_PATH")]
    text_file: Option<PathBuf>,
    /// Take the new content from standard input.
    #[arg(long)]
    stdin: bool,
}

/// Remove a file, a link, or with --recursive a directory.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace file remove fix build --recursive")]
struct Remove {
    #[command(flatten)]
    target: Addressed,
    /// What to remove.
    path: String,
    /// Also a directory with all that is in it.
    #[arg(long)]
    recursive: bool,
}

/// Make a directory.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace file mkdir fix src/new --parents")]
struct Mkdir {
    #[command(flatten)]
    target: Addressed,
    /// The directory.
    path: String,
    /// Make the directories above it too, and take one that is there.
    #[arg(long)]
    parents: bool,
}

/// Rename a file or directory.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace file move fix draft.txt final.txt")]
struct Move {
    #[command(flatten)]
    target: Addressed,
    /// What to rename.
    from: String,
    /// Its new path.
    to: String,
    /// Replace what is there.
    #[arg(long)]
    replace: bool,
}

/// Show a file's type, size, mode and owner.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace file stat fix run.sh")]
struct Stat {
    #[command(flatten)]
    target: Addressed,
    /// The file; of a link, the link itself.
    path: String,
}

impl File {
    pub(super) fn run(self) -> ExitCode {
        match self.command {
            FileCommand::List(command) => command.run(),
            FileCommand::Read(command) => command.run(),
            FileCommand::Write(command) => command.run(),
            FileCommand::Remove(command) => command.run(),
            FileCommand::Mkdir(command) => command.run(),
            FileCommand::Move(command) => command.run(),
            FileCommand::Stat(command) => command.run(),
        }
    }
}

impl List {
    fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| pyro.file_list(&self.target.workspace, &self.path, self.recursive).await,
            |listing| {
                output::line(show::file_listing(listing));
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
            async |pyro| pyro.file_read(&self.target.workspace, &self.path, self.content.max_bytes).await,
            |content| tell_content(&content.bytes, self.content.content_only, || show::file_read(content)),
        )
    }
}

/// A file's content, and unless that is all that is wanted, what is known of it.
pub(super) fn tell_content(bytes: &[u8], content_only: bool, footer: impl FnOnce() -> String) {
    if content_only {
        return output::bytes(bytes);
    }
    output::bytes(show::whole_lines(bytes).as_ref());
    output::note(footer());
}

impl WriteArgs {
    fn bytes(self) -> Result<Vec<u8>, ArgumentError> {
        match (self.text, self.text_file) {
            (Some(text), _) => Ok(text.into_bytes()),
            (None, Some(path)) => content::file("--text-file", &path),
            // The group wants one of the three.
            (None, None) => content::stdin(),
        }
    }
}

impl Write {
    fn run(self) -> ExitCode {
        let format = self.target.output.format();
        let bytes = match self.content.bytes() {
            Ok(bytes) => bytes,
            Err(error) => return output::problem(&error.explain(), format),
        };
        answer(
            format,
            async |pyro| pyro.file_write(&self.target.workspace, &self.path, &bytes).await,
            |written| output::line(show::file_written(written)),
        )
    }
}

impl Remove {
    fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| pyro.file_remove(&self.target.workspace, &self.path, self.recursive).await,
            |changed| output::line(show::file_changed("workspace-file-remove", changed)),
        )
    }
}

impl Mkdir {
    fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| pyro.file_mkdir(&self.target.workspace, &self.path, self.parents).await,
            |changed| output::line(show::file_changed("workspace-file-mkdir", changed)),
        )
    }
}

impl Move {
    fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| pyro.file_move(&self.target.workspace, &self.from, &self.to, self.replace).await,
            |changed| output::line(show::file_changed("workspace-file-move", changed)),
        )
    }
}

impl Stat {
    fn run(self) -> ExitCode {
        answer(
            self.target.output.format(),
            async |pyro| pyro.file_stat(&self.target.workspace, &self.path).await,
            |facts| output::line(show::file_facts(facts)),
        )
    }
}
