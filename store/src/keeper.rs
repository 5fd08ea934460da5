//! The thread behind the scenes: writes queue entries, syncs what is derived, moves the checkpoint's mark on, runs
//! retention, and looks for space while there is none. Sleeps until the next of these is due; with nothing appended, that is
//! retention alone. Apache: `FlushConsumeQueueService`, `StoreCheckpoint`, `CleanCommitLogService`.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::checkpoint::Mark;
use crate::error::StoreError;
use crate::retention;
use crate::store::Shared;
use crate::unsynced::Unsynced;

/// Queues that have gathered a page are written so often (`flushIntervalConsumeQueue`).
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// Everything is written, synced and marked so often.
const MARK_INTERVAL: Duration = Duration::from_secs(5);
/// The same, where there are so many queues that each costs a file (`flushConsumeQueueThoroughInterval`).
const MARK_INTERVAL_MANY: Duration = Duration::from_secs(60);
const MANY_QUEUES: usize = 1000;
/// While there is no space.
const SPACE_INTERVAL: Duration = Duration::from_millis(500);

/// Wakes the keeper.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    /// Something was dispatched since the keeper last looked.
    rung: AtomicBool,
    state: Mutex<AlarmState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct AlarmState {
    stopped: bool,
    /// Do not wait for the next interval.
    at_once: bool,
}

/// What the keeper remembers between rounds.
pub(crate) struct Keeper {
    last_write: Duration,
    /// `None`: the next round makes one.
    last_mark: Option<Duration>,
    last_retention: Duration,
}

impl Alarm {
    /// Something was dispatched.
    pub(crate) fn ring(&self) {
        if !self.rung.load(Ordering::Relaxed) && !self.rung.swap(true, Ordering::AcqRel) {
            // The lock orders this behind the keeper's decision to sleep.
            drop(self.state.lock());
            self.changed.notify_one();
        }
    }

    /// Something should be looked at now.
    pub(crate) fn ring_at_once(&self) {
        self.state.lock().at_once = true;
        self.changed.notify_one();
    }

    /// Ends the keeper.
    pub(crate) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Sleeps for `time`, or less when rung; `wake_on_ring` says whether appends end the sleep. False when stopped.
    fn sleep(&self, time: Duration, wake_on_ring: bool) -> bool {
        let mut state = self.state.lock();
        let is_awake = |state: &AlarmState| {
            state.stopped || state.at_once || (wake_on_ring && self.rung.load(Ordering::Acquire))
        };
        if !is_awake(&state) {
            self.changed.wait_for(&mut state, time);
        }
        state.at_once = false;
        !state.stopped
    }
}

impl Keeper {
    pub(crate) fn new(shared: &Shared) -> Self {
        let now = shared.clock.monotonic();
        // What recovery wrote: the sooner it is marked, the less there is to go over again after another crash.
        let is_marked = shared.unsynced.lock().is_empty();
        Self {
            last_write: now,
            last_mark: is_marked.then_some(now),
            last_retention: now,
        }
    }

    /// The thread. Returns when the alarm is stopped or the store is fenced.
    pub(crate) fn run(&mut self, shared: &Shared) {
        loop {
            let now = shared.clock.monotonic();
            let waiting = shared.alarm.rung.load(Ordering::Acquire)
                || shared.queues.unwritten_queues() > 0
                || !shared.unsynced.lock().is_empty();
            let interval = shared.retention.read().interval;
            let retention_in = (self.last_retention + interval).saturating_sub(now);
            let sleep = if shared.health.wants_space() {
                SPACE_INTERVAL
            } else if waiting {
                (self.last_write + WRITE_INTERVAL)
                    .saturating_sub(now)
                    .min(retention_in)
            } else {
                retention_in
            };
            if !shared
                .alarm
                .sleep(sleep.max(Duration::from_millis(1)), !waiting)
            {
                return;
            }
            match self.round(shared) {
                Ok(()) => {}
                Err(StoreError::DiskFull { .. }) => {
                    shared.health.disk_full(shared.clock.monotonic());
                }
                Err(error) if error.is_out_of_files() => {
                    tracing::warn!(%error, "what is derived from the log is not written; trying again");
                }
                Err(error) => {
                    shared.health.fence(&error);
                    return;
                }
            }
        }
    }

    fn round(&mut self, shared: &Shared) -> Result<(), StoreError> {
        let now = shared.clock.monotonic();
        if shared.health.is_disk_full() && shared.log.has_space() {
            shared.health.has_space();
        }
        if shared.health.wants_space()
            || now.saturating_sub(self.last_retention) >= shared.retention.read().interval
        {
            self.last_retention = now;
            if let Err(error) = retention::run(shared, false) {
                if shared.health.is_fenced() {
                    return Err(error);
                }
                // A file that cannot be removed is no reason to take no more messages.
                tracing::warn!(%error, "old log files are still there; trying again");
            }
        }
        let too_much = shared.queues.unwritten_bytes() > shared.config.buffered_entries_bytes_max;
        if too_much || now.saturating_sub(self.last_write) >= WRITE_INTERVAL {
            self.last_write = now;
            shared.alarm.rung.store(false, Ordering::Release);
            let mark_interval = if shared.queues.unwritten_queues() > MANY_QUEUES {
                MARK_INTERVAL_MANY
            } else {
                MARK_INTERVAL
            };
            let is_due = self
                .last_mark
                .is_none_or(|last| now.saturating_sub(last) >= mark_interval);
            if too_much || is_due {
                self.last_mark = Some(now);
                mark(shared)?;
            } else {
                write(shared, &mut shared.unsynced.lock(), false)?;
            }
        }
        Ok(())
    }
}

/// Writes queue entries, of records that are on the device.
fn write(shared: &Shared, unsynced: &mut Unsynced, all: bool) -> Result<(), StoreError> {
    let durable = shared.commit.durable();
    shared.queues.write(durable, all, unsynced)
}

/// Writes everything, syncs it, and writes the checkpoint.
pub(crate) fn mark(shared: &Shared) -> Result<(), StoreError> {
    // One at a time: a mark counts on the syncs of those before it.
    let mut unsynced = shared.unsynced.lock();
    // All that is derived from records below this is in the queues' memory or on disk already.
    let offset = shared.dispatcher.position().min(shared.commit.durable());
    write(shared, &mut unsynced, true)?;
    if let Some(index) = &shared.index {
        index.sync()?;
    }
    sync_queues(shared, &mut unsynced)?;
    let mut checkpoint = shared.checkpoint.lock();
    let mark = Mark {
        offset,
        queues: shared.queues.count_on_disk(),
        index_files: shared
            .index
            .as_ref()
            .map_or(0, |index| index.file_count() as u64),
    };
    if checkpoint.mark == Some(mark) {
        return Ok(());
    }
    let time = shared.last_time_below(offset);
    checkpoint.physic_ms = checkpoint.physic_ms.max(time);
    checkpoint.logics_ms = checkpoint.logics_ms.max(time);
    checkpoint.index_ms = checkpoint.index_ms.max(time);
    checkpoint.confirmed = i64::try_from(shared.log.last_record().unwrap_or(0)).unwrap_or(0);
    checkpoint.mark = Some(mark);
    checkpoint.write(&shared.config.medium, &shared.config.root)
}

fn sync_queues(shared: &Shared, unsynced: &mut Unsynced) -> Result<(), StoreError> {
    let medium = &shared.config.medium;
    let Some(files) = unsynced.files() else {
        medium
            .sync_all(&shared.config.root)
            .map_err(|error| StoreError::io("sync", &shared.config.root, error))?;
        *unsynced = Unsynced::new(false);
        return Ok(());
    };
    let mut dirs = Vec::new();
    for touched in files {
        medium
            .sync_data(&touched.file)
            .map_err(|error| StoreError::io("sync", &touched.file.path, error))?;
        if touched.is_new {
            // The queue's directory, the topic's, and the one of all queues.
            dirs.extend(touched.file.path.ancestors().skip(1).take(4));
        }
    }
    dirs.sort_unstable();
    dirs.dedup();
    for dir in dirs {
        match medium.sync_dir(dir) {
            Ok(()) => {}
            // Its topic was deleted meanwhile, or retention took its last file. Nothing in it is to last.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("sync", dir, error)),
        }
    }
    *unsynced = Unsynced::new(false);
    Ok(())
}
