//! P4: producers' messages on their way into the log. Requests 10, 310 and 320.
//!
//! The sends of one read go through together: each is checked and its properties completed ([`check`]), all are appended
//! under one lock, and the answers leave in one write; under SYNC_FLUSH when the group commit that covers them is done,
//! while the connection goes on. A refused message does not disturb the others.
//! Source: spec/semantics.md §3.1, §3.2; Apache: `SendMessageProcessor`.

mod check;
mod properties;
mod repeat;

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;

use agena_protocol::frame::Frame;
use agena_protocol::headers::send::{MessageRegion, SendMessageResponse};
use agena_protocol::message_id::OffsetId;
use agena_protocol::queue::QueueId;
use agena_protocol::response_code::ResponseCode;
use agena_remoting::connection::Connection;
use agena_remoting::reply::{Replies, ReplyTo};
use agena_store::{
    AppendBatch, Appended, FlushError, MessageIllegal, NewMessage, Placed, StoreError,
};
use smallvec::SmallVec;

use crate::broker::Broker;
use crate::config::BrokerConfig;
use crate::delay::{self, DelayRefused};
use crate::stats::Tally;
use check::{Accepted, Body};
use repeat::Begun;

/// Why a message is not taken: what the producer is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The code, which decides whether the producer tries again.
    pub code: ResponseCode,
    /// Stable words for the producer.
    pub remark: String,
}

impl Refused {
    /// With these words.
    pub(crate) fn new(code: ResponseCode, remark: impl Into<String>) -> Self {
        Self {
            code,
            remark: remark.into(),
        }
    }
}

/// A message that is stored under another topic until its time comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Redirect {
    /// Where to store it.
    pub topic: Cow<'static, str>,
    /// The queue of that topic.
    pub queue: QueueId,
    /// All of its properties, encoded, with those that lead it back.
    pub properties: Vec<u8>,
    /// Calls a timer message back.
    pub recall_handle: Option<String>,
}

impl From<delay::Redirect> for Redirect {
    fn from(redirect: delay::Redirect) -> Self {
        Self {
            topic: Cow::Borrowed(redirect.topic),
            queue: redirect.queue,
            properties: redirect.properties,
            recall_handle: redirect.recall_handle,
        }
    }
}

impl From<DelayRefused> for Refused {
    fn from(refused: DelayRefused) -> Self {
        let code = match refused {
            DelayRefused::Illegal { .. } => ResponseCode::MessageIllegal,
            DelayRefused::TimersDisabled => ResponseCode::SystemError,
        };
        Self::new(code, refused.to_string())
    }
}

/// Properties of a batch may take this much before their buffer is given back.
const KEPT_BYTES_MAX: usize = 1024 * 1024;

thread_local! {
    /// The completed properties of all messages of a batch, one behind the other.
    static PROPERTIES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// A message id that is being written.
    static MESSAGE_ID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Takes the sends of one read, in their order.
pub(crate) fn send(
    broker: &Arc<Broker>,
    connection: &Arc<Connection>,
    frames: &[Frame<'_>],
    replies: &mut Replies,
) {
    let config = broker.config.get();
    PROPERTIES.with_borrow_mut(|properties| {
        properties.clear();
        let mut accepted = Vec::with_capacity(frames.len());
        for frame in frames {
            match check::check(broker, &config, connection, frame, properties) {
                Ok(message) => accepted.push(message),
                Err(refused) => refuse(&config, frame, &refused, replies),
            }
        }
        if !accepted.is_empty() {
            append(broker, &config, connection, &accepted, properties, replies);
        }
        properties.shrink_to(KEPT_BYTES_MAX);
    });
}

/// One append for all messages, and the answers to them.
fn append(
    broker: &Arc<Broker>,
    config: &BrokerConfig,
    connection: &Arc<Connection>,
    accepted: &[Accepted<'_, '_>],
    properties: &[u8],
    replies: &mut Replies,
) {
    let origin = Origin {
        born_host: connection.peer(),
        store_host: broker.identity.advertised,
    };
    let mut batch = broker.store.batch();
    let mut pushed: SmallVec<[&Accepted<'_, '_>; 8]> = SmallVec::new();
    // Stays empty, and costs nothing, without messages that have an identity.
    let mut reserved = Vec::new();
    for message in accepted {
        let reservation = match repeat::begin(broker, config, connection, message) {
            Begun::First(reservation) => reservation,
            Begun::Repeat => continue,
        };
        match push(&mut batch, message, origin, properties) {
            Ok(()) => {
                reserved.extend(reservation.map(|reservation| (pushed.len(), reservation)));
                pushed.push(message);
            }
            Err(illegal) => {
                let refused = too_large(config, &illegal);
                if let Some(reservation) = reservation {
                    reservation.failed(&refused);
                }
                refuse(config, message.frame, &refused, replies);
            }
        }
    }
    if pushed.is_empty() {
        return;
    }
    match broker.store.append(&mut batch) {
        Ok(appended) => {
            repeat::stored(reserved, &pushed, &appended);
            count(broker, &pushed, &appended);
            answer(broker, config, connection, &pushed, &appended, replies);
        }
        Err(error) => {
            broker.stats.put_failed(pushed.len());
            let refused = not_stored(&error);
            for (_, reservation) in reserved {
                reservation.failed(&refused);
            }
            for message in pushed {
                refuse(config, message.frame, &refused, replies);
            }
        }
    }
}

/// The two ends of a message's way to this broker.
#[derive(Debug, Clone, Copy)]
struct Origin {
    born_host: SocketAddr,
    store_host: SocketAddr,
}

fn push<'a>(
    batch: &mut AppendBatch<'a>,
    message: &'a Accepted<'_, '_>,
    origin: Origin,
    properties: &'a [u8],
) -> Result<(), MessageIllegal> {
    let whole = NewMessage {
        topic: message.topic.as_str(),
        queue_id: message.stored_queue,
        flag: message.flag,
        sys_flag: message.sys_flag,
        born_timestamp: message.born_timestamp,
        born_host: origin.born_host,
        store_host: origin.store_host,
        reconsume_times: message.reconsume_times,
        prepared_transaction_offset: 0,
        body: &[],
        properties: &[],
        wait_for_flush: message.waits,
    };
    match &message.body {
        Body::One {
            body,
            properties: range,
        } => batch.push(NewMessage {
            body,
            properties: &properties[range.clone()],
            ..whole
        }),
        Body::Many(parts) => {
            let messages: Vec<NewMessage<'a>> = parts
                .iter()
                .map(|part| NewMessage {
                    flag: part.flag,
                    body: part.body,
                    properties: &properties[part.properties.clone()],
                    ..whole
                })
                .collect();
            batch.push_all_or_nothing(&messages)
        }
    }
}

/// Adds to the counters, once per run of messages with the same topic.
fn count(broker: &Broker, pushed: &[&Accepted<'_, '_>], appended: &Appended) {
    let now_ms = appended
        .placed
        .first()
        .map_or(0, |placed| placed.store_timestamp);
    let mut placed = appended.placed.iter();
    for run in pushed.chunk_by(|a, b| a.topic.as_str() == b.topic.as_str()) {
        let mut tally = Tally::default();
        for message in run {
            tally.times += 1;
            for placed in placed.by_ref().take(message.count()) {
                tally.messages += 1;
                tally.bytes += u64::from(placed.bytes);
            }
        }
        broker.stats.put(run[0].topic.as_str(), tally, now_ms);
    }
}

/// Answers those that need not wait for the device now, and the others when the promise holds.
fn answer(
    broker: &Arc<Broker>,
    config: &BrokerConfig,
    connection: &Arc<Connection>,
    pushed: &[&Accepted<'_, '_>],
    appended: &Appended,
    replies: &mut Replies,
) {
    let waits_for_device = broker.waits_for_device;
    let store_host = broker.identity.advertised;
    let mut waiting = Vec::new();
    let mut rest = appended.placed.as_slice();
    MESSAGE_ID.with_borrow_mut(|message_id| {
        for message in pushed {
            let (placed, behind) = rest.split_at(message.count());
            rest = behind;
            message_id.clear();
            write_message_ids(message_id, store_host, placed);
            let answer = SendMessageResponse {
                msg_id: message_id,
                queue_id: message.queue.wire(),
                queue_offset: placed[0].queue_offset.wire(),
                transaction_id: Some(message.unique_id()),
                batch_uniq_id: None,
                recall_handle: message.recall_handle.as_deref(),
                msg_region: Some(&config.region_id),
                trace_on: Some(config.trace_on),
            };
            if waits_for_device && message.waits && !message.frame.is_one_way() {
                let reply_to = ReplyTo::of(connection, message.frame);
                waiting.push((reply_to, OwnedAnswer::of(&answer, config)));
            } else {
                replies.push(message.frame, ResponseCode::Success, None, &answer);
            }
        }
    });
    if !waiting.is_empty() {
        let connection = connection.clone();
        let then = move |flushed| answer_flushed(&connection, &waiting, flushed);
        broker.store.when_durable(appended.ack, Box::new(then));
    }
}

/// Runs on the group-commit thread: encodes and queues, nothing else.
fn answer_flushed(
    connection: &Connection,
    waiting: &[(ReplyTo, OwnedAnswer)],
    flushed: Result<(), FlushError>,
) {
    let (code, remark) = match flushed {
        Ok(()) => (ResponseCode::Success, None),
        Err(FlushError::Timeout) => (ResponseCode::FlushDiskTimeout, None),
        Err(FlushError::Failed) => (
            ResponseCode::ServiceNotAvailable,
            Some("the data sync failed and the store is read-only; the message may be lost"),
        ),
        Err(FlushError::Closed) => (
            ResponseCode::ServiceNotAvailable,
            Some("the broker stopped before the message was on the device"),
        ),
    };
    let encode = |(reply_to, answer): &(ReplyTo, OwnedAnswer)| {
        if remark.is_some() {
            reply_to.encode(code, remark, &answer.region(), [])
        } else {
            reply_to.encode(code, None, &answer.borrow(), [])
        }
    };
    connection.send_all(waiting.iter().filter_map(encode));
}

fn refuse(config: &BrokerConfig, frame: &Frame<'_>, refused: &Refused, replies: &mut Replies) {
    replies.push(frame, refused.code, Some(&refused.remark), &region(config));
}

/// A message that nobody can store.
fn too_large(config: &BrokerConfig, illegal: &MessageIllegal) -> Refused {
    tracing::debug!(%illegal, "a message was refused");
    Refused::new(
        ResponseCode::MessageIllegal,
        format!(
            "the message is illegal, maybe msg body or properties length not matched. msg body length limit {}B, msg properties length limit 32KB.",
            config.max_message_size
        ),
    )
}

/// A message that could not be stored now.
pub(crate) fn not_stored(error: &StoreError) -> Refused {
    match error {
        StoreError::DiskFull { .. }
        | StoreError::DiskRatio { .. }
        | StoreError::ReadOnly { .. }
        | StoreError::Closed => Refused::new(
            ResponseCode::ServiceNotAvailable,
            format!(
                "service not available now. It may be caused by one of the following reasons: the broker's disk is full, messages are put to the slave, message store has been shut down, etc. ({error})"
            ),
        ),
        StoreError::TooLarge { .. } => Refused::new(
            ResponseCode::MessageIllegal,
            format!("the message is illegal: {error}"),
        ),
        other => {
            tracing::error!(%other, "a message could not be stored");
            Refused::new(
                ResponseCode::SystemError,
                format!("UNKNOWN_ERROR ({other})"),
            )
        }
    }
}

/// Offset ids, joined by commas as the original answers a batch.
fn write_message_ids(out: &mut String, store_host: SocketAddr, placed: &[Placed]) {
    for placed in placed {
        if !out.is_empty() {
            out.push(',');
        }
        let id = OffsetId {
            store_host,
            offset: placed.physical_offset,
        };
        id.write(out);
    }
}

/// What every answer to a send says about this broker, errors included.
pub(crate) fn region(config: &BrokerConfig) -> MessageRegion<'_> {
    MessageRegion {
        msg_region: Some(&config.region_id),
        trace_on: Some(config.trace_on),
    }
}

/// An answer that waits for the device.
#[derive(Debug)]
struct OwnedAnswer {
    message_id: String,
    queue_id: i32,
    queue_offset: i64,
    transaction_id: Option<String>,
    recall_handle: Option<String>,
    region: String,
    trace_on: bool,
}

impl OwnedAnswer {
    fn of(answer: &SendMessageResponse<'_>, config: &BrokerConfig) -> Self {
        Self {
            message_id: answer.msg_id.to_owned(),
            queue_id: answer.queue_id,
            queue_offset: answer.queue_offset,
            transaction_id: answer.transaction_id.map(str::to_owned),
            recall_handle: answer.recall_handle.map(str::to_owned),
            region: config.region_id.clone(),
            trace_on: config.trace_on,
        }
    }

    fn borrow(&self) -> SendMessageResponse<'_> {
        SendMessageResponse {
            msg_id: &self.message_id,
            queue_id: self.queue_id,
            queue_offset: self.queue_offset,
            transaction_id: self.transaction_id.as_deref(),
            batch_uniq_id: None,
            recall_handle: self.recall_handle.as_deref(),
            msg_region: Some(&self.region),
            trace_on: Some(self.trace_on),
        }
    }

    fn region(&self) -> MessageRegion<'_> {
        MessageRegion {
            msg_region: Some(&self.region),
            trace_on: Some(self.trace_on),
        }
    }
}
