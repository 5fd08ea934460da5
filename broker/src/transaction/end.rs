//! END_TRANSACTION (37): a producer says what became of its local transaction.
//!
//! Whatever the request claims is compared with the half in the log and with the table of pending ones. An outcome that
//! overtakes the dispatch of its half (SYNC_FLUSH, for a producer that did not wait) is kept until the half has come.
//! Apache: `EndTransactionProcessor`.

use std::sync::Arc;

use agena_protocol::command::Command;
use agena_protocol::frame::Frame;
use agena_protocol::headers::transaction::EndTransactionRequest;
use agena_protocol::headers::{DecodeHeader, NoHeader};
use agena_protocol::offset::PhysicalOffset;
use agena_protocol::properties;
use agena_protocol::record::RecordView;
use agena_protocol::response_code::ResponseCode;
use agena_protocol::topic;
use agena_remoting::connection::Connection;
use agena_remoting::reply::{Replies, ReplyTo};
use agena_store::FlushError;

use super::half::Early;
use super::{COMMIT, Found, Outcome, QUEUE, ROLLBACK, Resolved, decided_unasked_ms, resolve};
use crate::broker::Broker;
use crate::pool::Turn;
use crate::send::Refused;

/// END_TRANSACTION (37). Answers only a producer that waits for it.
pub(crate) fn end(
    broker: &Arc<Broker>,
    connection: &Arc<Connection>,
    frame: &Frame<'_>,
    replies: &mut Replies,
) {
    let request = match EndTransactionRequest::decode(&frame.ext) {
        Ok(request) => request,
        Err(fault) => {
            let remark = fault.to_string();
            return replies.push(frame, ResponseCode::SystemError, Some(&remark), &NoHeader);
        }
    };
    let outcome = match request.commit_or_rollback {
        COMMIT => Outcome::Commit,
        ROLLBACK => Outcome::RollBack,
        // "Unknown" is an ordinary answer: the half stays and is asked for again. Nobody is answered.
        _ => return,
    };
    let reply_to = ReplyTo::of(connection, frame);
    let place = PhysicalOffset::from_wire(request.commit_log_offset);
    if place.is_none_or(|place| broker.store.is_resident(place)) {
        return decide(broker, &request, outcome, reply_to);
    }
    // An old half may have to come from the disk, and nobody waits for a disk here.
    let (broker, command) = (broker.clone(), frame.to_command());
    let pool = broker.clone();
    pool.readers.run(move |turn| {
        let request = match (turn, EndTransactionRequest::decode(&command.ext)) {
            (Turn::Run, Ok(request)) => request,
            (Turn::Run | Turn::Full, _) => {
                let busy = "too many requests wait for a thread".to_owned();
                return reply_to.send(Command::response(ResponseCode::SystemBusy, busy));
            }
        };
        decide(&broker, &request, outcome, reply_to);
    });
}

/// Looks the half up, resolves it, and answers when that is durable.
fn decide(
    broker: &Arc<Broker>,
    request: &EndTransactionRequest<'_>,
    outcome: Outcome,
    reply_to: ReplyTo,
) {
    let resolved =
        find(broker, request).and_then(|found| Ok((resolve(broker, &found, outcome)?, found)));
    match resolved {
        Ok((Resolved::NotYetSeen, found)) => decide_later(broker, &found, outcome, reply_to),
        Ok((resolved, _)) => answer(broker, resolved, reply_to),
        Err(refused) => {
            tracing::debug!(
                group = request.producer_group,
                transaction = request.msg_id,
                remark = %refused.remark,
                "the end of a transaction was refused"
            );
            reply_to.send(Command::response(refused.code, refused.remark));
        }
    }
}

/// The half is in the log and its dispatch follows the data sync. Its outcome waits for that.
fn decide_later(broker: &Arc<Broker>, found: &Found, outcome: Outcome, reply_to: ReplyTo) {
    if found.at >= broker.store.next_offset(topic::TRANS_HALF, QUEUE) {
        let remark = "Find prepared transaction message failed".to_owned();
        return reply_to.send(Command::response(ResponseCode::SystemError, remark));
    }
    let early = Early {
        physical: found.physical,
        outcome,
        reply_to,
    };
    let Err(early) = broker.transactions.halves.keep_early(found.at, early) else {
        return;
    };
    match resolve(broker, found, outcome) {
        Ok(Resolved::NotYetSeen) => {
            let remark = "too many outcomes wait for their half messages".to_owned();
            early
                .reply_to
                .send(Command::response(ResponseCode::SystemBusy, remark));
        }
        Ok(resolved) => answer(broker, resolved, early.reply_to),
        Err(refused) => early
            .reply_to
            .send(Command::response(refused.code, refused.remark)),
    }
}

/// Carries out what was said before dispatch brought the half.
pub(super) fn decide_ripe(broker: &Arc<Broker>) {
    for (at, early) in broker.transactions.halves.take_ripe() {
        let Early {
            physical,
            outcome,
            reply_to,
        } = early;
        let Some(record) = broker.store.record_at(physical) else {
            continue;
        };
        let found = Found {
            at,
            physical,
            record,
        };
        match resolve(broker, &found, outcome) {
            Ok(resolved) => answer(broker, resolved, reply_to),
            Err(refused) => reply_to.send(Command::response(refused.code, refused.remark)),
        }
    }
}

/// Says that it is done when it is durable.
pub(super) fn answer(broker: &Arc<Broker>, resolved: Resolved, reply_to: ReplyTo) {
    let Resolved::Now(ack) = resolved else {
        return reply_to.send(Command::success());
    };
    if reply_to.is_one_way() {
        return;
    }
    let then = move |flushed: Result<(), FlushError>| {
        reply_to.send(match flushed {
            Ok(()) => Command::success(),
            Err(fault @ FlushError::Timeout) => {
                Command::response(ResponseCode::FlushDiskTimeout, fault.to_string())
            }
            Err(fault @ (FlushError::Failed | FlushError::Closed)) => {
                Command::response(ResponseCode::ServiceNotAvailable, fault.to_string())
            }
        });
    };
    broker.store.when_durable(ack, Box::new(then));
}

/// Looks the half up by what the producer knows of it, and makes sure that it is the one meant.
fn find(broker: &Broker, request: &EndTransactionRequest<'_>) -> Result<Found, Refused> {
    let system_error = |remark: &str| Refused::new(ResponseCode::SystemError, remark);
    let missing = || system_error("Find prepared transaction message failed");
    let physical = PhysicalOffset::from_wire(request.commit_log_offset).ok_or_else(missing)?;
    let bytes = broker.store.record_at(physical).ok_or_else(missing)?;
    let record = RecordView::parse(&bytes).map_err(|_| missing())?;
    if record.topic() != topic::TRANS_HALF {
        return Err(missing());
    }
    let properties = record.properties();
    let age_ms = broker
        .clock
        .now_ms()
        .saturating_sub(record.born_timestamp());
    let is_answer = request.from_transaction_check == Some(true);
    let unasked_ms = decided_unasked_ms(properties, &broker.config.get());
    if !is_answer && unasked_ms.is_some_and(|ms| age_ms > ms) {
        return Err(Refused::new(
            ResponseCode::IllegalOperation,
            "the immunity time of the transaction is over; it is decided by a check only",
        ));
    }
    if properties.get(properties::PGROUP) != Some(request.producer_group) {
        return Err(system_error("The producer group wrong"));
    }
    if record.queue_offset().wire() != request.tran_state_table_offset {
        return Err(system_error("The transaction state table offset wrong"));
    }
    if record.physical_offset() != physical {
        return Err(system_error("The commit log offset wrong"));
    }
    let at = record.queue_offset();
    Ok(Found {
        at,
        physical,
        record: bytes,
    })
}
