//! How new a table is: brokers and name servers compare it before they exchange the table. Apache: `DataVersion`.

use serde::{Deserialize, Serialize};

/// A table's version; equal only if all three members are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataVersion {
    /// Rises by one a change.
    pub counter: i64,
    /// The master's epoch under a controller, else 0.
    pub state_version: i64,
    /// Time of the last change in ms.
    pub timestamp: i64,
}

impl DataVersion {
    /// The version of a table that was first made now.
    #[must_use]
    pub fn first(now_ms: i64) -> Self {
        Self {
            counter: 0,
            state_version: 0,
            timestamp: now_ms,
        }
    }

    /// A change happened now.
    pub fn next(&mut self, now_ms: i64) {
        self.counter += 1;
        self.timestamp = now_ms;
    }
}
