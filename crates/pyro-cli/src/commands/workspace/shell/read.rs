use super::AddressedShell;
use crate::cli::with_pyro;
use crate::commands::session::EXIT_TIMED_OUT;
use crate::commands::workspace::show;
use crate::output::{self, Format};
use clap::Args;
use pyro_core::workspace::{ReadShell, ShellOutput, ShellWait};
use std::process::ExitCode;

/// Read what a shell has printed since a cursor.
///
/// The output goes to standard output, and a line with the cursor for the next read to standard error. With
/// --plain it is the lines that have changed since the cursor, as a person would see them: without colours, a
/// progress bar as it stands, a full-screen program's whole screen.
///
/// A wait that ends without what was waited for gives what there is and exit code 124.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro workspace shell read fix SHELL
  pyro workspace shell read fix SHELL --cursor 2048 --plain --wait-for-prompt
  pyro workspace shell read fix SHELL --plain --wait-for '/^(ok|failed)/' --wait-seconds 120")]
pub(super) struct Read {
    #[command(flatten)]
    shell: AddressedShell,
    /// Where to begin: `next_cursor` of the read before.
    #[arg(long, default_value_t = 0)]
    cursor: u64,
    /// Give at most about this many bytes; the rest is there for the next read.
    #[arg(long, value_name = "BYTES", default_value_t = 65_536)]
    max_chars: u64,
    /// Give lines as a person would see them.
    #[arg(long)]
    plain: bool,
    /// Wait until nothing has been printed for this many milliseconds.
    #[arg(long, value_name = "MILLISECONDS", group = "wait")]
    wait_for_idle_ms: Option<u64>,
    /// Wait until the shell waits for a command.
    #[arg(long, group = "wait")]
    wait_for_prompt: bool,
    /// Wait for this text beyond the cursor, or for a match of /REGEX/; what is typed is echoed and counts.
    #[arg(long, value_name = "TEXT|/REGEX/", group = "wait")]
    wait_for: Option<String>,
    /// Wait for so long at most.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait_seconds: u64,
}

impl Read {
    pub(super) fn run(self) -> ExitCode {
        let AddressedShell { target, shell } = &self.shell;
        let format = target.output.format();
        let read = ReadShell {
            cursor: self.cursor,
            max_bytes: self.max_chars,
            plain: self.plain,
            wait: self.wait(),
            wait_seconds: self.wait_seconds,
        };
        match with_pyro(format, async |pyro| pyro.shell_read(&target.workspace, shell, &read).await) {
            Err(code) => code,
            Ok(read) => tell(&read, format),
        }
    }

    fn wait(&self) -> Option<ShellWait> {
        if let Some(millis) = self.wait_for_idle_ms {
            return Some(ShellWait::IdleMs(millis));
        }
        if self.wait_for_prompt {
            return Some(ShellWait::Prompt);
        }
        self.wait_for.as_deref().map(wait_for)
    }
}

/// A text, or a pattern between slashes.
pub(super) fn wait_for(text: &str) -> ShellWait {
    match text.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
        Some(pattern) => ShellWait::Pattern(pattern.to_owned()),
        None => ShellWait::Text(text.to_owned()),
    }
}

fn tell(read: &ShellOutput, format: Format) -> ExitCode {
    match format {
        Format::Json => output::json(read),
        Format::Human => {
            output::bytes(&read.bytes);
            if !read.bytes.is_empty() && !read.bytes.ends_with(b"\n") {
                output::line("");
            }
            output::note(show::shell_read(read));
        }
    }
    match read.wait_satisfied {
        Some(false) => ExitCode::from(EXIT_TIMED_OUT),
        Some(true) | None => ExitCode::SUCCESS,
    }
}
