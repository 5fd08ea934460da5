//! What clients and tools ask: where a topic is, who is in a cluster, which topics there are. Changes nothing.
//! Source: spec/semantics.md §1.6, §1.7.

use std::collections::{BTreeMap, BTreeSet};

use agena_protocol::bodies::route::{
    BrokerData, BrokerMemberGroup, ClusterInfo, MASTER_ID, QueueData, TopicRouteData,
};
use agena_protocol::bodies::topic_config::{
    PERM_WRITE, TOPIC_SYS_FLAG_UNIT, TOPIC_SYS_FLAG_UNIT_SUB,
};
use agena_protocol::topic;

use super::{BrokerGroup, OnBrokers, Queues, Tables};

/// Which of a unit's topics are asked for (311, 312, 313).
#[derive(Debug, Clone, Copy)]
pub(crate) enum UnitTopics {
    Unit,
    UnitSub,
    UnitSubWithoutUnit,
}

impl Tables {
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

impl BrokerGroup {
    fn data(&self, name: &str) -> BrokerData {
        BrokerData {
            broker_addrs: self.addresses.clone(),
            broker_name: name.to_owned(),
            cluster: self.cluster.clone(),
            enable_acting_master: self.enable_acting_master,
            zone_name: self.zone.clone(),
        }
    }
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
