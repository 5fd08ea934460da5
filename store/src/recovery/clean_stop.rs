//! What a clean stop left: whether it still fits the log, and the queues taken over from it.

use std::sync::Arc;

use agena_protocol::queue::QueueId;

use super::scan::record_at;
use crate::consume_queue::{Kind, Queue};
use crate::entry_log::QueueName;
use crate::queue_table::QueueTable;
use crate::segment::SegmentWriter;
use crate::snapshot::Snapshot;

/// Whether the log is still the one that the clean stop left.
pub(super) fn snapshot_holds(snapshot: &Snapshot, writers: &[SegmentWriter]) -> bool {
    let Some(last) = writers.last() else {
        return snapshot.log_end == 0 && snapshot.queues.is_empty();
    };
    let segment = last.segment();
    let Some(last_record) = snapshot.last_record else {
        return false;
    };
    if last_record < segment.base() || snapshot.log_end > segment.limit() {
        return false;
    }
    let ends_there = matches!(
        record_at(last, last_record),
        Ok(record) if last_record + record.bytes().len() as u64 == snapshot.log_end
    );
    // Somebody else may have appended.
    ends_there && record_at(last, snapshot.log_end).is_err()
}

/// Takes the queues over from the snapshot; false when files are not there that should be.
pub(super) fn restore_queues(snapshot: &Snapshot, queues: &QueueTable) -> bool {
    let mut topic: Arc<str> = Arc::from("");
    let mut restored = Vec::with_capacity(snapshot.queues.len());
    for known in &snapshot.queues {
        if *topic != *known.topic {
            topic = Arc::from(known.topic.as_str());
        }
        let kind = if known.is_batch {
            Kind::Batch
        } else {
            Kind::Simple
        };
        let files = queues.files(kind);
        let name = QueueName::new(Arc::clone(&topic), QueueId::new(known.id));
        let found = (known.first_file, known.behind_file);
        if found.0 < found.1 && !files.has_file(&name, found.1 - 1) {
            return false;
        }
        restored.push(if known.is_known {
            let queue = Queue::new(name, kind, files);
            queue.restore(files, found, known.summary());
            queue
        } else {
            Queue::on_disk(name, kind, files, found)
        });
    }
    for queue in restored {
        queues.insert(queue);
    }
    true
}
