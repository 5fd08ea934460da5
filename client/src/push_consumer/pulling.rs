//! The pulls of one queue: one outstanding at a time, paused while enough is held, waiting at the broker while there is
//! nothing. Apache: `DefaultMQPushConsumerImpl.pullMessage`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agena_protocol::response_code::ResponseCode;

use super::{Consumer, Listener};
use crate::error::ClientError;
use crate::offset_store::OffsetHome;
use crate::process_queue::ProcessQueue;
use crate::pull::{Pull, PullSettings, Pulled, ReadFrom};

/// Beyond what the broker may hold a pull.
const ANSWER_MARGIN: Duration = Duration::from_secs(15);

const FAILURE_PAUSE_MIN: Duration = Duration::from_millis(50);
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(1);
const FLOW_CONTROL_PAUSE: Duration = Duration::from_millis(20);

/// Pulls from `next` on until the queue is given up or the consumer stops.
pub(super) async fn pull_all(consumer: Arc<Consumer>, queue: Arc<ProcessQueue>, mut next: i64) {
    let read_from = ReadFrom::default();
    let mut pause = FAILURE_PAUSE_MIN;
    let mut was_away = false;
    while may_go_on(&consumer, &queue).await {
        let outcome = tokio::select! {
            () = consumer.tasks.stopping() => return,
            () = queue.until_dropped() => return,
            outcome = pull(&consumer, &queue, &read_from, next) => outcome,
        };
        match outcome {
            Ok(Pulled::Found {
                messages,
                next: then,
            }) => {
                next = then;
                if messages.is_empty() {
                    queue.skip_to(next);
                } else {
                    queue.put(&messages);
                    if let Listener::Concurrent(_) = consumer.listener {
                        let batch_max = consumer.settings.batch_max;
                        consumer.work.submit(&queue, &messages, batch_max);
                    }
                }
                pause = FAILURE_PAUSE_MIN;
            }
            Ok(Pulled::Nothing { next: then }) => {
                next = then;
                queue.skip_to(next);
                pause = FAILURE_PAUSE_MIN;
            }
            Ok(Pulled::OffsetMoved { next: then }) => {
                consumer.begin_anew_at(&queue, then).await;
                return;
            }
            Err(error) => {
                // A broker that answers again, if only to refuse, is not to be waited for as if it were away.
                if was_away != error.is_transport() {
                    was_away = error.is_transport();
                    pause = FAILURE_PAUSE_MIN;
                }
                let wait = after_failure(&consumer, &queue, &error).unwrap_or(pause);
                pause = (pause * 2).min(FAILURE_PAUSE_MAX);
                tokio::select! {
                    () = queue.until_dropped() => return,
                    go_on = consumer.tasks.sleep(wait) => if !go_on { return },
                }
            }
        }
    }
}

/// Waits while the consumer is suspended, too much is held, or the lock is missing. False at the end.
async fn may_go_on(consumer: &Consumer, queue: &ProcessQueue) -> bool {
    let mut paused = consumer.paused.subscribe();
    loop {
        if queue.is_dropped() || consumer.tasks.is_stopping() {
            return false;
        }
        paused.mark_unchanged();
        let Some(reason) = why_not(consumer, queue) else {
            return true;
        };
        tracing::trace!(group = %consumer.group, queue = %queue.queue(), reason, "pull waits");
        tokio::select! {
            () = consumer.tasks.stopping() => return false,
            () = queue.until_dropped() => return false,
            () = queue.may_pull.notified() => {}
            _ = paused.changed() => {}
        }
    }
}

/// What keeps the queue from being pulled now.
fn why_not(consumer: &Consumer, queue: &ProcessQueue) -> Option<&'static str> {
    if *consumer.paused.borrow() {
        return Some("suspended");
    }
    if consumer.is_orderly() && !consumer.may_consume_in_order(queue) {
        return Some("lock");
    }
    queue.over_limit(&consumer.settings.limits, consumer.is_in_queue_order())
}

const WATCH_INTERVAL_MIN: Duration = Duration::from_millis(10);
const WATCH_INTERVAL_MAX: Duration = Duration::from_secs(20);

/// Takes queues anew whose pulls came to a halt, until the consumer stops. That should never be needed; but then a queue
/// that nobody reads is found by its lag, and late.
pub(super) async fn watch(consumer: Arc<Consumer>, patience: Duration) {
    let limit = patience.saturating_add(consumer.settings.hold);
    let interval = (patience / 4).clamp(WATCH_INTERVAL_MIN, WATCH_INTERVAL_MAX);
    while consumer.tasks.sleep(interval).await {
        let now = consumer.instance.monotonic();
        for queue in consumer.owned_queues() {
            if why_not(&consumer, &queue).is_none() && queue.is_halted(now, limit) {
                let restarts = 1 + consumer.restarted.fetch_add(1, Ordering::Relaxed);
                tracing::error!(group = %consumer.group, queue = %queue.queue(), ?limit, restarts, "pulls came to a halt, the queue is taken anew");
                consumer.give_up(queue);
                consumer.rebalance.soon();
            }
        }
    }
}

async fn pull(
    consumer: &Consumer,
    queue: &ProcessQueue,
    read_from: &ReadFrom,
    offset: i64,
) -> Result<Pulled, ClientError> {
    let name = queue.queue();
    let settings = &consumer.settings;
    let subscription = consumer
        .subscriptions
        .get(&name.topic)
        .ok_or(ClientError::Stopped)?;
    let keeps_with_broker = matches!(consumer.home, OffsetHome::Brokers { .. });
    let began = consumer.instance.monotonic();
    queue.pulling(began);
    let pull = Pull {
        group: &consumer.group,
        queue: name,
        subscription: &subscription,
        offset,
        commit: queue
            .commit_offset()
            .filter(|offset| keeps_with_broker && *offset > 0),
        with_subscription: false,
        settings: PullSettings {
            messages_max: i32::from(settings.pull_batch),
            bytes_max: i32::try_from(settings.pull_bytes).unwrap_or(i32::MAX),
            hold: settings.hold,
            timeout: settings.hold + ANSWER_MARGIN,
        },
    };
    let pulled = pull.ask(&consumer.instance, read_from).await?;
    let now = consumer.instance.monotonic();
    queue.pulled(consumer.instance.now_ms());
    if let Pulled::Found { messages, .. } = &pulled {
        let took = now.saturating_sub(began);
        consumer
            .stats
            .pulled(&name.topic, now, messages.len(), took);
    }
    Ok(pulled)
}

/// Does what can be done about a failed pull, and says how long to wait if that is not left to the usual pause.
fn after_failure(
    consumer: &Consumer,
    queue: &ProcessQueue,
    error: &ClientError,
) -> Option<Duration> {
    let code = error.broker_code().and_then(ResponseCode::from_number);
    match code {
        Some(
            ResponseCode::SubscriptionNotExist
            | ResponseCode::SubscriptionNotLatest
            | ResponseCode::FilterDataNotExist
            | ResponseCode::FilterDataNotLatest,
        ) => {
            // The broker lost us, after a restart for instance. The next heartbeat mends it.
            tracing::debug!(group = %consumer.group, queue = %queue.queue(), %error, "pull refused");
            consumer.instance.heartbeat_soon();
            None
        }
        Some(ResponseCode::FlowControl) => Some(FLOW_CONTROL_PAUSE),
        Some(ResponseCode::GoAway) => {
            if let ClientError::Broker(broker) = error {
                consumer.instance.close_connection(&broker.address);
            }
            None
        }
        _ => {
            tracing::warn!(group = %consumer.group, queue = %queue.queue(), %error, "pull failed");
            None
        }
    }
}
