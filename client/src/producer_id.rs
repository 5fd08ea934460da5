//! Who numbers messages and how, so that a broker can tell a message sent twice from two messages.
//!
//! Two properties carry it: `AGENA_PRODUCER_ID` and `AGENA_SEQUENCE`. The contract with the broker is docs/once.md.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use agena_protocol::properties::{self, PropertiesBuf};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::error::ClientError;

/// Under which a producer's messages are numbered.
///
/// With [`SendSettings::deduplicate`](crate::SendSettings::deduplicate) every message gets the next number; all
/// attempts that may have stored it carry the same. A broker that deduplicates answers the second one with the result of the first.
/// Since no broker knows what another one has, a message whose fate is unknown (no answer, a lost connection) is tried
/// again only with the same queue of the same broker, as long as a route has that broker. One that was refused, or never
/// reached its broker, may go to another.
///
/// At any time one producer may use an id: two would give the same numbers to different messages, and a broker would take
/// those of one for repeats of the other's. Within a process the second is refused
/// ([`ClientError::ProducerIdInUse`]); between processes nobody sees to it, so let the name contain what tells them
/// apart. Numbers begin at the clock (ms × 2^20), so they ascend over restarts as long as the clock is not set back; if
/// it is, brokers refuse messages (code 13) until it has caught up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(String);

const CHARACTERS_MAX: usize = 64;

impl ProducerId {
    /// A name that stays: a producer that starts anew goes on under it.
    ///
    /// # Errors
    /// [`ClientError::Config`] unless it is 1 to 64 characters of `A-Za-z0-9_.-`.
    pub fn new(name: impl Into<String>) -> Result<Self, ClientError> {
        let name = name.into();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if name.is_empty() || name.len() > CHARACTERS_MAX || !name.bytes().all(allowed) {
            return Err(ClientError::Config {
                setting: "deduplicate",
                reason: format!("{name:?} is not 1 to {CHARACTERS_MAX} characters of A-Za-z0-9_.-"),
            });
        }
        Ok(Self(name))
    }

    /// One that nobody else has: enough for what a producer tries again while it lives.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("{:032x}", fastrand::u128(..)))
    }

    /// As the property has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Gives numbers out, none that is [`SPAN_MAX`] or more beyond one whose send is under way.
///
/// A broker remembers the last numbers of an id only. Without the bound a message that is tried again for seconds, while
/// others pass it by the thousand, would be refused as older than all that the broker remembers.
#[derive(Debug)]
pub(crate) struct Numbering {
    id: ProducerId,
    is_claimed: bool,
    given: Mutex<Given>,
    /// Held by who waits for a number first: they come in the order in which they were asked for.
    turn: tokio::sync::Mutex<()>,
    /// The oldest number under way has ended.
    moved: Notify,
}

#[derive(Debug)]
struct Given {
    next: u64,
    under_way: BTreeSet<u64>,
}

/// Half of what our broker remembers by default (`dedupWindow`).
pub(crate) const SPAN_MAX: u64 = 500;

/// The number of a message whose send is under way: as long as this lives, no number far beyond it is given out.
#[derive(Debug)]
pub(crate) struct Number {
    numbering: Arc<Numbering>,
    sequence: u64,
}

impl Number {
    pub(crate) fn pair(&self) -> Pair {
        Pair {
            producer_id: self.numbering.id.as_str().to_owned(),
            sequence: self.sequence,
        }
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        let mut given = self.numbering.given.lock();
        let was_oldest = given.under_way.first() == Some(&self.sequence);
        given.under_way.remove(&self.sequence);
        drop(given);
        if was_oldest {
            self.numbering.moved.notify_waiters();
        }
    }
}

/// What the two properties of a message say.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub(crate) struct Pair {
    pub(crate) producer_id: String,
    pub(crate) sequence: u64,
}

impl Pair {
    pub(crate) fn write(&self, message: &mut PropertiesBuf) {
        message.set(properties::PRODUCER_ID, self.producer_id.as_str());
        message.set(properties::SEQUENCE, self.sequence.to_string());
    }
}

/// Ids that producers of this process use, and what they left behind.
struct InUse {
    ids: BTreeSet<ProducerId>,
    /// Beyond all numbers of ids that are free again: one that starts anew within a millisecond gives none of them again.
    floor: u64,
}

static IN_USE: Mutex<InUse> = Mutex::new(InUse {
    ids: BTreeSet::new(),
    floor: 0,
});

impl Drop for Numbering {
    fn drop(&mut self) {
        if self.is_claimed {
            let mut in_use = IN_USE.lock();
            in_use.ids.remove(&self.id);
            in_use.floor = in_use.floor.max(self.given.get_mut().next);
        }
    }
}

/// Room for a million messages in each millisecond since the start, before a restart could give a number again.
pub(crate) const MILLISECOND_BITS: u32 = 20;

impl Numbering {
    /// Takes the id until this and all its numbers are dropped.
    ///
    /// # Errors
    /// [`ClientError::ProducerIdInUse`].
    pub(crate) fn start(id: ProducerId, now_ms: i64) -> Result<Self, ClientError> {
        let mut in_use = IN_USE.lock();
        if !in_use.ids.insert(id.clone()) {
            return Err(ClientError::ProducerIdInUse { id });
        }
        let mut numbering = Self::new(id, now_ms);
        numbering.is_claimed = true;
        let given = numbering.given.get_mut();
        given.next = given.next.max(in_use.floor);
        Ok(numbering)
    }

    fn new(id: ProducerId, now_ms: i64) -> Self {
        let now_ms = u64::try_from(now_ms).unwrap_or(0);
        Self {
            id,
            is_claimed: false,
            given: Mutex::new(Given {
                next: now_ms << MILLISECOND_BITS,
                under_way: BTreeSet::new(),
            }),
            turn: tokio::sync::Mutex::default(),
            moved: Notify::new(),
        }
    }

    /// The next number, as soon as it may be given out.
    pub(crate) async fn next(self: &Arc<Self>) -> Number {
        let _turn = self.turn.lock().await;
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            // Before the look, or an end between the two would go unheard.
            moved.as_mut().enable();
            if let Some(number) = self.try_next() {
                return number;
            }
            moved.await;
        }
    }

    fn try_next(self: &Arc<Self>) -> Option<Number> {
        let mut given = self.given.lock();
        let sequence = given.next;
        let oldest = given.under_way.first().copied().unwrap_or(sequence);
        if sequence - oldest >= SPAN_MAX {
            return None;
        }
        given.next += 1;
        given.under_way.insert(sequence);
        Some(Number {
            numbering: Arc::clone(self),
            sequence,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_rules() {
        for good in ["a", "order-service_1.eu", &"x".repeat(64)] {
            assert_eq!(ProducerId::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "ä", "a\u{1}", &"x".repeat(65)] {
            assert!(ProducerId::new(bad).is_err(), "{bad:?}");
        }
        assert!(ProducerId::new(ProducerId::random().as_str()).is_ok());
        assert_ne!(ProducerId::random(), ProducerId::random());
    }

    #[test]
    fn numbers_ascend_over_a_restart() {
        let number = |numbering: &Arc<Numbering>| {
            let mut properties = PropertiesBuf::new();
            let number = numbering.try_next().unwrap();
            number.pair().write(&mut properties);
            assert_eq!(properties.get(properties::PRODUCER_ID), Some("p"));
            properties
                .get(properties::SEQUENCE)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        let id = ProducerId::new("p").unwrap();
        let before = Arc::new(Numbering::new(id.clone(), 1_795_000_000_000));
        let first = number(&before);
        assert_eq!(number(&before), first + 1);
        let after = Arc::new(Numbering::new(id, 1_795_000_000_001));
        assert!(number(&after) > first + 1);
        assert!(i64::try_from(first).is_ok(), "readers may use i64");
    }

    #[test]
    fn an_id_has_one_user_at_a_time_and_gives_no_number_twice() {
        let id = ProducerId::random();
        let first = Arc::new(Numbering::start(id.clone(), 1).unwrap());
        let second = Numbering::start(id.clone(), 1);
        assert!(matches!(second, Err(ClientError::ProducerIdInUse { .. })));
        let number = first.try_next().unwrap();
        let given = number.sequence;
        drop(first);
        assert!(Numbering::start(id.clone(), 1).is_err(), "one is under way");
        drop(number);
        // In the same millisecond.
        let again = Arc::new(Numbering::start(id, 1).unwrap());
        assert!(again.try_next().unwrap().sequence > given);
    }

    #[tokio::test]
    async fn who_comes_later_does_not_pass_those_who_wait_for_a_number() {
        let numbering = Arc::new(Numbering::new(ProducerId::random(), 1));
        let oldest = numbering.next().await;
        for _ in 1..SPAN_MAX {
            drop(numbering.try_next().unwrap());
        }
        let waits = Arc::clone(&numbering);
        let waiting = tokio::spawn(async move { waits.next().await.sequence });
        tokio::task::yield_now().await;
        // There is room now, and who waited has not run yet.
        drop(oldest);
        let newcomer = numbering.next().await;
        assert!(waiting.await.unwrap() < newcomer.sequence);
    }

    #[tokio::test]
    async fn no_number_runs_far_ahead_of_one_under_way() {
        let numbering = Arc::new(Numbering::new(ProducerId::random(), 1));
        let oldest = numbering.next().await;
        // Those behind it end at once, and still count by their distance.
        for _ in 1..SPAN_MAX {
            drop(numbering.try_next().unwrap());
        }
        assert!(numbering.try_next().is_none());
        let (wanted, ended) = tokio::join!(numbering.next(), async { drop(oldest) });
        assert_eq!(
            (wanted.sequence, ended),
            ((1 << MILLISECOND_BITS) + SPAN_MAX, ())
        );
    }
}
