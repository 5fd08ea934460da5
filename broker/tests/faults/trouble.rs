//! A disk that is full for a while, and one whose syncs do not come back in time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use agena_broker::Broker;
use agena_broker::config::{BrokerConfig, FlushDiskType};
use agena_protocol::command::Command;
use agena_protocol::response_code::ResponseCode;

use crate::bad_disk::BadDisk;
use crate::client::{Asked, properties, pull_of};

const WITHIN: Duration = Duration::from_secs(60);

async fn start(config: BrokerConfig) -> (Asked, Arc<BadDisk>) {
    let disk = Arc::new(BadDisk::default());
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::temp_in(directory, config, disk.clone());
    (Asked::to(broker.await.unwrap()), disk)
}

async fn send(asked: &Asked, sequence: &str) -> Command {
    let pairs = [("AGENA_PRODUCER_ID", "p"), ("AGENA_SEQUENCE", sequence)];
    let text = properties(&[&pairs[..], &[("UNIQ_KEY", "U")]].concat());
    asked.send("T", 0, &text, sequence.as_bytes()).await
}

fn places(answer: &Command) -> [Option<&str>; 4] {
    ["msgId", "queueId", "queueOffset", "transactionId"].map(|field| answer.ext.get(field))
}

/// Sends until the answer has this code.
async fn until(asked: &Asked, sequence: &str, code: ResponseCode) -> Command {
    let begin = Instant::now();
    loop {
        let answer = send(asked, sequence).await;
        if answer.response_code() == Some(code) {
            return answer;
        }
        assert!(begin.elapsed() < WITHIN, "{:?}", answer.remark);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn on_a_full_disk_repeats_are_answered_and_firsts_are_no_firsts() {
    let mut config = BrokerConfig::default();
    config.mapped_file_size_commit_log = 1 << 16;
    let (asked, disk) = start(config).await;
    let first = send(&asked, "1").await;
    assert_eq!(first.code, 0, "{:?}", first.remark);
    disk.is_full.store(true, Ordering::SeqCst);
    let begin = Instant::now();
    while asked.send("Other", 0, "", &[0; 30_000]).await.code == 0 {
        assert!(begin.elapsed() < WITHIN, "it is never full");
    }
    until(&asked, "2", ResponseCode::ServiceNotAvailable).await;
    let again = send(&asked, "1").await;
    assert_eq!(again.code, 0, "{:?}", again.remark);
    assert_eq!(places(&again), places(&first));
    disk.is_full.store(false, Ordering::SeqCst);
    let second = until(&asked, "2", ResponseCode::Success).await;
    assert_eq!(places(&send(&asked, "2").await), places(&second));
    let bodies = asked.pull(&pull_of("T", 0, 0)).await.bodies;
    assert_eq!(bodies, ["1", "2"]);
}

#[tokio::test]
async fn a_repeat_waits_for_the_same_sync_as_the_first() {
    let mut config = BrokerConfig::default();
    config.flush_disk_type = FlushDiskType::Sync;
    config.sync_flush_timeout = Duration::from_millis(200);
    let (asked, disk) = start(config).await;
    // The device may be busy with others.
    until(&asked, "1", ResponseCode::Success).await;
    disk.waits.store(true, Ordering::SeqCst);
    let first = send(&asked, "2").await;
    let late = Some(ResponseCode::FlushDiskTimeout);
    assert_eq!(first.response_code(), late, "{:?}", first.remark);
    let again = send(&asked, "2").await;
    assert_eq!(again.response_code(), late, "{:?}", again.remark);
    assert_eq!(places(&again), places(&first));
    disk.waits.store(false, Ordering::SeqCst);
    let again = until(&asked, "2", ResponseCode::Success).await;
    assert_eq!(places(&again), places(&first));
}
