//! Many queues, slow files, cold data: what is held open is bounded, and who waits for a device holds up nobody else.

#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

#[path = "support/gated.rs"]
mod gated;
#[path = "support/store.rs"]
mod support;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use agena_protocol::queue::QueueId;
use agena_store::{
    Everything, Opened, ReadOutcome, ReadRequest, ReadStatus, Residency, Store, StoreConfig,
};
use gated::{DEADLINE, GatedMedium, Waiting};
use support::{all, clock, open, put, read, small};

fn open_gated(mut config: StoreConfig) -> (Arc<Store>, Arc<GatedMedium>) {
    let medium = Arc::new(GatedMedium::new());
    config.medium = medium.clone();
    let (store, _) = Store::open(config, clock(), Arc::new(())).unwrap();
    (store, medium)
}

/// Runs `what` on a thread of its own; the result comes through the channel.
fn aside<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (done, result) = mpsc::channel();
    std::thread::spawn(move || done.send(what()));
    result
}

fn read_from_memory(store: &Store, topic: &str, offset: i64) -> ReadOutcome {
    let request = ReadRequest {
        topic,
        queue_id: QueueId::new(0),
        offset,
        messages_max: 32,
        bytes_max: None,
        residency: Residency::MemoryOnly,
    };
    store.read(&request, &Everything)
}

/// A store with 30 messages in T/0 whose entries are on disk only, as after every start.
fn written(root: &Path) {
    let (store, _) = open(small(root));
    for i in 0..30_u64 {
        assert_eq!(put(&store, "T", 0, b"body"), i);
    }
    store.close().unwrap();
}

#[test]
fn a_read_that_waits_for_a_queue_file_holds_up_no_producer() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let (store, medium) = open_gated(small(dir.path()));
    medium.set(Waiting::Reads);
    let reader = store.clone();
    let found = aside(move || read(&reader, "T", 0, 0, 30).messages);
    medium.await_call();
    let producer = store.clone();
    let stored = aside(move || put(&producer, "T", 0, b"more"));
    assert_eq!(stored.recv_timeout(DEADLINE), Ok(30));
    medium.set(Waiting::None);
    assert_eq!(found.recv_timeout(DEADLINE), Ok(30));
    store.close().unwrap();
}

#[test]
fn a_queue_file_whose_writing_waits_holds_up_no_producer() {
    let dir = tempfile::tempdir().unwrap();
    let (store, medium) = open_gated(small(dir.path()));
    medium.set(Waiting::Writes);
    // More than a page of entries: they are written within a second.
    for _ in 0..300 {
        put(&store, "T", 0, b"body");
    }
    medium.await_call();
    let producer = store.clone();
    let stored = aside(move || put(&producer, "T", 0, b"more"));
    assert_eq!(stored.recv_timeout(DEADLINE), Ok(300));
    medium.set(Waiting::None);
    store.close().unwrap();
    let (store, opened) = open(small(dir.path()));
    assert!(matches!(opened, Opened::Clean), "{opened:?}");
    assert_eq!(all(&store, "T", 0).len(), 301);
}

#[test]
fn a_topic_deleted_while_its_queue_is_written_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let (store, medium) = open_gated(small(dir.path()));
    medium.set(Waiting::Writes);
    for _ in 0..300 {
        put(&store, "Gone", 0, b"body");
    }
    medium.await_call();
    let operator = store.clone();
    let deleted = aside(move || {
        operator
            .delete_topic("Gone")
            .map_err(|error| error.to_string())
    });
    let too_early = deleted.recv_timeout(Duration::from_millis(200));
    medium.set(Waiting::None);
    assert!(too_early.is_err(), "files were removed beside the writer");
    assert_eq!(deleted.recv_timeout(DEADLINE), Ok(Ok(())));
    store.close().unwrap();
    assert!(!dir.path().join("consumequeue/Gone").exists());
}

#[test]
fn a_queue_file_out_of_memory_is_left_to_who_may_wait() {
    let dir = tempfile::tempdir().unwrap();
    written(dir.path());
    let (store, medium) = open_gated(small(dir.path()));
    medium.cold.store(true, Ordering::SeqCst);
    let outcome = read_from_memory(&store, "T", 0);
    assert_eq!(outcome.status, ReadStatus::NotResident);
    assert_eq!(read(&store, "T", 0, 0, 32).messages, 30);
    medium.cold.store(false, Ordering::SeqCst);
    let outcome = read_from_memory(&store, "T", 0);
    assert_eq!((outcome.status, outcome.messages), (ReadStatus::Found, 30));
}

#[test]
fn records_out_of_memory_are_left_to_who_may_wait() {
    let dir = tempfile::tempdir().unwrap();
    if is_tmpfs(dir.path()) {
        eprintln!("files of a tmpfs are always in memory: nothing to see");
        return;
    }
    {
        let (store, _) = open(small(dir.path()));
        for _ in 0..300 {
            put(&store, "T", 0, &[7; 900]);
        }
        store.close().unwrap();
    }
    for entry in std::fs::read_dir(dir.path().join("commitlog")).unwrap() {
        let file = std::fs::File::open(entry.unwrap().path()).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
    let (store, opened) = open(small(dir.path()));
    assert!(matches!(opened, Opened::Clean), "{opened:?}");
    let outcome = read_from_memory(&store, "T", 0);
    assert_eq!(outcome.status, ReadStatus::NotResident);
    assert!(outcome.records.is_empty());
    let fetched = read(&store, "T", 0, 0, 32);
    assert_eq!((fetched.status, fetched.damaged), (ReadStatus::Found, 0));
    let outcome = read_from_memory(&store, "T", 0);
    assert_eq!(outcome.status, ReadStatus::Found, "they were just fetched");
    // What is appended now is in memory, however far behind a reader was a moment ago.
    let new = put(&store, "T", 0, b"new");
    let outcome = read_from_memory(&store, "T", new.cast_signed());
    assert_eq!(outcome.status, ReadStatus::Found);
}

fn is_tmpfs(path: &Path) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    let stat = rustix::fs::statfs(path).unwrap();
    u64::try_from(stat.f_type) == Ok(TMPFS_MAGIC)
}

#[test]
fn queues_that_are_written_together_are_not_open_together() {
    const QUEUES: u32 = 300;
    const OPEN_MAX: usize = 16;
    // As many again are kept by name until they are synced.
    const NAMED_MAX: usize = 32;
    let dir = tempfile::tempdir().unwrap();
    let mut config = small(dir.path());
    config.open_queue_files_max = OPEN_MAX;
    let (store, medium) = open_gated(config);
    for queue in 0..QUEUES {
        put(&store, "T", queue, b"body");
    }
    store.close().unwrap();
    let open_max = medium.open_max.load(Ordering::SeqCst);
    assert!(open_max > 0);
    assert!(open_max <= OPEN_MAX + NAMED_MAX, "{open_max} were open");
    let (store, opened) = open(small(dir.path()));
    assert!(matches!(opened, Opened::Clean), "{opened:?}");
    for queue in 0..QUEUES {
        assert_eq!(all(&store, "T", queue).len(), 1);
    }
}

#[test]
fn queues_are_found_again_after_a_crash_whatever_they_hold() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = small(dir.path());
    // Longer than the page that is read first.
    config.queue_file_bytes = 600 * 20;
    config.segment_bytes = 1 << 20;
    let lengths = [1_u64, 203, 204, 205, 409, 599, 600, 601];
    {
        let (store, _) = open(config.clone());
        for (queue, length) in (0..).zip(lengths) {
            for _ in 0..length {
                put(&store, "T", queue, b"body");
            }
        }
        store.close().unwrap();
    }
    // As a crash leaves it: no summary, and no mark to scan from.
    std::fs::remove_file(dir.path().join("queues.clean")).unwrap();
    let (store, opened) = open(config);
    let Opened::Recovered(report) = opened else {
        panic!("{opened:?}");
    };
    assert_eq!((report.entries_added, report.entries_mended), (0, 0));
    for (queue, length) in (0..).zip(lengths) {
        let end = store.max_offset("T", QueueId::new(queue));
        assert_eq!(end.number(), length);
        assert_eq!(put(&store, "T", queue, b"more"), length);
    }
}

#[test]
fn a_topic_whose_new_files_are_not_synced_yet_can_be_deleted() {
    let dir = tempfile::tempdir().unwrap();
    // Nothing is left to sync of a store that was closed: each new file is known by its name.
    written(dir.path());
    let (store, _) = open(small(dir.path()));
    for _ in 0..300 {
        put(&store, "Gone", 0, b"body");
    }
    let files = dir.path().join("consumequeue/Gone/0/00000000000000000000");
    let wait = std::time::Instant::now();
    while !files.exists() {
        assert!(wait.elapsed() < DEADLINE);
        std::thread::sleep(Duration::from_millis(5));
    }
    let deleted = store.delete_topic("Gone");
    assert!(deleted.is_ok(), "{deleted:?}");
    assert_eq!(put(&store, "T", 0, b"body"), 30);
    store.close().unwrap();
    assert!(!dir.path().join("consumequeue/Gone").exists());
}
