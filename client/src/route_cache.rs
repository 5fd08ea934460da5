//! Where topics live: routes as the name servers told them, and the addresses of brokers drawn from them.
//!
//! A route is an immutable snapshot; whoever holds one is not disturbed by a change. Apache: `TopicRouteData`,
//! `TopicPublishInfo`, `MQClientInstance.brokerAddrTable`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use agena_protocol::bodies::route::TopicRouteData;
use agena_protocol::queue::MessageQueue;
use parking_lot::{Mutex, RwLock};

use crate::error::ClientError;

/// Broker id of masters.
pub(crate) const MASTER_ID: i64 = 0;

const PERM_READ: i32 = 4;
const PERM_WRITE: i32 = 2;

/// The route of one topic.
#[derive(Debug)]
pub struct TopicRoute {
    /// As the name server told it.
    pub data: TopicRouteData,
    publish: Vec<MessageQueue>,
    subscribe: Vec<MessageQueue>,
    /// Whose turn it is among the writable queues.
    pub(crate) turn: AtomicUsize,
    /// The topic does not exist yet: this is where it would be created by the first message.
    pub(crate) provisional: bool,
}

impl TopicRoute {
    pub(crate) fn new(topic: &str, data: TopicRouteData) -> Self {
        Self {
            publish: publish_queues(topic, &data),
            subscribe: subscribe_queues(topic, &data),
            data,
            turn: AtomicUsize::new(fastrand::usize(..)),
            provisional: false,
        }
    }

    /// The route of the template topic, as `topic` would get it on being created by a first message.
    pub(crate) fn provisional(topic: &str, mut data: TopicRouteData, queues_max: i32) -> Self {
        for queue in &mut data.queue_datas {
            let count = queue.read_queue_nums.min(queues_max);
            queue.read_queue_nums = count;
            queue.write_queue_nums = count;
        }
        Self {
            provisional: true,
            ..Self::new(topic, data)
        }
    }

    /// Queues that may be written: those of brokers with a live master and write permission, sorted.
    #[must_use]
    pub fn publish_queues(&self) -> &[MessageQueue] {
        &self.publish
    }

    /// Queues that may be read, sorted.
    #[must_use]
    pub fn subscribe_queues(&self) -> &[MessageQueue] {
        &self.subscribe
    }
}

fn publish_queues(topic: &str, data: &TopicRouteData) -> Vec<MessageQueue> {
    let mut queues = Vec::new();
    if let Some(order) = data.order_topic_conf.as_deref().filter(|it| !it.is_empty()) {
        // `broker-a:2;broker-b:4`: an ordered topic keeps its queues in the list even while a broker is away, so that
        // keys stay where they are.
        for part in order.split(';') {
            let Some((broker, count)) = part.split_once(':') else {
                continue;
            };
            let count = count.parse::<i32>().unwrap_or(0);
            queues.extend((0..count).map(|id| MessageQueue::new(topic, broker, id)));
        }
        return queues;
    }
    for queue in &data.queue_datas {
        let has_master = data.broker_datas.iter().any(|broker| {
            broker.broker_name == queue.broker_name && broker.broker_addrs.contains_key(&MASTER_ID)
        });
        if queue.perm & PERM_WRITE != 0 && has_master {
            queues.extend(
                (0..queue.write_queue_nums)
                    .map(|id| MessageQueue::new(topic, &*queue.broker_name, id)),
            );
        }
    }
    queues.sort();
    queues
}

fn subscribe_queues(topic: &str, data: &TopicRouteData) -> Vec<MessageQueue> {
    let mut queues: Vec<_> = data
        .queue_datas
        .iter()
        .filter(|queue| queue.perm & PERM_READ != 0)
        .flat_map(|queue| {
            (0..queue.read_queue_nums).map(|id| MessageQueue::new(topic, &*queue.broker_name, id))
        })
        .collect();
    queues.sort();
    queues
}

/// Routes in use and the brokers they name.
#[derive(Debug, Default)]
pub(crate) struct RouteCache {
    routes: RwLock<HashMap<String, Arc<TopicRoute>>>,
    brokers: RwLock<HashMap<String, BTreeMap<i64, String>>>,
    /// One look-up of a topic at a time: whoever comes second uses what the first one found.
    lookups: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl RouteCache {
    pub(crate) fn get(&self, topic: &str) -> Option<Arc<TopicRoute>> {
        self.routes.read().get(topic).cloned()
    }

    pub(crate) fn topics(&self) -> Vec<String> {
        self.routes.read().keys().cloned().collect()
    }

    pub(crate) fn lookup_of(&self, topic: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut lookups = self.lookups.lock();
        // Locks nobody holds are forgotten once there are many, or a client of many topics would grow.
        if lookups.len() >= 1024 {
            lookups.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        Arc::clone(lookups.entry(topic.to_owned()).or_default())
    }

    /// Takes a route in. Says whether it differs from the one before, and whether it names a new broker address.
    pub(crate) fn put(&self, topic: &str, route: TopicRoute) -> Learned {
        let mut learned = Learned {
            route_changed: true,
            broker_added: false,
        };
        {
            let mut brokers = self.brokers.write();
            for broker in &route.data.broker_datas {
                let known = brokers.entry(broker.broker_name.clone()).or_default();
                if *known != broker.broker_addrs {
                    known.clone_from(&broker.broker_addrs);
                    learned.broker_added = true;
                }
            }
        }
        let mut routes = self.routes.write();
        if let Some(before) = routes.get(topic) {
            learned.route_changed =
                before.data != route.data || before.provisional != route.provisional;
        }
        if learned.route_changed {
            routes.insert(topic.to_owned(), Arc::new(route));
        }
        learned
    }

    /// Forgets brokers that no route names any more.
    pub(crate) fn forget_unrouted_brokers(&self) {
        let routes = self.routes.read();
        let is_routed = |name: &str| {
            routes.values().any(|route| {
                route
                    .data
                    .broker_datas
                    .iter()
                    .any(|broker| broker.broker_name == name)
            })
        };
        self.brokers.write().retain(|name, _| is_routed(name));
    }

    /// The master's address.
    pub(crate) fn master(&self, broker: &str) -> Result<String, ClientError> {
        self.address(broker, MASTER_ID, true)
            .map(|(address, _)| address)
    }

    /// The address of a replica by id and whether it is the master. Unless it must be exactly that one: the next id, or
    /// any, if it is away.
    pub(crate) fn address(
        &self,
        broker: &str,
        id: i64,
        exactly: bool,
    ) -> Result<(String, bool), ClientError> {
        let brokers = self.brokers.read();
        let unknown = || ClientError::UnknownBroker {
            broker: broker.to_owned(),
        };
        let replicas = brokers.get(broker).ok_or_else(unknown)?;
        let found = replicas.get_key_value(&id).or_else(|| {
            if exactly {
                return None;
            }
            let next = (id != MASTER_ID).then(|| replicas.get_key_value(&(id + 1)));
            next.flatten().or_else(|| replicas.first_key_value())
        });
        let (id, address) = found.ok_or_else(unknown)?;
        Ok((address.clone(), *id == MASTER_ID))
    }

    /// Name, id and address of every broker known.
    pub(crate) fn all_brokers(&self) -> Vec<(String, i64, String)> {
        let brokers = self.brokers.read();
        let mut all = Vec::new();
        for (name, replicas) in brokers.iter() {
            for (id, address) in replicas {
                all.push((name.clone(), *id, address.clone()));
            }
        }
        all
    }
}

/// What a new route brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Learned {
    pub(crate) route_changed: bool,
    pub(crate) broker_added: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use agena_protocol::bodies::route::{BrokerData, QueueData};

    fn broker(name: &str, addresses: &[(i64, &str)]) -> BrokerData {
        BrokerData {
            cluster: "c".into(),
            broker_name: name.into(),
            broker_addrs: addresses
                .iter()
                .map(|(id, address)| (*id, (*address).to_owned()))
                .collect(),
            ..BrokerData::default()
        }
    }

    fn queue(broker: &str, read: i32, write: i32, perm: i32) -> QueueData {
        QueueData {
            broker_name: broker.into(),
            read_queue_nums: read,
            write_queue_nums: write,
            perm,
            ..QueueData::default()
        }
    }

    fn data() -> TopicRouteData {
        TopicRouteData {
            broker_datas: vec![
                broker("b", &[(0, "b:0"), (1, "b:1")]),
                broker("a", &[(1, "a:1"), (3, "a:3")]),
            ],
            queue_datas: vec![queue("b", 2, 1, 6), queue("a", 1, 1, 6)],
            ..TopicRouteData::default()
        }
    }

    #[test]
    fn writing_needs_a_master_and_reading_does_not() {
        let route = TopicRoute::new("T", data());
        assert_eq!(route.publish_queues(), [MessageQueue::new("T", "b", 0)]);
        assert_eq!(
            route.subscribe_queues(),
            [
                MessageQueue::new("T", "a", 0),
                MessageQueue::new("T", "b", 0),
                MessageQueue::new("T", "b", 1)
            ]
        );
    }

    #[test]
    fn permissions_count() {
        let mut data = data();
        data.queue_datas = vec![queue("b", 2, 2, PERM_READ)];
        let route = TopicRoute::new("T", data.clone());
        assert_eq!(route.publish_queues().len(), 0);
        assert_eq!(route.subscribe_queues().len(), 2);
        data.queue_datas = vec![queue("b", 2, 2, PERM_WRITE)];
        let route = TopicRoute::new("T", data);
        assert_eq!(route.publish_queues().len(), 2);
        assert_eq!(route.subscribe_queues().len(), 0);
    }

    #[test]
    fn an_ordered_topic_keeps_its_queues() {
        let mut data = data();
        data.order_topic_conf = Some("z:1;a:2".into());
        let route = TopicRoute::new("T", data);
        assert_eq!(
            route.publish_queues(),
            [
                MessageQueue::new("T", "z", 0),
                MessageQueue::new("T", "a", 0),
                MessageQueue::new("T", "a", 1)
            ]
        );
    }

    #[test]
    fn a_replica_that_is_away_is_replaced_only_where_that_is_allowed() {
        let cache = RouteCache::default();
        let learned = cache.put("T", TopicRoute::new("T", data()));
        assert!(learned.route_changed && learned.broker_added);
        assert_eq!(cache.master("b").unwrap(), "b:0");
        assert!(cache.master("a").is_err());
        let address = |id| cache.address("a", id, false).unwrap();
        assert_eq!(address(0), ("a:1".into(), false));
        assert_eq!(address(2), ("a:3".into(), false));
        assert_eq!(address(7), ("a:1".into(), false));
        assert_eq!(cache.address("b", 0, false).unwrap(), ("b:0".into(), true));
        assert!(cache.address("c", 0, false).is_err());
        let again = cache.put("T", TopicRoute::new("T", data()));
        assert!(!again.route_changed && !again.broker_added);
        cache.put("T", TopicRoute::new("T", TopicRouteData::default()));
        cache.forget_unrouted_brokers();
        assert!(cache.all_brokers().is_empty());
    }
}
