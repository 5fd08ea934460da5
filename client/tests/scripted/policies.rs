//! What producers do about brokers that misbehave, policy by policy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agena_client::{
    ClientError, Delivery, Failback, FaultCounts, FaultPolicy, Message, Producer, SendSettings,
    SpoolSettings,
};
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;

use crate::servers::{Scripted, Told, eventually, property, refusal};

const SEND: RequestCode = RequestCode::SendMessageV2;

async fn producer(names: &Scripted, policy: FaultPolicy) -> Producer {
    let settings = SendSettings {
        timeout: Duration::from_secs(2),
        ..SendSettings::default()
    };
    let builder = Producer::builder("g").name_servers(&names.address);
    let builder = builder.settings(settings).fault_policy(policy);
    builder.start().await.unwrap()
}

/// Refuses to store anything, with this code, until it is well.
async fn refusing(code: ResponseCode) -> (Scripted, Arc<AtomicBool>) {
    let well = Arc::new(AtomicBool::new(false));
    let is_well = Arc::clone(&well);
    let broker = Scripted::start(move |request| {
        if request.code == SEND.number() && !is_well.load(Ordering::SeqCst) {
            Told::from(refusal(code))
        } else {
            Told::Usual
        }
    })
    .await;
    (broker, well)
}

async fn names_of(a: &Scripted, b: &Scripted) -> Scripted {
    let brokers = [("a", a.address.as_str()), ("b", b.address.as_str())];
    Scripted::name_server("T", &brokers, 2).await
}

fn message() -> Message {
    Message::new("T", "x")
}

#[tokio::test]
async fn failover_tries_another_broker() {
    let (busy, _) = refusing(ResponseCode::SystemBusy).await;
    let other = Scripted::usual().await;
    let names = names_of(&busy, &other).await;
    let producer = producer(&names, FaultPolicy::Failover).await;
    for _ in 0..8 {
        let delivery = producer.deliver(message()).await.unwrap();
        let Delivery::Stored(result) = &delivery else {
            panic!("{delivery:?}");
        };
        assert_eq!(result.queue.broker_name, "b");
    }
    assert!(!busy.asked(SEND).is_empty());
    producer.shutdown().await;
}

#[tokio::test]
async fn failfast_makes_one_attempt() {
    let (busy, _) = refusing(ResponseCode::SystemBusy).await;
    let other = Scripted::usual().await;
    let names = names_of(&busy, &other).await;
    let producer = producer(&names, FaultPolicy::Failfast).await;
    let mut failed = 0;
    for _ in 0..8 {
        match producer.deliver(message()).await {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.broker_code(), Some(2));
                failed += 1;
            }
        }
    }
    assert_eq!(failed, 4);
    assert_eq!(busy.asked(SEND).len(), 4);
    assert_eq!(other.asked(SEND).len(), 4);
    producer.shutdown().await;
}

#[tokio::test]
async fn failsafe_drops_what_may_pass_and_reports_what_will_not() {
    let (busy, _) = refusing(ResponseCode::SystemBusy).await;
    let names = Scripted::name_server("T", &[("a", &busy.address)], 1).await;
    let safe = producer(&names, FaultPolicy::Failsafe).await;
    let delivery = safe.deliver(message()).await.unwrap();
    assert!(
        matches!(&delivery, Delivery::Dropped(error) if error.broker_code() == Some(2)),
        "{delivery:?}"
    );
    assert_eq!(busy.asked(SEND).len(), 3);
    assert_eq!(safe.fault_counts().dropped, 1);
    let error = safe.deliver(Message::new("T", "")).await.unwrap_err();
    assert!(matches!(error, ClientError::Message(_)), "{error}");
    safe.shutdown().await;

    let (strict, _) = refusing(ResponseCode::MessageIllegal).await;
    let names = Scripted::name_server("T", &[("a", &strict.address)], 1).await;
    let safe = producer(&names, FaultPolicy::Failsafe).await;
    let error = safe.deliver(message()).await.unwrap_err();
    assert_eq!(error.broker_code(), Some(13));
    assert_eq!(safe.fault_counts(), FaultCounts::default());
    safe.shutdown().await;
}

fn quick_failback() -> Failback {
    Failback {
        waiting_max: 2,
        pause: Duration::from_millis(20),
        ..Failback::default()
    }
}

#[tokio::test]
async fn failback_sends_later_and_takes_no_more_than_it_may() {
    let (busy, well) = refusing(ResponseCode::SystemBusy).await;
    let names = Scripted::name_server("T", &[("a", &busy.address)], 1).await;
    let producer = producer(&names, FaultPolicy::Failback(quick_failback())).await;
    for _ in 0..2 {
        let delivery = producer.deliver(message()).await.unwrap();
        assert!(matches!(delivery, Delivery::Waiting(_)), "{delivery:?}");
    }
    let error = producer.deliver(message()).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::RetriesFull { limit: 2, cause, .. } if cause.broker_code() == Some(2)),
        "{error}"
    );
    let before = busy.asked(SEND).len();
    eventually("they are tried again", || busy.asked(SEND).len() > before).await;
    well.store(true, Ordering::SeqCst);
    eventually("both are sent", || producer.fault_counts().sent_late == 2).await;
    let counts = producer.fault_counts();
    assert_eq!((counts.waiting, counts.given_up), (0, 0));
    let mut ids: Vec<_> = busy
        .asked(SEND)
        .iter()
        .map(|send| property(send, "UNIQ_KEY").unwrap())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3, "every try has the id of its message");
    producer.shutdown().await;
}

#[tokio::test]
async fn failback_gives_up_in_the_end() {
    let (busy, _) = refusing(ResponseCode::SystemBusy).await;
    let names = Scripted::name_server("T", &[("a", &busy.address)], 1).await;
    let failback = Failback {
        tries_max: 2,
        ..quick_failback()
    };
    let producer = producer(&names, FaultPolicy::Failback(failback)).await;
    producer.deliver(message()).await.unwrap();
    eventually("it is given up", || producer.fault_counts().given_up == 1).await;
    assert_eq!(busy.asked(SEND).len(), 3 + 2);
    producer.shutdown().await;
}

#[tokio::test]
async fn forking_takes_the_first_success() {
    let silent = Scripted::start(|request| match request.code == SEND.number() {
        true => Told::Silence,
        false => Told::Usual,
    })
    .await;
    let other = Scripted::usual().await;
    let names = names_of(&silent, &other).await;
    let producer = producer(&names, FaultPolicy::Forking(2)).await;
    let began = Instant::now();
    for _ in 0..3 {
        let delivery = producer.deliver(message()).await.unwrap();
        assert_eq!(delivery.stored().unwrap().queue.broker_name, "b");
    }
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "nobody waits for the silent one"
    );
    eventually("both were asked each time", || {
        silent.asked(SEND).len() == 3 && other.asked(SEND).len() == 3
    })
    .await;
    producer.shutdown().await;
}

#[tokio::test]
async fn forking_fails_with_all_causes() {
    let (one, _) = refusing(ResponseCode::SystemBusy).await;
    let (two, _) = refusing(ResponseCode::MessageIllegal).await;
    let names = names_of(&one, &two).await;
    let producer = producer(&names, FaultPolicy::Forking(2)).await;
    let error = producer.deliver(message()).await.unwrap_err();
    let ClientError::SendFailed { attempts, .. } = &error else {
        panic!("{error}");
    };
    let mut codes: Vec<_> = attempts
        .iter()
        .map(|(broker, error)| (broker.as_str(), error.broker_code()))
        .collect();
    codes.sort_unstable();
    assert_eq!(codes, [("a", Some(2)), ("b", Some(13))]);
    producer.shutdown().await;
}

#[tokio::test]
async fn broadcast_reports_broker_by_broker() {
    let (one, well) = refusing(ResponseCode::MessageIllegal).await;
    let other = Scripted::usual().await;
    let names = names_of(&one, &other).await;
    let producer = producer(&names, FaultPolicy::Broadcast).await;
    let error = producer.deliver(message()).await.unwrap_err();
    let ClientError::BroadcastIncomplete { stored, failed, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].queue.broker_name, "b");
    assert_eq!(failed.len(), 1);
    assert_eq!(
        (failed[0].0.as_str(), failed[0].1.broker_code()),
        ("a", Some(13))
    );
    well.store(true, Ordering::SeqCst);
    let delivery = producer.deliver(message()).await.unwrap();
    let Delivery::StoredEverywhere(results) = &delivery else {
        panic!("{delivery:?}");
    };
    let brokers: Vec<_> = results
        .iter()
        .map(|result| result.queue.broker_name.as_str())
        .collect();
    assert_eq!(brokers, ["a", "b"]);
    producer.shutdown().await;
}

#[tokio::test]
async fn a_spool_goes_with_some_policies_only() {
    let directory = tempfile::tempdir().unwrap();
    let refused = Producer::builder("g")
        .fault_policy(FaultPolicy::Failsafe)
        .spool(SpoolSettings::at(directory.path().join("spool")))
        .start()
        .await;
    assert!(matches!(
        refused,
        Err(ClientError::Config {
            setting: "spool",
            ..
        })
    ));
}
