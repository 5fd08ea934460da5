//! Pending halves: the transactions that wait for commit or rollback, each with the time of its next check.
//!
//! Derived from the half and op topics alone and rebuilt from them at open. Two progress marks follow from it, kept as
//! consumer offsets of `CID_RMQ_SYS_TRANS` as the original keeps them: everything in front of the half mark is
//! resolved, and no op record in front of the op mark names a half behind the half mark.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_remoting::reply::ReplyTo;
use parking_lot::Mutex;

use super::Outcome;

/// Op records whose greatest half offset is kept together: the op mark moves in steps of this size.
const OP_BLOCK: u64 = 256;

/// Halves of a group that are woken under one lock.
const WAKE_PART: usize = 10_000;

/// Early outcomes kept at most; they exist between an append and its dispatch, which follows the data sync.
const EARLY_MAX: usize = 10_000;

/// One transaction that is not resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Half {
    /// Where the half record stands in the log.
    pub physical: PhysicalOffset,
    /// The producer group that is asked (`PGROUP`).
    pub group: Arc<str>,
    /// When the half was stored; wall clock, ms.
    pub stored_ms: i64,
    /// How often a producer was asked (`TRANSACTION_CHECK_TIMES` of the last check).
    pub checks: u32,
    /// How often in a row it was due and nobody of the group was connected.
    pub missed: u8,
    /// When it is looked at next; monotonic.
    pub due: Duration,
}

/// What became of an attempt to resolve a half.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It was pending and belongs to the caller now, who resolves it ([`Halves::settled`]) or gives it back
    /// ([`Halves::restore`]).
    Pending(Half),
    /// It may have been appended a moment ago and is not dispatched yet: [`Halves::keep_early`].
    NotYetSeen,
    /// It was resolved before.
    Resolved,
    /// Another record is the half of this offset: somebody made this one up.
    Other,
}

/// An outcome that came before dispatch brought its half.
#[derive(Debug)]
pub(crate) struct Early {
    /// Where the half must stand in the log.
    pub physical: PhysicalOffset,
    /// What the producer said.
    pub outcome: Outcome,
    /// Who waits for the answer.
    pub reply_to: ReplyTo,
}

/// How far the half and op queues are done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The first half that is pending, or the end of the half queue.
    pub(crate) half: QueueOffset,
    /// The first op record that may name a half at or behind `half`.
    pub(crate) op: QueueOffset,
}

/// Pending transactions of one producer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupSummary {
    /// Producer group.
    pub group: Arc<str>,
    /// How many are pending.
    pub pending: usize,
    /// Store time of the oldest; wall clock, ms.
    pub oldest_ms: i64,
}

/// The table of pending halves. One short lock; nothing is read or written under it.
#[derive(Debug)]
pub(crate) struct Halves {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pending: BTreeMap<QueueOffset, Half>,
    /// Claimed and neither settled nor given back: what resolves them may not be in the log yet, so the mark stays.
    claimed: BTreeSet<QueueOffset>,
    due: BTreeSet<(Duration, QueueOffset)>,
    groups: HashMap<Arc<str>, BTreeSet<QueueOffset>>,
    /// Groups with a half that was due while nobody of them was connected.
    orphaned: HashSet<Arc<str>>,
    /// Those of them of which somebody has come; the check-back task wakes their halves.
    returned: Vec<Arc<str>>,
    /// The next half offset that dispatch will bring.
    next_half: QueueOffset,
    /// Behind the last half that there is: an op record that names a later one is damaged or made up.
    end: QueueOffset,
    early: BTreeMap<QueueOffset, Early>,
    /// Early outcomes whose half has come meanwhile; the check-back task carries them out.
    ripe: Vec<(QueueOffset, Early)>,
    ops: VecDeque<OpBlock>,
    next_op: QueueOffset,
}

#[derive(Debug)]
struct OpBlock {
    first: QueueOffset,
    greatest_half: QueueOffset,
}

impl Halves {
    /// An empty table that expects `half` and `op` next; the half queue ends at `end`.
    pub(crate) fn starting_at(progress: Progress, end: QueueOffset) -> Self {
        Self {
            state: Mutex::new(State {
                pending: BTreeMap::new(),
                claimed: BTreeSet::new(),
                due: BTreeSet::new(),
                groups: HashMap::new(),
                orphaned: HashSet::new(),
                returned: Vec::new(),
                next_half: progress.half,
                end,
                early: BTreeMap::new(),
                ripe: Vec::new(),
                ops: VecDeque::new(),
                next_op: progress.op,
            }),
        }
    }

    /// A half record became visible. Called once for each, in the order of the half queue; a repeat is ignored.
    pub(crate) fn appeared(
        &self,
        at: QueueOffset,
        physical: PhysicalOffset,
        group: &str,
        stored_ms: i64,
        checks: u32,
        due: Duration,
    ) {
        let mut state = self.state.lock();
        if at < state.next_half {
            return;
        }
        state.next_half = at.plus(1);
        state.end = state.end.max(state.next_half);
        if !state.early.is_empty() {
            // Those in front name nothing that was ever stored.
            let behind = state.early.split_off(&at.plus(1));
            let come = std::mem::replace(&mut state.early, behind);
            state
                .ripe
                .extend(come.into_iter().filter(|(early, _)| *early == at));
        }
        let group = state
            .groups
            .get_key_value(group)
            .map_or_else(|| Arc::from(group), |(name, _)| name.clone());
        state.insert(
            at,
            Half {
                physical,
                group,
                stored_ms,
                checks,
                missed: 0,
                due,
            },
        );
    }

    /// An op record became visible: the halves it names are resolved.
    pub(crate) fn op_appeared(&self, op: QueueOffset, halves: &[QueueOffset]) {
        let mut state = self.state.lock();
        if op < state.next_op {
            return;
        }
        state.next_op = op.plus(1);
        // An op record stands behind its halves in the log, so they were here before it.
        let end = state.end;
        let halves = halves.iter().copied().filter(|half| *half < end);
        let mut greatest_half = None;
        for half in halves {
            state.remove(half);
            greatest_half = greatest_half.max(Some(half));
        }
        let Some(greatest_half) = greatest_half else {
            return;
        };
        match state.ops.back_mut() {
            Some(block) if op.number() - block.first.number() < OP_BLOCK => {
                block.greatest_half = block.greatest_half.max(greatest_half);
            }
            _ => state.ops.push_back(OpBlock {
                first: op,
                greatest_half,
            }),
        }
    }

    /// Nothing in front of `next` is pending that has not appeared. Used once, when the table is rebuilt.
    pub(crate) fn expect(&self, next: QueueOffset) {
        let mut state = self.state.lock();
        state.next_half = state.next_half.max(next);
    }

    /// Takes the half at `at` of its queue and `physical` of the log out of the table, so that nobody else resolves or
    /// checks it.
    pub(crate) fn claim(&self, at: QueueOffset, physical: PhysicalOffset) -> Claim {
        let mut state = self.state.lock();
        if at >= state.next_half {
            return Claim::NotYetSeen;
        }
        match state.pending.get(&at) {
            None => Claim::Resolved,
            Some(half) if half.physical != physical => Claim::Other,
            Some(_) => state.remove(at).map_or(Claim::Resolved, |half| {
                state.claimed.insert(at);
                Claim::Pending(half)
            }),
        }
    }

    /// Whether the half at `at` of its queue and `physical` of the log is pending, or dispatch has yet to bring it.
    pub(crate) fn is_undecided(&self, at: QueueOffset, physical: PhysicalOffset) -> bool {
        let state = self.state.lock();
        let pending = state.pending.get(&at);
        at >= state.next_half || pending.is_some_and(|half| half.physical == physical)
    }

    /// What resolves a claimed half is in the log.
    pub(crate) fn settled(&self, at: QueueOffset) {
        self.state.lock().claimed.remove(&at);
    }

    /// Gives a claimed half back, since resolving it failed.
    pub(crate) fn restore(&self, at: QueueOffset, half: Half) {
        let mut state = self.state.lock();
        state.claimed.remove(&at);
        state.insert(at, half);
    }

    /// Keeps an outcome until dispatch brings its half. Handed back when the half is here by now, when another outcome
    /// waits for it, or when too many wait.
    pub(crate) fn keep_early(&self, at: QueueOffset, early: Early) -> Result<(), Early> {
        let mut state = self.state.lock();
        if at < state.next_half || state.early.len() >= EARLY_MAX || state.early.contains_key(&at) {
            return Err(early);
        }
        state.early.insert(at, early);
        Ok(())
    }

    /// Early outcomes whose halves have come.
    pub(crate) fn take_ripe(&self) -> Vec<(QueueOffset, Early)> {
        std::mem::take(&mut self.state.lock().ripe)
    }

    /// Up to `most` halves that are due at `now`, earliest first. They stay where they are until [`Self::checked`],
    /// [`Self::put_off`] or a claim.
    pub(crate) fn due(&self, now: Duration, most: usize) -> Vec<(QueueOffset, Half)> {
        let state = self.state.lock();
        state
            .due
            .iter()
            .take_while(|(due, _)| *due <= now)
            .take(most)
            .filter_map(|(_, at)| state.pending.get(at).map(|half| (*at, half.clone())))
            .collect()
    }

    /// When the next half is due, if any is pending.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.state.lock().due.first().map(|(due, _)| *due)
    }

    /// A producer was asked: counts, and is due again at `next`. False if it was resolved meanwhile.
    pub(crate) fn checked(&self, at: QueueOffset, next: Duration) -> bool {
        self.state.lock().change(at, |half| {
            half.checks = half.checks.saturating_add(1);
            half.missed = 0;
            half.due = next;
        })
    }

    /// The question did not leave after all.
    pub(crate) fn not_checked(&self, at: QueueOffset) {
        self.state
            .lock()
            .change(at, |half| half.checks = half.checks.saturating_sub(1));
    }

    /// Due again at `next` without having been asked.
    pub(crate) fn put_off(&self, at: QueueOffset, next: Duration) {
        self.state.lock().change(at, |half| half.due = next);
    }

    /// The same, since nobody of its group is connected.
    pub(crate) fn missed(&self, at: QueueOffset, next: Duration) {
        let mut state = self.state.lock();
        let mut group = None;
        state.change(at, |half| {
            half.missed = half.missed.saturating_add(1);
            half.due = next;
            group = Some(half.group.clone());
        });
        state.orphaned.extend(group);
    }

    /// A producer of `group` is connected. True if halves wait for that.
    pub(crate) fn producer_came(&self, group: &str) -> bool {
        let mut state = self.state.lock();
        let Some(group) = state.orphaned.take(group) else {
            return false;
        };
        state.returned.push(group);
        true
    }

    /// Makes the halves due that were put off while nobody of their group was connected, and now somebody is.
    pub(crate) fn wake_returned(&self, now: Duration) {
        let returned = std::mem::take(&mut self.state.lock().returned);
        for group in returned {
            let mut from = Some(QueueOffset::new(0));
            // A part at a time: others need the table meanwhile.
            while let Some(at) = from {
                from = self.state.lock().wake(&group, at, now);
            }
        }
    }

    /// Restores what a journal remembers of a half's checks: how many there were, and that it is not due before `due`.
    pub(crate) fn remember_checks(&self, at: QueueOffset, checks: u32, due: Duration) {
        self.state.lock().change(at, |half| {
            half.checks = half.checks.max(checks);
            half.due = half.due.max(due);
        });
    }

    /// The first `most` pending halves whose records lie below `physical` in the log.
    pub(crate) fn below(&self, physical: PhysicalOffset, most: usize) -> Vec<(QueueOffset, Half)> {
        let state = self.state.lock();
        let below = state.pending.iter();
        below
            .take_while(|(_, half)| half.physical < physical)
            .take(most)
            .map(|(at, half)| (*at, half.clone()))
            .collect()
    }

    /// Both marks. The op mark is dragged along: blocks that name resolved halves only are dropped.
    pub(crate) fn progress(&self) -> Progress {
        let mut state = self.state.lock();
        let pending = state.pending.first_key_value().map(|(at, _)| *at);
        let claimed = state.claimed.first().copied();
        let undecided = [pending, claimed].into_iter().flatten().min();
        let half = undecided.unwrap_or(state.next_half);
        while state
            .ops
            .front()
            .is_some_and(|block| block.greatest_half < half)
        {
            state.ops.pop_front();
        }
        let op = state.ops.front().map_or(state.next_op, |block| block.first);
        Progress { half, op }
    }

    /// A pending half.
    pub(crate) fn get(&self, at: QueueOffset) -> Option<Half> {
        self.state.lock().pending.get(&at).cloned()
    }

    /// How many are pending.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().pending.len()
    }

    /// Up to `most` pending halves from `from` on, of one producer group or of all, in the order of the half queue; and
    /// where to go on, if there is more.
    pub(crate) fn page(
        &self,
        group: Option<&str>,
        from: QueueOffset,
        most: usize,
    ) -> (Vec<(QueueOffset, Half)>, Option<QueueOffset>) {
        let state = self.state.lock();
        let mut page: Vec<_> = match group {
            None => state
                .pending
                .range(from..)
                .take(most + 1)
                .map(|(at, half)| (*at, half.clone()))
                .collect(),
            Some(group) => state
                .groups
                .get(group)
                .into_iter()
                .flat_map(|halves| halves.range(from..))
                .take(most + 1)
                .filter_map(|at| Some((*at, state.pending.get(at)?.clone())))
                .collect(),
        };
        let more = (page.len() > most).then(|| page.split_off(most)[0].0);
        (page, more)
    }

    /// When the oldest pending half was stored; wall clock, ms.
    pub(crate) fn oldest_ms(&self) -> Option<i64> {
        let state = self.state.lock();
        state.pending.values().next().map(|half| half.stored_ms)
    }

    /// Pending transactions by producer group, most first.
    pub(crate) fn groups(&self) -> Vec<GroupSummary> {
        let state = self.state.lock();
        let oldest_of = |halves: &BTreeSet<QueueOffset>| {
            let oldest = halves.first().and_then(|at| state.pending.get(at));
            oldest.map_or(0, |half| half.stored_ms)
        };
        let mut groups: Vec<_> = state
            .groups
            .iter()
            .map(|(group, halves)| GroupSummary {
                group: group.clone(),
                pending: halves.len(),
                oldest_ms: oldest_of(halves),
            })
            .collect();
        drop(state);
        groups.sort_by(|a, b| {
            b.pending
                .cmp(&a.pending)
                .then_with(|| a.group.cmp(&b.group))
        });
        groups
    }
}

impl State {
    fn insert(&mut self, at: QueueOffset, half: Half) {
        self.due.insert((half.due, at));
        self.groups
            .entry(half.group.clone())
            .or_default()
            .insert(at);
        self.pending.insert(at, half);
    }

    fn remove(&mut self, at: QueueOffset) -> Option<Half> {
        let half = self.pending.remove(&at)?;
        self.due.remove(&(half.due, at));
        if let Some(halves) = self.groups.get_mut(&half.group) {
            halves.remove(&at);
            if halves.is_empty() {
                self.groups.remove(&half.group);
                self.orphaned.remove(&half.group);
            }
        }
        Some(half)
    }

    /// Wakes some halves of a group; says where to go on.
    fn wake(&mut self, group: &str, from: QueueOffset, now: Duration) -> Option<QueueOffset> {
        let halves = self.groups.get(group)?;
        let part: Vec<_> = halves.range(from..).take(WAKE_PART).copied().collect();
        for at in &part {
            if self.pending.get(at).is_some_and(|half| half.missed > 0) {
                self.change(*at, |half| {
                    half.missed = 0;
                    half.due = half.due.min(now);
                });
            }
        }
        part.last().map(|at| at.plus(1))
    }

    fn change(&mut self, at: QueueOffset, change: impl FnOnce(&mut Half)) -> bool {
        let Some(half) = self.pending.get_mut(&at) else {
            return false;
        };
        self.due.remove(&(half.due, at));
        change(half);
        self.due.insert((half.due, at));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> QueueOffset {
        QueueOffset::new(offset)
    }

    fn table() -> Halves {
        let start = Progress {
            half: at(0),
            op: at(0),
        };
        Halves::starting_at(start, at(0))
    }

    fn appear(halves: &Halves, offset: u64) {
        let due = Duration::from_secs(6 + offset);
        halves.appeared(
            at(offset),
            PhysicalOffset::new(offset * 500),
            "PG",
            1_000,
            0,
            due,
        );
    }

    fn place(offset: u64) -> PhysicalOffset {
        PhysicalOffset::new(offset * 500)
    }

    #[test]
    fn a_half_is_claimed_once() {
        let halves = table();
        appear(&halves, 0);
        let Claim::Pending(half) = halves.claim(at(0), place(0)) else {
            panic!("not pending")
        };
        assert_eq!(half.physical, place(0));
        assert_eq!(halves.claim(at(0), place(0)), Claim::Resolved);
        halves.restore(at(0), half);
        assert!(matches!(halves.claim(at(0), place(0)), Claim::Pending(_)));
        assert_eq!(halves.claim(at(1), place(1)), Claim::NotYetSeen);
        let is_undecided = |offset| halves.is_undecided(at(offset), place(offset));
        assert!(!is_undecided(0) && is_undecided(1));
    }

    #[test]
    fn a_record_that_only_says_to_be_a_half_claims_nothing() {
        let halves = table();
        appear(&halves, 3);
        assert_eq!(halves.claim(at(3), place(7)), Claim::Other);
        assert_eq!(halves.len(), 1);
    }

    #[test]
    fn a_page_is_one_group_s_or_all_and_says_where_it_goes_on() {
        let halves = table();
        for offset in 0..10 {
            let group = if offset % 2 == 0 { "even" } else { "odd" };
            let due = Duration::from_secs(6);
            halves.appeared(at(offset), place(offset), group, 1_000, 0, due);
        }
        let numbers = |(page, more): (Vec<(QueueOffset, Half)>, Option<QueueOffset>)| {
            let numbers: Vec<_> = page.iter().map(|(at, _)| at.number()).collect();
            (numbers, more.map(QueueOffset::number))
        };
        assert_eq!(numbers(halves.page(None, at(7), 9)), (vec![7, 8, 9], None));
        let first = numbers(halves.page(Some("odd"), at(0), 3));
        assert_eq!(first, (vec![1, 3, 5], Some(7)));
        assert_eq!(numbers(halves.page(Some("none"), at(0), 3)), (vec![], None));
    }

    #[test]
    fn dispatch_may_repeat_itself() {
        let halves = table();
        appear(&halves, 0);
        halves.op_appeared(at(0), &[at(0)]);
        appear(&halves, 0);
        assert_eq!(halves.len(), 0);
    }

    #[test]
    fn the_marks_follow_the_oldest_pending_half() {
        let halves = table();
        for offset in 0..1_000 {
            appear(&halves, offset);
        }
        for offset in 1..1_000 {
            halves.op_appeared(at(offset - 1), &[at(offset)]);
        }
        assert_eq!(
            halves.progress(),
            Progress {
                half: at(0),
                op: at(0)
            }
        );
        halves.op_appeared(at(999), &[at(0)]);
        assert_eq!(
            halves.progress(),
            Progress {
                half: at(1_000),
                op: at(1_000)
            }
        );
        assert!(halves.groups().is_empty());
    }

    #[test]
    fn an_op_record_is_kept_while_it_names_a_half_behind_the_mark() {
        let halves = table();
        for offset in 0..2_000 {
            appear(&halves, offset);
        }
        for offset in 0..600 {
            halves.op_appeared(at(offset), &[at(offset)]);
        }
        // Half 700 stays pending, and one behind it is resolved by the op record in front of those that follow.
        halves.op_appeared(at(600), &[at(1_500)]);
        for offset in 600..700 {
            halves.op_appeared(at(offset + 1), &[at(offset)]);
        }
        let progress = halves.progress();
        assert_eq!(progress.half, at(700));
        // In steps of a block: the one in which the op record about half 1,500 is.
        assert_eq!(progress.op, at(512));
        for offset in 700..2_000 {
            halves.op_appeared(at(offset + 1), &[at(offset)]);
        }
        assert_eq!(halves.progress().op, at(2_001));
    }

    #[test]
    fn the_mark_waits_for_what_is_claimed() {
        let halves = table();
        for offset in 0..3 {
            appear(&halves, offset);
        }
        assert!(matches!(halves.claim(at(0), place(0)), Claim::Pending(_)));
        assert_eq!(halves.progress().half, at(0));
        halves.settled(at(0));
        assert_eq!(halves.progress().half, at(1));
        let Claim::Pending(half) = halves.claim(at(1), place(1)) else {
            panic!("not pending")
        };
        halves.restore(at(1), half);
        halves.op_appeared(at(0), &[at(1), at(2)]);
        assert_eq!(halves.progress().half, at(3));
    }

    #[test]
    fn an_op_record_about_a_half_that_is_not_there_says_nothing() {
        let halves = table();
        appear(&halves, 0);
        halves.op_appeared(at(0), &[at(7), at(0)]);
        let progress = halves.progress();
        assert_eq!((progress.half, progress.op), (at(1), at(1)));
        appear(&halves, 1);
        assert_eq!(halves.len(), 1);
    }

    #[test]
    fn what_is_due_comes_in_order_and_is_put_off_by_a_check() {
        let halves = table();
        for offset in 0..3 {
            appear(&halves, offset);
        }
        assert_eq!(halves.next_due(), Some(Duration::from_secs(6)));
        let due: Vec<_> = halves
            .due(Duration::from_secs(7), 10)
            .into_iter()
            .map(|(at, _)| at)
            .collect();
        assert_eq!(due, [at(0), at(1)]);
        assert!(halves.checked(at(0), Duration::from_secs(36)));
        halves.put_off(at(1), Duration::from_secs(30));
        assert_eq!(halves.next_due(), Some(Duration::from_secs(8)));
        assert_eq!(halves.get(at(0)).map(|half| half.checks), Some(1));
        assert_eq!(halves.get(at(1)).map(|half| half.checks), Some(0));
        assert!(!halves.checked(at(9), Duration::ZERO));
    }

    #[test]
    fn who_waited_for_a_producer_is_due_when_one_comes_and_nobody_else() {
        let halves = table();
        for offset in 0..3 {
            appear(&halves, offset);
        }
        let (now, later) = (Duration::from_secs(7), Duration::from_secs(90));
        assert!(!halves.producer_came("PG"), "nobody waits for it");
        halves.missed(at(0), later);
        assert!(halves.checked(at(1), later));
        assert!(!halves.producer_came("other"));
        assert!(halves.producer_came("PG"));
        halves.wake_returned(now);
        let due = |offset| halves.get(at(offset)).map(|half| half.due);
        assert_eq!(due(0), Some(now));
        assert_eq!(due(1), Some(later));
        assert_eq!(due(2), Some(Duration::from_secs(8)), "it was not due yet");
    }
}
