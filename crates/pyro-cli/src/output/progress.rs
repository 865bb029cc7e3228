//! Progress of a pull: bars on a terminal, a line for each step elsewhere, nothing with `--json`. That of a tree
//! that goes to a guest or comes from one: on a terminal alone.

use super::{Format, is_interactive, note};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use pyro_core::environments::{Digest, Phase, Progress};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// How often a spinner moves.
const TICK: Duration = Duration::from_millis(120);

/// Shows a pull to a person.
pub(crate) enum PullProgress {
    /// On a terminal.
    Bars(Mutex<Bars>),
    /// In a log.
    Lines,
    Silent,
}

/// What is drawn now.
#[derive(Default)]
pub(crate) struct Bars {
    drawn: MultiProgress,
    blobs: HashMap<Digest, ProgressBar>,
    step: Option<ProgressBar>,
}

impl PullProgress {
    pub(crate) fn new(format: Format) -> Self {
        match (format, is_interactive()) {
            (Format::Json, _) => Self::Silent,
            (Format::Human, true) => Self::Bars(Mutex::default()),
            (Format::Human, false) => Self::Lines,
        }
    }
}

fn lock(bars: &Mutex<Bars>) -> MutexGuard<'_, Bars> {
    bars.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("templates are constants of this file")
}

fn describe(phase: Phase) -> Option<&'static str> {
    match phase {
        Phase::Waiting => Some("waiting for another pull of the same environment"),
        Phase::Resolve => Some("resolving"),
        Phase::Download => Some("downloading"),
        Phase::Unpack => Some("unpacking"),
        Phase::Ready => None,
    }
}

impl Progress for PullProgress {
    fn phase(&self, phase: Phase) {
        match self {
            Self::Silent => {}
            Self::Lines => {
                if let Some(text) = describe(phase) {
                    note(format_args!("[pull] {text}"));
                }
            }
            Self::Bars(bars) => {
                let mut bars = lock(bars);
                if let Some(step) = bars.step.take() {
                    step.finish_and_clear();
                }
                if phase != Phase::Download {
                    bars.blobs.drain().for_each(|(_, bar)| bar.finish_and_clear());
                    bars.step = describe(phase).map(|text| {
                        let spinner = bars.drawn.add(ProgressBar::new_spinner());
                        spinner.set_style(style("{spinner} {msg} {bytes}"));
                        spinner.set_message(text);
                        spinner.enable_steady_tick(TICK);
                        spinner
                    });
                }
            }
        }
    }

    fn blob(&self, digest: &Digest, done: u64, total: u64) {
        let Self::Bars(bars) = self else { return };
        let mut bars = lock(bars);
        let drawn = bars.drawn.clone();
        let bar = bars.blobs.entry(*digest).or_insert_with(|| {
            let bar = drawn.add(ProgressBar::new(total));
            bar.set_style(style("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}"));
            bar.set_message(digest.hex()[..12].to_owned());
            bar
        });
        bar.set_position(done);
    }

    fn unpacked(&self, bytes: u64) {
        let Self::Bars(bars) = self else { return };
        if let Some(step) = &lock(bars).step {
            step.inc(bytes);
        }
    }

    fn retry(&self, reason: &str) {
        match self {
            Self::Silent => {}
            Self::Lines => note(format_args!("[pull] trying again: {reason}")),
            Self::Bars(bars) => {
                // Only a terminal that is gone fails here.
                let _ = lock(bars).drawn.println(format!("trying again: {reason}"));
            }
        }
    }
}

/// Shows a person how much of a tree has gone over.
pub(crate) struct TreeProgress(ProgressBar);

impl TreeProgress {
    pub(crate) fn new(format: Format, message: &'static str) -> Self {
        let bar = match (format, is_interactive()) {
            (Format::Human, true) => ProgressBar::new_spinner(),
            (Format::Human, false) | (Format::Json, _) => ProgressBar::hidden(),
        };
        bar.set_style(style("{spinner} {msg} {bytes} {bytes_per_sec}"));
        Self(bar.with_message(message))
    }

    /// So many bytes have gone over. Afterwards the guest may still be busy with them.
    pub(crate) fn moved(&self, bytes: u64) {
        if self.0.position() == 0 {
            self.0.enable_steady_tick(TICK);
        }
        self.0.set_position(bytes);
    }

    /// Wipes it off the screen.
    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for TreeProgress {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Drop for PullProgress {
    fn drop(&mut self) {
        if let Self::Bars(bars) = self {
            // What is left of an interrupted pull is wiped off the screen.
            let _ = lock(bars).drawn.clear();
        }
    }
}
