//! Asking producers what became of their transactions (request 39), each half when it is due.
//!
//! One task sleeps until the next half is due. A half is asked for once per interval, a little jittered so that a burst
//! of halves does not become a burst of questions; a round sends a bounded number, and rounds are apart, which bounds
//! the rate. Only a question that left counts: without a live producer of the group the half waits. After
//! `transactionCheckMax` questions, or when retention would take it, it is parked.
//!
//! Unlike the original the half is not appended again before each question; the count is kept in a journal
//! (`checks`). The protocol forces an append only where the half is parked or resumed.
//! Apache: `TransactionalMessageServiceImpl.check`, `AbstractTransactionalMessageCheckListener`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agena_protocol::command::Command;
use agena_protocol::headers::transaction::CheckTransactionStateRequest;
use agena_protocol::message_id::OffsetId;
use agena_protocol::offset::QueueOffset;
use agena_protocol::properties::{self, PropertiesBuf};
use agena_protocol::queue::QueueId;
use agena_protocol::record::{RecordEncoder, RecordFields, RecordView};
use agena_protocol::request_code::RequestCode;
use agena_protocol::topic;

use super::end::decide_ripe;
use super::{Found, Half, Outcome, Resolved, Transactions, millis, resolve};
use crate::broker::Broker;

/// Halves looked at in one round, and how far apart full rounds are: at most 5,000 questions a second.
const ROUND_MAX: usize = 500;
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// How often an operator is told of a group with pending transactions and no producer.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// How long a burst of halves is waited out before the next deadline is looked up.
const BURST: Duration = Duration::from_millis(500);

/// Runs until the broker stops.
pub(crate) async fn run(broker: Arc<Broker>) {
    let mut stopping = broker.stopping();
    let mut warned = Duration::ZERO;
    loop {
        let round = tokio::task::spawn_blocking({
            let broker = broker.clone();
            move || round(&broker)
        });
        let Ok(Round { orphans, full }) = round.await else {
            return;
        };
        let now = broker.clock.monotonic();
        if !orphans.is_empty() && now >= warned {
            warned = now + WARNING_INTERVAL;
            for group in orphans {
                tracing::warn!(
                    group = &*group,
                    "transactions are pending and no producer of their group is connected"
                );
            }
        }
        let transactions = &broker.transactions;
        let wait = if full {
            ROUND_PAUSE
        } else {
            match transactions.halves.next_due() {
                Some(due) => due
                    .saturating_sub(broker.clock.monotonic())
                    .max(Duration::from_millis(1)),
                None => Duration::from_secs(3600),
            }
        };
        tokio::select! {
            () = wait_for_work(transactions, wait) => {}
            _ = stopping.wait_for(|stops| *stops) => return,
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
    /// There may be more that is due.
    full: bool,
}

/// Asks for every half that is due.
fn round(broker: &Arc<Broker>) -> Round {
    let transactions = &broker.transactions;
    decide_ripe(broker);
    let due = transactions.halves.due(broker.clock.monotonic(), ROUND_MAX);
    let full = due.len() == ROUND_MAX;
    let mut orphans = HashSet::new();
    let mut parked: HashMap<Arc<str>, usize> = HashMap::new();
    for (at, half) in due {
        match check(broker, at, &half) {
            Looked::Done => {}
            Looked::Orphan => {
                orphans.insert(half.group.clone());
            }
            Looked::Parked => *parked.entry(half.group.clone()).or_default() += 1,
        }
    }
    // Many may be given up at once: a line for each group and round, not for each of them.
    for (group, count) in parked {
        tracing::warn!(
            group = &*group,
            count,
            "nobody decided these transactions; they are parked in {}",
            topic::TRANS_CHECK_MAX_TIME
        );
    }
    transactions.save_progress(broker);
    Round { orphans, full }
}

/// What a look at a half that is due has come to.
enum Looked {
    /// Somebody was asked, or there was nothing to ask.
    Done,
    /// Nobody could be asked.
    Orphan,
    /// It was parked.
    Parked,
}

/// Looks at one half that is due.
fn check(broker: &Arc<Broker>, at: QueueOffset, half: &Half) -> Looked {
    let transactions = &broker.transactions;
    let config = broker.config.get();
    let now = broker.clock.monotonic();
    let interval = config
        .transaction_check_interval
        .max(Duration::from_millis(1));
    let age_ms = broker.clock.now_ms().saturating_sub(half.stored_ms);
    let is_over = half.checks >= config.transaction_check_max
        || age_ms >= millis(config.file_reserved_time.duration());
    let next = now + interval + jitter(interval, at);
    // Before the record is read: many may wait for a producer that is away for long.
    let producer = broker.sessions.producer_of_group(&half.group);
    if producer.is_none() && !is_over {
        transactions.halves.put_off(at, next);
        return Looked::Orphan;
    }
    let Some(record) = broker.store.record_at(half.physical) else {
        tracing::warn!(
            half = at.number(),
            group = &*half.group,
            "a half message left the log before it was decided"
        );
        transactions.halves.claim(at, half.physical);
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
    let question = RecordView::parse(&record)
        .ok()
        .and_then(|record| question(broker, &record, half.checks + 1));
    // Counted before it leaves, so that a crash in between asks once less and not once more than allowed.
    if !transactions.halves.checked(at, next) {
        return Looked::Done;
    }
    transactions.checks.asked(at, half.checks + 1);
    if question.is_some_and(|question| producer.connection.one_way(&question).is_ok()) {
        transactions
            .counters
            .checks_sent
            .fetch_add(1, Ordering::Relaxed);
        return Looked::Done;
    }
    transactions.halves.not_checked(at);
    transactions.checks.asked(at, half.checks);
    Looked::Orphan
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
            Looked::Done
        }
    }
}

/// The question for one half: its record as the producer sent it, under its real topic and queue.
fn question(broker: &Broker, half: &RecordView<'_>, times: u32) -> Option<Command> {
    let stored = half.properties();
    let mut properties = PropertiesBuf::parse(stored.encoded());
    properties.set(properties::TRANSACTION_CHECK_TIMES, times.to_string());
    let encoded = properties.encode();
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
