//! Consumers that go by keys: in order for each, side by side for different ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use agena_client::{
    Batch, ConsumedInOrder, ConsumerSettings, PushConsumer, PushConsumerBuilder, ReceivedMessage,
};
use agena_protocol::command::Command;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use parking_lot::Mutex;

use crate::servers::{Scripted, Told, eventually, property, pulled, record};

const KEYS: i64 = 3;

/// So many messages, one a pull. The key of each is its offset modulo [`KEYS`].
fn messages(count: i64) -> impl Fn(&Command) -> Told {
    move |request| {
        let is_pull = request.code == RequestCode::PullMessage.number();
        if !is_pull || request.ext.get("topic") != Some("T") {
            return Told::Usual;
        }
        let offset: i64 = request.ext.get("queueOffset").unwrap().parse().unwrap();
        if offset >= count {
            return Told::Usual;
        }
        let answer = pulled(ResponseCode::Success, offset + 1);
        let body = format!("{}", offset % KEYS);
        Told::from(answer.with_body(record("T", offset, &body)))
    }
}

fn key(message: &ReceivedMessage) -> Option<String> {
    Some(String::from_utf8_lossy(&message.body).into_owned())
}

async fn start<F>(
    names: &Scripted,
    limit: impl Fn(PushConsumerBuilder) -> PushConsumerBuilder,
    listener: F,
) -> PushConsumer
where
    F: Fn(&str, i64) -> bool + Clone + Send + Sync + 'static,
{
    let settings = ConsumerSettings {
        suspend: Duration::from_millis(10),
        save_interval: Duration::from_millis(20),
        ..ConsumerSettings::default()
    };
    let builder = PushConsumer::builder("g")
        .name_servers(&names.address)
        .subscribe("T", "*")
        .settings(settings);
    limit(builder)
        .start_by_key(key, move |batch: Batch| {
            let listener = listener.clone();
            async move {
                tokio::task::yield_now().await;
                match listener(&key(&batch[0]).unwrap(), batch[0].queue_offset) {
                    true => ConsumedInOrder::Done,
                    false => ConsumedInOrder::SuspendQueue { pause: None },
                }
            }
        })
        .await
        .unwrap()
}

fn saved(broker: &Scripted) -> Vec<i64> {
    let saved = broker.asked(RequestCode::UpdateConsumerOffset);
    let of_topic = saved.iter().filter(|it| it.ext.get("topic") == Some("T"));
    of_topic
        .map(|it| it.ext.get("commitOffset").unwrap().parse().unwrap())
        .collect()
}

#[tokio::test]
async fn a_key_that_fails_holds_up_nobody_else_and_no_offset_passes_it() {
    let broker = Scripted::start(messages(60)).await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let done: Arc<Mutex<BTreeMap<String, Vec<i64>>>> = Arc::default();
    let well = Arc::new(AtomicBool::new(false));
    let fails = Arc::new(AtomicUsize::new(0));
    let (put, is_well, fail) = (Arc::clone(&done), Arc::clone(&well), Arc::clone(&fails));
    let listener = move |key: &str, offset| {
        // Offset 3 is the second message of key 0.
        if offset == 3 && !is_well.load(Ordering::SeqCst) {
            fail.fetch_add(1, Ordering::SeqCst);
            return false;
        }
        put.lock().entry(key.to_owned()).or_default().push(offset);
        true
    };
    let consumer = start(&names, |builder| builder, listener).await;
    let count = |key: &str| done.lock().get(key).map_or(0, Vec::len);
    eventually("the other keys are through", || {
        count("1") == 20 && count("2") == 20 && fails.load(Ordering::SeqCst) >= 3
    })
    .await;
    assert_eq!(done.lock()["0"], [0]);
    eventually("the offset in front of it is saved", || {
        saved(&broker).contains(&3)
    })
    .await;
    assert!(saved(&broker).iter().all(|offset| *offset <= 3));
    well.store(true, Ordering::SeqCst);
    eventually("its key goes on", || count("0") == 20).await;
    for (key, offsets) in done.lock().iter() {
        let first: i64 = key.parse().unwrap();
        let all: Vec<_> = (0..20).map(|step| first + step * KEYS).collect();
        assert_eq!(*offsets, all);
    }
    consumer.shutdown().await;
    assert_eq!(saved(&broker).last(), Some(&60));
    assert!(!broker.asked(RequestCode::UnlockBatchMq).is_empty());
}

#[tokio::test]
async fn what_failed_too_often_is_given_back_and_its_key_goes_on() {
    let broker = Scripted::start(messages(9)).await;
    let topics = ["T", "%RETRY%g"];
    let names = Scripted::name_server_of(&topics, &[("a", &broker.address)], 1).await;
    let done = Arc::new(AtomicUsize::new(0));
    let tries = Arc::new(AtomicUsize::new(0));
    let (count, tried) = (Arc::clone(&done), Arc::clone(&tries));
    let listener = move |_: &str, offset| {
        if offset == 0 {
            tried.fetch_add(1, Ordering::SeqCst);
            return false;
        }
        count.fetch_add(1, Ordering::SeqCst);
        true
    };
    let limited = |builder: PushConsumerBuilder| builder.max_reconsume_times(2);
    let consumer = start(&names, limited, listener).await;
    eventually("all others are done", || done.load(Ordering::SeqCst) == 8).await;
    assert_eq!(tries.load(Ordering::SeqCst), 3);
    let copies = broker.asked(RequestCode::SendMessageV2);
    assert_eq!(copies.len(), 1);
    assert_eq!(property(&copies[0], "RECONSUME_TIME").as_deref(), Some("3"));
    assert_eq!(copies[0].ext.get("b"), Some("%RETRY%g"));
    consumer.shutdown().await;
    assert_eq!(saved(&broker).last(), Some(&9));
}
