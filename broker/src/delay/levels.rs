//! The delay levels: how long each lasts, and how far each level's queue is delivered.
//!
//! Messages of a level wait in one queue of `SCHEDULE_TOPIC_XXXX` in the order in which they are due, since all of them wait equally
//! long. So a level needs a cursor and a few entries read ahead, however many messages wait.

use std::collections::VecDeque;
use std::time::Duration;

use agena_protocol::offset::PhysicalOffset;
use thiserror::Error;

/// Entries of a level that are held in memory.
const READ_AHEAD: usize = 512;

/// The configured text is no list of delays.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "messageDelayLevel: {0:?} is no delay; write numbers with one of the units s, m, h, d, separated by single blanks"
)]
pub struct LevelsError(String);

/// Reads `messageDelayLevel`: `1s 5s 10s …`.
///
/// # Errors
/// [`LevelsError`] with the first part that does not parse.
pub fn parse_levels(text: &str) -> Result<Vec<Duration>, LevelsError> {
    text.split(' ').map(parse_level).collect()
}

fn parse_level(part: &str) -> Result<Duration, LevelsError> {
    let fault = || LevelsError(part.to_owned());
    let unit = part.chars().last().ok_or_else(fault)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(fault()),
    };
    let count: u32 = part[..part.len() - 1].parse().map_err(|_| fault())?;
    Ok(Duration::from_secs(u64::from(count) * seconds))
}

/// The level that a wish for `level` gets: the longest there is, for a wish beyond it; `None` when nothing is wished.
pub fn clamp_level(level: i64, levels: usize) -> Option<usize> {
    let level = usize::try_from(level).ok().filter(|level| *level > 0)?;
    Some(level.min(levels))
}

/// An entry of a level's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Its number in the queue.
    pub offset: u64,
    /// Its record.
    pub place: PhysicalOffset,
    /// The third word of the entry: when it is due (schedule topic), or its tag's hash (timer topic).
    pub tags_code: i64,
}

/// How far one level is delivered.
#[derive(Debug)]
pub struct Level {
    /// How long its messages wait, ms.
    delay_ms: i64,
    /// The first entry that is not delivered.
    next: u64,
    ahead: VecDeque<Waiting>,
}

impl Level {
    /// A level of which everything before `next` is delivered.
    pub fn new(delay: Duration, next: u64) -> Self {
        Self {
            delay_ms: i64::try_from(delay.as_millis()).unwrap_or(i64::MAX),
            next,
            ahead: VecDeque::new(),
        }
    }

    /// The first entry that is not delivered.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Nothing is read ahead.
    pub fn has_nothing(&self) -> bool {
        self.ahead.is_empty()
    }

    /// Goes on at `next`, where the queue begins now.
    pub fn skip_to(&mut self, next: u64) {
        self.next = next;
        self.ahead.clear();
    }

    /// Reads ahead if nothing is. `read(from, count)` gives entries in ascending order.
    pub fn read_ahead(&mut self, read: impl FnOnce(u64, usize) -> Vec<Waiting>) {
        if self.ahead.is_empty() {
            self.ahead.extend(read(self.next, READ_AHEAD));
        }
    }

    /// When the first entry is due, as far as it is read.
    pub fn due_at(&self, now_ms: i64) -> Option<i64> {
        let first = self.ahead.front()?;
        Some(self.due_of(first, now_ms))
    }

    /// The entries that are due, in order, at most `count`.
    pub fn due(&self, now_ms: i64, count: usize) -> impl Iterator<Item = Waiting> {
        self.ahead
            .iter()
            .take(count)
            .take_while(move |entry| self.due_of(entry, now_ms) <= now_ms)
            .copied()
    }

    /// Everything up to the entry `offset` is delivered.
    pub fn delivered_through(&mut self, offset: u64) {
        self.next = offset + 1;
        while self
            .ahead
            .front()
            .is_some_and(|entry| entry.offset <= offset)
        {
            self.ahead.pop_front();
        }
    }

    /// An entry that is due later than the level's whole delay from now was stored before the clock was set back: now.
    fn due_of(&self, entry: &Waiting, now_ms: i64) -> i64 {
        if entry.tags_code > now_ms.saturating_add(self.delay_ms) {
            now_ms
        } else {
            entry.tags_code
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_levels_parse() {
        let text = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h";
        let levels = parse_levels(text).unwrap();
        assert_eq!(levels.len(), 18);
        assert_eq!(levels[0], Duration::from_secs(1));
        assert_eq!(levels[17], Duration::from_secs(7200));
        assert_eq!(parse_levels("1d").unwrap()[0], Duration::from_secs(86_400));
        for bad in ["", "1s  2s", "1x", "s", "-1s", "1.5s"] {
            assert!(parse_levels(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_wish_beyond_the_last_level_gets_the_last() {
        assert_eq!(clamp_level(0, 18), None);
        assert_eq!(clamp_level(-1, 18), None);
        assert_eq!(clamp_level(3, 18), Some(3));
        assert_eq!(clamp_level(99, 18), Some(18));
    }

    fn entry(offset: u64, due: i64) -> Waiting {
        Waiting {
            offset,
            place: PhysicalOffset::new(offset * 100),
            tags_code: due,
        }
    }

    #[test]
    fn entries_are_due_in_order_and_never_before_their_time() {
        let mut level = Level::new(Duration::from_secs(5), 7);
        level.read_ahead(|from, _| {
            vec![
                entry(from, 5000),
                entry(from + 1, 5001),
                entry(from + 2, 6000),
            ]
        });
        assert_eq!(level.due(4999, 10).count(), 0);
        assert_eq!(level.due(5001, 10).count(), 2);
        assert_eq!(level.due(9000, 1).count(), 1);
        level.delivered_through(8);
        assert_eq!((level.next(), level.due_at(5001)), (9, Some(6000)));
    }

    #[test]
    fn a_clock_set_back_does_not_hold_a_message_longer_than_its_delay() {
        let mut level = Level::new(Duration::from_secs(5), 0);
        level.read_ahead(|_, _| vec![entry(0, 100_000)]);
        assert_eq!(level.due_at(10_000), Some(10_000));
        assert_eq!(level.due_at(95_000), Some(100_000));
    }
}
