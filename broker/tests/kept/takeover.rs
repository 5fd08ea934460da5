//! A store that Apache RocketMQ 5.3.3 wrote (`tests/fixtures/store/mixed`), taken over with what waits in it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use agena_protocol::bodies::subscription_group::SubscriptionGroupWrapper;
use agena_protocol::bodies::transactions::TransactionList;
use agena_protocol::command::Command;
use agena_protocol::fastjson;
use agena_protocol::headers::transaction::ResolveTransactionRequest;
use agena_protocol::request_code::RequestCode;

use super::process::BrokerProcess;

/// The sizes the store was written with; a retention that its age does not reach.
const CONF: &str = "mappedFileSizeCommitLog=65536\nmappedFileSizeConsumeQueue=2000\n\
    mapperFileSizeBatchConsumeQueue=4600\nmaxHashSlotNum=64\nmaxIndexNum=1000\nfileReservedTime=876000\n";

#[test]
fn what_apache_left_waiting_is_delivered_and_what_it_delivered_is_not_again() {
    let directory = tempfile::tempdir().unwrap();
    let set = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/store/mixed");
    let packed = File::open(set.join("store.tar.gz")).unwrap();
    tar::Archive::new(flate2::read::GzDecoder::new(packed))
        .unpack(directory.path())
        .unwrap();
    let mut copies: BTreeMap<String, u32> = BTreeMap::new();
    // The second time it is our own progress that says what was delivered.
    for _ in 0..2 {
        let broker = BrokerProcess::start_with(directory.path(), CONF);
        let mut wire = broker.connect();
        let deadline = Instant::now() + Duration::from_secs(10);
        // Two messages of level 18 wait, long overdue whatever the clock says.
        while wire.max_offset("MixDelay") < 3 {
            assert!(Instant::now() < deadline, "what waited is not delivered");
            std::thread::sleep(Duration::from_millis(20));
        }
        copies.clear();
        for queue in [0, 1] {
            for (body, _, _) in wire.read_queue("MixDelay", queue) {
                *copies.entry(body).or_default() += 1;
            }
        }
        assert!(copies.values().all(|count| *count == 1), "{copies:?}");
        let answer = wire.ask(&Command::request(
            RequestCode::GetAllSubscriptiongroupConfig,
        ));
        let groups: SubscriptionGroupWrapper = fastjson::from_slice(&answer.body).unwrap();
        assert!(groups.subscription_group_table.contains_key("GRetry"));
        broker.stop();
    }
    assert!(copies.len() >= 5, "{copies:?}");
    assert!(!directory.path().join("store/timerwheel").exists());
}

/// The transaction that nobody had decided there is decided here, once; what it had decided stays.
#[test]
fn a_transaction_that_apache_left_pending_is_decided_after_the_takeover() {
    let directory = tempfile::tempdir().unwrap();
    let set = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/store/mixed");
    let packed = File::open(set.join("store.tar.gz")).unwrap();
    tar::Archive::new(flate2::read::GzDecoder::new(packed))
        .unpack(directory.path())
        .unwrap();
    // Until an operator decides; nothing is asked or parked meanwhile.
    let conf = format!("{CONF}transactionCheckMax=1000\n");
    for round in 0..2 {
        let broker = BrokerProcess::start_with(directory.path(), &conf);
        let mut wire = broker.connect();
        let answer = wire.ask(&Command::request(RequestCode::ListTransactions));
        let list: TransactionList = fastjson::from_slice(&answer.body).unwrap();
        let pending: Vec<_> = list.transactions.iter().map(|one| &*one.topic).collect();
        let seen = wire.read_queue("MixTrans", 0).len() + wire.read_queue("MixTrans", 1).len();
        if round == 0 {
            assert_eq!((pending, seen), (vec!["MixTrans"], 2));
            let header = ResolveTransactionRequest {
                id: &list.transactions[0].transaction_id,
                commit_or_rollback: 8,
            };
            wire.ask(&Command::request(RequestCode::ResolveTransaction).with_header(&header));
            let again =
                wire.call(&Command::request(RequestCode::ResolveTransaction).with_header(&header));
            assert_eq!(again.code, 604, "{:?}", again.remark);
            broker.kill();
        } else {
            assert_eq!((pending, seen), (vec![], 3));
            broker.stop();
        }
    }
}
