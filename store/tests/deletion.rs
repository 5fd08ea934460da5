//! Topics are deleted while their producers go on: what comes behind the deletion is in a queue of its own, numbered from
//! the start.

#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

#[path = "support/store.rs"]
mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use agena_protocol::clock::Clock;
use agena_store::{Opened, Store, StoreConfig};
use support::{FastClock, all, append, clock, message, open, put, small, small_sync};

const DELETIONS: usize = 10;
const BETWEEN: usize = 300;

/// Two producers and an operator; gives the places and numbers of all messages in the log's order.
fn turmoil(store: &Store) -> Vec<(u64, u64)> {
    let stop = AtomicBool::new(false);
    let placed = Mutex::new(Vec::new());
    let wait_for_more = || {
        let before = placed.lock().unwrap().len();
        while placed.lock().unwrap().len() < before + BETWEEN {
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let place = append(store, &[message("T", 0, b"body", b"")])
                        .unwrap()
                        .placed[0];
                    let place = (place.physical_offset.number(), place.queue_offset.number());
                    placed.lock().unwrap().push(place);
                }
            });
        }
        for _ in 0..DELETIONS {
            wait_for_more();
            store.delete_topic("T").unwrap();
        }
        wait_for_more();
        stop.store(true, Ordering::Relaxed);
    });
    let mut placed = placed.into_inner().unwrap();
    placed.sort_unstable();
    placed
}

fn check(config: impl Fn(&Path) -> StoreConfig, clock: Arc<dyn Clock>) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(config(dir.path()), clock, Arc::new(())).unwrap();
    let placed = turmoil(&store);
    let begins: Vec<_> = (0..placed.len()).filter(|at| placed[*at].1 == 0).collect();
    assert_eq!(begins.len(), DELETIONS + 1);
    // Between two deletions the numbers ascend by one.
    for (at, (_, number)) in placed.iter().enumerate() {
        let begin = begins.iter().rfind(|begin| **begin <= at).unwrap();
        assert_eq!(*number, (at - begin) as u64, "message {at}");
    }
    // The queue has those behind the last one, each at its number.
    let count = (placed.len() - begins[DELETIONS]) as u64;
    assert_eq!(put(&store, "T", 0, b"last"), count);
    let numbers = |store: &Store| -> Vec<_> {
        let found = all(store, "T", 0).into_iter();
        found.map(|(number, _)| number).collect()
    };
    let expected: Vec<_> = (0..=count).collect();
    assert_eq!(numbers(&store), expected);
    store.close().unwrap();
    drop(store);
    let (store, opened) = open(config(dir.path()));
    assert!(matches!(opened, Opened::Clean), "{opened:?}");
    assert_eq!(numbers(&store), expected);
}

#[test]
fn a_queue_begins_anew_behind_a_deletion() {
    check(small, Arc::new(FastClock::default()));
}

/// What is synced later is dispatched later: the deletion stands between the two.
#[test]
fn a_queue_begins_anew_behind_a_deletion_with_syncs() {
    check(small_sync, clock());
}
