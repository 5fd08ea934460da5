//! The table of states and events.

use std::path::Path;

use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::properties::push_pair;
use agena_protocol::queue::QueueId;
use agena_protocol::record::{RecordEncoder, RecordFields};
use agena_protocol::topic;

use crate::half_broker::{COMMIT, HalfBroker, Place, ROLLBACK, UNKNOWN, eager, place_of, quiet};
use crate::rows;

/// A broker on which the row's state holds, and where the half is.
async fn bring_about(state: &str, event: &str, directory: &Path) -> (HalfBroker, Place) {
    let nowhere = Place {
        half: 0,
        physical: 0,
    };
    match state {
        "none" => {
            let mut config = quiet(directory);
            if event.contains("while") {
                config.transaction_pending_max = 0;
            }
            (HalfBroker::start(config).await, nowhere)
        }
        "pending" if event == "commit whose append fails" => {
            let broker = HalfBroker::start(quiet(directory)).await;
            let place = broker.prepare(&[b'x'; 3_000]).await;
            broker.stop().await;
            let mut config = quiet(directory);
            config.max_message_size = 1_000;
            (HalfBroker::start(config).await, place)
        }
        "pending" => {
            let mut config = quiet(directory);
            if event.contains("log file") {
                config.log_bytes_max = 1;
            }
            let broker = HalfBroker::start(config).await;
            let own_time = [("CHECK_IMMUNITY_TIME_IN_SECONDS", "7200")];
            let more = &own_time[..usize::from(event.contains("own time"))];
            let place = place_of(&broker.try_prepare_with(more, b"body").await);
            (broker, place)
        }
        "committed" | "rolled back" => {
            let broker = HalfBroker::start(quiet(directory)).await;
            let place = broker.prepare(b"body").await;
            let what = if state == "committed" {
                COMMIT
            } else {
                ROLLBACK
            };
            assert_eq!(broker.end(place, what).await.code, 0);
            (broker, place)
        }
        "parked" | "resumed" => {
            let broker = HalfBroker::start(quiet(directory)).await;
            let place = broker.prepare(b"body").await;
            broker.stop().await;
            let mut config = eager(directory);
            config.transaction_check_max = 0;
            let broker = HalfBroker::start(config).await;
            broker.wait_for_state("parked").await;
            broker.stop().await;
            let broker = HalfBroker::start(quiet(directory)).await;
            if state == "resumed" {
                let answer = broker.resume().await;
                assert_eq!(answer.code, 0, "{:?}", answer.remark);
            }
            (broker, place)
        }
        other => panic!("the page has a state that no test brings about: {other}"),
    }
}

/// Has the event happen; gives the broker back, since for some it is another one.
async fn happen(
    event: &str,
    state: &str,
    broker: HalfBroker,
    place: Place,
    directory: &Path,
) -> HalfBroker {
    let (expects_success, answer) = match event {
        "half message sent" => (true, broker.try_prepare(b"body").await),
        "half message sent while transactionPendingMax are pending" => {
            (false, broker.try_prepare(b"body").await)
        }
        "half message sent with a delay that is not allowed" => {
            let late = [("TIMER_DELAY_SEC", "999999999")];
            (false, broker.try_prepare_with(&late, b"body").await)
        }
        "half message sent with a group name over 255 bytes" => {
            let group = "g".repeat(256);
            let long = [("PGROUP", &*group)];
            (false, broker.try_prepare_with(&long, b"body").await)
        }
        "commit" | "rollback" if state == "resumed" => {
            let now = &broker.list("pending").await[0];
            let id = agena_protocol::message_id::OffsetId::parse(&now.offset_msg_id).unwrap();
            let place = Place {
                half: now.queue_offset,
                physical: id.offset.wire(),
            };
            let what = if event == "commit" { COMMIT } else { ROLLBACK };
            (true, broker.end(place, what).await)
        }
        "commit, older than its own time" => {
            let answer = broker.end(place, COMMIT).await;
            assert_eq!(answer.code, 604);
            (false, answer)
        }
        "commit as the answer to a question, older than its own time" => {
            (true, broker.answer(place, COMMIT).await)
        }
        "commit, its topic was deleted" => {
            broker.delete_topic("T").await;
            let answer = broker.end(place, COMMIT).await;
            assert_eq!(answer.code, 17);
            (false, answer)
        }
        "its log file goes" => {
            // The half's file is full, and the next one begun.
            for _ in 0..3 {
                broker.send_elsewhere(&[b'x'; 500_000]).await;
            }
            let gone = async || {
                broker.clean_log().await;
                broker.counts().await[1].1 > 0
            };
            broker.wait_for("file that goes", gone).await;
            return broker;
        }
        "commit" => (true, broker.end(place, COMMIT).await),
        "rollback" => (true, broker.end(place, ROLLBACK).await),
        "unknown" => (true, broker.end(place, UNKNOWN).await),
        "commit by another group" => {
            let answer = broker.end_as("other", place, COMMIT).await;
            assert_eq!(answer.remark.as_deref(), Some("The producer group wrong"));
            (false, answer)
        }
        "commit that names a made-up record" => (false, commit_made_up(&broker, place).await),
        "commit whose append fails" => (false, broker.end(place, COMMIT).await),
        "an operator commits" => (state == "pending", broker.decide(COMMIT).await),
        "an operator rolls back" => (true, broker.decide(ROLLBACK).await),
        "an operator resumes" => (state == "parked", broker.resume().await),
        "due, a producer is connected" => {
            let mut config = eager(directory);
            config.transaction_check_max = u32::MAX;
            let broker = again(broker, config).await;
            broker.connect_producer().await;
            broker.wait_for_questions(2).await;
            return broker;
        }
        "due, no producer is connected" => {
            let mut config = eager(directory);
            config.transaction_check_max = 1;
            let broker = again(broker, config).await;
            broker.wait_for_look().await;
            broker.wait_for_look().await;
            return broker;
        }
        "asked transactionCheckMax times" => {
            let mut config = eager(directory);
            config.transaction_check_max = 3;
            let broker = again(broker, config).await;
            broker.connect_producer().await;
            broker.wait_for_state("parked").await;
            assert_eq!(broker.questions(), 3);
            return broker;
        }
        "older than fileReservedTime" => {
            let mut config = eager(directory);
            config.file_reserved_time.0 = 0;
            let broker = again(broker, config).await;
            broker.wait_for_state("parked").await;
            assert_eq!(broker.questions(), 0);
            return broker;
        }
        other => panic!("the page has an event that no test has happen: {other}"),
    };
    let is_success = answer.code == 0;
    assert_eq!(is_success, expects_success, "{event}: {:?}", answer.remark);
    broker
}

async fn again(broker: HalfBroker, config: agena_broker::config::BrokerConfig) -> HalfBroker {
    broker.stop().await;
    HalfBroker::start(config).await
}

/// A message whose body is a half record as the log would have it, at the place where it will be; and a commit of it.
async fn commit_made_up(broker: &HalfBroker, place: Place) -> agena_protocol::command::Command {
    let mut properties = Vec::new();
    for (name, value) in [("PGROUP", "PG"), ("REAL_TOPIC", "T"), ("REAL_QID", "0")] {
        push_pair(&mut properties, name, value);
    }
    let fields = RecordFields {
        topic: topic::TRANS_HALF,
        queue_id: QueueId::new(0),
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: "127.0.0.1:5".parse().unwrap(),
        store_host: "127.0.0.1:10911".parse().unwrap(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: b"forged",
        properties: &properties,
    };
    // Where the body of the next message begins is found with one like it.
    let mut encoder = RecordEncoder::new(fields, true).unwrap();
    let mut record = vec![0; encoder.total_bytes()];
    let probe = place_of(&broker.send_elsewhere(&record).await);
    let bytes = broker.record_bytes(probe).await;
    let behind = bytes
        .windows(record.len())
        .position(|window| window == record)
        .unwrap();
    let physical = probe.physical + i64::try_from(bytes.len() + behind).unwrap();
    let half = QueueOffset::from_wire(place.half).unwrap();
    let made_up = PhysicalOffset::from_wire(physical).unwrap();
    encoder.write(&mut record, half, made_up, 1);
    broker.send_elsewhere(&record).await;
    let made_up = Place {
        half: place.half,
        physical,
    };
    let answer = broker.end(made_up, COMMIT).await;
    assert_eq!(
        answer.remark.as_deref(),
        Some("Find prepared transaction message failed")
    );
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_of_the_table_is_what_the_broker_does() {
    let rows = rows("States, events, outcomes");
    assert_eq!(rows.len(), 31);
    for row in &rows {
        let [state, event, appended, after] = &row[..] else {
            panic!("four cells: {row:?}")
        };
        let directory = tempfile::tempdir().unwrap();
        let (broker, place) = bring_about(state, event, directory.path()).await;
        let before = broker.counts().await;
        let broker = happen(event, state, broker, place, directory.path()).await;
        broker.wait_for_state(after).await;
        let counts = broker.counts().await;
        let more: Vec<_> = before
            .iter()
            .zip(&counts)
            .filter(|((_, before), (_, now))| before != now)
            .map(|((name, before), (_, now))| {
                assert_eq!(now - before, 1, "{row:?}: {name}");
                *name
            })
            .collect();
        let more = if more.is_empty() {
            "nothing".to_owned()
        } else {
            more.join(", ")
        };
        assert_eq!(&more, appended, "{row:?}");
        broker.stop().await;
        // The state is in the log, not in memory.
        let broker = HalfBroker::start(quiet(directory.path())).await;
        assert_eq!(broker.state().await, after, "{row:?}, after a restart");
        broker.stop().await;
    }
}
