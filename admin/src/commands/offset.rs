//! Consumer offsets: reset, skip, clone.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use agena_protocol::bodies::offsets::ResetOffsetBody;
use agena_protocol::bodies::stats::ConsumeStats;
use agena_protocol::command::Command;
use agena_protocol::queue::MessageQueue;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, long_flag, long_value, value};
use crate::failure::Failure;
use crate::pull::{Bound, Queue, TOOLS_GROUP, offset, pull, readable_queues};
use crate::remote::body;
use crate::table::{Table, left};
use crate::time_text;

use super::cluster::now_millis;
use super::{query, undo_reset};

pub(crate) const RESET_OFFSET_BY_TIME: SubCommand = SubCommand {
    name: "resetOffsetByTime",
    about: "Reset consumer offset by timestamp(without client restart).",
    options: &[
        value('g', "group", "set the consumer group").required(),
        value('t', "topic", "set the topic").required(),
        value(
            's',
            "timestamp",
            "set the timestamp[now|currentTimeMillis|yyyy-MM-dd#HH:mm:ss:SSS]",
        )
        .required_unless(&["undo", "message"]),
        value(
            'f',
            "force",
            "set the force rollback by timestamp switch[true|false]. Deprecated.",
        ),
        value(
            'c',
            "cluster",
            "Cluster name or lmq parent topic, lmq is used to find the route.",
        ),
        value('b', "broker", "broker addr"),
        value('q', "queue", "queue id"),
        value(
            'o',
            "offset",
            "Expect queue offset, not support old version broker",
        ),
        long_flag(
            "dry-run",
            "Change nothing: show per queue the offset now, the new one and the first message there",
        ),
        long_flag(
            "undo",
            "Back to where the group was before its last reset; again for the one before that",
        ),
        long_value(
            "message",
            "The queue of the message with this id goes on at it; other queues stay",
        ),
    ],
    examples: &[
        example(
            "-g Billing -t Orders -s 2026-11-21#08:00:00:000 --dry-run",
            "what would be consumed again",
        ),
        example(
            "-g Billing -t Orders -s 2026-11-21#08:00:00:000",
            "does it, with or without members online",
        ),
        example(
            "-g Billing -t Orders -s now",
            "forgets what is not yet consumed",
        ),
        example(
            "-g Billing -t Orders -s -1 -b 127.0.0.1:10911 -q 0 -o 42",
            "one queue, to an offset",
        ),
        example(
            "-g Billing -t Orders --message 7F0000010000653700000000000002A7",
            "one queue, to a message, by either of its ids",
        ),
        example(
            "-g Billing -t Orders --undo",
            "takes the last reset back; with --dry-run shows what that would do",
        ),
    ],
    json: r#"{"group","topic","timestamp","queues":[{"brokerName","queueId","offset"}]}; with --dry-run {...,"queues":[{"brokerName","queueId","consumerOffset","offset","messages","firstMessage"}]}; with --undo {"group","topic","dryRun","brokers":[{"address","resetTimestamp","resetsLeft","queues":[{"brokerName","queueId","consumerOffset","offset"}]}]}"#,
    run: reset_offset_by_time,
};

pub(crate) const SKIP_ACCUMULATED_MESSAGE: SubCommand = SubCommand {
    name: "skipAccumulatedMessage",
    about: "Skip all messages that are accumulated (not consumed) currently.",
    options: &[
        value('g', "group", "set the consumer group").required(),
        value('t', "topic", "set the topic").required(),
        value(
            'f',
            "force",
            "set the force rollback by timestamp switch[true|false]",
        ),
        value(
            'c',
            "cluster",
            "Cluster name or lmq parent topic, lmq is used to find the route.",
        ),
    ],
    examples: &[example(
        "-g Billing -t Orders",
        "the group goes on with messages that come from now on",
    )],
    json: r#"{"group","topic","timestamp":-1,"queues":[{"brokerName","queueId","offset"}]}"#,
    run: skip_accumulated_message,
};

/// Offsets after a reset.
#[derive(Serialize)]
struct Reset {
    group: String,
    topic: String,
    timestamp: i64,
    queues: Vec<ResetQueue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResetQueue {
    broker_name: String,
    queue_id: i32,
    offset: i64,
}

const RESET: Table = Table(&[
    left("#brokerName", 40).cut(),
    left("#queueId", 40),
    left("#offset", 40),
]);

impl Display for Reset {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        RESET.head(f)?;
        for queue in &self.queues {
            RESET.row(f, &[&queue.broker_name, &queue.queue_id, &queue.offset])?;
        }
        Ok(())
    }
}

/// Where to: the end of the queue, a time, or an offset of one queue.
#[derive(Clone, Copy)]
struct Target {
    /// Milliseconds; -1 is the end.
    timestamp: i64,
    queue_id: Option<i32>,
    offset: Option<i64>,
}

impl Target {
    fn bound(self) -> Bound {
        if self.timestamp < 0 {
            Bound::Max
        } else {
            Bound::At(self.timestamp)
        }
    }
}

fn reset_offset_by_time(call: &mut Call) -> Result<(), Failure> {
    let options = &call.options;
    let (group, topic) = (
        options.required("group")?.to_owned(),
        options.required("topic")?.to_owned(),
    );
    if options.is_set("undo") {
        return undo_reset::undo(call, group, topic);
    }
    if let Some(id) = options.get("message").map(str::to_owned) {
        return reset_to_message(call, group, topic, &id);
    }
    let text = options.required("timestamp")?.to_owned();
    let timestamp = if text.eq_ignore_ascii_case("now") {
        now_millis()
    } else {
        time_text::parse(&text)?
    };
    let target = Target {
        timestamp,
        queue_id: options.number("queue")?,
        offset: options.number("offset")?,
    };
    let force = options.truth("force")?.unwrap_or(true);
    let broker = options.get("broker").map(str::to_owned);
    if target.queue_id.is_some() && broker.is_none() {
        return Err(Failure::Input(
            "a single queue (-q) needs its broker's address (-b)".to_owned(),
        ));
    }
    if target.offset.is_some() && target.queue_id.is_none() {
        return Err(Failure::Input(
            "an offset (-o) needs its queue (-q)".to_owned(),
        ));
    }
    let places = places(call, &topic, broker.as_deref())?;
    if call.options.is_set("dry-run") {
        return dry_run(call, group, topic, target, &places);
    }
    if let (Some(address), Some(queue_id)) = (&broker, target.queue_id) {
        call.out.note(format_args!(
            "start reset consumer offset by specified, group[{group}], topic[{topic}], queueId[{queue_id}], \
             broker[{address}], timestamp(string)[{text}], timestamp(long)[{timestamp}]"
        ))?;
        let queues = reset(call, &group, &topic, target, &places)?;
        let at = queues.first().map_or(-1, |queue| queue.offset);
        return call.out.show(&ResetOne {
            reset: Reset {
                group,
                topic,
                timestamp,
                queues,
            },
            at,
        });
    }
    call.out.note(format_args!(
        "start reset consumer offset by specified, group[{group}], topic[{topic}], force[{force}], \
         timestamp(string)[{text}], timestamp(long)[{timestamp}]"
    ))?;
    let queues = reset(call, &group, &topic, target, &places)?;
    call.out.show(&Reset {
        group,
        topic,
        timestamp,
        queues,
    })
}

/// The message's queue goes on at the message.
fn reset_to_message(
    call: &mut Call,
    group: String,
    topic: String,
    id: &str,
) -> Result<(), Failure> {
    let message = query::find(call, &topic, id)?;
    if message.topic != topic {
        return Err(Failure::Input(format!(
            "message {id} is in topic {}, not in {topic}",
            message.topic
        )));
    }
    let target = Target {
        timestamp: -1,
        queue_id: Some(message.queue_id),
        offset: Some(message.queue_offset),
    };
    let mut places = places(call, &topic, None)?;
    places.retain(|queue| queue.broker_name == message.broker_name);
    if places.is_empty() {
        return Err(Failure::Absent(format!(
            "topic {topic} has no queue that can be read on broker {}",
            message.broker_name
        )));
    }
    if call.options.is_set("dry-run") {
        return dry_run(call, group, topic, target, &places);
    }
    let queues = reset(call, &group, &topic, target, &places)?;
    call.out.show(&Reset {
        group,
        topic,
        timestamp: target.timestamp,
        queues,
    })
}

/// A single queue's reset, which the original answers in a line.
#[derive(Serialize)]
struct ResetOne {
    #[serde(flatten)]
    reset: Reset,
    #[serde(skip)]
    at: i64,
}

impl Display for ResetOne {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "reset consumer offset to {}", self.at)
    }
}

fn skip_accumulated_message(call: &mut Call) -> Result<(), Failure> {
    let (group, topic) = (
        call.options.required("group")?.to_owned(),
        call.options.required("topic")?.to_owned(),
    );
    let target = Target {
        timestamp: -1,
        queue_id: None,
        offset: None,
    };
    let places = places(call, &topic, None)?;
    let queues = reset(call, &group, &topic, target, &places)?;
    call.out.show(&Reset {
        group,
        topic,
        timestamp: -1,
        queues,
    })
}

/// The topic's queues, or those of the broker at one address.
fn places(call: &Call, topic: &str, broker: Option<&str>) -> Result<Vec<Queue>, Failure> {
    let mut queues = readable_queues(call, topic, call.options.get("cluster").unwrap_or(topic))?;
    if let Some(address) = broker {
        queues.retain(|queue| queue.address == address);
        if queues.is_empty() {
            return Err(Failure::Absent(format!(
                "topic {topic} has no queue on the broker at {address}"
            )));
        }
    }
    Ok(queues)
}

/// Asks each broker to reset; where it can only tell members and none is there, writes the offsets itself.
fn reset(
    call: &Call,
    group: &str,
    topic: &str,
    target: Target,
    places: &[Queue],
) -> Result<Vec<ResetQueue>, Failure> {
    let mut brokers: BTreeMap<&str, Vec<&Queue>> = BTreeMap::new();
    for queue in places {
        brokers.entry(&queue.address).or_default().push(queue);
    }
    let mut done = Vec::new();
    for (address, queues) in brokers {
        match reset_by_broker(call, group, topic, target, address) {
            Ok(offsets) => done.extend(offsets),
            Err(failure) if failure.refusal() == Some(ResponseCode::ConsumerNotOnline) => {
                for queue in queues {
                    if target.queue_id.is_none_or(|id| id == queue.queue_id) {
                        done.push(write_offset(call, group, queue, target)?);
                    }
                }
            }
            Err(failure) => return Err(failure),
        }
    }
    done.sort_by(|a, b| (&a.broker_name, a.queue_id).cmp(&(&b.broker_name, b.queue_id)));
    Ok(done)
}

fn reset_by_broker(
    call: &Call,
    group: &str,
    topic: &str,
    target: Target,
    address: &str,
) -> Result<Vec<ResetQueue>, Failure> {
    let request = Command::request(RequestCode::InvokeBrokerToResetOffset)
        .with_ext("group", group)
        .with_ext("topic", topic)
        .with_ext("timestamp", target.timestamp)
        .with_ext("isForce", true)
        .with_ext("queueId", target.queue_id.unwrap_or(-1))
        .with_ext("offset", target.offset.unwrap_or(-1));
    let step = format!("resetting group {group}");
    let answer = call.remote.ask(&step, address, request)?;
    let reset: ResetOffsetBody = body(&step, address, &answer)?;
    Ok(reset
        .offset_table
        .into_iter()
        .map(|(queue, offset)| ResetQueue {
            broker_name: queue.broker_name,
            queue_id: queue.queue_id,
            offset,
        })
        .collect())
}

fn write_offset(
    call: &Call,
    group: &str,
    queue: &Queue,
    target: Target,
) -> Result<ResetQueue, Failure> {
    let new = new_offset(call, queue, target)?;
    let request = Command::request(RequestCode::UpdateConsumerOffset)
        .with_ext("consumerGroup", group)
        .with_ext("topic", &queue.topic)
        .with_ext("queueId", queue.queue_id)
        .with_ext("commitOffset", new);
    call.remote.ask(
        &format!("writing the offset of group {group} in {queue}"),
        &queue.address,
        request,
    )?;
    Ok(ResetQueue {
        broker_name: queue.broker_name.clone(),
        queue_id: queue.queue_id,
        offset: new,
    })
}

fn new_offset(call: &Call, queue: &Queue, target: Target) -> Result<i64, Failure> {
    match target.offset {
        Some(offset) => Ok(offset),
        None => offset(call, queue, target.bound()),
    }
}

/// What a reset would do.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rehearsal {
    group: String,
    topic: String,
    timestamp: i64,
    queues: Vec<RehearsedQueue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RehearsedQueue {
    broker_name: String,
    queue_id: i32,
    consumer_offset: i64,
    offset: i64,
    /// Above zero: so many come again. Below: so many are skipped.
    messages: i64,
    first_message: Option<FirstMessage>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FirstMessage {
    msg_id: String,
    store_timestamp: i64,
}

const REHEARSAL: Table = Table(&[
    left("#Broker Name", 32).cut(),
    left("#QID", 4),
    left("#Consumer Offset", 20),
    left("#New Offset", 20),
    left("#Messages", 12),
    left("#Stored", 19),
    left("#First Message", 32),
]);

impl Display for Rehearsal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "dry run, nothing is changed: group[{}], topic[{}]",
            self.group, self.topic
        )?;
        REHEARSAL.head(f)?;
        for queue in &self.queues {
            let first = queue.first_message.as_ref();
            let stored = first.map_or_else(
                || "-".to_owned(),
                |first| time_text::seconds(first.store_timestamp),
            );
            let id = first.map_or("-", |first| first.msg_id.as_str());
            REHEARSAL.row(
                f,
                &[
                    &queue.broker_name,
                    &queue.queue_id,
                    &queue.consumer_offset,
                    &queue.offset,
                    &queue.messages,
                    &stored,
                    &id,
                ],
            )?;
        }
        let again: i64 = self.queues.iter().map(|queue| queue.messages.max(0)).sum();
        let skipped: i64 = self.queues.iter().map(|queue| queue.messages.min(0)).sum();
        writeln!(
            f,
            "\nMessages consumed again: {again}\nMessages skipped: {}",
            -skipped
        )
    }
}

fn dry_run(
    call: &mut Call,
    group: String,
    topic: String,
    target: Target,
    places: &[Queue],
) -> Result<(), Failure> {
    let mut current: BTreeMap<MessageQueue, i64> = BTreeMap::new();
    let mut seen = std::collections::BTreeSet::new();
    for queue in places
        .iter()
        .filter(|queue| seen.insert(queue.address.clone()))
    {
        let request = Command::request(RequestCode::GetConsumeStats)
            .with_ext("consumerGroup", &group)
            .with_ext("topic", &topic);
        let step = format!("asking for the offsets of group {group}");
        let stats: ConsumeStats = call.remote.ask_for(&step, &queue.address, request)?;
        current.extend(
            stats
                .offset_table
                .into_iter()
                .map(|(queue, offsets)| (queue, offsets.consumer_offset)),
        );
    }
    let mut queues = Vec::new();
    for queue in places
        .iter()
        .filter(|queue| target.queue_id.is_none_or(|id| id == queue.queue_id))
    {
        let name = MessageQueue::new(&queue.topic, &queue.broker_name, queue.queue_id);
        let consumer_offset = current.get(&name).copied().unwrap_or(0);
        let offset = new_offset(call, queue, target)?;
        let first = pull(call, queue, TOOLS_GROUP, "*", offset, 1)?
            .messages
            .into_iter()
            .next();
        queues.push(RehearsedQueue {
            broker_name: queue.broker_name.clone(),
            queue_id: queue.queue_id,
            consumer_offset,
            offset,
            messages: consumer_offset - offset,
            first_message: first.map(|message| FirstMessage {
                msg_id: message.msg_id,
                store_timestamp: message.store_timestamp,
            }),
        });
    }
    call.out.show(&Rehearsal {
        group,
        topic,
        timestamp: target.timestamp,
        queues,
    })
}

pub(crate) const CLONE_GROUP_OFFSET: SubCommand = SubCommand {
    name: "cloneGroupOffset",
    about: "Clone offset from other group.",
    options: &[
        value('s', "srcGroup", "set source consumer group").required(),
        value('d', "destGroup", "set destination consumer group").required(),
        value('t', "topic", "set the topic").required(),
        value('o', "offline", "the group or the topic is offline"),
    ],
    examples: &[example(
        "-s Billing -d Billing2 -t Orders",
        "the second group starts where the first one is",
    )],
    json: r#"{"srcGroup","destGroup","topic","brokers":["ip:port"]}"#,
    run: clone_group_offset,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cloned {
    src_group: String,
    dest_group: String,
    topic: String,
    brokers: Vec<String>,
}

impl Display for Cloned {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            src_group,
            dest_group,
            topic,
            ..
        } = self;
        writeln!(
            f,
            "clone group offset success. srcGroup[{src_group}], destGroup=[{dest_group}], topic[{topic}]"
        )
    }
}

fn clone_group_offset(call: &mut Call) -> Result<(), Failure> {
    let options = &call.options;
    let src_group = options.required("srcGroup")?.to_owned();
    let dest_group = options.required("destGroup")?.to_owned();
    let topic = options.required("topic")?.to_owned();
    let offline = options.truth("offline")?.unwrap_or(false);
    let route = call.remote.route(&topic)?;
    let brokers: Vec<String> = route
        .broker_datas
        .iter()
        .filter_map(|broker| broker.master().map(str::to_owned))
        .collect();
    for address in &brokers {
        let request = Command::request(RequestCode::CloneGroupOffset)
            .with_ext("srcGroup", &src_group)
            .with_ext("destGroup", &dest_group)
            .with_ext("topic", &topic)
            .with_ext("offline", offline);
        call.remote.ask(
            &format!("cloning the offsets of group {src_group}"),
            address,
            request,
        )?;
    }
    call.out.show(&Cloned {
        src_group,
        dest_group,
        topic,
        brokers,
    })
}
