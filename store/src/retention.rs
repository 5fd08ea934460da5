//! Which log files go, and when: by age, hour, disk ratio and bytes; whole files, oldest first, never the last. Queue heads
//! and index files follow; slices that readers hold stay valid. Apache: `CleanCommitLogService`; spec/store.md §7.7.
//!
//! A file goes only when all that was derived from it is on the device: were the queue entries of its last messages still in
//! memory, a crash would let a queue without later messages begin its numbers anew. Space that readers still hold of files
//! removed before counts as free already, and the disk is looked at again after each file: no more goes than must.

use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Local, Timelike};

use crate::config::Retention;
use crate::error::StoreError;
use crate::keeper;
use crate::medium::Space;
use crate::segment::Segment;
use crate::store::Shared;

const HOUR_MS: i64 = 3_600_000;

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

/// A log file that is about to go, as an [`Observer`](crate::Observer) is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Going {
    /// The file.
    pub file: PathBuf,
    /// Offset of its first byte.
    pub from: u64,
    /// Offset behind its last byte: messages whose records lie below go.
    pub to: u64,
    /// Why.
    pub why: Expiry,
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

/// What retention would do: the state that its rules are applied to.
#[derive(Debug, Clone)]
pub struct Outlook {
    /// The rules in force.
    pub retention: Retention,
    /// The file system of the log.
    pub space: Space,
    /// Bytes of all log files, the one that is written to included.
    pub log_bytes: u64,
    /// How many log files there are.
    pub files: usize,
    /// The oldest files, in the order in which they go. The last file of the log is never among them.
    pub next: Vec<NextFile>,
}

/// A log file that goes some day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextFile {
    /// The file.
    pub file: PathBuf,
    /// Offset of its first byte.
    pub from: u64,
    /// Offset behind its last byte.
    pub to: u64,
    /// When it was last written to, ms.
    pub written_ms: i64,
    /// When it is `fileReservedTime` old, ms.
    pub expires_ms: i64,
    /// When it goes at the latest, ms: the first hour of `deleteWhen` behind its expiry, or now. `None` without such an
    /// hour.
    pub due_ms: Option<i64>,
    /// By how many bytes the log may still grow before it goes for its size; 0 when it goes at the next look. `None`
    /// without a limit.
    pub bytes_left: Option<u64>,
}

/// One look at everything. `manual` is an operator's order: expired files go whatever the hour.
pub(crate) fn run(shared: &Shared, manual: bool) -> Result<Removed, StoreError> {
    // Two at once would remove a file that neither has judged.
    let _alone = shared.cleaning.lock();
    let retention = shared.retention.read().clone();
    let mut removed = Removed::default();
    let mut result = Ok(());
    while removed.segments.len() < retention.files_per_run {
        match remove_next(shared, &retention, manual) {
            Ok(Some(going)) => removed.segments.push((going.from, going.why)),
            Ok(None) => break,
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    if !removed.segments.is_empty() {
        follow_alone(shared, &mut removed)?;
    }
    result.map(|()| removed)
}

/// Removes the first file if a rule says so.
fn remove_next(
    shared: &Shared,
    retention: &Retention,
    manual: bool,
) -> Result<Option<Going>, StoreError> {
    let log = shared.log.segments();
    let space = space(shared)?;
    shared
        .health
        .set_over_ratio(space.used_percent() > retention.refuse_ratio);
    // Readers let go of the files they hold within moments; that space must not cost another file.
    let held = log.held_bytes();
    let used = Space {
        available: space.available.saturating_add(held).min(space.total),
        ..space
    }
    .used_percent();
    let all = log.all();
    let [first, _, ..] = &all[..] else {
        return Ok(None);
    };
    let log_bytes: u64 = all.iter().map(|segment| segment.len()).sum();
    let why = if retention.force && used > retention.force_ratio {
        Expiry::DiskRatio
    } else if retention.log_bytes_max.is_some_and(|max| log_bytes > max) {
        Expiry::Bytes
    } else if (manual || is_delete_hour(shared, retention) || used > retention.expire_ratio)
        && is_expired(shared, retention, first)?
    {
        Expiry::Age
    } else {
        return Ok(None);
    };
    if !settle(shared, first.limit(), why)? {
        return Ok(None);
    }
    let going = Going {
        file: first.file().path.clone(),
        from: first.base(),
        to: first.limit(),
        why,
    };
    shared.dispatcher.observer().going(&going);
    tracing::info!(file = %going.file.display(), ?why, "a log file goes");
    let is_gone = log.drop_first(first)?;
    Ok(is_gone.then_some(going))
}

/// Makes sure that all that is derived from records below `limit` is on the device; false when it cannot be yet.
fn settle(shared: &Shared, limit: u64, why: Expiry) -> Result<bool, StoreError> {
    let is_settled = || {
        let checkpoint = shared.checkpoint.lock();
        checkpoint.mark.is_some_and(|mark| mark.offset >= limit)
    };
    if is_settled() {
        return Ok(true);
    }
    if shared.dispatcher.position().min(shared.commit.durable()) < limit {
        return Ok(false);
    }
    let mut marked = keeper::mark(shared);
    if let Err(StoreError::DiskFull { .. }) = marked {
        // The file made ahead of the log has space that nobody uses yet.
        shared.log.segments().discard_ahead()?;
        marked = keeper::mark(shared);
    }
    match marked {
        Ok(()) => Ok(is_settled()),
        // Where not even a few entries fit, a file must go first; the keeper marks again as soon as it did.
        Err(StoreError::DiskFull { .. }) if why == Expiry::DiskRatio => Ok(true),
        Err(error) => {
            shared.note_failure(&error);
            Err(error)
        }
    }
}

/// Makes up for a file that had to go in front of the mark.
fn mark_above(shared: &Shared, start: u64) -> Result<(), StoreError> {
    let offset = shared.checkpoint.lock().mark.map(|mark| mark.offset);
    if offset.is_some_and(|offset| offset >= start) {
        return Ok(());
    }
    match keeper::mark(shared) {
        // The space comes back when the last reader of the file is through; the keeper tries again.
        Ok(()) | Err(StoreError::DiskFull { .. }) => Ok(()),
        Err(error) => {
            shared.note_failure(&error);
            Err(error)
        }
    }
}

/// Heads of queues and index files whose records are gone.
pub(crate) fn follow(shared: &Shared) -> Result<Removed, StoreError> {
    let _alone = shared.cleaning.lock();
    let mut removed = Removed::default();
    follow_alone(shared, &mut removed)?;
    Ok(removed)
}

fn follow_alone(shared: &Shared, removed: &mut Removed) -> Result<(), StoreError> {
    let start = shared.log.start();
    shared.log.segments().sync_names()?;
    mark_above(shared, start)?;
    // A queue of one file keeps it; of 160,000 queues few have more, and only those are looked at.
    let mut result = Ok(());
    let mut long = shared.queues.take_long();
    for queue in &long {
        match shared.trim_queue(queue, start) {
            Ok(files) => removed.queue_files += files,
            Err(error) => result = Err(error),
        }
    }
    long.retain(|queue| queue.is_long());
    shared.queues.put_long(&long);
    result?;
    if let Some(index) = &shared.index {
        let files = index.drop_below(start)?;
        if files > 0 {
            removed.index_files += files;
            // A mark that counts files which are gone would make the next recovery build the whole index anew.
            let mut checkpoint = shared.checkpoint.lock();
            if let Some(mark) = &mut checkpoint.mark {
                mark.index_files = mark.index_files.saturating_sub(files as u64);
                checkpoint.write(&shared.config.medium, &shared.config.root)?;
            }
        }
    }
    Ok(())
}

/// What would go next, at most `max` files.
pub(crate) fn outlook(shared: &Shared, max: usize) -> Result<Outlook, StoreError> {
    let retention = shared.retention.read().clone();
    let all = shared.log.segments().all();
    let log_bytes: u64 = all.iter().map(|segment| segment.len()).sum();
    let now_ms = shared.clock.now_ms();
    let mut next = Vec::new();
    let mut gone_bytes = 0;
    let mut due_before = now_ms;
    let candidates = all.len().saturating_sub(1).min(max);
    for segment in &all[..candidates] {
        let Some(written_ms) = written_ms(shared, segment)? else {
            continue;
        };
        let expires_ms = written_ms.saturating_add(reserved_ms(&retention));
        // Oldest first: no file goes by age before the one in front of it.
        let due_ms = next_delete_time(expires_ms.max(due_before), &retention.delete_hours);
        due_before = due_ms.unwrap_or(due_before);
        next.push(NextFile {
            file: segment.file().path.clone(),
            from: segment.base(),
            to: segment.limit(),
            written_ms,
            expires_ms,
            due_ms,
            bytes_left: retention
                .log_bytes_max
                .map(|max| max.saturating_sub(log_bytes - gone_bytes)),
        });
        gone_bytes += segment.len();
    }
    Ok(Outlook {
        space: space(shared)?,
        log_bytes,
        files: all.len(),
        next,
        retention,
    })
}

fn space(shared: &Shared) -> Result<Space, StoreError> {
    let dir = shared.config.log_dir();
    shared
        .config
        .medium
        .space(&dir)
        .map_err(|error| StoreError::io("look at the space of", &dir, error))
}

fn is_delete_hour(shared: &Shared, retention: &Retention) -> bool {
    let now_ms = shared.clock.now_ms();
    next_delete_time(now_ms, &retention.delete_hours) == Some(now_ms)
}

/// `from_ms`, if it lies in one of the hours of the local day, else the start of the next such hour.
fn next_delete_time(from_ms: i64, hours: &[u32]) -> Option<i64> {
    let is_right = |ms: i64| {
        let utc = DateTime::from_timestamp_millis(ms).unwrap_or_default();
        hours.contains(&utc.with_timezone(&Local).hour())
    };
    if is_right(from_ms) {
        return Some(from_ms);
    }
    // Quarters, because not every zone is whole hours from UTC; two days, because clocks are set twice a year.
    let quarter = HOUR_MS / 4;
    let first = from_ms - from_ms.rem_euclid(quarter) + quarter;
    (0..2 * 24 * 4)
        .map(|quarters| first.saturating_add(quarters * quarter))
        .find(|ms| is_right(*ms))
}

fn reserved_ms(retention: &Retention) -> i64 {
    i64::try_from(retention.reserved.as_millis()).unwrap_or(i64::MAX)
}

/// When the file was last written to; `None` when somebody removed it.
fn written_ms(shared: &Shared, segment: &Arc<Segment>) -> Result<Option<i64>, StoreError> {
    let path = &segment.file().path;
    match shared.config.medium.meta(path) {
        Ok(meta) => Ok(Some(meta.modified_ms)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("stat", path, error)),
    }
}

/// A file that somebody removed by hand counts as expired: its mapping alone keeps its space.
fn is_expired(
    shared: &Shared,
    retention: &Retention,
    segment: &Arc<Segment>,
) -> Result<bool, StoreError> {
    let written_ms = written_ms(shared, segment)?;
    let age_ms = written_ms.map(|written| shared.clock.now_ms().saturating_sub(written));
    Ok(age_ms.is_none_or(|age| age > reserved_ms(retention)))
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    fn local(day: u32, hour: u32, minute: u32) -> i64 {
        let time = Local.with_ymd_and_hms(2026, 6, day, hour, minute, 0);
        time.single().unwrap().timestamp_millis()
    }

    #[test]
    fn the_next_hour_of_deletion_is_now_later_today_or_tomorrow() {
        let hours = [4, 16];
        let next = |day, hour, minute| next_delete_time(local(day, hour, minute), &hours);
        assert_eq!(next(3, 4, 30), Some(local(3, 4, 30)));
        assert_eq!(next(3, 5, 0), Some(local(3, 16, 0)));
        assert_eq!(next(3, 3, 59), Some(local(3, 4, 0)));
        assert_eq!(next(3, 17, 1), Some(local(4, 4, 0)));
        assert_eq!(next_delete_time(local(3, 5, 0), &[]), None);
    }
}
