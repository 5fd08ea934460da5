//! Offsets of groups as a whole: requests 43, 45, 60, 61, 308 and 314.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agena_protocol::bodies::data_version::DataVersion;
use agena_protocol::bodies::offsets::{
    DelayOffsetSerializeWrapper, QueryCorrectionOffsetBody, TimerMetricsSerializeWrapper,
};
use agena_protocol::command::Command;
use agena_protocol::headers::admin::{CloneGroupOffsetRequest, QueryCorrectionOffsetRequest};
use agena_protocol::queue::QueueId;
use agena_remoting::connection::Connection;

use super::{Answer, with_json};
use crate::broker::Broker;

/// Request 43.
pub(crate) fn all(broker: &Arc<Broker>, _: &Arc<Connection>, _: &Command) -> Answer {
    Ok(Command::success().with_body(broker.offsets.to_body()))
}

/// Request 45.
pub(crate) fn of_delay_levels(broker: &Arc<Broker>, _: &Arc<Connection>, _: &Command) -> Answer {
    let levels = broker.delay.level_offsets().into_iter();
    let table = levels.map(|(level, next, _)| (wire(level), wire(next)));
    let table: BTreeMap<i32, i64> = table.collect();
    Ok(with_json(&DelayOffsetSerializeWrapper {
        data_version: DataVersion::first(broker.clock.now_ms()),
        offset_table: table,
    }))
}

/// Request 60: as the first 56 bytes of the file `timercheck`.
pub(crate) fn timer_check_point(broker: &Arc<Broker>, _: &Arc<Connection>, _: &Command) -> Answer {
    Ok(Command::success().with_body(broker.delay.timer_check_point()))
}

/// Request 61. How many timers wait for which topic is not counted.
pub(crate) fn timer_metrics(broker: &Arc<Broker>, _: &Arc<Connection>, _: &Command) -> Answer {
    Ok(with_json(&TimerMetricsSerializeWrapper {
        data_version: DataVersion::first(broker.clock.now_ms()),
        timing_count: BTreeMap::new(),
    }))
}

/// Request 314: a group's offsets become those of another. A topic that the running source does not subscribe is passed over unless
/// the request says that it is offline.
pub(crate) fn clone_group(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: CloneGroupOffsetRequest<'_> = request.header()?;
    let topics: BTreeSet<String> = match header.topic.filter(|topic| !topic.trim().is_empty()) {
        Some(topic) => BTreeSet::from([topic.to_owned()]),
        None => broker.offsets.topics_of_group(header.src_group),
    };
    let online = broker.sessions.consumer_group(header.src_group);
    for topic in topics {
        let given_up = online.as_ref().is_some_and(|group| {
            !group.subscriptions.is_empty() && !group.subscriptions.contains_key(&topic)
        });
        let skipped = header.offline != Some(true) && given_up;
        if !skipped && broker.topics.get(&topic).is_some() {
            broker
                .offsets
                .clone_group(header.src_group, header.dest_group, &topic);
        }
    }
    Ok(Command::success())
}

/// Request 308: by queue, the least offset of all groups; for queues where the compared group is behind that, the largest number.
pub(crate) fn correction(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: QueryCorrectionOffsetRequest<'_> = request.header()?;
    let left_out: BTreeSet<&str> = header
        .filter_groups
        .unwrap_or_default()
        .split(',')
        .collect();
    let mut least: BTreeMap<QueueId, i64> = BTreeMap::new();
    for group in broker.offsets.groups_of_topic(header.topic) {
        if left_out.contains(group.as_str()) {
            continue;
        }
        for (queue, offset) in broker.offsets.committed(&group, header.topic) {
            if offset >= broker.store.min_offset(header.topic, queue) {
                let entry = least.entry(queue).or_insert(i64::MAX);
                *entry = offset.wire().min(*entry);
            }
        }
    }
    let compared = header.compare_group.filter(|group| !group.is_empty());
    if let Some(group) = compared {
        for (queue, offset) in broker.offsets.committed(group, header.topic) {
            let entry = least.entry(queue).or_insert(i64::MAX);
            if *entry > offset.wire() {
                *entry = i64::MAX;
            }
        }
    }
    let offsets = least.into_iter();
    Ok(with_json(&QueryCorrectionOffsetBody {
        correction_offsets: offsets
            .map(|(queue, offset)| (queue.wire(), offset))
            .collect(),
    }))
}

fn wire<N, W: TryFrom<N> + Default>(number: N) -> W {
    W::try_from(number).unwrap_or_default()
}
