//! The store against a reference that fits on a page: random appends, syncs, power cuts, crashes, clean stops, removals by
//! retention and of topics; after every opening both must say the same.
//!
//! `STORE_MODEL_CASES=5000 cargo test -p agena-store --test model` runs so many cases instead of 200, and
//! `STORE_MODEL_SEED=77` that one alone, which is how a failure is looked at: its message names the seed.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests may unwrap"
)]

#[path = "support/device.rs"]
mod device;
#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/store.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agena_protocol::clock::{Clock, ManualClock, SystemClock};
use agena_protocol::queue::QueueId;
use agena_store::{Boundary, Opened, Store, StoreConfig, StoreError};
use device::Random;
use faulty::FaultyMedium;
use support::{all, append, clock, durable, message, properties, small, small_sync};
use tempfile::TempDir;

const CASES: u64 = 200;
const WORKERS: u64 = 4;
const TOPICS: u64 = 3;
const QUEUES: u64 = 3;
const SEGMENT: u64 = 64 * 1024;
/// Of a record of these tests beside body, topic and properties: two IPv4 hosts, and the length words.
const RECORD_BYTES: usize = 91;

/// One message as it was appended.
#[derive(Debug, Clone)]
struct Sent {
    body: Vec<u8>,
    key: String,
    physical: u64,
    stored_ms: i64,
    /// Whether its promise held: it may not be lost.
    acked: bool,
}

/// What a queue must have: messages by number. After a power cut what was not acknowledged may be missing.
#[derive(Debug, Default)]
struct Queue {
    sent: BTreeMap<u64, Sent>,
    /// The number that the next message gets.
    next: u64,
    /// Behind the last number that was acknowledged: the end never goes below.
    acked_end: u64,
}

/// By topic and queue. A deleted topic is never used again: its records are in the log for a while, and a recovery may bring
/// them back, as the original's does.
type Model = BTreeMap<(String, u32), Queue>;

/// How the next run of the store begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Close,
    Crash,
    PowerCut,
    /// A clean stop, and the power goes right behind it.
    CloseAndPowerCut,
}

struct Case {
    seed: u64,
    random: Random,
    model: Model,
    dir: TempDir,
    is_sync: bool,
    tag: u64,
    /// Names of topics that are in use.
    topics: Vec<String>,
    /// The power went at least once: there may be holes and damage.
    is_torn: bool,
    /// Whether a message was appended since the store was opened.
    has_appended: bool,
    log: Vec<String>,
}

/// The store while it is open.
struct Run {
    store: Arc<Store>,
    medium: Arc<FaultyMedium>,
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let is_sync = random.below(3) > 0;
        Self {
            seed,
            random,
            model: Model::new(),
            dir: tempfile::tempdir().unwrap(),
            is_sync,
            tag: 0,
            topics: (0..TOPICS).map(|number| format!("T{number}")).collect(),
            is_torn: false,
            has_appended: false,
            log: Vec::new(),
        }
    }

    fn play(&mut self) {
        let mut end = None;
        for _ in 0..2 + self.random.below(4) {
            let run = self.open(end);
            for _ in 0..self.random.below(30) {
                self.step(&run);
            }
            self.check(&run.store, !self.is_sync, "at the end of a run");
            end = Some(self.end(run));
        }
        let run = self.open(end);
        run.store.close().unwrap();
    }

    fn open(&mut self, before: Option<End>) -> Run {
        let medium = Arc::new(FaultyMedium::new(self.dir.path()));
        let mut config = self.config(self.dir.path());
        config.medium = medium.clone();
        let (store, opened) = Store::open(config, clock(), Arc::new(())).unwrap();
        self.note(format!("open after {before:?}"));
        match before {
            // Without a message the run before did not know the last record, and what it closed is scanned from the mark.
            Some(End::Close | End::CloseAndPowerCut) if self.has_appended => {
                assert!(matches!(opened, Opened::Clean), "{}", self.story());
            }
            Some(_) | None => {}
        }
        if let Opened::Recovered(report) = &opened {
            assert!(
                self.is_torn || report.damage.is_empty(),
                "{report:?} {}",
                self.story()
            );
        }
        self.has_appended = false;
        self.check(&store, before != Some(End::PowerCut), "after opening");
        self.take_over(&store);
        Run { store, medium }
    }

    /// The power cut is over: what it took is not expected any more, and its numbers are given again.
    fn take_over(&mut self, store: &Store) {
        let log_min = store.stats().log_min;
        for ((topic, id), queue) in &mut self.model {
            let id = QueueId::new(*id);
            queue.next = store.max_offset(topic, id).number();
            assert_eq!(store.next_offset(topic, id).number(), queue.next);
            queue.acked_end = queue.next;
            let found = all(store, topic, id.number());
            queue
                .sent
                .retain(|number, _| found.iter().any(|it| it.0 == *number));
            for sent in queue.sent.values_mut() {
                assert!(sent.physical >= log_min);
                sent.acked = true;
            }
        }
    }

    fn config(&self, root: &Path) -> StoreConfig {
        let mut config = if self.is_sync {
            small_sync(root)
        } else {
            small(root)
        };
        config.retention.reserved = Duration::from_secs(3600);
        config
    }

    fn step(&mut self, run: &Run) {
        match self.random.below(20) {
            0..=14 => self.append(&run.store),
            15 | 16 => self.expire(&run.store),
            17 if self.random.below(3) == 0 => self.delete_topic(&run.store),
            17 | 18 => self.check(&run.store, !self.is_sync, "in between"),
            _ => self.big_append(&run.store),
        }
    }

    fn place(&mut self) -> (String, u32) {
        let topic = self.random.below(TOPICS) as usize;
        (self.topics[topic].clone(), self.random.below(QUEUES) as u32)
    }

    /// The log may have so many files from now on, for a moment.
    fn expire(&mut self, store: &Store) {
        let unlimited = store.retention_outlook(0).unwrap().retention;
        let mut retention = unlimited.clone();
        retention.log_bytes_max = Some(SEGMENT * (1 + self.random.below(4)));
        store.set_retention(retention);
        let removed = store.delete_expired_segments().unwrap();
        store.set_retention(unlimited);
        self.note(format!("{removed:?}"));
        let log_min = store.stats().log_min;
        for queue in self.model.values_mut() {
            queue.sent.retain(|_, sent| sent.physical >= log_min);
        }
    }

    fn delete_topic(&mut self, store: &Store) {
        let at = self.random.below(TOPICS) as usize;
        self.tag += 1;
        let old = std::mem::replace(&mut self.topics[at], format!("T{at}-{}", self.tag));
        self.note(format!("delete {old}"));
        store.delete_topic(&old).unwrap();
        let mut queues = self.model.iter().filter(|((topic, _), _)| *topic == old);
        // A message on its way to the device makes its queue anew when it gets there.
        let is_quiet = !self.is_sync || queues.all(|(_, queue)| queue.acked_end == queue.next);
        if is_quiet {
            assert_eq!(store.max_offset(&old, QueueId::new(0)).number(), 0);
        }
        self.model.retain(|(topic, _), _| *topic != old);
    }

    fn end(&mut self, run: Run) -> End {
        let end = match self.random.below(4) {
            0 => End::Close,
            1 => End::Crash,
            2 => End::PowerCut,
            _ => End::CloseAndPowerCut,
        };
        self.note(format!("{end:?}"));
        if matches!(end, End::Close | End::CloseAndPowerCut) {
            run.store.close().unwrap();
        }
        if matches!(end, End::PowerCut | End::CloseAndPowerCut) {
            let after = tempfile::tempdir().unwrap();
            run.medium.capture().image(after.path(), &mut self.random);
            drop(run);
            self.dir = after;
            self.is_torn |= end == End::PowerCut;
        }
        end
    }

    /// Both say the same; `whole` tells whether nothing at all may be missing.
    fn check(&mut self, store: &Store, whole: bool, when: &str) {
        let sample = self.random.below(7);
        for ((topic, id), queue) in &self.model {
            let place = || format!("{topic} {id} {when} {}", story(self.seed, &self.log));
            let queue_id = QueueId::new(*id);
            let min = store.min_offset(topic, queue_id).number();
            let max = store.max_offset(topic, queue_id).number();
            let found: BTreeMap<u64, Vec<u8>> = all(store, topic, *id).into_iter().collect();
            for (number, body) in &found {
                let sent = queue.sent.get(number);
                let sent = sent.unwrap_or_else(|| panic!("{number} was never sent: {}", place()));
                assert!(sent.body == *body, "{number} is another: {}", place());
            }
            for (number, sent) in &queue.sent {
                let is_there = found.contains_key(number);
                assert!(
                    is_there || !(sent.acked || whole),
                    "{number} of {min}..{max} is lost: {}",
                    place()
                );
            }
            assert!(min <= max && max <= queue.next, "{min} {max}: {}", place());
            assert!(max >= queue.acked_end, "{max} went back: {}", place());
            assert!(!whole || max == queue.next, "{max}: {}", place());
            let first = found.keys().next().copied().unwrap_or(max);
            assert!(min <= first, "{min} {first}: {}", place());
            assert!(self.is_torn || min == first, "{min} {first}: {}", place());
            for (number, sent) in queue
                .sent
                .iter()
                .filter(|(number, _)| *number % 7 == sample)
            {
                if found.contains_key(number) {
                    let hits = store.query(topic, &sent.key, 100, 0, i64::MAX);
                    let is_hit = hits.iter().any(|hit| hit.number() == sent.physical);
                    assert!(is_hit, "{} is not indexed: {}", sent.key, place());
                    check_time(store, topic, queue_id, queue, &found, sent.stored_ms);
                }
            }
        }
    }

    fn note(&mut self, line: String) {
        self.log.push(line);
    }

    fn story(&self) -> String {
        story(self.seed, &self.log)
    }

    /// A batch of one to five messages of random sizes.
    fn append(&mut self, store: &Store) {
        let places: Vec<_> = (0..1 + self.random.below(5))
            .map(|_| {
                let bytes = match self.random.below(4) {
                    0 => self.random.below(20),
                    1 => self.random.below(12_000),
                    _ => self.random.below(700),
                };
                (self.place(), bytes as usize)
            })
            .collect();
        self.append_all(store, &places);
    }

    /// One that just fits into what is left of the file, or just does not, or fills one.
    fn big_append(&mut self, store: &Store) {
        let place = self.place();
        let end = store.stats().log_max;
        let left = SEGMENT - end % SEGMENT;
        let room = if self.random.below(4) == 0 {
            SEGMENT
        } else {
            left
        };
        // Eight bytes remain at the end of every file.
        let record = (room + self.random.below(5)).checked_sub(8 + 2);
        let name = place.0.len();
        let beside = RECORD_BYTES + name + properties(&[("KEYS", &key(self.tag + 1))]).len();
        if let Some(body) = record.and_then(|record| (record as usize).checked_sub(beside)) {
            self.append_all(store, &[(place, body)]);
        }
    }

    fn append_all(&mut self, store: &Store, places: &[((String, u32), usize)]) {
        let made: Vec<_> = places
            .iter()
            .map(|(place, bytes)| {
                self.tag += 1;
                let mut body = self.tag.to_string().into_bytes();
                body.resize(*bytes, b'a' + (self.tag % 26) as u8);
                let key = key(self.tag);
                let encoded = properties(&[("KEYS", &key)]);
                (place.clone(), body, key, encoded)
            })
            .collect();
        let messages: Vec<_> = made
            .iter()
            .map(|((topic, queue), body, _, encoded)| message(topic, *queue, body, encoded))
            .collect();
        let appended = match append(store, &messages) {
            Ok(appended) => appended,
            Err(StoreError::TooLarge { .. }) => return self.note("too large".to_owned()),
            Err(other) => panic!("{other}: {}", self.story()),
        };
        let waits = self.is_sync && self.random.below(4) > 0;
        if waits {
            durable(store, &appended).unwrap();
        }
        self.note(format!("append {places:?}, waited: {waits}"));
        self.has_appended = true;
        for (placed, (place, body, key, _)) in appended.placed.iter().zip(made) {
            let queue = self.model.entry(place).or_default();
            let number = placed.queue_offset.number();
            assert_eq!(number, queue.next, "{}", story(self.seed, &self.log));
            queue.next = number + 1;
            let sent = Sent {
                body,
                key,
                physical: placed.physical_offset.number(),
                stored_ms: placed.store_timestamp,
                acked: false,
            };
            queue.sent.insert(number, sent);
        }
        if waits {
            // A sync covers all in front of it.
            for queue in self.model.values_mut() {
                queue.acked_end = queue.next;
                queue.sent.values_mut().for_each(|sent| sent.acked = true);
            }
        }
    }
}

fn key(tag: u64) -> String {
    format!("k{tag:06}")
}

fn story(seed: u64, log: &[String]) -> String {
    format!("STORE_MODEL_SEED={seed}: {log:#?}")
}

/// The message that a search by time finds parts the younger from the older.
fn check_time(
    store: &Store,
    topic: &str,
    id: QueueId,
    queue: &Queue,
    found: &BTreeMap<u64, Vec<u8>>,
    time_ms: i64,
) {
    let lower = store.offset_by_time(topic, id, time_ms, Boundary::Lower);
    for number in found.keys() {
        let is_younger = queue.sent[number].stored_ms >= time_ms;
        assert_eq!(
            is_younger,
            *number >= lower.number(),
            "{topic} {id} {number} {lower:?}"
        );
    }
}

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn the_store_says_what_the_model_says() {
    if let Some(seed) = number_of("STORE_MODEL_SEED") {
        return Case::new(seed).play();
    }
    let cases = number_of("STORE_MODEL_CASES").unwrap_or(CASES);
    // Most of a case is waiting for threads to end.
    std::thread::scope(|scope| {
        for first in 0..WORKERS {
            scope.spawn(move || {
                for seed in (first..cases).step_by(WORKERS as usize) {
                    Case::new(seed).play();
                }
            });
        }
    });
}

#[test]
fn a_clean_stop_syncs_what_was_written_long_before() {
    let dir = tempfile::tempdir().unwrap();
    let medium = Arc::new(FaultyMedium::new(dir.path()));
    let clock = Arc::new(ManualClock::at(SystemClock::new().now_ms()));
    let mut config = small_sync(dir.path());
    config.medium = medium.clone();
    let (store, _) = Store::open(config, clock.clone(), Arc::new(())).unwrap();
    let body = [1; 50];
    // More than a page of entries, so that they are written a second later, and synced four seconds after that.
    for _ in 0..30 {
        let messages: Vec<_> = (0..10).map(|_| message("T", 0, &body, b"")).collect();
        let appended = append(&store, &messages).unwrap();
        durable(&store, &appended).unwrap();
    }
    let first = dir.path().join("consumequeue/T/0").join("0".repeat(20));
    clock.advance(Duration::from_millis(1100));
    let deadline = Instant::now() + Duration::from_secs(20);
    while !first.exists() {
        assert!(Instant::now() < deadline, "the entries are not written");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    store.close().unwrap();
    // Several, since each page is kept or lost by chance.
    for seed in 0..10 {
        let after = tempfile::tempdir().unwrap();
        medium.capture().image(after.path(), &mut Random::new(seed));
        let (store, _) = support::open(small_sync(after.path()));
        assert_eq!(all(&store, "T", 0).len(), 300, "seed {seed}");
    }
}
