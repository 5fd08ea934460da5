//! The tables as data: what each operation leaves behind.

use std::collections::BTreeMap;
use std::time::Duration;

use agena_protocol::bodies::register_broker::RegisterBrokerBody;
use agena_protocol::bodies::route::{BrokerData, QueueData, TopicRouteData};
use agena_protocol::bodies::topic_config::{PERM_READ, PERM_WRITE, TopicConfig};

use super::look::keep_zone;
use super::register::{Master, NotYetRegistered, RegisterRules, Registered, Registration};
use super::{Replica, Tables, Touched};

const TIMEOUT: Duration = Duration::from_secs(120);

fn replica(id: i64, address: &str) -> Replica {
    Replica {
        cluster: "C".into(),
        broker: "b".into(),
        id,
        address: address.into(),
    }
}

fn body(version: i64, topics: &[(&str, i32)]) -> RegisterBrokerBody {
    let mut body = RegisterBrokerBody::default();
    let wrapper = &mut body.topic_config_serialize_wrapper;
    wrapper.data_version.counter = version;
    for (name, queues) in topics {
        let config = TopicConfig::new(*name, *queues, PERM_READ | PERM_WRITE);
        wrapper.topic_config_table.insert((*name).into(), config);
    }
    body
}

fn registration(replica: Replica, body: RegisterBrokerBody) -> Registration {
    Registration {
        connection: 1,
        ha_address: format!("ha-{}", replica.address),
        replica,
        timeout: TIMEOUT,
        enable_acting_master: None,
        zone: None,
        body,
    }
}

fn register(tables: &mut Tables, registration: Registration) -> Registered {
    let rules = RegisterRules::default();
    let mut touched = Touched::default();
    tables
        .register(registration, rules, Duration::ZERO, &mut touched)
        .unwrap()
}

fn with(id: i64, address: &str, version: i64, topics: &[(&str, i32)]) -> Registration {
    registration(replica(id, address), body(version, topics))
}

fn queues(tables: &Tables, topic: &str) -> Option<(i32, i32)> {
    let route = tables.route(topic, false)?;
    let data = &route.queue_datas[0];
    Some((data.write_queue_nums, data.perm))
}

#[test]
fn an_equal_version_changes_nothing_and_another_one_everything() {
    let mut tables = Tables::default();
    register(&mut tables, with(0, "a:1", 1, &[("T", 4), ("U", 4)]));
    register(&mut tables, with(0, "a:1", 1, &[("T", 8), ("New", 2)]));
    assert_eq!(queues(&tables, "T"), Some((4, 6)));
    assert_eq!(queues(&tables, "New"), Some((2, 6)));
    register(&mut tables, with(0, "a:1", 0, &[("T", 8), ("V", 2)]));
    assert_eq!(queues(&tables, "T"), Some((8, 6)));
    // Topics that are not named any more stay, unless an operator wants it otherwise.
    assert_eq!(queues(&tables, "U"), Some((4, 6)));
    let rules = RegisterRules {
        delete_missing_topics: true,
    };
    let again = with(0, "a:1", 0, &[("T", 8), ("V", 2)]);
    let mut touched = Touched::default();
    tables
        .register(again, rules, Duration::ZERO, &mut touched)
        .unwrap();
    assert_eq!(queues(&tables, "U"), None);
}

#[test]
fn a_single_topic_is_refused_before_the_first_registration_and_leaves_the_name() {
    let mut tables = Tables::default();
    let rules = RegisterRules::default();
    let single = with(0, "a:1", 1, &[("T", 4)]);
    let refused = tables.register(single, rules, Duration::ZERO, &mut Touched::default());
    assert_eq!(refused.unwrap_err(), NotYetRegistered);
    let info = tables.cluster_info();
    assert!(info.broker_addr_table["b"].broker_addrs.is_empty());
    assert!(info.cluster_addr_table["C"].contains("b"));
    register(&mut tables, with(0, "a:1", 1, &[]));
    register(&mut tables, with(0, "a:1", 2, &[("T", 4)]));
    assert_eq!(queues(&tables, "T"), Some((4, 6)));
}

#[test]
fn a_slave_learns_its_master_and_changes_no_topics() {
    let mut tables = Tables::default();
    register(&mut tables, with(0, "a:1", 1, &[("T", 4), ("U", 4)]));
    let registered = register(&mut tables, with(1, "a:2", 9, &[("T", 8), ("V", 8)]));
    let master = Master {
        address: "a:1".into(),
        ha_address: "ha-a:1".into(),
    };
    assert_eq!(registered.master, Some(master));
    assert_eq!(queues(&tables, "T"), Some((4, 6)));
    assert_eq!(queues(&tables, "V"), None);
    tables.unregister(&replica(0, "a:1"), &mut Touched::default());
    let route = tables.route("T", true).unwrap();
    assert_eq!(
        route.broker_datas[0].broker_addrs,
        BTreeMap::from([(1, "a:2".into())])
    );
    assert_eq!(route.queue_datas[0].perm, 6);
}

#[test]
fn a_slave_that_becomes_master_keeps_one_id() {
    let mut tables = Tables::default();
    register(&mut tables, with(1, "a:2", 1, &[]));
    register(&mut tables, with(0, "a:2", 1, &[("T", 4), ("U", 4)]));
    let group = tables.member_group("C", "b");
    assert_eq!(group.broker_addrs, BTreeMap::from([(0, "a:2".into())]));
}

#[test]
fn an_older_reign_does_not_take_the_place_of_a_living_one() {
    let mut tables = Tables::default();
    let mut newer = with(0, "a:1", 1, &[("T", 4), ("U", 4)]);
    let wrapper = &mut newer.body.topic_config_serialize_wrapper;
    wrapper.data_version.state_version = 5;
    register(&mut tables, newer);
    register(&mut tables, with(0, "a:9", 7, &[("T", 16), ("U", 16)]));
    assert_eq!(tables.member_group("C", "b").broker_addrs[&0], "a:1");
    assert_eq!(queues(&tables, "T"), Some((4, 6)));
    assert_eq!(tables.data_version("C", "a:9"), None);
}

#[test]
fn the_last_replica_takes_its_topics_along() {
    let mut tables = Tables::default();
    register(&mut tables, with(0, "a:1", 1, &[("T", 4), ("U", 4)]));
    let mut other = with(0, "o:1", 1, &[("U", 2), ("V", 2)]);
    other.replica.broker = "other".into();
    register(&mut tables, other);
    tables.unregister(&replica(0, "a:1"), &mut Touched::default());
    assert!(tables.route("T", false).is_none());
    assert_eq!(queues(&tables, "U"), Some((2, 6)));
    assert_eq!(tables.cluster_info().broker_addr_table.len(), 1);
}

#[test]
fn write_permission_is_wiped_added_and_brought_back_by_a_new_version() {
    let mut tables = Tables::default();
    let topics = [("T", 4), ("U", 4)];
    register(&mut tables, with(0, "a:1", 1, &topics));
    let touched = &mut Touched::default();
    assert_eq!(tables.wipe_write_permission("b", touched), 2);
    assert_eq!(tables.wipe_write_permission("nobody", touched), 0);
    assert_eq!(queues(&tables, "T"), Some((4, 4)));
    register(&mut tables, with(0, "a:1", 1, &topics));
    assert_eq!(queues(&tables, "T"), Some((4, 4)));
    register(&mut tables, with(0, "a:1", 2, &topics));
    assert_eq!(queues(&tables, "T"), Some((4, 6)));
    assert_eq!(tables.add_write_permission("b", touched), 2);
}

#[test]
fn silence_counts_from_the_last_sign_of_life_and_by_what_each_promised() {
    let mut tables = Tables::default();
    register(&mut tables, with(0, "a:1", 1, &[]));
    let mut hasty = with(1, "a:2", 1, &[]);
    hasty.timeout = Duration::from_secs(10);
    register(&mut tables, hasty);
    tables.heard_of("C", "a:2", Duration::from_secs(5));
    assert!(tables.silent(Duration::from_secs(15)).is_empty());
    let silent = tables.silent(Duration::from_secs(16));
    assert_eq!(silent, [replica(1, "a:2")]);
    assert_eq!(tables.silent(Duration::from_secs(121)).len(), 2);
    tables.heard_of("C", "unknown:1", Duration::ZERO);
    assert_eq!(tables.data_version("C", "unknown:1"), None);
}

#[test]
fn a_slave_acts_for_its_master_when_all_agree_to_it() {
    let mut tables = Tables::default();
    let topics = [("T", 4), ("U", 4)];
    for (id, address) in [(0, "a:1"), (2, "a:3"), (1, "a:2")] {
        let mut one = with(id, address, 1, &topics);
        one.enable_acting_master = Some(true);
        register(&mut tables, one);
    }
    let change = tables
        .unregister(&replica(0, "a:1"), &mut Touched::default())
        .unwrap();
    assert_eq!((change.min_id, change.min_address.as_str()), (1, "a:2"));
    assert_eq!(change.offline_address.as_deref(), Some("a:1"));
    assert_eq!(change.recipients, ["a:2", "a:3"]);
    // Nobody writes to it, and the smallest id shows as the master.
    assert_eq!(queues(&tables, "T"), Some((4, 4)));
    let acting = tables.route("T", true).unwrap();
    assert_eq!(
        acting.broker_datas[0].broker_addrs,
        BTreeMap::from([(0, "a:2".into()), (2, "a:3".into())])
    );
    let plain = tables.route("T", false).unwrap();
    assert!(!plain.broker_datas[0].broker_addrs.contains_key(&0));
    let mut back = with(0, "a:1", 2, &topics);
    back.enable_acting_master = Some(true);
    let change = register(&mut tables, back).min_id_change.unwrap();
    assert_eq!(change.recipients, ["a:2", "a:3"]);
    assert_eq!(change.ha_address.as_deref(), Some("ha-a:1"));
    assert_eq!(queues(&tables, "T"), Some((4, 6)));
}

#[test]
fn topics_are_deleted_everywhere_or_in_one_cluster() {
    let mut tables = Tables::default();
    register(&mut tables, with(0, "a:1", 1, &[("T", 4), ("U", 4)]));
    let mut other = with(0, "o:1", 1, &[("T", 2), ("V", 2)]);
    other.replica.broker = "other".into();
    other.replica.cluster = "D".into();
    register(&mut tables, other);
    let touched = &mut Touched::default();
    tables.delete_topic("T", Some("C"), touched);
    assert_eq!(queues(&tables, "T"), Some((2, 6)));
    tables.delete_topic("T", None, touched);
    tables.delete_topic("never", Some("nowhere"), touched);
    assert!(tables.route("T", false).is_none());
    assert_eq!(tables.topics_of_cluster("C"), ["U"]);
}

#[test]
fn a_zone_keeps_its_brokers_and_those_without_a_master() {
    let data = |name: &str, zone: &str, id: i64| BrokerData {
        broker_addrs: BTreeMap::from([(id, "a:1".into())]),
        broker_name: name.into(),
        zone_name: Some(zone.into()),
        ..BrokerData::default()
    };
    let queues = |name: &str| QueueData {
        broker_name: name.into(),
        ..QueueData::default()
    };
    let mut route = TopicRouteData {
        broker_datas: vec![
            data("near", "z1", 0),
            data("far", "z2", 0),
            data("orphan", "z2", 1),
        ],
        queue_datas: vec![queues("near"), queues("far"), queues("orphan")],
        ..TopicRouteData::default()
    };
    keep_zone(&mut route, "Z1");
    let names: Vec<_> = route
        .queue_datas
        .iter()
        .map(|data| &data.broker_name)
        .collect();
    assert_eq!(names, ["near", "orphan"]);
    assert_eq!(route.broker_datas.len(), 2);
}
