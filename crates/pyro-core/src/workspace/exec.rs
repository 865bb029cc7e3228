//! Commands in a workspace, each with a number and a record.

use super::{EXECUTION_MODE, KillSignal, Pyro, WORKSPACE_PATH, WorkspaceError, WorkspaceId, now, secrets};
use crate::authorities::Authorities;
use crate::exec::{AgentError, ExecInput, ExecOutput, ExecRequest};
use crate::limits::SUPERVISOR_DEADLINE;
use crate::machine::{Link, MachineError, unexpected};
use crate::network::{NetworkDenial, NetworkDenials};
use crate::store::{
    CommandKey, CommandOutcome, CommandOutput, DETAIL_BYTES, EventKind, NetworkPolicy, OUTPUT_BYTES,
    Workspace,
};
use crate::supervisor::protocol::{Answer, Request};
use pyro_agent::redact::{Needles, redact};
use pyro_agent::wire::{Exit, Failure, FailureCode};
use serde::Serialize;
use serde_json::json;
use std::sync::Arc;

/// Exit codes of shells for what they cannot run.
const EXIT_NOT_EXECUTABLE: i32 = 126;
const EXIT_NOT_FOUND: i32 = 127;

/// A command to run in a workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkspaceCommand {
    /// What to execute. Where it names no directory or user, the environment's image decides.
    pub exec: ExecRequest,
    /// The command as a shell would take it, for the records. Secrets' values in it are redacted.
    pub shown_command: String,
}

/// What is known of a command while it runs.
#[derive(Clone, Debug, Serialize)]
pub struct ExecFacts {
    /// The workspace.
    pub workspace_id: String,
    /// Its environment.
    pub environment: String,
    /// That one's version.
    pub environment_version: Option<String>,
    /// Its number since the last reset, from 1.
    pub sequence: u64,
    /// Where it runs.
    pub cwd: String,
    /// As a shell would take it, without secrets.
    pub command: String,
}

/// A running command. Dropped before [`WorkspaceExec::finish`], its whole process tree is killed and it
/// goes on record as lost.
pub struct WorkspaceExec<'a> {
    /// What is known of it.
    pub facts: ExecFacts,
    pyro: &'a Pyro,
    key: CommandKey,
    link: Link,
    /// The number of its first denial, where there is a network.
    denials_from: Option<u64>,
}

/// What a command printed, as far as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Whether there was more.
    pub stdout_truncated: bool,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Whether there was more.
    pub stderr_truncated: bool,
}

/// A command that has ended.
#[derive(Clone, Debug, Serialize)]
pub struct ExecRecord {
    /// What was known before.
    #[serde(flatten)]
    pub facts: ExecFacts,
    /// Standard output.
    pub stdout: String,
    /// Whether there was more.
    pub stdout_truncated: bool,
    /// Standard error.
    pub stderr: String,
    /// Whether there was more.
    pub stderr_truncated: bool,
    /// Its exit code; 124 when its time was up, 128 + N after signal N.
    pub exit_code: i32,
    /// Milliseconds that it ran.
    pub duration_ms: u64,
    /// `guest_vsock`.
    pub execution_mode: &'static str,
    /// What the guest was denied while it ran, each once; also by others that ran at the time.
    pub network_denials: Vec<NetworkDenial>,
    /// Whether there was more.
    pub network_denials_truncated: bool,
}

/// A command about to run.
pub(super) struct Prepared {
    pub(super) id: WorkspaceId,
    pub(super) link: Link,
    pub(super) request: ExecRequest,
    /// Without its number.
    pub(super) facts: ExecFacts,
}

/// What a command's end means for its record.
pub(crate) fn outcome(exit: &Exit) -> CommandOutcome {
    match (exit.timed_out, exit.signal) {
        (false, None) => CommandOutcome::Exited(exit.status()),
        (true, _) | (false, Some(_)) => CommandOutcome::Killed(Some(exit.status())),
    }
}

impl Pyro {
    /// Runs a command. Its output is read, and its input fed, through the two halves. What was read goes on
    /// record with [`WorkspaceExec::finish`].
    ///
    /// ```no_run
    /// # use pyro_core::exec::{AgentError, ExecEvent, ExecRequest};
    /// # use pyro_core::workspace::{Captured, Pyro, WorkspaceCommand, WorkspaceError};
    /// # async fn example(pyro: &Pyro) -> Result<(), Box<dyn std::error::Error>> {
    /// let exec = ExecRequest::shell("make test");
    /// let command = WorkspaceCommand { exec, shown_command: "make test".to_owned() };
    /// let (running, _input, mut output) = pyro.exec("fix", &command).await?;
    /// let exit = loop {
    ///     match output.next().await? {
    ///         ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => println!("{} bytes", bytes.len()),
    ///         ExecEvent::Exited(exit) => break exit,
    ///     }
    /// };
    /// running.finish(&exit, Captured::default()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn exec(
        &self,
        address: &str,
        command: &WorkspaceCommand,
    ) -> Result<(WorkspaceExec<'_>, ExecInput, ExecOutput), WorkspaceError> {
        let Prepared { id, link, request, facts } = self.prepare(address, command)?;
        let has_network = self.store.get(id)?.network_policy != NetworkPolicy::Off;
        let begin = Request::BeginCommand { command: facts.command.clone(), cwd: facts.cwd.clone() };
        let start = async {
            let key = match link.ask(&begin, SUPERVISOR_DEADLINE).await? {
                Answer::Begun { command } => command,
                other => return Err(unexpected(other).into()),
            };
            let denials_from = match has_network {
                true => Some(link.denials(u64::MAX).await?.next),
                false => None,
            };
            let started = link.exec(&request).await;
            if let Err(MachineError::Agent(AgentError::Refused(failure))) = &started {
                self.note_refusal(key, failure);
            }
            Ok((key, denials_from, started?))
        };
        let (key, denials_from, (input, output)) = self.during(id, &link, start).await?;
        let facts = ExecFacts { sequence: key.sequence, ..facts };
        Ok((WorkspaceExec { facts, pyro: self, key, link, denials_from }, input, output))
    }

    /// Puts on record why a command could not be executed, by the words of who refused it and by the exit code
    /// that a shell has for it. Otherwise it is noted as lost when its client leaves, which is less.
    fn note_refusal(&self, key: CommandKey, failure: &Failure) {
        let code = match failure.code {
            FailureCode::NotFound => EXIT_NOT_FOUND,
            FailureCode::PermissionDenied => EXIT_NOT_EXECUTABLE,
            FailureCode::VersionMismatch
            | FailureCode::BadRequest
            | FailureCode::Conflict
            | FailureCode::Os => return,
        };
        let stderr = format!("{}\n", failure.message).into_bytes();
        let output = CommandOutput { stderr, ..CommandOutput::default() };
        // The refusal itself is told in any case.
        let _ = self.store.finish_command(key, CommandOutcome::Exited(code), 0, &output, now());
    }

    /// A command as its guest will get it, and what is known of it but its number.
    pub(super) fn prepare(
        &self,
        address: &str,
        command: &WorkspaceCommand,
    ) -> Result<Prepared, WorkspaceError> {
        let id = self.resolve(address)?;
        let workspace = self.store.get(id)?;
        let link = self.started(id, "workspace_exec")?;
        let request = with_defaults(&workspace, &command.exec);
        let cwd = request.cwd.clone().unwrap_or_else(|| WORKSPACE_PATH.to_owned());
        let facts = ExecFacts {
            workspace_id: id.to_string(),
            environment: workspace.environment,
            environment_version: workspace.environment_version,
            sequence: 0,
            cwd,
            command: self.redacted(id, &command.shown_command)?,
        };
        Ok(Prepared { id, link, request, facts })
    }

    /// `text` without any of the workspace's secrets' values.
    pub(super) fn redacted(&self, id: WorkspaceId, text: &str) -> Result<String, WorkspaceError> {
        let secrets = secrets::read_all(&self.places, id)
            .map_err(WorkspaceError::state("read secrets in", self.places.secrets(id)))?;
        let values = secrets.iter().map(|(_, value)| value.expose().as_bytes());
        let redacted = redact(&Arc::new(Needles::of_secrets(values)), text.as_bytes());
        Ok(String::from_utf8_lossy(&redacted).into_owned())
    }
}

/// What the image wants where the caller says nothing; a workspace's commands run in its tree.
pub(super) fn with_defaults(workspace: &Workspace, request: &ExecRequest) -> ExecRequest {
    let image = &workspace.image;
    let given = |key: &String| request.env.iter().any(|(wanted, _)| wanted == key);
    let is_replaced = |key: &String| !workspace.authorities.is_empty() && Authorities::is_variable(key);
    let own = image.env.iter().filter(|(key, _)| !given(key) && !is_replaced(key));
    let mut env: Vec<_> = own.cloned().collect();
    env.extend(request.env.iter().cloned());
    ExecRequest {
        env,
        cwd: Some(request.cwd.clone().unwrap_or_else(|| WORKSPACE_PATH.to_owned())),
        user: request.user.clone().or_else(|| image.user.clone()),
        ..request.clone()
    }
}

impl WorkspaceExec<'_> {
    /// Puts the command's end on record, and asks what was denied meanwhile. A command that was killed because its
    /// machine ended is told as that, an error.
    pub async fn finish(self, exit: &Exit, captured: Captured) -> Result<ExecRecord, WorkspaceError> {
        let denied = self.denied().await;
        let status = exit.status();
        let kept = |bytes: &[u8]| bytes[..bytes.len().min(OUTPUT_BYTES)].to_vec();
        let output = CommandOutput {
            stdout: kept(&captured.stdout),
            stderr: kept(&captured.stderr),
            stdout_truncated: captured.stdout_truncated || captured.stdout.len() > OUTPUT_BYTES,
            stderr_truncated: captured.stderr_truncated || captured.stderr.len() > OUTPUT_BYTES,
        };
        if let Some(detail) = denied.detail(self.key.sequence, DETAIL_BYTES) {
            // Before the end, for which others wait.
            self.pyro.record(self.key.workspace, EventKind::Denial, &detail);
        }
        self.pyro.store.finish_command(self.key, outcome(exit), exit.duration_ms, &output, now())?;
        let detail = json!({ "sequence": self.key.sequence, "exit_code": status });
        self.pyro.record(self.key.workspace, EventKind::Exec, &detail);
        self.not_killed_by_the_end(exit).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(ExecRecord {
            facts: self.facts,
            stdout: text(&captured.stdout),
            stdout_truncated: captured.stdout_truncated,
            stderr: text(&captured.stderr),
            stderr_truncated: captured.stderr_truncated,
            exit_code: status,
            duration_ms: exit.duration_ms,
            execution_mode: EXECUTION_MODE,
            network_denials: denied.denials,
            network_denials_truncated: denied.truncated,
        })
    }

    /// A guest that goes off kills what runs in it, and may get to say so: then the end is the machine's, and told
    /// as that.
    async fn not_killed_by_the_end(&self, exit: &Exit) -> Result<(), WorkspaceError> {
        if exit.timed_out || exit.signal != Some(KillSignal::Kill.number()) {
            return Ok(());
        }
        // A machine that is going off answers with its end. One that says nothing has not killed it.
        match self.link.ask(&Request::Describe, SUPERVISOR_DEADLINE).await {
            Ok(ended @ Answer::Ended(_)) => Err(self.pyro.told(self.key.workspace, unexpected(ended))),
            Err(lost @ MachineError::SupervisorLost(_)) => Err(self.pyro.told(self.key.workspace, lost)),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// What was denied since it began. The command has ended well without an answer, too.
    async fn denied(&self) -> NetworkDenials {
        match self.denials_from {
            Some(from) => self.link.denials(from).await.unwrap_or_default(),
            None => NetworkDenials::default(),
        }
    }

    /// Turns a connection that ended in the middle into the reason why the machine ended, where it did.
    pub async fn why_disconnected(&self) -> WorkspaceError {
        self.pyro.told(self.key.workspace, self.link.why_disconnected().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authorities::AuthoritySource;
    use crate::store::tests::Fixture;

    #[test]
    fn an_images_variables_for_authorities_give_way_where_the_workspace_has_some() {
        let fixture = Fixture::new();
        let mut workspace = fixture.get(fixture.workspace(1, now())).unwrap();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        workspace.image.env = vec![pair("PATH", "/bin"), pair("SSL_CERT_FILE", "/image.pem")];
        let request = ExecRequest { env: vec![pair("PIP_CERT", "/own.pem")], ..ExecRequest::shell("true") };
        let own = [pair("PATH", "/bin"), pair("SSL_CERT_FILE", "/image.pem"), pair("PIP_CERT", "/own.pem")];
        assert_eq!(with_defaults(&workspace, &request).env, own);
        workspace.authorities = vec![AuthoritySource { source: "/ca.pem".to_owned(), count: 1 }];
        let given = [pair("PATH", "/bin"), pair("PIP_CERT", "/own.pem")];
        assert_eq!(with_defaults(&workspace, &request).env, given);
    }
}
