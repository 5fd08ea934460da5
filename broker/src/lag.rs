//! Why a group is behind: our own request 900002.
//!
//! For every queue that a group subscribes, pulled or committed, the facts are put together as of now (offsets, the
//! group's [`trail`](crate::offsets::trail), order locks, settings, members), and [`causes`] tells from them what stands
//! in the way. What failed and waits for its next try is read from the log itself ([`retries`]), so it is there after a
//! restart too. Everything runs on a clerk; pulls and commits pay only for the trail.

mod causes;
mod retries;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agena_protocol::bodies::connections::SubscriptionConflict;
use agena_protocol::bodies::lag::{Contact, LagExplanation, OrderLock, QueueLag};
use agena_protocol::bodies::topic_config::TopicConfig;
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::headers::admin::GetConsumeStatsRequest;
use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::properties;
use agena_protocol::queue::QueueId;
use agena_protocol::record::RecordView;
use agena_protocol::response_code::ResponseCode;
use agena_protocol::topic;
use agena_remoting::connection::Connection;

use crate::broker::Broker;
use crate::groups::Group;
use crate::offsets::trail::Visit;
use crate::order_locks::HeldLock;
use crate::send::Refused;
use crate::sessions::GroupView;
use causes::{Facts, Subscription};
use retries::Retries;

/// Request 900002: of the topic named, or of all that the group has to do with.
///
/// # Errors
/// Code 26 when nobody knows the group.
pub(crate) fn explain(
    broker: &Arc<Broker>,
    _: &Arc<Connection>,
    request: &Command,
) -> Result<Command, Refused> {
    let header: GetConsumeStatsRequest<'_> = request.header()?;
    let name = header.consumer_group;
    let group = broker.groups.group(name).ok_or_else(|| {
        let remark = format!("subscription group [{name}] does not exist");
        Refused::new(ResponseCode::SubscriptionGroupNotExist, remark)
    })?;
    let asked = Asked::new(broker, &group);
    let topics = match header.topic.filter(|topic| !topic.is_empty()) {
        Some(topic) => BTreeSet::from([topic.to_owned(), topic::retry_of(name)]),
        None => asked.topics(),
    };
    let explanation = asked.explain(&topics);
    Ok(Command::success().with_body(fastjson::to_vec(&explanation, KeyStyle::Bare)))
}

/// A group as it is asked about.
struct Asked<'a> {
    broker: &'a Broker,
    group: &'a Group,
    /// The members, while there are any.
    view: Option<Arc<GroupView>>,
    conflicts: Vec<SubscriptionConflict>,
    now_ms: i64,
}

impl<'a> Asked<'a> {
    fn new(broker: &'a Broker, group: &'a Group) -> Self {
        let view = broker.sessions.consumer_group(group.name());
        let view = view.filter(|view| !view.members.is_empty());
        Self {
            broker,
            group,
            conflicts: view.as_ref().map_or_else(Vec::new, |view| view.conflicts()),
            view,
            now_ms: broker.clock.now_ms(),
        }
    }

    /// What the group subscribes, or once pulled or committed, and its retry topic.
    fn topics(&self) -> BTreeSet<String> {
        let mut topics = self.broker.offsets.visited_topics(self.group.name());
        if let Some(view) = &self.view {
            topics.extend(view.subscriptions.keys().cloned());
        }
        topics.insert(topic::retry_of(self.group.name()));
        topics
    }

    fn explain(&self, topics: &BTreeSet<String>) -> LagExplanation {
        let name = self.group.name();
        let retries = Retries::of_group(self.broker, name);
        let locks = self.broker.order_locks.held(name);
        let locks: BTreeMap<_, _> = locks
            .iter()
            .map(|lock| ((lock.queue.topic.as_str(), lock.queue.queue_id), lock))
            .collect();
        let mut queues = Vec::new();
        for topic in topics {
            let Some(config) = self.broker.topics.get(topic) else {
                continue;
            };
            for number in 0..config.read_queue_nums.max(0) {
                let Some(queue) = QueueId::from_wire(number) else {
                    continue;
                };
                let lock = locks.get(&(topic.as_str(), number)).copied();
                queues.push(self.queue(&config, queue, lock, &retries));
            }
        }
        let view = self.view.as_ref();
        LagExplanation {
            group: name.to_owned(),
            broker_name: self.broker.identity.name.clone(),
            members: view.map_or_else(Vec::new, |view| {
                let members = view.members.iter();
                members.map(|member| member.client.id.to_string()).collect()
            }),
            broadcasting: view.is_some_and(|view| view.is_broadcasting()),
            subscription_conflicts: self.conflicts.clone(),
            queues,
        }
    }

    fn queue(
        &self,
        config: &TopicConfig,
        queue: QueueId,
        lock: Option<&HeldLock>,
        retries: &Retries,
    ) -> QueueLag {
        let (name, topic) = (self.group.name(), config.topic_name.as_str());
        let (store, offsets) = (&self.broker.store, &self.broker.offsets);
        let min = store.min_offset(topic, queue);
        // A topic that is deleted in between has no end any more.
        let max = store.max_offset(topic, queue).max(min);
        let committed = offsets.committed_at(name, topic, queue);
        let next = committed.unwrap_or(min).clamp(min, max);
        let trail = offsets.trail(name, topic, queue);
        let paced = trail
            .as_ref()
            .and_then(|trail| trail.backlog_bytes())
            .and_then(|_| {
                let limit = self.broker.config.get().backlog_bytes_per_second;
                self.broker.backlog_pace.bytes_per_second(limit)
            });
        let steps = trail.map(|trail| trail.steps()).unwrap_or_default();
        let recent = steps.recent(self.now_ms, max.wire());
        let mut lag = QueueLag {
            topic: topic.to_owned(),
            queue_id: queue.wire(),
            min_offset: min.wire(),
            max_offset: max.wire(),
            committed: committed.map(QueueOffset::wire),
            lag: max.wire() - next.wire(),
            behind_ms: self.age_of(topic, queue, next, max),
            in_flight: steps.in_flight().min(max.wire() - next.wire()),
            last_pull: steps.pulled.as_ref().map(|visit| self.contact(visit)),
            last_commit: steps.committed.as_ref().map(|visit| self.contact(visit)),
            lock: lock.map(|lock| self.order_lock(lock)),
            in_per_second: recent.rates.map(|(came, _)| came),
            out_per_second: recent.rates.map(|(_, went)| went),
            causes: Vec::new(),
        };
        let facts = Facts {
            now_ms: self.now_ms,
            broker_permission: i32::try_from(self.broker.config.get().broker_permission)
                .unwrap_or(0),
            topic_permission: config.perm,
            group_disabled: !self.group.may_consume(),
            topic_forbidden: self.group.forbids_reading(topic),
            reset: offsets.pending_reset(name, topic, queue),
            broadcasting: self
                .view
                .as_ref()
                .is_some_and(|view| view.is_broadcasting()),
            members: self.view.as_ref().map_or(0, |view| view.members.len()),
            subscription: self.subscription(topic),
            held: self.broker.hold.holds(name, topic, queue),
            stalled_since_ms: steps.stalled_since_ms,
            cold_ms: steps.cold_ms,
            paced,
            recent,
            first_message_id: &|| self.message_id(topic, queue, next),
            retries: retries.of_queue(topic, queue),
        };
        lag.causes = causes::of(&lag, &facts);
        lag
    }

    fn subscription(&self, topic: &str) -> Option<Subscription> {
        let view = self.view.as_ref()?;
        let subscription = view.subscriptions.get(topic)?;
        let mut conflicts = self.conflicts.iter();
        Some(Subscription {
            expression_type: subscription.data.expression_type.clone(),
            expression: subscription.data.sub_string.clone(),
            fault: subscription
                .filter
                .as_ref()
                .err()
                .map(|reason| reason.to_string()),
            conflict: conflicts
                .find(|conflict| conflict.topic == topic)
                .map_or_else(Vec::new, |conflict| conflict.members.clone()),
        })
    }

    fn contact(&self, visit: &Visit) -> Contact {
        let connection = visit.visitor.connection;
        let view = self.view.as_ref();
        let member = view.and_then(|view| view.member(connection));
        let now = member.map(|member| member.client.id.to_string());
        let then = || visit.client_id.as_deref().map(str::to_owned);
        Contact {
            at: visit.visitor.at_ms,
            connected: member.is_some(),
            by: now
                .or_else(then)
                .unwrap_or_else(|| visit.visitor.peer.to_string()),
            offset: visit.offset,
        }
    }

    fn order_lock(&self, lock: &HeldLock) -> OrderLock {
        let remaining_ms = i64::try_from(lock.remaining.as_millis()).unwrap_or(i64::MAX);
        let members = self.view.iter().flat_map(|view| &view.members);
        OrderLock {
            client_id: lock.client_id.to_string(),
            until: self.now_ms.saturating_add(remaining_ms),
            connected: members
                .into_iter()
                .any(|member| member.client.id == lock.client_id),
        }
    }

    /// For how long the message at `offset` has been waiting, ms.
    fn age_of(&self, topic: &str, queue: QueueId, offset: QueueOffset, max: QueueOffset) -> i64 {
        if offset >= max {
            return 0;
        }
        let stored = self.broker.store.store_time_at(topic, queue, offset);
        stored.map_or(0, |stored| self.now_ms.saturating_sub(stored).max(0))
    }

    /// The id of a message as its producer knows it, or else its place.
    fn message_id(&self, topic: &str, queue: QueueId, offset: QueueOffset) -> Option<String> {
        let entry = self.broker.store.entries(topic, queue, offset, 1).pop()?;
        let place = PhysicalOffset::new(entry.physical_offset);
        let slice = self.broker.store.record_at(place)?;
        let record = RecordView::parse_unsummed(&slice).ok()?;
        Some(id_of(&record))
    }
}

/// The id of a message as its producer knows it, or else its place.
fn id_of(record: &RecordView<'_>) -> String {
    let unique = record.properties().get(properties::UNIQ_KEY);
    unique.map_or_else(|| record.offset_id().to_string(), str::to_owned)
}
