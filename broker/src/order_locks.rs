//! Locks of ordered consumers: which client may consume a queue for its group, and until when.
//!
//! A lock is a lease: it lasts 60 s from its last renewal (clients renew every 20 s and believe in it for 30 s), so a client
//! that dies gives its queues back by itself. It does not end with the connection: a client that merely lost that goes on for
//! up to 30 s, and the 30 s behind them are for listeners that began in the last of them. At no time do two clients of a
//! group hold the same queue, also not over a restart: what was answered is in a journal before, so that a killed broker
//! goes on where it was. Time is monotonic;
//! a step of the wall clock neither ends nor prolongs a lease, but for one that is read after a restart.
//! Apache: `RebalanceLockManager`, which forgets its locks with the process.

mod journal;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::clock::Clock;
use agena_protocol::queue::MessageQueue;
use parking_lot::Mutex;

use crate::snapshot_files::SnapshotError;
use journal::{Change, Journal};

/// How long a lock lasts without renewal (`rocketmq.broker.rebalance.lockMaxLiveTime`).
pub const LOCK_LIVE_MAX: Duration = Duration::from_secs(60);

type Groups = HashMap<String, HashMap<MessageQueue, Lease>>;

/// The locks of every group.
#[derive(Debug)]
pub struct OrderLocks {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

/// What is written is what was done, in that order: both change under one lock.
#[derive(Debug)]
struct State {
    groups: Groups,
    journal: Journal,
}

#[derive(Debug, Clone)]
struct Lease {
    client_id: Arc<str>,
    /// On the monotonic clock.
    until: Duration,
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
    /// The locks that a former process left in `directory` and that did not run out meanwhile.
    ///
    /// # Errors
    /// [`SnapshotError`] when their file cannot be read or made.
    pub fn open(directory: &Path, clock: Arc<dyn Clock>) -> Result<Self, SnapshotError> {
        let (journal, changes) = Journal::open(directory)?;
        let mut groups = Groups::new();
        for change in changes {
            take_up(&mut groups, change, &*clock);
        }
        let now = clock.monotonic();
        drop_expired(&mut groups, now);
        let mut state = State { groups, journal };
        state.compact(&*clock);
        Ok(Self {
            clock,
            state: Mutex::new(state),
        })
    }

    /// Locks or renews what is free or already this client's, and returns those queues. The others belong to another client.
    pub fn lock(&self, group: &str, client_id: &str, queues: &[MessageQueue]) -> Vec<MessageQueue> {
        let now = self.clock.monotonic();
        let until = now + LOCK_LIVE_MAX;
        let client_id: Arc<str> = Arc::from(client_id);
        let mut state = self.state.lock();
        let leases = state.groups.entry(group.to_owned()).or_default();
        leases.retain(|_, lease| lease.is_live(now));
        let mut locked = Vec::with_capacity(queues.len());
        for queue in queues {
            let lease = leases.entry(queue.clone()).or_insert_with(|| Lease {
                client_id: Arc::clone(&client_id),
                until,
            });
            if lease.client_id == client_id {
                lease.until = until;
                locked.push(queue.clone());
            }
        }
        if leases.is_empty() {
            state.groups.remove(group);
        }
        if !locked.is_empty() {
            let until_ms = wall_ms(&*self.clock, LOCK_LIVE_MAX);
            state.note(&*self.clock, group, &client_id, &locked, Some(until_ms));
        }
        locked
    }

    /// Gives back those of `queues` that this client holds.
    pub fn unlock(&self, group: &str, client_id: &str, queues: &[MessageQueue]) {
        let mut state = self.state.lock();
        let Some(leases) = state.groups.get_mut(group) else {
            return;
        };
        let mut freed = Vec::new();
        for queue in queues {
            if leases
                .get(queue)
                .is_some_and(|lease| &*lease.client_id == client_id)
            {
                leases.remove(queue);
                freed.push(queue.clone());
            }
        }
        if leases.is_empty() {
            state.groups.remove(group);
        }
        if !freed.is_empty() {
            state.note(&*self.clock, group, client_id, &freed, None);
        }
    }

    /// Whether any queue is locked for `group`: then its messages are consumed in order, and one that is sent to its retry topic
    /// is dead (spec/semantics.md §3.4).
    pub fn holds_any(&self, group: &str) -> bool {
        let now = self.clock.monotonic();
        let state = self.state.lock();
        let leases = state.groups.get(group);
        leases.is_some_and(|leases| leases.values().any(|lease| lease.is_live(now)))
    }

    /// The live locks of `group`, by queue.
    pub fn held(&self, group: &str) -> Vec<HeldLock> {
        let now = self.clock.monotonic();
        let state = self.state.lock();
        let leases = state.groups.get(group);
        let mut held: Vec<_> = leases
            .into_iter()
            .flatten()
            .filter(|(_, lease)| lease.is_live(now))
            .map(|(queue, lease)| HeldLock {
                queue: queue.clone(),
                client_id: Arc::clone(&lease.client_id),
                remaining: lease.until.saturating_sub(now),
            })
            .collect();
        held.sort_by(|a, b| a.queue.cmp(&b.queue));
        held
    }

    /// Forgets leases that ran out, so that groups which went away leave nothing behind.
    pub fn forget_expired(&self) {
        let now = self.clock.monotonic();
        let mut state = self.state.lock();
        drop_expired(&mut state.groups, now);
        if state.groups.is_empty() {
            state.journal.clear();
        }
    }
}

impl State {
    /// Writes down that a client holds `queues` until a time, or no longer.
    fn note(
        &mut self,
        clock: &dyn Clock,
        group: &str,
        client_id: &str,
        queues: &[MessageQueue],
        until_ms: Option<i64>,
    ) {
        self.journal.append(&Change {
            group: group.to_owned(),
            client_id: client_id.to_owned(),
            queues: queues.to_vec(),
            until_ms,
        });
        if self.journal.is_long() {
            self.compact(clock);
        }
    }

    /// Writes the journal anew with what holds now.
    fn compact(&mut self, clock: &dyn Clock) {
        let now = clock.monotonic();
        let mut changes = Vec::new();
        for (group, leases) in &self.groups {
            let live = leases.iter().filter(|(_, lease)| lease.is_live(now));
            changes.extend(live.map(|(queue, lease)| Change {
                group: group.clone(),
                client_id: lease.client_id.to_string(),
                queues: vec![queue.clone()],
                until_ms: Some(wall_ms(clock, lease.until.saturating_sub(now))),
            }));
        }
        self.journal.replace(&changes);
    }
}

impl Lease {
    fn is_live(&self, now: Duration) -> bool {
        now <= self.until
    }
}

/// Does once more what a former process did. The wall clock may have been set meanwhile: no lease becomes longer than one
/// that is given now.
fn take_up(groups: &mut Groups, change: Change, clock: &dyn Clock) {
    let leases = groups.entry(change.group).or_default();
    let Some(until_ms) = change.until_ms else {
        for queue in &change.queues {
            leases.remove(queue);
        }
        return;
    };
    let left_ms = u64::try_from(until_ms.saturating_sub(clock.now_ms()));
    let client_id: Arc<str> = Arc::from(change.client_id);
    for queue in change.queues {
        let Ok(left_ms) = left_ms else {
            leases.remove(&queue);
            continue;
        };
        let left = Duration::from_millis(left_ms).min(LOCK_LIVE_MAX);
        let lease = Lease {
            client_id: Arc::clone(&client_id),
            until: clock.monotonic() + left,
        };
        leases.insert(queue, lease);
    }
}

fn drop_expired(groups: &mut Groups, now: Duration) {
    groups.retain(|_, leases| {
        leases.retain(|_, lease| lease.is_live(now));
        !leases.is_empty()
    });
}

/// The wall clock's time in `after`.
fn wall_ms(clock: &dyn Clock, after: Duration) -> i64 {
    let after_ms = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
    clock.now_ms().saturating_add(after_ms)
}

#[cfg(test)]
mod tests {
    use agena_protocol::clock::ManualClock;

    use super::*;

    fn queue(number: i32) -> MessageQueue {
        MessageQueue::new("T", "broker-a", number)
    }

    /// Locks in a directory, and a clock to turn.
    struct Bench {
        clock: Arc<ManualClock>,
        directory: tempfile::TempDir,
        locks: OrderLocks,
    }

    impl Bench {
        fn new() -> Self {
            let clock = Arc::new(ManualClock::at(1_700_000_000_000));
            let directory = tempfile::tempdir().unwrap();
            let locks = OrderLocks::open(directory.path(), Arc::clone(&clock) as _).unwrap();
            Self {
                clock,
                directory,
                locks,
            }
        }

        /// As another process finds them after this one was killed.
        fn restart(&mut self) {
            let wall_ms = self.clock.now_ms();
            self.clock = Arc::new(ManualClock::at(wall_ms));
            let clock = Arc::clone(&self.clock) as _;
            self.locks = OrderLocks::open(self.directory.path(), clock).unwrap();
        }

        fn journal_bytes(&self) -> u64 {
            let path = self.directory.path().join(journal::FILE_NAME);
            std::fs::metadata(path).unwrap().len()
        }
    }

    fn locks() -> (Arc<ManualClock>, OrderLocks) {
        let bench = Bench::new();
        (bench.clock, bench.locks)
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
        assert!(locks.state.lock().groups.is_empty());
    }

    #[test]
    fn after_a_restart_the_owner_has_its_lock_and_another_waits_for_its_end() {
        let mut bench = Bench::new();
        bench.locks.lock("g", "a", &[queue(0), queue(1)]);
        bench.locks.unlock("g", "a", &[queue(1)]);
        bench.clock.advance(Duration::from_secs(20));
        bench.restart();
        assert_eq!(
            bench.locks.lock("g", "b", &[queue(0), queue(1)]),
            [queue(1)]
        );
        let held = bench.locks.held("g");
        assert_eq!(held[0].remaining, Duration::from_secs(40));
        bench.clock.advance(Duration::from_secs(40));
        assert!(bench.locks.lock("g", "b", &[queue(0)]).is_empty());
        bench.clock.advance(Duration::from_millis(1));
        assert_eq!(bench.locks.lock("g", "b", &[queue(0)]), [queue(0)]);
        bench.restart();
        assert!(bench.locks.lock("g", "a", &[queue(0)]).is_empty());
    }

    #[test]
    fn a_wall_clock_that_was_set_back_prolongs_no_lease() {
        let mut bench = Bench::new();
        bench.locks.lock("g", "a", &[queue(0)]);
        bench.clock.set_wall_ms(0);
        bench.restart();
        assert_eq!(bench.locks.held("g")[0].remaining, LOCK_LIVE_MAX);
    }

    #[test]
    fn the_journal_does_not_grow_with_renewals_and_is_empty_without_locks() {
        let mut bench = Bench::new();
        for _ in 0..5000 {
            bench.locks.lock("g", "a", &[queue(0), queue(1)]);
        }
        assert!(bench.journal_bytes() < 200_000, "{}", bench.journal_bytes());
        bench.restart();
        assert_eq!(bench.locks.held("g").len(), 2);
        bench
            .clock
            .advance(LOCK_LIVE_MAX + Duration::from_millis(1));
        bench.locks.forget_expired();
        assert_eq!(bench.journal_bytes(), 0);
    }
}
