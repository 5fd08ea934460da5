//! The log of all messages. **A message is appended here.**
//!
//! [`CommitLog::append`] takes a batch of encoded records, gives them their places, copies each once into the mapped tail
//! and publishes them together. Under the lock there is nothing but that; sums, encoding and limits were dealt with
//! before, and space behind the tail is reserved ahead. Apache: `CommitLog`, `DefaultAppendMessageCallback`.
//!
//! A process can be killed at any byte. What makes a record one is written behind everything else of its append, so that
//! nobody takes the start of one for the whole: no sum is over its properties.
//!
//! At the end of a file 8 bytes always remain: what does not fit goes to the next file, and a filler takes its place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agena_protocol::clock::Clock;
use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::record::{
    BLANK_BYTES, LEAD_BYTES, RecordError, RecordView, blank, blank_length,
};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use smallvec::SmallVec;

use crate::append_batch::{AppendBatch, Item, Placed};
use crate::error::StoreError;
use crate::health::Health;
use crate::medium::Medium;
use crate::queue_table::Queue;
use crate::segment::{Segment, SegmentWriter};
use crate::segmented_log::SegmentedLog;

const BLANK: u64 = BLANK_BYTES as u64;

/// How far ahead of the tail space is reserved, and in which steps.
const RESERVE_STEP: u64 = 32 << 20;
/// How far ahead of the tail pages are faulted in: what comes in `POPULATE_FOR`, within these bounds. No more, because they
/// are dirty from then on, and a sync writes them too; where every acknowledgement waits for one it is the least.
const POPULATE_FOR: Duration = Duration::from_millis(100);
const POPULATE_AHEAD_MIN: u64 = 1 << 20;
const POPULATE_AHEAD_MAX: u64 = 16 << 20;
/// A step holds the kernel's lock on the address space for some 50 µs.
const POPULATE_STEP: u64 = 256 << 10;

/// The log.
#[derive(Debug)]
pub(crate) struct CommitLog {
    log: SegmentedLog,
    medium: Arc<dyn Medium>,
    clock: Arc<dyn Clock>,
    /// The append lock.
    tail: Mutex<Tail>,
    /// First byte behind the last record. Written under the append lock after the segments were published; whoever loads
    /// it (Acquire) sees every record below.
    end: AtomicU64,
    ahead: Ahead,
    populate_ahead_max: u64,
}

/// What the append lock guards.
#[derive(Debug)]
struct Tail {
    /// `None` until the first message of an empty log, and when the last file is exactly full.
    writer: Option<SegmentWriter>,
    end: u64,
    /// Start of the last record, if it is known.
    last_record: Option<u64>,
    store_timestamp: i64,
    /// Nothing is appended any more.
    sealed: bool,
}

/// The end of a log as opening found it; the writer's segment is published up to it.
#[derive(Debug)]
pub(crate) struct FoundTail {
    pub(crate) writer: Option<SegmentWriter>,
    pub(crate) end: u64,
    pub(crate) last_record: Option<u64>,
    pub(crate) store_timestamp: i64,
}

/// Wakes the thread that prepares space ahead of the tail.
#[derive(Debug, Default)]
struct Ahead {
    /// The tail's end at which more is to be prepared; the appender compares it with one load.
    wake_at: AtomicU64,
    state: Mutex<AheadState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct AheadState {
    wanted: bool,
    stopped: bool,
}

/// One stretch of the log in one file, as planned before anything is written.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: u64,
    /// A filler is written at this offset first, and the record goes to the next file.
    blank_at: Option<u64>,
}

/// What [`CommitLog::append`] did.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) placed: SmallVec<[Placed; 8]>,
    pub(crate) end: u64,
}

/// What stands at an offset of the log.
#[derive(Debug)]
pub(crate) enum Next<'a> {
    /// A record.
    Record(RecordView<'a>),
    /// A filler; the log goes on at this offset.
    Blank(u64),
}

impl CommitLog {
    /// A log whose files were looked at. With `is_sync`, acknowledgements wait for syncs.
    pub(crate) fn new(
        log: SegmentedLog,
        medium: Arc<dyn Medium>,
        clock: Arc<dyn Clock>,
        found: FoundTail,
        is_sync: bool,
    ) -> Self {
        Self {
            log,
            medium,
            clock,
            end: AtomicU64::new(found.end),
            tail: Mutex::new(Tail {
                writer: found.writer,
                end: found.end,
                last_record: found.last_record,
                store_timestamp: found.store_timestamp,
                sealed: false,
            }),
            ahead: Ahead::default(),
            populate_ahead_max: if is_sync {
                POPULATE_AHEAD_MIN
            } else {
                POPULATE_AHEAD_MAX
            },
        }
    }

    /// Runs `act` between two appends; it is told where the log ends.
    pub(crate) fn between_appends<T>(&self, act: impl FnOnce(u64) -> T) -> T {
        let tail = self.tail.lock();
        act(tail.end)
    }

    /// Appends the batch, or nothing of it. `queues` has the queue of each message. `None` when one of them was taken out
    /// meanwhile: its topic was deleted, and the message is one for a new queue.
    pub(crate) fn append(
        &self,
        batch: &mut AppendBatch<'_>,
        queues: &[Arc<Queue>],
    ) -> Result<Option<Written>, StoreError> {
        let mut tail = self.tail.lock();
        if tail.sealed {
            return Err(StoreError::Closed);
        }
        let is_removed = |queue: &Arc<Queue>| queue.is_removed.load(Ordering::Relaxed);
        if queues.iter().any(is_removed) {
            return Ok(None);
        }
        // Under the lock, in this order:
        // 1. where each record goes, and the space for all of them: the only step that can fail;
        let places = self.plan(&tail, batch)?;
        let mut fresh = self.reserve(&tail, &places, batch)?;
        // 2. one store timestamp, never less than the last;
        let store_timestamp = self.clock.now_ms().max(tail.store_timestamp);
        tail.store_timestamp = store_timestamp;
        // 3. for each record its queue offset, and its one copy into the mapping but for its lead. The first byte on a page may
        //    wait for a device, and who waits can be killed there;
        let mut placed = SmallVec::with_capacity(places.len());
        let mut leadless = 0;
        for (index, queue) in queues.iter().enumerate() {
            let place = &places[index];
            if place.at
                >= tail
                    .writer
                    .as_ref()
                    .map_or(0, |writer| writer.segment().limit())
            {
                write_leads(
                    &mut tail,
                    &batch.items[leadless..index],
                    &places[leadless..index],
                );
                leadless = index;
                self.roll(&mut tail, place, &mut fresh);
            }
            let Some(writer) = &mut tail.writer else {
                continue;
            };
            let item = &mut batch.items[index];
            let bytes = item.encoder.total_bytes();
            let queue_offset = queue.assign(item.encoder.fields().sys_flag);
            let physical_offset = PhysicalOffset::new(place.at);
            writer.write(place.at, bytes, |out| {
                item.encoder.write_without_lead(
                    out,
                    queue_offset,
                    physical_offset,
                    store_timestamp,
                );
            });
            tail.end = place.at + bytes as u64;
            tail.last_record = Some(place.at);
            placed.push(Placed {
                queue_offset,
                physical_offset,
                store_timestamp,
                bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            });
        }
        // 4. the leads, on pages that were just written;
        write_leads(&mut tail, &batch.items[leadless..], &places[leadless..]);
        // 5. all of it visible at once.
        let end = tail.end;
        if let Some(writer) = &mut tail.writer {
            writer.publish(end);
        }
        self.end.store(end, Ordering::Release);
        drop(tail);
        if end >= self.ahead.wake_at.load(Ordering::Relaxed) {
            self.wake_ahead();
        }
        Ok(Some(Written { placed, end }))
    }

    /// First byte behind the last record.
    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// First byte there is; the end when there is none.
    pub(crate) fn start(&self) -> u64 {
        self.log.first_offset().unwrap_or_else(|| self.end())
    }

    /// The files.
    pub(crate) fn segments(&self) -> &SegmentedLog {
        &self.log
    }

    /// The store timestamp of the last record, or what it must at least be.
    pub(crate) fn store_timestamp(&self) -> i64 {
        self.tail.lock().store_timestamp
    }

    /// Start of the last record, if it is known.
    pub(crate) fn last_record(&self) -> Option<u64> {
        self.tail.lock().last_record
    }

    /// Whether there is space for a little more, asked for by taking it.
    pub(crate) fn has_space(&self) -> bool {
        const LITTLE: u64 = 1 << 20;
        let tail = self.tail.lock();
        match &tail.writer {
            Some(writer) if writer.segment().limit() > tail.end + LITTLE => writer
                .segment()
                .reserve(&*self.medium, tail.end + LITTLE, LITTLE)
                .is_ok(),
            _ => self
                .medium
                .space(self.log.dir())
                .is_ok_and(|space| space.available > LITTLE),
        }
    }

    /// No message is appended after this returns.
    pub(crate) fn seal(&self) {
        self.tail.lock().sealed = true;
        self.ahead.state.lock().stopped = true;
        self.ahead.changed.notify_all();
    }

    /// `size` published bytes at `offset`, with a hold on their file.
    pub(crate) fn slice(&self, offset: u64, size: usize) -> Option<Bytes> {
        let segment = self.log.find(offset)?;
        let shared = segment.share();
        let from = usize::try_from(offset - segment.base()).ok()?;
        let end = from.checked_add(size)?;
        (end <= shared.len()).then(|| shared.slice(from..end))
    }

    /// Walks the records of `[from, to)` and gives each to `each`, until that says stop. Returns where it stopped.
    ///
    /// # Errors
    /// The record that does not hold, with its offset. `check_sums` decides how closely records are looked at.
    pub(crate) fn walk(
        &self,
        from: u64,
        to: u64,
        check_sums: bool,
        mut each: impl FnMut(&RecordView<'_>, u64) -> bool,
    ) -> Result<u64, (u64, RecordError)> {
        let mut at = from;
        while at < to {
            let Some(segment) = self.log.find(at) else {
                // A gap: the log goes on with the next file there is.
                match self.log.first_from(at) {
                    Some(segment) if segment.base() < to => at = segment.base(),
                    _ => return Ok(to),
                }
                continue;
            };
            let end = segment.end().min(to);
            while at < end {
                match next(segment.bytes_from(at), at, &segment, check_sums) {
                    Ok(Next::Record(record)) => {
                        if !each(&record, at) {
                            return Ok(at);
                        }
                        at += record.bytes().len() as u64;
                    }
                    Ok(Next::Blank(behind)) => at = behind,
                    Err(error) => return Err((at, error)),
                }
            }
            if at < segment.limit() && at >= segment.end() {
                return Ok(at);
            }
        }
        Ok(at)
    }

    /// Where each record goes. A run of joined records stays in one file.
    fn plan(
        &self,
        tail: &Tail,
        batch: &AppendBatch<'_>,
    ) -> Result<SmallVec<[Place; 8]>, StoreError> {
        let segment_bytes = self.log.segment_bytes();
        let mut places = SmallVec::with_capacity(batch.items.len());
        let mut at = tail.end;
        let mut items = &batch.items[..];
        while !items.is_empty() {
            let run = items
                .iter()
                .position(|item| !item.joined)
                .map_or(items.len(), |last| last + 1);
            let (together, rest) = items.split_at(run);
            items = rest;
            let bytes: u64 = together
                .iter()
                .map(|item| item.encoder.total_bytes() as u64)
                .sum();
            if bytes + BLANK > segment_bytes {
                return Err(StoreError::TooLarge {
                    bytes,
                    segment_bytes,
                });
            }
            let left = segment_bytes - at % segment_bytes;
            let mut blank_at = None;
            // An offset at a file's start may also be the end of the file before: nothing is left there to fill.
            if bytes + BLANK > left {
                blank_at = Some(at);
                at += left;
            }
            for item in together {
                places.push(Place {
                    at,
                    blank_at: blank_at.take(),
                });
                at += item.encoder.total_bytes() as u64;
            }
        }
        Ok(places)
    }

    /// Space for everything that was planned; the segments that it needs in addition.
    fn reserve(
        &self,
        tail: &Tail,
        places: &[Place],
        batch: &AppendBatch<'_>,
    ) -> Result<SmallVec<[SegmentWriter; 1]>, StoreError> {
        let mut fresh = SmallVec::new();
        match self.try_reserve(tail, places, batch, &mut fresh) {
            Ok(()) => Ok(fresh),
            Err(error) => {
                self.give_back(fresh);
                Err(error)
            }
        }
    }

    fn try_reserve(
        &self,
        tail: &Tail,
        places: &[Place],
        batch: &AppendBatch<'_>,
        fresh: &mut SmallVec<[SegmentWriter; 1]>,
    ) -> Result<(), StoreError> {
        let segment_bytes = self.log.segment_bytes();
        let mut current = tail.writer.as_ref().map(SegmentWriter::segment);
        let mut made;
        for (place, item) in places.iter().zip(&batch.items) {
            if let (Some(segment), Some(blank_at)) = (current, place.blank_at) {
                segment.reserve(&*self.medium, blank_at + BLANK, RESERVE_STEP)?;
            }
            let base = place.at - place.at % segment_bytes;
            let segment = match current {
                Some(segment) if segment.base() == base => segment,
                _ => {
                    let writer = self.log.make(base, RESERVE_STEP.min(segment_bytes))?;
                    made = Arc::clone(writer.segment());
                    fresh.push(writer);
                    &made
                }
            };
            let end = place.at + item.encoder.total_bytes() as u64;
            segment.reserve(&*self.medium, end, RESERVE_STEP)?;
            current = Some(segment);
        }
        Ok(())
    }

    /// A plan came to nothing: the first segment made for it will be the next one, the others go.
    fn give_back(&self, fresh: SmallVec<[SegmentWriter; 1]>) {
        let mut fresh = fresh.into_iter();
        if let Some(first) = fresh.next() {
            self.log.keep_ahead(first);
        }
        for writer in fresh {
            // Left behind, it would be an empty file that the next open removes.
            let _ = self.log.remove_file(writer.segment());
        }
    }

    /// Fills the rest of the file and goes on in the next one.
    fn roll(&self, tail: &mut Tail, place: &Place, fresh: &mut SmallVec<[SegmentWriter; 1]>) {
        if let (Some(writer), Some(blank_at)) = (&mut tail.writer, place.blank_at) {
            let limit = writer.segment().limit();
            let left = u32::try_from(limit - blank_at).unwrap_or(u32::MAX);
            writer.write(blank_at, BLANK_BYTES, |out| {
                out.copy_from_slice(&blank(left));
            });
            writer.publish(limit);
        }
        let next = fresh.remove(0);
        self.log.push(next.segment());
        tail.writer = Some(next);
    }

    fn wake_ahead(&self) {
        // Until the preparer says anew when to wake it.
        self.ahead.wake_at.store(u64::MAX, Ordering::Relaxed);
        self.ahead.state.lock().wanted = true;
        self.ahead.changed.notify_one();
    }

    /// The thread that prepares ahead of the tail: reserves space, faults pages in, makes the next file. Sleeps until
    /// an append has used up half of what is there. Returns when the log is sealed.
    pub(crate) fn prepare_ahead(&self, health: &Health) {
        let mut last = (self.end(), self.clock.monotonic());
        loop {
            let now = (self.end(), self.clock.monotonic());
            let ahead = populate_ahead(now.0 - last.0, now.1.saturating_sub(last.1));
            let ahead = ahead.min(self.populate_ahead_max);
            last = now;
            let segment = self
                .tail
                .lock()
                .writer
                .as_ref()
                .map(|writer| writer.segment().clone());
            if let Some(segment) = segment
                && let Err(error) = self.prepare_behind(&segment, ahead)
                && error.is_failed_write()
            {
                health.fence(&error);
                return;
            }
            let mut state = self.ahead.state.lock();
            while !state.wanted && !state.stopped {
                self.ahead.changed.wait(&mut state);
            }
            if state.stopped {
                return;
            }
            state.wanted = false;
        }
    }

    /// A full disk is left to the append that meets it: it can answer its producer.
    fn prepare_behind(&self, segment: &Arc<Segment>, ahead: u64) -> Result<(), StoreError> {
        let end = self.end();
        let left = segment.limit().saturating_sub(end);
        let mut prepared = segment.reserve(&*self.medium, end + RESERVE_STEP / 2, RESERVE_STEP);
        if left < RESERVE_STEP && prepared.is_ok() {
            let bytes = RESERVE_STEP.min(self.log.segment_bytes());
            prepared = self.log.prepare(segment.limit(), bytes, POPULATE_AHEAD_MIN);
        }
        let gently = ahead < POPULATE_AHEAD_MAX / 2;
        while segment.populate(self.end() + ahead, POPULATE_STEP, gently) {}
        // A little before half of it is used up; soon again when the next file could not be made.
        self.ahead.wake_at.store(end + ahead / 2, Ordering::Relaxed);
        prepared
    }

    /// Begins to write whole pages from offset `from` on to the device, and returns where they end. Nothing is promised by it:
    /// it leaves less to the sync that comes, which otherwise has the device and the processors write half a second's
    /// messages at once.
    pub(crate) fn write_out(&self, from: u64) -> u64 {
        let end = self.end();
        for segment in self.segments().all() {
            if segment.limit() > from && segment.base() < end {
                segment.write_out(from, end);
            }
        }
        end
    }
}

/// Makes what was written a record each, in order.
fn write_leads(tail: &mut Tail, items: &[Item<'_>], places: &[Place]) {
    let Some(writer) = &mut tail.writer else {
        return;
    };
    for (item, place) in items.iter().zip(places) {
        writer.write(place.at, LEAD_BYTES, |out| item.encoder.write_lead(out));
    }
}

/// How far ahead to fault pages in when the last `bytes` came in `elapsed`.
fn populate_ahead(bytes: u64, elapsed: Duration) -> u64 {
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    let window = u64::try_from(POPULATE_FOR.as_micros()).unwrap_or(u64::MAX);
    (bytes.saturating_mul(window) / micros.max(1)).clamp(POPULATE_AHEAD_MIN, POPULATE_AHEAD_MAX)
}

/// What stands at the start of `bytes`, which is offset `at` of the log.
pub(crate) fn next<'a>(
    bytes: &'a [u8],
    at: u64,
    segment: &Segment,
    check_sums: bool,
) -> Result<Next<'a>, RecordError> {
    if let Some(blank) = blank_length(bytes) {
        return if at + u64::from(blank) == segment.limit() {
            Ok(Next::Blank(segment.limit()))
        } else {
            Err(RecordError::Size(blank.cast_signed()))
        };
    }
    let record = if check_sums {
        RecordView::parse(bytes)?
    } else {
        RecordView::parse_unsummed(bytes)?
    };
    if record.physical_offset().number() != at {
        return Err(RecordError::Range("physical offset"));
    }
    Ok(Next::Record(record))
}

/// The queue offset that a message gets which is in no queue.
pub(crate) const UNQUEUED: QueueOffset = QueueOffset::new(0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_made_ready_for_a_tenth_of_a_second() {
        let second = Duration::from_secs(1);
        assert_eq!(populate_ahead(0, Duration::ZERO), POPULATE_AHEAD_MIN);
        assert_eq!(populate_ahead(1 << 20, second), POPULATE_AHEAD_MIN);
        assert_eq!(populate_ahead(50 << 20, second), 5 << 20);
        assert_eq!(populate_ahead(u64::MAX, second), POPULATE_AHEAD_MAX);
    }
}
