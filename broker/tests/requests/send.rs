//! The checks of spec/semantics.md §3.1 in their order, and what a stored message looks like.

use agena_broker::config::{BrokerConfig, FlushDiskType};
use agena_protocol::batch::InnerMessage;
use agena_protocol::command::Command;
use agena_protocol::headers::send::{
    SendMessageRequest, SendMessageRequestV2, SendMessageResponse,
};
use agena_protocol::request_code::RequestCode;

use crate::client::{Asked, in_binary, message, properties, pull_of};

async fn broker() -> Asked {
    Asked::start(BrokerConfig::default()).await
}

/// Code and the beginning of the remark; errors, too, say region and trace switch.
fn refused(answer: &Command, code: i32, remark: &str) {
    let said = answer.remark.as_deref().unwrap_or_default();
    assert_eq!(answer.code, code, "{said}");
    assert!(said.starts_with(remark), "{said}");
    assert_eq!(answer.ext.get("MSG_REGION"), Some("DefaultRegion"));
    assert_eq!(answer.ext.get("TRACE_ON"), Some("true"));
}

#[tokio::test]
async fn a_message_is_stored_with_the_brokers_properties_and_answered_in_full() {
    let asked = broker().await;
    for command in [message("T", 1, &properties(&[("KEYS", "k")]), b"one")] {
        for command in [command.clone(), in_binary(command)] {
            let answer = asked.call(command).await;
            assert_eq!(answer.code, 0, "{:?}", answer.remark);
            let header: SendMessageResponse<'_> = answer.header().unwrap();
            assert_eq!(header.queue_id, 1);
            assert_eq!(header.msg_id.len(), 32);
            assert_eq!(header.transaction_id.map(str::len), Some(32));
            assert_eq!(
                (header.msg_region, header.trace_on),
                (Some("DefaultRegion"), Some(true))
            );
        }
    }
    let pulled = asked.pull(&pull_of("T", 1, 0)).await;
    assert_eq!(pulled.bodies, ["one", "one"]);
    for name in [
        "KEYS\u{1}k",
        "UNIQ_KEY\u{1}",
        "CLUSTER\u{1}DefaultCluster",
        "TRACE_ON\u{1}true",
    ] {
        assert!(
            pulled.properties[0].contains(name),
            "{name}: {}",
            pulled.properties[0]
        );
    }
}

#[tokio::test]
async fn the_long_names_of_code_10_mean_the_same() {
    let asked = broker().await;
    let header = SendMessageRequest {
        producer_group: "PG",
        topic: "T",
        default_topic: "TBW102",
        default_topic_queue_nums: 4,
        queue_id: 2,
        ..SendMessageRequest::default()
    };
    let command = Command::request(RequestCode::SendMessage)
        .with_header(&header)
        .with_body("x");
    assert_eq!(asked.call(command).await.code, 0);
    assert_eq!(asked.pull(&pull_of("T", 2, 0)).await.bodies, ["x"]);
}

#[tokio::test]
async fn a_missing_field_is_answered_and_the_connection_stays() {
    let asked = broker().await;
    let bare = Command::request(RequestCode::SendMessageV2)
        .with_ext("b", "T")
        .with_body("x");
    refused(&asked.call(bare).await, 1, "the header field");
    assert_eq!(asked.stored("T", 0, "", b"x").await, 0);
}

#[tokio::test]
async fn sends_wait_for_the_time_that_is_configured() {
    let mut config = BrokerConfig::default();
    config.start_accept_send_request_time_stamp = 4_000_000_000_000;
    let asked = Asked::start(config).await;
    refused(
        &asked.send("T", 0, "", b"x").await,
        1,
        "broker unable to service, until 2096-",
    );
}

#[tokio::test]
async fn names_that_are_none_are_refused() {
    let asked = broker().await;
    let illegal = "The specified topic contains illegal characters";
    refused(&asked.send("a b", 0, "", b"x").await, 29, illegal);
    refused(
        &asked.send("", 0, "", b"x").await,
        29,
        "The specified topic is blank",
    );
    let long = "x".repeat(128);
    refused(
        &asked.send(&long, 0, "", b"x").await,
        29,
        "The specified topic is longer",
    );
    let system = "Sending message to topic[SCHEDULE_TOPIC_XXXX] is forbidden.";
    refused(
        &asked.send("SCHEDULE_TOPIC_XXXX", 0, "", b"x").await,
        16,
        system,
    );
}

#[tokio::test]
async fn without_automatic_creation_an_unknown_topic_is_refused() {
    let mut config = BrokerConfig::default();
    config.auto_create_topic_enable = false;
    let asked = Asked::start(config).await;
    refused(
        &asked.send("T", 0, "", b"x").await,
        17,
        "topic[T] not exist, apply first please!",
    );
}

#[tokio::test]
async fn a_queue_out_of_range_is_refused_and_a_negative_one_is_chosen() {
    let asked = broker().await;
    assert_eq!(asked.stored("T", 0, "", b"x").await, 0);
    let remark = "request queueId[4] is illegal, TopicConfig [topicName=T, readQueueNums=4";
    refused(&asked.send("T", 4, "", b"x").await, 29, remark);
    let answer = asked.send("T", -1, "", b"x").await;
    let header: SendMessageResponse<'_> = answer.header().unwrap();
    assert!((0..4).contains(&header.queue_id));
}

#[tokio::test]
async fn what_is_too_large_or_empty_is_illegal() {
    let mut config = BrokerConfig::default();
    config.max_message_size = 1000;
    let asked = Asked::start(config).await;
    let illegal = "the message is illegal, maybe msg body or properties length not matched. msg body length limit 1000B";
    refused(&asked.send("T", 0, "", &[b'x'; 1001]).await, 13, illegal);
    let long = properties(&[("a", &"v".repeat(32_760))]);
    refused(&asked.send("T", 0, &long, b"x").await, 13, illegal);
    refused(
        &asked.send("T", 0, "", b"").await,
        13,
        "the message has no body",
    );
    assert_eq!(asked.stored("T", 0, "", &[b'x'; 1000]).await, 0);
}

#[tokio::test]
async fn a_retry_of_an_unknown_group_is_refused_and_no_batch_is_a_retry() {
    let mut config = BrokerConfig::default();
    config.auto_create_subscription_group = false;
    let asked = Asked::start(config).await;
    let unknown = asked.send("%RETRY%nobody", 0, "", b"x").await;
    refused(&unknown, 26, "subscription group not exist");
    let mut command = message("%RETRY%nobody", 0, "", b"x");
    command.ext.set("m", "true");
    refused(
        &asked.call(command).await,
        13,
        "batch request does not support retry group",
    );
}

#[tokio::test]
async fn a_batch_becomes_consecutive_records_with_an_id_each() {
    let asked = broker().await;
    let mut body = Vec::new();
    for (text, key) in [("a", "ka"), ("b", "kb"), ("c", "kc")] {
        let properties = properties(&[("KEYS", key), ("UNIQ_KEY", key)]);
        let inner = InnerMessage {
            flag: 0,
            body: text.as_bytes(),
            properties: properties.as_bytes(),
        };
        inner.write(&mut body).unwrap();
    }
    let header = SendMessageRequestV2 {
        producer_group: "PG",
        topic: "T",
        default_topic: "TBW102",
        default_topic_queue_nums: 4,
        properties: Some("UNIQ_KEY\u{1}batch\u{2}"),
        batch: Some(true),
        ..SendMessageRequestV2::default()
    };
    let command = Command::request(RequestCode::SendBatchMessage).with_header(&header);
    let answer = asked.call(command.clone().with_body(body.clone())).await;
    let sent: SendMessageResponse<'_> = answer.header().unwrap();
    assert_eq!((answer.code, sent.queue_offset), (0, 0));
    assert_eq!(sent.msg_id.split(',').count(), 3);
    assert_eq!(sent.transaction_id, Some("batch"));
    let pulled = asked.pull(&pull_of("T", 0, 0)).await;
    assert_eq!(pulled.bodies, ["a", "b", "c"]);
    assert!(
        pulled.properties[1].contains("UNIQ_KEY\u{1}kb") && !pulled.properties[1].contains("batch")
    );
    body.truncate(body.len() - 1);
    let cut = Command::request(RequestCode::SendBatchMessage)
        .with_header(&header)
        .with_body(body);
    refused(&asked.call(cut).await, 1, "the batch does not parse");
}

#[tokio::test]
async fn under_sync_flush_an_answer_waits_for_the_device_unless_told_not_to() {
    let mut config = BrokerConfig::default();
    config.flush_disk_type = FlushDiskType::Sync;
    let asked = Asked::start(config).await;
    assert_eq!(asked.stored("T", 0, "", b"x").await, 0);
    assert_eq!(
        asked
            .stored("T", 0, &properties(&[("WAIT", "false")]), b"y")
            .await,
        1
    );
    assert_eq!(asked.pull(&pull_of("T", 0, 0)).await.bodies[0], "x");
}

#[tokio::test]
async fn a_read_only_order_broker_refuses_ordered_topics_alone() {
    let mut config = BrokerConfig::default();
    config.broker_permission = 4;
    let asked = Asked::start(config).await;
    assert_eq!(asked.stored("T", 0, "", b"x").await, 0);
}
