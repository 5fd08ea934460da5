//! Consumers whose brokers forget, refuse and move offsets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use agena_client::{Batch, ConsumerSettings, PushConsumer, PushConsumerBuilder};
use agena_protocol::command::Command;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use parking_lot::Mutex;

use crate::servers::{Scripted, Told, eventually, pulled, record, refusal};

const PULL: RequestCode = RequestCode::PullMessage;

fn builder(name_server: &Scripted) -> PushConsumerBuilder {
    PushConsumer::builder("g")
        .name_servers(&name_server.address)
        .subscribe("T", "*")
}

fn is_pull_of_topic(request: &Command) -> bool {
    request.code == PULL.number() && request.ext.get("topic") == Some("T")
}

fn offset_of(pull: &Command) -> i64 {
    pull.ext.get("queueOffset").unwrap().parse().unwrap()
}

/// One message at each of the first `count` offsets.
fn messages_up_to(count: i64) -> impl Fn(&Command) -> Told {
    move |request| {
        if !is_pull_of_topic(request) || offset_of(request) >= count {
            return Told::Usual;
        }
        let offset = offset_of(request);
        let answer = pulled(ResponseCode::Success, offset + 1);
        Told::from(answer.with_body(record("T", offset, &offset.to_string())))
    }
}

#[tokio::test]
async fn a_broker_that_forgot_the_consumer_is_told_again() {
    let forgot = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&forgot);
    let broker = Scripted::start(move |request| {
        if is_pull_of_topic(request) && flag.swap(false, Ordering::SeqCst) {
            return Told::from(refusal(ResponseCode::SubscriptionNotExist));
        }
        Told::Usual
    })
    .await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let consumer = builder(&names).start(|_: Batch| async {}).await.unwrap();
    eventually("another heartbeat and another pull", || {
        broker.asked(RequestCode::HeartBeat).len() >= 2
            && broker
                .asked(PULL)
                .into_iter()
                .filter(is_pull_of_topic)
                .count()
                >= 2
    })
    .await;
    consumer.shutdown().await;
}

#[tokio::test]
async fn an_offset_that_was_moved_is_kept_and_followed() {
    let broker = Scripted::start(|request| {
        if is_pull_of_topic(request) && offset_of(request) == 0 {
            return Told::from(pulled(ResponseCode::PullOffsetMoved, 500));
        }
        Told::Usual
    })
    .await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let consumer = builder(&names).start(|_: Batch| async {}).await.unwrap();
    eventually("the new offset is saved", || {
        let saved = broker.asked(RequestCode::UpdateConsumerOffset);
        saved
            .iter()
            .any(|it| it.ext.get("commitOffset") == Some("500"))
    })
    .await;
    consumer.shutdown().await;
}

#[tokio::test]
async fn a_message_that_cannot_be_given_back_is_tried_again_here() {
    let deliver = messages_up_to(1);
    let broker = Scripted::start(move |request| {
        if request.code == RequestCode::ConsumerSendMsgBack.number()
            || request.code == RequestCode::SendMessageV2.number()
        {
            return Told::from(refusal(ResponseCode::MessageIllegal));
        }
        deliver(request)
    })
    .await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let times: Arc<Mutex<Vec<i32>>> = Arc::default();
    let seen = Arc::clone(&times);
    let consumer = builder(&names)
        .start(move |batch: Batch| {
            seen.lock().push(batch[0].reconsume_times);
            let failed = batch[0].reconsume_times == 0;
            async move { if failed { Err("as told") } else { Ok(()) } }
        })
        .await
        .unwrap();
    eventually("the message comes again", || times.lock().len() == 2).await;
    assert_eq!(*times.lock(), [0, 1]);
    assert_eq!(broker.asked(RequestCode::ConsumerSendMsgBack).len(), 1);
    consumer.shutdown().await;
    let saved = broker.asked(RequestCode::UpdateConsumerOffset);
    assert_eq!(saved.last().unwrap().ext.get("commitOffset"), Some("1"));
}

#[tokio::test]
async fn offsets_never_pass_a_message_that_is_not_done() {
    let broker = Scripted::start(messages_up_to(5)).await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let settings = ConsumerSettings {
        save_interval: Duration::from_millis(20),
        shutdown_grace: Duration::from_millis(50),
        ..ConsumerSettings::default()
    };
    let consumer = builder(&names)
        .settings(settings)
        .start(move |batch: Batch| {
            let count = Arc::clone(&count);
            async move {
                // Offset 2 is never done.
                if batch[0].queue_offset == 2 {
                    std::future::pending::<()>().await;
                }
                count.fetch_add(1, Ordering::SeqCst);
            }
        })
        .await
        .unwrap();
    eventually("the others are done", || seen.load(Ordering::SeqCst) == 4).await;
    consumer.shutdown().await;
    let saved = broker.asked(RequestCode::UpdateConsumerOffset);
    let of_topic = saved.iter().filter(|it| it.ext.get("topic") == Some("T"));
    let last = of_topic.last().unwrap();
    assert_eq!(last.ext.get("commitOffset"), Some("2"));
}

#[tokio::test]
async fn without_its_lock_a_queue_is_not_read_in_order() {
    let granted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&granted);
    let deliver = messages_up_to(1);
    let broker = Scripted::start(move |request| {
        if request.code == RequestCode::LockBatchMq.number() && !flag.load(Ordering::SeqCst) {
            let nothing = br#"{"lockOKMQSet":[]}"#.to_vec();
            return Told::from(Command::success().with_body(nothing));
        }
        deliver(request)
    })
    .await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 1).await;
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let consumer = builder(&names)
        .start_orderly(move |_: Batch| {
            count.fetch_add(1, Ordering::SeqCst);
            async {}
        })
        .await
        .unwrap();
    eventually("it asks again and again", || {
        broker.asked(RequestCode::LockBatchMq).len() >= 3
    })
    .await;
    assert!(broker.asked(PULL).is_empty());
    granted.store(true, Ordering::SeqCst);
    eventually("the message", || seen.load(Ordering::SeqCst) == 1).await;
    consumer.shutdown().await;
    assert!(!broker.asked(RequestCode::UnlockBatchMq).is_empty());
    assert_eq!(broker.asked(RequestCode::UnregisterClient).len(), 1);
}

#[tokio::test]
async fn news_of_other_members_is_acted_on_at_once() {
    let broker = Scripted::usual().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 2).await;
    let consumer = builder(&names).start(|_: Batch| async {}).await.unwrap();
    let lists = || broker.asked(RequestCode::GetConsumerListByGroup).len();
    eventually("the first rounds", || lists() >= 2).await;
    let before = lists();
    let news = Command::request(RequestCode::NotifyConsumerIdsChanged)
        .with_ext("consumerGroup", "g")
        .one_way();
    broker.tell(&news);
    eventually("another round", || lists() > before).await;
    consumer.shutdown().await;
}

#[tokio::test]
async fn a_dropped_consumer_leaves_nothing_running() {
    let broker = Scripted::start(messages_up_to(1_000_000)).await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 4).await;
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let consumer = builder(&names)
        .start(move |_: Batch| {
            let held = Arc::clone(&held);
            async move {
                tokio::task::yield_now().await;
                drop(held);
            }
        })
        .await
        .unwrap();
    eventually("it consumes", || broker.asked(PULL).len() > 20).await;
    drop(consumer);
    eventually("its listener is gone", || Arc::strong_count(&alive) == 1).await;
}
