//! The broker: topics, groups, delivery. Policy over [`agena_store`], spoken through [`agena_remoting`].
//!
//! Begin with [`broker`] for the parts and their lives, [`requests`](self) for where a request goes, `send` for a message's
//! way in and `pull` with `hold` for its way out.
#![forbid(unsafe_code)]

mod admin;
mod backlog;
pub mod broker;
mod command_line;
pub mod config;
mod dedup;
pub mod delay;
pub mod filter;
pub mod groups;
mod hold;
mod lag;
mod local_time;
pub mod name_table;
mod offsets;
pub mod order_locks;
mod pool;
mod pull;
mod query;
mod registration;
mod request_reply;
mod requests;
mod reset_history;
mod retry;
mod send;
pub mod sessions;
pub mod snapshot_files;
mod stats;
mod stop_signal;
pub mod topics;
mod transaction;
mod unread;
pub mod versioned_table;

pub use broker::{Broker, Identity, RunningBroker, StartError};
pub use command_line::run;
pub use stop_signal::StopSignal;
