//! Reading a queue: entries -> record slices that keep their segment alive.
//!
//! Statuses, corrections and limits are the original's (spec/store.md §9.1). Records that this process appended are served
//! as they lie; those that were there before, or that had to come from the device, are summed first: a damaged one is
//! named, counted and stepped over, and what follows is served. Apache: `DefaultMessageStore.getMessage`.

use agena_protocol::offset::QueueOffset;
use agena_protocol::queue::QueueId;
use agena_protocol::record::RecordView;
use bytes::Bytes;

use crate::consume_queue::{Entry, Kind};
use crate::error::StoreError;
use crate::queue_table::Queue;
use crate::segment::Segment;
use crate::store::Shared;

/// Bytes of published log that keep their segment mapped, and its space on disk, until dropped.
pub type LogSlice = Bytes;

/// Entries looked at in one go.
const CHUNK_ENTRIES: u64 = 64;
/// The answer of one read never exceeds this.
const ANSWER_BYTES_MAX: usize = 128 << 20;
/// A request's own limit is at least this.
const REQUEST_BYTES_MIN: usize = 100;
/// What is asked of the system ahead of a cold record, and what is looked at in one go to see whether it is there.
const READ_AHEAD_BYTES: u64 = 256 << 10;
/// What this process appended last is in memory without being looked for: the kernel has hardly written it to the device.
const HOT_BYTES: u64 = 32 << 20;

/// What a consumer asks for.
#[derive(Debug, Clone, Copy)]
pub struct ReadRequest<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The queue.
    pub queue_id: QueueId,
    /// First message wanted, as asked: a negative number lies in front of every queue.
    pub offset: i64,
    /// At most so many.
    pub messages_max: usize,
    /// At most so many bytes; the first message is served all the same.
    pub bytes_max: Option<usize>,
    /// Whether the caller may wait for the device.
    pub residency: Residency,
}

/// Where records may be served from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residency {
    /// From memory only: the caller's thread must not wait. A cold record answers [`ReadStatus::NotResident`].
    MemoryOnly,
    /// From wherever they are.
    Anywhere,
}

/// Chooses messages.
pub trait Filter {
    /// By the number in the queue entry; different tags may share one.
    fn by_tags_code(&self, tags_code: i64) -> bool;

    /// Whether [`by_record`](Self::by_record) has to be asked at all.
    fn wants_record(&self) -> bool {
        false
    }

    /// By the record itself.
    fn by_record(&self, _record: &RecordView<'_>) -> bool {
        true
    }
}

/// Chooses every message.
#[derive(Debug, Clone, Copy, Default)]
pub struct Everything;

impl Filter for Everything {
    fn by_tags_code(&self, _tags_code: i64) -> bool {
        true
    }
}

/// What came of a read; with RocketMQ's response code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadStatus {
    /// There are messages (0).
    Found,
    /// None of those looked at passed the filter (20).
    NoMatchedMessage,
    /// The records are gone or damaged (20).
    MessageWasRemoving,
    /// The entries are not there (19).
    OffsetFoundNull,
    /// Beyond the end (21).
    OffsetOverflowBadly,
    /// Just at the end (19): time to wait.
    OffsetOverflowOne,
    /// In front of the first message there is (21).
    OffsetTooSmall,
    /// Nothing was ever there (19 at offset 0, else 21).
    NoMessageInQueue,
    /// The record is not in memory, and the caller may not wait. Ask again with [`Residency::Anywhere`].
    NotResident,
    /// The store is closed, or the device failed (1).
    Failed,
}

/// The answer.
#[derive(Debug, Clone)]
pub struct ReadOutcome {
    /// What came of it.
    pub status: ReadStatus,
    /// Where to read on.
    pub next_offset: QueueOffset,
    /// First message there is.
    pub min_offset: QueueOffset,
    /// Behind the last message.
    pub max_offset: QueueOffset,
    /// Whole records, in order.
    pub records: Vec<LogSlice>,
    /// Bytes of the records.
    pub bytes: usize,
    /// Messages in the records; more than records where there are inner batches.
    pub messages: usize,
    /// The reader is so far behind that a replica should serve it (`suggestPullingFromSlave`).
    pub is_far_behind: bool,
    /// Records that were stepped over because they do not hold.
    pub damaged: usize,
}

/// One entry, as tools see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueEntry {
    /// The message's number.
    pub queue_offset: QueueOffset,
    /// Place of its record.
    pub physical_offset: u64,
    /// Bytes of its record.
    pub size: u32,
    /// What filters see.
    pub tags_code: i64,
}

/// The bounds of a search by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Boundary {
    /// The first message stored at or behind the time.
    Lower,
    /// The last message stored at or before it.
    Upper,
}

/// A read in progress.
struct Reading<'a> {
    shared: &'a Shared,
    request: &'a ReadRequest<'a>,
    filter: &'a dyn Filter,
    log_end: u64,
    outcome: ReadOutcome,
    /// The segment of the last record, and all its published bytes.
    segment: Option<(std::sync::Arc<Segment>, Bytes)>,
    /// Physical offset of the last entry looked at.
    looked_at: LookedAt,
    last_physical: Option<u64>,
}

/// Whether to look at the next entry.
#[derive(PartialEq, Eq)]
enum Go {
    On,
    Stop,
}

pub(crate) fn read(shared: &Shared, request: &ReadRequest<'_>, filter: &dyn Filter) -> ReadOutcome {
    let Some(queue) = shared.known_queue(request.topic, request.queue_id) else {
        return empty(ReadStatus::NoMessageInQueue, 0, 0, 0);
    };
    match read_queue(shared, &queue, request, filter) {
        Ok(outcome) => outcome,
        Err(error) => {
            tracing::error!(topic = request.topic, queue = %request.queue_id, %error, "read failed");
            empty(ReadStatus::Failed, 0, 0, 0)
        }
    }
}

fn empty(status: ReadStatus, next: u64, min: u64, max: u64) -> ReadOutcome {
    ReadOutcome {
        status,
        next_offset: QueueOffset::new(next),
        min_offset: QueueOffset::new(min),
        max_offset: QueueOffset::new(max),
        records: Vec::new(),
        bytes: 0,
        messages: 0,
        is_far_behind: false,
        damaged: 0,
    }
}

fn read_queue(
    shared: &Shared,
    queue: &Queue,
    request: &ReadRequest<'_>,
    filter: &dyn Filter,
) -> Result<ReadOutcome, StoreError> {
    let (min, max) = shared.bounds(queue)?;
    if max == 0 {
        return Ok(empty(ReadStatus::NoMessageInQueue, 0, 0, 0));
    }
    let offset = match u64::try_from(request.offset) {
        Ok(offset) if offset >= min => offset,
        _ => return Ok(empty(ReadStatus::OffsetTooSmall, min, min, max)),
    };
    if offset == max {
        return Ok(empty(ReadStatus::OffsetOverflowOne, offset, min, max));
    }
    if offset > max {
        return Ok(empty(ReadStatus::OffsetOverflowBadly, max, min, max));
    }
    let mut reading = Reading {
        shared,
        request,
        filter,
        log_end: shared.log.end(),
        outcome: empty(ReadStatus::NoMatchedMessage, offset, min, max),
        segment: None,
        looked_at: LookedAt::default(),
        last_physical: None,
    };
    reading.run(queue, offset)?;
    let mut outcome = reading.outcome;
    outcome.is_far_behind = reading
        .last_physical
        .is_some_and(|last| !shared.counts_as_in_memory(last));
    Ok(outcome)
}

impl Reading<'_> {
    fn run(&mut self, queue: &Queue, offset: u64) -> Result<(), StoreError> {
        let files = self.shared.queues.files(queue.kind);
        let entry_bytes = match queue.kind {
            Kind::Simple => crate::consume_queue::ENTRY_BYTES,
            Kind::Batch => crate::batch_queue::BATCH_ENTRY_BYTES,
        } as u64;
        let scan_entries = (self.shared.config.read.scan_bytes / entry_bytes)
            .max(self.request.messages_max as u64);
        let first = queue.number_of(files, offset)?;
        // One queue file for one answer, as the original has it.
        let file_end = (first / files.file_entries() + 1) * files.file_entries();
        let end = file_end.min(first.saturating_add(scan_entries));
        let mut number = first;
        let mut bytes = Vec::new();
        while number < end {
            let count = CHUNK_ENTRIES.min(end - number);
            if !queue.read(files, number, count, self.request.residency, &mut bytes)? {
                if self.outcome.records.is_empty() {
                    self.outcome.status = ReadStatus::NotResident;
                }
                return Ok(());
            }
            if bytes.is_empty() {
                break;
            }
            for entry in bytes.chunks_exact(usize::try_from(entry_bytes).unwrap_or(usize::MAX)) {
                if self.look_at(queue.kind, number, entry) == Go::Stop {
                    return Ok(());
                }
                number += 1;
            }
        }
        if number == first {
            self.outcome.status = ReadStatus::OffsetFoundNull;
            self.outcome.next_offset =
                QueueOffset::new(file_end.min(self.outcome.max_offset.number()));
        }
        Ok(())
    }

    fn look_at(&mut self, kind: Kind, number: u64, bytes: &[u8]) -> Go {
        let (entry, queue_offset, messages) = match kind {
            Kind::Simple => (Entry::decode(bytes), number, 1),
            Kind::Batch => match crate::batch_queue::BatchEntry::decode(bytes) {
                Some(batch) => (Some(batch.entry), batch.base, usize::from(batch.messages)),
                None => (None, self.outcome.next_offset.number(), 1),
            },
        };
        let behind = QueueOffset::new(queue_offset + messages as u64);
        let Some(entry) = entry.filter(|entry| !entry.is_filler()) else {
            self.outcome.next_offset = behind;
            self.note_missing();
            return Go::On;
        };
        if self.is_full(&entry, messages) {
            return Go::Stop;
        }
        let is_wanted = self.filter.by_tags_code(entry.tags_code);
        let resident = !is_wanted || self.is_resident(&entry);
        if !resident && self.request.residency == Residency::MemoryOnly {
            if self.outcome.records.is_empty() {
                self.outcome.status = ReadStatus::NotResident;
            }
            return Go::Stop;
        }
        self.last_physical = Some(entry.physical_offset);
        self.outcome.next_offset = behind;
        if !is_wanted {
            return Go::On;
        }
        let simple_offset = (kind == Kind::Simple).then_some(queue_offset);
        match self.record(&entry, simple_offset, resident) {
            Some(record) => {
                if !self.filter.wants_record()
                    || RecordView::parse_unsummed(&record)
                        .is_ok_and(|record| self.filter.by_record(&record))
                {
                    self.outcome.bytes += record.len();
                    self.outcome.messages += messages;
                    self.outcome.records.push(record);
                    self.outcome.status = ReadStatus::Found;
                }
            }
            None => self.note_missing(),
        }
        Go::On
    }

    /// Whether the record can be read without waiting for the device. What was appended a moment ago can; anything else is
    /// asked of the kernel, since a distance from the log's end says nothing after a start or on a machine short of memory.
    fn is_resident(&mut self, entry: &Entry) -> bool {
        let at = entry.physical_offset;
        let end = at + u64::from(entry.size);
        if at >= self.shared.opened_end && self.log_end.saturating_sub(at) <= HOT_BYTES {
            return true;
        }
        if at < self.looked_at.from || end > self.looked_at.resident_to {
            let Some(segment) = self.shared.log.segments().find(at) else {
                return true;
            };
            let len = READ_AHEAD_BYTES.max(u64::from(entry.size));
            self.looked_at.from = at;
            self.looked_at.resident_to = at + segment.resident_bytes(at, len);
        }
        end <= self.looked_at.resident_to
    }

    fn note_missing(&mut self) {
        if self.outcome.records.is_empty() {
            self.outcome.status = ReadStatus::MessageWasRemoving;
        }
    }

    /// Whether the answer is complete without this record. Never before the first.
    fn is_full(&self, entry: &Entry, messages: usize) -> bool {
        let outcome = &self.outcome;
        if outcome.records.is_empty() {
            return false;
        }
        let limits = &self.shared.config.read;
        let size = usize::try_from(entry.size).unwrap_or(usize::MAX);
        let bytes = outcome.bytes.saturating_add(size);
        let request_bytes = self
            .request
            .bytes_max
            .map_or(ANSWER_BYTES_MAX, |bytes| bytes.max(REQUEST_BYTES_MIN));
        let (bytes_max, count_max) = if self.shared.counts_as_in_memory(entry.physical_offset) {
            (limits.bytes_in_memory, limits.count_in_memory)
        } else {
            (limits.bytes_on_disk, limits.count_on_disk)
        };
        outcome.messages + messages > self.request.messages_max
            || bytes > request_bytes
            || bytes > bytes_max
            || outcome.messages >= count_max
    }

    /// The record of an entry, checked as far as its origin demands.
    fn record(
        &mut self,
        entry: &Entry,
        queue_offset: Option<u64>,
        resident: bool,
    ) -> Option<Bytes> {
        let at = entry.physical_offset;
        let size = u64::from(entry.size);
        // What was shared before may end in front of a record that was appended since: that one is not missing, the share
        // is old. To pass over it would lose it for this reader.
        let is_shared = self.segment.as_ref().is_some_and(|(segment, bytes)| {
            at >= segment.base() && at + size <= segment.base() + bytes.len() as u64
        });
        if !is_shared {
            let segment = self.shared.log.segments().find(at)?;
            let bytes = segment.share();
            self.segment = Some((segment, bytes));
        }
        let (segment, bytes) = self.segment.as_ref()?;
        if !resident && at + size > self.looked_at.asked_to {
            segment.will_need(at, READ_AHEAD_BYTES.max(size));
            self.looked_at.asked_to = at + READ_AHEAD_BYTES.max(size);
        }
        let from = usize::try_from(at - segment.base()).ok()?;
        let end = from.checked_add(usize::try_from(size).ok()?)?;
        if end > bytes.len() {
            return None;
        }
        let record = bytes.slice(from..end);
        // Also what was asked for a moment ago and is there by now came from the device.
        let must_sum = !resident || at < self.looked_at.asked_to.max(self.shared.opened_end);
        if is_meant(&record, entry, queue_offset, must_sum) {
            return Some(record);
        }
        self.outcome.damaged += 1;
        self.shared.note_damaged(segment, at, &record);
        None
    }
}

/// What a read knows of the log's pages in memory, around the last record that it was unsure of. Offsets of the log.
#[derive(Debug, Clone, Copy, Default)]
struct LookedAt {
    from: u64,
    /// From `from` up to here no page is missing.
    resident_to: u64,
    /// Up to here the system was asked to read ahead.
    asked_to: u64,
}

/// Whether the bytes are the record that the entry means; with `must_sum`, also whether they hold.
fn is_meant(record: &[u8], entry: &Entry, queue_offset: Option<u64>, must_sum: bool) -> bool {
    let parsed = if must_sum {
        RecordView::parse(record)
    } else {
        RecordView::parse_unsummed(record)
    };
    parsed.is_ok_and(|found| {
        found.bytes().len() == record.len()
            && found.physical_offset().number() == entry.physical_offset
            && queue_offset.is_none_or(|offset| found.queue_offset().number() == offset)
    })
}

/// The number of a message by its time; clamped to what there is.
pub(crate) fn offset_by_time(
    shared: &Shared,
    queue: &Queue,
    time_ms: i64,
    boundary: Boundary,
) -> Result<u64, StoreError> {
    let (min, max) = shared.bounds(queue)?;
    if max <= min {
        return Ok(max);
    }
    let files = shared.queues.files(queue.kind);
    let low = queue.number_of(files, min)?;
    let range = (low, queue.entries().1);
    let found = queue.first_where(files, range, |entry| {
        // What cannot be read any more lies at the head: left of everything that can.
        let time = shared.store_time(entry.physical_offset).unwrap_or(i64::MIN);
        match boundary {
            Boundary::Lower => time >= time_ms,
            Boundary::Upper => time > time_ms,
        }
    })?;
    let number = match boundary {
        Boundary::Lower => found,
        Boundary::Upper => found.saturating_sub(1).max(low),
    };
    let offset = match queue.kind {
        Kind::Simple => number,
        Kind::Batch if number >= range.1 => max,
        Kind::Batch => queue.entry(files, number)?.1,
    };
    Ok(offset.clamp(min, max))
}
