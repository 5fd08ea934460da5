//! Listeners side by side: batches of any queue in any order, as many at once as the consumer allows.
//!
//! What a listener fails on is given back to the broker and comes again later; the offset moves on behind it. When even
//! that fails, the message stays here and is tried again. Apache: `ConsumeMessageConcurrentlyService`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::bodies::running_info::{CMResult, ConsumeMessageDirectlyResult};
use agena_protocol::topic;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::give_back::RetryDelay;
use crate::instance::BoxFuture;
use crate::message::{Batch, ReceivedMessage};
use crate::process_queue::ProcessQueue;
use crate::push_consumer::Consumer;
use crate::tasks::catch_panic;
use crate::trace::ListenerEnd;

/// What a listener made of its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consumed {
    /// All of it is done.
    Done,
    /// All of it has to come again.
    Again(RetryDelay),
    /// The first messages are done, the others have to come again.
    DoneUpTo {
        /// How many are done.
        done: usize,
        /// When the others come again.
        then: RetryDelay,
    },
}

impl From<()> for Consumed {
    fn from((): ()) -> Self {
        Self::Done
    }
}

/// An error makes the batch come again.
impl<E: std::fmt::Display> From<Result<(), E>> for Consumed {
    fn from(result: Result<(), E>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(error) => {
                tracing::warn!(%error, "listener failed, its batch will come again");
                Self::Again(RetryDelay::Ladder)
            }
        }
    }
}

impl Consumed {
    /// How many messages of a batch of `size` are done, and when the others come again.
    fn split(self, size: usize) -> (usize, RetryDelay) {
        match self {
            Self::Done => (size, RetryDelay::Ladder),
            Self::Again(delay) => (0, delay),
            Self::DoneUpTo { done, then } => (done.min(size), then),
        }
    }
}

pub(crate) type ConcurrentListener =
    Arc<dyn Fn(Batch) -> BoxFuture<'static, Consumed> + Send + Sync>;

/// Batches that wait for a worker. Bounded by the limits of the queues they come from.
#[derive(Debug)]
pub(crate) struct Work {
    waiting: Mutex<VecDeque<(Arc<ProcessQueue>, Batch)>>,
    available: Semaphore,
}

impl Work {
    pub(crate) fn new() -> Self {
        Self {
            waiting: Mutex::default(),
            available: Semaphore::new(0),
        }
    }

    /// Cuts what a pull brought into batches.
    pub(crate) fn submit(
        &self,
        queue: &Arc<ProcessQueue>,
        messages: &[Arc<ReceivedMessage>],
        batch_max: usize,
    ) {
        let mut waiting = self.waiting.lock();
        for part in messages.chunks(batch_max) {
            let batch = Batch {
                queue: queue.queue().clone(),
                messages: part.to_vec(),
            };
            waiting.push_back((Arc::clone(queue), batch));
            self.available.add_permits(1);
        }
    }

    async fn next(&self) -> Option<(Arc<ProcessQueue>, Batch)> {
        self.available.acquire().await.ok()?.forget();
        self.waiting.lock().pop_front()
    }
}

/// Gives batches to the listener, one after the other, until the consumer stops.
pub(crate) async fn work(consumer: Arc<Consumer>, listener: ConcurrentListener) {
    loop {
        let next = tokio::select! {
            biased;
            () = consumer.tasks.stopping() => return,
            next = consumer.work.next() => next,
        };
        let Some((queue, batch)) = next else {
            return;
        };
        if !queue.is_dropped() {
            consume(&consumer, &listener, &queue, batch).await;
        }
    }
}

async fn consume(
    consumer: &Arc<Consumer>,
    listener: &ConcurrentListener,
    queue: &Arc<ProcessQueue>,
    batch: Batch,
) {
    let _running = queue.running();
    queue.begin(&batch, consumer.instance.now_ms());
    let outcome = run_listener(consumer, listener, &batch).await;
    if queue.is_released() {
        tracing::info!(group = %consumer.group, queue = %queue.queue(), "result ignored: the queue went to another member");
        return;
    }
    let (done, delay) = outcome.split(batch.len());
    let (_, failed) = batch.messages.split_at(done);
    let stuck = if consumer.is_broadcasting() {
        for message in failed {
            tracing::warn!(group = %consumer.group, queue = %queue.queue(), offset = message.queue_offset, "message failed and is dropped, as broadcasting does");
        }
        Vec::new()
    } else {
        give_back(consumer, queue, failed, delay).await
    };
    let is_stuck = |message: &Arc<ReceivedMessage>| {
        stuck
            .iter()
            .any(|other| other.queue_offset == message.queue_offset)
    };
    let finished: Vec<_> = batch
        .messages
        .iter()
        .filter(|message| !is_stuck(message))
        .cloned()
        .collect();
    queue.finish(&finished, consumer.instance.now_ms());
    if !stuck.is_empty() {
        try_again_later(consumer, queue, stuck);
    }
}

/// Runs the listener with everything that looks on.
async fn run_listener(
    consumer: &Consumer,
    listener: &ConcurrentListener,
    batch: &Batch,
) -> Consumed {
    let observation = consumer.observe(batch);
    let began = consumer.instance.monotonic();
    let outcome = catch_panic(|| listener(batch.clone())).await;
    let took = consumer.instance.monotonic().saturating_sub(began);
    let end = match outcome {
        None => ListenerEnd::Panicked,
        Some(Consumed::Done) => ListenerEnd::Success,
        Some(_) => ListenerEnd::Failed,
    };
    if outcome.is_none() {
        tracing::error!(group = %consumer.group, queue = %batch.queue, "listener panicked, its batch will come again");
    }
    let outcome = outcome.unwrap_or(Consumed::Again(RetryDelay::Ladder));
    let (done, _) = outcome.split(batch.len());
    consumer.observed(observation, batch, done, took, end);
    outcome
}

/// Gives failed messages back to the broker; what could not be given back is returned.
async fn give_back(
    consumer: &Consumer,
    queue: &ProcessQueue,
    failed: &[Arc<ReceivedMessage>],
    delay: RetryDelay,
) -> Vec<Arc<ReceivedMessage>> {
    let mut stuck = Vec::new();
    for message in failed {
        // One that took too long was given back already.
        if !queue.holds(message.queue_offset) {
            continue;
        }
        if let Err(error) = consumer.give_back.send_back(message, delay).await {
            tracing::warn!(
                group = %consumer.group, queue = %queue.queue(), offset = message.queue_offset, %error,
                "message could not be given back, it is tried again here"
            );
            stuck.push(Arc::clone(message));
        }
    }
    stuck
}

const STUCK_PAUSE: Duration = Duration::from_secs(5);

fn try_again_later(
    consumer: &Arc<Consumer>,
    queue: &Arc<ProcessQueue>,
    stuck: Vec<Arc<ReceivedMessage>>,
) {
    let (this, queue) = (Arc::clone(consumer), Arc::clone(queue));
    consumer.tasks.spawn(async move {
        if this.tasks.sleep(STUCK_PAUSE).await {
            let again: Vec<_> = stuck.into_iter().map(failed_once_more).collect();
            this.work.submit(&queue, &again, this.settings.batch_max);
        }
    });
}

/// The same message, counting one failure more.
pub(crate) fn failed_once_more(message: Arc<ReceivedMessage>) -> Arc<ReceivedMessage> {
    let mut message = Arc::unwrap_or_clone(message);
    message.reconsume_times += 1;
    Arc::new(message)
}

/// Messages at the front of a queue that are given back together when they take too long.
const OVERDUE_MAX: usize = 16;

/// Gives messages back whose listener does not return, so that their queue can go on.
pub(crate) async fn watch_overdue(consumer: Arc<Consumer>) {
    let timeout = consumer.settings.consume_timeout;
    while consumer.tasks.sleep(timeout).await {
        let timeout_ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        let before_ms = consumer.instance.now_ms().saturating_sub(timeout_ms);
        for queue in consumer.owned_queues() {
            for message in queue.overdue(OVERDUE_MAX, before_ms) {
                tracing::warn!(
                    group = %consumer.group, queue = %queue.queue(), offset = message.queue_offset, ?timeout,
                    "listener does not return, its message will come again"
                );
                let delay = RetryDelay::Level(3);
                if consumer.give_back.send_back(&message, delay).await.is_ok() {
                    queue.finish(&[message], consumer.instance.now_ms());
                }
            }
        }
    }
}

/// One message at an operator's request: what came of it is told and has no other effect.
pub(crate) async fn consume_directly(
    consumer: &Consumer,
    listener: &ConcurrentListener,
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
        order: false,
        auto_commit: true,
        consume_result: match outcome.map(|outcome| outcome.split(1).0) {
            Some(1) => CMResult::CrSuccess,
            Some(_) => CMResult::CrLater,
            None => CMResult::CrThrowException,
        },
        remark: outcome
            .is_none()
            .then(|| "the listener panicked".to_owned()),
        spent_time_mills: i64::try_from(took.as_millis()).unwrap_or(i64::MAX),
    }
}

/// The topic that statistics of a batch count for: failures of a group's retries are its own.
pub(crate) fn stats_topic<'b>(group: &str, batch: &'b Batch) -> &'b str {
    let first = batch.messages.first();
    match first {
        Some(message) if topic::group_of_retry(&batch.queue.topic) == Some(group) => &message.topic,
        _ => &batch.queue.topic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_says_how_much_is_done() {
        assert_eq!(Consumed::Done.split(3), (3, RetryDelay::Ladder));
        let again = Consumed::Again(RetryDelay::Level(2));
        assert_eq!(again.split(3), (0, RetryDelay::Level(2)));
        let partly = |done| Consumed::DoneUpTo {
            done,
            then: RetryDelay::DeadLetter,
        };
        assert_eq!(partly(1).split(3), (1, RetryDelay::DeadLetter));
        assert_eq!(partly(9).split(3), (3, RetryDelay::DeadLetter));
        assert_eq!(Consumed::from(Ok::<(), String>(())), Consumed::Done);
        assert_eq!(
            Consumed::from(Err::<(), _>("no")),
            Consumed::Again(RetryDelay::Ladder)
        );
    }

    #[tokio::test]
    async fn what_a_pull_brought_is_cut_into_batches() {
        let work = Work::new();
        let name = agena_protocol::queue::MessageQueue::new("T", "b", 0);
        let queue = Arc::new(ProcessQueue::new(name, 0));
        let messages: Vec<_> = (0..5)
            .map(|offset| Arc::new(ReceivedMessage::for_test("T", offset, "x")))
            .collect();
        work.submit(&queue, &messages, 2);
        let mut sizes = Vec::new();
        for _ in 0..3 {
            sizes.push(work.next().await.unwrap().1.len());
        }
        assert_eq!(sizes, [2, 2, 1]);
    }
}
