//! What brokers told: which topics are where, under which address, and when they were last heard of. Pure state: no
//! lock, no clock, no wire. Apache: `RouteInfoManager`; source: spec/semantics.md §1.
//!
//! A topic is on a broker name, a broker name stands for a group of replicas by id, and each replica that is alive has
//! a live entry by cluster and address. Every operation says which topics' answers it changes ([`Touched`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::bodies::data_version::DataVersion;
use agena_protocol::bodies::register_broker::RegisterBrokerBody;
use agena_protocol::bodies::route::{
    BrokerData, BrokerMemberGroup, ClusterInfo, MASTER_ID, QueueData, TopicRouteData,
};
use agena_protocol::bodies::static_topic::TopicQueueMappingInfo;
use agena_protocol::bodies::topic_config::{
    PERM_READ, PERM_WRITE, TOPIC_SYS_FLAG_UNIT, TOPIC_SYS_FLAG_UNIT_SUB, TopicConfig,
};
use agena_protocol::topic;

/// A replica as requests name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) cluster: String,
    pub(crate) broker: String,
    pub(crate) id: i64,
    pub(crate) address: String,
}

/// One registration.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) replica: Replica,
    pub(crate) ha_address: String,
    /// Silence after which the replica is evicted.
    pub(crate) timeout: Duration,
    /// `None` from a broker that knows nothing of acting masters.
    pub(crate) enable_acting_master: Option<bool>,
    pub(crate) zone: Option<String>,
    pub(crate) body: RegisterBrokerBody,
    /// The connection that it came on.
    pub(crate) connection: u64,
}

/// What a replica is told about its master.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Master {
    pub(crate) address: String,
    pub(crate) ha_address: String,
}

/// A registration was taken.
#[derive(Debug, Default)]
pub(crate) struct Registered {
    /// The master, for a slave whose master is alive.
    pub(crate) master: Option<Master>,
    pub(crate) min_id_change: Option<MinIdChange>,
}

/// A registration of a single topic came before the broker's first full one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotYetRegistered;

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

    fn data(&self, name: &str) -> BrokerData {
        BrokerData {
            broker_addrs: self.addresses.clone(),
            broker_name: name.to_owned(),
            cluster: self.cluster.clone(),
            enable_acting_master: self.enable_acting_master,
            zone_name: self.zone.clone(),
        }
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

/// What an operator set that changes how registrations are taken.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RegisterRules {
    pub(crate) delete_missing_topics: bool,
}

impl Tables {
    /// Takes a registration, in the original's order of steps; also a refused one leaves its broker name behind.
    pub(crate) fn register(
        &mut self,
        registration: Registration,
        rules: RegisterRules,
        now: Duration,
        touched: &mut Touched,
    ) -> Result<Registered, NotYetRegistered> {
        let Registration {
            replica,
            ha_address,
            timeout,
            enable_acting_master,
            zone,
            body,
            connection,
        } = registration;
        let wrapper = body.topic_config_serialize_wrapper;
        let version = wrapper.data_version;
        let key: LiveKey = (replica.cluster.clone(), replica.address.clone());

        self.clusters
            .entry(replica.cluster.clone())
            .or_default()
            .insert(replica.broker.clone());
        let new_group = !self.brokers.contains_key(&replica.broker);
        let group = self
            .brokers
            .entry(replica.broker.clone())
            .or_insert_with(|| BrokerGroup {
                cluster: replica.cluster.clone(),
                ..BrokerGroup::default()
            });
        let acting = enable_acting_master.unwrap_or(false);
        if new_group || group.enable_acting_master != acting || group.zone != zone {
            *touched = Touched::Everything;
        }
        group.enable_acting_master = acting;
        group.zone = zone;

        // An empty group counts as having id 0, so that the first registration is no change.
        let min_id_changes = replica.id < group.min_id().unwrap_or(0);
        // A slave that became master keeps one id per address.
        let before = group.addresses.len();
        group
            .addresses
            .retain(|id, address| *address != replica.address || *id == replica.id);
        if group.addresses.len() != before {
            *touched = Touched::Everything;
        }
        let holder = group.addresses.get(&replica.id);
        if let Some(holder) = holder.filter(|holder| **holder != replica.address) {
            let holder = self.live.get(&(replica.cluster.clone(), holder.clone()));
            if holder.is_some_and(|live| live.data_version.state_version > version.state_version) {
                self.live.remove(&key);
                return Ok(Registered::default());
            }
        }
        if holder.is_none() && wrapper.topic_config_table.len() == 1 {
            return Err(NotYetRegistered);
        }
        let held = group.addresses.insert(replica.id, replica.address.clone());
        if held.as_ref() != Some(&replica.address) {
            tracing::info!(?replica, "broker registered");
            *touched = Touched::Everything;
        }
        let first = new_group || held.is_none();
        let is_prime_slave = enable_acting_master.is_some()
            && replica.id != MASTER_ID
            && group.min_id() == Some(replica.id);
        if replica.id == MASTER_ID || is_prime_slave {
            let known = self.live.get(&key).map(|live| live.data_version);
            let apply = ApplyTopics {
                broker: &replica.broker,
                // All three members of the version count: a broker that was set back is taken seriously as well.
                all: first || known != Some(version),
                // A slave that acts for its master is read, not written.
                without_write: is_prime_slave && acting,
                delete_missing: rules.delete_missing_topics,
            };
            self.apply_topics(
                &apply,
                wrapper.topic_config_table,
                wrapper.topic_queue_mapping_info_map,
                touched,
            );
        }
        self.live.insert(
            key.clone(),
            Live {
                broker: replica.broker.clone(),
                id: replica.id,
                last_heard: now,
                timeout,
                data_version: version,
                connection,
                ha_address: ha_address.clone(),
            },
        );
        if body.filter_server_list.is_empty() {
            self.filter_servers.remove(&key);
        } else {
            self.filter_servers.insert(key, body.filter_server_list);
        }
        Ok(Registered {
            master: self.master_of(&replica),
            min_id_change: min_id_changes
                .then(|| {
                    self.brokers.get(&replica.broker)?.min_id_change(
                        &replica.broker,
                        None,
                        Some(ha_address),
                    )
                })
                .flatten(),
        })
    }

    fn apply_topics(
        &mut self,
        apply: &ApplyTopics<'_>,
        topics: BTreeMap<String, TopicConfig>,
        mappings: BTreeMap<String, TopicQueueMappingInfo>,
        touched: &mut Touched,
    ) {
        if apply.delete_missing && mappings.is_empty() {
            self.topics.retain(|topic, on| {
                if !topics.contains_key(topic) && on.remove(apply.broker) {
                    touched.topic(topic);
                }
                !on.0.is_empty()
            });
        }
        let broker: Arc<str> = apply.broker.into();
        for (topic, config) in topics {
            let mut queues = Queues {
                read: config.read_queue_nums,
                write: config.write_queue_nums,
                perm: config.perm,
                sys_flag: config.topic_sys_flag,
            };
            if apply.without_write {
                queues.perm &= !PERM_WRITE;
            }
            let on = match self.topics.get_mut(&topic) {
                Some(on) => on,
                None => self.topics.entry(topic.clone()).or_default(),
            };
            if (apply.all || on.find(&broker).is_err()) && on.set(&broker, queues) {
                touched.topic(&topic);
            }
        }
        if apply.all {
            for (topic, mapping) in mappings {
                touched.topic(&topic);
                let by_broker = self.mappings.entry(topic).or_default();
                by_broker.insert(mapping.bname.clone(), mapping);
            }
        }
    }

    /// The live master of a slave's group.
    fn master_of(&self, replica: &Replica) -> Option<Master> {
        if replica.id == MASTER_ID {
            return None;
        }
        let address = self
            .brokers
            .get(&replica.broker)?
            .addresses
            .get(&MASTER_ID)?;
        let live = self.live.get(&(replica.cluster.clone(), address.clone()))?;
        Some(Master {
            address: address.clone(),
            ha_address: live.ha_address.clone(),
        })
    }

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

    /// Where a topic is, `None` when none of its brokers is known.
    pub(crate) fn route(&self, topic: &str, support_acting_master: bool) -> Option<TopicRouteData> {
        let on = self.topics.get(topic)?;
        let mut broker_datas: Vec<BrokerData> =
            on.0.iter()
                .filter_map(|(name, _)| Some(self.brokers.get(name.as_ref())?.data(name)))
                .collect();
        if broker_datas.is_empty() {
            return None;
        }
        let may_act = !topic.starts_with(topic::SYNC_BROKER_MEMBER_PREFIX);
        if support_acting_master && may_act {
            for data in &mut broker_datas {
                let queues = on.find(&data.broker_name).ok().map(|at| on.0[at].1);
                if queues.is_some_and(|queues| queues.perm & PERM_WRITE == 0) {
                    let _ = let_slave_act(data);
                }
            }
        }
        Some(TopicRouteData {
            filter_server_table: self.filter_servers_of(&broker_datas),
            broker_datas,
            order_topic_conf: None,
            queue_datas: on
                .0
                .iter()
                .map(|(name, queues)| queues.data(name))
                .collect(),
            topic_queue_mapping_by_broker: self.mappings.get(topic).cloned(),
        })
    }

    fn filter_servers_of(&self, brokers: &[BrokerData]) -> BTreeMap<String, Vec<String>> {
        if self.filter_servers.is_empty() {
            return BTreeMap::new();
        }
        brokers
            .iter()
            .flat_map(|data| {
                data.broker_addrs
                    .values()
                    .map(move |address| (data, address))
            })
            .filter_map(|(data, address)| {
                let key = (data.cluster.clone(), address.clone());
                let servers = self.filter_servers.get(&key)?;
                Some((address.clone(), servers.clone()))
            })
            .collect()
    }

    pub(crate) fn cluster_info(&self) -> ClusterInfo {
        ClusterInfo {
            broker_addr_table: self
                .brokers
                .iter()
                .map(|(name, group)| (name.clone(), group.data(name)))
                .collect(),
            cluster_addr_table: self.clusters.clone(),
        }
    }

    /// The replicas of a broker; without addresses if it is not known.
    pub(crate) fn member_group(&self, cluster: &str, broker: &str) -> BrokerMemberGroup {
        BrokerMemberGroup {
            broker_addrs: self
                .brokers
                .get(broker)
                .map(|group| group.addresses.clone())
                .unwrap_or_default(),
            broker_name: broker.to_owned(),
            cluster: cluster.to_owned(),
        }
    }

    pub(crate) fn topics(&self) -> Vec<String> {
        self.topics.keys().cloned().collect()
    }

    /// Topics that are on any broker of the cluster.
    pub(crate) fn topics_of_cluster(&self, cluster: &str) -> Vec<String> {
        let Some(brokers) = self.clusters.get(cluster) else {
            return Vec::new();
        };
        self.topics_where(|on| on.0.iter().any(|(name, _)| brokers.contains(name.as_ref())))
    }

    /// Topics by the flags of their first queues.
    pub(crate) fn topics_by_unit(&self, wanted: UnitTopics) -> Vec<String> {
        self.topics_where(|on| {
            let flag = on.0.first().map_or(0, |(_, queues)| queues.sys_flag);
            let unit = flag & TOPIC_SYS_FLAG_UNIT != 0;
            let unit_sub = flag & TOPIC_SYS_FLAG_UNIT_SUB != 0;
            match wanted {
                UnitTopics::Unit => unit,
                UnitTopics::UnitSub => unit_sub,
                UnitTopics::UnitSubWithoutUnit => unit_sub && !unit,
            }
        })
    }

    fn topics_where(&self, wanted: impl Fn(&OnBrokers) -> bool) -> Vec<String> {
        self.topics
            .iter()
            .filter(|(_, on)| wanted(on))
            .map(|(topic, _)| topic.clone())
            .collect()
    }

    /// Cluster and broker names, each of which is a system topic, and a broker that knows the others.
    pub(crate) fn system_topics(&self) -> (Vec<String>, Option<String>) {
        let names = self
            .clusters
            .iter()
            .flat_map(|(cluster, brokers)| std::iter::once(cluster).chain(brokers))
            .cloned()
            .collect();
        let address = self
            .brokers
            .values()
            .find_map(|group| group.addresses.values().next().cloned());
        (names, address)
    }
}

/// Which of a unit's topics are asked for (311, 312, 313).
#[derive(Debug, Clone, Copy)]
pub(crate) enum UnitTopics {
    Unit,
    UnitSub,
    UnitSubWithoutUnit,
}

/// How a registration's topics are applied.
struct ApplyTopics<'a> {
    broker: &'a str,
    /// Also topics that are there already.
    all: bool,
    without_write: bool,
    delete_missing: bool,
}

impl Queues {
    fn data(self, broker: &str) -> QueueData {
        QueueData {
            broker_name: broker.to_owned(),
            perm: self.perm,
            read_queue_nums: self.read,
            topic_sys_flag: self.sys_flag,
            write_queue_nums: self.write,
        }
    }
}

/// Shows the slave with the smallest id as the master, where there is none.
fn let_slave_act(data: &mut BrokerData) -> Option<()> {
    if !data.enable_acting_master || data.broker_addrs.contains_key(&MASTER_ID) {
        return None;
    }
    let (_, address) = data.broker_addrs.pop_first()?;
    data.broker_addrs.insert(MASTER_ID, address);
    Some(())
}

/// Keeps the brokers of one zone, and those without a master, which nobody else would stand in for.
pub(crate) fn keep_zone(route: &mut TopicRouteData, zone: &str) {
    route.broker_datas.retain(|data| {
        let same = data
            .zone_name
            .as_ref()
            .is_some_and(|name| name.eq_ignore_ascii_case(zone));
        same || data.master().is_none()
    });
    let kept: BTreeSet<&str> = route
        .broker_datas
        .iter()
        .map(|data| data.broker_name.as_str())
        .collect();
    route
        .queue_datas
        .retain(|data| kept.contains(data.broker_name.as_str()));
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(120);

    fn replica(id: i64, address: &str) -> Replica {
        Replica {
            cluster: "C".into(),
            broker: "b".into(),
            id,
            address: address.into(),
        }
    }

    fn body(version: i64, topics: &[(&str, i32)]) -> RegisterBrokerBody {
        let mut body = RegisterBrokerBody::default();
        let wrapper = &mut body.topic_config_serialize_wrapper;
        wrapper.data_version.counter = version;
        for (name, queues) in topics {
            let config = TopicConfig::new(*name, *queues, PERM_READ | PERM_WRITE);
            wrapper.topic_config_table.insert((*name).into(), config);
        }
        body
    }

    fn registration(replica: Replica, body: RegisterBrokerBody) -> Registration {
        Registration {
            connection: 1,
            ha_address: format!("ha-{}", replica.address),
            replica,
            timeout: TIMEOUT,
            enable_acting_master: None,
            zone: None,
            body,
        }
    }

    fn register(tables: &mut Tables, registration: Registration) -> Registered {
        let rules = RegisterRules::default();
        let mut touched = Touched::default();
        tables
            .register(registration, rules, Duration::ZERO, &mut touched)
            .unwrap()
    }

    fn with(id: i64, address: &str, version: i64, topics: &[(&str, i32)]) -> Registration {
        registration(replica(id, address), body(version, topics))
    }

    fn queues(tables: &Tables, topic: &str) -> Option<(i32, i32)> {
        let route = tables.route(topic, false)?;
        let data = &route.queue_datas[0];
        Some((data.write_queue_nums, data.perm))
    }

    #[test]
    fn an_equal_version_changes_nothing_and_another_one_everything() {
        let mut tables = Tables::default();
        register(&mut tables, with(0, "a:1", 1, &[("T", 4), ("U", 4)]));
        register(&mut tables, with(0, "a:1", 1, &[("T", 8), ("New", 2)]));
        assert_eq!(queues(&tables, "T"), Some((4, 6)));
        assert_eq!(queues(&tables, "New"), Some((2, 6)));
        register(&mut tables, with(0, "a:1", 0, &[("T", 8), ("V", 2)]));
        assert_eq!(queues(&tables, "T"), Some((8, 6)));
        // Topics that are not named any more stay, unless an operator wants it otherwise.
        assert_eq!(queues(&tables, "U"), Some((4, 6)));
        let rules = RegisterRules {
            delete_missing_topics: true,
        };
        let again = with(0, "a:1", 0, &[("T", 8), ("V", 2)]);
        let mut touched = Touched::default();
        tables
            .register(again, rules, Duration::ZERO, &mut touched)
            .unwrap();
        assert_eq!(queues(&tables, "U"), None);
    }

    #[test]
    fn a_single_topic_is_refused_before_the_first_registration_and_leaves_the_name() {
        let mut tables = Tables::default();
        let rules = RegisterRules::default();
        let single = with(0, "a:1", 1, &[("T", 4)]);
        let refused = tables.register(single, rules, Duration::ZERO, &mut Touched::default());
        assert_eq!(refused.unwrap_err(), NotYetRegistered);
        let info = tables.cluster_info();
        assert!(info.broker_addr_table["b"].broker_addrs.is_empty());
        assert!(info.cluster_addr_table["C"].contains("b"));
        register(&mut tables, with(0, "a:1", 1, &[]));
        register(&mut tables, with(0, "a:1", 2, &[("T", 4)]));
        assert_eq!(queues(&tables, "T"), Some((4, 6)));
    }

    #[test]
    fn a_slave_learns_its_master_and_changes_no_topics() {
        let mut tables = Tables::default();
        register(&mut tables, with(0, "a:1", 1, &[("T", 4), ("U", 4)]));
        let registered = register(&mut tables, with(1, "a:2", 9, &[("T", 8), ("V", 8)]));
        let master = Master {
            address: "a:1".into(),
            ha_address: "ha-a:1".into(),
        };
        assert_eq!(registered.master, Some(master));
        assert_eq!(queues(&tables, "T"), Some((4, 6)));
        assert_eq!(queues(&tables, "V"), None);
        tables.unregister(&replica(0, "a:1"), &mut Touched::default());
        let route = tables.route("T", true).unwrap();
        assert_eq!(
            route.broker_datas[0].broker_addrs,
            BTreeMap::from([(1, "a:2".into())])
        );
        assert_eq!(route.queue_datas[0].perm, 6);
    }

    #[test]
    fn a_slave_that_becomes_master_keeps_one_id() {
        let mut tables = Tables::default();
        register(&mut tables, with(1, "a:2", 1, &[]));
        register(&mut tables, with(0, "a:2", 1, &[("T", 4), ("U", 4)]));
        let group = tables.member_group("C", "b");
        assert_eq!(group.broker_addrs, BTreeMap::from([(0, "a:2".into())]));
    }

    #[test]
    fn an_older_reign_does_not_take_the_place_of_a_living_one() {
        let mut tables = Tables::default();
        let mut newer = with(0, "a:1", 1, &[("T", 4), ("U", 4)]);
        let wrapper = &mut newer.body.topic_config_serialize_wrapper;
        wrapper.data_version.state_version = 5;
        register(&mut tables, newer);
        register(&mut tables, with(0, "a:9", 7, &[("T", 16), ("U", 16)]));
        assert_eq!(tables.member_group("C", "b").broker_addrs[&0], "a:1");
        assert_eq!(queues(&tables, "T"), Some((4, 6)));
        assert_eq!(tables.data_version("C", "a:9"), None);
    }

    #[test]
    fn the_last_replica_takes_its_topics_along() {
        let mut tables = Tables::default();
        register(&mut tables, with(0, "a:1", 1, &[("T", 4), ("U", 4)]));
        let mut other = with(0, "o:1", 1, &[("U", 2), ("V", 2)]);
        other.replica.broker = "other".into();
        register(&mut tables, other);
        tables.unregister(&replica(0, "a:1"), &mut Touched::default());
        assert!(tables.route("T", false).is_none());
        assert_eq!(queues(&tables, "U"), Some((2, 6)));
        assert_eq!(tables.cluster_info().broker_addr_table.len(), 1);
    }

    #[test]
    fn write_permission_is_wiped_added_and_brought_back_by_a_new_version() {
        let mut tables = Tables::default();
        let topics = [("T", 4), ("U", 4)];
        register(&mut tables, with(0, "a:1", 1, &topics));
        let touched = &mut Touched::default();
        assert_eq!(tables.wipe_write_permission("b", touched), 2);
        assert_eq!(tables.wipe_write_permission("nobody", touched), 0);
        assert_eq!(queues(&tables, "T"), Some((4, 4)));
        register(&mut tables, with(0, "a:1", 1, &topics));
        assert_eq!(queues(&tables, "T"), Some((4, 4)));
        register(&mut tables, with(0, "a:1", 2, &topics));
        assert_eq!(queues(&tables, "T"), Some((4, 6)));
        assert_eq!(tables.add_write_permission("b", touched), 2);
    }

    #[test]
    fn silence_counts_from_the_last_sign_of_life_and_by_what_each_promised() {
        let mut tables = Tables::default();
        register(&mut tables, with(0, "a:1", 1, &[]));
        let mut hasty = with(1, "a:2", 1, &[]);
        hasty.timeout = Duration::from_secs(10);
        register(&mut tables, hasty);
        tables.heard_of("C", "a:2", Duration::from_secs(5));
        assert!(tables.silent(Duration::from_secs(15)).is_empty());
        let silent = tables.silent(Duration::from_secs(16));
        assert_eq!(silent, [replica(1, "a:2")]);
        assert_eq!(tables.silent(Duration::from_secs(121)).len(), 2);
        tables.heard_of("C", "unknown:1", Duration::ZERO);
        assert_eq!(tables.data_version("C", "unknown:1"), None);
    }

    #[test]
    fn a_slave_acts_for_its_master_when_all_agree_to_it() {
        let mut tables = Tables::default();
        let topics = [("T", 4), ("U", 4)];
        for (id, address) in [(0, "a:1"), (2, "a:3"), (1, "a:2")] {
            let mut one = with(id, address, 1, &topics);
            one.enable_acting_master = Some(true);
            register(&mut tables, one);
        }
        let change = tables
            .unregister(&replica(0, "a:1"), &mut Touched::default())
            .unwrap();
        assert_eq!((change.min_id, change.min_address.as_str()), (1, "a:2"));
        assert_eq!(change.offline_address.as_deref(), Some("a:1"));
        assert_eq!(change.recipients, ["a:2", "a:3"]);
        // Nobody writes to it, and the smallest id shows as the master.
        assert_eq!(queues(&tables, "T"), Some((4, 4)));
        let acting = tables.route("T", true).unwrap();
        assert_eq!(
            acting.broker_datas[0].broker_addrs,
            BTreeMap::from([(0, "a:2".into()), (2, "a:3".into())])
        );
        let plain = tables.route("T", false).unwrap();
        assert!(!plain.broker_datas[0].broker_addrs.contains_key(&0));
        let mut back = with(0, "a:1", 2, &topics);
        back.enable_acting_master = Some(true);
        let change = register(&mut tables, back).min_id_change.unwrap();
        assert_eq!(change.recipients, ["a:2", "a:3"]);
        assert_eq!(change.ha_address.as_deref(), Some("ha-a:1"));
        assert_eq!(queues(&tables, "T"), Some((4, 6)));
    }

    #[test]
    fn topics_are_deleted_everywhere_or_in_one_cluster() {
        let mut tables = Tables::default();
        register(&mut tables, with(0, "a:1", 1, &[("T", 4), ("U", 4)]));
        let mut other = with(0, "o:1", 1, &[("T", 2), ("V", 2)]);
        other.replica.broker = "other".into();
        other.replica.cluster = "D".into();
        register(&mut tables, other);
        let touched = &mut Touched::default();
        tables.delete_topic("T", Some("C"), touched);
        assert_eq!(queues(&tables, "T"), Some((2, 6)));
        tables.delete_topic("T", None, touched);
        tables.delete_topic("never", Some("nowhere"), touched);
        assert!(tables.route("T", false).is_none());
        assert_eq!(tables.topics_of_cluster("C"), ["U"]);
    }

    #[test]
    fn a_zone_keeps_its_brokers_and_those_without_a_master() {
        let data = |name: &str, zone: &str, id: i64| BrokerData {
            broker_addrs: BTreeMap::from([(id, "a:1".into())]),
            broker_name: name.into(),
            zone_name: Some(zone.into()),
            ..BrokerData::default()
        };
        let queues = |name: &str| QueueData {
            broker_name: name.into(),
            ..QueueData::default()
        };
        let mut route = TopicRouteData {
            broker_datas: vec![
                data("near", "z1", 0),
                data("far", "z2", 0),
                data("orphan", "z2", 1),
            ],
            queue_datas: vec![queues("near"), queues("far"), queues("orphan")],
            ..TopicRouteData::default()
        };
        keep_zone(&mut route, "Z1");
        let names: Vec<_> = route
            .queue_datas
            .iter()
            .map(|data| &data.broker_name)
            .collect();
        assert_eq!(names, ["near", "orphan"]);
        assert_eq!(route.broker_datas.len(), 2);
    }
}
