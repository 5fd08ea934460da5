//! What the store's tests share: a small store in a temporary directory, and messages for it.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses a part; tests may unwrap"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use agena_protocol::clock::{Clock, SystemClock};
use agena_protocol::properties::push_pair;
use agena_protocol::queue::QueueId;
use agena_protocol::record::RecordView;
use agena_store::{
    Appended, Durability, Everything, FlushError, NewMessage, Opened, ReadOutcome, ReadRequest,
    ReadStatus, Residency, Store, StoreConfig, StoreError,
};

/// Files small enough that every boundary is met.
pub(crate) fn small(root: &Path) -> StoreConfig {
    let mut config = StoreConfig::new(root);
    config.segment_bytes = 64 * 1024;
    config.queue_file_bytes = 40 * 20;
    config.batch_queue_file_bytes = 40 * 46;
    config.index_slots = 64;
    config.index_entries = 300;
    config.retention.delete_hours = Vec::new();
    config.retention.expire_ratio = 100;
    config.retention.force_ratio = 100;
    config.retention.refuse_ratio = 100;
    config
}

pub(crate) fn small_sync(root: &Path) -> StoreConfig {
    let mut config = small(root);
    config.durability = Durability::device();
    config
}

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::new())
}

pub(crate) fn open(config: StoreConfig) -> (Arc<Store>, Opened) {
    Store::open(config, clock(), Arc::new(())).unwrap()
}

pub(crate) fn properties(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for (name, value) in pairs {
        push_pair(&mut encoded, name, value);
    }
    encoded
}

pub(crate) fn message<'a>(
    topic: &'a str,
    queue: u32,
    body: &'a [u8],
    properties: &'a [u8],
) -> NewMessage<'a> {
    NewMessage {
        topic,
        queue_id: QueueId::new(queue),
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: "127.0.0.1:5".parse().unwrap(),
        store_host: "127.0.0.1:10911".parse().unwrap(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties,
        wait_for_flush: true,
    }
}

pub(crate) fn append(store: &Store, messages: &[NewMessage<'_>]) -> Result<Appended, StoreError> {
    let mut batch = store.batch();
    for message in messages {
        batch.push(*message).unwrap();
    }
    store.append(&mut batch)
}

/// Appends one message and waits for its promise.
pub(crate) fn put(store: &Store, topic: &str, queue: u32, body: &[u8]) -> u64 {
    let appended = append(store, &[message(topic, queue, body, b"")]).unwrap();
    durable(store, &appended).unwrap();
    appended.placed[0].queue_offset.number()
}

pub(crate) fn durable(store: &Store, appended: &Appended) -> Result<(), FlushError> {
    let (done, result) = mpsc::channel();
    store.when_durable(
        appended.ack,
        Box::new(move |outcome| done.send(outcome).unwrap_or_default()),
    );
    result
        .recv_timeout(Duration::from_secs(30))
        .expect("an acknowledgement resolves")
}

pub(crate) fn read(store: &Store, topic: &str, queue: u32, offset: i64, max: usize) -> ReadOutcome {
    store.read(
        &ReadRequest {
            topic,
            queue_id: QueueId::new(queue),
            offset,
            messages_max: max,
            bytes_max: None,
            residency: Residency::Anywhere,
        },
        &Everything,
    )
}

/// Every message of a queue from its first on: number and body.
pub(crate) fn all(store: &Store, topic: &str, queue: u32) -> Vec<(u64, Vec<u8>)> {
    let mut found = Vec::new();
    let id = QueueId::new(queue);
    let mut offset = store.min_offset(topic, id).wire();
    let end = store.max_offset(topic, id).wire();
    while offset < end {
        let outcome = read(store, topic, queue, offset, 32);
        for record in &outcome.records {
            let record = RecordView::parse(record).unwrap();
            found.push((record.queue_offset().number(), record.body().to_vec()));
        }
        assert!(
            outcome.next_offset.wire() > offset,
            "{:?} at {offset} of {end}",
            outcome.status
        );
        assert_ne!(outcome.status, ReadStatus::Failed);
        offset = outcome.next_offset.wire();
    }
    found
}

/// A clock by which a second passes in half a millisecond: the store's housekeeping runs all the time.
#[derive(Debug, Default)]
pub(crate) struct FastClock(SystemClock);

impl Clock for FastClock {
    fn now_ms(&self) -> i64 {
        self.0.now_ms()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic() * 2000
    }
}
