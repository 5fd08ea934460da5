//! Consuming at the application's own pace: it assigns queues, polls, seeks and commits.
//!
//! Queues are read ahead in the background, one outstanding pull each; a seek discards what was read ahead.
//! Apache: `DefaultLitePullConsumer`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::bodies::heartbeat::{
    ConsumeFromWhere, ConsumeType, ConsumerData, MessageModel,
};
use agena_protocol::bodies::running_info::{
    ConsumerRunningInfo, PROP_CLIENT_VERSION, PROP_CONSUME_TYPE, PROP_CONSUMER_START_TIMESTAMP,
    ProcessQueueInfo,
};
use agena_protocol::bodies::subscription::SubscriptionData;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::queue::{MessageQueue, QueueMap};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::allocate::{Allocate, Averagely};
use crate::config::ClientConfig;
use crate::error::ClientError;
use crate::instance::{BoxFuture, ConsumerMember, Instance};
use crate::message::ReceivedMessage;
use crate::offset_store::{self, ConsumeFrom, OffsetHome};
use crate::process_queue::QueueLimits;
use crate::pull::{Pull, PullSettings, Pulled, ReadFrom};
use crate::rebalance::{QueueOwner, Rebalance, Share};
use crate::subscription::{Filter, Subscriptions, check_consumer_group};
use crate::tasks::Tasks;

/// Reads queues at the application's pace.
///
/// ```no_run
/// use agena_client::PullConsumer;
/// use std::time::Duration;
///
/// # async fn example() -> Result<(), agena_client::ClientError> {
/// let consumer = PullConsumer::builder("auditors").name_servers("127.0.0.1:9876").start().await?;
/// let queues = consumer.queues_of("orders").await?;
/// consumer.assign(queues.clone()).await;
/// consumer.seek_to_begin(&queues[0]).await?;
/// for message in consumer.poll(Duration::from_secs(5)).await? {
///     assert_eq!(message.topic, "orders");
/// }
/// consumer.commit().await?;
/// consumer.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct PullConsumer {
    reader: Arc<Reader>,
    owns_instance: bool,
}

/// Settings of a [`PullConsumer`] before it starts.
#[derive(Debug, Clone)]
#[must_use = "nothing happens before `start`"]
pub struct PullConsumerBuilder {
    group: String,
    config: ClientConfig,
    instance: Option<Arc<Instance>>,
    subscriptions: Vec<(String, Filter)>,
    settings: ReaderSettings,
    strategy: Arc<dyn Allocate>,
}

#[derive(Debug, Clone)]
struct ReaderSettings {
    consume_from: ConsumeFrom,
    poll_max: usize,
    limits: QueueLimits,
    /// `None`: only [`PullConsumer::commit`] commits.
    auto_commit: Option<Duration>,
}

/// How long brokers may hold a pull, and how long an answer is waited for.
const HOLD: Duration = Duration::from_secs(20);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

const FAILURE_PAUSE_MIN: Duration = Duration::from_millis(50);
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(1);

impl PullConsumerBuilder {
    fn new(group: &str) -> Self {
        Self {
            group: group.to_owned(),
            config: ClientConfig::from_env(),
            instance: None,
            subscriptions: Vec::new(),
            settings: ReaderSettings {
                consume_from: ConsumeFrom::default(),
                poll_max: 32,
                limits: QueueLimits::default(),
                auto_commit: Some(Duration::from_secs(5)),
            },
            strategy: Arc::new(Averagely),
        }
    }

    /// Where the name servers are, `host:port;host:port`. Default: the environment's `NAMESRV_ADDR`, else
    /// `127.0.0.1:9876`.
    pub fn name_servers(mut self, addresses: &str) -> Self {
        self.config.name_servers = crate::config::parse_addresses(addresses);
        self
    }

    /// Everything about connections.
    pub fn config(mut self, config: ClientConfig) -> Self {
        self.config = config;
        self
    }

    /// Uses the connections and the client id of an instance that exists, which outlives this consumer.
    pub fn instance(mut self, instance: &Arc<Instance>) -> Self {
        self.instance = Some(Arc::clone(instance));
        self
    }

    /// Shares the queues of a topic with the other members of the group, instead of [`PullConsumer::assign`].
    pub fn subscribe(mut self, topic: &str, filter: impl Into<Filter>) -> Self {
        self.subscriptions.push((topic.to_owned(), filter.into()));
        self
    }

    /// How the members share the queues. All must use the same. Default: [`Averagely`].
    pub fn allocate(mut self, strategy: Arc<dyn Allocate>) -> Self {
        self.strategy = strategy;
        self
    }

    /// Where to begin a queue for which the group has no offset.
    pub fn consume_from(mut self, from: ConsumeFrom) -> Self {
        self.settings.consume_from = from;
        self
    }

    /// Messages that one poll gives. Default: 32.
    pub fn poll_max(mut self, messages: usize) -> Self {
        self.settings.poll_max = messages.max(1);
        self
    }

    /// How much of each queue may be read ahead.
    pub fn limits(mut self, limits: QueueLimits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// How often what was polled is committed, at a poll; `None` leaves it to [`PullConsumer::commit`]. Default: 5 s.
    pub fn auto_commit(mut self, interval: Option<Duration>) -> Self {
        self.settings.auto_commit = interval;
        self
    }

    /// Starts the consumer. It reads nothing before queues are assigned, unless it subscribed to topics.
    ///
    /// # Errors
    /// [`ClientError::Config`], [`ClientError::GroupTaken`], and what a broker says against the subscription.
    pub async fn start(self) -> Result<PullConsumer, ClientError> {
        check_consumer_group(&self.group)?;
        let owns_instance = self.instance.is_none();
        let instance = match self.instance {
            Some(instance) => instance,
            None => Instance::start(self.config)?,
        };
        let subscriptions = Subscriptions::default();
        let now_ms = instance.now_ms();
        for (topic, filter) in &self.subscriptions {
            subscriptions.put(filter.subscription(topic, now_ms)?);
        }
        let reader = Arc::new(Reader {
            home: OffsetHome::Brokers {
                instance: Arc::clone(&instance),
                group: self.group.clone(),
            },
            rebalance: Rebalance::new(Arc::clone(&instance), &self.group, false, self.strategy),
            shares_queues: !self.subscriptions.is_empty(),
            queues: Mutex::default(),
            next_queue: Mutex::new(0),
            arrived: Notify::new(),
            last_commit: Mutex::new(Instant::now()),
            tasks: Tasks::new(),
            started_ms: now_ms,
            settings: self.settings,
            group: self.group,
            subscriptions,
            instance,
        });
        let member: Arc<dyn ConsumerMember> = Arc::clone(&reader) as _;
        let weak = Arc::downgrade(&member);
        reader.instance.add_consumer(&reader.group, weak)?;
        let started = PullConsumer {
            reader,
            owns_instance,
        };
        started.reader.start().await?;
        Ok(started)
    }
}

impl PullConsumer {
    /// A consumer of `group` with default settings.
    pub fn builder(group: &str) -> PullConsumerBuilder {
        PullConsumerBuilder::new(group)
    }

    /// The instance it reads through.
    #[must_use]
    pub fn instance(&self) -> &Arc<Instance> {
        &self.reader.instance
    }

    /// All readable queues of a topic.
    ///
    /// # Errors
    /// [`ClientError::NoRoute`], [`ClientError::NoNameServer`].
    pub async fn queues_of(&self, topic: &str) -> Result<Vec<MessageQueue>, ClientError> {
        let route = self.reader.instance.route(topic).await?;
        Ok(route.subscribe_queues().to_vec())
    }

    /// Reads exactly these queues from now on. Those that were assigned before keep their positions; a new one begins at
    /// its committed offset, else as [`PullConsumerBuilder::consume_from`] says.
    ///
    /// A consumer that subscribed gets its queues by sharing; an assignment of such a one lasts until the next sharing.
    pub async fn assign(&self, queues: impl IntoIterator<Item = MessageQueue>) {
        let reader = &self.reader;
        let wanted: BTreeSet<_> = queues.into_iter().collect();
        let mut topic_added = false;
        for queue in &wanted {
            if reader.subscriptions.get(&queue.topic).is_none() {
                // All of it; the names were checked by whoever made the queue.
                if let Ok(all) = Filter::All.subscription(&queue.topic, reader.instance.now_ms()) {
                    reader.subscriptions.put(all);
                    topic_added = true;
                }
                // The brokers' addresses come with the route.
                let _ = reader.instance.route(&queue.topic).await;
            }
        }
        if topic_added {
            reader.instance.heartbeat().await;
        }
        reader.read_exactly(&wanted, |_| true);
    }

    /// Queues that are read now.
    #[must_use]
    pub fn assignment(&self) -> Vec<MessageQueue> {
        self.reader.queues.lock().keys().cloned().collect()
    }

    /// Messages in the order of each queue, waiting up to `timeout` for the first. Empty if none came.
    ///
    /// What a poll gave counts as consumed: it is committed by the next [`PullConsumer::commit`] or automatic commit.
    ///
    /// # Errors
    /// [`ClientError::Stopped`]; those of an automatic commit are only logged.
    pub async fn poll(&self, timeout: Duration) -> Result<Vec<Arc<ReceivedMessage>>, ClientError> {
        let reader = &self.reader;
        if reader.tasks.is_stopping() {
            return Err(ClientError::Stopped);
        }
        reader.commit_if_due().await;
        let deadline = Instant::now() + timeout;
        loop {
            let arrived = reader.arrived.notified();
            let messages = reader.take(reader.settings.poll_max);
            if !messages.is_empty() {
                return Ok(messages);
            }
            if tokio::time::timeout_at(deadline, arrived).await.is_err() {
                return Ok(Vec::new());
            }
        }
    }

    /// Goes on with `queue` at `offset`.
    ///
    /// # Errors
    /// [`ClientError::NotAssigned`]; [`ClientError::OffsetOutOfRange`]; those of asking the broker for the range.
    pub async fn seek(&self, queue: &MessageQueue, offset: i64) -> Result<(), ClientError> {
        let (min, max) = (self.min_offset(queue).await?, self.max_offset(queue).await?);
        if !(min..=max).contains(&offset) {
            return Err(ClientError::OffsetOutOfRange {
                queue: queue.to_string(),
                offset,
                min,
                max,
            });
        }
        self.reader.assigned(queue)?.seek(offset);
        Ok(())
    }

    /// Goes on with the oldest message of `queue` that is still there.
    ///
    /// # Errors
    /// As [`PullConsumer::seek`].
    pub async fn seek_to_begin(&self, queue: &MessageQueue) -> Result<(), ClientError> {
        let min = self.min_offset(queue).await?;
        self.reader.assigned(queue)?.seek(min);
        Ok(())
    }

    /// Goes on behind what `queue` holds now.
    ///
    /// # Errors
    /// As [`PullConsumer::seek`].
    pub async fn seek_to_end(&self, queue: &MessageQueue) -> Result<(), ClientError> {
        let max = self.max_offset(queue).await?;
        self.reader.assigned(queue)?.seek(max);
        Ok(())
    }

    /// Reads no more of these queues until [`PullConsumer::resume`]; what was read ahead is not polled either.
    pub fn pause(&self, queues: &[MessageQueue]) {
        self.set_paused(queues, true);
    }

    /// Goes on after [`PullConsumer::pause`].
    pub fn resume(&self, queues: &[MessageQueue]) {
        self.set_paused(queues, false);
        self.reader.arrived.notify_one();
    }

    fn set_paused(&self, queues: &[MessageQueue], paused: bool) {
        for queue in queues {
            if let Ok(assigned) = self.reader.assigned(queue) {
                assigned.state.send_modify(|state| state.paused = paused);
            }
        }
    }

    /// The offset of the next message that a poll gives from `queue`; `None` while it is not known yet.
    ///
    /// # Errors
    /// [`ClientError::NotAssigned`].
    pub fn position(&self, queue: &MessageQueue) -> Result<Option<i64>, ClientError> {
        let assigned = self.reader.assigned(queue)?;
        let position = assigned.state.borrow().position;
        Ok(position)
    }

    /// Commits what was polled, of all queues.
    ///
    /// # Errors
    /// Those of the brokers; of several the last one. The other queues are committed nevertheless.
    pub async fn commit(&self) -> Result<(), ClientError> {
        self.reader.commit().await
    }

    /// Commits any offset of any queue.
    ///
    /// # Errors
    /// Those of the broker.
    pub async fn commit_to(&self, queue: &MessageQueue, offset: i64) -> Result<(), ClientError> {
        let reader = &self.reader;
        offset_store::commit(&reader.instance, &reader.group, queue, offset).await
    }

    /// The offset that is committed for `queue`.
    ///
    /// # Errors
    /// Those of the broker.
    pub async fn committed(&self, queue: &MessageQueue) -> Result<Option<i64>, ClientError> {
        let reader = &self.reader;
        offset_store::committed(&reader.instance, &reader.group, queue).await
    }

    /// The offset of the oldest message that is still there.
    ///
    /// # Errors
    /// Those of the broker.
    pub async fn min_offset(&self, queue: &MessageQueue) -> Result<i64, ClientError> {
        offset_store::min_offset(&self.reader.instance, queue).await
    }

    /// The offset of the next message to be written.
    ///
    /// # Errors
    /// Those of the broker.
    pub async fn max_offset(&self, queue: &MessageQueue) -> Result<i64, ClientError> {
        offset_store::max_offset(&self.reader.instance, queue).await
    }

    /// The offset of the first message stored at or after this time, in ms since 1970-01-01 UTC.
    ///
    /// # Errors
    /// Those of the broker.
    pub async fn offset_by_time(
        &self,
        queue: &MessageQueue,
        at_ms: i64,
    ) -> Result<i64, ClientError> {
        offset_store::offset_by_time(&self.reader.instance, queue, at_ms).await
    }

    /// Ends in order: reads no more, commits what was polled if commits are automatic, and tells the brokers.
    pub async fn shutdown(self) {
        let reader = &self.reader;
        reader.tasks.stop(Duration::from_secs(3)).await;
        if reader.settings.auto_commit.is_some()
            && let Err(error) = reader.commit().await
        {
            tracing::warn!(group = %reader.group, %error, "not all offsets were committed at the end");
        }
        reader.instance.remove_consumer(&reader.group).await;
        if self.owns_instance {
            reader.instance.shutdown().await;
        }
    }
}

impl Drop for PullConsumer {
    fn drop(&mut self) {
        let reader = &self.reader;
        if reader.tasks.is_stopping() {
            return;
        }
        reader.tasks.abort();
        reader.instance.forget_consumer(&reader.group);
    }
}

/// A running pull consumer, as its tasks share it.
#[derive(Debug)]
struct Reader {
    instance: Arc<Instance>,
    group: String,
    settings: ReaderSettings,
    subscriptions: Subscriptions,
    home: OffsetHome,
    rebalance: Rebalance,
    shares_queues: bool,
    queues: Mutex<BTreeMap<MessageQueue, Arc<Assigned>>>,
    /// Where the next poll begins to look, so that no queue starves another.
    next_queue: Mutex<usize>,
    arrived: Notify,
    last_commit: Mutex<Instant>,
    tasks: Tasks,
    started_ms: i64,
}

/// A queue that is read. Its state is watched by its reading task and changed by polls and seeks.
#[derive(Debug)]
struct Assigned {
    queue: MessageQueue,
    state: watch::Sender<Reading>,
}

#[derive(Debug, Default)]
struct Reading {
    /// Read ahead, not yet polled.
    ahead: VecDeque<Arc<ReceivedMessage>>,
    ahead_bytes: usize,
    /// What the next poll gives; unknown until it was asked for.
    position: Option<i64>,
    /// What the next pull asks for.
    next_pull: Option<i64>,
    /// Counts the seeks: a pull that began before one must not be used after it.
    seeks: u64,
    committed: Option<i64>,
    paused: bool,
    dropped: bool,
}

impl Reading {
    fn has_room(&self, limits: &QueueLimits) -> bool {
        self.ahead.len() < limits.messages && self.ahead_bytes < limits.bytes
    }
}

impl Assigned {
    fn seek(&self, offset: i64) {
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
    async fn start(self: &Arc<Self>) -> Result<(), ClientError> {
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
        self.rebalance.round(&Arc::clone(self)).await;
        let this = Arc::clone(self);
        self.tasks
            .spawn(async move { this.rebalance.run(&this.tasks, &this).await });
        Ok(())
    }

    fn assigned(&self, queue: &MessageQueue) -> Result<Arc<Assigned>, ClientError> {
        let queues = self.queues.lock();
        queues
            .get(queue)
            .cloned()
            .ok_or_else(|| ClientError::NotAssigned {
                queue: queue.to_string(),
            })
    }

    /// Of the queues that `concerns` selects, reads these and no others. Gives back those it let go of.
    fn read_exactly(
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

    fn take(&self, count: usize) -> Vec<Arc<ReceivedMessage>> {
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

    async fn commit_if_due(&self) {
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

    async fn commit(&self) -> Result<(), ClientError> {
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
    let subscription: SubscriptionData = reader
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

impl ConsumerMember for Reader {
    fn heartbeat(&self) -> ConsumerData {
        ConsumerData {
            group_name: self.group.clone(),
            consume_type: ConsumeType::ConsumeActively,
            message_model: MessageModel::Clustering,
            consume_from_where: ConsumeFromWhere::ConsumeFromLastOffset,
            subscription_data_set: self.subscriptions.all(),
            unit_mode: false,
        }
    }

    fn topics(&self) -> Vec<String> {
        self.subscriptions.topics()
    }

    fn rebalance_soon(&self) {
        self.rebalance.soon();
    }

    fn reset_offsets(
        self: Arc<Self>,
        topic: String,
        offsets: QueueMap<i64>,
    ) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let of_topic = offsets.iter().filter(|(queue, _)| queue.topic == topic);
            for (queue, offset) in of_topic {
                if let Ok(assigned) = self.assigned(queue) {
                    assigned.seek(*offset);
                }
            }
        })
    }

    fn offsets_of(&self, topic: &str) -> QueueMap<i64> {
        let queues = self.queues.lock();
        queues
            .iter()
            .filter(|(queue, _)| queue.topic == topic)
            .filter_map(|(queue, assigned)| {
                let position = assigned.state.borrow().position?;
                Some((queue.clone(), position))
            })
            .collect()
    }

    fn running_info(&self) -> Vec<u8> {
        let queues = self.queues.lock();
        let info = ConsumerRunningInfo {
            properties: [
                (
                    PROP_CONSUME_TYPE,
                    ConsumeType::ConsumeActively.name().to_owned(),
                ),
                (PROP_CLIENT_VERSION, "V5_3_3".to_owned()),
                (PROP_CONSUMER_START_TIMESTAMP, self.started_ms.to_string()),
                ("consumerGroup", self.group.clone()),
            ]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
            subscription_set: self.subscriptions.all(),
            mq_table: queues
                .iter()
                .map(|(queue, assigned)| {
                    let state = assigned.state.borrow();
                    let info = ProcessQueueInfo {
                        commit_offset: state.committed.unwrap_or(0),
                        cached_msg_count: i32::try_from(state.ahead.len()).unwrap_or(i32::MAX),
                        ..ProcessQueueInfo::default()
                    };
                    (queue.clone(), info)
                })
                .collect(),
            ..ConsumerRunningInfo::default()
        };
        fastjson::to_vec(&info, KeyStyle::Bare)
    }

    fn consume_directly(
        self: Arc<Self>,
        _message: ReceivedMessage,
    ) -> BoxFuture<'static, Option<Vec<u8>>> {
        Box::pin(std::future::ready(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned() -> Assigned {
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
