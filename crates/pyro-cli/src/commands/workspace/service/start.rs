use super::AddressedService;
use crate::cli::answer;
use crate::commands::command_line::parse_variable;
use crate::commands::workspace::arguments::{self, ArgumentError};
use crate::commands::workspace::show;
use crate::output;
use clap::Args;
use pyro_core::Explain;
use pyro_core::exec::ExecRequest;
use pyro_core::services::{PortLimits, PortRequest, Readiness, RestartPolicy};
use pyro_core::workspace::{ServiceRequest, WorkspaceCommand};
use std::process::ExitCode;

const EXAMPLE: &str = "pyro workspace service start WORKSPACE web -- ./serve";

/// Start a service and wait until it is ready.
///
/// Without a --ready option it is ready as soon as it runs. A service that ends before it is ready, or is not
/// ready in time, is an error of exit code 3, told with its last words; it stays in the list as failed. From the
/// moment on that it runs it goes on without this pyro.
///
/// The name of a service that has ended can be used again; its log is removed then.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  pyro workspace service start fix web --ready-http http://127.0.0.1:8080/health -- ./serve --port 8080
  pyro workspace service start fix db --ready-command 'pg_isready -q' --autostart -- postgres -D data
  pyro workspace service start fix app --publish 18080:8080 --publish-idle-seconds 60 -- ./serve
  pyro workspace service start fix worker --restart on-failure --secret-env API_TOKEN -- ./worker")]
pub(super) struct Start {
    #[command(flatten)]
    service: AddressedService,
    /// It is ready when this file of /workspace is there.
    #[arg(long, value_name = "PATH")]
    ready_file: Option<String>,
    /// It is ready when this address of the guest takes connections.
    #[arg(long, value_name = "HOST:PORT")]
    ready_tcp: Option<String>,
    /// It is ready when a GET in the guest is answered with a status from 200 to 399.
    #[arg(long, value_name = "URL")]
    ready_http: Option<String>,
    /// It is ready when this text, run by a shell, exits with 0; each run has 10 seconds.
    #[arg(long, value_name = "TEXT")]
    ready_command: Option<String>,
    /// How long it may take to become ready.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    ready_timeout_seconds: u64,
    /// How long to wait between two looks, where no event tells.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 500)]
    ready_interval_ms: u64,
    /// When to start it again: no, on-failure, or on-failure:COUNT. Each time in a row the wait before it is
    /// longer, up to half a minute. One that was never ready is not started again.
    #[arg(long, value_name = "POLICY", default_value = "no")]
    restart: String,
    /// Start it again whenever the workspace is started.
    #[arg(long)]
    autostart: bool,
    /// Publish a port of the guest on the host's loopback, in workspaces whose network policy is
    /// egress+published-ports; repeatable. Without a host port one that is free is taken.
    #[arg(long, value_name = "[HOST_PORT:]GUEST_PORT")]
    publish: Vec<String>,
    /// Close connections of published ports on which nothing has moved for so long; 0 is never. 3600 unless said
    /// otherwise.
    #[arg(long, value_name = "SECONDS", requires = "publish")]
    publish_idle_seconds: Option<u64>,
    /// How many connections each published port carries at a time; others wait. 1024 unless said otherwise.
    #[arg(long, value_name = "COUNT", requires = "publish")]
    publish_max_connections: Option<u64>,
    /// Show one of the workspace's secrets to the service as a variable; repeatable.
    #[arg(long, value_name = "SECRET[=VARIABLE]")]
    secret_env: Vec<String>,
    /// Set a variable for the service; repeatable.
    #[arg(long, value_parser = parse_variable, value_name = "KEY=VALUE")]
    env: Vec<(String, String)>,
    /// Directory to run it in, which must exist in the guest; /workspace unless said otherwise.
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Run it as this user of the guest, by name or number.
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Run TEXT by a login shell instead of a command after `--`.
    #[arg(long, value_name = "TEXT", conflicts_with = "command")]
    shell: Option<String>,
    /// The command and its arguments, executed as they are.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Start {
    pub(super) fn run(self) -> ExitCode {
        let format = self.service.target.output.format();
        let address = self.service.target.workspace.clone();
        let request = match self.request() {
            Ok(request) => request,
            Err(error) => return output::problem(&error.explain(), format),
        };
        answer(
            format,
            async |pyro| pyro.service_start(&address, &request).await,
            |service| output::note(show::service_started("start", service)),
        )
    }

    pub(super) fn request(self) -> Result<ServiceRequest, ArgumentError> {
        let publish =
            self.publish.iter().map(|text| text.parse()).collect::<Result<Vec<PortRequest>, _>>()?;
        let defaults = PortLimits::default();
        let publish_limits = PortLimits {
            max_connections: self.publish_max_connections.unwrap_or(defaults.max_connections),
            idle_seconds: self.publish_idle_seconds.unwrap_or(defaults.idle_seconds),
        };
        let restart: RestartPolicy = self.restart.parse()?;
        let secret_env = arguments::secret_env(&self.secret_env)?;
        let mut ready = [
            self.ready_file.map(|path| Readiness::File { path }),
            self.ready_tcp.map(|address| Readiness::Tcp { address }),
            self.ready_http.map(|url| Readiness::Http { url }),
            self.ready_command.map(|command| Readiness::Command { command }),
        ]
        .into_iter()
        .flatten();
        let readiness = ready.next();
        if ready.next().is_some() {
            return Err(ArgumentError::ReadyTwice);
        }
        let (base, shown_command) = match self.shell {
            Some(text) => (ExecRequest::shell(&text), text),
            None if self.command.is_empty() => return Err(ArgumentError::no_command(EXAMPLE)),
            None => {
                let shown = output::shell_words(&self.command);
                (ExecRequest::new(self.command), shown)
            }
        };
        let exec = ExecRequest { env: self.env, cwd: self.cwd, user: self.user, secret_env, ..base };
        Ok(ServiceRequest {
            readiness,
            ready_timeout_seconds: self.ready_timeout_seconds,
            ready_interval_ms: self.ready_interval_ms,
            restart,
            autostart: self.autostart,
            publish,
            publish_limits,
            ..ServiceRequest::new(&self.service.name, WorkspaceCommand { exec, shown_command })
        })
    }
}
