//! Power cuts at every kind of moment, each with several images of what the device may have then: whatever was
//! acknowledged is there, nothing comes back that was gone, and the recovered store's files agree.
//!
//! A store lives on a medium that captures the device in front of calls chosen by a seed: while it opens and recovers,
//! appends, makes files, marks the checkpoint, removes what expired, and closes. Images of these moments are opened,
//! checked, live on and are cut again. `AGENA_POWER_CUTS=5000` sets how many images are opened (debug builds: some 300 a
//! second), `AGENA_POWER_SEED=n` where the seeds begin.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests may unwrap and say what they did"
)]

#[path = "support/device.rs"]
mod device;
#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/store.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agena_protocol::clock::SystemClock;
use agena_protocol::queue::QueueId;
use agena_store::inspect::{VerifyOptions, verify};
use agena_store::{Durability, Opened, Store, StoreConfig};
use device::{Captured, Random, fast_dir};
use faulty::FaultyMedium;
use support::{FastClock, all, append, durable, message, properties, small};

/// Images that a plain test run opens.
const IMAGES: u64 = 250;
const QUEUES: u32 = 3;
/// How often an image of an image lives on.
const GENERATIONS: u32 = 3;

/// A queue, and a number in it.
type Place = (u32, u64);
type Messages = BTreeMap<Place, Vec<u8>>;
/// What was acknowledged at a place.
type Promise = (Place, Vec<u8>);
/// The bodies that may be found in each place.
type Possible = BTreeMap<Place, BTreeSet<Vec<u8>>>;

/// What is true of a store whatever happens to it.
#[derive(Debug, Clone, Default)]
struct History {
    /// In the order in which they were promised.
    promised: Arc<Mutex<Vec<Promise>>>,
    /// What may be found: it was there at the last opening, or was sent since.
    possible: Arc<Mutex<Possible>>,
}

impl History {
    fn promise(&self, place: (u32, u64), body: Vec<u8>) {
        self.promised.lock().unwrap().push((place, body));
    }

    fn may_be(&self, place: (u32, u64), body: &[u8]) {
        let mut possible = self.possible.lock().unwrap();
        possible.entry(place).or_default().insert(body.to_vec());
    }

    fn promises(&self) -> u64 {
        self.promised.lock().unwrap().len() as u64
    }

    /// The same, as of when there were only so many promises.
    fn until(&self, promises: u64) -> Self {
        let promised = self.promised.lock().unwrap();
        let kept = promised[..usize::try_from(promises).unwrap()].to_vec();
        Self {
            promised: Arc::new(Mutex::new(kept)),
            possible: Arc::new(Mutex::new(self.possible.lock().unwrap().clone())),
        }
    }

    /// The same, where what `other` has may be found as well.
    fn or(self, other: &Self) -> Self {
        let others = other.possible.lock().unwrap().clone();
        let mut possible = self.possible.lock().unwrap();
        for (place, bodies) in others {
            possible.entry(place).or_default().extend(bodies);
        }
        drop(possible);
        self
    }

    /// The history of a store that has just been found like this.
    fn found(&self, found: &Messages) -> Self {
        let possible = found
            .iter()
            .map(|(place, body)| (*place, BTreeSet::from([body.clone()])));
        Self {
            promised: self.promised.clone(),
            possible: Arc::new(Mutex::new(possible.collect())),
        }
    }
}

/// What varies from run to run.
#[derive(Debug, Clone, Copy)]
struct Kind {
    sync: bool,
    /// Retention by bytes removes the oldest files.
    expires: bool,
}

#[derive(Debug, Default)]
struct Tally {
    images: u64,
    promises: u64,
    clean: u64,
    torn: u64,
    damaged: u64,
    mended: u64,
    rebuilt: u64,
}

impl Tally {
    fn opened(&mut self, opened: &Opened) {
        match opened {
            Opened::Clean => self.clean += 1,
            Opened::Recovered(report) => {
                self.torn += u64::from(report.torn.is_some());
                self.damaged += u64::from(!report.damage.is_empty());
                self.mended += u64::from(report.entries_mended > 0);
                self.rebuilt += u64::from(report.rebuilt);
            }
        }
    }
}

fn config(base: &Path, kind: Kind, medium: Arc<FaultyMedium>) -> StoreConfig {
    let mut config = small(&base.join("store"));
    config.segment_bytes = 16 * 1024;
    config.durability = if kind.sync {
        Durability::Device {
            timeout: Duration::from_secs(1_000_000),
        }
    } else {
        Durability::PageCache {
            interval: Duration::from_millis(1),
            least_pages: 1,
            thorough_interval: Duration::from_secs(2),
        }
    };
    config.retention.log_bytes_max = kind.expires.then_some(64 * 1024);
    config.medium = medium;
    config
}

fn contents(store: &Store) -> Messages {
    let mut found = Messages::new();
    for queue in 0..QUEUES {
        for (number, body) in all(store, "T", queue) {
            found.insert((queue, number), body);
        }
    }
    found
}

fn body(random: &mut Random, tag: u64) -> Vec<u8> {
    let mut body = format!("{tag:016x} ").into_bytes();
    let length = body.len() + usize::try_from(random.below(900)).unwrap();
    body.resize(length, b'a' + u8::try_from(tag % 26).unwrap());
    body
}

/// Appends one batch; waits for its promise, or not.
fn append_some(store: &Store, kind: Kind, random: &mut Random, history: &History, waits: bool) {
    let bodies: Vec<_> = (0..1 + random.below(5))
        .map(|_| {
            let queue = u32::try_from(random.below(u64::from(QUEUES))).unwrap();
            let tag = random.below(u64::MAX);
            (queue, body(random, tag), format!("k{}", tag % 50))
        })
        .collect();
    // What may be found is known before it is sent: a cut may come in between.
    for (queue, body, _) in &bodies {
        let next = store.next_offset("T", QueueId::new(*queue)).number();
        for number in next..next + bodies.len() as u64 {
            history.may_be((*queue, number), body);
        }
    }
    let keys: Vec<_> = bodies
        .iter()
        .map(|(_, _, key)| properties(&[("KEYS", key)]))
        .collect();
    let messages: Vec<_> = bodies
        .iter()
        .zip(&keys)
        .map(|((queue, body, _), keys)| message("T", *queue, body, keys))
        .collect();
    let Ok(appended) = append(store, &messages) else {
        return;
    };
    if !waits {
        return;
    }
    let is_promised = if kind.sync {
        durable(store, &appended).is_ok()
    } else {
        let last = appended.placed.last().unwrap();
        let end = last.physical_offset.number() + u64::from(last.bytes);
        let deadline = Instant::now() + Duration::from_millis(3);
        while store.stats().flushed < end && Instant::now() < deadline {
            std::thread::yield_now();
        }
        store.stats().flushed >= end
    };
    if is_promised {
        for (placed, (queue, body, _)) in appended.placed.iter().zip(bodies) {
            history.promise((queue, placed.queue_offset.number()), body);
        }
    }
}

/// Everything promised is there, and nothing that cannot be.
fn check(store: &Store, kind: Kind, history: &History, what: &str) -> Messages {
    let found = contents(store);
    // Copied: the store is not asked under a lock that its own threads ask for when the power is cut.
    let promised = history.promised.lock().unwrap().clone();
    for (place, body) in &promised {
        let (queue, number) = *place;
        let min = store.min_offset("T", QueueId::new(queue)).number();
        if kind.expires && number < min {
            continue;
        }
        assert!(
            found.get(place) == Some(body),
            "{what}: {place:?} was promised and is lost; the queue has {min}..{}",
            store.max_offset("T", QueueId::new(queue)).number()
        );
    }
    let possible = history.possible.lock().unwrap();
    for (place, body) in &found {
        let start = |body: &[u8]| String::from_utf8_lossy(&body[..17]).into_owned();
        let expected = possible.get(place);
        assert!(
            expected.is_some_and(|bodies| bodies.contains(body)),
            "{what}: {place:?} was gone and is back, or was never there: {}, possible were {:?}",
            start(body),
            expected.map(|bodies| bodies.iter().map(|body| start(body)).collect::<Vec<_>>()),
        );
    }
    found
}

/// Opens the store below `base`, which an image or nothing is in, lets it live, and gives the moments of its power cuts.
fn live(
    base: &Path,
    kind: Kind,
    history: &History,
    random: &mut Random,
    tally: &mut Tally,
    what: &str,
) -> (String, Vec<(History, Captured)>) {
    let medium = Arc::new(FaultyMedium::new(base));
    // Many of the calls of an opening, fewer of those that follow.
    let cuts: HashSet<u64> = (0..26)
        .map(|cut| random.below(if cut < 6 { 60 } else { 900 }))
        .collect();
    let opening = history.clone();
    // Until the store is checked, its history is that of the image.
    let current = Arc::new(Mutex::new(opening));
    let histories = Arc::new(Mutex::new(Vec::new()));
    let witness = {
        let (current, histories) = (current.clone(), histories.clone());
        move || {
            let history = current.lock().unwrap().clone();
            let promises = history.promises();
            let mut histories = histories.lock().unwrap();
            histories.push((history, promises));
            histories.len() as u64 - 1
        }
    };
    medium.cut_at(cuts, Box::new(witness));
    let clock = Arc::new(FastClock::default());
    let (store, opened) = Store::open(config(base, kind, medium.clone()), clock, Arc::new(()))
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    tally.opened(&opened);
    let what = format!("{what}, opened as {opened:?}");
    let found = check(&store, kind, history, &what);
    let mut history = history.found(&found);
    *current.lock().unwrap() = history.clone();
    let mut store = store;
    for _ in 0..random.below(40) {
        let waits = random.below(4) > 0;
        append_some(&store, kind, random, &history, waits);
        if random.below(40) == 0 {
            // The process is killed: what it wrote is there, and on the device or not.
            drop(store);
            let clock = Arc::new(FastClock::default());
            (store, _) = Store::open(config(base, kind, medium.clone()), clock, Arc::new(()))
                .unwrap_or_else(|error| panic!("{what}: killed, {error}"));
            let found = check(&store, kind, &history, &format!("{what}, killed"));
            history = history.found(&found);
            *current.lock().unwrap() = history.clone();
        }
    }
    if random.below(2) == 0 {
        store.close().unwrap();
        assert_verified(base, &what);
    }
    drop(store);
    let histories = std::mem::take(&mut *histories.lock().unwrap());
    let moments = medium
        .captured()
        .into_iter()
        .map(|(seen, captured)| {
            // The store may have been found, and appended to, while a thread of its own met the cut.
            let [(before, promises), (behind, _)] =
                seen.map(|seen| &histories[usize::try_from(seen).unwrap()]);
            (before.until(*promises).or(behind), captured)
        })
        .collect();
    (what, moments)
}

fn assert_verified(base: &Path, what: &str) {
    let options = VerifyOptions { index_slots: 64 };
    let report = verify(&base.join("store"), &options, &mut |_| ()).unwrap();
    assert!(
        report.fault_count == 0,
        "{what}: storeVerify says {:#?}",
        report.faults
    );
}

/// Opens an image, checks it, closes it, and verifies its files.
fn open_and_verify(base: &Path, kind: Kind, history: &History, tally: &mut Tally, what: &str) {
    let medium = Arc::new(FaultyMedium::new(base));
    let clock = Arc::new(SystemClock::new());
    let (store, opened) = Store::open(config(base, kind, medium), clock, Arc::new(()))
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let what = format!("{what}, opened as {opened:?}");
    tally.opened(&opened);
    check(&store, kind, history, &what);
    store.close().unwrap();
    assert_verified(base, &what);
    tally.images += 1;
    tally.promises += history.promises();
}

fn run(seed: u64, images: u64, tally: &mut Tally) {
    let mut random = Random::new(seed);
    let kind = Kind {
        sync: random.below(4) > 0,
        expires: random.below(4) == 0,
    };
    let mut base = fast_dir();
    let mut history = History::default();
    for generation in 0..GENERATIONS {
        let what = format!("seed {seed}, {kind:?}, generation {generation}");
        let (what, moments) = live(base.path(), kind, &history, &mut random, tally, &what);
        for (number, (history, captured)) in moments.iter().enumerate() {
            for draw in 0..2 {
                if tally.images >= images {
                    return;
                }
                let image = fast_dir();
                captured.image(image.path(), &mut random);
                let what = format!("{what}, cut {number}, image {draw}");
                open_and_verify(image.path(), kind, history, tally, &what);
            }
        }
        let Some((then, captured)) =
            moments.get(usize::try_from(random.below(moments.len().max(1) as u64)).unwrap())
        else {
            return;
        };
        let image = fast_dir();
        captured.image(image.path(), &mut random);
        history = then.clone();
        base = image;
    }
}

fn number_of(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn a_power_cut_takes_back_nothing_that_was_acknowledged() {
    let images = number_of("AGENA_POWER_CUTS").unwrap_or(IMAGES);
    let mut seed = number_of("AGENA_POWER_SEED").unwrap_or(0);
    let started = Instant::now();
    let mut tally = Tally::default();
    while tally.images < images {
        run(seed, images, &mut tally);
        seed += 1;
    }
    println!("{tally:?} in {:?}, {seed} seeds", started.elapsed());
}
