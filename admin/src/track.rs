//! Whether each group has consumed a message (the original's `messageTrackDetail`).

use std::fmt::{self, Display, Formatter};

use agena_protocol::bodies::heartbeat::{ConsumeType, MessageModel};
use agena_protocol::bodies::subscription::SubscriptionData;
use agena_protocol::response_code::ResponseCode;
use agena_protocol::topic::RETRY_PREFIX;
use serde::Serialize;

use crate::call::Call;
use crate::commands::progress::{connections, stats_of_group};
use crate::commands::topic::groups_of;
use crate::failure::Failure;
use crate::message::Message;
use crate::remote::reader_address;

/// What is known of a message and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum TrackType {
    Consumed,
    ConsumedButFiltered,
    Pull,
    NotConsumeYet,
    NotOnline,
    ConsumeBroadcasting,
    Unknown,
}

impl Display for TrackType {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Consumed => "CONSUMED",
            Self::ConsumedButFiltered => "CONSUMED_BUT_FILTERED",
            Self::Pull => "PULL",
            Self::NotConsumeYet => "NOT_CONSUME_YET",
            Self::NotOnline => "NOT_ONLINE",
            Self::ConsumeBroadcasting => "CONSUME_BROADCASTING",
            Self::Unknown => "UNKNOWN",
        })
    }
}

/// One group's part in a message's life.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Track {
    pub(crate) consumer_group: String,
    pub(crate) track_type: TrackType,
    pub(crate) exception_desc: Option<String>,
}

impl Display for Track {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "MessageTrack [consumerGroup={}, trackType={}, exceptionDesc={}]",
            self.consumer_group,
            self.track_type,
            self.exception_desc.as_deref().unwrap_or("null")
        )
    }
}

/// Asks about every group that consumes the message's topic.
pub(crate) fn tracks(call: &Call, message: &Message) -> Result<Vec<Track>, Failure> {
    let route = call.remote.route(&message.topic)?;
    let groups = groups_of(call, &message.topic, &route)?;
    Ok(groups
        .into_iter()
        .map(|group| track(call, message, group))
        .collect())
}

fn track(call: &Call, message: &Message, consumer_group: String) -> Track {
    let (track_type, exception_desc) = match state(call, message, &consumer_group) {
        Ok(track_type) => (track_type, None),
        Err(failure) if failure.refusal() == Some(ResponseCode::ConsumerNotOnline) => {
            let why = format!("CODE:206 DESC:the consumer group[{consumer_group}] not online");
            (TrackType::NotOnline, Some(why))
        }
        Err(failure) => (TrackType::Unknown, Some(failure.to_string())),
    };
    Track {
        consumer_group,
        track_type,
        exception_desc,
    }
}

fn state(call: &Call, message: &Message, group: &str) -> Result<TrackType, Failure> {
    let route = call.remote.route(&format!("{RETRY_PREFIX}{group}"))?;
    let address = route.broker_datas.iter().find_map(reader_address);
    let address = address.ok_or_else(|| Failure::Absent(format!("no broker has group {group}")))?;
    let members = connections(call, group, &address)?;
    match members.consume_type {
        ConsumeType::ConsumeActively => Ok(TrackType::Pull),
        ConsumeType::ConsumePassively | ConsumeType::ConsumePop
            if members.message_model == MessageModel::Broadcasting =>
        {
            Ok(TrackType::ConsumeBroadcasting)
        }
        ConsumeType::ConsumePassively | ConsumeType::ConsumePop => {
            let subscription = members.subscription_table.get(&message.topic);
            consumed(call, message, group, subscription)
        }
    }
}

fn consumed(
    call: &Call,
    message: &Message,
    group: &str,
    subscription: Option<&SubscriptionData>,
) -> Result<TrackType, Failure> {
    let stats = stats_of_group(call, group, Some(&message.topic))?;
    let passed = stats.offset_table.iter().any(|(queue, offsets)| {
        queue.topic == message.topic
            && queue.queue_id == message.queue_id
            && queue.broker_name == message.broker_name
            && offsets.consumer_offset > message.queue_offset
    });
    if !passed {
        return Ok(TrackType::NotConsumeYet);
    }
    let takes = |data: &SubscriptionData| {
        data.tags_set.is_empty()
            || message
                .tags()
                .is_some_and(|tag| data.tags_set.contains(tag))
    };
    if subscription.is_none_or(takes) {
        Ok(TrackType::Consumed)
    } else {
        Ok(TrackType::ConsumedButFiltered)
    }
}
