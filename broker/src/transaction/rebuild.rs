//! The table of pending halves, derived from the half and op topics when a store opens.
//!
//! From the progress marks on: every half that no op record names is pending. After an unclean end one more look: a
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
        };
        each_record(store, topic::TRANS_HALF, QUEUE, progress.half, |record| {
            transactions.half_appeared(record, config);
        });
        each_record(store, topic::TRANS_OP_HALF, QUEUE, progress.op, |record| {
            transactions
                .halves
                .op_appeared(record.queue_offset(), &halves_of(record.body()));
        });
        if !ended_cleanly {
            let found = resolved_without_op(store, &transactions.halves, progress.half);
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

/// Halves whose commit or parked copy is in the log although no op record says so.
fn resolved_without_op(store: &Store, pending: &Halves, from: QueueOffset) -> Vec<QueueOffset> {
    let mut open: HashMap<(String, QueueId), HashMap<PhysicalOffset, QueueOffset>> = HashMap::new();
    each_record(store, topic::TRANS_HALF, QUEUE, from, |record| {
        if pending.get(record.queue_offset()).is_none() {
            return;
        }
        let properties = record.properties();
        let Some(topic) = properties.get(properties::REAL_TOPIC) else {
            return;
        };
        let queue = properties
            .get(properties::REAL_QID)
            .and_then(|text| text.parse().ok());
        let real = (topic.to_owned(), QueueId::new(queue.unwrap_or(0)));
        let timer = (topic::TIMER_WHEEL.to_owned(), QUEUE);
        let parked = (topic::TRANS_CHECK_MAX_TIME.to_owned(), QUEUE);
        for queue in [real, timer, parked] {
            open.entry(queue)
                .or_default()
                .insert(record.physical_offset(), record.queue_offset());
        }
    });
    let mut found = Vec::new();
    for ((topic, queue), halves) in open {
        let max = store.max_offset(&topic, queue).number();
        let tail = QueueOffset::new(max.saturating_sub(TAIL_MESSAGES));
        let tail = tail.max(store.min_offset(&topic, queue));
        each_record(store, &topic, queue, tail, |record| {
            let prepared = PhysicalOffset::from_wire(record.prepared_transaction_offset());
            found.extend(prepared.and_then(|prepared| halves.get(&prepared)).copied());
        });
    }
    found
}

/// Writes the op record that a crash swallowed. When that fails the halves stay resolved in memory, and the next open
/// finds them again.
fn complete(
    store: &Store,
    advertised: SocketAddr,
    clock: &dyn Clock,
    halves: &Halves,
    found: &[QueueOffset],
) {
    if found.is_empty() {
        return;
    }
    for half in found {
        halves.claim(*half);
    }
    let body: String = found
        .iter()
        .map(|half| format!("{},", half.number()))
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
