//! Locks of ordered consumers: which client may consume a queue for its group, and until when.
//!
//! A lock is a lease: it lasts 60 s from its last renewal (clients renew every 20 s and believe in it for 30 s), so a client
//! that dies gives its queues back by itself. At no time do two clients of a group hold the same queue. Time is monotonic;
//! a step of the wall clock neither ends nor prolongs a lease. Apache: `RebalanceLockManager`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::clock::Clock;
use agena_protocol::queue::MessageQueue;
use parking_lot::Mutex;

/// How long a lock lasts without renewal (`rocketmq.broker.rebalance.lockMaxLiveTime`).
pub const LOCK_LIVE_MAX: Duration = Duration::from_secs(60);

/// The locks of every group.
#[derive(Debug)]
pub struct OrderLocks {
    clock: Arc<dyn Clock>,
    groups: Mutex<HashMap<String, HashMap<MessageQueue, Lease>>>,
}

#[derive(Debug, Clone)]
struct Lease {
    client_id: Arc<str>,
    renewed: Duration,
}

/// A lock as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLock {
    /// The locked queue.
    pub queue: MessageQueue,
    /// Who holds it.
    pub client_id: Arc<str>,
    /// How long it still lasts without renewal.
    pub remaining: Duration,
}

impl OrderLocks {
    /// No locks.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            groups: Mutex::default(),
        }
    }

    /// Locks or renews what is free or already this client's, and returns those queues. The others belong to another client.
    pub fn lock(&self, group: &str, client_id: &str, queues: &[MessageQueue]) -> Vec<MessageQueue> {
        let now = self.clock.monotonic();
        let client_id: Arc<str> = Arc::from(client_id);
        let mut groups = self.groups.lock();
        let leases = groups.entry(group.to_owned()).or_default();
        leases.retain(|_, lease| lease.is_live(now));
        let mut locked = Vec::with_capacity(queues.len());
        for queue in queues {
            let lease = leases.entry(queue.clone()).or_insert_with(|| Lease {
                client_id: Arc::clone(&client_id),
                renewed: now,
            });
            if lease.client_id == client_id {
                lease.renewed = now;
                locked.push(queue.clone());
            }
        }
        if leases.is_empty() {
            groups.remove(group);
        }
        locked
    }

    /// Gives back those of `queues` that this client holds.
    pub fn unlock(&self, group: &str, client_id: &str, queues: &[MessageQueue]) {
        let mut groups = self.groups.lock();
        let Some(leases) = groups.get_mut(group) else {
            return;
        };
        for queue in queues {
            if leases
                .get(queue)
                .is_some_and(|lease| &*lease.client_id == client_id)
            {
                leases.remove(queue);
            }
        }
        if leases.is_empty() {
            groups.remove(group);
        }
    }

    /// Whether any queue is locked for `group`: then its messages are consumed in order, and one that is sent to its retry topic
    /// is dead (spec/semantics.md §3.4).
    pub fn holds_any(&self, group: &str) -> bool {
        let now = self.clock.monotonic();
        let groups = self.groups.lock();
        groups
            .get(group)
            .is_some_and(|leases| leases.values().any(|lease| lease.is_live(now)))
    }

    /// The live locks of `group`, by queue.
    pub fn held(&self, group: &str) -> Vec<HeldLock> {
        let now = self.clock.monotonic();
        let groups = self.groups.lock();
        let mut held: Vec<_> = groups
            .get(group)
            .into_iter()
            .flatten()
            .filter(|(_, lease)| lease.is_live(now))
            .map(|(queue, lease)| HeldLock {
                queue: queue.clone(),
                client_id: Arc::clone(&lease.client_id),
                remaining: LOCK_LIVE_MAX.saturating_sub(now.saturating_sub(lease.renewed)),
            })
            .collect();
        held.sort_by(|a, b| a.queue.cmp(&b.queue));
        held
    }

    /// Forgets leases that ran out, so that groups which went away leave nothing behind.
    pub fn forget_expired(&self) {
        let now = self.clock.monotonic();
        self.groups.lock().retain(|_, leases| {
            leases.retain(|_, lease| lease.is_live(now));
            !leases.is_empty()
        });
    }
}

impl Lease {
    fn is_live(&self, now: Duration) -> bool {
        now.saturating_sub(self.renewed) <= LOCK_LIVE_MAX
    }
}

#[cfg(test)]
mod tests {
    use agena_protocol::clock::ManualClock;

    use super::*;

    fn queue(number: i32) -> MessageQueue {
        MessageQueue::new("T", "broker-a", number)
    }

    fn locks() -> (Arc<ManualClock>, OrderLocks) {
        let clock = Arc::new(ManualClock::at(0));
        (Arc::clone(&clock), OrderLocks::new(clock))
    }

    #[test]
    fn the_first_client_gets_a_queue_and_the_second_only_what_is_left() {
        let (_, locks) = locks();
        assert_eq!(locks.lock("g", "a", &[queue(0)]), [queue(0)]);
        assert_eq!(locks.lock("g", "b", &[queue(0), queue(1)]), [queue(1)]);
        assert_eq!(locks.lock("other", "b", &[queue(0)]), [queue(0)]);
    }

    #[test]
    fn a_lock_lasts_sixty_seconds_from_its_last_renewal() {
        let (clock, locks) = locks();
        locks.lock("g", "a", &[queue(0)]);
        clock.advance(Duration::from_secs(50));
        assert_eq!(locks.lock("g", "a", &[queue(0)]), [queue(0)]);
        clock.advance(Duration::from_secs(60));
        assert!(locks.lock("g", "b", &[queue(0)]).is_empty());
        assert!(locks.holds_any("g"));
        clock.advance(Duration::from_millis(1));
        assert!(!locks.holds_any("g"));
        assert_eq!(locks.lock("g", "b", &[queue(0)]), [queue(0)]);
    }

    #[test]
    fn a_step_of_the_wall_clock_ends_no_lease() {
        let (clock, locks) = locks();
        locks.lock("g", "a", &[queue(0)]);
        clock.set_wall_ms(86_400_000);
        assert!(locks.lock("g", "b", &[queue(0)]).is_empty());
    }

    #[test]
    fn only_the_holder_unlocks() {
        let (_, locks) = locks();
        locks.lock("g", "a", &[queue(0)]);
        locks.unlock("g", "b", &[queue(0)]);
        assert_eq!(locks.held("g").len(), 1);
        locks.unlock("g", "a", &[queue(0)]);
        assert!(!locks.holds_any("g"));
    }

    #[test]
    fn expired_groups_leave_nothing_behind() {
        let (clock, locks) = locks();
        locks.lock("g", "a", &[queue(0)]);
        clock.advance(LOCK_LIVE_MAX + Duration::from_millis(1));
        locks.forget_expired();
        assert!(locks.groups.lock().is_empty());
    }
}
