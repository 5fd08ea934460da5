//! Dead letters: which groups have some, what they are and why, and sending them again.
//!
//! A dead letter is a message in `%DLQ%group`. Brokers of ours write on it why there is no further try and which consumer failed
//! last; of the original's only the number of tries is known. How far a group's dead letters were sent again is an offset of the
//! tools' group on that topic, so that every run of this tool, on any machine, goes on where the last one ended.

use std::fmt::{self, Display, Formatter};

use agena_protocol::command::Command;
use agena_protocol::properties;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_protocol::topic;
use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, long_value, value};
use crate::failure::Failure;
use crate::message::Message;
use crate::pull::{Bound, Queue, TOOLS_GROUP, offset, pull, readable_queues};
use crate::table::{Table, left};
use crate::time_text;

use super::query;
use super::topic::all_topics;

mod redrive;

pub(crate) use redrive::REDRIVE;

pub(crate) const LIST: SubCommand = SubCommand {
    name: "dlq list",
    about: "List the groups that have dead letters: how many, since when, how far they were sent again.",
    options: &[value('g', "group", "Only this consumer group")],
    examples: &[
        example("", "every group with dead letters, per broker"),
        example("-g Billing", "one group"),
    ],
    json: r#"per group and broker {"group","brokerName","queueId","minOffset","maxOffset","count","redriven","oldestTimestamp","newestTimestamp"}"#,
    run: list,
};

pub(crate) const SHOW: SubCommand = SubCommand {
    name: "dlq show",
    about: "Show dead letters of a group: original topic and id, times tried, reason of death.",
    options: &[
        value('g', "group", "The consumer group").required(),
        value(
            'i',
            "msgId",
            "Only the message with this id: the client's, the broker's, or that of the original message",
        ),
        value('b', "brokerName", "Only of this broker"),
        long_value(
            "from",
            "The first offset in the dead letter queue, Default: the first there is",
        ),
        long_value("count", "How many, Default: 32"),
    ],
    examples: &[
        example("-g Billing", "the first 32"),
        example(
            "-g Billing --from 100 --count 5",
            "five, from offset 100 on",
        ),
        example(
            "-g Billing -i 7F0000010000653700000000000002A7",
            "the dead letter that this message became",
        ),
    ],
    json: r#"per message {"group","originTopic","originMsgId","timesTried","reason","lastConsumer","cause","redrivenFrom","message":{"msgId","offsetMsgId","queueOffset","storeTimestamp","properties":{},"body" or "bodyHex",...}}"#,
    run: show,
};

/// The dead letters of a group on one broker.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Graveyard {
    group: String,
    broker_name: String,
    queue_id: i32,
    min_offset: i64,
    max_offset: i64,
    count: i64,
    /// How many of them were sent again, counted from the first.
    redriven: i64,
    oldest_timestamp: Option<i64>,
    newest_timestamp: Option<i64>,
}

const GRAVEYARDS: Table = Table(&[
    left("#Group", 40),
    left("#Broker Name", 24),
    left("#Count", 10),
    left("#Redriven", 10),
    left("#Oldest", 19),
    left("#Newest", 19),
]);

impl Display for Graveyard {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let time = |time: Option<i64>| time.map_or_else(|| "-".to_owned(), time_text::seconds);
        GRAVEYARDS.row(
            f,
            &[
                &self.group,
                &self.broker_name,
                &self.count,
                &self.redriven,
                &time(self.oldest_timestamp),
                &time(self.newest_timestamp),
            ],
        )
    }
}

/// The head of the table, whose rows are documents of their own in JSON.
struct Head;

impl Display for Head {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        GRAVEYARDS.head(f)
    }
}

fn list(call: &mut Call) -> Result<(), Failure> {
    let groups: Vec<String> = match call.options.get("group") {
        Some(group) => vec![group.to_owned()],
        None => {
            let topics = all_topics(call)?.into_iter();
            topics
                .filter_map(|topic| topic::group_of_dlq(&topic).map(str::to_owned))
                .collect()
        }
    };
    let mut graveyards = Vec::new();
    for group in groups {
        for queue in queues_of(call, &group)? {
            let yard = graveyard(call, &group, &queue)?;
            if yard.count > 0 {
                graveyards.push(yard);
            }
        }
    }
    if graveyards.is_empty() {
        return call.out.note("no dead letters");
    }
    call.out.note(Head.to_string().trim_end())?;
    graveyards.iter().try_for_each(|yard| call.out.show(yard))
}

/// The dead letter queues of a group; none when it has no dead letters yet.
fn queues_of(call: &Call, group: &str) -> Result<Vec<Queue>, Failure> {
    let name = topic::dlq_of(group);
    match readable_queues(call, &name, &name) {
        Err(failure) if failure.refusal() == Some(ResponseCode::TopicNotExist) => Ok(Vec::new()),
        other => other,
    }
}

fn graveyard(call: &Call, group: &str, queue: &Queue) -> Result<Graveyard, Failure> {
    let min_offset = offset(call, queue, Bound::Min)?;
    let max_offset = offset(call, queue, Bound::Max)?;
    let count = (max_offset - min_offset).max(0);
    let stored_at = |at: i64| -> Result<Option<i64>, Failure> {
        if count == 0 {
            return Ok(None);
        }
        let pulled = pull(call, queue, TOOLS_GROUP, "*", at, 1)?;
        Ok(pulled.messages.first().map(|found| found.store_timestamp))
    };
    let redriven = redriven_to(call, queue)?.unwrap_or(min_offset);
    Ok(Graveyard {
        group: group.to_owned(),
        broker_name: queue.broker_name.clone(),
        queue_id: queue.queue_id,
        min_offset,
        max_offset,
        count,
        redriven: (redriven.min(max_offset) - min_offset).max(0),
        oldest_timestamp: stored_at(min_offset)?,
        newest_timestamp: stored_at(max_offset - 1)?,
    })
}

/// The first offset of a dead letter queue that was not sent again; `None` when none was.
fn redriven_to(call: &Call, queue: &Queue) -> Result<Option<i64>, Failure> {
    let request = Command::request(RequestCode::QueryConsumerOffset)
        .with_ext("consumerGroup", TOOLS_GROUP)
        .with_ext("topic", &queue.topic)
        .with_ext("queueId", queue.queue_id)
        .with_ext("setZeroIfNotFound", false);
    let step = format!("asking how far {queue} was sent again");
    match call.remote.ask(&step, &queue.address, request) {
        Ok(answer) => Ok(answer.ext.get("offset").and_then(|text| text.parse().ok())),
        Err(failure) if failure.refusal() == Some(ResponseCode::QueryNotFound) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// A dead letter and what is known of its death.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dead {
    group: String,
    origin_topic: Option<String>,
    origin_msg_id: Option<String>,
    times_tried: i32,
    reason: Option<String>,
    last_consumer: Option<String>,
    cause: Option<String>,
    redriven_from: Option<String>,
    message: Message,
}

impl Dead {
    fn of(group: &str, message: Message) -> Self {
        let property = |name: &str| message.property(name).map(str::to_owned);
        Self {
            group: group.to_owned(),
            origin_topic: property(properties::RETRY_TOPIC),
            origin_msg_id: property(properties::ORIGIN_MESSAGE_ID),
            times_tried: message.reconsume_times,
            reason: property(properties::DEATH_REASON),
            last_consumer: property(properties::DEATH_CONSUMER),
            cause: property(properties::DEATH_CAUSE),
            redriven_from: property(properties::REDRIVEN_FROM),
            message,
        }
    }
}

/// The reason of a death in words.
pub(super) fn reason_text(reason: Option<&str>) -> &str {
    match reason {
        Some("MAX_RECONSUME_TIMES") => "it was tried as often as the group allows",
        Some("GIVEN_UP") => "its consumer gave it up",
        Some(other) => other,
        None => "not recorded by this broker",
    }
}

impl Display for Dead {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let message = &self.message;
        let mut line = |label: &str, value: &dyn Display| writeln!(f, "{label:<20} {value}");
        let unknown = "-".to_owned();
        line("MsgId:", &message.msg_id)?;
        line("OffsetID:", &message.offset_msg_id)?;
        line("Broker Name:", &message.broker_name)?;
        line("Dead Letter Offset:", &message.queue_offset)?;
        line("Dead Since:", &time_text::millis(message.store_timestamp))?;
        line("Born:", &time_text::millis(message.born_timestamp))?;
        line(
            "Original Topic:",
            self.origin_topic.as_ref().unwrap_or(&unknown),
        )?;
        line(
            "Original Id:",
            self.origin_msg_id.as_ref().unwrap_or(&unknown),
        )?;
        line("Times Tried:", &self.times_tried)?;
        line("Reason:", &reason_text(self.reason.as_deref()))?;
        line(
            "Last Consumer:",
            self.last_consumer.as_ref().unwrap_or(&unknown),
        )?;
        line("Cause:", self.cause.as_ref().unwrap_or(&unknown))?;
        line("Keys:", &message.keys().unwrap_or("-"))?;
        line("Tags:", &message.tags().unwrap_or("-"))?;
        line("Message Body:", &message.body.text())?;
        writeln!(f)
    }
}

fn show(call: &mut Call) -> Result<(), Failure> {
    let group = call.options.required("group")?.to_owned();
    let messages = match call.options.get("msgId").map(str::to_owned) {
        Some(id) => by_id(call, &group, &id)?,
        None => from_offset(call, &group)?,
    };
    for message in messages {
        call.out.show(&Dead::of(&group, message))?;
    }
    Ok(())
}

/// The dead letters of a group that have this id, or whose original has it.
fn by_id(call: &Call, group: &str, id: &str) -> Result<Vec<Message>, Failure> {
    let name = topic::dlq_of(group);
    let found = query::find(call, &name, id)?;
    if found.topic == name {
        return Ok(vec![found]);
    }
    let dead = query::by_key(call, &name, &found.msg_id, true)?;
    if dead.is_empty() {
        return Err(Failure::Absent(format!(
            "message {id} of topic {} is no dead letter of group {group}",
            found.topic
        )));
    }
    Ok(dead)
}

fn from_offset(call: &Call, group: &str) -> Result<Vec<Message>, Failure> {
    let from: Option<i64> = call.options.number("from")?;
    let count: usize = call.options.number("count")?.unwrap_or(32);
    let mut messages = Vec::new();
    for queue in chosen(call, group)? {
        let min = offset(call, &queue, Bound::Min)?;
        let max = offset(call, &queue, Bound::Max)?;
        let mut next = from.unwrap_or(min).max(min);
        while next < max && messages.len() < count {
            let wanted = i64::try_from(count - messages.len()).unwrap_or(i64::MAX);
            let pulled = pull(call, &queue, TOOLS_GROUP, "*", next, wanted)?;
            messages.extend(pulled.messages);
            if pulled.next <= next {
                break;
            }
            next = pulled.next;
        }
    }
    messages.truncate(count);
    Ok(messages)
}

/// The group's dead letter queues, of all brokers or the one that was named; at least one.
fn chosen(call: &Call, group: &str) -> Result<Vec<Queue>, Failure> {
    let mut queues = queues_of(call, group)?;
    if let Some(name) = call.options.get("brokerName") {
        queues.retain(|queue| queue.broker_name == name);
    }
    if queues.is_empty() {
        return Err(Failure::Absent(format!(
            "group {group} has no dead letters"
        )));
    }
    Ok(queues)
}
