//! The store's settings, each with its key in `broker.conf` where RocketMQ has one.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::durability::Durability;
use crate::medium::{DiskMedium, Medium};

/// Tells whether a topic's queues are of the batch kind (attribute `queue.type=BatchCQ`).
pub type IsBatchTopic = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Everything a store is opened with. Sizes must stay those the directory was written with.
#[derive(Clone)]
pub struct StoreConfig {
    /// `storePathRootDir`.
    pub root: PathBuf,
    /// `storePathCommitLog`: where the log lies; `commitlog` below the root when absent.
    pub commit_log_dir: Option<PathBuf>,
    /// `mappedFileSizeCommitLog`: bytes of a log file, 1 GiB.
    pub segment_bytes: u64,
    /// `mappedFileSizeConsumeQueue`: bytes of a queue file, rounded up to a multiple of 20; 6,000,000.
    pub queue_file_bytes: u64,
    /// `mapperFileSizeBatchConsumeQueue` (sic): bytes of a file of a batch queue, a multiple of 46; 13,800,000.
    pub batch_queue_file_bytes: u64,
    /// `messageIndexEnable`.
    pub index_enabled: bool,
    /// `maxHashSlotNum`: slots of an index file, 5,000,000.
    pub index_slots: u32,
    /// `maxIndexNum`: entries of an index file (one less is used), 20,000,000.
    pub index_entries: u32,
    /// `flushDiskType` and what belongs to it.
    pub durability: Durability,
    /// `maxMessageSize`: bytes of a body, 4 MiB. A record may be 64 KiB longer.
    pub body_bytes_max: usize,
    /// `enabledAppendPropCRC`: a sum over the whole record as its last property.
    pub sum_records: bool,
    /// `messageDelayLevel`: the delay of each level, the first being level 1. Entries of the schedule topic keep the time
    /// of delivery in place of the tag.
    pub delay_levels: Vec<Duration>,
    /// Limits of one read.
    pub read: ReadLimits,
    /// When whole log files go.
    pub retention: Retention,
    /// Which topics have batch queues.
    pub is_batch_topic: IsBatchTopic,
    /// How many queue files are kept open at most.
    pub open_queue_files_max: usize,
    /// Bytes of queue entries held in memory at most before they are written.
    pub buffered_entries_bytes_max: usize,
    /// Files as the store sees them.
    pub medium: Arc<dyn Medium>,
}

/// Limits of one read (spec/store.md §9.1).
#[derive(Debug, Clone)]
pub struct ReadLimits {
    /// Bytes behind the end of the log that count as being in memory for the limits below; RocketMQ: 40 % of the physical
    /// memory (`accessMessageInMemoryMaxRatio`). Whether a read has to wait for the device is looked up, not guessed by this.
    pub resident_bytes: u64,
    /// `maxTransferBytesOnMessageInMemory`, 262,144.
    pub bytes_in_memory: usize,
    /// `maxTransferCountOnMessageInMemory`, 32.
    pub count_in_memory: usize,
    /// `maxTransferBytesOnMessageInDisk`, 65,536.
    pub bytes_on_disk: usize,
    /// `maxTransferCountOnMessageInDisk`, 8.
    pub count_on_disk: usize,
    /// `maxFilterMessageSize`: queue bytes looked at for one answer, 16,000 (800 entries).
    pub scan_bytes: u64,
}

/// When whole log files go. The last one never does.
#[derive(Debug, Clone)]
pub struct Retention {
    /// `fileReservedTime`: a file goes when it was last written so long ago, 72 h.
    pub reserved: Duration,
    /// `deleteWhen`: hours of the local day in which expired files go, 4.
    pub delete_hours: Vec<u32>,
    /// `diskMaxUsedSpaceRatio`: expired files go at once above this percentage, 75.
    pub expire_ratio: u8,
    /// `diskSpaceCleanForciblyRatio`: the oldest files go whatever their age above this, 85.
    pub force_ratio: u8,
    /// `cleanFileForciblyEnable`.
    pub force: bool,
    /// `diskSpaceWarningLevelRatio`: messages are refused above this, 90.
    pub refuse_ratio: u8,
    /// `deleteFileBatchMax`: files per run, 10.
    pub files_per_run: usize,
    /// The log may have at most so many bytes; the oldest files go first. Not in RocketMQ.
    pub log_bytes_max: Option<u64>,
    /// `cleanResourceInterval`: how often it is looked at, 10 s.
    pub interval: Duration,
}

impl StoreConfig {
    /// RocketMQ's defaults below `root`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            commit_log_dir: None,
            segment_bytes: 1 << 30,
            queue_file_bytes: 6_000_000,
            batch_queue_file_bytes: 13_800_000,
            index_enabled: true,
            index_slots: 5_000_000,
            index_entries: 20_000_000,
            durability: Durability::page_cache(),
            body_bytes_max: 4 << 20,
            sum_records: false,
            delay_levels: default_delay_levels(),
            read: ReadLimits::default(),
            retention: Retention::default(),
            is_batch_topic: Arc::new(|_| false),
            open_queue_files_max: 512,
            buffered_entries_bytes_max: 64 << 20,
            medium: Arc::new(DiskMedium),
        }
    }

    /// Bytes of a queue file as the original rounds them.
    pub(crate) fn rounded_queue_file_bytes(&self) -> u64 {
        let entry = crate::consume_queue::ENTRY_BYTES as u64;
        self.queue_file_bytes.div_ceil(entry).max(1) * entry
    }

    /// Where the log lies.
    pub(crate) fn log_dir(&self) -> PathBuf {
        self.commit_log_dir
            .clone()
            .unwrap_or_else(|| self.root.join("commitlog"))
    }
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreConfig")
            .field("root", &self.root)
            .field("segment_bytes", &self.segment_bytes)
            .field("queue_file_bytes", &self.queue_file_bytes)
            .field("durability", &self.durability)
            .field("retention", &self.retention)
            .finish_non_exhaustive()
    }
}

impl Default for ReadLimits {
    fn default() -> Self {
        Self {
            resident_bytes: default_resident_bytes(),
            bytes_in_memory: 262_144,
            count_in_memory: 32,
            bytes_on_disk: 65_536,
            count_on_disk: 8,
            scan_bytes: 16_000,
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            reserved: Duration::from_secs(72 * 3600),
            delete_hours: vec![4],
            expire_ratio: 75,
            force_ratio: 85,
            force: true,
            refuse_ratio: 90,
            files_per_run: 10,
            log_bytes_max: None,
            interval: Duration::from_secs(10),
        }
    }
}

/// `1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h`.
fn default_delay_levels() -> Vec<Duration> {
    [
        1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200,
    ]
    .map(Duration::from_secs)
    .to_vec()
}

/// 40 % of the physical memory, as the original decides what "in memory" means.
fn default_resident_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    #[expect(
        clippy::useless_conversion,
        reason = "the field is narrower on 32-bit targets"
    )]
    let bytes = u64::from(info.totalram).saturating_mul(u64::from(info.mem_unit));
    bytes / 5 * 2
}
