//! What operators see and do of transactions: requests 323, 900003 and 900004.
//!
//! A list is read in parts, each from the table of pending halves or from the topic of parked ones, so that one request
//! never walks over more than a part. Whatever an operator decides goes the producers' way, is answered when it is
//! durable, and stands in the broker's log with who asked for it.
//! A parked message is resumed once: the new half names the parked one ([`RESUMED_FROM`]), and the key index finds it.

use std::collections::HashSet;
use std::sync::Arc;

use agena_protocol::bodies::transactions::{TransactionInfo, TransactionList};
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::headers::transaction::{
    ListTransactionsRequest, ResolveTransactionRequest, ResumeCheckHalfMessageRequest,
};
use agena_protocol::message_id::OffsetId;
use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::properties::{self, PropertiesBuf};
use agena_protocol::record::RecordView;
use agena_protocol::response_code::ResponseCode;
use agena_protocol::sys_flag::TransactionState;
use agena_protocol::topic;
use agena_remoting::connection::Connection;
use agena_remoting::reply::ReplyTo;
use agena_store::{Ack, NewMessage};

use super::end::answer;
use super::{COMMIT, Found, Half, Outcome, QUEUE, ROLLBACK, Resolved, millis, resolve};
use crate::admin::Answer;
use crate::broker::Broker;
use crate::send::{Refused, not_stored};

/// Transactions in one part of a list.
const PART_MAX: usize = 500;

/// Entries looked at for one part.
const WALK_MAX: usize = 5_000;

/// Messages with one key that are looked at.
const SAME_KEY_MAX: usize = 64;

/// Parked messages remembered as resumed; the index knows of the others.
const RESUMED_MAX: usize = 100_000;

/// Property of a half that was parked: the place of the parked message in the log.
const RESUMED_FROM: &str = "AGENA_RESUMED_FROM";

/// Parked messages that were resumed since the start.
pub(super) type Resumed = HashSet<PhysicalOffset>;

/// LIST_TRANSACTIONS (900003).
pub(crate) fn list(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: ListTransactionsRequest<'_> = request.header()?;
    let wanted = Wanted::of(broker, &header);
    let (transactions, next) = match (header.state.unwrap_or("pending"), header.id) {
        ("pending", None) => pending(broker, &wanted),
        ("parked", None) => parked(broker, &wanted),
        ("pending", Some(id)) => {
            let found = find_pending(broker, id);
            let found = found.and_then(|(at, half)| info_of_pending(broker, at, &half));
            (found.into_iter().collect(), None)
        }
        ("parked", Some(id)) => {
            let found = find_parked(broker, id);
            let found =
                found.and_then(|record| info_of_parked(broker, &RecordView::parse(&record).ok()?));
            (found.into_iter().collect(), None)
        }
        (other, _) => {
            let remark = format!("state is pending or parked, not {other}");
            return Err(Refused::new(ResponseCode::InvalidParameter, remark));
        }
    };
    let list = TransactionList {
        broker_name: broker.identity.name.clone(),
        transactions,
        next_from: next.map(QueueOffset::wire),
    };
    Ok(Command::success().with_body(fastjson::to_vec(&list, KeyStyle::Bare)))
}

/// What a list is to have.
struct Wanted<'r> {
    group: Option<&'r str>,
    /// Stored before this time.
    before_ms: i64,
    from: QueueOffset,
    most: usize,
}

impl<'r> Wanted<'r> {
    fn of(broker: &Broker, header: &ListTransactionsRequest<'r>) -> Self {
        let older = header.older_than_ms.unwrap_or(i64::MIN).max(0);
        let from = header.from.and_then(|from| u64::try_from(from).ok());
        let most = header.max.and_then(|most| usize::try_from(most).ok());
        Self {
            group: header.producer_group.filter(|group| !group.is_empty()),
            before_ms: broker.clock.now_ms().saturating_sub(older),
            from: QueueOffset::new(from.unwrap_or(0)),
            most: most.unwrap_or(PART_MAX).clamp(1, PART_MAX),
        }
    }
}

/// Halves are in the order in which they were stored, so the first that is too young ends the list.
fn pending(broker: &Broker, wanted: &Wanted<'_>) -> (Vec<TransactionInfo>, Option<QueueOffset>) {
    let halves = &broker.transactions.halves;
    let (page, mut next) = halves.page(wanted.group, wanted.from, wanted.most);
    if page
        .last()
        .is_some_and(|(_, half)| half.stored_ms > wanted.before_ms)
    {
        next = None;
    }
    let old = page
        .iter()
        .take_while(|(_, half)| half.stored_ms <= wanted.before_ms);
    let infos = old.filter_map(|(at, half)| info_of_pending(broker, *at, half));
    (infos.collect(), next)
}

fn parked(broker: &Broker, wanted: &Wanted<'_>) -> (Vec<TransactionInfo>, Option<QueueOffset>) {
    let parked = topic::TRANS_CHECK_MAX_TIME;
    let from = wanted.from.max(broker.store.min_offset(parked, QUEUE));
    let mut infos = Vec::new();
    let mut next = from;
    for entry in broker.store.entries(parked, QUEUE, from, WALK_MAX) {
        if infos.len() == wanted.most {
            break;
        }
        next = entry.queue_offset.plus(1);
        let place = PhysicalOffset::new(entry.physical_offset);
        let record = broker.store.record_at(place);
        let info = record
            .and_then(|record| info_of_parked(broker, &RecordView::parse(&record).ok()?))
            .filter(|info| info.store_timestamp <= wanted.before_ms)
            .filter(|info| {
                wanted
                    .group
                    .is_none_or(|group| group == info.producer_group)
            });
        infos.extend(info);
    }
    let more = next > from && next < broker.store.max_offset(parked, QUEUE);
    (infos, more.then_some(next))
}

fn info_of_pending(broker: &Broker, at: QueueOffset, half: &Half) -> Option<TransactionInfo> {
    let bytes = broker.store.record_at(half.physical)?;
    let record = RecordView::parse(&bytes).ok()?;
    let wait = half.due.saturating_sub(broker.clock.monotonic());
    Some(TransactionInfo {
        state: "pending".to_owned(),
        queue_offset: at.wire(),
        checks: half.checks,
        next_check_timestamp: broker.clock.now_ms().saturating_add(millis(wait)),
        ..info(broker, &record)
    })
}

fn info_of_parked(broker: &Broker, record: &RecordView<'_>) -> Option<TransactionInfo> {
    let is_resumed = was_resumed(broker, record);
    Some(TransactionInfo {
        state: if is_resumed { "resumed" } else { "parked" }.to_owned(),
        queue_offset: record.queue_offset().wire(),
        ..info(broker, record)
    })
}

/// What the record says, whichever of the two it is.
fn info(broker: &Broker, record: &RecordView<'_>) -> TransactionInfo {
    let properties = record.properties();
    let text = |name| properties.get(name).unwrap_or_default().to_owned();
    let number = |name| properties.get(name).and_then(|text| text.parse().ok());
    let group = text(properties::PGROUP);
    let mut offset_msg_id = String::new();
    OffsetId {
        store_host: record.store_host(),
        offset: record.physical_offset(),
    }
    .write(&mut offset_msg_id);
    TransactionInfo {
        transaction_id: text(properties::UNIQ_KEY),
        offset_msg_id,
        topic: text(properties::REAL_TOPIC),
        queue_id: number(properties::REAL_QID).unwrap_or(0),
        producers: i32::try_from(broker.sessions.producers(&group).len()).unwrap_or(i32::MAX),
        producer_group: group,
        born_timestamp: record.born_timestamp(),
        store_timestamp: record.store_timestamp(),
        checks: properties
            .get(properties::TRANSACTION_CHECK_TIMES)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0),
        checks_max: broker.config.get().transaction_check_max,
        ..TransactionInfo::default()
    }
}

/// The records of `topic` that `id` may mean, newest first: by transaction id where the key index has it, else by place.
fn records_of(broker: &Broker, topic: &str, id: &str) -> Vec<bytes::Bytes> {
    let mut places = broker.store.query(topic, id, SAME_KEY_MAX, 0, i64::MAX);
    places.reverse();
    let by_key: Vec<_> = places
        .into_iter()
        .filter_map(|place| broker.store.record_at(place))
        .filter(|bytes| {
            RecordView::parse(bytes).is_ok_and(|record| {
                record.topic() == topic && record.properties().get(properties::UNIQ_KEY) == Some(id)
            })
        })
        .collect();
    if !by_key.is_empty() {
        return by_key;
    }
    let Some(id) = OffsetId::parse(id) else {
        return Vec::new();
    };
    // Another broker may have something else at the same place.
    let is_it = |bytes: &bytes::Bytes| {
        RecordView::parse(bytes)
            .is_ok_and(|record| record.topic() == topic && record.store_host() == id.store_host)
    };
    let by_place = broker.store.record_at(id.offset);
    by_place.filter(is_it).into_iter().collect()
}

fn find_pending(broker: &Broker, id: &str) -> Option<(QueueOffset, Half)> {
    let halves = &broker.transactions.halves;
    records_of(broker, topic::TRANS_HALF, id)
        .iter()
        .filter_map(|bytes| RecordView::parse(bytes).ok())
        .find_map(|record| {
            let half = halves.get(record.queue_offset())?;
            let is_it = half.physical == record.physical_offset();
            is_it.then(|| (record.queue_offset(), half))
        })
}

/// The parked message that is not resumed, if there is one; else one that is.
fn find_parked(broker: &Broker, id: &str) -> Option<bytes::Bytes> {
    let found = records_of(broker, topic::TRANS_CHECK_MAX_TIME, id);
    let waits = |bytes: &&bytes::Bytes| {
        RecordView::parse(bytes).is_ok_and(|record| !was_resumed(broker, &record))
    };
    found.iter().find(waits).or(found.first()).cloned()
}

/// RESOLVE_TRANSACTION (900004): an operator says what nobody else could.
pub(crate) fn decide(
    broker: &Arc<Broker>,
    connection: &Arc<Connection>,
    request: &Command,
    reply_to: ReplyTo,
) {
    match try_decide(broker, connection, request) {
        Ok(resolved) => answer(broker, resolved, reply_to),
        Err(refused) => reply_to.send(Command::response(refused.code, refused.remark)),
    }
}

fn try_decide(
    broker: &Arc<Broker>,
    connection: &Connection,
    request: &Command,
) -> Result<Resolved, Refused> {
    let header: ResolveTransactionRequest<'_> = request.header()?;
    let illegal = |remark: String| Refused::new(ResponseCode::IllegalOperation, remark);
    let (outcome, word) = match header.commit_or_rollback {
        COMMIT => (Outcome::Commit, "commit"),
        ROLLBACK => (Outcome::RollBack, "rollback"),
        other => {
            let remark = format!("commitOrRollback is 8 or 12, not {other}");
            return Err(Refused::new(ResponseCode::InvalidParameter, remark));
        }
    };
    let id = header.id;
    let Some((at, half)) = find_pending(broker, id) else {
        return Err(illegal(match find_parked(broker, id) {
            Some(_) => format!("the transaction {id} is parked: resume it first"),
            None => format!("no transaction {id} is pending"),
        }));
    };
    let gone = || illegal(format!("the half message of {id} left the log"));
    let found = Found {
        at,
        physical: half.physical,
        record: broker.store.record_at(half.physical).ok_or_else(gone)?,
    };
    let resolved = resolve(broker, &found, outcome)?;
    if resolved == Resolved::Before {
        return Err(illegal(format!(
            "the transaction {id} was decided a moment ago"
        )));
    }
    tracing::warn!(
        transaction = id,
        group = &*half.group,
        decision = word,
        checks = half.checks,
        operator = %connection.peer(),
        "an operator decided a transaction"
    );
    Ok(resolved)
}

/// RESUME_CHECK_HALF_MESSAGE (323): a parked transaction becomes a half again, its checks start from zero.
pub(crate) fn resume(
    broker: &Arc<Broker>,
    connection: &Arc<Connection>,
    request: &Command,
    reply_to: ReplyTo,
) {
    match try_resume(broker, connection, request) {
        Ok(ack) => answer(broker, Resolved::Now(ack), reply_to),
        Err(refused) => reply_to.send(Command::response(refused.code, refused.remark)),
    }
}

fn try_resume(broker: &Broker, connection: &Connection, request: &Command) -> Result<Ack, Refused> {
    let header: ResumeCheckHalfMessageRequest<'_> = request.header()?;
    let failed = |remark: &str| Refused::new(ResponseCode::SystemError, remark);
    let bytes = find_parked(broker, header.msg_id)
        .ok_or_else(|| failed("no such message in TRANS_CHECK_MAX_TIME_TOPIC"))?;
    let record = RecordView::parse(&bytes)
        .map_err(|_| failed("the parked message is damaged in the log"))?;
    if was_resumed(broker, &record) || !note_resumed(broker, record.physical_offset()) {
        return Err(failed("the parked transaction was resumed before"));
    }
    let appended = append_again(broker, &record);
    match &appended {
        Ok(_) => tracing::warn!(
            transaction = record.properties().get(properties::UNIQ_KEY),
            group = record.properties().get(properties::PGROUP),
            operator = %connection.peer(),
            "an operator resumed a parked transaction"
        ),
        Err(_) => {
            let mut resumed = broker.transactions.resumed.lock();
            resumed.remove(&record.physical_offset());
        }
    }
    appended
}

/// False when another request was first.
fn note_resumed(broker: &Broker, parked: PhysicalOffset) -> bool {
    let mut resumed = broker.transactions.resumed.lock();
    if resumed.len() >= RESUMED_MAX {
        resumed.clear();
    }
    resumed.insert(parked)
}

fn append_again(broker: &Broker, parked: &RecordView<'_>) -> Result<Ack, Refused> {
    let mut properties = PropertiesBuf::parse(parked.properties().encoded());
    properties.set(properties::TRANSACTION_CHECK_TIMES, "0");
    properties.set(RESUMED_FROM, parked.physical_offset().number().to_string());
    let encoded = properties.encode();
    let mut batch = broker.store.batch();
    batch
        .push(NewMessage {
            topic: topic::TRANS_HALF,
            queue_id: QUEUE,
            flag: parked.flag(),
            sys_flag: TransactionState::None.in_flag(parked.sys_flag()),
            born_timestamp: parked.born_timestamp(),
            born_host: parked.born_host(),
            store_host: broker.identity.advertised,
            reconsume_times: parked.reconsume_times(),
            prepared_transaction_offset: 0,
            body: parked.body(),
            properties: &encoded,
            wait_for_flush: true,
        })
        .map_err(|illegal| Refused::new(ResponseCode::SystemError, illegal.to_string()))?;
    let appended = broker.store.append(&mut batch);
    appended
        .map(|appended| appended.ack)
        .map_err(|error| not_stored(&error))
}

/// Whether a half was made of this parked message before.
fn was_resumed(broker: &Broker, parked: &RecordView<'_>) -> bool {
    let place = parked.physical_offset();
    if broker.transactions.resumed.lock().contains(&place) {
        return true;
    }
    let Some(id) = parked.properties().get(properties::UNIQ_KEY) else {
        return false;
    };
    let place = place.number().to_string();
    records_of(broker, topic::TRANS_HALF, id)
        .iter()
        .filter_map(|bytes| RecordView::parse(bytes).ok())
        .any(|half| half.properties().get(RESUMED_FROM) == Some(&place))
}
