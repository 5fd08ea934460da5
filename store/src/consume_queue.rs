//! A queue: which records of the log its messages are, by number.
//!
//! ```text
//! 0 physical offset i64 | 8 size i32 | 12 tags code i64           entry i lies at byte 20 i
//! filler: 0 | 7F FF FF FF | 0      in front of a queue that begins within a file, and where an entry is lost
//! ```
//! Derived from the log and rebuilt from it. Numbers are given under the log's append lock ([`Queue::assign`]); entries
//! follow from dispatch, in the same order. Apache: `ConsumeQueue`; topics of `queue.type=BatchCQ` have entries of their
//! own ([`crate::batch_queue`]).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use agena_protocol::offset::QueueOffset;
use agena_protocol::sys_flag::TransactionState;
use parking_lot::{Mutex, MutexGuard};

use crate::batch_queue::{self, BatchEntry};
use crate::entry_log::{EntryFiles, EntryLog, QueueName};
use crate::error::StoreError;
use crate::read::Residency;
use crate::unsynced::Unsynced;

/// Bytes of an entry.
pub(crate) const ENTRY_BYTES: usize = 8 + 4 + 8;

/// The size that marks a filler.
const FILLER_SIZE: u32 = 0x7FFF_FFFF;

/// One entry: where a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) physical_offset: u64,
    pub(crate) size: u32,
    pub(crate) tags_code: i64,
}

impl Entry {
    /// Stands where there is no message.
    pub(crate) const FILLER: Self = Self {
        physical_offset: 0,
        size: FILLER_SIZE,
        tags_code: 0,
    };

    pub(crate) fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.physical_offset.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.size.to_be_bytes());
        bytes[12..].copy_from_slice(&self.tags_code.to_be_bytes());
        bytes
    }

    /// Reads an entry; `None` for what is none: zeros, or numbers that no entry has.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let physical_offset = i64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
        let size = i32::from_be_bytes(bytes.get(8..12)?.try_into().ok()?);
        let tags_code = i64::from_be_bytes(bytes.get(12..20)?.try_into().ok()?);
        Some(Self {
            physical_offset: u64::try_from(physical_offset).ok()?,
            size: u32::try_from(size).ok().filter(|size| *size > 0)?,
            tags_code,
        })
    }

    pub(crate) fn is_filler(&self) -> bool {
        self.size == FILLER_SIZE
    }

    /// Offset behind the record; a filler ends nowhere.
    pub(crate) fn physical_end(&self) -> u64 {
        if self.is_filler() {
            0
        } else {
            self.physical_offset + u64::from(self.size)
        }
    }
}

/// Which entries a queue has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 20 bytes, one for each message.
    Simple,
    /// 46 bytes, one for each batch.
    Batch,
}

/// What dispatch puts into a queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewEntry {
    pub(crate) queue_offset: u64,
    pub(crate) entry: Entry,
    pub(crate) store_timestamp: i64,
    /// Messages in the record: more than one in an inner batch.
    pub(crate) messages: u16,
}

/// What came of putting an entry during recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// It is the queue's new end.
    Added,
    /// It was there.
    Known,
    /// Another one, or none, stood in its place.
    Mended,
    /// Entries in front of it are missing.
    Hole,
}

/// A queue, as the table hands it out.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) name: QueueName,
    pub(crate) kind: Kind,
    /// The number of the next message. Changed under the log's append lock only; ahead of the entries by what is not
    /// dispatched yet.
    next: AtomicU64,
    /// Whether `state` and `next` tell what is on disk.
    loaded: AtomicBool,
    /// Whether the table's list of queues to write has it; set by whoever puts it there.
    pub(crate) listed: AtomicBool,
    /// Its topic was deleted; nothing is written any more. Changed and read by whoever holds the table's `file_changes`.
    pub(crate) is_removed: AtomicBool,
    state: Mutex<QueueState>,
}

/// What a queue's lock guards.
#[derive(Debug)]
pub(crate) struct QueueState {
    pub(crate) log: EntryLog,
    /// First message whose record there is, as of `min_for`.
    min: u64,
    /// Start of the log for which `min` was found.
    min_for: u64,
    /// Number behind the last message.
    pub(crate) max: u64,
    /// Offset behind the last record of the queue.
    pub(crate) physical_end: u64,
}

impl Queue {
    /// A queue without entries.
    pub(crate) fn new(name: QueueName, kind: Kind, files: &EntryFiles) -> Self {
        Self {
            name,
            kind,
            next: AtomicU64::new(0),
            loaded: AtomicBool::new(true),
            listed: AtomicBool::new(false),
            is_removed: AtomicBool::new(false),
            state: Mutex::new(QueueState {
                log: EntryLog::empty(files),
                min: 0,
                min_for: 0,
                max: 0,
                physical_end: 0,
            }),
        }
    }

    /// A queue with files of which nothing is known yet but their numbers.
    pub(crate) fn on_disk(
        name: QueueName,
        kind: Kind,
        files: &EntryFiles,
        found: (u64, u64),
    ) -> Self {
        let queue = Self::new(name, kind, files);
        queue.loaded.store(false, Ordering::Relaxed);
        queue.state.lock().log = EntryLog::of_files(files, found, found.0 * files.file_entries());
        queue
    }

    /// Restores what a clean stop wrote down.
    pub(crate) fn restore(&self, files: &EntryFiles, found: (u64, u64), summary: Summary) {
        let mut state = self.state.lock();
        state.log = EntryLog::of_files(files, found, summary.entries_end);
        if found.0 == found.1 {
            state.log.begin_at(summary.entries_end);
        }
        state.min = summary.min;
        state.min_for = 0;
        state.max = summary.max;
        state.physical_end = summary.physical_end;
        self.next.store(summary.max, Ordering::Relaxed);
        self.loaded.store(true, Ordering::Release);
    }

    /// Whether what is on disk is known.
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// Whether there are files that may go before the queue does.
    pub(crate) fn is_long(&self) -> bool {
        self.state.lock().log.is_long()
    }

    /// The queue's lock.
    pub(crate) fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock()
    }

    /// Finds out what is on disk. `belongs` tells whether an entry names a record of this queue with this number; entries
    /// at the end that do not are dropped.
    pub(crate) fn load(
        &self,
        files: &EntryFiles,
        belongs: &dyn Fn(&QueueName, u64, &Entry) -> bool,
    ) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        if self.is_loaded() {
            return Ok(());
        }
        let found = state.log.files();
        let mut end = EntryLog::find_end(files, &self.name, found, |entry| self.is_entry(entry))?;
        state.log = EntryLog::of_files(files, found, end);
        let read_end = end;
        let mut last = None;
        while end > state.log.start() {
            let (entry, queue_offset, _) = state.entry(files, &self.name, self.kind, end - 1)?;
            if let Some(entry) = entry
                && (entry.is_filler() || belongs(&self.name, queue_offset, &entry))
            {
                last = Some((entry, queue_offset));
                break;
            }
            end -= 1;
        }
        if end < read_end {
            tracing::warn!(
                topic = &*self.name.topic,
                queue = self.name.id.number(),
                dropped = read_end - end,
                "entries at the end of a queue name no record of it"
            );
            state.log.truncate(files, &self.name, end)?;
        }
        state.max = match (self.kind, last) {
            (Kind::Simple, _) => end,
            (Kind::Batch, None) => 0,
            (Kind::Batch, Some(_)) => {
                let (_, base, messages) = state.entry(files, &self.name, self.kind, end - 1)?;
                base + u64::from(messages)
            }
        };
        state.physical_end = last.map_or(0, |(entry, _)| entry.physical_end());
        self.next.store(state.max, Ordering::Relaxed);
        self.loaded.store(true, Ordering::Release);
        Ok(())
    }

    fn is_entry(&self, bytes: &[u8]) -> bool {
        match self.kind {
            Kind::Simple => Entry::decode(bytes).is_some(),
            Kind::Batch => BatchEntry::decode(bytes).is_some(),
        }
    }

    /// The number of the next message, which thereby is given away. Only under the log's append lock.
    pub(crate) fn assign(&self, sys_flag: i32) -> QueueOffset {
        if !TransactionState::of(sys_flag).is_queued() {
            return crate::commit_log::UNQUEUED;
        }
        let number = self.next.load(Ordering::Relaxed);
        self.next.store(number + 1, Ordering::Relaxed);
        QueueOffset::new(number)
    }

    /// The number of the next message; ahead of the entries by what is not dispatched yet.
    pub(crate) fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// The number that an entry would have that leaves no gap; any, when there are none yet.
    pub(crate) fn next_entry(&self) -> u64 {
        let state = self.state.lock();
        if state.log.is_virgin() {
            u64::MAX
        } else {
            state.max
        }
    }

    /// Numbers go on behind the entries. In recovery only.
    pub(crate) fn reset_next(&self) {
        let max = self.state.lock().max;
        self.next.store(max, Ordering::Relaxed);
    }

    /// Adds the entry of a message that was just appended. Dispatch runs in log order, so it is the next.
    pub(crate) fn put(&self, new: &NewEntry) {
        let mut state = self.state.lock();
        if new.queue_offset != state.max && state.log.is_virgin() {
            state.begin_at(self.kind, new.queue_offset);
        }
        state.push(self.kind, new);
    }

    /// Adds the entry of a record that recovery found, unless it is there; `fill` puts fillers where entries are missing.
    pub(crate) fn put_again(
        &self,
        files: &EntryFiles,
        new: &NewEntry,
        fill: bool,
    ) -> Result<Put, StoreError> {
        let mut state = self.state.lock();
        let is_headless = self.kind == Kind::Simple
            && !state.log.is_virgin()
            && new.queue_offset < state.log.start();
        if is_headless {
            // The record is there, so retention did not take the entry: files in front of the others are lost. All of
            // the queue is built anew.
            state.log.remove_all(files, &self.name)?;
            state.begin_at(self.kind, 0);
            state.physical_end = 0;
            if !fill {
                return Ok(Put::Hole);
            }
        }
        if new.queue_offset > state.max {
            if state.log.is_virgin() {
                state.begin_at(self.kind, new.queue_offset);
            } else if self.kind == Kind::Batch {
                // Numbers stand in the entries: a hole needs nothing in its place.
            } else if fill {
                while state.max < new.queue_offset {
                    state.log.push(&Entry::FILLER.encode());
                    state.max += 1;
                }
            } else {
                return Ok(Put::Hole);
            }
        } else if new.queue_offset < state.max {
            return state.mend(files, &self.name, self.kind, new);
        }
        state.push(self.kind, new);
        Ok(Put::Added)
    }

    /// First message whose record there is, when the log begins at `log_start`.
    pub(crate) fn min(&self, files: &EntryFiles, log_start: u64) -> Result<u64, StoreError> {
        let (min, range) = {
            let mut state = self.state.lock();
            if state.min_for == log_start && state.min >= state.log.start() {
                return Ok(state.min.min(state.max));
            }
            if state.physical_end <= log_start && state.max > 0 {
                state.min = state.max;
                state.min_for = log_start;
                return Ok(state.max);
            }
            (state.min, (state.log.start(), state.log.end()))
        };
        let found = self.find_min(files, log_start, min, range)?;
        let mut state = self.state.lock();
        // Retention may have gone on meanwhile, and somebody may have found out where to.
        if state.min_for <= log_start {
            state.min = found.max(state.min);
            state.min_for = log_start;
        }
        Ok(state.min)
    }

    fn find_min(
        &self,
        files: &EntryFiles,
        log_start: u64,
        min: u64,
        mut range: (u64, u64),
    ) -> Result<u64, StoreError> {
        if self.kind == Kind::Simple {
            range.0 = range.0.max(min.min(range.1));
        }
        let is_there = |entry: &Entry| entry.physical_offset >= log_start;
        let mut number = self.first_where(files, range, is_there)?;
        if self.kind == Kind::Batch {
            return self.offset_of(files, number);
        }
        let is_filler = |number| {
            let entry = self.entry(files, number)?.0;
            Ok::<_, StoreError>(entry.is_none_or(|entry| entry.is_filler()))
        };
        while number < range.1 && is_filler(number)? {
            number += 1;
        }
        Ok(number)
    }

    /// The first message whose record does not lie below `physical` in the log; the queue's end when there is none.
    pub(crate) fn first_at(&self, files: &EntryFiles, physical: u64) -> Result<u64, StoreError> {
        let range = {
            let state = self.lock();
            if state.physical_end <= physical {
                return Ok(state.max);
            }
            (state.log.start(), state.log.end())
        };
        let is_there = |entry: &Entry| entry.physical_offset >= physical;
        let number = self.first_where(files, range, is_there)?;
        self.offset_of(files, number)
    }

    /// The number of the first message in an entry; behind the last entry that of the next message.
    fn offset_of(&self, files: &EntryFiles, number: u64) -> Result<u64, StoreError> {
        if self.kind == Kind::Simple {
            return Ok(number);
        }
        let state = self.lock();
        if number >= state.log.end() {
            return Ok(state.max);
        }
        drop(state);
        Ok(self.entry(files, number)?.1)
    }

    /// Whether the first file still has a record at or behind `log_start`, told by its last entry.
    pub(crate) fn needs_first_file(
        &self,
        files: &EntryFiles,
        log_start: u64,
    ) -> Result<bool, StoreError> {
        let last = (self.lock().log.files().0 + 1) * files.file_entries() - 1;
        let entry = self.entry(files, last)?.0;
        Ok(entry.is_some_and(|entry| !entry.is_filler() && entry.physical_offset >= log_start))
    }

    /// Reads up to `count` entries from `from` on into `out`, and only what there is; at times fewer. A file is read without
    /// the queue's lock, since dispatch takes that for every message. False when the caller may not wait for the device and
    /// would have to.
    pub(crate) fn read(
        &self,
        files: &EntryFiles,
        from: u64,
        count: u64,
        residency: Residency,
        out: &mut Vec<u8>,
    ) -> Result<bool, StoreError> {
        let Some(range) = self.lock().log.read_tail(files, from, count, out) else {
            return Ok(true);
        };
        files
            .read(&self.name, &range, residency, out)
            .or_else(|error| {
                out.clear();
                // Retention may just have taken the file, or an operator the topic.
                let state = self.lock();
                let is_gone = range.start < state.log.start() || range.end > state.log.written();
                if is_gone { Ok(true) } else { Err(error) }
            })
    }

    /// Entry number `number`, with its queue offset and how many messages it stands for.
    pub(crate) fn entry(
        &self,
        files: &EntryFiles,
        number: u64,
    ) -> Result<(Option<Entry>, u64, u16), StoreError> {
        let mut bytes = Vec::new();
        self.read(files, number, 1, Residency::Anywhere, &mut bytes)?;
        Ok(decode(self.kind, number, &bytes))
    }

    /// The number of the entry that holds message `queue_offset`, or the one behind.
    pub(crate) fn number_of(
        &self,
        files: &EntryFiles,
        queue_offset: u64,
    ) -> Result<u64, StoreError> {
        if self.kind == Kind::Simple {
            return Ok(queue_offset);
        }
        let (start, end) = self.entries();
        batch_queue::find_number(start, end, queue_offset, |number| {
            let (_, base, messages) = self.entry(files, number)?;
            Ok((base, messages))
        })
    }

    /// Numbers of the first entry and of the one behind the last.
    pub(crate) fn entries(&self) -> (u64, u64) {
        let state = self.lock();
        (state.log.start(), state.log.end())
    }

    /// The first entry of `range` that is no filler and for which `is_right` holds, which holds for all behind it.
    pub(crate) fn first_where(
        &self,
        files: &EntryFiles,
        range: (u64, u64),
        is_right: impl FnMut(&Entry) -> bool,
    ) -> Result<u64, StoreError> {
        first_where(range, |number| Ok(self.entry(files, number)?.0), is_right)
    }

    /// Writes the entries whose records lie below `durable`; they are on disk when what is `unsynced` is. Files are written
    /// without the queue's lock; nobody else may write or remove them meanwhile.
    pub(crate) fn write(
        &self,
        files: &EntryFiles,
        durable: u64,
        unsynced: &mut Unsynced,
    ) -> Result<Written, StoreError> {
        let filler = Entry::FILLER.encode();
        let filler = match self.kind {
            Kind::Simple => &filler[..],
            Kind::Batch => &[],
        };
        let mut is_first = false;
        loop {
            let part = {
                let state = self.lock();
                let upto = if state.physical_end > durable {
                    state.count_below(files, &self.name, self.kind, durable)?
                } else {
                    state.log.end()
                };
                state.log.unwritten(files, upto)
            };
            let Some(part) = part else { break };
            unsynced.add(files.write(&self.name, &part, filler)?);
            is_first |= self.lock().log.note_written(files, &part);
        }
        Ok(Written {
            left_bytes: self.lock().log.unwritten_bytes(),
            is_first,
        })
    }

    /// What a clean stop writes down.
    pub(crate) fn summary(&self) -> Summary {
        let state = self.state.lock();
        Summary {
            entries_end: state.log.end(),
            min: state.min,
            max: state.max,
            physical_end: state.physical_end,
        }
    }
}

/// What [`Queue::write`] did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    /// Bytes of entries that are still in memory only.
    pub(crate) left_bytes: usize,
    /// The queue had no file before.
    pub(crate) is_first: bool,
}

/// A queue in four numbers, see [`Queue::restore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) entries_end: u64,
    pub(crate) min: u64,
    pub(crate) max: u64,
    pub(crate) physical_end: u64,
}

impl QueueState {
    fn begin_at(&mut self, kind: Kind, queue_offset: u64) {
        if kind == Kind::Simple {
            self.log.begin_at(queue_offset);
        }
        self.min = queue_offset;
        self.max = queue_offset;
    }

    fn push(&mut self, kind: Kind, new: &NewEntry) {
        match kind {
            Kind::Simple => {
                self.log.push(&new.entry.encode());
                self.max += 1;
            }
            Kind::Batch => {
                self.log.push(&BatchEntry::of(new).encode());
                self.max = new.queue_offset + u64::from(new.messages);
            }
        }
        self.physical_end = new.entry.physical_end();
    }

    /// As [`Queue::entry`], for those who hold the lock: recovery, and the writer for entries in memory.
    fn entry(
        &self,
        files: &EntryFiles,
        name: &QueueName,
        kind: Kind,
        number: u64,
    ) -> Result<(Option<Entry>, u64, u16), StoreError> {
        let mut bytes = Vec::new();
        self.log.read(files, name, number, 1, &mut bytes)?;
        Ok(decode(kind, number, &bytes))
    }

    /// As [`Queue::number_of`], in recovery.
    fn number_of(
        &self,
        files: &EntryFiles,
        name: &QueueName,
        kind: Kind,
        queue_offset: u64,
    ) -> Result<u64, StoreError> {
        if kind == Kind::Simple {
            return Ok(queue_offset);
        }
        batch_queue::find_number(self.log.start(), self.log.end(), queue_offset, |number| {
            let (_, base, messages) = self.entry(files, name, kind, number)?;
            Ok((base, messages))
        })
    }

    fn count_below(
        &self,
        files: &EntryFiles,
        name: &QueueName,
        kind: Kind,
        durable: u64,
    ) -> Result<u64, StoreError> {
        // What is on disk was below it already, and is not read again under the lock.
        let range = (self.log.written(), self.log.end());
        first_where(
            range,
            |number| Ok(self.entry(files, name, kind, number)?.0),
            |entry| entry.physical_end() > durable,
        )
    }

    /// Makes sure that an entry in front of the end is the one it should be.
    fn mend(
        &mut self,
        files: &EntryFiles,
        name: &QueueName,
        kind: Kind,
        new: &NewEntry,
    ) -> Result<Put, StoreError> {
        let number = self.number_of(files, name, kind, new.queue_offset)?;
        if number < self.log.start() || number >= self.log.end() {
            return Ok(Put::Known);
        }
        let mut found = Vec::new();
        self.log.read(files, name, number, 1, &mut found)?;
        let wanted: &[u8] = match kind {
            Kind::Simple => &new.entry.encode(),
            Kind::Batch => &BatchEntry::of(new).encode(),
        };
        if found == wanted {
            return Ok(Put::Known);
        }
        self.log.overwrite(files, name, number, wanted)?;
        if number + 1 == self.log.end() {
            self.physical_end = new.entry.physical_end();
        }
        Ok(Put::Mended)
    }
}

/// What an entry's bytes say; see [`Queue::entry`].
fn decode(kind: Kind, number: u64, bytes: &[u8]) -> (Option<Entry>, u64, u16) {
    match kind {
        Kind::Simple => (Entry::decode(bytes), number, 1),
        Kind::Batch => BatchEntry::decode(bytes).map_or((None, 0, 0), |batch| {
            (Some(batch.entry), batch.base, batch.messages)
        }),
    }
}

/// As [`Queue::first_where`], with entries from `read`.
fn first_where(
    (mut low, mut high): (u64, u64),
    mut read: impl FnMut(u64) -> Result<Option<Entry>, StoreError>,
    mut is_right: impl FnMut(&Entry) -> bool,
) -> Result<u64, StoreError> {
    while low < high {
        let middle = low + (high - low) / 2;
        // Fillers tell nothing: the next entry to the right decides for them.
        let mut probe = middle;
        let right = loop {
            match read(probe)? {
                Some(entry) if !entry.is_filler() => break is_right(&entry),
                _ if probe + 1 < high => probe += 1,
                _ => break true,
            }
        };
        if right {
            high = middle;
        } else {
            low = probe + 1;
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_the_original_s_bytes() {
        let entry = Entry {
            physical_offset: 334,
            size: 309,
            tags_code: agena_protocol::tags::tags_code("single"),
        };
        let bytes = entry.encode();
        assert_eq!(
            bytes,
            [
                0, 0, 0, 0, 0, 0, 1, 0x4E, 0, 0, 1, 0x35, 0xFF, 0xFF, 0xFF, 0xFF, 0xCA, 0x38, 0x84,
                0x48
            ]
        );
        assert_eq!(Entry::decode(&bytes), Some(entry));
        assert_eq!(Entry::decode(&[0; 20]), None);
        assert_eq!(Entry::decode(&bytes[..19]), None);
        assert_eq!(
            Entry::FILLER.encode()[..12],
            [0, 0, 0, 0, 0, 0, 0, 0, 0x7F, 0xFF, 0xFF, 0xFF]
        );
    }
}
