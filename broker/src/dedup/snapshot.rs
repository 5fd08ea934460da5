//! `config/dedup.json`: the windows as they were when the log ended at a mark, so that an open need not read the whole
//! log. Written when the log has grown by [`SCAN_BYTES`] since, and at a stop.
//!
//! Only what is on the device is written, so no power cut makes it speak of messages that are gone. What it says is
//! checked by a sum. Without the file the windows are empty, as in a store that never had any; a file that does not hold
//! costs a scan of the whole log. The original does not look at it.

use std::collections::HashMap;
use std::path::Path;

use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::properties;
use agena_protocol::properties::{PRODUCER_ID, SEQUENCE};
use agena_protocol::queue::QueueId;
use agena_protocol::record::RecordView;
use agena_protocol::topic;
use agena_store::Store;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::window::Window;
use super::{Dedup, First, Identity, topic_sum};
use crate::snapshot_files::{SnapshotError, SnapshotFile};

/// An open reads at most this much of the log, and what is written in the ten seconds between two looks.
const SCAN_BYTES: u64 = 64 << 20;

/// The file and its mark.
#[derive(Debug)]
pub(super) struct SnapshotOfWindows {
    file: SnapshotFile,
    mark: Mutex<PhysicalOffset>,
}

impl SnapshotOfWindows {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            file: SnapshotFile::new(directory, "dedup.json"),
            mark: Mutex::new(PhysicalOffset::new(0)),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    /// Every record in front of it is accounted for.
    mark: u64,
    /// Of `windows`, as text.
    crc32: u32,
    windows: Vec<WrittenWindow>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WrittenWindow {
    producer: String,
    floor: Option<u64>,
    last: i64,
    stored: Vec<WrittenFirst>,
}

/// Sequence, place, bytes, queue offset, queue, messages, sum of the topic.
#[derive(Serialize, Deserialize)]
struct WrittenFirst(u64, u64, u32, u64, u32, u32, u32);

fn sum(windows: &[WrittenWindow]) -> u32 {
    // Numbers, texts and lists: there is nothing in them that JSON could not say.
    serde_json::to_vec(windows).map_or(0, |text| crc32fast::hash(&text))
}

pub(super) fn save_if_far(dedup: &Dedup, store: &Store) {
    let mark = dedup.file.mark.lock().number();
    if store.durable_end().number().saturating_sub(mark) >= SCAN_BYTES {
        save(dedup, store);
    }
}

pub(super) fn save(dedup: &Dedup, store: &Store) {
    // Looked at first: what is stored while the windows are copied lies behind it.
    let durable = store.durable_end();
    let (mark, windows) = {
        let table = dedup.table.lock();
        // A message that is just being stored may be in the log already and is not in its window yet.
        let flying = table.values().filter_map(Window::begun_at).min();
        let mark = flying.map_or(durable, |flying| flying.min(durable));
        let windows = table.iter();
        let windows = windows.map(|(producer, window)| written(producer, window, mark));
        (mark, windows.collect::<Vec<_>>())
    };
    let written = Written {
        mark: mark.number(),
        crc32: sum(&windows),
        windows,
    };
    let saved = serde_json::to_vec(&written)
        .map_err(|fault| fault.to_string())
        .and_then(|text| {
            let saved: Result<(), SnapshotError> = dedup.file.file.save(&text);
            saved.map_err(|fault| fault.to_string())
        });
    match saved {
        Ok(()) => *dedup.file.mark.lock() = mark,
        Err(fault) => tracing::error!(
            fault,
            "the windows of producers are not saved; the next start reads more of the log"
        ),
    }
}

fn written(producer: &str, window: &Window, mark: PhysicalOffset) -> WrittenWindow {
    let stored = window.entries().filter(|(_, first)| first.end() <= mark);
    WrittenWindow {
        producer: producer.to_owned(),
        floor: window.floor,
        last: window.last_ms,
        stored: stored
            .map(|(sequence, first)| {
                WrittenFirst(
                    sequence,
                    first.physical.number(),
                    first.bytes,
                    first.queue_offset.number(),
                    first.queue.number(),
                    first.count,
                    first.topic_sum,
                )
            })
            .collect(),
    }
}

/// Fills the windows from the file and from the log behind its mark.
pub(super) fn rebuild(dedup: &Dedup, store: &Store) {
    let end = store.log_end();
    let mark = match dedup.file.file.load::<Written>() {
        Ok(Some(written)) if written.crc32 == sum(&written.windows) => {
            let mark = PhysicalOffset::new(written.mark).min(end);
            *dedup.table.lock() = tables(written.windows, end);
            mark
        }
        Ok(None) => end,
        Ok(Some(_)) | Err(_) => {
            tracing::warn!(
                file = %dedup.file.file.path().display(),
                "the windows of producers do not hold and are rebuilt from the whole log"
            );
            PhysicalOffset::new(0)
        }
    };
    let mut scan = Scan { dedup, last: None };
    let stopped = store.scan(mark, |record| scan.record(record));
    if stopped < end {
        tracing::warn!(
            at = stopped.number(),
            "the log was not read to its end for the windows of producers: a repeat may be stored twice"
        );
    }
    *dedup.file.mark.lock() = mark;
    // Without a file the next open would not know where to begin.
    if !dedup.file.file.path().exists() {
        save(dedup, store);
    }
    save_if_far(dedup, store);
}

fn tables(windows: Vec<WrittenWindow>, end: PhysicalOffset) -> HashMap<Box<str>, Window> {
    let first = |written: WrittenFirst| {
        let WrittenFirst(sequence, physical, bytes, queue_offset, queue, count, topic_sum) =
            written;
        let first = First {
            physical: PhysicalOffset::new(physical),
            queue_offset: QueueOffset::new(queue_offset),
            queue: QueueId::new(queue),
            bytes,
            count,
            topic_sum,
        };
        (sequence, first)
    };
    windows
        .into_iter()
        .map(|window| {
            // What a crash took from the end of the log was not stored.
            let stored = window.stored.into_iter().map(first);
            let stored = stored.filter(|(_, first)| first.end() <= end).collect();
            let whole = Window::of(window.floor, window.last, stored);
            (window.producer.into(), whole)
        })
        .collect()
}

/// Goes over the log.
struct Scan<'d> {
    dedup: &'d Dedup,
    /// The record before, if it may be followed by more of its batch.
    last: Option<Last>,
}

struct Last {
    producer: Box<str>,
    sequence: u64,
    topic: String,
    queue: QueueId,
    end: u64,
}

impl Scan<'_> {
    fn record(&mut self, record: &RecordView<'_>) {
        let last = self.last.take();
        let Some(identity) = identity_of(record) else {
            return;
        };
        let place = record.physical_offset().number();
        let bytes = u32::try_from(record.bytes().len()).unwrap_or(u32::MAX);
        if let Some(mut last) = last
            && (&*last.producer, last.sequence) == (identity.producer, identity.sequence)
            && (last.topic.as_str(), last.queue) == (record.topic(), record.queue_id())
            && last.end == place
        {
            last.end += u64::from(bytes);
            if let Some(window) = self.dedup.table.lock().get_mut(identity.producer) {
                window.extend(identity.sequence, bytes);
            }
            self.last = Some(last);
            return;
        }
        self.first(record, identity, bytes);
    }

    fn first(&mut self, record: &RecordView<'_>, identity: Identity<'_>, bytes: u32) {
        let properties = record.properties();
        let real_topic = properties.get(properties::REAL_TOPIC);
        let waits_elsewhere = matches!(
            record.topic(),
            topic::TRANS_HALF | topic::SCHEDULE | topic::TIMER_WHEEL
        );
        let real_queue = properties
            .get(properties::REAL_QID)
            .and_then(|text| text.parse().ok())
            .filter(|_| waits_elsewhere)
            .map(QueueId::new);
        let topic = real_topic
            .filter(|_| waits_elsewhere)
            .unwrap_or(record.topic());
        let first = First {
            physical: record.physical_offset(),
            queue_offset: record.queue_offset(),
            queue: real_queue.unwrap_or(record.queue_id()),
            bytes,
            count: 1,
            topic_sum: topic_sum(topic),
        };
        let mut table = self.dedup.table.lock();
        let (time, most) = (record.store_timestamp(), self.dedup.window);
        if !table.contains_key(identity.producer) {
            if table.len() >= self.dedup.producers_max {
                // The one that made room for it then is the one that was silent for longest.
                let silent = table.iter().min_by_key(|(_, window)| window.last_ms);
                if let Some(silent) = silent.map(|(producer, _)| producer.clone()) {
                    table.remove(&silent);
                }
            }
            table.insert(identity.producer.into(), Window::new(time));
        }
        let Some(window) = table.get_mut(identity.producer) else {
            return;
        };
        let was_there = !matches!(window.look(identity.sequence), super::window::Seen::New);
        window.stored(identity.sequence, first, time, most);
        drop(table);
        self.last = (!was_there && !waits_elsewhere).then(|| Last {
            producer: identity.producer.into(),
            sequence: identity.sequence,
            topic: record.topic().to_owned(),
            queue: record.queue_id(),
            end: first.end().number(),
        });
    }
}

/// The identity of a message as a producer sent it; copies that the broker made of it have none.
fn identity_of<'r>(record: &RecordView<'r>) -> Option<Identity<'r>> {
    let is_copy = record.prepared_transaction_offset() != 0
        || record.reconsume_times() > 0
        || record.topic() == topic::TRANS_CHECK_MAX_TIME
        || record.topic().starts_with(topic::RETRY_PREFIX)
        || record.topic().starts_with(topic::DLQ_PREFIX);
    if is_copy {
        return None;
    }
    let (mut producer, mut sequence) = (None, None);
    for (name, value) in record.properties().iter() {
        match name {
            PRODUCER_ID => producer = Some(value),
            SEQUENCE => sequence = Some(value),
            _ => {}
        }
    }
    Identity::of(producer, sequence).ok().flatten()
}
