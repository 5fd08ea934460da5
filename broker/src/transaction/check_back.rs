//! Asking producers what became of their transactions (request 39), each half when it is due.
//!
//! One task sleeps until the next half is due. A half is asked for once per interval, a little jittered so that a burst
//! of halves does not become a burst of questions; a round sends a bounded number, and rounds are apart, which bounds
//! the rate. Only a question that left counts: without a live producer of the group the half is looked at ever less often,
//! until one comes, which makes it due; behind one that does not read it waits. After `transactionCheckMax` questions, or
//! when retention takes it, it is parked.
//!
//! Unlike the original the half is not appended again before each question; the count is kept in a journal
//! (`checks`). The protocol forces an append only where the half is parked or resumed.
//! Apache: `TransactionalMessageServiceImpl.check`, `AbstractTransactionalMessageCheckListener`.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agena_protocol::command::Command;
use agena_protocol::headers::transaction::CheckTransactionStateRequest;
use agena_protocol::message_id::OffsetId;
use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::properties;
use agena_protocol::queue::QueueId;
use agena_protocol::record::{RecordEncoder, RecordFields, RecordView};
use agena_protocol::request_code::RequestCode;
use agena_protocol::topic;

use super::checks::Asked;
use super::end::decide_ripe;
use super::{Found, Half, Outcome, Resolved, Transactions, millis, resolve, with_checks};
use crate::broker::Broker;

/// Halves looked at in one round.
const ROUND_MAX: usize = 500;

/// What each of them adds to the pause before the next round: at most 5,000 questions a second.
const PAUSE_EACH: Duration = Duration::from_micros(200);

/// How often an operator is told of a group with pending transactions and no producer.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// While nobody of a group is connected its halves are looked at ever less often, down to this many intervals.
const MISSED_INTERVALS_MAX: u32 = 8;

/// How soon a half is looked at again whose producer has not read its last questions yet.
const CROWDED_PAUSE: Duration = Duration::from_secs(1);

/// How long a burst of halves is waited out before the next deadline is looked up.
const BURST: Duration = Duration::from_millis(500);

/// Runs until the broker stops.
pub(crate) async fn run(broker: Arc<Broker>) {
    let mut stopping = broker.stopping();
    let mut warned = HashMap::new();
    loop {
        let round = tokio::task::spawn_blocking({
            let broker = broker.clone();
            move || round(&broker)
        });
        let Round { orphans, looked } = match round.await {
            Ok(round) => round,
            // The panic hook has said where. Whatever it was, the others are still to be asked for.
            Err(error) if error.is_panic() => Round {
                orphans: HashSet::new(),
                looked: 10 * ROUND_MAX,
            },
            Err(_) => return,
        };
        warn_of(orphans, &mut warned, broker.clock.monotonic());
        let transactions = &broker.transactions;
        let next = transactions.halves.next_due();
        let wait = wait_after(looked, next, broker.clock.monotonic());
        tokio::select! {
            () = wait_for_work(transactions, wait) => {}
            _ = stopping.wait_for(|stops| *stops) => return,
        }
    }
}

/// How long the next round is away when one has looked at so many halves.
fn wait_after(looked: usize, next_due: Option<Duration>, now: Duration) -> Duration {
    let Some(due) = next_due else {
        return Duration::from_secs(3600);
    };
    let pause = PAUSE_EACH.saturating_mul(u32::try_from(looked).unwrap_or(u32::MAX));
    let pause = pause.max(Duration::from_millis(1));
    due.saturating_sub(now).max(pause)
}

/// Tells of groups with due halves and nobody to ask, of each once in a while.
fn warn_of(orphans: HashSet<Arc<str>>, warned: &mut HashMap<Arc<str>, Duration>, now: Duration) {
    warned.retain(|_, at| now.saturating_sub(*at) < WARNING_INTERVAL);
    for group in orphans {
        if let Entry::Vacant(vacant) = warned.entry(group) {
            tracing::warn!(
                group = &**vacant.key(),
                "transactions are pending and no producer of their group is connected"
            );
            vacant.insert(now);
        }
    }
}

/// Until `wait` is over, or soon after a half appeared: halves come in bursts.
async fn wait_for_work(transactions: &Transactions, wait: Duration) {
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = transactions.changed.notified() => tokio::time::sleep(BURST.min(wait)).await,
    }
}

/// What a round found.
struct Round {
    /// Groups with a due half and nobody to ask.
    orphans: HashSet<Arc<str>>,
    /// How many halves were due and looked at.
    looked: usize,
}

/// Asks for every half that is due.
fn round(broker: &Arc<Broker>) -> Round {
    let transactions = &broker.transactions;
    decide_ripe(broker);
    let now = broker.clock.monotonic();
    transactions.halves.wake_returned(now);
    let due = transactions.halves.due(now, ROUND_MAX);
    let looked = due.len();
    let mut orphans = HashSet::new();
    let mut parked = Parked::default();
    for (at, half) in due {
        match check(broker, at, &half) {
            Looked::Done | Looked::Failed => {}
            Looked::Orphan => {
                orphans.insert(half.group);
            }
            Looked::Parked => parked.count(half.group),
        }
    }
    parked.say("nobody decided these transactions");
    transactions.save_progress(broker);
    Round { orphans, looked }
}

/// How many of each group were given up. They may be many at once: a line for each group and round, not for each of them.
#[derive(Default)]
struct Parked(HashMap<Arc<str>, usize>);

impl Parked {
    fn count(&mut self, group: Arc<str>) {
        *self.0.entry(group).or_default() += 1;
    }

    fn say(self, why: &str) {
        for (group, count) in self.0 {
            tracing::warn!(
                group = &*group,
                count,
                "{why}; they are parked in {}",
                topic::TRANS_CHECK_MAX_TIME
            );
        }
    }
}

/// Parks what is pending in front of a place of the log, since the file goes that it is in. What cannot be parked is lost, and
/// said to be.
pub(crate) fn park_below(broker: &Arc<Broker>, place: PhysicalOffset) {
    let transactions = &broker.transactions;
    let mut parked = Parked::default();
    'going: loop {
        let going = transactions.halves.below(place, ROUND_MAX);
        if going.is_empty() {
            break;
        }
        for (at, half) in going {
            let Some(record) = broker.store.record_at(half.physical) else {
                transactions.lost(at, &half);
                continue;
            };
            let found = Found {
                at,
                physical: half.physical,
                record,
            };
            match park(broker, &found, &half) {
                Looked::Parked => parked.count(half.group),
                // The disk is full, say: the next would fare no better.
                Looked::Failed => break 'going,
                Looked::Done | Looked::Orphan => {}
            }
        }
    }
    parked.say("the log file of these transactions goes");
    let lost = transactions.halves.below(place, 1);
    if !lost.is_empty() {
        tracing::error!(
            file_end = place.number(),
            "pending transactions are lost with their log file: they could not be parked"
        );
    }
}

impl Transactions {
    /// The record of a pending half is not in the log any more.
    fn lost(&self, at: QueueOffset, half: &Half) {
        tracing::error!(
            half = at.number(),
            group = &*half.group,
            "a half message left the log before it was decided"
        );
        self.halves.claim(at, half.physical);
        self.halves.settled(at);
    }
}

/// What a look at a half that is due has come to.
enum Looked {
    /// Somebody was asked, or there was nothing to ask.
    Done,
    /// Nobody of its group is connected.
    Orphan,
    /// It was parked.
    Parked,
    /// It should have been parked, and is looked at again.
    Failed,
}

/// Looks at one half that is due.
fn check(broker: &Arc<Broker>, at: QueueOffset, half: &Half) -> Looked {
    let transactions = &broker.transactions;
    let halves = &transactions.halves;
    let config = broker.config.get();
    let now = broker.clock.monotonic();
    let interval = config
        .transaction_check_interval
        .max(Duration::from_millis(1));
    let now_ms = broker.clock.now_ms();
    let age_ms = now_ms.saturating_sub(half.stored_ms);
    let reserved_ms = millis(config.file_reserved_time.duration());
    let is_over = half.checks >= config.transaction_check_max || age_ms >= reserved_ms;
    // At that age it is parked, however seldom it is looked at.
    let over_in = Duration::from_millis(reserved_ms.saturating_sub(age_ms).max(0).unsigned_abs());
    let after = |wait: Duration| now + (wait + jitter(wait, at)).min(over_in);
    // Before the record is read: many may wait for a producer that is away for long.
    let producer = broker.sessions.producer_of_group(&half.group);
    match &producer {
        _ if is_over => {}
        None => {
            let times = 1u32 << half.missed.min(16);
            halves.missed(at, after(interval * times.min(MISSED_INTERVALS_MAX)));
            return Looked::Orphan;
        }
        Some(producer) if !producer.connection.takes_more() => {
            halves.put_off(at, after(CROWDED_PAUSE));
            return Looked::Done;
        }
        Some(_) => {}
    }
    let Some(record) = broker.store.record_at(half.physical) else {
        transactions.lost(at, half);
        return Looked::Done;
    };
    let Some(producer) = producer.filter(|_| !is_over) else {
        let physical = half.physical;
        let found = Found {
            at,
            physical,
            record,
        };
        return park(broker, &found, half);
    };
    let times = half.checks.saturating_add(1);
    let question = RecordView::parse(&record)
        .ok()
        .and_then(|record| question(broker, &record, times));
    // Counted before it leaves, so that a crash in between asks once less and not once more than allowed.
    if !halves.checked(at, after(interval)) {
        return Looked::Done;
    }
    let asked = |times, asked_ms| Asked {
        times,
        place: half.physical,
        asked_ms,
    };
    transactions.checks.asked(at, asked(times, now_ms));
    let Some(question) = question else {
        tracing::warn!(
            half = at.number(),
            group = &*half.group,
            "a half message of which no question can be made is counted as asked for"
        );
        return Looked::Done;
    };
    if producer.connection.one_way(&question).is_ok() {
        transactions
            .counters
            .checks_sent
            .fetch_add(1, Ordering::Relaxed);
        return Looked::Done;
    }
    // Its connection ended this moment.
    halves.not_checked(at);
    transactions.checks.asked(at, asked(half.checks, now_ms));
    Looked::Done
}

/// Up to a tenth of the interval, different from half to half.
fn jitter(interval: Duration, at: QueueOffset) -> Duration {
    let spread = at.number().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54;
    interval / 10 * u32::try_from(spread).unwrap_or(0) / 1024
}

fn park(broker: &Arc<Broker>, found: &Found, half: &Half) -> Looked {
    let at = found.at;
    match resolve(broker, found, Outcome::Park) {
        Ok(Resolved::Before | Resolved::NotYetSeen) => Looked::Done,
        Ok(Resolved::Now(_)) => {
            tracing::debug!(
                half = at.number(),
                group = &*half.group,
                checks = half.checks,
                "parked"
            );
            Looked::Parked
        }
        Err(refused) => {
            let later = broker.clock.monotonic() + Duration::from_secs(1);
            broker.transactions.halves.put_off(at, later);
            tracing::warn!(half = at.number(), remark = %refused.remark, "a transaction could not be parked");
            Looked::Failed
        }
    }
}

/// The question for one half: its record as the producer sent it, under its real topic and queue.
fn question(broker: &Broker, half: &RecordView<'_>, times: u32) -> Option<Command> {
    let stored = half.properties();
    let encoded = with_checks(stored, times);
    let real_topic = stored.get(properties::REAL_TOPIC)?;
    let real_queue = QueueId::new(stored.get(properties::REAL_QID)?.parse().ok()?);
    let fields = RecordFields {
        topic: real_topic,
        queue_id: real_queue,
        flag: half.flag(),
        sys_flag: half.sys_flag(),
        born_timestamp: half.born_timestamp(),
        born_host: half.born_host(),
        store_host: half.store_host(),
        reconsume_times: half.reconsume_times(),
        prepared_transaction_offset: half.prepared_transaction_offset(),
        body: half.body(),
        properties: &encoded,
    };
    let mut encoder = RecordEncoder::new(fields, false).ok()?;
    let mut body = vec![0; encoder.total_bytes()];
    encoder.write(
        &mut body,
        half.queue_offset(),
        half.physical_offset(),
        half.store_timestamp(),
    );
    let mut offset_id = String::new();
    OffsetId {
        store_host: half.store_host(),
        offset: half.physical_offset(),
    }
    .write(&mut offset_id);
    let unique = stored.get(properties::UNIQ_KEY);
    let header = CheckTransactionStateRequest {
        topic: Some(topic::TRANS_HALF),
        tran_state_table_offset: half.queue_offset().wire(),
        commit_log_offset: half.physical_offset().wire(),
        msg_id: unique,
        transaction_id: unique,
        offset_msg_id: Some(&offset_id),
        bname: Some(&broker.identity.name),
    };
    Some(
        Command::request(RequestCode::CheckTransactionState)
            .one_way()
            .with_header(&header)
            .with_body(body),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_rounds_keep_to_the_rate_of_full_ones() {
        let now = Duration::from_secs(50);
        let ms = |looked, due_ms| {
            let due = Duration::from_millis(due_ms);
            wait_after(looked, Some(due), now).as_millis()
        };
        // 5,000 a second: 100 ms for 500, 10 ms for 50.
        assert_eq!(ms(ROUND_MAX, 0), 100);
        assert_eq!(ms(50, 49_999), 10);
        assert_eq!(ms(50, 50_003), 10);
        assert_eq!(ms(50, 50_700), 700);
        assert_eq!(ms(0, 50_000), 1);
        assert_eq!(wait_after(500, None, now), Duration::from_secs(3600));
    }

    #[test]
    fn each_group_is_warned_of_once_in_a_while() {
        let mut warned = HashMap::new();
        let groups = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        let at = Duration::from_secs;
        warn_of(groups(&["a"]), &mut warned, at(0));
        // Another group is not hidden by the first, nor is the first told of again too early.
        warn_of(groups(&["a", "b"]), &mut warned, at(40));
        assert_eq!(warned.get("a"), Some(&at(0)));
        assert_eq!(warned.get("b"), Some(&at(40)));
        warn_of(groups(&["a"]), &mut warned, at(60));
        assert_eq!(warned.get("a"), Some(&at(60)));
        warn_of(groups(&[]), &mut warned, at(200));
        assert!(warned.is_empty());
    }
}
