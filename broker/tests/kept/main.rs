//! What a broker promises to keep, against the real process, over real sockets, with `kill -9` in between.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod dedup;
mod delays;
mod files;
mod locks;
mod process;
mod settings;
mod stop;
mod takeover;
mod wire;
