//! What the tests share: servers, names nobody else uses, and waiting for things to come true.

use std::future::Future;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use agena_broker::config::{BrokerConfig, SemicolonList};
use agena_broker::{Broker, RunningBroker};
use agena_client::{ClientConfig, Instance, Message, Producer, ReceivedMessage};
use agena_namesrv::{NameServer, NameServerConfig};
use agena_protocol::command::Command;
use agena_protocol::frame::SerializeType;
use agena_protocol::headers::topic::UpdateAndCreateTopicRequest;
use agena_protocol::request_code::RequestCode;
use parking_lot::Mutex;

/// Host and port of a name server with a broker behind it.
pub(crate) fn name_server() -> String {
    match std::env::var("AGENA_TEST_NAMESRV") {
        Ok(address) if !address.trim().is_empty() => address,
        _ => own_servers(),
    }
}

/// Starts a name server and a broker of this workspace, once for all tests of the run; they end with the process.
fn own_servers() -> String {
    static NAME_SERVER: OnceLock<String> = OnceLock::new();
    let start = || {
        let (started, address) = mpsc::channel();
        // Each test has a runtime of its own, which ends with it: the servers need one that stays.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (_name_server, _broker, address) = start_servers().await;
                started.send(address).unwrap();
                std::future::pending::<()>().await;
            });
        });
        address.recv().expect("the servers start")
    };
    NAME_SERVER.get_or_init(start).clone()
}

async fn start_servers() -> (NameServer, RunningBroker, String) {
    // What the run before left behind is not needed any more.
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("black_box");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    let mut config = NameServerConfig::default();
    config.bind_address = Ipv4Addr::LOCALHOST.into();
    config.listen_port = 0;
    config.kv_config_path = directory.join("kvConfig.json");
    let name_server = NameServer::start(config).await.unwrap();
    let address = name_server.local_addr().to_string();
    let mut config = BrokerConfig::default();
    config.namesrv_addr = SemicolonList::of(&address);
    "127.0.0.1".clone_into(&mut config.broker_ip1);
    "127.0.0.1".clone_into(&mut config.bind_address);
    config.listen_port = 0;
    config.store_path_root_dir = directory.join("store").display().to_string();
    config.mapped_file_size_commit_log = 16 << 20;
    config.enable_property_filter = true;
    config.recall_message_enable = true;
    config.transaction_time_out = Duration::from_secs(1);
    config.transaction_check_interval = Duration::from_secs(1);
    let broker = Broker::start(config).await.unwrap();
    (name_server, broker, address)
}

/// With `AGENA_TEST_HEADERS=ROCKETMQ` all requests have binary headers.
pub(crate) fn config() -> ClientConfig {
    let header_form = match std::env::var("AGENA_TEST_HEADERS").as_deref() {
        Ok("ROCKETMQ") => SerializeType::Rocketmq,
        _ => SerializeType::Json,
    };
    ClientConfig {
        header_form,
        ..ClientConfig::new(&name_server())
    }
}

/// A name that no other test and no other run uses.
pub(crate) fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!(
        "{prefix}_{}_{}_{count}",
        now.as_millis(),
        std::process::id()
    )
}

/// An instance for requests of the test itself.
pub(crate) fn instance() -> Arc<Instance> {
    Instance::start(config()).unwrap()
}

/// Address of the first master.
pub(crate) async fn master(instance: &Instance) -> String {
    let cluster = instance.cluster_info().await.unwrap();
    let brokers = cluster.broker_addr_table.values();
    let mut masters = brokers.filter_map(|broker| broker.master());
    masters.next().expect("a broker is running").to_owned()
}

/// Makes a topic and waits until it is routed.
pub(crate) async fn create_topic(topic: &str, queues: i32) {
    let instance = instance();
    let address = master(&instance).await;
    let code = RequestCode::UpdateAndCreateTopic;
    let request = Command::request(code).with_header(&UpdateAndCreateTopicRequest {
        topic,
        default_topic: "TBW102",
        read_queue_nums: queues,
        write_queue_nums: queues,
        perm: 6,
        topic_filter_type: "SINGLE_TAG",
        topic_sys_flag: Some(0),
        order: false,
        ..UpdateAndCreateTopicRequest::default()
    });
    let answer = instance.call_broker(&address, request).await.unwrap();
    Instance::success(&address, code, answer).unwrap();
    eventually("the topic is routed", async || {
        instance.fetch_route(topic).await.ok()
    })
    .await;
    instance.shutdown().await;
}

pub(crate) async fn producer() -> Producer {
    let group = unique("PG");
    Producer::builder(&group)
        .config(config())
        .start()
        .await
        .unwrap()
}

/// Sends `count` messages, `tag` on each, whose bodies are their numbers.
pub(crate) async fn send_numbers(producer: &Producer, topic: &str, tag: &str, count: usize) {
    for number in 0..count {
        let message = Message::new(topic, number.to_string()).with_tag(tag);
        producer.send(message).await.unwrap();
    }
}

/// How long anything may take that should happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Waits until `check` gives something.
pub(crate) async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What a listener got, in the order it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inbox(Arc<Mutex<Vec<Arc<ReceivedMessage>>>>);

impl Inbox {
    pub(crate) fn put(&self, messages: &[Arc<ReceivedMessage>]) {
        self.0.lock().extend(messages.iter().cloned());
    }

    pub(crate) fn all(&self) -> Vec<Arc<ReceivedMessage>> {
        self.0.lock().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// The bodies as text, sorted.
    pub(crate) fn bodies(&self) -> Vec<String> {
        let mut bodies: Vec<_> = self.0.lock().iter().map(|message| text(message)).collect();
        bodies.sort();
        bodies
    }

    pub(crate) async fn wait_for(&self, count: usize) {
        eventually(&format!("{count} messages"), async || {
            (self.len() >= count).then_some(())
        })
        .await;
    }
}

pub(crate) fn text(message: &ReceivedMessage) -> String {
    String::from_utf8_lossy(&message.body).into_owned()
}

/// The numbers that [`send_numbers`] sent, as text, sorted.
pub(crate) fn numbers(count: usize) -> Vec<String> {
    let mut numbers: Vec<_> = (0..count).map(|number| number.to_string()).collect();
    numbers.sort();
    numbers
}

/// Fails if nothing came of it in a long time, so that a test that hangs tells where.
pub(crate) async fn in_time<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(SOON, future).await {
        Ok(output) => output,
        Err(_) => panic!("took too long: {what}"),
    }
}
