//! CPU time of appends, of all threads of the process: copy, sum, queue entry, index entry, syncs behind. Wall time would
//! hide what runs in the background.
//!
//! `cargo bench -p agena-store --bench append [-- MESSAGES]`

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a measurement, not a product"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use agena_protocol::clock::SystemClock;
use agena_protocol::properties::push_pair;
use agena_protocol::queue::QueueId;
use agena_store::{Durability, Everything, NewMessage, ReadRequest, Residency, Store, StoreConfig};
use rustix::time::{ClockId, clock_gettime};

fn main() {
    let messages = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .next()
        .unwrap_or(1_000_000);
    println!("CPU µs per message (all threads), wall µs per message");
    for (name, batch, body, queues, indexed) in [
        ("1 KiB, one by one, 8 queues", 1, 1024, 8, true),
        ("1 KiB, 32 under one lock, 8 queues", 32, 1024, 8, true),
        ("1 KiB, 32 under one lock, 1 queue", 32, 1024, 1, true),
        ("1 KiB, 32 under one lock, no index", 32, 1024, 8, false),
        ("128 B, 32 under one lock, 8 queues", 32, 128, 8, true),
        (
            "128 B, 32 under one lock, 10000 queues",
            32,
            128,
            10_000,
            true,
        ),
    ] {
        let (cpu, wall) = append(messages, batch, body, queues, indexed);
        println!("{name:45} {cpu:8.3} {wall:8.3}");
    }
    sync(2_000, 32);
}

fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

fn per_message(time: Duration, messages: usize) -> f64 {
    time.as_secs_f64() * 1e6 / messages as f64
}

fn open(durability: Durability, indexed: bool) -> (tempfile::TempDir, Arc<Store>) {
    let dir = tempfile::tempdir_in(".").unwrap();
    let mut config = StoreConfig::new(dir.path());
    config.durability = durability;
    config.index_enabled = indexed;
    let (store, _) = Store::open(config, Arc::new(SystemClock::new()), Arc::new(())).unwrap();
    (dir, store)
}

fn properties(number: usize) -> Vec<u8> {
    let mut encoded = Vec::new();
    push_pair(
        &mut encoded,
        "UNIQ_KEY",
        &format!("7F0000010AA75FFD2B27{number:012X}"),
    );
    push_pair(&mut encoded, "CLUSTER", "DefaultCluster");
    push_pair(&mut encoded, "MSG_REGION", "DefaultRegion");
    push_pair(&mut encoded, "TRACE_ON", "true");
    push_pair(&mut encoded, "TAGS", "TagA");
    push_pair(&mut encoded, "WAIT", "true");
    encoded
}

fn message<'a>(queue: usize, body: &'a [u8], properties: &'a [u8]) -> NewMessage<'a> {
    NewMessage {
        topic: "Benchmark",
        queue_id: QueueId::new(u32::try_from(queue).unwrap()),
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

fn append(messages: usize, batch: usize, body: usize, queues: usize, indexed: bool) -> (f64, f64) {
    let (_dir, store) = open(Durability::page_cache(), indexed);
    let body = vec![b'b'; body];
    let encoded: Vec<_> = (0..4096).map(properties).collect();
    let (cpu, wall) = (cpu_time(), Instant::now());
    for first in (0..messages).step_by(batch) {
        let mut appended = store.batch();
        for number in first..first + batch {
            appended
                .push(message(number % queues, &body, &encoded[number % 4096]))
                .unwrap();
        }
        let _ = store.append(&mut appended).unwrap();
    }
    // Everything that one message causes belongs to it: the index, the queues, the syncs.
    store.close().unwrap();
    (
        per_message(cpu_time() - cpu, messages),
        per_message(wall.elapsed(), messages),
    )
}

fn sync(rounds: usize, batch: usize) {
    let (_dir, store) = open(Durability::device(), true);
    let body = vec![b'b'; 1024];
    let encoded = properties(1);
    let (done, acked) = std::sync::mpsc::channel();
    let started = Instant::now();
    for _ in 0..rounds {
        let mut appended = store.batch();
        for number in 0..batch {
            appended.push(message(number % 8, &body, &encoded)).unwrap();
        }
        let ack = store.append(&mut appended).unwrap().ack;
        let done = done.clone();
        store.when_durable(ack, Box::new(move |result| done.send(result).unwrap()));
        acked.recv().unwrap().unwrap();
    }
    let rate = (rounds * batch) as f64 / started.elapsed().as_secs_f64();
    println!("sync flush, one producer, batches of {batch}: {rate:.0} messages/s");
    let (cpu, started) = (cpu_time(), Instant::now());
    let mut read = 0;
    for queue in 0..8 {
        let mut offset = 0;
        loop {
            let outcome = store.read(
                &ReadRequest {
                    topic: "Benchmark",
                    queue_id: QueueId::new(queue),
                    offset,
                    messages_max: 32,
                    bytes_max: None,
                    residency: Residency::Anywhere,
                },
                &Everything,
            );
            if outcome.messages == 0 {
                break;
            }
            read += outcome.messages;
            offset = outcome.next_offset.wire();
        }
    }
    println!(
        "read, 32 at a time, 8 queues: {:.3} CPU µs, {:.3} wall µs per message",
        per_message(cpu_time() - cpu, read),
        per_message(started.elapsed(), read)
    );
    store.close().unwrap();
}
