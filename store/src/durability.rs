//! What an acknowledgement promises, and the handle by which one waits for it.

use std::time::Duration;

use thiserror::Error;

/// When a message counts as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Durability {
    /// `ASYNC_FLUSH`: in the page cache. Survives the death of the process, not of the machine: up to `interval` is lost
    /// then.
    PageCache {
        /// A data sync follows at least so often while enough is dirty (`flushIntervalCommitLog`, 500 ms).
        interval: Duration,
        /// Fewer dirty pages of 4 KiB than this wait for `thorough_interval` (`flushCommitLogLeastPages`, 4).
        least_pages: u32,
        /// Any dirty byte is synced after this (`flushCommitLogThoroughInterval`, 10 s).
        thorough_interval: Duration,
    },
    /// `SYNC_FLUSH`: on the device; a data sync that covers the message has returned.
    Device {
        /// How long an acknowledgement may wait (`syncFlushTimeout`, 5 s). The message stays stored.
        timeout: Duration,
    },
}

impl Durability {
    /// `ASYNC_FLUSH` with RocketMQ's schedule.
    #[must_use]
    pub fn page_cache() -> Self {
        Self::PageCache {
            interval: Duration::from_millis(500),
            least_pages: 4,
            thorough_interval: Duration::from_secs(10),
        }
    }

    /// `SYNC_FLUSH` with RocketMQ's time-out.
    #[must_use]
    pub fn device() -> Self {
        Self::Device {
            timeout: Duration::from_secs(5),
        }
    }

    /// Whether an acknowledgement waits for the device.
    #[must_use]
    pub fn is_device(&self) -> bool {
        matches!(self, Self::Device { .. })
    }
}

/// What [`crate::Store::append`] hands out: the end of the batch in the log, which
/// [`crate::Store::when_durable`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the promise holds only once this resolves"]
pub struct Ack {
    /// First byte behind the batch.
    pub(crate) end: u64,
}

/// Why an acknowledgement did not come. The message is in the log either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FlushError {
    /// The device took longer than the time-out. RocketMQ answers FLUSH_DISK_TIMEOUT.
    #[error("not on the device within the time-out")]
    Timeout,
    /// The sync failed; the store is read-only from now on and the message may be lost.
    #[error("the data sync failed")]
    Failed,
    /// The store was closed before the sync.
    #[error("the store was closed")]
    Closed,
}
