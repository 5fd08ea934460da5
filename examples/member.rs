//! A producer and a consumer for harnesses that kill them: everything they do stands in a file before they go on.
//!
//! `member produce NAMESRV TOPIC KEYS PER_SECOND SECONDS LOG` sends `key step` bodies, each key's steps one after the other to the
//! queue of the key, each until it is acknowledged, and writes `A ms queue offset key step` for every acknowledged one.
//! `member consume NAMESRV TOPIC GROUP LOG [inorder FAILURES_PER_THOUSAND | always-fail]` writes `D ms queue offset tries ok|fail body`
//! for every delivery, and `Q ms queue…` whenever the queues that it has are others; it ends in order when its standard input does.
//! Lines are written by one call each, so that a killed process leaves whole lines. `tests/interop/real-input` has the Java twin.

use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agena_client::choose_queue::ByHash;
use agena_client::{Batch, ConsumeFrom, ConsumedInOrder, Message, Producer, PushConsumer};
use tokio::time::{Instant, interval, sleep, sleep_until};

/// Keys are shared out to so many tasks; each waits for one answer at a time.
const SENDERS: usize = 64;

/// Pause before a message that was not acknowledged is sent again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How long a message is sent again and again; a broker that was killed is back by then.
const GIVE_UP_AFTER: Duration = Duration::from_secs(120);

/// How often the queues of a consumer are looked at.
const LOOK: Duration = Duration::from_millis(50);

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["produce", name_server, topic, keys, rate, seconds, log] => {
            match (keys.parse(), rate.parse(), seconds.parse()) {
                (Ok(keys), Ok(rate), Ok(seconds)) => {
                    produce(name_server, topic, keys, rate, seconds, log).await
                }
                _ => Err("KEYS, PER_SECOND and SECONDS are numbers".into()),
            }
        }
        ["consume", name_server, topic, group, log] => {
            consume(name_server, topic, group, log, false).await
        }
        ["consume", name_server, topic, group, log, "always-fail"] => {
            consume(name_server, topic, group, log, true).await
        }
        ["consume", name_server, topic, group, log, "inorder", failures] => {
            match failures.parse() {
                Ok(failures) => consume_in_order(name_server, topic, group, log, failures).await,
                Err(_) => Err("FAILURES_PER_THOUSAND is a number".into()),
            }
        }
        _ => Err("usage: member produce NAMESRV TOPIC KEYS PER_SECOND SECONDS LOG | member consume NAMESRV TOPIC GROUP LOG [inorder FAILURES_PER_THOUSAND | always-fail]".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "member: {error}");
            ExitCode::FAILURE
        }
    }
}

fn now_ms() -> u128 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis())
}

fn open(log: &str) -> std::io::Result<Arc<File>> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .map(Arc::new)
}

/// One line by one call, which the file takes whole behind its end.
fn note(mut log: &File, line: String) -> std::io::Result<()> {
    log.write_all((line + "\n").as_bytes())
}

async fn produce(
    name_server: &str,
    topic: &str,
    keys: usize,
    per_second: u32,
    seconds: u64,
    log: &str,
) -> Outcome {
    let log = open(log)?;
    let producer = Producer::builder("member_producer")
        .name_servers(name_server)
        .timeout(Duration::from_secs(3))
        .retries(0)
        .start()
        .await?;
    let producer = Arc::new(producer);
    let begin = Instant::now();
    let end = begin + Duration::from_secs(seconds);
    let senders = SENDERS.min(keys.max(1));
    let share = u32::try_from(senders)?;
    let pause = Duration::from_secs(1) * share / per_second.max(1);
    let mut tasks = Vec::new();
    for number in 0..senders {
        let own: Vec<usize> = (number..keys.max(1)).step_by(senders).collect();
        let (producer, log, topic) = (Arc::clone(&producer), Arc::clone(&log), topic.to_owned());
        tasks.push(tokio::spawn(async move {
            let mut due = begin + pause * u32::try_from(number)? / share;
            let mut step = 0;
            while due < end {
                for key in &own {
                    sleep_until(due).await;
                    send_until_acknowledged(&producer, &topic, *key, step, &log).await?;
                    due += pause;
                }
                step += 1;
            }
            Ok::<(), Box<dyn Error + Send + Sync>>(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    if let Some(producer) = Arc::into_inner(producer) {
        producer.shutdown().await;
    }
    Ok(())
}

async fn send_until_acknowledged(
    producer: &Producer,
    topic: &str,
    key: usize,
    step: usize,
    log: &File,
) -> Outcome {
    let body = format!("{key} {step}");
    let selector = ByHash::of(&key.to_string());
    let give_up = Instant::now() + GIVE_UP_AFTER;
    loop {
        let message = Message::new(topic, body.clone()).with_key(&key.to_string());
        match producer.send_by(message, &selector).await {
            Ok(sent) => {
                let line = format!(
                    "A {} {} {} {body}",
                    now_ms(),
                    sent.queue.queue_id,
                    sent.queue_offset
                );
                return Ok(note(log, line)?);
            }
            Err(error) if Instant::now() > give_up => return Err(error.into()),
            Err(_) => sleep(AGAIN_AFTER).await,
        }
    }
}

fn delivery(message: &agena_client::ReceivedMessage, ok: bool) -> String {
    format!(
        "D {} {} {} {} {} {}",
        now_ms(),
        message.queue.queue_id,
        message.queue_offset,
        message.reconsume_times,
        if ok { "ok" } else { "fail" },
        String::from_utf8_lossy(&message.body)
    )
}

async fn consume(
    name_server: &str,
    topic: &str,
    group: &str,
    log: &str,
    always_fail: bool,
) -> Outcome {
    let log = open(log)?;
    let noted = Arc::clone(&log);
    let consumer = PushConsumer::builder(group)
        .name_servers(name_server)
        .subscribe(topic, "*")
        .consume_from(ConsumeFrom::First)
        .start(move |batch: Batch| {
            let log = Arc::clone(&noted);
            async move {
                for message in &batch {
                    note(&log, delivery(message, !always_fail))
                        .map_err(|error| error.to_string())?;
                }
                if always_fail {
                    Err("as asked".to_owned())
                } else {
                    Ok(())
                }
            }
        })
        .await?;
    watch(consumer, topic, &log).await
}

async fn consume_in_order(
    name_server: &str,
    topic: &str,
    group: &str,
    log: &str,
    failures: u64,
) -> Outcome {
    let log = open(log)?;
    let noted = Arc::clone(&log);
    let consumer = PushConsumer::builder(group)
        .name_servers(name_server)
        .subscribe(topic, "*")
        .consume_from(ConsumeFrom::First)
        .batch_max(1)
        .start_orderly(move |batch: Batch| {
            let log = Arc::clone(&noted);
            async move {
                let mut outcome = ConsumedInOrder::Done;
                for message in &batch {
                    let fails = chance(now_ms(), message.queue_offset) < failures;
                    // What cannot be noted was not handled.
                    if note(&log, delivery(message, !fails)).is_err() || fails {
                        outcome = ConsumedInOrder::SuspendQueue {
                            pause: Some(Duration::from_millis(10)),
                        };
                    }
                }
                outcome
            }
        })
        .await?;
    watch(consumer, topic, &log).await
}

/// A number below 1000 that differs from try to try.
fn chance(now_ms: u128, offset: impl std::hash::Hash) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write_u128(now_ms);
    offset.hash(&mut hasher);
    hasher.finish() % 1000
}

/// Notes which queues the consumer has until standard input ends, and leaves the group then.
async fn watch(consumer: PushConsumer, topic: &str, log: &File) -> Outcome {
    let (ended, mut end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        // An input that breaks has ended as well.
        let _ = std::io::stdin().read_to_end(&mut rest);
        let _ = ended.send(());
    });
    let mut look = interval(LOOK);
    let mut before = Vec::new();
    loop {
        tokio::select! {
            _ = &mut end => break,
            _ = look.tick() => {
                let mut queues: Vec<_> = consumer
                    .queues()
                    .iter()
                    .filter(|queue| queue.topic == topic)
                    .map(|queue| queue.queue_id)
                    .collect();
                queues.sort_unstable();
                if queues != before {
                    let list: Vec<String> = queues.iter().map(ToString::to_string).collect();
                    note(log, format!("Q {} {}", now_ms(), list.join(" ")))?;
                    before = queues;
                }
            }
        }
    }
    consumer.shutdown().await;
    note(log, format!("Q {} ", now_ms()))?;
    Ok(())
}
