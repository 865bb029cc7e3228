//! How far a call has come, told to clients that asked for it.

use crate::limits::PROGRESS_INTERVAL;
use pyro_core::environments::{Digest, Phase};
use rmcp::RoleServer;
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::Peer;
use std::future::Future;
use tokio::sync::watch;

/// Where a call tells how far it is. Cheap, never waits; a note that is followed by another before it was sent is
/// not sent.
#[derive(Clone, Debug)]
pub(crate) struct Progress(watch::Sender<Note>);

/// What is told.
#[derive(Clone, Debug, Default)]
struct Note {
    /// Grows with each note, as the protocol wants it.
    count: u64,
    message: String,
}

impl Progress {
    pub(crate) fn tell(&self, message: impl Into<String>) {
        let message = message.into();
        self.0.send_modify(|note| *note = Note { count: note.count + 1, message });
    }

    /// The part of progress that counts bytes.
    pub(crate) fn bytes(&self, what: &str, bytes: u64) {
        self.tell(format!("{what}: {} MiB", bytes >> 20));
    }
}

impl pyro_core::environments::Progress for Progress {
    fn phase(&self, phase: Phase) {
        self.tell(match phase {
            Phase::Waiting => "another process pulls the environment",
            Phase::Resolve => "looking for the environment",
            Phase::Download => "downloading the environment",
            Phase::Unpack => "unpacking the environment",
            Phase::Ready => "the environment is ready",
        });
    }

    fn blob(&self, _: &Digest, done: u64, total: u64) {
        self.tell(format!("downloading the environment: {} of {} MiB", done >> 20, total >> 20));
    }

    fn unpacked(&self, _: u64) {}

    fn retry(&self, reason: &str) {
        self.tell(format!("trying again: {reason}"));
    }
}

/// Does `work` and meanwhile tells the client how far it is, where it wants to know.
pub(crate) async fn with_progress<T, F: Future<Output = T>>(
    peer: &Peer<RoleServer>,
    token: Option<ProgressToken>,
    work: impl FnOnce(Progress) -> F,
) -> T {
    let (sender, mut notes) = watch::channel(Note::default());
    let work = work(Progress(sender));
    let Some(token) = token else { return work.await };
    let notify = async {
        while notes.changed().await.is_ok() {
            let Note { count, message } = notes.borrow_and_update().clone();
            #[allow(clippy::cast_precision_loss, reason = "notes of one call are few")]
            let note = ProgressNotificationParam::new(token.clone(), count as f64).with_message(message);
            // A client that is gone ends the call elsewhere.
            let _ = peer.notify_progress(note).await;
            tokio::time::sleep(PROGRESS_INTERVAL).await;
        }
        std::future::pending().await
    };
    tokio::select! {
        done = work => done,
        never = notify => never,
    }
}
