//! Data syncs of the log: in sync mode one answers everybody whose messages it covers; in async mode they follow
//! RocketMQ's schedule. Waiters are ordered by offset.
//!
//! A sync that fails is never tried again: the pages may be marked clean by then, and the next one would succeed with the
//! data gone. The store is fenced and no acknowledgement follows. Apache: `GroupCommitService`, `FlushRealTimeService`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use agena_protocol::clock::Clock;
use parking_lot::{Condvar, Mutex};

use crate::commit_log::CommitLog;
use crate::durability::{Ack, Durability, FlushError};
use crate::error::StoreError;
use crate::health::Health;
use crate::medium::Medium;

/// What runs when an acknowledgement resolves.
pub(crate) type Then = Box<dyn FnOnce(Result<(), FlushError>) + Send>;

const PAGE_BYTES: u64 = 4096;

/// Between two syncs of async mode, this often at most, and with at least so much, the system is told to begin writing.
const WRITE_OUT_EVERY: Duration = Duration::from_millis(50);
const WRITE_OUT_BYTES: u64 = 256 << 10;

/// The syncs of one log.
pub(crate) struct GroupCommit {
    medium: Arc<dyn Medium>,
    clock: Arc<dyn Clock>,
    durability: Durability,
    /// Everything below is on the device. Written by the committing thread after the sync returned; whoever loads it may
    /// conclude just that.
    durable: AtomicU64,
    /// The same, and consumers can see it: what acknowledgements wait for. Written by the committing thread behind the
    /// dispatch, which is behind the sync.
    visible: AtomicU64,
    /// Held while the log is synced; true when that failed once.
    sync_failed: Mutex<bool>,
    /// Async mode: whether the thread knows that something is dirty. Appenders set it and wake the thread.
    dirty: AtomicBool,
    state: Mutex<State>,
    /// Wakes the committing thread.
    wanted: Condvar,
    /// Wakes the thread that expires waiters.
    watched: Condvar,
}

#[derive(Default)]
struct State {
    /// Ascending in `end`; their deadlines ascend as well, all waiting equally long.
    waiters: VecDeque<Waiter>,
    /// The committing thread is to look at the log's end.
    wanted: bool,
    /// The expiring thread is awake until the first deadline.
    watching: bool,
    failed: bool,
    stopped: bool,
}

struct Waiter {
    end: u64,
    deadline: Duration,
    then: Then,
}

impl std::fmt::Debug for GroupCommit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupCommit")
            .field("durable", &self.durable)
            .finish_non_exhaustive()
    }
}

impl GroupCommit {
    /// Everything below `durable` is on the device already.
    pub(crate) fn new(
        medium: Arc<dyn Medium>,
        clock: Arc<dyn Clock>,
        durability: Durability,
        durable: u64,
    ) -> Self {
        Self {
            medium,
            clock,
            durability,
            durable: AtomicU64::new(durable),
            visible: AtomicU64::new(durable),
            sync_failed: Mutex::new(false),
            dirty: AtomicBool::new(false),
            state: Mutex::default(),
            wanted: Condvar::new(),
            watched: Condvar::new(),
        }
    }

    /// Everything below is on the device.
    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Something was appended.
    pub(crate) fn appended(&self) {
        if self.durability.is_device() {
            let mut state = self.state.lock();
            let wake = !state.wanted;
            state.wanted = true;
            drop(state);
            if wake {
                self.wanted.notify_one();
            }
        } else if !self.dirty.load(Ordering::Relaxed) && !self.dirty.swap(true, Ordering::AcqRel) {
            self.state.lock().wanted = true;
            self.wanted.notify_one();
        }
    }

    /// Runs `then` when what the store promises holds for `ack`: at once in async mode.
    pub(crate) fn when_durable(&self, ack: Ack, then: Then) {
        let Durability::Device { timeout } = self.durability else {
            return then(Ok(()));
        };
        if ack.end <= self.visible.load(Ordering::Acquire) {
            return then(Ok(()));
        }
        let mut state = self.state.lock();
        // Again under the lock: the committing thread takes waiters out under it, after it moved `visible` on.
        let resolved = if ack.end <= self.visible.load(Ordering::Acquire) {
            Some(Ok(()))
        } else if state.failed {
            Some(Err(FlushError::Failed))
        } else if state.stopped {
            Some(Err(FlushError::Closed))
        } else {
            None
        };
        if let Some(result) = resolved {
            drop(state);
            return then(result);
        }
        let waiter = Waiter {
            end: ack.end,
            deadline: self.clock.monotonic() + timeout,
            then,
        };
        let at = state
            .waiters
            .iter()
            .rposition(|other| other.end <= waiter.end)
            .map_or(0, |before| before + 1);
        state.waiters.insert(at, waiter);
        let wake = !state.wanted;
        state.wanted = true;
        let watch = !state.watching;
        state.watching = true;
        drop(state);
        if wake {
            self.wanted.notify_one();
        }
        if watch {
            self.watched.notify_one();
        }
    }

    /// The committing thread. `synced` runs behind every sync and before its acknowledgements, with the new durable
    /// end. A sync that fails fences the store before anybody is told; and where acknowledgements wait for the device,
    /// none follows whatever fenced it. Returns when stopped or failed.
    pub(crate) fn run(&self, log: &CommitLog, mut synced: impl FnMut(u64), health: &Health) {
        let mut last_sync = self.clock.monotonic();
        loop {
            if !self.wait_for_work(log, last_sync) {
                return;
            }
            // Cleared before the end is looked at: what is appended later sets it again.
            self.dirty.store(false, Ordering::Release);
            match self.sync(log) {
                Ok(durable) => {
                    last_sync = self.clock.monotonic();
                    synced(durable);
                    if self.durability.is_device() && health.is_fenced() {
                        self.fail();
                        return;
                    }
                    self.visible.store(durable, Ordering::Release);
                    self.resolve(durable);
                }
                Err(error) => {
                    health.fence(&error);
                    self.fail();
                    return;
                }
            }
        }
    }

    /// Syncs everything that the log has now. One thread at a time: the kernel tells of a failure once, so whoever comes
    /// behind the one that was told must hear of it here.
    pub(crate) fn sync(&self, log: &CommitLog) -> Result<u64, StoreError> {
        let mut has_failed = self.sync_failed.lock();
        if *has_failed {
            let cause = "an earlier sync failed".to_owned();
            return Err(StoreError::ReadOnly { cause });
        }
        let end = log.end();
        let durable = self.durable();
        if durable >= end {
            return Ok(end);
        }
        for segment in log.segments().all() {
            if segment.limit() > durable && segment.base() < end {
                self.medium.sync_data(segment.file()).map_err(|error| {
                    *has_failed = true;
                    // Also for want of space: what was written may be gone.
                    StoreError::Io {
                        operation: "sync",
                        path: segment.file().path.clone(),
                        source: error,
                    }
                })?;
            }
        }
        self.durable.store(end, Ordering::Release);
        Ok(end)
    }

    /// Sleeps until a sync is due; false when it is time to end.
    fn wait_for_work(&self, log: &CommitLog, last_sync: Duration) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.stopped || state.failed {
                return false;
            }
            if state.wanted {
                state.wanted = false;
                match self.durability {
                    Durability::Device { .. } => return true,
                    Durability::PageCache { .. } => break,
                }
            }
            self.wanted.wait(&mut state);
        }
        let Durability::PageCache {
            interval,
            least_pages,
            thorough_interval,
        } = self.durability
        else {
            return true;
        };
        // The schedule: every `interval` if enough is dirty, else when `thorough_interval` is over.
        let least = u64::from(least_pages) * PAGE_BYTES;
        let mut written_out = self.durable();
        let mut pause = Duration::ZERO;
        loop {
            let step = WRITE_OUT_EVERY.min(interval - pause);
            self.wanted.wait_for(&mut state, step);
            if state.stopped || state.failed {
                return false;
            }
            state.wanted = false;
            pause += step;
            if pause < interval {
                if log.end() >= written_out + WRITE_OUT_BYTES {
                    let write_out = || written_out = log.write_out(written_out);
                    parking_lot::MutexGuard::unlocked(&mut state, write_out);
                }
                continue;
            }
            pause = Duration::ZERO;
            let dirty = log.end() - self.durable();
            let waited = self.clock.monotonic().saturating_sub(last_sync);
            if dirty >= least || waited >= thorough_interval {
                return true;
            }
        }
    }

    fn resolve(&self, durable: u64) {
        let mut state = self.state.lock();
        let covered = state
            .waiters
            .partition_point(|waiter| waiter.end <= durable);
        let done: Vec<_> = state.waiters.drain(..covered).collect();
        drop(state);
        for waiter in done {
            (waiter.then)(Ok(()));
        }
    }

    fn fail(&self) {
        let mut state = self.state.lock();
        state.failed = true;
        let waiters = std::mem::take(&mut state.waiters);
        drop(state);
        for waiter in waiters {
            (waiter.then)(Err(FlushError::Failed));
        }
        self.watched.notify_all();
    }

    /// The thread that tells waiters whose time is over. Sleeps while nobody waits. Returns when stopped or failed.
    pub(crate) fn expire(&self) {
        let mut state = self.state.lock();
        loop {
            if state.stopped || state.failed {
                return;
            }
            let Some(first) = state.waiters.front() else {
                state.watching = false;
                self.watched.wait(&mut state);
                continue;
            };
            let now = self.clock.monotonic();
            if first.deadline > now {
                // Who is resolved meanwhile needs no new deadline: at most one idle wake-up per time-out.
                let left = first.deadline - now;
                self.watched.wait_for(&mut state, left);
                continue;
            }
            let late = state.waiters.pop_front();
            parking_lot::MutexGuard::unlocked(&mut state, || {
                if let Some(waiter) = late {
                    (waiter.then)(Err(FlushError::Timeout));
                }
            });
        }
    }

    /// Ends both threads; who still waits is told that the store closed.
    pub(crate) fn stop(&self) {
        self.state.lock().stopped = true;
        self.wanted.notify_all();
        self.watched.notify_all();
    }

    /// After the threads ended: answers who still waits. `durable` decides.
    pub(crate) fn resolve_all(&self) {
        self.resolve(self.durable());
        let waiters = std::mem::take(&mut self.state.lock().waiters);
        for waiter in waiters {
            (waiter.then)(Err(FlushError::Closed));
        }
    }
}
