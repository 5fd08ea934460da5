//! Whether a pull may be served: the original's checks in the original's order (spec/semantics.md §4.5).

use std::sync::Arc;
use std::time::Duration;

use agena_protocol::bodies::heartbeat::ConsumeType;
use agena_protocol::bodies::topic_config::TopicConfig;
use agena_protocol::frame::Frame;
use agena_protocol::headers::pull::{PULL_SUBSCRIPTION, PullMessageRequest};
use agena_protocol::headers::{FieldSink, FieldValue, Header};
use agena_protocol::queue::QueueId;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_remoting::connection::Connection;

use super::Pull;
use crate::broker::Broker;
use crate::config::BrokerConfig;
use crate::filter::{Filter, TAG};
use crate::groups::Group;
use crate::sessions::{Subscribed, Subscription};

/// Who forbids a pull, as answers with code 16 say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Forbidder {
    Broker = 1,
    Group = 2,
    Topic = 3,
    Broadcasting = 4,
    Subscription = 5,
}

/// Why a pull is not served.
#[derive(Debug)]
pub(super) struct PullRefused {
    pub(super) code: ResponseCode,
    pub(super) remark: String,
    forbidder: Option<Forbidder>,
}

/// The header of a refusal: who forbids, or nothing.
pub(super) struct RefusedHeader(Option<Forbidder>);

impl Header for RefusedHeader {
    fn write(&self, sink: &mut impl FieldSink) {
        if let Some(forbidder) = self.0 {
            FieldValue::put(&(forbidder as i32), "forbiddenType", sink);
        }
    }
}

impl PullRefused {
    fn new(code: ResponseCode, remark: impl Into<String>) -> Self {
        Self {
            code,
            remark: remark.into(),
            forbidder: None,
        }
    }

    fn forbidden(forbidder: Forbidder, remark: String) -> Self {
        Self {
            code: ResponseCode::NoPermission,
            remark,
            forbidder: Some(forbidder),
        }
    }

    pub(super) fn header(&self) -> RefusedHeader {
        RefusedHeader(self.forbidder)
    }
}

pub(super) fn check(
    broker: &Broker,
    config: &BrokerConfig,
    connection: &Connection,
    frame: &Frame<'_>,
    request: &PullMessageRequest<'_>,
) -> Result<Pull, PullRefused> {
    check_broker(config, frame)?;
    let group = check_group(broker, request)?;
    let topic = check_topic(broker, request)?;
    let queue = check_queue(connection, request, &topic)?;
    let filter = if request.sys_flag & PULL_SUBSCRIPTION != 0 {
        inline_filter(request)?
    } else {
        subscribed_filter(broker, config, request, &group)?
    };
    if filter.is_sql() && !config.enable_property_filter {
        return Err(PullRefused::new(
            ResponseCode::SystemError,
            "The broker does not support consumer to filter message by SQL92",
        ));
    }
    Ok(Pull {
        group,
        topic,
        queue,
        offset: request.queue_offset,
        messages_max: usize::try_from(request.max_msg_nums).unwrap_or(0),
        bytes_max: request
            .max_msg_bytes
            .and_then(|bytes| usize::try_from(bytes).ok()),
        filter,
        trail: None,
    })
}

fn check_broker(config: &BrokerConfig, frame: &Frame<'_>) -> Result<(), PullRefused> {
    if !config.is_readable() {
        return Err(PullRefused::forbidden(
            Forbidder::Broker,
            format!(
                "the broker[{}] pulling message is forbidden",
                config.broker_ip1
            ),
        ));
    }
    let is_lite = frame.code == RequestCode::LitePullMessage.number();
    if is_lite && !config.lite_pull_message_enable {
        return Err(PullRefused::forbidden(
            Forbidder::Broker,
            format!(
                "the broker[{}] for lite pull consumer is forbidden",
                config.broker_ip1
            ),
        ));
    }
    Ok(())
}

fn check_group(
    broker: &Broker,
    request: &PullMessageRequest<'_>,
) -> Result<Arc<Group>, PullRefused> {
    let name = request.consumer_group;
    let group = broker.groups.get_or_create(name).ok_or_else(|| {
        PullRefused::new(
            ResponseCode::SubscriptionGroupNotExist,
            format!("subscription group [{name}] does not exist"),
        )
    })?;
    if !group.may_consume() {
        return Err(PullRefused::forbidden(
            Forbidder::Group,
            format!("subscription group no permission, {name}"),
        ));
    }
    Ok(group)
}

fn check_topic(
    broker: &Broker,
    request: &PullMessageRequest<'_>,
) -> Result<Arc<TopicConfig>, PullRefused> {
    let name = request.topic;
    let topic = broker.topics.get(name).ok_or_else(|| {
        PullRefused::new(
            ResponseCode::TopicNotExist,
            format!("topic[{name}] not exist, apply first please!"),
        )
    })?;
    if !topic.is_readable() {
        return Err(PullRefused::forbidden(
            Forbidder::Topic,
            format!("the topic[{name}] pulling message is forbidden"),
        ));
    }
    Ok(topic)
}

fn check_queue(
    connection: &Connection,
    request: &PullMessageRequest<'_>,
    topic: &TopicConfig,
) -> Result<QueueId, PullRefused> {
    let queue = QueueId::from_wire(request.queue_id);
    queue.filter(|_| request.queue_id < topic.read_queue_nums).ok_or_else(|| {
        PullRefused::new(
            ResponseCode::InvalidParameter,
            format!(
                "queueId[{}] is illegal, topic:[{}] topicConfig.readQueueNums:[{}] consumer:[/{}]",
                request.queue_id,
                request.topic,
                topic.read_queue_nums,
                connection.peer()
            ),
        )
    })
}

/// The filter that the pull carries itself.
fn inline_filter(request: &PullMessageRequest<'_>) -> Result<Arc<Filter>, PullRefused> {
    let expression = request.subscription.unwrap_or_default();
    match Filter::parse(request.expression_type, expression) {
        Ok(filter) => Ok(Arc::new(filter)),
        Err(error) => {
            tracing::info!(group = request.consumer_group, expression, %error, "a pull with a bad filter");
            Err(PullRefused::new(
                ResponseCode::SubscriptionParseFailed,
                format!("parse the consumer's subscription failed: {error}"),
            ))
        }
    }
}

/// The filter that the group announced with its heartbeats.
fn subscribed_filter(
    broker: &Broker,
    config: &BrokerConfig,
    request: &PullMessageRequest<'_>,
    group: &Group,
) -> Result<Arc<Filter>, PullRefused> {
    let (name, topic) = (request.consumer_group, request.topic);
    let subscribed = broker.sessions.subscription(name, topic);
    let broadcasting = match &subscribed {
        Subscribed::NoGroup => {
            return Err(PullRefused::new(
                ResponseCode::SubscriptionNotExist,
                "the consumer's group info not exist",
            ));
        }
        Subscribed::NoTopic { broadcasting } | Subscribed::Found { broadcasting, .. } => {
            *broadcasting
        }
    };
    if broadcasting && !group.may_broadcast() {
        return Err(PullRefused::forbidden(
            Forbidder::Broadcasting,
            format!("the consumer group[{name}] can not consume by broadcast way"),
        ));
    }
    if group.forbids_reading(topic) {
        return Err(PullRefused::forbidden(
            Forbidder::Subscription,
            format!("the consumer group[{name}] is forbidden for topic[{topic}]"),
        ));
    }
    let Subscribed::Found { subscription, .. } = subscribed else {
        return Err(PullRefused::new(
            ResponseCode::SubscriptionNotExist,
            "the consumer's subscription not exist",
        ));
    };
    let is_outdated = subscription.data.sub_version < request.sub_version;
    if is_outdated && !may_be_unfiltered(&subscription, request, broker.clock.monotonic()) {
        return Err(PullRefused::new(
            ResponseCode::SubscriptionNotLatest,
            "the consumer's subscription not latest",
        ));
    }
    if config.reject_pull_consumer_enable && pulls_actively(broker, name) {
        return Err(PullRefused::new(
            ResponseCode::SubscriptionNotExist,
            "the pull consumer is rejected by this broker",
        ));
    }
    if is_outdated {
        return Ok(Arc::new(Filter::All));
    }
    subscription.filter.clone().map_err(|reason| {
        PullRefused::new(
            ResponseCode::SubscriptionParseFailed,
            format!("parse the consumer's subscription failed: {reason}"),
        )
    })
}

/// How long a pull is refused whose subscription no heartbeat announced yet.
const HEARTBEAT_WITHIN: Duration = Duration::from_secs(1);

/// A subscription gets a new version with every change of the client's queues. The Java client then sends a heartbeat, but not
/// while its timer sends one, which may still have the old version; the next follows after 30 s. The original refuses all that
/// time. We refuse while the heartbeat can be under way, then serve every message to whom filters by tag: the hashes of tags
/// collide, so every such client looks at the tags themselves. A condition of properties only the broker knows to evaluate.
fn may_be_unfiltered(
    subscription: &Subscription,
    request: &PullMessageRequest<'_>,
    now: Duration,
) -> bool {
    let is_by_tag = matches!(request.expression_type, None | Some("" | TAG));
    is_by_tag && subscription.outdated_for(now) >= HEARTBEAT_WITHIN
}

/// The members of the group announced that they pull on their own account.
fn pulls_actively(broker: &Broker, group: &str) -> bool {
    let view = broker.sessions.consumer_group(group);
    view.is_some_and(|view| view.consume_type == ConsumeType::ConsumeActively)
}
