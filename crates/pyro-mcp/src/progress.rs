//! How far a call has come, told to clients that asked for it.

use crate::limits::{PROGRESS_INTERVAL, PROGRESS_SILENCE};
use pyro_core::environments::{Digest, Phase};
use rmcp::RoleServer;
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::Peer;
use std::future::Future;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Where a call tells how far it is. Cheap, never waits; what is followed by something else before it was sent is not
/// sent.
#[derive(Clone, Debug)]
pub(crate) struct Progress(watch::Sender<String>);

impl Progress {
    pub(crate) fn tell(&self, message: impl Into<String>) {
        self.0.send_replace(message.into());
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
    let (sender, mut notes) = watch::channel("at work".to_owned());
    let work = work(Progress(sender));
    let Some(token) = token else { return work.await };
    let notify = async {
        // The count grows with each note, as the protocol wants it.
        for count in 1_u32.. {
            // Clients give up a call that they hear nothing of, so what takes its time in silence is told again.
            if let Ok(Err(_)) = timeout(PROGRESS_SILENCE, notes.changed()).await {
                break;
            }
            let message = notes.borrow_and_update().clone();
            let note = ProgressNotificationParam::new(token.clone(), count.into()).with_message(message);
            // A client that is gone ends the call elsewhere.
            let _ = peer.notify_progress(note).await;
            sleep(PROGRESS_INTERVAL).await;
        }
        std::future::pending().await
    };
    tokio::select! {
        done = work => done,
        never = notify => never,
    }
}
