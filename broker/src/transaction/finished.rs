//! Transactions that are finished although no op record says so.
//!
//! A commit of ours is appended in front of its op record, so a power cut between them leaves a commit without one. The
//! original writes op records up to seconds later, also at an orderly stop, so a store taken over from it may have more of
//! these; and it appends a half again each time it asks for it, or puts it off, so one transaction may be pending twice. A
//! half is finished if
//! - its commit, or that of a copy of it, or its parked copy stands at the end of the queue it belongs in,
//! - the original appended it again, and the copy is pending, or
//! - it is a copy (`TRAN_PREPARED_QUEUE_OFFSET`) of a half that an op record names.
//!
//! Source: spec/semantics.md §6.1, §6.2; Apache `TransactionalMessageServiceImpl.check`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::properties::{self, Properties};
use agena_protocol::queue::QueueId;
use agena_protocol::record::RecordView;
use agena_protocol::sys_flag::TransactionState;
use agena_protocol::topic;
use agena_store::{Boundary, Store};

use super::QUEUE;
use super::half::Halves;
use super::rebuild::{READ_MESSAGES, Resolved, each_record};

/// Op records follow their commits within this time, in the original.
const OP_LAG_MS: i64 = 60_000;

/// The last messages of a queue that are looked at for commits, however old they are, and however many there are in that time.
const TAIL_MESSAGES: (u64, u64) = (1_024, 262_144);

/// What all halves of a transaction share: `UNIQ_KEY` and the sum of the body.
type Name = (String, u32);

/// The pending halves, as their ends may name them.
#[derive(Default)]
struct Waiting {
    by_place: HashMap<PhysicalOffset, (QueueOffset, Option<Rc<Name>>)>,
    by_name: HashMap<Rc<Name>, Vec<Named>>,
}

struct Named {
    at: QueueOffset,
    place: PhysicalOffset,
    group: Arc<str>,
    is_copy: bool,
}

/// A queue in which ends may stand.
#[derive(Clone, Copy)]
struct Span {
    /// The first of the halves.
    oldest: PhysicalOffset,
    /// When the first of those was sent that are copies now: their ends may stand in front of them.
    copied_since_ms: Option<i64>,
}

/// Pending halves that are finished, each with its place in the log, in the order of the half queue.
pub(super) fn finished_without_op(
    store: &Store,
    pending: &Halves,
    resolved: &Resolved,
) -> Vec<(QueueOffset, PhysicalOffset)> {
    let queues: HashSet<(String, QueueId)> = store.queues().into_iter().collect();
    let levels: Vec<_> = queues
        .iter()
        .filter(|(topic, _)| topic == topic::SCHEDULE)
        .cloned()
        .collect();
    let mut waiting = Waiting::default();
    let mut spans: HashMap<(String, QueueId), Span> = HashMap::new();
    let mut found = BTreeMap::new();
    each_half(store, pending, |at, group, half| {
        let (place, properties) = (half.physical_offset(), half.properties());
        if first_of(properties).is_some_and(|first| resolved.has(first)) {
            found.insert(at, place);
        }
        let is_copy = is_copy(properties);
        waiting.add(name_of(half), at, group, place, is_copy);
        let sent_ms = Some(half.born_timestamp()).filter(|_| is_copy);
        for queue in queues_of_end(half, &levels) {
            if !queues.contains(&queue) {
                continue;
            }
            let span = spans.entry(queue).or_insert(Span {
                oldest: place,
                copied_since_ms: sent_ms,
            });
            let earliest = [span.copied_since_ms, sent_ms];
            span.copied_since_ms = earliest.into_iter().flatten().min();
        }
    });
    found.extend(waiting.appended_again());
    for ((topic, queue), span) in spans {
        let tail = span.tail_of(store, &topic, queue);
        each_record(store, &topic, queue, tail, |record| {
            found.extend(waiting.take_ended_by(store, record));
        });
    }
    found.into_iter().collect()
}

impl Waiting {
    fn add(
        &mut self,
        name: Option<Name>,
        at: QueueOffset,
        group: &Arc<str>,
        place: PhysicalOffset,
        is_copy: bool,
    ) {
        let name = name.map(Rc::new);
        self.by_place.insert(place, (at, name.clone()));
        if let Some(name) = name {
            let group = group.clone();
            self.by_name.entry(name).or_default().push(Named {
                at,
                place,
                group,
                is_copy,
            });
        }
    }

    /// Halves in front of a copy of them.
    fn appended_again(&self) -> Vec<(QueueOffset, PhysicalOffset)> {
        let mut found = Vec::new();
        let mut copied = HashSet::new();
        for halves in self.by_name.values().filter(|halves| halves.len() > 1) {
            copied.clear();
            for half in halves.iter().rev() {
                if copied.contains(&half.group) {
                    found.push((half.at, half.place));
                }
                if half.is_copy {
                    copied.insert(half.group.clone());
                }
            }
        }
        found
    }

    /// Takes the halves that this record of a real topic or of the parked ones' is the end of.
    fn take_ended_by(
        &mut self,
        store: &Store,
        record: &RecordView<'_>,
    ) -> Vec<(QueueOffset, PhysicalOffset)> {
        let is_parked = record.topic() == topic::TRANS_CHECK_MAX_TIME;
        if !is_parked && TransactionState::of(record.sys_flag()) != TransactionState::Commit {
            return Vec::new();
        }
        let name = name_of(record);
        let place = PhysicalOffset::from_wire(record.prepared_transaction_offset());
        if let Some(place) = place
            && let Some((at, of)) = self.by_place.get(&place)
            && of.as_deref() == name.as_ref()
        {
            return vec![(*at, place)];
        }
        let Some(halves) = name.and_then(|name| self.by_name.get_mut(&name)) else {
            return Vec::new();
        };
        let end = record.physical_offset();
        let is_through_copy = || place.is_some_and(|place| is_copy_at(store, place));
        let is_of: Box<dyn Fn(&Named) -> bool> = if is_parked {
            // The original does not say which half it parked; if it is pending again, it stands behind that.
            let is_unnamed = record.prepared_transaction_offset() == 0;
            Box::new(move |half| is_unnamed && half.place < end)
        } else if is_through_copy() {
            Box::new(|_| true)
        } else {
            Box::new(|half| half.is_copy)
        };
        let ended = halves.extract_if(.., |half| is_of(half));
        ended.map(|half| (half.at, half.place)).collect()
    }
}

impl Span {
    /// From where the queue is looked at.
    fn tail_of(self, store: &Store, topic: &str, queue: QueueId) -> QueueOffset {
        let max = store.max_offset(topic, queue).number();
        let back = |messages: u64| QueueOffset::new(max.saturating_sub(messages));
        let last_ms = store.store_time_at(topic, queue, back(1)).unwrap_or(0);
        let since = |time_ms| store.offset_by_time(topic, queue, time_ms, Boundary::Lower);
        let young = since(last_ms.saturating_sub(OP_LAG_MS)).min(back(TAIL_MESSAGES.0));
        // An end stands behind its half, unless it is that of a half which was copied later.
        let behind = store.offset_at(topic, queue, self.oldest.number());
        let tail = match self.copied_since_ms {
            Some(sent_ms) => since(sent_ms).min(young),
            None => young.max(behind),
        };
        tail.max(back(TAIL_MESSAGES.1))
            .max(store.min_offset(topic, queue))
    }
}

fn is_copy_at(store: &Store, place: PhysicalOffset) -> bool {
    let half = store.record_at(place);
    half.is_some_and(|half| {
        RecordView::parse(&half)
            .is_ok_and(|half| half.topic() == topic::TRANS_HALF && is_copy(half.properties()))
    })
}

/// Whether the original appended this half again.
fn is_copy(properties: Properties<'_>) -> bool {
    first_of(properties).is_some()
        || properties
            .get(properties::TRANSACTION_CHECK_TIMES)
            .is_some()
}

/// The half that this one was made of to put it off.
fn first_of(properties: Properties<'_>) -> Option<QueueOffset> {
    let first = properties.get(properties::TRAN_PREPARED_QUEUE_OFFSET)?;
    first.parse().ok().map(QueueOffset::new)
}

fn name_of(record: &RecordView<'_>) -> Option<Name> {
    let id = record.properties().get(properties::UNIQ_KEY)?;
    Some((id.to_owned(), record.body_crc()))
}

/// Every pending half with its record, in the order of the log.
fn each_half(
    store: &Store,
    pending: &Halves,
    mut each: impl FnMut(QueueOffset, &Arc<str>, &RecordView<'_>),
) {
    let mut from = Some(QueueOffset::new(0));
    while let Some(at) = from {
        let (page, next) = pending.page(None, at, READ_MESSAGES);
        from = next;
        for (at, half) in page {
            if let Some(bytes) = store.record_at(half.physical)
                && let Ok(record) = RecordView::parse(&bytes)
            {
                each(at, &half.group, &record);
            }
        }
    }
}

/// The queues in which the end of a half may stand.
fn queues_of_end(half: &RecordView<'_>, levels: &[(String, QueueId)]) -> Vec<(String, QueueId)> {
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
