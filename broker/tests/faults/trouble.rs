//! A disk that is full for a while, and one whose syncs do not come back in time.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agena_broker::Broker;
use agena_broker::config::{BrokerConfig, FlushDiskType};
use agena_protocol::command::Command;
use agena_protocol::response_code::ResponseCode;
use agena_store::medium::{Access, DiskMedium, Entry, Medium, Meta, Space, StoreFile};

use crate::client::{Asked, properties, pull_of};

const WITHIN: Duration = Duration::from_secs(60);

/// A disk that is full when told, and whose syncs wait when told.
#[derive(Debug, Default)]
struct Balky {
    full: AtomicBool,
    waits: AtomicBool,
}

impl Balky {
    fn room(&self) -> io::Result<()> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn sync(&self) {
        while self.waits.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Medium for Balky {
    fn open(&self, path: &Path, access: Access) -> io::Result<StoreFile> {
        DiskMedium.open(path, access)
    }

    fn meta(&self, path: &Path) -> io::Result<Meta> {
        DiskMedium.meta(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        DiskMedium.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        DiskMedium.create_dir(dir)
    }

    fn set_len(&self, file: &StoreFile, len: u64) -> io::Result<()> {
        DiskMedium.set_len(file, len)
    }

    fn allocate(&self, file: &StoreFile, at: u64, len: u64) -> io::Result<()> {
        self.room()?;
        DiskMedium.allocate(file, at, len)
    }

    fn zero(&self, file: &StoreFile, at: u64, len: u64) -> io::Result<()> {
        DiskMedium.zero(file, at, len)
    }

    fn next_data(&self, file: &StoreFile, at: u64) -> io::Result<Option<u64>> {
        DiskMedium.next_data(file, at)
    }

    fn read_at(&self, file: &StoreFile, bytes: &mut [u8], at: u64) -> io::Result<()> {
        DiskMedium.read_at(file, bytes, at)
    }

    fn write_at(&self, file: &StoreFile, bytes: &[u8], at: u64) -> io::Result<()> {
        self.room()?;
        DiskMedium.write_at(file, bytes, at)
    }

    fn sync_data(&self, file: &StoreFile) -> io::Result<()> {
        self.sync();
        DiskMedium.sync_data(file)
    }

    fn sync_all(&self, dir: &Path) -> io::Result<()> {
        self.sync();
        DiskMedium.sync_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.sync();
        DiskMedium.sync_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        DiskMedium.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        DiskMedium.remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        DiskMedium.remove_dir(dir)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        match self.full.load(Ordering::SeqCst) {
            true => Ok(Space {
                total: 1 << 30,
                available: 0,
            }),
            false => DiskMedium.space(path),
        }
    }
}

async fn start(config: BrokerConfig) -> (Asked, Arc<Balky>) {
    let disk = Arc::new(Balky::default());
    let directory = tempfile::tempdir().unwrap();
    let broker = Broker::temp_in(directory, config, disk.clone());
    (Asked::to(broker.await.unwrap()), disk)
}

async fn send(asked: &Asked, sequence: &str) -> Command {
    let pairs = [("AGENA_PRODUCER_ID", "p"), ("AGENA_SEQUENCE", sequence)];
    let text = properties(&[&pairs[..], &[("UNIQ_KEY", "U")]].concat());
    asked.send("T", 0, &text, sequence.as_bytes()).await
}

fn places(answer: &Command) -> [Option<&str>; 4] {
    ["msgId", "queueId", "queueOffset", "transactionId"].map(|field| answer.ext.get(field))
}

/// Sends until the answer has this code.
async fn until(asked: &Asked, sequence: &str, code: ResponseCode) -> Command {
    let begin = Instant::now();
    loop {
        let answer = send(asked, sequence).await;
        if answer.response_code() == Some(code) {
            return answer;
        }
        assert!(begin.elapsed() < WITHIN, "{:?}", answer.remark);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn on_a_full_disk_repeats_are_answered_and_firsts_are_no_firsts() {
    let mut config = BrokerConfig::default();
    config.mapped_file_size_commit_log = 1 << 16;
    let (asked, disk) = start(config).await;
    let first = send(&asked, "1").await;
    assert_eq!(first.code, 0, "{:?}", first.remark);
    disk.full.store(true, Ordering::SeqCst);
    let begin = Instant::now();
    while asked.send("Other", 0, "", &[0; 30_000]).await.code == 0 {
        assert!(begin.elapsed() < WITHIN, "it is never full");
    }
    until(&asked, "2", ResponseCode::ServiceNotAvailable).await;
    let again = send(&asked, "1").await;
    assert_eq!(again.code, 0, "{:?}", again.remark);
    assert_eq!(places(&again), places(&first));
    disk.full.store(false, Ordering::SeqCst);
    let second = until(&asked, "2", ResponseCode::Success).await;
    assert_eq!(places(&send(&asked, "2").await), places(&second));
    let bodies = asked.pull(&pull_of("T", 0, 0)).await.bodies;
    assert_eq!(bodies, ["1", "2"]);
}

#[tokio::test]
async fn a_repeat_waits_for_the_same_sync_as_the_first() {
    let mut config = BrokerConfig::default();
    config.flush_disk_type = FlushDiskType::Sync;
    config.sync_flush_timeout = Duration::from_millis(200);
    let (asked, disk) = start(config).await;
    assert_eq!(send(&asked, "1").await.code, 0);
    disk.waits.store(true, Ordering::SeqCst);
    let first = send(&asked, "2").await;
    let late = Some(ResponseCode::FlushDiskTimeout);
    assert_eq!(first.response_code(), late, "{:?}", first.remark);
    let again = send(&asked, "2").await;
    assert_eq!(again.response_code(), late, "{:?}", again.remark);
    assert_eq!(places(&again), places(&first));
    disk.waits.store(false, Ordering::SeqCst);
    let again = until(&asked, "2", ResponseCode::Success).await;
    assert_eq!(places(&again), places(&first));
}
