//! One consumer group with its connected members and its subscriptions.
//!
//! The view is immutable and replaced whole: a pull sees a group at one moment. Source: Apache `ConsumerGroupInfo`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agena_protocol::bodies::connections::{MemberExpression, SubscriptionConflict};
use agena_protocol::bodies::heartbeat::{
    ConsumeFromWhere, ConsumeType, ConsumerData, HeartbeatData, MessageModel,
};
use agena_protocol::bodies::subscription::SubscriptionData;
use agena_protocol::clock::Clock;
use agena_remoting::connection::Connection;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{Client, Peer, Subscribed};
use crate::filter::Filter;

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
    /// What operators were last told that the members disagree about.
    warned: Vec<SubscriptionConflict>,
    /// When, on the monotonic clock.
    warned_at: Option<Duration>,
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
    /// Its expression, compiled, or what is wrong with it: then a pull is refused by name.
    pub filter: Result<Arc<Filter>, Arc<str>>,
    /// When the first pull came that knows a newer version.
    outdated_since: OnceLock<Duration>,
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

/// Pause between two lines about the members of one group that disagree.
const WARNING_PAUSE: Duration = Duration::from_secs(10);

/// What came of a heartbeat.
pub(super) enum Entry<P> {
    /// The group was retired meanwhile.
    Retired,
    /// The member subscribes differently from others, and that is not allowed.
    Refused(SubscriptionConflict),
    /// It is a member.
    Joined(Joined<P>),
}

/// A heartbeat that counts.
pub(super) struct Joined<P> {
    pub(super) view: Arc<GroupView<P>>,
    /// There is a new member, or the topics changed.
    pub(super) changed: bool,
    pub(super) subscriptions_known: bool,
    /// What the members disagree about, when operators are to be told.
    pub(super) warning: Vec<SubscriptionConflict>,
}

impl<P> GroupView<P> {
    /// Every member gets every message.
    pub fn is_broadcasting(&self) -> bool {
        self.message_model == MessageModel::Broadcasting
    }

    /// The member of a connection.
    pub fn member(&self, connection_id: u64) -> Option<&Arc<Member<P>>>
    where
        P: Peer,
    {
        let mut members = self.members.iter();
        members.find(|member| member.client.connection.id() == connection_id)
    }

    /// The group's subscription to a topic.
    pub fn subscribed(&self, topic: &str) -> Subscribed {
        let broadcasting = self.is_broadcasting();
        match self.subscriptions.get(topic) {
            None => Subscribed::NoTopic { broadcasting },
            Some(subscription) => Subscribed::Found {
                subscription: Arc::clone(subscription),
                broadcasting,
            },
        }
    }

    /// Topics that the members do not subscribe alike: empty in a healthy group. The same tags in another order are alike.
    pub fn conflicts(&self) -> Vec<SubscriptionConflict> {
        // Who sent short heartbeats only has not said anything yet.
        let members = self.members.iter();
        let members: SmallVec<[_; 8]> = members
            .filter(|member| !member.subscriptions.is_empty())
            .collect();
        let [first, others @ ..] = members.as_slice() else {
            return Vec::new();
        };
        let differs = |topic: &str| {
            let expected = first.subscriptions.get(topic);
            let mut others = others.iter();
            others.any(|other| !alike(expected, other.subscriptions.get(topic)))
        };
        let topics = members
            .iter()
            .flat_map(|member| member.subscriptions.keys());
        let topics: BTreeSet<&String> = topics.collect();
        let conflicts = topics.into_iter().filter(|topic| differs(topic));
        conflicts
            .map(|topic| SubscriptionConflict {
                topic: topic.clone(),
                members: expressions(&members, topic),
            })
            .collect()
    }
}

fn expressions<P>(members: &[&Arc<Member<P>>], topic: &str) -> Vec<MemberExpression> {
    let members = members.iter();
    members
        .map(|member| MemberExpression {
            client_id: member.client.id.to_string(),
            expression: member
                .subscriptions
                .get(topic)
                .map(|data| data.sub_string.clone()),
        })
        .collect()
}

/// Both members want the same messages of a topic, as far as their expressions tell.
fn alike(a: Option<&Arc<SubscriptionData>>, b: Option<&Arc<SubscriptionData>>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            let by_tags = a.is_by_tags() && b.is_by_tags() && !a.tags_set.is_empty();
            a.expression_type == b.expression_type
                && (a.sub_string == b.sub_string || (by_tags && a.tags_set == b.tags_set))
        }
        _ => false,
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

    /// Takes a heartbeat in. `strict`: not one that subscribes differently from the other members.
    pub(super) fn join(
        &self,
        client: &Arc<Client<P>>,
        consumer: &ConsumerData,
        heartbeat: &HeartbeatData,
        strict: bool,
        clock: &dyn Clock,
    ) -> Entry<P> {
        let mut turn = self.turn.lock();
        if turn.retired {
            return Entry::Retired;
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
            return Entry::Joined(Joined {
                changed: false,
                subscriptions_known: fingerprint_agrees && !before.subscriptions.is_empty(),
                warning: Vec::new(),
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
        let mut conflicts = view.conflicts();
        if strict && let Some(conflict) = conflicts.pop() {
            // It stays what it was, if it was a member; that it is there is no question.
            if let Some(at) = position {
                before.members[at].client.refresh(clock);
            }
            return Entry::Refused(conflict);
        }
        self.view.store(Arc::clone(&view));
        Entry::Joined(Joined {
            changed: position.is_none() || topics_changed,
            subscriptions_known: fingerprint_agrees && !view.subscriptions.is_empty(),
            warning: turn.warning(conflicts, clock.monotonic()),
            view,
        })
    }

    /// The group without the member of this connection; `None` when it has no such member.
    pub(super) fn leave(&self, connection_id: u64) -> Option<Arc<GroupView<P>>> {
        let mut turn = self.turn.lock();
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
        if !turn.warned.is_empty() {
            turn.warned = view.conflicts();
        }
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

    /// What of `conflicts` is to be told: nothing that was told already, and nothing soon after the last time.
    fn warning(
        &mut self,
        conflicts: Vec<SubscriptionConflict>,
        now: Duration,
    ) -> Vec<SubscriptionConflict> {
        let is_early = self
            .warned_at
            .is_some_and(|at| now.saturating_sub(at) < WARNING_PAUSE);
        if conflicts == self.warned || (is_early && !conflicts.is_empty()) {
            return Vec::new();
        }
        if !conflicts.is_empty() {
            self.warned_at = Some(now);
        }
        self.warned.clone_from(&conflicts);
        conflicts
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
            outdated_since: OnceLock::new(),
        }
    }

    /// A pull knows a newer version than any heartbeat announced. Returns for how long that has been so.
    pub(crate) fn outdated_for(&self, now: Duration) -> Duration {
        now.saturating_sub(*self.outdated_since.get_or_init(|| now))
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
