//! A store that takes no messages takes the write permission out of the routes, and gives it back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use agena_broker::Broker;
use agena_broker::config::{BrokerConfig, FlushDiskType, SemicolonList};
use agena_namesrv::{NameServer, NameServerConfig};
use agena_protocol::bodies::route::TopicRouteData;
use agena_protocol::command::Command;
use agena_protocol::fastjson;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;

use crate::bad_disk::BadDisk;
use crate::client::{Asked, TIMEOUT, message, pull_of};

/// A producer finds out from its name server in this time.
const TOLD_WITHIN: Duration = Duration::from_secs(1);
const TOPIC: &str = "T";

/// A name server, and a broker on a disk of its own that it knows.
struct Cluster {
    _directory: tempfile::TempDir,
    _name_server: NameServer,
    names: String,
    disk: Arc<BadDisk>,
    asked: Asked,
}

impl Cluster {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = NameServerConfig::default();
        config.bind_address = "127.0.0.1".parse().unwrap();
        config.listen_port = 0;
        config.kv_config_path = directory.path().join("kvConfig.json");
        let name_server = NameServer::start(config).await.unwrap();
        let names = name_server.local_addr().to_string();
        let disk = Arc::new(BadDisk::default());
        let mut config = BrokerConfig::default();
        config.namesrv_addr = SemicolonList::of(&names);
        config.flush_disk_type = FlushDiskType::Sync;
        config.mapped_file_size_commit_log = 1 << 20;
        // However full the machine that this runs on is.
        config.disk_space_warning_level_ratio = 99;
        // In memory where there is such a place: what is to take a second is our part, not that of a busy device.
        let in_memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let broker = Broker::temp_in(in_memory.unwrap(), config, disk.clone());
        let broker = broker.await.unwrap();
        let cluster = Self {
            _directory: directory,
            _name_server: name_server,
            names,
            disk,
            asked: Asked::to(broker),
        };
        cluster.asked.stored(TOPIC, 0, "", b"the first").await;
        cluster.wait_until_writable(true, TIMEOUT).await;
        cluster
    }

    /// Whether the topic's route says that it may be written.
    async fn is_writable(&self) -> Option<bool> {
        let request = Command::request(RequestCode::GetRouteinfoByTopic).with_ext("topic", TOPIC);
        let client = &self.asked.client;
        let answer = client.call(&self.names, request, TIMEOUT).await.unwrap();
        let route: TopicRouteData = fastjson::from_slice(&answer.body).ok()?;
        Some(route.queue_datas.first()?.is_writable())
    }

    /// How long it took until the route said so.
    async fn wait_until_writable(&self, expected: bool, within: Duration) -> Duration {
        let since = Instant::now();
        while self.is_writable().await != Some(expected) {
            assert!(
                since.elapsed() < within,
                "the route does not say within {within:?} that writing is {expected}"
            );
            tokio::task::yield_now().await;
        }
        since.elapsed()
    }

    async fn pulled(&self) -> usize {
        let pulled = self.asked.pull(&pull_of(TOPIC, 0, 0)).await;
        pulled.bodies.len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_takes_the_write_permission_out_of_the_route_within_a_second() {
    let cluster = Cluster::start().await;
    cluster.disk.fails.store(true, Ordering::SeqCst);
    let answer = cluster.asked.call(message(TOPIC, 0, "", b"lost")).await;
    assert_ne!(answer.code, ResponseCode::Success.number());
    cluster.wait_until_writable(false, TOLD_WITHIN).await;
    // The device works again, and nothing is tried on it: a sync that failed is final.
    cluster.disk.fails.store(false, Ordering::SeqCst);
    let answer = cluster.asked.call(message(TOPIC, 0, "", b"refused")).await;
    assert_ne!(answer.code, ResponseCode::Success.number());
    assert_eq!(cluster.is_writable().await, Some(false));
    assert_eq!(cluster.pulled().await, 1, "reads go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_takes_the_write_permission_and_space_gives_it_back() {
    let cluster = Cluster::start().await;
    for _ in 0..2 {
        cluster.disk.is_full.store(true, Ordering::SeqCst);
        let body = vec![b'x'; 100_000];
        let deadline = Instant::now() + TIMEOUT;
        while cluster.asked.call(message(TOPIC, 0, "", &body)).await.code == 0 {
            assert!(Instant::now() < deadline, "the disk is full some time");
        }
        cluster.wait_until_writable(false, TOLD_WITHIN).await;
        cluster.disk.is_full.store(false, Ordering::SeqCst);
        cluster.wait_until_writable(true, TOLD_WITHIN).await;
        cluster.asked.stored(TOPIC, 0, "", b"goes on").await;
    }
}
