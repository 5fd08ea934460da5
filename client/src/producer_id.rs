//! Who numbers messages and how, so that a broker can tell a message sent twice from two messages.
//!
//! Two properties carry it: `AGENA_PRODUCER_ID` and `AGENA_SEQUENCE`. The contract with the broker is docs/once.md.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use agena_protocol::properties::{self, PropertiesBuf};

use crate::error::ClientError;

/// Under which a producer's messages are numbered.
///
/// With [`SendSettings::deduplicate`](crate::SendSettings::deduplicate) every message gets the next number once; all
/// attempts to send it carry the same. A broker that deduplicates answers the second one with the result of the first.
/// Since no broker knows what another one has, a message whose fate is unknown (no answer, a lost connection) is tried
/// again only with the same queue of the same broker, as long as a route has that broker. One that was refused, or never
/// reached its broker, may go to another.
///
/// At any time one producer may use an id. Numbers begin at the clock (ms × 2^20), so they ascend over restarts as long as
/// the clock is not set back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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

/// Gives numbers out.
#[derive(Debug)]
pub(crate) struct Numbering {
    id: ProducerId,
    next: AtomicU64,
}

/// Room for a million messages in each millisecond since the start, before a restart could give a number again.
const MILLISECOND_BITS: u32 = 20;

impl Numbering {
    pub(crate) fn new(id: ProducerId, now_ms: i64) -> Self {
        let now_ms = u64::try_from(now_ms).unwrap_or(0);
        Self {
            id,
            next: AtomicU64::new(now_ms << MILLISECOND_BITS),
        }
    }

    pub(crate) fn number(&self, message: &mut PropertiesBuf) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        message.set(properties::PRODUCER_ID, self.id.as_str());
        message.set(properties::SEQUENCE, number.to_string());
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
        let number = |numbering: &Numbering| {
            let mut properties = PropertiesBuf::new();
            numbering.number(&mut properties);
            assert_eq!(properties.get(properties::PRODUCER_ID), Some("p"));
            properties
                .get(properties::SEQUENCE)
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        let id = ProducerId::new("p").unwrap();
        let before = Numbering::new(id.clone(), 1_795_000_000_000);
        let first = number(&before);
        assert_eq!(number(&before), first + 1);
        let after = Numbering::new(id, 1_795_000_000_001);
        assert!(number(&after) > first + 1);
        assert!(i64::try_from(first).is_ok(), "readers may use i64");
    }
}
