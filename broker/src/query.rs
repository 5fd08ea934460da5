//! Offsets and single messages, asked for by clients and tools: requests 12, 14, 15, 29 to 33.
//! Source: spec/wire.md §4.4.2 to §4.4.4, spec/semantics.md §4.7. Apache: `ConsumerManageProcessor`,
//! `QueryMessageProcessor`, `AdminBrokerProcessor`.

use std::sync::Arc;

use agena_protocol::command::Command;
use agena_protocol::ext_fields::HeaderError;
use agena_protocol::frame::Frame;
use agena_protocol::headers::offsets::{
    GetEarliestMsgStoretimeRequest, GetEarliestMsgStoretimeResponse, GetMaxOffsetRequest,
    GetMaxOffsetResponse, GetMinOffsetRequest, GetMinOffsetResponse, QueryConsumerOffsetRequest,
    QueryConsumerOffsetResponse, SearchOffsetByTimestampRequest, SearchOffsetByTimestampResponse,
    UpdateConsumerOffsetRequest,
};
use agena_protocol::headers::query::{
    QueryMessageRequest, QueryMessageResponse, ViewMessageByIdRequest,
};
use agena_protocol::headers::{DecodeHeader, NoHeader};
use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::queue::QueueId;
use agena_protocol::response_code::ResponseCode;
use agena_remoting::connection::Connection;
use agena_remoting::reply::Replies;
use agena_store::Boundary;

use crate::broker::Broker;
use crate::offsets::Committed;
use crate::offsets::trail::Visitor;
use crate::transaction;

/// Messages that one query gives at most, whatever it asks for (`maxMsgsNumBatch`).
const QUERY_MESSAGES_MAX: usize = 64;

/// Request 14: where a group goes on. A new group begins at 0 while the queue still has its first message and that
/// message is recent, even one that means to begin at the end.
pub(crate) fn query_consumer_offset(broker: &Broker, frame: &Frame<'_>, replies: &mut Replies) {
    let request = match QueryConsumerOffsetRequest::decode(&frame.ext) {
        Ok(request) => request,
        Err(error) => return refuse_header(frame, &error, replies),
    };
    let queue = QueueId::from_wire(request.queue_id);
    let stored = queue.and_then(|queue| {
        broker
            .offsets
            .query(request.consumer_group, request.topic, queue)
    });
    let may_begin_at_zero = request.set_zero_if_not_found != Some(false);
    let offset = match (stored, queue) {
        (Some(offset), _) => Some(offset),
        (None, Some(queue)) if may_begin_at_zero && is_young(broker, request.topic, queue) => {
            Some(QueueOffset::new(0))
        }
        _ => None,
    };
    match offset {
        Some(offset) => {
            let header = QueryConsumerOffsetResponse {
                offset: offset.wire(),
            };
            replies.push(frame, ResponseCode::Success, None, &header);
        }
        None => {
            let remark = if may_begin_at_zero {
                "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first"
            } else {
                "Not found, do not set to zero, maybe this group boot first"
            };
            replies.push(frame, ResponseCode::QueryNotFound, Some(remark), &NoHeader);
        }
    }
}

/// The queue's first message is there and lies within what counts as memory.
fn is_young(broker: &Broker, topic: &str, queue: QueueId) -> bool {
    let start = QueueOffset::new(0);
    let first = broker.store.entries(topic, queue, start, 1).pop();
    first.is_some_and(|first| {
        let offset = PhysicalOffset::new(first.physical_offset);
        broker.store.min_offset(topic, queue) == start && broker.store.counts_as_in_memory(offset)
    })
}

/// Request 15: how far a group is.
pub(crate) fn update_consumer_offset(
    broker: &Broker,
    connection: &Connection,
    frame: &Frame<'_>,
    replies: &mut Replies,
) {
    let request = match UpdateConsumerOffsetRequest::decode(&frame.ext) {
        Ok(request) => request,
        Err(error) => return refuse_header(frame, &error, replies),
    };
    let (group, topic) = (request.consumer_group, request.topic);
    if group == transaction::PROGRESS_GROUP {
        let remark = format!("the offsets of {group} are the broker's own");
        let code = ResponseCode::NoPermission;
        return replies.push(frame, code, Some(&remark), &NoHeader);
    }
    if broker.groups.group(group).is_none() {
        let remark = format!("Group {group} not exist!");
        let code = ResponseCode::SubscriptionGroupNotExist;
        return replies.push(frame, code, Some(&remark), &NoHeader);
    }
    if broker.topics.get(topic).is_none() {
        let remark = format!("Topic {topic} not exist!");
        return replies.push(frame, ResponseCode::TopicNotExist, Some(&remark), &NoHeader);
    }
    let place =
        QueueId::from_wire(request.queue_id).zip(QueueOffset::from_wire(request.commit_offset));
    let Some((queue, offset)) = place else {
        let remark = "queueId and commitOffset must not be negative";
        return replies.push(
            frame,
            ResponseCode::InvalidParameter,
            Some(remark),
            &NoHeader,
        );
    };
    let visitor = Visitor::of(connection, broker.clock.now_ms());
    let commit = broker
        .offsets
        .commit_by(group, topic, queue, offset, Some(&visitor));
    let remark = match commit {
        Committed::Stored => None,
        Committed::ResetPending => Some("Offset has been previously reset"),
    };
    replies.push(frame, ResponseCode::Success, remark, &NoHeader);
}

/// Request 30: the next offset to be written; 0 of a queue that nobody knows.
pub(crate) fn max_offset(broker: &Broker, frame: &Frame<'_>, replies: &mut Replies) {
    match GetMaxOffsetRequest::decode(&frame.ext) {
        Ok(request) => {
            let offset = QueueId::from_wire(request.queue_id).map_or(0, |queue| {
                broker.store.max_offset(request.topic, queue).wire()
            });
            replies.push(
                frame,
                ResponseCode::Success,
                None,
                &GetMaxOffsetResponse { offset },
            );
        }
        Err(error) => refuse_header(frame, &error, replies),
    }
}

/// Request 31: the first offset that is there; 0 of a queue that nobody knows.
pub(crate) fn min_offset(broker: &Broker, frame: &Frame<'_>, replies: &mut Replies) {
    match GetMinOffsetRequest::decode(&frame.ext) {
        Ok(request) => {
            let offset = QueueId::from_wire(request.queue_id).map_or(0, |queue| {
                broker.store.min_offset(request.topic, queue).wire()
            });
            replies.push(
                frame,
                ResponseCode::Success,
                None,
                &GetMinOffsetResponse { offset },
            );
        }
        Err(error) => refuse_header(frame, &error, replies),
    }
}

fn refuse_header(frame: &Frame<'_>, error: &HeaderError, replies: &mut Replies) {
    let remark = error.to_string();
    replies.push(frame, ResponseCode::SystemError, Some(&remark), &NoHeader);
}

/// What a request on the pool of readers is answered when its header does not read.
fn bad_header(error: &HeaderError) -> Command {
    Command::response(ResponseCode::SystemError, error.to_string())
}

/// Request 29: the offset of a time.
pub(crate) fn search_offset(broker: &Arc<Broker>, command: &Command) -> Command {
    let request = match command.header::<SearchOffsetByTimestampRequest<'_>>() {
        Ok(request) => request,
        Err(error) => return bad_header(&error),
    };
    let upper = request
        .boundary_type
        .is_some_and(|text| text.eq_ignore_ascii_case("upper"));
    let boundary = if upper {
        Boundary::Upper
    } else {
        Boundary::Lower
    };
    let offset = QueueId::from_wire(request.queue_id).map_or(0, |queue| {
        broker
            .store
            .offset_by_time(request.topic, queue, request.timestamp, boundary)
            .wire()
    });
    Command::success().with_header(&SearchOffsetByTimestampResponse { offset })
}

/// Request 32: when the oldest message of a queue was stored; -1 if there is none.
pub(crate) fn earliest_store_time(broker: &Arc<Broker>, command: &Command) -> Command {
    let request = match command.header::<GetEarliestMsgStoretimeRequest<'_>>() {
        Ok(request) => request,
        Err(error) => return bad_header(&error),
    };
    let timestamp = QueueId::from_wire(request.queue_id)
        .and_then(|queue| broker.store.earliest_store_time(request.topic, queue));
    Command::success().with_header(&GetEarliestMsgStoretimeResponse {
        timestamp: timestamp.unwrap_or(-1),
    })
}

/// Request 33: the message at a place in the log.
pub(crate) fn view_message(broker: &Arc<Broker>, command: &Command) -> Command {
    let request = match command.header::<ViewMessageByIdRequest<'_>>() {
        Ok(request) => request,
        Err(error) => return bad_header(&error),
    };
    let record =
        PhysicalOffset::from_wire(request.offset).and_then(|offset| broker.store.record_at(offset));
    match record {
        Some(record) => Command::success().with_body(record),
        None => Command::response(
            ResponseCode::SystemError,
            format!("can not find message by the offset, {}", request.offset),
        ),
    }
}

/// Request 12: messages with a key. The index knows hashes, so others may be among them; the client looks closely.
pub(crate) fn query_message(broker: &Arc<Broker>, command: &Command) -> Command {
    let request = match command.header::<QueryMessageRequest<'_>>() {
        Ok(request) => request,
        Err(error) => return bad_header(&error),
    };
    let asked = if request.unique_key_query == Some(true) {
        usize::try_from(broker.config.get().default_query_max_num).unwrap_or(QUERY_MESSAGES_MAX)
    } else {
        usize::try_from(request.max_num).unwrap_or(0)
    };
    let found = broker.store.query(
        request.topic,
        request.key,
        asked.min(QUERY_MESSAGES_MAX),
        request.begin_timestamp,
        request.end_timestamp,
    );
    let records: Vec<_> = found
        .iter()
        .filter_map(|offset| broker.store.record_at(*offset))
        .collect();
    // A query first catches up with the log, so the index ends where the log does.
    let store = broker.store.stats();
    let header = QueryMessageResponse {
        index_last_update_timestamp: store.last_store_timestamp,
        index_last_update_phyoffset: i64::try_from(store.dispatched).unwrap_or(i64::MAX),
    };
    let answer = if records.is_empty() {
        let remark = "can not find message, maybe time range not correct".to_owned();
        Command::response(ResponseCode::QueryNotFound, remark)
    } else {
        Command::success().with_body(records.concat())
    };
    answer.with_header(&header)
}
