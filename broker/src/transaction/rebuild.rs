//! The table of pending halves, derived from the half and op topics when a store opens.
//!
//! From the progress marks on: every half that no op record names is pending. Op records are read first, so that of the
//! halves only those are read that are pending; of the others a bit each is all that is needed. So opening takes one
//! short record for each transaction since the oldest pending one, and one message for each pending one.
//!
//! After an unclean end one more look: a
//! commit is appended in front of its op record, so a power cut between them leaves a commit without one. Such a commit
//! is among the last messages of its queue and carries the half's place in `preparedTransactionOffset`. The original
//! writes op records seconds later, so a store taken over from it after a crash may have more of these.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use agena_protocol::clock::Clock;
use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::properties;
use agena_protocol::queue::QueueId;
use agena_protocol::record::{RecordView, records};
use agena_protocol::topic;
use agena_store::{Everything, ReadRequest, Residency, Store};
use parking_lot::Mutex;

use super::checks::Checks;
use super::half::{Halves, Progress};
use super::{Counters, PROGRESS_GROUP, QUEUE, Transactions, halves_of, op_message, op_properties};
use crate::config::BrokerConfig;
use crate::offsets::Offsets;

/// How many of the last messages of a queue are looked at for commits without an op record.
const TAIL_MESSAGES: u64 = 1_024;

/// Messages of one read.
const READ_MESSAGES: usize = 1_024;

impl Transactions {
    /// Rebuilds the table from the store.
    pub(crate) fn open(
        store: &Store,
        offsets: &Offsets,
        checks: Checks,
        config: &BrokerConfig,
        advertised: SocketAddr,
        clock: Arc<dyn Clock>,
        ended_cleanly: bool,
    ) -> Self {
        let mark = |topic: &str| {
            let (min, max) = (
                store.min_offset(topic, QUEUE),
                store.max_offset(topic, QUEUE),
            );
            // Behind the end after a crash that cost the log its tail.
            offsets
                .query(PROGRESS_GROUP, topic, QUEUE)
                .unwrap_or(min)
                .clamp(min, max)
        };
        let progress = Progress {
            half: mark(topic::TRANS_HALF),
            op: mark(topic::TRANS_OP_HALF),
        };
        let transactions = Self {
            halves: Halves::starting_at(progress),
            checks,
            changed: tokio::sync::Notify::new(),
            clock,
            counters: Counters::default(),
            marks: Mutex::default(),
            resumed: Mutex::default(),
        };
        let end = store.max_offset(topic::TRANS_HALF, QUEUE);
        let mut resolved = Resolved::between(progress.half, end);
        each_record(store, topic::TRANS_OP_HALF, QUEUE, progress.op, |record| {
            let halves = halves_of(record.body());
            transactions
                .halves
                .op_appeared(record.queue_offset(), &halves);
            halves.into_iter().for_each(|half| resolved.set(half));
        });
        each_pending(store, &resolved, end, |record| {
            transactions.half_appeared(record, config);
        });
        transactions.halves.expect(end);
        if !ended_cleanly {
            let found = resolved_without_op(store, &transactions.halves);
            complete(
                store,
                advertised,
                &*transactions.clock,
                &transactions.halves,
                &found,
            );
        }
        for (half, times) in transactions.checks.remembered() {
            transactions.halves.remember_checks(half, times);
        }
        transactions
    }
}

/// A bit for each half from the progress mark on: whether an op record names it.
struct Resolved {
    from: QueueOffset,
    bits: Vec<u64>,
}

impl Resolved {
    fn between(from: QueueOffset, end: QueueOffset) -> Self {
        let count = end.number().saturating_sub(from.number());
        let words = usize::try_from(count.div_ceil(64)).unwrap_or(0);
        Self {
            from,
            bits: vec![0; words],
        }
    }

    fn place(&self, half: QueueOffset) -> Option<(usize, u64)> {
        let number = half.number().checked_sub(self.from.number())?;
        Some((usize::try_from(number / 64).ok()?, 1 << (number % 64)))
    }

    fn set(&mut self, half: QueueOffset) {
        if let Some((word, bit)) = self.place(half)
            && let Some(word) = self.bits.get_mut(word)
        {
            *word |= bit;
        }
    }

    fn has(&self, half: QueueOffset) -> bool {
        self.place(half)
            .and_then(|(word, bit)| Some(self.bits.get(word)? & bit != 0))
            .unwrap_or(false)
    }
}

/// The records of the halves that no op record names.
fn each_pending(
    store: &Store,
    resolved: &Resolved,
    end: QueueOffset,
    mut each: impl FnMut(&RecordView<'_>),
) {
    let mut at = resolved.from;
    while at < end {
        let entries = store.entries(topic::TRANS_HALF, QUEUE, at, READ_MESSAGES);
        // None in a stretch that was damaged: the next may have some.
        let step = u64::try_from(READ_MESSAGES).unwrap_or(1);
        let next = entries
            .last()
            .map_or(at.plus(step), |entry| entry.queue_offset.plus(1));
        for entry in entries.iter().filter(|e| !resolved.has(e.queue_offset)) {
            let record = store.record_at(PhysicalOffset::new(entry.physical_offset));
            if let Some(record) = record
                && let Ok(record) = RecordView::parse(&record)
                && record.topic() == topic::TRANS_HALF
            {
                each(&record);
            }
        }
        at = next;
    }
}

/// Halves whose commit or parked copy is in the log although no op record says so.
fn resolved_without_op(store: &Store, pending: &Halves) -> Vec<(QueueOffset, PhysicalOffset)> {
    let mut open: HashMap<(String, QueueId), HashMap<PhysicalOffset, QueueOffset>> = HashMap::new();
    let levels: Vec<_> = store
        .queues()
        .into_iter()
        .filter(|(topic, _)| topic == topic::SCHEDULE)
        .collect();
    let mut from = Some(QueueOffset::new(0));
    while let Some(at) = from {
        let (page, next) = pending.page(None, at, READ_MESSAGES);
        from = next;
        for (at, half) in page {
            let Some(bytes) = store.record_at(half.physical) else {
                continue;
            };
            let Ok(record) = RecordView::parse(&bytes) else {
                continue;
            };
            for queue in queues_of_commit(&record, &levels) {
                open.entry(queue).or_default().insert(half.physical, at);
            }
        }
    }
    let mut found = Vec::new();
    for ((topic, queue), halves) in open {
        let max = store.max_offset(&topic, queue).number();
        let tail = QueueOffset::new(max.saturating_sub(TAIL_MESSAGES));
        let tail = tail.max(store.min_offset(&topic, queue));
        each_record(store, &topic, queue, tail, |record| {
            let prepared = PhysicalOffset::from_wire(record.prepared_transaction_offset());
            let half = prepared.and_then(|prepared| halves.get_key_value(&prepared));
            found.extend(half.map(|(physical, at)| (*at, *physical)));
        });
    }
    found
}

/// The queues in which the outcome of a half may stand.
fn queues_of_commit(half: &RecordView<'_>, levels: &[(String, QueueId)]) -> Vec<(String, QueueId)> {
    let properties = half.properties();
    let Some(topic) = properties.get(properties::REAL_TOPIC) else {
        return Vec::new();
    };
    let queue = properties
        .get(properties::REAL_QID)
        .and_then(|text| text.parse().ok());
    let mut queues = vec![
        (topic.to_owned(), QueueId::new(queue.unwrap_or(0))),
        (topic::TIMER_WHEEL.to_owned(), QUEUE),
        (topic::TRANS_CHECK_MAX_TIME.to_owned(), QUEUE),
    ];
    if properties.get(properties::DELAY).is_some() {
        queues.extend_from_slice(levels);
    }
    queues
}

/// Writes the op record that a crash swallowed. When that fails the halves stay resolved in memory, and the next open
/// finds them again.
fn complete(
    store: &Store,
    advertised: SocketAddr,
    clock: &dyn Clock,
    halves: &Halves,
    found: &[(QueueOffset, PhysicalOffset)],
) {
    if found.is_empty() {
        return;
    }
    for (half, physical) in found {
        halves.claim(*half, *physical);
    }
    let body: String = found
        .iter()
        .map(|(half, _)| format!("{},", half.number()))
        .collect();
    let properties = op_properties();
    let mut batch = store.batch();
    let written = batch
        .push(op_message(&body, &properties, advertised, clock.now_ms()))
        .map_err(|illegal| illegal.to_string())
        .and_then(|()| store.append(&mut batch).map_err(|error| error.to_string()));
    match written {
        Ok(_) => tracing::info!(
            count = found.len(),
            "commits whose op records a crash swallowed were completed"
        ),
        Err(fault) => tracing::warn!(
            fault,
            "op records of finished transactions could not be written"
        ),
    }
}

/// Every record of a queue from `from` on.
fn each_record(
    store: &Store,
    topic: &str,
    queue: QueueId,
    from: QueueOffset,
    mut each: impl FnMut(&RecordView<'_>),
) {
    let mut at = from;
    loop {
        let request = ReadRequest {
            topic,
            queue_id: queue,
            offset: at.wire(),
            messages_max: READ_MESSAGES,
            bytes_max: None,
            residency: Residency::Anywhere,
        };
        let outcome = store.read(&request, &Everything);
        for slice in &outcome.records {
            records(slice)
                .filter_map(Result::ok)
                .for_each(|record| each(&record));
        }
        if outcome.next_offset <= at {
            return;
        }
        at = outcome.next_offset;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_says_what_is_resolved_and_nonsense_sets_none() {
        let at = QueueOffset::new;
        let mut resolved = Resolved::between(at(100), at(300));
        for half in [100, 163, 164, 299, 7, 100_000, u64::MAX] {
            resolved.set(at(half));
        }
        let set: Vec<_> = (0..400).filter(|half| resolved.has(at(*half))).collect();
        assert_eq!(set, [100, 163, 164, 299]);
    }
}
