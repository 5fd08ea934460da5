//! The table of pending halves, derived from the half and op topics when a store opens.
//!
//! From the progress marks on: every half that no op record names is pending. Op records are read first, so that of the
//! halves only those are read that are pending; of the others a bit each is all that is needed. So opening takes one
//! short record for each transaction since the oldest pending one, and one message for each pending one.
//!
//! One more look follows, unless the log was closed by us in order: for transactions that are finished although no op record
//! says so ([`finished_without_op`]). Their op records are written then.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::clock::Clock;
use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::queue::QueueId;
use agena_protocol::record::{RecordView, records};
use agena_protocol::topic;
use agena_store::{Everything, ReadRequest, Residency, Store};
use parking_lot::Mutex;

use super::checks::Checks;
use super::finished::finished_without_op;
use super::half::{Half, Halves, Progress};
use super::{Counters, PROGRESS_GROUP, QUEUE, Transactions, halves_of, op_message, op_properties};
use crate::config::BrokerConfig;
use crate::offsets::Offsets;

/// Halves that one op record names when many are completed; the original's limit is 4,096 characters.
const COMPLETED_PART: usize = 200;

/// Halves in front of the progress mark that are kept as resolved; op records name few of them.
const BEFORE_MAX: usize = 100_000;

/// Messages of one read.
pub(super) const READ_MESSAGES: usize = 1_024;

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
        let end = store.max_offset(topic::TRANS_HALF, QUEUE);
        let transactions = Self {
            halves: Halves::starting_at(progress, end),
            checks,
            changed: tokio::sync::Notify::new(),
            clock,
            counters: Counters::default(),
            marks: Mutex::default(),
            resumed: Mutex::default(),
        };
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
        if !ended_cleanly || transactions.checks.closed_at() != Some(store.log_end()) {
            let found = finished_without_op(store, &transactions.halves, &resolved);
            complete(store, advertised, &transactions, &found);
        }
        transactions.remember_checks(config);
        transactions
    }

    /// What the journal knows of the halves that are pending. One whose last question is young waits for its answer.
    fn remember_checks(&self, config: &BrokerConfig) {
        let (now, now_ms) = (self.clock.monotonic(), self.clock.now_ms());
        let interval = config.transaction_check_interval;
        for (at, asked) in self.checks.remembered() {
            let is_it = |half: &Half| half.physical == asked.place;
            if !self.halves.get(at).is_some_and(|half| is_it(&half)) {
                self.checks.forget(&[at]);
                continue;
            }
            let since = now_ms.saturating_sub(asked.asked_ms).max(0).unsigned_abs();
            let wait = interval.saturating_sub(Duration::from_millis(since));
            self.halves.remember_checks(at, asked.times, now + wait);
        }
    }
}

/// A bit for each half from the progress mark on: whether an op record names it; and those in front of it that one names.
pub(super) struct Resolved {
    from: QueueOffset,
    bits: Vec<u64>,
    before: BTreeSet<QueueOffset>,
}

impl Resolved {
    fn between(from: QueueOffset, end: QueueOffset) -> Self {
        let count = end.number().saturating_sub(from.number());
        let words = usize::try_from(count.div_ceil(64)).unwrap_or(0);
        Self {
            from,
            bits: vec![0; words],
            before: BTreeSet::new(),
        }
    }

    fn place(&self, half: QueueOffset) -> Option<(usize, u64)> {
        let number = half.number().checked_sub(self.from.number())?;
        Some((usize::try_from(number / 64).ok()?, 1 << (number % 64)))
    }

    fn set(&mut self, half: QueueOffset) {
        if half < self.from && self.before.len() < BEFORE_MAX {
            self.before.insert(half);
        }
        if let Some((word, bit)) = self.place(half)
            && let Some(word) = self.bits.get_mut(word)
        {
            *word |= bit;
        }
    }

    pub(super) fn has(&self, half: QueueOffset) -> bool {
        if half < self.from {
            return self.before.contains(&half);
        }
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

/// Writes the op records that a crash swallowed. When that fails the halves stay claimed in memory, the mark stays in front of
/// them, and the next open finds them again.
fn complete(
    store: &Store,
    advertised: SocketAddr,
    transactions: &Transactions,
    found: &[(QueueOffset, PhysicalOffset)],
) {
    if found.is_empty() {
        return;
    }
    let halves = &transactions.halves;
    for (half, physical) in found {
        halves.claim(*half, *physical);
    }
    let now_ms = transactions.clock.now_ms();
    let properties = op_properties();
    for part in found.chunks(COMPLETED_PART) {
        let part: Vec<_> = part.iter().map(|(half, _)| *half).collect();
        let body: String = part
            .iter()
            .map(|half| format!("{},", half.number()))
            .collect();
        let mut batch = store.batch();
        let written = batch
            .push(op_message(&body, &properties, advertised, now_ms))
            .map_err(|illegal| illegal.to_string())
            .and_then(|()| store.append(&mut batch).map_err(|error| error.to_string()));
        match written {
            Ok(appended) => {
                // Dispatch, which may come now or with the next sync, finds nobody to tell yet, or tells it twice.
                for placed in &appended.placed {
                    halves.op_appeared(placed.queue_offset, &part);
                }
                part.iter().for_each(|half| halves.settled(*half));
            }
            Err(fault) => {
                tracing::warn!(
                    fault,
                    "op records of finished transactions could not be written"
                );
                return;
            }
        }
    }
    tracing::info!(
        count = found.len(),
        "finished transactions without op records were completed"
    );
}

/// Every record of a queue from `from` on.
pub(super) fn each_record(
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
        assert_eq!(set, [7, 100, 163, 164, 299]);
    }
}
