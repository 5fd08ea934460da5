//! A store of which one file is anything: it opens or names the file, serves what it has, takes a message, stops, and is
//! opened again with that message. The first byte chooses the file: log, queue, batch queue, index, checkpoint, or the
//! summary of a clean stop.
#![no_main]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use agena_protocol::clock::SystemClock;
use agena_protocol::queue::QueueId;
use agena_store::{
    Everything, NewMessage, ReadRequest, ReadStatus, Residency, Store, StoreConfig,
};
use libfuzzer_sys::fuzz_target;

const LOG_BYTES: usize = 8192;
const QUEUE_BYTES: usize = 800;
const BATCH_QUEUE_BYTES: usize = 920;
const INDEX_BYTES: usize = 40 + 8 * 4 + 32 * 20;

fn config(root: &Path) -> StoreConfig {
    let mut config = StoreConfig::new(root);
    config.segment_bytes = LOG_BYTES as u64;
    config.queue_file_bytes = QUEUE_BYTES as u64;
    config.batch_queue_file_bytes = BATCH_QUEUE_BYTES as u64;
    config.index_slots = 8;
    config.index_entries = 32;
    config.is_batch_topic = Arc::new(|topic| topic == "B");
    config.retention.delete_hours = Vec::new();
    config.retention.expire_ratio = 100;
    config.retention.force_ratio = 100;
    config.retention.refuse_ratio = 100;
    config
}

fn of_length(bytes: &[u8], length: usize) -> Vec<u8> {
    let mut content = bytes[..bytes.len().min(length)].to_vec();
    content.resize(length, 0);
    content
}

fn lay_out(root: &Path, choice: u8, bytes: &[u8]) {
    let zeros = "0".repeat(20);
    let (path, content) = match choice % 6 {
        0 => (format!("commitlog/{zeros}"), of_length(bytes, LOG_BYTES)),
        1 => (format!("consumequeue/T/0/{zeros}"), of_length(bytes, QUEUE_BYTES)),
        2 => (
            format!("batchconsumequeue/B/0/{zeros}"),
            of_length(bytes, BATCH_QUEUE_BYTES),
        ),
        3 => ("index/20260101000000000".to_owned(), of_length(bytes, INDEX_BYTES)),
        4 => ("checkpoint".to_owned(), bytes.to_vec()),
        _ => {
            // With its sum, or nothing behind it is looked at.
            let sum = crc32fast::hash(bytes).to_be_bytes();
            ("queues.clean".to_owned(), [&sum[..], bytes].concat())
        }
    };
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
    fs::write(path, content).expect("a file");
}

fn use_store(store: &Store) {
    for (topic, queue_id) in store.queues() {
        let mut offset = store.min_offset(&topic, queue_id).wire();
        for _ in 0..100 {
            let request = ReadRequest {
                topic: &topic,
                queue_id,
                offset,
                messages_max: 32,
                bytes_max: None,
                residency: Residency::Anywhere,
            };
            let outcome = store.read(&request, &Everything);
            if outcome.next_offset.wire() <= offset || outcome.status == ReadStatus::Failed {
                break;
            }
            offset = outcome.next_offset.wire();
        }
        let _ = store.earliest_store_time(&topic, queue_id);
    }
    for key in 0..8 {
        let found = store.query("T", &format!("k{key}"), 8, 0, i64::MAX);
        for offset in found {
            let _ = store.record_at(offset);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else {
        return;
    };
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
    lay_out(dir.path(), *choice, bytes);
    let open = || Store::open(config(dir.path()), Arc::new(SystemClock::new()), Arc::new(()));
    let Ok((store, _)) = open() else {
        return;
    };
    use_store(&store);
    let mut batch = store.batch();
    let message = NewMessage {
        topic: "T",
        queue_id: QueueId::new(1),
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: "127.0.0.1:5".parse().expect("an address"),
        store_host: "127.0.0.1:10911".parse().expect("an address"),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: b"body",
        properties: b"",
        wait_for_flush: false,
    };
    batch.push(message).expect("a legal message");
    let Ok(appended) = store.append(&mut batch) else {
        return;
    };
    let number = appended.placed[0].queue_offset.number();
    if store.close().is_err() {
        return;
    }
    drop(store);
    let (store, _) = open().expect("what we closed");
    let end = store.max_offset("T", QueueId::new(1)).number();
    assert!(end > number, "the message {number} is gone: {end}");
    use_store(&store);
});
