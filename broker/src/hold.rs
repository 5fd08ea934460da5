//! Pulls that found nothing and wait for a message: found by (topic, queue), each with a deadline of its own.
//!
//! Guarantees: a held pull is answered when a message arrives that its filter may want, or at its deadline, whichever is
//! first; nothing scans all of them. A message that does not match moves the pull's offset past it, so that an answer at
//! the deadline tells the consumer how far it may go. Their number is bounded; one more is answered at once.
//! A pull whose connection closed stays until its deadline, and costs nothing then.
//! Apache: `PullRequestHoldService`, which looks at all of them every five seconds.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use agena_protocol::offset::QueueOffset;
use agena_protocol::properties::Properties;
use agena_protocol::queue::QueueId;
use agena_remoting::reply::ReplyTo;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::Notify;

use crate::pull::Pull;

/// A pull that waits.
#[derive(Debug)]
pub(crate) struct HeldPull {
    /// What to read.
    pub pull: Pull,
    /// Whom to answer.
    pub reply_to: ReplyTo,
    ticket: Ticket,
}

/// Names one held pull. Ordered by deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ticket {
    /// On the monotonic clock.
    deadline: Duration,
    number: u64,
}

/// A place in a queue where something arrived.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival<'a> {
    /// Topic of the message.
    pub topic: &'a str,
    /// Its queue.
    pub queue: QueueId,
    /// Its offset; of an inner batch the first.
    pub offset: QueueOffset,
    /// More than one in an inner batch.
    pub messages: u16,
    /// Hash of its tag.
    pub tags_code: i64,
    /// Its properties.
    pub properties: Properties<'a>,
}

/// The pulls of one queue in the order of their tickets, as far as clients ask for the same time: then the one whose
/// deadline comes is found at the front. Boxed, so that a queue with one reader is small and one with thousands is
/// gone through without moving them.
type Place = VecDeque<Box<HeldPull>>;

#[derive(Debug, Default)]
struct Waiting {
    queues: HashMap<Arc<str>, BTreeMap<QueueId, Place>>,
    /// Where the pull of each ticket is.
    deadlines: BTreeMap<Ticket, (Arc<str>, QueueId)>,
    /// Woken by arrivals of a batch that is still being dispatched.
    ready: Vec<HeldPull>,
    /// When deadlines are looked at next. A pull that is answered before leaves it as it is: a look in vain each half
    /// minute costs less than news with every pull of a lone consumer.
    next_look: Option<Duration>,
    next_number: u64,
}

/// All pulls that wait. One lock, held for a look-up; nothing is read or answered under it.
#[derive(Debug)]
pub(crate) struct Hold {
    waiting: Mutex<Waiting>,
    /// How many wait. Written under the lock; read without it, so that a broker without consumers pays one load per
    /// message. A pull that parks while a message is dispatched looks again itself: see `pull::park`.
    count: AtomicUsize,
    has_ready: AtomicBool,
    /// Told when a deadline comes in front of the next look.
    earlier: Notify,
    count_max: usize,
}

impl Hold {
    /// Holds at most `count_max` pulls.
    #[must_use]
    pub(crate) fn new(count_max: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            count: AtomicUsize::new(0),
            has_ready: AtomicBool::new(false),
            earlier: Notify::new(),
            count_max,
        }
    }

    /// How many pulls wait.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether a pull of `group` waits at a queue.
    pub(crate) fn holds(&self, group: &str, topic: &str, queue: QueueId) -> bool {
        let waiting = self.waiting.lock();
        let queues = waiting.queues.get(topic);
        let held = queues.and_then(|queues| queues.get(&queue));
        held.is_some_and(|held| held.iter().any(|held| held.pull.group.name() == group))
    }

    /// Lets a pull wait until `deadline`; gives it back when too many wait.
    pub(crate) fn park(
        &self,
        pull: Pull,
        reply_to: ReplyTo,
        deadline: Duration,
    ) -> Result<(), (Pull, ReplyTo)> {
        let mut waiting = self.waiting.lock();
        if waiting.deadlines.len() >= self.count_max {
            return Err((pull, reply_to));
        }
        let ticket = Ticket {
            deadline,
            number: waiting.next_number,
        };
        waiting.next_number += 1;
        let is_earlier = waiting.next_look.is_none_or(|look| deadline < look);
        if is_earlier {
            waiting.next_look = Some(deadline);
        }
        let (topic, queue) = waiting.place_of(&pull);
        waiting.deadlines.insert(ticket, (topic.clone(), queue));
        let held = HeldPull {
            pull,
            reply_to,
            ticket,
        };
        let queues = waiting.queues.entry(topic).or_default();
        queues.entry(queue).or_default().push_back(Box::new(held));
        // SeqCst pairs with the load in `arrived`: either the dispatcher sees this pull, or the pull, which looks at
        // the queue's end after parking, sees the message.
        self.count.store(waiting.deadlines.len(), Ordering::SeqCst);
        drop(waiting);
        if is_earlier {
            self.earlier.notify_one();
        }
        Ok(())
    }

    /// A message may now be seen. Pulls that may want it become ready.
    pub(crate) fn arrived(&self, arrival: &Arrival<'_>) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut waiting = self.waiting.lock();
        waiting.wake(arrival);
        self.note_ready(&waiting);
    }

    /// The queue may have grown past pulls that were just parked: those behind `end` become ready.
    pub(crate) fn look_again(&self, topic: &str, queue: QueueId, end: QueueOffset) {
        let mut waiting = self.waiting.lock();
        waiting.take_where(topic, queue, |pull| pull.offset < end.wire());
        self.note_ready(&waiting);
    }

    /// All pulls of a queue become ready, whatever they wait for.
    pub(crate) fn wake_queue(&self, topic: &str, queue: QueueId) {
        let mut waiting = self.waiting.lock();
        waiting.take_where(topic, queue, |_| true);
        self.note_ready(&waiting);
    }

    fn note_ready(&self, waiting: &Waiting) {
        self.count.store(waiting.deadlines.len(), Ordering::SeqCst);
        self.has_ready
            .store(!waiting.ready.is_empty(), Ordering::Release);
    }

    /// Whether [`Hold::take_ready`] has something to give.
    pub(crate) fn has_ready(&self) -> bool {
        self.has_ready.load(Ordering::Acquire)
    }

    /// Pulls that became ready, to be answered by the caller.
    pub(crate) fn take_ready(&self) -> Vec<HeldPull> {
        if !self.has_ready.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut self.waiting.lock().ready)
    }

    /// Pulls whose deadline is not after `now`, to be answered by the caller, and when the next one is due.
    pub(crate) fn expired(&self, now: Duration) -> (Vec<HeldPull>, Option<Duration>) {
        let mut waiting = self.waiting.lock();
        let mut expired = Vec::new();
        while let Some((&ticket, _)) = waiting.deadlines.first_key_value() {
            if ticket.deadline > now {
                break;
            }
            expired.extend(waiting.take(ticket));
        }
        self.count.store(waiting.deadlines.len(), Ordering::SeqCst);
        let first = waiting.deadlines.first_key_value();
        let next = first.map(|(ticket, _)| ticket.deadline);
        waiting.next_look = next;
        (expired, next)
    }

    /// Returns when a deadline was parked in front of the next look.
    pub(crate) async fn earlier_deadline(&self) {
        self.earlier.notified().await;
    }
}

impl Waiting {
    /// The key of a pull's place; topics that have a waiter share their name.
    fn place_of(&self, pull: &Pull) -> (Arc<str>, QueueId) {
        let topic = pull.topic.topic_name.as_str();
        let name = self.queues.get_key_value(topic);
        (
            name.map_or_else(|| Arc::from(topic), |(name, _)| name.clone()),
            pull.queue,
        )
    }

    fn wake(&mut self, arrival: &Arrival<'_>) {
        self.take_where(arrival.topic, arrival.queue, |pull| {
            let behind = arrival.offset.wire() + i64::from(arrival.messages.max(1));
            if pull.offset >= behind {
                return false;
            }
            if pull.filter.matches(arrival.tags_code, &arrival.properties) {
                return true;
            }
            if pull.offset >= arrival.offset.wire() {
                pull.offset = behind;
            }
            false
        });
    }

    /// Moves the pulls of one queue for which `wanted` holds to `ready`.
    fn take_where(
        &mut self,
        topic: &str,
        queue: QueueId,
        mut wanted: impl FnMut(&mut Pull) -> bool,
    ) {
        let Some(queues) = self.queues.get_mut(topic) else {
            return;
        };
        let Some(held) = queues.get_mut(&queue) else {
            return;
        };
        // Most messages wake all or none: what stays is moved only if something goes.
        let stays = held.iter_mut().map(|held| !wanted(&mut held.pull));
        let stays: SmallVec<[bool; 64]> = stays.collect();
        if stays.contains(&false) {
            for stays in stays {
                match held.pop_front() {
                    Some(held_on) if stays => held.push_back(held_on),
                    Some(taken) => {
                        self.deadlines.remove(&taken.ticket);
                        self.ready.push(*taken);
                    }
                    None => break,
                }
            }
        }
        self.forget_if_empty(topic, queue);
    }

    fn take(&mut self, ticket: Ticket) -> Option<HeldPull> {
        let (topic, queue) = self.deadlines.remove(&ticket)?;
        let held = self.queues.get_mut(&topic)?.get_mut(&queue)?;
        let at = held.iter().position(|held| held.ticket == ticket)?;
        let taken = held.remove(at)?;
        self.forget_if_empty(&topic, queue);
        Some(*taken)
    }

    fn forget_if_empty(&mut self, topic: &str, queue: QueueId) {
        let Some(queues) = self.queues.get_mut(topic) else {
            return;
        };
        if queues.get(&queue).is_some_and(VecDeque::is_empty) {
            queues.remove(&queue);
        }
        if queues.is_empty() {
            self.queues.remove(topic);
        }
    }
}
