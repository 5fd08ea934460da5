//! Listeners one after the other in each queue: a message is not given out before the one in front of it is done.
//!
//! Across members that holds because no listener begins and no offset is saved but under the broker's lock, and a queue is
//! unlocked only when its listener has returned; here because one task serves each queue. What a listener fails on is tried
//! again in place after a pause, and everything behind it waits. What we cannot see to is a listener that runs on for
//! longer than a lease after its lock could not be renewed: another member may begin at its message then.
//! Apache: `ConsumeMessageOrderlyService`, `RebalanceImpl.lock`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agena_protocol::bodies::queue_locks::{
    LockBatchRequestBody, LockBatchResponseBody, UnlockBatchRequestBody,
};
use agena_protocol::bodies::running_info::{CMResult, ConsumeMessageDirectlyResult};
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::queue::MessageQueue;
use agena_protocol::request_code::RequestCode;

use crate::consume_concurrently::failed_once_more;
use crate::error::ClientError;
use crate::instance::{BoxFuture, Instance, parse_body};
use crate::message::{Batch, ReceivedMessage};
use crate::process_queue::ProcessQueue;
use crate::push_consumer::Consumer;
use crate::tasks::catch_panic;
use crate::trace::ListenerEnd;

/// What a listener made of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumedInOrder {
    /// All of it is done.
    Done,
    /// All of it is to be tried again, before anything that stands behind it: in its queue, or among those of its key if
    /// the consumer goes by keys.
    SuspendQueue {
        /// The pause before that, 10 ms to 30 s. Default: the consumer's
        /// [`suspend`](crate::ConsumerSettings::suspend).
        pause: Option<Duration>,
    },
}

impl From<()> for ConsumedInOrder {
    fn from((): ()) -> Self {
        Self::Done
    }
}

/// An error suspends the queue.
impl<E: std::fmt::Display> From<Result<(), E>> for ConsumedInOrder {
    fn from(result: Result<(), E>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(error) => {
                tracing::warn!(%error, "listener failed, its queue is suspended for a moment");
                Self::SuspendQueue { pause: None }
            }
        }
    }
}

pub(crate) type OrderlyListener =
    Arc<dyn Fn(Batch) -> BoxFuture<'static, ConsumedInOrder> + Send + Sync>;

const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Serves one queue until it is given up or the consumer stops.
pub(crate) async fn serve(
    consumer: Arc<Consumer>,
    queue: Arc<ProcessQueue>,
    listener: OrderlyListener,
) {
    while !queue.is_dropped() && !consumer.tasks.is_stopping() {
        let may_consume = queue.may_consume.notified();
        if !consumer.may_consume_in_order(&queue) {
            tokio::select! {
                () = consumer.tasks.stopping() => return,
                () = queue.until_dropped() => return,
                () = may_consume => {}
            }
            continue;
        }
        let Ok(turn) = consumer.listeners.acquire().await else {
            return;
        };
        let Some(running) = consumer.begin_in_order(&queue) else {
            continue;
        };
        let messages = queue.take(consumer.settings.batch_max, consumer.instance.now_ms());
        if messages.is_empty() {
            drop((running, turn));
            tokio::select! {
                () = consumer.tasks.stopping() => return,
                () = queue.until_dropped() => return,
                () = may_consume => {}
            }
            continue;
        }
        let pause = consume(&consumer, &listener, &queue, messages).await;
        drop((running, turn));
        if let Some(pause) = pause {
            tokio::select! {
                () = consumer.tasks.stopping() => return,
                () = queue.until_dropped() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// Gives one batch to the listener. Returns the pause to make if it failed.
async fn consume(
    consumer: &Consumer,
    listener: &OrderlyListener,
    queue: &ProcessQueue,
    messages: Vec<Arc<ReceivedMessage>>,
) -> Option<Duration> {
    let batch = Batch {
        queue: queue.queue().clone(),
        messages,
    };
    let outcome = run_listener(consumer, listener, &batch).await;
    match outcome {
        ConsumedInOrder::Done => {
            queue.commit_taken();
            None
        }
        ConsumedInOrder::SuspendQueue { .. } => {
            let again = without_dead_letters(consumer, batch.messages).await;
            if again.is_empty() {
                queue.commit_taken();
                return None;
            }
            queue.put_back(again);
            Some(pause_of(consumer, outcome))
        }
    }
}

/// The pause before what failed is tried again.
pub(crate) fn pause_of(consumer: &Consumer, outcome: ConsumedInOrder) -> Duration {
    let pause = match outcome {
        ConsumedInOrder::Done => Some(Duration::ZERO),
        ConsumedInOrder::SuspendQueue { pause } => pause,
    };
    pause
        .unwrap_or(consumer.settings.suspend)
        .clamp(PAUSE_MIN, PAUSE_MAX)
}

pub(crate) async fn run_listener(
    consumer: &Consumer,
    listener: &OrderlyListener,
    batch: &Batch,
) -> ConsumedInOrder {
    let observation = consumer.observe(batch);
    let began = consumer.instance.monotonic();
    let outcome = catch_panic(|| listener(batch.clone())).await;
    let took = consumer.instance.monotonic().saturating_sub(began);
    let (end, done) = match outcome {
        None => (ListenerEnd::Panicked, 0),
        Some(ConsumedInOrder::Done) => (ListenerEnd::Success, batch.len()),
        Some(ConsumedInOrder::SuspendQueue { .. }) => (ListenerEnd::Failed, 0),
    };
    consumer.observed(observation, batch, done, took, end);
    outcome.unwrap_or_else(|| {
        tracing::error!(group = %consumer.group, queue = %batch.queue, "listener panicked, its queue is suspended for a moment");
        ConsumedInOrder::SuspendQueue { pause: None }
    })
}

/// The messages that are to be tried again. Those that failed too often are sent to the broker, which makes them dead
/// letters; if that fails they are tried again like the others.
pub(crate) async fn without_dead_letters(
    consumer: &Consumer,
    failed: Vec<Arc<ReceivedMessage>>,
) -> Vec<Arc<ReceivedMessage>> {
    let max = consumer.settings.max_reconsume_times;
    let mut again = Vec::with_capacity(failed.len());
    for message in failed {
        let is_dead = max.is_some_and(|max| {
            i64::from(message.reconsume_times) >= i64::from(max) && !consumer.is_broadcasting()
        });
        if is_dead {
            match consumer.give_back.send_copy(&message).await {
                Ok(()) => continue,
                Err(error) => tracing::warn!(
                    group = %consumer.group, queue = %message.queue, offset = message.queue_offset, %error,
                    "message could not be made a dead letter, it is tried again"
                ),
            }
        }
        again.push(failed_once_more(message));
    }
    again
}

/// Locks are renewed so often; the broker forgets them after 60 s.
const LOCK_INTERVAL: Duration = Duration::from_secs(20);

/// The next renewal when a broker could not be asked: what we hold of it would run out before the usual one.
const LOCK_AGAIN: Duration = Duration::from_secs(1);

/// Renews the locks of all queues until the consumer stops.
pub(crate) async fn keep_locks(consumer: Arc<Consumer>) {
    let mut next_round = Instant::now() + LOCK_INTERVAL;
    // Brokers that could not be asked.
    let mut away: BTreeSet<String> = BTreeSet::new();
    loop {
        let until_round = next_round.saturating_duration_since(Instant::now());
        let wait = if away.is_empty() {
            until_round
        } else {
            until_round.min(LOCK_AGAIN)
        };
        if !consumer.tasks.sleep(wait).await {
            return;
        }
        let mut queues = consumer.queues_to_keep_locked();
        if Instant::now() < next_round {
            queues.retain(|queue| away.contains(&queue.queue().broker_name));
        } else {
            next_round = Instant::now() + LOCK_INTERVAL;
        }
        away = renew(&consumer, &queues).await;
    }
}

/// Renews locks, and names the brokers that could not be asked.
async fn renew(consumer: &Arc<Consumer>, queues: &[Arc<ProcessQueue>]) -> BTreeSet<String> {
    let mut away = BTreeSet::new();
    let names = queues.iter().map(|queue| queue.queue().clone()).collect();
    for answer in lock(&consumer.instance, &consumer.group, names).await {
        let asked = |queue: &&Arc<ProcessQueue>| queue.queue().broker_name == answer.broker;
        match &answer.granted {
            Ok(granted) => {
                for queue in queues.iter().filter(asked) {
                    let is_granted = granted.contains(queue.queue());
                    renewed(consumer, queue, is_granted, answer.asked_at);
                }
            }
            Err(error) => {
                // The leases run on; nothing is consumed beyond them.
                tracing::warn!(group = %consumer.group, broker = answer.broker, %error, "locks not renewed");
                away.insert(answer.broker);
            }
        }
    }
    away
}

/// A broker answered whether one of our queues is still locked for us.
fn renewed(consumer: &Arc<Consumer>, queue: &Arc<ProcessQueue>, granted: bool, asked_at: Duration) {
    let now = consumer.instance.monotonic();
    if granted && queue.was_locked_throughout(now) {
        queue.locked(asked_at, consumer.instance.now_ms());
        return;
    }
    // Somebody else has or had it and may have consumed: begin anew at what is committed.
    tracing::warn!(group = %consumer.group, queue = %queue.queue(), "lock lost");
    queue.lock_lost();
    if !queue.is_dropped() {
        consumer.give_up(Arc::clone(queue));
    }
}

/// What a broker said to a request for locks.
#[derive(Debug)]
pub(crate) struct LockAnswer {
    broker: String,
    /// When, on the monotonic clock. Leases count from here: the broker's begin later than ours, and so end later.
    pub(crate) asked_at: Duration,
    /// Of the queues that were asked for, those that are ours now; the others are another client's.
    pub(crate) granted: Result<Vec<MessageQueue>, ClientError>,
}

/// Asks each broker for the locks of its queues.
pub(crate) async fn lock(
    instance: &Instance,
    group: &str,
    queues: Vec<MessageQueue>,
) -> Vec<LockAnswer> {
    let mut answers = Vec::new();
    for (broker, queues) in by_broker(queues) {
        let body = LockBatchRequestBody {
            client_id: instance.client_id().to_owned(),
            consumer_group: group.to_owned(),
            mq_set: queues,
            only_this_broker: false,
        };
        let asked_at = instance.monotonic();
        let granted = async {
            let code = RequestCode::LockBatchMq;
            let address = instance.routes().master(&broker)?;
            let body = fastjson::to_vec(&body, KeyStyle::Quoted);
            let request = Command::request(code).with_body(body);
            let answer = instance.call(&address, request, LOCK_TIMEOUT).await?;
            let answer = Instance::success(&address, code, answer)?;
            let body: LockBatchResponseBody = parse_body(&address, code, &answer)?;
            Ok(body.lock_ok_mq_set)
        };
        let granted = granted.await;
        answers.push(LockAnswer {
            broker,
            asked_at,
            granted,
        });
    }
    answers
}

const LOCK_TIMEOUT: Duration = Duration::from_secs(1);

/// Lets others have the queues at once. If a broker cannot be told, its locks end with their leases.
pub(crate) async fn unlock(instance: &Instance, group: &str, queues: Vec<MessageQueue>) {
    for (broker, queues) in by_broker(queues) {
        let body = UnlockBatchRequestBody {
            client_id: instance.client_id().to_owned(),
            consumer_group: group.to_owned(),
            mq_set: queues,
            only_this_broker: false,
        };
        let told = async {
            let code = RequestCode::UnlockBatchMq;
            let address = instance.routes().master(&broker)?;
            let body = fastjson::to_vec(&body, KeyStyle::Quoted);
            let request = Command::request(code).with_body(body);
            let answer = instance.call(&address, request, LOCK_TIMEOUT).await?;
            Instance::success(&address, code, answer)
        };
        if let Err(error) = told.await {
            tracing::warn!(group, broker, %error, "queues not unlocked");
        }
    }
}

fn by_broker(queues: Vec<MessageQueue>) -> BTreeMap<String, Vec<MessageQueue>> {
    let mut by_broker: BTreeMap<String, Vec<MessageQueue>> = BTreeMap::new();
    for queue in queues {
        by_broker
            .entry(queue.broker_name.clone())
            .or_default()
            .push(queue);
    }
    by_broker
}

/// One message at an operator's request: what came of it is told and has no other effect.
pub(crate) async fn consume_directly(
    consumer: &Consumer,
    listener: &OrderlyListener,
    message: ReceivedMessage,
) -> ConsumeMessageDirectlyResult {
    let batch = Batch {
        queue: message.queue.clone(),
        messages: vec![Arc::new(message)],
    };
    let began = consumer.instance.monotonic();
    let outcome = catch_panic(|| listener(batch)).await;
    let took = consumer.instance.monotonic().saturating_sub(began);
    ConsumeMessageDirectlyResult {
        order: true,
        auto_commit: true,
        consume_result: match outcome {
            Some(ConsumedInOrder::Done) => CMResult::CrSuccess,
            Some(ConsumedInOrder::SuspendQueue { .. }) => CMResult::CrLater,
            None => CMResult::CrThrowException,
        },
        remark: outcome
            .is_none()
            .then(|| "the listener panicked".to_owned()),
        spent_time_mills: i64::try_from(took.as_millis()).unwrap_or(i64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_locked_broker_by_broker() {
        let queue = |broker, id| MessageQueue::new("T", broker, id);
        let sorted = by_broker(vec![queue("b", 0), queue("a", 1), queue("b", 2)]);
        assert_eq!(sorted["a"], [queue("a", 1)]);
        assert_eq!(sorted["b"], [queue("b", 0), queue("b", 2)]);
    }

    #[test]
    fn an_error_suspends_the_queue() {
        assert_eq!(ConsumedInOrder::from(()), ConsumedInOrder::Done);
        assert_eq!(
            ConsumedInOrder::from(Err::<(), _>("no")),
            ConsumedInOrder::SuspendQueue { pause: None }
        );
    }
}
