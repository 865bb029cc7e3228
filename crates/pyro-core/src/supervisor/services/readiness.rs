//! Whether a service is ready: asked of the agent, or of a command in the guest.

use super::Shared;
use crate::exec::{self, ExecEvent, ExecRequest};
use crate::guest;
use crate::limits::{READY_COMMAND_LIMIT, SUPERVISOR_DEADLINE};
use crate::services::{Check, ServiceSpec};
use crate::store::PROBLEM_BYTES;
use std::pin::Pin;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How much longer than a service's time to become ready the agent may take to say that it is over.
const SLACK: Duration = Duration::from_secs(3);
/// What is told of the last words of a command.
const WORDS_BYTES: usize = 256;

/// Resolves when the service is ready, or with what was wrong last when it is not in time.
pub(super) type Wait = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Waits for a service; at once where nothing tells whether it is ready.
pub(super) fn wait(shared: Shared, spec: &ServiceSpec) -> Wait {
    let Some(readiness) = &spec.readiness else { return Box::pin(std::future::ready(Ok(()))) };
    let check = match readiness.parse() {
        Ok(check) => check,
        Err(error) => return Box::pin(std::future::ready(Err(error.to_string()))),
    };
    let (interval, limit) = (spec.ready_interval, spec.ready_timeout);
    match check {
        Check::Probe(probe) => Box::pin(async move {
            let asked = async {
                let agent = shared.agent().await.map_err(|error| error.to_string())?;
                let readied = guest::await_ready(agent, probe, interval, limit).await;
                readied.map_err(|error| error.to_string())
            };
            match timeout(limit + SLACK, asked).await {
                Ok(Ok(readied)) if readied.ready => Ok(()),
                Ok(Ok(readied)) => Err(readied.problem.as_deref().map(printable).unwrap_or_default()),
                Ok(Err(problem)) => Err(printable(&problem)),
                Err(_) => Err("the guest did not tell in time".to_owned()),
            }
        }),
        Check::Command(text) => {
            let request = ExecRequest {
                stdin: false,
                tty: None,
                argv: ExecRequest::shell(&text).argv,
                confined: true,
                ..spec.exec.clone()
            };
            Box::pin(async move { wait_for_command(&shared, request, interval, limit).await })
        }
    }
}

async fn wait_for_command(
    shared: &Shared,
    request: ExecRequest,
    interval: Duration,
    limit: Duration,
) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).min(READY_COMMAND_LIMIT);
        let request = ExecRequest { timeout: Some(left), ..request.clone() };
        let problem = match timeout(left + SUPERVISOR_DEADLINE, run(shared, &request)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(problem)) => problem,
            Err(_) => "the guest did not tell in time".to_owned(),
        };
        if Instant::now() + interval >= deadline {
            return Err(problem);
        }
        tokio::time::sleep(interval).await;
    }
}

/// Runs a command once, to its end.
async fn run(shared: &Shared, request: &ExecRequest) -> Result<(), String> {
    let agent = shared.agent().await.map_err(|error| error.to_string())?;
    let (_input, mut output) =
        exec::start(agent, request).await.map_err(|error| printable(&error.to_string()))?;
    let mut words = Vec::new();
    loop {
        match output.next().await.map_err(|error| printable(&error.to_string()))? {
            ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => {
                words.extend_from_slice(&bytes);
                words.drain(..words.len().saturating_sub(WORDS_BYTES));
            }
            ExecEvent::Exited(exit) if exit.timed_out => return Err("the command took too long".to_owned()),
            ExecEvent::Exited(exit) if exit.status() == 0 => return Ok(()),
            ExecEvent::Exited(exit) => {
                let text = String::from_utf8_lossy(&words);
                let last = text.lines().next_back().map(|line| format!(": {}", printable(line)));
                return Err(format!("the command exited with {}{}", exit.status(), last.unwrap_or_default()));
            }
        }
    }
}

/// A guest's words as one line, as long as is kept.
fn printable(text: &str) -> String {
    let cut = &text[..text.floor_char_boundary(PROBLEM_BYTES)];
    cut.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}
