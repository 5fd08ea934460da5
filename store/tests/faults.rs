//! What a power cut, a failing device, a full one, and damaged bytes may do to a store, and what not.

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
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agena_protocol::queue::QueueId;
use agena_store::inspect::{VerifyOptions, verify};
use agena_store::medium::{Access, DiskMedium, Entry, Medium, StoreFile};
use agena_store::{Durability, Opened, ReadOnlyReason, Store, StoreError};
use device::{Random, fast_dir};
use faulty::{Calls, FaultyMedium};
use support::{FastClock, all, append, durable, message, open, put, small, small_sync};

/// What was acknowledged: (queue, number) -> body.
type Acked = BTreeMap<(u32, u64), Vec<u8>>;

fn body(random: &mut Random, tag: u64) -> Vec<u8> {
    let mut body = format!("{tag:08} ").into_bytes();
    body.resize(9 + random.below(900) as usize, b'a' + (tag % 26) as u8);
    body
}

/// Appends one random batch and notes what was acknowledged.
fn append_some(store: &Store, random: &mut Random, acked: &mut Acked, tag: &mut u64) {
    let bodies: Vec<_> = (0..1 + random.below(6))
        .map(|_| {
            *tag += 1;
            (random.below(3) as u32, body(random, *tag))
        })
        .collect();
    let messages: Vec<_> = bodies
        .iter()
        .map(|(queue, body)| message("T", *queue, body, b""))
        .collect();
    let Ok(appended) = append(store, &messages) else {
        return;
    };
    if durable(store, &appended).is_ok() {
        for (placed, (queue, body)) in appended.placed.iter().zip(bodies) {
            acked.insert((queue, placed.queue_offset.number()), body);
        }
    }
}

/// Everything acknowledged is there, at its number, with its content.
fn check_acked(store: &Store, acked: &Acked, what: &str) {
    let mut found = BTreeMap::new();
    for queue in 0..3 {
        for (offset, body) in all(store, "T", queue) {
            found.insert((queue, offset), body);
        }
    }
    for (place, body) in acked {
        assert_eq!(found.get(place), Some(body), "{what}: {place:?} is lost");
    }
}

/// Waits until a store whose device failed says so; false if it never does.
fn is_fenced(store: &Store) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    while store.read_only_reason().is_none() && Instant::now() < deadline {
        std::thread::yield_now();
    }
    matches!(store.read_only_reason(), Some(ReadOnlyReason::Failed(_)))
}

#[test]
fn no_acknowledgement_follows_a_failed_sync() {
    let mut fenced_by = BTreeMap::<String, u32>::new();
    for n in 1..=100 {
        let dir = fast_dir();
        let mut random = Random::new(n);
        let mut acked = Acked::new();
        let mut tag = 0;
        let medium = Arc::new(FaultyMedium::new(dir.path()));
        let mut config = small_sync(dir.path());
        config.segment_bytes = 16 * 1024;
        config.medium = medium.clone();
        let clock = Arc::new(FastClock::default());
        config.durability = Durability::Device {
            timeout: Duration::from_secs(1_000_000),
        };
        let (store, _) = Store::open(config.clone(), clock, Arc::new(())).unwrap();
        medium.fail_nth(i64::try_from(n).unwrap(), Calls::Syncs);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !medium.has_failed() && Instant::now() < deadline {
            append_some(&store, &mut random, &mut acked, &mut tag);
        }
        assert!(medium.has_failed());
        assert!(is_fenced(&store), "n {n}: a failed sync is final");
        let before = acked.len();
        for _ in 0..5 {
            append_some(&store, &mut random, &mut acked, &mut tag);
        }
        assert_eq!(acked.len(), before, "n {n}: acknowledged after the failure");
        let stats = store.stats();
        assert!(
            stats.dispatched <= stats.flushed,
            "n {n}: seen before it was synced"
        );
        assert!(matches!(
            append(&store, &[message("T", 0, b"x", b"")]),
            Err(StoreError::ReadOnly { .. })
        ));
        assert!(!store.is_writable());
        let Some(ReadOnlyReason::Failed(cause)) = store.read_only_reason() else {
            panic!("n {n}: no reason");
        };
        let file = cause.split('/').nth(4).unwrap_or_default();
        *fenced_by.entry(file.to_owned()).or_default() += 1;
        check_acked(&store, &acked, "reads go on");
        assert!(store.close().is_err(), "n {n}: closed as if nothing were");
        drop(store);
        config.medium = Arc::new(FaultyMedium::new(dir.path()));
        let (store, _) = open(config);
        check_acked(&store, &acked, &format!("n {n}"));
        store.close().unwrap();
    }
    // The log's, the queues', the index's and the checkpoint's syncs were all among them.
    assert!(fenced_by.len() >= 2, "{fenced_by:?}");
}

#[test]
fn any_call_may_fail_without_loss() {
    for n in 1..=200 {
        let dir = fast_dir();
        let mut random = Random::new(n);
        let mut acked = Acked::new();
        let mut tag = 0;
        let medium = Arc::new(FaultyMedium::new(dir.path()));
        medium.fail_nth(i64::try_from(n).unwrap(), Calls::All);
        for _ in 0..2 {
            let mut config = small_sync(dir.path());
            config.medium = medium.clone();
            // A failure at opening is an error with a name; the next attempt has a device that works.
            let clock = Arc::new(FastClock::default());
            let Ok((store, _)) = Store::open(config, clock, Arc::new(())) else {
                continue;
            };
            for _ in 0..25 {
                append_some(&store, &mut random, &mut acked, &mut tag);
            }
            if store.read_only_reason().is_some() {
                let before = acked.len();
                append_some(&store, &mut random, &mut acked, &mut tag);
                assert_eq!(acked.len(), before, "n {n}: acknowledged after the failure");
            }
            if medium.has_failed() {
                check_acked(&store, &acked, &format!("n {n}: reads go on"));
            }
            let _ = store.close();
        }
        let (store, _) = open(small_sync(dir.path()));
        check_acked(&store, &acked, &format!("n {n}"));
        store.close().unwrap();
        verified(dir.path(), &format!("n {n}"));
    }
}

fn verified(root: &Path, what: &str) {
    let options = VerifyOptions { index_slots: 64 };
    let report = verify(root, &options, &mut |_| ()).unwrap();
    assert_eq!(report.fault_count, 0, "{what}: {:?}", report.faults);
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_space() {
    let dir = fast_dir();
    let medium = Arc::new(FaultyMedium::new(dir.path()));
    let mut config = small(dir.path());
    config.medium = medium.clone();
    // Queue files, index files and the checkpoint are written all the time: they meet the full disk as well.
    let clock = Arc::new(FastClock::default());
    let (store, _) = Store::open(config, clock, Arc::new(())).unwrap();
    let mut appended = 0;
    for cycle in 0..5_u32 {
        medium.set_full(true);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let key = support::properties(&[("KEYS", &format!("k{appended}"))]);
            match append(&store, &[message("T", cycle, &[7; 3000], &key)]) {
                Ok(_) => appended += 1,
                Err(StoreError::DiskFull { .. }) => break,
                Err(other) => panic!("{other}"),
            }
            assert!(Instant::now() < deadline);
        }
        assert!(!store.is_writable());
        assert_eq!(store.read_only_reason(), Some(ReadOnlyReason::DiskFull));
        assert_eq!(count(&store, cycle), appended, "reads go on");
        medium.set_full(false);
        let since = Instant::now();
        while !store.is_writable() {
            assert!(
                since.elapsed() < Duration::from_secs(1),
                "writable by itself"
            );
            std::thread::yield_now();
        }
        put(&store, "T", cycle, &[8; 3000]);
        appended += 1;
    }
    store.close().unwrap();
    verified(dir.path(), "after five times");
    let (store, opened) = open(small(dir.path()));
    assert!(matches!(opened, Opened::Clean));
    assert_eq!(count(&store, 4), appended);
}

/// Messages in queues 0 to `last`.
fn count(store: &Store, last: u32) -> usize {
    (0..=last).map(|queue| all(store, "T", queue).len()).sum()
}

fn log_file(dir: &Path) -> std::path::PathBuf {
    dir.join("commitlog").join("0".repeat(20))
}

#[test]
fn a_tail_torn_at_any_byte_costs_only_what_is_torn() {
    let dir = fast_dir();
    let (store, _) = open(small(dir.path()));
    let mut ends = vec![0];
    for i in 0..6_u8 {
        put(&store, "T", 0, &[i; 20]);
        ends.push(store.stats().log_max as usize);
    }
    drop(store);
    let whole = fs::read(log_file(dir.path())).unwrap();
    let last = ends[5];
    // Head and body; the body's sum does not cover what follows.
    for cut in last..last + 88 + 20 {
        for garbage in [0, 0xA5] {
            let mut torn = whole.clone();
            torn[cut..ends[6]].fill(garbage);
            if torn == whole {
                continue;
            }
            fs::write(log_file(dir.path()), &torn).unwrap();
            let (store, opened) = open(small(dir.path()));
            let Opened::Recovered(report) = opened else {
                panic!("not scanned");
            };
            assert_eq!(report.log_end as usize, last, "cut at {cut}");
            assert_eq!(all(&store, "T", 0).len(), 5);
            assert_eq!(put(&store, "T", 0, b"next"), 5);
        }
    }
}

#[test]
fn a_flipped_bit_is_never_delivered() {
    let dir = fast_dir();
    let config = |dir: &Path| {
        let mut config = small(dir);
        config.sum_records = true;
        config
    };
    let (store, _) = open(config(dir.path()));
    for i in 0..40_u8 {
        put(&store, "T", 0, &[i; 100]);
    }
    let end = store.stats().log_max;
    let expected = all(&store, "T", 0);
    store.close().unwrap();
    let whole = fs::read(log_file(dir.path())).unwrap();
    let mut random = Random::new(7);
    for round in 0..100 {
        let bit = random.below(end * 8) as usize;
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(log_file(dir.path()), &damaged).unwrap();
        let (store, _) = open(config(dir.path()));
        let found = all(&store, "T", 0);
        assert!(
            found.len() >= 39,
            "round {round}, bit {bit}: {}",
            found.len()
        );
        for message in &found {
            assert!(expected.contains(message), "round {round}, bit {bit}");
        }
        fs::write(log_file(dir.path()), &whole).unwrap();
        store.close().unwrap();
    }
}

#[test]
fn lost_queues_and_index_are_built_from_the_log() {
    for lost in [
        "consumequeue",
        "consumequeue/T",
        "consumequeue/T/1",
        "index",
    ] {
        for clean in [false, true] {
            let dir = fast_dir();
            let (store, _) = open(small(dir.path()));
            for i in 0..300_u32 {
                let key = support::properties(&[("KEYS", &format!("k{i}"))]);
                let _ = append(&store, &[message("T", i % 3, &[1; 200], &key)]).unwrap();
            }
            let expected: Vec<_> = (0..3).map(|queue| all(&store, "T", queue)).collect();
            // Closed and opened once, so that there is a mark behind all of it.
            store.close().unwrap();
            let (store, _) = open(small(dir.path()));
            if clean {
                store.close().unwrap();
            }
            drop(store);
            fs::remove_dir_all(dir.path().join(lost)).unwrap();
            let (store, opened) = open(small(dir.path()));
            assert!(matches!(opened, Opened::Recovered(_)), "{lost} {clean}");
            for queue in 0..3 {
                let found = all(&store, "T", queue);
                assert_eq!(found.len(), 100, "{lost} {clean} {queue}");
                assert!(found == expected[queue as usize], "{lost} {clean} {queue}");
                assert_eq!(store.next_offset("T", QueueId::new(queue)).number(), 100);
            }
            for i in 0..300 {
                let found = store.query("T", &format!("k{i}"), 64, 0, i64::MAX);
                assert!(!found.is_empty(), "{lost} {clean} k{i}");
            }
        }
    }
}

/// A process that has no descriptor left to open a file with.
#[derive(Debug, Default)]
struct FewFiles {
    has_none: AtomicBool,
    /// How often which thread was refused one.
    refused: Mutex<BTreeMap<String, u64>>,
}

impl FewFiles {
    fn take(&self) -> io::Result<()> {
        if !self.has_none.load(Ordering::SeqCst) {
            return Ok(());
        }
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        *self.refused.lock().unwrap().entry(thread).or_default() += 1;
        Err(rustix::io::Errno::MFILE.into())
    }
}

impl Medium for FewFiles {
    fn open(&self, path: &Path, access: Access) -> io::Result<StoreFile> {
        self.take()?;
        DiskMedium.open(path, access)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.take()?;
        DiskMedium.list(dir)
    }

    fn sync_all(&self, dir: &Path) -> io::Result<()> {
        self.take()?;
        DiskMedium.sync_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.take()?;
        DiskMedium.sync_dir(dir)
    }
}

#[test]
fn a_process_without_descriptors_is_no_failed_device() {
    let dir = fast_dir();
    let medium = Arc::new(FewFiles::default());
    let mut config = small(dir.path());
    config.medium = medium.clone();
    let (store, _) = Store::open(config, Arc::new(FastClock::default()), Arc::new(())).unwrap();
    put(&store, "T", 0, b"first");
    medium.has_none.store(true, Ordering::SeqCst);
    let (mut stored, mut refused) = (1, 0);
    let began = Instant::now();
    // Until the log, its queues and the index wanted files again and again.
    let wanted = |thread| {
        let refused = medium.refused.lock().unwrap();
        refused.get(thread).is_some_and(|count| *count > 2)
    };
    while refused < 20 || !wanted("store-keeper") || !wanted("store-index") {
        assert!(began.elapsed() < Duration::from_secs(60));
        let properties = support::properties(&[("KEYS", "k")]);
        match append(&store, &[message("T", 0, &[7; 4000], &properties)]) {
            Ok(_) => stored += 1,
            Err(StoreError::Io { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(store.is_writable());
    medium.has_none.store(false, Ordering::SeqCst);
    put(&store, "T", 0, b"last");
    assert_eq!(all(&store, "T", 0).len(), stored + 1);
    store.close().unwrap();
    drop(store);
    // Queues and index as well.
    verified(dir.path(), "behind it");
    let (store, opened) = open(small(dir.path()));
    assert!(matches!(opened, Opened::Clean), "{opened:?}");
    assert_eq!(all(&store, "T", 0).len(), stored + 1);
}
