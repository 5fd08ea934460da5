//! A message's life as the log, the index and the offsets tell it: where it was stored, which waits it had, who got it, who failed.
//!
//! No trace topic is needed, and brokers of the original tell the same: every copy of a message (half, delayed, retry, dead letter)
//! keeps the producer's id, by which the index finds it. What a group did follows from its offsets: everything in front of the
//! committed one is done with, everything in front of the last pull is in flight.

use std::fmt::{self, Display, Formatter};

use agena_protocol::properties;
use agena_protocol::topic;
use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, value};
use crate::failure::Failure;
use crate::message::Message;
use crate::time_text;

use super::dlq::reason_text;

mod evidence;

use evidence::{BrokerFacts, Evidence, Passed};

pub(crate) const MESSAGE_STORY: SubCommand = SubCommand {
    name: "messageStory",
    about: "Tell a message's life: where it was stored, what it waited for, who consumed it, retried, or gave it up.",
    options: &[
        value(
            'i',
            "msgId",
            "The client's id (unique key) or the broker's (offsetMsgId)",
        )
        .required(),
        value(
            't',
            "topic",
            "Its topic; Default: found by the id, which takes a look-up per topic for a client's id",
        ),
    ],
    examples: &[
        example(
            "-t Orders -i FD00000000000000000000000000000270A730946E096746B8D80000",
            "by the id that the producer got",
        ),
        example(
            "-i 7F0000010000653700000000000002A7",
            "by its place in the log",
        ),
    ],
    json: r#"{"msgId","topic","tags","keys","transaction":"PENDING"|"COMMITTED"|"ROLLED_BACK"|"PARKED"|null,"delayedUntil","events":[{"timestamp","kind","text","topic","brokerName","file","commitLogOffset","queueId","queueOffset","group","dueTimestamp"}],"groups":[{"group","state","text","timesTried","nextTry"}]}"#,
    run: message_story,
};

/// What a copy of the message stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Kind {
    Stored,
    Half,
    Parked,
    Delayed,
    Recalled,
    RetryDelayed,
    Retry,
    Dead,
}

/// One copy, with what it means.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    timestamp: i64,
    kind: Kind,
    text: String,
    topic: String,
    broker_name: String,
    /// The log's file that has it.
    file: String,
    commit_log_offset: i64,
    queue_id: i32,
    queue_offset: i64,
    group: Option<String>,
    due_timestamp: Option<i64>,
    /// The wait is not over.
    #[serde(skip)]
    waits: bool,
    #[serde(skip)]
    times_tried: i32,
}

/// Where a group stands with the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum State {
    NotYet,
    InFlight,
    Consumed,
    Filtered,
    WaitsForRetry,
    Dead,
    Unknown,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OfGroup {
    group: String,
    state: State,
    text: String,
    times_tried: i32,
    next_try: Option<i64>,
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Transaction {
    Pending,
    Committed,
    RolledBack,
    Parked,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Story {
    msg_id: String,
    topic: String,
    tags: Option<String>,
    keys: Option<String>,
    transaction: Option<Transaction>,
    delayed_until: Option<i64>,
    events: Vec<Event>,
    groups: Vec<OfGroup>,
}

impl Display for Story {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "message {} of topic {}", self.msg_id, self.topic)?;
        writeln!(
            f,
            "tags {}, keys {}\n",
            self.tags.as_deref().unwrap_or("-"),
            self.keys.as_deref().unwrap_or("-")
        )?;
        for event in &self.events {
            writeln!(f, "{}  {}", time_text::millis(event.timestamp), event.text)?;
            writeln!(
                f,
                "{:25}{} on {}, queue {} offset {}, log {} (file {})",
                "",
                event.topic,
                event.broker_name,
                event.queue_id,
                event.queue_offset,
                event.commit_log_offset,
                event.file
            )?;
        }
        if let Some(state) = self.transaction {
            let words = match state {
                Transaction::Pending => "is pending: the producer has not decided",
                Transaction::Committed => "was committed",
                Transaction::RolledBack => "was rolled back: nobody gets the message",
                Transaction::Parked => "was never decided, and was parked",
            };
            writeln!(f, "\nthe transaction {words}")?;
        }
        if let Some(until) = self.delayed_until {
            writeln!(f, "\ndelayed until {}", time_text::millis(until))?;
        }
        writeln!(f)?;
        if self.groups.is_empty() {
            return writeln!(f, "no group consumes topic {}", self.topic);
        }
        self.groups
            .iter()
            .try_for_each(|group| writeln!(f, "group {}: {}", group.group, group.text))
    }
}

fn message_story(call: &mut Call) -> Result<(), Failure> {
    let id = call.options.required("msgId")?.to_owned();
    let wished = call.options.get("topic").map(str::to_owned);
    let evidence = Evidence::gather(call, &id, wished.as_deref())?;
    let events: Vec<Event> = evidence
        .copies
        .iter()
        .map(|copy| event(copy, evidence.facts_of(copy)))
        .collect();
    let transaction = transaction(call, &evidence, &events)?;
    let groups = evidence
        .groups
        .iter()
        .map(|group| of_group(call, &evidence, &events, group))
        .collect();
    let delayed = events
        .iter()
        .rev()
        .find(|event| event.kind == Kind::Delayed);
    let recalled = events.iter().any(|event| event.kind == Kind::Recalled);
    let first = evidence.first();
    let story = Story {
        msg_id: first.msg_id.clone(),
        topic: evidence.topic.clone(),
        tags: first.tags().map(str::to_owned),
        keys: first.keys().map(str::to_owned),
        transaction,
        delayed_until: delayed
            .filter(|event| event.waits && !recalled)
            .and_then(|event| event.due_timestamp),
        events,
        groups,
    };
    call.out.show(&story)
}

/// Reads one copy.
fn event(copy: &Message, facts: &BrokerFacts) -> Event {
    let at =
        |time: Option<i64>| time.map_or_else(|| "an unknown time".to_owned(), time_text::millis);
    let real = copy.property(properties::REAL_TOPIC).unwrap_or_default();
    let due = facts.due(copy);
    let waits = facts.waits(copy, due);
    let verb = if waits { "waits" } else { "waited" };
    let group_of_real = topic::group_of_retry(real).map(str::to_owned);
    let tries = copy.reconsume_times;
    let (kind, group, text) = match copy.topic.as_str() {
        topic::TRANS_HALF => (
            Kind::Half,
            None,
            format!("stored as the half message of a transaction for {real}"),
        ),
        topic::TRANS_CHECK_MAX_TIME => (
            Kind::Parked,
            None,
            "parked: its producer never decided".to_owned(),
        ),
        topic::TIMER_WHEEL if copy.property(properties::TIMER_DEL_UNIQKEY).is_some() => {
            (Kind::Recalled, None, "recalled by its producer".to_owned())
        }
        topic::SCHEDULE | topic::TIMER_WHEEL => match group_of_real {
            Some(group) => {
                let text = format!(
                    "group {group} failed, {tries} times so far; {verb} for the next try until {}",
                    at(due)
                );
                (Kind::RetryDelayed, Some(group), text)
            }
            None => (
                Kind::Delayed,
                None,
                format!("delayed: {verb} until {} for {real}", at(due)),
            ),
        },
        name => match (topic::group_of_retry(name), topic::group_of_dlq(name)) {
            (Some(group), _) => {
                let again = match copy.property(properties::REDRIVEN_FROM) {
                    Some(from) if tries == 0 => format!(", sent again from dead letter {from}"),
                    _ => String::new(),
                };
                let text =
                    format!("ready for group {group} once more (failed {tries} times){again}");
                (Kind::Retry, Some(group.to_owned()), text)
            }
            (None, Some(group)) => {
                let reason = reason_text(copy.property(properties::DEATH_REASON));
                let mut text = format!("dead for group {group} after {tries} tries: {reason}");
                if let Some(consumer) = copy.property(properties::DEATH_CONSUMER) {
                    text.push_str(&format!("; last at {consumer}"));
                }
                if let Some(cause) = copy.property(properties::DEATH_CAUSE) {
                    text.push_str(&format!(", which said: {cause}"));
                }
                (Kind::Dead, Some(group.to_owned()), text)
            }
            (None, None) => (Kind::Stored, None, "stored for consumers".to_owned()),
        },
    };
    Event {
        timestamp: copy.store_timestamp,
        kind,
        text,
        topic: copy.topic.clone(),
        broker_name: copy.broker_name.clone(),
        file: facts.file_of(copy.commit_log_offset),
        commit_log_offset: copy.commit_log_offset,
        queue_id: copy.queue_id,
        queue_offset: copy.queue_offset,
        group,
        due_timestamp: due,
        waits,
        times_tried: tries,
    }
}

/// How the transaction ended, if the message began as a half.
fn transaction(
    call: &Call,
    evidence: &Evidence,
    events: &[Event],
) -> Result<Option<Transaction>, Failure> {
    let has = |kind: Kind| events.iter().any(|event| event.kind == kind);
    let Some(half) = evidence
        .copies
        .iter()
        .rev()
        .find(|copy| copy.topic == topic::TRANS_HALF)
    else {
        return Ok(None);
    };
    if has(Kind::Stored) || has(Kind::Delayed) {
        return Ok(Some(Transaction::Committed));
    }
    if has(Kind::Parked) {
        return Ok(Some(Transaction::Parked));
    }
    let decided = evidence.is_decided(call, half)?;
    Ok(Some(if decided {
        Transaction::RolledBack
    } else {
        Transaction::Pending
    }))
}

/// Where a group stands: by its latest copy, and by its offset there.
fn of_group(call: &Call, evidence: &Evidence, events: &[Event], group: &str) -> OfGroup {
    let of_this = |event: &&Event| event.group.as_deref() == Some(group);
    let last = events.iter().rev().find(of_this);
    let last = last.or_else(|| events.iter().rev().find(|event| event.kind == Kind::Stored));
    let (state, text) = match last {
        None => (State::NotYet, "nothing to consume yet".to_owned()),
        Some(event) if event.kind == Kind::Dead => (State::Dead, event.text.clone()),
        Some(event) if event.kind == Kind::RetryDelayed => {
            (State::WaitsForRetry, event.text.clone())
        }
        Some(event) => match evidence.passed(call, group, event_place(event)) {
            Ok(passed) => reached(passed, event.times_tried),
            Err(failure) => (State::Unknown, failure.to_string()),
        },
    };
    OfGroup {
        group: group.to_owned(),
        state,
        text,
        times_tried: last.map_or(0, |event| event.times_tried),
        next_try: last
            .filter(|event| event.kind == Kind::RetryDelayed)
            .and_then(|event| event.due_timestamp),
    }
}

fn event_place(event: &Event) -> evidence::Place<'_> {
    evidence::Place {
        topic: &event.topic,
        broker_name: &event.broker_name,
        queue_id: event.queue_id,
        queue_offset: event.queue_offset,
    }
}

fn reached(passed: Passed, tries: i32) -> (State, String) {
    let after = if tries > 0 {
        format!(" (failed {tries} times before)")
    } else {
        String::new()
    };
    match passed {
        Passed::Committed { next } => (
            State::Consumed,
            format!("consumed{after}: its offset there is {next}"),
        ),
        Passed::Filtered { next } => (
            State::Filtered,
            format!("passed over by its subscription: its offset there is {next}"),
        ),
        Passed::Pulled { next } => (
            State::InFlight,
            format!("in flight{after}: pulled, and committed up to {next}"),
        ),
        Passed::Not { next } => (
            State::NotYet,
            format!("not yet{after}: its offset there is {next}"),
        ),
    }
}
