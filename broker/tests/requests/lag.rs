//! Request 900002: every cause of lag that a client can bring about, brought about.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agena_broker::config::BrokerConfig;
use agena_protocol::bodies::connections::ConsumerConnection;
use agena_protocol::bodies::heartbeat::{ConsumerData, HeartbeatData, MessageModel};
use agena_protocol::bodies::lag::{LagCause, LagExplanation, QueueLag};
use agena_protocol::bodies::queue_locks::{LockBatchRequestBody, LockBatchResponseBody};
use agena_protocol::bodies::subscription::{CheckClientRequestBody, SubscriptionData};
use agena_protocol::bodies::subscription_group::SubscriptionGroupConfig;
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::headers::pull::PullMessageRequest;
use agena_protocol::queue::MessageQueue;
use agena_protocol::record::records;
use agena_protocol::request_code::RequestCode;
use agena_remoting::client::{Client, ClientConfig, RequestHandler};
use agena_remoting::connection::Connection;

use crate::client::{Asked, Pulled, TIMEOUT, properties, pull_of};

const GROUP: &str = "CG";

/// A consumer with a connection of its own.
struct Member {
    id: &'static str,
    client: Client,
    address: String,
    notices: Arc<Notices>,
}

/// Counts how often a member was told that its group changed.
#[derive(Debug, Default)]
struct Notices(AtomicUsize);

impl RequestHandler for Notices {
    fn request(&self, _connection: &Arc<Connection>, request: Command) -> Option<Command> {
        if request.code == RequestCode::NotifyConsumerIdsChanged.number() {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
        None
    }
}

impl Member {
    fn new(asked: &Asked, id: &'static str) -> Self {
        let notices = Arc::new(Notices::default());
        Self {
            id,
            client: Client::new(ClientConfig::default(), Arc::clone(&notices) as _),
            address: asked.address.clone(),
            notices,
        }
    }

    /// A member that subscribes `T` by tags.
    async fn joined(asked: &Asked, id: &'static str, expression: &str) -> Self {
        let member = Self::new(asked, id);
        let answer = member.beat(subscription(expression)).await;
        assert_eq!(answer.code, 0, "{:?}", answer.remark);
        member
    }

    async fn call(&self, command: Command) -> Command {
        let answer = self.client.call(&self.address, command, TIMEOUT).await;
        answer.unwrap()
    }

    async fn beat(&self, data: SubscriptionData) -> Command {
        self.beat_as(data, MessageModel::Clustering).await
    }

    async fn beat_as(&self, data: SubscriptionData, message_model: MessageModel) -> Command {
        let body = HeartbeatData {
            client_id: self.id.to_owned(),
            consumer_data_set: vec![ConsumerData {
                group_name: GROUP.to_owned(),
                message_model,
                subscription_data_set: vec![data],
                ..ConsumerData::default()
            }],
            ..HeartbeatData::default()
        };
        let body = fastjson::to_vec(&body, KeyStyle::Bare);
        self.call(Command::request(RequestCode::HeartBeat).with_body(body))
            .await
    }

    /// Pulls queue 0 of a topic as subscribed.
    async fn pull(&self, topic: &str, offset: i64) -> Command {
        let request = PullMessageRequest {
            sys_flag: 0,
            subscription: None,
            ..pull_of(topic, 0, offset)
        };
        self.call(Command::request(RequestCode::PullMessage).with_header(&request))
            .await
    }

    async fn pulled(&self, offset: i64) -> Pulled {
        Pulled::of(&self.pull("T", offset).await)
    }

    async fn commit(&self, offset: i64) {
        let commit = Command::request(RequestCode::UpdateConsumerOffset)
            .with_ext("consumerGroup", GROUP)
            .with_ext("topic", "T")
            .with_ext("queueId", 0)
            .with_ext("commitOffset", offset);
        assert_eq!(self.call(commit).await.code, 0);
    }

    async fn lock(&self) -> usize {
        let body = LockBatchRequestBody {
            client_id: self.id.to_owned(),
            consumer_group: GROUP.to_owned(),
            mq_set: vec![MessageQueue::new("T", "agena", 0)],
            only_this_broker: false,
        };
        let body = fastjson::to_vec(&body, KeyStyle::Bare);
        let answer = self
            .call(Command::request(RequestCode::LockBatchMq).with_body(body))
            .await;
        let locked: LockBatchResponseBody = fastjson::from_slice(&answer.body).unwrap();
        locked.lock_ok_mq_set.len()
    }

    async fn leave(self) {
        self.client.shutdown().await;
    }
}

fn subscription(expression: &str) -> SubscriptionData {
    SubscriptionData {
        sub_version: 1,
        ..SubscriptionData::by_tags("T", expression).unwrap()
    }
}

fn sql(expression: &str) -> SubscriptionData {
    SubscriptionData {
        expression_type: "SQL92".to_owned(),
        sub_string: expression.to_owned(),
        topic: "T".to_owned(),
        sub_version: 1,
        ..SubscriptionData::default()
    }
}

async fn start() -> Asked {
    start_with(BrokerConfig::default()).await
}

/// A broker with ten messages in queue 0 of topic `T`.
async fn start_with(config: BrokerConfig) -> Asked {
    let asked = Asked::start(config).await;
    for _ in 0..10 {
        asked
            .stored("T", 0, &properties(&[("TAGS", "a")]), b"x")
            .await;
    }
    asked
}

async fn explained(asked: &Asked) -> LagExplanation {
    let request = Command::request(RequestCode::ExplainLag).with_ext("consumerGroup", GROUP);
    let answer = asked.call(request).await;
    assert_eq!(answer.code, 0, "{:?}", answer.remark);
    fastjson::from_slice(&answer.body).unwrap()
}

/// Queue 0 of a topic.
async fn queue_of(asked: &Asked, topic: &str) -> QueueLag {
    let queues = explained(asked).await.queues.into_iter();
    let mut found = queues.filter(|queue| queue.topic == topic && queue.queue_id == 0);
    found.next().unwrap()
}

async fn queue(asked: &Asked) -> QueueLag {
    queue_of(asked, "T").await
}

/// Asks until a cause is there that `wanted` takes.
async fn until(asked: &Asked, topic: &str, wanted: impl Fn(&LagCause) -> bool) -> LagCause {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let causes = queue_of(asked, topic).await.causes;
        if let Some(cause) = causes.iter().find(|cause| wanted(cause)) {
            return cause.clone();
        }
        assert!(Instant::now() < deadline, "only {causes:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_group_that_nobody_knows_is_refused() {
    let asked = start().await;
    let request = Command::request(RequestCode::ExplainLag).with_ext("consumerGroup", "nobody");
    assert_eq!(asked.call(request).await.code, 26);
}

#[tokio::test]
async fn a_group_that_has_everything_is_caught_up() {
    let asked = start().await;
    let member = Member::joined(&asked, "a", "*").await;
    member.pulled(0).await;
    member.commit(10).await;
    let queue = queue(&asked).await;
    assert_eq!((queue.lag, queue.behind_ms, queue.in_flight), (0, 0, 0));
    assert_eq!(queue.causes, [LagCause::CaughtUp]);
    let (pull, commit) = (queue.last_pull.unwrap(), queue.last_commit.unwrap());
    assert_eq!((pull.by.as_str(), pull.offset), ("a", 0));
    assert_eq!((commit.by.as_str(), commit.offset), ("a", 10));
}

#[tokio::test]
async fn what_is_being_consumed_shows_what_is_in_flight() {
    let asked = start().await;
    let member = Member::joined(&asked, "a", "*").await;
    member.pulled(0).await;
    member.commit(4).await;
    let queue = queue(&asked).await;
    assert_eq!((queue.lag, queue.in_flight), (6, 6));
    assert_eq!((queue.committed, queue.max_offset), (Some(4), 10));
    assert_eq!(queue.causes, [LagCause::Consuming]);
}

#[tokio::test]
async fn a_group_without_members_shows_who_was_there_last() {
    let asked = start().await;
    let member = Member::joined(&asked, "a", "*").await;
    member.pulled(0).await;
    member.leave().await;
    until(&asked, "T", |cause| *cause == LagCause::NoMembers).await;
    let pull = queue(&asked).await.last_pull.unwrap();
    assert_eq!((pull.by.as_str(), pull.connected), ("a", false));
    assert!(pull.at > 0);
}

#[tokio::test]
async fn a_queue_that_no_member_pulls_has_no_owner() {
    let asked = start().await;
    let _idle = Member::joined(&asked, "idle", "*").await;
    let never = LagCause::NoOwner {
        members: 1,
        since: None,
        by: None,
    };
    assert_eq!(queue(&asked).await.causes, [never]);
    let other = Member::joined(&asked, "b", "*").await;
    other.pulled(0).await;
    assert_eq!(queue(&asked).await.causes, [LagCause::Consuming]);
    other.leave().await;
    let cause = until(&asked, "T", |cause| {
        matches!(cause, LagCause::NoOwner { .. })
    })
    .await;
    let LagCause::NoOwner { members, since, by } = cause else {
        unreachable!()
    };
    assert_eq!((members, by.as_deref()), (1, Some("b")));
    assert!(since.is_some());
}

#[tokio::test]
async fn a_reader_far_behind_is_paced_while_messages_come_in() {
    const RATE: u64 = 8 << 20;
    let mut config = BrokerConfig::default();
    config.backlog_bytes_per_second = RATE;
    let asked = start_with(config).await;
    let body = vec![b'm'; 1 << 20];
    for _ in 0..24 {
        asked.stored("T", 0, "", &body).await;
    }
    let member = Member::joined(&asked, "a", "*").await;
    let began = Instant::now();
    let mut next = 0;
    let mut paced = 0;
    while next < 34 {
        let pulled = member.pulled(next).await;
        assert_eq!(pulled.code, 0);
        assert_eq!(
            pulled.bodies.len(),
            usize::try_from(pulled.next - next).unwrap()
        );
        next = pulled.next;
        // Something comes in all the time, if little: else there would be no limit.
        asked.stored("T", 1, "", b"m").await;
        let causes = queue(&asked).await.causes;
        if let Some(LagCause::Paced { bytes_per_second }) = causes
            .iter()
            .find(|cause| matches!(cause, LagCause::Paced { .. }))
        {
            assert!(
                (bytes_per_second / 1e6 - 8.39).abs() < 0.01,
                "{bytes_per_second}"
            );
            paced += 1;
        }
    }
    // Behind the small ones, a pull gives one message. Eight of these leave 16 or more, which is more than 16 MiB of records.
    assert_eq!(paced, 8);
    assert!(
        began.elapsed() >= Duration::from_millis(5 * 125),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn members_that_do_not_subscribe_the_topic_are_counted() {
    let asked = start().await;
    let member = Member::joined(&asked, "a", "*").await;
    member.pulled(0).await;
    let other = SubscriptionData {
        topic: "other".to_owned(),
        ..subscription("*")
    };
    member.beat(other).await;
    let expected = LagCause::NotSubscribed { members: 1 };
    assert_eq!(queue(&asked).await.causes, [expected]);
}

#[tokio::test]
async fn a_condition_that_does_not_parse_is_refused_by_name_everywhere() {
    let mut config = BrokerConfig::default();
    config.enable_property_filter = true;
    let asked = start_with(config).await;
    let member = Member::new(&asked, "a");
    let check = CheckClientRequestBody {
        client_id: "a".to_owned(),
        group: GROUP.to_owned(),
        subscription_data: sql("a >"),
        ..CheckClientRequestBody::default()
    };
    let check = fastjson::to_vec(&check, KeyStyle::Bare);
    let checked = member
        .call(Command::request(RequestCode::CheckClientConfig).with_body(check))
        .await;
    assert_eq!(checked.code, 23, "{:?}", checked.remark);
    member.beat(sql("a >")).await;
    let pulled = member.pull("T", 0).await;
    assert_eq!(pulled.code, 23, "{:?}", pulled.remark);
    let causes = queue(&asked).await.causes;
    let [LagCause::BadExpression { expression, reason }] = causes.as_slice() else {
        panic!("{causes:?}")
    };
    assert_eq!(expression, "a >");
    assert!(!reason.is_empty());
}

#[tokio::test]
async fn members_that_subscribe_differently_are_shown_by_name() {
    let asked = start().await;
    let a = Member::joined(&asked, "a", "x||y").await;
    let _b = Member::joined(&asked, "b", "y || x").await;
    assert!(explained(&asked).await.subscription_conflicts.is_empty());
    let _c = Member::joined(&asked, "c", "z").await;
    let explanation = explained(&asked).await;
    let conflict = &explanation.subscription_conflicts[0];
    assert_eq!(conflict.topic, "T");
    let said: Vec<_> = conflict
        .members
        .iter()
        .map(|member| (member.client_id.as_str(), member.expression.as_deref()))
        .collect();
    assert_eq!(
        said,
        [("a", Some("x||y")), ("b", Some("y || x")), ("c", Some("z"))]
    );
    let causes = queue(&asked).await.causes;
    assert!(matches!(&causes[0], LagCause::SubscriptionConflict { members } if members.len() == 3));
    let request =
        Command::request(RequestCode::GetConsumerConnectionList).with_ext("consumerGroup", GROUP);
    let connection: ConsumerConnection = fastjson::from_slice(&a.call(request).await.body).unwrap();
    assert_eq!(
        connection.subscription_conflicts,
        explanation.subscription_conflicts
    );
}

#[tokio::test]
async fn a_strict_broker_takes_in_nobody_who_subscribes_differently() {
    let mut config = BrokerConfig::default();
    config.reject_conflicting_subscriptions = true;
    let asked = start_with(config).await;
    let a = Member::joined(&asked, "a", "x").await;
    let b = Member::new(&asked, "b");
    let refused = b.beat(subscription("y")).await;
    assert_eq!(refused.code, 1);
    let remark = refused.remark.unwrap();
    assert!(remark.contains("a takes x, b takes y"), "{remark}");
    assert_eq!(explained(&asked).await.members, ["a"]);
    a.leave().await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while b.beat(subscription("y")).await.code != 0 {
        assert!(Instant::now() < deadline, "still refused");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_lock_of_another_than_who_pulls_is_shown_with_its_end() {
    let asked = start().await;
    let puller = Member::joined(&asked, "a", "*").await;
    let holder = Member::joined(&asked, "b", "*").await;
    assert_eq!(holder.lock().await, 1);
    puller.pulled(0).await;
    let locked = queue(&asked).await;
    let lock = locked.lock.unwrap();
    assert_eq!((lock.client_id.as_str(), lock.connected), ("b", true));
    let expected = LagCause::Locked {
        holder: "b".to_owned(),
        until: lock.until,
        connected: true,
        puller: Some("a".to_owned()),
    };
    assert_eq!(locked.causes[0], expected);
    assert_eq!(puller.lock().await, 0);
    let end = locked.last_pull.unwrap().at + 60_000;
    assert!((end - lock.until).abs() < 5000, "{} {end}", lock.until);
    holder.pulled(0).await;
    let causes = queue(&asked).await.causes;
    assert_eq!(causes, [LagCause::Consuming]);
}

#[tokio::test]
async fn an_owner_that_neither_pulls_nor_commits_is_silent_and_stalled() {
    let asked = start().await;
    let member = Member::joined(&asked, "a", "*").await;
    member.pulled(0).await;
    member.commit(3).await;
    let silent = until(&asked, "T", |cause| {
        matches!(cause, LagCause::OwnerSilent { .. })
    });
    let LagCause::OwnerSilent {
        owner, in_flight, ..
    } = silent.await
    else {
        unreachable!()
    };
    assert_eq!((owner.as_str(), in_flight), ("a", 7));
    let stalled = until(&asked, "T", |cause| {
        matches!(cause, LagCause::NotCommitting { .. })
    });
    let LagCause::NotCommitting {
        owner,
        in_flight,
        offset,
        message_id,
        ..
    } = stalled.await
    else {
        unreachable!()
    };
    assert_eq!((owner.as_str(), in_flight, offset), ("a", 7, 3));
    assert!(message_id.is_some());
    member.commit(4).await;
    let causes = queue(&asked).await.causes;
    let stalled = |cause: &LagCause| matches!(cause, LagCause::NotCommitting { .. });
    assert!(!causes.iter().any(stalled), "{causes:?}");
}

#[tokio::test]
async fn a_filter_that_lets_little_through_is_shown_with_its_share() {
    let asked = start().await;
    asked
        .stored("T", 0, &properties(&[("TAGS", "b")]), b"b")
        .await;
    let member = Member::joined(&asked, "a", "b").await;
    assert_eq!(member.pulled(0).await.bodies, ["b"]);
    let expected = LagCause::Filtered {
        expression_type: "TAG".to_owned(),
        expression: "b".to_owned(),
        looked_at: 11,
        given: 1,
    };
    let causes = queue(&asked).await.causes;
    assert!(causes.contains(&expected), "{causes:?}");
}

/// The place in the log of the first message of a pull's answer.
fn place_of(answer: &Command) -> i64 {
    let first = records(&answer.body).next().unwrap().unwrap();
    first.physical_offset().wire()
}

#[tokio::test]
async fn a_message_that_fails_again_is_named_with_its_place_and_its_wait() {
    let mut config = BrokerConfig::default();
    config.message_delay_level = "1s 1s 1s 60s".to_owned();
    let asked = start_with(config).await;
    let member = Member::joined(&asked, "a", "*").await;
    let retry_topic = format!("%RETRY%{GROUP}");
    let retry = SubscriptionData {
        topic: retry_topic.clone(),
        ..subscription("*")
    };
    let id = properties(&[("UNIQ_KEY", "poison")]);
    assert_eq!(asked.stored("T", 0, &id, b"bad").await, 10);
    let mut place = place_of(&member.pull("T", 10).await);
    for level in [3, 4] {
        let back = Command::request(RequestCode::ConsumerSendMsgBack)
            .with_ext("offset", place)
            .with_ext("group", GROUP)
            .with_ext("delayLevel", level);
        assert_eq!(member.call(back).await.code, 0);
        let waits = until(&asked, &retry_topic, |cause| {
            matches!(cause, LagCause::WaitingForRetry { messages: 1, .. })
        });
        let LagCause::WaitingForRetry {
            first_due,
            last_due,
            at_least,
            ..
        } = waits.await
        else {
            unreachable!()
        };
        assert_eq!((first_due, at_least), (last_due, false));
        if level == 3 {
            until(&asked, &retry_topic, |cause| {
                *cause == LagCause::NotSubscribed { members: 1 }
            })
            .await;
            member.beat(retry.clone()).await;
            let back = member.pull(&retry_topic, 0).await;
            assert_eq!(back.code, 0, "{:?}", back.remark);
            place = place_of(&back);
        }
    }
    let failing = until(&asked, &retry_topic, |cause| {
        matches!(cause, LagCause::FailingAgain { .. })
    });
    let expected = LagCause::FailingAgain {
        topic: "T".to_owned(),
        queue_id: Some(0),
        offset: Some(10),
        message_id: "poison".to_owned(),
        times: 2,
    };
    assert_eq!(failing.await, expected);
}

#[tokio::test]
async fn what_an_operator_forbids_is_said_first() {
    let asked = start().await;
    let member = Member::joined(&asked, "a", "*").await;
    member.pulled(0).await;
    let mut group = SubscriptionGroupConfig::new(GROUP);
    group.consume_enable = false;
    let group = fastjson::to_vec(&group, KeyStyle::Bare);
    let update = RequestCode::UpdateAndCreateSubscriptiongroup;
    assert_eq!(
        asked
            .call(Command::request(update).with_body(group))
            .await
            .code,
        0
    );
    let forbid = Command::request(RequestCode::UpdateAndGetGroupForbidden)
        .with_ext("group", GROUP)
        .with_ext("topic", "T")
        .with_ext("readable", false);
    assert_eq!(asked.call(forbid).await.code, 0);
    let topic = Command::request(RequestCode::UpdateAndCreateTopic)
        .with_ext("topic", "T")
        .with_ext("defaultTopic", "TBW102")
        .with_ext("readQueueNums", 4)
        .with_ext("writeQueueNums", 4)
        .with_ext("perm", 2)
        .with_ext("topicFilterType", "SINGLE_TAG")
        .with_ext("order", false);
    assert_eq!(asked.call(topic).await.code, 0);
    let broker =
        Command::request(RequestCode::UpdateBrokerConfig).with_body(b"brokerPermission=2".to_vec());
    assert_eq!(asked.call(broker).await.code, 0);
    let causes = queue(&asked).await.causes;
    let expected = [
        LagCause::BrokerUnreadable { permission: 2 },
        LagCause::TopicUnreadable { permission: 2 },
        LagCause::GroupDisabled,
        LagCause::TopicForbidden,
    ];
    assert_eq!(causes[..4], expected);
}

#[tokio::test]
async fn a_broadcasting_group_keeps_its_offsets_itself() {
    let asked = start().await;
    let member = Member::new(&asked, "a");
    member
        .beat_as(subscription("*"), MessageModel::Broadcasting)
        .await;
    member.pulled(0).await;
    assert!(explained(&asked).await.broadcasting);
    assert_eq!(queue(&asked).await.causes, [LagCause::Broadcasting]);
}

#[tokio::test]
async fn a_reset_waits_for_the_next_pull() {
    let mut config = BrokerConfig::default();
    config.use_server_side_reset_offset = true;
    let asked = start_with(config).await;
    let member = Member::joined(&asked, "a", "*").await;
    member.pulled(0).await;
    let reset = Command::request(RequestCode::InvokeBrokerToResetOffset)
        .with_ext("topic", "T")
        .with_ext("group", GROUP)
        .with_ext("timestamp", -1)
        .with_ext("isForce", true)
        .with_ext("queueId", 0)
        .with_ext("offset", 2);
    let answer = asked.call(reset).await;
    assert_eq!(answer.code, 0, "{:?}", answer.remark);
    let causes = queue(&asked).await.causes;
    assert_eq!(causes[0], LagCause::ResetPending { offset: 2 });
    member.pulled(3).await;
    let causes = queue(&asked).await.causes;
    assert!(!causes.contains(&LagCause::ResetPending { offset: 2 }));
}

#[tokio::test]
async fn what_drains_has_a_forecast_and_what_does_not_falls_behind() {
    let asked = start().await;
    let member = Member::joined(&asked, "a", "*").await;
    member.pulled(0).await;
    asked.stored("T", 0, "", b"one more").await;
    let falling = until(&asked, "T", |cause| {
        matches!(cause, LagCause::FallingBehind { .. })
    });
    let LagCause::FallingBehind {
        in_per_second,
        out_per_second,
    } = falling.await
    else {
        unreachable!()
    };
    assert!(in_per_second > 0.0 && out_per_second == 0.0);
    member.commit(8).await;
    let draining = until(&asked, "T", |cause| {
        matches!(cause, LagCause::Draining { .. })
    });
    let LagCause::Draining {
        in_per_second,
        out_per_second,
        empty_in_seconds,
    } = draining.await
    else {
        unreachable!()
    };
    let expected = 3.0 / (out_per_second - in_per_second);
    assert!(
        (empty_in_seconds - expected).abs() < 1e-6,
        "{empty_in_seconds}"
    );
}

async fn noticed(member: &Member, count: usize, since: Instant) -> Duration {
    while member.notices.0.load(Ordering::SeqCst) < count {
        assert!(since.elapsed() < Duration::from_secs(10), "never told");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    since.elapsed()
}

/// Members are told at once: a queue is without an owner only as long as clients take to share out anew.
#[tokio::test]
async fn the_others_are_told_within_a_tenth_of_a_second_of_a_join_a_leave_and_a_lost_connection() {
    let asked = start().await;
    let stays = Member::joined(&asked, "a", "*").await;
    noticed(&stays, 1, Instant::now()).await;
    let limit = Duration::from_millis(100);

    let joins = Instant::now();
    let leaves = Member::joined(&asked, "b", "*").await;
    let told = noticed(&stays, 2, joins).await;
    assert!(told < limit, "of a join after {told:?}");

    let unregister = Command::request(RequestCode::UnregisterClient)
        .with_ext("clientID", "b")
        .with_ext("consumerGroup", GROUP);
    let left = Instant::now();
    assert_eq!(leaves.call(unregister).await.code, 0);
    let told = noticed(&stays, 3, left).await;
    assert!(told < limit, "of a leave after {told:?}");

    let dies = Member::joined(&asked, "c", "*").await;
    noticed(&stays, 4, Instant::now()).await;
    let died = Instant::now();
    dies.leave().await;
    let told = noticed(&stays, 5, died).await;
    assert!(told < limit, "of a lost connection after {told:?}");
}
