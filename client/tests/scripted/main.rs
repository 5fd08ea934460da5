//! The client crate against servers that do what a test tells them: refuse, stay silent, forget, move offsets.

#![expect(
    clippy::unwrap_used,
    reason = "what a test does not expect ends it, in its helpers too"
)]

mod consuming;
mod numbering;
mod policies;
mod sending;
mod servers;
mod spooling;
