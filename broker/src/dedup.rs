//! Producers that send a message twice: it is stored once, and both answers are those of the first.
//!
//! Opt in, for each message, by two properties that any client can set: [`PRODUCER_ID`] and [`SEQUENCE`]. For each
//! producer id there is a [`window`] of its latest sequences with the places of their messages. A sequence that was
//! stored is answered with its first result, one that is just being stored waits for that, one that is older than the
//! window is refused by name: whether it was stored is not known any more, and storing it twice would be worse.
//!
//! Guarantees: the log is the truth. What is in memory follows from the messages' own properties; at open it comes from
//! the [`snapshot`] and the records behind its mark. Memory is bounded by `dedupProducersMax` × `dedupWindow`; a producer
//! id beyond that takes the place of one that was silent for `dedupProducerIdleMillis`, else it is refused as busy.
//! The original has nothing of the kind.

mod snapshot;
mod window;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::properties::{PRODUCER_ID, SEQUENCE};
use agena_protocol::queue::QueueId;
use agena_protocol::response_code::ResponseCode;
use agena_store::Store;
use parking_lot::Mutex;

use crate::config::BrokerConfig;
use crate::send::Refused;
use snapshot::SnapshotOfWindows;
use window::{Seen, Window};

const PRODUCER_ID_BYTES_MAX: usize = 64;

/// Repeats that wait for one first message.
const WAITERS_MAX: usize = 256;

/// Who sent a message, and which one of his it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity<'p> {
    pub(crate) producer: &'p str,
    pub(crate) sequence: u64,
}

impl<'p> Identity<'p> {
    /// What the two properties say together; `None` without both.
    ///
    /// # Errors
    /// One without the other, or a value that is none.
    pub(crate) fn of(
        producer: Option<&'p str>,
        sequence: Option<&'p str>,
    ) -> Result<Option<Self>, Refused> {
        let illegal = |remark: String| Refused::new(ResponseCode::MessageIllegal, remark);
        let (producer, sequence) = match (producer, sequence) {
            (None, None) => return Ok(None),
            (Some(producer), Some(sequence)) => (producer, sequence),
            (Some(_), None) | (None, Some(_)) => {
                let remark = format!("{PRODUCER_ID} and {SEQUENCE} go together");
                return Err(illegal(remark));
            }
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let length = 1..=PRODUCER_ID_BYTES_MAX;
        if !length.contains(&producer.len()) || !producer.bytes().all(is_name) {
            let remark = format!("{PRODUCER_ID} is 1 to 64 of A-Z, a-z, 0-9, _, . and -");
            return Err(illegal(remark));
        }
        // `parse` alone would take a plus sign.
        let digits = !sequence.is_empty() && sequence.bytes().all(|byte| byte.is_ascii_digit());
        match sequence.parse() {
            Ok(sequence) if digits => Ok(Some(Self { producer, sequence })),
            _ => Err(illegal(format!(
                "{SEQUENCE} is a decimal number below 2^64"
            ))),
        }
    }
}

/// Where the first message with an identity went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct First {
    /// Its record in the log; of a batch, the first one.
    pub(crate) physical: PhysicalOffset,
    /// Its number in the queue where it is stored.
    pub(crate) queue_offset: QueueOffset,
    /// The queue that the producer is told.
    pub(crate) queue: QueueId,
    /// Bytes of its records together.
    pub(crate) bytes: u32,
    /// Messages of a batch, which stand one behind the other; 1 otherwise.
    pub(crate) count: u32,
    /// A sum of the topic's name, so that a number which is used for two messages is noticed.
    pub(crate) topic_sum: u32,
}

impl First {
    /// First byte behind its records.
    pub(crate) fn end(&self) -> PhysicalOffset {
        PhysicalOffset::new(self.physical.number() + u64::from(self.bytes))
    }
}

/// The sum of a topic's name that [`First`] keeps.
pub(crate) fn topic_sum(topic: &str) -> u32 {
    crc32fast::hash(topic.as_bytes())
}

/// Answers a repeat; runs on whatever thread stored the first.
pub(crate) type Answer = Box<dyn FnOnce(Result<First, Refused>) + Send>;

/// What is to be done with a message.
pub(crate) enum Begun {
    /// It is the first: store it, and say where.
    First(Reservation),
    /// It is not, and is answered or will be.
    Repeat,
}

/// All windows. One lock, taken by messages with an identity only.
pub(crate) struct Dedup {
    table: Mutex<HashMap<Box<str>, Window>>,
    file: SnapshotOfWindows,
    producers_max: usize,
    window: usize,
    repeats: AtomicU64,
    refused: AtomicU64,
}

impl std::fmt::Debug for Dedup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dedup").finish_non_exhaustive()
    }
}

/// Counts for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Producer ids with a window.
    pub(crate) producers: usize,
    /// Sequences in all windows.
    pub(crate) sequences: usize,
    /// Repeats that were answered with the first result since start.
    pub(crate) repeats: u64,
    /// Messages that were refused since start: older than their window, or no room for their producer.
    pub(crate) refused: u64,
}

impl Dedup {
    /// The windows as the log has them.
    pub(crate) fn open(directory: &Path, config: &BrokerConfig, store: &Store) -> Self {
        let dedup = Self {
            table: Mutex::default(),
            file: SnapshotOfWindows::new(directory),
            producers_max: config.dedup_producers_max.max(1),
            window: config.dedup_window.max(1),
            repeats: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        };
        snapshot::rebuild(&dedup, store);
        dedup
    }

    /// Decides what becomes of a message for `topic`. `answer` is used for repeats and for what is refused; with none
    /// the answer would go to nobody.
    pub(crate) fn begin(
        self: &Arc<Self>,
        identity: Identity<'_>,
        topic: &str,
        now: Now,
        answer: impl FnOnce() -> Answer,
    ) -> Begun {
        let (producer, sequence) = (identity.producer, identity.sequence);
        let mut table = self.table.lock();
        if !table.contains_key(producer) {
            if let Err(refused) = self.make_room(&mut table, now) {
                drop(table);
                return self.refuse(refused, answer());
            }
            table.insert(producer.into(), Window::new(now.wall_ms));
        }
        let Some(window) = table.get_mut(producer) else {
            return Begun::Repeat;
        };
        match window.look(sequence) {
            Seen::New => {
                window.reserve(sequence, now.log_end);
                Begun::First(Reservation {
                    dedup: self.clone(),
                    producer: producer.into(),
                    sequence,
                    is_open: true,
                })
            }
            Seen::Stored(first) if first.topic_sum != topic_sum(topic) => {
                drop(table);
                let remark = format!(
                    "sequence {sequence} of producer {producer} was used for another topic"
                );
                self.refuse(Refused::new(ResponseCode::MessageIllegal, remark), answer())
            }
            Seen::Stored(first) => {
                drop(table);
                self.repeats.fetch_add(1, Ordering::Relaxed);
                answer()(Ok(first));
                Begun::Repeat
            }
            Seen::BeingStored(waiters) if waiters.len() < WAITERS_MAX => {
                waiters.push(answer());
                self.repeats.fetch_add(1, Ordering::Relaxed);
                Begun::Repeat
            }
            Seen::BeingStored(_) => {
                drop(table);
                let remark = "too many repeats of one message wait for it";
                self.refuse(Refused::new(ResponseCode::SystemBusy, remark), answer())
            }
            Seen::TooOld { oldest } => {
                drop(table);
                let remark = format!(
                    "sequence {sequence} of producer {producer} is older than its window, which begins at {oldest}: \
                     whether it was stored is not known any more"
                );
                self.refuse(Refused::new(ResponseCode::MessageIllegal, remark), answer())
            }
        }
    }

    fn refuse(&self, refused: Refused, answer: Answer) -> Begun {
        self.refused.fetch_add(1, Ordering::Relaxed);
        answer(Err(refused));
        Begun::Repeat
    }

    /// Room for one more producer id: that of the one which is silent for longest, if that is long enough.
    fn make_room(&self, table: &mut HashMap<Box<str>, Window>, now: Now) -> Result<(), Refused> {
        if table.len() < self.producers_max {
            return Ok(());
        }
        let idle_ms = i64::try_from(now.idle.as_millis()).unwrap_or(i64::MAX);
        let silent = table
            .iter()
            .filter(|(_, window)| window.is_idle(now.wall_ms, idle_ms))
            .min_by_key(|(_, window)| window.last_ms)
            .map(|(producer, _)| producer.clone());
        let Some(silent) = silent else {
            return Err(Refused::new(
                ResponseCode::SystemBusy,
                format!(
                    "{} producer ids are in use, and none was silent for long enough (dedupProducersMax, dedupProducerIdleMillis)",
                    table.len()
                ),
            ));
        };
        table.remove(&silent);
        Ok(())
    }

    /// Notes where a message is. The first of an identity counts.
    fn stored(&self, producer: &str, sequence: u64, first: First, at_ms: i64) -> Vec<Answer> {
        let mut table = self.table.lock();
        table.get_mut(producer).map_or_else(Vec::new, |window| {
            window.stored(sequence, first, at_ms, self.window)
        })
    }

    /// Counts for operators.
    pub(crate) fn totals(&self) -> Totals {
        let table = self.table.lock();
        Totals {
            producers: table.len(),
            sequences: table.values().map(Window::len).sum(),
            repeats: self.repeats.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Writes the snapshot when the log has grown so much since the last that a scan would take long. May block.
    pub(crate) fn save_if_far(&self, store: &Store) {
        snapshot::save_if_far(self, store);
    }

    /// Writes the snapshot, at a stop.
    pub(crate) fn save(&self, store: &Store) {
        snapshot::save(self, store);
    }
}

/// What is known before a message is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// Wall clock, ms.
    pub(crate) wall_ms: i64,
    /// Where the log ends.
    pub(crate) log_end: PhysicalOffset,
    /// How long a producer must have been silent to make room for another.
    pub(crate) idle: Duration,
}

/// The duty to say what became of the first message of an identity. Dropped without that, it was not stored.
#[derive(Debug)]
pub(crate) struct Reservation {
    dedup: Arc<Dedup>,
    producer: Box<str>,
    sequence: u64,
    is_open: bool,
}

impl Reservation {
    /// It is stored; repeats that wait are answered.
    pub(crate) fn stored(mut self, first: First, at_ms: i64) {
        self.is_open = false;
        let waiters = self
            .dedup
            .stored(&self.producer, self.sequence, first, at_ms);
        for answer in waiters {
            answer(Ok(first));
        }
    }

    /// It is not stored; repeats that wait are refused as it was.
    pub(crate) fn failed(mut self, refused: &Refused) {
        self.give_up(refused);
    }

    fn give_up(&mut self, refused: &Refused) {
        self.is_open = false;
        let waiters = {
            let mut table = self.dedup.table.lock();
            let window = table.get_mut(&self.producer);
            window.map_or_else(Vec::new, |window| window.give_up(self.sequence))
        };
        for answer in waiters {
            answer(Err(refused.clone()));
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.is_open {
            let remark = "the first message with this sequence was not stored";
            self.give_up(&Refused::new(ResponseCode::ServiceNotAvailable, remark));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_checked() {
        let of = |producer, sequence| Identity::of(producer, sequence);
        assert_eq!(of(None, None), Ok(None));
        let identity = of(Some("order-1_a.b"), Some("18446744073709551615"));
        let sequence = u64::MAX;
        let producer = "order-1_a.b";
        assert_eq!(identity, Ok(Some(Identity { producer, sequence })));
        let long = "x".repeat(65);
        for (producer, sequence) in [
            (None, Some("1")),
            (Some("p"), None),
            (Some(""), Some("1")),
            (Some("a b"), Some("1")),
            (Some("ä"), Some("1")),
            (Some(long.as_str()), Some("1")),
            (Some("p"), Some("")),
            (Some("p"), Some("+1")),
            (Some("p"), Some("-1")),
            (Some("p"), Some("1.0")),
            (Some("p"), Some("18446744073709551616")),
        ] {
            let refused = of(producer, sequence).unwrap_err();
            assert_eq!(
                refused.code,
                ResponseCode::MessageIllegal,
                "{producer:?} {sequence:?}"
            );
        }
    }
}
