//! What a tool is: arguments that are parsed whole, one function, a bounded result.

use crate::progress::Progress;
use crate::roots::ClientRoots;
use crate::schema;
use crate::server::Server;
use pyro_core::{Blame, Problem};
use rmcp::model::{JsonObject, ToolAnnotations};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// One tool. Its fields are its arguments; their doc comments are what a model reads of them.
pub(crate) trait Tool: DeserializeOwned + JsonSchema + Send + 'static {
    /// Its name in the protocol.
    const NAME: &'static str;
    /// When to use it, for a model.
    const DESCRIPTION: &'static str;
    /// What it does to the world.
    const EFFECT: Effect;
    /// The fields of its result that callers may count on, as `name: type`, see [`schema::output`].
    const OUTPUT: &'static str;

    /// Does it.
    fn call(self, call: &Call) -> impl Future<Output = Result<Value, Problem>> + Send;
}

/// What a tool does to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    Reads,
    /// It adds something that was not there.
    Adds,
    /// It may replace or remove something.
    Changes,
}

/// What a call has at hand. It is the owner of nothing that outlives it.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) server: Arc<Server>,
    pub(crate) progress: Progress,
    /// What of the host is its client's own.
    pub(crate) roots: ClientRoots,
}

type Work = Pin<Box<dyn Future<Output = Result<Value, Problem>> + Send>>;

/// A tool without its type.
#[derive(Clone)]
pub(crate) struct AnyTool {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    effect: Effect,
    input: fn() -> JsonObject,
    output: &'static str,
    call: fn(JsonObject, Call) -> Result<Work, Problem>,
}

impl AnyTool {
    pub(crate) fn of<T: Tool>() -> Self {
        Self {
            name: T::NAME,
            description: T::DESCRIPTION,
            effect: T::EFFECT,
            input: schema::input::<T>,
            output: T::OUTPUT,
            call: |arguments, call| {
                let tool: T = serde_json::from_value(Value::Object(arguments))
                    .map_err(|error| invalid_arguments(T::NAME, &error.to_string()))?;
                Ok(Box::pin(async move { tool.call(&call).await }))
            },
        }
    }

    /// Parses the arguments; nothing is done before the result is polled.
    pub(crate) fn begin(&self, arguments: JsonObject, call: Call) -> Result<Work, Problem> {
        (self.call)(arguments, call)
    }

    /// As the protocol tells it, without the arguments that are `hidden`.
    pub(crate) fn declaration(
        &self,
        description: &'static str,
        hidden: impl Fn(&str) -> bool,
    ) -> rmcp::model::Tool {
        let mut input = (self.input)();
        schema::hide(&mut input, hidden);
        let mut tool = rmcp::model::Tool::new(self.name, description, input);
        tool.output_schema = Some(Arc::new(schema::output(self.output)));
        tool.annotations = Some(self.annotations());
        tool
    }

    /// Only what differs from the protocol's defaults: a tool changes things, and the world is open to it.
    fn annotations(&self) -> ToolAnnotations {
        let annotations = ToolAnnotations::new().open_world(false);
        match self.effect {
            Effect::Reads => annotations.read_only(true),
            Effect::Adds => annotations.destructive(false),
            Effect::Changes => annotations.destructive(true),
        }
    }
}

/// Arguments that are not those of the tool.
pub(crate) fn invalid_arguments(tool: &str, why: &str) -> Problem {
    Problem {
        code: "invalid_arguments".into(),
        message: format!("invalid arguments for {tool}: {why}"),
        hint: Some("tools/list has each tool's schema".to_owned()),
        blame: Blame::Caller,
    }
}

/// A result as JSON. The results are plain structures, whose keys are texts.
pub(crate) fn json<T: serde::Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("results have only texts as keys")
}

/// A problem that is the caller's.
pub(crate) fn refused(code: &'static str, message: impl Into<String>) -> Problem {
    Problem { code: code.into(), message: message.into(), hint: None, blame: Blame::Caller }
}
