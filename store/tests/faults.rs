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
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agena_protocol::queue::QueueId;
use agena_store::{Opened, Store, StoreError};
use device::Random;
use faulty::{Calls, FaultyMedium};
use support::{all, append, clock, durable, message, open, put, small, small_sync};

/// What was acknowledged: (queue, number) -> body.
type Acked = BTreeMap<(u32, u64), Vec<u8>>;

fn open_faulty(root: &Path, sync: bool) -> (Arc<Store>, Arc<FaultyMedium>) {
    let medium = Arc::new(FaultyMedium::new(root));
    let mut config = if sync { small_sync(root) } else { small(root) };
    config.medium = medium.clone();
    let (store, _) = Store::open(config, clock(), Arc::new(())).unwrap();
    (store, medium)
}

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

#[test]
fn no_acknowledgement_follows_a_failed_sync() {
    for n in 1..=40 {
        let dir = tempfile::tempdir().unwrap();
        let mut random = Random::new(n);
        let mut acked = Acked::new();
        let mut tag = 0;
        let (store, medium) = open_faulty(dir.path(), true);
        medium.fail_nth(i64::try_from(n).unwrap(), Calls::Syncs);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !medium.has_failed() && Instant::now() < deadline {
            append_some(&store, &mut random, &mut acked, &mut tag);
        }
        assert!(medium.has_failed());
        // The call may have been one that makes the next file: then its append was refused, and the next try is whole.
        if store.read_only_reason().is_some() {
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
        }
        check_acked(&store, &acked, "reads go on");
        drop(store);
        let (store, _) = open(small_sync(dir.path()));
        check_acked(&store, &acked, &format!("n {n}"));
    }
}

#[test]
fn any_call_may_fail_without_loss() {
    for n in 1..=100 {
        let dir = tempfile::tempdir().unwrap();
        let mut random = Random::new(n);
        let mut acked = Acked::new();
        let mut tag = 0;
        let medium = Arc::new(FaultyMedium::new(dir.path()));
        medium.fail_nth(i64::try_from(n).unwrap(), Calls::All);
        for _ in 0..2 {
            let mut config = small_sync(dir.path());
            config.medium = medium.clone();
            // A failure at opening is an error with a name; the next attempt has a device that works.
            let Ok((store, _)) = Store::open(config, clock(), Arc::new(())) else {
                continue;
            };
            for _ in 0..25 {
                append_some(&store, &mut random, &mut acked, &mut tag);
            }
            let _ = store.close();
        }
        let (store, _) = open(small_sync(dir.path()));
        check_acked(&store, &acked, &format!("n {n}"));
    }
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let (store, medium) = open_faulty(dir.path(), false);
    let mut appended = 0;
    for _ in 0..5 {
        medium.set_full(true);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match append(&store, &[message("T", 0, &[7; 3000], b"")]) {
                Ok(_) => appended += 1,
                Err(StoreError::DiskFull { .. }) => break,
                Err(other) => panic!("{other}"),
            }
            assert!(Instant::now() < deadline);
        }
        assert!(!store.is_writable());
        assert_eq!(all(&store, "T", 0).len(), appended, "reads go on");
        medium.set_full(false);
        let since = Instant::now();
        while !store.is_writable() {
            assert!(
                since.elapsed() < Duration::from_secs(5),
                "writable by itself"
            );
            std::thread::yield_now();
        }
        put(&store, "T", 0, &[8; 3000]);
        appended += 1;
    }
    store.close().unwrap();
    let (store, opened) = open(small(dir.path()));
    assert!(matches!(opened, Opened::Clean));
    assert_eq!(all(&store, "T", 0).len(), appended);
}

fn log_file(dir: &Path) -> std::path::PathBuf {
    dir.join("commitlog").join("0".repeat(20))
}

#[test]
fn a_tail_torn_at_any_byte_costs_only_what_is_torn() {
    let dir = tempfile::tempdir().unwrap();
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
    let dir = tempfile::tempdir().unwrap();
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
            let dir = tempfile::tempdir().unwrap();
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
