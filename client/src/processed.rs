//! Which messages a consumer has done already, so that one that comes again has no second effect.
//!
//! A group gets messages at least once: after a crash, a change of owner, or a send whose answer was lost, some come
//! again. Whoever wants each effect once asks here before the work and says so when it is done, best in the same database
//! transaction as the work itself. The contract as a whole is docs/once.md.

#[cfg(feature = "sqlite")]
mod sqlite;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::clock::{Clock, SystemClock};
use parking_lot::Mutex;
use thiserror::Error;

#[cfg(feature = "sqlite")]
pub use self::sqlite::{KeysInTransaction, SqliteKeys};

/// Remembers keys of messages that were processed, [`ReceivedMessage::once_key`](crate::ReceivedMessage::once_key) for
/// example.
///
/// Stores implement the three parts; consumers call [`ProcessedKeys::first_time`].
pub trait ProcessedKeys {
    /// Why the store cannot tell.
    type Error: fmt::Display;

    /// Takes a key, unless it was kept before or somebody has it now.
    ///
    /// # Errors
    /// The store's; nothing was taken then.
    fn claim(&self, key: &str) -> Result<Claim, Self::Error>;

    /// The work of a key that was taken is done.
    ///
    /// # Errors
    /// The store's; the key is then neither kept nor taken.
    fn keep(&self, key: &str) -> Result<(), Self::Error>;

    /// The work of a key that was taken is not done: it may be taken again.
    fn release(&self, key: &str);

    /// Whether the work of `key` is to be done now.
    ///
    /// ```
    /// use agena_client::{Batch, FirstTime, MemoryKeys, ProcessedKeys};
    /// use std::{sync::Arc, time::Duration};
    ///
    /// let keys = Arc::new(MemoryKeys::new(100_000, Duration::from_secs(3600)));
    /// let listener = move |batch: Batch| {
    ///     let keys = Arc::clone(&keys);
    ///     async move {
    ///         for message in &batch {
    ///             match keys.first_time(&message.once_key()).map_err(|error| error.to_string())? {
    ///                 FirstTime::Yes(guard) => {
    ///                     // The work; an error leaves the key free, and the message comes again.
    ///                     guard.commit().map_err(|error| error.to_string())?;
    ///                 }
    ///                 FirstTime::Done => {}
    ///                 FirstTime::Running => return Err("another listener is at it".to_owned()),
    ///             }
    ///         }
    ///         Ok(())
    ///     }
    /// };
    /// # let _ = listener;
    /// ```
    ///
    /// # Errors
    /// The store's.
    fn first_time(&self, key: &str) -> Result<FirstTime<'_, Self>, Self::Error>
    where
        Self: Sized,
    {
        Ok(match self.claim(key)? {
            Claim::First => FirstTime::Yes(FirstTimeGuard {
                store: self,
                key: Some(key.to_owned()),
            }),
            Claim::Done => FirstTime::Done,
            Claim::Running => FirstTime::Running,
        })
    }
}

/// What a store knows of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nothing: it is taken now.
    First,
    /// Its work was done.
    Done,
    /// Somebody has taken it and is not done.
    Running,
}

/// The answer of [`ProcessedKeys::first_time`].
#[derive(Debug)]
#[must_use = "it says whether the work is to be done"]
pub enum FirstTime<'s, S: ProcessedKeys> {
    /// Do the work, then commit.
    Yes(FirstTimeGuard<'s, S>),
    /// It was done before: nothing is to be done.
    Done,
    /// Somebody is at it. Whether that ends well is not known: have the message come again.
    Running,
}

/// A key whose work is being done. Dropped without [`FirstTimeGuard::commit`], the work counts as not done.
pub struct FirstTimeGuard<'s, S: ProcessedKeys> {
    store: &'s S,
    key: Option<String>,
}

impl<S: ProcessedKeys> fmt::Debug for FirstTimeGuard<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FirstTimeGuard").field(&self.key).finish()
    }
}

impl<S: ProcessedKeys> FirstTimeGuard<'_, S> {
    /// The work is done.
    ///
    /// # Errors
    /// The store's; the work then counts as not done.
    pub fn commit(mut self) -> Result<(), S::Error> {
        match self.key.take() {
            Some(key) => self.store.keep(&key),
            None => Ok(()),
        }
    }
}

impl<S: ProcessedKeys> Drop for FirstTimeGuard<'_, S> {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.store.release(key);
        }
    }
}

/// [`ProcessedKeys`] in memory: holds within one process, for so many keys and so long. What a crash or another member
/// lets come again it does not know.
#[derive(Debug)]
pub struct MemoryKeys {
    keys_max: usize,
    keep_for: Duration,
    clock: Arc<dyn Clock>,
    keys: Mutex<Keys>,
}

#[derive(Debug, Default)]
struct Keys {
    states: HashMap<Arc<str>, State>,
    /// Keys that were kept and when, oldest first.
    kept: VecDeque<(Duration, Arc<str>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    Done,
}

/// As many keys as allowed are being worked on, none can be forgotten for a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{keys_max} keys are being worked on, there is no room for another")]
pub struct TooManyRunning {
    /// The limit.
    pub keys_max: usize,
}

impl MemoryKeys {
    /// Remembers up to `keys_max` keys for up to `keep_for`; beyond that the oldest is forgotten.
    #[must_use]
    pub fn new(keys_max: usize, keep_for: Duration) -> Self {
        Self::with_clock(keys_max, keep_for, Arc::new(SystemClock::new()))
    }

    /// As [`MemoryKeys::new`], with a clock for tests.
    #[must_use]
    pub fn with_clock(keys_max: usize, keep_for: Duration, clock: Arc<dyn Clock>) -> Self {
        Self {
            keys_max: keys_max.max(1),
            keep_for,
            clock,
            keys: Mutex::default(),
        }
    }
}

impl Keys {
    fn forget_oldest(&mut self) -> bool {
        match self.kept.pop_front() {
            Some((_, key)) => self.states.remove(&key).is_some(),
            None => false,
        }
    }

    fn forget_expired(&mut self, now: Duration, keep_for: Duration) {
        let is_expired = |at: Duration| now.saturating_sub(at) >= keep_for;
        while self.kept.front().is_some_and(|(at, _)| is_expired(*at)) {
            self.forget_oldest();
        }
    }
}

impl ProcessedKeys for MemoryKeys {
    type Error = TooManyRunning;

    fn claim(&self, key: &str) -> Result<Claim, TooManyRunning> {
        let now = self.clock.monotonic();
        let mut keys = self.keys.lock();
        keys.forget_expired(now, self.keep_for);
        match keys.states.get(key) {
            Some(State::Running) => return Ok(Claim::Running),
            Some(State::Done) => return Ok(Claim::Done),
            None => {}
        }
        if keys.states.len() >= self.keys_max && !keys.forget_oldest() {
            return Err(TooManyRunning {
                keys_max: self.keys_max,
            });
        }
        keys.states.insert(key.into(), State::Running);
        Ok(Claim::First)
    }

    fn keep(&self, key: &str) -> Result<(), TooManyRunning> {
        let now = self.clock.monotonic();
        let mut keys = self.keys.lock();
        let key: Arc<str> = key.into();
        if keys.states.insert(Arc::clone(&key), State::Done) == Some(State::Running) {
            keys.kept.push_back((now, key));
        }
        Ok(())
    }

    fn release(&self, key: &str) {
        let mut keys = self.keys.lock();
        if keys.states.get(key) == Some(&State::Running) {
            keys.states.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agena_protocol::clock::ManualClock;

    fn claim(keys: &MemoryKeys, key: &str) -> Claim {
        keys.claim(key).unwrap()
    }

    #[test]
    fn a_key_is_free_until_its_work_is_committed() {
        let keys = MemoryKeys::new(10, Duration::from_secs(60));
        let FirstTime::Yes(guard) = keys.first_time("a").unwrap() else {
            panic!("nobody had it");
        };
        assert!(matches!(keys.first_time("a"), Ok(FirstTime::Running)));
        drop(guard);
        let FirstTime::Yes(guard) = keys.first_time("a").unwrap() else {
            panic!("its work failed");
        };
        guard.commit().unwrap();
        assert!(matches!(keys.first_time("a"), Ok(FirstTime::Done)));
    }

    #[test]
    fn the_oldest_key_is_forgotten_for_a_new_one_but_none_that_is_worked_on() {
        let keys = MemoryKeys::new(2, Duration::from_secs(60));
        for key in ["a", "b", "c"] {
            assert_eq!(claim(&keys, key), Claim::First);
            keys.keep(key).unwrap();
        }
        assert_eq!(claim(&keys, "c"), Claim::Done);
        assert_eq!(claim(&keys, "a"), Claim::First);
        assert_eq!(claim(&keys, "d"), Claim::First);
        assert_eq!(keys.claim("e"), Err(TooManyRunning { keys_max: 2 }));
        keys.release("d");
        assert_eq!(claim(&keys, "e"), Claim::First);
    }

    #[test]
    fn keys_are_kept_for_their_time() {
        let clock = Arc::new(ManualClock::at(0));
        let keys = MemoryKeys::with_clock(9, Duration::from_secs(10), Arc::clone(&clock) as _);
        assert_eq!(claim(&keys, "a"), Claim::First);
        keys.keep("a").unwrap();
        clock.advance(Duration::from_secs(9));
        assert_eq!(claim(&keys, "a"), Claim::Done);
        clock.advance(Duration::from_secs(1));
        assert_eq!(claim(&keys, "a"), Claim::First);
    }
}
