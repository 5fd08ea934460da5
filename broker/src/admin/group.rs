//! Subscription groups: requests 200, 201, 207, 225, 343, 345, 352 and 353.

use std::sync::Arc;

use agena_protocol::bodies::names::TopicList;
use agena_protocol::bodies::subscription::QuerySubscriptionResponseBody;
use agena_protocol::bodies::subscription_group::{
    GroupForbidden, SubscriptionGroupConfig, SubscriptionGroupList,
};
use agena_protocol::command::Command;
use agena_protocol::headers::admin::{
    QuerySubscriptionByConsumerRequest, QueryTopicsByConsumerRequest,
};
use agena_protocol::headers::group::{
    DeleteSubscriptiongroupRequest, GetSubscriptiongroupConfigRequest,
    UpdateAndGetGroupForbiddenRequest,
};
use agena_protocol::response_code::ResponseCode;
use agena_remoting::connection::Connection;

use super::{Answer, body, with_json};
use crate::broker::Broker;
use crate::send::Refused;

/// Request 200.
pub(crate) fn update(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let config: SubscriptionGroupConfig = body(request)?;
    broker.groups.update_all(&[config])?;
    Ok(Command::success())
}

/// Request 225.
pub(crate) fn update_list(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let list: SubscriptionGroupList = body(request)?;
    broker.groups.update_all(&list.group_config_list)?;
    Ok(Command::success())
}

/// Request 207. A group with a live consumer comes back with its next heartbeat.
pub(crate) fn delete(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: DeleteSubscriptiongroupRequest<'_> = request.header()?;
    broker.groups.delete(header.group_name)?;
    if header.clean_offset == Some(true) {
        broker.offsets.remove_group(header.group_name);
        broker.offsets.save(broker.clock.now_ms())?;
    }
    broker.stats.remove_group(header.group_name);
    Ok(Command::success())
}

/// Request 201.
pub(crate) fn all(broker: &Arc<Broker>, _: &Arc<Connection>, _: &Command) -> Answer {
    Ok(with_json(&broker.groups.wrapper()))
}

/// Request 352; an unknown group is created if the broker allows it, as by a consumer.
pub(crate) fn config(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: GetSubscriptiongroupConfigRequest<'_> = request.header()?;
    let group = broker.groups.get_or_create(header.group);
    let config = group.as_deref().and_then(|group| group.config.as_ref());
    let config = config.ok_or_else(|| {
        Refused::new(
            ResponseCode::SubscriptionGroupNotExist,
            "No group in this broker",
        )
    })?;
    Ok(with_json(config))
}

/// Request 353: forbids a topic to a group or allows it, if the request says so, and tells how it is.
pub(crate) fn forbidden(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: UpdateAndGetGroupForbiddenRequest<'_> = request.header()?;
    if let Some(readable) = header.readable {
        broker
            .groups
            .set_readable(header.group, header.topic, readable)?;
    }
    Ok(with_json(&GroupForbidden {
        group: header.group.to_owned(),
        readable: !broker.groups.is_forbidden(header.group, header.topic),
        topic: header.topic.to_owned(),
    }))
}

/// Request 343: topics that a group consumes, now or at some time.
pub(crate) fn topics(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: QueryTopicsByConsumerRequest<'_> = request.header()?;
    let mut topics = broker.offsets.topics_of_group(header.group);
    if let Some(online) = broker.sessions.consumer_group(header.group) {
        topics.extend(online.subscriptions.keys().cloned());
    }
    Ok(with_json(&TopicList {
        broker_addr: Some(broker.identity.advertised.to_string()),
        topic_list: topics.into_iter().collect(),
    }))
}

/// Request 345: what a group subscribes of a topic, while it is online.
pub(crate) fn subscription(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: QuerySubscriptionByConsumerRequest<'_> = request.header()?;
    let topic = header.topic.unwrap_or_default();
    let group = broker.sessions.consumer_group(header.group);
    let subscription = group.and_then(|group| group.subscriptions.get(topic).cloned());
    Ok(with_json(&QuerySubscriptionResponseBody {
        group: header.group.to_owned(),
        subscription_data: subscription.map(|subscription| (*subscription.data).clone()),
        topic: topic.to_owned(),
    }))
}
