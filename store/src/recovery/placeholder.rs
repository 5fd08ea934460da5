//! Damage within the log is set aside, and a record that is in no queue takes its place.
//!
//! So the log can be walked through again: by the next recovery, by tools, and by the original, which would drop
//! everything behind the first bad record. Queue entries into the damage still lead to something else than they say;
//! readers name that and step over it. What is too short for a record, or spans a missing file, stays as it is.

use std::net::{Ipv4Addr, SocketAddr};

use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::queue::QueueId;
use agena_protocol::record::{BLANK_BYTES, RecordEncoder, RecordFields, blank};
use agena_protocol::sys_flag::TransactionState;

use super::{Damage, RecoveryReport, torn_end};
use crate::config::StoreConfig;
use crate::error::StoreError;
use crate::segment::SegmentWriter;

/// No topic that a producer may name.
pub(crate) const TOPIC: &str = "%DAMAGED";

/// Bytes of one placeholder at most: longer damage gets several.
const BYTES_MAX: usize = 1 << 20;

/// Damage that the scan found, and when the record in front of it was stored.
pub(super) type Found = (Damage, i64);

/// Puts placeholders where the scan found damage, on the device.
pub(super) fn fill(
    config: &StoreConfig,
    writers: &mut [SegmentWriter],
    found: &[Found],
    report: &mut RecoveryReport,
) -> Result<(), StoreError> {
    let mut filled = Vec::new();
    for (damage, store_timestamp) in found {
        let holds = |writer: &SegmentWriter| {
            let segment = writer.segment();
            segment.base() <= damage.from && damage.to <= segment.limit()
        };
        let Some(number) = writers.iter().position(holds) else {
            continue;
        };
        let writer = &mut writers[number];
        let Some(bytes) = placeholder(damage, writer.segment().limit(), *store_timestamp) else {
            continue;
        };
        let base = writer.segment().base();
        let (from, to) = (index(damage.from - base), index(damage.to - base));
        torn_end::keep(config, damage.from, &writer.all_bytes()[from..to], report)?;
        filled.push((number, damage.from, bytes));
    }
    // Nothing is written over before its copy is on the device.
    torn_end::sync_names(config, report)?;
    let medium = &*config.medium;
    for (number, from, bytes) in filled {
        let writer = &mut writers[number];
        let segment = std::sync::Arc::clone(writer.segment());
        segment.reserve(medium, from + bytes.len() as u64, 0)?;
        writer.write(from, bytes.len(), |out| out.copy_from_slice(&bytes));
        medium
            .sync_data(segment.file())
            .map_err(|error| StoreError::io("sync", &segment.file().path, error))?;
    }
    Ok(())
}

/// What is written in place of damage; `None` where nothing fits.
fn placeholder(damage: &Damage, limit: u64, store_timestamp: i64) -> Option<Vec<u8>> {
    let bytes = usize::try_from(damage.to - damage.from).ok()?;
    if damage.to == limit && bytes >= BLANK_BYTES {
        return Some(blank(u32::try_from(bytes).ok()?).to_vec());
    }
    let body = vec![0; bytes.min(BYTES_MAX)];
    let least = record(&[])?.total_bytes();
    let mut out = vec![0; bytes];
    let mut at = 0;
    while at < bytes {
        let left = bytes - at;
        // What remains must hold a record as well.
        let length = if left <= BYTES_MAX {
            left
        } else {
            BYTES_MAX - least
        };
        let mut record = record(body.get(..length.checked_sub(least)?)?)?;
        record.write(
            &mut out[at..],
            QueueOffset::new(0),
            PhysicalOffset::new(damage.from + at as u64),
            store_timestamp,
        );
        at += length;
    }
    Some(out)
}

/// Rolled back, it is in no queue and in no index, here as in the original.
fn record(body: &[u8]) -> Option<RecordEncoder<'_>> {
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let fields = RecordFields {
        topic: TOPIC,
        queue_id: QueueId::new(0),
        flag: 0,
        sys_flag: TransactionState::Rollback.bits(),
        born_timestamp: 0,
        born_host: nowhere,
        store_host: nowhere,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        properties: b"",
    };
    RecordEncoder::new(fields, false).ok()
}

fn index(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use agena_protocol::record::{RecordError, RecordView, blank_length};

    use super::*;

    fn damage(from: u64, bytes: u64) -> Damage {
        Damage {
            file: PathBuf::new(),
            from,
            to: from + bytes,
            reason: RecordError::Magic(0),
        }
    }

    #[test]
    fn placeholders_fill_damage_of_any_length_exactly() {
        let least = record(&[]).unwrap().total_bytes() as u64;
        let most = BYTES_MAX as u64;
        for bytes in [least, least + 1, 5000, most, most + 1, 3 * most + 7] {
            let filled = placeholder(&damage(4096, bytes), 1 << 30, 77).unwrap();
            assert_eq!(filled.len() as u64, bytes);
            let mut at = 0;
            while at < filled.len() {
                let record = RecordView::parse(&filled[at..]).unwrap();
                assert_eq!(record.physical_offset().number(), 4096 + at as u64);
                assert_eq!(record.store_timestamp(), 77);
                assert!(!record.transaction().is_queued());
                at += record.bytes().len();
            }
        }
        assert_eq!(placeholder(&damage(0, least - 1), 1 << 30, 0), None);
    }

    #[test]
    fn damage_up_to_the_file_s_end_becomes_a_filler() {
        let filled = placeholder(&damage(1000, 24), 1024, 0).unwrap();
        assert_eq!(blank_length(&filled), Some(24));
    }
}
