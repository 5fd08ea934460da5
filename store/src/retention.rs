//! Which log files go, and when: by age, hour, disk ratio and bytes; whole files, oldest first, never the last. Queue heads
//! and index files follow; slices that readers hold stay valid. Apache: `CleanCommitLogService`; spec/store.md §7.7.

use std::sync::Arc;

use chrono::{DateTime, Local, Timelike};

use crate::error::StoreError;
use crate::segment::Segment;
use crate::store::Shared;

/// Why a file goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// It is older than `fileReservedTime`, and it is the hour, or the disk is filling up.
    Age,
    /// The disk is fuller than `diskSpaceCleanForciblyRatio`.
    DiskRatio,
    /// The log has more bytes than it may.
    Bytes,
}

/// What retention removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Log files, by the offset they began at, and why they went.
    pub segments: Vec<(u64, Expiry)>,
    /// Queue files.
    pub queue_files: usize,
    /// Index files.
    pub index_files: usize,
}

/// One look at everything. `manual` is an operator's order: expired files go whatever the hour.
pub(crate) fn run(shared: &Shared, manual: bool) -> Result<Removed, StoreError> {
    let mut removed = Removed::default();
    let retention = &shared.config.retention;
    let used = used_percent(shared)?;
    shared.health.set_over_ratio(used > retention.refuse_ratio);
    let by_age = manual || is_delete_hour(shared) || used > retention.expire_ratio;
    let forced = retention.force && used > retention.force_ratio;
    let segments = shared.log.segments();
    while removed.segments.len() < retention.files_per_run {
        let all = segments.all();
        let [first, _, ..] = &all[..] else { break };
        let log_bytes: u64 = all.iter().map(|segment| segment.len()).sum();
        let why = if forced {
            Expiry::DiskRatio
        } else if retention.log_bytes_max.is_some_and(|max| log_bytes > max) {
            Expiry::Bytes
        } else if by_age && is_expired(shared, first)? {
            Expiry::Age
        } else {
            break;
        };
        tracing::info!(file = %first.file().path.display(), ?why, "a log file goes");
        segments.drop_first()?;
        removed.segments.push((first.base(), why));
    }
    if !removed.segments.is_empty() {
        follow(shared, &mut removed)?;
    }
    Ok(removed)
}

/// Heads of queues and index files whose records are gone.
pub(crate) fn follow(shared: &Shared, removed: &mut Removed) -> Result<(), StoreError> {
    let start = shared.log.start();
    for queue in shared.queues.all() {
        // What was never opened since the start has its head corrected when it is.
        if queue.is_loaded() {
            removed.queue_files += shared.trim_queue(&queue, start)?;
        }
    }
    if let Some(index) = &shared.index {
        removed.index_files += index.drop_below(start)?;
    }
    Ok(())
}

fn used_percent(shared: &Shared) -> Result<u8, StoreError> {
    let dir = shared.config.log_dir();
    shared
        .config
        .medium
        .space(&dir)
        .map(|space| space.used_percent())
        .map_err(|error| StoreError::io("look at the space of", &dir, error))
}

fn is_delete_hour(shared: &Shared) -> bool {
    let hour = DateTime::from_timestamp_millis(shared.clock.now_ms())
        .unwrap_or_default()
        .with_timezone(&Local)
        .hour();
    shared.config.retention.delete_hours.contains(&hour)
}

fn is_expired(shared: &Shared, segment: &Arc<Segment>) -> Result<bool, StoreError> {
    let path = &segment.file().path;
    let meta = shared
        .config
        .medium
        .meta(path)
        .map_err(|error| StoreError::io("stat", path, error))?;
    let age_ms = shared.clock.now_ms().saturating_sub(meta.modified_ms);
    let reserved_ms = shared.config.retention.reserved.as_millis();
    Ok(u128::try_from(age_ms).is_ok_and(|age| age > reserved_ms))
}
