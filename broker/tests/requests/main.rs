//! A broker asked through a real socket: each check of sends and pulls, each answer, the long poll and the restart.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod client;
mod dead;
mod dedup;
mod lag;
mod life;
mod pull;
mod send;
