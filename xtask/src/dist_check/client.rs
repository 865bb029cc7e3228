//! As much of an MCP client as tells that a server works: requests and answers on standard streams, a line each.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// How long an answer and an end are waited for: a busy machine may be slow, but a server that hangs is a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at whether the server has ended.
const LOOK: Duration = Duration::from_millis(50);

/// A server and its streams. Dropping it kills the server.
pub(super) struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    next_id: u64,
}

impl Client {
    pub(super) fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("cannot start the server")?;
        let stdout = child.stdout.take().context("its output was piped")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, lines, next_id: 1 })
    }

    /// Shakes hands and returns what the server says of itself.
    pub(super) fn initialize(&mut self) -> Result<Value> {
        let client = json!({ "name": "dist-check", "version": env!("CARGO_PKG_VERSION") });
        let params = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client });
        let result = self.request("initialize", &params)?;
        self.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }))?;
        Ok(result)
    }

    /// The result of a request that must succeed.
    pub(super) fn request(&mut self, method: &str, params: &Value) -> Result<Value> {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).with_context(|| format!("no answer to {method}"))?;
            let mut answer: Value =
                serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))?;
            if answer["id"] == json!(id) {
                ensure!(answer.get("result").is_some(), "{method}: {answer}");
                return Ok(answer["result"].take());
            }
        }
    }

    fn send(&mut self, message: &Value) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the server's input is closed")?;
        stdin.write_all(format!("{message}\n").as_bytes()).context("the server takes no input")
    }

    /// Closes its input, whereupon a server ends by itself, and well.
    pub(super) fn close(mut self) -> Result<()> {
        drop(self.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for the server")? {
                ensure!(status.success(), "the server ended with {status}");
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("the server runs on without input");
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(script: &str) -> Client {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        Client::start(command).unwrap()
    }

    #[test]
    fn the_answer_with_the_requests_number_is_taken() {
        let answers = r#"{"method":"notifications/x"}\n{"id":1,"result":{"a":2}}\n"#;
        let mut client = server(&format!("read line; printf '{answers}'; cat > /dev/null"));
        assert_eq!(client.request("x", &json!({})).unwrap(), json!({ "a": 2 }));
        client.close().unwrap();
    }

    #[test]
    fn errors_silence_and_bad_ends_are_failures() {
        let mut client = server(r#"read line; echo '{"id":1,"error":{"code":-1}}'; cat > /dev/null; exit 3"#);
        assert!(client.request("x", &json!({})).unwrap_err().to_string().contains("-1"));
        assert!(client.close().unwrap_err().to_string().contains("exit status: 3"));
        let error = server("read line").request("x", &json!({})).unwrap_err().to_string();
        assert_eq!(error, "no answer to x");
    }
}
