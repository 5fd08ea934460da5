//! Topics: requests 17, 18, 21, 202, 215, 300, 305, 306, 316, 329 and 351.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::bodies::names::{GroupList, TopicList};
use agena_protocol::bodies::stats::{TopicOffset, TopicStatsTable};
use agena_protocol::bodies::topic_config::{
    CreateTopicListRequestBody, TopicConfig, TopicConfigAndMappingSerializeWrapper,
    TopicConfigAndQueueMapping, TopicFilterType,
};
use agena_protocol::command::Command;
use agena_protocol::headers::admin::QueryTopicConsumeByWhoRequest;
use agena_protocol::headers::topic::{
    DeleteTopicInBrokerRequest, GetTopicConfigRequest, GetTopicStatsInfoRequest,
    UpdateAndCreateTopicRequest,
};
use agena_protocol::offset::QueueOffset;
use agena_protocol::queue::{MessageQueue, QueueId};
use agena_protocol::response_code::ResponseCode;
use agena_protocol::topic;
use agena_remoting::connection::Connection;

use super::{Answer, body, invalid, system_error, with_json};
use crate::broker::Broker;
use crate::send::Refused;
use crate::topics::attributes;

/// How long a create waits for the name servers, so that a producer who comes next finds the route.
const ROUTE_WAIT: Duration = Duration::from_secs(3);

/// Request 17.
pub(crate) fn update(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: UpdateAndCreateTopicRequest<'_> = request.header()?;
    let filter_type = TopicFilterType::from_name(header.topic_filter_type);
    let config = TopicConfig {
        attributes: attributes::parse_changes(header.attributes.unwrap_or_default())?,
        order: header.order,
        perm: header.perm,
        read_queue_nums: header.read_queue_nums,
        topic_filter_type: filter_type.unwrap_or_default(),
        topic_name: header.topic.to_owned(),
        topic_sys_flag: header.topic_sys_flag.unwrap_or(0),
        write_queue_nums: header.write_queue_nums,
    };
    broker.topics.update(&config)?;
    broker.registration.wait_settled(ROUTE_WAIT);
    Ok(Command::success())
}

/// Request 18.
pub(crate) fn update_list(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let list: CreateTopicListRequestBody = body(request)?;
    broker.topics.update_all(&list.topic_config_list)?;
    broker.registration.wait_settled(ROUTE_WAIT);
    Ok(Command::success())
}

/// Request 215: the topic with all that is known of it here. Its records stay in the log until they expire.
pub(crate) fn delete(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: DeleteTopicInBrokerRequest<'_> = request.header()?;
    let name = header.topic;
    if name.trim().is_empty() {
        return Err(invalid(topic::TopicFault::Blank.to_string()));
    }
    if broker.topics.is_system(name) {
        return Err(invalid(topic::system_conflict_remark(name)));
    }
    if broker.config.get().clear_retry_topic_when_delete_topic {
        for group in broker.offsets.groups_of_topic(name) {
            for retry in [
                topic::pop_retry_v1(name, &group),
                topic::pop_retry_v2(name, &group),
            ] {
                if broker.topics.get(&retry).is_some() {
                    delete_one(broker, &retry)?;
                }
            }
        }
    }
    delete_one(broker, name)?;
    Ok(Command::success())
}

fn delete_one(broker: &Broker, name: &str) -> Result<(), Refused> {
    broker.topics.delete(name)?;
    broker.offsets.remove_topic(name);
    // Else a crash would give the offsets back, and to a new topic of that name.
    broker.offsets.save(broker.clock.now_ms())?;
    broker.stats.remove_topic(name);
    broker
        .store
        .delete_topic(name)
        .map_err(|fault| system_error(fault.to_string()))
}

/// Request 21.
pub(crate) fn all(broker: &Arc<Broker>, _: &Arc<Connection>, _: &Command) -> Answer {
    let (version, topics) = broker.topics.versioned();
    let table = topics
        .iter()
        .map(|config| (config.topic_name.clone(), TopicConfig::clone(config)));
    Ok(with_json(&TopicConfigAndMappingSerializeWrapper {
        data_version: version,
        topic_config_table: table.collect(),
        ..TopicConfigAndMappingSerializeWrapper::default()
    }))
}

/// Request 351.
pub(crate) fn config(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: GetTopicConfigRequest<'_> = request.header()?;
    let config = broker.topics.get(header.topic).ok_or_else(|| {
        let remark = format!("No topic in this broker. topic: {}", header.topic);
        Refused::new(ResponseCode::TopicNotExist, remark)
    })?;
    Ok(with_json(&TopicConfigAndQueueMapping {
        config: TopicConfig::clone(&config),
        mapping_detail: None,
    }))
}

/// Request 202.
pub(crate) fn stats(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: GetTopicStatsInfoRequest<'_> = request.header()?;
    let name = header.topic;
    let config = existing(broker, name)?;
    let mut table = TopicStatsTable {
        topic_put_tps: broker.stats.topic_put_tps(name, broker.clock.now_ms()),
        ..TopicStatsTable::default()
    };
    for queue in queues(config.write_queue_nums.max(config.read_queue_nums)) {
        let max = broker.store.max_offset(name, queue);
        let offsets = TopicOffset {
            min_offset: broker.store.min_offset(name, queue).wire(),
            max_offset: max.wire(),
            last_update_timestamp: stored_before(broker, name, queue, max).unwrap_or(0),
        };
        table
            .offset_table
            .insert(queue_of(broker, name, queue), offsets);
    }
    Ok(with_json(&table))
}

/// Request 300: groups that consume a topic, now or at some time.
pub(crate) fn consumed_by(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: QueryTopicConsumeByWhoRequest<'_> = request.header()?;
    let mut groups: BTreeSet<String> = broker.offsets.groups_of_topic(header.topic);
    let online = broker.sessions.consumer_groups_of_topic(header.topic);
    groups.extend(online.iter().map(ToString::to_string));
    Ok(with_json(&GroupList {
        group_list: groups.into_iter().collect(),
    }))
}

/// Request 305.
pub(crate) fn system(broker: &Arc<Broker>, _: &Arc<Connection>, _: &Command) -> Answer {
    Ok(with_json(&TopicList {
        topic_list: broker.topics.system_topics(),
        ..TopicList::default()
    }))
}

/// Request 316: queues of topics that no longer exist.
pub(crate) fn clean_unused(broker: &Arc<Broker>, _: &Arc<Connection>, _: &Command) -> Answer {
    let used = |name: &str| broker.topics.get(name).is_some();
    let cleaned = broker
        .store
        .clean_unused_topics(&used)
        .map_err(|fault| system_error(fault.to_string()))?;
    tracing::info!(
        ?cleaned,
        "queues of topics that no longer exist are removed"
    );
    Ok(Command::success())
}

/// Request 306: queue files whose records expired.
pub(crate) fn clean_expired_queues(
    broker: &Arc<Broker>,
    _: &Arc<Connection>,
    _: &Command,
) -> Answer {
    let cleaned = broker.store.clean_expired_queues();
    cleaned.map_err(|fault| system_error(fault.to_string()))?;
    Ok(Command::success())
}

/// Request 329: log files that expired, whatever the hour.
pub(crate) fn delete_expired_log(broker: &Arc<Broker>, _: &Arc<Connection>, _: &Command) -> Answer {
    let removed = broker.store.delete_expired_segments();
    removed.map_err(|fault| system_error(fault.to_string()))?;
    Ok(Command::success())
}

/// The topic, or the answer that there is none.
pub(super) fn existing(broker: &Broker, name: &str) -> Result<Arc<TopicConfig>, Refused> {
    broker.topics.get(name).ok_or_else(|| {
        let remark = format!("topic[{name}] not exist");
        Refused::new(ResponseCode::TopicNotExist, remark)
    })
}

/// The queues of a topic that has so many.
pub(super) fn queues(count: i32) -> impl Iterator<Item = QueueId> {
    (0..u32::try_from(count).unwrap_or(0)).map(QueueId::new)
}

pub(super) fn queue_of(broker: &Broker, topic: &str, queue: QueueId) -> MessageQueue {
    MessageQueue::new(topic, broker.identity.name.as_str(), queue)
}

/// When the message in front of `offset` was stored.
pub(super) fn stored_before(
    broker: &Broker,
    topic: &str,
    queue: QueueId,
    offset: QueueOffset,
) -> Option<i64> {
    let before = offset.number().checked_sub(1).map(QueueOffset::new)?;
    broker.store.store_time_at(topic, queue, before)
}
