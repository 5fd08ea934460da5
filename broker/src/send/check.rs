//! Whether a message may be stored, and as what: the original's checks in the original's order, since the first that
//! fails is the one the producer hears of (spec/semantics.md §3.1).

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::properties::{self, Noticed};
use super::{Redirect, Refused};
use crate::broker::Broker;
use crate::config::BrokerConfig;
use crate::dedup::Identity;
use crate::retry::{self, DeadLetter};
use crate::{local_time, transaction};
use agena_protocol::batch;
use agena_protocol::bodies::topic_config::{TopicConfig, TopicFilterType};
use agena_protocol::frame::Frame;
use agena_protocol::headers::send::SendMessageRequest;
use agena_protocol::properties as names;
use agena_protocol::properties::{PROPERTIES_BYTES_MAX, Properties, push_pair};
use agena_protocol::queue::QueueId;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_protocol::{sys_flag, topic};
use agena_remoting::connection::Connection;

/// A message that may be stored.
#[derive(Debug)]
pub(super) struct Accepted<'f, 'b> {
    pub(super) frame: &'f Frame<'b>,
    /// The topic to store under, which for delayed, half and dead messages is not the one that was asked for.
    pub(super) topic: StoredTopic<'f>,
    /// The queue the producer asked for, or that was chosen for it.
    pub(super) queue: QueueId,
    /// The queue to store in.
    pub(super) stored_queue: QueueId,
    pub(super) flag: i32,
    pub(super) sys_flag: i32,
    pub(super) born_timestamp: i64,
    pub(super) reconsume_times: i32,
    /// The producer wants its answer to wait for the device, where the broker promises that at all.
    pub(super) waits: bool,
    pub(super) body: Body<'f>,
    pub(super) recall_handle: Option<String>,
    /// What a repeat of it is recognised by, if its producer cares.
    pub(super) identity: Option<Identity<'f>>,
    /// The topic that was asked for.
    pub(super) asked_topic: &'f str,
    unique_id: UniqueId<'f>,
}

/// What is stored: places in the buffer of properties, and bodies in the frame.
#[derive(Debug)]
pub(super) enum Body<'f> {
    /// One record.
    One {
        body: &'f [u8],
        properties: Range<usize>,
    },
    /// A plain batch: consecutive records.
    Many(Vec<Part<'f>>),
}

/// One message of a batch.
#[derive(Debug)]
pub(super) struct Part<'f> {
    pub(super) flag: i32,
    pub(super) body: &'f [u8],
    pub(super) properties: Range<usize>,
}

/// A topic's name, borrowed while nothing renames it.
#[derive(Debug)]
pub(super) enum StoredTopic<'f> {
    AsSent(&'f str),
    Renamed(Cow<'static, str>),
}

impl StoredTopic<'_> {
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::AsSent(name) => name,
            Self::Renamed(name) => name,
        }
    }
}

#[derive(Debug)]
enum UniqueId<'f> {
    OfProducer(&'f str),
    Made(String),
}

impl Accepted<'_, '_> {
    /// How many records it becomes.
    pub(super) fn count(&self) -> usize {
        match &self.body {
            Body::One { .. } => 1,
            Body::Many(parts) => parts.len(),
        }
    }

    /// The id that producers know the message by.
    pub(super) fn unique_id(&self) -> &str {
        match &self.unique_id {
            UniqueId::OfProducer(id) => id,
            UniqueId::Made(id) => id,
        }
    }
}

/// The header in either form.
fn decode<'f>(frame: &'f Frame<'_>) -> Result<SendMessageRequest<'f>, Refused> {
    let code = RequestCode::from_number(frame.code).unwrap_or(RequestCode::SendMessageV2);
    SendMessageRequest::read(code, &frame.ext)
        .map_err(|error| Refused::new(ResponseCode::SystemError, error.to_string()))
}

/// Checks the message of `frame` and completes its properties behind `arena`.
pub(super) fn check<'f, 'b>(
    broker: &Arc<Broker>,
    config: &BrokerConfig,
    connection: &Connection,
    frame: &'f Frame<'b>,
    arena: &mut Vec<u8>,
) -> Result<Accepted<'f, 'b>, Refused> {
    let request = decode(frame)?;
    check_accepting(broker, config)?;
    let topic_config = find_topic(broker, config, connection, &request)?;
    let queue = choose_queue(broker, connection, &request, &topic_config)?;
    let dead_letter = redirect_retry(broker, connection, frame, &request)?;
    if frame.body.is_empty() {
        return Err(Refused::new(
            ResponseCode::MessageIllegal,
            "the message has no body",
        ));
    }
    let noticed = Noticed::in_string(request.properties.unwrap_or_default().as_bytes());
    let mut accepted = Accepted {
        frame,
        topic: StoredTopic::AsSent(request.topic),
        queue,
        stored_queue: queue,
        flag: request.flag,
        sys_flag: request.sys_flag | tag_flag(&topic_config),
        born_timestamp: request.born_timestamp,
        reconsume_times: request.reconsume_times.unwrap_or(0),
        waits: noticed.waits.unwrap_or(true),
        body: Body::Many(Vec::new()),
        recall_handle: None,
        identity: identity_in(&request, &noticed)?,
        asked_topic: request.topic,
        unique_id: match noticed.unique_key {
            Some(id) => UniqueId::OfProducer(id),
            None => UniqueId::Made(broker.unique_ids.next(broker.clock.now_ms())),
        },
    };
    let message = Message {
        request: &request,
        topic_config: &topic_config,
        noticed,
        dead_letter,
    };
    if request.is_batch() {
        let (parts, identity) = message.batch(config, frame.body, accepted.identity, arena)?;
        accepted.body = Body::Many(parts);
        accepted.identity = identity;
    } else {
        message.single(broker, config, &mut accepted, arena)?;
    }
    Ok(accepted)
}

fn check_accepting(broker: &Broker, config: &BrokerConfig) -> Result<(), Refused> {
    let from = config.start_accept_send_request_time_stamp;
    if from > 0 && broker.clock.now_ms() < from {
        return Err(Refused::new(
            ResponseCode::SystemError,
            format!("broker unable to service, until {}", local_time::text(from)),
        ));
    }
    Ok(())
}

/// Checks 4 to 7: the broker's permission, the name, and that there is such a topic, made if need be.
fn find_topic(
    broker: &Broker,
    config: &BrokerConfig,
    connection: &Connection,
    request: &SendMessageRequest<'_>,
) -> Result<Arc<TopicConfig>, Refused> {
    let name = request.topic;
    let known = broker.topics.get(name);
    if !config.is_writable() && known.as_ref().is_some_and(|topic| topic.order) {
        return Err(Refused::new(
            ResponseCode::NoPermission,
            format!(
                "the broker[{}] sending message is forbidden",
                config.broker_ip1
            ),
        ));
    }
    // A topic that exists has been through this, unless it is one of the broker's own.
    topic::check(name)
        .map_err(|fault| Refused::new(ResponseCode::InvalidParameter, fault.to_string()))?;
    if !topic::is_sendable(name) {
        let remark = topic::not_sendable_remark(name);
        return Err(Refused::new(ResponseCode::NoPermission, remark));
    }
    if let Some(known) = known {
        return Ok(known);
    }
    let queues = request.default_topic_queue_nums;
    let unit_mode = request.unit_mode == Some(true);
    let created = broker
        .topics
        .create_on_send(name, request.default_topic, queues, unit_mode);
    created.ok_or_else(|| {
        tracing::info!(topic = name, peer = %connection.peer(), "a send to a topic that does not exist");
        Refused::new(
            ResponseCode::TopicNotExist,
            format!("topic[{name}] not exist, apply first please!"),
        )
    })
}

/// Checks 8 and 9: the queue must exist for readers or writers, so that queues can be taken away in two steps.
fn choose_queue(
    broker: &Broker,
    connection: &Connection,
    request: &SendMessageRequest<'_>,
    topic: &TopicConfig,
) -> Result<QueueId, Refused> {
    let queues = topic.write_queue_nums.max(topic.read_queue_nums);
    if request.queue_id >= queues {
        let asked = request.queue_id;
        return Err(Refused::new(
            ResponseCode::InvalidParameter,
            format!(
                "request queueId[{asked}] is illegal, {topic} Producer: {}",
                connection.peer()
            ),
        ));
    }
    Ok(QueueId::from_wire(request.queue_id)
        .unwrap_or_else(|| broker.next_queue(topic.write_queue_nums)))
}

/// Who sent it and which one it is. A consumer that sends a message back sends its properties along, which say nothing of
/// this copy.
fn identity_in<'f>(
    request: &SendMessageRequest<'_>,
    noticed: &Noticed<'f>,
) -> Result<Option<Identity<'f>>, Refused> {
    if is_sent_back(request) {
        return Ok(None);
    }
    Identity::of(noticed.producer_id, noticed.sequence)
}

fn is_sent_back(request: &SendMessageRequest<'_>) -> bool {
    topic::group_of_retry(request.topic).is_some() || request.reconsume_times.unwrap_or(0) > 0
}

/// Check 10: a retry that has failed too often is stored as the dead letter that is returned.
fn redirect_retry(
    broker: &Broker,
    connection: &Connection,
    frame: &Frame<'_>,
    request: &SendMessageRequest<'_>,
) -> Result<Option<DeadLetter>, Refused> {
    let Some(group) = topic::group_of_retry(request.topic) else {
        return Ok(None);
    };
    if request.is_batch() {
        return Err(Refused::new(
            ResponseCode::MessageIllegal,
            format!("batch request does not support retry group {group}"),
        ));
    }
    let times_max = request
        .max_reconsume_times
        .filter(|_| frame.version >= retry::VERSION_3_4_9);
    let times = request.reconsume_times.unwrap_or(0);
    let properties = Properties::new(request.properties.unwrap_or_default().as_bytes());
    if times == 0 && properties.get(names::REDRIVEN_FROM).is_some() {
        // An operator wants another try of a dead letter, also by a group that consumes in order and holds its queues.
        return Ok(None);
    }
    retry::redirect_retry_send(broker, connection, group, times, times_max)
}

fn tag_flag(topic: &TopicConfig) -> i32 {
    match topic.topic_filter_type {
        TopicFilterType::SingleTag => 0,
        TopicFilterType::MultiTag => sys_flag::MULTI_TAGS,
    }
}

/// A message of an existing topic and queue, before it is known what is stored of it.
struct Message<'m, 'f> {
    request: &'m SendMessageRequest<'f>,
    topic_config: &'m TopicConfig,
    noticed: Noticed<'f>,
    dead_letter: Option<DeadLetter>,
}

impl<'f> Message<'_, 'f> {
    /// Checks 11 to 15 of a message that becomes one record.
    fn single(
        self,
        broker: &Arc<Broker>,
        config: &BrokerConfig,
        accepted: &mut Accepted<'f, '_>,
        arena: &mut Vec<u8>,
    ) -> Result<(), Refused> {
        self.check_key()?;
        let encoded = self.request.properties.unwrap_or_default().as_bytes();
        let made = match &accepted.unique_id {
            UniqueId::OfProducer(_) => None,
            UniqueId::Made(id) => Some(id.as_str()),
        };
        let mut range = properties::complete(arena, encoded, &self.noticed, made, config);
        if let Some(dead_letter) = self.dead_letter {
            push_pair(arena, names::DELAY, "-1");
            for (name, value) in dead_letter.note.pairs() {
                let room = PROPERTIES_BYTES_MAX.saturating_sub(arena.len() - range.start);
                // Two separators. A message nearly full of properties is stored without the note.
                if name.len() + value.len() + 2 <= room {
                    push_pair(arena, name, value);
                }
            }
            range.end = arena.len();
            accepted.topic = StoredTopic::Renamed(Cow::Owned(dead_letter.topic));
            accepted.stored_queue = QueueId::new(0);
        } else if let Some(redirect) =
            self.redirect(broker, config, accepted, &arena[range.clone()])?
        {
            accepted.topic = StoredTopic::Renamed(redirect.topic);
            accepted.stored_queue = redirect.queue;
            accepted.recall_handle = redirect.recall_handle;
            arena.truncate(range.start);
            arena.extend_from_slice(&redirect.properties);
            range.end = arena.len();
        }
        accepted.body = Body::One {
            body: accepted.frame.body,
            properties: range,
        };
        Ok(())
    }

    /// Half messages and delayed ones wait under another topic.
    fn redirect(
        &self,
        broker: &Arc<Broker>,
        config: &BrokerConfig,
        accepted: &mut Accepted<'f, '_>,
        properties: &[u8],
    ) -> Result<Option<Redirect>, Refused> {
        let properties = Properties::new(properties);
        let queue = accepted.queue;
        if self.noticed.is_half && !self.noticed.is_delayed_retry(accepted.reconsume_times) {
            // A repeat takes no room, and refused it would be stored by another broker once more.
            let known = accepted.identity;
            let is_repeat = || known.is_some_and(|identity| broker.dedup.knows(identity));
            if config.reject_transaction_message && !is_repeat() {
                return Err(Refused::new(
                    ResponseCode::NoPermission,
                    format!(
                        "the broker[{}] sending transaction message is forbidden",
                        config.broker_ip1
                    ),
                ));
            }
            if !broker.transactions.has_room(config) && !is_repeat() {
                return Err(Refused::new(
                    ResponseCode::SystemBusy,
                    "too many transactions are pending (transactionPendingMax)",
                ));
            }
            let group = properties.get(names::PGROUP).unwrap_or_default();
            if group.len() > transaction::GROUP_BYTES_MAX {
                return Err(Refused::new(
                    ResponseCode::MessageIllegal,
                    format!(
                        "the producer group (PGROUP) is longer than {} bytes",
                        transaction::GROUP_BYTES_MAX
                    ),
                ));
            }
            if self.noticed.is_delayed {
                // What no commit could deliver is refused while somebody hears of it.
                let now_ms = broker.clock.now_ms();
                broker
                    .delay
                    .on_send(properties, self.request.topic, queue, now_ms)?;
            }
            accepted.sys_flag &= !sys_flag::TRANSACTION_MASK;
            let half = transaction::prepare(properties, self.request.topic, queue);
            return Ok(Some(half));
        }
        if self.noticed.is_delayed {
            let now_ms = broker.clock.now_ms();
            let redirect = broker
                .delay
                .on_send(properties, self.request.topic, queue, now_ms)?;
            return Ok(redirect.map(Redirect::from));
        }
        Ok(None)
    }

    /// A compacted topic keeps the last message of each key, so there must be one.
    fn check_key(&self) -> Result<(), Refused> {
        let attributes = &self.topic_config.attributes;
        let compacted = attributes
            .get("cleanup.policy")
            .is_some_and(|policy| policy == "COMPACTION");
        if compacted && self.noticed.keys.is_none() {
            return Err(Refused::new(
                ResponseCode::MessageIllegal,
                "Required message key is missing",
            ));
        }
        Ok(())
    }

    /// The records of a plain batch. Each keeps its own properties; of the batch's, which the original appends to each so
    /// that all share one unique id, only the broker's are taken, and its identity, which is that of all of its messages:
    /// it stands in the batch's own properties or in each message's.
    fn batch(
        &self,
        config: &BrokerConfig,
        body: &'f [u8],
        of_batch: Option<Identity<'f>>,
        arena: &mut Vec<u8>,
    ) -> Result<(Vec<Part<'f>>, Option<Identity<'f>>), Refused> {
        if self.noticed.is_half || self.noticed.is_delayed {
            return Err(Refused::new(
                ResponseCode::MessageIllegal,
                "a batch can be neither delayed nor part of a transaction",
            ));
        }
        let mut parts = Vec::new();
        let mut identity = of_batch;
        for message in batch::messages(body) {
            let message = message.map_err(|error| {
                Refused::new(
                    ResponseCode::SystemError,
                    format!("the batch does not parse: {error}"),
                )
            })?;
            let noticed = Noticed::in_string(message.properties);
            let own = identity_in(self.request, &noticed)?;
            if parts.is_empty() && of_batch.is_none() {
                identity = own;
            }
            let mut properties =
                properties::complete(arena, message.properties, &noticed, None, config);
            match (own, identity) {
                (None, Some(of_batch)) if self.noticed.producer_id.is_some() => {
                    push_pair(arena, names::PRODUCER_ID, of_batch.producer);
                    push_pair(arena, names::SEQUENCE, &of_batch.sequence.to_string());
                    properties.end = arena.len();
                }
                (own, identity) if own == identity => {}
                _ => {
                    return Err(Refused::new(
                        ResponseCode::MessageIllegal,
                        "all messages of a batch have the same AGENA_PRODUCER_ID and AGENA_SEQUENCE, or none has",
                    ));
                }
            }
            parts.push(Part {
                flag: message.flag,
                body: message.body,
                properties,
            });
        }
        Ok((parts, identity))
    }
}
