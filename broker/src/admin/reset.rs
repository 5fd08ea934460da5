//! Where a group goes on: request 222, in both of its forms, and 900005, which takes the last reset back.
//!
//! The broker notes where each queue is to go on and tells consumers with their next pull (the default, which needs nobody online and
//! serves every kind of client), or it computes offsets and pushes them to the clients (`useServerSideResetOffset=false`). Either way
//! the former offsets are on the device first. Source: spec/semantics.md §4.13.

use std::sync::Arc;

use agena_protocol::bodies::offsets::{
    ResetOffsetBody, ResetOffsetBodyForC, UndoneQueue, UndoneReset,
};
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::headers::admin::{
    InvokeBrokerToResetOffsetRequest, ResetConsumerClientOffsetRequest, UndoResetOffsetRequest,
};
use agena_protocol::offset::QueueOffset;
use agena_protocol::queue::{QueueId, QueueMap};
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_remoting::connection::Connection;
use agena_store::Boundary;

use super::topic::{queue_of, queues};
use super::{Answer, system_error, with_json};
use crate::broker::Broker;
use crate::pull;
use crate::send::Refused;
use crate::sessions::GroupView;
use crate::transaction;

/// The language number of C++ clients, which read a list instead of a map.
const CPP: u8 = 1;

type Header<'e> = InvokeBrokerToResetOffsetRequest<'e>;

/// Request 222.
pub(crate) fn reset(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: Header<'_> = request.header()?;
    tracing::info!(
        group = header.group,
        topic = header.topic,
        timestamp = header.timestamp,
        "reset of offsets"
    );
    if broker.config.get().use_server_side_reset_offset {
        reset_here(broker, &header)
    } else {
        push_to_clients(broker, &header, request.language == CPP)
    }
}

fn reset_here(broker: &Arc<Broker>, header: &Header<'_>) -> Answer {
    let (topic, group) = (header.topic, header.group);
    let config = broker.topics.get(topic).ok_or_else(|| no_topic(topic))?;
    check_group(broker, group)?;
    let mut targets: Vec<(QueueId, QueueOffset)> = Vec::new();
    match header.queue_id.and_then(QueueId::from_wire) {
        Some(queue) => targets.push((queue, target_of_queue(broker, header, queue)?)),
        None => {
            let all = queues(config.read_queue_nums);
            targets.extend(all.map(|queue| (queue, offset_at(broker, header, queue))));
        }
    }
    remember(
        broker,
        group,
        topic,
        targets.iter().map(|(queue, _)| *queue),
    )?;
    move_here(broker, group, topic, &targets);
    let table = targets.into_iter();
    Ok(with_json(&ResetOffsetBody {
        offset_table: table
            .map(|(queue, offset)| (queue_of(broker, topic, queue), offset.wire()))
            .collect(),
    }))
}

fn no_topic(topic: &str) -> Refused {
    let remark = format!("Topic {topic} does not exist");
    Refused::new(ResponseCode::TopicNotExist, remark)
}

fn check_group(broker: &Broker, group: &str) -> Result<(), Refused> {
    if group == transaction::PROGRESS_GROUP {
        let remark = format!("the offsets of {group} are the broker's own");
        return Err(Refused::new(ResponseCode::NoPermission, remark));
    }
    if broker.groups.get(group).is_some() {
        return Ok(());
    }
    let remark = format!("Group {group} does not exist");
    Err(Refused::new(
        ResponseCode::SubscriptionGroupNotExist,
        remark,
    ))
}

/// Keeps where the group stands, so that the move which follows can be taken back. A reset whose former offsets cannot be kept is
/// refused: the same disk would have to keep the new ones.
fn remember(
    broker: &Broker,
    group: &str,
    topic: &str,
    moved: impl Iterator<Item = QueueId>,
) -> Result<(), Refused> {
    let former = moved.map(|queue| (queue, broker.offsets.query(group, topic, queue)));
    let now_ms = broker.clock.now_ms();
    let kept = broker.reset_history.remember(group, topic, now_ms, former);
    kept.map_err(|fault| {
        tracing::error!(group, topic, %fault, "no reset: the former offsets cannot be kept");
        system_error(format!("the former offsets cannot be kept: {fault}"))
    })
}

/// Sends the group to these offsets, with its next pull.
fn move_here(broker: &Arc<Broker>, group: &str, topic: &str, targets: &[(QueueId, QueueOffset)]) {
    for (queue, offset) in targets {
        broker.offsets.reset(group, topic, *queue, *offset);
        // A pull that is held would learn of it only after its time.
        broker.hold.wake_queue(topic, *queue);
    }
    // An answer means that a crash does not bring the former offsets back.
    if let Err(fault) = broker.offsets.write_journal() {
        tracing::error!(group, topic, %fault, "a reset is in memory and comes with the next snapshot");
    }
    pull::answer_ready(broker);
}

/// Request 900005.
pub(crate) fn undo(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: UndoResetOffsetRequest<'_> = request.header()?;
    let (topic, group) = (header.topic, header.group);
    broker.topics.get(topic).ok_or_else(|| no_topic(topic))?;
    check_group(broker, group)?;
    let Some((former, resets_left)) = broker.reset_history.last(group, topic) else {
        return Ok(with_json(&UndoneReset::default()));
    };
    let mut targets = Vec::new();
    let mut done = Vec::new();
    for (queue, offset) in former.queues() {
        // What was deleted meanwhile is not consumed again, and nothing is beyond the end.
        let min = broker.store.min_offset(topic, queue);
        let max = broker.store.max_offset(topic, queue).max(min);
        let back = offset.map(|offset| offset.clamp(min, max));
        let now = broker.offsets.query(group, topic, queue);
        targets.extend(back.map(|back| (queue, back)));
        done.push(UndoneQueue {
            broker_name: broker.identity.name.clone(),
            queue_id: queue.wire(),
            consumer_offset: now.map_or(-1, QueueOffset::wire),
            offset: back.map_or(-1, QueueOffset::wire),
        });
    }
    if header.dry_run != Some(true) {
        tracing::info!(
            group,
            topic,
            reset_ms = former.at_ms,
            "a reset is taken back"
        );
        take_back(broker, group, topic, &targets, request.language == CPP);
        // Should the process end in between, the reset is taken back once more, to the same offsets.
        let forgotten = broker.reset_history.forget(former.number);
        forgotten.map_err(|fault| system_error(format!("the reset is not forgotten: {fault}")))?;
    }
    Ok(with_json(&UndoneReset {
        reset_timestamp: former.at_ms,
        resets_left,
        queues: done,
    }))
}

fn take_back(
    broker: &Arc<Broker>,
    group: &str,
    topic: &str,
    targets: &[(QueueId, QueueOffset)],
    for_c: bool,
) {
    if broker.config.get().use_server_side_reset_offset {
        return move_here(broker, group, topic, targets);
    }
    for (queue, offset) in targets {
        broker.offsets.commit(group, topic, *queue, *offset);
    }
    if let Some(online) = broker.sessions.consumer_group(group) {
        let table = targets.iter();
        let body = ResetOffsetBody {
            offset_table: table
                .map(|(queue, offset)| (queue_of(broker, topic, *queue), offset.wire()))
                .collect(),
        };
        tell(&online, group, topic, broker.clock.now_ms(), &body, for_c);
    }
}

fn target_of_queue(
    broker: &Broker,
    header: &Header<'_>,
    queue: QueueId,
) -> Result<QueueOffset, Refused> {
    let Some(wanted) = header.offset.filter(|offset| *offset != -1) else {
        return Ok(offset_at(broker, header, queue));
    };
    let min = broker.store.min_offset(header.topic, queue).wire();
    let max = broker.store.max_offset(header.topic, queue).wire();
    QueueOffset::from_wire(wanted)
        .filter(|_| (min..=max.saturating_add(1)).contains(&wanted))
        .ok_or_else(|| {
            let range = format!("[{min}-{max}]");
            system_error(format!(
                "Target offset {wanted} not in consume queue range {range}"
            ))
        })
}

/// The first message at the time, or the end for a negative one.
fn offset_at(broker: &Broker, header: &Header<'_>, queue: QueueId) -> QueueOffset {
    if header.timestamp < 0 {
        return broker.store.max_offset(header.topic, queue);
    }
    let time = header.timestamp;
    broker
        .store
        .offset_by_time(header.topic, queue, time, Boundary::Lower)
}

fn push_to_clients(broker: &Broker, header: &Header<'_>, for_c: bool) -> Answer {
    let (topic, group) = (header.topic, header.group);
    let config = broker.topics.get(topic).ok_or_else(|| {
        let remark =
            format!("[reset-offset] reset offset failed, no topic in this broker. topic={topic}");
        system_error(remark)
    })?;
    let mut table: QueueMap<i64> = QueueMap::new();
    let mut moved = Vec::new();
    for queue in queues(config.write_queue_nums) {
        let committed = broker.offsets.query(group, topic, queue);
        let committed = committed
            .ok_or_else(|| system_error(format!("THe consumer group <{group}> not exist")))?;
        let wanted = offset_at(broker, header, queue);
        let goes_on = if header.is_force {
            wanted
        } else {
            wanted.min(committed)
        };
        moved.push(queue);
        table.insert(queue_of(broker, topic, queue), goes_on.wire());
    }
    let online = broker.sessions.consumer_group(group).ok_or_else(|| {
        let remark = format!(
            "Consumer not online, so can not reset offset, Group: {group} Topic: {topic} Timestamp: {}",
            header.timestamp
        );
        Refused::new(ResponseCode::ConsumerNotOnline, remark)
    })?;
    remember(broker, group, topic, moved.into_iter())?;
    let body = ResetOffsetBody {
        offset_table: table,
    };
    tell(&online, group, topic, header.timestamp, &body, for_c);
    Ok(with_json(&body))
}

/// Pushes offsets to every member.
fn tell(
    online: &GroupView,
    group: &str,
    topic: &str,
    timestamp: i64,
    body: &ResetOffsetBody,
    for_c: bool,
) {
    let text = if for_c {
        fastjson::to_vec(&ResetOffsetBodyForC::from(body), KeyStyle::Bare)
    } else {
        fastjson::to_vec(body, KeyStyle::Bare)
    };
    let notice = Command::request(RequestCode::ResetConsumerClientOffset)
        .with_header(&ResetConsumerClientOffsetRequest {
            topic,
            group,
            queue_id: Some(-1),
            timestamp: Some(timestamp),
            is_force: Some(false),
        })
        .with_body(text)
        .one_way();
    for member in &online.members {
        if let Err(fault) = member.client.connection.one_way(&notice) {
            tracing::warn!(client = %member.client.id, %fault, "not told of a reset");
        }
    }
}
