//! Sessions with connections that only remember what they were told.

use std::sync::atomic::{AtomicBool, AtomicUsize};

use agena_protocol::bodies::heartbeat::{MessageModel, ProducerData};
use agena_protocol::bodies::subscription::SubscriptionData;
use agena_protocol::clock::ManualClock;

use super::*;

#[derive(Debug)]
struct FakePeer {
    id: u64,
    told: AtomicUsize,
    open: AtomicBool,
}

impl Peer for FakePeer {
    fn id(&self) -> u64 {
        self.id
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 4000))
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    fn tell(&self, command: &Command) {
        assert_eq!(command.code, 40);
        assert!(command.is_one_way());
        self.told.fetch_add(1, Ordering::SeqCst);
    }

    fn close(&self, _reason: &str) {
        self.open.store(false, Ordering::SeqCst);
    }
}

struct Bench {
    clock: Arc<ManualClock>,
    sessions: Sessions<FakePeer>,
}

impl Bench {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let sessions = Sessions::new(
            Duration::from_secs(120),
            Arc::clone(&clock) as Arc<dyn Clock>,
        );
        Self { clock, sessions }
    }

    fn peer(id: u64) -> Arc<FakePeer> {
        Arc::new(FakePeer {
            id,
            told: AtomicUsize::new(0),
            open: AtomicBool::new(true),
        })
    }

    fn beat(&self, peer: &Arc<FakePeer>, data: &HeartbeatData) -> bool {
        let rules = |_: &ConsumerData| {
            Some(GroupRules {
                notify: true,
                strict: false,
            })
        };
        let heard = self.sessions.heartbeat(peer, 0, 479, data, rules);
        heard.wants_subscriptions
    }
}

fn told(peer: &FakePeer) -> usize {
    peer.told.swap(0, Ordering::SeqCst)
}

fn consumer(client: &str, topics: &[(&str, &str, i64)]) -> HeartbeatData {
    let subscription = |(topic, tags, version): &(&str, &str, i64)| SubscriptionData {
        sub_version: *version,
        ..SubscriptionData::by_tags(topic, tags).unwrap()
    };
    HeartbeatData {
        client_id: client.into(),
        consumer_data_set: vec![ConsumerData {
            group_name: "g".into(),
            subscription_data_set: topics.iter().map(subscription).collect(),
            ..ConsumerData::default()
        }],
        ..HeartbeatData::default()
    }
}

fn producer(client: &str) -> HeartbeatData {
    HeartbeatData {
        client_id: client.into(),
        producer_data_set: vec![ProducerData {
            group_name: "p".into(),
        }],
        ..HeartbeatData::default()
    }
}

#[test]
fn every_member_is_told_of_a_new_one_and_of_changed_topics_but_not_of_a_new_version() {
    let bench = Bench::new();
    let (a, b) = (Bench::peer(1), Bench::peer(2));
    assert!(bench.beat(&a, &consumer("a", &[("T", "*", 1)])));
    assert_eq!((told(&a), told(&b)), (1, 0));
    bench.beat(&b, &consumer("b", &[("T", "*", 1)]));
    assert_eq!((told(&a), told(&b)), (1, 1));
    bench.beat(&a, &consumer("a", &[("T", "*", 2)]));
    bench.beat(&a, &consumer("a", &[("T", "x", 3)]));
    assert_eq!((told(&a), told(&b)), (0, 0));
    bench.beat(&a, &consumer("a", &[("T", "x", 3), ("U", "*", 3)]));
    assert_eq!((told(&a), told(&b)), (1, 1));
    bench.sessions.unregister(2, None, Some("g"));
    assert_eq!((told(&a), told(&b)), (1, 0));
    assert_eq!(bench.sessions.consumer_ids("g").unwrap().len(), 1);
}

#[test]
fn a_closed_connection_leaves_at_once_and_an_empty_group_is_gone() {
    let bench = Bench::new();
    let (a, b) = (Bench::peer(1), Bench::peer(2));
    bench.beat(&a, &consumer("a", &[("T", "*", 1)]));
    bench.beat(&b, &consumer("b", &[("T", "*", 1)]));
    bench.beat(&a, &producer("a"));
    told(&b);
    bench.sessions.closed(1);
    assert_eq!(told(&b), 1);
    assert!(bench.sessions.producers("p").is_empty());
    assert!(bench.sessions.client("a").is_none());
    bench.sessions.closed(2);
    assert!(bench.sessions.consumer_ids("g").is_none());
    assert!(matches!(
        bench.sessions.subscription("g", "T"),
        Subscribed::NoGroup
    ));
    assert!(bench.sessions.connections.lock().is_empty());
}

#[test]
fn who_is_silent_for_two_minutes_is_closed() {
    let bench = Bench::new();
    let (a, b) = (Bench::peer(1), Bench::peer(2));
    bench.beat(&a, &consumer("a", &[("T", "*", 1)]));
    bench.beat(&b, &producer("b"));
    bench.clock.advance(Duration::from_secs(120));
    bench.sessions.expire();
    assert!(a.is_open() && b.is_open());
    bench.beat(&a, &consumer("a", &[("T", "*", 1)]));
    bench.clock.advance(Duration::from_millis(1));
    bench.sessions.expire();
    assert!(a.is_open() && !b.is_open());
    assert!(bench.sessions.client("b").is_none());
}

#[test]
fn a_subscription_is_replaced_by_a_newer_version_only() {
    let bench = Bench::new();
    let a = Bench::peer(1);
    let expression = |bench: &Bench| match bench.sessions.subscription("g", "T") {
        Subscribed::Found { subscription, .. } => subscription.data.sub_string.clone(),
        other => panic!("{other:?}"),
    };
    bench.beat(&a, &consumer("a", &[("T", "new", 5)]));
    bench.beat(&a, &consumer("a", &[("T", "old", 4)]));
    assert_eq!(expression(&bench), "new");
    bench.beat(&a, &consumer("a", &[("T", "newer", 6)]));
    assert_eq!(expression(&bench), "newer");
    bench.beat(&a, &consumer("a", &[("U", "*", 7)]));
    assert!(matches!(
        bench.sessions.subscription("g", "T"),
        Subscribed::NoTopic { .. }
    ));
}

#[test]
fn members_that_subscribe_differently_are_found() {
    let bench = Bench::new();
    let (a, b) = (Bench::peer(1), Bench::peer(2));
    bench.beat(&a, &consumer("a", &[("T", "x", 1), ("U", "*", 1)]));
    bench.beat(&b, &consumer("b", &[("T", "x", 1), ("U", "*", 1)]));
    let conflicts = |bench: &Bench| bench.sessions.consumer_group("g").unwrap().conflicts();
    assert!(conflicts(&bench).is_empty());
    bench.beat(&b, &consumer("b", &[("T", "y", 2)]));
    let found = conflicts(&bench);
    let topics: Vec<_> = found.iter().map(|conflict| &conflict.topic).collect();
    assert_eq!(topics, ["T", "U"]);
    let said = |topic: usize, member: usize| {
        let member = &found[topic].members[member];
        (member.client_id.as_str(), member.expression.as_deref())
    };
    assert_eq!(said(0, 0), ("a", Some("x")));
    assert_eq!(said(0, 1), ("b", Some("y")));
    assert_eq!(said(1, 1), ("b", None));
}

/// Everything logged while it runs.
fn logged(run: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, run);
    let bytes = std::mem::take(&mut *lines.0.lock());
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_conflict_is_logged_once_and_a_new_one_after_a_pause() {
    let bench = Bench::new();
    let (a, b) = (Bench::peer(1), Bench::peer(2));
    let log = logged(|| {
        bench.beat(&a, &consumer("a", &[("T", "x", 1)]));
        bench.beat(&b, &consumer("b", &[("T", "y", 2)]));
        for version in 3..20 {
            bench.beat(&a, &consumer("a", &[("T", "x", version)]));
            bench.beat(&b, &consumer("b", &[("T", "y", version)]));
        }
    });
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("a takes x, b takes y"), "{log}");
    let log = logged(|| {
        bench.beat(&b, &consumer("b", &[("T", "z", 20)]));
    });
    assert_eq!(log, "", "too soon after the last line");
    bench.clock.advance(Duration::from_secs(10));
    let log = logged(|| {
        bench.beat(&b, &consumer("b", &[("T", "w", 21)]));
    });
    assert!(log.contains("a takes x, b takes w"), "{log}");
}

#[test]
fn a_member_that_has_not_said_what_it_subscribes_contradicts_nobody() {
    let bench = Bench::new();
    let (a, b) = (Bench::peer(1), Bench::peer(2));
    bench.beat(&a, &consumer("a", &[("T", "x", 1)]));
    let short = HeartbeatData {
        without_sub: true,
        ..consumer("b", &[])
    };
    bench.beat(&b, &short);
    let group = bench.sessions.consumer_group("g").unwrap();
    assert_eq!(group.members.len(), 2);
    assert!(group.conflicts().is_empty());
}

#[test]
fn a_short_heartbeat_keeps_subscriptions_and_asks_for_them_where_there_are_none() {
    let bench = Bench::new();
    let (a, b) = (Bench::peer(1), Bench::peer(2));
    let full = HeartbeatData {
        heartbeat_fingerprint: 77,
        ..consumer("a", &[("T", "*", 1)])
    };
    assert!(
        !bench.beat(&a, &full),
        "known, and the fingerprint is the first"
    );
    let short = HeartbeatData {
        without_sub: true,
        ..HeartbeatData {
            heartbeat_fingerprint: 77,
            ..consumer("a", &[])
        }
    };
    told(&a);
    assert!(!bench.beat(&a, &short));
    assert_eq!(told(&a), 0);
    assert!(matches!(
        bench.sessions.subscription("g", "T"),
        Subscribed::Found { .. }
    ));
    let other = HeartbeatData {
        heartbeat_fingerprint: 78,
        ..full
    };
    assert!(bench.beat(&a, &other), "another fingerprint");
    bench.sessions.closed(1);
    assert!(
        bench.beat(&b, &short),
        "nobody told the subscriptions since the broker started"
    );
}

#[test]
fn a_broadcasting_group_is_not_told_and_neither_is_one_that_must_not_be() {
    let bench = Bench::new();
    let a = Bench::peer(1);
    let mut data = consumer("a", &[("T", "*", 1)]);
    data.consumer_data_set[0].message_model = MessageModel::Broadcasting;
    bench.beat(&a, &data);
    assert_eq!(told(&a), 0);
    let b = Bench::peer(2);
    let quiet = |_: &ConsumerData| {
        Some(GroupRules {
            notify: false,
            strict: false,
        })
    };
    let mut data = consumer("b", &[("T", "*", 1)]);
    data.consumer_data_set[0].group_name = "quiet".into();
    bench.sessions.heartbeat(&b, 0, 479, &data, quiet);
    assert_eq!(told(&b), 0);
    let nobody = |_: &ConsumerData| None;
    data.consumer_data_set[0].group_name = "not allowed".into();
    bench.sessions.heartbeat(&b, 0, 479, &data, nobody);
    assert!(bench.sessions.consumer_ids("not allowed").is_none());
}

#[test]
fn producers_take_turns_and_closed_ones_are_passed_over() {
    let bench = Bench::new();
    let peers = [Bench::peer(1), Bench::peer(2), Bench::peer(3)];
    for (peer, name) in peers.iter().zip(["a", "b", "c"]) {
        bench.beat(peer, &producer(name));
    }
    peers[1].close("test");
    let turn = || {
        bench
            .sessions
            .producer_of_group("p")
            .unwrap()
            .id
            .to_string()
    };
    let mut turns = [turn(), turn(), turn(), turn()];
    turns.sort();
    assert_eq!(turns, ["a", "a", "c", "c"]);
    assert!(bench.sessions.producer_of_group("nobody").is_none());
}

#[test]
fn a_heartbeat_of_a_connection_that_closed_meanwhile_leaves_nothing_behind() {
    let bench = Bench::new();
    let a = Bench::peer(1);
    a.close("test");
    bench.beat(&a, &consumer("a", &[("T", "*", 1)]));
    assert!(bench.sessions.consumer_ids("g").is_none());
}
