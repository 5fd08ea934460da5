//! The message store: RocketMQ's CommitLog, consume queues, key index and checkpoint, byte for byte, with threads and
//! without async; it knows files and records, no socket, no client, no policy.
//!
//! ```text
//! append -> CommitLog (segments) -> group commit -> ack
//!              |
//!              +-> dispatch -> queues, key index, observer -> read
//! ```
//! **Invariant:** everything but the CommitLog is derived, by one function (`dispatch`), live as in recovery.
//! **Invariant:** no promise resolves before it holds; a failed write or sync is final until the store is opened anew.
//! **Invariant:** only `segment.rs` maps memory; a byte below the published end never changes.
//!
//! Read in this order: `store.rs` (the public surface), `commit_log.rs` (a message is appended), `group_commit.rs` (it is
//! promised), `dispatch.rs` (consumers see it), `read.rs` (they get it), `recovery.rs` (after a crash).
#![deny(unsafe_code)]
#![deny(missing_docs)]

mod append_batch;
mod batch_queue;
mod checkpoint;
mod commit_log;
mod config;
mod consume_queue;
mod dispatch;
mod durability;
mod entry_log;
mod error;
mod group_commit;
mod health;
mod index;
mod index_file;
pub mod inspect;
mod keeper;
mod lock_file;
pub mod medium;
mod queue_table;
mod read;
mod recovery;
mod retention;
mod segment;
mod segmented_log;
mod snapshot;
mod stats;
mod store;
mod unsynced;

pub use append_batch::{AppendBatch, Appended, NewMessage, Placed};
pub use checkpoint::{Checkpoint, Mark};
pub use config::{IsBatchTopic, ReadLimits, Retention, StoreConfig};
pub use dispatch::{Dispatched, Observer};
pub use durability::{Ack, Durability, FlushError};
pub use error::{MessageIllegal, StoreError};
pub use health::ReadOnlyReason;
pub use read::{
    Boundary, Everything, Filter, LogSlice, QueueEntry, ReadOutcome, ReadRequest, ReadStatus,
    Residency,
};
pub use recovery::{Damage, Opened, RecoveryReport};
pub use retention::{Expiry, Going, NextFile, Outlook, Removed};
pub use stats::{LatencyHistogram, StoreStats};
pub use store::Store;
