//! The broker itself: requests 25, 26, 28, 315, 321, 907 and 2001–2004.

use std::collections::BTreeMap;
use std::sync::Arc;

use agena_protocol::bodies::cold_data::ColdDataFlowCtrInfo;
use agena_protocol::bodies::consume_queue::{ConsumeQueueData, QueryConsumeQueueResponseBody};
use agena_protocol::bodies::data_version::DataVersion;
use agena_protocol::bodies::replication::{HAClientRuntimeInfo, HARuntimeInfo};
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::headers::admin::{
    GetBrokerConfigResponse, SetCommitlogReadModeRequest, ViewBrokerStatsDataRequest,
};
use agena_protocol::headers::query::QueryConsumeQueueRequest;
use agena_protocol::offset::QueueOffset;
use agena_protocol::properties_text;
use agena_protocol::queue::QueueId;
use agena_protocol::response_code::ResponseCode;
use agena_remoting::connection::Connection;
use agena_store::{Filter as _, QueueEntry};
use parking_lot::Mutex;

use super::{Answer, invalid, system_error, with_json};
use crate::broker::Broker;
use crate::config::UpdateError;
use crate::filter::Filter;
use crate::send::Refused;
use crate::sessions::Subscribed;

/// Entries of one answer to request 321.
const ENTRIES_MAX: i32 = 10_000;

/// What the original would read from the cold side of the log per interval before it slows a group or all of them down.
const COLD_READ_THRESHOLD_OF_GROUP: i64 = 3 << 20;
const COLD_READ_THRESHOLD: i64 = 100 << 20;

/// Thresholds that operators gave for cold reads. They are kept and shown, and have no effect: cold reads run on threads of their own
/// and disturb nobody.
#[derive(Debug, Default)]
pub(crate) struct ColdReadThresholds(Mutex<BTreeMap<String, i64>>);

/// Request 25.
pub(crate) fn update_config(
    broker: &Arc<Broker>,
    _: &Arc<Connection>,
    request: &Command,
) -> Answer {
    let text =
        std::str::from_utf8(&request.body).map_err(|fault| system_error(fault.to_string()))?;
    broker.update_config(text).map_err(|fault| {
        let code = match fault {
            UpdateError::BlackListed => ResponseCode::NoPermission,
            UpdateError::Config(_) | UpdateError::Unwritable { .. } => ResponseCode::SystemError,
        };
        Refused::new(code, fault.to_string())
    })?;
    Ok(Command::success())
}

/// Request 26: every key with its value.
pub(crate) fn config(broker: &Arc<Broker>, _: &Arc<Connection>, _: &Command) -> Answer {
    let entries = broker.config.get().entries();
    let pairs = entries.iter().map(|(key, value)| (*key, value.as_str()));
    let version = fastjson::to_vec(&DataVersion::default(), KeyStyle::Bare);
    Ok(Command::success()
        .with_header(&GetBrokerConfigResponse {
            version: &String::from_utf8_lossy(&version),
        })
        .with_body(properties_text::write(pairs)))
}

/// Request 28.
pub(crate) fn runtime_info(broker: &Arc<Broker>, _: &Arc<Connection>, _: &Command) -> Answer {
    Ok(with_json(&broker.stats.runtime_table(broker)))
}

/// Request 315.
pub(crate) fn view_stats(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: ViewBrokerStatsDataRequest<'_> = request.header()?;
    let (name, key) = (header.stats_name, header.stats_key);
    let stats = broker.stats.view(name, key, broker.clock.now_ms());
    let stats =
        stats.ok_or_else(|| system_error(format!("The stats <{name}> <{key}> not exist")))?;
    Ok(with_json(&stats))
}

/// Request 321: entries of a queue, and what a group's filter says to each.
pub(crate) fn queue_entries(
    broker: &Arc<Broker>,
    _: &Arc<Connection>,
    request: &Command,
) -> Answer {
    let header: QueryConsumeQueueRequest<'_> = request.header()?;
    let topic = header.topic;
    let missing = || system_error(format!("{}@{topic} is not exist!", header.queue_id));
    let queue = QueueId::from_wire(header.queue_id).ok_or_else(missing)?;
    let max = broker.store.max_offset(topic, queue);
    if max.number() == 0 {
        return Err(missing());
    }
    let mut answer = QueryConsumeQueueResponseBody {
        max_queue_index: max.wire(),
        min_queue_index: broker.store.min_offset(topic, queue).wire(),
        ..QueryConsumeQueueResponseBody::default()
    };
    let group = header.consumer_group.filter(|group| !group.is_empty());
    let mut filter = None;
    if let Some(group) = group {
        match broker.sessions.subscription(group, topic) {
            Subscribed::Found { subscription, .. } => {
                answer.subscription_data = Some((*subscription.data).clone());
                match &subscription.filter {
                    Ok(compiled) => filter = Some(Arc::clone(compiled)),
                    Err(reason) => answer.filter_data = Some(reason.to_string()),
                }
            }
            Subscribed::NoGroup | Subscribed::NoTopic { .. } => {
                answer.filter_data = Some(format!("{group}@{topic} is not online!"));
            }
        }
    }
    let from = QueueOffset::from_wire(header.index).unwrap_or_default();
    let count = usize::try_from(header.count.clamp(0, ENTRIES_MAX)).unwrap_or(0);
    let entries = broker.store.entries(topic, queue, from, count);
    let shown = entries.iter().map(|entry| shown(entry, filter.as_deref()));
    answer.queue_data = shown.collect();
    Ok(with_json(&answer))
}

fn shown(entry: &QueueEntry, filter: Option<&Filter>) -> ConsumeQueueData {
    ConsumeQueueData {
        physic_offset: i64::try_from(entry.physical_offset).unwrap_or(i64::MAX),
        physic_size: i32::try_from(entry.size).unwrap_or(i32::MAX),
        tags_code: entry.tags_code,
        eval: filter.is_some_and(|filter| filter.by_tags_code(entry.tags_code)),
        ..ConsumeQueueData::default()
    }
}

/// Request 907. There are no replicas yet, so this is a master that stands alone.
pub(crate) fn replication_status(broker: &Arc<Broker>, _: &Arc<Connection>, _: &Command) -> Answer {
    let log_max = broker.store.stats().log_max;
    Ok(with_json(&HARuntimeInfo {
        master: true,
        master_commit_log_max_offset: i64::try_from(log_max).unwrap_or(i64::MAX),
        in_sync_slave_nums: 0,
        ha_client_runtime_info: HAClientRuntimeInfo::default(),
        ha_connection_info: Vec::new(),
    }))
}

/// Request 2001: `group=threshold`, one a line.
pub(crate) fn set_cold_thresholds(
    broker: &Arc<Broker>,
    _: &Arc<Connection>,
    request: &Command,
) -> Answer {
    let text =
        std::str::from_utf8(&request.body).map_err(|fault| system_error(fault.to_string()))?;
    let mut thresholds = broker.cold_read_thresholds.0.lock();
    for (group, threshold) in properties_text::parse(text) {
        let number: i64 = threshold
            .trim()
            .parse()
            .map_err(|_| system_error(format!("{group}={threshold} is no number")))?;
        if broker.groups.get(&group).is_some() {
            thresholds.insert(group, number);
        }
    }
    Ok(Command::success())
}

/// Request 2002: the group stands in the body.
pub(crate) fn remove_cold_threshold(
    broker: &Arc<Broker>,
    _: &Arc<Connection>,
    request: &Command,
) -> Answer {
    let group = String::from_utf8_lossy(&request.body);
    broker.cold_read_thresholds.0.lock().remove(group.trim());
    Ok(Command::success())
}

/// Request 2003.
pub(crate) fn cold_thresholds(broker: &Arc<Broker>, _: &Arc<Connection>, _: &Command) -> Answer {
    Ok(with_json(&ColdDataFlowCtrInfo {
        config_table: broker.cold_read_thresholds.0.lock().clone(),
        cg_cold_read_threshold: COLD_READ_THRESHOLD_OF_GROUP,
        global_cold_read_threshold: COLD_READ_THRESHOLD,
        ..ColdDataFlowCtrInfo::default()
    }))
}

/// Request 2004. How far the system reads ahead in the log is its own affair here; the answer says so.
pub(crate) fn set_read_ahead(_: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: SetCommitlogReadModeRequest<'_> = request.header()?;
    match header.read_ahead_mode.trim() {
        "0" | "1" => {
            let remark = "accepted without effect: the log is read ahead as the system sees fit";
            Ok(Command::response(ResponseCode::Success, remark.to_owned()))
        }
        other => Err(invalid(format!(
            "set commitlog readahead mode param value error: {other}"
        ))),
    }
}
