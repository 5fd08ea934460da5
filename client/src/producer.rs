//! Sending messages: one at a time, together, without waiting, or to a queue of choice.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use agena_protocol::command::Command;
use agena_protocol::group;
use agena_protocol::headers::send::{RecallMessageRequest, RecallMessageResponse};
use agena_protocol::queue::MessageQueue;
use agena_protocol::request_code::RequestCode;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use crate::attempts::RetryOn;
use crate::choose_queue::SelectQueue;
use crate::config::ClientConfig;
use crate::delivery::{Deliverer, Delivery, FaultCounts, FaultPolicy};
use crate::error::ClientError;
use crate::instance::{Instance, ProducerMember, TransactionCheck, bad_answer};
use crate::interceptor::SendInterceptor;
use crate::message::{Message, SendResult};
use crate::producer_id::ProducerId;
use crate::send::{Prepared, SendSettings, Sender};
use crate::spool::{Spool, SpoolSettings, SpoolStatus};
use crate::tasks::Tasks;
use crate::trace::{Publication, Tracer};
use crate::transaction_producer::{TransactionListener, TransactionProducer, Transactions};

/// Sends messages for one producer group. Usable from any number of tasks at once.
///
/// ```no_run
/// use agena_client::{Message, Producer};
///
/// # async fn example() -> Result<(), agena_client::ClientError> {
/// let producer = Producer::builder("order-service")
///     .name_servers("127.0.0.1:9876")
///     .start()
///     .await?;
/// let result = producer.send(Message::new("orders", "3 pencils")).await?;
/// assert!(result.queue_offset >= 0);
/// producer.shutdown().await;
/// # Ok(())
/// # }
/// ```
///
/// Dropping a producer without [`Producer::shutdown`] ends its background sends where they are.
#[derive(Debug)]
pub struct Producer {
    shared: Arc<Shared>,
    owns_instance: bool,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) sender: Arc<Sender>,
    deliverer: Deliverer,
    in_flight: Arc<Semaphore>,
    in_flight_max: usize,
    interceptors: Vec<Arc<dyn SendInterceptor>>,
    tracer: Option<Tracer>,
    transactions: Option<Transactions>,
    /// Those given at the start: their routes are looked up whether anything is sent or not.
    topics: Vec<String>,
    /// Set by `shutdown`, read by heartbeats, which name this producer no more.
    is_leaving: AtomicBool,
    pub(crate) tasks: Tasks,
}

impl ProducerMember for Shared {
    fn topics(&self) -> Vec<String> {
        self.topics.clone()
    }

    fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Relaxed)
    }

    fn check_transaction(self: Arc<Self>, check: TransactionCheck) {
        let Some(transactions) = self.transactions.clone() else {
            // Only transaction producers send half messages: somebody else uses this group for them.
            tracing::warn!(
                group = self.sender.group(),
                broker = %check.address,
                "a transaction check came to a producer without a transaction listener"
            );
            return;
        };
        let Some(asked) = transactions.admit(check) else {
            return;
        };
        let this = Arc::clone(&self);
        self.tasks
            .spawn(async move { transactions.answer(&this.sender, asked).await });
    }
}

/// Settings of a [`Producer`] before it starts.
#[derive(Debug, Clone)]
#[must_use = "nothing happens before `start`"]
pub struct ProducerBuilder {
    pub(crate) group: String,
    pub(crate) config: ClientConfig,
    pub(crate) instance: Option<Arc<Instance>>,
    pub(crate) settings: SendSettings,
    pub(crate) topics: Vec<String>,
    in_flight_max: usize,
    interceptors: Vec<Arc<dyn SendInterceptor>>,
    trace: bool,
    policy: FaultPolicy,
    spool: Option<SpoolSettings>,
    check_timeout: Duration,
}

impl ProducerBuilder {
    pub(crate) fn new(group: &str) -> Self {
        Self {
            group: group.to_owned(),
            config: ClientConfig::from_env(),
            instance: None,
            settings: SendSettings::default(),
            topics: Vec::new(),
            in_flight_max: 10_000,
            interceptors: Vec::new(),
            trace: false,
            policy: FaultPolicy::default(),
            spool: None,
            check_timeout: Duration::from_secs(30),
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

    /// Uses the connections and the client id of an instance that exists, which outlives this producer.
    pub fn instance(mut self, instance: &Arc<Instance>) -> Self {
        self.instance = Some(Arc::clone(instance));
        self
    }

    /// Everything about sending.
    pub fn settings(mut self, settings: SendSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Time for a send with all its attempts. Default: 3 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// How often a failed send is tried again. Default: 2.
    pub fn retries(mut self, retries: usize) -> Self {
        self.settings.retries = retries;
        self
    }

    /// Looks the routes of these topics up at the start and from then on, so that the first message need not wait for it, and
    /// that their brokers know this producer before it sends. Those that cannot be found yet are looked up again as
    /// [`ClientConfig::route_poll_interval`] says.
    pub fn topics<T: Into<String>>(mut self, topics: impl IntoIterator<Item = T>) -> Self {
        self.topics = topics.into_iter().map(Into::into).collect();
        self
    }

    /// How many sends in the background may wait for their answers; with numbers, at most 500 of them are under way.
    /// Default: 10,000.
    pub fn in_flight_max(mut self, sends: usize) -> Self {
        self.in_flight_max = sends;
        self
    }

    /// Sees every message before and after it is sent. May be given several times.
    pub fn interceptor(mut self, interceptor: Arc<dyn SendInterceptor>) -> Self {
        self.interceptors.push(interceptor);
        self
    }

    /// Writes message traces in RocketMQ's format to `RMQ_SYS_TRACE_TOPIC`. Default: no.
    pub fn trace(mut self, trace: bool) -> Self {
        self.trace = trace;
        self
    }

    /// What [`Producer::deliver`] does about failures. Default: [`FaultPolicy::Failover`].
    pub fn fault_policy(mut self, policy: FaultPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Has [`Producer::deliver`] keep messages in a file while the brokers are away. Goes with
    /// [`FaultPolicy::Failover`], [`FaultPolicy::Failfast`] and [`FaultPolicy::Forking`], which say what is tried first.
    pub fn spool(mut self, settings: SpoolSettings) -> Self {
        self.spool = Some(settings);
        self
    }

    /// Numbers the messages, see [`SendSettings::deduplicate`].
    pub fn deduplicate(mut self, id: ProducerId) -> Self {
        self.settings.deduplicate = Some(id);
        self
    }

    /// Time for a [`TransactionListener::check`], after which its answer is "unknown". Default: 30 s, which is how often
    /// brokers ask.
    pub fn check_timeout(mut self, timeout: Duration) -> Self {
        self.check_timeout = timeout;
        self
    }

    /// Starts the producer. Brokers are connected when they are first needed.
    ///
    /// # Errors
    /// [`ClientError::Config`] for names that break the rules, [`ClientError::GroupTaken`],
    /// [`ClientError::ProducerIdInUse`]; [`ClientError::SpoolInUse`] and [`ClientError::Spool`] if there is to be one.
    pub async fn start(self) -> Result<Producer, ClientError> {
        self.start_with(None).await
    }

    /// Starts a producer whose messages depend on local transactions, which `listener` runs and knows about.
    ///
    /// # Errors
    /// As [`ProducerBuilder::start`].
    pub async fn start_transactional(
        self,
        listener: impl TransactionListener,
    ) -> Result<TransactionProducer, ClientError> {
        let transactions = Transactions::of(listener, self.check_timeout);
        let producer = self.start_with(Some(transactions.clone())).await?;
        Ok(TransactionProducer::new(producer, transactions))
    }

    async fn start_with(self, transactions: Option<Transactions>) -> Result<Producer, ClientError> {
        self.check()?;
        let spool = match self.spool {
            Some(settings) => Some(Spool::open(settings).await?),
            None => None,
        };
        let owns_instance = self.instance.is_none();
        let instance = match self.instance {
            Some(instance) => instance,
            None => Instance::start(self.config)?,
        };
        let tracer = self.trace.then(|| Tracer::new(&instance, &self.group));
        let shared = Arc::new(Shared {
            topics: self.topics,
            sender: Arc::new(Sender::numbered(instance, &self.group, self.settings)?),
            deliverer: Deliverer::new(self.policy, spool),
            in_flight: Arc::new(Semaphore::new(self.in_flight_max)),
            in_flight_max: self.in_flight_max,
            interceptors: self.interceptors,
            tracer,
            transactions,
            is_leaving: AtomicBool::new(false),
            tasks: Tasks::new(),
        });
        let weak: Weak<Shared> = Arc::downgrade(&shared);
        shared.sender.instance().add_producer(&self.group, weak)?;
        // Brokers that the instance knows already would else hear of the group with the next regular heartbeat, and until
        // then have nobody to ask about its transactions.
        shared.sender.instance().heartbeat_soon();
        for topic in &shared.topics {
            if let Err(error) = shared.sender.route(topic).await {
                tracing::info!(topic, %error, "no route yet at the start of the producer");
            }
        }
        let (retrying, draining) = (Arc::clone(&shared), Arc::clone(&shared));
        shared.tasks.spawn(async move {
            let Shared {
                deliverer,
                sender,
                tasks,
                ..
            } = &*retrying;
            deliverer.keep_retrying(sender, tasks).await;
        });
        shared.tasks.spawn(async move {
            if let Some(spool) = draining.deliverer.spool() {
                spool.drain(&draining.sender, &draining.tasks).await;
            }
        });
        tracing::debug!(group = %self.group, client = shared.sender.instance().client_id(), "producer started");
        Ok(Producer {
            shared,
            owns_instance,
        })
    }

    pub(crate) fn check(&self) -> Result<(), ClientError> {
        check_group(&self.group)?;
        if self.in_flight_max == 0 || self.in_flight_max > Semaphore::MAX_PERMITS {
            return Err(ClientError::Config {
                setting: "in_flight_max",
                reason: format!("{} is not a usable limit", self.in_flight_max),
            });
        }
        let may_spool = match self.policy {
            FaultPolicy::Failover | FaultPolicy::Failfast | FaultPolicy::Forking(_) => true,
            FaultPolicy::Failsafe | FaultPolicy::Failback(_) | FaultPolicy::Broadcast => false,
        };
        if self.spool.is_some() && !may_spool {
            return Err(ClientError::Config {
                setting: "spool",
                reason: format!("it does not go with {:?}", self.policy),
            });
        }
        Ok(())
    }
}

/// Checks a group's name by the rules of the original client.
pub(crate) fn check_group(name: &str) -> Result<(), ClientError> {
    let fault = |reason| {
        Err(ClientError::Config {
            setting: "group",
            reason,
        })
    };
    if let Err(error) = group::check(name) {
        return fault(error.to_string());
    }
    if ["DEFAULT_PRODUCER", "DEFAULT_CONSUMER"].contains(&name) {
        return fault(format!("{name} is reserved, specify another one"));
    }
    Ok(())
}

impl Producer {
    /// A producer of `group` with default settings.
    pub fn builder(group: &str) -> ProducerBuilder {
        ProducerBuilder::new(group)
    }

    /// The instance it sends through.
    #[must_use]
    pub fn instance(&self) -> &Arc<Instance> {
        self.shared.sender.instance()
    }

    pub(crate) fn sender(&self) -> &Sender {
        &self.shared.sender
    }

    /// Sends a message and waits until a broker has it. Failures of a broker are mended by trying another, all within one
    /// [timeout](SendSettings::timeout); a message may therefore be stored twice, under the same id.
    ///
    /// # Errors
    /// [`ClientError`], which names the step of each attempt that failed.
    pub async fn send(&self, message: Message) -> Result<SendResult, ClientError> {
        self.shared.send(message, RetryOn::TransportAndCodes).await
    }

    /// Sends a message by the producer's [`FaultPolicy`], with its spool behind it if it has one. A message with a
    /// sharding key ([`Message::with_sharding_key`]) goes to the queue of its hash, the one that
    /// [`ByHash`](crate::choose_queue::ByHash) takes, except where the policy sends to several.
    ///
    /// ```no_run
    /// # use agena_client::{Delivery, Message, Producer, SpoolSettings};
    /// # async fn example() -> Result<(), agena_client::ClientError> {
    /// let producer = Producer::builder("tills")
    ///     .spool(SpoolSettings::at("/var/lib/till/spool"))
    ///     .start()
    ///     .await?;
    /// let sale = Message::new("sales", "3 pencils").with_sharding_key("till-7");
    /// match producer.deliver(sale).await? {
    ///     Delivery::Spooled { msg_id } => println!("{msg_id} follows when the brokers are back"),
    ///     delivery => assert!(delivery.stored().is_some()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`FaultPolicy`] says; [`ClientError::SpoolFull`], [`ClientError::Spool`].
    pub async fn deliver(&self, message: Message) -> Result<Delivery, ClientError> {
        let shared = &self.shared;
        if shared.tasks.is_stopping() {
            return Err(ClientError::Stopped);
        }
        let (observation, prepared) = shared.observe(message).await?;
        let delivery = shared.deliverer.deliver(&shared.sender, prepared).await;
        let outcome = match &delivery {
            Ok(delivery) => delivery.outcome(),
            Err(error) => Some(Err(error.clone())),
        };
        if let Some(outcome) = outcome {
            shared.observed_as(observation, &outcome);
        }
        delivery
    }

    /// What the policies `Failsafe` and `Failback` did so far.
    #[must_use]
    pub fn fault_counts(&self) -> FaultCounts {
        self.shared.deliverer.counts()
    }

    /// What the spool holds; `None` without one.
    ///
    /// # Errors
    /// [`ClientError::Spool`].
    pub async fn spool_status(&self) -> Result<Option<SpoolStatus>, ClientError> {
        match self.shared.deliverer.spool() {
            Some(spool) => spool.status().await.map(Some),
            None => Ok(None),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Sends a message in the background. The returned future may be awaited anywhere, or dropped: the send goes on.
    ///
    /// Only failures of the transport are retried.
    ///
    /// # Errors
    /// [`ClientError::TooManyInFlight`] at once, when as many sends as allowed are under way.
    pub fn send_async(&self, message: Message) -> Result<PendingSend, ClientError> {
        let (sender, receiver) = oneshot::channel();
        self.spawn_send(message, move |result| {
            let _ = sender.send(result);
        })?;
        Ok(PendingSend { receiver })
    }

    /// Sends a message in the background and calls back, on a task of the runtime.
    ///
    /// # Errors
    /// [`ClientError::TooManyInFlight`] at once; the callback is not called then.
    pub fn send_with_callback(
        &self,
        message: Message,
        callback: impl FnOnce(Result<SendResult, ClientError>) + Send + 'static,
    ) -> Result<(), ClientError> {
        self.spawn_send(message, callback)
    }

    fn spawn_send(
        &self,
        message: Message,
        then: impl FnOnce(Result<SendResult, ClientError>) + Send + 'static,
    ) -> Result<(), ClientError> {
        if self.shared.tasks.is_stopping() {
            return Err(ClientError::Stopped);
        }
        let limit = self.shared.in_flight_max;
        let permit = Arc::clone(&self.shared.in_flight)
            .try_acquire_owned()
            .map_err(|_| ClientError::TooManyInFlight { limit })?;
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.spawn(async move {
            let result = shared.send(message, RetryOn::Transport).await;
            drop(permit);
            then(result);
        });
        Ok(())
    }

    /// Hands a message to the network and knows nothing more of it: the cheapest way, for what may get lost.
    ///
    /// # Errors
    /// Those that show before the message has left.
    pub async fn send_one_way(&self, mut message: Message) -> Result<(), ClientError> {
        self.shared.intercept(&mut message);
        let prepared = self.shared.sender.prepare(message).await?;
        self.shared.sender.send_one_way(&prepared, None).await
    }

    /// Sends messages of one topic together: they get consecutive places in one queue, or none of them is stored.
    ///
    /// # Errors
    /// As [`Producer::send`]; [`ClientError::Message`] if they cannot travel together.
    pub async fn send_batch(&self, mut messages: Vec<Message>) -> Result<SendResult, ClientError> {
        let Shared {
            sender,
            interceptors,
            ..
        } = &*self.shared;
        for message in &mut messages {
            self.shared.intercept(message);
        }
        let observed = match interceptors.is_empty() {
            true => Vec::new(),
            false => messages.clone(),
        };
        let prepared = sender.prepare_batch(messages).await?;
        let timeout = sender.settings().timeout;
        let result = sender
            .send(&prepared, timeout, RetryOn::TransportAndCodes)
            .await;
        for message in &observed {
            for interceptor in interceptors {
                interceptor.after(message, &result);
            }
        }
        result
    }

    /// Sends a message to exactly this queue, once.
    ///
    /// # Errors
    /// As [`Producer::send`].
    pub async fn send_to(
        &self,
        message: Message,
        queue: &MessageQueue,
    ) -> Result<SendResult, ClientError> {
        // The queue's broker must be known before it can be addressed.
        self.shared.sender.route(&message.topic).await?;
        let shared = &self.shared;
        shared
            .observed(message, |prepared, left| async move {
                shared.sender.send_to(&prepared, queue, left).await
            })
            .await
    }

    /// Sends a message to the queue that `selector` chooses among the topic's writable queues, once.
    ///
    /// ```no_run
    /// # use agena_client::{Message, Producer, choose_queue::ByHash};
    /// # async fn example(producer: Producer) -> Result<(), agena_client::ClientError> {
    /// // All messages of one order go to one queue, in the order of the calls.
    /// let message = Message::new("orders", "paid");
    /// producer.send_by(message, &ByHash::of("order-4711")).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Producer::send`]; [`ClientError::NoWritableQueue`] if the selector refuses all.
    pub async fn send_by(
        &self,
        message: Message,
        selector: &impl SelectQueue,
    ) -> Result<SendResult, ClientError> {
        let route = self.shared.sender.route(&message.topic).await?;
        let queues = route.publish_queues();
        let queue = selector
            .select(queues, &message)
            .and_then(|index| queues.get(index))
            .ok_or_else(|| ClientError::NoWritableQueue {
                topic: message.topic.clone(),
            })?;
        self.send_to(message, queue).await
    }

    /// Takes a timed message back that is not yet due, by the handle of its [`SendResult::recall_handle`]. Gives the id of
    /// the message. The broker must allow it (`recallMessageEnable`).
    ///
    /// # Errors
    /// [`ClientError::Broker`], for instance when the message is due already or the handle is not one of this topic.
    pub async fn recall(&self, topic: &str, handle: &str) -> Result<String, ClientError> {
        let sender = &self.shared.sender;
        let instance = sender.instance();
        let route = sender.route(topic).await?;
        // The handle names its broker, but brokers tell that themselves: any wrong one refuses.
        let brokers: BTreeSet<_> = route
            .publish_queues()
            .iter()
            .map(|queue| queue.broker_name.as_str())
            .collect();
        let named = recall_broker(handle).filter(|name| brokers.contains(name.as_str()));
        let broker = named.or_else(|| brokers.first().map(|name| (*name).to_owned()));
        let broker = broker.unwrap_or_default();
        let address = instance.routes().master(&broker)?;
        let code = RequestCode::RecallMessage;
        let request = Command::request(code).with_header(&RecallMessageRequest {
            producer_group: Some(sender.group()),
            topic,
            recall_handle: handle,
            bname: Some(&broker),
        });
        let answer = instance.ask(&address, code, request).await?;
        let header: RecallMessageResponse<'_> = answer
            .header()
            .map_err(|error| bad_answer(&address, code, &error))?;
        Ok(header.msg_id.to_owned())
    }

    /// Queues of the topic that can be written now.
    ///
    /// # Errors
    /// [`ClientError::NoRoute`], [`ClientError::NoWritableQueue`], [`ClientError::NoNameServer`].
    pub async fn publish_queues(&self, topic: &str) -> Result<Vec<MessageQueue>, ClientError> {
        let route = self.shared.sender.route(topic).await?;
        Ok(route.publish_queues().to_vec())
    }

    /// Waits for sends in the background, tells the brokers that this producer is gone, and closes its connections.
    pub async fn shutdown(self) {
        let instance = Arc::clone(self.instance());
        let group = self.shared.sender.group();
        // First, so that brokers ask others about transactions from now on: a question that came to a producer which has
        // stopped would be counted and not answered. Those that come before are answered within the grace.
        self.shared.is_leaving.store(true, Ordering::Relaxed);
        instance.unregister_producer(group).await;
        let grace = self.shared.sender.settings().timeout + Duration::from_secs(1);
        self.shared.tasks.stop(grace).await;
        if let Some(tracer) = &self.shared.tracer {
            tracer.stop().await;
        }
        instance.forget_producer(group);
        if self.owns_instance {
            instance.shutdown().await;
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        if self.shared.tasks.is_stopping() {
            return;
        }
        self.shared.tasks.abort();
        if let Some(tracer) = &self.shared.tracer {
            tracer.abort();
        }
        let sender = &self.shared.sender;
        sender.instance().forget_producer(sender.group());
    }
}

impl Shared {
    async fn send(&self, message: Message, retry_on: RetryOn) -> Result<SendResult, ClientError> {
        self.observed(message, |prepared, left| async move {
            self.sender.send(&prepared, left, retry_on).await
        })
        .await
    }

    /// Interceptors and the trace see the message before and its outcome after. `send` is told what is left of the time.
    async fn observed<F: Future<Output = Result<SendResult, ClientError>>>(
        &self,
        message: Message,
        send: impl FnOnce(Prepared, Duration) -> F,
    ) -> Result<SendResult, ClientError> {
        let begin = Instant::now();
        let (observation, prepared) = self.observe(message).await?;
        let timeout = self.sender.settings().timeout;
        let result = send(prepared, timeout.saturating_sub(begin.elapsed())).await;
        self.observed_as(observation, &result);
        result
    }

    pub(crate) async fn observe(
        &self,
        mut message: Message,
    ) -> Result<(Observation, Prepared), ClientError> {
        self.intercept(&mut message);
        self.observe_intercepted(message).await
    }

    pub(crate) fn intercept(&self, message: &mut Message) {
        for interceptor in &self.interceptors {
            interceptor.before(message);
        }
    }

    /// [`Shared::observe`], of a message that interceptors have seen already.
    pub(crate) async fn observe_intercepted(
        &self,
        message: Message,
    ) -> Result<(Observation, Prepared), ClientError> {
        let traced = self
            .tracer
            .as_ref()
            .map(|tracer| tracer.publication(self.sender.group(), &message));
        let observed = (!self.interceptors.is_empty()).then(|| message.clone());
        let prepared = self.sender.prepare(message).await?;
        let observation = Observation { observed, traced };
        Ok((observation, prepared))
    }

    pub(crate) fn observed_as(
        &self,
        before: Observation,
        result: &Result<SendResult, ClientError>,
    ) {
        if let Some(message) = before.observed {
            for interceptor in &self.interceptors {
                interceptor.after(&message, result);
            }
        }
        if let (Some(tracer), Some(publication)) = (&self.tracer, before.traced) {
            tracer.published(&publication, result);
        }
    }
}

/// What interceptors and the trace saw before a message was sent.
pub(crate) struct Observation {
    observed: Option<Message>,
    traced: Option<Publication>,
}

/// The broker that a recall handle names: base64 (url alphabet) of `v1 topic broker time id`.
fn recall_broker(handle: &str) -> Option<String> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for digit in handle.trim_end_matches('=').bytes() {
        let value = ALPHABET.iter().position(|other| *other == digit)?;
        bits = (bits << 6 | u32::try_from(value).ok()?) & 0xFFFF;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xFF).ok()?);
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    text.split(' ').nth(2).map(str::to_owned)
}

/// The outcome of a send in the background.
#[derive(Debug)]
#[must_use = "the outcome of the send is here"]
pub struct PendingSend {
    receiver: oneshot::Receiver<Result<SendResult, ClientError>>,
}

impl Future for PendingSend {
    type Output = Result<SendResult, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver)
            .poll(context)
            .map(|result| result.unwrap_or(Err(ClientError::Stopped)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recall_handle_names_its_broker() {
        // base64 of "v1 T broker-a 1795230000001 7F00"
        let handle = "djEgVCBicm9rZXItYSAxNzk1MjMwMDAwMDAxIDdGMDA=";
        assert_eq!(recall_broker(handle).as_deref(), Some("broker-a"));
        assert_eq!(recall_broker("!"), None);
        assert_eq!(recall_broker(""), None);
    }

    #[tokio::test]
    async fn groups_have_rules() {
        for group in ["", "a b", "DEFAULT_PRODUCER"] {
            let refused = Producer::builder(group).start().await;
            assert!(
                matches!(
                    refused,
                    Err(ClientError::Config {
                        setting: "group",
                        ..
                    })
                ),
                "{group}"
            );
        }
    }
}
