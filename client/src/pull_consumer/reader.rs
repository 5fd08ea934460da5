//! What a pull consumer reads ahead: a task for each queue, and the place up to which the application has polled it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::queue::{MessageQueue, QueueMap};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::allocate::Allocate;
use crate::error::ClientError;
use crate::instance::Instance;
use crate::message::ReceivedMessage;
use crate::offset_store::{self, ConsumeFrom, OffsetHome};
use crate::process_queue::QueueLimits;
use crate::pull::{Pull, PullSettings, Pulled, ReadFrom};
use crate::rebalance::{QueueOwner, Rebalance, Share};
use crate::subscription::Subscriptions;
use crate::tasks::Tasks;

/// How a pull consumer reads.
#[derive(Debug, Clone)]
pub(super) struct ReaderSettings {
    pub(super) consume_from: ConsumeFrom,
    pub(super) poll_max: usize,
    pub(super) limits: QueueLimits,
    /// `None`: only [`PullConsumer::commit`] commits.
    pub(super) auto_commit: Option<Duration>,
}

/// How long brokers may hold a pull, and how long an answer is waited for.
const HOLD: Duration = Duration::from_secs(20);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

const FAILURE_PAUSE_MIN: Duration = Duration::from_millis(50);
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A running pull consumer, as its tasks share it.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) instance: Arc<Instance>,
    pub(super) group: String,
    pub(super) settings: ReaderSettings,
    pub(super) subscriptions: Subscriptions,
    pub(super) rebalance: Rebalance,
    home: OffsetHome,
    /// It subscribed, so its queues come from sharing.
    shares_queues: bool,
    pub(super) queues: Mutex<BTreeMap<MessageQueue, Arc<Assigned>>>,
    /// Where the next poll begins to look, so that no queue starves another.
    next_queue: Mutex<usize>,
    pub(super) arrived: Notify,
    last_commit: Mutex<Instant>,
    pub(super) tasks: Tasks,
    pub(super) started_ms: i64,
}

/// A queue that is read. Its state is watched by its reading task and changed by polls and seeks.
#[derive(Debug)]
pub(super) struct Assigned {
    queue: MessageQueue,
    pub(super) state: watch::Sender<Reading>,
}

/// How far a queue was read and polled.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Read ahead, not yet polled.
    pub(super) ahead: VecDeque<Arc<ReceivedMessage>>,
    ahead_bytes: usize,
    /// What the next poll gives; unknown until it was asked for.
    pub(super) position: Option<i64>,
    /// What the next pull asks for.
    next_pull: Option<i64>,
    /// Counts the seeks: a pull that began before one must not be used after it.
    seeks: u64,
    pub(super) committed: Option<i64>,
    pub(super) paused: bool,
    dropped: bool,
}

impl Reading {
    fn has_room(&self, limits: &QueueLimits) -> bool {
        self.ahead.len() < limits.messages && self.ahead_bytes < limits.bytes
    }
}

impl Assigned {
    /// Goes on at `offset`; what was read ahead and what a pull is about to bring is not given.
    pub(super) fn seek(&self, offset: i64) {
        self.state.send_modify(|state| {
            state.ahead.clear();
            state.ahead_bytes = 0;
            state.position = Some(offset);
            state.next_pull = Some(offset);
            state.seeks += 1;
        });
    }
}

impl Reader {
    pub(super) fn new(
        instance: Arc<Instance>,
        group: &str,
        settings: ReaderSettings,
        subscriptions: Subscriptions,
        strategy: Arc<dyn Allocate>,
    ) -> Self {
        Self {
            home: OffsetHome::Brokers {
                instance: Arc::clone(&instance),
                group: group.to_owned(),
            },
            rebalance: Rebalance::new(Arc::clone(&instance), group, false, strategy),
            shares_queues: !subscriptions.topics().is_empty(),
            queues: Mutex::default(),
            next_queue: Mutex::new(0),
            arrived: Notify::new(),
            last_commit: Mutex::new(Instant::now()),
            tasks: Tasks::new(),
            started_ms: instance.now_ms(),
            group: group.to_owned(),
            settings,
            subscriptions,
            instance,
        }
    }

    pub(super) async fn start(self: &Arc<Self>) -> Result<(), ClientError> {
        if !self.shares_queues {
            return Ok(());
        }
        self.subscriptions
            .check_with_brokers(&self.instance, &self.group)
            .await?;
        for topic in self.subscriptions.topics() {
            match self.instance.route(&topic).await {
                Ok(_) | Err(ClientError::NoRoute { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.instance.heartbeat().await;
        let topics = self.subscriptions.topics();
        self.rebalance.settle(&Arc::clone(self), topics).await;
        let this = Arc::clone(self);
        self.tasks
            .spawn(async move { this.rebalance.run(&this.tasks, &this).await });
        Ok(())
    }

    pub(super) fn assigned(&self, queue: &MessageQueue) -> Result<Arc<Assigned>, ClientError> {
        let queues = self.queues.lock();
        queues
            .get(queue)
            .cloned()
            .ok_or_else(|| ClientError::NotAssigned {
                queue: queue.to_string(),
            })
    }

    /// Of the queues that `concerns` selects, reads these and no others. Gives back those it let go of.
    pub(super) fn read_exactly(
        self: &Arc<Self>,
        wanted: &BTreeSet<MessageQueue>,
        concerns: impl Fn(&MessageQueue) -> bool,
    ) -> Vec<Arc<Assigned>> {
        let mut queues = self.queues.lock();
        let mut let_go = Vec::new();
        queues.retain(|name, assigned| {
            let keep = !concerns(name) || wanted.contains(name);
            if !keep {
                assigned.state.send_modify(|state| state.dropped = true);
                let_go.push(Arc::clone(assigned));
            }
            keep
        });
        for name in wanted {
            if !queues.contains_key(name) {
                let assigned = Arc::new(Assigned {
                    queue: name.clone(),
                    state: watch::Sender::default(),
                });
                queues.insert(name.clone(), Arc::clone(&assigned));
                self.tasks.spawn(read_ahead(Arc::clone(self), assigned));
            }
        }
        let_go
    }

    pub(super) fn take(&self, count: usize) -> Vec<Arc<ReceivedMessage>> {
        let queues: Vec<_> = self.queues.lock().values().cloned().collect();
        if queues.is_empty() {
            return Vec::new();
        }
        let mut next_queue = self.next_queue.lock();
        let start = *next_queue % queues.len();
        *next_queue = start + 1;
        drop(next_queue);
        let mut taken = Vec::new();
        for assigned in queues[start..].iter().chain(&queues[..start]) {
            if taken.len() >= count {
                break;
            }
            assigned.state.send_if_modified(|state| {
                if state.paused || state.ahead.is_empty() {
                    return false;
                }
                while taken.len() < count {
                    let Some(message) = state.ahead.pop_front() else {
                        break;
                    };
                    state.ahead_bytes = state.ahead_bytes.saturating_sub(message.body.len());
                    state.position = Some(message.queue_offset + 1);
                    taken.push(message);
                }
                if state.ahead.is_empty() {
                    // What the pull passed over behind the last message is done as well.
                    state.position = state.position.max(state.next_pull);
                }
                true
            });
        }
        taken
    }

    pub(super) async fn commit_if_due(&self) {
        let Some(interval) = self.settings.auto_commit else {
            return;
        };
        {
            let mut last = self.last_commit.lock();
            if last.elapsed() < interval {
                return;
            }
            *last = Instant::now();
        }
        if let Err(error) = self.commit().await {
            tracing::warn!(group = %self.group, %error, "offsets not committed");
        }
    }

    pub(super) async fn commit(&self) -> Result<(), ClientError> {
        let queues: Vec<_> = self.queues.lock().values().cloned().collect();
        self.commit_positions(&queues).await
    }

    async fn commit_positions(&self, queues: &[Arc<Assigned>]) -> Result<(), ClientError> {
        let mut outcome = Ok(());
        for assigned in queues {
            let unsaved = {
                let state = assigned.state.borrow();
                state.position.filter(|_| state.position != state.committed)
            };
            let Some(offset) = unsaved else {
                continue;
            };
            let offsets = QueueMap::from([(assigned.queue.clone(), offset)]);
            match self.home.write(&offsets).await {
                Ok(()) => assigned
                    .state
                    .send_modify(|state| state.committed = Some(offset)),
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }
}

impl QueueOwner for Arc<Reader> {
    fn topics(&self) -> Vec<String> {
        self.subscriptions.topics()
    }

    async fn settle(&self, topic: &str, share: Share) -> bool {
        let wanted: BTreeSet<_> = share.queues.into_iter().collect();
        let let_go = self.read_exactly(&wanted, |name| name.topic == topic);
        if self.settings.auto_commit.is_some()
            && let Err(error) = self.commit_positions(&let_go).await
        {
            tracing::warn!(group = %self.group, topic, %error, "offsets of queues that were given up are not committed");
        }
        true
    }
}

/// Reads one queue ahead until it is no longer assigned.
async fn read_ahead(reader: Arc<Reader>, assigned: Arc<Assigned>) {
    let read_from = ReadFrom::default();
    let mut state = assigned.state.subscribe();
    let mut pause = FAILURE_PAUSE_MIN;
    loop {
        let limits = reader.settings.limits;
        let may_read =
            |state: &Reading| state.dropped || (!state.paused && state.has_room(&limits));
        let (seeks, from) = tokio::select! {
            () = reader.tasks.stopping() => return,
            ready = state.wait_for(may_read) => match ready {
                Ok(state) if state.dropped => return,
                Ok(state) => (state.seeks, state.next_pull),
                Err(_) => return,
            },
        };
        let sought = |state: &Reading| state.dropped || state.seeks != seeks;
        let outcome = tokio::select! {
            () = reader.tasks.stopping() => return,
            _ = state.wait_for(sought) => continue,
            outcome = step(&reader, &assigned, &read_from, seeks, from) => outcome,
        };
        match outcome {
            Ok(()) => pause = FAILURE_PAUSE_MIN,
            Err(error) => {
                tracing::warn!(group = %reader.group, queue = %assigned.queue, %error, "pull failed");
                if !reader.tasks.sleep(pause).await {
                    return;
                }
                pause = (pause * 2).min(FAILURE_PAUSE_MAX);
            }
        }
    }
}

/// Finds out where to begin, or pulls once.
async fn step(
    reader: &Reader,
    assigned: &Assigned,
    read_from: &ReadFrom,
    seeks: u64,
    from: Option<i64>,
) -> Result<(), ClientError> {
    let queue = &assigned.queue;
    let Some(offset) = from else {
        let consume_from = reader.settings.consume_from;
        let start =
            offset_store::start_offset(&reader.instance, &reader.home, queue, consume_from).await?;
        advance(reader, assigned, seeks, Vec::new(), start);
        return Ok(());
    };
    let subscription = reader
        .subscriptions
        .get(&queue.topic)
        .ok_or(ClientError::Stopped)?;
    let pull = Pull {
        group: &reader.group,
        queue,
        subscription: &subscription,
        offset,
        commit: None,
        with_subscription: true,
        settings: PullSettings {
            messages_max: 32,
            bytes_max: i32::MAX,
            hold: HOLD,
            timeout: ANSWER_TIMEOUT,
        },
    };
    match pull.ask(&reader.instance, read_from).await? {
        Pulled::Found { messages, next } => advance(reader, assigned, seeks, messages, next),
        Pulled::Nothing { next } | Pulled::OffsetMoved { next } => {
            advance(reader, assigned, seeks, Vec::new(), next);
        }
    }
    Ok(())
}

fn advance(
    reader: &Reader,
    assigned: &Assigned,
    seeks: u64,
    messages: Vec<Arc<ReceivedMessage>>,
    next: i64,
) {
    let found = !messages.is_empty();
    assigned.state.send_modify(|state| {
        if state.seeks != seeks {
            return;
        }
        state.ahead_bytes += messages
            .iter()
            .map(|message| message.body.len())
            .sum::<usize>();
        state.ahead.extend(messages);
        state.next_pull = Some(next);
        if state.ahead.is_empty() {
            state.position = Some(next);
        }
    });
    if found {
        reader.arrived.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pull_consumer::PullConsumer;

    pub(super) fn assigned() -> Assigned {
        Assigned {
            queue: MessageQueue::new("T", "b", 0),
            state: watch::Sender::default(),
        }
    }

    async fn reader() -> PullConsumer {
        PullConsumer::builder("g")
            .name_servers("127.0.0.1:9")
            .poll_max(2)
            .start()
            .await
            .unwrap()
    }

    fn messages(offsets: std::ops::Range<i64>) -> Vec<Arc<ReceivedMessage>> {
        offsets
            .map(|offset| Arc::new(ReceivedMessage::for_test("T", offset, "x")))
            .collect()
    }

    #[tokio::test]
    async fn the_position_follows_the_polls_and_not_the_reading() {
        let consumer = reader().await;
        let reader = &consumer.reader;
        let queue = Arc::new(assigned());
        reader
            .queues
            .lock()
            .insert(queue.queue.clone(), Arc::clone(&queue));
        advance(reader, &queue, 0, messages(5..8), 10);
        assert_eq!(consumer.position(&queue.queue).unwrap(), None);
        assert_eq!(consumer.poll(Duration::ZERO).await.unwrap().len(), 2);
        assert_eq!(consumer.position(&queue.queue).unwrap(), Some(7));
        assert_eq!(consumer.poll(Duration::ZERO).await.unwrap().len(), 1);
        // Offsets 8 and 9 were none of ours.
        assert_eq!(consumer.position(&queue.queue).unwrap(), Some(10));
        assert_eq!(consumer.poll(Duration::ZERO).await.unwrap(), []);
    }

    #[tokio::test]
    async fn what_was_pulled_before_a_seek_is_not_given_after_it() {
        let consumer = reader().await;
        let queue = assigned();
        advance(&consumer.reader, &queue, 0, messages(0..2), 2);
        queue.seek(100);
        assert!(queue.state.borrow().ahead.is_empty());
        advance(&consumer.reader, &queue, 0, messages(2..4), 4);
        let state = queue.state.borrow();
        assert!(state.ahead.is_empty());
        assert_eq!((state.position, state.next_pull), (Some(100), Some(100)));
    }

    #[tokio::test]
    async fn a_queue_that_is_not_assigned_has_no_position() {
        let consumer = reader().await;
        let error = consumer.position(&MessageQueue::new("T", "b", 9));
        assert!(matches!(error, Err(ClientError::NotAssigned { .. })));
    }
}
