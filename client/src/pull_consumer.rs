//! Consuming at the application's own pace: it assigns queues, polls, seeks and commits.
//!
//! Queues are read ahead in the background, one outstanding pull each; a seek discards what was read ahead.
//! Apache: `DefaultLitePullConsumer`.

mod reader;
mod status;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::queue::MessageQueue;
use tokio::time::Instant;

use self::reader::{Reader, ReaderSettings};
use crate::allocate::{Allocate, Averagely};
use crate::config::ClientConfig;
use crate::error::ClientError;
use crate::instance::{ConsumerMember, Instance};
use crate::message::ReceivedMessage;
use crate::offset_store::{self, ConsumeFrom};
use crate::process_queue::QueueLimits;
use crate::subscription::{Filter, Subscriptions, check_consumer_group};

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
        let reader = Arc::new(Reader::new(
            instance,
            &self.group,
            self.settings,
            subscriptions,
            self.strategy,
        ));
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
