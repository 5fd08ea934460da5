//! Messages that are sent twice with `AGENA_PRODUCER_ID` and `AGENA_SEQUENCE`.

use agena_broker::config::{BrokerConfig, FlushDiskType};
use agena_protocol::batch::InnerMessage;
use agena_protocol::command::Command;
use agena_protocol::headers::send::SendMessageRequestV2;
use agena_protocol::request_code::RequestCode;

use crate::client::{Asked, message, properties, pull_of};

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

#[tokio::test]
async fn repeats_that_are_under_way_at_once_wait_for_the_first() {
    let mut config = BrokerConfig::default();
    config.flush_disk_type = FlushDiskType::Sync;
    let asked = Asked::start(config).await;
    asked.stored("T", 0, "", b"topic").await;
    for sequence in 0..50 {
        let text = text("p", &sequence.to_string());
        let send = || asked.send("T", 0, &text, b"x");
        let (a, b, c, d) = tokio::join!(send(), send(), send(), send());
        assert_eq!(a.code, 0, "{:?}", a.remark);
        for other in [&b, &c, &d] {
            assert_eq!(said(other), said(&a));
        }
    }
    assert_eq!(asked.pull(&pull_of("T", 0, 51)).await.bounds.1, 51);
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
    config.dedup_producer_idle = std::time::Duration::ZERO;
    let asked = Asked::start(config).await;
    for producer in ["p", "q", "r"] {
        asked.stored("T", 0, &text(producer, "1"), b"x").await;
    }
}

fn batch(topic: &str, of_batch: &str, each: &[&str]) -> Command {
    let mut body = Vec::new();
    for text in each {
        let part = InnerMessage {
            flag: 0,
            body: b"part",
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
async fn a_consumer_that_sends_a_message_back_sends_no_repeat() {
    let asked = Asked::start(BrokerConfig::default()).await;
    asked.stored("T", 0, &text("p", "1"), b"x").await;
    asked.join("CG", "T", "*").await;
    let back = asked.send("%RETRY%CG", 0, &text("p", "1"), b"x").await;
    assert_eq!(back.code, 0, "{:?}", back.remark);
}
