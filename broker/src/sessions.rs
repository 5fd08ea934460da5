//! Who is connected: producers and consumers by group, with their subscriptions; who comes, who goes, who is told.
//!
//! A client belongs to a group from its heartbeat until it unregisters, its connection closes or it is silent for two minutes. When
//! the members of a consumer group or the topics it subscribes change, every member is told at once, so that it shares out the queues
//! anew. A pull looks its subscription up without a lock, compiled once when it was announced. Source: spec/semantics.md §4.1,
//! spec/wire.md §4.2; Apache `ConsumerManager`, `ProducerManager`, `ClientManageProcessor`.
//!
//! Locks: a consumer group's `turn` (its writers), within it a shard of a name table; `connections` and `clients` are taken alone.
//! Members are told under no lock.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use agena_protocol::bodies::connections::SubscriptionConflict;
use agena_protocol::bodies::heartbeat::{ConsumerData, HeartbeatData};
use agena_protocol::clock::Clock;
use agena_protocol::command::Command;
use agena_protocol::request_code::RequestCode;
use agena_remoting::connection::Connection;
use parking_lot::Mutex;

use crate::name_table::NameTable;

mod consumer_group;
pub(crate) mod requests;

use consumer_group::Entry;
pub use consumer_group::{ConsumerGroup, GroupView, Member, Subscription};

/// A connection as the sessions use it.
pub trait Peer: Send + Sync + 'static {
    /// Unique, never used again.
    fn id(&self) -> u64;
    /// The other end.
    fn address(&self) -> SocketAddr;
    /// Can still be written to.
    fn is_open(&self) -> bool;
    /// Sends a request that is not answered; one that cannot be sent is dropped with the connection.
    fn tell(&self, command: &Command);
    /// Ends the connection.
    fn close(&self, reason: &str);
}

impl Peer for Connection {
    fn id(&self) -> u64 {
        Self::id(self)
    }

    fn address(&self) -> SocketAddr {
        self.peer()
    }

    fn is_open(&self) -> bool {
        Self::is_open(self)
    }

    fn tell(&self, command: &Command) {
        if let Err(fault) = self.one_way(command) {
            tracing::debug!(%fault, "a client was not told");
        }
    }

    fn close(&self, reason: &str) {
        Self::close(self, reason);
    }
}

/// One client in its groups: what its last heartbeat said of it.
#[derive(Debug)]
pub struct Client<P = Connection> {
    /// The way to it.
    pub connection: Arc<P>,
    /// What it calls itself.
    pub id: Arc<str>,
    /// Its language's number (spec/wire.md §2.2).
    pub language: u8,
    /// Its MQVersion ordinal.
    pub version: i32,
    /// Monotonic ms of the last heartbeat.
    seen: AtomicU64,
    /// Wall clock of the last heartbeat, for operators.
    seen_wall_ms: AtomicI64,
}

impl<P> Client<P> {
    /// When it last sent a heartbeat, wall clock in ms.
    pub fn last_heartbeat_ms(&self) -> i64 {
        self.seen_wall_ms.load(Ordering::Relaxed)
    }

    fn refresh(&self, clock: &dyn Clock) {
        self.seen.store(monotonic_ms(clock), Ordering::Relaxed);
        self.seen_wall_ms.store(clock.now_ms(), Ordering::Relaxed);
    }
}

/// A producer group's members.
#[derive(Debug)]
struct ProducerGroup<P> {
    members: Mutex<Vec<Arc<Client<P>>>>,
    next: AtomicUsize,
}

/// Where a connection is entered, so that its end is no search.
#[derive(Debug, Default)]
struct Entered {
    producer_groups: BTreeSet<Arc<str>>,
    consumer_groups: BTreeSet<Arc<str>>,
    client_ids: BTreeSet<Arc<str>>,
}

/// What the subscription of a group to a topic is, for a pull.
#[derive(Debug, Clone)]
pub enum Subscribed {
    /// No member of the group is connected.
    NoGroup,
    /// The group does not subscribe the topic.
    NoTopic {
        /// The group consumes by broadcasting.
        broadcasting: bool,
    },
    /// The group subscribes the topic.
    Found {
        /// How.
        subscription: Arc<Subscription>,
        /// The group consumes by broadcasting.
        broadcasting: bool,
    },
}

/// All clients.
pub struct Sessions<P = Connection> {
    clock: Arc<dyn Clock>,
    /// `channelExpiredTimeout`: silence after which a client is gone.
    silence_max: Duration,
    consumers: NameTable<ConsumerGroup<P>>,
    producers: NameTable<ProducerGroup<P>>,
    connections: Mutex<HashMap<u64, Entered>>,
    /// Producers by client id, for replies to those who asked.
    clients: Mutex<HashMap<Arc<str>, Arc<Client<P>>>>,
}

/// How a consumer group may be treated, from its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupRules {
    /// `notifyConsumerIdsChangedEnable`: members are told of changes.
    pub notify: bool,
    /// `rejectConflictingSubscriptions`: nobody joins who subscribes differently from the members that are there.
    pub strict: bool,
}

/// What a heartbeat is answered.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// The client shall send its subscriptions with the next heartbeat (`IS_SUB_CHANGE`).
    pub wants_subscriptions: bool,
    /// The group that did not take it in, and what its members disagree about.
    pub refused: Option<(String, SubscriptionConflict)>,
}

impl<P: Peer> Sessions<P> {
    /// Nobody yet.
    pub fn new(silence_max: Duration, clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            silence_max,
            consumers: NameTable::default(),
            producers: NameTable::default(),
            connections: Mutex::default(),
            clients: Mutex::default(),
        }
    }

    /// Enters a client with its groups. `rules` says how a consumer group may be treated, and `None` for one that is not allowed,
    /// which is skipped.
    pub fn heartbeat(
        &self,
        connection: &Arc<P>,
        language: u8,
        version: i32,
        data: &HeartbeatData,
        rules: impl Fn(&ConsumerData) -> Option<GroupRules>,
    ) -> Heard {
        let client = Arc::new(Client {
            connection: Arc::clone(connection),
            id: Arc::from(data.client_id.as_str()),
            language,
            version,
            seen: AtomicU64::new(0),
            seen_wall_ms: AtomicI64::new(0),
        });
        client.refresh(&*self.clock);
        self.enter(&client, data);
        let mut heard = Heard {
            wants_subscriptions: data.heartbeat_fingerprint == 0,
            refused: None,
        };
        for consumer in &data.consumer_data_set {
            let Some(rules) = rules(consumer) else {
                continue;
            };
            match self.join_consumer_group(&client, consumer, data, rules) {
                Ok(known) => heard.wants_subscriptions |= !known,
                Err(conflict) => heard.refused = Some((consumer.group_name.clone(), conflict)),
            }
        }
        for producer in &data.producer_data_set {
            self.join_producer_group(&client, &producer.group_name);
        }
        if !connection.is_open() {
            // It closed while it was entered; its end may have found nothing to remove.
            self.closed(connection.id());
        }
        heard
    }

    /// The client leaves these groups on its own account.
    pub fn unregister(
        &self,
        connection_id: u64,
        producer_group: Option<&str>,
        consumer_group: Option<&str>,
    ) {
        if let Some(group) = producer_group {
            self.leave_producer_group(connection_id, group);
        }
        if let Some(group) = consumer_group {
            self.leave_consumer_group(connection_id, group);
        }
        let mut connections = self.connections.lock();
        if let Some(entered) = connections.get_mut(&connection_id) {
            producer_group.map(|group| entered.producer_groups.remove(group));
            consumer_group.map(|group| entered.consumer_groups.remove(group));
        }
    }

    /// The connection is no more: whoever came by it left all its groups.
    pub fn closed(&self, connection_id: u64) {
        let Some(entered) = self.connections.lock().remove(&connection_id) else {
            return;
        };
        for group in &entered.producer_groups {
            self.leave_producer_group(connection_id, group);
        }
        for group in &entered.consumer_groups {
            self.leave_consumer_group(connection_id, group);
        }
        let mut clients = self.clients.lock();
        for id in &entered.client_ids {
            if clients
                .get(id)
                .is_some_and(|client| client.connection.id() == connection_id)
            {
                clients.remove(id);
            }
        }
    }

    /// Closes the connections of clients that were silent for too long, and forgets them. Called every ten seconds.
    pub fn expire(&self) {
        let silent_since = monotonic_ms(&*self.clock)
            .saturating_sub(u64::try_from(self.silence_max.as_millis()).unwrap_or(u64::MAX));
        let is_silent = |client: &Client<P>| client.seen.load(Ordering::Relaxed) < silent_since;
        let mut silent: HashMap<u64, Arc<Client<P>>> = HashMap::new();
        for (_, group) in self.consumers.entries() {
            for member in &group.view().members {
                if is_silent(&member.client) {
                    silent.insert(member.client.connection.id(), Arc::clone(&member.client));
                }
            }
        }
        for (_, group) in self.producers.entries() {
            for client in group
                .members
                .lock()
                .iter()
                .filter(|client| is_silent(client))
            {
                silent.insert(client.connection.id(), Arc::clone(client));
            }
        }
        for client in silent.values() {
            tracing::info!(client = %client.id, peer = %client.connection.address(), "no heartbeat for too long");
            client.connection.close("no heartbeat for too long");
            self.closed(client.connection.id());
        }
    }

    /// The subscription of a group to a topic.
    pub fn subscription(&self, group: &str, topic: &str) -> Subscribed {
        match self.consumers.get(group) {
            None => Subscribed::NoGroup,
            Some(group) => group.view().subscribed(topic),
        }
    }

    /// The group's connected members and what they subscribe; `None` when nobody is connected.
    pub fn consumer_group(&self, group: &str) -> Option<Arc<GroupView<P>>> {
        self.consumers.get(group).map(|group| group.view())
    }

    /// Names of the consumer groups with a connected member.
    pub fn consumer_groups(&self) -> Vec<Arc<str>> {
        let entries = self.consumers.entries().into_iter();
        entries.map(|(name, _)| name).collect()
    }

    /// Ids of the group's members; `None` when nobody is connected.
    pub fn consumer_ids(&self, group: &str) -> Option<Vec<Arc<str>>> {
        let view = self.consumer_group(group)?;
        let members = view.members.iter();
        Some(
            members
                .map(|member| Arc::clone(&member.client.id))
                .collect(),
        )
    }

    /// A member of a consumer group by its id.
    pub fn consumer(&self, group: &str, client_id: &str) -> Option<Arc<Client<P>>> {
        let view = self.consumer_group(group)?;
        let member = view
            .members
            .iter()
            .find(|member| &*member.client.id == client_id)?;
        Some(Arc::clone(&member.client))
    }

    /// Groups with a connected member that subscribe `topic`.
    pub fn consumer_groups_of_topic(&self, topic: &str) -> Vec<Arc<str>> {
        let entries = self.consumers.entries().into_iter();
        entries
            .filter(|(_, group)| group.view().subscriptions.contains_key(topic))
            .map(|(name, _)| name)
            .collect()
    }

    /// A connected producer of a group, each in turn.
    pub fn producer_of_group(&self, group: &str) -> Option<Arc<Client<P>>> {
        let group = self.producers.get(group)?;
        let members = group.members.lock();
        let open = members.iter().filter(|client| client.connection.is_open());
        let turn = group.next.fetch_add(1, Ordering::Relaxed);
        let count = open.clone().count();
        open.cycle().nth(turn.checked_rem(count)?).cloned()
    }

    /// Every connected producer of a group; empty when there is none.
    pub fn producers(&self, group: &str) -> Vec<Arc<Client<P>>> {
        let group = self.producers.get(group);
        group.map_or_else(Vec::new, |group| group.members.lock().clone())
    }

    /// Names of the producer groups with a connected member.
    pub fn producer_groups(&self) -> Vec<Arc<str>> {
        let entries = self.producers.entries().into_iter();
        entries.map(|(name, _)| name).collect()
    }

    /// A connected client that sent a heartbeat as a producer, by its id.
    pub fn client(&self, client_id: &str) -> Option<Arc<Client<P>>> {
        self.clients.lock().get(client_id).cloned()
    }

    fn enter(&self, client: &Arc<Client<P>>, data: &HeartbeatData) {
        let mut connections = self.connections.lock();
        let entered = connections.entry(client.connection.id()).or_default();
        for group in &data.producer_data_set {
            insert_name(&mut entered.producer_groups, &group.group_name);
        }
        for group in &data.consumer_data_set {
            insert_name(&mut entered.consumer_groups, &group.group_name);
        }
        let is_producer = !data.producer_data_set.is_empty();
        if is_producer {
            entered.client_ids.insert(Arc::clone(&client.id));
        }
        drop(connections);
        if is_producer {
            let mut clients = self.clients.lock();
            clients.insert(Arc::clone(&client.id), Arc::clone(client));
        }
    }

    /// Whether the group's subscriptions are known, as far as this client tells by its fingerprint.
    ///
    /// # Errors
    /// What the client and the members disagree about, where that is not allowed.
    fn join_consumer_group(
        &self,
        client: &Arc<Client<P>>,
        consumer: &ConsumerData,
        data: &HeartbeatData,
        rules: GroupRules,
    ) -> Result<bool, SubscriptionConflict> {
        let joined = loop {
            let group = self
                .consumers
                .get_or_insert_with(&consumer.group_name, || Arc::new(ConsumerGroup::new()));
            // A group that was emptied and taken out of the table meanwhile takes nobody in.
            match group.join(client, consumer, data, rules.strict, &*self.clock) {
                Entry::Retired => {}
                Entry::Refused(conflict) => return Err(conflict),
                Entry::Joined(joined) => break joined,
            }
        };
        for conflict in &joined.warning {
            let (group, topic) = (&consumer.group_name, &conflict.topic);
            tracing::warn!(group, topic, members = %Opinions(conflict), "members subscribe differently: messages are missed");
        }
        if joined.changed && rules.notify && !joined.view.is_broadcasting() {
            tell_members(&consumer.group_name, &joined.view);
        }
        Ok(joined.subscriptions_known)
    }

    fn leave_consumer_group(&self, connection_id: u64, name: &str) {
        let Some(group) = self.consumers.get(name) else {
            return;
        };
        let Some(view) = group.leave(connection_id) else {
            return;
        };
        if view.members.is_empty() {
            group.retire(|| {
                self.consumers.remove(name);
            });
        } else if !view.is_broadcasting() {
            tell_members(name, &view);
        }
    }

    fn join_producer_group(&self, client: &Arc<Client<P>>, name: &str) {
        loop {
            let group = self.producers.get_or_insert_with(name, || {
                Arc::new(ProducerGroup {
                    members: Mutex::default(),
                    next: AtomicUsize::new(0),
                })
            });
            let mut members = group.members.lock();
            members.retain(|other| other.connection.id() != client.connection.id());
            members.push(Arc::clone(client));
            drop(members);
            let kept = self.producers.get(name);
            if kept.is_some_and(|kept| Arc::ptr_eq(&kept, &group)) {
                return;
            }
        }
    }

    fn leave_producer_group(&self, connection_id: u64, name: &str) {
        if let Some(group) = self.producers.get(name) {
            let mut members = group.members.lock();
            members.retain(|client| client.connection.id() != connection_id);
        }
        let is_empty = |group: &ProducerGroup<P>| group.members.lock().is_empty();
        self.producers.remove_if(name, is_empty);
    }
}

impl<P> std::fmt::Debug for Sessions<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions")
            .field("consumer_groups", &self.consumers.len())
            .field("producer_groups", &self.producers.len())
            .finish_non_exhaustive()
    }
}

/// Who takes what, on one line that has an end.
pub(crate) struct Opinions<'a>(pub(crate) &'a SubscriptionConflict);

impl std::fmt::Display for Opinions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN_MAX: usize = 8;
        let members = &self.0.members;
        for (number, member) in members.iter().take(SHOWN_MAX).enumerate() {
            let comma = if number > 0 { ", " } else { "" };
            let expression = member.expression.as_deref().unwrap_or("nothing");
            write!(f, "{comma}{} takes {expression}", member.client_id)?;
        }
        match members.len().saturating_sub(SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, " and {more} others"),
        }
    }
}

/// Tells every member of a group, the one that caused it included, that it changed.
fn tell_members<P: Peer>(group: &str, view: &GroupView<P>) {
    let notice = Command::request(RequestCode::NotifyConsumerIdsChanged)
        .with_ext("consumerGroup", group)
        .one_way();
    for member in &view.members {
        member.client.connection.tell(&notice);
    }
}

fn insert_name(names: &mut BTreeSet<Arc<str>>, name: &str) {
    if !names.contains(name) {
        names.insert(Arc::from(name));
    }
}

fn monotonic_ms(clock: &dyn Clock) -> u64 {
    u64::try_from(clock.monotonic().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
