//! Opening a store: what a clean stop left is taken as it is; after a crash the log is scanned from the checkpoint's mark
//! on, ends where it holds, and everything derived is put right from it.
//!
//! - Every scanned record is checked: size, magic, sums, its own position. A record that does not hold, with good ones
//!   behind it, is damage: reported, and stepped over by readers. With nothing good behind it, it is the torn end: the rest
//!   is set aside in a file below `damaged/` and its place zeroed, so that stale bytes never come back as messages.
//! - What looks like a record behind damage counts only if it is not older than the last good one: a truncated log may
//!   hold remains of an earlier life.
//! - Queues and index get the scanned records again; what they have is compared and mended, what they lack is filled in
//!   from the log, from its start if need be.
//!
//! Apache: `CommitLog.recoverNormally/recoverAbnormally`, where everything behind the first bad record is dropped.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use agena_protocol::clock::Clock;
use agena_protocol::queue::QueueId;
use agena_protocol::record::{MAGIC_V1, MAGIC_V2, RecordError, RecordView};

use crate::checkpoint::Checkpoint;
use crate::commit_log::{CommitLog, FoundTail, Next, next};
use crate::config::StoreConfig;
use crate::consume_queue::{Entry, Kind, Put, Queue};
use crate::dispatch::{Dispatcher, Observer};
use crate::entry_log::QueueName;
use crate::error::StoreError;
use crate::index::Index;
use crate::index_file::{Key, Shape};
use crate::medium::{Access, Medium, StoreFile};
use crate::queue_table::QueueTable;
use crate::segment::SegmentWriter;
use crate::segmented_log::SegmentedLog;
use crate::snapshot::Snapshot;

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
    /// Bytes that are no records, with good ones behind them. They stay where they are.
    pub damage: Vec<Damage>,
    /// What stood behind the end, if anything did.
    pub torn: Option<Damage>,
    /// Files that hold what was taken off the end.
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
        && snapshot_holds(&snapshot, &writers)
        && restore_queues(&snapshot, &queues)
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
        scanned_from: scan_start(&checkpoint, &writers),
        ..RecoveryReport::default()
    };
    let scan = scan(&writers, report.scanned_from, &**medium)?;
    report.records = scan.records;
    report.log_end = scan.end;
    report.damage = scan.damage;
    set_aside_rest(
        config,
        &log,
        &mut writers,
        scan.end,
        scan.fault,
        &mut report,
    )?;
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
    derive_again(&parts, &mut report)?;
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

/// Whether the log is still the one that the clean stop left.
fn snapshot_holds(snapshot: &Snapshot, writers: &[SegmentWriter]) -> bool {
    let Some(last) = writers.last() else {
        return snapshot.log_end == 0 && snapshot.queues.is_empty();
    };
    let segment = last.segment();
    let Some(last_record) = snapshot.last_record else {
        return false;
    };
    if last_record < segment.base() || snapshot.log_end > segment.limit() {
        return false;
    }
    let ends_there = matches!(
        record_at(last, last_record),
        Ok(record) if last_record + record.bytes().len() as u64 == snapshot.log_end
    );
    // Somebody else may have appended.
    ends_there && record_at(last, snapshot.log_end).is_err()
}

/// The record at `offset` of an unpublished file.
fn record_at(writer: &SegmentWriter, offset: u64) -> Result<RecordView<'_>, RecordError> {
    let segment = writer.segment();
    let at = usize::try_from(offset.saturating_sub(segment.base())).unwrap_or(usize::MAX);
    let bytes = writer.all_bytes().get(at..).unwrap_or_default();
    match next(bytes, offset, segment, true)? {
        Next::Record(record) => Ok(record),
        Next::Blank(_) => Err(RecordError::Magic(agena_protocol::record::MAGIC_BLANK)),
    }
}

/// Takes the queues over from the snapshot; false when files are not there that should be.
fn restore_queues(snapshot: &Snapshot, queues: &QueueTable) -> bool {
    let mut topic: Arc<str> = Arc::from("");
    let mut restored = Vec::with_capacity(snapshot.queues.len());
    for known in &snapshot.queues {
        if *topic != *known.topic {
            topic = Arc::from(known.topic.as_str());
        }
        let kind = if known.is_batch {
            Kind::Batch
        } else {
            Kind::Simple
        };
        let files = queues.files(kind);
        let name = QueueName::new(Arc::clone(&topic), QueueId::new(known.id));
        let found = (known.first_file, known.behind_file);
        if found.0 < found.1 && !files.has_file(&name, found.1 - 1) {
            return false;
        }
        restored.push(if known.is_known {
            let queue = Queue::new(name, kind, files);
            queue.restore(files, found, known.summary());
            queue
        } else {
            Queue::on_disk(name, kind, files, found)
        });
    }
    for queue in restored {
        queues.insert(queue);
    }
    true
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

/// Where the scan begins: at our mark, or at the file that the original's recovery would choose.
fn scan_start(checkpoint: &Checkpoint, writers: &[SegmentWriter]) -> u64 {
    let Some(first) = writers.first() else {
        return 0;
    };
    if let Some(mark) = &checkpoint.mark {
        let holder = writers.iter().find(|writer| {
            let segment = writer.segment();
            (segment.base()..segment.limit()).contains(&mark.offset)
        });
        // The mark is a boundary: of a record, of the filler, or of the log's end. What cannot be told from a damaged
        // boundary is scanned from the file's start.
        return holder.map_or_else(
            || first.segment().base(),
            |writer| {
                if record_at(writer, mark.offset).is_ok() || is_zero_at(writer, mark.offset) {
                    mark.offset
                } else {
                    writer.segment().base()
                }
            },
        );
    }
    let trusted = checkpoint.min_timestamp();
    writers
        .iter()
        .rev()
        .find(|writer| {
            record_at(writer, writer.segment().base()).is_ok_and(|record| {
                record.store_timestamp() != 0 && record.store_timestamp() <= trusted
            })
        })
        .unwrap_or(first)
        .segment()
        .base()
}

fn is_zero_at(writer: &SegmentWriter, offset: u64) -> bool {
    let at = usize::try_from(offset - writer.segment().base()).unwrap_or(usize::MAX);
    writer
        .all_bytes()
        .get(at..at.saturating_add(8))
        .is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0))
}

/// What the scan of the log found.
struct Scan {
    end: u64,
    /// Why it ends there, where something stands behind the end.
    fault: RecordError,
    last_record: Option<u64>,
    store_timestamp: i64,
    records: u64,
    damage: Vec<Damage>,
}

fn scan(writers: &[SegmentWriter], from: u64, medium: &dyn Medium) -> Result<Scan, StoreError> {
    let mut scan = Scan {
        end: from,
        fault: RecordError::Magic(0),
        last_record: None,
        store_timestamp: 0,
        records: 0,
        damage: Vec::new(),
    };
    let first = writers.partition_point(|writer| writer.segment().limit() <= from);
    let mut rest = writers[first..].iter().peekable();
    let mut at = from;
    while let Some(writer) = rest.next() {
        let segment = writer.segment();
        if segment.base() > at {
            // Files are missing in the middle.
            scan.damage.push(Damage {
                file: segment.file().path.clone(),
                from: at,
                to: segment.base(),
                reason: RecordError::Cut {
                    wanted: usize::try_from(segment.base() - at).unwrap_or(usize::MAX),
                    found: 0,
                },
            });
            at = segment.base();
        }
        match scan_segment(writer, at, medium, &mut scan)? {
            Stop::Blank(blank_at) => {
                // Behind a filler the log goes on in the next file; without one it ends at the filler, as the
                // original has it, which the next append writes again or overwrites.
                scan.end = if rest.peek().is_some() {
                    segment.limit()
                } else {
                    blank_at
                };
                at = segment.limit();
            }
            Stop::Fault(fault_at, fault) => {
                let goes_on = rest.peek().is_some_and(|next| {
                    record_at(next, next.segment().base())
                        .is_ok_and(|record| record.store_timestamp() >= scan.store_timestamp)
                });
                if !goes_on {
                    scan.end = fault_at;
                    scan.fault = fault;
                    return Ok(scan);
                }
                scan.damage.push(Damage {
                    file: segment.file().path.clone(),
                    from: fault_at,
                    to: segment.limit(),
                    reason: fault,
                });
                at = segment.limit();
            }
        }
    }
    Ok(scan)
}

/// Where the records of a file stop.
enum Stop {
    /// At a filler, which begins here.
    Blank(u64),
    /// At something that is none, with nothing good behind it in this file.
    Fault(u64, RecordError),
}

fn scan_segment(
    writer: &SegmentWriter,
    from: u64,
    medium: &dyn Medium,
    scan: &mut Scan,
) -> Result<Stop, StoreError> {
    let segment = writer.segment();
    let bytes = writer.all_bytes();
    let mut at = from;
    loop {
        let index = usize::try_from(at - segment.base()).unwrap_or(usize::MAX);
        match next(bytes.get(index..).unwrap_or_default(), at, segment, true) {
            Ok(Next::Record(record)) => {
                scan.records += 1;
                scan.last_record = Some(at);
                scan.store_timestamp = scan.store_timestamp.max(record.store_timestamp());
                at += record.bytes().len() as u64;
            }
            Ok(Next::Blank(_)) => return Ok(Stop::Blank(at)),
            Err(fault) => {
                let data_end = nonzero_end(medium, segment.file(), index as u64, segment.len())?;
                let data_end = usize::try_from(data_end)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                let found = find_record(
                    &bytes[..data_end],
                    index + 1,
                    segment.base(),
                    scan.store_timestamp,
                );
                let Some(found) = found else {
                    return Ok(Stop::Fault(at, fault));
                };
                let to = segment.base() + found as u64;
                scan.damage.push(Damage {
                    file: segment.file().path.clone(),
                    from: at,
                    to,
                    reason: fault,
                });
                at = to;
            }
        }
    }
}

/// The first whole record in `bytes` from `from` on that is not older than `store_timestamp`.
pub(crate) fn find_record(
    bytes: &[u8],
    from: usize,
    base: u64,
    store_timestamp: i64,
) -> Option<usize> {
    let magics = [MAGIC_V1.to_be_bytes(), MAGIC_V2.to_be_bytes()];
    (from..bytes.len().saturating_sub(8)).find(|at| {
        // The magic stands in the second word; its first byte alone rules out nearly every place.
        bytes[at + 4] == magics[0][0]
            && magics
                .iter()
                .any(|magic| bytes[at + 4..at + 8] == magic[..])
            && RecordView::parse(&bytes[*at..]).is_ok_and(|record| {
                record.physical_offset().number() == base + *at as u64
                    && record.store_timestamp() >= store_timestamp
            })
    })
}

/// Behind the last byte of a file that is not zero, or `from` when all are from there on.
pub(crate) fn nonzero_end(
    medium: &dyn Medium,
    file: &StoreFile,
    from: u64,
    len: u64,
) -> Result<u64, StoreError> {
    let mut chunk = vec![0; 1 << 20];
    let mut end = from;
    let mut at = from;
    while at < len {
        let found = medium
            .next_data(file, at)
            .map_err(|error| StoreError::io("seek in", &file.path, error))?;
        let Some(data) = found.filter(|data| *data < len) else {
            break;
        };
        let bytes = usize::try_from(len - data).map_or(chunk.len(), |left| left.min(chunk.len()));
        let chunk = &mut chunk[..bytes];
        medium
            .read_at(file, chunk, data)
            .map_err(|error| StoreError::io("read", &file.path, error))?;
        if let Some(last) = chunk.iter().rposition(|byte| *byte != 0) {
            end = data + last as u64 + 1;
        }
        at = data + bytes as u64;
    }
    Ok(end)
}

/// Takes what stands behind the end off the log: the rest of the last file into a file of its own, later files as they
/// are; empty ones go.
fn set_aside_rest(
    config: &StoreConfig,
    log: &SegmentedLog,
    writers: &mut Vec<SegmentWriter>,
    end: u64,
    fault: RecordError,
    report: &mut RecoveryReport,
) -> Result<(), StoreError> {
    let medium = &*config.medium;
    let behind = writers.partition_point(|writer| writer.segment().base() <= end);
    // The file that begins exactly at the end stays, empty: it is the tail.
    let later = writers.split_off(behind);
    log.truncate_list(end.saturating_add(1));
    let dir = config.root.join("damaged");
    let make_dir = || {
        medium
            .create_dir(&dir)
            .map_err(|error| StoreError::io("create", &dir, error))
    };
    for writer in later {
        let segment = writer.segment();
        let path = segment.file().path.clone();
        if nonzero_end(medium, segment.file(), 0, segment.len())? == 0 {
            log.remove_file(segment)?;
            continue;
        }
        make_dir()?;
        let aside = dir.join(format!("{:020}-file", segment.base()));
        medium
            .rename(&path, &aside)
            .map_err(|error| StoreError::io("rename", &path, error))?;
        report.set_aside.push(aside);
    }
    if let Some(last) = writers.last() {
        let segment = last.segment();
        let file = segment.file();
        let at = end.min(segment.limit()) - segment.base();
        let data_end = nonzero_end(medium, file, at, segment.len())?;
        if data_end > at {
            let (from, to) = (segment.base() + at, segment.base() + data_end);
            let bytes = &last.all_bytes()[to_index(at)..to_index(data_end)];
            // A filler at the end of the last file is no damage; it is written again.
            if agena_protocol::record::blank_length(bytes).is_none() {
                make_dir()?;
                let aside = dir.join(format!("{from:020}-bytes"));
                write_aside(medium, &aside, bytes)?;
                report.set_aside.push(aside);
                report.torn = Some(Damage {
                    file: file.path.clone(),
                    from,
                    to,
                    reason: fault,
                });
            }
            medium
                .zero(file, at, segment.len() - at)
                .and_then(|()| medium.sync_data(file))
                .map_err(|error| StoreError::io("zero", &file.path, error))?;
        }
    }
    if !report.set_aside.is_empty() {
        for dir in [&dir, &config.root, &config.log_dir()] {
            medium
                .sync_dir(dir)
                .map_err(|error| StoreError::io("sync", dir, error))?;
        }
    }
    Ok(())
}

fn write_aside(
    medium: &dyn Medium,
    path: &std::path::Path,
    bytes: &[u8],
) -> Result<(), StoreError> {
    let write = || {
        let file = medium.open(path, Access::Create)?;
        medium.write_at(&file, bytes, 0)?;
        medium.sync_data(&file)
    };
    write().map_err(|error| StoreError::io("write", path, error))
}

fn to_index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

/// Puts queues and index right from the log.
fn derive_again(parts: &Parts, report: &mut RecoveryReport) -> Result<(), StoreError> {
    parts.queues.scan()?;
    let start = parts.log.start();
    let mut from = report.scanned_from.max(start);
    let queues_on_disk = parts.queues.all().len() as u64;
    let index_files = parts
        .index
        .as_ref()
        .map_or(0, |index| index.file_count() as u64);
    let files_missing = parts.checkpoint.mark.is_some_and(|mark| {
        queues_on_disk < mark.queues || (parts.index.is_some() && index_files < mark.index_files)
    });
    let index_missing = parts.index.is_some() && index_files == 0;
    if from > start && (files_missing || index_missing) {
        report.rebuilt = true;
        from = start;
    }
    if let Some(index) = &parts.index {
        let whole = index.take_back(from, parts.log.end())?;
        if !whole {
            tracing::warn!("the key index was torn; its chains were built anew");
        }
    }
    let holes = derive_range(parts, from, None, report)?;
    if !holes.is_empty() {
        // Entries are missing in front of what was scanned: the log has them.
        tracing::warn!(
            queues = holes.len(),
            "queues lack entries; built from the log"
        );
        report.rebuilt = true;
        derive_range(parts, start, Some(&holes), report)?;
    }
    for queue in parts.queues.all() {
        if queue.is_loaded() {
            queue.reset_next();
        }
    }
    if let Some(index) = &parts.index {
        index.write_waiting()?;
    }
    Ok(())
}

/// Goes over the log from `from` on. With `only`, just for these queues, and what is missing then is gone.
fn derive_range(
    parts: &Parts,
    from: u64,
    only: Option<&HashSet<(Arc<str>, QueueId)>>,
    report: &mut RecoveryReport,
) -> Result<HashSet<(Arc<str>, QueueId)>, StoreError> {
    let mut holes = HashSet::new();
    let mut failed = None;
    let mut keys: Vec<Key> = Vec::new();
    let fill = only.is_some() || from <= parts.log.start();
    let end = parts.log.end();
    let mut at = from;
    while at < end && failed.is_none() {
        let mut last_timestamp = 0;
        // What the scan has not just checked is checked here.
        let (to, check_sums) = if at < report.scanned_from {
            (end.min(report.scanned_from), true)
        } else {
            (end, false)
        };
        let walked = parts.log.walk(at, to, check_sums, |record, _| {
            last_timestamp = record.store_timestamp();
            let result = derive_record(parts, record, only, fill, &mut keys, &mut holes, report);
            if let Err(error) = result {
                failed = Some(error);
            }
            if keys.len() > 4096
                && let Some(index) = &parts.index
            {
                index.add(&mut keys);
            }
            failed.is_none()
        });
        at = match walked {
            Ok(at) => at,
            Err((at, reason)) => skip_damage(parts, at, reason, last_timestamp, report),
        };
    }
    if let Some(index) = &parts.index {
        index.add(&mut keys);
    }
    failed.map_or(Ok(holes), Err)
}

fn derive_record(
    parts: &Parts,
    record: &RecordView<'_>,
    only: Option<&HashSet<(Arc<str>, QueueId)>>,
    fill: bool,
    keys: &mut Vec<Key>,
    holes: &mut HashSet<(Arc<str>, QueueId)>,
    report: &mut RecoveryReport,
) -> Result<(), StoreError> {
    let before = keys.len();
    let derived = parts.dispatcher.derive(record, keys);
    if only.is_some() {
        // The first pass has dealt with the index.
        keys.truncate(before);
    }
    let Some(entry) = derived.entry else {
        return Ok(());
    };
    if only.is_some()
        && parts
            .queues
            .get(record.topic(), record.queue_id())
            .is_none()
    {
        return Ok(());
    }
    let queue = parts.queues.get_or_make(record.topic(), record.queue_id());
    if let Some(only) = only
        && !only.contains(&(Arc::clone(&queue.name.topic), queue.name.id))
    {
        return Ok(());
    }
    let files = parts.queues.files(queue.kind);
    if !queue.is_loaded() {
        queue.load(files, &|name, number, entry| {
            belongs(&parts.log, name, number, entry)
        })?;
    }
    if fill && entry.queue_offset.saturating_sub(queue.next_entry()) > records_max(&parts.log) {
        // The sums do not cover a record's number unless it carries one over the whole.
        tracing::warn!(
            offset = entry.entry.physical_offset,
            number = entry.queue_offset,
            "a record has a number that its queue cannot have reached"
        );
        return Ok(());
    }
    match queue.put_again(files, &entry, fill)? {
        Put::Added => {
            report.entries_added += 1;
            parts.queues.note_unwritten(&queue);
        }
        Put::Mended => report.entries_mended += 1,
        Put::Known => {}
        Put::Hole => {
            holes.insert((Arc::clone(&queue.name.topic), queue.name.id));
        }
    }
    if only.is_none() {
        parts.dispatcher.tell(record, &entry, true);
    }
    Ok(())
}

/// How many records the log can have at most: no more entries than that can be missing in a queue.
fn records_max(log: &CommitLog) -> u64 {
    (log.end() - log.start()) / agena_protocol::record::OVERHEAD_BYTES as u64
}

/// The offset behind damage: known from the scan, or found now and remembered.
fn skip_damage(
    parts: &Parts,
    at: u64,
    reason: RecordError,
    store_timestamp: i64,
    report: &mut RecoveryReport,
) -> u64 {
    if let Some(known) = report
        .damage
        .iter()
        .find(|damage| (damage.from..damage.to).contains(&at))
    {
        return known.to;
    }
    let Some(segment) = parts.log.segments().find(at) else {
        return parts.log.end();
    };
    let bytes = segment.bytes_from(segment.base());
    let index = to_index(at - segment.base());
    let to = find_record(bytes, index + 1, segment.base(), store_timestamp)
        .map_or(segment.limit(), |found| segment.base() + found as u64);
    report.damage.push(Damage {
        file: segment.file().path.clone(),
        from: at,
        to,
        reason,
    });
    to
}

/// Whether an entry names a record of this queue with this number. What cannot be looked at any more, because retention
/// took it, is believed; so is a record that is damaged but clearly the one that is meant.
pub(crate) fn belongs(log: &CommitLog, name: &QueueName, number: u64, entry: &Entry) -> bool {
    if entry.physical_offset < log.start() {
        return true;
    }
    if entry.physical_end() > log.end() {
        return false;
    }
    let Some(segment) = log.segments().find(entry.physical_offset) else {
        return true;
    };
    let bytes = segment.bytes_from(entry.physical_offset);
    match RecordView::parse_unsummed(bytes) {
        Ok(record) => {
            record.physical_offset().number() == entry.physical_offset
                && record.topic() == &*name.topic
                && record.queue_id() == name.id
                && record.queue_offset().number() == number
        }
        Err(_) => bytes
            .first_chunk::<4>()
            .is_some_and(|size| u32::from_be_bytes(*size) == entry.size),
    }
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
