//! Topics and groups over a kill.

use agena_protocol::bodies::subscription_group::SubscriptionGroupConfig;
use agena_protocol::bodies::topic_config::TopicConfig;
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::headers::topic::{
    DeleteTopicInBrokerRequest, GetTopicConfigRequest, UpdateAndCreateTopicRequest,
};
use agena_protocol::request_code::RequestCode;

use super::process::BrokerProcess;
use super::wire::Wire;

fn create(wire: &mut Wire, topic: &str, queues: i32) {
    let header = UpdateAndCreateTopicRequest {
        topic,
        default_topic: "TBW102",
        read_queue_nums: queues,
        write_queue_nums: queues,
        perm: 6,
        topic_filter_type: "SINGLE_TAG",
        ..UpdateAndCreateTopicRequest::default()
    };
    wire.ask(&Command::request(RequestCode::UpdateAndCreateTopic).with_header(&header));
}

fn config(wire: &mut Wire, topic: &str) -> Option<TopicConfig> {
    let header = GetTopicConfigRequest {
        topic,
        ..GetTopicConfigRequest::default()
    };
    let answer = wire.call(&Command::request(RequestCode::GetTopicConfig).with_header(&header));
    answer
        .is_success()
        .then(|| fastjson::from_slice(&answer.body).unwrap())
}

#[test]
fn what_was_answered_is_there_after_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut broker = BrokerProcess::start(directory.path());
    let mut wire = broker.connect();
    for round in 0..3 {
        let name = format!("T{round}");
        create(&mut wire, &name, round + 1);
        wire.send(&format!("sent{round}"), "x", &[]);
        let group = SubscriptionGroupConfig {
            retry_max_times: 40 + round,
            ..SubscriptionGroupConfig::new(format!("g{round}"))
        };
        let request = Command::request(RequestCode::UpdateAndCreateSubscriptiongroup)
            .with_body(fastjson::to_vec(&group, KeyStyle::Bare));
        wire.ask(&request);
        create(&mut wire, "gone", 1);
        let header = DeleteTopicInBrokerRequest { topic: "gone" };
        wire.ask(&Command::request(RequestCode::DeleteTopicInBroker).with_header(&header));
        broker.kill();
        broker = BrokerProcess::start(directory.path());
        wire = broker.connect();
        assert_eq!(
            config(&mut wire, &name).unwrap().write_queue_nums,
            round + 1
        );
        assert!(config(&mut wire, &format!("sent{round}")).is_some());
        assert_eq!(config(&mut wire, "gone"), None);
        let request = Command::request(RequestCode::GetSubscriptiongroupConfig)
            .with_ext("group", format!("g{round}"));
        let answer = wire.ask(&request);
        let kept: SubscriptionGroupConfig = fastjson::from_slice(&answer.body).unwrap();
        assert_eq!(kept.retry_max_times, 40 + round);
    }
    broker.stop();
}
