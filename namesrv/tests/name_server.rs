//! A running name server, asked over its socket: by frames captured from the original's brokers and clients
//! (tests/fixtures/wire), and by requests made here.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agena_namesrv::NameServer;
use agena_namesrv::NameServerConfig;
use agena_protocol::bodies::register_broker::RegisterBrokerBody;
use agena_protocol::bodies::topic_config::TopicConfig;
use agena_protocol::clock::ManualClock;
use agena_protocol::command::Command;
use agena_protocol::frame::{Frame, Split, split};
use agena_protocol::request_code::RequestCode;

const DEADLINE: Duration = Duration::from_secs(20);

struct Running {
    runtime: tokio::runtime::Runtime,
    server: Option<NameServer>,
    clock: Arc<ManualClock>,
    _directory: tempfile::TempDir,
    kv_path: std::path::PathBuf,
}

impl Running {
    fn start() -> Self {
        Self::with("")
    }

    fn with(properties: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("namesrv.properties");
        let kv_path = directory.path().join("kvConfig.json");
        let text = format!(
            "bindAddress=127.0.0.1\nlistenPort=0\nscanNotActiveBrokerInterval=10\nkvConfigPath={}\n{properties}",
            kv_path.display()
        );
        std::fs::write(&file, text).unwrap();
        let mut config = NameServerConfig::default();
        config.read_file(&file).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let clock = Arc::new(ManualClock::at(1_000_000));
        let server = runtime
            .block_on(NameServer::start_with_clock(config, clock.clone()))
            .unwrap();
        Self {
            runtime,
            server: Some(server),
            clock,
            _directory: directory,
            kv_path,
        }
    }

    fn connect(&self) -> Peer {
        let address = self.server.as_ref().unwrap().local_addr();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Peer { stream }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.shutdown());
        }
    }
}

struct Peer {
    stream: TcpStream,
}

impl Peer {
    fn call(&mut self, command: &Command) -> Command {
        self.call_raw(&command.encode())
    }

    fn call_raw(&mut self, frame: &[u8]) -> Command {
        self.stream.write_all(frame).unwrap();
        self.read().unwrap()
    }

    fn read(&mut self) -> Option<Command> {
        let mut frame = vec![0; 4];
        self.stream.read_exact(&mut frame).ok()?;
        let Ok(Split::Partial(total)) = split(&frame) else {
            panic!("not a length word: {frame:?}")
        };
        frame.resize(total, 0);
        self.stream.read_exact(&mut frame[4..]).unwrap();
        let Ok(Split::Whole(raw, _)) = split(&frame) else {
            panic!("not a frame")
        };
        Some(Frame::decode(raw).unwrap().to_command())
    }

    fn ask(&mut self, code: RequestCode, ext: &[(&str, &str)], body: &[u8]) -> Command {
        let mut command = Command::request(code).with_body(body.to_vec());
        for (name, value) in ext {
            command = command.with_ext(*name, value);
        }
        self.call(&command)
    }

    /// The body of an answer that must be a success.
    fn text(&mut self, code: RequestCode, ext: &[(&str, &str)]) -> String {
        let answer = self.ask(code, ext, b"");
        assert_eq!(answer.code, 0, "{:?}", answer.remark);
        String::from_utf8(answer.body.to_vec()).unwrap()
    }

    fn register(&mut self, id: &str, address: &str, body: &RegisterBrokerBody) -> Command {
        self.ask(
            RequestCode::RegisterBroker,
            &[
                ("brokerName", "broker-a"),
                ("brokerAddr", address),
                ("clusterName", "DefaultCluster"),
                ("haServerAddr", "127.0.0.1:10912"),
                ("brokerId", id),
                ("compressed", "false"),
                ("bodyCrc32", "0"),
            ],
            &body.encode(),
        )
    }

    fn route(&mut self, topic: &str) -> Command {
        self.ask(RequestCode::GetRouteinfoByTopic, &[("topic", topic)], b"")
    }

    /// Asks until the topic has a route, or has none any more.
    fn wait_route(&mut self, topic: &str, there: bool) {
        let until = Instant::now() + DEADLINE;
        while (self.route(topic).code == 0) != there {
            assert!(
                Instant::now() < until,
                "{topic}: waited in vain for {there}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn topics(version: i64, names: &[&str]) -> RegisterBrokerBody {
    let mut body = RegisterBrokerBody::default();
    let wrapper = &mut body.topic_config_serialize_wrapper;
    wrapper.data_version.counter = version;
    for name in names {
        let config = TopicConfig::new(*name, 4, 6);
        wrapper.topic_config_table.insert((*name).into(), config);
    }
    body
}

fn fixture(name: &str) -> Vec<u8> {
    let path = format!(
        "{}/../tests/fixtures/wire/{name}",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn a_route_is_told_in_the_dialect_of_each_client() {
    let running = Running::start();
    let mut broker = running.connect();
    let answer = broker.register("0", "127.0.0.1:10911", &topics(1, &["T", "U"]));
    assert_eq!((answer.code, answer.body.len()), (0, 0));
    let mut client = running.connect();
    let expected = r#"{"brokerDatas":[{"brokerAddrs":{"0":"127.0.0.1:10911"},"brokerName":"broker-a","cluster":"DefaultCluster","enableActingMaster":false}],"filterServerTable":{},"queueDatas":[{"brokerName":"broker-a","perm":6,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4}]}"#;
    assert_eq!(client.route("T").body, expected);
    let mut old = Command::request(RequestCode::GetRouteinfoByTopic).with_ext("topic", "T");
    old.version = 400;
    let bare = expected.replace("\"0\":", "0:");
    assert_eq!(client.call(&old).body, bare);
    assert_eq!(client.call(&old).body, bare);
    let standard = old.with_ext("acceptStandardJsonOnly", true);
    assert_eq!(client.call(&standard).body, expected);
    let unknown = client.route("nowhere");
    assert_eq!(unknown.code, 17);
    assert!(
        unknown
            .remark
            .unwrap()
            .starts_with("No topic route info in name server for the topic: nowhere\nSee https://")
    );
    let nameless = client.ask(RequestCode::GetRouteinfoByTopic, &[], b"");
    assert_eq!(nameless.code, 17);
}

#[test]
fn registrations_of_the_original_s_brokers_are_taken_whole_compressed_and_with_their_crc() {
    for (files, topic) in [
        // A full one in binary, then one of a single topic.
        (
            &[
                "000103_register_broker_11_req_bin.bin",
                "000103_register_broker_01_req_json.bin",
            ][..],
            "%RETRY%CG_sql",
        ),
        // Compressed, and yet saying that it is not, as 5.3.3 does.
        (&["000103_register_broker_10_req_bin.bin"], "T_auto"),
        (&["000103_register_broker_12_req_json.bin"], "T_z2"),
    ] {
        let running = Running::start();
        let mut broker = running.connect();
        for file in files {
            let answer = broker.call_raw(&fixture(file));
            assert_eq!(answer.code, 0, "{file}: {:?}", answer.remark);
        }
        let topics = broker.text(RequestCode::GetAllTopicListFromNameserver, &[]);
        assert!(topics.contains(topic), "{files:?}: {topics}");
    }
    let running = Running::start();
    let mut broker = running.connect();
    let wrong = broker.call_raw(&fixture("000103_register_broker_04_req_json.bin"));
    assert_eq!(
        (wrong.code, wrong.remark.as_deref()),
        (1, Some("crc32 not match"))
    );
}

#[test]
fn a_closed_connection_takes_its_broker_along_unless_that_registered_anew() {
    let running = Running::start();
    let mut client = running.connect();
    let mut first = running.connect();
    first.register("0", "127.0.0.1:10911", &topics(1, &["T", "U"]));
    let mut second = running.connect();
    second.register("0", "127.0.0.1:10911", &topics(1, &["T", "U"]));
    drop(first);
    // Something that comes behind the closing shows that it had no effect.
    let mut other = running.connect();
    other.ask(RequestCode::GetBrokerClusterInfo, &[], b"");
    client.wait_route("T", true);
    drop(second);
    client.wait_route("T", false);
    let info = client.text(RequestCode::GetBrokerClusterInfo, &[]);
    assert_eq!(info, r#"{"brokerAddrTable":{},"clusterAddrTable":{}}"#);
}

#[test]
fn a_silent_broker_is_evicted_and_a_heard_one_is_not() {
    let running = Running::start();
    let mut broker = running.connect();
    broker.register("0", "127.0.0.1:10911", &topics(1, &["T", "U"]));
    let identity = [
        ("brokerName", "broker-a"),
        ("brokerAddr", "127.0.0.1:10911"),
        ("clusterName", "DefaultCluster"),
        ("brokerId", "0"),
    ];
    running.clock.advance(Duration::from_secs(100));
    let beat = broker.ask(RequestCode::BrokerHeartbeat, &identity, b"");
    assert_eq!(beat.code, 0);
    running.clock.advance(Duration::from_secs(100));
    let version = broker.ask(RequestCode::QueryDataVersion, &identity, b"{counter:1}");
    assert_eq!(version.ext.get("changed"), Some("false"));
    assert_eq!(
        version.body,
        r#"{"counter":1,"stateVersion":0,"timestamp":0}"#
    );
    running.clock.advance(Duration::from_secs(100));
    broker.wait_route("T", true);
    running.clock.advance(Duration::from_secs(21));
    assert_eq!(broker.read(), None, "its connection is closed");
    let mut client = running.connect();
    client.wait_route("T", false);
    // Only a registration brings it back.
    assert_eq!(
        client
            .ask(RequestCode::BrokerHeartbeat, &identity, b"")
            .code,
        0
    );
    let version = client.ask(RequestCode::QueryDataVersion, &identity, b"{counter:1}");
    assert_eq!(version.ext.get("changed"), Some("true"));
    assert!(version.body.is_empty());
    assert_eq!(client.route("T").code, 17);
}

#[test]
fn answers_follow_every_change() {
    let running = Running::with("orderMessageEnable=true\n");
    let mut peer = running.connect();
    peer.register("0", "127.0.0.1:10911", &topics(1, &["T", "U"]));
    let body = |peer: &mut Peer| String::from_utf8(peer.route("T").body.to_vec()).unwrap();
    assert!(!body(&mut peer).contains("orderTopicConf"));
    let order = [
        ("namespace", "ORDER_TOPIC_CONFIG"),
        ("key", "T"),
        ("value", "broker-a:4"),
    ];
    assert_eq!(peer.ask(RequestCode::PutKvConfig, &order, b"").code, 0);
    assert!(body(&mut peer).contains(r#""orderTopicConf":"broker-a:4""#));
    let answer = peer.register("1", "127.0.0.1:20911", &topics(1, &["T", "U"]));
    assert_eq!(answer.body, r#"{"table":{"T":"broker-a:4"}}"#);
    assert_eq!(answer.ext.get("masterAddr"), Some("127.0.0.1:10911"));
    assert!(body(&mut peer).contains("127.0.0.1:20911"));
    let broker = [("brokerName", "broker-a")];
    let wiped = peer.ask(RequestCode::WipeWritePermOfBroker, &broker, b"");
    assert_eq!(wiped.ext.get("wipeTopicCount"), Some("2"));
    assert!(body(&mut peer).contains("\"perm\":4"));
    let added = peer.ask(RequestCode::AddWritePermOfBroker, &broker, b"");
    assert_eq!(added.ext.get("addTopicCount"), Some("2"));
    assert!(body(&mut peer).contains("\"perm\":6"));
    let config = b"orderMessageEnable=false\n";
    assert_eq!(
        peer.ask(RequestCode::UpdateNamesrvConfig, &[], config).code,
        0
    );
    assert!(!body(&mut peer).contains("orderTopicConf"));
    peer.ask(RequestCode::DeleteTopicInNamesrv, &[("topic", "T")], b"");
    assert_eq!(peer.route("T").code, 17);
    let route = br#"{"queueDatas":[{"brokerName":"broker-a","readQueueNums":3,"writeQueueNums":3,"perm":6},{"brokerName":"nobody"}],"brokerDatas":[]}"#;
    peer.ask(
        RequestCode::RegisterTopicInNamesrv,
        &[("topic", "T")],
        route,
    );
    assert!(body(&mut peer).contains("\"readQueueNums\":3"));
}

#[test]
fn key_values_outlive_a_restart() {
    let running = Running::start();
    let mut peer = running.connect();
    let key = [("namespace", "N"), ("key", "k"), ("value", "v")];
    let missing = peer.ask(RequestCode::GetKvConfig, &key[..2], b"");
    assert_eq!(missing.code, 22);
    assert_eq!(
        missing.remark.as_deref(),
        Some("No config item, Namespace: N Key: k")
    );
    assert_eq!(peer.ask(RequestCode::PutKvConfig, &key, b"").code, 0);
    assert_eq!(peer.ask(RequestCode::PutKvConfig, &key[..1], b"").code, 1);
    let found = peer.ask(RequestCode::GetKvConfig, &key[..2], b"");
    assert_eq!(found.ext.get("value"), Some("v"));
    assert_eq!(
        peer.text(RequestCode::GetKvlistByNamespace, &key[..1]),
        r#"{"table":{"k":"v"}}"#
    );
    let stored = std::fs::read_to_string(&running.kv_path).unwrap();
    assert!(stored.contains("\"N\""), "{stored}");
    assert_eq!(
        peer.ask(RequestCode::DeleteKvConfig, &key[..2], b"").code,
        0
    );
    assert_eq!(
        peer.ask(RequestCode::DeleteKvConfig, &key[..2], b"").code,
        0
    );
    assert_eq!(peer.ask(RequestCode::GetKvConfig, &key[..2], b"").code, 22);
}

#[test]
fn the_configuration_is_listed_and_changed_but_not_what_is_black_listed() {
    let running = Running::start();
    let mut peer = running.connect();
    let text = peer.text(RequestCode::GetNamesrvConfig, &[]);
    assert!(text.contains("\norderMessageEnable=false\n"), "{text}");
    let refused = peer.ask(RequestCode::UpdateNamesrvConfig, &[], b"kvConfigPath=/x\n");
    assert_eq!(refused.code, 16);
    assert_eq!(
        refused.remark.as_deref(),
        Some("Can not update config in black list.")
    );
    let bad = peer.ask(
        RequestCode::UpdateNamesrvConfig,
        &[],
        b"enableTopicList=maybe\n",
    );
    assert_eq!(bad.code, 1);
    let off = b"enableTopicList=false\nenableAllTopicList=false\n";
    assert_eq!(peer.ask(RequestCode::UpdateNamesrvConfig, &[], off).code, 0);
    for code in [
        RequestCode::GetAllTopicListFromNameserver,
        RequestCode::GetTopicsByCluster,
        RequestCode::GetUnitTopicList,
    ] {
        let answer = peer.ask(code, &[("cluster", "C")], b"");
        assert_eq!(
            (answer.code, answer.remark.as_deref()),
            (1, Some("disable"))
        );
    }
}

#[test]
fn groups_and_lists_are_told() {
    let running = Running::start();
    let mut peer = running.connect();
    peer.register("0", "127.0.0.1:10911", &topics(1, &["T", "U"]));
    let group = |name| [("clusterName", "DefaultCluster"), ("brokerName", name)];
    assert_eq!(
        peer.text(RequestCode::GetBrokerMemberGroup, &group("broker-a")),
        r#"{"brokerMemberGroup":{"brokerAddrs":{0:"127.0.0.1:10911"},"brokerName":"broker-a","cluster":"DefaultCluster"}}"#
    );
    assert_eq!(
        peer.text(RequestCode::GetBrokerMemberGroup, &group("zz")),
        r#"{"brokerMemberGroup":{"brokerAddrs":{},"brokerName":"zz","cluster":"DefaultCluster"}}"#
    );
    assert_eq!(
        peer.text(RequestCode::GetBrokerClusterInfo, &[]),
        r#"{"brokerAddrTable":{"broker-a":{"brokerAddrs":{0:"127.0.0.1:10911"},"brokerName":"broker-a","cluster":"DefaultCluster","enableActingMaster":false}},"clusterAddrTable":{"DefaultCluster":["broker-a"]}}"#
    );
    assert_eq!(
        peer.text(RequestCode::GetSystemTopicListFromNs, &[]),
        r#"{"brokerAddr":"127.0.0.1:10911","topicList":["DefaultCluster","broker-a"]}"#
    );
    let of_cluster = peer.text(
        RequestCode::GetTopicsByCluster,
        &[("cluster", "DefaultCluster")],
    );
    assert!(of_cluster.contains("\"T\"") && of_cluster.contains("\"U\""));
    assert_eq!(
        peer.text(RequestCode::GetUnitTopicList, &[]),
        r#"{"topicList":[]}"#
    );
}

#[test]
fn sixty_thousand_topics_register_and_grow_one_by_one() {
    let running = Running::start();
    let mut broker = running.connect();
    let names: Vec<String> = (0..60_000)
        .map(|n| format!("topic-number-{n:06}"))
        .collect();
    let refs: Vec<&str> = names.iter().map(String::as_str).collect();
    let answer = broker.register("0", "127.0.0.1:10911", &topics(1, &refs));
    assert_eq!(answer.code, 0, "{:?}", answer.remark);
    assert_eq!(broker.route("topic-number-059999").code, 0);
    for n in 0..100 {
        let name = format!("one-more-{n}");
        let answer = broker.register("0", "127.0.0.1:10911", &topics(2 + n, &[&name]));
        assert_eq!(answer.code, 0);
        assert_eq!(broker.route(&name).code, 0);
    }
    assert_eq!(broker.route("topic-number-000000").code, 0);
}

#[test]
fn what_cannot_be_read_is_an_error_and_the_connection_stays() {
    let running = Running::start();
    let mut peer = running.connect();
    let mut unknown = Command::request(RequestCode::SendMessage);
    unknown.code = 31_000;
    let answer = peer.call(&unknown);
    assert_eq!(answer.code, 3);
    assert_eq!(
        answer.remark.as_deref(),
        Some(" request type 31000 not supported")
    );
    assert_eq!(peer.ask(RequestCode::SendMessage, &[], b"").code, 3);
    assert_eq!(peer.ask(RequestCode::RegisterBroker, &[], b"").code, 1);
    let identity = [
        ("brokerName", "b"),
        ("brokerAddr", "a:1"),
        ("clusterName", "C"),
        ("brokerId", "0"),
        ("haServerAddr", "a:2"),
    ];
    for garbage in [&b"{"[..], b"x\x9c\x00\x01", b"[1,2", b"\xff\xfe\xfd"] {
        let answer = peer.ask(RequestCode::RegisterBroker, &identity, garbage);
        assert_eq!(answer.code, 1, "{garbage:?}");
    }
    assert_eq!(
        peer.ask(RequestCode::QueryDataVersion, &identity, b"").code,
        1
    );
    assert_eq!(peer.route("T").code, 17);
}

#[test]
fn route_requests_wait_for_brokers_where_operators_want_it() {
    let running = Running::with("needWaitForService=true\n");
    let mut peer = running.connect();
    peer.register("0", "127.0.0.1:10911", &topics(1, &["T", "U"]));
    let early = peer.route("T");
    assert_eq!(
        (early.code, early.remark.as_deref()),
        (1, Some("name server not ready"))
    );
    running.clock.advance(Duration::from_secs(45));
    assert_eq!(peer.route("T").code, 0);
}

#[test]
fn a_group_is_told_when_its_smallest_id_changes() {
    let running = Running::with("notifyMinBrokerIdChanged=true\n");
    let slave = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let slave_address = slave.local_addr().unwrap().to_string();
    let register = |peer: &mut Peer, id: &str, address: &str| {
        let header = [
            ("brokerName", "broker-a"),
            ("brokerAddr", address),
            ("clusterName", "DefaultCluster"),
            ("haServerAddr", "127.0.0.1:10912"),
            ("brokerId", id),
            ("enableActingMaster", "true"),
        ];
        let body = topics(1, &["T", "U"]).encode();
        assert_eq!(
            peer.ask(RequestCode::RegisterBroker, &header, &body).code,
            0
        );
    };
    let mut master_link = running.connect();
    let mut slave_link = running.connect();
    register(&mut slave_link, "1", &slave_address);
    register(&mut master_link, "0", "127.0.0.1:10911");
    let mut told = Peer {
        stream: slave.accept().unwrap().0,
    };
    told.stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let come = told.read().unwrap();
    assert_eq!(come.code, RequestCode::NotifyMinBrokerIdChange.number());
    assert!(come.is_one_way());
    assert_eq!(come.ext.get("minBrokerId"), Some("0"));
    assert_eq!(come.ext.get("haBrokerAddr"), Some("127.0.0.1:10912"));
    assert_eq!(come.ext.get("offlineBrokerAddr"), None);
    drop(master_link);
    let gone = told.read().unwrap();
    assert_eq!(gone.ext.get("minBrokerId"), Some("1"));
    assert_eq!(gone.ext.get("minBrokerAddr"), Some(slave_address.as_str()));
    assert_eq!(gone.ext.get("offlineBrokerAddr"), Some("127.0.0.1:10911"));
    // Nobody writes to a slave that acts for its master.
    let route = String::from_utf8(slave_link.route("T").body.to_vec()).unwrap();
    assert!(route.contains("\"perm\":4"), "{route}");
}
