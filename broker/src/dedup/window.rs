//! The latest sequences of one producer id, and where their messages are.
//!
//! The `most` highest sequences that were stored are kept, in order. The highest that fell out is the floor: at or below
//! it, what is not in the window is too old to tell. Above it, what is not in the window was not stored, however the
//! sends of one producer overtake each other. In front of a full window nothing is stored any more: it would fall out at
//! once, and its repeat could not be told. 40 bytes a sequence, in one piece of memory.

use std::collections::VecDeque;

use agena_protocol::offset::PhysicalOffset;
use smallvec::SmallVec;

use super::{Answer, First};

/// A window does not grow by less, but for its first place.
const PLACES_MIN: usize = 4;

/// One producer's window.
pub(super) struct Window {
    /// Ascending.
    stored: VecDeque<(u64, First)>,
    /// The highest sequence that fell out.
    pub(super) floor: Option<u64>,
    /// As many as requests are in flight; of most producers none.
    flying: SmallVec<[Flying; 1]>,
    /// When something was last stored; wall clock, ms.
    pub(super) last_ms: i64,
}

/// A sequence that is being stored.
struct Flying {
    sequence: u64,
    /// Repeats that wait for it.
    waiters: Vec<Answer>,
    /// Where the log ended before: its record lies behind.
    begun_at: PhysicalOffset,
}

/// What is known of a sequence.
pub(super) enum Seen<'w> {
    /// It was not stored.
    New,
    /// It was stored here.
    Stored(First),
    /// It is being stored; who wants to know can wait.
    BeingStored(&'w mut Vec<Answer>),
    /// Not known any more. The lowest sequence that is.
    TooOld { oldest: u64 },
}

impl Window {
    /// An empty window.
    pub(super) fn new(now_ms: i64) -> Self {
        Self {
            stored: VecDeque::new(),
            floor: None,
            flying: SmallVec::new(),
            last_ms: now_ms,
        }
    }

    /// A window as a snapshot has it, before its sequences are put in.
    pub(super) fn with_floor(floor: Option<u64>, last_ms: i64) -> Self {
        Self {
            floor,
            ..Self::new(last_ms)
        }
    }

    /// Places for sequences, taken or not.
    pub(super) fn places(&self) -> usize {
        self.stored.capacity()
    }

    /// How many places it lacks to store one more, in a window of `most` sequences.
    pub(super) fn lacks(&self, most: usize) -> usize {
        let needed = self.stored.len() + self.flying.len() + 1;
        needed.min(most).saturating_sub(self.places())
    }

    /// Takes the places that it lacks, or a quarter of what it has if there are so many to `spare`.
    fn make_places(&mut self, most: usize, spare: usize) {
        let lacks = self.lacks(most);
        if lacks > 0 {
            // Many producers send one message and are gone.
            let usual = match self.places() {
                0 => 1,
                places => (places / 4).max(PLACES_MIN),
            };
            let usual = usual.min(most - self.places()).min(spare);
            let unused = self.places() - self.stored.len();
            self.stored.reserve_exact(unused + lacks.max(usual));
        }
    }

    /// How many sequences it has.
    pub(super) fn len(&self) -> usize {
        self.stored.len()
    }

    /// What it has, ascending.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u64, First)> + '_ {
        self.stored.iter().copied()
    }

    /// Where the message of the highest sequence is.
    pub(super) fn latest_place(&self) -> Option<PhysicalOffset> {
        self.stored.back().map(|(_, first)| first.physical)
    }

    /// Whether it may be forgotten.
    pub(super) fn is_idle(&self, now_ms: i64, idle_ms: i64) -> bool {
        self.flying.is_empty() && now_ms.saturating_sub(self.last_ms) >= idle_ms
    }

    fn place(&self, sequence: u64) -> Result<usize, usize> {
        // Most are the next one.
        match self.stored.back() {
            Some((last, _)) if *last < sequence => Err(self.stored.len()),
            _ => self
                .stored
                .binary_search_by_key(&sequence, |(sequence, _)| *sequence),
        }
    }

    /// What is known of `sequence`, in a window of `most` sequences.
    pub(super) fn look(&mut self, sequence: u64, most: usize) -> Seen<'_> {
        // Looked at first: a batch of which a crash left a part is being stored while its part is still here.
        if let Some(place) = self.place_of_flying(sequence) {
            return Seen::BeingStored(&mut self.flying[place].waiters);
        }
        if let Ok(place) = self.place(sequence) {
            return Seen::Stored(self.stored[place].1);
        }
        match self.oldest(most) {
            Some(oldest) if sequence < oldest => Seen::TooOld { oldest },
            Some(_) | None => Seen::New,
        }
    }

    /// Whether a message with `sequence` is a repeat.
    pub(super) fn knows(&self, sequence: u64) -> bool {
        self.place_of_flying(sequence).is_some() || self.place(sequence).is_ok()
    }

    /// The lowest sequence that may be stored; `None` while any may.
    fn oldest(&self, most: usize) -> Option<u64> {
        let lowest = self.stored.front().map(|(lowest, _)| *lowest);
        let lowest = lowest.filter(|_| self.stored.len() >= most);
        lowest.max(self.floor.map(|floor| floor.saturating_add(1)))
    }

    fn place_of_flying(&self, sequence: u64) -> Option<usize> {
        let mut flying = self.flying.iter();
        flying.position(|flying| flying.sequence == sequence)
    }

    /// `sequence` is new and is being stored from now on; the log ends at `log_end`. Its place is taken now, of those that
    /// are to `spare`.
    pub(super) fn reserve(
        &mut self,
        sequence: u64,
        log_end: PhysicalOffset,
        (most, spare): (usize, usize),
    ) {
        self.make_places(most, spare);
        self.flying.push(Flying {
            sequence,
            waiters: Vec::new(),
            begun_at: log_end,
        });
    }

    /// Behind this are the records of all that is being stored.
    pub(super) fn begun_at(&self) -> Option<PhysicalOffset> {
        self.flying.iter().map(|flying| flying.begun_at).min()
    }

    /// `sequence` is not stored after all. Returns who waits for it.
    pub(super) fn give_up(&mut self, sequence: u64) -> Vec<Answer> {
        let Some(place) = self.place_of_flying(sequence) else {
            return Vec::new();
        };
        let waiters = self.flying.swap_remove(place).waiters;
        if self.flying.is_empty() {
            self.flying.shrink_to_fit();
        }
        waiters
    }

    /// `sequence` is stored at `first`, unless it was before. Returns who waits for it.
    pub(super) fn stored(
        &mut self,
        sequence: u64,
        first: First,
        at_ms: i64,
        most: usize,
    ) -> Vec<Answer> {
        self.last_ms = self.last_ms.max(at_ms);
        let waiters = self.give_up(sequence);
        self.keep(sequence, first, most);
        waiters
    }

    /// Puts a sequence in its place. Of two that are there the first counts, unless a crash left less of it.
    pub(super) fn keep(&mut self, sequence: u64, first: First, most: usize) {
        match self.place(sequence) {
            Ok(place) if self.stored[place].1.count < first.count => {
                self.stored[place].1 = first;
            }
            Ok(_) => {}
            // Overtaken by so many that it fell out while it was stored.
            Err(_) if self.oldest(most).is_some_and(|oldest| sequence < oldest) => {
                self.floor = self.floor.max(Some(sequence));
            }
            Err(place) => {
                // Room first, so that the memory does not grow beyond what is kept.
                let is_full = self.stored.len() >= most;
                if is_full {
                    self.floor = self.stored.pop_front().map(|(lowest, _)| lowest);
                } else {
                    self.make_places(most, most);
                }
                let place = place - usize::from(is_full);
                self.stored.insert(place, (sequence, first));
            }
        }
    }

    /// What was kept of `sequence` does not hold.
    pub(super) fn forget(&mut self, sequence: u64, first: First) {
        if let Ok(place) = self.place(sequence)
            && self.stored[place].1 == first
        {
            self.stored.remove(place);
        }
    }

    /// Whether it knows of anything that was stored.
    pub(super) fn is_worth_keeping(&self) -> bool {
        !self.stored.is_empty() || self.floor.is_some()
    }

    /// Whether there is nothing in it, and nothing on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.flying.is_empty() && !self.is_worth_keeping()
    }
}

#[cfg(test)]
mod tests {
    use agena_protocol::offset::QueueOffset;
    use agena_protocol::queue::QueueId;

    use super::*;

    fn first(place: u64) -> First {
        First {
            physical: PhysicalOffset::new(place),
            queue_offset: QueueOffset::new(place / 100),
            queue: QueueId::new(0),
            bytes: 100,
            count: 1,
            topic_sum: 7,
        }
    }

    fn window(sequences: impl IntoIterator<Item = u64>) -> Window {
        let mut window = Window::new(0);
        for sequence in sequences {
            window.reserve(sequence, PhysicalOffset::new(sequence), (10, 10));
            window.stored(sequence, first(sequence * 100), 1, 10);
        }
        window
    }

    fn is_known(window: &mut Window, sequence: u64) -> &'static str {
        match window.look(sequence, 10) {
            Seen::New => "new",
            Seen::Stored(_) => "stored",
            Seen::BeingStored(_) => "flying",
            Seen::TooOld { .. } => "too old",
        }
    }

    #[test]
    fn sequences_overtake_each_other_within_the_window() {
        let mut window = window([5, 3, 9, 4, 0]);
        for (sequence, known) in [(5, "stored"), (0, "stored"), (1, "new"), (8, "new")] {
            assert_eq!(is_known(&mut window, sequence), known, "{sequence}");
        }
        let order: Vec<_> = window.entries().map(|(sequence, _)| sequence).collect();
        assert_eq!(order, [0, 3, 4, 5, 9]);
    }

    #[test]
    fn what_fell_out_of_the_window_is_too_old_and_its_size_is_bounded() {
        let mut window = window((0..1_000).filter(|sequence| sequence % 7 != 0));
        assert_eq!(window.len(), 10);
        let oldest = window.entries().next().unwrap().0;
        assert_eq!(is_known(&mut window, oldest), "stored");
        assert_eq!(is_known(&mut window, oldest - 1), "too old");
        assert_eq!(is_known(&mut window, 0), "too old");
        // A hole above the floor was never stored.
        assert_eq!(is_known(&mut window, 994), "new");
        assert_eq!(window.places(), 10);
    }

    #[test]
    fn the_first_counts_and_a_failure_makes_room_for_another_attempt() {
        let mut window = window([1]);
        window.stored(1, first(9_900), 2, 10);
        let Seen::Stored(kept) = window.look(1, 10) else {
            panic!("not stored")
        };
        assert_eq!(kept, first(100));
        window.reserve(2, PhysicalOffset::new(2), (10, 10));
        assert_eq!(is_known(&mut window, 2), "flying");
        assert_eq!(window.begun_at(), Some(PhysicalOffset::new(2)));
        assert!(!window.is_idle(1 << 40, 1));
        window.give_up(2);
        assert_eq!(is_known(&mut window, 2), "new");
        assert!(window.is_idle(1 << 40, 1));
    }

    #[test]
    fn what_is_being_stored_while_the_window_moves_on_is_not_kept_below_the_floor() {
        let mut window = window([]);
        window.reserve(1, PhysicalOffset::new(1), (10, 10));
        for sequence in 100..120 {
            window.stored(sequence, first(sequence), 1, 10);
        }
        assert_eq!(is_known(&mut window, 1), "flying");
        window.stored(1, first(1), 1, 10);
        assert_eq!(is_known(&mut window, 1), "too old");
        assert_eq!(window.len(), 10);
    }

    #[test]
    fn in_front_of_a_full_window_nothing_is_stored() {
        // Nothing fell out yet, so there is no floor: the window itself says what is too old.
        let mut window = window(100..110);
        assert_eq!(window.floor, None);
        assert_eq!(is_known(&mut window, 99), "too old");
        window.stored(110, first(110), 1, 10);
        assert_eq!(window.floor, Some(100));
        for sequence in [5, 99, 100] {
            assert_eq!(is_known(&mut window, sequence), "too old", "{sequence}");
        }
    }

    #[test]
    fn what_is_left_of_a_batch_gives_way_to_the_whole() {
        let mut window = window([]);
        window.stored(1, first(0), 1, 10);
        window.reserve(1, PhysicalOffset::new(500), (10, 10));
        assert_eq!(is_known(&mut window, 1), "flying");
        let whole = First {
            count: 5,
            ..first(500)
        };
        window.stored(1, whole, 1, 10);
        // In whatever order a scan meets them.
        window.stored(1, first(0), 1, 10);
        let Seen::Stored(kept) = window.look(1, 10) else {
            panic!("not stored")
        };
        assert_eq!(kept, whole);
        window.forget(1, first(0));
        assert_eq!(is_known(&mut window, 1), "stored");
        window.forget(1, whole);
        assert_eq!(is_known(&mut window, 1), "new");
        assert!(window.is_empty());
    }
}
