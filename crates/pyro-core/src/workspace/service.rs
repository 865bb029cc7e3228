//! Services: programs that go on running in a workspace, each under a name.
//!
//! The workspace's supervisor runs them; what is done here is checking, asking it, and reading its records.

mod logs;
mod views;

pub use crate::services::PublishedPort;
pub use logs::{LogTail, ServiceFollow, ServiceLogs};
pub use views::{Ports, ServiceDenials, ServicePort, ServiceUsage, ServiceView, Services, WaitedService};

use super::commands::check_size;
use super::exec::{Prepared, WorkspaceCommand};
use super::{Pyro, WorkspaceError, WorkspaceId};
use crate::exec::ExecRequest;
use crate::guest;
use crate::limits::{
    self, READY_INTERVAL_MS, READY_TIMEOUT_SECONDS, SERVICE_STOP_GRACE, SUPERVISOR_DEADLINE,
};
use crate::machine::{MachineError, unexpected};
use crate::services::{PortLimits, PortRequest, Readiness, RestartPolicy, ServiceSpec, distinct_ports};
use crate::store::{NetworkPolicy, ServiceRecord, ServiceState, names};
use crate::supervisor::protocol::{Answer, Request, ServiceAwaited, StartService};
use std::path::Path;
use std::time::Duration;

/// A service to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRequest {
    /// What to call it: as a snapshot is called.
    pub name: String,
    /// What to run. Standard input is empty, there is no terminal and no limit of time. A directory that is not
    /// absolute is one of `/workspace`.
    pub command: WorkspaceCommand,
    /// What tells that it is ready; without, it is as soon as it runs.
    pub readiness: Option<Readiness>,
    /// How long it may take to become ready, see [`READY_TIMEOUT_SECONDS`].
    pub ready_timeout_seconds: u64,
    /// Between two looks at whether it is ready, see [`READY_INTERVAL_MS`].
    pub ready_interval_ms: u64,
    /// Whether it is started again when it fails.
    pub restart: RestartPolicy,
    /// Whether it comes back whenever its workspace is started.
    pub autostart: bool,
    /// Ports to publish on the host's loopback.
    pub publish: Vec<PortRequest>,
    /// Bounds of each of them.
    pub publish_limits: PortLimits,
}

impl ServiceRequest {
    /// `command` as the service `name`, with everything else at its default.
    pub fn new(name: &str, command: WorkspaceCommand) -> Self {
        Self {
            name: name.to_owned(),
            command,
            readiness: None,
            ready_timeout_seconds: 30,
            ready_interval_ms: 500,
            restart: RestartPolicy::No,
            autostart: false,
            publish: Vec::new(),
            publish_limits: PortLimits::default(),
        }
    }
}

/// What to wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceUntil {
    /// It is ready, or has ended.
    #[default]
    Ready,
    /// It has ended for good.
    Ended,
}

impl Pyro {
    /// Starts a service and waits until it is ready. One that ends before, or is not ready in time, is an
    /// error and stays on record as failed. The service goes on without this process from the moment on that
    /// the guest has executed it.
    ///
    /// ```no_run
    /// # use pyro_core::exec::ExecRequest;
    /// # use pyro_core::services::{PortRequest, Readiness};
    /// # use pyro_core::workspace::{Pyro, ServiceRequest, WorkspaceCommand, WorkspaceError};
    /// # async fn example(pyro: &Pyro) -> Result<(), WorkspaceError> {
    /// let exec = ExecRequest::shell("./serve --port 8080");
    /// let command = WorkspaceCommand { exec, shown_command: "./serve --port 8080".to_owned() };
    /// let request = ServiceRequest {
    ///     readiness: Some(Readiness::Http { url: "http://127.0.0.1:8080/".to_owned() }),
    ///     // Needs the network policy `egress+published-ports`.
    ///     publish: vec![PortRequest { host_port: None, guest_port: 8080 }],
    ///     ..ServiceRequest::new("web", command)
    /// };
    /// for port in pyro.service_start("fix", &request).await?.published_ports {
    ///     println!("127.0.0.1:{}", port.host_port);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn service_start(
        &self,
        address: &str,
        request: &ServiceRequest,
    ) -> Result<ServiceView, WorkspaceError> {
        let name = names::service_name(&request.name)?;
        let (command, spec) = checked(request)?;
        let Prepared { id, link, request: exec, facts } = self.prepare(address, &command)?;
        self.check_ports(id, &request.publish)?;
        self.store.check_new_service(id, &name)?;
        let exec = ExecRequest { stdin: false, tty: None, timeout: None, confined: true, ..exec };
        let start = StartService {
            name: name.clone(),
            command: facts.command,
            cwd: facts.cwd,
            autostart: request.autostart,
            spec: ServiceSpec { exec, ..spec },
        };
        let limit = start.spec.ready_timeout + SERVICE_STOP_GRACE + SUPERVISOR_DEADLINE * 4;
        let request = Request::StartService(Box::new(start));
        check_size(&request)?;
        done(link.ask(&request, limit).await)?;
        self.settled(id, &name).await
    }

    /// The services of a workspace since its last reset, by name.
    pub async fn service_list(&self, address: &str) -> Result<Services, WorkspaceError> {
        let id = self.resolve(address)?;
        let records = self.store.services(id)?.into_iter();
        let services = records.map(|record| self.service_view(record)).collect::<Result<Vec<_>, _>>()?;
        let running_count =
            services.iter().filter(|service| service.state == ServiceState::Running.as_str()).count();
        Ok(Services { workspace_id: id.to_string(), count: services.len(), running_count, services })
    }

    /// The ports of this machine that lead to services of a workspace now.
    pub fn ports(&self, address: &str) -> Result<Ports, WorkspaceError> {
        let id = self.resolve(address)?;
        let mut ports = Vec::new();
        for record in self.store.services(id)? {
            let ServiceView { service_name, published_ports, .. } = views::view(record)?;
            let of_service = |port| ServicePort { service_name: service_name.clone(), port };
            ports.extend(published_ports.into_iter().map(of_service));
        }
        Ok(Ports { workspace_id: id.to_string(), count: ports.len(), ports })
    }

    /// One service, with what it uses now and what was denied since its last start.
    pub async fn service_status(&self, address: &str, name: &str) -> Result<ServiceView, WorkspaceError> {
        let id = self.resolve(address)?;
        let record = self.store.service(id, name)?;
        let pid = record.pid;
        let denied = self.denied_between(id, record.started_at, record.ended_at)?;
        let mut view = self.service_view(record)?;
        view.denied = Some(ServiceDenials {
            network_denials: denied.denials,
            network_denials_truncated: denied.truncated,
        });
        if let (Some(pid), Some(link)) = (pid, self.link(id)?) {
            // It may end at this moment, and its machine too.
            let usage = async { guest::usage(link.agent().await.ok()?, pid).await.ok() };
            let usage = tokio::time::timeout(SUPERVISOR_DEADLINE, usage).await.ok().flatten();
            view.usage = usage.map(views::usage);
        }
        Ok(view)
    }

    /// Ends a service with all its processes: asks them, and where they do not end within
    /// [`SERVICE_STOP_GRACE`], kills them. One that has ended stays as it is.
    pub async fn service_stop(&self, address: &str, name: &str) -> Result<ServiceView, WorkspaceError> {
        let id = self.resolve(address)?;
        let record = self.store.service(id, name)?;
        if record.state.is_live() {
            let request = Request::StopService { name: record.name };
            self.ask_of_service(id, &request, SERVICE_STOP_GRACE * 3 + SUPERVISOR_DEADLINE * 2).await?;
        }
        self.service_view(self.store.service(id, name)?)
    }

    /// Ends a service where it lives, starts it again as it was, and waits until it is ready.
    pub async fn service_restart(&self, address: &str, name: &str) -> Result<ServiceView, WorkspaceError> {
        let id = self.resolve(address)?;
        let record = self.store.service(id, name)?;
        let link = self.started(id, "service_restart")?;
        let spec = views::spec(&record)?;
        let limit = spec.ready_timeout + SERVICE_STOP_GRACE * 3 + SUPERVISOR_DEADLINE * 4;
        done(link.ask(&Request::RestartService { name: name.to_owned() }, limit).await)?;
        self.settled(id, name).await
    }

    /// Waits until a service is as `until` says, for `limit` at most.
    pub async fn service_wait(
        &self,
        address: &str,
        name: &str,
        until: ServiceUntil,
        limit: Option<Duration>,
    ) -> Result<WaitedService, WorkspaceError> {
        let id = self.resolve(address)?;
        self.store.service(id, name)?;
        let reached = self.await_service(id, name, until);
        let waited = match limit {
            None => Ok(reached.await),
            Some(limit) => tokio::time::timeout(limit, reached).await,
        };
        let wait_timed_out = waited.is_err();
        if let Ok(reached) = waited {
            reached?;
        }
        Ok(WaitedService { service: self.service_view(self.store.service(id, name)?)?, wait_timed_out })
    }

    /// Refuses ports where the workspace's network policy publishes none.
    fn check_ports(&self, id: WorkspaceId, ports: &[PortRequest]) -> Result<(), WorkspaceError> {
        match self.store.get(id)?.network_policy {
            NetworkPolicy::EgressAndPublishedPorts => Ok(()),
            NetworkPolicy::Off | NetworkPolicy::Egress if ports.is_empty() => Ok(()),
            policy @ (NetworkPolicy::Off | NetworkPolicy::Egress) => {
                Err(WorkspaceError::PortsForbidden(policy))
            }
        }
    }

    /// A service that was started, as long as it did not fail.
    async fn settled(&self, id: WorkspaceId, name: &str) -> Result<ServiceView, WorkspaceError> {
        let record = self.store.service(id, name)?;
        match record.state {
            ServiceState::Starting | ServiceState::Running | ServiceState::Exited => {
                self.service_view(record)
            }
            // Somebody else has stopped it meanwhile.
            ServiceState::Stopped => self.service_view(record),
            ServiceState::Backoff | ServiceState::Failed => Err(self.failed(&record)),
        }
    }

    /// A service as it is shown. What its records hold to run it again may have secrets in it.
    fn service_view(&self, record: ServiceRecord) -> Result<ServiceView, WorkspaceError> {
        let id = record.workspace;
        let mut view = views::view(record)?;
        if let Some(readiness) = &mut view.readiness {
            let shown = self.redacted(id, readiness.target())?;
            match readiness {
                Readiness::File { path: target }
                | Readiness::Tcp { address: target }
                | Readiness::Http { url: target }
                | Readiness::Command { command: target } => *target = shown,
            }
        }
        Ok(view)
    }

    fn failed(&self, record: &ServiceRecord) -> WorkspaceError {
        WorkspaceError::ServiceFailed {
            id: record.workspace,
            name: record.name.clone(),
            reason: views::failure(record),
            log: self.last_words(record),
        }
    }

    async fn await_service(
        &self,
        id: WorkspaceId,
        name: &str,
        until: ServiceUntil,
    ) -> Result<(), WorkspaceError> {
        // A supervisor that dies is heard of, then its death is put on record; a service that is started anew
        // meanwhile is waited for like the one before.
        loop {
            let state = self.store.service(id, name)?.state;
            let is_reached = match until {
                ServiceUntil::Ready => state == ServiceState::Running || !state.is_live(),
                ServiceUntil::Ended => !state.is_live(),
            };
            if is_reached {
                return Ok(());
            }
            let awaited = match until {
                ServiceUntil::Ready => ServiceAwaited::Ready,
                ServiceUntil::Ended => ServiceAwaited::Ended,
            };
            match self.link(id)? {
                Some(link) => {
                    let request = Request::WaitService { name: name.to_owned(), until: awaited };
                    patient(link.ask_patiently(&request).await)?;
                }
                None => self.settle_service(id).await?,
            }
        }
    }

    /// Asks a supervisor; where it is gone, puts that on record.
    async fn ask_of_service(
        &self,
        id: WorkspaceId,
        request: &Request,
        limit: Duration,
    ) -> Result<(), WorkspaceError> {
        match self.link(id)? {
            Some(link) => patient(link.ask(request, limit).await),
            None => self.settle_service(id).await,
        }
    }

    /// Puts on record that a machine is gone, with its services; whoever is starting another one does so too.
    async fn settle_service(&self, id: WorkspaceId) -> Result<(), WorkspaceError> {
        self.settle_machine(id).await?;
        self.await_calm(id).await
    }
}

/// What was asked for, checked, as far as the workspace's own records are not concerned.
fn checked(request: &ServiceRequest) -> Result<(WorkspaceCommand, ServiceSpec), WorkspaceError> {
    let timeout = request.ready_timeout_seconds;
    let timeout = limits::check("ready_timeout_seconds", timeout, &READY_TIMEOUT_SECONDS)?;
    let interval = request.ready_interval_ms;
    let interval = limits::check("ready_interval_ms", interval, &READY_INTERVAL_MS)?;
    let readiness = request.readiness.as_ref().map(located).transpose()?;
    distinct_ports(&request.publish)?;
    request.publish_limits.check()?;
    let mut command = request.command.clone();
    command.exec.cwd = command.exec.cwd.as_deref().map(absolute);
    let spec = ServiceSpec {
        exec: command.exec.clone(),
        readiness,
        ready_timeout: Duration::from_secs(timeout),
        ready_interval: Duration::from_millis(interval),
        restart: request.restart,
        ports: request.publish.clone(),
        port_limits: request.publish_limits,
    };
    Ok((command, spec))
}

/// An answer to a request that is carried out in full.
fn done(answer: Result<Answer, MachineError>) -> Result<(), WorkspaceError> {
    match answer? {
        Answer::Done => Ok(()),
        other => Err(unexpected(other).into()),
    }
}

/// The same, where the end of the machine is an answer as well.
fn patient(answer: Result<Answer, MachineError>) -> Result<(), WorkspaceError> {
    match answer {
        Ok(Answer::Done | Answer::Ended(_)) | Err(MachineError::SupervisorLost(_)) => Ok(()),
        Ok(other) => Err(unexpected(other).into()),
        Err(error) => Err(error.into()),
    }
}

/// Readiness with a file that lies in the workspace, and everything else checked.
fn located(readiness: &Readiness) -> Result<Readiness, WorkspaceError> {
    readiness.check()?;
    Ok(match readiness {
        Readiness::File { path } => Readiness::File { path: super::files::workspace_path(path)? },
        other @ (Readiness::Tcp { .. } | Readiness::Http { .. } | Readiness::Command { .. }) => other.clone(),
    })
}

/// A directory of the guest; one that is not absolute is in the workspace.
fn absolute(cwd: &str) -> String {
    let path = Path::new(super::WORKSPACE_PATH).join(cwd);
    let path: std::path::PathBuf = path.components().collect();
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_send<T: Send>(_: &T) {}

    /// Never called: that it compiles is what counts.
    #[allow(dead_code, reason = "compiled, not run")]
    fn a_server_of_many_threads_can_use_all_of_it(pyro: &Pyro, request: &ServiceRequest) {
        is_send(&pyro.service_start("w", request));
        is_send(&pyro.service_list("w"));
        is_send(&pyro.service_status("w", "web"));
        is_send(&pyro.service_stop("w", "web"));
        is_send(&pyro.service_restart("w", "web"));
        is_send(&pyro.service_wait("w", "web", ServiceUntil::Ready, None));
        is_send(&pyro.service_logs("w", "web", LogTail::All));
        is_send(&async {
            let mut follow = pyro.service_follow("w", "web", LogTail::All).await?;
            follow.next().await
        });
    }

    #[test]
    fn a_directory_is_absolute_or_in_the_workspace() {
        assert_eq!(absolute("src/./x"), "/workspace/src/x");
        assert_eq!(absolute("/opt/"), "/opt");
        assert_eq!(absolute(""), "/workspace");
    }

    #[test]
    fn only_files_of_the_workspace_tell_readiness() {
        let file = |path: &str| located(&Readiness::File { path: path.to_owned() });
        assert_eq!(file(".ready").unwrap(), Readiness::File { path: "/workspace/.ready".to_owned() });
        assert!(matches!(file("/etc/passwd"), Err(WorkspaceError::Outside(_))));
        assert!(matches!(file(""), Err(WorkspaceError::Service(_))));
    }
}
