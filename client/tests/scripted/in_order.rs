//! Consumers in order that lose queues and locks: nothing is given to a listener, and nothing is saved, without the lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use agena_client::{Batch, ClientConfig, ConsumerSettings, PushConsumer};
use agena_protocol::bodies::heartbeat::HeartbeatData;
use agena_protocol::bodies::names::GetConsumerListByGroupResponseBody;
use agena_protocol::clock::ManualClock;
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::servers::{Scripted, Told, eventually, pulled, record};

/// What a test does to a consumer of two queues, and what it sees of it.
struct World {
    clock: Arc<ManualClock>,
    /// The broker takes longer than a lease to answer the first request for locks.
    first_lock_is_slow: AtomicBool,
    locks_asked: AtomicUsize,
    /// Another member is there as well. It sorts first, so of two queues the first one is its.
    other_joined: AtomicBool,
    /// Queue 0 has messages; queue 1 always has.
    first_has_messages: AtomicBool,
    /// What the listener got: queue and offset.
    given: Mutex<Vec<(i32, i64)>>,
    /// So many times the listener may return.
    may_return: Semaphore,
}

/// Longer than a consumer believes in its lock.
const LEASE_AND_MORE: Duration = Duration::from_secs(31);

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            clock: Arc::new(ManualClock::at(1_700_000_000_000)),
            first_lock_is_slow: AtomicBool::new(false),
            locks_asked: AtomicUsize::new(0),
            other_joined: AtomicBool::new(false),
            first_has_messages: AtomicBool::new(false),
            given: Mutex::default(),
            may_return: Semaphore::new(0),
        })
    }

    /// A broker of this world, with two queues that never end, one message a pull.
    async fn broker(self: &Arc<Self>) -> Scripted {
        let world = Arc::clone(self);
        let client = Mutex::new(String::new());
        Scripted::start(
            move |request| match RequestCode::from_number(request.code) {
                Some(RequestCode::HeartBeat) => {
                    let data: HeartbeatData = fastjson::from_slice(&request.body).unwrap();
                    *client.lock() = data.client_id;
                    Told::Usual
                }
                Some(RequestCode::GetConsumerListByGroup)
                    if world.other_joined.load(Ordering::SeqCst) =>
                {
                    let consumer_id_list = vec!["!other".to_owned(), client.lock().clone()];
                    let body = GetConsumerListByGroupResponseBody { consumer_id_list };
                    let body = fastjson::to_vec(&body, KeyStyle::Quoted);
                    Told::from(Command::success().with_body(body))
                }
                Some(RequestCode::LockBatchMq) => {
                    world.locks_asked.fetch_add(1, Ordering::SeqCst);
                    if world.first_lock_is_slow.swap(false, Ordering::SeqCst) {
                        world.clock.advance(LEASE_AND_MORE);
                    }
                    Told::Usual
                }
                Some(RequestCode::PullMessage) if request.ext.get("topic") == Some("T") => {
                    world.pull(request)
                }
                _ => Told::Usual,
            },
        )
        .await
    }

    fn pull(&self, request: &Command) -> Told {
        let number = |name| request.ext.get(name).unwrap().parse::<i64>().unwrap();
        let offset = number("queueOffset");
        let has_messages = number("queueId") == 1 || self.first_has_messages.load(Ordering::SeqCst);
        if !has_messages {
            return Told::from(pulled(ResponseCode::PullNotFound, offset));
        }
        let answer = pulled(ResponseCode::Success, offset + 1);
        Told::from(answer.with_body(record("T", offset, "x")))
    }

    fn given_of(&self, queue: i32) -> usize {
        let given = self.given.lock();
        given.iter().filter(|(of, _)| *of == queue).count()
    }

    async fn listen(&self, batch: Batch) {
        for message in &batch {
            let at = (batch.queue().queue_id, message.queue_offset);
            self.given.lock().push(at);
        }
        // At the end of a test it is closed.
        if let Ok(permit) = self.may_return.acquire().await {
            permit.forget();
        }
    }
}

/// Starts a consumer with so many turns for all queues. It saves when a queue changes hands and at the end.
async fn start(world: &Arc<World>, names: &Scripted, turns: usize) -> PushConsumer {
    let settings = ConsumerSettings {
        concurrency: turns,
        save_interval: Duration::from_secs(3600),
        ..ConsumerSettings::default()
    };
    let config = ClientConfig {
        clock: Arc::clone(&world.clock) as _,
        ..ClientConfig::new(&names.address)
    };
    let world = Arc::clone(world);
    PushConsumer::builder("g")
        .config(config)
        .subscribe("T", "*")
        .settings(settings)
        .start_orderly(move |batch| {
            let world = Arc::clone(&world);
            async move { world.listen(batch).await }
        })
        .await
        .unwrap()
}

fn unlocked(broker: &Scripted) -> usize {
    broker.asked(RequestCode::UnlockBatchMq).len()
}

/// Offsets saved so far: queue and offset.
fn saved(broker: &Scripted) -> Vec<(i32, i64)> {
    let saved = broker.asked(RequestCode::UpdateConsumerOffset);
    let of_topic = saved.iter().filter(|it| it.ext.get("topic") == Some("T"));
    let number = |it: &Command, name| it.ext.get(name).unwrap().parse::<i64>().unwrap();
    of_topic
        .map(|it| {
            let queue = i32::try_from(number(it, "queueId")).unwrap();
            (queue, number(it, "commitOffset"))
        })
        .collect()
}

/// A message of queue 0 is with the consumer when its next one is asked for.
async fn queue_0_has_something_to_do(world: &World, broker: &Scripted) {
    world.first_has_messages.store(true, Ordering::SeqCst);
    eventually("queue 0 has something to do", || {
        let pulls = broker.asked(RequestCode::PullMessage);
        pulls
            .iter()
            .any(|it| it.ext.get("queueId") == Some("0") && it.ext.get("queueOffset") == Some("1"))
    })
    .await;
}

/// Queue 0 goes to another member.
fn another_member_joins(world: &World, broker: &Scripted) {
    world.other_joined.store(true, Ordering::SeqCst);
    let news = Command::request(RequestCode::NotifyConsumerIdsChanged)
        .with_ext("consumerGroup", "g")
        .one_way();
    broker.tell(&news);
}

#[tokio::test]
async fn a_queue_that_waits_for_its_turn_when_it_is_given_up_gets_none() {
    let world = World::new();
    let broker = world.broker().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 2).await;
    let consumer = start(&world, &names, 1).await;
    eventually("queue 1 has the turn", || world.given_of(1) == 1).await;
    queue_0_has_something_to_do(&world, &broker).await;
    another_member_joins(&world, &broker);
    eventually("queue 0 is unlocked", || unlocked(&broker) == 1).await;
    // The next turn would be that of queue 0.
    world.may_return.add_permits(1);
    eventually("the turn passes on", || world.given.lock().len() == 2).await;
    assert_eq!(*world.given.lock(), [(1, 0), (1, 1)]);
    world.may_return.close();
    consumer.shutdown().await;
}

#[tokio::test]
async fn a_queue_is_unlocked_when_its_listener_has_returned_and_what_it_did_is_saved() {
    let world = World::new();
    let broker = world.broker().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 2).await;
    let consumer = start(&world, &names, 2).await;
    world.first_has_messages.store(true, Ordering::SeqCst);
    eventually("both have a turn", || world.given.lock().len() == 2).await;
    another_member_joins(&world, &broker);
    eventually("queue 0 is given up", || {
        consumer.queues().iter().all(|queue| queue.queue_id != 0)
    })
    .await;
    assert_eq!(unlocked(&broker), 0);
    assert!(!saved(&broker).contains(&(0, 1)));
    world.may_return.add_permits(2);
    eventually("queue 0 is unlocked", || unlocked(&broker) == 1).await;
    assert_eq!(saved(&broker).last(), Some(&(0, 1)));
    assert_eq!(world.given_of(0), 1);
    world.may_return.close();
    consumer.shutdown().await;
}

#[tokio::test]
async fn when_a_lock_ran_out_no_turn_begins_and_nothing_is_saved() {
    let world = World::new();
    let broker = world.broker().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 2).await;
    let consumer = start(&world, &names, 1).await;
    eventually("queue 1 has the turn", || world.given_of(1) == 1).await;
    queue_0_has_something_to_do(&world, &broker).await;
    world.clock.advance(LEASE_AND_MORE);
    world.may_return.add_permits(2);
    eventually("its listener returned", || {
        world.may_return.available_permits() < 2
    })
    .await;
    consumer.shutdown().await;
    assert_eq!(*world.given.lock(), [(1, 0)]);
    assert_eq!(saved(&broker), []);
}

#[tokio::test]
async fn a_lock_counts_from_when_it_was_asked_for() {
    let world = World::new();
    world.first_lock_is_slow.store(true, Ordering::SeqCst);
    let broker = world.broker().await;
    let names = Scripted::name_server("T", &[("a", &broker.address)], 2).await;
    let consumer = start(&world, &names, 1).await;
    eventually("a message is given", || world.given_of(1) == 1).await;
    assert_eq!(world.locks_asked.load(Ordering::SeqCst), 2);
    world.may_return.close();
    consumer.shutdown().await;
}
