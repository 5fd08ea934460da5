//! Places in the log and places in a queue, as types that cannot be mixed up.
//!
//! On the wire both are `i64` with -1 for "none"; here "none" is `Option::None`.

use std::fmt;

/// A place in the CommitLog: bytes from the start of its address space, always a record boundary.
///
/// Ascends, is never used twice, and stays valid when older segments are dropped. Source: `PHYSICALOFFSET` in
/// Apache's CommitLog.java.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PhysicalOffset(u64);

/// The number of an entry in a queue, from zero; gaps at the head appear with retention.
///
/// Source: `QUEUEOFFSET` in Apache's CommitLog.java.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct QueueOffset(u64);

impl PhysicalOffset {
    /// The place with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The plain number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The number as the wire and the disk carry it.
    #[must_use]
    pub fn wire(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// The place `bytes` further on.
    #[must_use]
    pub fn plus(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// Reads what the wire carries; negative numbers mean "none".
    #[must_use]
    pub fn from_wire(value: i64) -> Option<Self> {
        u64::try_from(value).ok().map(Self)
    }
}

impl QueueOffset {
    /// The entry with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The plain number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The number as the wire and the disk carry it.
    #[must_use]
    pub fn wire(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// The entry `entries` further on.
    #[must_use]
    pub fn plus(self, entries: u64) -> Self {
        Self(self.0.saturating_add(entries))
    }

    /// Reads what the wire carries; negative numbers mean "none".
    #[must_use]
    pub fn from_wire(value: i64) -> Option<Self> {
        u64::try_from(value).ok().map(Self)
    }
}

impl fmt::Display for PhysicalOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for QueueOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minus_one_on_the_wire_is_none() {
        assert_eq!(PhysicalOffset::from_wire(-1), None);
        assert_eq!(QueueOffset::from_wire(7), Some(QueueOffset::new(7)));
        assert_eq!(QueueOffset::new(u64::MAX).wire(), i64::MAX);
    }
}
