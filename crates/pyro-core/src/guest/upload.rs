//! A stream to the agent that ends with its reply.

use super::lie;
use crate::exec::{AgentError, AgentStream, FrameReader, parse_json};
use pyro_agent::wire::{self, DATA_CHUNK_BYTES, FrameKind, Operation};
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;

/// An operation that takes a stream of bytes and gives an `R`. Dropped before [`Upload::finish`], it leaves
/// nothing behind in the guest.
pub struct Upload<R> {
    reader: FrameReader,
    writer: OwnedWriteHalf,
    frame: Vec<u8>,
    reply: PhantomData<fn() -> R>,
}

impl<R: DeserializeOwned> Upload<R> {
    pub(super) async fn start(stream: UnixStream, operation: Operation) -> Result<Self, AgentError> {
        let mut stream = AgentStream::new(stream);
        stream.request(operation).await?;
        let AgentStream { reader, writer } = stream;
        Ok(Self { reader, writer, frame: Vec::with_capacity(DATA_CHUNK_BYTES), reply: PhantomData })
    }

    /// Sends bytes. An error of the agent, which may come at any time, ends the operation. Not cancel safe.
    pub async fn send(&mut self, mut bytes: &[u8]) -> Result<(), AgentError> {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(DATA_CHUNK_BYTES - self.frame.len()));
            self.frame.extend_from_slice(now);
            bytes = rest;
            if self.frame.len() == DATA_CHUNK_BYTES {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Ends the stream, and waits for what the agent makes of it.
    pub async fn finish(mut self) -> Result<R, AgentError> {
        if !self.frame.is_empty() {
            self.flush().await?;
        }
        self.write(&wire::emit_frame(FrameKind::Data, &[])).await?;
        let (header, payload) = self.reader.next().await?;
        crate::exec::expect(header.kind, FrameKind::Reply)?;
        parse_json(&payload)
    }

    async fn flush(&mut self) -> Result<(), AgentError> {
        let frame = wire::emit_frame(FrameKind::Data, &self.frame);
        self.frame.clear();
        self.write(&frame).await
    }

    /// Writes, while listening for a refusal: an agent that refuses stops reading.
    async fn write(&mut self, bytes: &[u8]) -> Result<(), AgentError> {
        let written = {
            let write = self.writer.write_all(bytes);
            tokio::pin!(write);
            tokio::select! {
                biased;
                early = self.reader.next() => {
                    let (header, _) = early?;
                    return Err(lie(format!("{:?} came before the transfer's end", header.kind)));
                }
                written = &mut write => written,
            }
        };
        match written {
            Ok(()) => Ok(()),
            // It has closed; why it did may be there to be read.
            Err(error) => match self.reader.next().await {
                Err(refusal @ AgentError::Refused(_)) => Err(refusal),
                _ => Err(error.into()),
            },
        }
    }
}
