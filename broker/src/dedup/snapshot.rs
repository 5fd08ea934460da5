//! When the windows are written to their [`file`], and what of it holds at an open.
//!
//! The file holds the windows with a mark in the log, so that an open need not read the whole log. It is written when the
//! log has grown by `dedupSnapshotBytes` since, and at a stop. It takes its place when the log is on the device as far as
//! it went when the last window was copied, so that no power cut makes it speak of messages that are gone. What it knows
//! from behind its mark is met again by the [`scan`], which changes nothing then.
//!
//! A file of another log, or of a longer one, is not believed: the mark must lie within the log, and the youngest record
//! that the file speaks of must be there. The original does not look at it.

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use agena_protocol::offset::PhysicalOffset;
use agena_protocol::record::RecordView;
use agena_store::Store;
use parking_lot::Mutex;

use super::file::{self, Anchor, Found, WindowsFile};
use super::{Dedup, First, scan};
use crate::config::BrokerConfig;

/// The file, and how far behind the log it is.
#[derive(Debug)]
pub(super) struct Snapshots {
    file: WindowsFile,
    distance: u64,
    log_file_bytes: u64,
    /// Held while a file is written. Never taken under the table's lock.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// That of the file which is in its place; `None` when there is none that holds.
    mark: Option<PhysicalOffset>,
    written: Option<Written>,
    /// An error is reported once.
    is_failing: bool,
}

/// A file that takes its place when the log is on the device up to `end`.
#[derive(Debug, Clone, Copy)]
struct Written {
    mark: PhysicalOffset,
    end: PhysicalOffset,
}

impl Snapshots {
    pub(super) fn new(directory: &Path, config: &BrokerConfig) -> Self {
        Self {
            file: WindowsFile::new(directory),
            distance: config.dedup_snapshot_distance,
            log_file_bytes: config.mapped_file_size_commit_log.max(1),
            state: Mutex::default(),
        }
    }
}

/// Writes the file if the log has grown far enough, or if there is none. May block.
pub(super) fn save_if_far(dedup: &Dedup, store: &Store) {
    let mut state = dedup.snapshots.state.lock();
    if state.written.is_none() {
        let behind = |mark: PhysicalOffset| {
            let grown = store.log_end().number().saturating_sub(mark.number());
            grown >= dedup.snapshots.distance.max(1)
        };
        if !state.mark.is_none_or(behind) {
            return;
        }
        save(dedup, store, &mut state);
    }
    put_in_place(dedup, store, &mut state);
}

/// Writes the file when the log is closed, and all of it on the device.
pub(super) fn save_at_stop(dedup: &Dedup, store: &Store) {
    let mut state = dedup.snapshots.state.lock();
    save(dedup, store, &mut state);
    put_in_place(dedup, store, &mut state);
}

fn save(dedup: &Dedup, store: &Store, state: &mut State) {
    state.written = None;
    match write(dedup, store) {
        Ok(written) => state.written = Some(written),
        Err(fault) => state.report(&fault),
    }
}

fn put_in_place(dedup: &Dedup, store: &Store, state: &mut State) {
    let Some(written) = state.written else {
        return;
    };
    if store.durable_end() < written.end {
        return;
    }
    state.written = None;
    match dedup.snapshots.file.replace(state.mark.is_some()) {
        Ok(()) => {
            state.mark = Some(written.mark);
            state.is_failing = false;
        }
        Err(fault) => {
            state.mark = None;
            state.report(&fault);
        }
    }
}

impl State {
    fn report(&mut self, fault: &io::Error) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::error!(
                %fault,
                "the windows of producers are not saved, which is tried again; the next start reads more of the log"
            );
        }
    }
}

/// Writes the windows to a new file, one by one, so that no message waits for more than one.
fn write(dedup: &Dedup, store: &Store) -> io::Result<Written> {
    // Looked at before the table: what is reserved later is stored behind it.
    let log_end = store.log_end();
    let (mark, producers) = {
        let table = dedup.table.lock();
        // A message that is just being stored may be in the log already and is not in its window yet.
        let flying = table.begun_at();
        let mark = flying.map_or(log_end, |flying| flying.min(log_end));
        let producers: Vec<Box<str>> = table.producers().map(Box::from).collect();
        (mark, producers)
    };
    let mut writer = dedup.snapshots.file.write(mark)?;
    let mut youngest: Option<First> = None;
    for producer in producers {
        let copied = {
            let table = dedup.table.lock();
            let window = table
                .get(&producer)
                .filter(|window| window.is_worth_keeping());
            window.map(|window| {
                let entries: Vec<_> = window.entries().collect();
                (window.floor, window.last_ms, entries)
            })
        };
        let Some((floor, last_ms, entries)) = copied else {
            continue;
        };
        let firsts = entries.iter().map(|(_, first)| *first).chain(youngest);
        youngest = firsts.max_by_key(|first| first.physical);
        writer.window(&producer, floor, last_ms, &entries)?;
    }
    let end = store.log_end();
    writer.finish(youngest.and_then(|first| anchor_at(store, first.physical)))?;
    Ok(Written { mark, end })
}

fn anchor_at(store: &Store, physical: PhysicalOffset) -> Option<Anchor> {
    let bytes = store.record_at(physical)?;
    let record = RecordView::parse(&bytes).ok()?;
    Some(Anchor {
        physical: physical.number(),
        stored_ms: record.store_timestamp(),
        sum: crc32fast::hash(&bytes),
    })
}

/// Fills the windows from the file and from the log behind its mark.
pub(super) fn rebuild(dedup: &Dedup, store: &Store) {
    let file = &dedup.snapshots.file;
    let held = match held_in(dedup, store, file.path()) {
        Held::Yes(found) => {
            dedup.snapshots.state.lock().mark = Some(found.mark);
            Held::Yes(found)
        }
        // What lies in front of it is good still, and older.
        Held::No => match held_in(dedup, store, &file.backup()) {
            Held::None => Held::No,
            other => other,
        },
        Held::None => held_in(dedup, store, &file.backup()),
    };
    let from = match held {
        Held::Yes(found) => {
            *dedup.table.lock() = found.table;
            found.mark
        }
        Held::No => {
            tracing::warn!(
                file = %file.path().display(),
                "the windows of producers do not hold and are rebuilt from the whole log"
            );
            PhysicalOffset::new(0)
        }
        Held::None => near_end(dedup, store),
    };
    scan::scan(dedup, store, from);
    dedup.table.lock().trim();
    save_if_far(dedup, store);
}

/// Whether there is a file that holds.
enum Held {
    Yes(Found),
    No,
    None,
}

fn held_in(dedup: &Dedup, store: &Store, path: &Path) -> Held {
    let limits = dedup.table.lock().limits();
    let fault = match file::read(path, limits) {
        Ok(None) => return Held::None,
        Ok(Some(found)) if found.mark > store.log_end() => "it is of a longer log".to_owned(),
        Ok(Some(found)) if !is_of(store, found.anchor) => "it is of another log".to_owned(),
        Ok(Some(found)) => return Held::Yes(found),
        Err(fault) => fault.to_string(),
    };
    tracing::warn!(file = %path.display(), fault, "a file of the windows of producers does not hold");
    Held::No
}

/// Whether the log has the youngest record of a file, unless retention took it.
fn is_of(store: &Store, anchor: Option<Anchor>) -> bool {
    let Some(anchor) = anchor else {
        return true;
    };
    let is_gone = || {
        // Of a log that still has its first file nothing is gone.
        let first = store.record_at(PhysicalOffset::new(0));
        let earliest = store.earliest_log_time();
        first.is_none() && earliest.is_some_and(|earliest| earliest > anchor.stored_ms)
    };
    anchor_at(store, PhysicalOffset::new(anchor.physical)) == Some(anchor) || is_gone()
}

/// Where a scan begins without a file: one was never there, or it could not be written when the broker was first started
/// with this. So much of the log as an open reads otherwise, from the start of a log file on, where a record begins.
fn near_end(dedup: &Dedup, store: &Store) -> PhysicalOffset {
    let near = store
        .log_end()
        .number()
        .saturating_sub(dedup.snapshots.distance);
    PhysicalOffset::new(near - near % dedup.snapshots.log_file_bytes)
}
