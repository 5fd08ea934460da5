//! Listeners in order for each key and side by side for different ones: a queue is no longer as slow as its slowest key.
//!
//! One task per queue sorts what was pulled into lanes, one for each key, and runs a listener for each lane that has
//! messages. A failure suspends its lane only; the queue may be committed up to the first message that is not done, so
//! what other keys did behind it comes again after a crash or a change of owner. How far the others may run ahead is bound
//! by [`QueueLimits`](crate::QueueLimits). The broker's lock is needed as for [whole queues](crate::consume_orderly), so
//! that no two members work on one key.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::task::{JoinError, JoinSet};

use crate::consume_orderly::{
    ConsumedInOrder, OrderlyListener, pause_of, run_listener, without_dead_letters,
};
use crate::message::{Batch, ReceivedMessage};
use crate::process_queue::ProcessQueue;
use crate::push_consumer::Consumer;

/// Tells the key of a message. Those without one are kept in order among themselves.
pub(crate) type KeyOf = Arc<dyn Fn(&ReceivedMessage) -> Option<String> + Send + Sync>;

type Key = Option<String>;

/// Messages of one key that wait for its listener.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Arc<ReceivedMessage>>,
    /// Its listener runs, or rests after a failure.
    busy: bool,
}

/// A listener that returned for good, or was interrupted with messages left.
struct Ended {
    key: Key,
    left: Vec<Arc<ReceivedMessage>>,
}

/// The lanes of one queue.
#[derive(Debug, Default)]
struct Lanes {
    lanes: HashMap<Key, Lane>,
    /// Keys that have messages and whose listener does not run, each once.
    ready: VecDeque<Key>,
}

impl Lanes {
    fn put(&mut self, key: Key, message: Arc<ReceivedMessage>) {
        let lane = self.lanes.entry(key.clone()).or_default();
        if lane.waiting.is_empty() && !lane.busy {
            self.ready.push_back(key);
        }
        lane.waiting.push_back(message);
    }

    /// The next batch of a key that is not being worked on.
    fn begin(&mut self, batch_max: usize) -> Option<(Key, Vec<Arc<ReceivedMessage>>)> {
        let key = self.ready.pop_front()?;
        let lane = self.lanes.get_mut(&key)?;
        lane.busy = true;
        let count = batch_max.min(lane.waiting.len());
        Some((key, lane.waiting.drain(..count).collect()))
    }

    /// A batch is over. What is left of it stands in front again.
    fn end(&mut self, ended: Ended) {
        let Some(lane) = self.lanes.get_mut(&ended.key) else {
            return;
        };
        lane.busy = false;
        for message in ended.left.into_iter().rev() {
            lane.waiting.push_front(message);
        }
        if lane.waiting.is_empty() {
            // Keys come and go: only those with messages are remembered.
            self.lanes.remove(&ended.key);
        } else {
            self.ready.push_back(ended.key);
        }
    }
}

/// Serves one queue until it is given up or the consumer stops; listeners that run then are waited for.
pub(crate) async fn serve(
    consumer: Arc<Consumer>,
    queue: Arc<ProcessQueue>,
    listener: OrderlyListener,
    key_of: KeyOf,
) {
    let mut lanes = Lanes::default();
    let mut running = JoinSet::new();
    let mut seen = None;
    while !queue.is_dropped() && !consumer.tasks.is_stopping() {
        if consumer.may_consume_in_order(&queue) {
            for message in queue.behind(seen) {
                seen = Some(message.queue_offset);
                lanes.put(key(&key_of, &message), message);
            }
            while let Some((key, batch)) = lanes.begin(consumer.settings.batch_max) {
                let (consumer, queue) = (Arc::clone(&consumer), Arc::clone(&queue));
                let listener = Arc::clone(&listener);
                running.spawn(async move {
                    let left = consume(&consumer, &queue, &listener, batch).await;
                    Ended { key, left }
                });
            }
        }
        tokio::select! {
            () = consumer.tasks.stopping() => break,
            () = queue.until_dropped() => break,
            () = queue.may_consume.notified() => {}
            Some(ended) = running.join_next() => match ended {
                Ok(ended) => lanes.end(ended),
                Err(error) => return start_anew(&consumer, queue, &error),
            },
        }
    }
    while running.join_next().await.is_some() {}
}

/// A lane whose end is not known would hold its key up for ever.
fn start_anew(consumer: &Arc<Consumer>, queue: Arc<ProcessQueue>, error: &JoinError) {
    tracing::error!(group = %consumer.group, queue = %queue.queue(), %error, "a lane ended early, the queue is taken anew");
    consumer.give_up(queue);
    crate::instance::ConsumerMember::rebalance_soon(&**consumer);
}

fn key(key_of: &KeyOf, message: &ReceivedMessage) -> Key {
    catch_unwind(AssertUnwindSafe(|| key_of(message))).unwrap_or_else(|_| {
        tracing::error!(queue = %message.queue, offset = message.queue_offset, "the key of a message panicked, it is taken as one without a key");
        None
    })
}

/// Gives a batch of one key to the listener until it is done. Gives what is left of it back when the queue is given up,
/// its lock runs out, or the consumer stops.
async fn consume(
    consumer: &Consumer,
    queue: &ProcessQueue,
    listener: &OrderlyListener,
    batch: Vec<Arc<ReceivedMessage>>,
) -> Vec<Arc<ReceivedMessage>> {
    let mut left = batch;
    loop {
        let Ok(turn) = consumer.listeners.acquire().await else {
            return left;
        };
        let Some(running) = consumer.begin_in_order(queue) else {
            return left;
        };
        let batch = Batch {
            queue: queue.queue().clone(),
            messages: left,
        };
        let outcome = run_listener(consumer, listener, &batch).await;
        left = match outcome {
            ConsumedInOrder::Done => Vec::new(),
            ConsumedInOrder::SuspendQueue { .. } => {
                without_dead_letters(consumer, batch.messages.clone()).await
            }
        };
        if queue.is_released() {
            tracing::info!(group = %consumer.group, queue = %queue.queue(), "result ignored: the queue went to another member");
            return Vec::new();
        }
        let is_left = |message: &Arc<ReceivedMessage>| {
            let same = |other: &Arc<ReceivedMessage>| other.queue_offset == message.queue_offset;
            left.iter().any(same)
        };
        let done: Vec<_> = batch
            .messages
            .iter()
            .filter(|message| !is_left(message))
            .cloned()
            .collect();
        if !done.is_empty() {
            queue.finish(&done, consumer.instance.now_ms());
        }
        drop(running);
        drop(turn);
        if left.is_empty() {
            return left;
        }
        tokio::select! {
            () = consumer.tasks.stopping() => return left,
            () = queue.until_dropped() => return left,
            () = tokio::time::sleep(pause_of(consumer, outcome)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(offset: i64) -> Arc<ReceivedMessage> {
        Arc::new(ReceivedMessage::for_test("T", offset, "x"))
    }

    fn offsets(batch: &[Arc<ReceivedMessage>]) -> Vec<i64> {
        batch.iter().map(|message| message.queue_offset).collect()
    }

    #[test]
    fn a_key_is_worked_on_once_at_a_time_and_in_order() {
        let mut lanes = Lanes::default();
        let (a, b) = (Some("a".to_owned()), Some("b".to_owned()));
        for (key, offset) in [(&a, 0), (&b, 1), (&a, 2), (&a, 3)] {
            lanes.put(key.clone(), message(offset));
        }
        let (first, of_a) = lanes.begin(2).unwrap();
        assert_eq!((&first, offsets(&of_a)), (&a, vec![0, 2]));
        let (second, of_b) = lanes.begin(2).unwrap();
        assert_eq!((&second, offsets(&of_b)), (&b, vec![1]));
        assert!(lanes.begin(2).is_none(), "both are busy");
        lanes.put(a.clone(), message(4));
        assert!(lanes.begin(2).is_none());
        lanes.end(Ended {
            key: a.clone(),
            left: vec![message(2)],
        });
        let (_, again) = lanes.begin(9).unwrap();
        assert_eq!(offsets(&again), [2, 3, 4]);
        for key in [a, b] {
            lanes.end(Ended {
                key,
                left: Vec::new(),
            });
        }
        assert!(lanes.lanes.is_empty() && lanes.ready.is_empty());
    }
}
