//! Delays.
pub mod levels;
pub mod on_send;
pub mod progress;
pub mod timers;
