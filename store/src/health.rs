//! Whether the store takes messages, and if not, why.
//!
//! A failed write or sync is final: the store is read-only until an operator opens it anew. A full disk is not: the store
//! refuses, looks again, and goes on by itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::dispatch::Observer;
use crate::error::StoreError;

/// After a refusal for want of space, appends are refused untried for so long.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// The state that every append looks at first.
pub(crate) struct Health {
    /// Told of every change.
    observer: Arc<dyn Observer>,
    /// Set once, by whoever met the failure first.
    failure: OnceLock<String>,
    /// The last attempt to get space failed.
    disk_full: AtomicBool,
    /// The file system is over the ratio at which messages are refused (`diskSpaceWarningLevelRatio`).
    over_ratio: AtomicBool,
    /// Monotonic ms at which an append may try again for space.
    retry_at_ms: AtomicU64,
}

/// Why nothing is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadOnlyReason {
    /// A write or sync failed; with what was tried on which file.
    Failed(String),
    /// There is no space left for the log.
    DiskFull,
    /// The file system is fuller than the configuration allows.
    DiskRatio,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health")
            .field("reason", &self.reason())
            .finish_non_exhaustive()
    }
}

impl Health {
    /// Messages are taken.
    pub(crate) fn new(observer: Arc<dyn Observer>) -> Self {
        Self {
            observer,
            failure: OnceLock::new(),
            disk_full: AtomicBool::new(false),
            over_ratio: AtomicBool::new(false),
            retry_at_ms: AtomicU64::new(0),
        }
    }

    /// Nothing is taken from now on.
    pub(crate) fn fence(&self, cause: &StoreError) {
        let cause = cause.to_string();
        if self.failure.set(cause.clone()).is_ok() {
            tracing::error!(%cause, "the store is read-only from now on");
            self.observer.writability_changed();
        }
    }

    /// Whether a write or sync failed.
    pub(crate) fn is_fenced(&self) -> bool {
        self.failure.get().is_some()
    }

    /// Whether an append may be tried.
    pub(crate) fn may_append(&self, now: impl FnOnce() -> Duration) -> Result<(), ReadOnlyReason> {
        if let Some(cause) = self.failure.get() {
            return Err(ReadOnlyReason::Failed(cause.clone()));
        }
        if self.over_ratio.load(Ordering::Relaxed) {
            return Err(ReadOnlyReason::DiskRatio);
        }
        if self.disk_full.load(Ordering::Relaxed)
            && to_ms(now()) < self.retry_at_ms.load(Ordering::Relaxed)
        {
            return Err(ReadOnlyReason::DiskFull);
        }
        Ok(())
    }

    /// Why messages are refused, if they are.
    pub(crate) fn reason(&self) -> Option<ReadOnlyReason> {
        if let Some(cause) = self.failure.get() {
            return Some(ReadOnlyReason::Failed(cause.clone()));
        }
        if self.over_ratio.load(Ordering::Relaxed) {
            return Some(ReadOnlyReason::DiskRatio);
        }
        self.is_disk_full().then_some(ReadOnlyReason::DiskFull)
    }

    /// Space was wanted and not there.
    pub(crate) fn disk_full(&self, now: Duration) {
        self.retry_at_ms
            .store(to_ms(now + RETRY_AFTER), Ordering::Relaxed);
        if !self.disk_full.swap(true, Ordering::AcqRel) {
            tracing::warn!("no space left: messages are refused until there is");
            self.observer.writability_changed();
        }
    }

    /// Space was wanted and there.
    pub(crate) fn has_space(&self) {
        if self.disk_full.load(Ordering::Relaxed) && self.disk_full.swap(false, Ordering::AcqRel) {
            tracing::info!("there is space again: messages are taken");
            self.observer.writability_changed();
        }
    }

    /// Whether the last attempt to get space failed.
    pub(crate) fn is_disk_full(&self) -> bool {
        self.disk_full.load(Ordering::Relaxed)
    }

    /// Whether messages are refused for want of space, of whatever kind.
    pub(crate) fn wants_space(&self) -> bool {
        self.is_disk_full() || self.over_ratio.load(Ordering::Relaxed)
    }

    /// The ratio was looked at.
    pub(crate) fn set_over_ratio(&self, over: bool) {
        if self.over_ratio.swap(over, Ordering::AcqRel) != over {
            tracing::warn!(
                over,
                "the file system passed the ratio at which messages are refused"
            );
            self.observer.writability_changed();
        }
    }
}

fn to_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
