//! What was answered about locks, so that a broker that was killed still knows it: `config/orderLocks.journal`.
//!
//! One line of JSON per answered request, written before the answer goes and without a sync: it survives the end of the
//! process. The end of the machine it need not survive; that takes longer than a lease, or loses what was locked in the
//! last moments. When there are many lines, those that hold are written anew. Ours alone: the original has no such file.

use std::path::Path;

use agena_protocol::queue::MessageQueue;
use serde::{Deserialize, Serialize};

use crate::snapshot_files::{ChangeJournal, SnapshotError};

pub(super) const FILE_NAME: &str = "orderLocks.journal";

/// Lines after which the journal is written anew: one renewal of a thousand clients.
const LINES_MAX: usize = 1000;

/// A client holds queues until a time, or gives them back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Change {
    pub(super) group: String,
    pub(super) client_id: String,
    pub(super) queues: Vec<MessageQueue>,
    /// Wall clock in ms; none when they are given back.
    pub(super) until_ms: Option<i64>,
}

#[derive(Debug)]
pub(super) struct Journal {
    file: ChangeJournal,
    /// Lines behind those that were written anew last.
    lines: usize,
    lines_max: usize,
    /// The last write failed: said once.
    failing: bool,
}

impl Journal {
    /// Opens or makes the journal, with the changes in it, oldest first.
    pub(super) fn open(directory: &Path) -> Result<(Self, Vec<Change>), SnapshotError> {
        let (file, lines) = ChangeJournal::open(directory, FILE_NAME)?;
        let changes = lines.iter().filter_map(|line| {
            serde_json::from_slice(line)
                .inspect_err(|reason| {
                    tracing::warn!(file = FILE_NAME, %reason, "a line is none of ours");
                })
                .ok()
        });
        let changes = changes.collect();
        let journal = Self {
            file,
            lines: 0,
            lines_max: LINES_MAX,
            failing: false,
        };
        Ok((journal, changes))
    }

    /// Appends one change. Where that fails the lock holds all the same, until this process ends.
    pub(super) fn append(&mut self, change: &Change) {
        let outcome = self.file.append([text(change).as_slice()]);
        self.lines += 1;
        self.heed(outcome);
    }

    /// It is time to write it anew.
    pub(super) fn is_long(&self) -> bool {
        self.lines >= self.lines_max
    }

    /// Writes it anew. With many locks the next time is further off, so that this costs little per change.
    pub(super) fn replace(&mut self, changes: &[Change]) {
        let texts: Vec<_> = changes.iter().map(text).collect();
        let outcome = self.file.replace(&texts);
        self.lines = 0;
        self.lines_max = LINES_MAX.max(changes.len());
        self.heed(outcome);
    }

    /// Nothing is locked.
    pub(super) fn clear(&mut self) {
        if !self.file.is_empty() {
            let outcome = self.file.clear();
            self.lines = 0;
            self.lines_max = LINES_MAX;
            self.heed(outcome);
        }
    }

    fn heed(&mut self, outcome: Result<(), SnapshotError>) {
        match outcome {
            Ok(()) => self.failing = false,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "locks of ordered consumers are not kept; a restart forgets them");
                }
            }
        }
    }
}

fn text(change: &Change) -> Vec<u8> {
    serde_json::to_vec(change).expect("strings and numbers have a JSON form")
}
