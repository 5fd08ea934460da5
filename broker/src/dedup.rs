//! Producers that send a message twice: it is stored once, and both answers are those of the first.
//!
//! Opt in, for each message, by two properties that any client can set: [`PRODUCER_ID`] and [`SEQUENCE`]. For each
//! producer id there is a [`window`] of its latest sequences with the places of their messages. A sequence that was
//! stored is answered with its first result, one that is just being stored waits for that, one that is older than the
//! window is refused by name: whether it was stored is not known any more, and storing it twice would be worse.
//!
//! Guarantees: the log is the truth. What is in memory follows from the messages' own properties; at open it comes from
//! the [`snapshot`] and the records behind its mark ([`scan`]), and whoever answers a repeat looks at the first's record.
//! Memory is bounded by the [`table`]: what is beyond that takes the place of producers that were silent for
//! `dedupProducerIdleMillis`, else it is refused as busy.
//! The original has nothing of the kind.

mod file;
mod scan;
mod snapshot;
mod table;
#[cfg(test)]
mod tests;
mod window;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::properties::{PRODUCER_ID, SEQUENCE};
use agena_protocol::queue::QueueId;
use agena_protocol::response_code::ResponseCode;
use agena_store::Store;
use parking_lot::{Mutex, MutexGuard};

use crate::broker::Broker;
use crate::config::BrokerConfig;
use crate::send::Refused;
pub(crate) use scan::{identity_of, real_topic};
use snapshot::Snapshots;
use table::{Limits, Table};
use window::Seen;

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
    table: Mutex<Table>,
    snapshots: Snapshots,
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
    /// Messages that were refused since start: older than their window, of a number that another message has, of a
    /// transaction that is decided, or without room for their producer.
    pub(crate) refused: u64,
}

impl Dedup {
    /// The windows as the log has them.
    pub(crate) fn open(directory: &Path, config: &BrokerConfig, store: &Store) -> Self {
        let dedup = Self {
            table: Mutex::new(Table::new(Limits::of(config))),
            snapshots: Snapshots::new(directory, config),
            repeats: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        };
        snapshot::rebuild(&dedup, store);
        dedup
    }

    /// Decides what becomes of a message for `topic`, or of a batch of `count`. `answer` is used for repeats and for what
    /// is refused; with none the answer would go to nobody.
    pub(crate) fn begin(
        self: &Arc<Self>,
        identity: Identity<'_>,
        (topic, count): (&str, u32),
        now: Now,
        answer: impl FnOnce() -> Answer,
    ) -> Begun {
        let (producer, sequence) = (identity.producer, identity.sequence);
        let mut table = self.table.lock();
        match table.look(identity) {
            Seen::New => self.first(table, identity, now, answer),
            Seen::Stored(first) if first.topic_sum != topic_sum(topic) => {
                drop(table);
                let remark = format!(
                    "sequence {sequence} of producer {producer} was used for another topic"
                );
                self.refuse(Refused::new(ResponseCode::MessageIllegal, remark), answer())
            }
            // A crash took the rest of the batch, which nobody was answered for. The rest alone would not stand behind
            // what is left, so that no later repeat could be answered with all places: the whole is stored.
            Seen::Stored(first) if first.count < count => self.first(table, identity, now, answer),
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

    /// The message is stored now, if there is room for what is kept of it.
    fn first(
        self: &Arc<Self>,
        mut table: MutexGuard<'_, Table>,
        identity: Identity<'_>,
        now: Now,
        answer: impl FnOnce() -> Answer,
    ) -> Begun {
        if let Err(refused) = table.reserve(identity, now) {
            drop(table);
            return self.refuse(refused, answer());
        }
        Begun::First(Reservation {
            dedup: self.clone(),
            producer: identity.producer.into(),
            sequence: identity.sequence,
            is_open: true,
        })
    }

    fn refuse(&self, refused: Refused, answer: Answer) -> Begun {
        self.count_refused();
        answer(Err(refused));
        Begun::Repeat
    }

    /// A message was refused for what is known of its identity.
    pub(crate) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a message is a repeat, of what is stored or is being stored.
    pub(crate) fn knows(&self, identity: Identity<'_>) -> bool {
        let table = self.table.lock();
        let window = table.get(identity.producer);
        window.is_some_and(|window| window.knows(identity.sequence))
    }

    /// What was kept of an identity does not hold: the next message with it is a first.
    pub(crate) fn forget(&self, identity: Identity<'_>, first: First) {
        self.table.lock().forget(identity, first);
    }

    /// Counts for operators.
    pub(crate) fn totals(&self) -> Totals {
        let table = self.table.lock();
        Totals {
            producers: table.len(),
            sequences: table.sequences(),
            repeats: self.repeats.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Writes the snapshot, at a stop.
    pub(crate) fn save(&self, store: &Store) {
        snapshot::save_at_stop(self, store);
    }
}

/// Pause between looks at how far the log has grown.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Writing snapshots takes at most one part in so many of the time, however fast the log grows,
const SHARE_OF_TIME: u32 = 50;

/// unless it is so slow that the log grows far meanwhile.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Writes the snapshot whenever the log has grown so much since the last that a scan would take long.
pub(crate) async fn keep_snapshots(broker: Arc<Broker>) {
    let mut stopping = broker.stopping();
    let mut pause = LOOK_PERIOD;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopping.wait_for(|stops| *stops) => return,
        }
        let begun = tokio::time::Instant::now();
        let of_thread = broker.clone();
        let saving = tokio::task::spawn_blocking(move || {
            snapshot::save_if_far(&of_thread.dedup, &of_thread.store);
        });
        // A panic was reported by the panic hook; there is nothing to add.
        let _ = saving.await;
        pause = (begun.elapsed() * SHARE_OF_TIME).clamp(LOOK_PERIOD, PAUSE_MAX);
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
    fn identity(&self) -> Identity<'_> {
        Identity {
            producer: &self.producer,
            sequence: self.sequence,
        }
    }

    /// It is stored; repeats that wait are answered. The first of an identity counts.
    pub(crate) fn stored(mut self, first: First, at_ms: i64) {
        self.is_open = false;
        let waiters = self
            .dedup
            .table
            .lock()
            .stored(self.identity(), first, at_ms);
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
        let waiters = self.dedup.table.lock().give_up(self.identity());
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
