//! Who reads which queue: the strategies by which the members of a group share a topic's queues.
//!
//! Every member computes the same result from the same two sorted lists, so no one has to coordinate. That only holds
//! while all members use the same strategy: a group that mixes them leaves queues unread or reads them twice.
//! Apache: `AllocateMessageQueueStrategy` and its implementations, byte for byte the same shares
//! (`fixtures/rebalance/vectors.json`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use agena_protocol::queue::MessageQueue;

/// Chooses one member's share of a topic's queues.
pub trait Allocate: Send + Sync + fmt::Debug + 'static {
    /// The name that consumer status pages show, Apache's where Apache has the strategy.
    fn name(&self) -> String;

    /// The share of `client_id`.
    ///
    /// `queues` and `clients` are sorted and not empty, and `clients` contains `client_id`. A member may get nothing:
    /// that is what happens to surplus members.
    fn allocate(
        &self,
        client_id: &str,
        queues: &[MessageQueue],
        clients: &[String],
    ) -> Vec<MessageQueue>;
}

/// Contiguous shares whose sizes differ by at most one. The default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Averagely;

impl Allocate for Averagely {
    fn name(&self) -> String {
        "AVG".to_owned()
    }

    fn allocate(
        &self,
        client_id: &str,
        queues: &[MessageQueue],
        clients: &[String],
    ) -> Vec<MessageQueue> {
        let Some(index) = position(clients, client_id) else {
            return Vec::new();
        };
        let share = queues.len() / clients.len();
        let larger_shares = queues.len() % clients.len();
        let start = index * share + index.min(larger_shares);
        let size = share + usize::from(index < larger_shares);
        queues[start..start + size].to_vec()
    }
}

/// Queues dealt out one by one, like cards.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByCircle;

impl Allocate for ByCircle {
    fn name(&self) -> String {
        "AVG_BY_CIRCLE".to_owned()
    }

    fn allocate(
        &self,
        client_id: &str,
        queues: &[MessageQueue],
        clients: &[String],
    ) -> Vec<MessageQueue> {
        let Some(index) = position(clients, client_id) else {
            return Vec::new();
        };
        queues
            .iter()
            .skip(index)
            .step_by(clients.len())
            .cloned()
            .collect()
    }
}

/// A ring of hashes: few queues change hands when a member comes or goes, at the price of uneven shares.
#[derive(Debug, Clone, Copy)]
pub struct ConsistentHash {
    /// Points of each member on the ring. All members must use the same number; Apache's default is 10.
    pub virtual_nodes: usize,
}

impl Default for ConsistentHash {
    fn default() -> Self {
        Self { virtual_nodes: 10 }
    }
}

impl Allocate for ConsistentHash {
    fn name(&self) -> String {
        "CONSISTENT_HASH".to_owned()
    }

    fn allocate(
        &self,
        client_id: &str,
        queues: &[MessageQueue],
        clients: &[String],
    ) -> Vec<MessageQueue> {
        let mut ring = BTreeMap::new();
        for client in clients {
            for node in 0..self.virtual_nodes {
                ring.insert(ring_point(&format!("{client}-{node}")), client.as_str());
            }
        }
        let owner = |queue: &MessageQueue| {
            let point = ring_point(&queue.to_string());
            ring.range(point..)
                .next()
                .or_else(|| ring.first_key_value())
                .map(|(_, client)| *client)
        };
        queues
            .iter()
            .filter(|queue| owner(queue) == Some(client_id))
            .cloned()
            .collect()
    }
}

/// The first four bytes of the text's MD5, as Apache's `MD5Hash` takes them.
pub(crate) fn ring_point(text: &str) -> u32 {
    let [a, b, c, d, ..] = md5::compute(text.as_bytes()).0;
    u32::from_be_bytes([a, b, c, d])
}

/// Only the queues of brokers named `room@name` whose room is in the set.
#[derive(Debug, Clone, Default)]
pub struct MachineRoom {
    /// The rooms whose queues this group reads.
    pub rooms: BTreeSet<String>,
}

impl Allocate for MachineRoom {
    fn name(&self) -> String {
        "MACHINE_ROOM".to_owned()
    }

    fn allocate(
        &self,
        client_id: &str,
        queues: &[MessageQueue],
        clients: &[String],
    ) -> Vec<MessageQueue> {
        let Some(index) = position(clients, client_id) else {
            return Vec::new();
        };
        let in_rooms = |queue: &&MessageQueue| {
            queue
                .broker_name
                .split_once('@')
                .is_some_and(|(room, name)| self.rooms.contains(room) && !name.contains('@'))
        };
        let queues: Vec<_> = queues.iter().filter(in_rooms).cloned().collect();
        // Unlike `Averagely`, what does not divide evenly is dealt out from the end of the list.
        let share = queues.len() / clients.len();
        let surplus = queues.get(share * clients.len() + index);
        queues[index * share..(index + 1) * share]
            .iter()
            .chain(surplus)
            .cloned()
            .collect()
    }
}

/// Tells which room a queue's broker or a client stands in.
pub type RoomOf<T> = Arc<dyn Fn(&T) -> String + Send + Sync>;

/// Queues go to members of their own room; those of rooms without members are shared by all.
#[derive(Clone)]
pub struct Nearby {
    /// How the queues of a room are shared within it.
    pub inner: Arc<dyn Allocate>,
    /// The room of a queue.
    pub room_of_queue: RoomOf<MessageQueue>,
    /// The room of a client id.
    pub room_of_client: RoomOf<str>,
}

impl fmt::Debug for Nearby {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nearby")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl Nearby {
    /// Rooms are what stands before the first `@` in broker names and client ids.
    #[must_use]
    pub fn by_prefix(inner: Arc<dyn Allocate>) -> Self {
        fn prefix(text: &str) -> String {
            text.split('@').next().unwrap_or_default().to_owned()
        }
        Self {
            inner,
            room_of_queue: Arc::new(|queue| prefix(&queue.broker_name)),
            room_of_client: Arc::new(prefix),
        }
    }
}

impl Allocate for Nearby {
    fn name(&self) -> String {
        format!("MACHINE_ROOM_NEARBY-{}", self.inner.name())
    }

    fn allocate(
        &self,
        client_id: &str,
        queues: &[MessageQueue],
        clients: &[String],
    ) -> Vec<MessageQueue> {
        let mut queues_by_room: BTreeMap<String, Vec<MessageQueue>> = BTreeMap::new();
        for queue in queues {
            let room = (self.room_of_queue)(queue);
            queues_by_room.entry(room).or_default().push(queue.clone());
        }
        let mut clients_by_room: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for client in clients {
            let room = (self.room_of_client)(client);
            clients_by_room
                .entry(room)
                .or_default()
                .push(client.clone());
        }
        let own_room = (self.room_of_client)(client_id);
        let mut share = Vec::new();
        if let (Some(queues), Some(clients)) = (
            queues_by_room.remove(&own_room),
            clients_by_room.get(&own_room),
        ) {
            share.extend(self.inner.allocate(client_id, &queues, clients));
        }
        for (room, queues) in queues_by_room {
            if !clients_by_room.contains_key(&room) {
                share.extend(self.inner.allocate(client_id, &queues, clients));
            }
        }
        share
    }
}

/// Always the same queues, whoever else is there.
#[derive(Debug, Clone, Default)]
pub struct Configured {
    /// What this member reads.
    pub queues: Vec<MessageQueue>,
}

impl Allocate for Configured {
    fn name(&self) -> String {
        "CONFIG".to_owned()
    }

    fn allocate(&self, _: &str, queues: &[MessageQueue], _: &[String]) -> Vec<MessageQueue> {
        // A consumer of several topics asks for each of them: give it what belongs to the one it asks about.
        let topic = queues.first().map(|queue| queue.topic.as_str());
        self.queues
            .iter()
            .filter(|queue| Some(queue.topic.as_str()) == topic)
            .cloned()
            .collect()
    }
}

fn position(clients: &[String], client_id: &str) -> Option<usize> {
    clients.iter().position(|client| client == client_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const VECTORS: &str = include_str!("../../tests/fixtures/rebalance/vectors.json");

    fn queue(topic: &str, text: &str) -> MessageQueue {
        let (broker, id) = text.split_once('/').unwrap();
        MessageQueue::new(topic, broker, id.parse::<i32>().unwrap())
    }

    fn strategy(name: &str) -> Option<Box<dyn Allocate>> {
        match name {
            "AVG" => Some(Box::new(Averagely)),
            "AVG_BY_CIRCLE" => Some(Box::new(ByCircle)),
            "MACHINE_ROOM" => Some(Box::new(MachineRoom {
                rooms: BTreeSet::from(["idc1".to_owned()]),
            })),
            "MACHINE_ROOM_NEARBY-AVG" => Some(Box::new(Nearby::by_prefix(Arc::new(Averagely)))),
            _ => None,
        }
    }

    #[test]
    fn shares_are_those_of_the_original() {
        let vectors: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
        let mut compared = 0;
        for vector in vectors {
            // The vectors do not tell the topic, which the consistent hash goes by: see the next test.
            let Some(strategy) = strategy(vector["strategy"].as_str().unwrap()) else {
                continue;
            };
            let queues: Vec<_> = vector["queues"]
                .as_array()
                .unwrap()
                .iter()
                .map(|text| queue("T", text.as_str().unwrap()))
                .collect();
            let shares = vector["result"].as_object().unwrap();
            let mut clients: Vec<_> = shares.keys().cloned().collect();
            clients.sort();
            for (client, share) in shares {
                let expected: Vec<_> = share
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|text| queue("T", text.as_str().unwrap()))
                    .collect();
                assert_eq!(
                    strategy.allocate(client, &queues, &clients),
                    expected,
                    "{} for {client} of {}",
                    strategy.name(),
                    clients.len()
                );
                compared += 1;
            }
        }
        assert!(compared > 30, "only {compared} shares compared");
    }

    /// Shares that Apache's 5.3.3 `AllocateMessageQueueConsistentHash` gave for topic `T`.
    #[test]
    fn the_hash_ring_is_that_of_the_original() {
        let queues: Vec<_> = ["broker-a", "broker-b"]
            .iter()
            .flat_map(|broker| (0..4).map(move |id| MessageQueue::new("T", *broker, id)))
            .collect();
        let clients: Vec<_> = (0..5)
            .map(|n| format!("10.0.0.{}@{}#{}", n + 1, 1000 + n, 5 + 77 * n))
            .collect();
        let share = |members: usize, client: usize| -> Vec<String> {
            ConsistentHash::default()
                .allocate(&clients[client], &queues, &clients[..members])
                .iter()
                .map(|queue| format!("{}/{}", &queue.broker_name[7..], queue.queue_id))
                .collect()
        };
        assert_eq!(share(3, 0), ["a/2", "b/0", "b/1"]);
        assert_eq!(share(3, 1), ["a/1", "b/2"]);
        assert_eq!(share(3, 2), ["a/0", "a/3", "b/3"]);
        assert_eq!(share(5, 0), ["b/0"]);
        assert_eq!(share(5, 1), ["a/1"]);
        assert_eq!(share(5, 2), ["a/3", "b/3"]);
        assert_eq!(share(5, 3), ["a/0", "a/2"]);
        assert_eq!(share(5, 4), ["b/1", "b/2"]);
    }

    #[test]
    fn surplus_members_get_nothing_and_strangers_too() {
        let queues = [MessageQueue::new("T", "b", 0)];
        let clients = ["c1".to_owned(), "c2".to_owned()];
        for strategy in [&Averagely as &dyn Allocate, &ByCircle] {
            assert_eq!(strategy.allocate("c1", &queues, &clients), queues);
            assert_eq!(strategy.allocate("c2", &queues, &clients), []);
            assert_eq!(strategy.allocate("c3", &queues, &clients), []);
        }
    }

    #[test]
    fn a_configured_member_gets_its_list_topic_by_topic() {
        let mine = MessageQueue::new("T", "b", 3);
        let strategy = Configured {
            queues: vec![mine.clone(), MessageQueue::new("Other", "b", 0)],
        };
        let queues = [MessageQueue::new("T", "b", 0)];
        assert_eq!(strategy.allocate("c", &queues, &["c".to_owned()]), [mine]);
    }
}
