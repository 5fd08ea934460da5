//! Messages that a consumer could not handle: back into the retry topic of their group after a pause, and in the end among the dead.
//!
//! Two ways lead there. A concurrent consumer sends back the place of the message (request 36), and the broker stores a copy; an
//! ordered one sends the message itself to `%RETRY%group`, which is redirected to `%DLQ%group` when it was tried often enough.
//! A dead letter says why it is one, and whose failure was the last, in properties that the original does not have
//! ([`DeathNote`]). Source: spec/semantics.md §3.4, §3.5, spec/store.md §6.5; Apache `AbstractSendMessageProcessor`.

use std::sync::Arc;

use agena_protocol::bodies::subscription_group::SubscriptionGroupConfig;
use agena_protocol::command::Command;
use agena_protocol::headers::send::ConsumerSendMsgBackRequest;
use agena_protocol::offset::PhysicalOffset;
use agena_protocol::properties::{self, Properties, PropertiesBuf};
use agena_protocol::queue::QueueId;
use agena_protocol::record::RecordView;
use agena_protocol::response_code::ResponseCode;
use agena_protocol::topic;
use agena_remoting::connection::Connection;
use agena_store::NewMessage;

use crate::broker::Broker;
use crate::send::Refused;

/// Clients before 3.4.9 do not mean it when they send `maxReconsumeTimes`.
pub(crate) const VERSION_3_4_9: i32 = 121;

/// The level of the first retry: 10 s.
const FIRST_RETRY_LEVEL: i32 = 3;

/// Where a consumer that wants to may say why it failed: a field of request 36. The original's clients have none, and its broker
/// passes it over.
const CAUSE_FIELD: &str = "cause";

/// Characters of a cause that are kept.
const CAUSE_CHARS_MAX: usize = 256;

/// Why a message is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// It was tried as often as the group, or its consumer, allows.
    TriedTooOften,
    /// Its consumer wants no further try.
    GivenUp,
}

impl Reason {
    fn text(self) -> &'static str {
        match self {
            Self::TriedTooOften => "MAX_RECONSUME_TIMES",
            Self::GivenUp => "GIVEN_UP",
        }
    }
}

/// What is written on a dead letter: the reason, the consumer that failed last, and what it said.
#[derive(Debug)]
pub(crate) struct DeathNote {
    reason: Reason,
    consumer: Option<Arc<str>>,
    cause: Option<String>,
}

impl DeathNote {
    fn new(
        broker: &Broker,
        connection: &Connection,
        group: &str,
        reason: Reason,
        cause: Option<&str>,
    ) -> Self {
        let online = broker.sessions.consumer_group(group);
        let member = online.and_then(|online| {
            let mut members = online.members.iter();
            let found = members.find(|member| member.client.connection.id() == connection.id());
            found.map(|member| member.client.id.clone())
        });
        // Control characters would end the property; everything else is the consumer's word.
        let cause = cause.map(|text| {
            let printable = text.chars().filter(|letter| !letter.is_control());
            printable.take(CAUSE_CHARS_MAX).collect()
        });
        Self {
            reason,
            consumer: member,
            cause,
        }
    }

    /// Name and value of each property. A value that is empty would be dropped by readers and is left out.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let pairs = [
            (properties::DEATH_REASON, Some(self.reason.text())),
            (properties::DEATH_CONSUMER, self.consumer.as_deref()),
            (properties::DEATH_CAUSE, self.cause.as_deref()),
        ];
        let given = pairs
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        given.filter(|(_, value)| !value.is_empty())
    }
}

/// A send to a retry topic that is stored among the dead instead.
#[derive(Debug)]
pub(crate) struct DeadLetter {
    /// `%DLQ%group`.
    pub(crate) topic: String,
    pub(crate) note: DeathNote,
}

/// What a send to the retry topic of a group becomes instead: a dead letter when the message was tried more often than allowed, or
/// while any queue is locked for the group, since then it consumes in order and gave the message up.
///
/// # Errors
/// Code 26 when there is no such group.
pub(crate) fn redirect_retry_send(
    broker: &Broker,
    connection: &Connection,
    name: &str,
    reconsume_times: i32,
    max_reconsume_times: Option<i32>,
) -> Result<Option<DeadLetter>, Refused> {
    let config = group_config(broker, name)?;
    let max = max_reconsume_times.unwrap_or(config.retry_max_times);
    let reason = if reconsume_times > max {
        Reason::TriedTooOften
    } else if broker.order_locks.holds_any(name) {
        Reason::GivenUp
    } else {
        return Ok(None);
    };
    let dead_letters = topic::dlq_of(name);
    broker.topics.ensure(&dead_letters, 1);
    broker
        .stats
        .dead_lettered(name, &dead_letters, broker.clock.now_ms());
    Ok(Some(DeadLetter {
        topic: dead_letters,
        note: DeathNote::new(broker, connection, name, reason, None),
    }))
}

/// Request 36.
pub(crate) fn send_back(
    broker: &Arc<Broker>,
    connection: &Arc<Connection>,
    request: &Command,
) -> Result<Command, Refused> {
    let header: ConsumerSendMsgBackRequest<'_> = request.header()?;
    let config = group_config(broker, header.group)?;
    let own = broker.config.get();
    if !own.is_writable() {
        let remark = format!(
            "the broker[{}] sending message is forbidden",
            own.broker_ip1
        );
        return Err(Refused::new(ResponseCode::NoPermission, remark));
    }
    if config.retry_queue_nums <= 0 {
        return Ok(Command::success());
    }
    let retry_topic = topic::retry_of(header.group);
    let retry = broker.topics.get(&retry_topic).unwrap_or_else(|| {
        let unit_mode = header.unit_mode == Some(true);
        broker
            .topics
            .ensure_retry(&retry_topic, config.retry_queue_nums, false, unit_mode)
    });
    if !retry.is_writable() {
        let remark = format!("the topic[{retry_topic}] sending message is forbidden");
        return Err(Refused::new(ResponseCode::NoPermission, remark));
    }
    let gone = || {
        let remark = format!("look message by offset failed, {}", header.offset);
        Refused::new(ResponseCode::SystemError, remark)
    };
    let place = PhysicalOffset::from_wire(header.offset).ok_or_else(gone)?;
    let slice = broker.store.record_at(place).ok_or_else(gone)?;
    let record = RecordView::parse_unsummed(&slice).map_err(|_| gone())?;
    let times_max = header
        .max_reconsume_times
        .filter(|_| request.version >= VERSION_3_4_9)
        .unwrap_or(config.retry_max_times);
    let way = way_of(record.reconsume_times(), times_max, header.delay_level);
    let note = match way {
        Way::Again { .. } => None,
        Way::Dead(reason) => {
            let cause = request.ext.get(CAUSE_FIELD);
            Some(DeathNote::new(
                broker,
                connection,
                header.group,
                reason,
                cause,
            ))
        }
    };
    let properties = returned_properties(&record, way, note.as_ref());
    let real = match way {
        Way::Again { .. } => (retry_topic, broker.next_queue(config.retry_queue_nums)),
        Way::Dead(_) => {
            let dead_letters = topic::dlq_of(header.group);
            broker.topics.ensure(&dead_letters, 1);
            (dead_letters, QueueId::new(0))
        }
    };
    store(broker, &record, &real, &properties)?;
    count(broker, header.group, record.topic(), way);
    Ok(Command::success())
}

/// What becomes of a message that was sent back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Another try after a delay level.
    Again { level: i32 },
    /// No further try.
    Dead(Reason),
}

fn way_of(reconsume_times: i32, times_max: i32, wished_level: i32) -> Way {
    if reconsume_times >= times_max {
        return Way::Dead(Reason::TriedTooOften);
    }
    if wished_level < 0 {
        return Way::Dead(Reason::GivenUp);
    }
    let level = match wished_level {
        0 => FIRST_RETRY_LEVEL.saturating_add(reconsume_times),
        wished => wished,
    };
    Way::Again { level }
}

/// The properties of the copy: where it first came from, how long it waits, or why it is dead.
fn returned_properties(record: &RecordView<'_>, way: Way, note: Option<&DeathNote>) -> Vec<u8> {
    let mut returned = PropertiesBuf::parse(record.properties().encoded());
    if returned.get(properties::RETRY_TOPIC).is_none() {
        returned.set(properties::RETRY_TOPIC, record.topic());
    }
    if returned.get(properties::ORIGIN_MESSAGE_ID).is_none() {
        returned.set(
            properties::ORIGIN_MESSAGE_ID,
            record.offset_id().to_string(),
        );
    }
    returned.set(properties::WAIT, "false");
    let level = match way {
        Way::Again { level } => level,
        Way::Dead(_) => 0,
    };
    returned.set(properties::DELAY, level.to_string());
    // The note of an earlier death is history once the message was sent again.
    for name in [
        properties::DEATH_REASON,
        properties::DEATH_CONSUMER,
        properties::DEATH_CAUSE,
    ] {
        returned.remove(name);
    }
    let without_note = returned.encode();
    let Some(note) = note else {
        return without_note;
    };
    for (name, value) in note.pairs() {
        returned.set(name, value);
    }
    let noted = returned.encode();
    // A message that is nearly full of properties of its own dies without a note rather than not at all.
    if noted.len() > properties::PROPERTIES_BYTES_MAX {
        without_note
    } else {
        noted
    }
}

fn store(
    broker: &Broker,
    record: &RecordView<'_>,
    (topic, queue): &(String, QueueId),
    properties: &[u8],
) -> Result<(), Refused> {
    let now_ms = broker.clock.now_ms();
    let waits = broker
        .delay
        .on_send(Properties::new(properties), topic, *queue, now_ms)?;
    let (topic, queue_id, properties) = match &waits {
        Some(redirect) => (
            redirect.topic,
            redirect.queue,
            redirect.properties.as_slice(),
        ),
        None => (topic.as_str(), *queue, properties),
    };
    let mut batch = broker.store.batch();
    let message = NewMessage {
        topic,
        queue_id,
        flag: record.flag(),
        sys_flag: record.sys_flag(),
        born_timestamp: record.born_timestamp(),
        born_host: record.born_host(),
        store_host: broker.identity.advertised,
        reconsume_times: record.reconsume_times().saturating_add(1),
        prepared_transaction_offset: 0,
        body: record.body(),
        properties,
        wait_for_flush: false,
    };
    let refused = |fault: &dyn std::fmt::Display| {
        tracing::warn!(topic, %fault, "a message that was sent back is not stored");
        Refused::new(ResponseCode::SystemError, fault.to_string())
    };
    batch.push(message).map_err(|fault| refused(&fault))?;
    // The record says WAIT=false, as the original's does: the source of the copy is safe already.
    let _appended = broker
        .store
        .append(&mut batch)
        .map_err(|fault| refused(&fault))?;
    Ok(())
}

fn count(broker: &Broker, group: &str, topic: &str, way: Way) {
    let now_ms = broker.clock.now_ms();
    match way {
        Way::Again { .. } => broker.stats.sent_back(group, topic, now_ms),
        Way::Dead(_) => broker.stats.dead_lettered(group, topic, now_ms),
    }
}

fn group_config(broker: &Broker, name: &str) -> Result<SubscriptionGroupConfig, Refused> {
    let group = broker.groups.get_or_create(name);
    group.and_then(|group| group.config.clone()).ok_or_else(|| {
        let remark = format!("subscription group not exist, {name}");
        Refused::new(ResponseCode::SubscriptionGroupNotExist, remark)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_goes_from_ten_seconds_to_two_hours_and_then_to_the_dead() {
        let levels: Vec<_> = (0..=16).map(|times| way_of(times, 16, 0)).collect();
        for (times, way) in levels[..16].iter().enumerate() {
            let level = 3 + i32::try_from(times).unwrap();
            assert_eq!(*way, Way::Again { level });
        }
        assert_eq!(levels[16], Way::Dead(Reason::TriedTooOften));
    }

    #[test]
    fn a_consumer_may_wish_a_level_or_give_up() {
        assert_eq!(way_of(5, 16, 2), Way::Again { level: 2 });
        assert_eq!(way_of(0, 16, -1), Way::Dead(Reason::GivenUp));
        assert_eq!(way_of(0, 0, 0), Way::Dead(Reason::TriedTooOften));
    }
}
