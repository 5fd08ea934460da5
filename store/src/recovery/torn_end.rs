//! What stands behind the end of the log is taken off it and kept in files of its own, below `damaged/`.

use std::path::Path;

use agena_protocol::record::RecordError;

use super::scan::nonzero_end;
use super::{Damage, RecoveryReport};
use crate::config::StoreConfig;
use crate::error::StoreError;
use crate::medium::{Access, Medium};
use crate::segment::SegmentWriter;
use crate::segmented_log::SegmentedLog;

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
