//! Locks of ordered consumers over a kill.

use agena_protocol::bodies::lag::{LagExplanation, OrderLock};
use agena_protocol::bodies::queue_locks::{
    LockBatchRequestBody, LockBatchResponseBody, UnlockBatchRequestBody,
};
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::queue::MessageQueue;
use agena_protocol::request_code::RequestCode;

use super::process::BrokerProcess;
use super::wire::Wire;

const GROUP: &str = "ordered";

fn queue(number: i32) -> MessageQueue {
    MessageQueue::new("T", "broker-a", number)
}

fn lock(wire: &mut Wire, client: &str, queues: &[i32]) -> Vec<i32> {
    let body = LockBatchRequestBody {
        client_id: client.to_owned(),
        consumer_group: GROUP.to_owned(),
        mq_set: queues.iter().copied().map(queue).collect(),
        only_this_broker: false,
    };
    let body = fastjson::to_vec(&body, KeyStyle::Bare);
    let answer = wire.ask(&Command::request(RequestCode::LockBatchMq).with_body(body));
    let locked: LockBatchResponseBody = fastjson::from_slice(&answer.body).unwrap();
    let locked = locked.lock_ok_mq_set.into_iter();
    locked.map(|queue| queue.queue_id).collect()
}

fn unlock(wire: &mut Wire, client: &str, number: i32) {
    let body = UnlockBatchRequestBody {
        client_id: client.to_owned(),
        consumer_group: GROUP.to_owned(),
        mq_set: vec![queue(number)],
        only_this_broker: false,
    };
    let body = fastjson::to_vec(&body, KeyStyle::Bare);
    wire.ask(&Command::request(RequestCode::UnlockBatchMq).with_body(body));
}

/// What operators are told of the lock on queue 0.
fn shown(wire: &mut Wire) -> OrderLock {
    let request = Command::request(RequestCode::ExplainLag)
        .with_ext("consumerGroup", GROUP)
        .with_ext("topic", "T");
    let explanation: LagExplanation = fastjson::from_slice(&wire.ask(&request).body).unwrap();
    let mut queues = explanation.queues.into_iter();
    queues.find_map(|queue| queue.lock).unwrap()
}

#[test]
fn a_lock_outlives_a_kill_and_keeps_others_away_until_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let mut broker = BrokerProcess::start(directory.path());
    let mut wire = broker.connect();
    wire.send("T", "x", &[]);
    // A pull makes the group, which otherwise a heartbeat would.
    wire.pull_once(GROUP, "T");
    assert_eq!(lock(&mut wire, "owner", &[0, 1]), [0, 1]);
    unlock(&mut wire, "owner", 1);
    let before = shown(&mut wire);
    for _ in 0..2 {
        broker.kill();
        broker = BrokerProcess::start(directory.path());
        wire = broker.connect();
        assert_eq!(lock(&mut wire, "other", &[0]), [] as [i32; 0]);
        let after = shown(&mut wire);
        assert_eq!(after.client_id, "owner");
        assert!(
            (after.until - before.until).abs() < 100,
            "{after:?} {before:?}"
        );
    }
    assert_eq!(
        lock(&mut wire, "other", &[1]),
        [1],
        "given back before the kill"
    );
    assert_eq!(lock(&mut wire, "owner", &[0]), [0]);
    broker.stop();
    let broker = BrokerProcess::start(directory.path());
    wire = broker.connect();
    assert_eq!(lock(&mut wire, "other", &[0]), [] as [i32; 0]);
}
