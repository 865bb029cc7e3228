use super::keys::{DetachKeys, Typed};
use crate::cli::with_pyro;
use crate::commands::session::terminal::RawMode;
use crate::commands::session::{self, exit_code};
use crate::commands::workspace::show;
use crate::output::{self, Format};
use clap::Args;
use pyro_core::workspace::{AttachInput, AttachOutput, Attached, Pyro, ShellView, WorkspaceError};
use pyro_core::{Blame, Problem};
use std::io::IsTerminal;
use std::process::ExitCode;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

/// Use a shell in this terminal, until it ends or the detach keys are pressed.
///
/// The shell's terminal gets the size of this one and follows it. After detaching it goes on; its exit code is
/// pyro's when it ends.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro workspace shell attach fix SHELL --detach-keys ctrl-a,d")]
pub(super) struct Attach {
    /// The workspace: its id, a unique beginning of the id, or its name.
    workspace: String,
    /// The shell's id, or a unique beginning of it, as `shell open` and `shell list` tell it.
    shell: String,
    /// Keys that detach.
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
}

#[derive(Debug, thiserror::Error)]
#[error("attach needs a terminal, but standard input or output is none")]
struct NoTerminal;

/// How an attachment came to its end.
enum Left {
    Detached,
    Ended(ShellView),
}

impl Attach {
    pub(super) fn run(self) -> ExitCode {
        let (Some(size), true) = (session::terminal_size(), std::io::stdout().is_terminal()) else {
            let problem = Problem::new("no_terminal", Blame::Caller, &NoTerminal)
                .with_hint("`pyro workspace shell write` and `shell read` work without one");
            return output::problem(&problem, Format::Human);
        };
        with_pyro(Format::Human, async |pyro| self.attach(pyro, size).await).unwrap_or_else(|code| code)
    }

    async fn attach(&self, pyro: &Pyro, (cols, rows): (u16, u16)) -> Result<ExitCode, WorkspaceError> {
        let attachment = pyro.shell_attach(&self.workspace, &self.shell, cols, rows).await?;
        let (mut shell, mut input, mut out) = (attachment.shell, attachment.input, attachment.output);
        let raw_mode = RawMode::enter();
        let left = tokio::select! {
            left = show_output(&mut out) => left,
            left = type_input(&mut input, self.detach_keys.clone()) => left,
        };
        // A machine that is gone cannot tell what became of the screen; the terminal is restored all the same.
        if let Ok(bytes) = attachment.restore.bytes().await {
            output::bytes(&bytes);
        }
        drop(raw_mode);
        output::line("");
        let code = match left? {
            Left::Detached => ExitCode::SUCCESS,
            Left::Ended(ended) => {
                shell = ended;
                shell.exit_code.map_or(ExitCode::from(session::EXIT_UNKNOWN), exit_code)
            }
        };
        output::note(show::shell_attached(&shell));
        Ok(code)
    }
}

async fn show_output(out: &mut AttachOutput) -> Result<Left, WorkspaceError> {
    loop {
        match out.next().await? {
            Attached::Bytes(bytes) => output::bytes(&bytes),
            Attached::Ended(shell) => return Ok(Left::Ended(shell)),
        }
    }
}

/// Passes on what is typed; ends when that are the detach keys, or when this terminal is gone.
async fn type_input(input: &mut AttachInput, keys: DetachKeys) -> Result<Left, WorkspaceError> {
    let mut stdin = tokio::io::stdin();
    let mut resized = signal(SignalKind::window_change()).ok();
    let mut typed = Typed::new(keys);
    let mut buffer = vec![0; 16 << 10];
    loop {
        let passed = tokio::select! {
            read = stdin.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return Ok(Left::Detached),
                Ok(len) => {
                    let (passed, is_detached) = typed.take(&buffer[..len]);
                    if is_detached {
                        return Ok(Left::Detached);
                    }
                    input.write(&passed).await
                }
            },
            Some(()) = session::next_signal(&mut resized) => match session::terminal_size() {
                Some((cols, rows)) => input.resize(cols, rows).await.map(|_| ()),
                None => Ok(()),
            },
        };
        if passed.is_err() {
            // The shell has ended or its machine is gone, which the output tells with the reason.
            return std::future::pending().await;
        }
    }
}
