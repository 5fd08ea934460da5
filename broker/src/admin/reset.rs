//! Where a group goes on: request 222, in both of its forms.
//!
//! The broker notes where each queue is to go on and tells consumers with their next pull (the default, which needs nobody online), or
//! it computes offsets and pushes them to the clients (`useServerSideResetOffset=false`). Source: spec/semantics.md §4.13.

use std::sync::Arc;

use agena_protocol::bodies::offsets::{ResetOffsetBody, ResetOffsetBodyForC};
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::headers::admin::{
    InvokeBrokerToResetOffsetRequest, ResetConsumerClientOffsetRequest,
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
    let config = broker.topics.get(topic).ok_or_else(|| {
        let remark = format!("Topic {topic} does not exist");
        Refused::new(ResponseCode::TopicNotExist, remark)
    })?;
    if broker.groups.get(group).is_none() {
        let remark = format!("Group {group} does not exist");
        return Err(Refused::new(
            ResponseCode::SubscriptionGroupNotExist,
            remark,
        ));
    }
    let mut targets: Vec<(QueueId, QueueOffset)> = Vec::new();
    match header.queue_id.and_then(QueueId::from_wire) {
        Some(queue) => targets.push((queue, target_of_queue(broker, header, queue)?)),
        None => {
            let all = queues(config.read_queue_nums);
            targets.extend(all.map(|queue| (queue, offset_at(broker, header, queue))));
        }
    }
    let mut table: QueueMap<i64> = QueueMap::new();
    for (queue, offset) in targets {
        broker.offsets.reset(group, topic, queue, offset);
        // A pull that is held would learn of it only after its time.
        broker.hold.wake_queue(topic, queue);
        table.insert(queue_of(broker, topic, queue), offset.wire());
    }
    pull::answer_ready(broker);
    Ok(with_json(&ResetOffsetBody {
        offset_table: table,
    }))
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
        table.insert(queue_of(broker, topic, queue), goes_on.wire());
    }
    let online = broker.sessions.consumer_group(group).ok_or_else(|| {
        let remark = format!(
            "Consumer not online, so can not reset offset, Group: {group} Topic: {topic} Timestamp: {}",
            header.timestamp
        );
        Refused::new(ResponseCode::ConsumerNotOnline, remark)
    })?;
    let body = ResetOffsetBody {
        offset_table: table,
    };
    let text = if for_c {
        fastjson::to_vec(&ResetOffsetBodyForC::from(&body), KeyStyle::Bare)
    } else {
        fastjson::to_vec(&body, KeyStyle::Bare)
    };
    let notice = Command::request(RequestCode::ResetConsumerClientOffset)
        .with_header(&ResetConsumerClientOffsetRequest {
            topic,
            group,
            queue_id: Some(-1),
            timestamp: Some(header.timestamp),
            is_force: Some(false),
        })
        .with_body(text)
        .one_way();
    for member in &online.members {
        if let Err(fault) = member.client.connection.one_way(&notice) {
            tracing::warn!(client = %member.client.id, %fault, "not told of a reset");
        }
    }
    Ok(with_json(&body))
}
