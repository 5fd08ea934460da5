//! The windows of all producer ids, within a bound on their number and one on their sequences together.
//!
//! A window takes the places that it needs and not those of a full one, so that many producers of few messages have room.
//! When there is none, those that were silent for longest go, if that is long enough: a sixteenth at once, since looking
//! for them means looking at all. If none was, the message that needs room is refused and nobody loses anything.
//!
//! While the log is read at an open, the bounds may be exceeded by an eighth, and hold at its end. Who was kept before is
//! kept then: others had to be more silent to make room.

use std::collections::HashMap;
use std::time::Duration;

use agena_protocol::offset::PhysicalOffset;
use agena_protocol::response_code::ResponseCode;

use super::window::{Seen, Window};
use super::{Answer, First, Identity, Now};
use crate::config::BrokerConfig;
use crate::send::Refused;

/// The part of all that makes room at once.
const GOING_PART: usize = 16;

/// The part of the bounds that may be exceeded at an open.
const SLACK_PART: usize = 8;

/// What all windows together may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Producer ids.
    pub(super) producers_max: usize,
    /// Sequences of all.
    pub(super) sequences_max: usize,
    /// Sequences of one.
    pub(super) window: usize,
}

impl Limits {
    pub(super) fn of(config: &BrokerConfig) -> Self {
        let sequences_max = config.dedup_sequences_max.max(1);
        Self {
            producers_max: config.dedup_producers_max.max(1),
            sequences_max,
            window: config.dedup_window.clamp(1, sequences_max),
        }
    }
}

/// All windows.
pub(super) struct Table {
    windows: HashMap<Box<str>, Window>,
    /// Places for sequences, taken or not.
    places: usize,
    limits: Limits,
    crowd: Option<Crowd>,
}

/// What was seen when nobody could go: nobody can until time has passed, and need not be looked for.
#[derive(Debug, Clone, Copy)]
struct Crowd {
    seen_ms: i64,
    /// When the most silent one last stored something.
    oldest_ms: i64,
}

impl Crowd {
    fn stands(self, now: Now) -> bool {
        now.wall_ms >= self.seen_ms && now.wall_ms - self.oldest_ms < idle_ms(now.idle)
    }
}

fn idle_ms(idle: Duration) -> i64 {
    i64::try_from(idle.as_millis()).unwrap_or(i64::MAX)
}

impl Table {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            windows: HashMap::new(),
            places: 0,
            limits,
            crowd: None,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn len(&self) -> usize {
        self.windows.len()
    }

    /// Sequences in all windows.
    pub(super) fn sequences(&self) -> usize {
        self.windows.values().map(Window::len).sum()
    }

    pub(super) fn producers(&self) -> impl Iterator<Item = &str> {
        self.windows.keys().map(|producer| &**producer)
    }

    pub(super) fn get(&self, producer: &str) -> Option<&Window> {
        self.windows.get(producer)
    }

    /// Behind this are the records of all that is being stored.
    pub(super) fn begun_at(&self) -> Option<PhysicalOffset> {
        self.windows.values().filter_map(Window::begun_at).min()
    }

    /// What is known of a message.
    pub(super) fn look(&mut self, identity: Identity<'_>) -> Seen<'_> {
        match self.windows.get_mut(identity.producer) {
            Some(window) => window.look(identity.sequence, self.limits.window),
            None => Seen::New,
        }
    }

    /// A message is new and is being stored from now on.
    ///
    /// # Errors
    /// There is no room for it.
    pub(super) fn reserve(&mut self, identity: Identity<'_>, now: Now) -> Result<(), Refused> {
        self.make_room(identity.producer, now)?;
        if !self.windows.contains_key(identity.producer) {
            let window = Window::new(now.wall_ms);
            self.windows.insert(identity.producer.into(), window);
        }
        let spare = self.limits.sequences_max.saturating_sub(self.places);
        self.change(identity.producer, |window, most| {
            window.reserve(identity.sequence, now.log_end, (most, spare));
        });
        Ok(())
    }

    /// A message is stored at `first`, unless it was before. Returns who waits for it.
    pub(super) fn stored(
        &mut self,
        identity: Identity<'_>,
        first: First,
        at_ms: i64,
    ) -> Vec<Answer> {
        let stored = self.change(identity.producer, |window, most| {
            window.stored(identity.sequence, first, at_ms, most)
        });
        stored.unwrap_or_default()
    }

    /// A message is not stored after all. Returns who waits for it.
    pub(super) fn give_up(&mut self, identity: Identity<'_>) -> Vec<Answer> {
        let given_up = self.change(identity.producer, |window, _| {
            (window.give_up(identity.sequence), window.is_empty())
        });
        let Some((waiters, is_empty)) = given_up else {
            return Vec::new();
        };
        // An id of which nothing is stored takes nobody's place.
        if is_empty {
            self.remove(identity.producer);
        }
        waiters
    }

    /// What was kept of a message does not hold.
    pub(super) fn forget(&mut self, identity: Identity<'_>, first: First) {
        self.change(identity.producer, |window, _| {
            window.forget(identity.sequence, first);
        });
    }

    /// A message that an open found in the log.
    pub(super) fn found(&mut self, identity: Identity<'_>, first: First, at_ms: i64) {
        if !self.windows.contains_key(identity.producer) {
            let window = Window::new(at_ms);
            self.windows.insert(identity.producer.into(), window);
        }
        self.stored(identity, first, at_ms);
        self.trim_at_open();
    }

    /// A window that an open found in a file.
    pub(super) fn insert(&mut self, producer: Box<str>, window: Window) {
        self.remove(&producer);
        self.places += window.places();
        self.windows.insert(producer, window);
        self.trim_at_open();
    }

    fn trim_at_open(&mut self) {
        let limits = self.limits;
        let with_slack = |limit: usize| limit.saturating_add(limit / SLACK_PART);
        if self.len() > with_slack(limits.producers_max)
            || self.places > with_slack(limits.sequences_max)
        {
            self.trim();
        }
    }

    /// Takes out those who were silent for longest until the rest is within the limits.
    pub(super) fn trim(&mut self) {
        let ids = self.len().saturating_sub(self.limits.producers_max);
        let places = self.places.saturating_sub(self.limits.sequences_max);
        self.remove_silent((ids, places), |_, _| true);
    }

    fn remove(&mut self, producer: &str) {
        if let Some(window) = self.windows.remove(producer) {
            self.places -= window.places();
        }
    }

    /// Every change of a window that is here.
    fn change<T>(
        &mut self,
        producer: &str,
        change: impl FnOnce(&mut Window, usize) -> T,
    ) -> Option<T> {
        let window = self.windows.get_mut(producer)?;
        let before = window.places();
        let done = change(window, self.limits.window);
        self.places = self.places - before + window.places();
        Some(done)
    }

    /// What a producer needs beyond the limits to store one more: ids, and places.
    fn lacks(&self, producer: &str) -> (usize, usize) {
        let (ids, places) = match self.windows.get(producer) {
            Some(window) => (0, window.lacks(self.limits.window)),
            None => (1, 1),
        };
        (
            (self.len() + ids).saturating_sub(self.limits.producers_max),
            (self.places + places).saturating_sub(self.limits.sequences_max),
        )
    }

    /// Room for one more message of a producer.
    fn make_room(&mut self, producer: &str, now: Now) -> Result<(), Refused> {
        let (ids, places) = self.lacks(producer);
        if (ids, places) == (0, 0) {
            return Ok(());
        }
        if self.crowd.is_none_or(|crowd| !crowd.stands(now)) {
            // Where the clock was set back, what seems to come from the future is taken to be of now, or it would stay.
            for window in self.windows.values_mut() {
                window.last_ms = window.last_ms.min(now.wall_ms);
            }
            let at_once = |needed: usize, of: usize| match needed {
                0 => 0,
                needed => needed.max(of / GOING_PART),
            };
            let going = (at_once(ids, self.len()), at_once(places, self.places));
            self.remove_silent(going, |other, window| {
                other != producer && window.is_idle(now.wall_ms, idle_ms(now.idle))
            });
            if self.lacks(producer) == (0, 0) {
                self.crowd = None;
                return Ok(());
            }
            let oldest_ms = self.windows.values().map(|window| window.last_ms).min();
            self.crowd = oldest_ms.map(|oldest_ms| Crowd {
                seen_ms: now.wall_ms,
                oldest_ms,
            });
        }
        Err(Refused::new(
            ResponseCode::SystemBusy,
            format!(
                "{} producer ids are in use with room for {} sequences, and none was silent for long enough \
                 (dedupProducersMax, dedupSequencesMax, dedupProducerIdleMillis)",
                self.len(),
                self.places
            ),
        ))
    }

    /// Takes out those who were silent for longest, of those who may go, until so many ids went and so many places are free.
    fn remove_silent(
        &mut self,
        (ids, places): (usize, usize),
        may_go: impl Fn(&str, &Window) -> bool,
    ) {
        if (ids, places) == (0, 0) {
            return;
        }
        // Many store something in one millisecond; then the log's order tells.
        let last = |window: &Window| (window.last_ms, window.latest_place());
        let candidates = self
            .windows
            .iter()
            .filter(|&(id, window)| may_go(id, window));
        let mut silent: Vec<_> = candidates
            .map(|(_, window)| (last(window), window.places()))
            .collect();
        silent.sort_unstable();
        let (mut gone, mut freed, mut latest) = (0, 0, None);
        for (last, places_of_it) in silent {
            if gone >= ids && freed >= places {
                break;
            }
            gone += 1;
            freed += places_of_it;
            latest = Some(last);
        }
        let Some(latest) = latest else {
            return;
        };
        let places = &mut self.places;
        self.windows.retain(|id, window| {
            let stays = last(window) > latest || !may_go(id, window);
            if !stays {
                *places -= window.places();
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use agena_protocol::offset::QueueOffset;
    use agena_protocol::queue::QueueId;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const HOUR_MS: i64 = 3_600_000;

    fn table(producers_max: usize, sequences_max: usize, window: usize) -> Table {
        Table::new(Limits {
            producers_max,
            sequences_max,
            window,
        })
    }

    fn first(place: u64) -> First {
        First {
            physical: PhysicalOffset::new(place),
            queue_offset: QueueOffset::new(0),
            queue: QueueId::new(0),
            bytes: 100,
            count: 1,
            topic_sum: 7,
        }
    }

    fn at(wall_ms: i64) -> Now {
        Now {
            wall_ms,
            log_end: PhysicalOffset::new(0),
            idle: HOUR,
        }
    }

    fn send(table: &mut Table, producer: &str, sequence: u64, ms: i64) -> bool {
        let identity = Identity { producer, sequence };
        let has_room = table.reserve(identity, at(ms)).is_ok();
        if has_room {
            table.stored(identity, first(u64::try_from(ms).unwrap()), ms);
        }
        has_room
    }

    fn knows(table: &mut Table, producer: &str, sequence: u64) -> bool {
        let known = table.look(Identity { producer, sequence });
        matches!(known, Seen::Stored(_))
    }

    fn places(table: &Table) -> usize {
        table.windows.values().map(Window::places).sum()
    }

    #[test]
    fn producers_of_few_messages_take_few_places() {
        let mut table = table(1_000, 100, 50);
        for producer in 0..100 {
            assert!(send(&mut table, &format!("p{producer}"), 1, 1));
        }
        assert_eq!((table.len(), table.places), (100, 100));
        assert!(!send(&mut table, "one more", 1, 2));
    }

    #[test]
    fn a_full_table_refuses_what_needs_room_and_serves_what_does_not() {
        let mut table = table(10, 8, 4);
        for sequence in 0..100 {
            assert!(send(&mut table, "p", sequence, 1));
        }
        for sequence in 0..3 {
            assert!(send(&mut table, "q", sequence, 1));
        }
        assert_eq!(table.places, 8);
        let refused = table.reserve(
            Identity {
                producer: "r",
                sequence: 1,
            },
            at(2),
        );
        assert_eq!(refused.unwrap_err().code, ResponseCode::SystemBusy);
        assert!(send(&mut table, "p", 100, 2));
        assert!(send(&mut table, "q", 3, 2));
        assert!(send(&mut table, "q", 4, 2));
        assert!(knows(&mut table, "p", 97) && knows(&mut table, "q", 1));
    }

    #[test]
    fn the_most_silent_make_room_when_they_were_silent_for_long_enough() {
        let mut table = table(32, 1_000, 10);
        for producer in 0..32 {
            assert!(send(&mut table, &format!("p{producer}"), 1, producer));
        }
        assert!(!send(&mut table, "new", 1, HOUR_MS - 1));
        // Three were silent for an hour, and a sixteenth of all goes at once.
        assert!(send(&mut table, "new", 1, HOUR_MS + 2));
        assert_eq!(table.len(), 31);
        assert!(!knows(&mut table, "p0", 1) && !knows(&mut table, "p1", 1));
        assert!(knows(&mut table, "p2", 1) && knows(&mut table, "new", 1));
        // What is being stored keeps its place, however long ago its producer stored something.
        let (producer, sequence) = ("p2", 2);
        let flying = Identity { producer, sequence };
        assert!(table.reserve(flying, at(HOUR_MS + 2)).is_ok());
        for producer in 0..20 {
            send(&mut table, &format!("n{producer}"), 1, HOUR_MS + 5);
        }
        assert!(knows(&mut table, "p2", 1) && !knows(&mut table, "p3", 1));
    }

    #[test]
    fn nobody_makes_room_for_himself() {
        let mut table = table(10, 2, 10);
        assert!(send(&mut table, "p", 1, 0));
        assert!(send(&mut table, "p", 2, 0));
        assert!(!send(&mut table, "p", 3, 2 * HOUR_MS));
        assert!(knows(&mut table, "p", 1) && knows(&mut table, "p", 2));
    }

    #[test]
    fn a_crowd_is_looked_at_again_when_time_has_passed_or_went_back() {
        let mut table = table(1, 10, 10);
        assert!(send(&mut table, "p", 1, HOUR_MS));
        for ms in [HOUR_MS, HOUR_MS + 1, 2 * HOUR_MS - 1] {
            assert!(!send(&mut table, "q", 1, ms));
        }
        assert!(send(&mut table, "q", 1, 2 * HOUR_MS));
        assert!(!send(&mut table, "r", 1, 2 * HOUR_MS + 1));
        // The clock is set back: the wait is an hour from now, and not from then.
        assert!(!send(&mut table, "r", 1, 0));
        assert!(send(&mut table, "r", 1, HOUR_MS));
    }

    #[test]
    fn what_an_open_finds_beyond_the_limits_goes_by_its_age() {
        let mut table = table(16, 100, 10);
        for producer in 0..200 {
            let name = format!("p{producer}");
            let identity = Identity {
                producer: &name,
                sequence: 1,
            };
            table.found(identity, first(producer), 5);
            assert!(table.len() <= 18);
        }
        table.trim();
        assert_eq!(table.len(), 16);
        for producer in 184..200 {
            assert!(knows(&mut table, &format!("p{producer}"), 1), "{producer}");
        }
    }

    /// Whatever happens to it, it knows how much it holds and holds no more than it may.
    #[test]
    fn the_bounds_hold() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut table = table(8, 40, 10);
        let mut flying: Vec<(String, u64)> = Vec::new();
        let (mut busy, mut gone) = (0, 0);
        for ms in 0..100_000 {
            let producer = format!("p{}", random.u32(0..12));
            let sequence = random.u64(0..50) + u64::try_from(ms).unwrap() / 100;
            let now = Now {
                idle: Duration::from_millis(50),
                ..at(ms)
            };
            let identity = Identity {
                producer: &producer,
                sequence,
            };
            match random.u32(0..10) {
                0..5 if matches!(table.look(identity), Seen::New) => {
                    let before = table.len();
                    match table.reserve(identity, now) {
                        Ok(()) => flying.push((producer, sequence)),
                        Err(_) => busy += 1,
                    }
                    gone += usize::from(table.len() < before);
                }
                5..9 if !flying.is_empty() => {
                    let (producer, sequence) = flying.swap_remove(random.usize(0..flying.len()));
                    let identity = Identity {
                        producer: &producer,
                        sequence,
                    };
                    if random.bool() {
                        table.stored(identity, first(sequence), ms);
                    } else {
                        table.give_up(identity);
                    }
                }
                9 => {
                    if let Seen::Stored(first) = table.look(identity) {
                        table.forget(identity, first);
                    }
                }
                _ => {}
            }
            assert_eq!(table.places, places(&table));
            assert!(table.len() <= 8 && table.places <= 40);
            assert!(table.sequences() <= table.places);
        }
        assert!(busy > 100 && gone > 100, "{busy} {gone}");
    }
}
