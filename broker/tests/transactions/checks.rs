//! When halves are asked about, how often, and whom; and outcomes that come early or twice.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use agena_broker::config::FlushDiskType;
use agena_protocol::command::Command;
use agena_protocol::headers::offsets::UpdateConsumerOffsetRequest;
use agena_protocol::request_code::RequestCode;
use agena_protocol::topic;

use crate::half_broker::{
    COMMIT, DEADLINE, HalfBroker, Place, ROLLBACK, UNKNOWN, eager, heartbeat, place_of, quiet,
};

/// With SYNC_FLUSH dispatch follows the data sync, and a producer that does not wait for that may be faster.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_overtakes_its_half_is_carried_out() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = quiet(directory.path());
    config.flush_disk_type = FlushDiskType::Sync;
    let broker = HalfBroker::start(config).await;
    for number in 0..30 {
        let hurried = [("WAIT", "false"), ("KEYS", &*number.to_string())];
        let place = place_of(&broker.try_prepare_with(&hurried, b"body").await);
        let what = if number % 3 == 0 { ROLLBACK } else { COMMIT };
        assert_eq!(broker.end(place, what).await.code, 0);
    }
    assert_eq!(broker.list("pending").await.len(), 0);
    let [_, _, (_, real), (_, op)] = broker.counts().await;
    assert_eq!((real, op), (20, 30));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_outcomes_at_once_one_counts() {
    let directory = tempfile::tempdir().unwrap();
    let broker = HalfBroker::start(quiet(directory.path())).await;
    for _ in 0..50 {
        let place = broker.prepare(b"body").await;
        let before = broker.counts().await;
        let ends = tokio::join!(
            broker.end(place, COMMIT),
            broker.end(place, ROLLBACK),
            broker.end(place, COMMIT)
        );
        assert_eq!((ends.0.code, ends.1.code, ends.2.code), (0, 0, 0));
        let after = broker.counts().await;
        assert_eq!(after[3].1, before[3].1 + 1, "one op record");
        assert!(after[2].1 <= before[2].1 + 1, "delivered once at most");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_names_another_half_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let broker = HalfBroker::start(quiet(directory.path())).await;
    let place = broker.prepare(b"body").await;
    let elsewhere = Place {
        half: place.half + 1,
        ..place
    };
    let nowhere = Place {
        physical: place.physical + 7,
        ..place
    };
    let remark = async |place| broker.end(place, COMMIT).await.remark.unwrap();
    assert_eq!(
        remark(elsewhere).await,
        "The transaction state table offset wrong"
    );
    assert_eq!(
        remark(nowhere).await,
        "Find prepared transaction message failed"
    );
    assert_eq!(broker.state().await, "pending");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_asks_nobody_early() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = eager(directory.path());
    config.transaction_check_interval = Duration::from_secs(3_600);
    let broker = HalfBroker::start(config.clone()).await;
    broker.prepare(b"body").await;
    broker.connect_producer().await;
    broker.wait_for_questions(1).await;
    broker.stop().await;

    let broker = HalfBroker::start(config).await;
    broker.connect_producer().await;
    // One that is new is asked about: whatever was due with it has been as well.
    broker.prepare(b"new").await;
    broker.wait_for_questions(1).await;
    let checks: Vec<_> = broker.list("pending").await;
    let checks: Vec<_> = checks.iter().map(|one| one.checks).collect();
    assert_eq!(checks, [1, 1]);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_comes_is_asked_soon_about_what_waited_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = eager(directory.path());
    config.transaction_check_interval = Duration::from_secs(60);
    let broker = HalfBroker::start(config).await;
    broker.prepare(b"body").await;
    let first = broker.list("pending").await[0].store_timestamp;
    // Looked at once, and not again for a minute.
    broker
        .wait_for("a look", async || {
            broker.list("pending").await[0].next_check_timestamp > first + 30_000
        })
        .await;
    assert_eq!(broker.questions(), 0);
    broker.connect_producer().await;
    broker.wait_for_questions(1).await;
    broker.stop().await;
}

/// What does not fit is the number of questions, and only that is left out.
#[tokio::test(flavor = "multi_thread")]
async fn a_half_whose_properties_are_full_is_asked_about_and_parked() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = eager(directory.path());
    config.transaction_check_max = 2;
    let broker = HalfBroker::start(config).await;
    broker.connect_producer().await;
    let mut length = 32_767;
    // As long as the broker takes them: it adds some of its own.
    let place = loop {
        let long = "x".repeat(length);
        let answer = broker.try_prepare_with(&[("long", &long)], b"body").await;
        if answer.code == 0 {
            break place_of(&answer);
        }
        length -= 1;
    };
    assert!(length > 32_000, "{length}");
    assert_eq!(place.half, 0);
    broker.wait_for_state("parked").await;
    assert_eq!(broker.questions(), 2);
    broker.stop().await;
}

/// A producer that does not read is asked no more than it can hold, and not cut off.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_its_questions_is_not_asked_more() {
    const HALVES: usize = 48;
    const BODY_BYTES: usize = 3_000_000;
    let directory = tempfile::tempdir().unwrap();
    let mut config = eager(directory.path());
    config.transaction_time_out = Duration::from_secs(3_600);
    config.mapped_file_size_commit_log = 256 << 20;
    let broker = HalfBroker::start(config.clone()).await;
    for _ in 0..HALVES {
        broker.prepare(&vec![b'x'; BODY_BYTES]).await;
    }
    broker.stop().await;
    config.transaction_time_out = Duration::ZERO;
    config.transaction_check_interval = Duration::from_secs(600);
    let broker = HalfBroker::start(config).await;
    let mut socket = TcpStream::connect(broker.address()).unwrap();
    socket.write_all(&heartbeat().encode()).unwrap();
    let asked = async || {
        let pending = broker.list("pending").await;
        pending.iter().filter(|one| one.checks > 0).count()
    };
    broker
        .wait_for("questions", async || asked().await > 0)
        .await;
    let now_and_then = asked().await;
    assert!(now_and_then < HALVES / 2, "{now_and_then} are on their way");

    // It reads after all, and all of them come.
    let bytes = HALVES * BODY_BYTES;
    let reading = tokio::task::spawn_blocking(move || {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let (mut read, mut buffer) = (0, vec![0; 1 << 20]);
        while read < bytes {
            let count = socket.read(&mut buffer).unwrap();
            assert!(count > 0, "cut off behind {read} bytes");
            read += count;
        }
    });
    reading.await.unwrap();
    assert_eq!(asked().await, HALVES);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_moves_the_marks() {
    let directory = tempfile::tempdir().unwrap();
    let broker = HalfBroker::start(quiet(directory.path())).await;
    let place = broker.prepare(b"body").await;
    broker.end(place, UNKNOWN).await;
    let header = UpdateConsumerOffsetRequest {
        consumer_group: "CID_RMQ_SYS_TRANS",
        topic: topic::TRANS_HALF,
        queue_id: 0,
        commit_offset: 1,
        ..UpdateConsumerOffsetRequest::default()
    };
    let request = Command::request(RequestCode::UpdateConsumerOffset).with_header(&header);
    assert_eq!(broker.call(request).await.code, 16);
    broker.stop().await;
    let broker = HalfBroker::start(quiet(directory.path())).await;
    assert_eq!(broker.state().await, "pending");
    broker.stop().await;
}

/// However many they are, and although others come meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn every_half_of_a_log_file_that_goes_is_parked() {
    const HALVES: usize = 1_200;
    let directory = tempfile::tempdir().unwrap();
    let mut config = quiet(directory.path());
    config.log_bytes_max = 1;
    let broker = HalfBroker::start(config).await;
    for _ in 0..HALVES {
        broker.prepare(b"body").await;
    }
    // The file is full, and the next one begun.
    for _ in 0..3 {
        broker.send_elsewhere(&[b'x'; 500_000]).await;
    }
    let others = async {
        for _ in 0..100 {
            broker.prepare(b"other").await;
        }
    };
    // What is derived from the file must be on the device before it goes.
    let gone = broker.wait_for("file that goes", async || {
        broker.clean_log().await;
        broker.counts().await[1].1 > 0
    });
    tokio::join!(gone, others);
    let [_, (_, parked), (_, real), _] = broker.counts().await;
    let pending = broker.count_pending().await;
    assert_eq!(
        (usize::try_from(parked).unwrap() + pending, real),
        (HALVES + 100, 0)
    );
    assert!(pending <= 100, "{pending} are pending whose file is gone");
    broker.stop().await;
}
