//! What a broker promises to keep, against the real process, over real sockets, with `kill -9` in between.

mod delays;
mod process;
mod settings;
mod wire;
