//! Numbers by which brokers deduplicate, and where a message may be tried again because of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agena_client::{ClientError, Message, Producer, ProducerId, SendSettings};
use agena_protocol::command::Command;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;

use crate::servers::{Scripted, Told, body, property, refusal};

const SEND: RequestCode = RequestCode::SendMessageV2;

fn settings(deduplicate: bool) -> SendSettings {
    SendSettings {
        timeout: Duration::from_millis(900),
        attempt_timeout: Some(Duration::from_millis(60)),
        deduplicate: deduplicate.then(ProducerId::random),
        ..SendSettings::default()
    }
}

fn sequence(send: &Command) -> u64 {
    property(send, "AGENA_SEQUENCE").unwrap().parse().unwrap()
}

fn id(send: &Command) -> String {
    property(send, "UNIQ_KEY").unwrap()
}

async fn names_of(a: &Scripted, b: &Scripted) -> Scripted {
    let brokers = [("a", a.address.as_str()), ("b", b.address.as_str())];
    Scripted::name_server("T", &brokers, 2).await
}

async fn silent() -> Scripted {
    Scripted::start(|request| match request.code == SEND.number() {
        true => Told::Silence,
        false => Told::Usual,
    })
    .await
}

#[tokio::test]
async fn numbers_ascend_and_only_where_wanted() {
    let broker = Scripted::usual().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 4).await;
    for deduplicate in [true, false] {
        let builder = Producer::builder("g").name_servers(&names.address);
        let producer = builder
            .settings(SendSettings {
                deduplicate: deduplicate.then(|| ProducerId::new("p-1").unwrap()),
                ..settings(false)
            })
            .start()
            .await
            .unwrap();
        for _ in 0..5 {
            producer.send(Message::new("T", "x")).await.unwrap();
        }
        producer.shutdown().await;
    }
    let sends = broker.asked(SEND);
    let numbers: Vec<_> = sends[..5].iter().map(sequence).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
    let ids: BTreeSet<_> = sends[..5]
        .iter()
        .map(|send| property(send, "AGENA_PRODUCER_ID").unwrap())
        .collect();
    assert_eq!(ids, BTreeSet::from(["p-1".to_owned()]));
    assert!(
        sends[5..]
            .iter()
            .all(|it| property(it, "AGENA_SEQUENCE").is_none())
    );
}

/// One message has no answer for a while: others do not pass it by so many numbers that its broker forgets it.
#[tokio::test]
async fn a_slow_message_is_not_left_behind_by_those_after_it() {
    const WINDOW: u64 = 1_000;
    let (highest, tries) = (AtomicU64::new(0), AtomicU64::new(0));
    let broker = Scripted::start(move |request| {
        if request.code != SEND.number() {
            return Told::Usual;
        }
        let newest = highest.fetch_max(sequence(request), Ordering::SeqCst);
        if sequence(request) + WINDOW <= newest {
            return Told::from(refusal(ResponseCode::MessageIllegal));
        }
        match body(request) == "slow" && tries.fetch_add(1, Ordering::SeqCst) < 5 {
            true => Told::Silence,
            false => Told::Usual,
        }
    })
    .await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let settings = SendSettings {
        timeout: Duration::from_secs(30),
        attempt_timeout: Some(Duration::from_millis(300)),
        retries: 20,
        ..settings(true)
    };
    let builder = Producer::builder("g").name_servers(&names.address);
    let producer = builder.settings(settings).start().await.unwrap();
    let slow = producer.send_async(Message::new("T", "slow")).unwrap();
    let others: Vec<_> = (0..3 * WINDOW)
        .map(|_| producer.send_async(Message::new("T", "x")).unwrap())
        .collect();
    slow.await.unwrap();
    for other in others {
        other.await.unwrap();
    }
    producer.shutdown().await;
}

/// Where each message was tried: broker and queue, once for each attempt.
fn tries(servers: [(&str, &Scripted); 2]) -> BTreeMap<String, Vec<(String, String)>> {
    let mut tries: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (name, server) in servers {
        for send in server.asked(SEND) {
            let queue = send.ext.get("e").unwrap().to_owned();
            tries
                .entry(id(&send))
                .or_default()
                .push((name.to_owned(), queue));
        }
    }
    tries
}

#[tokio::test]
async fn a_message_whose_fate_is_unknown_stays_where_it_may_be() {
    for deduplicate in [true, false] {
        let (silent, other) = (silent().await, Scripted::usual().await);
        let names = names_of(&silent, &other).await;
        let builder = Producer::builder("g").name_servers(&names.address);
        let producer = builder
            .settings(settings(deduplicate))
            .start()
            .await
            .unwrap();
        let mut failed = 0;
        for _ in 0..4 {
            failed += usize::from(producer.send(Message::new("T", "x")).await.is_err());
        }
        let tries = tries([("a", &silent), ("b", &other)]);
        assert_eq!(tries.len(), 4);
        let places = |tries: &Vec<_>| tries.iter().collect::<BTreeSet<_>>().len();
        if deduplicate {
            assert_eq!(failed, 2, "two of four began with the silent one");
            assert!(tries.values().all(|tries| places(tries) == 1), "{tries:?}");
            assert_eq!(tries.values().filter(|tries| tries.len() == 3).count(), 2);
            for send in silent.asked(SEND) {
                assert!(
                    other
                        .asked(SEND)
                        .iter()
                        .all(|it| sequence(it) != sequence(&send))
                );
            }
        } else {
            assert_eq!(failed, 0);
            assert!(tries.values().any(|tries| places(tries) == 2), "{tries:?}");
        }
        producer.shutdown().await;
    }
}

#[tokio::test]
async fn a_message_that_was_refused_goes_elsewhere_under_its_number() {
    let busy = Scripted::start(|request| match request.code == SEND.number() {
        true => Told::from(refusal(ResponseCode::SystemBusy)),
        false => Told::Usual,
    })
    .await;
    let other = Scripted::usual().await;
    let names = names_of(&busy, &other).await;
    let builder = Producer::builder("g").name_servers(&names.address);
    let producer = builder.settings(settings(true)).start().await.unwrap();
    for _ in 0..4 {
        let sent = producer.send(Message::new("T", "x")).await.unwrap();
        assert_eq!(sent.queue.broker_name, "b");
    }
    let refused = busy.asked(SEND);
    assert!(!refused.is_empty());
    for send in &refused {
        let stored = other.asked(SEND);
        let same = stored.iter().find(|it| id(it) == id(send)).unwrap();
        assert_eq!(sequence(same), sequence(send));
    }
    producer.shutdown().await;
}

#[tokio::test]
async fn a_batch_has_one_number_and_stays_where_it_may_be() {
    let batch = RequestCode::SendBatchMessage.number();
    let silent = Scripted::start(move |request| match request.code == batch {
        true => Told::Silence,
        false => Told::Usual,
    })
    .await;
    let other = Scripted::usual().await;
    let names = names_of(&silent, &other).await;
    let builder = Producer::builder("g").name_servers(&names.address);
    let producer = builder.settings(settings(true)).start().await.unwrap();
    for _ in 0..4 {
        let messages = vec![Message::new("T", "x"), Message::new("T", "y")];
        let _ = producer.send_batch(messages).await;
    }
    let (lost, stored) = (
        silent.asked(RequestCode::SendBatchMessage),
        other.asked(RequestCode::SendBatchMessage),
    );
    assert_eq!((lost.len(), stored.len()), (2 * 3, 2));
    for request in lost.iter().chain(&stored) {
        assert!(property(request, "AGENA_SEQUENCE").is_some());
        assert!(!body(request).contains("AGENA_SEQUENCE"));
    }
    producer.shutdown().await;
}

#[tokio::test]
async fn one_producer_at_a_time_uses_an_id() {
    let broker = Scripted::usual().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let builder = Producer::builder("g")
        .name_servers(&names.address)
        .deduplicate(ProducerId::new("one-at-a-time").unwrap());
    let first = builder.clone().start().await.unwrap();
    let second = builder.clone().start().await;
    assert!(matches!(second, Err(ClientError::ProducerIdInUse { .. })));
    first.send(Message::new("T", "x")).await.unwrap();
    first.shutdown().await;
    let third = builder.start().await.unwrap();
    third.send(Message::new("T", "x")).await.unwrap();
    third.shutdown().await;
    let sends = broker.asked(SEND);
    assert!(sequence(&sends[0]) < sequence(&sends[1]));
}

/// Each wait for a number was without end, and as many of them came one after the other as there were messages.
#[tokio::test]
async fn no_send_takes_longer_than_it_may_because_of_numbers() {
    const SENDS: usize = 3_000;
    let broker = silent().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let settings = SendSettings {
        timeout: Duration::from_millis(500),
        attempt_timeout: None,
        ..settings(true)
    };
    let builder = Producer::builder("g").name_servers(&names.address);
    let producer = builder.settings(settings).start().await.unwrap();
    let begin = std::time::Instant::now();
    let sends: Vec<_> = (0..SENDS)
        .map(|_| producer.send_async(Message::new("T", "x")).unwrap())
        .collect();
    for send in sends {
        send.await.unwrap_err();
    }
    // Six rounds of 500 numbers would take three seconds.
    let took = begin.elapsed();
    assert!(took < Duration::from_millis(2_000), "{took:?}");
    producer.shutdown().await;
}
