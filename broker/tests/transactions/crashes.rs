//! The table of crashes: the log as each of them leaves it, with and without the marks of progress.

use std::path::Path;
use std::sync::Arc;

use agena_broker::config::BrokerConfig;
use agena_protocol::clock::SystemClock;
use agena_protocol::offset::PhysicalOffset;
use agena_protocol::properties::{PropertiesBuf, push_pair};
use agena_protocol::queue::QueueId;
use agena_protocol::record::RecordView;
use agena_protocol::topic;
use agena_store::{NewMessage, Store, StoreConfig};

use crate::half_broker::{COMMIT, HalfBroker, Place, ROLLBACK, eager, quiet};
use crate::rows;

/// Opens the store of a stopped broker, appends what the crash left, and lets it go without closing it.
fn crash(config: &BrokerConfig, then: impl FnOnce(&Store)) {
    in_store(config, then);
}

/// The same; `then` may close it.
fn in_store(config: &BrokerConfig, then: impl FnOnce(&Store)) {
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
    let sys_flag = if topic == topic::TRANS_CHECK_MAX_TIME {
        0
    } else {
        COMMIT
    };
    append_copy(store, place, topic, sys_flag, place.physical, &[]);
}

/// A record as the half at `place`, in `topic`, with more properties.
fn append_copy(
    store: &Store,
    place: Place,
    topic: &str,
    sys_flag: i32,
    prepared: i64,
    more: &[(&'static str, &str)],
) -> Place {
    let physical = PhysicalOffset::from_wire(place.physical).unwrap();
    let bytes = store.record_at(physical).unwrap();
    let half = RecordView::parse(&bytes).unwrap();
    let mut properties = PropertiesBuf::parse(half.properties().encoded());
    for (name, value) in more {
        properties.set(name, *value);
    }
    let properties = properties.encode();
    let mut batch = store.batch();
    batch
        .push(NewMessage {
            topic,
            queue_id: QueueId::new(0),
            flag: 0,
            sys_flag: half.sys_flag() | sys_flag,
            born_timestamp: half.born_timestamp(),
            born_host: half.born_host(),
            store_host: half.store_host(),
            reconsume_times: 0,
            prepared_transaction_offset: prepared,
            body: half.body(),
            properties: &properties,
            wait_for_flush: true,
        })
        .unwrap();
    let appended = store.append(&mut batch).unwrap();
    let placed = &appended.placed[0];
    Place {
        half: placed.queue_offset.wire(),
        physical: placed.physical_offset.wire(),
    }
}

/// The op record that the original would write.
fn append_op(store: &Store, halves: &str) {
    append(store, topic::TRANS_OP_HALF, &[("TAGS", "d")], halves);
}

fn append(store: &Store, topic: &str, properties: &[(&str, &str)], body: &str) {
    let mut encoded = Vec::new();
    for (name, value) in properties {
        push_pair(&mut encoded, name, value);
    }
    let host = "127.0.0.1:10911".parse().unwrap();
    let mut batch = store.batch();
    batch
        .push(NewMessage {
            topic,
            queue_id: QueueId::new(0),
            flag: 0,
            sys_flag: 0,
            born_timestamp: 1,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: body.as_bytes(),
            properties: &encoded,
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

/// A half, one half more of another body, and then what `leave` appends.
async fn left_by_the_original(
    leave: impl FnOnce(&Store, Place),
) -> (tempfile::TempDir, HalfBroker) {
    let directory = tempfile::tempdir().unwrap();
    let config = quiet(directory.path());
    let broker = HalfBroker::start(config.clone()).await;
    let place = broker.prepare(b"body").await;
    broker.stop().await;
    crash(&config, |store| leave(store, place));
    let broker = HalfBroker::start(config).await;
    (directory, broker)
}

/// The original appends a half again whenever it asks for it or puts it off; killed then, it has both.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_half_that_the_original_appended_again_only_the_copy_is_pending() {
    let (_directory, broker) = left_by_the_original(|store, place| {
        let checked = [("TRANSACTION_CHECK_TIMES", "1")];
        append_copy(store, place, topic::TRANS_HALF, 0, 0, &checked);
    })
    .await;
    let pending = broker.list("pending").await;
    let facts: Vec<_> = pending
        .iter()
        .map(|one| (one.queue_offset, one.checks))
        .collect();
    assert_eq!(facts, [(1, 1)]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_original_committed_through_the_copy_is_not_delivered_again() {
    let (_directory, broker) = left_by_the_original(|store, place| {
        let checked = [("TRANSACTION_CHECK_TIMES", "1")];
        let copy = append_copy(store, place, topic::TRANS_HALF, 0, 0, &checked);
        append_copy(store, place, "T", COMMIT, copy.physical, &checked);
        append_op(store, "1,");
    })
    .await;
    assert_eq!(broker.state().await, "committed");
    broker.stop().await;
}

/// It asks about what is committed already, when the op record has not come in time, and leaves a copy for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_what_is_committed_is_not_delivered_again() {
    let (_directory, broker) = left_by_the_original(|store, place| {
        append_copy(store, place, "T", COMMIT, place.physical, &[]);
        for number in 0..1_500 {
            let other = [("UNIQ_KEY", &*number.to_string())];
            append_copy(store, place, "T", 0, 0, &other);
        }
        let checked = [("TRANSACTION_CHECK_TIMES", "2")];
        append_copy(store, place, topic::TRANS_HALF, 0, 0, &checked);
        append_op(store, "0,");
    })
    .await;
    assert_eq!(broker.list("pending").await.len(), 0);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_resolved_with_the_half_that_it_was_made_of() {
    let (_directory, broker) = left_by_the_original(|store, place| {
        let put_off = [("TRAN_PREPARED_QUEUE_OFFSET", "0")];
        append_copy(store, place, topic::TRANS_HALF, 0, 0, &put_off);
        append_op(store, "0,");
    })
    .await;
    assert_eq!(broker.state().await, "rolled back");
    broker.stop().await;
}

/// Also when it closed its store in order: its op records come seconds later, and not at all behind a stop.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_op_record_in_a_store_that_was_closed_in_order_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let config = quiet(directory.path());
    let broker = HalfBroker::start(config.clone()).await;
    let place = broker.prepare(b"body").await;
    broker.stop().await;
    in_store(&config, |store| {
        append_outcome(store, place, "T");
        // Many came behind it within the seconds.
        for number in 0..1_500 {
            let body = [("KEYS", &*number.to_string())];
            append_copy(store, place, "T", 0, 0, &body);
        }
        store.close().unwrap();
    });
    let broker = HalfBroker::start(config).await;
    assert_eq!(broker.list("pending").await.len(), 0);
    broker.stop().await;
}

/// Every ordinary record says 0 where a commit says which half it is of.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_at_the_very_beginning_of_the_log_is_not_taken_for_committed() {
    let (_directory, broker) = left_by_the_original(|store, place| {
        assert_eq!(place.physical, 0);
        append_copy(store, place, "T", 0, 0, &[("UNIQ_KEY", "another")]);
        for topic in [topic::TIMER_WHEEL, topic::TRANS_CHECK_MAX_TIME] {
            append_copy(store, place, topic, 0, 0, &[("UNIQ_KEY", "another")]);
        }
    })
    .await;
    assert_eq!(broker.list("pending").await.len(), 1);
    broker.stop().await;
}

/// The same where neither has an id.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_without_id_at_the_beginning_of_the_log_is_not_taken_for_committed() {
    let directory = tempfile::tempdir().unwrap();
    let config = quiet(directory.path());
    crash(&config, |store| {
        let half = [("PGROUP", "PG"), ("REAL_TOPIC", "T"), ("REAL_QID", "0")];
        append(store, topic::TRANS_HALF, &half, "body");
        append(store, "T", &[], "body");
    });
    let broker = HalfBroker::start(config).await;
    assert_eq!(broker.pending_offsets().await, [0]);
    broker.stop().await;
}

/// Two transactions may have the same id; only a copy is the same one.
#[tokio::test(flavor = "multi_thread")]
async fn two_halves_with_one_id_are_two_transactions() {
    let (_directory, broker) = left_by_the_original(|store, place| {
        append_copy(store, place, topic::TRANS_HALF, 0, 0, &[]);
        append_outcome(store, place, "T");
    })
    .await;
    assert_eq!(broker.pending_offsets().await, [1]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commit_of_one_is_not_that_of_another_with_its_id() {
    let (_directory, broker) = left_by_the_original(|store, place| {
        let other = append_copy(store, place, topic::TRANS_HALF, 0, 0, &[]);
        append_copy(store, place, "T", COMMIT, other.physical, &[]);
        append_op(store, "1,");
    })
    .await;
    assert_eq!(broker.pending_offsets().await, [0]);
    broker.stop().await;
}

/// The op records written at an open count for the marks like any others.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_open_completed_stays_completed_while_an_older_half_is_pending() {
    let directory = tempfile::tempdir().unwrap();
    let config = quiet(directory.path());
    let broker = HalfBroker::start(config.clone()).await;
    broker.prepare(b"older").await;
    let place = broker.prepare(b"body").await;
    broker.stop().await;
    crash(&config, |store| append_outcome(store, place, "T"));
    for round in 0..3 {
        let broker = HalfBroker::start(config.clone()).await;
        assert_eq!(broker.pending_offsets().await, [0], "round {round}");
        // Op records behind the completing one, and marks that are written.
        let next = broker.prepare(b"next").await;
        assert_eq!(broker.end(next, COMMIT).await.code, 0);
        broker.stop().await;
    }
}
