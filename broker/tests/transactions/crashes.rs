//! The table of crashes: the log as each of them leaves it, with and without the marks of progress.

use std::path::Path;
use std::sync::Arc;

use agena_broker::config::BrokerConfig;
use agena_protocol::clock::SystemClock;
use agena_protocol::offset::PhysicalOffset;
use agena_protocol::properties::PropertiesBuf;
use agena_protocol::queue::QueueId;
use agena_protocol::record::RecordView;
use agena_protocol::topic;
use agena_store::{NewMessage, Store, StoreConfig};

use crate::half_broker::{COMMIT, HalfBroker, Place, ROLLBACK, eager, quiet};
use crate::rows;

/// Opens the store of a stopped broker, appends what the crash left, and lets it go without closing it.
fn crash(config: &BrokerConfig, then: impl FnOnce(&Store)) {
    let mut store = StoreConfig::new(&config.store_path_root_dir);
    store.segment_bytes = config.mapped_file_size_commit_log;
    store.queue_file_bytes = config.mapped_file_size_consume_queue;
    store.index_slots = config.max_hash_slot_num;
    store.index_entries = config.max_index_num;
    let (store, _) = Store::open(store, Arc::new(SystemClock::new()), Arc::new(())).unwrap();
    then(&store);
}

/// The outcome of the half at `place` in `topic`, without its op record.
fn append_outcome(store: &Store, place: Place, topic: &str) {
    let physical = PhysicalOffset::from_wire(place.physical).unwrap();
    let bytes = store.record_at(physical).unwrap();
    let half = RecordView::parse(&bytes).unwrap();
    let properties = PropertiesBuf::parse(half.properties().encoded()).encode();
    let mut batch = store.batch();
    batch
        .push(NewMessage {
            topic,
            queue_id: QueueId::new(0),
            flag: 0,
            sys_flag: half.sys_flag(),
            born_timestamp: half.born_timestamp(),
            born_host: half.born_host(),
            store_host: half.store_host(),
            reconsume_times: 0,
            prepared_transaction_offset: place.physical,
            body: half.body(),
            properties: &properties,
            wait_for_flush: true,
        })
        .unwrap();
    let _durable = store.append(&mut batch).unwrap().ack;
}

async fn leave(what: &str, directory: &Path) {
    let config = quiet(directory);
    let broker = HalfBroker::start(config.clone()).await;
    if what == "before the half is in the log" {
        broker.stop().await;
        return crash(&config, |_| {});
    }
    let place = broker.prepare(b"body").await;
    match what {
        "after the half" => {}
        "between the commit and its op record" => {
            // The topic is there, and something stands in front of the commit.
            broker.send_elsewhere(b"x").await;
            broker.stop().await;
            return crash(&config, |store| append_outcome(store, place, "T"));
        }
        "between the parked copy and its op record" => {
            broker.stop().await;
            let parked = topic::TRANS_CHECK_MAX_TIME;
            return crash(&config, |store| append_outcome(store, place, parked));
        }
        "after the op record of a commit" => {
            assert_eq!(broker.end(place, COMMIT).await.code, 0);
        }
        "after the op record of a rollback" => {
            assert_eq!(broker.end(place, ROLLBACK).await.code, 0);
        }
        "after a question" => {
            broker.stop().await;
            let broker = HalfBroker::start(eager(directory)).await;
            broker.connect_producer().await;
            broker.wait_for_questions(1).await;
            broker.stop().await;
            return crash(&config, |_| {});
        }
        "after a resumption" => {
            broker.stop().await;
            let mut parking = eager(directory);
            parking.transaction_check_max = 0;
            let broker = HalfBroker::start(parking).await;
            broker.wait_for_state("parked").await;
            broker.stop().await;
            let broker = HalfBroker::start(config.clone()).await;
            assert_eq!(broker.resume().await.code, 0);
            broker.stop().await;
            return crash(&config, |_| {});
        }
        other => panic!("the page has a crash that no test leaves: {other}"),
    }
    broker.stop().await;
    crash(&config, |_| {});
}

#[tokio::test(flavor = "multi_thread")]
async fn every_crash_of_the_table_ends_as_it_says() {
    let rows = rows("Where a crash may fall");
    assert_eq!(rows.len(), 8);
    for row in &rows {
        let [what, state] = &row[..] else {
            panic!("two cells: {row:?}")
        };
        for marks_are_lost in [false, true] {
            let directory = tempfile::tempdir().unwrap();
            leave(what, directory.path()).await;
            if marks_are_lost {
                let config = directory.path().join("config");
                for name in ["consumerOffset.json", "consumerOffset.json.bak"] {
                    let _ = std::fs::remove_file(config.join(name));
                }
            }
            // The second time it is what the first has written.
            for _ in 0..2 {
                let broker = HalfBroker::start(quiet(directory.path())).await;
                assert_eq!(broker.state().await, state, "{row:?}, {marks_are_lost}");
                let [_, _, (_, real), (_, op)] = broker.counts().await;
                assert!(
                    real <= 1 && op <= 1,
                    "{row:?}: {real} messages, {op} op records"
                );
                if what.contains("its op record") {
                    assert_eq!(op, 1, "{row:?}: the op record is not written");
                }
                broker.stop().await;
            }
        }
    }
}
