//! The scan of the log: where its records end, and what in front of that is none.

use agena_protocol::record::{MAGIC_V1, MAGIC_V2, RecordError, RecordView};

use super::Damage;
use super::placeholder::Found;
use crate::checkpoint::Checkpoint;
use crate::commit_log::{Next, next};
use crate::error::StoreError;
use crate::medium::{Medium, StoreFile};
use crate::segment::SegmentWriter;

/// What the scan of the log found.
pub(super) struct Scan {
    pub(super) end: u64,
    /// Why it ends there, where something stands behind the end.
    pub(super) fault: RecordError,
    pub(super) last_record: Option<u64>,
    pub(super) store_timestamp: i64,
    pub(super) records: u64,
    /// With the store timestamp of the last record in front of it.
    pub(super) damage: Vec<Found>,
}

/// Where the scan begins: at our mark, or at the file that the original's recovery would choose.
pub(super) fn scan_start(checkpoint: &Checkpoint, writers: &[SegmentWriter]) -> u64 {
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

pub(super) fn scan(
    writers: &[SegmentWriter],
    from: u64,
    medium: &dyn Medium,
) -> Result<Scan, StoreError> {
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
            scan.damage.push((
                Damage {
                    file: segment.file().path.clone(),
                    from: at,
                    to: segment.base(),
                    reason: RecordError::Cut {
                        wanted: usize::try_from(segment.base() - at).unwrap_or(usize::MAX),
                        found: 0,
                    },
                },
                scan.store_timestamp,
            ));
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
                scan.damage.push((
                    Damage {
                        file: segment.file().path.clone(),
                        from: fault_at,
                        to: segment.limit(),
                        reason: fault,
                    },
                    scan.store_timestamp,
                ));
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
                scan.damage.push((
                    Damage {
                        file: segment.file().path.clone(),
                        from: at,
                        to,
                        reason: fault,
                    },
                    scan.store_timestamp,
                ));
                at = to;
            }
        }
    }
}

/// The record at `offset` of an unpublished file.
pub(super) fn record_at(
    writer: &SegmentWriter,
    offset: u64,
) -> Result<RecordView<'_>, RecordError> {
    let segment = writer.segment();
    let at = usize::try_from(offset.saturating_sub(segment.base())).unwrap_or(usize::MAX);
    let bytes = writer.all_bytes().get(at..).unwrap_or_default();
    match next(bytes, offset, segment, true)? {
        Next::Record(record) => Ok(record),
        Next::Blank(_) => Err(RecordError::Magic(agena_protocol::record::MAGIC_BLANK)),
    }
}

/// The first whole record in `bytes` from `from` on that is not older than `store_timestamp`.
pub(super) fn find_record(
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
pub(super) fn nonzero_end(
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
