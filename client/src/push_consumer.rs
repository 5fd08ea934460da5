//! Consuming with a listener: the client pulls ahead and calls the application, message by message or in batches.

mod pulling;
mod queues;
mod status;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agena_protocol::group::CLIENT_INNER_PRODUCER;
use agena_protocol::queue::MessageQueue;
use agena_protocol::topic;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::allocate::{Allocate, Averagely};
use crate::config::ClientConfig;
use crate::consume_by_key::KeyOf;
use crate::consume_concurrently::{self, ConcurrentListener, Consumed, Work, stats_topic};
use crate::consume_orderly::{self, ConsumedInOrder, OrderlyListener};
use crate::consumer_stats::ConsumerStats;
use crate::error::ClientError;
use crate::give_back::GiveBack;
use crate::instance::{ConsumerMember, Instance};
use crate::interceptor::ConsumeInterceptor;
use crate::message::{Batch, ReceivedMessage};
use crate::offset_store::{BroadcastOffsets, ConsumeFrom, MemoryOffsets, OffsetHome};
use crate::process_queue::{ProcessQueue, QueueLimits};
use crate::rebalance::Rebalance;
use crate::send::{SendSettings, Sender};
use crate::subscription::{Filter, Subscriptions, check_consumer_group};
use crate::tasks::Tasks;
use crate::trace::{Consumption, ListenerEnd, Tracer};

/// How a consumer works. The defaults are RocketMQ's.
#[derive(Debug, Clone)]
pub struct ConsumerSettings {
    /// Where a group begins that has no offset yet.
    pub consume_from: ConsumeFrom,
    /// Listeners that run at the same time. Default: 20.
    pub concurrency: usize,
    /// Messages that a listener gets at once. Default: 1.
    pub batch_max: usize,
    /// Messages that one pull asks for; brokers give at most 32. Default: 32.
    pub pull_batch: u16,
    /// Bytes that one pull asks for. Default: 256 KiB.
    pub pull_bytes: u32,
    /// How long a broker may hold a pull that finds nothing. Default: 15 s.
    pub hold: Duration,
    /// How much of each queue may be held here.
    pub limits: QueueLimits,
    /// Failures after which a message becomes a dead letter. Default: 16; in order: never, it is tried until it succeeds.
    pub max_reconsume_times: Option<u16>,
    /// How long a queue is suspended when its listener fails, in order only. Default: 1 s.
    pub suspend: Duration,
    /// A listener that has not returned for so long does not hold its queue up any longer: its message will come again. In
    /// order that goes for queues that are given up; what is ours waits for its listener, whatever it takes. Default: 15 min.
    pub consume_timeout: Duration,
    /// How often offsets are saved. Default: 5 s.
    pub save_interval: Duration,
    /// A queue that was not asked for so long, beyond [`ConsumerSettings::hold`], although nothing here keeps it from being
    /// pulled, is given up and taken anew; that is logged as an error and counted
    /// ([`PushConsumer::restarted_queues`]). A pull that is lost on its way is repeated after `hold` + 15 s in any case.
    /// `None`: no watch is kept. Default: 2 min.
    pub watchdog: Option<Duration>,
    /// How long `shutdown` waits for listeners. Default: 10 s.
    pub shutdown_grace: Duration,
}

impl Default for ConsumerSettings {
    fn default() -> Self {
        Self {
            consume_from: ConsumeFrom::default(),
            concurrency: 20,
            batch_max: 1,
            pull_batch: 32,
            pull_bytes: 256 << 10,
            hold: Duration::from_secs(15),
            limits: QueueLimits::default(),
            max_reconsume_times: None,
            suspend: Duration::from_secs(1),
            consume_timeout: Duration::from_secs(15 * 60),
            save_interval: Duration::from_secs(5),
            watchdog: Some(Duration::from_secs(120)),
            shutdown_grace: Duration::from_secs(10),
        }
    }
}

impl ConsumerSettings {
    fn check(&self) -> Result<(), ClientError> {
        let zero = [
            ("concurrency", self.concurrency == 0),
            ("batch_max", self.batch_max == 0),
            ("pull_batch", self.pull_batch == 0),
            ("pull_bytes", self.pull_bytes == 0),
            ("consume_timeout", self.consume_timeout.is_zero()),
            ("save_interval", self.save_interval.is_zero()),
            ("watchdog", self.watchdog == Some(Duration::ZERO)),
        ];
        match zero.into_iter().find(|(_, is_zero)| *is_zero) {
            Some((setting, _)) => Err(ClientError::Config {
                setting,
                reason: "zero".to_owned(),
            }),
            None => Ok(()),
        }
    }
}

/// Consumes the messages of a group's topics with a listener.
///
/// The members of a group share its queues; a message that a listener fails on comes again, to whichever member has the
/// queue then. It may come more than once in any case: after a crash, and when queues change hands.
///
/// ```no_run
/// use agena_client::{Batch, PushConsumer};
///
/// # async fn example() -> Result<(), agena_client::ClientError> {
/// let consumer = PushConsumer::builder("billing")
///     .name_servers("127.0.0.1:9876")
///     .subscribe("orders", "paid || cancelled")
///     .start(|batch: Batch| async move {
///         for message in &batch {
///             let text = String::from_utf8_lossy(&message.body).into_owned();
///             store(text).await.map_err(|error| error.to_string())?;
///         }
///         Ok::<(), String>(())
///     })
///     .await?;
/// // ...
/// consumer.shutdown().await;
/// # Ok(())
/// # }
/// # async fn store(_: String) -> Result<(), std::io::Error> { Ok(()) }
/// ```
///
/// Dropping a consumer without [`PushConsumer::shutdown`] ends it where it stands: what was consumed since the last save
/// will come again.
#[derive(Debug)]
pub struct PushConsumer {
    consumer: Arc<Consumer>,
    owns_instance: bool,
}

/// Settings of a [`PushConsumer`] before it starts.
#[derive(Debug, Clone)]
#[must_use = "nothing happens before `start`"]
pub struct PushConsumerBuilder {
    group: String,
    config: ClientConfig,
    instance: Option<Arc<Instance>>,
    settings: ConsumerSettings,
    subscriptions: Vec<(String, Filter)>,
    strategy: Arc<dyn Allocate>,
    broadcast: Option<Arc<dyn BroadcastOffsets>>,
    interceptors: Vec<Arc<dyn ConsumeInterceptor>>,
    trace: bool,
}

/// The listener of a consumer.
#[derive(Clone)]
enum Listener {
    Concurrent(ConcurrentListener),
    Orderly(OrderlyListener),
    ByKey(OrderlyListener, KeyOf),
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Concurrent(_) => "Concurrent",
            Self::Orderly(_) => "Orderly",
            Self::ByKey(..) => "ByKey",
        })
    }
}

impl PushConsumerBuilder {
    fn new(group: &str) -> Self {
        Self {
            group: group.to_owned(),
            config: ClientConfig::from_env(),
            instance: None,
            settings: ConsumerSettings::default(),
            subscriptions: Vec::new(),
            strategy: Arc::new(Averagely),
            broadcast: None,
            interceptors: Vec::new(),
            trace: false,
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

    /// Uses the connections and the client id of an instance that exists, which outlives this consumer. Two consumers
    /// of one group need two instances.
    pub fn instance(mut self, instance: &Arc<Instance>) -> Self {
        self.instance = Some(Arc::clone(instance));
        self
    }

    /// Everything about consuming.
    pub fn settings(mut self, settings: ConsumerSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Wants messages of a topic: those with one of the tags in `TagA || TagB`, all with `*`, or by a [`Filter`]. All
    /// members of a group must want the same.
    pub fn subscribe(mut self, topic: &str, filter: impl Into<Filter>) -> Self {
        self.subscriptions.push((topic.to_owned(), filter.into()));
        self
    }

    /// Where to begin if the group has no offset yet.
    pub fn consume_from(mut self, from: ConsumeFrom) -> Self {
        self.settings.consume_from = from;
        self
    }

    /// Listeners that run at the same time. Default: 20.
    pub fn concurrency(mut self, listeners: usize) -> Self {
        self.settings.concurrency = listeners;
        self
    }

    /// Messages that a listener gets at once. Default: 1.
    pub fn batch_max(mut self, messages: usize) -> Self {
        self.settings.batch_max = messages;
        self
    }

    /// Failures after which a message becomes a dead letter.
    pub fn max_reconsume_times(mut self, times: u16) -> Self {
        self.settings.max_reconsume_times = Some(times);
        self
    }

    /// How the members share the queues. All must use the same. Default: [`Averagely`].
    pub fn allocate(mut self, strategy: Arc<dyn Allocate>) -> Self {
        self.strategy = strategy;
        self
    }

    /// Every member gets every message. Its offsets are its own affair and are forgotten at the end, unless
    /// [`PushConsumerBuilder::broadcast_offsets`] says otherwise; what a listener fails on does not come again.
    pub fn broadcasting(self) -> Self {
        self.broadcast_offsets(Arc::new(MemoryOffsets::default()))
    }

    /// As [`PushConsumerBuilder::broadcasting`], with offsets kept in a store, such as
    /// [`FileOffsets`](crate::FileOffsets).
    pub fn broadcast_offsets(mut self, store: Arc<dyn BroadcastOffsets>) -> Self {
        self.broadcast = Some(store);
        self
    }

    /// Sees every batch before and after it is consumed. May be given several times.
    pub fn interceptor(mut self, interceptor: Arc<dyn ConsumeInterceptor>) -> Self {
        self.interceptors.push(interceptor);
        self
    }

    /// Writes message traces in RocketMQ's format to `RMQ_SYS_TRACE_TOPIC`. Default: no.
    pub fn trace(mut self, trace: bool) -> Self {
        self.trace = trace;
        self
    }

    /// Starts consuming, batches side by side and in any order. The listener may answer nothing, a `Result`, or
    /// [`Consumed`]; what panics counts as failed.
    ///
    /// Returns when the brokers know the consumer and the first queues are taken, or at least tried.
    ///
    /// # Errors
    /// [`ClientError::Config`], [`ClientError::GroupTaken`], and what a broker says against the subscription.
    pub async fn start<F, R, C>(self, listener: F) -> Result<PushConsumer, ClientError>
    where
        F: Fn(Batch) -> R + Send + Sync + 'static,
        R: Future<Output = C> + Send + 'static,
        C: Into<Consumed>,
    {
        let listener = Arc::new(listener);
        self.start_with(Listener::Concurrent(Arc::new(move |batch| {
            let listener = Arc::clone(&listener);
            // The listener is called inside of the future, so that its panic is caught like any other.
            Box::pin(async move { listener(batch).await.into() })
        })))
        .await
    }

    /// Starts consuming each queue in order: what a listener fails on is tried again before anything behind it. The
    /// listener may answer nothing, a `Result`, or [`ConsumedInOrder`]; what panics counts as failed.
    ///
    /// # Errors
    /// As [`PushConsumerBuilder::start`].
    pub async fn start_orderly<F, R, C>(self, listener: F) -> Result<PushConsumer, ClientError>
    where
        F: Fn(Batch) -> R + Send + Sync + 'static,
        R: Future<Output = C> + Send + 'static,
        C: Into<ConsumedInOrder>,
    {
        let listener = Arc::new(listener);
        self.start_with(Listener::Orderly(Arc::new(move |batch| {
            let listener = Arc::clone(&listener);
            Box::pin(async move { listener(batch).await.into() })
        })))
        .await
    }

    /// Starts consuming in order for each key, different keys of a queue side by side, as many as
    /// [`ConsumerSettings::concurrency`] allows. `key` tells the key of a message, for instance its
    /// [sharding key](ReceivedMessage::sharding_key); messages without one are kept in order among themselves. Messages of
    /// one key have to be in one queue, as they are when the producer chooses queues by the key.
    ///
    /// What a listener fails on holds up its key only. The queue is committed up to the first message that is not done:
    /// what other keys did behind it comes again after a crash or a change of owner, and they run ahead no further than
    /// [`QueueLimits`] allow.
    ///
    /// ```no_run
    /// # use agena_client::{Batch, PushConsumer, ReceivedMessage};
    /// # async fn example() -> Result<(), agena_client::ClientError> {
    /// let key = |message: &ReceivedMessage| message.sharding_key().map(str::to_owned);
    /// let consumer = PushConsumer::builder("ledger")
    ///     .subscribe("sales", "*")
    ///     .max_reconsume_times(16)
    ///     .start_by_key(key, |batch: Batch| async move { assert!(!batch.is_empty()) })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`PushConsumerBuilder::start`].
    pub async fn start_by_key<K, F, R, C>(
        self,
        key: K,
        listener: F,
    ) -> Result<PushConsumer, ClientError>
    where
        K: Fn(&ReceivedMessage) -> Option<String> + Send + Sync + 'static,
        F: Fn(Batch) -> R + Send + Sync + 'static,
        R: Future<Output = C> + Send + 'static,
        C: Into<ConsumedInOrder>,
    {
        let listener = Arc::new(listener);
        let listener: OrderlyListener = Arc::new(move |batch| {
            let listener = Arc::clone(&listener);
            Box::pin(async move { listener(batch).await.into() })
        });
        self.start_with(Listener::ByKey(listener, Arc::new(key)))
            .await
    }

    async fn start_with(self, listener: Listener) -> Result<PushConsumer, ClientError> {
        check_consumer_group(&self.group)?;
        self.settings.check()?;
        let owns_instance = self.instance.is_none();
        let instance = match &self.instance {
            Some(instance) => Arc::clone(instance),
            None => Instance::start(self.config.clone())?,
        };
        let consumer = Arc::new(self.build(Arc::clone(&instance), listener)?);
        let member: Arc<dyn ConsumerMember> = Arc::clone(&consumer) as _;
        instance.add_consumer(&consumer.group, Arc::downgrade(&member))?;
        let started = PushConsumer {
            consumer,
            owns_instance,
        };
        started.consumer.start().await?;
        Ok(started)
    }

    fn build(self, instance: Arc<Instance>, listener: Listener) -> Result<Consumer, ClientError> {
        let group = self.group;
        let broadcasting = self.broadcast.is_some();
        let subscriptions = Subscriptions::default();
        let version = instance.now_ms();
        for (topic, filter) in &self.subscriptions {
            subscriptions.put(filter.subscription(topic, version)?);
        }
        if !broadcasting {
            let retry = topic::retry_of(&group);
            subscriptions.put(Filter::All.subscription(&retry, version)?);
        }
        let home = match self.broadcast {
            Some(store) => OffsetHome::Local(store),
            None => OffsetHome::Brokers {
                instance: Arc::clone(&instance),
                group: group.clone(),
            },
        };
        let sender = Sender::new(
            Arc::clone(&instance),
            CLIENT_INNER_PRODUCER,
            SendSettings::default(),
        );
        let max_times = self.settings.max_reconsume_times.map_or(16, i32::from);
        Ok(Consumer {
            rebalance: Rebalance::new(Arc::clone(&instance), &group, broadcasting, self.strategy),
            give_back: GiveBack::new(sender, &group, max_times),
            tracer: self.trace.then(|| Tracer::new(&instance, &group)),
            listeners: Semaphore::new(self.settings.concurrency.min(Semaphore::MAX_PERMITS)),
            started_ms: version,
            restarted: AtomicU64::new(0),
            owned: Mutex::default(),
            work: Work::new(),
            paused: watch::Sender::new(false),
            stats: ConsumerStats::default(),
            interceptors: self.interceptors,
            settings: self.settings,
            tasks: Tasks::new(),
            subscriptions,
            home,
            listener,
            group,
            instance,
        })
    }
}

impl PushConsumer {
    /// A consumer of `group` with default settings.
    pub fn builder(group: &str) -> PushConsumerBuilder {
        PushConsumerBuilder::new(group)
    }

    /// The instance it consumes through.
    #[must_use]
    pub fn instance(&self) -> &Arc<Instance> {
        &self.consumer.instance
    }

    /// Queues that this member has now, retries of the group among them.
    #[must_use]
    pub fn queues(&self) -> Vec<MessageQueue> {
        let queues = self.consumer.owned_queues();
        queues.iter().map(|queue| queue.queue().clone()).collect()
    }

    /// How often the watchdog took a queue anew that had come to a halt, see [`ConsumerSettings::watchdog`].
    #[must_use]
    pub fn restarted_queues(&self) -> u64 {
        self.consumer.restarted.load(Ordering::Relaxed)
    }

    /// Wants messages of one more topic, or others of one it has.
    ///
    /// # Errors
    /// [`ClientError::Config`].
    pub async fn subscribe(
        &self,
        topic: &str,
        filter: impl Into<Filter>,
    ) -> Result<(), ClientError> {
        let consumer = &self.consumer;
        let version = consumer.instance.now_ms();
        let data = filter.into().subscription(topic, version)?;
        consumer.subscriptions.put(data);
        consumer
            .subscriptions
            .check_with_brokers(&consumer.instance, &consumer.group)
            .await?;
        consumer.instance.heartbeat().await;
        consumer.rebalance.soon();
        Ok(())
    }

    /// Wants nothing more of a topic.
    pub async fn unsubscribe(&self, topic: &str) {
        self.consumer.subscriptions.remove(topic);
        for queue in self.consumer.owned_queues() {
            if queue.queue().topic == topic {
                self.consumer.give_up(queue);
            }
        }
        self.consumer.instance.heartbeat().await;
    }

    /// Pulls no more until [`PushConsumer::resume`]. What was pulled before is still consumed.
    pub fn suspend(&self) {
        self.consumer.paused.send_replace(true);
    }

    /// Goes on after [`PushConsumer::suspend`].
    pub fn resume(&self) {
        self.consumer.paused.send_replace(false);
        self.consumer.rebalance.soon();
    }

    /// Ends in order: pulls no more, waits for running listeners (see [`ConsumerSettings::shutdown_grace`]), saves the
    /// offsets, unlocks, and tells the brokers, so that other members can go on at once.
    pub async fn shutdown(self) {
        let consumer = &self.consumer;
        if !consumer.tasks.stop(consumer.settings.shutdown_grace).await {
            tracing::warn!(group = %consumer.group, "listeners were still running at the end and were cut off");
        }
        consumer.leave().await;
        if let Some(tracer) = &consumer.tracer {
            tracer.stop().await;
        }
        consumer.instance.remove_consumer(&consumer.group).await;
        if self.owns_instance {
            consumer.instance.shutdown().await;
        }
    }
}

impl Drop for PushConsumer {
    fn drop(&mut self) {
        let consumer = &self.consumer;
        if consumer.tasks.is_stopping() {
            return;
        }
        consumer.tasks.abort();
        if let Some(tracer) = &consumer.tracer {
            tracer.abort();
        }
        consumer.instance.forget_consumer(&consumer.group);
    }
}

/// A running consumer, as its tasks share it.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) instance: Arc<Instance>,
    pub(crate) group: String,
    pub(crate) settings: ConsumerSettings,
    pub(crate) give_back: GiveBack,
    pub(crate) tasks: Tasks,
    /// Batches for concurrent listeners.
    pub(crate) work: Work,
    /// Turns of orderly listeners.
    pub(crate) listeners: Semaphore,
    subscriptions: Subscriptions,
    rebalance: Rebalance,
    home: OffsetHome,
    listener: Listener,
    /// Queues taken and not yet let go of, those that are being given up included.
    owned: Mutex<BTreeMap<MessageQueue, Arc<ProcessQueue>>>,
    paused: watch::Sender<bool>,
    stats: ConsumerStats,
    interceptors: Vec<Arc<dyn ConsumeInterceptor>>,
    tracer: Option<Tracer>,
    started_ms: i64,
    /// Queues that the watchdog took anew.
    restarted: AtomicU64,
}

impl Consumer {
    async fn start(self: &Arc<Self>) -> Result<(), ClientError> {
        self.subscriptions
            .check_with_brokers(&self.instance, &self.group)
            .await?;
        // Brokers are known by the routes of the topics: these first, then the heartbeat, then our share.
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
        self.tasks.spawn(queues::keep_saving(Arc::clone(self)));
        if let Some(patience) = self.settings.watchdog {
            self.tasks.spawn(pulling::watch(Arc::clone(self), patience));
        }
        match &self.listener {
            Listener::Concurrent(listener) => {
                for _ in 0..self.settings.concurrency {
                    let listener = Arc::clone(listener);
                    self.tasks
                        .spawn(consume_concurrently::work(Arc::clone(self), listener));
                }
                self.tasks
                    .spawn(consume_concurrently::watch_overdue(Arc::clone(self)));
            }
            Listener::Orderly(_) | Listener::ByKey(..) if !self.is_broadcasting() => {
                self.tasks
                    .spawn(consume_orderly::keep_locks(Arc::clone(self)));
            }
            Listener::Orderly(_) | Listener::ByKey(..) => {}
        }
        tracing::info!(group = %self.group, client = self.instance.client_id(), "consumer started");
        Ok(())
    }

    pub(crate) fn is_broadcasting(&self) -> bool {
        matches!(self.home, OffsetHome::Local(_))
    }

    fn is_orderly(&self) -> bool {
        matches!(self.listener, Listener::Orderly(_) | Listener::ByKey(..))
    }

    /// Messages are done in the order of their queue, so that nothing runs ahead.
    fn is_in_queue_order(&self) -> bool {
        matches!(self.listener, Listener::Orderly(_))
    }

    /// Queues are read by one member at a time and in order, so the broker's lock is needed.
    fn needs_locks(&self) -> bool {
        self.is_orderly() && !self.is_broadcasting()
    }

    pub(crate) fn may_consume_in_order(&self, queue: &ProcessQueue) -> bool {
        !self.needs_locks() || queue.holds_lock(self.instance.monotonic())
    }

    /// Interceptors and the trace look at a batch before its listener runs.
    pub(crate) fn observe(&self, batch: &Batch) -> Option<Consumption> {
        for interceptor in &self.interceptors {
            interceptor.before(&self.group, batch);
        }
        let tracer = self.tracer.as_ref()?;
        Some(tracer.consuming(&self.group, batch))
    }

    /// They and the statistics look at what became of it.
    pub(crate) fn observed(
        &self,
        observation: Option<Consumption>,
        batch: &Batch,
        done: usize,
        took: Duration,
        end: ListenerEnd,
    ) {
        for interceptor in &self.interceptors {
            interceptor.after(&self.group, batch, end == ListenerEnd::Success);
        }
        if let (Some(tracer), Some(before)) = (&self.tracer, observation) {
            tracer.consumed(&self.group, batch, &before, end);
        }
        let topic = stats_topic(&self.group, batch);
        let now = self.instance.monotonic();
        self.stats
            .consumed(topic, now, done, batch.len() - done, took);
    }
}
