//! What was pulled from one queue and is not yet done, and how far the queue may therefore be committed.
//!
//! Concurrent consumers finish messages in any order: what is committed is the smallest offset still held here, so a
//! crash repeats messages but never skips one. Orderly consumers take from the front and hold what they took until it is
//! committed or put back. Apache: `ProcessQueue`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::queue::MessageQueue;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::message::ReceivedMessage;

/// How much of a queue may be held before pulling pauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Messages. Default: 1000.
    pub messages: usize,
    /// Bytes of bodies. Default: 100 MiB.
    pub bytes: usize,
    /// Distance between the first and the last offset held, concurrent consumers only: one slow message must not let
    /// the rest run ahead without end, since all of it is repeated after a crash. Default: 2000.
    pub offset_span: i64,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            messages: 1000,
            bytes: 100 << 20,
            offset_span: 2000,
        }
    }
}

/// The lease an orderly consumer has on its queue, as far as this side knows.
pub(crate) const LOCK_LEASE: Duration = Duration::from_secs(30);

/// A queue that this consumer owns. Given up for good by [`ProcessQueue::drop_queue`]: a queue that comes back is a new one.
#[derive(Debug)]
pub(crate) struct ProcessQueue {
    queue: MessageQueue,
    held: Mutex<Held>,
    /// Room, a lock or a resumption: whatever a pull may wait for.
    pub(crate) may_pull: Notify,
    /// Messages or a lock: whatever an orderly consumer may wait for.
    pub(crate) may_consume: Notify,
    dropped: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Held {
    waiting: BTreeMap<i64, Arc<ReceivedMessage>>,
    /// Taken by an orderly consumer, neither committed nor put back.
    taken: BTreeMap<i64, Arc<ReceivedMessage>>,
    bytes: usize,
    /// One behind the last offset that was ever put.
    end: Option<i64>,
    locked_at: Option<Duration>,
    pulled_at_ms: i64,
    consumed_at_ms: i64,
    locked_at_ms: i64,
}

/// What status pages show of a queue.
#[derive(Debug, Clone, Default)]
pub(crate) struct QueueInfo {
    pub(crate) waiting: usize,
    pub(crate) waiting_range: Option<(i64, i64)>,
    pub(crate) taken: usize,
    pub(crate) taken_range: Option<(i64, i64)>,
    pub(crate) bytes: usize,
    pub(crate) locked: bool,
    pub(crate) pulled_at_ms: i64,
    pub(crate) consumed_at_ms: i64,
    pub(crate) locked_at_ms: i64,
}

impl ProcessQueue {
    pub(crate) fn new(queue: MessageQueue, now_ms: i64) -> Self {
        Self {
            queue,
            held: Mutex::new(Held {
                pulled_at_ms: now_ms,
                consumed_at_ms: now_ms,
                ..Held::default()
            }),
            may_pull: Notify::new(),
            may_consume: Notify::new(),
            dropped: watch::Sender::new(false),
        }
    }

    pub(crate) fn queue(&self) -> &MessageQueue {
        &self.queue
    }

    /// Holds what a pull brought. Offsets already held are left alone.
    pub(crate) fn put(&self, messages: &[Arc<ReceivedMessage>]) {
        let mut held = self.held.lock();
        for message in messages {
            let offset = message.queue_offset;
            if held
                .waiting
                .insert(offset, Arc::clone(message))
                .is_none()
            {
                held.bytes += message.body.len();
            }
            held.end = held.end.max(Some(offset + 1));
        }
        drop(held);
        self.may_consume.notify_one();
    }

    /// Lets go of messages that are done, and says how far the queue may be committed now.
    pub(crate) fn finish(&self, messages: &[Arc<ReceivedMessage>], now_ms: i64) -> Option<i64> {
        let mut held = self.held.lock();
        held.consumed_at_ms = now_ms;
        for message in messages {
            if held.waiting.remove(&message.queue_offset).is_some() {
                held.bytes = held.bytes.saturating_sub(message.body.len());
            }
        }
        let commit = held.first_waiting().or(held.end);
        drop(held);
        self.may_pull.notify_one();
        commit
    }

    /// This message is still held; it is not if a time-out sent it back meanwhile.
    pub(crate) fn holds(&self, offset: i64) -> bool {
        self.held.lock().waiting.contains_key(&offset)
    }

    /// Takes up to `count` messages from the front, to be committed or put back together.
    pub(crate) fn take(&self, count: usize, now_ms: i64) -> Vec<Arc<ReceivedMessage>> {
        let mut held = self.held.lock();
        held.consumed_at_ms = now_ms;
        let mut batch = Vec::new();
        while batch.len() < count {
            let Some((offset, message)) = held.waiting.pop_first() else {
                break;
            };
            held.taken.insert(offset, Arc::clone(&message));
            batch.push(message);
        }
        batch
    }

    /// The taken messages are done: says how far the queue may be committed now.
    pub(crate) fn commit_taken(&self) -> Option<i64> {
        let mut held = self.held.lock();
        let commit = held.taken.last_key_value().map(|(offset, _)| offset + 1);
        let bytes: usize = held.taken.values().map(|message| message.body.len()).sum();
        held.bytes = held.bytes.saturating_sub(bytes);
        held.taken.clear();
        drop(held);
        self.may_pull.notify_one();
        commit
    }

    /// The taken messages failed: they stand in front again, with what is given in place of what was taken.
    pub(crate) fn put_back(&self, messages: Vec<Arc<ReceivedMessage>>) {
        let mut held = self.held.lock();
        held.taken.clear();
        for message in messages {
            held.waiting.insert(message.queue_offset, message);
        }
    }

    /// Why pulling has to pause, if it has to.
    pub(crate) fn over_limit(&self, limits: &QueueLimits, orderly: bool) -> Option<&'static str> {
        let held = self.held.lock();
        if held.waiting.len() + held.taken.len() > limits.messages {
            return Some("messages");
        }
        if held.bytes > limits.bytes {
            return Some("bytes");
        }
        let span = match (held.waiting.first_key_value(), held.waiting.last_key_value()) {
            (Some((first, _)), Some((last, _))) => last - first,
            _ => 0,
        };
        (!orderly && span > limits.offset_span).then_some("offset span")
    }

    /// Nothing is held.
    pub(crate) fn is_empty(&self) -> bool {
        let held = self.held.lock();
        held.waiting.is_empty() && held.taken.is_empty()
    }

    /// Messages whose consumption began before `deadline_ms`, at most `count`, from the front.
    pub(crate) fn overdue(
        &self,
        count: usize,
        began_before: impl Fn(&ReceivedMessage) -> bool,
    ) -> Vec<Arc<ReceivedMessage>> {
        let held = self.held.lock();
        held.waiting
            .values()
            .take(count)
            .take_while(|message| began_before(message))
            .cloned()
            .collect()
    }

    /// The broker granted or renewed the lock.
    pub(crate) fn locked(&self, at: Duration, now_ms: i64) {
        let mut held = self.held.lock();
        held.locked_at = Some(at);
        held.locked_at_ms = now_ms;
        drop(held);
        self.may_pull.notify_one();
        self.may_consume.notify_one();
    }

    /// The broker gave the lock to somebody else.
    pub(crate) fn lock_lost(&self) {
        self.held.lock().locked_at = None;
    }

    /// The lock was granted or renewed less than its lease ago.
    pub(crate) fn holds_lock(&self, now: Duration) -> bool {
        self.held
            .lock()
            .locked_at
            .is_some_and(|at| now.saturating_sub(at) < LOCK_LEASE)
    }

    /// A pull was answered.
    pub(crate) fn pulled(&self, now_ms: i64) {
        self.held.lock().pulled_at_ms = now_ms;
    }

    /// Gives the queue up: nothing more is pulled, results that come in later count for nothing.
    pub(crate) fn drop_queue(&self) {
        self.dropped.send_replace(true);
        self.may_pull.notify_waiters();
        self.may_consume.notify_waiters();
    }

    /// The queue was given up.
    pub(crate) fn is_dropped(&self) -> bool {
        *self.dropped.borrow()
    }

    /// Returns when the queue is given up.
    pub(crate) async fn until_dropped(&self) {
        let mut signal = self.dropped.subscribe();
        let _ = signal.wait_for(|dropped| *dropped).await;
    }

    pub(crate) fn info(&self, now: Duration) -> QueueInfo {
        let locked = self.holds_lock(now);
        let held = self.held.lock();
        QueueInfo {
            waiting: held.waiting.len(),
            waiting_range: range(&held.waiting),
            taken: held.taken.len(),
            taken_range: range(&held.taken),
            bytes: held.bytes,
            locked,
            pulled_at_ms: held.pulled_at_ms,
            consumed_at_ms: held.consumed_at_ms,
            locked_at_ms: held.locked_at_ms,
        }
    }
}

impl Held {
    fn first_waiting(&self) -> Option<i64> {
        self.waiting.first_key_value().map(|(offset, _)| *offset)
    }
}

fn range(messages: &BTreeMap<i64, Arc<ReceivedMessage>>) -> Option<(i64, i64)> {
    let (first, _) = messages.first_key_value()?;
    let (last, _) = messages.last_key_value()?;
    Some((*first, *last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(offsets: impl IntoIterator<Item = i64>) -> Vec<Arc<ReceivedMessage>> {
        offsets
            .into_iter()
            .map(|offset| Arc::new(ReceivedMessage::for_test("T", offset, &b"0123456789"[..])))
            .collect()
    }

    fn process_queue() -> ProcessQueue {
        ProcessQueue::new(MessageQueue::new("T", "b", 0), 0)
    }

    #[test]
    fn what_may_be_committed_is_the_first_offset_still_held() {
        let queue = process_queue();
        let all = messages(10..14);
        queue.put(&all);
        assert_eq!(queue.finish(&all[1..2], 0), Some(10));
        assert_eq!(queue.finish(&all[0..1], 0), Some(12));
        assert_eq!(queue.finish(&all[3..4], 0), Some(12));
        assert_eq!(queue.finish(&all[2..3], 0), Some(14));
        assert!(queue.is_empty());
        assert_eq!(queue.info(Duration::ZERO).bytes, 0);
    }

    #[test]
    fn finishing_twice_changes_nothing() {
        let queue = process_queue();
        let all = messages(0..2);
        queue.put(&all);
        assert_eq!(queue.finish(&all[..1], 0), Some(1));
        assert_eq!(queue.finish(&all[..1], 0), Some(1));
        assert_eq!(queue.info(Duration::ZERO).bytes, 10);
    }

    #[test]
    fn an_orderly_batch_is_committed_or_stands_in_front_again() {
        let queue = process_queue();
        queue.put(&messages(5..9));
        let batch = queue.take(2, 0);
        assert_eq!(queue.info(Duration::ZERO).taken_range, Some((5, 6)));
        assert!(!queue.is_empty());
        queue.put_back(batch);
        assert_eq!(queue.info(Duration::ZERO).waiting_range, Some((5, 8)));
        assert_eq!(queue.take(3, 0).len(), 3);
        assert_eq!(queue.commit_taken(), Some(8));
        assert_eq!(queue.commit_taken(), None);
        assert_eq!(queue.info(Duration::ZERO).bytes, 10);
    }

    #[test]
    fn each_limit_pauses_pulling_by_name() {
        let queue = process_queue();
        queue.put(&messages([0, 3]));
        let limits = |messages, bytes, offset_span| QueueLimits {
            messages,
            bytes,
            offset_span,
        };
        assert_eq!(queue.over_limit(&limits(2, 20, 3), false), None);
        assert_eq!(queue.over_limit(&limits(1, 20, 3), false), Some("messages"));
        assert_eq!(queue.over_limit(&limits(2, 19, 3), false), Some("bytes"));
        assert_eq!(
            queue.over_limit(&limits(2, 20, 2), false),
            Some("offset span")
        );
        assert_eq!(queue.over_limit(&limits(2, 20, 2), true), None);
    }

    #[test]
    fn a_lock_lasts_for_its_lease() {
        let queue = process_queue();
        assert!(!queue.holds_lock(Duration::ZERO));
        queue.locked(Duration::from_secs(100), 0);
        assert!(queue.holds_lock(Duration::from_secs(129)));
        assert!(!queue.holds_lock(Duration::from_secs(130)));
        queue.locked(Duration::from_secs(130), 0);
        queue.lock_lost();
        assert!(!queue.holds_lock(Duration::from_secs(130)));
    }

    #[tokio::test]
    async fn dropping_wakes_who_waits() {
        let queue = process_queue();
        tokio::join!(queue.until_dropped(), async { queue.drop_queue() });
        assert!(queue.is_dropped());
    }
}
