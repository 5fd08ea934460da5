//! What stands behind the end of the log is taken off it and kept in files of its own, below `damaged/`.

use std::path::{Path, PathBuf};

use agena_protocol::record::RecordError;

use super::scan::nonzero_end;
use super::{Damage, RecoveryReport};
use crate::config::StoreConfig;
use crate::error::StoreError;
use crate::medium::{Access, Medium, make_dir};
use crate::segment::SegmentWriter;
use crate::segmented_log::SegmentedLog;

/// Where they are, below the store's root.
const DIR: &str = "damaged";

/// Takes what stands behind the end off the log: the rest of the last file into a file of its own, later files as they
/// are; empty ones go.
pub(super) fn set_aside_rest(
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
    for writer in later {
        let segment = writer.segment();
        let path = segment.file().path.clone();
        if nonzero_end(medium, segment.file(), 0, segment.len())? == 0 {
            log.remove_file(segment)?;
            continue;
        }
        let aside = free_name(config, segment.base(), "file")?;
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
                keep(config, from, bytes, report)?;
                sync_names(config, report)?;
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
    sync_names(config, report)
}

/// Writes bytes of the log that are taken off it, or will be written over, into a file of their own. They are on the
/// device when the names are synced too.
pub(super) fn keep(
    config: &StoreConfig,
    from: u64,
    bytes: &[u8],
    report: &mut RecoveryReport,
) -> Result<(), StoreError> {
    let aside = free_name(config, from, "bytes")?;
    write_aside(&*config.medium, &aside, bytes)?;
    report.set_aside.push(aside);
    Ok(())
}

/// The names of what was set aside, and that it is gone from where it was, are on the device.
pub(super) fn sync_names(config: &StoreConfig, report: &RecoveryReport) -> Result<(), StoreError> {
    if report.set_aside.is_empty() {
        return Ok(());
    }
    // The new name first: a cut in between leaves two of them, not none.
    for dir in [config.root.join(DIR), config.log_dir()] {
        config
            .medium
            .sync_dir(&dir)
            .map_err(|error| StoreError::io("sync", &dir, error))?;
    }
    Ok(())
}

/// A name below `damaged/` that is not taken: what an earlier recovery set aside is never written over.
fn free_name(config: &StoreConfig, from: u64, what: &str) -> Result<PathBuf, StoreError> {
    let dir = config.root.join(DIR);
    make_dir(&*config.medium, &dir).map_err(|error| StoreError::io("create", &dir, error))?;
    let mut path = dir.join(format!("{from:020}-{what}"));
    let mut number = 2_u32;
    while config.medium.meta(&path).is_ok() {
        path = dir.join(format!("{from:020}-{what}-{number}"));
        number += 1;
    }
    Ok(path)
}

fn write_aside(medium: &dyn Medium, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
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
