//! The guest as a whole: frozen moments, secrets, clock, figures.

use super::upload::Upload;
use super::{ask, lie};
use crate::authorities::Authorities;
use crate::exec::{AgentError, AgentStream};
use pyro_agent::wire::{
    self, FREEZE_LIMIT_MS, Failure, FailureCode, FrameKind, MAX_SECRET_BYTES, MAX_SECRETS, MAX_SECRETS_BYTES,
    Metrics, Operation, Probe, Readied, SecretItem, SecretsInstalled, Thawed, Usage,
};
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

#[derive(serde::Deserialize)]
struct Done {}

/// Gives the guest certificate authorities in place of those that it was given before.
pub async fn install_authorities(stream: UnixStream, authorities: &Authorities) -> Result<(), AgentError> {
    let mut upload = Upload::<Done>::start(stream, Operation::Authorities).await?;
    upload.send(authorities.pem().as_bytes()).await?;
    upload.finish().await.map(|Done {}| ())
}

/// A guest whose root file system is flushed and still. Dropping this thaws it as well.
pub struct Frozen {
    stream: AgentStream,
}

impl Frozen {
    /// How long a guest stays frozen by itself.
    pub const LIMIT: Duration = Duration::from_millis(FREEZE_LIMIT_MS);

    /// Thaws. When the answer says `expired`, the guest had thawed before, and what was taken of its disk
    /// meanwhile is not to be relied upon.
    pub async fn thaw(mut self) -> Result<Thawed, AgentError> {
        // A guest that has thawed by itself may have closed; its reply is still there.
        let _ = self.stream.writer.write_all(&wire::emit_frame(FrameKind::Data, &[])).await;
        self.stream.expect_json(FrameKind::Reply).await
    }
}

/// Flushes and freezes the guest's root file system, for [`Frozen::LIMIT`] at most.
pub async fn freeze(stream: UnixStream) -> Result<Frozen, AgentError> {
    let mut stream = AgentStream::new(stream);
    stream.request(Operation::Freeze).await?;
    let Done {} = stream.expect_json(FrameKind::Frozen).await?;
    Ok(Frozen { stream })
}

/// Waits until something in the guest is ready, `timeout` at most. Dropping this ends the guest's wait as well.
pub async fn await_ready(
    stream: UnixStream,
    probe: Probe,
    interval: Duration,
    timeout: Duration,
) -> Result<Readied, AgentError> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (interval_ms, timeout_ms) = (millis(interval), millis(timeout));
    ask(stream, Operation::AwaitReady { probe, interval_ms, timeout_ms }).await
}

/// What the process tree of a running command uses, whose main process is `pid`.
pub async fn usage(stream: UnixStream, pid: i32) -> Result<Usage, AgentError> {
    ask(stream, Operation::Usage { pid }).await
}

/// Puts these secrets in place of all that the guest has.
pub async fn install_secrets(
    stream: UnixStream,
    secrets: &[SecretItem],
) -> Result<SecretsInstalled, AgentError> {
    let refused =
        |message: String| Err(AgentError::Refused(Failure { code: FailureCode::BadRequest, message }));
    let total: usize = secrets.iter().map(|secret| secret.value.len()).sum();
    if secrets.len() > MAX_SECRETS || total > MAX_SECRETS_BYTES {
        return refused(format!("{} secrets of {total} bytes are too many for one guest", secrets.len()));
    }
    for secret in secrets {
        if !SecretItem::is_name(&secret.name) {
            return refused(format!("{:?} cannot name a secret", secret.name));
        }
        if secret.value.len() > MAX_SECRET_BYTES {
            return refused(format!("secret {:?} must be at most {MAX_SECRET_BYTES} bytes", secret.name));
        }
    }
    let mut upload = Upload::<SecretsInstalled>::start(stream, Operation::Secrets).await?;
    let mut record = Vec::new();
    for secret in secrets {
        record.clear();
        secret.emit(&mut record);
        upload.send(&record).await?;
    }
    let installed = upload.finish().await?;
    if installed.count != secrets.len() as u64 {
        return Err(lie(format!("{} secrets were sent, {} installed", secrets.len(), installed.count)));
    }
    Ok(installed)
}

/// Steps the guest's clock, to nanoseconds since the Unix epoch.
pub async fn set_clock(stream: UnixStream, unix_nanos: u64) -> Result<(), AgentError> {
    let Done {} = ask(stream, Operation::SetClock { unix_nanos }).await?;
    Ok(())
}

/// Memory, load and uptime.
pub async fn metrics(stream: UnixStream) -> Result<Metrics, AgentError> {
    ask(stream, Operation::Metrics).await
}
