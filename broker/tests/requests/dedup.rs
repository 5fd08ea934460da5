//! Messages that are sent twice with `AGENA_PRODUCER_ID` and `AGENA_SEQUENCE`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agena_broker::config::{BrokerConfig, FlushDiskType};
use agena_protocol::batch::InnerMessage;
use agena_protocol::command::Command;
use agena_protocol::headers::send::{SendMessageRequest, SendMessageRequestV2};
use agena_protocol::headers::transaction::EndTransactionRequest;
use agena_protocol::request_code::RequestCode;
use agena_remoting::client::{Client, ClientConfig, NoRequests};

use crate::client::{Asked, TIMEOUT, in_binary, message, properties, pull_of};

const COMMIT: i32 = 8;
const ROLLBACK: i32 = 12;

fn text(producer: &str, sequence: &str) -> String {
    let sequence = ("AGENA_SEQUENCE", sequence);
    properties(&[("UNIQ_KEY", "U"), ("AGENA_PRODUCER_ID", producer), sequence])
}

/// All that an answer says but the number of its request.
fn said(answer: &Command) -> (i32, Option<&str>, Vec<(String, String)>) {
    let mut fields: Vec<_> = answer
        .ext
        .iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    fields.sort();
    (answer.code, answer.remark.as_deref(), fields)
}

async fn with_window(window: usize) -> Asked {
    let mut config = BrokerConfig::default();
    config.dedup_window = window;
    config.dedup_producers_max = 2;
    Asked::start(config).await
}

#[tokio::test]
async fn a_repeat_is_answered_as_the_first_and_stored_once() {
    for flush in [FlushDiskType::Async, FlushDiskType::Sync] {
        let mut config = BrokerConfig::default();
        config.flush_disk_type = flush;
        let asked = Asked::start(config).await;
        let first = asked.send("T", 1, &text("p", "7"), b"once").await;
        assert_eq!(first.code, 0, "{:?}", first.remark);
        let again = asked.send("T", 1, &text("p", "7"), b"once").await;
        assert_eq!(said(&again), said(&first));
        // The client may give each attempt an id, or none.
        for attempt in ["UNIQ_KEY\u{1}other\u{2}", ""] {
            let text = text("p", "7").replace("UNIQ_KEY\u{1}U\u{2}", attempt);
            let again = asked.send("T", 1, &text, b"once").await;
            assert_eq!(said(&again), said(&first));
        }
        // Another queue is not another message.
        let elsewhere = asked.send("T", 2, &text("p", "7"), b"once").await;
        assert_eq!(said(&elsewhere), said(&first));
        assert_eq!(asked.stored("T", 1, &text("p", "8"), b"next").await, 1);
        let bodies = asked.pull(&pull_of("T", 1, 0)).await.bodies;
        assert_eq!(bodies, ["once", "next"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn repeats_that_are_under_way_at_once_wait_for_the_first() {
    let mut config = BrokerConfig::default();
    config.flush_disk_type = FlushDiskType::Sync;
    let asked = Asked::start(config).await;
    asked.stored("T", 0, "", b"topic").await;
    // Each has a connection of its own.
    let clients: Vec<_> = (0..4)
        .map(|_| Arc::new(Client::new(ClientConfig::default(), Arc::new(NoRequests))))
        .collect();
    for sequence in 0..50 {
        let text = text("p", &sequence.to_string());
        let sends: Vec<_> = (0..8)
            .map(|turn| {
                let (client, address) = (clients[turn % 4].clone(), asked.address.clone());
                let message = message("T", 0, &text, b"x");
                tokio::spawn(async move { client.call(&address, message, TIMEOUT).await })
            })
            .collect();
        let mut answers = Vec::new();
        for send in sends {
            answers.push(send.await.unwrap().unwrap());
        }
        assert_eq!(answers[0].code, 0, "{:?}", answers[0].remark);
        for other in &answers {
            assert_eq!(said(other), said(&answers[0]));
        }
    }
    assert_eq!(asked.pull(&pull_of("T", 0, 51)).await.bounds.1, 51);
}

/// The message that [`message`] makes, with the names of code 10.
fn message_v1(topic: &str, queue_id: i32, text: &str, body: &[u8]) -> Command {
    let header = SendMessageRequest {
        producer_group: "PG",
        topic,
        default_topic: "TBW102",
        default_topic_queue_nums: 4,
        queue_id,
        born_timestamp: 1_700_000_000_000,
        properties: Some(text),
        ..SendMessageRequest::default()
    };
    Command::request(RequestCode::SendMessage)
        .with_header(&header)
        .with_body(body.to_vec())
}

#[tokio::test]
async fn a_repeat_is_recognised_in_every_form_of_a_send() {
    let asked = Asked::start(BrokerConfig::default()).await;
    let text = text("p", "1");
    let first = asked.call(message_v1("T", 1, &text, b"x")).await;
    assert_eq!(first.code, 0, "{:?}", first.remark);
    for again in [
        message_v1("T", 1, &text, b"x"),
        in_binary(message_v1("T", 1, &text, b"x")),
        message("T", 1, &text, b"x"),
        in_binary(message("T", 1, &text, b"x")),
    ] {
        let again = asked.call(again).await;
        assert_eq!(said(&again), said(&first));
    }
    assert_eq!(asked.pull(&pull_of("T", 1, 1)).await.bounds.1, 1);
}

#[tokio::test]
async fn a_number_that_is_used_for_another_body_is_refused() {
    let asked = Asked::start(BrokerConfig::default()).await;
    let refused = |answer: Command| {
        let remark = answer.remark.unwrap_or_default();
        assert_eq!(answer.code, 13, "{remark}");
        assert!(remark.contains("used for another message"), "{remark}");
    };
    asked.stored("T", 0, &text("p", "1"), b"one").await;
    refused(asked.send("T", 0, &text("p", "1"), b"other").await);
    let half = text("p", "1") + &properties(&[("TRAN_MSG", "true"), ("PGROUP", "PG")]);
    refused(asked.send("T", 0, &half, b"one").await);
    asked
        .call(batch_of("T", &text("p", "2"), &[b"a", b"b"]))
        .await;
    let (a, b): (&[u8], &[u8]) = (b"a", b"b");
    for bodies in [&[a, a][..], &[a], &[b, a]] {
        refused(asked.call(batch_of("T", &text("p", "2"), bodies)).await);
    }
    assert_eq!(asked.pull(&pull_of("T", 0, 3)).await.bounds.1, 3);
}

#[tokio::test]
async fn ids_of_which_nothing_was_stored_lock_nobody_out() {
    let mut config = BrokerConfig::default();
    config.dedup_producers_max = 2;
    config.max_message_size = 100;
    let asked = Asked::start(config).await;
    for producer in ["a", "b", "c"] {
        let answer = asked.send("T", 0, &text(producer, "1"), &[0; 101]).await;
        assert_eq!(answer.code, 13, "{:?}", answer.remark);
    }
    for producer in ["d", "e"] {
        asked.stored("T", 0, &text(producer, "1"), b"x").await;
    }
}

#[tokio::test]
async fn what_is_no_identity_is_refused_in_words() {
    let asked = Asked::start(BrokerConfig::default()).await;
    for (pairs, words) in [
        (vec![("AGENA_SEQUENCE", "1")], "go together"),
        (vec![("AGENA_PRODUCER_ID", "p")], "go together"),
        (
            vec![("AGENA_PRODUCER_ID", "p q"), ("AGENA_SEQUENCE", "1")],
            "is 1 to 64 of",
        ),
        (
            vec![("AGENA_PRODUCER_ID", "p"), ("AGENA_SEQUENCE", "-1")],
            "is a decimal number",
        ),
    ] {
        let answer = asked.send("T", 0, &properties(&pairs), b"x").await;
        assert_eq!(answer.code, 13);
        let remark = answer.remark.unwrap();
        assert!(remark.contains(words), "{remark}");
    }
    assert_eq!(asked.stored("T", 0, "", b"x").await, 0);
}

#[tokio::test]
async fn what_the_window_does_not_know_is_refused_and_never_stored_twice() {
    let asked = with_window(4).await;
    for sequence in [10, 12, 11, 20, 19, 21] {
        let sequence = sequence.to_string();
        asked.stored("T", 0, &text("p", &sequence), b"x").await;
    }
    let old = asked.send("T", 0, &text("p", "10"), b"x").await;
    assert_eq!(old.code, 13);
    let remark = old.remark.unwrap();
    assert!(remark.contains("older than its window"), "{remark}");
    // Overtaken, but within the window.
    asked.stored("T", 0, &text("p", "15"), b"x").await;
    let other = asked.send("Other", 0, &text("p", "21"), b"x").await;
    assert_eq!(other.code, 13);
    let remark = other.remark.unwrap();
    assert!(remark.contains("used for another topic"), "{remark}");
    // Two producer ids have room.
    asked.stored("T", 0, &text("q", "1"), b"x").await;
    let third = asked.send("T", 0, &text("r", "1"), b"x").await;
    assert_eq!(third.code, 2);
    let remark = third.remark.unwrap();
    assert!(remark.contains("dedupProducersMax"), "{remark}");
    assert_eq!(asked.pull(&pull_of("T", 0, 8)).await.bounds.1, 8);
}

#[tokio::test]
async fn a_silent_producer_makes_room_for_another() {
    let mut config = BrokerConfig::default();
    config.dedup_producers_max = 1;
    config.dedup_producer_idle = Duration::ZERO;
    let asked = Asked::start(config).await;
    for producer in ["p", "q", "r"] {
        asked.stored("T", 0, &text(producer, "1"), b"x").await;
    }
    // Who comes back begins anew, and is known from then on.
    let back = asked.send("T", 0, &text("p", "1"), b"x").await;
    assert_eq!(back.ext.get("queueOffset"), Some("3"));
    let again = asked.send("T", 0, &text("p", "1"), b"x").await;
    assert_eq!(said(&again), said(&back));
}

#[tokio::test]
async fn a_repeat_is_known_when_retention_took_the_first() {
    let mut config = BrokerConfig::default();
    config.mapped_file_size_commit_log = 1 << 16;
    config.log_bytes_max = 1 << 17;
    config.clean_resource_interval = Duration::from_millis(20);
    let asked = Asked::start(config).await;
    let first = asked.send("T", 0, &text("p", "1"), b"x").await;
    assert_eq!(first.code, 0, "{:?}", first.remark);
    let of_batch = asked.call(batch("T", &text("p", "2"), &["", ""])).await;
    let begin = Instant::now();
    while asked.pull(&pull_of("T", 0, 0)).await.bounds.0 < 3 {
        assert!(begin.elapsed() < Duration::from_secs(60), "nothing goes");
        asked.stored("T", 0, "", &[0; 10_000]).await;
    }
    let again = asked.send("T", 0, &text("p", "1"), b"x").await;
    assert_eq!(said(&again), said(&first));
    // Where the others of a batch were is in its records alone.
    let again = asked.call(batch("T", &text("p", "2"), &["", ""])).await;
    let id = |answer: &Command| answer.ext.get("msgId").unwrap().to_owned();
    assert_eq!(Some(id(&again).as_str()), id(&of_batch).split(',').next());
    assert_eq!(again.ext.get("queueOffset"), Some("1"));
}

fn batch(topic: &str, of_batch: &str, each: &[&str]) -> Command {
    let parts: Vec<_> = each
        .iter()
        .map(|text| (*text, b"part".as_slice()))
        .collect();
    batch_with(topic, of_batch, &parts)
}

fn batch_of(topic: &str, of_batch: &str, bodies: &[&[u8]]) -> Command {
    let parts: Vec<_> = bodies.iter().map(|body| ("", *body)).collect();
    batch_with(topic, of_batch, &parts)
}

fn batch_with(topic: &str, of_batch: &str, parts: &[(&str, &[u8])]) -> Command {
    let mut body = Vec::new();
    for (text, of_part) in parts {
        let part = InnerMessage {
            flag: 0,
            body: of_part,
            properties: text.as_bytes(),
        };
        part.write(&mut body).unwrap();
    }
    let header = SendMessageRequestV2 {
        producer_group: "PG",
        topic,
        default_topic: "TBW102",
        default_topic_queue_nums: 4,
        queue_id: 0,
        born_timestamp: 1_700_000_000_000,
        properties: Some(of_batch),
        batch: Some(true),
        ..SendMessageRequestV2::default()
    };
    Command::request(RequestCode::SendBatchMessage)
        .with_header(&header)
        .with_body(body)
}

#[tokio::test]
async fn a_batch_has_one_identity_in_its_own_properties_or_in_each_message() {
    let asked = Asked::start(BrokerConfig::default()).await;
    let (of_batch, each) = (text("p", "1"), text("p", "2"));
    for (of_batch, each) in [(of_batch.as_str(), ["", "", ""]), ("", [each.as_str(); 3])] {
        let first = asked.call(batch("T", of_batch, &each)).await;
        assert_eq!(first.code, 0, "{:?}", first.remark);
        assert_eq!(first.ext.get("msgId").unwrap().split(',').count(), 3);
        let again = asked.call(batch("T", of_batch, &each)).await;
        // A batch without an id of its own gets one with each request; its places are the same.
        for field in ["msgId", "queueId", "queueOffset"] {
            assert_eq!(again.ext.get(field), first.ext.get(field), "{field}");
        }
    }
    assert_eq!(asked.pull(&pull_of("T", 0, 6)).await.bounds.1, 6);
    let (one, other) = (text("p", "3"), text("p", "4"));
    let mixed = asked.call(batch("T", "", &[&one, &other])).await;
    assert_eq!(mixed.code, 13);
    let half = asked.call(batch("T", "", &[&one, ""])).await;
    assert_eq!(half.code, 13);
}

#[tokio::test]
async fn half_and_delayed_messages_are_answered_as_the_first() {
    let asked = Asked::start(BrokerConfig::default()).await;
    asked.stored("T", 0, "", b"topic").await;
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    let deliver = (now.as_millis() + 3_600_000).to_string();
    for (sequence, more) in [
        ("1", properties(&[("TRAN_MSG", "true"), ("PGROUP", "PG")])),
        ("2", properties(&[("DELAY", "18")])),
        ("3", properties(&[("TIMER_DELIVER_MS", &deliver)])),
    ] {
        let text = text("p", sequence) + &more;
        let first = asked.call(message("T", 2, &text, b"x")).await;
        assert_eq!(first.code, 0, "{:?}", first.remark);
        let again = asked.call(message("T", 2, &text, b"x")).await;
        assert_eq!(said(&again), said(&first));
        assert_eq!(again.ext.get("queueId"), Some("2"));
    }
}

#[tokio::test]
async fn a_recall_handle_is_that_of_the_first() {
    let asked = Asked::start(BrokerConfig::default()).await;
    // Counted from the send, and with another unique key: what the repeat itself would be told is something else.
    let text = text("p", "1") + &properties(&[("TIMER_DELAY_SEC", "3600")]);
    let first = asked.send("T", 2, &text, b"x").await;
    assert!(first.ext.get("recallHandle").is_some(), "{first:?}");
    let other = text.replace("UNIQ_KEY\u{1}U", "UNIQ_KEY\u{1}V");
    let again = asked.send("T", 2, &other, b"x").await;
    assert_eq!(said(&again), said(&first));
}

async fn end(asked: &Asked, half: &Command, what: i32) -> Command {
    let id = half.ext.get("msgId").unwrap();
    let header = EndTransactionRequest {
        producer_group: "PG",
        tran_state_table_offset: half.ext.get("queueOffset").unwrap().parse().unwrap(),
        commit_log_offset: i64::from_str_radix(&id[16..], 16).unwrap(),
        commit_or_rollback: what,
        msg_id: "U",
        ..EndTransactionRequest::default()
    };
    asked
        .call(Command::request(RequestCode::EndTransaction).with_header(&header))
        .await
}

#[tokio::test]
async fn a_half_that_was_decided_is_refused_when_it_comes_again() {
    for flush in [FlushDiskType::Async, FlushDiskType::Sync] {
        let mut config = BrokerConfig::default();
        config.flush_disk_type = flush;
        let asked = Asked::start(config).await;
        for (sequence, what) in [("1", ROLLBACK), ("2", COMMIT)] {
            let half = properties(&[("TRAN_MSG", "true"), ("PGROUP", "PG")]);
            let half = text("p", sequence) + &half;
            let first = asked.send("T", 0, &half, b"x").await;
            let again = asked.send("T", 0, &half, b"x").await;
            assert_eq!(said(&again), said(&first));
            assert_eq!(end(&asked, &first, what).await.code, 0);
            let late = asked.send("T", 0, &half, b"x").await;
            let remark = late.remark.unwrap_or_default();
            assert_eq!(late.code, 13, "{remark}");
            assert!(remark.contains("was decided"), "{remark}");
        }
        assert_eq!(asked.pull(&pull_of("T", 0, 1)).await.bounds.1, 1);
    }
}

#[tokio::test]
async fn a_repeat_of_a_half_needs_no_room() {
    let mut config = BrokerConfig::default();
    config.transaction_pending_max = 1;
    let asked = Asked::start(config).await;
    let half = |sequence| {
        let half = properties(&[("TRAN_MSG", "true"), ("PGROUP", "PG")]);
        text("p", sequence) + &half
    };
    let first = asked.send("T", 0, &half("1"), b"x").await;
    assert_eq!(first.code, 0, "{:?}", first.remark);
    assert_eq!(asked.send("T", 0, &half("2"), b"x").await.code, 2);
    let again = asked.send("T", 0, &half("1"), b"x").await;
    assert_eq!(said(&again), said(&first));
}

#[tokio::test]
async fn what_a_deleted_topic_had_is_no_first() {
    let asked = Asked::start(BrokerConfig::default()).await;
    for sequence in ["1", "2"] {
        asked.stored("T", 0, &text("p", sequence), b"x").await;
    }
    let mut delete = Command::request(RequestCode::DeleteTopicInBroker);
    delete.ext.set("topic", "T");
    assert_eq!(asked.call(delete).await.code, 0);
    // The queue begins anew, and the first's place is not in it.
    let answer = asked.send("T", 0, &text("p", "2"), b"x").await;
    assert_eq!(answer.code, 2, "{:?}", answer.remark);
    assert_eq!(asked.stored("T", 0, &text("p", "2"), b"x").await, 0);
}

#[tokio::test]
async fn a_consumer_that_sends_a_message_back_sends_no_repeat() {
    let asked = Asked::start(BrokerConfig::default()).await;
    asked.stored("T", 0, &text("p", "1"), b"x").await;
    asked.join("CG", "T", "*").await;
    let back = asked.send("%RETRY%CG", 0, &text("p", "1"), b"x").await;
    assert_eq!(back.code, 0, "{:?}", back.remark);
}
