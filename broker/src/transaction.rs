//! Half messages and their end: prepare, commit, roll back; asking back is [`check_back`]'s work.
//!
//! A half message is stored in the half topic in RocketMQ's own form. Commit appends the message to its real queue and,
//! in the same all-or-nothing append, the op record that names the half; rollback appends the op record alone. So a
//! crash between the two leaves at most a commit as the last record of the log, which [`finished`] recognises: nothing is delivered twice, nothing is lost. A second end of the same transaction finds
//! it resolved and does nothing. Apache: `EndTransactionProcessor`, `TransactionalMessageBridge`; there op records
//! follow seconds later, and two commits deliver twice.
//! Source: spec/semantics.md §6, spec/store.md §6.3, spec/wire.md §4.3.4.

pub(crate) mod check_back;
pub(crate) mod checks;
pub(crate) mod end;
mod finished;
mod half;
pub(crate) mod operators;
mod rebuild;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agena_protocol::clock::Clock;
use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::properties::{self, Properties, PropertiesBuf};
use agena_protocol::queue::QueueId;
use agena_protocol::record::RecordView;
use agena_protocol::response_code::ResponseCode;
use agena_protocol::sys_flag::TransactionState;
use agena_protocol::topic;
use agena_store::{Ack, Dispatched, NewMessage};
use parking_lot::Mutex;

use crate::broker::Broker;
use crate::config::BrokerConfig;
use crate::send::{Redirect, Refused, not_stored};
use checks::Checks;
use half::{Claim, Halves, Progress};
pub(crate) use half::{GroupSummary, Half};

/// The group whose consumer offsets tell how far the half and op queues are done with.
pub(crate) const PROGRESS_GROUP: &str = "CID_RMQ_SYS_TRANS";

/// Half and op topics have one queue.
pub(crate) const QUEUE: QueueId = QueueId::new(0);

/// A producer group's name; clients have the same limit. It is kept in memory for each pending half.
pub(crate) const GROUP_BYTES_MAX: usize = 255;

/// The tag of op records; the only thing they are used for is to say "done".
const OP_TAG: &str = "d";

/// Properties with a number of questions more; a store that adds a sum to each record needs some room itself.
const PROPERTIES_MAX: usize = properties::PROPERTIES_BYTES_MAX - 64;

/// `commitOrRollback` on the wire.
const COMMIT: i32 = 8;
const ROLLBACK: i32 = 12;

/// All transactions of this broker.
#[derive(Debug)]
pub(crate) struct Transactions {
    halves: Halves,
    checks: Checks,
    /// Wakes the check-back task: something may be due earlier than it thinks.
    changed: tokio::sync::Notify,
    clock: Arc<dyn Clock>,
    counters: Counters,
    marks: Mutex<Marks>,
    resumed: Mutex<operators::Resumed>,
}

/// Progress marks on their way to the consumer offsets.
#[derive(Debug, Default)]
struct Marks {
    /// What holds once the log is on the device up to the offset.
    waiting: Option<(Progress, PhysicalOffset)>,
    /// The op mark that belongs to the half mark which is kept.
    op: Option<QueueOffset>,
}

/// Totals since start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    committed: AtomicU64,
    rolled_back: AtomicU64,
    checks_sent: AtomicU64,
    parked: AtomicU64,
}

/// Totals since start, and what is pending, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Halves that wait for their end.
    pub pending: usize,
    /// Store time of the oldest of them; wall clock, ms.
    pub oldest_ms: Option<i64>,
    /// Messages that were delivered by a commit.
    pub committed: u64,
    /// Halves that were rolled back.
    pub rolled_back: u64,
    /// Questions to producers.
    pub checks_sent: u64,
    /// Halves that nobody decided in time.
    pub parked: u64,
}

impl Transactions {
    /// Hears of the half and op records that dispatch brings.
    pub(crate) fn dispatched(&self, record: &Dispatched<'_>, config: &BrokerConfig) {
        match record.topic() {
            topic::TRANS_HALF => {
                self.half_appeared(record.record, config);
                self.changed.notify_one();
            }
            topic::TRANS_OP_HALF => {
                let halves = halves_of(record.body());
                self.halves.op_appeared(record.queue_offset(), &halves);
                self.checks.forget(&halves);
            }
            _ => {}
        }
    }

    fn half_appeared(&self, record: &RecordView<'_>, config: &BrokerConfig) {
        let properties = record.properties();
        let own = immunity_ms(properties);
        let wait = own.unwrap_or_else(|| millis(config.transaction_time_out));
        // Whatever it says itself: at this age its file may go, so it is parked.
        let wait = wait.min(millis(config.file_reserved_time.duration()));
        let due_ms = record.store_timestamp().saturating_add(wait);
        // Not later than from now on: the clock may have been set back.
        let in_ms = due_ms
            .saturating_sub(self.clock.now_ms())
            .clamp(0, wait.max(0))
            .unsigned_abs();
        let checks = properties
            .get(properties::TRANSACTION_CHECK_TIMES)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        self.halves.appeared(
            record.queue_offset(),
            record.physical_offset(),
            properties.get(properties::PGROUP).unwrap_or_default(),
            record.store_timestamp(),
            checks,
            self.clock.monotonic() + Duration::from_millis(in_ms),
        );
    }

    /// Totals for operators.
    pub(crate) fn totals(&self) -> Totals {
        Totals {
            pending: self.halves.len(),
            oldest_ms: self.halves.oldest_ms(),
            committed: self.counters.committed.load(Ordering::Relaxed),
            rolled_back: self.counters.rolled_back.load(Ordering::Relaxed),
            checks_sent: self.counters.checks_sent.load(Ordering::Relaxed),
            parked: self.counters.parked.load(Ordering::Relaxed),
        }
    }

    /// Pending transactions by producer group.
    pub(crate) fn groups(&self) -> Vec<GroupSummary> {
        self.halves.groups()
    }

    /// Whether one more half may wait.
    pub(crate) fn has_room(&self, config: &BrokerConfig) -> bool {
        self.halves.len() < config.transaction_pending_max
    }

    /// A producer of this group is connected: what waited for that is asked about soon.
    pub(crate) fn producer_came(&self, group: &str) {
        if self.halves.producer_came(group) {
            self.changed.notify_one();
        }
    }

    /// Whether the half at this place still waits for its end, or is still to appear.
    pub(crate) fn is_undecided(&self, at: QueueOffset, physical: PhysicalOffset) -> bool {
        self.halves.is_undecided(at, physical)
    }

    /// Writes the progress marks as consumer offsets, where the original keeps them.
    ///
    /// A mark is written when all that it speaks of is on the device: else a power cut could take back a commit and keep
    /// the mark behind its half, which nobody would ask for again. The op mark follows one step behind the half mark, so
    /// that whichever of the two a crash keeps, no op record in front of the one names a half behind the other.
    pub(crate) fn save_progress(&self, broker: &Broker) {
        let durable = broker.store.durable_end();
        let mut marks = self.marks.lock();
        if let Some((progress, end)) = marks.waiting.take_if(|(_, end)| *end <= durable) {
            tracing::trace!(?progress, ?end, "transactions' marks move");
            let op = marks.op.replace(progress.op);
            let commit = |topic, offset| {
                broker.offsets.commit(PROGRESS_GROUP, topic, QUEUE, offset);
            };
            commit(topic::TRANS_HALF, progress.half);
            if let Some(op) = op {
                commit(topic::TRANS_OP_HALF, op);
            }
            self.checks.forget_before(progress.half);
        }
        if marks.waiting.is_none() {
            let progress = self.halves.progress();
            marks.waiting = Some((progress, broker.store.log_end()));
        }
    }

    /// The same at a stop, when everything is on the device and the offsets are written in one piece.
    pub(crate) fn save_progress_at_stop(&self, broker: &Broker) {
        self.save_progress(broker);
        self.marks.lock().waiting = None;
        self.save_progress(broker);
        self.save_progress(broker);
        if let Some(op) = self.marks.lock().op {
            broker
                .offsets
                .commit(PROGRESS_GROUP, topic::TRANS_OP_HALF, QUEUE, op);
        }
        self.checks.close(broker.store.log_end());
    }
}

/// The half offsets that the body of an op record names: `12,13,`.
fn halves_of(body: &[u8]) -> Vec<QueueOffset> {
    std::str::from_utf8(body)
        .unwrap_or_default()
        .split(',')
        .filter_map(|text| text.trim().parse().ok().map(QueueOffset::new))
        .collect()
}

/// How long a half is not asked for, if it says so itself.
fn immunity_ms(properties: Properties<'_>) -> Option<i64> {
    let seconds: i64 = properties
        .get(properties::CHECK_IMMUNITY_TIME_IN_SECONDS)?
        .trim()
        .parse()
        .ok()?;
    (seconds >= 0).then(|| seconds.saturating_mul(1000))
}

/// How old a half with a time of its own may be when its producer still decides it unasked; at least the broker's time.
fn decided_unasked_ms(properties: Properties<'_>, config: &BrokerConfig) -> Option<i64> {
    properties
        .get(properties::CHECK_IMMUNITY_TIME_IN_SECONDS)
        .filter(|text| !text.is_empty())?;
    let own = immunity_ms(properties).unwrap_or(0);
    Some(own.max(millis(config.transaction_time_out)))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Whether dispatch has to bring a record of this topic.
pub(crate) fn is_kept_in(topic: &str) -> bool {
    topic == topic::TRANS_HALF || topic == topic::TRANS_OP_HALF
}

/// Where a half message for `queue` of `topic` waits.
pub(crate) fn prepare(properties: Properties<'_>, topic: &str, queue: QueueId) -> Redirect {
    let mut encoded = PropertiesBuf::parse(properties.encoded());
    if let Some(id) = properties.get(properties::UNIQ_KEY) {
        encoded.set(properties::TRANSACTION_ID, id);
    }
    encoded.set(properties::REAL_TOPIC, topic);
    encoded.set(properties::REAL_QID, queue.number().to_string());
    Redirect {
        topic: topic::TRANS_HALF.into(),
        queue: QUEUE,
        properties: encoded.encode(),
        recall_handle: None,
    }
}

/// What becomes of a half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The message is delivered.
    Commit,
    /// The message never appears.
    RollBack,
    /// Nobody decided: the message goes to `TRANS_CHECK_MAX_TIME_TOPIC`, where an operator finds it.
    Park,
}

/// A half record and where it stands in its queue.
#[derive(Debug)]
pub(crate) struct Found {
    at: QueueOffset,
    physical: PhysicalOffset,
    record: bytes::Bytes,
}

/// What became of the attempt to resolve a half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// It is done, and durable with this.
    Now(Ack),
    /// It was resolved before; nothing was appended.
    Before,
    /// Dispatch has not brought the half yet; nothing was appended.
    NotYetSeen,
}

/// Resolves a half unless it was resolved before.
pub(crate) fn resolve(
    broker: &Arc<Broker>,
    found: &Found,
    outcome: Outcome,
) -> Result<Resolved, Refused> {
    let transactions = &broker.transactions;
    let half = match transactions.halves.claim(found.at, found.physical) {
        Claim::Pending(half) => half,
        Claim::NotYetSeen => return Ok(Resolved::NotYetSeen),
        Claim::Resolved => return Ok(Resolved::Before),
        Claim::Other => {
            return Err(Refused::new(
                ResponseCode::SystemError,
                "Find prepared transaction message failed",
            ));
        }
    };
    match append(broker, found, outcome, half.checks) {
        Ok(ack) => {
            transactions.halves.settled(found.at);
            transactions.counters.count(outcome);
            Ok(Resolved::Now(ack))
        }
        Err(refused) => {
            transactions.halves.restore(found.at, half);
            Err(refused)
        }
    }
}

impl Counters {
    fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Commit => &self.committed,
            Outcome::RollBack => &self.rolled_back,
            Outcome::Park => &self.parked,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Appends what an outcome needs, all or nothing.
fn append(
    broker: &Arc<Broker>,
    found: &Found,
    outcome: Outcome,
    checks: u32,
) -> Result<Ack, Refused> {
    let record = RecordView::parse(&found.record).map_err(|_| {
        Refused::new(
            ResponseCode::SystemError,
            "Find prepared transaction message failed",
        )
    })?;
    let target = target_of(broker, &record, outcome, checks)?;
    let op_body = format!("{},", found.at.number());
    let op_properties = op_properties();
    let store_host = broker.identity.advertised;
    let op = op_message(&op_body, &op_properties, store_host, broker.clock.now_ms());
    let mut batch = broker.store.batch();
    let pushed = match &target {
        None => batch.push(op),
        Some(target) => {
            let message = NewMessage {
                topic: &target.topic,
                queue_id: target.queue,
                flag: record.flag(),
                sys_flag: target.sys_flag,
                born_timestamp: record.born_timestamp(),
                born_host: record.born_host(),
                store_host,
                reconsume_times: record.reconsume_times(),
                prepared_transaction_offset: record.physical_offset().wire(),
                body: record.body(),
                properties: &target.properties,
                wait_for_flush: true,
            };
            batch.push_all_or_nothing(&[message, op])
        }
    };
    pushed.map_err(|illegal| Refused::new(ResponseCode::MessageIllegal, illegal.to_string()))?;
    match broker.store.append(&mut batch) {
        Ok(appended) => Ok(appended.ack),
        Err(error) => Err(not_stored(&error)),
    }
}

/// The properties of every op record.
pub(crate) fn op_properties() -> Vec<u8> {
    let mut encoded = Vec::new();
    properties::push_pair(&mut encoded, properties::TAGS, OP_TAG);
    properties::push_pair(&mut encoded, properties::WAIT, "true");
    encoded
}

/// The record that says: the halves that `body` names are resolved.
pub(crate) fn op_message<'a>(
    body: &'a str,
    properties: &'a [u8],
    advertised: SocketAddr,
    now_ms: i64,
) -> NewMessage<'a> {
    NewMessage {
        topic: topic::TRANS_OP_HALF,
        queue_id: QUEUE,
        flag: 0,
        sys_flag: 0,
        born_timestamp: now_ms,
        born_host: advertised,
        store_host: advertised,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: body.as_bytes(),
        properties,
        wait_for_flush: true,
    }
}

/// The properties with the number of questions, where they have room for it: they may be as long as properties can be.
fn with_checks(properties: Properties<'_>, checks: u32) -> Vec<u8> {
    let mut counted = PropertiesBuf::parse(properties.encoded());
    counted.set(properties::TRANSACTION_CHECK_TIMES, checks.to_string());
    let counted = counted.encode();
    if counted.len() > PROPERTIES_MAX {
        return properties.encoded().to_vec();
    }
    counted
}

/// The message that an outcome delivers, if it delivers one.
struct Target {
    topic: String,
    queue: QueueId,
    properties: Vec<u8>,
    sys_flag: i32,
}

fn target_of(
    broker: &Arc<Broker>,
    record: &RecordView<'_>,
    outcome: Outcome,
    checks: u32,
) -> Result<Option<Target>, Refused> {
    let properties = record.properties();
    match outcome {
        Outcome::RollBack => Ok(None),
        Outcome::Park => {
            broker.topics.ensure(topic::TRANS_CHECK_MAX_TIME, 1);
            Ok(Some(Target {
                topic: topic::TRANS_CHECK_MAX_TIME.to_owned(),
                queue: QUEUE,
                properties: with_checks(properties, checks),
                sys_flag: record.sys_flag(),
            }))
        }
        Outcome::Commit => {
            let unreadable = || {
                Refused::new(
                    ResponseCode::SystemError,
                    "the half message has no REAL_TOPIC and REAL_QID",
                )
            };
            let topic = properties
                .get(properties::REAL_TOPIC)
                .ok_or_else(unreadable)?;
            let queue = properties
                .get(properties::REAL_QID)
                .and_then(|text| text.parse().ok())
                .map(QueueId::new)
                .ok_or_else(unreadable)?;
            if broker.topics.get(topic).is_none() {
                return Err(Refused::new(
                    ResponseCode::TopicNotExist,
                    format!("the transaction's topic {topic} does not exist any more"),
                ));
            }
            let sys_flag = TransactionState::Commit.in_flag(record.sys_flag());
            let now_ms = broker.clock.now_ms();
            let delayed = broker.delay.on_send(properties, topic, queue, now_ms)?;
            let (topic, queue, properties) = match delayed {
                Some(delayed) => (delayed.topic.to_owned(), delayed.queue, delayed.properties),
                None => (topic.to_owned(), queue, properties.encoded().to_vec()),
            };
            Ok(Some(Target {
                topic,
                queue,
                properties,
                sys_flag,
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn op_bodies_name_halves_with_and_without_the_last_comma() {
        let offsets = |body: &[u8]| {
            halves_of(body)
                .into_iter()
                .map(QueueOffset::number)
                .collect::<Vec<_>>()
        };
        assert_eq!(offsets(b"0,1,3,"), [0, 1, 3]);
        assert_eq!(offsets(b"7"), [7]);
        assert_eq!(offsets(b",x,-1, 9 ,"), [9]);
        assert_eq!(offsets(b"\xff"), [0u64; 0]);
    }

    #[test]
    fn immunity_counts_in_seconds_and_negative_means_the_broker_s_own() {
        let immunity = |seconds: &str| {
            let mut encoded = Vec::new();
            properties::push_pair(
                &mut encoded,
                properties::CHECK_IMMUNITY_TIME_IN_SECONDS,
                seconds,
            );
            immunity_ms(Properties::new(&encoded))
        };
        assert_eq!(immunity("9"), Some(9_000));
        assert_eq!(immunity("0"), Some(0));
        assert_eq!(immunity("-1"), None);
        assert_eq!(immunity("soon"), None);
    }

    /// As the original's `TransactionalMessageUtil.getImmunityTime`.
    #[test]
    fn a_producer_decides_unasked_for_its_own_time_and_never_for_less_than_the_broker_s() {
        let mut config = BrokerConfig::default();
        config.transaction_time_out = Duration::from_secs(6);
        let ms = |seconds: Option<&str>| {
            let mut encoded = Vec::new();
            if let Some(seconds) = seconds {
                let name = properties::CHECK_IMMUNITY_TIME_IN_SECONDS;
                properties::push_pair(&mut encoded, name, seconds);
            }
            decided_unasked_ms(Properties::new(&encoded), &config)
        };
        assert_eq!(ms(None), None);
        assert_eq!(ms(Some("60")), Some(60_000));
        for short in ["1", "0", "-1", "soon"] {
            assert_eq!(ms(Some(short)), Some(6_000), "{short}");
        }
    }
}
