//! Why a group is behind, in words: `lagExplain`, which the original does not have.

use std::fmt::{self, Display, Formatter};

use agena_protocol::bodies::connections::{MemberExpression, SubscriptionConflict};
use agena_protocol::bodies::lag::{Contact, LagCause, LagExplanation, OrderLock, QueueLag};
use agena_protocol::command::Command;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_protocol::topic::RETRY_PREFIX;
use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, value};
use crate::failure::Failure;
use crate::remote::{Question, body, reader_address};
use crate::time_text;

use super::progress::route_of_group;

pub(crate) const LAG_EXPLAIN: SubCommand = SubCommand {
    name: "lagExplain",
    about: "Explain why a consumer group is behind, queue by queue.",
    options: &[
        value('g', "consumerGroup", "consumer group name").required(),
        value('t', "topic", "topic name"),
        value('b', "brokerAddr", "ask this broker only"),
    ],
    examples: &[
        example(
            "-g Billing",
            "every queue that is behind, and why: no owner, a lock, a slow handler, a filter, retries, …",
        ),
        example(
            "-g Billing -t Orders --json",
            "all queues of a topic and of the group's retry topic, with every fact",
        ),
    ],
    json: r#"{"group","lagTotal","members":["clientId"],"broadcasting","subscriptionConflicts":[{"topic","members":[{"clientId","expression"}]}],"queues":[{"topic","brokerName","queueId","minOffset","maxOffset","committed","lag","behindMs","inFlight","lastPull":{"at","by","connected","offset"},"lastCommit":{…},"lock":{"clientId","until","connected"},"inPerSecond","outPerSecond","causes":[{"kind","words",…}]}]}; kinds and their facts: CAUGHT_UP, CONSUMING, DRAINING {inPerSecond,outPerSecond,emptyInSeconds}, FALLING_BEHIND {inPerSecond,outPerSecond}, NO_MEMBERS, NOT_SUBSCRIBED {members}, NO_OWNER {members,since,by}, OWNER_SILENT {owner,since,inFlight}, NOT_COMMITTING {owner,since,inFlight,offset,messageId}, LOCKED {holder,until,connected,puller}, FILTERED {expressionType,expression,lookedAt,given}, FAILING_AGAIN {topic,queueId,offset,messageId,times}, WAITING_FOR_RETRY {messages,firstDue,lastDue,atLeast}, COLD_READ {at}, PACED {bytesPerSecond}, SUBSCRIPTION_CONFLICT {members}, BAD_EXPRESSION {expression,reason}, RESET_PENDING {offset}, EXPIRED_UNREAD {messages}, BROADCASTING, GROUP_DISABLED, TOPIC_FORBIDDEN, TOPIC_UNREADABLE {permission}, BROKER_UNREADABLE {permission}"#,
    run: lag_explain,
};

/// A group on all its brokers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Explained {
    group: String,
    lag_total: i64,
    members: Vec<String>,
    broadcasting: bool,
    subscription_conflicts: Vec<SubscriptionConflict>,
    queues: Vec<Queue>,
}

/// [`QueueLag`] with its broker, and its causes in words as well.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Queue {
    topic: String,
    broker_name: String,
    queue_id: i32,
    min_offset: i64,
    max_offset: i64,
    committed: Option<i64>,
    lag: i64,
    behind_ms: i64,
    in_flight: i64,
    last_pull: Option<Contact>,
    last_commit: Option<Contact>,
    lock: Option<OrderLock>,
    in_per_second: Option<f64>,
    out_per_second: Option<f64>,
    causes: Vec<Cause>,
}

#[derive(Serialize)]
struct Cause {
    #[serde(flatten)]
    cause: LagCause,
    words: String,
}

fn lag_explain(call: &mut Call) -> Result<(), Failure> {
    let group = call.options.required("consumerGroup")?.to_owned();
    let topic = call.options.get("topic").map(str::to_owned);
    let addresses = addresses(call, &group, topic.as_deref())?;
    let step = format!("asking why group {group} is behind");
    let questions = addresses.iter().map(|address| {
        let request = Command::request(RequestCode::ExplainLag).with_ext("consumerGroup", &group);
        Question {
            step: step.clone(),
            address: address.clone(),
            request: match &topic {
                Some(topic) => request.with_ext("topic", topic),
                None => request,
            },
        }
    });
    let answers = call.remote.ask_all(questions.collect());
    let mut explained = Explained::new(group);
    for (address, answer) in addresses.iter().zip(answers) {
        let answer = answer.map_err(|failure| of_another_kind(failure, address))?;
        explained.add(body(&step, address, &answer)?);
    }
    explained.sort();
    call.out.show(&explained)
}

/// The brokers that have the group, or that may have it.
fn addresses(call: &Call, group: &str, topic: Option<&str>) -> Result<Vec<String>, Failure> {
    if let Some(address) = call.options.get("brokerAddr") {
        return Ok(vec![address.to_owned()]);
    }
    let route = match topic {
        Some(topic) => call.remote.route(topic)?,
        None => route_of_group(call, group, None)?,
    };
    let brokers = route.broker_datas.iter();
    Ok(brokers.filter_map(reader_address).collect())
}

/// The original refuses the question as one that it does not know.
fn of_another_kind(failure: Failure, address: &str) -> Failure {
    if failure.refusal() == Some(ResponseCode::RequestCodeNotSupported) {
        return Failure::Absent(format!(
            "the broker at {address} is not an Agena broker and cannot explain lag; consumerProgress works with it"
        ));
    }
    failure
}

impl Explained {
    fn new(group: String) -> Self {
        Self {
            group,
            lag_total: 0,
            members: Vec::new(),
            broadcasting: false,
            subscription_conflicts: Vec::new(),
            queues: Vec::new(),
        }
    }

    fn add(&mut self, one: LagExplanation) {
        self.lag_total += one.queues.iter().map(|queue| queue.lag).sum::<i64>();
        self.members.extend(one.members);
        self.broadcasting |= one.broadcasting;
        self.subscription_conflicts
            .extend(one.subscription_conflicts);
        let broker_name = one.broker_name;
        let queues = one.queues.into_iter();
        self.queues
            .extend(queues.map(|queue| Queue::new(queue, &broker_name)));
    }

    /// Members and conflicts are mostly the same on every broker.
    fn sort(&mut self) {
        self.members.sort();
        self.members.dedup();
        self.subscription_conflicts
            .sort_by(|a, b| a.topic.cmp(&b.topic));
        self.subscription_conflicts.dedup();
        let key = |queue: &Queue| {
            let is_retry = queue.topic.starts_with(RETRY_PREFIX);
            (
                is_retry,
                queue.topic.clone(),
                queue.broker_name.clone(),
                queue.queue_id,
            )
        };
        self.queues.sort_by_key(key);
    }
}

impl Queue {
    fn new(queue: QueueLag, broker_name: &str) -> Self {
        let words = |cause: LagCause| Cause {
            words: words(&cause),
            cause,
        };
        Self {
            topic: queue.topic,
            broker_name: broker_name.to_owned(),
            queue_id: queue.queue_id,
            min_offset: queue.min_offset,
            max_offset: queue.max_offset,
            committed: queue.committed,
            lag: queue.lag,
            behind_ms: queue.behind_ms,
            in_flight: queue.in_flight,
            last_pull: queue.last_pull,
            last_commit: queue.last_commit,
            lock: queue.lock,
            in_per_second: queue.in_per_second,
            out_per_second: queue.out_per_second,
            causes: queue.causes.into_iter().map(words).collect(),
        }
    }

    fn is_caught_up(&self) -> bool {
        let mut causes = self.causes.iter();
        causes.all(|cause| cause.cause == LagCause::CaughtUp)
    }
}

impl Display for Explained {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let behind = self.queues.iter().filter(|queue| !queue.is_caught_up());
        writeln!(
            f,
            "Group {}: {} messages behind in {} of {} queues, {} members connected",
            self.group,
            self.lag_total,
            behind.clone().count(),
            self.queues.len(),
            self.members.len()
        )?;
        for conflict in &self.subscription_conflicts {
            writeln!(
                f,
                "WARN: members subscribe {} differently: {}",
                conflict.topic,
                opinions(&conflict.members)
            )?;
        }
        for queue in behind {
            writeln!(f, "\n{queue}")?;
            for cause in &queue.causes {
                writeln!(f, "  - {}", cause.words)?;
            }
        }
        Ok(())
    }
}

impl Display for Queue {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} queue {}: {} messages behind",
            self.topic, self.broker_name, self.queue_id, self.lag
        )?;
        if self.lag > 0 {
            write!(f, ", the next one {} old", span(self.behind_ms))?;
        }
        if let Some(committed) = self.committed {
            write!(f, ", committed {committed} of {}", self.max_offset)?;
        }
        if let Some(pull) = &self.last_pull {
            write!(f, ", last pull {}", contact(pull))?;
        }
        if let Some(commit) = &self.last_commit {
            write!(f, ", last commit {}", contact(commit))?;
        }
        if self.in_flight > 0 {
            write!(f, ", {} in flight", self.in_flight)?;
        }
        Ok(())
    }
}

fn contact(contact: &Contact) -> String {
    let gone = if contact.connected {
        ""
    } else {
        " (not connected)"
    };
    format!(
        "{} by {}{gone} at {}",
        time_text::seconds(contact.at),
        contact.by,
        contact.offset
    )
}

/// `850 ms`, `12 s`, `5 min`, `3 h`.
fn span(ms: i64) -> String {
    const SECOND: i64 = 1000;
    const MINUTE: i64 = 60 * SECOND;
    const HOUR: i64 = 60 * MINUTE;
    match ms {
        ..SECOND => format!("{ms} ms"),
        SECOND..MINUTE => format!("{} s", ms / SECOND),
        MINUTE..HOUR => format!("{} min", ms / MINUTE),
        HOUR.. => format!("{} h", ms / HOUR),
    }
}

/// What each member says of a topic, in words.
pub(crate) fn opinions(members: &[MemberExpression]) -> String {
    let opinions = members.iter().map(|member| match &member.expression {
        Some(expression) => format!("{} takes '{expression}'", member.client_id),
        None => format!("{} does not subscribe it", member.client_id),
    });
    opinions.collect::<Vec<_>>().join(", ")
}

/// A cause as an operator reads it: a table.
fn words(cause: &LagCause) -> String {
    match cause {
        LagCause::CaughtUp => "caught up".to_owned(),
        LagCause::Consuming => "being consumed; its speed is not known yet".to_owned(),
        LagCause::Draining {
            in_per_second,
            out_per_second,
            empty_in_seconds,
        } => format!(
            "draining: empty in {empty_in_seconds:.0} s at {in_per_second:.0}/s in, {out_per_second:.0}/s out"
        ),
        LagCause::FallingBehind {
            in_per_second,
            out_per_second,
        } => format!("falling behind: {in_per_second:.0}/s in, {out_per_second:.0}/s out"),
        LagCause::NoMembers => "no member of the group is connected".to_owned(),
        LagCause::NotSubscribed { members } => {
            format!("none of {members} connected members subscribes the topic")
        }
        LagCause::NoOwner { members, since, by } => {
            let last = match (since, by) {
                (Some(since), Some(by)) => format!(
                    "since {}, when {by} pulled it last",
                    time_text::seconds(*since)
                ),
                _ => "since this broker started".to_owned(),
            };
            format!("no owner: none of {members} connected members has pulled this queue {last}")
        }
        LagCause::OwnerSilent {
            owner,
            since,
            in_flight,
        } => format!(
            "{owner} is connected and has not asked for more since {}, with {in_flight} in flight: suspended, or as full as it may be",
            time_text::seconds(*since)
        ),
        LagCause::NotCommitting {
            owner,
            since,
            in_flight,
            offset,
            message_id,
        } => format!(
            "{owner} has {in_flight} messages in flight and has not moved since {}: its handler hangs, is slow or fails at offset {offset}{}",
            time_text::seconds(*since),
            message_id
                .as_ref()
                .map(|id| format!(" (message {id})"))
                .unwrap_or_default()
        ),
        LagCause::Locked {
            holder,
            until,
            connected,
            puller,
        } => format!(
            "locked for order by {holder}{} until {}{}",
            if *connected { "" } else { " (not connected)" },
            time_text::seconds(*until),
            puller
                .as_ref()
                .map(|puller| format!(", while {puller} pulls"))
                .unwrap_or_else(|| ", and nobody pulls".to_owned())
        ),
        LagCause::FailingAgain {
            topic,
            queue_id,
            offset,
            message_id,
            times,
        } => {
            let place = match (queue_id, offset) {
                (Some(queue), Some(offset)) => format!(" queue {queue} offset {offset}"),
                _ => String::new(),
            };
            format!("message {message_id} of {topic}{place} failed {times} times")
        }
        LagCause::WaitingForRetry {
            messages,
            first_due,
            last_due,
            at_least,
        } => format!(
            "{}{messages} messages wait for their next try, the first until {}, the last until {}",
            if *at_least { "at least " } else { "" },
            time_text::seconds(*first_due),
            time_text::seconds(*last_due)
        ),
        LagCause::Filtered {
            expression_type,
            expression,
            looked_at,
            given,
        } => format!(
            "the filter {expression_type} '{expression}' let {given} of the last {looked_at} messages through"
        ),
        LagCause::ColdRead { at } => format!(
            "reads from the device, not from memory, last at {}",
            time_text::seconds(*at)
        ),
        LagCause::Paced { bytes_per_second } => format!(
            "far behind: while messages come in, all readers that are get {:.1} MB/s together (backlogBytesPerSecond)",
            bytes_per_second / 1e6
        ),
        LagCause::ExpiredUnread { messages } => {
            format!("{messages} messages were deleted before they were consumed")
        }
        LagCause::BrokerUnreadable { permission } => {
            format!("the broker may not be read (brokerPermission={permission})")
        }
        LagCause::TopicUnreadable { permission } => {
            format!("the topic may not be read (perm={permission})")
        }
        LagCause::GroupDisabled => "the group may not consume (consumeEnable=false)".to_owned(),
        LagCause::TopicForbidden => "the group is forbidden for this topic".to_owned(),
        LagCause::Broadcasting => {
            "a broadcasting group: members keep their offsets themselves".to_owned()
        }
        LagCause::ResetPending { offset } => {
            format!("a reset to {offset} waits for the next pull")
        }
        LagCause::BadExpression { expression, reason } => {
            format!("the expression '{expression}' does not parse, pulls are refused: {reason}")
        }
        LagCause::SubscriptionConflict { members } => {
            format!("members subscribe differently: {}", opinions(members))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forecast_is_one_line() {
        let cause = LagCause::Draining {
            in_per_second: 2300.0,
            out_per_second: 4000.0,
            empty_in_seconds: 39.6,
        };
        assert_eq!(
            words(&cause),
            "draining: empty in 40 s at 2300/s in, 4000/s out"
        );
    }

    #[test]
    fn spans_have_the_unit_that_fits() {
        let spans = [999, 59_999, 3_599_999, 7_200_000].map(span);
        assert_eq!(spans, ["999 ms", "59 s", "59 min", "2 h"]);
    }
}
