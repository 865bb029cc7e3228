//! One run from environment to exit code.

use crate::cli::{block_on, config};
use crate::commands::network::{tell_contacts, tell_denials};
use crate::commands::session::{
    EXIT_BROKEN_PIPE, EXIT_UNKNOWN, Ended, Keep, Signals, Sink, converse, exit_code,
};
use crate::output::{self, Format, PullProgress};
use pyro_core::exec::{AgentError, ExecRequest, Exit};
use pyro_core::machine::{BootImage, Machine, MachineError, MachineId, MachineRequest};
use pyro_core::network::{NetworkContacts, NetworkDenials};
use pyro_core::supervisor::protocol::Started;
use pyro_core::{Config, Explain, Problem, environments};
use serde_json::json;
use std::process::ExitCode;
use std::sync::Arc;

/// A run, checked.
pub(crate) struct Plan {
    pub(crate) environment: String,
    pub(crate) shown_command: String,
    pub(crate) machine: MachineRequest,
    pub(crate) exec: ExecRequest,
    pub(crate) observe: Observe,
    pub(crate) format: Format,
}

/// What is said of a run's network beside what was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Observe {
    Nothing,
    /// What was reached.
    Contacts,
}

/// How the command's part of a run ended.
enum Outcome {
    Exited { exit: Exit, sink: Sink, denied: NetworkDenials },
    Interrupted(u8),
    Failed { problem: Problem, started: bool },
    OutputClosed,
}

/// Carries out `plan` and tells its result.
pub(crate) fn run_plan(plan: Plan) -> ExitCode {
    let format = plan.format;
    let work = async {
        match config(format) {
            Ok(config) => run(&config, plan).await,
            Err(code) => code,
        }
    };
    block_on(format, work).unwrap_or_else(|code| code)
}

async fn run(config: &Config, plan: Plan) -> ExitCode {
    let format = plan.format;
    if let Err(error) = environments::check(&plan.environment) {
        return output::problem(&error.explain(), format);
    }
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(problem) => return output::problem(&problem, format),
    };
    let phase = |text: String| {
        if format == Format::Human {
            output::note(format_args!("[run] phase={text}"));
        }
    };
    phase(format!("create environment={}", plan.environment));
    let progress = Arc::new(PullProgress::new(format));
    let installed = tokio::select! {
        installed = environments::ensure(config, &plan.environment, progress) => installed,
        code = signals.next() => return ExitCode::from(code),
    };
    let environment = match installed {
        Ok(installed) => installed,
        Err(error) => return output::problem(&error.explain(), format),
    };
    let id = MachineId::random();
    phase(format!("start vm_id={id}"));
    let image = BootImage { kernel: environment.kernel.clone(), rootfs: environment.rootfs.clone() };
    let machine = tokio::select! {
        machine = Machine::start(config, id.clone(), &image, &plan.machine) => machine,
        code = signals.next() => return ExitCode::from(code),
    };
    let mut machine = match machine {
        Ok(machine) => machine,
        Err(error) => return output::problem(&error.explain(), format),
    };
    phase(format!("execute vm_id={id}"));
    let exec = environments::with_image_defaults(&environment, &plan.machine.authorities, plan.exec.clone());
    let outcome = tokio::select! {
        outcome = execute(&mut machine, &exec, format) => outcome,
        code = signals.next() => Outcome::Interrupted(code),
    };
    let contacts = match plan.observe {
        Observe::Nothing => None,
        // A machine that ended by itself has told why.
        Observe::Contacts => machine.end_network().await.ok(),
    };
    let started = machine.started().clone();
    let stopped = machine.stop().await;
    tell(&plan, &environment, &id, Told { outcome, contacts, started, stopped })
}

/// What is known when the machine is gone.
struct Told {
    outcome: Outcome,
    contacts: Option<NetworkContacts>,
    started: Started,
    stopped: Result<(), MachineError>,
}

fn tell(plan: &Plan, environment: &environments::Installed, id: &MachineId, told: Told) -> ExitCode {
    let Told { outcome, contacts, started, stopped } = told;
    let (exit, sink, denied) = match outcome {
        Outcome::Exited { exit, sink, denied } => (exit, sink, denied),
        Outcome::Interrupted(code) => return ExitCode::from(code),
        Outcome::OutputClosed => return ExitCode::from(EXIT_BROKEN_PIPE),
        Outcome::Failed { problem, started } => {
            let code = output::problem(&problem, plan.format);
            return if started { ExitCode::from(EXIT_UNKNOWN) } else { code };
        }
    };
    if let Err(error) = &stopped {
        output::problem(&error.explain(), Format::Human);
    }
    let (status, duration_ms) = (exit.status(), exit.duration_ms);
    match plan.format {
        Format::Human => {
            output::note(format_args!(
                "{}[run] environment={} execution_mode=guest_vsock exit_code={status} duration_ms={duration_ms}",
                sink.separator(),
                plan.environment
            ));
            tell_denials(&denied.denials, denied.truncated);
            contacts.iter().for_each(tell_contacts);
        }
        Format::Json => output::json(&json!({
            "vm_id": id.as_str(),
            "environment": plan.environment,
            "environment_version": environment.version,
            "command": plan.shown_command,
            "stdout": sink.stdout.text(),
            "stdout_truncated": sink.stdout.truncated,
            "stderr": sink.stderr.text(),
            "stderr_truncated": sink.stderr.truncated,
            "exit_code": status,
            "duration_ms": duration_ms,
            "execution_mode": "guest_vsock",
            "machine": started,
            "network_denials": denied.denials,
            "network_denials_truncated": denied.truncated,
            "network_contacts": contacts,
            "cleanup": {
                "vm_id": id.as_str(),
                "deleted": stopped.is_ok(),
                "reason": "post_exec_cleanup",
            },
        })),
    }
    exit_code(status)
}

async fn execute(machine: &mut Machine, request: &ExecRequest, format: Format) -> Outcome {
    let (mut command_input, mut command_output) = match machine.exec(request).await {
        Ok(halves) => halves,
        Err(error) => return Outcome::Failed { problem: error.explain(), started: false },
    };
    let mut sink = Sink::new(format, Keep::Unshown);
    match converse(&mut command_input, &mut command_output, request, &mut sink).await {
        Ok(Ended::Exited(exit)) => Outcome::Exited { exit, sink, denied: machine.network_denials().await },
        Ok(Ended::OutputClosed) => Outcome::OutputClosed,
        Err(AgentError::Disconnected) => {
            Outcome::Failed { problem: machine.why_disconnected().await.explain(), started: true }
        }
        Err(error) => Outcome::Failed { problem: error.explain(), started: true },
    }
}
