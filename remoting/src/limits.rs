//! How much a peer, and all peers together, may have in flight: requests whose answer is still to come, answers that
//! the peer has not read, and the beginnings of long frames.
//!
//! Over its own bound a connection's socket is not read. Over the common bound no socket is read of a connection that
//! itself holds more than [`FAIR_SHARE_BYTES`]: whoever holds little goes on, so that one slow peer blocks nobody.
//! Memory is then bounded by the common bound plus one fair share and one frame per connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

/// What a connection may hold when the common bound is reached and it is still read.
pub const FAIR_SHARE_BYTES: usize = 256 * 1024;

/// What all connections of a server hold together.
#[derive(Debug)]
pub(crate) struct Limits {
    total: AtomicUsize,
    total_max: usize,
    per_connection_max: usize,
}

impl Limits {
    pub(crate) fn new(per_connection_max: usize, total_max: usize) -> Arc<Self> {
        Arc::new(Self {
            total: AtomicUsize::new(0),
            total_max,
            per_connection_max,
        })
    }

    #[cfg(test)]
    pub(crate) fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }
}

/// Whether a connection's socket may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pressure {
    /// Read.
    None,
    /// The connection itself holds too much; it is woken when that shrinks.
    Own,
    /// All together hold too much; look again after a moment.
    Common,
}

/// What one connection holds. Written by its task and by whoever answers later.
#[derive(Debug)]
pub(crate) struct Share {
    held: AtomicUsize,
    limits: Arc<Limits>,
}

impl Share {
    pub(crate) fn new(limits: Arc<Limits>) -> Self {
        Self {
            held: AtomicUsize::new(0),
            limits,
        }
    }

    pub(crate) fn add(&self, bytes: usize) {
        if bytes > 0 {
            self.held.fetch_add(bytes, Ordering::Relaxed);
            self.limits.total.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Gives back what was added before.
    pub(crate) fn sub(&self, bytes: usize) {
        if bytes > 0 {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
            self.limits.total.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(crate) fn per_connection_max(&self) -> usize {
        self.limits.per_connection_max
    }

    pub(crate) fn pressure(&self) -> Pressure {
        let held = self.held();
        if held > self.limits.per_connection_max {
            Pressure::Own
        } else if held > FAIR_SHARE_BYTES
            && self.limits.total.load(Ordering::Relaxed) > self.limits.total_max
        {
            Pressure::Common
        } else {
            Pressure::None
        }
    }
}

/// Lets a bounded number of log lines through, and counts the rest: a flood of bad peers must not fill the disk.
#[derive(Debug, Default)]
pub(crate) struct LogBound {
    window_start_ms: AtomicI64,
    in_window: AtomicU64,
    suppressed: AtomicU64,
}

impl LogBound {
    const WINDOW_MS: i64 = 10_000;
    const LINES_PER_WINDOW: u64 = 20;

    /// `Some(suppressed)` when a line may be written now; the number says how many were left out before it.
    pub(crate) fn allow(&self, now_ms: i64) -> Option<u64> {
        let start = self.window_start_ms.load(Ordering::Relaxed);
        if now_ms - start >= Self::WINDOW_MS || start == 0 {
            self.window_start_ms.store(now_ms.max(1), Ordering::Relaxed);
            self.in_window.store(0, Ordering::Relaxed);
        }
        if self.in_window.fetch_add(1, Ordering::Relaxed) < Self::LINES_PER_WINDOW {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_holds_little_is_read_even_when_all_together_hold_too_much() {
        let limits = Limits::new(1_000_000, 1_500_000);
        let (hungry, greedy, modest) = (
            Share::new(limits.clone()),
            Share::new(limits.clone()),
            Share::new(limits.clone()),
        );
        greedy.add(1_000_001);
        assert_eq!(greedy.pressure(), Pressure::Own);
        hungry.add(900_000);
        assert_eq!(hungry.pressure(), Pressure::Common);
        modest.add(FAIR_SHARE_BYTES);
        assert_eq!(modest.pressure(), Pressure::None);
        greedy.sub(1_000_001);
        assert_eq!(hungry.pressure(), Pressure::None);
        assert_eq!(limits.total(), 900_000 + FAIR_SHARE_BYTES);
    }

    #[test]
    fn a_flood_of_lines_is_cut_and_counted() {
        let bound = LogBound::default();
        let written = (0..1000).filter(|_| bound.allow(5).is_some()).count();
        assert_eq!(written, 20);
        assert_eq!(bound.allow(10_006), Some(980));
        assert_eq!(bound.allow(10_007), Some(0));
    }
}
