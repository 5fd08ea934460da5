//! How often each pending half was asked for and when last, so that a restart does not begin to count anew.
//!
//! A line `half times place asked` per question in a journal beside the other small files; rewritten when it has grown far
//! beyond what is pending. The place in the log tells a half from another that has its number after the log lost its tail.
//! Losing the last lines in a power cut costs a few questions more. An orderly stop adds `end` and the end of the log: a log
//! that ends there at the next open was closed by us, and nobody else has worked on it.

use std::collections::BTreeMap;
use std::path::Path;

use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use parking_lot::Mutex;

use crate::snapshot_files::{ChangeJournal, SnapshotError};

const FILE_NAME: &str = "transactionChecks.journal";

/// First word of the line that an orderly stop writes.
const END: &str = "end";

/// The journal is rewritten when it has this many lines more than twice what is remembered.
const SLACK_LINES: usize = 10_000;

/// What is remembered of one half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    /// How often it was asked for.
    pub times: u32,
    /// Where the half stands in the log.
    pub place: PhysicalOffset,
    /// When it was asked for last; wall clock, ms.
    pub asked_ms: i64,
}

/// Counts of questions, by half-queue offset.
#[derive(Debug)]
pub(crate) struct Checks {
    state: Mutex<State>,
    closed_at: Option<PhysicalOffset>,
}

#[derive(Debug)]
struct State {
    asked: BTreeMap<QueueOffset, Asked>,
    journal: ChangeJournal,
    lines: usize,
    /// A failed write is reported once; the counts go on in memory.
    reported: bool,
}

impl Checks {
    /// Reads the journal in `directory`.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub(crate) fn open(directory: &Path) -> Result<Self, SnapshotError> {
        let (journal, lines) = ChangeJournal::open(directory, FILE_NAME)?;
        let asked = lines.iter().filter_map(|line| parse(line)).collect();
        let closed_at = lines.iter().rev().find_map(|line| parse_end(line));
        let state = State {
            asked,
            journal,
            lines: lines.len(),
            reported: false,
        };
        Ok(Self {
            state: Mutex::new(state),
            closed_at,
        })
    }

    /// The end of the log at the last orderly stop of ours.
    pub(crate) fn closed_at(&self) -> Option<PhysicalOffset> {
        self.closed_at
    }

    /// All that is remembered.
    pub(crate) fn remembered(&self) -> Vec<(QueueOffset, Asked)> {
        let state = self.state.lock();
        state
            .asked
            .iter()
            .map(|(half, asked)| (*half, *asked))
            .collect()
    }

    /// A half was asked for.
    pub(crate) fn asked(&self, half: QueueOffset, asked: Asked) {
        let mut state = self.state.lock();
        state.asked.insert(half, asked);
        state.lines += 1;
        let written = state.journal.append([line(half, asked).as_slice()]);
        state.report(written);
    }

    /// These are resolved. Their lines go when the journal is rewritten.
    pub(crate) fn forget(&self, halves: &[QueueOffset]) {
        let mut state = self.state.lock();
        if !state.asked.is_empty() {
            for half in halves {
                state.asked.remove(half);
            }
        }
    }

    /// Everything in front of `half` is resolved.
    pub(crate) fn forget_before(&self, half: QueueOffset) {
        let mut state = self.state.lock();
        state.asked = state.asked.split_off(&half);
        if state.lines > 2 * state.asked.len() + SLACK_LINES {
            let rewritten = state.rewrite();
            state.report(rewritten);
        }
    }

    /// An orderly stop: the log ends at `end` and nothing more will be appended.
    pub(crate) fn close(&self, end: PhysicalOffset) {
        let mut state = self.state.lock();
        let text = format!("{END} {}", end.number());
        let written = state
            .rewrite()
            .and_then(|()| state.journal.append([text.as_bytes()]));
        state.report(written);
    }
}

impl State {
    fn rewrite(&mut self) -> Result<(), SnapshotError> {
        self.journal.clear()?;
        self.lines = self.asked.len();
        let asked = self.asked.iter();
        let lines: Vec<_> = asked.map(|(half, asked)| line(*half, *asked)).collect();
        self.journal.append(lines.iter().map(Vec::as_slice))
    }

    fn report(&mut self, written: Result<(), SnapshotError>) {
        if let Err(fault) = written
            && !std::mem::replace(&mut self.reported, true)
        {
            tracing::warn!(%fault, "counts of transaction checks are not kept over a restart");
        }
    }
}

fn line(half: QueueOffset, asked: Asked) -> Vec<u8> {
    let (half, place) = (half.number(), asked.place.number());
    format!("{half} {} {place} {}", asked.times, asked.asked_ms).into_bytes()
}

fn parse(line: &[u8]) -> Option<(QueueOffset, Asked)> {
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let half = QueueOffset::new(words.next()?.parse().ok()?);
    let asked = Asked {
        times: words.next()?.parse().ok()?,
        place: PhysicalOffset::new(words.next()?.parse().ok()?),
        asked_ms: words.next()?.parse().ok()?,
    };
    Some((half, asked))
}

fn parse_end(line: &[u8]) -> Option<PhysicalOffset> {
    let (word, end) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let end = end.parse().ok().filter(|_| word == END)?;
    Some(PhysicalOffset::new(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(half: u64) -> QueueOffset {
        QueueOffset::new(half)
    }

    fn asked(times: u32) -> Asked {
        Asked {
            times,
            place: PhysicalOffset::new(4_711),
            asked_ms: 1_700_000_000_000,
        }
    }

    #[test]
    fn counts_survive_a_restart_until_their_half_is_resolved() {
        let directory = tempfile::tempdir().unwrap();
        let checks = Checks::open(directory.path()).unwrap();
        for (half, times) in [(3, 1), (4, 1), (3, 2)] {
            checks.asked(at(half), asked(times));
        }
        drop(checks);
        let checks = Checks::open(directory.path()).unwrap();
        let counts = [(at(3), asked(2)), (at(4), asked(1))];
        assert_eq!(checks.remembered(), counts);
        checks.forget_before(at(4));
        assert_eq!(checks.remembered(), counts[1..]);
    }

    #[test]
    fn what_is_resolved_is_forgotten_although_an_older_half_is_pending() {
        let directory = tempfile::tempdir().unwrap();
        let checks = Checks::open(directory.path()).unwrap();
        for half in 0..30_000 {
            checks.asked(at(half), asked(1));
            if half > 0 {
                checks.forget(&[at(half)]);
            }
        }
        assert_eq!(checks.remembered().len(), 1);
        checks.forget_before(at(0));
        let file = directory.path().join(FILE_NAME);
        assert!(std::fs::metadata(file).unwrap().len() < 100);
    }

    #[test]
    fn the_journal_does_not_grow_with_what_is_resolved() {
        let directory = tempfile::tempdir().unwrap();
        let checks = Checks::open(directory.path()).unwrap();
        for half in 0..30_000 {
            checks.asked(at(half), asked(1));
        }
        checks.forget_before(at(29_999));
        let bytes = std::fs::metadata(directory.path().join(FILE_NAME))
            .unwrap()
            .len();
        assert!(bytes < 100, "{bytes} bytes for one count");
        assert_eq!(
            Checks::open(directory.path()).unwrap().remembered(),
            [(at(29_999), asked(1))]
        );
    }

    #[test]
    fn an_orderly_stop_says_where_the_log_ended() {
        let directory = tempfile::tempdir().unwrap();
        let checks = Checks::open(directory.path()).unwrap();
        assert_eq!(checks.closed_at(), None);
        checks.asked(at(3), asked(1));
        checks.close(PhysicalOffset::new(9_000));
        let checks = Checks::open(directory.path()).unwrap();
        assert_eq!(checks.closed_at(), Some(PhysicalOffset::new(9_000)));
        assert_eq!(checks.remembered(), [(at(3), asked(1))]);
    }
}
