//! What clients say about themselves and ask about their group: requests 34, 35, 38, 41, 42 and 46.
//!
//! All are answered from memory, on the connection's task. Source: spec/wire.md §4.2.

use std::sync::Arc;

use agena_protocol::bodies::heartbeat::{ConsumerData, HeartbeatData};
use agena_protocol::bodies::names::GetConsumerListByGroupResponseBody;
use agena_protocol::bodies::queue_locks::{
    LockBatchRequestBody, LockBatchResponseBody, UnlockBatchRequestBody,
};
use agena_protocol::bodies::subscription::CheckClientRequestBody;
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::frame::Frame;
use agena_protocol::headers::DecodeHeader;
use agena_protocol::headers::client::{
    GetConsumerListByGroupRequest, HeartBeatResponse, UnregisterClientRequest,
};
use agena_protocol::response_code::ResponseCode;
use agena_protocol::topic;
use agena_remoting::connection::Connection;
use serde::de::DeserializeOwned;

use super::{GroupRules, Opinions};
use crate::broker::Broker;
use crate::filter::Filter;
use crate::send::Refused;

/// Request 34: enters the client with its groups, whose settings and retry topics come to be if need be.
pub(crate) fn heartbeat(
    broker: &Broker,
    connection: &Arc<Connection>,
    frame: &Frame<'_>,
) -> Result<Command, Refused> {
    let data: HeartbeatData = body(frame)?;
    let rules = |consumer: &ConsumerData| rules_of(broker, consumer, data.without_sub);
    let (language, version) = (frame.language, frame.version);
    let heard = broker
        .sessions
        .heartbeat(connection, language, version, &data, rules);
    for producer in &data.producer_data_set {
        broker.transactions.producer_came(&producer.group_name);
    }
    if let Some((group, conflict)) = &heard.refused {
        let (topic, opinions) = (&conflict.topic, Opinions(conflict));
        let remark = format!(
            "members of group {group} would subscribe topic {topic} differently: {opinions}"
        );
        return Err(Refused::new(ResponseCode::SystemError, remark));
    }
    Ok(Command::success().with_header(&HeartBeatResponse {
        is_support_heart_beat_v2: Some(true),
        is_sub_change: Some(heard.wants_subscriptions),
    }))
}

fn rules_of(broker: &Broker, consumer: &ConsumerData, without_sub: bool) -> Option<GroupRules> {
    let group = broker.groups.get_or_create(&consumer.group_name)?;
    let config = group.config.as_ref()?;
    let retry_topic = topic::retry_of(&consumer.group_name);
    let known = broker.topics.get(&retry_topic);
    // A short heartbeat does not say what is subscribed, so it says nothing about order either.
    let order = if without_sub {
        known.as_ref().is_some_and(|topic| topic.order)
    } else {
        let mut subscribed = consumer.subscription_data_set.iter();
        subscribed.any(|data| {
            broker
                .topics
                .get(&data.topic)
                .is_some_and(|topic| topic.order)
        })
    };
    if known.is_none_or(|topic| topic.order != order) && topic::check(&retry_topic).is_ok() {
        let queues = config.retry_queue_nums;
        broker
            .topics
            .ensure_retry(&retry_topic, queues, order, consumer.unit_mode);
    }
    Some(GroupRules {
        notify: config.notify_consumer_ids_changed_enable,
        strict: broker.config.get().reject_conflicting_subscriptions,
    })
}

/// Request 35.
pub(crate) fn unregister(
    broker: &Broker,
    connection: &Arc<Connection>,
    frame: &Frame<'_>,
) -> Result<Command, Refused> {
    let header = UnregisterClientRequest::decode(&frame.ext)?;
    let named = |group: Option<&'_ str>| group.filter(|group| !group.is_empty()).map(str::to_owned);
    let (producer, consumer) = (named(header.producer_group), named(header.consumer_group));
    broker
        .sessions
        .unregister(connection.id(), producer.as_deref(), consumer.as_deref());
    Ok(Command::success())
}

/// Request 38: between whom the queues are shared out.
pub(crate) fn consumer_list(broker: &Broker, frame: &Frame<'_>) -> Result<Command, Refused> {
    let header = GetConsumerListByGroupRequest::decode(&frame.ext)?;
    let ids = broker.sessions.consumer_ids(header.consumer_group);
    let ids = ids.ok_or_else(|| {
        let remark = format!("no consumer for this group, {}", header.consumer_group);
        Refused::new(ResponseCode::SystemError, remark)
    })?;
    Ok(with_json(&GetConsumerListByGroupResponseBody {
        consumer_id_list: ids.iter().map(ToString::to_string).collect(),
    }))
}

/// Request 46: whether a subscription that is not by tags could be served.
pub(crate) fn check_client_config(broker: &Broker, frame: &Frame<'_>) -> Result<Command, Refused> {
    let asked: CheckClientRequestBody = body(frame)?;
    let data = &asked.subscription_data;
    if data.is_by_tags() {
        return Ok(Command::success());
    }
    if !broker.config.get().enable_property_filter {
        let kind = &data.expression_type;
        let remark = format!("The broker does not support consumer to filter message by {kind}");
        return Err(Refused::new(ResponseCode::SystemError, remark));
    }
    match Filter::compile(data) {
        Ok(_) => Ok(Command::success()),
        Err(fault) => Err(Refused::new(
            ResponseCode::SubscriptionParseFailed,
            fault.to_string(),
        )),
    }
}

/// Request 41: the queues that are now this client's.
pub(crate) fn lock_queues(broker: &Broker, frame: &Frame<'_>) -> Result<Command, Refused> {
    let asked: LockBatchRequestBody = body(frame)?;
    let locked = broker
        .order_locks
        .lock(&asked.consumer_group, &asked.client_id, &asked.mq_set);
    Ok(with_json(&LockBatchResponseBody {
        lock_ok_mq_set: locked,
    }))
}

/// Request 42.
pub(crate) fn unlock_queues(broker: &Broker, frame: &Frame<'_>) -> Result<Command, Refused> {
    let asked: UnlockBatchRequestBody = body(frame)?;
    broker
        .order_locks
        .unlock(&asked.consumer_group, &asked.client_id, &asked.mq_set);
    Ok(Command::success())
}

fn body<T: DeserializeOwned>(frame: &Frame<'_>) -> Result<T, Refused> {
    fastjson::from_slice(frame.body)
        .map_err(|fault| Refused::new(ResponseCode::SystemError, fault.to_string()))
}

fn with_json(body: &impl serde::Serialize) -> Command {
    Command::success().with_body(fastjson::to_vec(body, KeyStyle::Bare))
}
