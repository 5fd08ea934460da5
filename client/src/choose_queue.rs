//! Which queue a message goes to: in turn, avoiding brokers that fail or are slow, or as the application selects.
//!
//! Apache: `TopicPublishInfo`, `MQFaultStrategy`, `LatencyFaultToleranceImpl`, `SelectMessageQueueBy*`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agena_protocol::clock::Clock;
use agena_protocol::queue::MessageQueue;
use agena_protocol::tags::java_hash;
use parking_lot::Mutex;

use crate::allocate::ring_point;
use crate::message::Message;

/// Chooses the queue of one message. Closures `Fn(&[MessageQueue], &Message) -> Option<usize>` are selectors too.
pub trait SelectQueue: Send + Sync {
    /// The index of the chosen queue; `None` refuses all. `queues` is sorted and not empty.
    fn select(&self, queues: &[MessageQueue], message: &Message) -> Option<usize>;
}

impl<F> SelectQueue for F
where
    F: Fn(&[MessageQueue], &Message) -> Option<usize> + Send + Sync,
{
    fn select(&self, queues: &[MessageQueue], message: &Message) -> Option<usize> {
        self(queues, message)
    }
}

/// One queue after the other, from a random one on.
#[derive(Debug)]
pub struct RoundRobin {
    next: AtomicUsize,
}

impl Default for RoundRobin {
    fn default() -> Self {
        Self {
            next: AtomicUsize::new(fastrand::usize(..)),
        }
    }
}

impl SelectQueue for RoundRobin {
    fn select(&self, queues: &[MessageQueue], _: &Message) -> Option<usize> {
        Some(self.next.fetch_add(1, Ordering::Relaxed) % queues.len())
    }
}

/// Any queue, by chance.
#[derive(Debug, Clone, Copy, Default)]
pub struct Random;

impl SelectQueue for Random {
    fn select(&self, queues: &[MessageQueue], _: &Message) -> Option<usize> {
        Some(fastrand::usize(..queues.len()))
    }
}

/// All messages of one key to one queue, as long as the number of queues stays: this is what ordered topics need.
#[derive(Debug, Clone)]
pub struct ByHash {
    hash: i32,
}

impl ByHash {
    /// By the key's Java hash: the queue that a Java producer takes for the same key.
    #[must_use]
    pub fn of(key: &str) -> Self {
        Self {
            hash: java_hash(key),
        }
    }
}

impl SelectQueue for ByHash {
    fn select(&self, queues: &[MessageQueue], _: &Message) -> Option<usize> {
        let count = i32::try_from(queues.len()).ok()?;
        usize::try_from((self.hash % count).unsigned_abs()).ok()
    }
}

/// By chance, but brokers with twice the weight get twice as many.
#[derive(Debug, Clone)]
pub struct WeightedRandom {
    weights: BrokerWeights,
}

impl WeightedRandom {
    /// Weights by broker name; brokers without one have 1, brokers with 0 get nothing.
    #[must_use]
    pub fn new(weights: impl IntoIterator<Item = (String, u32)>) -> Self {
        Self {
            weights: BrokerWeights(weights.into_iter().collect()),
        }
    }
}

impl SelectQueue for WeightedRandom {
    fn select(&self, queues: &[MessageQueue], _: &Message) -> Option<usize> {
        let brokers = queues_by_broker(queues);
        let total: u64 = brokers.keys().map(|name| self.weights.of(name)).sum();
        let mut draw = fastrand::u64(..total.max(1));
        let (_, of_broker) = brokers.into_iter().find(|(name, _)| {
            let weight = self.weights.of(name);
            let hit = draw < weight;
            draw = draw.saturating_sub(weight);
            hit
        })?;
        Some(of_broker[fastrand::usize(..of_broker.len())])
    }
}

/// In turn by weight, the turns of a broker spread out: 5:1:1 gives a a b a c a a.
#[derive(Debug)]
pub struct SmoothWeighted {
    weights: BrokerWeights,
    turns: Mutex<Turns>,
}

#[derive(Debug, Default)]
struct Turns {
    credit: HashMap<String, i64>,
    next_queue: HashMap<String, usize>,
}

impl SmoothWeighted {
    /// Weights by broker name; brokers without one have 1, brokers with 0 get nothing.
    #[must_use]
    pub fn new(weights: impl IntoIterator<Item = (String, u32)>) -> Self {
        Self {
            weights: BrokerWeights(weights.into_iter().collect()),
            turns: Mutex::default(),
        }
    }
}

impl SelectQueue for SmoothWeighted {
    fn select(&self, queues: &[MessageQueue], _: &Message) -> Option<usize> {
        let brokers = queues_by_broker(queues);
        let mut turns = self.turns.lock();
        // Brokers that left the route must not keep credit, nor memory.
        turns
            .credit
            .retain(|name, _| brokers.contains_key(name.as_str()));
        turns
            .next_queue
            .retain(|name, _| brokers.contains_key(name.as_str()));
        let mut total = 0;
        let mut chosen: Option<(&str, i64)> = None;
        for name in brokers.keys() {
            let weight = i64::try_from(self.weights.of(name)).unwrap_or(i64::MAX);
            if weight == 0 {
                continue;
            }
            total += weight;
            let credit = turns.credit.entry((*name).to_owned()).or_default();
            *credit += weight;
            if chosen.is_none_or(|(_, most)| *credit > most) {
                chosen = Some((name, *credit));
            }
        }
        let (name, _) = chosen?;
        if let Some(credit) = turns.credit.get_mut(name) {
            *credit -= total;
        }
        let next = turns.next_queue.entry(name.to_owned()).or_default();
        let of_broker = &brokers[name];
        let queue = of_broker[*next % of_broker.len()];
        *next = next.wrapping_add(1);
        Some(queue)
    }
}

/// A ring of hashes with bounded load: a key keeps its queue when others come and go, and a hot key spills over to the next
/// queue of the ring instead of drowning its own.
#[derive(Debug)]
pub struct ConsistentHash {
    ring: Mutex<Ring>,
    load_bound_percent: usize,
}

#[derive(Debug, Default)]
struct Ring {
    queues: Vec<MessageQueue>,
    points: BTreeMap<u32, usize>,
    loads: Vec<usize>,
    placed: usize,
}

/// Points of each queue on the ring.
const VIRTUAL_NODES: usize = 160;

/// Placements after which loads are halved, so that the bound speaks of the recent past.
const LOAD_WINDOW: usize = 4096;

impl ConsistentHash {
    /// No queue gets more than `load_bound_percent` of the average (125 is usual, below 100 is taken as 100).
    #[must_use]
    pub fn new(load_bound_percent: usize) -> Self {
        Self {
            ring: Mutex::default(),
            load_bound_percent: load_bound_percent.max(100),
        }
    }

    /// Chooses by `key` among `queues`.
    #[must_use]
    pub fn choose(&self, queues: &[MessageQueue], key: &str) -> usize {
        let mut ring = self.ring.lock();
        if ring.queues != queues {
            *ring = Ring::of(queues);
        }
        ring.place(ring_point(key), self.load_bound_percent)
    }
}

impl Ring {
    fn of(queues: &[MessageQueue]) -> Self {
        let mut points = BTreeMap::new();
        for (index, queue) in queues.iter().enumerate() {
            for node in 0..VIRTUAL_NODES {
                points.insert(ring_point(&format!("{queue}-{node}")), index);
            }
        }
        Self {
            queues: queues.to_vec(),
            points,
            loads: vec![0; queues.len()],
            placed: 0,
        }
    }

    fn place(&mut self, point: u32, load_bound_percent: usize) -> usize {
        let average = (self.placed + 1).div_ceil(self.queues.len());
        let bound = (average * load_bound_percent).div_ceil(100);
        let clockwise = self.points.range(point..).chain(self.points.range(..point));
        // The bound is at least the average, so some queue is below it.
        let chosen = clockwise
            .map(|(_, index)| *index)
            .find(|index| self.loads[*index] < bound)
            .unwrap_or(0);
        self.loads[chosen] += 1;
        self.placed += 1;
        if self.placed >= LOAD_WINDOW {
            self.loads.iter_mut().for_each(|load| *load /= 2);
            self.placed = self.loads.iter().sum();
        }
        chosen
    }
}

/// [`ConsistentHash`] for one key, to be given to `send_by`.
#[derive(Debug)]
pub struct OnRing<'a> {
    /// Shared by all sends, since it holds the loads.
    pub ring: &'a ConsistentHash,
    /// The key of this message.
    pub key: &'a str,
}

impl SelectQueue for OnRing<'_> {
    fn select(&self, queues: &[MessageQueue], _: &Message) -> Option<usize> {
        Some(self.ring.choose(queues, self.key))
    }
}

/// The queue whose broker has the fewest sends of this selector outstanding.
///
/// Tell it when a send is over: [`LeastInFlight::select`] counts up, [`LeastInFlight::finished`] counts down.
#[derive(Debug, Default)]
pub struct LeastInFlight {
    outstanding: Mutex<HashMap<String, usize>>,
}

impl LeastInFlight {
    /// A send to `broker` was answered or given up.
    pub fn finished(&self, broker: &str) {
        let mut outstanding = self.outstanding.lock();
        if let Some(count) = outstanding.get_mut(broker) {
            *count -= 1;
            if *count == 0 {
                outstanding.remove(broker);
            }
        }
    }
}

impl SelectQueue for LeastInFlight {
    fn select(&self, queues: &[MessageQueue], _: &Message) -> Option<usize> {
        let mut outstanding = self.outstanding.lock();
        let load = |index: &usize| {
            let broker = &queues[*index].broker_name;
            outstanding.get(broker).copied().unwrap_or(0)
        };
        // From a random start, so that equals share evenly.
        let start = fastrand::usize(..queues.len());
        let chosen = (start..queues.len()).chain(0..start).min_by_key(load)?;
        *outstanding
            .entry(queues[chosen].broker_name.clone())
            .or_default() += 1;
        Some(chosen)
    }
}

/// Queues of brokers in the own zone while there are any, then all; the rest is left to another selector.
pub struct SameZoneFirst<S> {
    in_zone: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    then: S,
}

impl<S: fmt::Debug> fmt::Debug for SameZoneFirst<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SameZoneFirst")
            .field("then", &self.then)
            .finish_non_exhaustive()
    }
}

impl<S: SelectQueue> SameZoneFirst<S> {
    /// `in_zone` tells by name whether a broker is near.
    #[must_use]
    pub fn new(in_zone: impl Fn(&str) -> bool + Send + Sync + 'static, then: S) -> Self {
        Self {
            in_zone: Arc::new(in_zone),
            then,
        }
    }
}

impl<S: SelectQueue> SelectQueue for SameZoneFirst<S> {
    fn select(&self, queues: &[MessageQueue], message: &Message) -> Option<usize> {
        let (indices, near): (Vec<usize>, Vec<MessageQueue>) = queues
            .iter()
            .enumerate()
            .filter(|(_, queue)| (self.in_zone)(&queue.broker_name))
            .map(|(index, queue)| (index, queue.clone()))
            .unzip();
        if near.is_empty() {
            return self.then.select(queues, message);
        }
        let chosen = self.then.select(&near, message)?;
        indices.get(chosen).copied()
    }
}

#[derive(Debug, Clone)]
struct BrokerWeights(HashMap<String, u32>);

impl BrokerWeights {
    fn of(&self, broker: &str) -> u64 {
        u64::from(self.0.get(broker).copied().unwrap_or(1))
    }
}

fn queues_by_broker(queues: &[MessageQueue]) -> BTreeMap<&str, Vec<usize>> {
    let mut brokers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, queue) in queues.iter().enumerate() {
        brokers.entry(&queue.broker_name).or_default().push(index);
    }
    brokers
}

/// What a producer remembers about its brokers: which were slow or failed, and until when to avoid them.
///
/// Only consulted when latency fault tolerance is switched on; a broker is avoided, never ruled out.
#[derive(Debug)]
pub(crate) struct BrokerHealth {
    clock: Arc<dyn Clock>,
    avoid_until: Mutex<HashMap<String, Duration>>,
}

/// From this latency on (ms), a broker is avoided for so long (ms). Apache: `latencyMax`, `notAvailableDuration`.
const AVOIDANCE: [(u64, u64); 7] = [
    (15_000, 30_000),
    (5_000, 10_000),
    (3_000, 6_000),
    (1_800, 5_000),
    (550, 2_000),
    (100, 0),
    (50, 0),
];

/// A failed send counts as one of this latency.
const FAILURE_LATENCY: Duration = Duration::from_secs(10);

impl BrokerHealth {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            avoid_until: Mutex::default(),
        }
    }

    pub(crate) fn answered(&self, broker: &str, latency: Duration) {
        let ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
        let avoid_ms = AVOIDANCE
            .iter()
            .find(|(from, _)| ms >= *from)
            .map_or(0, |(_, avoid)| *avoid);
        let mut avoid_until = self.avoid_until.lock();
        if avoid_ms == 0 {
            avoid_until.remove(broker);
        } else {
            let until = self.clock.monotonic() + Duration::from_millis(avoid_ms);
            avoid_until.insert(broker.to_owned(), until);
        }
    }

    pub(crate) fn failed(&self, broker: &str) {
        self.answered(broker, FAILURE_LATENCY);
    }

    fn is_available(&self, broker: &str) -> bool {
        let now = self.clock.monotonic();
        self.avoid_until
            .lock()
            .get(broker)
            .is_none_or(|until| now >= *until)
    }
}

/// The next queue in turn: of a broker that is healthy and was not tried just now, else of one that was not tried just
/// now, else any.
pub(crate) fn in_turn<'q>(
    queues: &'q [MessageQueue],
    turn: &AtomicUsize,
    tried: Option<&str>,
    health: Option<&BrokerHealth>,
) -> Option<&'q MessageQueue> {
    if queues.is_empty() {
        return None;
    }
    let other = |queue: &MessageQueue| tried != Some(queue.broker_name.as_str());
    let healthy =
        |queue: &MessageQueue| health.is_none_or(|health| health.is_available(&queue.broker_name));
    let mut second_choice = None;
    for _ in 0..queues.len() {
        let queue = &queues[turn.fetch_add(1, Ordering::Relaxed) % queues.len()];
        if !other(queue) {
            continue;
        }
        if healthy(queue) {
            return Some(queue);
        }
        second_choice = second_choice.or(Some(queue));
    }
    second_choice.or_else(|| queues.get(turn.fetch_add(1, Ordering::Relaxed) % queues.len()))
}

/// The queue of a key, as [`ByHash`] has it.
pub(crate) fn hashed<'q>(queues: &'q [MessageQueue], key: &str) -> Option<&'q MessageQueue> {
    let count = i32::try_from(queues.len()).ok()?;
    let index = java_hash(key).checked_rem(count)?.unsigned_abs();
    queues.get(usize::try_from(index).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agena_protocol::clock::ManualClock;

    fn queues(brokers: &[&str], of_each: i32) -> Vec<MessageQueue> {
        brokers
            .iter()
            .flat_map(|broker| (0..of_each).map(move |id| MessageQueue::new("T", *broker, id)))
            .collect()
    }

    fn message() -> Message {
        Message::new("T", "x")
    }

    fn counts(selector: &impl SelectQueue, queues: &[MessageQueue], draws: usize) -> Vec<usize> {
        let mut counts = vec![0; queues.len()];
        for _ in 0..draws {
            counts[selector.select(queues, &message()).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn round_robin_treats_all_queues_alike() {
        assert_eq!(
            counts(&RoundRobin::default(), &queues(&["a", "b"], 2), 40),
            [10; 4]
        );
    }

    #[test]
    fn a_key_s_queue_is_the_one_of_a_java_producer() {
        let queues = queues(&["a"], 4);
        // "order-7".hashCode() == -1207110556; its remainder by 4 is 0, by 7 it is -4.
        let hash = java_hash("order-7");
        let expected = usize::try_from((hash % 4).abs()).unwrap();
        assert_eq!(
            ByHash::of("order-7").select(&queues, &message()),
            Some(expected)
        );
        assert_eq!(
            ByHash { hash: i32::MIN }.select(&queues[..3], &message()),
            Some(2)
        );
    }

    #[test]
    fn smooth_weights_spread_the_turns() {
        let selector = SmoothWeighted::new([("a".to_owned(), 5)]);
        let queues = queues(&["a", "b", "c"], 1);
        let order: String = (0..14)
            .map(|_| selector.select(&queues, &message()).unwrap())
            .map(|index| queues[index].broker_name.clone())
            .collect();
        assert_eq!(order, "aabacaaaabacaa");
    }

    #[test]
    fn weights_of_zero_get_nothing() {
        let queues = queues(&["a", "b"], 2);
        let weights = || [("a".to_owned(), 0)];
        let random = counts(&WeightedRandom::new(weights()), &queues, 100);
        assert_eq!(random[..2], [0, 0]);
        let smooth = counts(&SmoothWeighted::new(weights()), &queues, 100);
        assert_eq!(smooth, [0, 0, 50, 50]);
        let none = SmoothWeighted::new([("a".to_owned(), 0), ("b".to_owned(), 0)]);
        assert_eq!(none.select(&queues, &message()), None);
    }

    #[test]
    fn weighted_chance_follows_the_weights() {
        let selector = WeightedRandom::new([("a".to_owned(), 3)]);
        let counts = counts(&selector, &queues(&["a", "b"], 1), 4000);
        assert!((2700..3300).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn a_key_keeps_its_queue_when_another_leaves() {
        let all = queues(&["a", "b"], 4);
        let fewer: Vec<_> = all[..7].to_vec();
        // One ring per key: the bound of one must not push another aside here.
        let choose = |queues: &[MessageQueue], key: &str| {
            queues[ConsistentHash::new(125).choose(queues, key)].clone()
        };
        for key in (0..200).map(|n| format!("key-{n}")) {
            let before = choose(&all, &key);
            if before != all[7] {
                assert_eq!(choose(&fewer, &key), before, "{key}");
            }
        }
    }

    #[test]
    fn a_hot_key_spills_over_at_the_bound() {
        let queues = queues(&["a"], 4);
        let ring = ConsistentHash::new(125);
        let mut counts = [0; 4];
        for _ in 0..1000 {
            counts[ring.choose(&queues, "hot")] += 1;
        }
        assert!(counts.iter().all(|count| *count <= 313), "{counts:?}");
        assert_eq!(counts.iter().sum::<i32>(), 1000);
    }

    #[test]
    fn the_least_busy_broker_is_next() {
        let queues = queues(&["a", "b"], 1);
        let selector = LeastInFlight::default();
        let first = selector.select(&queues, &message()).unwrap();
        let second = selector.select(&queues, &message()).unwrap();
        assert_ne!(first, second);
        selector.finished(&queues[first].broker_name);
        assert_eq!(selector.select(&queues, &message()), Some(first));
    }

    #[test]
    fn far_queues_are_for_when_no_near_one_is_left() {
        let queues = queues(&["east-a", "west-a"], 2);
        let selector =
            SameZoneFirst::new(|broker| broker.starts_with("west"), RoundRobin::default());
        let counts = counts(&selector, &queues, 10);
        assert_eq!(counts, [0, 0, 5, 5]);
        let chosen = selector.select(&queues[..2], &message()).unwrap();
        assert!(chosen < 2);
    }

    #[test]
    fn a_retry_goes_to_another_broker_where_there_is_one() {
        let queues = queues(&["a", "b"], 4);
        let turn = AtomicUsize::new(0);
        for _ in 0..16 {
            let chosen = in_turn(&queues, &turn, Some("a"), None).unwrap();
            assert_eq!(chosen.broker_name, "b");
        }
        let alone = &queues[..4];
        assert_eq!(
            in_turn(alone, &turn, Some("a"), None).unwrap().broker_name,
            "a"
        );
        assert_eq!(in_turn(&[], &turn, None, None), None);
    }

    #[test]
    fn a_slow_broker_is_avoided_for_its_time_and_a_failed_one_longer() {
        let clock = Arc::new(ManualClock::at(0));
        let health = BrokerHealth::new(clock.clone());
        let queues = queues(&["a", "b"], 1);
        let turn = AtomicUsize::new(0);
        let chosen = || {
            let queue = in_turn(&queues, &turn, None, Some(&health)).unwrap();
            (0..4)
                .map(|_| {
                    &in_turn(&queues, &turn, None, Some(&health))
                        .unwrap()
                        .broker_name
                })
                .all(|name| *name == queue.broker_name)
        };
        health.answered("a", Duration::from_millis(549));
        assert!(!chosen());
        health.answered("a", Duration::from_millis(550));
        assert!(chosen());
        clock.advance(Duration::from_millis(2000));
        assert!(!chosen());
        health.failed("a");
        clock.advance(Duration::from_millis(9_999));
        assert!(chosen());
        clock.advance(Duration::from_millis(1));
        assert!(!chosen());
        health.failed("a");
        health.failed("b");
        assert!(in_turn(&queues, &turn, None, Some(&health)).is_some());
        health.answered("a", Duration::from_millis(5));
        assert!(chosen());
    }
}
