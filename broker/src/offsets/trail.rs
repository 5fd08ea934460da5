//! What a group last did at one queue: who pulled and committed, what was given, and how fast both ends of the queue move.
//!
//! It explains lag and decides nothing. A pull pays for it with two short locks that only pulls and commits of the same
//! group and queue take; nothing is allocated, and the client's name is looked up when another one comes. Not kept over a
//! restart, and forgotten a day after the last visit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agena_protocol::offset::QueueOffset;
use agena_remoting::connection::Connection;
use parking_lot::Mutex;

use crate::backlog;

/// Rates and shares are those since a mark that is at least this old, and at most twice as old while pulls go on.
const MARK_PERIOD_MS: i64 = 15_000;

/// A span shorter than this says nothing about a rate.
const RATE_SPAN_MIN_MS: i64 = 1000;

/// A client that pulls or commits, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Visitor {
    /// Its connection's number.
    pub connection: u64,
    /// Its address.
    pub peer: SocketAddr,
    /// Wall clock in ms.
    pub at_ms: i64,
}

impl Visitor {
    /// The client of `connection`, now.
    pub(crate) fn of(connection: &Connection, now_ms: i64) -> Self {
        Self {
            connection: connection.id(),
            peer: connection.peer(),
            at_ms: now_ms,
        }
    }
}

/// A client's last visit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Visit {
    /// Who and when.
    pub visitor: Visitor,
    /// The client's id, if it was a member of the group when it first came.
    pub client_id: Option<Arc<str>>,
    /// The offset it named.
    pub offset: i64,
}

/// What a read gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Given {
    /// Wall clock in ms.
    pub at_ms: i64,
    /// Where the client is told to read on, if the read went over messages or stood at the end.
    pub next: Option<QueueOffset>,
    /// Messages given.
    pub messages: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// End of the queue.
    pub max: QueueOffset,
    /// The messages had to come from the device.
    pub cold: bool,
}

/// The state of a queue's two ends at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    at_ms: i64,
    max: i64,
    committed: i64,
    looked_at: u64,
    given: u64,
}

/// The facts, as of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Steps {
    /// The last pull.
    pub pulled: Option<Visit>,
    /// The last commit.
    pub committed: Option<Visit>,
    /// Since when neither a commit moved, nor was everything committed; meaningful while something is in flight.
    pub stalled_since_ms: i64,
    /// When a read last had to go to the device.
    pub cold_ms: Option<i64>,
    /// Where the reader stands.
    position: i64,
    /// The committed offset; before the first commit, where the first pull began.
    behind: Option<i64>,
    looked_at: u64,
    given: u64,
    earlier: Option<Mark>,
    latest: Option<Mark>,
}

/// Messages over the last half minute.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Recent {
    /// Messages a second that came and that were committed; none while the span is too short.
    pub rates: Option<(f64, f64)>,
    /// Messages that reads went over.
    pub looked_at: u64,
    /// Those of them that were given.
    pub given: u64,
}

/// The trail of one group at one queue.
#[derive(Debug, Default)]
pub(crate) struct Trail {
    steps: Mutex<Steps>,
    /// Bytes of the last answer to a reader with a backlog, 0 for others. A value of a moment ago puts one pull on the other
    /// path and nothing else.
    backlog_bytes: AtomicU64,
}

impl Trail {
    /// A trail of a group that committed `committed` before.
    pub(super) fn new(committed: Option<QueueOffset>) -> Self {
        let steps = Steps {
            behind: committed.map(QueueOffset::wire),
            ..Steps::default()
        };
        Self {
            steps: Mutex::new(steps),
            backlog_bytes: AtomicU64::new(0),
        }
    }

    /// A pull from `offset` arrived. True when another client pulled before, so that this one's name is not known.
    pub(super) fn pulled(&self, visitor: &Visitor, offset: i64) -> bool {
        let mut steps = self.steps.lock();
        steps.behind.get_or_insert(offset);
        steps.stand_at(offset, visitor.at_ms);
        Visit::replace(&mut steps.pulled, visitor, offset)
    }

    /// Names the client that pulled last, if it still is that one.
    pub(crate) fn name_puller(&self, connection: u64, client_id: Arc<str>) {
        if let Some(visit) = &mut self.steps.lock().pulled
            && visit.visitor.connection == connection
        {
            visit.client_id = Some(client_id);
        }
    }

    /// What the next answer may be expected to have, in bytes, if there is a backlog.
    pub(crate) fn backlog_bytes(&self) -> Option<u64> {
        Some(self.backlog_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }

    /// A pull was read for.
    pub(crate) fn given(&self, given: &Given) {
        let left = given
            .next
            .map_or(0, |next| given.max.wire().saturating_sub(next.wire()));
        let left = u64::try_from(left).unwrap_or(0);
        let bytes = if backlog::is_long(given.bytes, given.messages, left) {
            given.bytes
        } else {
            0
        };
        self.backlog_bytes.store(bytes, Ordering::Relaxed);
        let mut steps = self.steps.lock();
        let asked = steps.pulled.as_ref().map_or(0, |visit| visit.offset);
        if let Some(next) = given.next.map(QueueOffset::wire) {
            steps.looked_at += u64::try_from(next.saturating_sub(asked)).unwrap_or(0);
            steps.given += given.messages;
            steps.stand_at(next, given.at_ms);
        }
        if given.cold {
            steps.cold_ms = Some(given.at_ms);
        }
        steps.mark(given.at_ms, given.max.wire());
    }

    /// A commit of `offset` was stored.
    pub(super) fn committed(&self, visitor: Option<&Visitor>, offset: QueueOffset) {
        let mut steps = self.steps.lock();
        let offset = offset.wire();
        if let Some(visitor) = visitor {
            if steps.behind != Some(offset) {
                steps.stalled_since_ms = visitor.at_ms;
            }
            Visit::replace(&mut steps.committed, visitor, offset);
            steps.name_committer();
        }
        steps.behind = Some(offset);
    }

    /// The offset of the last pull.
    pub(super) fn last_pulled(&self) -> Option<QueueOffset> {
        let steps = self.steps.lock();
        QueueOffset::from_wire(steps.pulled.as_ref()?.offset)
    }

    /// When somebody last came.
    pub(super) fn last_visit_ms(&self) -> i64 {
        let steps = self.steps.lock();
        let visits = [&steps.pulled, &steps.committed].into_iter().flatten();
        visits
            .map(|visit| visit.visitor.at_ms)
            .max()
            .unwrap_or(i64::MIN)
    }

    /// All of it.
    pub(crate) fn steps(&self) -> Steps {
        self.steps.lock().clone()
    }
}

impl Visit {
    /// Enters a visit; true when the client is another one than before.
    fn replace(last: &mut Option<Self>, visitor: &Visitor, offset: i64) -> bool {
        match last {
            Some(visit) if visit.visitor.connection == visitor.connection => {
                visit.visitor = *visitor;
                visit.offset = offset;
                false
            }
            _ => {
                *last = Some(Self {
                    visitor: *visitor,
                    client_id: None,
                    offset,
                });
                true
            }
        }
    }
}

impl Steps {
    /// Messages that were given and are not committed.
    pub(crate) fn in_flight(&self) -> i64 {
        let behind = self.behind.unwrap_or(self.position);
        self.position.saturating_sub(behind).max(0)
    }

    /// What happened since the last mark but one, with `max` as the queue's end now.
    pub(crate) fn recent(&self, now_ms: i64, max: i64) -> Recent {
        let Some(mark) = self.earlier.or(self.latest) else {
            return Recent::default();
        };
        let span_ms = now_ms.saturating_sub(mark.at_ms);
        let rate = |from: i64, to: i64| per_second(to.saturating_sub(from).max(0), span_ms);
        let committed = self.behind.unwrap_or(mark.committed);
        Recent {
            rates: (span_ms >= RATE_SPAN_MIN_MS)
                .then(|| (rate(mark.max, max), rate(mark.committed, committed))),
            looked_at: self.looked_at - mark.looked_at,
            given: self.given - mark.given,
        }
    }

    /// The reader stands at `offset`. If everything was committed before, what is in flight now begins to wait.
    fn stand_at(&mut self, offset: i64, now_ms: i64) {
        if self.in_flight() == 0 {
            self.stalled_since_ms = now_ms;
        }
        self.position = offset;
    }

    /// Who commits is mostly who pulls, and then has a name already.
    fn name_committer(&mut self) {
        if let (Some(committed), Some(pulled)) = (&mut self.committed, &self.pulled)
            && committed.client_id.is_none()
            && committed.visitor.connection == pulled.visitor.connection
        {
            committed.client_id.clone_from(&pulled.client_id);
        }
    }

    fn mark(&mut self, now_ms: i64, max: i64) {
        let is_due = self
            .latest
            .is_none_or(|mark| now_ms.saturating_sub(mark.at_ms) >= MARK_PERIOD_MS);
        if is_due {
            let mark = Mark {
                at_ms: now_ms,
                max,
                committed: self.behind.unwrap_or(0),
                // The first mark is made by the first read, which counts.
                looked_at: self.latest.map_or(0, |_| self.looked_at),
                given: self.latest.map_or(0, |_| self.given),
            };
            self.earlier = self.latest.replace(mark);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate shown to operators")]
fn per_second(count: i64, span_ms: i64) -> f64 {
    count as f64 * 1000.0 / span_ms.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visitor(connection: u64, at_ms: i64) -> Visitor {
        Visitor {
            connection,
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            at_ms,
        }
    }

    fn given(at_ms: i64, next: u64, messages: u64, max: u64) -> Given {
        Given {
            at_ms,
            next: Some(QueueOffset::new(next)),
            messages,
            bytes: 0,
            max: QueueOffset::new(max),
            cold: false,
        }
    }

    #[test]
    fn what_is_given_and_not_committed_is_in_flight_since_it_was_given() {
        let trail = Trail::new(None);
        trail.pulled(&visitor(1, 100), 0);
        trail.given(&given(100, 32, 32, 500));
        trail.pulled(&visitor(1, 900), 32);
        trail.given(&given(900, 64, 32, 500));
        let steps = trail.steps();
        assert_eq!((steps.in_flight(), steps.stalled_since_ms), (64, 100));
        trail.committed(Some(&visitor(1, 1000)), QueueOffset::new(10));
        trail.committed(Some(&visitor(1, 6000)), QueueOffset::new(10));
        let steps = trail.steps();
        assert_eq!((steps.in_flight(), steps.stalled_since_ms), (54, 1000));
        trail.committed(Some(&visitor(1, 7000)), QueueOffset::new(64));
        trail.pulled(&visitor(1, 8000), 64);
        trail.given(&given(8000, 96, 32, 500));
        assert_eq!(trail.steps().stalled_since_ms, 8000);
    }

    #[test]
    fn a_client_is_named_once_and_another_anew() {
        let trail = Trail::new(None);
        assert!(trail.pulled(&visitor(1, 0), 0));
        trail.name_puller(2, Arc::from("late"));
        trail.name_puller(1, Arc::from("a"));
        assert!(!trail.pulled(&visitor(1, 5), 7));
        trail.committed(Some(&visitor(1, 6)), QueueOffset::new(7));
        let steps = trail.steps();
        assert_eq!(steps.pulled.unwrap().client_id.as_deref(), Some("a"));
        assert_eq!(steps.committed.unwrap().client_id.as_deref(), Some("a"));
        assert!(trail.pulled(&visitor(2, 9), 7));
        assert_eq!(trail.steps().pulled.unwrap().client_id, None);
    }

    #[test]
    fn rates_and_shares_are_those_of_the_last_half_minute() {
        let trail = Trail::new(Some(QueueOffset::new(0)));
        trail.pulled(&visitor(1, 0), 0);
        trail.given(&given(0, 100, 1, 1000));
        assert_eq!(trail.steps().recent(500, 1000).rates, None);
        let recent = trail.steps().recent(500, 1000);
        assert_eq!((recent.looked_at, recent.given), (100, 1));
        trail.committed(Some(&visitor(1, 1000)), QueueOffset::new(400));
        let recent = trail.steps().recent(2000, 1100);
        assert_eq!(recent.rates, Some((50.0, 200.0)));
        for at_ms in [20_000, 40_000, 60_000] {
            trail.pulled(&visitor(1, at_ms), 400);
            trail.given(&given(at_ms, 410, 10, 1100));
        }
        let recent = trail.steps().recent(60_000, 1100);
        assert_eq!((recent.looked_at, recent.given), (10, 10));
        assert_eq!(recent.rates, Some((0.0, 0.0)));
    }
}
