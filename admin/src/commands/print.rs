//! Whole queues: print what is in them.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, value};
use crate::failure::Failure;
use crate::message::Line;
use crate::pull::{Bound, PullStatus, Queue, TOOLS_GROUP, offset, pull, readable_queues};
use crate::time_text;

use super::query::utf8_only;

const MESSAGES: &str = r#"per message {"msgId","offsetMsgId","topic","brokerName","queueId","queueOffset","properties":{},"body" or "bodyHex",...}"#;

const BEGIN: &str = "Begin timestamp[currentTimeMillis|yyyy-MM-dd#HH:mm:ss:SSS]";
const END: &str = "End timestamp[currentTimeMillis|yyyy-MM-dd#HH:mm:ss:SSS]";

pub(crate) const PRINT_MSG: SubCommand = SubCommand {
    name: "printMsg",
    about: "Print Message Detail.",
    options: &[
        value('t', "topic", "topic name").required(),
        value('c', "charsetName", "CharsetName(eg: UTF-8,GBK)"),
        value(
            's',
            "subExpression",
            "Subscribe Expression(eg: TagA || TagB)",
        ),
        value('b', "beginTimestamp", BEGIN),
        value('e', "endTimestamp", END),
        value('d', "printBody", "print body"),
        value(
            'l',
            "lmqParentTopic",
            "Lmq parent topic, lmq is used to find the route.",
        ),
    ],
    examples: &[
        example("-t Orders", "every message of every queue"),
        example(
            "-t Orders -s 'paid || refunded' -b 2026-11-21#08:00:00:000",
            "only these tags, from a time on",
        ),
        example("-t Orders -d false", "without bodies"),
    ],
    json: MESSAGES,
    run: print_msg,
};

/// A part of a queue, from the first offset to one before the last.
struct Range {
    from: i64,
    to: i64,
}

/// The queue's own bounds, narrowed by times.
fn range(
    call: &Call,
    queue: &Queue,
    begin: &'static str,
    end: &'static str,
) -> Result<Range, Failure> {
    let from = match call.options.get(begin) {
        Some(text) => Bound::At(time_text::parse(text)?),
        None => Bound::Min,
    };
    let to = match call.options.get(end) {
        Some(text) => Bound::At(time_text::parse(text)?),
        None => Bound::Max,
    };
    Ok(Range {
        from: offset(call, queue, from)?,
        to: offset(call, queue, to)?,
    })
}

/// What to read and how to show it.
struct Reading<'a> {
    group: &'a str,
    expression: &'a str,
    with_body: bool,
    /// A line before each batch of messages.
    lead: Option<&'static str>,
}

/// Prints the messages of a range, batch by batch.
fn print_range(
    call: &mut Call,
    queue: &Queue,
    range: &Range,
    reading: &Reading<'_>,
) -> Result<(), Failure> {
    let mut at = range.from;
    while at < range.to {
        let pulled = pull(
            call,
            queue,
            reading.group,
            reading.expression,
            at,
            range.to - at,
        )?;
        let (status, next) = (pulled.status, pulled.next);
        match status {
            PullStatus::Found => {
                if let Some(lead) = reading.lead {
                    call.out.note(lead)?;
                }
                for message in pulled
                    .messages
                    .iter()
                    .filter(|message| message.queue_offset < range.to)
                {
                    call.out.show(&Line {
                        message,
                        with_body: reading.with_body,
                    })?;
                }
            }
            PullStatus::NoMatched => {
                call.out.note(format_args!(
                    "{queue} no matched msg. status={status}, offset={next}"
                ))?;
            }
            PullStatus::NoNew | PullStatus::OffsetIllegal => {
                return call.out.note(format_args!(
                    "{queue} print msg finished. status={status}, offset={next}"
                ));
            }
        }
        if next <= at {
            return Err(Failure::Absent(format!(
                "{queue}: the broker does not advance beyond offset {at}"
            )));
        }
        at = next;
    }
    Ok(())
}

fn print_msg(call: &mut Call) -> Result<(), Failure> {
    let topic = call.options.required("topic")?.to_owned();
    let expression = call.options.get("subExpression").unwrap_or("*").to_owned();
    let with_body = call.options.truth("printBody")?.unwrap_or(true);
    utf8_only(call.options.get("charsetName").unwrap_or("UTF-8"))?;
    let route_of = call
        .options
        .get("lmqParentTopic")
        .unwrap_or(&topic)
        .to_owned();
    let reading = Reading {
        group: TOOLS_GROUP,
        expression: &expression,
        with_body,
        lead: None,
    };
    for queue in readable_queues(call, &topic, &route_of)? {
        let range = range(call, &queue, "beginTimestamp", "endTimestamp")?;
        call.out.note(format_args!(
            "minOffset={}, maxOffset={}, {queue}",
            range.from, range.to
        ))?;
        print_range(call, &queue, &range, &reading)?;
        call.out
            .note("--------------------------------------------------------")?;
    }
    Ok(())
}

pub(crate) const PRINT_MSG_BY_QUEUE: SubCommand = SubCommand {
    name: "printMsgByQueue",
    about: "Print Message Detail by queueId.",
    options: &[
        value('t', "topic", "topic name").required(),
        value('a', "brokerName", "broker name").required(),
        value('i', "queueId", "queue id").required(),
        value('c', "charsetName", "CharsetName(eg: UTF-8,GBK)"),
        value(
            's',
            "subExpression",
            "Subscribe Expression(eg: TagA || TagB)",
        ),
        value('b', "beginTimestamp", BEGIN),
        value('e', "endTimestamp", END),
        value('p', "printMsg", "print msg. eg: true | false(default)"),
        value('d', "printBody", "print body. eg: true | false(default)"),
        value(
            'f',
            "calculate",
            "calculate by tag. eg: true | false(default)",
        ),
    ],
    examples: &[
        example(
            "-t Orders -a broker-a -i 0 -p true -d true",
            "every message of one queue, with bodies",
        ),
        example(
            "-t Orders -a broker-a -i 0 -f true",
            "how many messages of each tag",
        ),
    ],
    json: r#"per message {"msgId","queueOffset",...} with -p true; then {"tags":[{"tag","count"}]} with -f true"#,
    run: print_msg_by_queue,
};

#[derive(Serialize)]
struct TagCounts {
    tags: Vec<TagCount>,
}

#[derive(Serialize)]
struct TagCount {
    tag: Option<String>,
    count: u64,
}

impl Display for TagCounts {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for row in &self.tags {
            writeln!(
                f,
                "Tag: {:<30} Count: {}",
                row.tag.as_deref().unwrap_or("null"),
                row.count
            )?;
        }
        Ok(())
    }
}

fn print_msg_by_queue(call: &mut Call) -> Result<(), Failure> {
    let options = &call.options;
    let topic = options.required("topic")?.to_owned();
    let broker_name = options.required("brokerName")?.to_owned();
    let queue_id = options.number("queueId")?.unwrap_or(0);
    let expression = options.get("subExpression").unwrap_or("*").to_owned();
    let printed = options.truth("printMsg")?.unwrap_or(false);
    let with_body = options.truth("printBody")?.unwrap_or(false);
    let counted = options.truth("calculate")?.unwrap_or(false);
    utf8_only(options.get("charsetName").unwrap_or("UTF-8"))?;
    let address = call.remote.broker_address(&broker_name)?;
    let queue = Queue {
        topic,
        broker_name,
        queue_id,
        address,
    };
    let range = range(call, &queue, "beginTimestamp", "endTimestamp")?;
    let mut counts: BTreeMap<Option<String>, u64> = BTreeMap::new();
    let mut at = range.from;
    while at < range.to {
        let pulled = pull(call, &queue, TOOLS_GROUP, &expression, at, range.to - at)?;
        for message in pulled
            .messages
            .iter()
            .filter(|message| message.queue_offset < range.to)
        {
            *counts.entry(message.tags().map(str::to_owned)).or_default() += 1;
            if printed {
                call.out.show(&Line { message, with_body })?;
            }
        }
        let ended = matches!(pulled.status, PullStatus::NoNew | PullStatus::OffsetIllegal);
        if ended || pulled.next <= at {
            break;
        }
        at = pulled.next;
    }
    if !counted {
        return Ok(());
    }
    let mut tags: Vec<TagCount> = counts
        .into_iter()
        .map(|(tag, count)| TagCount { tag, count })
        .collect();
    tags.sort_by_key(|row| std::cmp::Reverse(row.count));
    call.out.show(&TagCounts { tags })
}

pub(crate) const CONSUME_MESSAGE: SubCommand = SubCommand {
    name: "consumeMessage",
    about: "Consume message.",
    options: &[
        value('t', "topic", "Topic name").required(),
        value('b', "brokerName", "Broker name"),
        value('i', "queueId", "Queue Id"),
        value('o', "offset", "Queue offset"),
        value('g', "consumerGroup", "Consumer group name"),
        value('s', "beginTimestamp", BEGIN),
        value('e', "endTimestamp", END),
        value('c', "MessageNumber", "Number of message to be consumed"),
    ],
    examples: &[
        example(
            "-t Orders -c 10",
            "the oldest 10 messages; no offset of any group is moved",
        ),
        example(
            "-t Orders -b broker-a -i 0 -o 42 -c 1",
            "one message of one queue",
        ),
    ],
    json: MESSAGES,
    run: consume_message,
};

fn consume_message(call: &mut Call) -> Result<(), Failure> {
    let topic = call.options.required("topic")?.to_owned();
    let group = call
        .options
        .get("consumerGroup")
        .unwrap_or(TOOLS_GROUP)
        .to_owned();
    let mut left: i64 = call.options.number("MessageNumber")?.unwrap_or(128);
    if left <= 0 {
        return Err(Failure::Input(
            "-c takes a positive number of messages".to_owned(),
        ));
    }
    let queues = chosen_queues(call, &topic)?;
    let start: Option<i64> = call.options.number("offset")?;
    let reading = Reading {
        group: &group,
        expression: "*",
        with_body: true,
        lead: Some("Consume ok"),
    };
    for queue in &queues {
        if left == 0 {
            break;
        }
        let mut range = range(call, queue, "beginTimestamp", "endTimestamp")?;
        range.from = range.from.max(start.unwrap_or(range.from));
        if start.is_some_and(|start| start > range.to) {
            return call.out.note(format_args!(
                "{queue} no matched msg, offset={}",
                range.from
            ));
        }
        let cut = range.to - range.from > left;
        if cut {
            let which = queue.queue_id;
            call.out.note(format_args!(
                "The older {left} message of the {which} queue will be provided"
            ))?;
            range.to = range.from + left;
        }
        left -= range.to - range.from;
        print_range(call, queue, &range, &reading)?;
        if !cut {
            let (status, next) = (PullStatus::NoNew, range.to);
            call.out.note(format_args!(
                "{queue} print msg finished. status={status}, offset={next}"
            ))?;
        }
    }
    Ok(())
}

/// The queue of `-b` and `-i`, the queues of broker `-b`, or all.
fn chosen_queues(call: &Call, topic: &str) -> Result<Vec<Queue>, Failure> {
    let queue_id: Option<i32> = call.options.number("queueId")?;
    let broker = call.options.get("brokerName");
    if queue_id.is_some() && broker.is_none() {
        return Err(Failure::Input(
            "Please set the brokerName before queueId!".to_owned(),
        ));
    }
    if queue_id.is_none() && call.options.get("offset").is_some() {
        return Err(Failure::Input(
            "please set queueId before offset!".to_owned(),
        ));
    }
    let mut queues = readable_queues(call, topic, topic)?;
    queues.retain(|queue| {
        broker.is_none_or(|name| name == queue.broker_name)
            && queue_id.is_none_or(|id| id == queue.queue_id)
    });
    if queues.is_empty() {
        return Err(Failure::Absent(format!(
            "topic {topic} has no such queue; see topicStatus -t {topic}"
        )));
    }
    Ok(queues)
}
