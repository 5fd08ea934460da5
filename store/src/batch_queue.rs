//! The entries of queues whose records hold inner batches (topics of `queue.type=BatchCQ`).
//!
//! ```text
//! 0 physical offset i64 | 8 size i32 | 12 tags code i64 | 20 store timestamp i64
//! 28 first queue offset i64 | 36 messages i16 | 38 compacted offset i32 = -1 | 42 reserved i32 = 0
//! ```
//! An entry is not found by multiplication but by halving over its first queue offset. Apache: `BatchConsumeQueue`.

use crate::consume_queue::{Entry, NewEntry};
use crate::error::StoreError;

/// Bytes of an entry.
pub(crate) const BATCH_ENTRY_BYTES: usize = 8 + 4 + 8 + 8 + 8 + 2 + 4 + 4;

const _: () = assert!(BATCH_ENTRY_BYTES == 46);

/// One record and the messages in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchEntry {
    pub(crate) entry: Entry,
    pub(crate) store_timestamp: i64,
    /// Queue offset of the first message.
    pub(crate) base: u64,
    pub(crate) messages: u16,
}

impl BatchEntry {
    pub(crate) fn of(new: &NewEntry) -> Self {
        Self {
            entry: new.entry,
            store_timestamp: new.store_timestamp,
            base: new.queue_offset,
            messages: new.messages,
        }
    }

    pub(crate) fn encode(&self) -> [u8; BATCH_ENTRY_BYTES] {
        let mut bytes = [0; BATCH_ENTRY_BYTES];
        bytes[..20].copy_from_slice(&self.entry.encode());
        bytes[20..28].copy_from_slice(&self.store_timestamp.to_be_bytes());
        bytes[28..36].copy_from_slice(&self.base.to_be_bytes());
        bytes[36..38].copy_from_slice(&self.messages.to_be_bytes());
        bytes[38..42].copy_from_slice(&(-1_i32).to_be_bytes());
        bytes
    }

    /// Reads an entry; `None` for what is none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let entry = Entry::decode(bytes)?;
        let base = i64::from_be_bytes(bytes.get(28..36)?.try_into().ok()?);
        let messages = i16::from_be_bytes(bytes.get(36..38)?.try_into().ok()?);
        Some(Self {
            entry,
            store_timestamp: i64::from_be_bytes(bytes.get(20..28)?.try_into().ok()?),
            base: u64::try_from(base).ok()?,
            messages: u16::try_from(messages).ok().filter(|count| *count > 0)?,
        })
    }
}

/// The number of the entry of `[start, end)` that holds `queue_offset`; the one behind it when it lies between entries,
/// `end` when it lies behind all.
pub(crate) fn find_number(
    start: u64,
    end: u64,
    queue_offset: u64,
    mut read: impl FnMut(u64) -> Result<(u64, u16), StoreError>,
) -> Result<u64, StoreError> {
    let (mut low, mut high) = (start, end);
    while low < high {
        let middle = low + (high - low) / 2;
        let (base, messages) = read(middle)?;
        if base + u64::from(messages) <= queue_offset {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decode_undoes_encode() {
        let entry = BatchEntry {
            entry: Entry {
                physical_offset: 1000,
                size: 300,
                tags_code: -7,
            },
            store_timestamp: 1_795_224_067_847,
            base: 12,
            messages: 5,
        };
        let bytes = entry.encode();
        assert_eq!(BatchEntry::decode(&bytes), Some(entry));
        assert_eq!(bytes[38..], [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]);
        assert_eq!(BatchEntry::decode(&[0; 46]), None);
        assert_eq!(BatchEntry::decode(&bytes[..45]), Some(entry));
    }

    #[test]
    fn messages_are_found_within_their_batch() {
        let batches = [(0, 3_u16), (3, 1), (4, 5)];
        let find = |offset| {
            find_number(0, 3, offset, |number| {
                Ok(batches[usize::try_from(number).unwrap()])
            })
            .unwrap()
        };
        assert_eq!(
            (0..10).map(find).collect::<Vec<_>>(),
            [0, 0, 0, 1, 2, 2, 2, 2, 2, 3]
        );
    }
}
