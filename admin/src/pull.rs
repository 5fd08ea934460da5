//! Reading queues without joining a group: one pull at a time, as the original's tools do with their built-in group.

use agena_protocol::command::Command;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;

use crate::call::Call;
use crate::failure::Failure;
use crate::message::Message;
use crate::remote::{self, TIMEOUT, reader_address};

/// The original's built-in group of tools; every broker knows it.
pub(crate) const TOOLS_GROUP: &str = "TOOLS_CONSUMER";

/// How many messages one pull asks for.
const MESSAGES_PER_PULL: i64 = 32;

/// `sysFlag` bit: the request carries its subscription.
const CARRIES_SUBSCRIPTION: i32 = 4;

/// One queue and where it is read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Queue {
    pub(crate) topic: String,
    pub(crate) broker_name: String,
    pub(crate) queue_id: i32,
    pub(crate) address: String,
}

impl std::fmt::Display for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "MessageQueue [topic={}, brokerName={}, queueId={}]",
            self.topic, self.broker_name, self.queue_id
        )
    }
}

/// How a pull ended, in the original's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PullStatus {
    Found,
    NoMatched,
    NoNew,
    OffsetIllegal,
}

impl std::fmt::Display for PullStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Found => "FOUND",
            Self::NoMatched => "NO_MATCHED_MSG",
            Self::NoNew => "NO_NEW_MSG",
            Self::OffsetIllegal => "OFFSET_ILLEGAL",
        })
    }
}

/// What a pull brought.
pub(crate) struct Pulled {
    pub(crate) status: PullStatus,
    pub(crate) next: i64,
    pub(crate) messages: Vec<Message>,
}

/// The queues of a topic that can be read, by broker and number. `route_of` names the topic or cluster whose route
/// leads there.
pub(crate) fn readable_queues(
    call: &Call,
    topic: &str,
    route_of: &str,
) -> Result<Vec<Queue>, Failure> {
    let route = call.remote.route(route_of)?;
    let mut queues = Vec::new();
    for data in route.queue_datas.iter().filter(|data| data.is_readable()) {
        let broker = route
            .broker_datas
            .iter()
            .find(|broker| broker.broker_name == data.broker_name);
        let Some(address) = broker.and_then(reader_address) else {
            continue;
        };
        queues.extend((0..data.read_queue_nums).map(|queue_id| Queue {
            topic: topic.to_owned(),
            broker_name: data.broker_name.clone(),
            queue_id,
            address: address.clone(),
        }));
    }
    queues.sort();
    if queues.is_empty() {
        return Err(Failure::Absent(format!(
            "topic {topic} has no queue that can be read"
        )));
    }
    Ok(queues)
}

/// Reads up to 32 messages from `offset` on.
///
/// `expression` is a tag filter; brokers filter by hash, so that messages of other tags are dropped here.
pub(crate) fn pull(
    call: &Call,
    queue: &Queue,
    group: &str,
    expression: &str,
    offset: i64,
    max: i64,
) -> Result<Pulled, Failure> {
    let step = format!("reading {queue} at offset {offset}");
    let request = Command::request(RequestCode::PullMessage)
        .with_ext("consumerGroup", group)
        .with_ext("topic", &queue.topic)
        .with_ext("queueId", queue.queue_id)
        .with_ext("queueOffset", offset)
        .with_ext("maxMsgNums", max.clamp(1, MESSAGES_PER_PULL))
        .with_ext("sysFlag", CARRIES_SUBSCRIPTION)
        .with_ext("commitOffset", 0)
        .with_ext("suspendTimeoutMillis", 0)
        .with_ext("subscription", expression)
        .with_ext("subVersion", 0)
        .with_ext("expressionType", "TAG");
    let answer = call
        .remote
        .ask_any(&step, &queue.address, request, TIMEOUT)?;
    let status = match answer.response_code() {
        Some(ResponseCode::Success) => PullStatus::Found,
        Some(ResponseCode::PullNotFound) => PullStatus::NoNew,
        Some(ResponseCode::PullRetryImmediately) => PullStatus::NoMatched,
        Some(ResponseCode::PullOffsetMoved) => PullStatus::OffsetIllegal,
        Some(_) | None => return Err(remote::refused(&step, &queue.address, &answer)),
    };
    let number = |name: &str| {
        answer
            .ext
            .get(name)
            .and_then(|text| text.parse::<i64>().ok())
    };
    let garbled = |cause: String| Failure::Garbled {
        step: step.clone(),
        address: queue.address.clone(),
        cause,
    };
    let next = number("nextBeginOffset").ok_or_else(|| garbled("no nextBeginOffset".to_owned()))?;
    let mut messages = if status == PullStatus::Found {
        Message::read_all(&answer.body, &queue.broker_name)
            .map_err(|error| garbled(error.to_string()))?
    } else {
        Vec::new()
    };
    messages.retain(|message| matches_tags(message, expression));
    for message in &mut messages {
        // Clients add these to what they pull, and the original's output shows them.
        for (name, field) in [("MIN_OFFSET", "minOffset"), ("MAX_OFFSET", "maxOffset")] {
            if let Some(value) = number(field) {
                message
                    .properties
                    .push((name.to_owned(), value.to_string()));
            }
        }
    }
    Ok(Pulled {
        status,
        next,
        messages,
    })
}

fn matches_tags(message: &Message, expression: &str) -> bool {
    let all = expression.is_empty() || expression == "*";
    all || expression
        .split("||")
        .any(|tag| Some(tag.trim()) == message.tags())
}

/// The bounds of a queue.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    /// The first offset that is still there.
    Min,
    /// The offset that the next message will have.
    Max,
    /// The first offset stored at or after this time (ms).
    At(i64),
}

/// Asks for an offset of a queue.
pub(crate) fn offset(call: &Call, queue: &Queue, bound: Bound) -> Result<i64, Failure> {
    let (code, what) = match bound {
        Bound::Min => (RequestCode::GetMinOffset, "first offset"),
        Bound::Max => (RequestCode::GetMaxOffset, "next offset"),
        Bound::At(_) => (RequestCode::SearchOffsetByTimestamp, "offset at a time"),
    };
    let mut request = Command::request(code)
        .with_ext("topic", &queue.topic)
        .with_ext("queueId", queue.queue_id);
    if let Bound::At(time) = bound {
        request = request.with_ext("timestamp", time);
    }
    let step = format!("asking for the {what} of {queue}");
    let answer = call.remote.ask(&step, &queue.address, request)?;
    answer
        .ext
        .get("offset")
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Failure::Garbled {
            step,
            address: queue.address.clone(),
            cause: "no offset".to_owned(),
        })
}
