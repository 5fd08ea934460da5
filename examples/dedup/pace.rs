//! How far the producers are, and a rest for all of them while something is waited for.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(1);

/// Written by the producers and by who kills the servers.
#[derive(Default)]
pub(crate) struct Pace {
    answered: AtomicU64,
    rests: AtomicBool,
}

impl Pace {
    /// So many more messages are answered for good.
    pub(crate) fn did(&self, messages: u64) {
        self.answered.fetch_add(messages, Ordering::Relaxed);
    }

    /// Messages that are answered.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Whether the producers begin nothing new.
    pub(crate) fn rest(&self, rests: bool) {
        self.rests.store(rests, Ordering::Relaxed);
    }

    /// Until the rest is over.
    pub(crate) fn wait(&self) {
        while self.rests.load(Ordering::Relaxed) {
            std::thread::sleep(PAUSE);
        }
    }
}
