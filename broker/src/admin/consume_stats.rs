//! How far groups are: requests 208, 303 and 317.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agena_protocol::bodies::stats::{
    ConsumeStats, ConsumeStatsList, OffsetWrapper, QueryConsumeTimeSpanBody, QueueTimeSpan,
};
use agena_protocol::bodies::topic_config::TopicConfig;
use agena_protocol::command::Command;
use agena_protocol::headers::admin::{
    GetBrokerConsumeStatsRequest, GetConsumeStatsRequest, QueryConsumeTimeSpanRequest,
};
use agena_protocol::offset::QueueOffset;
use agena_protocol::queue::QueueId;
use agena_remoting::connection::Connection;

use super::topic::{existing, queue_of, queues, stored_before};
use super::{Answer, with_json};
use crate::broker::Broker;
use crate::local_time;

/// Request 208: of the topics named, or of all that the group has offsets for.
pub(crate) fn of_group(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: GetConsumeStatsRequest<'_> = request.header()?;
    let named = |text: Option<&str>| {
        text.filter(|text| !text.trim().is_empty())
            .map(str::to_owned)
    };
    let topics: BTreeSet<String> = match (named(header.topic_list), named(header.topic)) {
        (Some(list), _) => list.split(';').map(str::to_owned).collect(),
        (None, Some(topic)) => BTreeSet::from([topic]),
        (None, None) => broker.offsets.topics_of_group(header.consumer_group),
    };
    let mut all = ConsumeStats::default();
    for topic in topics {
        if let Some(config) = consumed(broker, header.consumer_group, &topic) {
            let stats = of_topic(
                broker,
                header.consumer_group,
                &config,
                config.read_queue_nums,
            );
            all.offset_table.extend(stats.offset_table);
            all.consume_tps += stats.consume_tps;
        }
    }
    Ok(with_json(&all))
}

/// Request 317: of every group, by topic.
pub(crate) fn of_broker(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: GetBrokerConsumeStatsRequest = request.header()?;
    let mut list = ConsumeStatsList {
        broker_addr: Some(broker.identity.advertised.to_string()),
        ..ConsumeStatsList::default()
    };
    for group in broker.groups.all() {
        let name = group.group_name;
        let mut stats_of_group = Vec::new();
        for topic in broker.offsets.topics_of_group(&name) {
            let Some(config) = consumed(broker, &name, &topic) else {
                continue;
            };
            if header.is_order && !config.order {
                continue;
            }
            let stats = of_topic(broker, &name, &config, config.write_queue_nums);
            list.total_diff += stats.total_diff();
            list.total_inflight_diff += stats.total_inflight_diff();
            stats_of_group.push(stats);
        }
        let entry = BTreeMap::from([(name, stats_of_group)]);
        list.consume_stats_list.push(entry);
    }
    Ok(with_json(&list))
}

/// Request 303: between which times the messages of each queue were stored, and which one the group consumed last.
pub(crate) fn time_span(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: QueryConsumeTimeSpanRequest<'_> = request.header()?;
    let config = existing(broker, header.topic)?;
    let spans = queues(config.write_queue_nums).map(|queue| span(broker, &header, queue));
    Ok(with_json(&QueryConsumeTimeSpanBody {
        consume_time_span_set: spans.collect(),
    }))
}

/// A topic that exists and, as far as the group is online, that it subscribes.
fn consumed(broker: &Broker, group: &str, topic: &str) -> Option<Arc<TopicConfig>> {
    let config = broker.topics.get(topic)?;
    let online = broker.sessions.consumer_group(group);
    let given_up = online.is_some_and(|group| {
        !group.subscriptions.is_empty() && !group.subscriptions.contains_key(topic)
    });
    (!given_up).then_some(config)
}

fn of_topic(broker: &Broker, group: &str, config: &TopicConfig, queue_nums: i32) -> ConsumeStats {
    let topic = config.topic_name.as_str();
    let table = queues(queue_nums).map(|queue| {
        let consumed = broker
            .offsets
            .query(group, topic, queue)
            .unwrap_or_default();
        let pulled = broker.offsets.last_pulled(group, topic, queue);
        let offsets = OffsetWrapper {
            broker_offset: broker.store.max_offset(topic, queue).wire(),
            consumer_offset: consumed.wire(),
            pull_offset: pulled.unwrap_or_default().max(consumed).wire(),
            last_timestamp: stored_before(broker, topic, queue, consumed).unwrap_or(0),
        };
        (queue_of(broker, topic, queue), offsets)
    });
    ConsumeStats {
        offset_table: table.collect(),
        consume_tps: broker
            .stats
            .group_get_tps(group, topic, broker.clock.now_ms()),
    }
}

fn span(
    broker: &Broker,
    header: &QueryConsumeTimeSpanRequest<'_>,
    queue: QueueId,
) -> QueueTimeSpan {
    let topic = header.topic;
    let max = broker.store.max_offset(topic, queue);
    let consumed = broker
        .offsets
        .query(header.group, topic, queue)
        .unwrap_or_default();
    let first = broker.store.earliest_store_time(topic, queue).unwrap_or(-1);
    let last = stored_before(broker, topic, queue, max).unwrap_or(-1);
    let consumed_at = stored_before(broker, topic, queue, consumed).unwrap_or(first);
    let text = |ms: i64| {
        if ms < 0 {
            String::new()
        } else {
            local_time::mark(ms)
        }
    };
    QueueTimeSpan {
        consume_time_stamp: consumed_at,
        consume_time_stamp_str: text(consumed_at),
        delay_time: delay(broker, topic, queue, consumed, max),
        max_time_stamp: last,
        max_time_stamp_str: text(last),
        message_queue: queue_of(broker, topic, queue),
        min_time_stamp: first,
        min_time_stamp_str: text(first),
    }
}

/// For how long the first message that is not consumed has been waiting, ms.
fn delay(
    broker: &Broker,
    topic: &str,
    queue: QueueId,
    consumed: QueueOffset,
    max: QueueOffset,
) -> i64 {
    if consumed >= max {
        return 0;
    }
    let waiting_since = broker.store.store_time_at(topic, queue, consumed);
    waiting_since.map_or(0, |since| broker.clock.now_ms().saturating_sub(since))
}
