//! Numbered messages over power cuts: the device keeps what was synced and some of the rest, the windows' file is as it was
//! at that moment. When everything is sent again, each message is there once; none is refused that is not there.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agena_broker::Broker;
use agena_broker::config::{BrokerConfig, FlushDiskType};
use agena_protocol::batch::InnerMessage;
use agena_protocol::command::Command;
use agena_protocol::headers::send::SendMessageRequestV2;
use agena_protocol::request_code::RequestCode;
use agena_store::medium::DiskMedium;

use crate::client::{Asked, message, properties, pull_of};
use crate::device::{Captured, Random, fast_dir};
use crate::faulty::FaultyMedium;

const WINDOW: usize = 300;
/// What is sent again: more than a window, so that some of it is too old to be told.
const AGAIN: u64 = 400;
const CUTS: usize = 6;
/// Each so many-th number is a batch,
const BATCH_EVERY: u64 = 8;
/// of so many messages.
const BATCH: usize = 6;

fn config(flush: FlushDiskType) -> BrokerConfig {
    let mut config = BrokerConfig::default();
    config.flush_disk_type = flush;
    config.flush_interval_commit_log = Duration::from_millis(30);
    config.flush_commit_log_thorough_interval = Duration::from_millis(60);
    config.mapped_file_size_commit_log = 1 << 18;
    config.message_index_enable = false;
    config.dedup_window = WINDOW;
    config.dedup_snapshot_distance = 1;
    config
}

fn messages_of(number: u64) -> usize {
    if number.is_multiple_of(BATCH_EVERY) {
        BATCH
    } else {
        1
    }
}

fn pair(sequence: &str) -> String {
    properties(&[("AGENA_PRODUCER_ID", "p"), ("AGENA_SEQUENCE", sequence)])
}

fn send(number: u64) -> Command {
    let body = number.to_string();
    let text = pair(&body);
    if messages_of(number) == 1 {
        return message("T", 0, &text, body.as_bytes());
    }
    let mut parts = Vec::new();
    for _ in 0..BATCH {
        let part = InnerMessage {
            flag: 0,
            body: body.as_bytes(),
            properties: b"",
        };
        part.write(&mut parts).unwrap();
    }
    let header = SendMessageRequestV2 {
        producer_group: "PG",
        topic: "T",
        default_topic: "TBW102",
        default_topic_queue_nums: 4,
        properties: Some(&text),
        batch: Some(true),
        ..SendMessageRequestV2::default()
    };
    Command::request(RequestCode::SendBatchMessage)
        .with_header(&header)
        .with_body(parts)
}

/// The device and the windows' file at one moment, and how many messages had been answered before.
struct Moment {
    captured: Captured,
    windows: Vec<u8>,
    answered: u64,
}

fn moment(directory: &Path, medium: &FaultyMedium, answered: &AtomicU64) -> Moment {
    let file = directory.join("config/dedup.windows");
    loop {
        let answered = answered.load(Ordering::SeqCst);
        // Between its two renames there is none.
        let before = std::fs::read(&file);
        let captured = medium.capture();
        if let (Ok(windows), Ok(after)) = (before, std::fs::read(&file))
            && windows == after
        {
            return Moment {
                captured,
                windows,
                answered,
            };
        }
    }
}

/// What a snapshot may know and the device may not have is told right behind it.
fn wait_for_snapshot(directory: &Path) {
    let file = directory.join("config/dedup.windows");
    let written = || {
        std::fs::metadata(&file)
            .and_then(|meta| meta.modified())
            .ok()
    };
    let before = written();
    let begin = Instant::now();
    while written().is_none_or(|written| Some(written) == before) {
        assert!(begin.elapsed() < Duration::from_secs(60), "no snapshot");
        std::thread::sleep(Duration::from_millis(1));
    }
}

async fn check(moment: &Moment, flush: FlushDiskType, random: &mut Random) {
    let image = fast_dir();
    moment.captured.image(image.path(), random);
    std::fs::create_dir_all(image.path().join("config")).unwrap();
    std::fs::write(image.path().join("config/dedup.windows"), &moment.windows).unwrap();
    let broker = Broker::temp_in(image, config(flush), Arc::new(DiskMedium));
    let asked = Asked::to(broker.await.unwrap());
    let numbers = moment.answered.saturating_sub(AGAIN)..moment.answered + 5;
    for number in numbers.clone() {
        let answer = asked.call(send(number)).await;
        let is_old = answer
            .remark
            .as_deref()
            .unwrap_or_default()
            .contains("older");
        assert!(answer.code == 0 || is_old, "{number}: {:?}", answer.remark);
        if answer.code == 0 {
            let ids = answer.ext.get("msgId").unwrap().split(',').count();
            assert_eq!(ids, messages_of(number), "{number}");
        }
    }
    let mut times: BTreeMap<u64, usize> = BTreeMap::new();
    let mut next = 0;
    loop {
        let pulled = asked.pull(&pull_of("T", 0, next)).await;
        for (body, text) in pulled.bodies.iter().zip(&pulled.properties) {
            // Records have no sum over their properties, as in the original: of the last one in front of what the device lost,
            // the pair may be gone, and with it all that could tell it from others.
            if text.contains(&pair(body)) {
                *times.entry(body.parse().unwrap()).or_default() += 1;
            }
        }
        if pulled.next >= pulled.bounds.1 {
            break;
        }
        next = pulled.next;
    }
    for number in numbers {
        let whole = messages_of(number);
        let found = times.get(&number).copied().unwrap_or(0);
        // Of a batch that nobody was answered for, a part may be there too; more than one where the power failed again.
        let most = match whole {
            1 => 1,
            _ => 2 * whole - 1,
        };
        assert!((whole..=most).contains(&found), "{number}: {found} times");
    }
}

async fn cut_power(flush: FlushDiskType) {
    let directory = fast_dir();
    let root = directory.path().to_owned();
    let medium = Arc::new(FaultyMedium::new(&root));
    let broker = Broker::temp_in(directory, config(flush), medium.clone());
    let asked = Arc::new(Asked::to(broker.await.unwrap()));
    let answered = Arc::new(AtomicU64::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    let sends = tokio::spawn({
        let (asked, answered, is_over) = (asked.clone(), answered.clone(), is_over.clone());
        async move {
            for number in 0.. {
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
                let answer = asked.call(send(number)).await;
                assert_eq!(answer.code, 0, "{:?}", answer.remark);
                answered.store(number + 1, Ordering::SeqCst);
            }
        }
    });
    let mut random = Random::new(7);
    let mut moments = Vec::new();
    let mut before = 0;
    while moments.len() < CUTS {
        tokio::time::sleep(Duration::from_millis(random.below(300))).await;
        let moment = tokio::task::block_in_place(|| {
            if moments.len().is_multiple_of(2) {
                wait_for_snapshot(&root);
            }
            moment(&root, &medium, &answered)
        });
        if moment.answered > before {
            before = moment.answered;
            moments.push(moment);
        }
    }
    is_over.store(true, Ordering::SeqCst);
    sends.await.unwrap();
    let files: std::collections::BTreeSet<_> =
        moments.iter().map(|moment| &moment.windows).collect();
    assert!(files.len() > 1, "no snapshot was written");
    for moment in &moments {
        check(moment, flush, &mut random).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_is_there_once_after_a_power_cut_with_asynchronous_flush() {
    cut_power(FlushDiskType::Async).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_is_there_once_after_a_power_cut_with_synchronous_flush() {
    cut_power(FlushDiskType::Sync).await;
}
