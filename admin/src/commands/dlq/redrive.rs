//! Sends dead letters again: to their group alone by its retry topic, or to a topic for everybody.
//!
//! A dead letter is sent once, however often the command is run or interrupted: how far a queue is done is an offset of the tools'
//! group, written after every message, and the copy names the dead letter it was made of, so that one which was sent just before an
//! interruption is found by its key and not sent a second time.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use agena_protocol::command::Command;
use agena_protocol::message_id::OffsetId;
use agena_protocol::properties::{self, PropertiesBuf};
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_protocol::{sys_flag, topic};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, long_flag, long_value, value};
use crate::failure::Failure;
use crate::message::Message;
use crate::pull::{Bound, Queue, TOOLS_GROUP, offset, pull};
use crate::remote::{self, TIMEOUT};

use super::{by_id, chosen, query, redriven_to};

/// The producer group of what is sent again.
const PRODUCER_GROUP: &str = "AGENA_MQADMIN";

/// Without `--rate`.
const MESSAGES_PER_SECOND: u32 = 100;

/// The index knows times to the second, rounded down.
const INDEX_GRAIN_MS: i64 = 2000;

/// What belongs to the former life of a message and not to the next one.
const LEFT_BEHIND: &[&str] = &[
    properties::DELAY,
    properties::WAIT,
    properties::REAL_TOPIC,
    properties::REAL_QID,
    properties::TRAN_MSG,
    properties::MIN_OFFSET,
    properties::MAX_OFFSET,
    properties::RECONSUME_TIME,
    properties::MAX_RECONSUME_TIMES,
    properties::CONSUME_START_TIME,
    properties::TIMER_DELAY_SEC,
    properties::TIMER_DELAY_MS,
    properties::TIMER_DELIVER_MS,
    properties::TIMER_OUT_MS,
    properties::TIMER_ENQUEUE_MS,
    properties::TIMER_DEQUEUE_MS,
    properties::TIMER_ROLL_TIMES,
    properties::FIRST_POP_TIME,
    properties::POP_CK,
    properties::DEATH_REASON,
    properties::DEATH_CONSUMER,
    properties::DEATH_CAUSE,
    // Brokers of ours would take the copy for a repeat of the first send.
    properties::PRODUCER_ID,
    properties::SEQUENCE,
];

pub(crate) const REDRIVE: SubCommand = SubCommand {
    name: "dlq redrive",
    about: "Send dead letters again, each once: to their group alone, or to a topic.",
    options: &[
        value('g', "group", "The consumer group").required(),
        value(
            't',
            "topic",
            "Send to this topic, for all its groups; Default: to the group's retry topic, for this group alone",
        ),
        long_flag(
            "to-origin",
            "Send to the topic that each message came from, for all its groups",
        ),
        value(
            'i',
            "msgId",
            "Only the messages with these ids, with commas between",
        ),
        value('b', "brokerName", "Only of this broker"),
        long_value(
            "from",
            "The first offset in the dead letter queue, Default: the first that was not sent again",
        ),
        long_value(
            "until",
            "The offset to stop in front of, Default: the end as it is now",
        ),
        long_value("rate", "Messages per second, Default: 100"),
        long_flag("dry-run", "Send nothing: count what would be sent"),
    ],
    examples: &[
        example(
            "-g Billing --dry-run",
            "how many would be sent, and where to",
        ),
        example(
            "-g Billing --rate 20",
            "20 per second; stopped and run again, it goes on where it was",
        ),
        example(
            "-g Billing --to-origin -i AC1100020000653700000000000002A7",
            "one message, to its topic",
        ),
    ],
    json: r#"{"group","target","dryRun","redriven","alreadyRedriven","queues":[{"brokerName","queueId","from","until","redriven","alreadyRedriven"}]}"#,
    run: redrive,
};

/// Where dead letters go.
enum Target {
    Group(String),
    Topic(String),
    Origin,
}

impl Target {
    fn of(call: &Call, group: &str) -> Result<Self, Failure> {
        match (call.options.get("topic"), call.options.is_set("to-origin")) {
            (Some(_), true) => Err(Failure::Input(
                "--topic and --to-origin exclude each other".to_owned(),
            )),
            (Some(name), false) => Ok(Self::Topic(name.to_owned())),
            (None, true) => Ok(Self::Origin),
            (None, false) => Ok(Self::Group(topic::retry_of(group))),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Group(name) | Self::Topic(name) => name,
            Self::Origin => "the original topics",
        }
    }

    /// The topic for one dead letter.
    fn topic_of(&self, dead: &Message) -> Result<String, Failure> {
        match self {
            Self::Group(name) | Self::Topic(name) => Ok(name.clone()),
            Self::Origin => dead
                .property(properties::RETRY_TOPIC)
                .map(str::to_owned)
                .ok_or_else(|| {
                    Failure::Absent(format!(
                        "dead letter {} does not say which topic it came from: name one with -t",
                        dead.offset_msg_id
                    ))
                }),
        }
    }
}

/// What was done.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    group: String,
    target: String,
    dry_run: bool,
    redriven: u64,
    already_redriven: u64,
    queues: Vec<Done>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    broker_name: String,
    queue_id: i32,
    /// The offsets that were looked at; of single messages the first, and the one behind the last.
    from: i64,
    until: i64,
    redriven: u64,
    already_redriven: u64,
}

impl Display for Summary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.dry_run {
            writeln!(f, "dry run, nothing is sent")?;
        }
        for queue in &self.queues {
            writeln!(
                f,
                "{} queue {}, offsets {} to {}: {} sent again, {} had been before",
                queue.broker_name,
                queue.queue_id,
                queue.from,
                queue.until,
                queue.redriven,
                queue.already_redriven
            )?;
        }
        writeln!(
            f,
            "group {}: {} sent again to {}, {} had been before",
            self.group, self.redriven, self.target, self.already_redriven
        )
    }
}

fn redrive(call: &mut Call) -> Result<(), Failure> {
    let group = call.options.required("group")?.to_owned();
    let target = Target::of(call, &group)?;
    let rate: u32 = call.options.number("rate")?.unwrap_or(MESSAGES_PER_SECOND);
    if rate == 0 {
        return Err(Failure::Input("--rate takes a number above 0".to_owned()));
    }
    let mut run = Run {
        dry_run: call.options.is_set("dry-run"),
        pace: Pace::new(rate),
        bar: None,
        target,
    };
    let queues = match call.options.get("msgId").map(str::to_owned) {
        Some(ids) => single_messages(call, &group, &ids, &mut run)?,
        None => whole_queues(call, &group, &mut run)?,
    };
    if let Some(bar) = run.bar {
        bar.finish_and_clear();
    }
    call.out.show(&Summary {
        group,
        target: run.target.name().to_owned(),
        dry_run: run.dry_run,
        redriven: queues.iter().map(|queue| queue.redriven).sum(),
        already_redriven: queues.iter().map(|queue| queue.already_redriven).sum(),
        queues,
    })
}

/// What holds for all messages of one run.
struct Run {
    dry_run: bool,
    pace: Pace,
    bar: Option<ProgressBar>,
    target: Target,
}

impl Run {
    /// Sends one dead letter that waits on `queue`, unless it was sent before. Says whether it was.
    fn one(&mut self, call: &Call, queue: &Queue, dead: &Message) -> Result<bool, Failure> {
        let to = self.target.topic_of(dead)?;
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
        if was_sent(call, queue, &to, dead)? {
            return Ok(false);
        }
        if !self.dry_run {
            self.pace.wait();
            send(call, queue, &to, dead)?;
        }
        Ok(true)
    }

    fn begin(&mut self, count: i64) {
        if self.dry_run || !std::io::stderr().is_terminal() {
            return;
        }
        let bar = ProgressBar::new(u64::try_from(count).unwrap_or(0));
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len}, {eta} left") {
            bar.set_style(style);
        }
        self.bar = Some(bar);
    }
}

fn single_messages(
    call: &Call,
    group: &str,
    ids: &str,
    run: &mut Run,
) -> Result<Vec<Done>, Failure> {
    let queues = chosen(call, group)?;
    let mut done: BTreeMap<(String, i32), Done> = BTreeMap::new();
    for id in ids.split(',').map(str::trim).filter(|id| !id.is_empty()) {
        for dead in by_id(call, group, id)? {
            let place = queues.iter().find(|queue| {
                queue.broker_name == dead.broker_name && queue.queue_id == dead.queue_id
            });
            let queue = place.ok_or_else(|| {
                Failure::Absent(format!("dead letter {id} is on no broker that was chosen"))
            })?;
            let sent = run.one(call, queue, &dead)?;
            let key = (queue.broker_name.clone(), queue.queue_id);
            done.entry(key)
                .or_insert_with(|| Done::starting(queue, dead.queue_offset))
                .count(dead.queue_offset, sent);
        }
    }
    Ok(done.into_values().collect())
}

impl Done {
    fn starting(queue: &Queue, from: i64) -> Self {
        Self {
            broker_name: queue.broker_name.clone(),
            queue_id: queue.queue_id,
            from,
            until: from,
            redriven: 0,
            already_redriven: 0,
        }
    }

    fn count(&mut self, at: i64, sent: bool) {
        self.from = self.from.min(at);
        self.until = self.until.max(at + 1);
        if sent {
            self.redriven += 1;
        } else {
            self.already_redriven += 1;
        }
    }
}

/// One queue's part of a run.
struct Span {
    queue: Queue,
    from: i64,
    until: i64,
    /// The run goes on where the last one ended, and so moves the mark.
    moves_mark: bool,
}

fn whole_queues(call: &Call, group: &str, run: &mut Run) -> Result<Vec<Done>, Failure> {
    let mut spans = Vec::new();
    for queue in chosen(call, group)? {
        spans.push(span(call, queue)?);
    }
    run.begin(spans.iter().map(|span| span.until - span.from).sum());
    spans
        .iter()
        .map(|span| one_queue(call, span, run))
        .collect()
}

fn span(call: &Call, queue: Queue) -> Result<Span, Failure> {
    let min = offset(call, &queue, Bound::Min)?;
    let max = offset(call, &queue, Bound::Max)?;
    let wished: Option<i64> = call.options.number("from")?;
    let until: Option<i64> = call.options.number("until")?;
    let mark = redriven_to(call, &queue)?.unwrap_or(min).max(min);
    let from = wished.unwrap_or(mark).max(min);
    Ok(Span {
        moves_mark: from <= mark,
        from,
        // What dies again while this runs lies behind the end and waits for the next run.
        until: until.unwrap_or(max).min(max).max(from),
        queue,
    })
}

fn one_queue(call: &Call, span: &Span, run: &mut Run) -> Result<Done, Failure> {
    let mut done = Done::starting(&span.queue, span.from);
    done.until = span.until;
    let mut next = span.from;
    while next < span.until {
        let wanted = span.until - next;
        let pulled = pull(call, &span.queue, TOOLS_GROUP, "*", next, wanted)?;
        let wanted = pulled.messages.iter();
        for dead in wanted.take_while(|dead| dead.queue_offset < span.until) {
            let sent = run.one(call, &span.queue, dead)?;
            done.count(dead.queue_offset, sent);
            if span.moves_mark && !run.dry_run {
                mark(call, &span.queue, dead.queue_offset + 1)?;
            }
        }
        if pulled.next <= next {
            break;
        }
        next = pulled.next;
    }
    Ok(done)
}

/// Notes that everything in front of `next` was sent again. The mark never goes back: an earlier one holds as well.
fn mark(call: &Call, queue: &Queue, next: i64) -> Result<(), Failure> {
    if redriven_to(call, queue)?.is_some_and(|mark| mark >= next) {
        return Ok(());
    }
    let request = Command::request(RequestCode::UpdateConsumerOffset)
        .with_ext("consumerGroup", TOOLS_GROUP)
        .with_ext("topic", &queue.topic)
        .with_ext("queueId", queue.queue_id)
        .with_ext("commitOffset", next);
    let step = format!("noting how far {queue} was sent again");
    call.remote.ask(&step, &queue.address, request).map(drop)
}

/// The key by which a copy is found: the producer's, or the dead letter's own id where there is none.
fn key_of(dead: &Message) -> &str {
    dead.property(properties::UNIQ_KEY)
        .unwrap_or(&dead.offset_msg_id)
}

/// Whether `topic` has a copy of this dead letter, on the broker that it would be sent to.
fn was_sent(call: &Call, queue: &Queue, topic: &str, dead: &Message) -> Result<bool, Failure> {
    let request = Command::request(RequestCode::QueryMessage)
        .with_ext("topic", topic)
        .with_ext("key", key_of(dead))
        .with_ext("maxNum", 64)
        .with_ext("beginTimestamp", dead.store_timestamp - INDEX_GRAIN_MS)
        .with_ext("endTimestamp", i64::MAX)
        .with_ext("_UNIQUE_KEY_QUERY", true);
    let step = format!("looking whether {} was sent again", dead.offset_msg_id);
    let answer = match call.remote.ask(&step, &queue.address, request) {
        Ok(answer) => answer,
        Err(failure) if failure.refusal() == Some(ResponseCode::QueryNotFound) => {
            return Ok(false);
        }
        Err(failure) => return Err(failure),
    };
    let copies =
        Message::read_all(&answer.body, &queue.broker_name).map_err(|error| Failure::Garbled {
            step,
            address: queue.address.clone(),
            cause: error.to_string(),
        })?;
    let made_of = |copy: &Message| {
        copy.topic == topic
            && copy.property(properties::REDRIVEN_FROM) == Some(dead.offset_msg_id.as_str())
    };
    Ok(copies.iter().any(made_of))
}

fn send(call: &Call, queue: &Queue, topic: &str, dead: &Message) -> Result<(), Failure> {
    if dead.sys_flag & sys_flag::COMPRESSED != 0 {
        return Err(Failure::Absent(format!(
            "dead letter {} is compressed and does not unpack: go on behind it with --from {}",
            dead.offset_msg_id,
            dead.queue_offset + 1
        )));
    }
    let for_group = topic::is_retry(topic);
    let mut kept = PropertiesBuf::new();
    for (name, value) in &dead.properties {
        if !LEFT_BEHIND.contains(&name.as_str()) {
            kept.set(name, value.as_str());
        }
    }
    if !for_group {
        // In a topic it is a message like any other: should it fail there, that topic is where it came from.
        kept.remove(properties::RETRY_TOPIC);
        kept.remove(properties::ORIGIN_MESSAGE_ID);
    }
    kept.set(properties::UNIQ_KEY, key_of(dead));
    kept.set(properties::REDRIVEN_FROM, dead.offset_msg_id.as_str());
    let request = Command::request(RequestCode::SendMessageV2)
        .with_ext("a", PRODUCER_GROUP)
        .with_ext("b", topic)
        .with_ext("c", topic::AUTO_CREATE)
        .with_ext("d", 4)
        // A retry topic has one queue; in others the broker chooses.
        .with_ext("e", if for_group { 0 } else { -1 })
        .with_ext("f", 0)
        .with_ext("g", dead.born_timestamp)
        .with_ext("h", dead.flag)
        .with_ext("i", String::from_utf8_lossy(&kept.encode()))
        .with_ext("j", 0)
        .with_ext("k", false)
        .with_ext("m", false)
        .with_ext("n", &queue.broker_name)
        .with_body(dead.body.0.clone());
    let step = format!("sending dead letter {} again", dead.offset_msg_id);
    let answer = call
        .remote
        .ask_any(&step, &queue.address, request, TIMEOUT)?;
    match answer.response_code() {
        // Half a promise is a stored message all the same; sending it again would be a second one.
        Some(
            ResponseCode::Success
            | ResponseCode::FlushDiskTimeout
            | ResponseCode::FlushSlaveTimeout
            | ResponseCode::SlaveNotAvailable,
        ) => {}
        Some(_) | None => return Err(remote::refused(&step, &queue.address, &answer)),
    }
    if for_group {
        check_alive(call, topic, answer.ext.get("msgId"))?;
    }
    Ok(())
}

/// The original's broker puts what is sent to the retry topic of a group that consumes in order straight among the dead.
fn check_alive(call: &Call, topic: &str, offset_id: Option<&str>) -> Result<(), Failure> {
    let Some(place) = offset_id.and_then(OffsetId::parse) else {
        return Ok(());
    };
    if topic::is_dlq(&query::view(call, topic, &place)?.topic) {
        return Err(Failure::Absent(
            "the broker put the message among the dead at once, since the group consumes in order: stop its consumers \
             meanwhile, or send to the topic (--to-origin)"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Messages at a steady rate; a pause is not made up for by a burst.
struct Pace {
    interval: Duration,
    next: Instant,
}

impl Pace {
    fn new(per_second: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second,
            next: Instant::now(),
        }
    }

    fn wait(&mut self) {
        let now = Instant::now();
        if let Some(pause) = self.next.checked_duration_since(now) {
            std::thread::sleep(pause);
        }
        self.next = self.next.max(now) + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_not_made_up_for() {
        let mut pace = Pace::new(1000);
        let begin = Instant::now();
        pace.next = begin.checked_sub(Duration::from_secs(5)).unwrap_or(begin);
        for _ in 0..20 {
            pace.wait();
        }
        assert!(begin.elapsed() >= Duration::from_millis(19));
    }
}
