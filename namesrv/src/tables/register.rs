//! A registration, step by step as the original takes it. Source: spec/semantics.md §1.4.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::bodies::register_broker::RegisterBrokerBody;
use agena_protocol::bodies::route::MASTER_ID;
use agena_protocol::bodies::static_topic::TopicQueueMappingInfo;
use agena_protocol::bodies::topic_config::{PERM_WRITE, TopicConfig};

use super::{Live, LiveKey, MinIdChange, Queues, Replica, Tables, Touched};

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
        let Some(seat) = self.take_seat(&registration, touched)? else {
            // The broker learns no master, and so that it is not wanted.
            return Ok(Registered::default());
        };
        let replica = registration.replica;
        let wrapper = registration.body.topic_config_serialize_wrapper;
        let version = wrapper.data_version;
        let key: LiveKey = (replica.cluster.clone(), replica.address.clone());
        if replica.id == MASTER_ID || seat.is_prime_slave {
            let known = self.live.get(&key).map(|live| live.data_version);
            let apply = ApplyTopics {
                broker: &replica.broker,
                // All three members of the version count: a broker that was set back is taken seriously as well.
                all: seat.is_new || known != Some(version),
                // A slave that acts for its master is read, not written.
                without_write: seat.is_prime_slave
                    && registration.enable_acting_master == Some(true),
                delete_missing: rules.delete_missing_topics,
            };
            self.apply_topics(
                &apply,
                wrapper.topic_config_table,
                wrapper.topic_queue_mapping_info_map,
                touched,
            );
        }
        let min_id_change = seat
            .min_id_changes
            .then(|| {
                let group = self.brokers.get(&replica.broker)?;
                let ha_address = Some(registration.ha_address.clone());
                group.min_id_change(&replica.broker, None, ha_address)
            })
            .flatten();
        let live = Live {
            broker: replica.broker.clone(),
            id: replica.id,
            last_heard: now,
            timeout: registration.timeout,
            data_version: version,
            connection: registration.connection,
            ha_address: registration.ha_address,
        };
        self.live.insert(key.clone(), live);
        if registration.body.filter_server_list.is_empty() {
            self.filter_servers.remove(&key);
        } else {
            let servers = registration.body.filter_server_list;
            self.filter_servers.insert(key, servers);
        }
        Ok(Registered {
            master: self.master_of(&replica),
            min_id_change,
        })
    }

    /// Puts the replica's address under its id. `None` when that is held by a living broker of a later reign.
    fn take_seat(
        &mut self,
        registration: &Registration,
        touched: &mut Touched,
    ) -> Result<Option<Seat>, NotYetRegistered> {
        let Replica {
            cluster,
            broker,
            id,
            address,
        } = &registration.replica;
        let wrapper = &registration.body.topic_config_serialize_wrapper;
        let of_cluster = self.clusters.entry(cluster.clone()).or_default();
        of_cluster.insert(broker.clone());
        let is_new_group = !self.brokers.contains_key(broker);
        let group = self.brokers.entry(broker.clone()).or_default();
        let acting = registration.enable_acting_master.unwrap_or(false);
        if is_new_group {
            group.cluster.clone_from(cluster);
        }
        if is_new_group || group.enable_acting_master != acting || group.zone != registration.zone {
            *touched = Touched::Everything;
        }
        group.enable_acting_master = acting;
        group.zone.clone_from(&registration.zone);

        // An empty group counts as having id 0, so that the first registration is no change.
        let min_id_changes = *id < group.min_id().unwrap_or(0);
        // A slave that became master keeps one id per address.
        let before = group.addresses.len();
        group.addresses.retain(|of, at| at != address || of == id);
        if group.addresses.len() != before {
            *touched = Touched::Everything;
        }
        let holder = group.addresses.get(id);
        if let Some(other) = holder.filter(|holder| *holder != address) {
            let reign = wrapper.data_version.state_version;
            let other = self.live.get(&(cluster.clone(), other.clone()));
            if other.is_some_and(|live| live.data_version.state_version > reign) {
                self.live.remove(&(cluster.clone(), address.clone()));
                return Ok(None);
            }
        }
        if holder.is_none() && wrapper.topic_config_table.len() == 1 {
            return Err(NotYetRegistered);
        }
        let is_new = holder.is_none();
        if holder != Some(address) {
            tracing::info!(replica = ?registration.replica, "broker registered");
            group.addresses.insert(*id, address.clone());
            *touched = Touched::Everything;
        }
        Ok(Some(Seat {
            is_new,
            is_prime_slave: registration.enable_acting_master.is_some()
                && *id != MASTER_ID
                && group.min_id() == Some(*id),
            min_id_changes,
        }))
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
}

/// A replica's place in its group.
struct Seat {
    /// Nobody had this id before.
    is_new: bool,
    /// The smallest id of a group without a master that may act for it.
    is_prime_slave: bool,
    min_id_changes: bool,
}

/// How a registration's topics are applied.
struct ApplyTopics<'a> {
    broker: &'a str,
    /// Also topics that are there already.
    all: bool,
    without_write: bool,
    delete_missing: bool,
}
