//! C3: consumers' reads. Requests 11 and 361.
//!
//! A pull is checked ([`check`]), commits the offset that rides on it, and is answered at once when there is something to
//! say; when there is nothing yet it is held ([`crate::hold`]) until a message arrives that it may want. The records in an
//! answer are slices of the log. A pull far behind the end of the log leaves the connection's task for the bounded pool
//! of readers, so that it can wait for the disk without anybody else waiting.
//! Source: spec/semantics.md §4.5, §4.6; Apache: `PullMessageProcessor`.

mod check;

use std::sync::Arc;
use std::time::Duration;

use agena_protocol::bodies::topic_config::TopicConfig;
use agena_protocol::frame::Frame;
use agena_protocol::headers::DecodeHeader;
use agena_protocol::headers::NoHeader;
use agena_protocol::headers::pull::{
    PULL_COMMIT_OFFSET, PULL_SUSPEND, PullMessageRequest, PullMessageResponse,
};
use agena_protocol::offset::QueueOffset;
use agena_protocol::queue::QueueId;
use agena_protocol::response_code::ResponseCode;
use agena_remoting::connection::Connection;
use agena_remoting::reply::{Replies, ReplyTo};
use agena_store::{ReadOutcome, ReadRequest, ReadStatus, Residency};

use crate::backlog;
use crate::broker::Broker;
use crate::config::BrokerConfig;
use crate::filter::Filter;
use crate::groups::Group;
use crate::hold::HeldPull;
use crate::offsets::trail::{Given, Trail, Visitor};
use crate::pool::Turn;
use crate::stats::Tally;

/// The longest time a pull is held, whatever the client asks for.
const SUSPEND_MAX: Duration = Duration::from_secs(600);

/// A pull that may be served.
#[derive(Debug)]
pub(crate) struct Pull {
    /// Who asks.
    pub group: Arc<Group>,
    /// Of what.
    pub topic: Arc<TopicConfig>,
    /// Which of its queues.
    pub queue: QueueId,
    /// The first message wanted, as asked: a negative number lies in front of every queue. Moves past messages that
    /// arrive and do not match while the pull is held.
    pub offset: i64,
    /// How many at most.
    pub messages_max: usize,
    /// How many bytes at most, if the client says so.
    pub bytes_max: Option<usize>,
    /// Which messages are wanted.
    pub filter: Arc<Filter>,
    /// Where it is noted what the group was given; none for a pull in front of the queue.
    pub trail: Option<Arc<Trail>>,
}

/// Serves one pull request.
pub(crate) fn pull(
    broker: &Arc<Broker>,
    connection: &Arc<Connection>,
    frame: &Frame<'_>,
    replies: &mut Replies,
) {
    let config = broker.config.get();
    let request = match PullMessageRequest::decode(&frame.ext) {
        Ok(request) => request,
        Err(error) => {
            let remark = error.to_string();
            return replies.push(frame, ResponseCode::SystemError, Some(&remark), &NoHeader);
        }
    };
    let mut pull = match check::check(broker, &config, connection, frame, &request) {
        Ok(pull) => pull,
        Err(refused) => {
            return replies.push(
                frame,
                refused.code,
                Some(&refused.remark),
                &refused.header(),
            );
        }
    };
    note_progress(broker, connection, &request, &mut pull);
    let suspend = (request.sys_flag & PULL_SUSPEND != 0)
        .then(|| suspend_time(&config, request.suspend_timeout_millis));
    if let Some(answer) = answer_reset(broker, &pull) {
        return push(answer, frame, replies);
    }
    if let Some(bytes) = pull.trail.as_ref().and_then(|trail| trail.backlog_bytes()) {
        return read_in_turn(broker, pull, bytes, suspend, ReplyTo::of(connection, frame));
    }
    match read(broker, &pull, Residency::MemoryOnly) {
        None => read_aside(broker, pull, None, suspend, ReplyTo::of(connection, frame)),
        Some(answer) => match suspend {
            Some(suspend) if answer.is_nothing_yet() => {
                park(
                    broker,
                    pull,
                    ReplyTo::of(connection, frame),
                    suspend,
                    answer,
                );
            }
            _ => push(answer, frame, replies),
        },
    }
}

/// The offset that rides on a pull counts whatever the read gives, but only as it arrives, not when a held pull wakes.
fn note_progress(
    broker: &Broker,
    connection: &Connection,
    request: &PullMessageRequest<'_>,
    pull: &mut Pull,
) {
    let (group, topic) = (request.consumer_group, request.topic);
    let visitor = Visitor::of(connection, broker.clock.now_ms());
    if request.sys_flag & PULL_COMMIT_OFFSET != 0
        && let Some(offset) = QueueOffset::from_wire(request.commit_offset)
    {
        let by = Some(&visitor);
        broker
            .offsets
            .commit_by(group, topic, pull.queue, offset, by);
    }
    let offset = QueueOffset::from_wire(pull.offset);
    let noted = offset.and_then(|offset| {
        broker
            .offsets
            .pulled(group, topic, pull.queue, offset, &visitor)
    });
    if let Some((trail, is_another)) = noted {
        if is_another && let Some(client_id) = member_id(broker, group, connection.id()) {
            trail.name_puller(connection.id(), client_id);
        }
        pull.trail = Some(trail);
    }
}

/// The client id of a group's member. Of a broadcasting group, whose members all pull every queue, nobody asks.
fn member_id(broker: &Broker, group: &str, connection_id: u64) -> Option<Arc<str>> {
    let view = broker.sessions.consumer_group(group)?;
    if view.is_broadcasting() {
        return None;
    }
    let member = view.member(connection_id)?;
    Some(Arc::clone(&member.client.id))
}

fn suspend_time(config: &BrokerConfig, asked_ms: i64) -> Duration {
    if !config.long_polling_enable {
        return config.short_polling_time;
    }
    Duration::from_millis(u64::try_from(asked_ms).unwrap_or(0)).min(SUSPEND_MAX)
}

/// What a pull is answered.
#[derive(Debug)]
struct Answer {
    code: ResponseCode,
    remark: &'static str,
    header: PullMessageResponse,
    records: Vec<bytes::Bytes>,
}

impl Answer {
    /// Nothing there yet: worth waiting for.
    fn is_nothing_yet(&self) -> bool {
        self.code == ResponseCode::PullNotFound
    }
}

fn push(answer: Answer, frame: &Frame<'_>, replies: &mut Replies) {
    let remark = Some(answer.remark);
    replies.push_with_body(frame, answer.code, remark, &answer.header, answer.records);
}

fn reply(answer: Answer, reply_to: ReplyTo) {
    reply_to.reply(
        answer.code,
        Some(answer.remark),
        &answer.header,
        answer.records,
    );
}

fn reply_now(answer: Answer, reply_to: ReplyTo) {
    reply_to.reply_now(
        answer.code,
        Some(answer.remark),
        &answer.header,
        answer.records,
    );
}

/// A reset that an operator asked for reaches the consumer with its next pull of that queue, once.
fn answer_reset(broker: &Broker, pull: &Pull) -> Option<Answer> {
    let topic = &pull.topic.topic_name;
    let offset = broker
        .offsets
        .take_reset(pull.group.name(), topic, pull.queue)?;
    Some(Answer {
        code: ResponseCode::PullOffsetMoved,
        remark: "OFFSET_RESET",
        header: PullMessageResponse {
            next_begin_offset: offset.wire(),
            min_offset: broker.store.min_offset(topic, pull.queue).wire(),
            max_offset: broker.store.max_offset(topic, pull.queue).wire(),
            ..empty_header(pull)
        },
        records: Vec::new(),
    })
}

/// What the store has for a pull; `None` when that has to be fetched from the device first.
fn read(broker: &Broker, pull: &Pull, residency: Residency) -> Option<Answer> {
    let topic = &pull.topic.topic_name;
    let request = ReadRequest {
        topic,
        queue_id: pull.queue,
        offset: pull.offset,
        messages_max: pull.messages_max,
        bytes_max: pull.bytes_max,
        residency,
    };
    let outcome = broker.store.read(&request, &*pull.filter);
    if outcome.status == ReadStatus::NotResident {
        return None;
    }
    let now_ms = broker.clock.now_ms();
    note_given(pull, &outcome, residency, now_ms);
    if outcome.records.is_empty() {
        broker.stats.missed(now_ms);
    } else {
        let tally = Tally {
            times: 1,
            messages: outcome.messages as u64,
            bytes: outcome.bytes as u64,
        };
        broker.stats.got(pull.group.name(), topic, tally, now_ms);
    }
    Some(answer_of(pull, outcome))
}

fn note_given(pull: &Pull, outcome: &ReadOutcome, residency: Residency, now_ms: i64) {
    let Some(trail) = &pull.trail else {
        return;
    };
    let went_over = matches!(
        outcome.status,
        ReadStatus::Found | ReadStatus::NoMatchedMessage | ReadStatus::OffsetOverflowOne
    );
    trail.given(&Given {
        at_ms: now_ms,
        next: went_over.then_some(outcome.next_offset),
        messages: outcome.messages as u64,
        bytes: outcome.bytes as u64,
        max: outcome.max_offset,
        cold: residency == Residency::Anywhere,
    });
}

/// The code and remark of each status; the offsets are the store's.
fn answer_of(pull: &Pull, outcome: ReadOutcome) -> Answer {
    let asked_for_first = pull.offset == 0;
    let moved_unless_first = if asked_for_first {
        ResponseCode::PullNotFound
    } else {
        ResponseCode::PullOffsetMoved
    };
    let (code, remark) = match outcome.status {
        ReadStatus::Found => (ResponseCode::Success, "FOUND"),
        ReadStatus::NoMatchedMessage => (ResponseCode::PullRetryImmediately, "NO_MATCHED_MESSAGE"),
        ReadStatus::MessageWasRemoving => {
            (ResponseCode::PullRetryImmediately, "MESSAGE_WAS_REMOVING")
        }
        ReadStatus::NoMessageInQueue => (moved_unless_first, "NO_MESSAGE_IN_QUEUE"),
        ReadStatus::OffsetFoundNull => (ResponseCode::PullNotFound, "OFFSET_FOUND_NULL"),
        ReadStatus::OffsetOverflowOne => (ResponseCode::PullNotFound, "OFFSET_OVERFLOW_ONE"),
        ReadStatus::OffsetOverflowBadly => (ResponseCode::PullOffsetMoved, "OFFSET_OVERFLOW_BADLY"),
        ReadStatus::OffsetTooSmall => (ResponseCode::PullOffsetMoved, "OFFSET_TOO_SMALL"),
        ReadStatus::NotResident | ReadStatus::Failed => {
            (ResponseCode::SystemError, "store getMessage return null")
        }
    };
    Answer {
        code,
        remark,
        header: PullMessageResponse {
            next_begin_offset: outcome.next_offset.wire(),
            min_offset: outcome.min_offset.wire(),
            max_offset: outcome.max_offset.wire(),
            ..empty_header(pull)
        },
        records: outcome.records,
    }
}

/// Consumers go on reading here: slaves do not serve reads yet, so there is no other broker to suggest.
fn empty_header(pull: &Pull) -> PullMessageResponse {
    PullMessageResponse {
        suggest_which_broker_id: 0,
        next_begin_offset: 0,
        min_offset: 0,
        max_offset: 0,
        offset_delta: None,
        topic_sys_flag: Some(pull.topic.topic_sys_flag),
        group_sys_flag: Some(pull.group.sys_flag()),
        forbidden_type: None,
    }
}

/// Reads for a consumer with a backlog: on the pool, when it is its turn.
fn read_in_turn(
    broker: &Arc<Broker>,
    pull: Pull,
    bytes: u64,
    suspend: Option<Duration>,
    reply_to: ReplyTo,
) {
    let share = broker.backlog_pace.take(
        bytes,
        broker.config.get().backlog_bytes_per_second,
        broker.clock.monotonic(),
        broker.store.log_end().number(),
    );
    if share.wait.is_zero() {
        return read_aside(broker, pull, Some(share), suspend, reply_to);
    }
    let waiting = broker.clone();
    broker.runtime.spawn(async move {
        tokio::time::sleep(share.wait).await;
        read_aside(&waiting, pull, Some(share), suspend, reply_to);
    });
}

/// Reads on the pool. When the pool is full the client is told to come back: it does so after a pause of its own.
fn read_aside(
    broker: &Arc<Broker>,
    pull: Pull,
    share: Option<backlog::Share>,
    suspend: Option<Duration>,
    reply_to: ReplyTo,
) {
    let readers = broker.clone();
    let job = move |turn| {
        if turn == Turn::Full {
            if let Some(share) = &share {
                readers.backlog_pace.settle(share, 0);
            }
            let remark = "too many pulls wait for the disk";
            return reply_to.reply(ResponseCode::SystemBusy, Some(remark), &NoHeader, []);
        }
        let Some(answer) = read(&readers, &pull, Residency::Anywhere) else {
            return;
        };
        if let Some(share) = &share {
            let bytes: usize = answer.records.iter().map(bytes::Bytes::len).sum();
            readers.backlog_pace.settle(share, bytes as u64);
        }
        match suspend {
            Some(suspend) if answer.is_nothing_yet() => {
                park(&readers, pull, reply_to, suspend, answer);
            }
            _ => reply(answer, reply_to),
        }
    };
    broker.readers.run(job);
}

/// Holds a pull that found nothing. A message that came between the read and the hold was missed by both, so the queue's
/// end is looked at once more.
fn park(broker: &Arc<Broker>, pull: Pull, reply_to: ReplyTo, suspend: Duration, answer: Answer) {
    let deadline = broker.clock.monotonic() + suspend;
    let (topic, queue, offset) = (pull.topic.clone(), pull.queue, pull.offset);
    match broker.hold.park(pull, reply_to, deadline) {
        Ok(()) => {
            let end = broker.store.max_offset(&topic.topic_name, queue);
            if end.wire() > offset {
                broker.hold.look_again(&topic.topic_name, queue, end);
                answer_ready(broker);
            }
        }
        Err((_, reply_to)) => reply(answer, reply_to),
    }
}

/// Answers pulls that messages have woken. A single one at once, here: at low rates waking the connection's task costs
/// more than the answer. Several are left to the tasks, which write together what goes to one peer.
pub(crate) fn answer_ready(broker: &Arc<Broker>) {
    let ready = broker.hold.take_ready();
    let deliver = match ready.len() {
        1 => reply_now,
        _ => reply,
    };
    for held in ready {
        answer_held(broker, held, deliver);
    }
}

/// Answers a held pull with what there is now, if anybody still listens.
fn answer_held(broker: &Arc<Broker>, held: HeldPull, deliver: fn(Answer, ReplyTo)) {
    let HeldPull { pull, reply_to, .. } = held;
    if !reply_to.connection().is_open() {
        return;
    }
    let answer = answer_reset(broker, &pull).or_else(|| read(broker, &pull, Residency::MemoryOnly));
    match answer {
        Some(answer) => deliver(answer, reply_to),
        None => read_aside(broker, pull, None, None, reply_to),
    }
}

/// Answers held pulls at their deadlines, until the broker stops.
pub(crate) async fn answer_expired(broker: Arc<Broker>) {
    let mut stopping = broker.stopping();
    loop {
        let now = broker.clock.monotonic();
        let (expired, next) = broker.hold.expired(now);
        for held in expired {
            answer_held(&broker, held, reply);
        }
        let pause = async {
            match next {
                Some(deadline) => tokio::time::sleep(deadline.saturating_sub(now)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = pause => {}
            () = broker.hold.earlier_deadline() => {}
            _ = stopping.wait_for(|stops| *stops) => return,
        }
    }
}
