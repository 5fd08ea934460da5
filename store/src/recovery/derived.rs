//! Queues and index put right from the log: what they have is compared and mended, what they lack is filled in.

use std::collections::HashSet;
use std::sync::Arc;

use agena_protocol::queue::QueueId;
use agena_protocol::record::{RecordError, RecordView};

use super::scan::find_record;
use super::{Damage, Parts, RecoveryReport};
use crate::commit_log::CommitLog;
use crate::config::StoreConfig;
use crate::consume_queue::{Entry, Put};
use crate::entry_log::QueueName;
use crate::error::StoreError;
use crate::index_file::Key;

/// Puts queues and index right from the log.
pub(super) fn derive_again(
    config: &StoreConfig,
    parts: &mut Parts,
    report: &mut RecoveryReport,
) -> Result<(), StoreError> {
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
    let files_missing = files_missing || has_odd_files(parts);
    // Without a mark, as in a store of the original, there may be keys; with one, it says how many files there were.
    let index_missing =
        parts.index.is_some() && index_files == 0 && parts.checkpoint.mark.is_none();
    if from > start && (files_missing || index_missing) {
        report.rebuilt = true;
        from = start;
    }
    // What is derived now is in memory only: until the next mark, a crash must find what there is to derive again.
    lower_mark(config, parts, from)?;
    if let Some(index) = &parts.index {
        let holds = |offset, hash| has_key(parts, offset, hash);
        let whole = index.take_back(from, parts.log.end(), &holds)?;
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
        lower_mark(config, parts, start)?;
        derive_range(parts, start, Some(&holes), report)?;
    }
    parts.queues.recount_on_disk();
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

/// Whether the last file of a queue does not have its length: entries are missing that only the log can tell.
fn has_odd_files(parts: &Parts) -> bool {
    parts.queues.all().iter().any(|queue| {
        let (first, behind) = queue.lock().log.files();
        let files = parts.queues.files(queue.kind);
        first < behind && !files.has_file(&queue.name, behind - 1)
    })
}

/// Whether the record at an offset has a key with this hash. What retention took is believed.
fn has_key(parts: &Parts, offset: u64, hash: u32) -> bool {
    if offset < parts.log.start() {
        return true;
    }
    let Some(segment) = parts.log.segments().find(offset) else {
        return false;
    };
    let Ok(record) = RecordView::parse_unsummed(segment.bytes_from(offset)) else {
        return false;
    };
    let mut keys = Vec::new();
    parts.dispatcher.derive(&record, &mut keys);
    record.physical_offset().number() == offset && keys.iter().any(|key| key.hash == hash)
}

/// Takes a mark back that lies behind `offset`, on the device.
fn lower_mark(config: &StoreConfig, parts: &mut Parts, offset: u64) -> Result<(), StoreError> {
    match &mut parts.checkpoint.mark {
        Some(mark) if mark.offset > offset => {
            mark.offset = offset;
            parts.checkpoint.write(&config.medium, &config.root)
        }
        Some(_) | None => Ok(()),
    }
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
    if only.is_none()
        && !holes.is_empty()
        && holes.contains(&(Arc::clone(&queue.name.topic), queue.name.id))
    {
        // It is built from the log's start in the next pass.
        parts.dispatcher.tell(record, &entry, true);
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
    let index = usize::try_from(at - segment.base()).unwrap_or(usize::MAX);
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
