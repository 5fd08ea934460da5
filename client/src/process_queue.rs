//! What was pulled from one queue and is not yet done, and how far the queue may therefore be committed.
//!
//! Concurrent consumers finish messages in any order: what is committed is the smallest offset still held here, so a
//! crash repeats messages but never skips one. Orderly consumers take from the front and hold what they took until it is
//! committed or put back. Apache: `ProcessQueue`.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Distance between the first and the last offset held, for consumers that are not bound to a queue's order: one slow message must not let
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

/// The lease an orderly consumer has on its queue, as far as this side goes: nothing begins and nothing is saved later.
pub(crate) const LOCK_LEASE: Duration = Duration::from_secs(30);

/// The broker gives the queue to nobody else for 60 s after it granted the lock. Some of it is left for clocks that go
/// wrong.
const LOCK_LEASE_AT_BROKER: Duration = Duration::from_secs(50);

/// A queue that this consumer owns. Given up for good by [`ProcessQueue::drop_queue`]: a queue that comes back is a new one.
#[derive(Debug)]
pub(crate) struct ProcessQueue {
    queue: MessageQueue,
    held: Mutex<Held>,
    /// Room, a lock or a resumption: whatever a pull may wait for.
    pub(crate) may_pull: Notify,
    /// Messages or a lock: whatever an orderly consumer may wait for.
    pub(crate) may_consume: Notify,
    /// Batches in a listener right now.
    running: watch::Sender<usize>,
    dropped: watch::Sender<bool>,
    /// Its offset was saved for good: results that come later change nothing any more.
    released: AtomicBool,
}

#[derive(Debug, Default)]
struct Held {
    waiting: BTreeMap<i64, Arc<ReceivedMessage>>,
    /// When the consumption of waiting messages began, in ms.
    began: BTreeMap<i64, i64>,
    /// Taken by an orderly consumer, neither committed nor put back.
    taken: BTreeMap<i64, Arc<ReceivedMessage>>,
    bytes: usize,
    /// One behind the last offset that was ever put.
    end: Option<i64>,
    /// How far the queue may be committed; only ever grows.
    commit: Option<i64>,
    /// What was last given to the offsets' home.
    saved: Option<i64>,
    locked_at: Option<Duration>,
    /// When the last pull began.
    asked_at: Option<Duration>,
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
            running: watch::Sender::new(0),
            dropped: watch::Sender::new(false),
            released: AtomicBool::new(false),
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
            if held.waiting.insert(offset, Arc::clone(message)).is_none() {
                held.bytes += message.body.len();
            }
            held.end = held.end.max(Some(offset + 1));
        }
        drop(held);
        self.may_consume.notify_one();
    }

    /// Lets go of messages that are done.
    pub(crate) fn finish(&self, messages: &[Arc<ReceivedMessage>], now_ms: i64) {
        let mut held = self.held.lock();
        held.consumed_at_ms = now_ms;
        for message in messages {
            held.began.remove(&message.queue_offset);
            if held.waiting.remove(&message.queue_offset).is_some() {
                held.bytes = held.bytes.saturating_sub(message.body.len());
            }
        }
        let commit = held.first_waiting().or(held.end);
        held.commit = held.commit.max(commit);
        drop(held);
        self.may_pull.notify_one();
    }

    /// A pull found nothing for us up to `next`: if nothing is held, that much is done.
    pub(crate) fn skip_to(&self, next: i64) {
        let mut held = self.held.lock();
        if held.waiting.is_empty() && held.taken.is_empty() {
            held.commit = held.commit.max(Some(next));
        }
    }

    /// How far the queue may be committed, if anything was done yet.
    pub(crate) fn commit_offset(&self) -> Option<i64> {
        self.held.lock().commit
    }

    /// The commit offset, if it was not saved yet.
    pub(crate) fn unsaved(&self) -> Option<i64> {
        let held = self.held.lock();
        held.commit.filter(|_| held.commit != held.saved)
    }

    /// `offset` was given to the offsets' home.
    pub(crate) fn saved(&self, offset: i64) {
        self.held.lock().saved = Some(offset);
    }

    /// Counts a batch that is in a listener, until the mark is dropped.
    pub(crate) fn running(&self) -> Running<'_> {
        self.running.send_modify(|count| *count += 1);
        Running { queue: self }
    }

    /// Returns when no batch is in a listener.
    pub(crate) async fn until_idle(&self) {
        let mut running = self.running.subscribe();
        let _ = running.wait_for(|count| *count == 0).await;
    }

    /// This message is still held; it is not if a time-out sent it back meanwhile.
    pub(crate) fn holds(&self, offset: i64) -> bool {
        self.held.lock().waiting.contains_key(&offset)
    }

    /// What is held behind an offset, or all of it. It stays held until it is finished.
    pub(crate) fn behind(&self, seen: Option<i64>) -> Vec<Arc<ReceivedMessage>> {
        let from = seen.map_or(Bound::Unbounded, Bound::Excluded);
        let held = self.held.lock();
        let range = held.waiting.range((from, Bound::Unbounded));
        range.map(|(_, message)| Arc::clone(message)).collect()
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

    /// The taken messages are done.
    pub(crate) fn commit_taken(&self) {
        let mut held = self.held.lock();
        let commit = held.taken.last_key_value().map(|(offset, _)| offset + 1);
        let bytes: usize = held.taken.values().map(|message| message.body.len()).sum();
        held.bytes = held.bytes.saturating_sub(bytes);
        held.taken.clear();
        held.commit = held.commit.max(commit);
        drop(held);
        self.may_pull.notify_one();
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
        let span = match (
            held.waiting.first_key_value(),
            held.waiting.last_key_value(),
        ) {
            (Some((first, _)), Some((last, _))) => last - first,
            _ => 0,
        };
        (!orderly && span > limits.offset_span).then_some("offset span")
    }

    /// A listener begins with these.
    pub(crate) fn begin(&self, messages: &[Arc<ReceivedMessage>], now_ms: i64) {
        let mut held = self.held.lock();
        for message in messages {
            held.began.insert(message.queue_offset, now_ms);
        }
    }

    /// Up to `count` messages from the front whose consumption began before `before_ms`.
    pub(crate) fn overdue(&self, count: usize, before_ms: i64) -> Vec<Arc<ReceivedMessage>> {
        let held = self.held.lock();
        let is_overdue = |offset: &i64| held.began.get(offset).is_some_and(|at| *at < before_ms);
        held.waiting
            .iter()
            .take(count)
            .take_while(|(offset, _)| is_overdue(offset))
            .map(|(_, message)| Arc::clone(message))
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

    /// A lock that is granted at `now` follows on the former one without a gap in which it could have been somebody else's.
    pub(crate) fn was_locked_throughout(&self, now: Duration) -> bool {
        self.held
            .lock()
            .locked_at
            .is_some_and(|at| now.saturating_sub(at) < LOCK_LEASE_AT_BROKER)
    }

    /// A pull begins.
    pub(crate) fn pulling(&self, now: Duration) {
        self.held.lock().asked_at = Some(now);
    }

    /// The last pull began longer ago than `limit`.
    pub(crate) fn is_halted(&self, now: Duration, limit: Duration) -> bool {
        let asked_at = self.held.lock().asked_at;
        asked_at.is_some_and(|at| now.saturating_sub(at) > limit)
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

    /// Ends the time in which results of listeners that were running still count.
    pub(crate) fn release(&self) {
        self.released.store(true, Ordering::Release);
    }

    /// Results of listeners count no more.
    pub(crate) fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
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

/// A batch in a listener.
#[derive(Debug)]
pub(crate) struct Running<'q> {
    queue: &'q ProcessQueue,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.queue.running.send_modify(|count| *count -= 1);
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
        for (done, commit) in [(1, 10), (0, 12), (3, 12), (2, 14)] {
            queue.finish(&all[done..=done], 0);
            assert_eq!(queue.commit_offset(), Some(commit));
        }
        assert_eq!(queue.info(Duration::ZERO).waiting, 0);
        assert_eq!(queue.info(Duration::ZERO).bytes, 0);
    }

    #[test]
    fn finishing_twice_changes_nothing() {
        let queue = process_queue();
        let all = messages(0..2);
        queue.put(&all);
        for _ in 0..2 {
            queue.finish(&all[..1], 0);
            assert_eq!(queue.commit_offset(), Some(1));
            assert_eq!(queue.info(Duration::ZERO).bytes, 10);
        }
    }

    #[test]
    fn an_offset_is_saved_once_and_never_goes_back() {
        let queue = process_queue();
        assert_eq!(queue.unsaved(), None);
        queue.skip_to(5);
        assert_eq!(queue.unsaved(), Some(5));
        queue.saved(5);
        assert_eq!(queue.unsaved(), None);
        let all = messages(5..7);
        queue.put(&all);
        queue.skip_to(100);
        assert_eq!(queue.commit_offset(), Some(5));
        queue.finish(&all, 0);
        assert_eq!(queue.unsaved(), Some(7));
    }

    #[tokio::test]
    async fn a_queue_is_idle_when_the_last_listener_returned() {
        let queue = process_queue();
        let running = (queue.running(), queue.running());
        tokio::join!(queue.until_idle(), async { drop(running) });
    }

    #[test]
    fn an_orderly_batch_is_committed_or_stands_in_front_again() {
        let queue = process_queue();
        queue.put(&messages(5..9));
        let batch = queue.take(2, 0);
        assert_eq!(queue.info(Duration::ZERO).taken_range, Some((5, 6)));
        queue.put_back(batch);
        assert_eq!(queue.info(Duration::ZERO).waiting_range, Some((5, 8)));
        assert_eq!(queue.take(3, 0).len(), 3);
        queue.commit_taken();
        assert_eq!(queue.commit_offset(), Some(8));
        queue.commit_taken();
        assert_eq!(queue.commit_offset(), Some(8));
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
    fn what_takes_too_long_is_found_from_the_front() {
        let queue = process_queue();
        let all = messages(0..4);
        queue.put(&all);
        queue.begin(&all[..2], 100);
        queue.begin(&all[2..3], 200);
        assert_eq!(queue.overdue(16, 100).len(), 0);
        assert_eq!(queue.overdue(16, 101).len(), 2);
        assert_eq!(queue.overdue(1, 101).len(), 1);
        assert_eq!(queue.overdue(16, 1000).len(), 3);
        queue.finish(&all[..1], 0);
        assert_eq!(queue.overdue(16, 101)[0].queue_offset, 1);
    }

    #[test]
    fn a_lock_lasts_for_its_lease() {
        let queue = process_queue();
        assert!(!queue.holds_lock(Duration::ZERO));
        queue.locked(Duration::from_secs(100), 0);
        assert!(queue.holds_lock(Duration::from_secs(129)));
        assert!(!queue.holds_lock(Duration::from_secs(130)));
        assert!(queue.was_locked_throughout(Duration::from_secs(149)));
        assert!(!queue.was_locked_throughout(Duration::from_secs(150)));
        queue.locked(Duration::from_secs(130), 0);
        queue.lock_lost();
        assert!(!queue.holds_lock(Duration::from_secs(130)));
        assert!(!queue.was_locked_throughout(Duration::from_secs(130)));
    }

    #[test]
    fn a_queue_that_is_not_asked_any_more_is_halted() {
        let queue = process_queue();
        let (at, limit) = (Duration::from_secs, Duration::from_secs(120));
        assert!(!queue.is_halted(at(1000), limit));
        queue.pulling(at(1000));
        assert!(!queue.is_halted(at(1120), limit));
        assert!(queue.is_halted(at(1121), limit));
    }

    #[tokio::test]
    async fn dropping_wakes_who_waits() {
        let queue = process_queue();
        tokio::join!(queue.until_dropped(), async { queue.drop_queue() });
        assert!(queue.is_dropped());
    }
}
