//! How many files the process may have open, and what connections have to leave to the rest of it.
//!
//! A system gives 1,024 to a process that does not ask for more, and every connection is one. Who runs out of them cannot
//! open a log file either, so connections end before that: whatever peers do, others go on.

use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The part of the limit that connections leave to others, within bounds.
const SPARE_PART: u64 = 4;
const SPARE_MIN: u64 = 64;
const SPARE_MAX: u64 = 2_048;

/// What the process has.
#[derive(Debug, Clone, Copy)]
struct Files {
    limit: u64,
    spare: u64,
}

impl Files {
    fn of(limit: u64) -> Self {
        let spare = (limit / SPARE_PART).clamp(SPARE_MIN, SPARE_MAX);
        Self { limit, spare }
    }

    fn connections_max(self) -> u64 {
        self.limit.saturating_sub(self.spare)
    }

    /// The system gives each file the lowest number that is free, so a number tells how many there are.
    fn leaves_room(self, number: u64) -> bool {
        number < self.connections_max()
    }
}

/// Asks for as many files as the process may have, the first time.
fn files() -> Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    *FILES.get_or_init(|| {
        let mut limit = getrlimit(Resource::Nofile);
        if limit.current != limit.maximum {
            let asked = Rlimit {
                current: limit.maximum,
                ..limit
            };
            match setrlimit(Resource::Nofile, asked) {
                Ok(()) => limit.current = limit.maximum,
                Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
            }
        }
        let files = Files::of(limit.current.unwrap_or(u64::MAX));
        tracing::debug!(?files, "files that may be open");
        files
    })
}

/// Files that others than connections can count on.
#[must_use]
pub fn spare() -> usize {
    usize::try_from(files().spare).unwrap_or(usize::MAX)
}

/// Whether a connection that was just accepted leaves enough to others.
pub(crate) fn leaves_room(accepted: &impl AsRawFd) -> bool {
    u64::try_from(accepted.as_raw_fd()).is_ok_and(|number| files().leaves_room(number))
}

/// The most connections that there can be.
pub(crate) fn connections_max() -> u64 {
    files().connections_max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_left_to_others() {
        for (limit, connections) in [
            (100, 36),
            (1_024, 768),
            (20_000, 17_952),
            (u64::MAX, u64::MAX - 2_048),
        ] {
            let files = Files::of(limit);
            assert!(files.leaves_room(connections - 1), "{limit}");
            assert!(!files.leaves_room(connections), "{limit}");
        }
        assert!(!Files::of(10).leaves_room(0));
    }
}
