//! Start, stop, and what an operator does wrong.

use agena_broker::config::BrokerConfig;
use agena_broker::{Broker, StartError};
use agena_protocol::command::Command;
use agena_protocol::headers::offsets::QueryConsumerOffsetResponse;
use agena_protocol::headers::query::{QueryMessageRequest, ViewMessageByIdRequest};
use agena_protocol::message_id::OffsetId;
use agena_protocol::request_code::RequestCode;

use crate::client::{Asked, properties, pull_of};

fn in_directory(directory: &tempfile::TempDir) -> BrokerConfig {
    let mut config = BrokerConfig::default();
    config.store_path_root_dir = directory.path().display().to_string();
    config.bind_address = "127.0.0.1".to_owned();
    config.broker_ip1 = "127.0.0.1".to_owned();
    config.listen_port = 0;
    config.mapped_file_size_commit_log = 1 << 20;
    config.max_hash_slot_num = 500;
    config.max_index_num = 2000;
    config
}

#[tokio::test]
async fn messages_and_offsets_are_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let asked = Asked::to(Broker::start(in_directory(&directory)).await.unwrap());
    for number in 0..10 {
        let body = number.to_string();
        assert_eq!(asked.stored("T", 0, "", body.as_bytes()).await, number);
    }
    assert_eq!(asked.pull(&pull_of("T", 0, 0)).await.bodies.len(), 10);
    let commit = Command::request(RequestCode::UpdateConsumerOffset)
        .with_ext("consumerGroup", "CG")
        .with_ext("topic", "T")
        .with_ext("queueId", 0)
        .with_ext("commitOffset", 7);
    assert_eq!(asked.call(commit).await.code, 0);
    asked.client.shutdown().await;
    asked.broker.shutdown().await.unwrap();

    let asked = Asked::to(Broker::start(in_directory(&directory)).await.unwrap());
    assert_eq!(asked.pull(&pull_of("T", 0, 8)).await.bodies, ["8", "9"]);
    assert_eq!(asked.stored("T", 0, "", b"next").await, 10);
    let query = Command::request(RequestCode::QueryConsumerOffset)
        .with_ext("consumerGroup", "CG")
        .with_ext("topic", "T")
        .with_ext("queueId", 0);
    let answer = asked.call(query).await;
    assert_eq!(
        answer
            .header::<QueryConsumerOffsetResponse>()
            .unwrap()
            .offset,
        7
    );
    asked.broker.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_directory_belongs_to_one_broker_and_a_port_too() {
    let directory = tempfile::tempdir().unwrap();
    let first = Broker::start(in_directory(&directory)).await.unwrap();
    let held = Broker::start(in_directory(&directory)).await.unwrap_err();
    assert!(matches!(held, StartError::Store(_)), "{held}");

    let elsewhere = tempfile::tempdir().unwrap();
    let mut config = in_directory(&elsewhere);
    config.listen_port = first.local_addr().port();
    let in_use = Broker::start(config.clone()).await.unwrap_err();
    assert!(
        in_use.to_string().contains("cannot listen on 127.0.0.1:"),
        "{in_use}"
    );

    let port = first.local_addr().port();
    first.shutdown().await.unwrap();
    // Both are free again, at once.
    config.listen_port = port;
    Broker::start(config)
        .await
        .unwrap()
        .shutdown()
        .await
        .unwrap();
    Broker::start(in_directory(&directory))
        .await
        .unwrap()
        .shutdown()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_message_is_found_by_place_key_and_unique_id() {
    let asked = Asked::start(BrokerConfig::default()).await;
    let text = properties(&[("KEYS", "order-1 order-2"), ("UNIQ_KEY", "U1")]);
    let sent = asked.send("T", 0, &text, b"found").await;
    let id = OffsetId::parse(sent.ext.get("msgId").unwrap()).unwrap();
    let view = ViewMessageByIdRequest {
        offset: id.offset.wire(),
        ..ViewMessageByIdRequest::default()
    };
    let viewed = asked
        .call(Command::request(RequestCode::ViewMessageById).with_header(&view))
        .await;
    assert_eq!(viewed.code, 0);
    for (key, unique) in [("order-2", "false"), ("U1", "true")] {
        let query = QueryMessageRequest {
            topic: "T",
            key,
            max_num: 32,
            begin_timestamp: 0,
            end_timestamp: i64::MAX,
            ..QueryMessageRequest::default()
        };
        let command = Command::request(RequestCode::QueryMessage)
            .with_header(&query)
            .with_ext("_UNIQUE_KEY_QUERY", unique);
        let answer = asked.call(command).await;
        assert_eq!((answer.code, &answer.body), (0, &viewed.body), "{key}");
    }
    let nowhere = ViewMessageByIdRequest {
        offset: 1 << 40,
        ..ViewMessageByIdRequest::default()
    };
    let answer = asked
        .call(Command::request(RequestCode::ViewMessageById).with_header(&nowhere))
        .await;
    assert_eq!(answer.code, 1);
    assert!(
        answer
            .remark
            .unwrap()
            .starts_with("can not find message by the offset")
    );
}

#[tokio::test]
async fn an_unknown_code_is_answered_and_the_connection_stays() {
    let asked = Asked::start(BrokerConfig::default()).await;
    let mut command = Command::request(RequestCode::GetMaxOffset);
    command.code = 31_415;
    let answer = asked.call(command).await;
    assert_eq!(
        (answer.code, answer.remark.as_deref()),
        (3, Some(" request type 31415 not supported"))
    );
    assert_eq!(asked.stored("T", 0, "", b"x").await, 0);
}
