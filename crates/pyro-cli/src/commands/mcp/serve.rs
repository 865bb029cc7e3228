use crate::cli::config;
use crate::commands::session::Signals;
use crate::output::{self, Format};
use crate::settings;
use clap::Args;
use pyro_core::{Blame, Explain, Problem};
use pyro_mcp::{
    GrantError, Grants, HttpError, HttpOptions, Mode, Options, Profile, Project, ProjectError, ServeError,
    Server, Surface, UnknownSurface,
};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A token is a line.
const MOST_TOKEN_BYTES: u64 = 4096;

/// Serve MCP on standard input and output, or over HTTP.
///
/// Started in a git checkout, new workspaces begin with a copy of what git tracks there or does not ignore. Tools
/// read and write files of the host only below that directory, or below those that --allow-path names instead; no
/// symbolic link leads out of them. Guests have no network unless --allow-network lets the model ask for one.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  claude mcp add pyro -- pyro mcp serve
  pyro mcp serve --mode repro-fix --project-path ~/src/app
  pyro mcp serve --profile workspace-full --allow-network --http 127.0.0.1:8765 --token-file ~/.pyro-token")]
pub(super) struct Serve {
    #[command(flatten)]
    server: ServeArgs,
    /// Serve over HTTP on this loopback address, at /mcp; port 0 takes one that is free.
    #[arg(long, value_name = "ADDRESS:PORT")]
    http: Option<SocketAddr>,
    /// The file that has the bearer token for HTTP; without it a new token is made and told.
    #[arg(long, value_name = "FILE", requires = "http")]
    token_file: Option<PathBuf>,
}

// How a server is to be, for whoever starts one. A doc comment here would replace the commands' help.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ServeArgs {
    /// Show the tools of this profile: vm-run, workspace-core or workspace-full. [default: workspace-core]
    #[arg(long, value_name = "PROFILE", conflicts_with = "mode")]
    pub(crate) profile: Option<String>,
    /// Show the tools of this kind of work: repro-fix, inspect, cold-start or review-eval.
    #[arg(long, value_name = "MODE")]
    pub(crate) mode: Option<String>,
    /// Begin workspaces with this directory.
    #[arg(long, value_name = "DIRECTORY", conflicts_with_all = ["repo_url", "no_project_source"])]
    pub(crate) project_path: Option<PathBuf>,
    /// Begin workspaces with a fresh clone of this repository.
    #[arg(long, value_name = "URL", conflicts_with = "no_project_source")]
    pub(crate) repo_url: Option<String>,
    /// The branch, tag or commit to clone.
    #[arg(long, value_name = "REF", requires = "repo_url")]
    pub(crate) repo_ref: Option<String>,
    /// Begin workspaces empty, also in a git checkout.
    #[arg(long)]
    pub(crate) no_project_source: bool,
    /// Let tools read and write below this directory of the host, instead of the project's; repeatable.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) allow_path: Vec<PathBuf>,
    /// Let the model give guests a network, and use environments that the catalog does not have.
    #[arg(long)]
    pub(crate) allow_network: bool,
}

/// Why a server cannot be started.
#[derive(Debug, thiserror::Error)]
enum ServeArgumentError {
    #[error(transparent)]
    Surface(#[from] UnknownSurface),
    #[error(transparent)]
    Project(#[from] ProjectError),
    #[error(transparent)]
    Grant(#[from] GrantError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("cannot read the token file '{}'", .path.display())]
    Token { path: PathBuf, source: io::Error },
    #[error("cannot start the server's threads")]
    Runtime(#[source] io::Error),
}

impl Explain for ServeArgumentError {
    fn explain(&self) -> Problem {
        match self {
            Self::Surface(_) => Problem::new("unknown_surface", Blame::Caller, self),
            Self::Project(error) => error.explain(),
            Self::Grant(error) => error.explain(),
            Self::Serve(error) => error.explain(),
            Self::Http(error) => error.explain(),
            Self::Token { .. } => Problem::new("unreadable_file", Blame::Caller, self),
            Self::Runtime(_) => Problem::new("no_runtime", Blame::Host, self),
        }
    }
}

impl Serve {
    pub(super) fn run(self) -> ExitCode {
        let told = |error: ServeArgumentError| output::problem(&error.explain(), Format::Human);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            // Calls wait for guests; a second thread is for what takes its time.
            .worker_threads(2)
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return told(ServeArgumentError::Runtime(error)),
        };
        let code = runtime.block_on(async { self.serve().await.unwrap_or_else(told) });
        // A read of standard input cannot be cancelled; nobody waits for it.
        runtime.shutdown_background();
        code
    }

    async fn serve(self) -> Result<ExitCode, ServeArgumentError> {
        let config = match config(Format::Human) {
            Ok(config) => config,
            Err(code) => return Ok(code),
        };
        let mut signals = match Signals::listen() {
            Ok(signals) => signals,
            Err(problem) => return Ok(output::problem(&problem, Format::Human)),
        };
        let token = self.token_file.as_deref().map(read_token).transpose()?;
        let making = async {
            let options = self.server.options(self.http.is_none()).await?;
            Ok::<_, ServeArgumentError>(Server::open(config, options)?)
        };
        let server = tokio::select! {
            server = making => server?,
            code = signals.next() => return Ok(ExitCode::from(code)),
        };
        let Some(address) = self.http else {
            return tokio::select! {
                served = pyro_mcp::serve_stdio(server.clone()) => Ok(served.map(|()| ExitCode::SUCCESS)?),
                code = signals.next() => {
                    server.close().await;
                    Ok(ExitCode::from(code))
                }
            };
        };
        let is_new = token.is_none();
        let token = token.unwrap_or_else(pyro_mcp::random_token);
        let told = |url: String| {
            output::note(format_args!("[mcp] url={url}"));
            if is_new {
                output::note(format_args!("[mcp] token={token}"));
            }
        };
        let mut code = 0;
        let stop = async { code = signals.next().await };
        pyro_mcp::serve_http(server, HttpOptions { address, token: token.clone() }, told, stop).await?;
        Ok(ExitCode::from(code))
    }
}

impl ServeArgs {
    /// What a server is made of; `is_local` says that its client was started by the same person.
    async fn options(&self, is_local: bool) -> Result<Options, ServeArgumentError> {
        let surface = self.surface()?;
        let here = settings::current_dir();
        let project = match (&self.repo_url, &self.project_path) {
            (Some(url), _) => Some(Project::of_repository(url, self.repo_ref.as_deref()).await?),
            (None, Some(path)) => Some(Project::of_directory(path)?),
            (None, None) if self.no_project_source => None,
            (None, None) => here.as_deref().and_then(Project::around),
        };
        let roots = match (self.allow_path.as_slice(), &project, here) {
            ([], Some(project), _) if self.repo_url.is_none() => vec![project.root().to_owned()],
            // A directory that nobody named is none that a model may have.
            ([], _, _) => Vec::new(),
            (paths, _, _) => paths.to_vec(),
        };
        let mut grants = Grants::new(&roots)?;
        grants.client_roots = is_local && self.allow_path.is_empty();
        grants.network = self.allow_network;
        Ok(Options { surface, grants, project })
    }

    /// The tools that are to be shown.
    pub(crate) fn surface(&self) -> Result<Surface, UnknownSurface> {
        match (&self.mode, &self.profile) {
            (Some(mode), _) => Ok(Surface::Mode(mode.parse::<Mode>()?)),
            (None, Some(profile)) => Ok(Surface::Profile(profile.parse::<Profile>()?)),
            (None, None) => Ok(Surface::default()),
        }
    }
}

fn read_token(path: &Path) -> Result<String, ServeArgumentError> {
    let failed = |source| ServeArgumentError::Token { path: path.to_owned(), source };
    let found = fs::metadata(path).map_err(failed)?;
    if found.len() > MOST_TOKEN_BYTES {
        return Err(failed(io::Error::other("too large for a token")));
    }
    Ok(fs::read_to_string(path).map_err(failed)?.trim().to_owned())
}
