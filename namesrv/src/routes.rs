//! The tables behind their lock, the answers made from them, and the connections that brokers registered on.
//!
//! Lock order: tables, then answers or links; none is held while anything is sent.

use std::collections::HashMap;
use std::sync::Arc;

use agena_protocol::bodies::data_version::DataVersion;
use agena_protocol::bodies::route::TopicRouteData;
use agena_protocol::clock::Clock;
use agena_protocol::fastjson::KeyStyle;
use agena_remoting::connection::Connection;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::answers::Answers;
use crate::tables::register::{NotYetRegistered, RegisterRules, Registered, Registration};
use crate::tables::{MinIdChange, Replica, Tables, Touched};

#[derive(Debug)]
pub(crate) struct Routes {
    tables: RwLock<Tables>,
    answers: Answers,
    /// Connections that the latest registration of some replica came on.
    links: Mutex<HashMap<u64, Arc<Connection>>>,
    clock: Arc<dyn Clock>,
}

impl Routes {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            tables: RwLock::default(),
            answers: Answers::default(),
            links: Mutex::default(),
            clock,
        }
    }

    pub(crate) fn register(
        &self,
        registration: Registration,
        rules: RegisterRules,
        connection: &Arc<Connection>,
    ) -> Result<Registered, NotYetRegistered> {
        self.links
            .lock()
            .insert(connection.id(), connection.clone());
        let now = self.clock.monotonic();
        self.change(|tables, touched| tables.register(registration, rules, now, touched))
    }

    pub(crate) fn unregister(&self, replica: &Replica) -> Option<MinIdChange> {
        tracing::info!(?replica, "broker unregistered");
        self.change(|tables, touched| tables.unregister(replica, touched))
    }

    /// The connection is gone, and with it every replica that had not registered again on another.
    pub(crate) fn connection_closed(&self, connection: u64) -> Vec<MinIdChange> {
        if self.links.lock().remove(&connection).is_none() {
            return Vec::new();
        }
        self.change(|tables, touched| {
            let gone = tables.replicas_on(connection);
            gone.iter()
                .filter_map(|replica| {
                    tracing::info!(?replica, "broker gone: its connection closed");
                    tables.unregister(replica, touched)
                })
                .collect()
        })
    }

    /// Evicts replicas that were silent for too long, and closes their connections.
    pub(crate) fn evict_silent(&self) -> Vec<MinIdChange> {
        let now = self.clock.monotonic();
        if self.tables.read().silent(now).is_empty() {
            return Vec::new();
        }
        let (changes, connections) = self.change(|tables, touched| {
            let silent = tables.silent(now);
            let connections: Vec<u64> = silent
                .iter()
                .filter_map(|replica| tables.connection_of(replica))
                .collect();
            let changes: Vec<MinIdChange> = silent
                .iter()
                .filter_map(|replica| {
                    tracing::warn!(?replica, "broker evicted: it was silent for too long");
                    tables.unregister(replica, touched)
                })
                .collect();
            (changes, connections)
        });
        for id in connections {
            let link = self.links.lock().get(&id).cloned();
            if let Some(link) = link {
                link.close("its broker was silent for too long");
            }
        }
        changes
    }

    pub(crate) fn heard_of(&self, cluster: &str, address: &str) {
        let now = self.clock.monotonic();
        self.tables.write().heard_of(cluster, address, now);
    }

    pub(crate) fn data_version(&self, cluster: &str, address: &str) -> Option<DataVersion> {
        self.tables.read().data_version(cluster, address)
    }

    /// Looks at the state without changing it.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Tables) -> T) -> T {
        look(&self.tables.read())
    }

    /// Changes the state, and forgets the answers that are not true any more.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Tables, &mut Touched) -> T) -> T {
        let mut touched = Touched::default();
        let mut tables = self.tables.write();
        let result = change(&mut tables, &mut touched);
        self.answers.forget(&touched);
        result
    }

    /// The encoded route of a topic. `make` takes it from the tables, as the settings in force have it.
    pub(crate) fn answer(
        &self,
        topic: &str,
        keys: KeyStyle,
        make: impl FnOnce(&Tables) -> Option<TopicRouteData>,
    ) -> Option<Bytes> {
        if let Some(answer) = self.answers.get(topic, keys) {
            return Some(answer);
        }
        let tables = self.tables.read();
        let answer = Bytes::from(make(&tables)?.encode(keys));
        self.answers.put(topic, keys, answer.clone());
        Some(answer)
    }

    /// Settings changed that answers depend on.
    pub(crate) fn forget_answers(&self) {
        self.change(|_, touched| *touched = Touched::Everything);
    }
}
