//! What an open knows again, from the file and from the log.

use std::path::PathBuf;
use std::sync::Arc;

use agena_store::Durability;

use super::super::table::Limits;
use super::super::tests::{Log, known};
use super::*;

fn config(producers_max: usize, window: usize) -> BrokerConfig {
    let mut config = BrokerConfig::default();
    config.dedup_producers_max = producers_max;
    config.dedup_window = window;
    config.dedup_snapshot_distance = 1;
    config.mapped_file_size_commit_log = 1 << 20;
    config
}

fn mark(windows: &Dedup) -> Option<u64> {
    let mark = windows.snapshots.state.lock().mark;
    mark.map(PhysicalOffset::number)
}

fn path(log: &Log, name: &str) -> PathBuf {
    log.config_dir().join(name)
}

fn store(log: &Log, windows: &Arc<Dedup>, sequences: std::ops::Range<u64>) -> Vec<First> {
    sequences
        .map(|sequence| log.store(windows, "p", sequence))
        .collect()
}

#[test]
fn an_open_reads_the_log_behind_a_mark_within_it() {
    let directory = tempfile::tempdir().unwrap();
    let log = Log::open(directory.path(), Durability::page_cache());
    let config = config(10, 100);
    let windows = log.windows(&config);
    assert_eq!(mark(&windows), Some(0));
    let mut firsts = store(&log, &windows, 0..50);
    let end = log.store.log_end();
    // Fewer than four pages are dirty: the file waits for the sync.
    save_if_far(&windows, &log.store);
    assert_eq!(mark(&windows), Some(0));
    let wait = std::time::Instant::now();
    while mark(&windows) == Some(0) {
        assert!(wait.elapsed() < std::time::Duration::from_secs(60));
        std::thread::sleep(std::time::Duration::from_millis(5));
        save_if_far(&windows, &log.store);
    }
    assert_eq!(mark(&windows), Some(end.number()));
    firsts.extend(store(&log, &windows, 50..80));
    // What is in the file is not looked for in the log: a mark within it is enough.
    let again = log.windows(&config);
    assert!(mark(&again).is_some_and(|mark| mark >= end.number()));
    for (sequence, first) in (0..).zip(&firsts) {
        let place = first.physical.number().to_string();
        assert_eq!(known(&again, &log, "p", sequence), place, "{sequence}");
    }
    assert_eq!(again.totals().sequences, 80);
}

#[test]
fn a_file_takes_its_place_when_all_that_it_knows_is_on_the_device() {
    let directory = tempfile::tempdir().unwrap();
    let log = Log::lazy(directory.path());
    let config = config(10, 10);
    let windows = log.windows(&config);
    store(&log, &windows, 0..30);
    save_if_far(&windows, &log.store);
    save_if_far(&windows, &log.store);
    assert_eq!(mark(&windows), Some(0));
    // A power cut now takes the messages, and no floor may remember them.
    let found = file::read(&path(&log, "dedup.windows"), windows.table.lock().limits());
    assert_eq!(found.unwrap().unwrap().table.len(), 0);
    log.store.close().unwrap();
    save_if_far(&windows, &log.store);
    assert_eq!(mark(&windows), Some(log.store.log_end().number()));
    let found = file::read(&path(&log, "dedup.windows"), windows.table.lock().limits());
    let found = found.unwrap().unwrap();
    let window = found.table.get("p").unwrap();
    assert_eq!((window.len(), window.floor), (10, Some(19)));
}

#[test]
fn lower_limits_hold_from_the_next_open_on() {
    let directory = tempfile::tempdir().unwrap();
    let log = Log::lazy(directory.path());
    let windows = log.windows(&config(10, 100));
    for (producer, last) in [("a", 3), ("b", 9), ("c", 6)] {
        for sequence in 0..last {
            log.store(&windows, producer, sequence);
        }
    }
    log.store.close().unwrap();
    save_at_stop(&windows, &log.store);
    drop(log);
    let log = Log::lazy(directory.path());
    let windows = log.windows(&config(2, 4));
    let totals = windows.totals();
    assert_eq!((totals.producers, totals.sequences), (2, 8));
    let file = file::read(&path(&log, "dedup.windows"), windows.table.lock().limits()).unwrap();
    assert_eq!(file.unwrap().table.len(), 2);
    assert_eq!(known(&windows, &log, "b", 4), "too old");
    assert_ne!(known(&windows, &log, "b", 5), "new");
}

/// A stop with twenty numbers of `p`, of which ten fell out of the window.
fn stopped(directory: &Path, config: &BrokerConfig) {
    let log = Log::lazy(directory);
    let windows = log.windows(config);
    store(&log, &windows, 0..20);
    log.store.close().unwrap();
    save_at_stop(&windows, &log.store);
}

#[test]
fn a_file_of_another_log_is_not_believed() {
    let config = config(10, 10);
    let old = tempfile::tempdir().unwrap();
    stopped(old.path(), &config);
    // The log is gone and the file is kept; and the same, when the log has grown beyond the mark by then.
    for others in [0, 100] {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::lazy(directory.path());
        for sequence in 0..others {
            log.append("q", sequence, 1);
        }
        std::fs::create_dir_all(log.config_dir()).unwrap();
        let from = old.path().join("config/dedup.windows");
        std::fs::copy(from, path(&log, "dedup.windows")).unwrap();
        let windows = log.windows(&config);
        for sequence in [0, 5, 15, 19] {
            assert_eq!(known(&windows, &log, "p", sequence), "new", "{sequence}");
        }
        let known_of_others = usize::try_from(others).unwrap().min(10);
        assert_eq!(windows.totals().sequences, known_of_others);
        // Another file is on its way at once.
        log.store.close().unwrap();
        save_if_far(&windows, &log.store);
        let file = file::read(&path(&log, "dedup.windows"), windows.table.lock().limits()).unwrap();
        assert!(file.unwrap().table.get("p").is_none());
    }
}

#[test]
fn what_holds_of_file_and_backup_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(10, 10);
    stopped(directory.path(), &config);
    let main = directory.path().join("config/dedup.windows");
    let backup = directory.path().join("config/dedup.windows.bak");
    std::fs::copy(&main, &backup).unwrap();
    let sound = std::fs::read(&main).unwrap();
    for at in 0..sound.len() {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x40;
        std::fs::write(&main, damaged).unwrap();
        let limits = Limits::of(&config);
        assert!(file::read(&main, limits).is_err(), "byte {at}");
        std::fs::write(&main, &sound[..at]).unwrap();
        assert!(file::read(&main, limits).is_err(), "cut at {at}");
    }
    let log = Log::lazy(directory.path());
    let windows = log.windows(&config);
    assert_eq!(known(&windows, &log, "p", 9), "too old");
    assert_ne!(known(&windows, &log, "p", 10), "new");
    // What did not hold did not become the backup.
    for path in [&main, &backup] {
        let held = held_in(&windows, &log.store, path);
        assert!(matches!(held, Held::Yes(_)), "{}", path.display());
    }
}

#[test]
fn a_first_save_that_fails_loses_nothing_and_is_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let log = Log::open(directory.path(), Durability::device());
    let mut config = config(10, 10);
    config.dedup_snapshot_distance = 64 << 20;
    // Nothing can be written under this name.
    let fresh = path(&log, "dedup.windows.new");
    std::fs::create_dir_all(&fresh).unwrap();
    let windows = log.windows(&config);
    assert_eq!(mark(&windows), None);
    store(&log, &windows, 0..5);
    // A kill: nothing was saved.
    let windows = log.windows(&config);
    assert_ne!(known(&windows, &log, "p", 4), "new");
    std::fs::remove_dir(&fresh).unwrap();
    let wait = std::time::Instant::now();
    while mark(&windows).is_none() {
        assert!(wait.elapsed() < std::time::Duration::from_secs(60));
        save_if_far(&windows, &log.store);
    }
    assert!(path(&log, "dedup.windows").exists());
}

#[test]
fn a_file_of_the_default_limits_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let file = WindowsFile::new(directory.path());
    let mut writer = file.write(PhysicalOffset::new(1 << 40)).unwrap();
    let first = |place| First {
        physical: PhysicalOffset::new(place),
        queue_offset: agena_protocol::offset::QueueOffset::new(place),
        queue: agena_protocol::queue::QueueId::new(7),
        bytes: 300,
        count: 1,
        topic_sum: u32::MAX,
    };
    for producer in 0..1_000_u64 {
        let entries: Vec<_> = (0..1_000_u64)
            .map(|sequence| (sequence, first((1 << 39) + producer * 1_000 + sequence)))
            .collect();
        let name = format!("producer-{producer}");
        writer.window(&name, None, 5, &entries).unwrap();
    }
    writer.finish(None).unwrap();
    file.replace(false).unwrap();
    let limits = Limits::of(&BrokerConfig::default());
    let found = file::read(file.path(), limits).unwrap().unwrap();
    assert_eq!(found.mark, PhysicalOffset::new(1 << 40));
    assert_eq!(found.table.len(), 1_000);
    assert_eq!(found.table.sequences(), 1_000_000);
    let window = found.table.get("producer-999").unwrap();
    let last = window.entries().last().unwrap();
    assert_eq!(last, (999, first((1 << 39) + 999_999)));
}
