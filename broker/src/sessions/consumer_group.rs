//! One consumer group with its connected members and its subscriptions.
//!
//! The view is immutable and replaced whole: a pull sees a group at one moment. Source: Apache `ConsumerGroupInfo`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use agena_protocol::bodies::heartbeat::{
    ConsumeFromWhere, ConsumeType, ConsumerData, HeartbeatData, MessageModel,
};
use agena_protocol::bodies::subscription::SubscriptionData;
use agena_protocol::clock::Clock;
use agena_remoting::connection::Connection;
use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{Client, Peer, Subscribed};
use crate::filter::Filter;

/// By topic, the expression of each member by its id; `None` where a member does not subscribe the topic.
pub(super) type Conflicts = BTreeMap<String, Vec<(Arc<str>, Option<String>)>>;

/// A group with at least one member, or about to get one.
pub struct ConsumerGroup<P = Connection> {
    view: ArcSwap<GroupView<P>>,
    turn: Mutex<Turn>,
}

/// What only the group's writers see.
#[derive(Default)]
struct Turn {
    /// Out of the table: nobody may join any more.
    retired: bool,
    /// Of the last heartbeat that had one, of whichever member.
    fingerprint: Option<i32>,
}

/// A group at one moment.
#[derive(Debug)]
pub struct GroupView<P = Connection> {
    /// How members get messages: what the last heartbeat said.
    pub consume_type: ConsumeType,
    /// Whether members share messages or each gets all: what the last heartbeat said.
    pub message_model: MessageModel,
    /// Where new members begin: what the last heartbeat said.
    pub consume_from_where: ConsumeFromWhere,
    /// By topic: what the last heartbeat said, each as its newest version had it.
    pub subscriptions: HashMap<String, Arc<Subscription>>,
    /// Who is connected.
    pub members: Vec<Arc<Member<P>>>,
}

/// A topic that a group subscribes.
#[derive(Debug)]
pub struct Subscription {
    /// What was announced.
    pub data: Arc<SubscriptionData>,
    /// Its expression, compiled, or what is wrong with it.
    pub filter: Result<Arc<Filter>, Arc<str>>,
}

/// A connected client in a group.
#[derive(Debug)]
pub struct Member<P = Connection> {
    /// The client.
    pub client: Arc<Client<P>>,
    /// What it itself last subscribed, by topic. Members of one group shall agree; where they do not, each takes the others'
    /// subscriptions away with its heartbeat, and this shows who.
    pub subscriptions: BTreeMap<String, Arc<SubscriptionData>>,
}

/// What came of a heartbeat.
pub(super) struct Joined<P> {
    pub(super) view: Arc<GroupView<P>>,
    /// There is a new member, or the topics changed.
    pub(super) changed: bool,
    pub(super) subscriptions_known: bool,
}

impl<P> GroupView<P> {
    /// Every member gets every message.
    pub fn is_broadcasting(&self) -> bool {
        self.message_model == MessageModel::Broadcasting
    }

    /// The group's subscription to a topic.
    pub fn subscribed(&self, topic: &str) -> Subscribed {
        let broadcasting = self.is_broadcasting();
        match self.subscriptions.get(topic) {
            None => Subscribed::NoTopic { broadcasting },
            Some(subscription) => {
                let data = Arc::clone(&subscription.data);
                match &subscription.filter {
                    Ok(filter) => Subscribed::Found {
                        data,
                        filter: Arc::clone(filter),
                        broadcasting,
                    },
                    Err(reason) => Subscribed::Unparsable {
                        data,
                        reason: Arc::clone(reason),
                        broadcasting,
                    },
                }
            }
        }
    }

    /// Topics whose expression the members do not agree about, or that not all of them subscribe: empty in a healthy group.
    pub fn conflicts(&self) -> Conflicts {
        let mut topics: Conflicts = BTreeMap::new();
        for member in &self.members {
            for topic in member.subscriptions.keys() {
                topics.entry(topic.clone()).or_default();
            }
        }
        for (topic, opinions) in &mut topics {
            for member in &self.members {
                let data = member.subscriptions.get(topic);
                let expression = data.map(|data| data.sub_string.clone());
                opinions.push((Arc::clone(&member.client.id), expression));
            }
        }
        topics.retain(|_, opinions| opinions.iter().any(|(_, other)| *other != opinions[0].1));
        topics
    }
}

impl<P: Peer> ConsumerGroup<P> {
    pub(super) fn new() -> Self {
        Self {
            view: ArcSwap::from_pointee(GroupView {
                consume_type: ConsumeType::default(),
                message_model: MessageModel::default(),
                consume_from_where: ConsumeFromWhere::default(),
                subscriptions: HashMap::new(),
                members: Vec::new(),
            }),
            turn: Mutex::default(),
        }
    }

    pub(super) fn view(&self) -> Arc<GroupView<P>> {
        self.view.load_full()
    }

    /// Takes a heartbeat in; `None` when the group was retired meanwhile.
    pub(super) fn join(
        &self,
        client: &Arc<Client<P>>,
        consumer: &ConsumerData,
        heartbeat: &HeartbeatData,
        clock: &dyn Clock,
    ) -> Option<Joined<P>> {
        let mut turn = self.turn.lock();
        if turn.retired {
            return None;
        }
        let fingerprint_agrees = turn.takes_fingerprint(heartbeat.heartbeat_fingerprint);
        let before = self.view.load_full();
        let position = before.position(client.connection.id());
        let subscriptions = if heartbeat.without_sub {
            None
        } else {
            before.with_subscriptions(&consumer.subscription_data_set)
        };
        let announced = (!heartbeat.without_sub).then(|| by_topic(&consumer.subscription_data_set));
        if let (Some(at), None) = (position, &subscriptions)
            && before.is_as_announced(at, client, consumer, announced.as_ref())
        {
            before.members[at].client.refresh(clock);
            return Some(Joined {
                changed: false,
                subscriptions_known: fingerprint_agrees && !before.subscriptions.is_empty(),
                view: before,
            });
        }
        let topics_changed = subscriptions
            .as_ref()
            .is_some_and(|new| !same_keys(new, &before.subscriptions));
        let view = Arc::new(GroupView {
            consume_type: consumer.consume_type,
            message_model: consumer.message_model,
            consume_from_where: consumer.consume_from_where,
            members: before.with_member(position, client, announced),
            subscriptions: subscriptions.unwrap_or_else(|| before.subscriptions.clone()),
        });
        self.view.store(Arc::clone(&view));
        Some(Joined {
            changed: position.is_none() || topics_changed,
            subscriptions_known: fingerprint_agrees && !view.subscriptions.is_empty(),
            view,
        })
    }

    /// The group without the member of this connection; `None` when it has no such member.
    pub(super) fn leave(&self, connection_id: u64) -> Option<Arc<GroupView<P>>> {
        let _turn = self.turn.lock();
        let before = self.view.load_full();
        let at = before.position(connection_id)?;
        let mut members = before.members.clone();
        members.remove(at);
        let view = Arc::new(GroupView {
            consume_type: before.consume_type,
            message_model: before.message_model,
            consume_from_where: before.consume_from_where,
            subscriptions: before.subscriptions.clone(),
            members,
        });
        self.view.store(Arc::clone(&view));
        Some(view)
    }

    /// Ends an empty group: `remove` takes it out of the table while nobody can join.
    pub(super) fn retire(&self, remove: impl FnOnce()) {
        let mut turn = self.turn.lock();
        if !turn.retired && self.view.load().members.is_empty() {
            turn.retired = true;
            remove();
        }
    }
}

impl Turn {
    /// Remembers the fingerprint; false when the group had another one. Zero is none (a client of the first form).
    fn takes_fingerprint(&mut self, fingerprint: i32) -> bool {
        if fingerprint == 0 {
            return true;
        }
        let before = self.fingerprint.replace(fingerprint);
        before.is_none_or(|before| before == fingerprint)
    }
}

impl<P: Peer> GroupView<P> {
    fn position(&self, connection_id: u64) -> Option<usize> {
        let mut members = self.members.iter();
        members.position(|member| member.client.connection.id() == connection_id)
    }

    /// The subscriptions after a heartbeat that announces `announced`; `None` when they stay as they are. A topic's data is replaced
    /// by a newer version only; topics that are not announced go.
    fn with_subscriptions(
        &self,
        announced: &[SubscriptionData],
    ) -> Option<HashMap<String, Arc<Subscription>>> {
        let mut after = HashMap::with_capacity(announced.len());
        let mut replaced = false;
        for data in announced {
            let kept = self
                .subscriptions
                .get(&data.topic)
                .filter(|present| present.data.sub_version >= data.sub_version);
            replaced |= kept.is_none();
            let subscription = kept
                .cloned()
                .unwrap_or_else(|| Arc::new(Subscription::of(data)));
            after.insert(data.topic.clone(), subscription);
        }
        (replaced || after.len() != self.subscriptions.len()).then_some(after)
    }

    /// The member at `at` is this client and says nothing new.
    fn is_as_announced(
        &self,
        at: usize,
        client: &Client<P>,
        consumer: &ConsumerData,
        announced: Option<&BTreeMap<String, Arc<SubscriptionData>>>,
    ) -> bool {
        let member = &self.members[at];
        self.consume_type == consumer.consume_type
            && self.message_model == consumer.message_model
            && self.consume_from_where == consumer.consume_from_where
            && member.client.id == client.id
            && member.client.version == client.version
            && announced.is_none_or(|announced| *announced == member.subscriptions)
    }

    fn with_member(
        &self,
        position: Option<usize>,
        client: &Arc<Client<P>>,
        announced: Option<BTreeMap<String, Arc<SubscriptionData>>>,
    ) -> Vec<Arc<Member<P>>> {
        let mut members = self.members.clone();
        let present = position.map(|at| &self.members[at]);
        let subscriptions = announced
            .or_else(|| present.map(|member| member.subscriptions.clone()))
            .unwrap_or_default();
        let member = Arc::new(Member {
            client: Arc::clone(client),
            subscriptions,
        });
        match position {
            Some(at) => members[at] = member,
            None => members.push(member),
        }
        members
    }
}

impl Subscription {
    fn of(data: &SubscriptionData) -> Self {
        let filter = Filter::compile(data)
            .map(Arc::new)
            .map_err(|fault| Arc::from(fault.to_string()));
        Self {
            data: Arc::new(data.clone()),
            filter,
        }
    }
}

fn by_topic(announced: &[SubscriptionData]) -> BTreeMap<String, Arc<SubscriptionData>> {
    let pairs = announced.iter();
    pairs
        .map(|data| (data.topic.clone(), Arc::new(data.clone())))
        .collect()
}

fn same_keys<V>(a: &HashMap<String, V>, b: &HashMap<String, V>) -> bool {
    a.len() == b.len() && a.keys().all(|key| b.contains_key(key))
}

impl<P> std::fmt::Debug for ConsumerGroup<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsumerGroup")
            .field("members", &self.view.load().members.len())
            .finish_non_exhaustive()
    }
}
