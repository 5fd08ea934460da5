//! Consumers that lose queues, and queues that lose their pulls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agena_client::{Batch, ConsumerSettings, PushConsumer};
use agena_protocol::bodies::heartbeat::HeartbeatData;
use agena_protocol::bodies::names::GetConsumerListByGroupResponseBody;
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::servers::{Scripted, Told, eventually, pulled, record};

fn is_pull_of_topic(request: &Command) -> bool {
    request.code == RequestCode::PullMessage.number() && request.ext.get("topic") == Some("T")
}

fn message_at(request: &Command) -> Told {
    let offset: i64 = request.ext.get("queueOffset").unwrap().parse().unwrap();
    let answer = pulled(ResponseCode::Success, offset + 1);
    Told::from(answer.with_body(record("T", offset, "x")))
}

fn offset_of_pull(request: &Command) -> i64 {
    request.ext.get("queueOffset").unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_queue_whose_pull_was_swallowed_is_taken_anew() {
    let swallowed = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&swallowed);
    let broker = Scripted::start(move |request| {
        if !is_pull_of_topic(request) || !flag.swap(true, Ordering::SeqCst) {
            return match is_pull_of_topic(request) {
                true => Told::Silence,
                false => Told::Usual,
            };
        }
        match offset_of_pull(request) {
            0..3 => message_at(request),
            next => Told::from(pulled(ResponseCode::PullNotFound, next)),
        }
    })
    .await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let settings = ConsumerSettings {
        hold: Duration::from_millis(20),
        watchdog: Some(Duration::from_millis(100)),
        ..ConsumerSettings::default()
    };
    let began = Instant::now();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let consumer = PushConsumer::builder("g")
        .name_servers(&names.address)
        .subscribe("T", "*")
        .settings(settings)
        .start(move |_: Batch| {
            count.fetch_add(1, Ordering::SeqCst);
            async {}
        })
        .await
        .unwrap();
    eventually("its messages come", || seen.load(Ordering::SeqCst) == 3).await;
    assert!(consumer.restarted_queues() >= 1);
    // Without the watchdog the pull itself gives up, 15 s later.
    assert!(began.elapsed() < Duration::from_secs(12));
    consumer.shutdown().await;
}

/// A consumer whose queue goes to another member while its listener runs, and the offsets it saves then. `next` is how far
/// the other member is when ours looks.
async fn saved_by_who_lost_a_queue(next: i64) -> Vec<i64> {
    let other_joined = Arc::new(AtomicBool::new(false));
    let client = Arc::new(Mutex::new(String::new()));
    let (joined, id) = (Arc::clone(&other_joined), Arc::clone(&client));
    let broker = Scripted::start(move |request| {
        let joined = joined.load(Ordering::SeqCst);
        match RequestCode::from_number(request.code) {
            Some(RequestCode::HeartBeat) => {
                let data: HeartbeatData = fastjson::from_slice(&request.body).unwrap();
                *id.lock() = data.client_id;
                Told::Usual
            }
            Some(RequestCode::GetConsumerListByGroup) if joined => {
                // It sorts first, so the only queue is its.
                let consumer_id_list = vec!["!other".to_owned(), id.lock().clone()];
                let body = GetConsumerListByGroupResponseBody { consumer_id_list };
                let body = fastjson::to_vec(&body, KeyStyle::Quoted);
                Told::from(Command::success().with_body(body))
            }
            Some(RequestCode::QueryConsumerOffset) if joined => {
                Told::from(Command::success().with_ext("offset", next))
            }
            _ if is_pull_of_topic(request) && offset_of_pull(request) < 2 => message_at(request),
            _ => Told::Usual,
        }
    })
    .await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let settings = ConsumerSettings {
        save_interval: Duration::from_secs(3600),
        ..ConsumerSettings::default()
    };
    let (began, may_end) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (count, gate) = (Arc::clone(&began), Arc::clone(&may_end));
    let consumer = PushConsumer::builder("g")
        .name_servers(&names.address)
        .subscribe("T", "*")
        .settings(settings)
        .start(move |batch: Batch| {
            let (count, gate) = (Arc::clone(&count), Arc::clone(&gate));
            async move {
                count.fetch_add(1, Ordering::SeqCst);
                if batch[0].queue_offset == 1 {
                    gate.acquire().await.unwrap().forget();
                }
            }
        })
        .await
        .unwrap();
    eventually("both listeners run", || began.load(Ordering::SeqCst) == 2).await;
    other_joined.store(true, Ordering::SeqCst);
    let news = Command::request(RequestCode::NotifyConsumerIdsChanged)
        .with_ext("consumerGroup", "g")
        .one_way();
    broker.tell(&news);
    eventually("the queue is given up", || {
        consumer.queues().iter().all(|queue| queue.topic != "T")
    })
    .await;
    let looks = || broker.asked(RequestCode::QueryConsumerOffset).len();
    let before = looks();
    may_end.add_permits(1);
    eventually("it looks how far the other is", || looks() > before).await;
    consumer.shutdown().await;
    let saved = broker.asked(RequestCode::UpdateConsumerOffset);
    let of_topic = saved.iter().filter(|it| it.ext.get("topic") == Some("T"));
    of_topic
        .map(|it| it.ext.get("commitOffset").unwrap().parse().unwrap())
        .collect()
}

#[tokio::test]
async fn who_lost_a_queue_saves_nothing_behind_its_next_owner() {
    assert_eq!(saved_by_who_lost_a_queue(500).await, [0_i64; 0]);
    let saved = saved_by_who_lost_a_queue(0).await;
    assert_eq!(saved.last(), Some(&2), "{saved:?}");
}
