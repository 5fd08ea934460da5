//! Producers whose brokers misbehave.

use std::time::{Duration, Instant};

use agena_client::{ClientError, Message, Producer, ProducerBuilder, SendSettings, SendStatus};
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;

use crate::servers::{Scripted, Told, refusal, stored};

const SEND: RequestCode = RequestCode::SendMessageV2;

fn builder(name_server: &Scripted) -> ProducerBuilder {
    Producer::builder("g").name_servers(&name_server.address)
}

async fn refusing(code: ResponseCode) -> Scripted {
    Scripted::start(move |request| {
        if request.code == SEND.number() {
            Told::from(refusal(code))
        } else {
            Told::Usual
        }
    })
    .await
}

#[tokio::test]
async fn a_broker_that_is_busy_is_left_for_another() {
    for code in [ResponseCode::SystemBusy, ResponseCode::ServiceNotAvailable] {
        let (busy, other) = (refusing(code).await, Scripted::usual().await);
        let brokers = [("a", busy.address.as_str()), ("b", other.address.as_str())];
        let names = Scripted::name_server("T", &brokers, 4).await;
        let producer = builder(&names).start().await.unwrap();
        for _ in 0..8 {
            let sent = producer.send(Message::new("T", "x")).await.unwrap();
            assert_eq!(sent.queue.broker_name, "b");
        }
        assert!(!busy.asked(SEND).is_empty());
        producer.shutdown().await;
    }
}

#[tokio::test]
async fn what_no_broker_will_take_is_tried_once() {
    let broker = refusing(ResponseCode::MessageIllegal).await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let producer = builder(&names).start().await.unwrap();
    let error = producer.send(Message::new("T", "x")).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Broker(it) if it.code == 13 && it.remark == "as told"),
        "{error}"
    );
    assert_eq!(broker.asked(SEND).len(), 1);
    producer.shutdown().await;
}

#[tokio::test]
async fn an_asynchronous_send_does_not_retry_on_codes() {
    let broker = refusing(ResponseCode::SystemBusy).await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let producer = builder(&names).start().await.unwrap();
    let pending = producer.send_async(Message::new("T", "x")).unwrap();
    assert_eq!(pending.await.unwrap_err().broker_code(), Some(2));
    assert_eq!(broker.asked(SEND).len(), 1);
    let error = producer.send(Message::new("T", "x")).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::SendFailed { attempts, .. } if attempts.len() == 3),
        "{error}"
    );
    assert_eq!(broker.asked(SEND).len(), 4);
    producer.shutdown().await;
}

#[tokio::test]
async fn all_attempts_share_one_id_and_one_budget() {
    let silent = Scripted::start(|request| match request.code == SEND.number() {
        true => Told::Silence,
        false => Told::Usual,
    })
    .await;
    let names = Scripted::name_server("T", &[("a", &silent.address)], 2).await;
    let settings = SendSettings {
        timeout: Duration::from_millis(600),
        attempt_timeout: Some(Duration::from_millis(150)),
        ..SendSettings::default()
    };
    let producer = builder(&names).settings(settings).start().await.unwrap();
    let began = Instant::now();
    let error = producer.send(Message::new("T", "x")).await.unwrap_err();
    let took = began.elapsed();
    assert!(
        matches!(&error, ClientError::SendFailed { attempts, .. } if attempts.len() == 3),
        "{error}"
    );
    assert!(took >= Duration::from_millis(590), "{took:?}");
    assert!(took < Duration::from_millis(2000), "{took:?}");
    let ids: Vec<_> = silent
        .asked(SEND)
        .iter()
        .map(|request| {
            let properties = request.ext.get("i").unwrap();
            let properties = agena_protocol::properties::Properties::new(properties.as_bytes());
            properties.get("UNIQ_KEY").unwrap().to_owned()
        })
        .collect();
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| *id == ids[0]));
    producer.shutdown().await;
}

#[tokio::test]
async fn half_a_promise_has_its_own_status() {
    for (code, status) in [
        (ResponseCode::FlushDiskTimeout, SendStatus::FlushDiskTimeout),
        (
            ResponseCode::FlushSlaveTimeout,
            SendStatus::FlushSlaveTimeout,
        ),
        (
            ResponseCode::SlaveNotAvailable,
            SendStatus::SlaveNotAvailable,
        ),
    ] {
        let broker = Scripted::start(move |request| {
            if request.code == SEND.number() {
                let mut answer = stored(7);
                answer.code = code.number();
                Told::from(answer)
            } else {
                Told::Usual
            }
        })
        .await;
        let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
        let producer = builder(&names).start().await.unwrap();
        let sent = producer.send(Message::new("T", "x")).await.unwrap();
        assert_eq!((sent.status, sent.queue_offset), (status, 7));
        assert_eq!(broker.asked(SEND).len(), 1);
        producer.shutdown().await;
        let settings = SendSettings {
            retry_if_not_stored_ok: true,
            ..SendSettings::default()
        };
        let producer = builder(&names).settings(settings).start().await.unwrap();
        let sent = producer.send(Message::new("T", "x")).await.unwrap();
        assert_eq!(sent.status, status);
        assert_eq!(broker.asked(SEND).len(), 4);
        producer.shutdown().await;
    }
}

#[tokio::test]
async fn a_broker_that_fails_is_avoided_where_that_is_wanted() {
    let (busy, other) = (
        refusing(ResponseCode::SystemBusy).await,
        Scripted::usual().await,
    );
    // Nobody listens there any more.
    let address = busy.address.clone();
    busy.stop().await;
    let brokers = [("a", address.as_str()), ("b", other.address.as_str())];
    let names = Scripted::name_server("T", &brokers, 1).await;
    let settings = SendSettings {
        avoid_slow_brokers: true,
        retries: 1,
        ..SendSettings::default()
    };
    let producer = builder(&names).settings(settings).start().await.unwrap();
    for _ in 0..10 {
        let sent = producer.send(Message::new("T", "x")).await.unwrap();
        assert_eq!(sent.queue.broker_name, "b");
    }
    producer.shutdown().await;
}

#[tokio::test]
async fn a_name_server_that_is_away_is_replaced_by_the_next() {
    let broker = Scripted::usual().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let both = format!("127.0.0.1:9;{}", names.address);
    let producer = Producer::builder("g")
        .name_servers(&both)
        .start()
        .await
        .unwrap();
    assert!(producer.send(Message::new("T", "x")).await.is_ok());
    let error = producer.send(Message::new("U", "x")).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::NoRoute { topic } if topic == "U"),
        "{error}"
    );
    producer.shutdown().await;
}

#[tokio::test]
async fn a_broker_that_goes_away_says_so_and_is_connected_anew() {
    let broker = refusing(ResponseCode::GoAway).await;
    let other = Scripted::usual().await;
    let brokers = [
        ("a", broker.address.as_str()),
        ("b", other.address.as_str()),
    ];
    let names = Scripted::name_server("T", &brokers, 1).await;
    let producer = builder(&names).start().await.unwrap();
    for _ in 0..4 {
        let sent = producer.send(Message::new("T", "x")).await.unwrap();
        assert_eq!(sent.queue.broker_name, "b");
    }
    producer.shutdown().await;
}
