//! One server: what it may do, what runs in it, and how a call becomes an answer.

use crate::grants::Grants;
use crate::hints;
use crate::limits::{ARGUMENT_BYTES, CALLS, MESSAGE_BYTES, SETTLE_DEADLINE, UNREAD_PATIENCE};
use crate::progress::with_progress;
use crate::project::Project;
use crate::roots::ClientRoots;
use crate::surface::Surface;
use crate::tool::{AnyTool, Call, invalid_arguments, refused};
use crate::tools::vms::Machines;
use pyro_core::workspace::{Pyro, WorkspaceError};
use pyro_core::{Blame, Config, Explain, Problem};
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation,
    InputRequiredResult, JsonObject, ListToolsResult, PaginatedRequestParams, ServerCapabilities,
    ServerConfig,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler, ServiceExt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{Semaphore, watch};

/// How a server is to be.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The tools.
    pub surface: Surface,
    /// What they may do to the host.
    pub grants: Grants,
    /// What workspaces begin with.
    pub project: Option<Project>,
}

/// What all clients of one process share.
pub struct Server {
    pub(crate) config: Config,
    pub(crate) pyro: Pyro,
    pub(crate) options: Options,
    pub(crate) machines: Machines,
    tools: Vec<AnyTool>,
    calls: Semaphore,
}

/// Why a server cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] WorkspaceError),
    /// The client does not speak the protocol.
    #[error("the client does not speak the Model Context Protocol")]
    Protocol(#[source] Box<rmcp::service::ServerInitializeError>),
}

impl Explain for ServeError {
    fn explain(&self) -> Problem {
        match self {
            Self::State(error) => error.explain(),
            Self::Protocol(_) => Problem::new("mcp_protocol", Blame::Caller, self).with_hint(
                "this is a server for MCP clients; `pyro host print-config` shows how to add it to one",
            ),
        }
    }
}

impl Server {
    /// Opens the state directory.
    pub fn open(config: Config, options: Options) -> Result<Arc<Self>, ServeError> {
        let pyro = Pyro::open(config.clone())?;
        let tools = options.surface.tools();
        let calls = Semaphore::new(CALLS);
        Ok(Arc::new(Self { config, pyro, options, machines: Machines::default(), tools, calls }))
    }

    /// Ends what belongs to this server, and waits until what its calls had begun is undone.
    pub async fn close(&self) {
        let settle = async {
            // Each call holds a permit until nothing of it runs.
            let permits = u32::try_from(CALLS).expect("calls are few");
            drop(self.calls.acquire_many(permits).await);
            self.machines.stop_all().await;
            // What cannot be settled now is by the next process.
            let _ = self.pyro.settle().await;
        };
        let _ = tokio::time::timeout(SETTLE_DEADLINE, settle).await;
    }

    fn declarations(&self) -> Vec<rmcp::model::Tool> {
        let surface = self.options.surface;
        let declare = |tool: &AnyTool| {
            tool.declaration(surface.description(tool), |argument| self.hides(tool, argument))
        };
        self.tools.iter().map(declare).collect()
    }

    fn for_model(&self, problem: Problem) -> Problem {
        let has = |name: &str| self.tools.iter().any(|tool| tool.name == name);
        Problem { hint: problem.hint.map(|hint| hints::for_model(&hint, has)), ..problem }
    }

    fn hides(&self, tool: &AnyTool, argument: &str) -> bool {
        self.options.surface.hides(tool.name, argument, self.options.grants.network)
    }

    /// Arguments that may be parsed.
    fn admit(&self, tool: &AnyTool, arguments: &JsonObject) -> Result<(), Problem> {
        if let Some(hidden) = arguments.keys().find(|argument| self.hides(tool, argument)) {
            let message = format!("{} does not take '{hidden}' in this server", tool.name);
            let hint = "the person who starts the server decides: --profile workspace-full, --allow-network";
            return Err(refused("not_granted", message).with_hint(hint));
        }
        match serde_json::to_vec(arguments).map_or(usize::MAX, |text| text.len()) {
            bytes if bytes > ARGUMENT_BYTES => {
                let why = format!("they have {bytes} bytes, at most {ARGUMENT_BYTES} are allowed");
                Err(invalid_arguments(tool.name, &why))
            }
            _ => Ok(()),
        }
    }
}

/// The protocol's side of a server, one for each client.
#[derive(Clone)]
pub(crate) struct Handler {
    server: Arc<Server>,
    /// Becomes true when the client is known to be gone, and no answer reaches it.
    gone: watch::Receiver<bool>,
}

impl Handler {
    /// For a client whose leaving the transport tells.
    pub(crate) fn new(server: Arc<Server>) -> Self {
        Self { server, gone: watch::channel(false).1 }
    }
}

impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        let mut info = ServerConfig::default();
        info.capabilities = ServerCapabilities::builder().enable_tools().build();
        info.server_info = Implementation::new("pyro", env!("CARGO_PKG_VERSION"));
        info.instructions = Some(self.server.options.surface.instructions().to_owned());
        info
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.server.declarations()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(tool) = self.server.tools.iter().find(|tool| tool.name == request.name) else {
            return Err(ErrorData::invalid_params(format!("unknown tool '{}'", request.name), None));
        };
        let roots = match self.server.options.grants.client_roots {
            true => ClientRoots::of(&context, &request),
            false => Ok(ClientRoots::None),
        };
        let roots = match roots {
            Ok(roots) => roots,
            Err(wish) => return Ok(InputRequiredResult::from(wish).into()),
        };
        let answer = self.answer(tool, request.arguments.unwrap_or_default(), roots, context).await;
        Ok(CallToolResponse::from(match answer {
            Ok(value) => CallToolResult::structured(value),
            Err(problem) => failure(&self.server.for_model(problem)),
        }))
    }
}

impl Handler {
    async fn answer(
        &self,
        tool: &AnyTool,
        arguments: JsonObject,
        roots: ClientRoots,
        context: RequestContext<RoleServer>,
    ) -> Result<Value, Problem> {
        let busy = |_| refused("too_many_calls", format!("more than {CALLS} calls at once"));
        let _permit = self.server.calls.try_acquire().map_err(busy)?;
        self.server.admit(tool, &arguments)?;
        let token = context.meta.get_progress_token();
        let server = Arc::clone(&self.server);
        let work = with_progress(&context.peer, token, async |progress| {
            let call = Call { server, progress, roots };
            tool.begin(arguments, call)?.await
        });
        tokio::select! {
            done = work => return done,
            () = context.ct.cancelled() => {}
            () = told_gone(self.gone.clone()) => {}
        }
        // What the call had begun was dropped with it; what is left of that goes before anybody is told.
        let _ = tokio::time::timeout(SETTLE_DEADLINE, self.server.pyro.settle()).await;
        Err(refused("cancelled", format!("{} was cancelled", tool.name)))
    }
}

impl Call {
    /// A path of the host to read.
    pub(crate) async fn source(&self, text: &str) -> Result<PathBuf, Problem> {
        self.server.options.grants.source(text, &self.roots.paths().await)
    }

    /// A path of the host to write.
    pub(crate) async fn output(&self, text: &str) -> Result<PathBuf, Problem> {
        self.server.options.grants.output(text, &self.roots.paths().await)
    }
}

/// A failure as text: clients hold structured results against the schema of successes.
fn failure(problem: &Problem) -> CallToolResult {
    let text = json!({ "ok": false, "error": problem }).to_string();
    CallToolResult::error(vec![ContentBlock::text(text)])
}

/// Waits until a client is gone; for ever where that is not told.
async fn told_gone(mut gone: watch::Receiver<bool>) {
    if gone.wait_for(|gone| *gone).await.is_err() {
        std::future::pending().await
    }
}

/// Serves the client on standard input and output until it leaves. Who only says nothing more still gets the answers
/// of calls that end soon; of who is gone altogether everything that was begun is undone.
pub async fn serve_stdio(server: Arc<Server>) -> Result<(), ServeError> {
    let (told, gone) = watch::channel(false);
    let handler = Handler { server: Arc::clone(&server), gone };
    let input =
        Input { stdin: tokio::io::stdin(), gone: told, is_watched: false, line: LineLength::default() };
    let served = async {
        let running = handler.serve((input, tokio::io::stdout())).await;
        let running = running.map_err(|error| ServeError::Protocol(Box::new(error)))?;
        // It ends when the client leaves, in whatever way.
        let _ = running.waiting().await;
        Ok(())
    };
    let result = served.await;
    server.close().await;
    match result {
        // Who says nothing and leaves did no wrong.
        Err(ServeError::Protocol(error)) if is_silence(&error) => Ok(()),
        other => other,
    }
}

/// Standard input, whose end tells whether anybody still reads standard output.
struct Input {
    stdin: tokio::io::Stdin,
    gone: watch::Sender<bool>,
    /// Whether somebody waits for the other stream's end.
    is_watched: bool,
    line: LineLength,
}

/// How long the line is that is being read. What collects it has no bound of its own.
#[derive(Default)]
struct LineLength(usize);

impl LineLength {
    /// Takes the next bytes of a stream; fails where a line of them is longer than any message may be.
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut lines = bytes.split(|byte| *byte == b'\n');
        self.0 += lines.next().map_or(0, <[u8]>::len);
        let mut longest = self.0;
        for line in lines {
            self.0 = line.len();
            longest = longest.max(self.0);
        }
        match longest > MESSAGE_BYTES {
            true => Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long")),
            false => Ok(()),
        }
    }
}

impl AsyncRead for Input {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stdin).poll_read(context, buffer);
        let is_end = matches!(polled, Poll::Ready(Ok(()))) && buffer.filled().len() == before;
        if (is_end || matches!(polled, Poll::Ready(Err(_)))) && !self.is_watched {
            self.is_watched = true;
            tell_when_unread(self.gone.clone());
        }
        if let Err(error) = self.line.take(&buffer.filled()[before..]) {
            return Poll::Ready(Err(error));
        }
        polled
    }
}

/// Waits, apart, until nobody reads standard output: a client's death closes both streams, one after the other.
fn tell_when_unread(gone: watch::Sender<bool>) {
    std::thread::spawn(move || {
        let stdout = io::stdout();
        // Errors and hang-ups are told without being asked for.
        let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
        let patience = Timespec::try_from(UNREAD_PATIENCE).expect("seconds are few");
        if poll(&mut polled, Some(&patience)) == Ok(1) {
            gone.send_replace(true);
        }
    });
}

fn is_silence(error: &rmcp::service::ServerInitializeError) -> bool {
    matches!(error, rmcp::service::ServerInitializeError::ConnectionClosed(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_bounded_however_it_comes() {
        let half = vec![b'x'; MESSAGE_BYTES / 2];
        let mut line = LineLength::default();
        for _ in 0..2 {
            line.take(&half).unwrap();
        }
        line.take(b"\n").unwrap();
        line.take(&half).unwrap();
        line.take(b"x\nx").unwrap();
        line.take(&half).unwrap();
        line.take(&half[1..]).unwrap();
        line.take(b"xx").unwrap_err();
    }
}
