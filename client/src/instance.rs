//! One client towards its servers: connections, routes and heartbeats, shared by the producers and consumers that use it.
//!
//! To brokers an instance is a client id. Every producer and consumer makes one of its own unless it is given one, so
//! that sharing connections is a decision and not an accident. Apache: `MQClientInstance`.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use agena_protocol::bodies::heartbeat::{ConsumerData, HeartbeatData, ProducerData};
use agena_protocol::bodies::route::{ClusterInfo, TopicRouteData};
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::group::CLIENT_INNER_PRODUCER;
use agena_protocol::headers::client::UnregisterClientRequest;
use agena_protocol::headers::namesrv::GetRouteinfoByTopicRequest;
use agena_protocol::message_id::UniqueIds;
use agena_protocol::queue::QueueMap;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_remoting::client::Client;
use agena_remoting::error::CallError;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::config::ClientConfig;
use crate::error::{BrokerError, ClientError};
use crate::from_broker::FromBroker;
use crate::message::ReceivedMessage;
use crate::request_reply::AwaitedReplies;
use crate::route_cache::{MASTER_ID, RouteCache, TopicRoute};
use crate::tasks::Tasks;

/// A future whose type is hidden.
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Connections, routes and heartbeats under one client id.
///
/// Dropping the last handle ends its tasks and closes its connections; [`Instance::shutdown`] does so in order.
#[derive(Debug)]
pub struct Instance {
    config: ClientConfig,
    client_id: String,
    remoting: Client,
    routes: RouteCache,
    /// Index of the name server that answered last.
    name_server: AtomicUsize,
    producers: Mutex<HashMap<String, Weak<dyn ProducerMember>>>,
    consumers: Mutex<HashMap<String, Weak<dyn ConsumerMember>>>,
    replies: AwaitedReplies,
    heartbeat_due: Arc<Notify>,
    /// Brokers that are being told right now that this client lives.
    greeting: Mutex<HashSet<String>>,
    /// Brokers that were told so over the connection that is open.
    greeted: Mutex<HashSet<String>>,
    tasks: Tasks,
}

/// A producer as its instance sees it.
pub(crate) trait ProducerMember: Send + Sync {
    /// Topics whose routes it needs fresh, beside those it has sent to.
    fn topics(&self) -> Vec<String>;

    /// It is shutting down: brokers are not told of it any more.
    fn is_leaving(&self) -> bool;

    /// The broker asks what became of a transaction.
    fn check_transaction(self: Arc<Self>, check: TransactionCheck);
}

impl std::fmt::Debug for dyn ProducerMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProducerMember")
    }
}

/// What a broker asks with CHECK_TRANSACTION_STATE, and where the answer goes.
#[derive(Debug)]
pub(crate) struct TransactionCheck {
    pub(crate) address: String,
    pub(crate) request: Command,
    pub(crate) message: ReceivedMessage,
}

/// A consumer as its instance sees it.
pub(crate) trait ConsumerMember: Send + Sync {
    /// Its part of a heartbeat.
    fn heartbeat(&self) -> ConsumerData;

    /// Topics whose routes it needs fresh.
    fn topics(&self) -> Vec<String>;

    /// Members came or went, or a route changed: share the queues out again.
    fn rebalance_soon(&self);

    /// An operator moved the group's offsets.
    fn reset_offsets(
        self: Arc<Self>,
        topic: String,
        offsets: QueueMap<i64>,
    ) -> BoxFuture<'static, ()>;

    /// How far this consumer is with a topic.
    fn offsets_of(&self, topic: &str) -> QueueMap<i64>;

    /// What status pages show, encoded.
    fn running_info(&self) -> Vec<u8>;

    /// Consumes one message at an operator's request; the answer is encoded. `None` if it has no listener.
    fn consume_directly(
        self: Arc<Self>,
        message: ReceivedMessage,
    ) -> BoxFuture<'static, Option<Vec<u8>>>;
}

impl std::fmt::Debug for dyn ConsumerMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ConsumerMember")
    }
}

impl Instance {
    /// Makes an instance and starts its background work. Connections are made when they are first needed.
    ///
    /// # Errors
    /// [`ClientError::Config`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(config: ClientConfig) -> Result<Arc<Self>, ClientError> {
        config.check()?;
        let client_id = client_id(&config);
        let remoting = agena_remoting::client::ClientConfig {
            connect_timeout: config.connect_timeout,
            ..Default::default()
        };
        let instance = Arc::new_cyclic(|weak| Self {
            remoting: Client::new(remoting, Arc::new(FromBroker::new(Weak::clone(weak)))),
            client_id,
            routes: RouteCache::default(),
            name_server: AtomicUsize::new(0),
            producers: Mutex::default(),
            consumers: Mutex::default(),
            replies: AwaitedReplies::default(),
            heartbeat_due: Arc::new(Notify::new()),
            greeting: Mutex::default(),
            greeted: Mutex::default(),
            tasks: Tasks::new(),
            config,
        });
        // Both hold the instance weakly: it ends with its last handle.
        let stop = instance.tasks.signal();
        instance
            .tasks
            .spawn(keep_greeting(Arc::downgrade(&instance), stop.clone()));
        instance
            .tasks
            .spawn(keep_routes_fresh(Arc::downgrade(&instance), stop));
        Ok(instance)
    }

    /// `address@instance name[@unit]`: what brokers know this client by.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The settings it was started with.
    #[must_use]
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// The next message id of this process.
    pub(crate) fn unique_id(&self) -> String {
        static IDS: OnceLock<UniqueIds> = OnceLock::new();
        let ids = IDS.get_or_init(|| {
            let pid = u16::try_from(std::process::id() & 0xFFFF).unwrap_or(0);
            let utc_offset = chrono::Local::now().offset().local_minus_utc();
            let utc_offset_ms = i64::from(utc_offset) * 1000;
            UniqueIds::new(
                self.config.local_ip(),
                pid,
                fastrand::u32(..),
                utc_offset_ms,
            )
        });
        ids.next(self.config.clock.now_ms())
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.config.clock.now_ms()
    }

    pub(crate) fn monotonic(&self) -> Duration {
        self.config.clock.monotonic()
    }

    pub(crate) fn routes(&self) -> &RouteCache {
        &self.routes
    }

    pub(crate) fn replies(&self) -> &AwaitedReplies {
        &self.replies
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Ends the background work and closes the connections. Producers and consumers that share this instance are to be
    /// shut down before.
    pub async fn shutdown(&self) {
        self.tasks.stop(Duration::from_secs(3)).await;
        self.remoting.shutdown().await;
    }
}

/// Calls.
impl Instance {
    /// Asks the name server that answered last, and the others in turn if it does not. The answer may be an error of
    /// the server: see [`Instance::success`].
    ///
    /// # Errors
    /// [`ClientError::NoNameServer`].
    pub async fn call_name_server(&self, request: Command) -> Result<Command, ClientError> {
        let servers = &self.config.name_servers;
        let first = self.name_server.load(Ordering::Relaxed);
        let mut tried = Vec::new();
        for step in 0..servers.len() {
            let index = (first + step) % servers.len();
            let address = &servers[index];
            match self
                .call(address, request.clone(), self.config.call_timeout)
                .await
            {
                Ok(answer) => {
                    self.name_server.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(ClientError::Stopped) => return Err(ClientError::Stopped),
                Err(error) => tried.push((address.clone(), error.to_string())),
            }
        }
        Err(ClientError::NoNameServer { tried })
    }

    /// Asks a broker, waiting as long as [`ClientConfig::call_timeout`] says. The answer may be an error of the broker:
    /// see [`Instance::success`].
    ///
    /// # Errors
    /// Those of the transport.
    pub async fn call_broker(
        &self,
        address: &str,
        request: Command,
    ) -> Result<Command, ClientError> {
        self.call(address, request, self.config.call_timeout).await
    }

    /// Asks any server.
    ///
    /// # Errors
    /// Those of the transport.
    pub async fn call(
        &self,
        address: &str,
        mut request: Command,
        timeout: Duration,
    ) -> Result<Command, ClientError> {
        if self.tasks.is_stopping() {
            return Err(ClientError::Stopped);
        }
        request.serialize = self.config.header_form;
        let name = request_name(request.code);
        self.remoting
            .call(address, request, timeout)
            .await
            .map_err(|error| transport_error(error, address, name, timeout))
    }

    /// Sends a request that nobody answers.
    ///
    /// # Errors
    /// Those of the transport, as far as they show before the request has left.
    pub async fn one_way(&self, address: &str, mut request: Command) -> Result<(), ClientError> {
        if self.tasks.is_stopping() {
            return Err(ClientError::Stopped);
        }
        request.serialize = self.config.header_form;
        let name = request_name(request.code);
        let timeout = self.config.call_timeout;
        self.remoting
            .one_way(address, request.one_way())
            .await
            .map_err(|error| transport_error(error, address, name, timeout))
    }

    /// The answer, if it is a success.
    ///
    /// # Errors
    /// [`ClientError::Broker`].
    pub fn success(
        address: &str,
        request: RequestCode,
        answer: Command,
    ) -> Result<Command, ClientError> {
        if answer.is_success() {
            return Ok(answer);
        }
        Err(broker_error(address, request.name(), &answer).into())
    }

    /// Closes the connection to a server; the next call opens another.
    pub(crate) fn close_connection(&self, address: &str) {
        self.remoting.close_connection(address);
    }

    /// Asks a broker for a success.
    ///
    /// # Errors
    /// Those of the transport and [`ClientError::Broker`].
    pub(crate) async fn ask(
        &self,
        address: &str,
        code: RequestCode,
        request: Command,
    ) -> Result<Command, ClientError> {
        Self::success(address, code, self.call_broker(address, request).await?)
    }
}

/// Routes.
impl Instance {
    /// The topic's route, looked up if it is not known yet.
    ///
    /// # Errors
    /// [`ClientError::NoNameServer`], [`ClientError::NoRoute`].
    pub async fn route(&self, topic: &str) -> Result<Arc<TopicRoute>, ClientError> {
        if let Some(route) = self.routes.get(topic).filter(|route| !route.provisional) {
            return Ok(route);
        }
        let lookup = self.routes.lookup_of(topic);
        let _one_at_a_time = lookup.lock().await;
        if let Some(route) = self.routes.get(topic).filter(|route| !route.provisional) {
            return Ok(route);
        }
        self.look_up(topic).await
    }

    /// Where a message of `topic` can be sent: its route, or that of the template from which its first message will
    /// create it.
    pub(crate) async fn route_to_publish(
        &self,
        topic: &str,
        template: &str,
        queues_max: i32,
    ) -> Result<Arc<TopicRoute>, ClientError> {
        if let Some(route) = self.routes.get(topic) {
            return Ok(route);
        }
        let lookup = self.routes.lookup_of(topic);
        let _one_at_a_time = lookup.lock().await;
        if let Some(route) = self.routes.get(topic) {
            return Ok(route);
        }
        match self.look_up(topic).await {
            Err(ClientError::NoRoute { .. }) => {
                let data = self
                    .fetch_route(template)
                    .await
                    .map_err(|error| match error {
                        ClientError::NoRoute { .. } => ClientError::NoRoute {
                            topic: topic.to_owned(),
                        },
                        other => other,
                    })?;
                let route = TopicRoute::provisional(topic, data, queues_max);
                Ok(self.learn(topic, route))
            }
            result => result,
        }
    }

    /// Looks the route up anew.
    ///
    /// # Errors
    /// [`ClientError::NoNameServer`], [`ClientError::NoRoute`].
    pub async fn refresh_route(&self, topic: &str) -> Result<Arc<TopicRoute>, ClientError> {
        let lookup = self.routes.lookup_of(topic);
        let _one_at_a_time = lookup.lock().await;
        self.look_up(topic).await
    }

    async fn look_up(&self, topic: &str) -> Result<Arc<TopicRoute>, ClientError> {
        let data = self.fetch_route(topic).await?;
        Ok(self.learn(topic, TopicRoute::new(topic, data)))
    }

    fn learn(&self, topic: &str, route: TopicRoute) -> Arc<TopicRoute> {
        let fallback = self.routes.put(topic, route);
        if fallback.broker_added {
            self.heartbeat_due.notify_one();
        }
        if fallback.route_changed {
            tracing::debug!(client = %self.client_id, topic, "route changed");
            for consumer in self.consumer_members() {
                if consumer.topics().iter().any(|it| it == topic) {
                    consumer.rebalance_soon();
                }
            }
        }
        self.routes
            .get(topic)
            .expect("a route that was just put is there")
    }

    /// Asks a name server for a route, past the cache.
    ///
    /// # Errors
    /// [`ClientError::NoNameServer`], [`ClientError::NoRoute`], [`ClientError::Broker`].
    pub async fn fetch_route(&self, topic: &str) -> Result<TopicRouteData, ClientError> {
        let code = RequestCode::GetRouteinfoByTopic;
        let request = Command::request(code).with_header(&GetRouteinfoByTopicRequest {
            topic,
            accept_standard_json_only: None,
        });
        let answer = self.call_name_server(request).await?;
        if answer.response_code() == Some(ResponseCode::TopicNotExist) {
            return Err(ClientError::NoRoute {
                topic: topic.to_owned(),
            });
        }
        let answer = Self::success("name server", code, answer)?;
        parse_body("name server", code, &answer)
    }

    /// Every cluster and broker that the name servers know.
    ///
    /// # Errors
    /// [`ClientError::NoNameServer`], [`ClientError::Broker`].
    pub async fn cluster_info(&self) -> Result<ClusterInfo, ClientError> {
        let code = RequestCode::GetBrokerClusterInfo;
        let answer = self.call_name_server(Command::request(code)).await?;
        let answer = Self::success("name server", code, answer)?;
        parse_body("name server", code, &answer)
    }
}

/// Members and heartbeats.
impl Instance {
    pub(crate) fn add_producer(
        &self,
        group: &str,
        member: Weak<dyn ProducerMember>,
    ) -> Result<(), ClientError> {
        add_member(&mut self.producers.lock(), group, member)
    }

    pub(crate) fn add_consumer(
        &self,
        group: &str,
        member: Weak<dyn ConsumerMember>,
    ) -> Result<(), ClientError> {
        add_member(&mut self.consumers.lock(), group, member)
    }

    pub(crate) fn producer(&self, group: &str) -> Option<Arc<dyn ProducerMember>> {
        self.producers.lock().get(group)?.upgrade()
    }

    pub(crate) fn consumer(&self, group: &str) -> Option<Arc<dyn ConsumerMember>> {
        self.consumers.lock().get(group)?.upgrade()
    }

    fn consumer_members(&self) -> Vec<Arc<dyn ConsumerMember>> {
        let consumers = self.consumers.lock();
        consumers.values().filter_map(Weak::upgrade).collect()
    }

    fn producer_members(&self) -> Vec<Arc<dyn ProducerMember>> {
        let producers = self.producers.lock();
        producers.values().filter_map(Weak::upgrade).collect()
    }

    /// Tells the brokers that a producer is leaving. Until it is forgotten, what they ask on the way comes to it.
    pub(crate) async fn unregister_producer(self: &Arc<Self>, group: &str) {
        self.unregister(Some(group), None).await;
    }

    /// Forgets a consumer and tells the brokers, so that its queues go to others at once.
    pub(crate) async fn remove_consumer(self: &Arc<Self>, group: &str) {
        self.consumers.lock().remove(group);
        self.unregister(None, Some(group)).await;
    }

    /// Forgets a consumer that was dropped; brokers notice by its silence.
    pub(crate) fn forget_consumer(&self, group: &str) {
        self.consumers.lock().remove(group);
    }

    /// Forgets a producer that has left or was dropped; of the latter, brokers notice by its silence.
    pub(crate) fn forget_producer(&self, group: &str) {
        self.producers.lock().remove(group);
    }

    async fn unregister(self: &Arc<Self>, producer: Option<&str>, consumer: Option<&str>) {
        let request =
            Command::request(RequestCode::UnregisterClient).with_header(&UnregisterClientRequest {
                client_id: &self.client_id,
                producer_group: producer,
                consumer_group: consumer,
            });
        let targets = self.heartbeat_targets(true);
        self.tell_all(targets, request).await;
    }

    /// Tells every broker in use which groups live here. Returns when all have answered or failed to.
    pub(crate) async fn heartbeat(self: &Arc<Self>) {
        self.routes.forget_unrouted_brokers();
        let Some(body) = self.heartbeat_body() else {
            return;
        };
        let has_consumers = !self.consumers.lock().is_empty();
        let request = Command::request(RequestCode::HeartBeat).with_body(body);
        let targets = self.heartbeat_targets(has_consumers);
        self.tell_all(targets, request).await;
    }

    /// Has the heartbeat task do its work now.
    pub(crate) fn heartbeat_soon(&self) {
        self.heartbeat_due.notify_one();
    }

    /// A connection to a broker was opened: it does not know this client yet, unless it is just being told.
    pub(crate) fn connected(&self, address: &str) {
        let is_name_server = self.config.name_servers.iter().any(|it| it == address);
        if !is_name_server && !self.greeting.lock().contains(address) {
            self.heartbeat_due.notify_one();
        }
    }

    /// The connection ended, and with it what the broker knew of this client.
    pub(crate) fn disconnected(&self, address: &str) {
        self.greeted.lock().remove(address);
    }

    /// Makes sure that the masters of a topic know this client.
    pub(crate) async fn heartbeat_unless_known(self: &Arc<Self>, topic: &str) {
        let Some(route) = self.routes.get(topic) else {
            return;
        };
        let all_know = {
            let greeted = self.greeted.lock();
            let mut masters = route.data.broker_datas.iter().filter_map(|it| it.master());
            masters.all(|address| greeted.contains(address))
        };
        if !all_know {
            self.heartbeat().await;
        }
    }

    fn heartbeat_body(&self) -> Option<Vec<u8>> {
        let mut producers: Vec<_> = {
            let producers = self.producers.lock();
            let stays = |member: &Weak<dyn ProducerMember>| {
                member.upgrade().is_some_and(|member| !member.is_leaving())
            };
            let staying = producers.iter().filter(|(_, member)| stays(member));
            staying.map(|(group, _)| group.clone()).collect()
        };
        let consumers: Vec<ConsumerData> = self
            .consumer_members()
            .iter()
            .map(|consumer| consumer.heartbeat())
            .collect();
        if producers.is_empty() && consumers.is_empty() {
            return None;
        }
        // Consumers send what failed through the instance's own producer.
        producers.push(CLIENT_INNER_PRODUCER.to_owned());
        let data = HeartbeatData {
            client_id: self.client_id.clone(),
            producer_data_set: producers
                .into_iter()
                .map(|group_name| ProducerData { group_name })
                .collect(),
            consumer_data_set: consumers,
            heartbeat_fingerprint: 0,
            without_sub: false,
        };
        Some(fastjson::to_vec(&data, KeyStyle::Quoted))
    }

    /// Consumers read from replicas too; producers speak to masters only.
    fn heartbeat_targets(&self, replicas: bool) -> Vec<String> {
        let mut addresses: Vec<_> = self
            .routes
            .all_brokers()
            .into_iter()
            .filter(|(_, id, _)| replicas || *id == MASTER_ID)
            .map(|(_, _, address)| address)
            .collect();
        addresses.sort();
        addresses.dedup();
        addresses
    }

    async fn tell_all(self: &Arc<Self>, addresses: Vec<String>, request: Command) {
        let name = request_name(request.code);
        let mut calls = JoinSet::new();
        for address in addresses {
            let (instance, request) = (Arc::clone(self), request.clone());
            calls.spawn(async move {
                instance.greeting.lock().insert(address.clone());
                let result = instance.call_broker(&address, request).await;
                instance.greeting.lock().remove(&address);
                match result {
                    Ok(answer) if answer.is_success() => {
                        instance.greeted.lock().insert(address);
                    }
                    Ok(answer) => {
                        let remark = answer.remark.unwrap_or_default();
                        tracing::warn!(broker = %address, code = answer.code, %remark, "{name} refused");
                    }
                    Err(error) => tracing::warn!(broker = %address, %error, "{name} failed"),
                }
            });
        }
        while calls.join_next().await.is_some() {}
    }

    async fn refresh_routes(&self) {
        let mut topics: HashSet<String> = self.routes.topics().into_iter().collect();
        for consumer in self.consumer_members() {
            topics.extend(consumer.topics());
        }
        for producer in self.producer_members() {
            topics.extend(producer.topics());
        }
        for topic in topics {
            match self.refresh_route(&topic).await {
                Ok(_) => {}
                // A topic that is gone or not yet created: what is known stays, as in the original.
                Err(ClientError::NoRoute { .. }) => {}
                Err(error) => {
                    tracing::warn!(client = %self.client_id, topic, %error, "route not refreshed");
                    if matches!(error, ClientError::NoNameServer { .. }) {
                        return;
                    }
                }
            }
        }
    }
}

fn add_member<M: ?Sized>(
    members: &mut HashMap<String, Weak<M>>,
    group: &str,
    member: Weak<M>,
) -> Result<(), ClientError> {
    if members.get(group).is_some_and(|it| it.strong_count() > 0) {
        return Err(ClientError::GroupTaken {
            group: group.to_owned(),
        });
    }
    members.insert(group.to_owned(), member);
    Ok(())
}

async fn keep_greeting(instance: Weak<Instance>, mut stop: watch::Receiver<bool>) {
    loop {
        let Some(this) = instance.upgrade() else {
            return;
        };
        let (due, interval) = (
            Arc::clone(&this.heartbeat_due),
            this.config.heartbeat_interval,
        );
        drop(this);
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = due.notified() => {}
            () = tokio::time::sleep(interval) => {}
        }
        let Some(this) = instance.upgrade() else {
            return;
        };
        this.heartbeat().await;
    }
}

async fn keep_routes_fresh(instance: Weak<Instance>, mut stop: watch::Receiver<bool>) {
    loop {
        let Some(this) = instance.upgrade() else {
            return;
        };
        let interval = this.config.route_poll_interval;
        drop(this);
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(interval) => {}
        }
        let Some(this) = instance.upgrade() else {
            return;
        };
        this.refresh_routes().await;
    }
}

fn client_id(config: &ClientConfig) -> String {
    static STARTED: AtomicU64 = AtomicU64::new(0);
    let name = config.instance_name.clone().unwrap_or_else(|| {
        // Unique in this process by the count and among processes by pid and time.
        let count = STARTED.fetch_add(1, Ordering::Relaxed);
        let now_ms = config.clock.now_ms();
        format!("{}#{now_ms}{count:06}", std::process::id())
    });
    let ip = config.local_ip();
    match &config.unit_name {
        Some(unit) => format!("{ip}@{name}@{unit}"),
        None => format!("{ip}@{name}"),
    }
}

/// Reads the JSON body of an answer.
pub(crate) fn parse_body<T: DeserializeOwned>(
    address: &str,
    request: RequestCode,
    answer: &Command,
) -> Result<T, ClientError> {
    fastjson::from_slice(&answer.body).map_err(|error| bad_answer(address, request, &error))
}

pub(crate) fn bad_answer(
    address: &str,
    request: RequestCode,
    reason: &impl ToString,
) -> ClientError {
    ClientError::BadAnswer {
        address: address.to_owned(),
        request: request.name(),
        reason: reason.to_string(),
    }
}

pub(crate) fn broker_error(address: &str, request: &'static str, answer: &Command) -> BrokerError {
    BrokerError {
        address: address.to_owned(),
        request,
        code: answer.code,
        remark: answer.remark.clone().unwrap_or_default(),
    }
}

fn request_name(code: i32) -> &'static str {
    RequestCode::from_number(code).map_or("request", RequestCode::name)
}

fn transport_error(
    error: CallError,
    address: &str,
    request: &'static str,
    timeout: Duration,
) -> ClientError {
    let address = address.to_owned();
    match error {
        CallError::Connect { reason, .. } => ClientError::Connect { address, reason },
        CallError::Timeout { .. } => ClientError::Timeout {
            address,
            request,
            after: timeout,
        },
        other => ClientError::ConnectionLost {
            address,
            request,
            reason: other.to_string(),
        },
    }
}
