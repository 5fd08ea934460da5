//! A message that its producer sends again: nothing is stored, and the answer is that to the first ([`crate::dedup`]).

mod answer;

use std::sync::Arc;

use agena_remoting::connection::Connection;
use agena_store::Appended;

use super::check::Accepted;
use crate::broker::Broker;
use crate::config::BrokerConfig;
use crate::dedup::{self, First, Now, Reservation, topic_sum};
use answer::Repeat;

/// What is to be done with a message.
pub(super) enum Begun {
    /// Store it; with a reservation, say where it went.
    First(Option<Reservation>),
    /// It was answered, or will be.
    Repeat,
}

/// Decides whether `message` is to be stored.
pub(super) fn begin(
    broker: &Arc<Broker>,
    config: &BrokerConfig,
    connection: &Arc<Connection>,
    message: &Accepted<'_, '_>,
) -> Begun {
    let Some(identity) = message.identity else {
        return Begun::First(None);
    };
    let now = Now {
        wall_ms: broker.clock.now_ms(),
        log_end: broker.store.log_end(),
        idle: config.dedup_producer_idle,
    };
    let answer = || -> dedup::Answer {
        let repeat = Repeat::of(broker, config, connection, message, identity);
        Box::new(move |first| repeat.answer(first))
    };
    let count = u32::try_from(message.count()).unwrap_or(u32::MAX);
    let of = (message.asked_topic, count);
    match broker.dedup.begin(identity, of, now, answer) {
        dedup::Begun::First(reservation) => Begun::First(Some(reservation)),
        dedup::Begun::Repeat => Begun::Repeat,
    }
}

/// Says where the messages with reservations went; with each the place of its message in `pushed`.
pub(super) fn stored(
    reserved: Vec<(usize, Reservation)>,
    pushed: &[&Accepted<'_, '_>],
    appended: &Appended,
) {
    let (mut before, mut placed) = (0, appended.placed.as_slice());
    for (number, reservation) in reserved {
        let skipped: usize = pushed[before..number]
            .iter()
            .map(|message| message.count())
            .sum();
        let message = pushed[number];
        let (own, rest) = placed[skipped..].split_at(message.count());
        (before, placed) = (number + 1, rest);
        let Some(place) = own.first() else {
            continue;
        };
        let bytes = own
            .iter()
            .map(|placed| placed.bytes)
            .fold(0, u32::saturating_add);
        let first = First {
            physical: place.physical_offset,
            queue_offset: place.queue_offset,
            queue: message.queue,
            bytes,
            count: u32::try_from(own.len()).unwrap_or(u32::MAX),
            topic_sum: topic_sum(message.asked_topic),
        };
        reservation.stored(first, place.store_timestamp);
    }
}
