//! The queues of a consumer: taking them, giving them up, saving how far they are.

use std::sync::Arc;
use std::time::Duration;

use agena_protocol::queue::{MessageQueue, QueueMap};

use super::{Consumer, Listener};
use crate::offset_store::start_offset;
use crate::process_queue::{ProcessQueue, Running};
use crate::push_consumer::pulling;
use crate::rebalance::{QueueOwner, Share};
use crate::{consume_by_key, consume_orderly};

/// A queue that was another member's: that one is told of the change at the same time as we are, and gets this long to
/// save how far it is. Otherwise what it has just consumed would come again.
const HANDOVER: Duration = Duration::from_millis(100);

/// How long results of running listeners still count for a queue that is given up. In order the queue stays locked until
/// they have returned, see [`Consumer::let_go`].
const RELEASE_GRACE: Duration = Duration::from_millis(500);

impl QueueOwner for Arc<Consumer> {
    fn topics(&self) -> Vec<String> {
        self.subscriptions.topics()
    }

    async fn settle(&self, topic: &str, share: Share) -> bool {
        let mut added = Vec::new();
        let mut settled = true;
        {
            let owned = self.owned.lock();
            for (name, queue) in owned.iter().filter(|(name, _)| name.topic == topic) {
                if !share.queues.contains(name) && !queue.is_dropped() {
                    tracing::info!(group = %self.group, queue = %name, "queue given up");
                    self.give_up(Arc::clone(queue));
                }
            }
            for name in share.queues {
                match owned.get(&name) {
                    None => added.push(name),
                    // It comes back while it is still being let go of.
                    Some(queue) if queue.is_dropped() => settled = false,
                    Some(_) => {}
                }
            }
        }
        if !added.is_empty() {
            if share.has_others && !self.needs_locks() {
                self.tasks.sleep(HANDOVER).await;
            }
            settled &= self.take(added).await;
        }
        settled
    }
}

impl Consumer {
    /// Queues that are ours and are not being given up.
    pub(crate) fn owned_queues(&self) -> Vec<Arc<ProcessQueue>> {
        let owned = self.owned.lock();
        owned
            .values()
            .filter(|queue| !queue.is_dropped())
            .cloned()
            .collect()
    }

    /// Counts a listener in that is to run for `queue` now, in order, or says that none may: its turn came late, and the
    /// queue was given up or its lock ran out meanwhile.
    ///
    /// It is counted before the queue is looked at. Who gives a queue up does it the other way round, so either we see
    /// that the queue is given up, or the listener is seen and waited for before the queue is unlocked.
    pub(crate) fn begin_in_order<'q>(&self, queue: &'q ProcessQueue) -> Option<Running<'q>> {
        let running = queue.running();
        let may_begin =
            !queue.is_dropped() && !self.tasks.is_stopping() && self.may_consume_in_order(queue);
        may_begin.then_some(running)
    }

    /// What is done in order counts only under the lock: without it another member may be at the queue, and must neither be
    /// sent back nor find, when it is followed by a third, that messages behind its own were done by us.
    fn may_save(&self, queue: &ProcessQueue) -> bool {
        self.may_consume_in_order(queue)
    }

    /// Queues whose locks are to be renewed: also those that are being given up while a listener runs, if it is still ours.
    pub(crate) fn queues_to_keep_locked(&self) -> Vec<Arc<ProcessQueue>> {
        let now = self.instance.monotonic();
        let owned = self.owned.lock();
        let queues = owned
            .values()
            .filter(|queue| !queue.is_dropped() || !queue.is_released() && queue.holds_lock(now));
        queues.cloned().collect()
    }

    /// Takes queues: locks them where order needs it, finds out where to begin, and starts to pull. False if one of them
    /// could not be had yet.
    async fn take(self: &Arc<Self>, names: Vec<MessageQueue>) -> bool {
        let wanted = names.len();
        let ours: Vec<_> = if self.needs_locks() {
            let answers = consume_orderly::lock(&self.instance, &self.group, names).await;
            let granted = answers.into_iter().flat_map(|answer| {
                let granted = answer.granted.unwrap_or_default();
                let locked_at = Some(answer.asked_at);
                granted.into_iter().map(move |name| (name, locked_at))
            });
            granted.collect()
        } else {
            names.into_iter().map(|name| (name, None)).collect()
        };
        let mut taken = 0;
        for (name, locked_at) in ours {
            let from = self.settings.consume_from;
            match start_offset(&self.instance, &self.home, &name, from).await {
                Ok(offset) => taken += usize::from(self.begin(name, offset, locked_at)),
                Err(error) => {
                    tracing::warn!(group = %self.group, queue = %name, %error, "queue not taken: where to begin is not known");
                }
            }
        }
        taken == wanted
    }

    /// Begins to read a queue that was locked at `locked_at`. False if that was so long ago that it may be another's now:
    /// then the offset counts no more either.
    fn begin(
        self: &Arc<Self>,
        name: MessageQueue,
        offset: i64,
        locked_at: Option<Duration>,
    ) -> bool {
        let queue = Arc::new(ProcessQueue::new(name.clone(), self.instance.now_ms()));
        if let Some(locked_at) = locked_at {
            queue.locked(locked_at, self.instance.now_ms());
        }
        if !self.may_consume_in_order(&queue) {
            tracing::warn!(group = %self.group, queue = %name, "queue not taken: its lock ran out before it was known where to begin");
            return false;
        }
        tracing::info!(group = %self.group, queue = %name, offset, "queue taken");
        self.owned.lock().insert(name, Arc::clone(&queue));
        // From now on the watchdog counts, even if not one pull begins.
        queue.pulling(self.instance.monotonic());
        match &self.listener {
            Listener::Concurrent(_) => {}
            Listener::Orderly(listener) => self.tasks.spawn(consume_orderly::serve(
                Arc::clone(self),
                Arc::clone(&queue),
                Arc::clone(listener),
            )),
            Listener::ByKey(listener, key_of) => self.tasks.spawn(consume_by_key::serve(
                Arc::clone(self),
                Arc::clone(&queue),
                Arc::clone(listener),
                Arc::clone(key_of),
            )),
        }
        self.tasks
            .spawn(pulling::pull_all(Arc::clone(self), queue, offset));
        true
    }

    /// Gives a queue up: at once no more of it is pulled, and what is done is saved, so that the next owner begins behind
    /// it; when its listeners have returned, what they did is saved too, and where order needs it the lock is let go of.
    pub(crate) fn give_up(self: &Arc<Self>, queue: Arc<ProcessQueue>) {
        queue.drop_queue();
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            this.save_given_up(&queue).await;
            let is_idle = this.let_go(&queue).await;
            this.save_given_up(&queue).await;
            if this.needs_locks() && is_idle {
                let name = queue.queue().clone();
                consume_orderly::unlock(&this.instance, &this.group, vec![name]).await;
            }
            this.forget(&queue);
        });
    }

    /// Gives a queue up and has its next owner, most likely ourselves, begin at `offset`.
    pub(crate) async fn begin_anew_at(self: &Arc<Self>, queue: &Arc<ProcessQueue>, offset: i64) {
        queue.drop_queue();
        self.let_go(queue).await;
        self.save_now(queue.queue(), offset).await;
        self.forget(queue);
        self.rebalance.soon();
    }

    /// Waits for the listeners of a queue that is being given up. True if they have returned. What still runs after the grace
    /// counts no more: it comes again, in order when the lock, which is not given back then, has run out.
    async fn let_go(&self, queue: &ProcessQueue) -> bool {
        let grace = if self.needs_locks() {
            self.settings.consume_timeout
        } else {
            RELEASE_GRACE
        };
        let idle = tokio::time::timeout(grace, queue.until_idle()).await;
        queue.release();
        idle.is_ok()
    }

    /// Saves how far a queue is that is being given up, unless its next owner is further already: no offset goes back. In
    /// order nothing is saved without the lock.
    async fn save_given_up(&self, queue: &ProcessQueue) {
        let Some(offset) = queue.unsaved() else {
            return;
        };
        let name = queue.queue();
        if !self.may_save(queue) {
            tracing::warn!(group = %self.group, queue = %name, offset, "offset not saved: the lock is gone, what was done since the last save comes again");
            return;
        }
        if !self.is_broadcasting() && !self.needs_locks() {
            match self.home.read(name).await {
                Ok(Some(saved)) if saved >= offset => {
                    tracing::debug!(group = %self.group, queue = %name, offset, saved, "offset not saved: the next owner is further");
                    return;
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(group = %self.group, queue = %name, offset, %error, "offset not saved: how far the next owner is is not known");
                    return;
                }
            }
        }
        self.save_now(name, offset).await;
        queue.saved(offset);
    }

    async fn save_now(&self, name: &MessageQueue, offset: i64) {
        let offsets = QueueMap::from([(name.clone(), offset)]);
        if let Err(error) = self.home.write(&offsets).await {
            tracing::warn!(group = %self.group, queue = %name, offset, %error, "offset not saved");
        }
    }

    fn forget(&self, queue: &Arc<ProcessQueue>) {
        let mut owned = self.owned.lock();
        if owned
            .get(queue.queue())
            .is_some_and(|current| Arc::ptr_eq(current, queue))
        {
            owned.remove(queue.queue());
        }
    }

    /// Saves all offsets and lets go of all queues, at the end.
    pub(super) async fn leave(&self) {
        let queues: Vec<_> = std::mem::take(&mut *self.owned.lock())
            .into_values()
            .collect();
        let mut offsets = QueueMap::new();
        for queue in queues.iter().filter(|queue| !queue.is_released()) {
            if let Some(offset) = queue.commit_offset().filter(|_| self.may_save(queue)) {
                offsets.insert(queue.queue().clone(), offset);
            }
            queue.drop_queue();
            queue.release();
        }
        if let Err(error) = self.home.write(&offsets).await {
            tracing::warn!(group = %self.group, %error, "not all offsets were saved at the end");
        }
        if self.needs_locks() {
            let names = queues.iter().map(|queue| queue.queue().clone()).collect();
            consume_orderly::unlock(&self.instance, &self.group, names).await;
        }
    }
}

/// Every so many saves even offsets are written that have not changed: a broker may have lost what it was told last.
const FULL_SAVE_EVERY: u32 = 12;

/// Saves offsets until the consumer stops.
pub(super) async fn keep_saving(consumer: Arc<Consumer>) {
    let mut round: u32 = 0;
    while consumer.tasks.sleep(consumer.settings.save_interval).await {
        round = round.wrapping_add(1);
        let all = round.is_multiple_of(FULL_SAVE_EVERY);
        let queues = consumer.owned_queues();
        let mut offsets = QueueMap::new();
        for queue in &queues {
            let offset = if all {
                queue.commit_offset()
            } else {
                queue.unsaved()
            };
            if let Some(offset) = offset {
                offsets.insert(queue.queue().clone(), offset);
            }
        }
        if consumer.is_broadcasting() {
            save_all(&consumer, &queues, &offsets).await;
            continue;
        }
        for queue in &queues {
            if let Some(offset) = offsets.get(queue.queue()) {
                save_soon(&consumer, queue, *offset).await;
            }
        }
    }
}

/// Saves offsets that are this member's own affair, all at once.
async fn save_all(consumer: &Consumer, queues: &[Arc<ProcessQueue>], offsets: &QueueMap<i64>) {
    if offsets.is_empty() {
        return;
    }
    match consumer.home.write_soon(offsets).await {
        Ok(()) => {
            for queue in queues {
                if let Some(offset) = offsets.get(queue.queue()) {
                    queue.saved(*offset);
                }
            }
        }
        Err(error) => tracing::warn!(group = %consumer.group, %error, "offsets not saved"),
    }
}

/// Saves one offset without waiting for the broker. Queues are saved one by one, so that one that is given up meanwhile is
/// left to who gives it up.
async fn save_soon(consumer: &Consumer, queue: &ProcessQueue, offset: i64) {
    if queue.is_dropped() || !consumer.may_save(queue) {
        return;
    }
    let offsets = QueueMap::from([(queue.queue().clone(), offset)]);
    match consumer.home.write_soon(&offsets).await {
        Ok(()) => queue.saved(offset),
        Err(error) => {
            tracing::warn!(group = %consumer.group, queue = %queue.queue(), %error, "offset not saved");
        }
    }
}
