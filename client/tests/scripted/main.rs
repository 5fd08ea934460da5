//! The client crate against servers that do what a test tells them: refuse, stay silent, forget, move offsets.

#![expect(
    clippy::unwrap_used,
    reason = "what a test does not expect ends it, in its helpers too"
)]

mod by_key;
mod consuming;
mod in_order;
mod numbering;
#[cfg(feature = "sqlite")]
mod outbox;
mod ownership;
mod policies;
mod sending;
mod servers;
mod spooling;
mod transactions;
