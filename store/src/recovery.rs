//! Opening a store: what a clean stop left is taken as it is; after a crash the log is scanned from the checkpoint's mark
//! on, ends where it holds, and everything derived is put right from it.
//!
//! - Every scanned record is checked: size, magic, sums, its own position. A record that does not hold, with good ones
//!   behind it, is damage: reported, set aside, replaced by a placeholder, and stepped over by readers. With nothing good behind it, it is the torn end: the rest
//!   is set aside in a file below `damaged/` and its place zeroed, so that stale bytes never come back as messages.
//! - What looks like a record behind damage counts only if it is not older than the last good one: a truncated log may
//!   hold remains of an earlier life.
//! - Queues and index get the scanned records again; what they have is compared and mended, what they lack is filled in
//!   from the log, from its start if need be.
//!
//! Apache: `CommitLog.recoverNormally/recoverAbnormally`, where everything behind the first bad record is dropped.

mod clean_stop;
mod derived;
mod placeholder;
mod scan;
mod torn_end;

use std::path::PathBuf;
use std::sync::Arc;

use agena_protocol::clock::Clock;
use agena_protocol::record::RecordError;

use crate::checkpoint::Checkpoint;
use crate::commit_log::{CommitLog, FoundTail};
use crate::config::StoreConfig;
use crate::dispatch::{Dispatcher, Observer};
use crate::error::StoreError;
use crate::index::Index;
use crate::index_file::Shape;
use crate::queue_table::QueueTable;
use crate::segment::SegmentWriter;
use crate::segmented_log::SegmentedLog;
use crate::snapshot::Snapshot;

pub(crate) use derived::belongs;
pub(crate) use placeholder::TOPIC as PLACEHOLDER_TOPIC;

/// How a store was found.
#[derive(Debug, Clone)]
pub enum Opened {
    /// As a clean stop left it; nothing was scanned.
    Clean,
    /// Not closed by us: scanned and put right.
    Recovered(RecoveryReport),
}

/// What recovery found and did.
#[derive(Debug, Clone, Default)]
pub struct RecoveryReport {
    /// Whether the mark of an unclean end was set.
    pub unclean: bool,
    /// Where the scan of the log began.
    pub scanned_from: u64,
    /// Where the log ends.
    pub log_end: u64,
    /// Records that were checked.
    pub records: u64,
    /// Bytes that were no records, with good ones behind them.
    pub damage: Vec<Damage>,
    /// What stood behind the end, if anything did.
    pub torn: Option<Damage>,
    /// Files that hold what was taken off the end, and what placeholders took the place of.
    pub set_aside: Vec<PathBuf>,
    /// Queue entries that were added.
    pub entries_added: u64,
    /// Queue entries that were wrong and were put right.
    pub entries_mended: u64,
    /// Whether queues or index were built from the start of the log.
    pub rebuilt: bool,
}

/// Bytes of the log that are no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// First offset.
    pub from: u64,
    /// Offset behind the last.
    pub to: u64,
    /// What does not hold at `from`.
    pub reason: RecordError,
}

/// What an open store consists of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) log: CommitLog,
    pub(crate) queues: Arc<QueueTable>,
    pub(crate) index: Option<Arc<Index>>,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) checkpoint: Checkpoint,
    /// Below this, records were there before the store was opened: readers check their sums.
    pub(crate) damage: Vec<Damage>,
}

/// Opens what lies below `config.root`. The caller holds its lock.
pub(crate) fn open(
    config: &StoreConfig,
    clock: &Arc<dyn Clock>,
    observer: Arc<dyn Observer>,
    unclean: bool,
) -> Result<(Parts, Opened), StoreError> {
    let medium = &config.medium;
    let snapshot = Snapshot::read(&**medium, &config.root)?;
    Snapshot::remove(&**medium, &config.root)?;
    let checkpoint = Checkpoint::read(&**medium, &config.root)?;
    let (log, mut writers) = SegmentedLog::open(medium, &config.log_dir(), config.segment_bytes)?;
    let queues = Arc::new(QueueTable::new(config));
    let index = open_index(config)?;
    let dispatcher = Dispatcher::new(
        Arc::clone(&queues),
        index.clone(),
        observer,
        config.delay_levels.clone(),
    );

    if let Some(snapshot) = snapshot.filter(|_| !unclean)
        && clean_stop::snapshot_holds(&snapshot, &writers)
        && clean_stop::restore_queues(&snapshot, &queues)
        && index
            .as_ref()
            .is_none_or(|index| index.file_count() as u64 >= snapshot.index_files)
    {
        let writer = publish(writers, snapshot.log_end);
        dispatcher.start_at(snapshot.log_end);
        let log = CommitLog::new(
            log,
            Arc::clone(medium),
            Arc::clone(clock),
            FoundTail {
                writer,
                end: snapshot.log_end,
                last_record: snapshot.last_record,
                store_timestamp: snapshot.store_timestamp,
            },
            config.durability.is_device(),
        );
        let parts = Parts {
            log,
            queues,
            index,
            dispatcher,
            checkpoint,
            damage: Vec::new(),
        };
        return Ok((parts, Opened::Clean));
    }

    let mut report = RecoveryReport {
        unclean,
        scanned_from: scan::scan_start(&checkpoint, &writers),
        ..RecoveryReport::default()
    };
    let scan = scan::scan(&writers, report.scanned_from, &**medium)?;
    report.records = scan.records;
    report.log_end = scan.end;
    report.damage = scan
        .damage
        .iter()
        .map(|(damage, _)| damage.clone())
        .collect();
    torn_end::set_aside_rest(
        config,
        &log,
        &mut writers,
        scan.end,
        scan.fault,
        &mut report,
    )?;
    placeholder::fill(config, &mut writers, &scan.damage, &mut report)?;
    let writer = publish(writers, scan.end);
    let log = CommitLog::new(
        log,
        Arc::clone(medium),
        Arc::clone(clock),
        FoundTail {
            writer,
            end: scan.end,
            last_record: scan.last_record,
            store_timestamp: scan.store_timestamp,
        },
        config.durability.is_device(),
    );
    let mut parts = Parts {
        log,
        queues,
        index,
        dispatcher,
        checkpoint,
        damage: Vec::new(),
    };
    derived::derive_again(config, &mut parts, &mut report)?;
    parts.dispatcher.start_at(scan.end);
    parts.damage = report.damage.clone();
    say(&report);
    Ok((parts, Opened::Recovered(report)))
}

fn open_index(config: &StoreConfig) -> Result<Option<Arc<Index>>, StoreError> {
    if !config.index_enabled {
        return Ok(None);
    }
    let shape = Shape {
        slots: config.index_slots.max(1),
        entries: config.index_entries.max(2),
    };
    let index = Index::open(&config.medium, &config.root.join("index"), shape)?;
    Ok(Some(Arc::new(index)))
}

/// Readers may see everything below `end`; returns the writer of the tail.
fn publish(writers: Vec<SegmentWriter>, end: u64) -> Option<SegmentWriter> {
    let mut tail = None;
    for mut writer in writers {
        let limit = writer.segment().limit();
        if writer.segment().base() > end {
            continue;
        }
        writer.publish(limit.min(end));
        tail = Some(writer);
    }
    tail
}

fn say(report: &RecoveryReport) {
    tracing::info!(
        unclean = report.unclean,
        from = report.scanned_from,
        end = report.log_end,
        records = report.records,
        entries_added = report.entries_added,
        entries_mended = report.entries_mended,
        "the log was scanned"
    );
    for damage in report.damage.iter().chain(&report.torn) {
        tracing::warn!(
            file = %damage.file.display(),
            from = damage.from,
            to = damage.to,
            reason = %damage.reason,
            "bytes of the log are no record"
        );
    }
    for file in &report.set_aside {
        tracing::warn!(file = %file.display(), "set aside");
    }
}
