//! What brokers told: which topics are where, under which address, and when they were last heard of. Pure state: no
//! lock, no clock, no wire. Apache: `RouteInfoManager`; source: spec/semantics.md §1.
//!
//! A topic is on a broker name, a broker name stands for a group of replicas by id, and each replica that is alive has
//! a live entry by cluster and address. Every operation says which topics' answers it changes ([`Touched`]).

pub(crate) mod look;
pub(crate) mod register;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::bodies::data_version::DataVersion;
use agena_protocol::bodies::route::{MASTER_ID, QueueData};
use agena_protocol::bodies::static_topic::TopicQueueMappingInfo;
use agena_protocol::bodies::topic_config::{PERM_READ, PERM_WRITE};

/// A replica as requests name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) cluster: String,
    pub(crate) broker: String,
    pub(crate) id: i64,
    pub(crate) address: String,
}

/// The smallest id of a broker group changed; the others want to know (905).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MinIdChange {
    pub(crate) broker: String,
    pub(crate) min_id: i64,
    pub(crate) min_address: String,
    pub(crate) offline_address: Option<String>,
    pub(crate) ha_address: Option<String>,
    pub(crate) recipients: Vec<String>,
}

/// Topics whose answers are not the same as before.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Touched {
    #[default]
    Nothing,
    Topics(Vec<String>),
    /// A broker's addresses changed, and it may have any topic.
    Everything,
}

impl Touched {
    fn topic(&mut self, topic: &str) {
        match self {
            Self::Nothing => *self = Self::Topics(vec![topic.to_owned()]),
            Self::Topics(topics) => topics.push(topic.to_owned()),
            Self::Everything => {}
        }
    }
}

/// A topic's queues on one broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Queues {
    read: i32,
    write: i32,
    perm: i32,
    sys_flag: i32,
}

/// A topic's queues by broker name, sorted; most topics are on few brokers.
#[derive(Debug, Default)]
struct OnBrokers(Vec<(Arc<str>, Queues)>);

impl OnBrokers {
    fn find(&self, broker: &str) -> Result<usize, usize> {
        self.0
            .binary_search_by(|(name, _)| name.as_ref().cmp(broker))
    }

    fn get_mut(&mut self, broker: &str) -> Option<&mut Queues> {
        let at = self.find(broker).ok()?;
        Some(&mut self.0[at].1)
    }

    /// True if that changed something.
    fn set(&mut self, broker: &Arc<str>, queues: Queues) -> bool {
        match self.find(broker) {
            Ok(at) => std::mem::replace(&mut self.0[at].1, queues) != queues,
            Err(at) => {
                self.0.insert(at, (broker.clone(), queues));
                true
            }
        }
    }

    fn remove(&mut self, broker: &str) -> bool {
        self.find(broker).map(|at| self.0.remove(at)).is_ok()
    }
}

#[derive(Debug, Default)]
struct BrokerGroup {
    cluster: String,
    addresses: BTreeMap<i64, String>,
    enable_acting_master: bool,
    zone: Option<String>,
}

impl BrokerGroup {
    fn min_id(&self) -> Option<i64> {
        self.addresses.keys().next().copied()
    }

    fn min_id_change(
        &self,
        broker: &str,
        offline_address: Option<String>,
        ha_address: Option<String>,
    ) -> Option<MinIdChange> {
        let (&min_id, min_address) = self.addresses.first_key_value()?;
        // A new smallest one is known to itself.
        let all = offline_address.is_some() || self.addresses.len() == 1;
        let recipients = self
            .addresses
            .iter()
            .filter(|(id, _)| all || **id != min_id)
            .map(|(_, address)| address.clone())
            .collect();
        Some(MinIdChange {
            broker: broker.to_owned(),
            min_id,
            min_address: min_address.clone(),
            offline_address,
            ha_address,
            recipients,
        })
    }
}

#[derive(Debug)]
struct Live {
    broker: String,
    id: i64,
    last_heard: Duration,
    timeout: Duration,
    data_version: DataVersion,
    connection: u64,
    ha_address: String,
}

/// Cluster and address.
type LiveKey = (String, String);

#[derive(Debug, Default)]
pub(crate) struct Tables {
    topics: HashMap<String, OnBrokers>,
    brokers: BTreeMap<String, BrokerGroup>,
    clusters: BTreeMap<String, BTreeSet<String>>,
    live: HashMap<LiveKey, Live>,
    filter_servers: HashMap<LiveKey, Vec<String>>,
    mappings: HashMap<String, BTreeMap<String, TopicQueueMappingInfo>>,
}

impl Tables {
    /// Forgets a replica. With the last one of its group go the group and what topics had there.
    pub(crate) fn unregister(
        &mut self,
        replica: &Replica,
        touched: &mut Touched,
    ) -> Option<MinIdChange> {
        let key = (replica.cluster.clone(), replica.address.clone());
        self.live.remove(&key);
        self.filter_servers.remove(&key);
        let group = self.brokers.get_mut(&replica.broker)?;
        let min_before = group.min_id();
        group
            .addresses
            .retain(|_, address| *address != replica.address);
        *touched = Touched::Everything;
        if group.addresses.is_empty() {
            self.remove_group(&replica.broker);
            return None;
        }
        if !group.enable_acting_master {
            return None;
        }
        let change = (group.min_id() != min_before)
            .then(|| group.min_id_change(&replica.broker, Some(replica.address.clone()), None))
            .flatten();
        if !group.addresses.contains_key(&MASTER_ID) {
            self.wipe_write_permission(&replica.broker, touched);
        }
        change
    }

    fn remove_group(&mut self, broker: &str) {
        self.brokers.remove(broker);
        self.clusters.retain(|_, brokers| {
            brokers.remove(broker);
            !brokers.is_empty()
        });
        self.topics.retain(|_, on| {
            on.remove(broker);
            !on.0.is_empty()
        });
        self.mappings.retain(|_, by_broker| {
            by_broker.remove(broker);
            !by_broker.is_empty()
        });
    }

    /// Replicas whose latest registration came on this connection.
    pub(crate) fn replicas_on(&self, connection: u64) -> Vec<Replica> {
        self.live_replicas(|live| live.connection == connection)
    }

    /// Replicas that were silent for longer than they promised.
    pub(crate) fn silent(&self, now: Duration) -> Vec<Replica> {
        self.live_replicas(|live| live.last_heard + live.timeout < now)
    }

    fn live_replicas(&self, wanted: impl Fn(&Live) -> bool) -> Vec<Replica> {
        self.live
            .iter()
            .filter(|(_, live)| wanted(live))
            .map(|((cluster, address), live)| Replica {
                cluster: cluster.clone(),
                broker: live.broker.clone(),
                id: live.id,
                address: address.clone(),
            })
            .collect()
    }

    /// The connection of a live replica.
    pub(crate) fn connection_of(&self, replica: &Replica) -> Option<u64> {
        let key = (replica.cluster.clone(), replica.address.clone());
        self.live.get(&key).map(|live| live.connection)
    }

    /// The replica is alive. One that is not known stays unknown: only a registration brings topics.
    pub(crate) fn heard_of(&mut self, cluster: &str, address: &str, now: Duration) {
        let key = (cluster.to_owned(), address.to_owned());
        if let Some(live) = self.live.get_mut(&key) {
            live.last_heard = now;
        }
    }

    pub(crate) fn data_version(&self, cluster: &str, address: &str) -> Option<DataVersion> {
        let key = (cluster.to_owned(), address.to_owned());
        self.live.get(&key).map(|live| live.data_version)
    }

    /// Takes the write permission from all topics of a broker. Returns how many it has.
    pub(crate) fn wipe_write_permission(&mut self, broker: &str, touched: &mut Touched) -> i32 {
        self.change_permission(broker, |perm| perm & !PERM_WRITE, touched)
    }

    /// Makes all topics of a broker readable and writable, whatever they were before. Returns how many it has.
    pub(crate) fn add_write_permission(&mut self, broker: &str, touched: &mut Touched) -> i32 {
        self.change_permission(broker, |_| PERM_READ | PERM_WRITE, touched)
    }

    fn change_permission(
        &mut self,
        broker: &str,
        change: impl Fn(i32) -> i32,
        touched: &mut Touched,
    ) -> i32 {
        *touched = Touched::Everything;
        let mut count = 0;
        for on in self.topics.values_mut() {
            if let Some(queues) = on.get_mut(broker) {
                queues.perm = change(queues.perm);
                count += 1;
            }
        }
        count
    }

    /// Forgets a topic, everywhere or on the brokers of one cluster.
    pub(crate) fn delete_topic(
        &mut self,
        topic: &str,
        cluster: Option<&str>,
        touched: &mut Touched,
    ) {
        touched.topic(topic);
        let Some(cluster) = cluster else {
            self.topics.remove(topic);
            self.mappings.remove(topic);
            return;
        };
        let (Some(on), Some(brokers)) = (self.topics.get_mut(topic), self.clusters.get(cluster))
        else {
            return;
        };
        for broker in brokers {
            on.remove(broker);
        }
        if on.0.is_empty() {
            self.topics.remove(topic);
        }
    }

    /// Puts a topic on brokers that are known; others are passed over.
    pub(crate) fn register_topic(
        &mut self,
        topic: &str,
        queue_datas: &[QueueData],
        touched: &mut Touched,
    ) {
        for data in queue_datas {
            if !self.brokers.contains_key(&data.broker_name) {
                tracing::warn!(
                    topic,
                    broker = data.broker_name,
                    "topic on an unknown broker"
                );
                continue;
            }
            let queues = Queues {
                read: data.read_queue_nums,
                write: data.write_queue_nums,
                perm: data.perm,
                sys_flag: data.topic_sys_flag,
            };
            let on = self.topics.entry(topic.to_owned()).or_default();
            on.set(&data.broker_name.as_str().into(), queues);
            touched.topic(topic);
        }
    }
}
