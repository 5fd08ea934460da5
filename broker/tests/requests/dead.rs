//! A dead letter says why it is one, whose failure was the last, and what that consumer said.

use agena_broker::config::BrokerConfig;
use agena_protocol::command::Command;
use agena_protocol::headers::send::{ConsumerSendMsgBackRequest, SendMessageResponse};
use agena_protocol::message_id::OffsetId;
use agena_protocol::request_code::RequestCode;

use crate::client::{Asked, pull_of};

async fn given_back(asked: &Asked, delay_level: i32, times_max: i32, cause: Option<&str>) {
    let sent = asked.send("T", 0, "", b"x").await;
    let sent = sent.header::<SendMessageResponse<'_>>().unwrap();
    let place = OffsetId::parse(sent.msg_id).unwrap().offset.wire();
    let mut request = Command::request(RequestCode::ConsumerSendMsgBack).with_header(
        &ConsumerSendMsgBackRequest {
            offset: place,
            group: "CG",
            delay_level,
            max_reconsume_times: Some(times_max),
            ..ConsumerSendMsgBackRequest::default()
        },
    );
    if let Some(cause) = cause {
        request = request.with_ext("cause", cause);
    }
    let answer = asked.call(request).await;
    assert_eq!(answer.code, 0, "{:?}", answer.remark);
}

#[tokio::test]
async fn a_dead_letter_says_why_and_whose_failure_was_the_last() {
    let asked = Asked::start(BrokerConfig::default()).await;
    asked.join("CG", "T", "*").await;
    given_back(&asked, 0, 0, None).await;
    given_back(&asked, -1, 16, Some("no such\u{1}\u{2} customer")).await;
    let dead = asked.pull(&pull_of("%DLQ%CG", 0, 0)).await;
    let says = |at: usize, pair: &str| {
        assert!(
            dead.properties[at].contains(pair),
            "{pair:?} is not in {:?}",
            dead.properties[at]
        );
    };
    says(0, "DEATH_REASON\u{1}MAX_RECONSUME_TIMES\u{2}");
    says(0, "DEATH_CONSUMER\u{1}127.0.0.1@test\u{2}");
    assert!(!dead.properties[0].contains("DEATH_CAUSE"));
    says(1, "DEATH_REASON\u{1}GIVEN_UP\u{2}");
    says(1, "DEATH_CAUSE\u{1}no such customer\u{2}");
    asked.broker.shutdown().await.unwrap();
}
