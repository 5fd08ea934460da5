//! How often each pending half was asked for, so that a restart does not begin to count anew.
//!
//! A line `half times` per question in a journal beside the other small files; rewritten when it has grown far beyond
//! what is pending. Losing its last lines in a power cut costs a few questions more.

use std::collections::BTreeMap;
use std::path::Path;

use agena_protocol::offset::QueueOffset;
use parking_lot::Mutex;

use crate::snapshot_files::{ChangeJournal, SnapshotError};

const FILE_NAME: &str = "transactionChecks.journal";

/// The journal is rewritten when it has this many lines more than twice what is remembered.
const SLACK_LINES: usize = 10_000;

/// Counts of questions, by half-queue offset.
#[derive(Debug)]
pub(crate) struct Checks {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    times: BTreeMap<QueueOffset, u32>,
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
        let times = lines.iter().filter_map(|line| parse(line)).collect();
        Ok(Self {
            state: Mutex::new(State {
                times,
                journal,
                lines: lines.len(),
                reported: false,
            }),
        })
    }

    /// All counts.
    pub(crate) fn remembered(&self) -> Vec<(QueueOffset, u32)> {
        self.state
            .lock()
            .times
            .iter()
            .map(|(half, times)| (*half, *times))
            .collect()
    }

    /// A half was asked for.
    pub(crate) fn asked(&self, half: QueueOffset, times: u32) {
        let mut state = self.state.lock();
        state.times.insert(half, times);
        state.lines += 1;
        let written = state.journal.append([line(half, times).as_slice()]);
        state.report(written);
    }

    /// These are resolved. Their lines go when the journal is rewritten.
    pub(crate) fn forget(&self, halves: &[QueueOffset]) {
        let mut state = self.state.lock();
        if !state.times.is_empty() {
            for half in halves {
                state.times.remove(half);
            }
        }
    }

    /// Everything in front of `half` is resolved.
    pub(crate) fn forget_before(&self, half: QueueOffset) {
        let mut state = self.state.lock();
        state.times = state.times.split_off(&half);
        if state.lines > 2 * state.times.len() + SLACK_LINES {
            let rewritten = state.rewrite();
            state.report(rewritten);
        }
    }
}

impl State {
    fn rewrite(&mut self) -> Result<(), SnapshotError> {
        self.journal.clear()?;
        self.lines = self.times.len();
        let lines: Vec<_> = self
            .times
            .iter()
            .map(|(half, times)| line(*half, *times))
            .collect();
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

fn line(half: QueueOffset, times: u32) -> Vec<u8> {
    format!("{} {times}", half.number()).into_bytes()
}

fn parse(line: &[u8]) -> Option<(QueueOffset, u32)> {
    let (half, times) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    Some((QueueOffset::new(half.parse().ok()?), times.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_survive_a_restart_until_their_half_is_resolved() {
        let directory = tempfile::tempdir().unwrap();
        let checks = Checks::open(directory.path()).unwrap();
        for (half, times) in [(3, 1), (4, 1), (3, 2)] {
            checks.asked(QueueOffset::new(half), times);
        }
        drop(checks);
        let checks = Checks::open(directory.path()).unwrap();
        let counts = [(QueueOffset::new(3), 2), (QueueOffset::new(4), 1)];
        assert_eq!(checks.remembered(), counts);
        checks.forget_before(QueueOffset::new(4));
        assert_eq!(checks.remembered(), counts[1..]);
    }

    #[test]
    fn what_is_resolved_is_forgotten_although_an_older_half_is_pending() {
        let directory = tempfile::tempdir().unwrap();
        let checks = Checks::open(directory.path()).unwrap();
        for half in 0..30_000 {
            checks.asked(QueueOffset::new(half), 1);
            if half > 0 {
                checks.forget(&[QueueOffset::new(half)]);
            }
        }
        assert_eq!(checks.remembered().len(), 1);
        checks.forget_before(QueueOffset::new(0));
        let file = directory.path().join(FILE_NAME);
        assert!(std::fs::metadata(file).unwrap().len() < 100);
    }

    #[test]
    fn the_journal_does_not_grow_with_what_is_resolved() {
        let directory = tempfile::tempdir().unwrap();
        let checks = Checks::open(directory.path()).unwrap();
        for half in 0..30_000 {
            checks.asked(QueueOffset::new(half), 1);
        }
        checks.forget_before(QueueOffset::new(29_999));
        let bytes = std::fs::metadata(directory.path().join(FILE_NAME))
            .unwrap()
            .len();
        assert!(bytes < 100, "{bytes} bytes for one count");
        assert_eq!(
            Checks::open(directory.path()).unwrap().remembered(),
            [(QueueOffset::new(29_999), 1)]
        );
    }
}
