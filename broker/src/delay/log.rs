//! The part of the store that delays use; in tests a log in memory that can be made to fail.

use std::error::Error;
use std::fmt::Debug;

use agena_protocol::offset::PhysicalOffset;
use agena_protocol::queue::QueueId;
use agena_protocol::record::{RecordFields, RecordView};

use super::levels::Waiting;

/// Why the log takes nothing now.
pub type LogFault = Box<dyn Error + Send + Sync>;

/// A log with queues.
pub trait DelayLog: Send + Sync + Debug {
    /// The first entry that a queue still has, and the one behind its last; zeros for a queue that does not exist.
    fn bounds(&self, topic: &str, queue: QueueId) -> (u64, u64);

    /// At most `count` entries of a queue in ascending order from `from` on.
    fn entries(&self, topic: &str, queue: QueueId, from: u64, count: usize) -> Vec<Waiting>;

    /// Shows the record at a place to `look`; `None` when there is none any more.
    fn look_at(&self, place: PhysicalOffset, look: &mut dyn FnMut(&RecordView<'_>)) -> Option<()>;

    /// Appends messages and says where the log ends then. One that the store will never take is left out by name.
    ///
    /// # Errors
    /// [`LogFault`]: none of them was taken, and a later try may succeed.
    fn append(&self, messages: &[RecordFields<'_>]) -> Result<PhysicalOffset, LogFault>;

    /// The end of the log.
    fn end(&self) -> PhysicalOffset;

    /// What the device has: everything before this place.
    fn flushed(&self) -> PhysicalOffset;
}
