//! The checks of spec/semantics.md §4.5 in their order, every status, and the long poll.

use std::time::{Duration, Instant};

use agena_broker::config::BrokerConfig;
use agena_protocol::command::Command;
use agena_protocol::headers::offsets::{
    QueryConsumerOffsetRequest, QueryConsumerOffsetResponse, UpdateConsumerOffsetRequest,
};
use agena_protocol::headers::pull::{
    PULL_COMMIT_OFFSET, PULL_SUBSCRIPTION, PULL_SUSPEND, PullMessageRequest,
};
use agena_protocol::request_code::RequestCode;

use crate::client::{Asked, Pulled, properties, pull_of};

async fn broker() -> Asked {
    Asked::start(BrokerConfig::default()).await
}

#[track_caller]
fn refused(pulled: &Pulled, code: i32, remark: &str) {
    assert_eq!(pulled.code, code, "{}", pulled.remark);
    assert!(pulled.remark.starts_with(remark), "{}", pulled.remark);
}

#[tokio::test]
async fn a_broker_that_may_not_be_read_says_so_first() {
    let mut config = BrokerConfig::default();
    config.broker_permission = 2;
    let asked = Asked::start(config).await;
    let pulled = asked.pull(&pull_of("nowhere", 0, 0)).await;
    refused(
        &pulled,
        16,
        "the broker[127.0.0.1] pulling message is forbidden",
    );
    assert_eq!(pulled.forbidden_type, Some(1));
}

#[tokio::test]
async fn group_topic_and_queue_are_checked() {
    let mut config = BrokerConfig::default();
    config.auto_create_subscription_group = false;
    let asked = Asked::start(config).await;
    refused(
        &asked.pull(&pull_of("T", 0, 0)).await,
        26,
        "subscription group [CG] does not exist",
    );
    let asked = broker().await;
    refused(
        &asked.pull(&pull_of("T", 0, 0)).await,
        17,
        "topic[T] not exist, apply first please!",
    );
    asked.stored("T", 0, "", b"x").await;
    let remark =
        "queueId[77] is illegal, topic:[T] topicConfig.readQueueNums:[4] consumer:[/127.0.0.1:";
    refused(&asked.pull(&pull_of("T", 77, 0)).await, 29, remark);
    refused(
        &asked.pull(&pull_of("T", -1, 0)).await,
        29,
        "queueId[-1] is illegal",
    );
}

#[tokio::test]
async fn a_bad_expression_is_refused_by_name() {
    let asked = broker().await;
    asked.stored("T", 0, "", b"x").await;
    let pull = PullMessageRequest {
        subscription: Some("||"),
        ..pull_of("T", 0, 0)
    };
    refused(
        &asked.pull(&pull).await,
        23,
        "parse the consumer's subscription failed",
    );
    let sql = PullMessageRequest {
        subscription: Some("a > 1"),
        expression_type: Some("SQL92"),
        ..pull_of("T", 0, 0)
    };
    let remark = "The broker does not support consumer to filter message by SQL92";
    refused(&asked.pull(&sql).await, 1, remark);
}

#[tokio::test]
async fn a_subscription_of_heartbeats_is_looked_up() {
    let asked = broker().await;
    asked
        .stored("T", 0, &properties(&[("TAGS", "a")]), b"1")
        .await;
    asked
        .stored("T", 0, &properties(&[("TAGS", "b")]), b"2")
        .await;
    let pull = PullMessageRequest {
        sys_flag: 0,
        subscription: None,
        sub_version: 1,
        ..pull_of("T", 0, 0)
    };
    refused(
        &asked.pull(&pull).await,
        24,
        "the consumer's group info not exist",
    );
    asked.join("CG", "other", "*").await;
    refused(
        &asked.pull(&pull).await,
        24,
        "the consumer's subscription not exist",
    );
    asked.join("CG", "T", "b").await;
    let newer = PullMessageRequest {
        sub_version: 2,
        ..pull.clone()
    };
    refused(
        &asked.pull(&newer).await,
        25,
        "the consumer's subscription not latest",
    );
    let pulled = asked.pull(&pull).await;
    assert_eq!(
        (pulled.code, pulled.bodies, pulled.next),
        (0, vec!["2".to_owned()], 2)
    );
}

/// The Java client's heartbeat with a new version may stay away for 30 s.
#[tokio::test]
async fn a_pull_that_is_ahead_of_its_heartbeat_gets_everything_after_a_second() {
    let asked = broker().await;
    let tag = properties(&[("TAGS", "a")]);
    asked.stored("T", 0, &tag, b"1").await;
    asked.join("CG", "T", "b").await;
    let newer = PullMessageRequest {
        sys_flag: 0,
        subscription: None,
        sub_version: 2,
        ..pull_of("T", 0, 0)
    };
    let sql = PullMessageRequest {
        expression_type: Some("SQL92"),
        ..newer.clone()
    };
    let began = Instant::now();
    let pulled = loop {
        let pulled = asked.pull(&newer).await;
        if pulled.code == 0 {
            break pulled;
        }
        refused(&pulled, 25, "the consumer's subscription not latest");
        assert!(began.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(pulled.bodies, vec!["1".to_owned()]);
    refused(&asked.pull(&sql).await, 25, "the consumer's subscription");
}

#[tokio::test]
async fn every_place_in_a_queue_has_its_status() {
    let asked = broker().await;
    for body in ["0", "1", "2"] {
        asked
            .stored("T", 0, &properties(&[("TAGS", "a")]), body.as_bytes())
            .await;
    }
    let expected = [
        (0, 0, "FOUND", 3),
        (2, 0, "FOUND", 3),
        (3, 19, "OFFSET_OVERFLOW_ONE", 3),
        (9, 21, "OFFSET_OVERFLOW_BADLY", 3),
        (-1, 21, "OFFSET_TOO_SMALL", 0),
    ];
    for (offset, code, remark, next) in expected {
        let pulled = asked.pull(&pull_of("T", 0, offset)).await;
        assert_eq!(
            (pulled.code, pulled.remark.as_str(), pulled.next),
            (code, remark, next)
        );
        assert_eq!(pulled.bounds, (0, 3));
    }
    let empty = asked.pull(&pull_of("T", 1, 0)).await;
    assert_eq!(
        (empty.code, empty.remark.as_str()),
        (19, "NO_MESSAGE_IN_QUEUE")
    );
    let beyond = asked.pull(&pull_of("T", 1, 5)).await;
    assert_eq!((beyond.code, beyond.next), (21, 0));
    let other = PullMessageRequest {
        subscription: Some("b"),
        ..pull_of("T", 0, 0)
    };
    let pulled = asked.pull(&other).await;
    assert_eq!(
        (pulled.code, pulled.remark.as_str(), pulled.next),
        (20, "NO_MATCHED_MESSAGE", 3)
    );
}

fn waiting(topic: &str, offset: i64, suspend_ms: i64) -> PullMessageRequest<'_> {
    PullMessageRequest {
        sys_flag: PULL_SUBSCRIPTION | PULL_SUSPEND,
        suspend_timeout_millis: suspend_ms,
        ..pull_of(topic, 0, offset)
    }
}

#[tokio::test]
async fn a_held_pull_is_answered_by_the_message_it_waits_for() {
    let asked = broker().await;
    asked.stored("T", 0, "", b"old").await;
    let pull = PullMessageRequest {
        subscription: Some("b"),
        ..waiting("T", 1, 60_000)
    };
    let started = Instant::now();
    let (pulled, ()) = tokio::join!(asked.pull(&pull), async {
        // Whichever of the two is first: the pull waits, or the first message is passed over.
        asked
            .stored("T", 0, &properties(&[("TAGS", "a")]), b"not this")
            .await;
        asked
            .stored("T", 0, &properties(&[("TAGS", "b")]), b"this")
            .await;
    });
    // A pull that came between the two messages is answered at once with nothing that matches.
    if pulled.code == 0 {
        assert_eq!((pulled.bodies, pulled.next), (vec!["this".to_owned()], 3));
    } else {
        assert_eq!((pulled.code, pulled.next), (20, 2));
    }
    assert!(started.elapsed() < Duration::from_secs(9));
}

#[tokio::test]
async fn a_held_pull_is_answered_at_its_own_deadline() {
    let asked = broker().await;
    asked.stored("T", 0, "", b"x").await;
    let started = Instant::now();
    let (long, short) = (waiting("T", 1, 700), waiting("T", 1, 300));
    let (long, short) = tokio::join!(asked.pull(&long), asked.pull(&short));
    assert_eq!((long.code, short.code), (19, 19));
    assert!(started.elapsed() >= Duration::from_millis(700));
}

#[tokio::test]
async fn a_deadline_in_front_of_the_others_is_kept() {
    let asked = broker().await;
    asked.stored("T", 0, "", b"x").await;
    let short = async |offset| {
        let started = Instant::now();
        let pulled = asked.pull(&waiting("T", offset, 200)).await;
        assert_eq!(pulled.code, 19);
        assert!(started.elapsed() < Duration::from_secs(4), "late");
    };
    let long = waiting("T", 1, 8_000);
    let (long, ()) = tokio::join!(asked.pull(&long), async {
        for _ in 0..3 {
            short(1).await;
        }
        asked.stored("T", 0, "", b"y").await;
    });
    assert_eq!(long.code, 0);
    // The time of the long one, which is gone, is still to come.
    short(2).await;
}

#[tokio::test]
async fn what_does_not_match_moves_a_held_pull_on() {
    let asked = broker().await;
    asked.stored("T", 0, "", b"x").await;
    let pull = PullMessageRequest {
        subscription: Some("b"),
        ..waiting("T", 1, 1000)
    };
    let (pulled, ()) = tokio::join!(asked.pull(&pull), async {
        asked
            .stored("T", 0, &properties(&[("TAGS", "a")]), b"not this")
            .await;
    });
    assert_eq!(pulled.next, 2, "{pulled:?}");
    assert!(pulled.bodies.is_empty());
}

#[tokio::test]
async fn of_many_pulls_at_a_queue_a_message_wakes_those_that_want_it() {
    let asked = broker().await;
    asked.stored("T", 0, "", b"x").await;
    let wants = |tag, suspend_ms| PullMessageRequest {
        subscription: Some(tag),
        ..waiting("T", 1, suspend_ms)
    };
    let (a, b, c) = (wants("a", 900), wants("b", 60_000), wants("c", 500));
    let started = Instant::now();
    let (a, first, c, second, ()) = tokio::join!(
        asked.pull(&a),
        asked.pull(&b),
        asked.pull(&c),
        asked.pull(&b),
        async {
            let tag = properties(&[("TAGS", "b")]);
            asked.stored("T", 0, &tag, b"this").await;
        }
    );
    assert_eq!(
        (first.bodies, second.bodies),
        (vec!["this".into()], vec!["this".into()])
    );
    for other in [a, c] {
        assert_eq!((other.bodies.len(), other.next), (0, 2), "{}", other.remark);
    }
    assert!(started.elapsed() < Duration::from_secs(9));
}

#[tokio::test]
async fn the_fast_port_holds_nothing() {
    let asked = broker().await;
    asked.stored("T", 0, "", b"x").await;
    let mut fast = asked.broker.addr();
    fast.set_port(fast.port() - 2);
    let pull = Command::request(RequestCode::PullMessage).with_header(&pull_of("T", 0, 0));
    let answer = asked
        .client
        .call(&fast.to_string(), pull, crate::client::TIMEOUT)
        .await
        .unwrap();
    assert_eq!(
        answer.remark.as_deref(),
        Some(" request type 11 not supported")
    );
    let send = crate::client::message("T", 0, "", b"y");
    let answer = asked
        .client
        .call(&fast.to_string(), send, crate::client::TIMEOUT)
        .await
        .unwrap();
    assert_eq!(answer.code, 0);
}

async fn query(asked: &Asked, group: &str, topic: &str, zero: Option<bool>) -> (i32, Option<i64>) {
    let header = QueryConsumerOffsetRequest {
        consumer_group: group,
        topic,
        set_zero_if_not_found: zero,
        ..QueryConsumerOffsetRequest::default()
    };
    let command = Command::request(RequestCode::QueryConsumerOffset).with_header(&header);
    let answer = asked.call(command).await;
    let offset = answer.header::<QueryConsumerOffsetResponse>().ok();
    (answer.code, offset.map(|header| header.offset))
}

#[tokio::test]
async fn a_pull_commits_and_a_new_group_begins_at_zero_on_a_young_queue() {
    let asked = broker().await;
    assert_eq!(query(&asked, "CG", "T", None).await, (22, None));
    asked.stored("T", 0, "", b"x").await;
    assert_eq!(query(&asked, "CG", "T", None).await, (0, Some(0)));
    assert_eq!(query(&asked, "CG", "T", Some(false)).await, (22, None));
    let pull = PullMessageRequest {
        sys_flag: PULL_SUBSCRIPTION | PULL_COMMIT_OFFSET,
        commit_offset: 1,
        ..pull_of("T", 0, 1)
    };
    assert_eq!(asked.pull(&pull).await.code, 19);
    assert_eq!(query(&asked, "CG", "T", Some(false)).await, (0, Some(1)));
}

#[tokio::test]
async fn an_offset_is_stored_for_known_groups_and_topics_only() {
    let asked = broker().await;
    let update = |group, topic| {
        let header = UpdateConsumerOffsetRequest {
            consumer_group: group,
            topic,
            commit_offset: 5,
            ..UpdateConsumerOffsetRequest::default()
        };
        Command::request(RequestCode::UpdateConsumerOffset).with_header(&header)
    };
    let answer = asked.call(update("CG", "T")).await;
    assert_eq!(
        (answer.code, answer.remark.as_deref()),
        (26, Some("Group CG not exist!"))
    );
    asked.stored("T", 0, "", b"x").await;
    assert_eq!(asked.pull(&pull_of("T", 0, 0)).await.code, 0);
    let answer = asked.call(update("CG", "nowhere")).await;
    assert_eq!(
        (answer.code, answer.remark.as_deref()),
        (17, Some("Topic nowhere not exist!"))
    );
    assert_eq!(asked.call(update("CG", "T")).await.code, 0);
    assert_eq!(query(&asked, "CG", "T", None).await, (0, Some(5)));
}
